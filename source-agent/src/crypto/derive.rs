//! The one key derivation: HKDF-SHA256 with a label of its own for each use (docs/format.md, table of keys).

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

/// Labels, each used for one thing.
pub mod label {
    pub const IDENTITY_XWING: &[u8] = b"pawl.v1 identity x-wing";
    pub const IDENTITY_X25519: &[u8] = b"pawl.v1 identity x25519";
    pub const IDENTITY_OWNER: &[u8] = b"pawl.v1 identity owner-sign";
    pub const CHUNK_ID: &[u8] = b"pawl.v1 chunk-id";
    pub const GEAR: &[u8] = b"pawl.v1 gear";
    pub const SERIES: &[u8] = b"pawl.v1 series";
    pub const CHUNK_TABLE: &[u8] = b"pawl.v1 chunk-table";
    pub const PART_DIGEST: &[u8] = b"pawl.v1 part-digest";
    pub const PART_KEY: &[u8] = b"pawl.v1 part-key";
    pub const PART_AAD: &[u8] = b"pawl.v1 part";
    pub const ROOT_DIGEST: &[u8] = b"pawl.v1 root-digest";
    pub const ROOT_KEY: &[u8] = b"pawl.v1 root-key";
    pub const ROOT_AAD: &[u8] = b"pawl.v1 root";
    pub const COMMITMENT: &[u8] = b"pawl.v1 commitment";
    pub const WRAP: &[u8] = b"pawl.v1 wrap";
    pub const OWNER_RECORD: &[u8] = b"pawl.v1 owner-record";
}

/// HKDF-SHA256: `info` is the label, a zero byte, then the context, whose pieces all have fixed lengths.
pub fn derive<const N: usize>(secret: &[u8; 32], salt: &[u8], label: &[u8], context: &[&[u8]]) -> Zeroizing<[u8; N]> {
    let mut info = label.to_vec();
    info.push(0);
    for piece in context {
        info.extend_from_slice(piece);
    }
    let mut out = Zeroizing::new([0; N]);
    // Fails only above 8,160 bytes of output; N is a constant below that in every call.
    assert!(N <= 255 * 32);
    if Hkdf::<Sha256>::new(Some(salt), secret).expand(&info, &mut *out).is_err() {
        unreachable!("HKDF output of {N} bytes");
    }
    out
}

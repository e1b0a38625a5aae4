//! The source secret and the session secret, and what is derived from them (docs/format.md, section "Secrets").

use crate::crypto::derive::{derive, label};
use shared::id::{ChunkId, Digest, Lineage, Salt, Series, SourceId};
use zeroize::Zeroizing;

/// 32 bytes that a source keeps for its life: chunk ids, cut points and chunk tables depend on it.
pub struct SourceSecret(Zeroizing<[u8; 32]>);

/// 32 bytes of one session, forgotten at its end: every block of the session is sealed under keys from it.
pub struct SessionSecret(Zeroizing<[u8; 32]>);

/// The key under which the source seals chunk tables: it can read them again, and no block.
pub struct IndexSecret(Zeroizing<[u8; 32]>);

/// Names chunks.
#[derive(Clone)]
pub struct ChunkNamer(Zeroizing<[u8; 32]>);

impl SourceSecret {
    pub fn random() -> Self {
        Self(Zeroizing::new(shared::sys::random()))
    }
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*bytes))
    }
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
    pub fn chunk_namer(&self, lineage: &Lineage) -> ChunkNamer {
        ChunkNamer(derive(&self.0, lineage.as_bytes(), label::CHUNK_ID, &[]))
    }
    pub fn index_secret(&self, lineage: &Lineage) -> IndexSecret {
        IndexSecret(derive(&self.0, lineage.as_bytes(), label::CHUNK_TABLE, &[]))
    }
    /// The secret gear table of the content-defined cutter: 256 numbers, little endian.
    pub fn gear(&self, lineage: &Lineage) -> Box<[u64; 256]> {
        let bytes: Zeroizing<[u8; 2048]> = derive(&self.0, lineage.as_bytes(), label::GEAR, &[]);
        let mut table = Box::new([0; 256]);
        for (number, bytes) in table.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *number = u64::from_le_bytes(*bytes);
        }
        table
    }
    /// The opaque name of a backup set.
    pub fn series(&self, set: &str) -> Series {
        let key: Zeroizing<[u8; 32]> = derive(&self.0, &[], label::SERIES, &[]);
        let mut name = [0; 16];
        name.copy_from_slice(&blake3::keyed_hash(&key, set.as_bytes()).as_bytes()[..16]);
        Series::new(name)
    }
}

impl SessionSecret {
    pub fn random() -> Self {
        Self(Zeroizing::new(shared::sys::random()))
    }
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*bytes))
    }
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl IndexSecret {
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl ChunkNamer {
    pub fn name(&self, chunk: &[u8]) -> ChunkId {
        ChunkId::new(*blake3::keyed_hash(&self.0, chunk).as_bytes())
    }
}

/// Binds an envelope to both secrets: SHA-256 over label, source, lineage, envelope salt, session and source secret.
pub fn commitment(
    source: &SourceId,
    lineage: &Lineage,
    salt: &Salt,
    session_secret: &SessionSecret,
    source_secret: &SourceSecret,
) -> Digest {
    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new();
    hash.update(label::COMMITMENT);
    hash.update([0]);
    hash.update(source.as_bytes());
    hash.update(lineage.as_bytes());
    hash.update(salt.as_bytes());
    hash.update(session_secret.as_bytes());
    hash.update(source_secret.as_bytes());
    Digest::new(hash.finalize().into())
}

//! Sealing of blocks, chunk tables and roots (docs/format.md, section "Part"). Nothing here can open anything.

use crate::crypto::CryptoError;
use crate::crypto::part::{METHOD_STORED, METHOD_ZSTD, PAYLOAD_HEADER, Place};
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Nonce};
use shared::format::archive::align;
use shared::id::Digest;
use shared::limits::{SEALED_BYTES_MAX, TAG_BYTES};

/// How a payload is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Stored,
    Zstd,
}

/// A sealed part: what the signed index says of it, and its bytes.
#[derive(Debug, Clone)]
pub struct Sealed {
    pub bytes: Vec<u8>,
    /// BLAKE3 of the sealed bytes.
    pub hash: Digest,
    /// Keyed digest of the padded plaintext.
    pub plain: Digest,
}

/// Begins a padded plaintext in a buffer: append the payload, then give it to [`seal`]. Reserving here saves a copy.
pub fn begin_payload(payload_bytes_expected: usize) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(align(PAYLOAD_HEADER + payload_bytes_expected + TAG_BYTES));
    buffer.resize(PAYLOAD_HEADER, 0);
    buffer
}

/// Pads and seals a buffer begun by [`begin_payload`].
pub fn seal(secret: &[u8; 32], place: &Place, method: Method, mut buffer: Vec<u8>) -> Result<Sealed, CryptoError> {
    let err = || CryptoError::Seal(place.name());
    let payload = buffer.len().checked_sub(PAYLOAD_HEADER).ok_or_else(err)?;
    let sealed_bytes = align(buffer.len() + TAG_BYTES);
    if sealed_bytes > SEALED_BYTES_MAX {
        return Err(err());
    }
    buffer[0] = match method {
        Method::Stored => METHOD_STORED,
        Method::Zstd => METHOD_ZSTD,
    };
    buffer[1..PAYLOAD_HEADER].copy_from_slice(&u32::try_from(payload).map_err(|_| err())?.to_le_bytes());
    buffer.resize(sealed_bytes - TAG_BYTES, 0);
    let plain = place.digest(secret, &buffer);
    let key = place.key(secret, &plain);
    let cipher = Aes256Gcm::new_from_slice(&*key).map_err(|_| err())?;
    let nonce = Nonce::default();
    let tag = cipher
        .encrypt_inout_detached(&nonce, &place.associated_data(), buffer.as_mut_slice().into())
        .map_err(|_| err())?;
    buffer.extend_from_slice(&tag);
    Ok(Sealed { hash: Digest::of(&buffer), plain, bytes: buffer })
}

/// Seals a small payload, compressed if that helps.
pub fn seal_small(secret: &[u8; 32], place: &Place, payload: &[u8]) -> Result<Sealed, CryptoError> {
    let compressed = zstd::bulk::compress(payload, 3).map_err(|_| CryptoError::Seal(place.name()))?;
    let (method, payload) =
        if compressed.len() < payload.len() { (Method::Zstd, &compressed[..]) } else { (Method::Stored, payload) };
    let mut buffer = begin_payload(payload.len());
    buffer.extend_from_slice(payload);
    seal(secret, place, method, buffer)
}

//! Opening of sealed parts (docs/format.md, section "Part"): hash, AEAD, digest, padding, bounded decompression.

use crate::crypto::CryptoError;
use crate::crypto::part::{METHOD_STORED, METHOD_ZSTD, PAYLOAD_HEADER, Place};
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Nonce, Tag};
use shared::id::Digest;
use shared::limits::{ALIGN, BLOCK_BYTES_MAX, TAG_BYTES};
use std::cell::RefCell;
use zstd::zstd_safe::{self, DCtx};

/// How a zstd frame begins (RFC 8878).
const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528u32.to_le_bytes();

/// Opens a sealed part in place and returns its payload, decompressed to at most [`BLOCK_BYTES_MAX`] bytes.
///
/// `plain` is the keyed digest that the signed index (or the body) states.
pub fn open(secret: &[u8; 32], place: &Place, plain: &Digest, mut sealed: Vec<u8>) -> Result<Vec<u8>, CryptoError> {
    let err = || CryptoError::Open(place.name());
    let split = sealed.len().checked_sub(TAG_BYTES).ok_or_else(err)?;
    let tag = Tag::try_from(&sealed[split..]).map_err(|_| err())?;
    sealed.truncate(split);
    let key = place.key(secret, plain);
    let cipher = Aes256Gcm::new_from_slice(&*key).map_err(|_| err())?;
    cipher
        .decrypt_inout_detached(&Nonce::default(), &place.associated_data(), sealed.as_mut_slice().into(), &tag)
        .map_err(|_| err())?;
    if place.digest(secret, &sealed) != *plain {
        return Err(err());
    }
    payload(&sealed).ok_or_else(err)
}

fn payload(padded: &[u8]) -> Option<Vec<u8>> {
    let header = padded.get(..PAYLOAD_HEADER)?;
    let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
    let payload = padded.get(PAYLOAD_HEADER..PAYLOAD_HEADER.checked_add(length)?)?;
    let padding = &padded[PAYLOAD_HEADER + length..];
    if padding.len() >= ALIGN || padding.iter().any(|byte| *byte != 0) {
        return None;
    }
    match header[0] {
        METHOD_STORED if length > BLOCK_BYTES_MAX => None,
        METHOD_STORED => Some(payload.to_vec()),
        METHOD_ZSTD => decompress(payload),
        _ => None,
    }
}

thread_local! {
    /// A context for each thread: to make one takes longer than a small block.
    static ZSTD: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// One zstd frame, never more than the limit whatever the frame announces: the buffer is as large as it says, and
/// nothing is written beyond.
fn decompress(frame: &[u8]) -> Option<Vec<u8>> {
    let announced = zstd_safe::get_frame_content_size(frame).ok()??;
    let announced = usize::try_from(announced).ok().filter(|bytes| *bytes <= BLOCK_BYTES_MAX)?;
    // Not two frames, and not one of those that are skipped.
    let one = frame.starts_with(&ZSTD_MAGIC) && zstd_safe::find_frame_compressed_size(frame).ok()? == frame.len();
    if !one {
        return None;
    }
    let mut out = Vec::with_capacity(announced);
    ZSTD.with_borrow_mut(|context| context.get_or_insert_with(DCtx::create).decompress(&mut out, frame)).ok()?;
    (out.len() == announced).then_some(out)
}

//! Objects and their signatures (docs/format.md, section "Objects").
//!
//! An object is a 12-byte header and a body. A signed object ends with an Ed25519 signature over
//! [`SIGN_LABEL`], header and body. Bytes are stored exactly as signed; a [`Verified`] value can only be had from
//! [`Signed::verify`] or from [`sign`].

use crate::codec::{self, FormatError};
use crate::id::{Digest, VerifyKey};
use crate::limits::{FORMAT, SUITE};
use ed25519_dalek::{Signature, Signer};
use minicbor::{Decode, Encode};
use std::marker::PhantomData;
use zeroize::Zeroizing;

/// What every signature of an object begins with.
pub const SIGN_LABEL: &[u8] = b"pawl.signed-object.v1\0";
/// What the self-signature of a source card begins with.
pub const CARD_LABEL: &[u8] = b"pawl.source-card.v1\0";
/// Bytes before the body: magic, kind, format, suite, zero, length of the body (little endian).
pub const HEADER_BYTES: usize = 12;
/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;
const MAGIC: &[u8; 4] = b"pawl";

/// A signature that does not fit, or a key that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the signature of this {0} does not fit the key")]
    Wrong(&'static str),
    #[error("not an Ed25519 verify key")]
    Key,
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// A kind of object: its letter in the header, its largest stored size, its name in messages.
pub trait Object: Encode<()> + for<'b> Decode<'b, ()> {
    const KIND: u8;
    /// Largest size as stored: header, body and signature.
    const BYTES_MAX: usize;
    const NAME: &'static str;
    /// Rules beyond types and lengths.
    fn check(&self) -> Result<(), FormatError> {
        Ok(())
    }
}

/// An Ed25519 signing key: 32 bytes of seed, erased when dropped.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    pub fn random() -> Self {
        let seed = Zeroizing::new(crate::sys::random::<32>());
        Self::from_seed(&seed)
    }
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }
    pub fn verify_key(&self) -> VerifyKey {
        VerifyKey::new(self.0.verifying_key().to_bytes())
    }
    /// Signs `label` and `message`; labels separate the uses of a key.
    pub fn sign_labelled(&self, label: &[u8], message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(&[label, message].concat()).to_bytes()
    }
}

impl VerifyKey {
    /// Strict verification: no small-order keys, no malleable signatures.
    pub fn verify_labelled(&self, label: &[u8], message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(self.as_bytes()) else { return false };
        key.verify_strict(&[label, message].concat(), &Signature::from_bytes(signature)).is_ok()
    }
}

fn header(kind: u8, body_bytes: usize) -> Result<[u8; HEADER_BYTES], FormatError> {
    let length = u32::try_from(body_bytes).map_err(|_| FormatError::Length)?.to_le_bytes();
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(MAGIC);
    header[4..8].copy_from_slice(&[kind, FORMAT, SUITE, 0]);
    header[8..].copy_from_slice(&length);
    Ok(header)
}

/// Reads a header; returns the kind and the length of the body. `None` if `bytes` does not begin with one.
pub fn peek(bytes: &[u8]) -> Option<(u8, usize)> {
    let header = bytes.get(..HEADER_BYTES)?;
    if &header[..4] != MAGIC || header[7] != 0 {
        return None;
    }
    let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    Some((header[4], usize::try_from(length).ok()?))
}

/// Bytes of the object of kind `T` that `bytes` begins with, `tail` bytes of signature included; checks kind,
/// version and size, not the content.
fn extent<T: Object>(bytes: &[u8], tail: usize) -> Result<usize, FormatError> {
    let (kind, length) = peek(bytes).ok_or(FormatError::Magic { expected: T::NAME })?;
    if kind != T::KIND {
        return Err(FormatError::Magic { expected: T::NAME });
    }
    if (bytes[5], bytes[6]) != (FORMAT, SUITE) {
        return Err(FormatError::Version { format: bytes[5], suite: bytes[6] });
    }
    let total = HEADER_BYTES.checked_add(length).and_then(|n| n.checked_add(tail)).ok_or(FormatError::Length)?;
    if total > T::BYTES_MAX {
        return Err(FormatError::TooLarge { bytes: total, max: T::BYTES_MAX });
    }
    if bytes.len() < total { Err(FormatError::Length) } else { Ok(total) }
}

fn body<T: Object>(bytes: &[u8]) -> Result<T, FormatError> {
    let value: T = codec::decode(bytes, T::BYTES_MAX, T::NAME)?;
    value.check()?;
    Ok(value)
}

/// A signed object whose signature has not been checked: no field of it can be read.
#[derive(Debug, Clone)]
pub struct Signed<T> {
    bytes: Vec<u8>,
    object: PhantomData<fn() -> T>,
}

impl<T: Object> Signed<T> {
    /// Takes bytes that must be exactly one object of this kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let (signed, rest) = Self::parse_prefix(bytes)?;
        if rest.is_empty() { Ok(signed) } else { Err(FormatError::Length) }
    }

    /// Takes the object that `bytes` begins with; returns what follows it.
    pub fn parse_prefix(bytes: &[u8]) -> Result<(Self, &[u8]), FormatError> {
        let total = extent::<T>(bytes, SIGNATURE_BYTES)?;
        Ok((Self { bytes: bytes[..total].to_vec(), object: PhantomData }, &bytes[total..]))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// BLAKE3 of header and body: the name of the object, without its signature.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes[..self.bytes.len() - SIGNATURE_BYTES])
    }

    /// Checks the signature, then reads the fields.
    pub fn verify(self, key: &VerifyKey) -> Result<Verified<T>, SignatureError> {
        let (message, signature) = self.bytes.split_at(self.bytes.len() - SIGNATURE_BYTES);
        let signature = signature.try_into().map_err(|_| FormatError::Length)?;
        if !key.verify_labelled(SIGN_LABEL, message, signature) {
            return Err(SignatureError::Wrong(T::NAME));
        }
        let value = body::<T>(&message[HEADER_BYTES..])?;
        Ok(Verified { value, digest: self.digest(), key: *key, bytes: self.bytes })
    }
}

/// A value whose signature fits `key`.
#[derive(Debug, Clone)]
pub struct Verified<T> {
    value: T,
    digest: Digest,
    key: VerifyKey,
    bytes: Vec<u8>,
}

impl<T> Verified<T> {
    pub fn digest(&self) -> Digest {
        self.digest
    }
    pub fn key(&self) -> &VerifyKey {
        &self.key
    }
    /// The bytes exactly as signed.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
    pub fn into_value(self) -> T {
        self.value
    }
}
impl<T> std::ops::Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// Signs a value; the only other way to a [`Verified`].
pub fn sign<T: Object>(value: T, key: &SigningKey) -> Result<Verified<T>, FormatError> {
    value.check()?;
    let body = codec::encode(&value);
    let mut bytes = header(T::KIND, body.len())?.to_vec();
    bytes.extend_from_slice(&body);
    if bytes.len() + SIGNATURE_BYTES > T::BYTES_MAX {
        return Err(FormatError::TooLarge { bytes: bytes.len() + SIGNATURE_BYTES, max: T::BYTES_MAX });
    }
    let digest = Digest::of(&bytes);
    let signature = key.sign_labelled(SIGN_LABEL, &bytes);
    bytes.extend_from_slice(&signature);
    Ok(Verified { value, digest, key: key.verify_key(), bytes })
}

/// An object without a signature, named by its digest: body or ref page.
#[derive(Debug, Clone)]
pub struct Plain<T> {
    value: T,
    digest: Digest,
    bytes: Vec<u8>,
}

impl<T: Object> Plain<T> {
    pub fn new(value: T) -> Result<Self, FormatError> {
        value.check()?;
        let body = codec::encode(&value);
        let mut bytes = header(T::KIND, body.len())?.to_vec();
        bytes.extend_from_slice(&body);
        if bytes.len() > T::BYTES_MAX {
            return Err(FormatError::TooLarge { bytes: bytes.len(), max: T::BYTES_MAX });
        }
        Ok(Self { value, digest: Digest::of(&bytes), bytes })
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let (plain, rest) = Self::parse_prefix(bytes)?;
        if rest.is_empty() { Ok(plain) } else { Err(FormatError::Length) }
    }

    /// Takes the object that `bytes` begins with; returns what follows it.
    pub fn parse_prefix(bytes: &[u8]) -> Result<(Self, &[u8]), FormatError> {
        let total = extent::<T>(bytes, 0)?;
        let value = body::<T>(&bytes[HEADER_BYTES..total])?;
        Ok((Self { value, digest: Digest::of(&bytes[..total]), bytes: bytes[..total].to_vec() }, &bytes[total..]))
    }
}
impl<T> Plain<T> {
    pub fn digest(&self) -> Digest {
        self.digest
    }
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
    pub fn into_value(self) -> T {
        self.value
    }
}
impl<T> std::ops::Deref for Plain<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

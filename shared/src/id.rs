//! One newtype per name; each has one checked door in (docs/format.md, section "Names").

use crate::limits::{ARCHIVE_NUMBER_MAX, SOURCE_NAME_BYTES_MAX};
use crate::text;
use minicbor::decode::{Decode, Decoder, Error as DecodeError};
use minicbor::encode::{Encode, Encoder, Error as EncodeError, Write};
use std::fmt;
use std::str::FromStr;

/// A text or a byte string that is not the name it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {what}: {why}")]
pub struct NameError {
    pub what: &'static str,
    pub why: String,
}

macro_rules! byte_name {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            pub const LEN: usize = $len;
            /// From bytes that were read from a checked place or computed here.
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
            /// From a slice of any length; refuses a wrong one.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, NameError> {
                let fixed = bytes.try_into().map_err(|_| NameError {
                    what: $what,
                    why: format!("{} bytes instead of {}", bytes.len(), $len),
                })?;
                Ok(Self(fixed))
            }
            /// The first eight hex digits, as shown to people.
            pub fn short(&self) -> String {
                text::hex(&self.0[..4])
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&text::hex(&self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(s: &str) -> Result<Self, NameError> {
                text::from_hex::<$len>(s).map(Self).ok_or_else(|| NameError {
                    what: $what,
                    why: format!("expected {} lower-case hex digits", 2 * $len),
                })
            }
        }
        impl<C> Encode<C> for $name {
            fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }
        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
                let bytes = d.bytes()?;
                Self::from_slice(bytes).map_err(|_| DecodeError::message(concat!("wrong length of a ", $what)))
            }
        }
    };
}

byte_name!(
    /// The digest of a source's first card.
    SourceId, 32, "source id"
);
byte_name!(
    /// Random; deduplication and resolution never cross it.
    Lineage, 16, "lineage"
);
byte_name!(
    /// The digest of a session's envelope.
    SessionId, 32, "session id"
);
byte_name!(
    /// The digest of an archive's index.
    ArchiveId, 32, "archive id"
);
byte_name!(
    /// Keyed BLAKE3 of a chunk's plaintext.
    ChunkId, 32, "chunk id"
);
byte_name!(
    /// Digest of any other object: head, body, page, receipt, card, record.
    Digest, 32, "digest"
);
byte_name!(
    /// Opaque name of a backup set: retention groups by it.
    Series, 16, "series"
);
byte_name!(
    /// An Ed25519 verify key: of a source, an owner or a sink.
    VerifyKey, 32, "verify key"
);
byte_name!(
    /// A random salt or nonce.
    Salt, 32, "salt"
);

impl Digest {
    /// Plain BLAKE3.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl Salt {
    /// Fresh from the operating system.
    pub fn random() -> Self {
        Self(crate::sys::random())
    }
}

impl Lineage {
    /// Fresh from the operating system.
    pub fn random() -> Self {
        Self(crate::sys::random())
    }
}

/// A chain of heads: one per source, lineage and sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chain {
    pub source: SourceId,
    pub lineage: Lineage,
    pub sink: VerifyKey,
}

/// The number of an archive within its source and lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArchiveNumber(u64);

impl ArchiveNumber {
    pub const FIRST: Self = Self(0);
    pub fn new(number: u64) -> Result<Self, NameError> {
        if number > ARCHIVE_NUMBER_MAX {
            return Err(NameError { what: "archive number", why: format!("{number} is above {ARCHIVE_NUMBER_MAX}") });
        }
        Ok(Self(number))
    }
    pub const fn get(self) -> u64 {
        self.0
    }
    pub fn next(self) -> Result<Self, NameError> {
        Self::new(self.0 + 1)
    }
}
impl fmt::Display for ArchiveNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
impl<C> Encode<C> for ArchiveNumber {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        e.u64(self.0)?.ok()
    }
}
impl<'b, C> Decode<'b, C> for ArchiveNumber {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        Self::new(d.u64()?).map_err(|_| DecodeError::message("archive number too large"))
    }
}

/// The label of a source: letters, digits, `.`, `_`, `-`; begins with a letter or digit; safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceName(String);

impl SourceName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl FromStr for SourceName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let err = |why: &str| Err(NameError { what: "source name", why: why.into() });
        if s.is_empty() || s.len() > SOURCE_NAME_BYTES_MAX {
            return err("1 to 64 characters");
        }
        if !s.as_bytes()[0].is_ascii_alphanumeric() {
            return err("it must begin with a letter or a digit");
        }
        if !s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return err("only letters, digits, '.', '_' and '-'");
        }
        Ok(Self(s.to_owned()))
    }
}
impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl<C> Encode<C> for SourceName {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        e.str(&self.0)?.ok()
    }
}
impl<'b, C> Decode<'b, C> for SourceName {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        d.str()?.parse().map_err(|_| DecodeError::message("not a source name"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_names_are_safe_paths() {
        for bad in ["", ".", "..", "-x", "a/b", "a\0b", "é", &"x".repeat(65), "_a", "a b"] {
            assert!(bad.parse::<SourceName>().is_err(), "{bad:?}");
        }
        for good in ["web1", "Web.1_a-b", "9"] {
            assert!(good.parse::<SourceName>().is_ok(), "{good}");
        }
    }

    #[test]
    fn archive_numbers_end() {
        assert!(ArchiveNumber::new(ARCHIVE_NUMBER_MAX + 1).is_err());
        assert!(ArchiveNumber::new(ARCHIVE_NUMBER_MAX).unwrap().next().is_err());
    }
}

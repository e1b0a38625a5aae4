//! Deterministic CBOR, bounded before it allocates (docs/format.md, section "Encoding").
//!
//! A value is accepted only if writing it again gives the same bytes: so maps are sorted, numbers shortest,
//! unknown keys and trailing bytes refused, without a rule of their own.

use minicbor::decode::{Decode, Decoder, Error as DecodeError};
use minicbor::encode::{Encode, Encoder, Error as EncodeError, Write};
use std::ops::Deref;

/// Bytes that are not what the format says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("too large: {bytes} bytes where {max} are allowed")]
    TooLarge { bytes: usize, max: usize },
    #[error("cut short or longer than its length says")]
    Length,
    #[error("not a {expected} of this format")]
    Magic { expected: &'static str },
    #[error("format {format}, suite {suite}: this version knows format 1, suite 1")]
    Version { format: u8, suite: u8 },
    #[error("not canonical CBOR, or not the fields of a {0}")]
    Cbor(&'static str),
    #[error("{0}")]
    Rule(&'static str),
}

/// Encodes a value; writing to memory cannot fail.
pub fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    minicbor::encode(value, &mut out).unwrap_or_else(|e| unreachable!("writing to memory: {e}"));
    out
}

/// Decodes a value that must be exactly `bytes`, in canonical form, at most `bytes_max` long.
pub fn decode<'b, T>(bytes: &'b [u8], bytes_max: usize, what: &'static str) -> Result<T, FormatError>
where
    T: Decode<'b, ()> + Encode<()>,
{
    if bytes.len() > bytes_max {
        return Err(FormatError::TooLarge { bytes: bytes.len(), max: bytes_max });
    }
    let mut decoder = Decoder::new(bytes);
    let value: T = decoder.decode().map_err(|_| FormatError::Cbor(what))?;
    if decoder.position() != bytes.len() || encode(&value) != bytes {
        return Err(FormatError::Cbor(what));
    }
    Ok(value)
}

/// A list of at most `MAX` items; a longer one is refused before anything is allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> List<T, MAX> {
    pub const MAX: usize = MAX;
    pub fn new(items: Vec<T>) -> Result<Self, FormatError> {
        if items.len() > MAX {
            return Err(FormatError::TooLarge { bytes: items.len(), max: MAX });
        }
        Ok(Self(items))
    }
    pub const fn empty() -> Self {
        Self(Vec::new())
    }
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}
impl<T, const MAX: usize> Deref for List<T, MAX> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}
impl<C, T: Encode<C>, const MAX: usize> Encode<C> for List<T, MAX> {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), EncodeError<W::Error>> {
        e.array(self.0.len() as u64)?;
        for item in &self.0 {
            item.encode(e, ctx)?;
        }
        Ok(())
    }
}
impl<'b, C, T: Decode<'b, C>, const MAX: usize> Decode<'b, C> for List<T, MAX> {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, DecodeError> {
        let len = d.array()?.ok_or_else(|| DecodeError::message("indefinite length"))?;
        let len =
            usize::try_from(len).ok().filter(|len| *len <= MAX).ok_or_else(|| DecodeError::message("list too long"))?;
        let mut items = Vec::new();
        for _ in 0..len {
            items.push(T::decode(d, ctx)?);
        }
        Ok(Self(items))
    }
}

/// A byte string of at most `MAX` bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blob<const MAX: usize>(Vec<u8>);

impl<const MAX: usize> Blob<MAX> {
    pub fn new(bytes: Vec<u8>) -> Result<Self, FormatError> {
        if bytes.len() > MAX {
            return Err(FormatError::TooLarge { bytes: bytes.len(), max: MAX });
        }
        Ok(Self(bytes))
    }
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}
impl<const MAX: usize> Deref for Blob<MAX> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
impl<C, const MAX: usize> Encode<C> for Blob<MAX> {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}
impl<'b, C, const MAX: usize> Decode<'b, C> for Blob<MAX> {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        let bytes = d.bytes()?;
        Self::new(bytes.to_vec()).map_err(|_| DecodeError::message("byte string too long"))
    }
}

/// A UTF-8 text of at most `MAX` bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<const MAX: usize>(String);

impl<const MAX: usize> Text<MAX> {
    pub fn new(text: impl Into<String>) -> Result<Self, FormatError> {
        let text = text.into();
        if text.len() > MAX {
            return Err(FormatError::TooLarge { bytes: text.len(), max: MAX });
        }
        Ok(Self(text))
    }
    /// As much of `text` as fits, cut at a character.
    pub fn truncated(text: &str) -> Self {
        let mut end = text.len().min(MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self(text[..end].to_owned())
    }
}
impl<const MAX: usize> Deref for Text<MAX> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}
impl<C, const MAX: usize> Encode<C> for Text<MAX> {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        e.str(&self.0)?.ok()
    }
}
impl<'b, C, const MAX: usize> Decode<'b, C> for Text<MAX> {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        Self::new(d.str()?).map_err(|_| DecodeError::message("text too long"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, minicbor::Encode, minicbor::Decode)]
    #[cbor(map)]
    struct Sample {
        #[n(0)]
        a: u64,
        #[n(1)]
        b: Option<List<u64, 3>>,
    }

    fn sample(bytes: &[u8]) -> Result<Sample, FormatError> {
        decode(bytes, 100, "sample")
    }

    #[test]
    fn only_canonical_bytes_are_read() {
        assert_eq!(sample(&[0xa1, 0, 5]), Ok(Sample { a: 5, b: None }));
        assert_eq!(sample(&[0xa2, 0, 5, 1, 0x82, 1, 2]).unwrap().b.unwrap().len(), 2);
        for (wrong, bytes) in [
            ("trailing byte", &[0xa1, 0, 5, 0][..]),
            ("long integer", &[0xa1, 0, 0x18, 5]),
            ("unknown key", &[0xa2, 0, 5, 7, 1]),
            ("unsorted keys", &[0xa2, 1, 0x80, 0, 5]),
            ("double key", &[0xa2, 0, 5, 0, 5]),
            ("indefinite map", &[0xbf, 0, 5, 0xff]),
            ("indefinite list", &[0xa2, 0, 5, 1, 0x9f, 1, 0xff]),
            ("list too long", &[0xa2, 0, 5, 1, 0x84, 1, 2, 3, 4]),
            ("huge list", &[0xa2, 0, 5, 1, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            ("null instead of absence", &[0xa2, 0, 5, 1, 0xf6]),
            ("missing field", &[0xa0]),
            ("empty", &[]),
        ] {
            assert!(sample(bytes).is_err(), "{wrong}");
        }
    }
}

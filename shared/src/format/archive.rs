//! Archives and their generations (docs/format.md, section "Archive").

use crate::bits;
use crate::codec::{FormatError, List};
use crate::format::envelope::Envelope;
use crate::id::{ArchiveId, ArchiveNumber, Digest, Lineage, Salt, SessionId, SourceId, VerifyKey};
use crate::limits::{ALIGN, ARCHIVE_BYTES_MAX, ARCHIVE_PARTS_MAX, INDEX_BYTES_MAX, REGION_BYTES_MAX, SEALED_BYTES_MAX};
use crate::signature::{self, HEADER_BYTES, Object, Plain, SIGNATURE_BYTES, SignatureError, Signed, Verified};
use minicbor::{Decode, Encode};

/// What the blocks of an archive hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Kind {
    #[n(0)]
    Data,
    #[n(1)]
    Metadata,
}

/// A sealed part: a block, or (the last one) the chunk table.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Part {
    /// Sealed bytes, a multiple of 4096.
    #[n(0)]
    pub bytes: u32,
    /// BLAKE3 of the sealed bytes.
    #[n(1)]
    pub hash: Digest,
    /// Keyed digest of the padded plaintext, from which the part's key comes.
    #[n(2)]
    pub plain: Digest,
}

/// The signed index of an archive, signed by the source.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Index {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub lineage: Lineage,
    #[n(2)]
    pub session: SessionId,
    #[n(3)]
    pub number: ArchiveNumber,
    #[n(4)]
    pub salt: Salt,
    #[n(5)]
    pub kind: Kind,
    /// Blocks, then the chunk table.
    #[n(6)]
    pub parts: List<Part, ARCHIVE_PARTS_MAX>,
}

impl Object for Index {
    const KIND: u8 = b'I';
    const BYTES_MAX: usize = INDEX_BYTES_MAX;
    const NAME: &'static str = "archive index";

    fn check(&self) -> Result<(), FormatError> {
        if self.parts.len() < 2 {
            return Err(FormatError::Rule("an archive has at least one block and its chunk table"));
        }
        for part in self.parts.iter() {
            let bytes = part.bytes as usize;
            if bytes == 0 || !bytes.is_multiple_of(ALIGN) || bytes > SEALED_BYTES_MAX {
                return Err(FormatError::Rule("a part's length is not a multiple of 4096 within the limit"));
            }
        }
        if self.parts_bytes() + REGION_BYTES_MAX as u64 > ARCHIVE_BYTES_MAX {
            return Err(FormatError::Rule("the parts of an archive are larger than an archive may be"));
        }
        Ok(())
    }
}

impl Index {
    /// Number of blocks; the part behind them is the chunk table.
    pub fn blocks(&self) -> u32 {
        u32::try_from(self.parts.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }
    /// Sealed bytes of all parts.
    pub fn parts_bytes(&self) -> u64 {
        self.parts.iter().map(|part| u64::from(part.bytes)).sum()
    }
}

/// Rounds up to the alignment of parts.
pub const fn align(bytes: usize) -> usize {
    bytes.div_ceil(ALIGN) * ALIGN
}

/// What an archive begins with: the signed index, the copy of its session's envelope, zeros up to a multiple of 4096.
#[derive(Debug, Clone)]
pub struct Region {
    pub index: Signed<Index>,
    pub envelope: Signed<Envelope>,
    bytes: Vec<u8>,
}

impl Region {
    /// Joins a fresh index and its envelope.
    pub fn new(index: &Verified<Index>, envelope: &Verified<Envelope>) -> Result<Self, FormatError> {
        let mut bytes = [index.as_bytes(), envelope.as_bytes()].concat();
        bytes.resize(align(bytes.len()), 0);
        Self::parse(&bytes)
    }

    /// Takes bytes that must be exactly a region.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let (region, rest) = Self::parse_prefix(bytes)?;
        if rest.is_empty() { Ok(region) } else { Err(FormatError::Length) }
    }

    /// Takes the region that `bytes` begins with.
    pub fn parse_prefix(bytes: &[u8]) -> Result<(Self, &[u8]), FormatError> {
        let (index, rest) = Signed::<Index>::parse_prefix(bytes)?;
        let (envelope, _) = Signed::<Envelope>::parse_prefix(rest)?;
        let used = index.as_bytes().len() + envelope.as_bytes().len();
        let total = align(used);
        let padding = bytes.get(used..total).ok_or(FormatError::Length)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(FormatError::Rule("padding of an archive's header region is not zero"));
        }
        Ok((Self { index, envelope, bytes: bytes[..total].to_vec() }, &bytes[total..]))
    }

    /// How long the region is that begins with `prefix`: `Ok(None)` if more of it must be read first.
    pub fn length(prefix: &[u8]) -> Result<Option<usize>, FormatError> {
        let Some(first) = object_length(prefix, b'I', Index::NAME)? else { return Ok(None) };
        let Some(second) = object_length(prefix.get(first..).unwrap_or(&[]), b'E', Envelope::NAME)? else {
            return Ok(None);
        };
        let total = align(first + second);
        if total > REGION_BYTES_MAX {
            return Err(FormatError::TooLarge { bytes: total, max: REGION_BYTES_MAX });
        }
        Ok(Some(total))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Checks index and envelope with the source's key, and that they belong together (F-17).
    pub fn verify(self, key: &VerifyKey) -> Result<(Verified<Index>, Verified<Envelope>), SignatureError> {
        let (id, envelope) = (self.session(), self.envelope.verify(key)?);
        let index = self.index.verify(key)?;
        if index.session != id || index.source != envelope.source || index.lineage != envelope.lineage {
            return Err(FormatError::Rule("the envelope in an archive is not that of its session").into());
        }
        Ok((index, envelope))
    }

    /// The archive's name.
    pub fn id(&self) -> ArchiveId {
        ArchiveId::new(*self.index.digest().as_bytes())
    }

    /// The name of the session whose envelope this is.
    pub fn session(&self) -> SessionId {
        SessionId::new(*self.envelope.digest().as_bytes())
    }
}

fn object_length(prefix: &[u8], kind: u8, expected: &'static str) -> Result<Option<usize>, FormatError> {
    if prefix.len() < HEADER_BYTES {
        return Ok(None);
    }
    match signature::peek(prefix) {
        Some((found, body)) if found == kind => Ok(Some(HEADER_BYTES + body + SIGNATURE_BYTES)),
        _ => Err(FormatError::Magic { expected }),
    }
}

/// Which parts of an archive a generation still holds. Made by the sink, not signed: what it holds is checked
/// against the signed index all the same.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Generation {
    /// One bit per part, lowest bit first; set = present.
    #[n(0)]
    pub present: crate::codec::Blob<{ ARCHIVE_PARTS_MAX / 8 }>,
}

impl Object for Generation {
    const KIND: u8 = b'g';
    const BYTES_MAX: usize = HEADER_BYTES + 16 + ARCHIVE_PARTS_MAX / 8;
    const NAME: &'static str = "generation header";
}

/// Where the parts of a stored archive lie: offsets in the file, `None` where the generation lacks a part.
#[derive(Debug, Clone)]
pub struct ArchiveLayout {
    pub region: Region,
    /// Where the region begins: 0, or 4096 behind a generation header.
    pub region_offset: u64,
    /// Which parts are present, in the order of the index.
    present: Option<Vec<u8>>,
}

impl ArchiveLayout {
    /// Reads the beginning of a stored archive or generation; `prefix` must hold the whole region
    /// (`REGION_BYTES_MAX + ALIGN` bytes are always enough).
    pub fn parse(prefix: &[u8]) -> Result<Self, FormatError> {
        if signature::peek(prefix).is_some_and(|(kind, _)| kind == Generation::KIND) {
            let (generation, rest) = Plain::<Generation>::parse_prefix(prefix)?;
            let padding = ALIGN.checked_sub(prefix.len() - rest.len()).ok_or(FormatError::Length)?;
            if rest.get(..padding).ok_or(FormatError::Length)?.iter().any(|byte| *byte != 0) {
                return Err(FormatError::Rule("padding of a generation header is not zero"));
            }
            let (region, _) = Region::parse_prefix(&rest[padding..])?;
            return Ok(Self { region, region_offset: ALIGN as u64, present: Some(generation.present.to_vec()) });
        }
        let (region, _) = Region::parse_prefix(prefix)?;
        Ok(Self { region, region_offset: 0, present: None })
    }

    /// Fits the bitmap of a generation to this index (section "Generations")? A whole archive always does.
    pub fn fits(&self, index: &Index) -> Result<(), FormatError> {
        let Some(bits) = &self.present else { return Ok(()) };
        let parts = index.parts.len();
        let spare = bits.last().map_or(0, |last| u32::from(*last) >> ((parts - 1) % 8) >> 1);
        if bits.len() != parts.div_ceil(8) || spare != 0 || !self.holds(parts - 1) {
            return Err(FormatError::Rule("the bitmap of a generation does not fit its index"));
        }
        Ok(())
    }

    /// Is this part held here?
    pub fn holds(&self, part: usize) -> bool {
        match &self.present {
            None => true,
            Some(bits) => bits::is_set(bits, part),
        }
    }

    /// Offset and length of each part in the file, in the order of the verified index.
    pub fn parts(&self, index: &Index) -> Vec<Option<(u64, u32)>> {
        let mut offset = self.region_offset + self.region.as_bytes().len() as u64;
        let place = |(at, part): (usize, &Part)| {
            let here = self.holds(at).then_some((offset, part.bytes));
            if here.is_some() {
                offset += u64::from(part.bytes);
            }
            here
        };
        index.parts.iter().enumerate().map(place).collect()
    }

    /// Length that the file must have.
    pub fn file_bytes(&self, index: &Index) -> u64 {
        let parts: u64 = self.parts(index).into_iter().flatten().map(|(_, bytes)| u64::from(bytes)).sum();
        self.region_offset + self.region.as_bytes().len() as u64 + parts
    }
}

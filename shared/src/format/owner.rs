//! What the owner signs, and substitutes (docs/format.md, sections "Owner record", "Voucher", "Substitute record").

use crate::codec::{Blob, FormatError, List, Text};
use crate::format::envelope::Kem;
use crate::id::{ArchiveId, ArchiveNumber, Digest, Lineage, SourceId, VerifyKey};
use crate::limits::{ARCHIVE_PARTS_MAX, OWNER_BYTES_MAX, REASON_BYTES_MAX, SUBSTITUTE_BYTES_MAX, VOUCHER_BYTES_MAX};
use crate::signature::{Object, Verified};
use minicbor::{Decode, Encode};

/// A numbered, chained, sealed note of the owner to itself. Signed by the owner.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct OwnerRecord {
    #[n(0)]
    pub owner: VerifyKey,
    #[n(1)]
    pub number: u64,
    #[n(2)]
    pub previous: Option<Digest>,
    #[n(3)]
    pub kem: Kem,
    #[n(4)]
    pub enc: Blob<1120>,
    #[n(5)]
    pub sealed: Blob<{ OWNER_BYTES_MAX - 4096 }>,
}

impl Object for OwnerRecord {
    const KIND: u8 = b'O';
    const BYTES_MAX: usize = OWNER_BYTES_MAX;
    const NAME: &'static str = "owner record";
    fn check(&self) -> Result<(), FormatError> {
        if (self.number == 0) != self.previous.is_none() {
            return Err(FormatError::Rule("only the first owner record has no predecessor"));
        }
        if self.enc.len() != self.kem.enc_bytes() {
            return Err(FormatError::Rule("an owner record's encapsulation does not fit its KEM"));
        }
        Ok(())
    }
}

impl Verified<OwnerRecord> {
    /// Is this the record behind `previous` (F-36)? It must be signed by the owner whom it names.
    pub fn follows(&self, previous: Option<&Self>) -> Result<(), FormatError> {
        let (number, digest) = match previous {
            None => (0, None),
            Some(before) => (before.number + 1, Some(before.digest())),
        };
        if (self.number, self.previous) != (number, digest) || self.owner != *self.key() {
            return Err(FormatError::Rule("an owner record does not follow the one before it"));
        }
        Ok(())
    }
}

/// "This head was checked whole." Signed by the owner.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Voucher {
    #[n(0)]
    pub owner: VerifyKey,
    #[n(1)]
    pub source: SourceId,
    #[n(2)]
    pub lineage: Lineage,
    #[n(3)]
    pub sink: VerifyKey,
    #[n(4)]
    pub sequence: u64,
    #[n(5)]
    pub head: Digest,
    #[n(6)]
    pub checked: i64,
}

impl Object for Voucher {
    const KIND: u8 = b'V';
    const BYTES_MAX: usize = VOUCHER_BYTES_MAX;
    const NAME: &'static str = "voucher";
}

/// "The operator may let this head's body go before its promise ends." Signed by the owner.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Release {
    #[n(0)]
    pub owner: VerifyKey,
    #[n(1)]
    pub source: SourceId,
    #[n(2)]
    pub lineage: Lineage,
    #[n(3)]
    pub sink: VerifyKey,
    #[n(4)]
    pub sequence: u64,
    #[n(5)]
    pub head: Digest,
    #[n(6)]
    pub reason: Text<REASON_BYTES_MAX>,
}

impl Object for Release {
    const KIND: u8 = b'X';
    const BYTES_MAX: usize = VOUCHER_BYTES_MAX;
    const NAME: &'static str = "release";
}

/// A block, named from outside its archive.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct BlockName {
    #[n(0)]
    pub number: ArchiveNumber,
    #[n(1)]
    pub id: ArchiveId,
    #[n(2)]
    pub block: u32,
}

/// Chunks of the left block are also in the right ones.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SubstitutePair {
    #[n(0)]
    pub left: BlockName,
    #[n(1)]
    pub right: List<BlockName, 64>,
}

/// "(archive, block) is also in (archive, blocks)": same source and lineage, depth one. Signed by the source (healing)
/// or the owner (resealing).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Substitute {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub lineage: Lineage,
    #[n(2)]
    pub pairs: List<SubstitutePair, 4096>,
}

impl Object for Substitute {
    const KIND: u8 = b'S';
    const BYTES_MAX: usize = SUBSTITUTE_BYTES_MAX;
    const NAME: &'static str = "substitute record";
    fn check(&self) -> Result<(), FormatError> {
        let blocks = || self.pairs.iter().flat_map(|pair| pair.right.iter().chain([&pair.left]));
        if blocks().any(|name| name.block as usize >= ARCHIVE_PARTS_MAX) {
            return Err(FormatError::Rule("a substitute names a block beyond any archive"));
        }
        if self.pairs.is_empty() || self.pairs.iter().any(|pair| pair.right.is_empty()) {
            return Err(FormatError::Rule("a substitute without blocks"));
        }
        let lefts: std::collections::HashSet<_> = self.pairs.iter().map(|p| (p.left.number, p.left.block)).collect();
        if self.pairs.iter().any(|p| p.right.iter().any(|right| lefts.contains(&(right.number, right.block)))) {
            return Err(FormatError::Rule("a substitute of a substitute"));
        }
        Ok(())
    }
}

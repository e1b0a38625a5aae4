//! What the sink signs or notes about what it accepted (docs/format.md, sections "Receipt", "Session record").

use crate::codec::{FormatError, List};
use crate::format::snapshot::Head;
use crate::id::{ArchiveId, ArchiveNumber, Digest, Lineage, SourceId, VerifyKey};
use crate::limits::{RECEIPT_BYTES_MAX, RECORD_ARCHIVES_MAX, RECORD_BYTES_MAX};
use crate::signature::{Object, Verified};
use minicbor::{Decode, Encode};

/// The sink's word that it holds a head, its body, and every block that the body names. Signed by the sink.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Receipt {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub lineage: Lineage,
    #[n(2)]
    pub sink: VerifyKey,
    #[n(3)]
    pub sequence: u64,
    #[n(4)]
    pub head: Digest,
    /// The sink's clock, seconds since 1970 UTC.
    #[n(5)]
    pub received: i64,
    /// Digest of the receipt of the head before.
    #[n(6)]
    pub previous: Option<Digest>,
    /// Digest of the sink's removal journal; absent while it has none.
    #[n(7)]
    pub journal: Option<Digest>,
    /// Archives that the body names, all present.
    #[n(8)]
    pub archives: u64,
    /// Promise of the sink's policy: kept at least until this time of the sink's clock.
    #[n(9)]
    pub keep_until: Option<i64>,
}

impl Object for Receipt {
    const KIND: u8 = b'R';
    const BYTES_MAX: usize = RECEIPT_BYTES_MAX;
    const NAME: &'static str = "receipt";
}

impl Verified<Receipt> {
    /// Is this the receipt of this head, by the sink that the head names (F-35)?
    pub fn attests(&self, head: &Verified<Head>) -> Result<(), FormatError> {
        let mine = (self.source, self.lineage, self.sink, self.sequence, self.head);
        if mine != (head.source, head.lineage, head.sink, head.sequence, head.digest()) || *self.key() != head.sink {
            return Err(FormatError::Rule("a receipt of another head or by another sink"));
        }
        Ok(())
    }
}

/// One archive in a session record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct RecordArchive {
    #[n(0)]
    pub number: ArchiveNumber,
    #[n(1)]
    pub id: ArchiveId,
    #[n(2)]
    pub bytes: u64,
}

/// What a part of a session added. Published by the serving process, signed by the sink; folded into the ledger by the
/// operator's commands.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SessionRecord {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub lineage: Option<Lineage>,
    #[n(2)]
    pub started: i64,
    #[n(3)]
    pub ended: i64,
    #[n(4)]
    pub archives: List<RecordArchive, RECORD_ARCHIVES_MAX>,
    /// Sequence numbers of heads accepted.
    #[n(5)]
    pub heads: List<u64, RECORD_ARCHIVES_MAX>,
    /// All objects added, archives included.
    #[n(6)]
    pub objects: u64,
    /// Bytes charged for them: each object at least 4096.
    #[n(7)]
    pub bytes: u64,
}

impl Object for SessionRecord {
    const KIND: u8 = b'L';
    const BYTES_MAX: usize = RECORD_BYTES_MAX;
    const NAME: &'static str = "session record";
}

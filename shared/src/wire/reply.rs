//! Replies (docs/protocol.md, section "Replies"), in the order of the requests.

use crate::bits;
use crate::codec::{self, Blob, FormatError, List, Text};
use crate::id::{ArchiveId, ArchiveNumber, Digest, Lineage, SourceId, SourceName};
use crate::limits::{
    ARCHIVE_PARTS_MAX, BODY_PAGES_MAX, CARD_BYTES_MAX, DAMAGED_ARCHIVES_MAX, DATA_BYTES_MAX, FRAME_BYTES_MAX,
    HEAD_BYTES_MAX, LIST_ITEMS_MAX, MESSAGE_BYTES_MAX, RECEIPT_BYTES_MAX,
};
use crate::wire::frame::Frame;
use minicbor::{Decode, Encode};

/// Reply tags.
pub mod tag {
    pub const WELCOME: u8 = 129;
    pub const STORED: u8 = 130;
    pub const REFUSED: u8 = 131;
    pub const MISSING: u8 = 132;
    pub const RECEIPT: u8 = 133;
    /// One whole object.
    pub const OBJECT: u8 = 134;
    /// A piece of one: more follow, the last one is an object.
    pub const PIECE: u8 = 135;
    pub const END: u8 = 136;
    pub const SOURCES: u8 = 137;
    pub const HEADS: u8 = 138;
    pub const ARCHIVES: u8 = 139;
    pub const PONG: u8 = 140;
    pub const DAMAGED: u8 = 141;
}

/// Why a request was refused. The number is stable; unknown numbers mean failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum RefusalCode {
    /// The bytes are not what the protocol or format says. The session ends.
    #[n(1)]
    Malformed,
    /// The role does not have this request, or the object belongs to another source. The session ends.
    #[n(2)]
    NotAllowed,
    /// A signature or hash does not fit.
    #[n(3)]
    Signature,
    #[n(4)]
    Quota,
    /// The disk is full, or the reserve is reached.
    #[n(5)]
    Full,
    /// Another object has this number or sequence.
    #[n(6)]
    Conflict,
    /// The head's predecessor is not the newest head; the source id or lineage is not the enrolled one.
    #[n(7)]
    Chain,
    #[n(8)]
    NotFound,
    /// Another session of this source runs.
    #[n(9)]
    Busy,
    /// The sink could not read or write. The session ends.
    #[n(10)]
    Internal,
    /// Protocol versions do not meet.
    #[n(11)]
    Version,
    /// A cap: objects, heads per day, series, envelopes.
    #[n(12)]
    Cap,
    /// Idle, slow or over-long. The session ends.
    #[n(13)]
    Timeout,
    /// Expired by the operator's policy: the head stays, the content is gone.
    #[n(14)]
    Expired,
    /// The sink found this object damaged and does not serve it.
    #[n(15)]
    Damaged,
}

/// "No", and why.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[cbor(map)]
#[error("{}", crate::text::printable(message.as_bytes(), MESSAGE_BYTES_MAX))]
pub struct Refused {
    #[n(0)]
    pub code: RefusalCode,
    #[n(1)]
    pub message: Text<MESSAGE_BYTES_MAX>,
}

impl Refused {
    pub fn new(code: RefusalCode, message: impl AsRef<str>) -> Self {
        Self { code, message: Text::truncated(message.as_ref()) }
    }
}

/// An object is durable: its digest, and whether it was there before.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Stored {
    #[n(0)]
    pub digest: Digest,
    #[n(1)]
    pub existed: bool,
}

/// What a body names and the sink lacks; empty = the body is durable and its refs are pinned.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Missing {
    #[n(0)]
    pub body: Digest,
    #[n(1)]
    pub pages: List<Digest, BODY_PAGES_MAX>,
    /// Numbers of archives that are absent, have another id, or lack a live block. At most 8,192 at a time.
    #[n(2)]
    pub archives: List<ArchiveNumber, LIST_ITEMS_MAX>,
    /// Archives that the body names.
    #[n(3)]
    pub total: u64,
}

impl Missing {
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.archives.is_empty()
    }
}

/// What became of a snapshot's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Damage {
    #[n(0)]
    Present,
    /// Removed by the operator's policy (journalled).
    #[n(1)]
    Expired,
    /// Its body is not there and no journal says why.
    #[n(2)]
    Absent,
}

/// A head as stored, with its receipt.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct HeadItem {
    #[n(0)]
    pub head: Blob<HEAD_BYTES_MAX>,
    /// Absent if the sink was cut off between head and receipt.
    #[n(1)]
    pub receipt: Option<Blob<RECEIPT_BYTES_MAX>>,
    #[n(2)]
    pub content: Damage,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct HeadList {
    #[n(0)]
    pub items: List<HeadItem, LIST_ITEMS_MAX>,
    /// Does the chain go on behind these?
    #[n(1)]
    pub more: bool,
}

/// A source that this connection may ask about.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SourceItem {
    #[n(0)]
    pub name: SourceName,
    #[n(1)]
    pub source: SourceId,
    /// The source's first card, as text. The sink's word: trust comes from the owner.
    #[n(2)]
    pub card: Text<CARD_BYTES_MAX>,
    #[n(3)]
    pub lineages: List<Lineage, 256>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SourceList {
    #[n(0)]
    pub items: List<SourceItem, LIST_ITEMS_MAX>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ArchiveItem {
    #[n(0)]
    pub number: ArchiveNumber,
    #[n(1)]
    pub id: ArchiveId,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ArchiveList {
    #[n(0)]
    pub items: List<ArchiveItem, LIST_ITEMS_MAX>,
    #[n(1)]
    pub more: bool,
}

/// Blocks of one archive that snapshots need and that the sink does not hold whole.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct DamagedItem {
    #[n(0)]
    pub number: ArchiveNumber,
    /// As the snapshots name it.
    #[n(1)]
    pub id: ArchiveId,
    /// One bit per block, lowest first; the last byte is not 0.
    #[n(2)]
    pub blocks: Blob<{ ARCHIVE_PARTS_MAX / 8 }>,
}

impl DamagedItem {
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        bits::numbers(&self.blocks)
    }
}

/// What the sink's last look found damaged. The sink's word: at worst it makes a source send something again.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DamagedList {
    /// When that look began, by the sink's clock.
    #[n(0)]
    pub checked: i64,
    /// Ascending by number.
    #[n(1)]
    pub items: List<DamagedItem, DAMAGED_ARCHIVES_MAX>,
}

impl DamagedList {
    /// Are the numbers ascending, and does each item name a block, in the shortest way?
    pub fn is_in_order(&self) -> bool {
        let ascending = self.items.windows(2).all(|pair| pair[0].number < pair[1].number);
        ascending && self.items.iter().all(|item| item.blocks.last().is_some_and(|byte| *byte != 0))
    }
}

/// A message of the sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A signed `Welcome`.
    Welcome(Vec<u8>),
    Pong,
    Stored(Stored),
    Refused(Refused),
    Missing(Missing),
    /// A signed receipt.
    Receipt(Vec<u8>),
    Object(Vec<u8>),
    Piece(Vec<u8>),
    /// Ends a row of objects.
    End,
    Sources(SourceList),
    Heads(HeadList),
    Archives(ArchiveList),
    Damaged(DamagedList),
}

fn cbor<T>(frame: &Frame, what: &'static str) -> Result<T, FormatError>
where
    T: for<'b> Decode<'b, ()> + Encode<()>,
{
    codec::decode(&frame.payload, FRAME_BYTES_MAX, what)
}

fn empty(frame: &Frame, reply: Reply) -> Result<Reply, FormatError> {
    if frame.payload.is_empty() { Ok(reply) } else { Err(FormatError::Length) }
}

fn raw(frame: Frame, bytes_max: usize) -> Result<Vec<u8>, FormatError> {
    let bytes = frame.payload.len();
    if bytes > bytes_max {
        return Err(FormatError::TooLarge { bytes, max: bytes_max });
    }
    Ok(frame.payload)
}

impl Reply {
    pub fn parse(frame: Frame) -> Result<Self, FormatError> {
        Ok(match frame.tag {
            tag::WELCOME => Self::Welcome(raw(frame, 4096)?),
            tag::PONG => empty(&frame, Self::Pong)?,
            tag::STORED => Self::Stored(cbor(&frame, "stored reply")?),
            tag::REFUSED => Self::Refused(cbor(&frame, "refusal")?),
            tag::MISSING => Self::Missing(cbor(&frame, "missing reply")?),
            tag::RECEIPT => Self::Receipt(raw(frame, RECEIPT_BYTES_MAX)?),
            tag::OBJECT => Self::Object(raw(frame, FRAME_BYTES_MAX)?),
            tag::PIECE => Self::Piece(raw(frame, DATA_BYTES_MAX)?),
            tag::END => empty(&frame, Self::End)?,
            tag::SOURCES => Self::Sources(cbor(&frame, "list of sources")?),
            tag::HEADS => Self::Heads(cbor(&frame, "list of heads")?),
            tag::ARCHIVES => Self::Archives(cbor(&frame, "list of archives")?),
            tag::DAMAGED => {
                let list: DamagedList = cbor(&frame, "list of damage")?;
                if !list.is_in_order() {
                    return Err(FormatError::Rule("a list of damage that is not in order, or names no block"));
                }
                Self::Damaged(list)
            }
            _ => return Err(FormatError::Rule("unknown reply")),
        })
    }

    pub fn frame(&self) -> Frame {
        let (tag, payload) = match self {
            Self::Welcome(bytes) => (tag::WELCOME, bytes.clone()),
            Self::Pong => (tag::PONG, Vec::new()),
            Self::Stored(stored) => (tag::STORED, codec::encode(stored)),
            Self::Refused(refused) => (tag::REFUSED, codec::encode(refused)),
            Self::Missing(missing) => (tag::MISSING, codec::encode(missing)),
            Self::Receipt(bytes) => (tag::RECEIPT, bytes.clone()),
            Self::Object(bytes) => (tag::OBJECT, bytes.clone()),
            Self::Piece(bytes) => (tag::PIECE, bytes.clone()),
            Self::End => (tag::END, Vec::new()),
            Self::Sources(list) => (tag::SOURCES, codec::encode(list)),
            Self::Heads(list) => (tag::HEADS, codec::encode(list)),
            Self::Archives(list) => (tag::ARCHIVES, codec::encode(list)),
            Self::Damaged(list) => (tag::DAMAGED, codec::encode(list)),
        };
        Frame { tag, payload }
    }
}

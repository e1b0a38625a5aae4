//! Requests (docs/protocol.md, section "Requests"). One enum per role: what a role may not ask, its type cannot hold.

use crate::codec::{self, FormatError, List};
use crate::id::{ArchiveNumber, Digest, Lineage, SessionId, SourceId, VerifyKey};
use crate::limits::{
    ARCHIVE_PARTS_MAX, BODY_BYTES_MAX, DATA_BYTES_MAX, ENVELOPE_BYTES_MAX, HEAD_BYTES_MAX, LIST_ITEMS_MAX,
    OWNER_BYTES_MAX, PAGE_BYTES_MAX, PING_BYTES_MAX, REGION_BYTES_MAX, SUBSTITUTE_BYTES_MAX, VOUCHER_BYTES_MAX,
};
use crate::wire::frame::Frame;
use crate::wire::hello::Hello;
use minicbor::{Decode, Encode};

/// A request that this role does not have, or that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("role {role} has no request {tag}")]
    NotInRole { role: &'static str, tag: u8 },
    #[error("request {tag}: {error}")]
    Format { tag: u8, error: FormatError },
}

/// Request tags; replies have the highest bit set.
pub mod tag {
    pub const HELLO: u8 = 1;
    pub const PING: u8 = 2;
    pub const LIST_SOURCES: u8 = 16;
    pub const LIST_HEADS: u8 = 17;
    pub const GET_ENVELOPE: u8 = 18;
    pub const GET_BODY: u8 = 19;
    pub const GET_PAGE: u8 = 20;
    pub const GET_REGION: u8 = 21;
    pub const GET_TABLE: u8 = 22;
    pub const LIST_ARCHIVES: u8 = 23;
    pub const GET_OWNER_RECORDS: u8 = 24;
    pub const GET_SUBSTITUTES: u8 = 25;
    pub const LIST_VOUCHERS: u8 = 26;
    pub const GET_WRAPS: u8 = 27;
    pub const PUT_OWNER_RECORD: u8 = 32;
    pub const PUT_VOUCHER: u8 = 33;
    pub const PUT_WRAP: u8 = 34;
    pub const PUT_RELEASE: u8 = 35;
    pub const GET_PARTS: u8 = 48;
    pub const PUT_ENVELOPE: u8 = 64;
    pub const PUT_ARCHIVE: u8 = 65;
    pub const DATA: u8 = 66;
    pub const PUT_PAGE: u8 = 67;
    pub const PUT_BODY: u8 = 68;
    pub const PUT_HEAD: u8 = 69;
    pub const PUT_SUBSTITUTE: u8 = 70;
    pub const GET_DAMAGED: u8 = 71;
}

/// A chain at this sink, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ListHeads {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub lineage: Lineage,
    /// First sequence number wanted.
    #[n(2)]
    pub from: u64,
    /// At most this many (the sink may send fewer).
    #[n(3)]
    pub limit: u32,
}

/// An object of a source, named by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GetObject {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub digest: Digest,
}

/// An envelope.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GetSession {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub session: SessionId,
}

/// An archive of a source, named by its number.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GetArchive {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub lineage: Lineage,
    #[n(2)]
    pub number: ArchiveNumber,
}

/// Archives of a source that the sink holds.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ListArchives {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub lineage: Lineage,
    #[n(2)]
    pub from: ArchiveNumber,
    #[n(3)]
    pub limit: u32,
}

/// Objects that an owner left, from a number on.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GetOwned {
    #[n(0)]
    pub owner: VerifyKey,
    #[n(1)]
    pub from: u64,
    #[n(2)]
    pub limit: u32,
}

/// Objects of a source and lineage without a number, in the sink's order.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ListOf {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub lineage: Lineage,
    #[n(2)]
    pub from: u64,
    #[n(3)]
    pub limit: u32,
}

/// Sealed parts of one archive, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GetParts {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub lineage: Lineage,
    #[n(2)]
    pub number: ArchiveNumber,
    #[n(3)]
    pub parts: List<u32, ARCHIVE_PARTS_MAX>,
}

/// What every role may ask: signed or sealed facts, never a block; and what an owner's signature alone allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    Ping,
    ListSources,
    ListHeads(ListHeads),
    GetEnvelope(GetSession),
    GetBody(GetObject),
    GetPage(GetObject),
    GetRegion(GetArchive),
    GetTable(GetArchive),
    ListArchives(ListArchives),
    GetOwnerRecords(GetOwned),
    GetSubstitutes(ListOf),
    ListVouchers(ListOf),
    GetWraps(ListOf),
    /// Signed objects of an owner, as bytes.
    PutOwnerRecord(Vec<u8>),
    PutVoucher(Vec<u8>),
    PutWrap(Vec<u8>),
    PutRelease(Vec<u8>),
}

/// Role push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushRequest {
    Query(Query),
    PutEnvelope(Vec<u8>),
    /// The header region; data frames with exactly the parts' bytes follow.
    PutArchive(Vec<u8>),
    Data(Vec<u8>),
    PutPage(Vec<u8>),
    PutBody(Vec<u8>),
    PutHead(Vec<u8>),
    PutSubstitute(Vec<u8>),
    /// What of this source and lineage is damaged at the sink.
    GetDamaged,
}

/// Role read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadRequest {
    Query(Query),
    GetParts(GetParts),
}

/// Role audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditRequest {
    Query(Query),
}

/// A request of some role: from a frame, and to one.
pub trait Request: Sized {
    fn parse(frame: Frame) -> Result<Self, RequestError>;
    fn frame(&self) -> Frame;
}

fn cbor<T>(frame: &Frame, what: &'static str) -> Result<T, RequestError>
where
    T: for<'b> Decode<'b, ()> + Encode<()>,
{
    codec::decode(&frame.payload, 64 << 10, what).map_err(|error| RequestError::Format { tag: frame.tag, error })
}

fn raw(frame: Frame, bytes_max: usize) -> Result<Vec<u8>, RequestError> {
    let bytes = frame.payload.len();
    if bytes == 0 || bytes > bytes_max {
        let error = FormatError::TooLarge { bytes, max: bytes_max };
        return Err(RequestError::Format { tag: frame.tag, error });
    }
    Ok(frame.payload)
}

fn empty(frame: &Frame) -> Result<(), RequestError> {
    if frame.payload.is_empty() {
        return Ok(());
    }
    Err(RequestError::Format { tag: frame.tag, error: FormatError::Length })
}

fn limit(tag: u8, limit: u32) -> Result<(), RequestError> {
    if limit == 0 || limit as usize > LIST_ITEMS_MAX {
        return Err(RequestError::Format { tag, error: FormatError::Rule("a list limit of 0 or above the maximum") });
    }
    Ok(())
}

/// `Hello` stands before roles.
pub fn parse_hello(frame: &Frame) -> Result<Hello, RequestError> {
    if frame.tag != tag::HELLO {
        return Err(RequestError::NotInRole { role: "greeting", tag: frame.tag });
    }
    cbor(frame, "hello")
}

/// Encodes `Hello`.
pub fn hello_frame(hello: &Hello) -> Frame {
    Frame { tag: tag::HELLO, payload: codec::encode(hello) }
}

impl Query {
    fn parse_in(role: &'static str, frame: Frame) -> Result<Self, RequestError> {
        let t = frame.tag;
        Ok(match t {
            tag::PING => {
                if frame.payload.len() > PING_BYTES_MAX {
                    return Err(RequestError::Format { tag: t, error: FormatError::Length });
                }
                Self::Ping
            }
            tag::LIST_SOURCES => {
                empty(&frame)?;
                Self::ListSources
            }
            tag::LIST_HEADS => {
                let query: ListHeads = cbor(&frame, "list of heads")?;
                limit(t, query.limit)?;
                Self::ListHeads(query)
            }
            tag::GET_ENVELOPE => Self::GetEnvelope(cbor(&frame, "envelope request")?),
            tag::GET_BODY => Self::GetBody(cbor(&frame, "body request")?),
            tag::GET_PAGE => Self::GetPage(cbor(&frame, "page request")?),
            tag::GET_REGION => Self::GetRegion(cbor(&frame, "index request")?),
            tag::GET_TABLE => Self::GetTable(cbor(&frame, "chunk table request")?),
            tag::LIST_ARCHIVES => {
                let query: ListArchives = cbor(&frame, "list of archives")?;
                limit(t, query.limit)?;
                Self::ListArchives(query)
            }
            tag::GET_OWNER_RECORDS => {
                let query: GetOwned = cbor(&frame, "owner record request")?;
                limit(t, query.limit)?;
                Self::GetOwnerRecords(query)
            }
            tag::GET_SUBSTITUTES | tag::LIST_VOUCHERS | tag::GET_WRAPS => {
                let query: ListOf = cbor(&frame, "list request")?;
                limit(t, query.limit)?;
                match t {
                    tag::GET_SUBSTITUTES => Self::GetSubstitutes(query),
                    tag::LIST_VOUCHERS => Self::ListVouchers(query),
                    _ => Self::GetWraps(query),
                }
            }
            tag::PUT_OWNER_RECORD => Self::PutOwnerRecord(raw(frame, OWNER_BYTES_MAX)?),
            tag::PUT_VOUCHER => Self::PutVoucher(raw(frame, VOUCHER_BYTES_MAX)?),
            tag::PUT_WRAP => Self::PutWrap(raw(frame, ENVELOPE_BYTES_MAX)?),
            tag::PUT_RELEASE => Self::PutRelease(raw(frame, VOUCHER_BYTES_MAX)?),
            tag => return Err(RequestError::NotInRole { role, tag }),
        })
    }

    pub fn frame(&self) -> Frame {
        let (tag, payload) = match self {
            Self::Ping => (tag::PING, Vec::new()),
            Self::ListSources => (tag::LIST_SOURCES, Vec::new()),
            Self::ListHeads(query) => (tag::LIST_HEADS, codec::encode(query)),
            Self::GetEnvelope(query) => (tag::GET_ENVELOPE, codec::encode(query)),
            Self::GetBody(query) => (tag::GET_BODY, codec::encode(query)),
            Self::GetPage(query) => (tag::GET_PAGE, codec::encode(query)),
            Self::GetRegion(query) => (tag::GET_REGION, codec::encode(query)),
            Self::GetTable(query) => (tag::GET_TABLE, codec::encode(query)),
            Self::ListArchives(query) => (tag::LIST_ARCHIVES, codec::encode(query)),
            Self::GetOwnerRecords(query) => (tag::GET_OWNER_RECORDS, codec::encode(query)),
            Self::GetSubstitutes(query) => (tag::GET_SUBSTITUTES, codec::encode(query)),
            Self::ListVouchers(query) => (tag::LIST_VOUCHERS, codec::encode(query)),
            Self::GetWraps(query) => (tag::GET_WRAPS, codec::encode(query)),
            Self::PutOwnerRecord(bytes) => (tag::PUT_OWNER_RECORD, bytes.clone()),
            Self::PutVoucher(bytes) => (tag::PUT_VOUCHER, bytes.clone()),
            Self::PutWrap(bytes) => (tag::PUT_WRAP, bytes.clone()),
            Self::PutRelease(bytes) => (tag::PUT_RELEASE, bytes.clone()),
        };
        Frame { tag, payload }
    }
}

impl Request for PushRequest {
    fn parse(frame: Frame) -> Result<Self, RequestError> {
        Ok(match frame.tag {
            tag::PUT_ENVELOPE => Self::PutEnvelope(raw(frame, ENVELOPE_BYTES_MAX)?),
            tag::PUT_ARCHIVE => Self::PutArchive(raw(frame, REGION_BYTES_MAX)?),
            tag::DATA => Self::Data(raw(frame, DATA_BYTES_MAX)?),
            tag::PUT_PAGE => Self::PutPage(raw(frame, PAGE_BYTES_MAX)?),
            tag::PUT_BODY => Self::PutBody(raw(frame, BODY_BYTES_MAX)?),
            tag::PUT_HEAD => Self::PutHead(raw(frame, HEAD_BYTES_MAX)?),
            tag::PUT_SUBSTITUTE => Self::PutSubstitute(raw(frame, SUBSTITUTE_BYTES_MAX)?),
            tag::GET_DAMAGED => {
                empty(&frame)?;
                Self::GetDamaged
            }
            _ => Self::Query(Query::parse_in("push", frame)?),
        })
    }
    fn frame(&self) -> Frame {
        let (tag, payload) = match self {
            Self::Query(query) => return query.frame(),
            Self::GetDamaged => return Frame { tag: tag::GET_DAMAGED, payload: Vec::new() },
            Self::PutEnvelope(bytes) => (tag::PUT_ENVELOPE, bytes),
            Self::PutArchive(bytes) => (tag::PUT_ARCHIVE, bytes),
            Self::Data(bytes) => (tag::DATA, bytes),
            Self::PutPage(bytes) => (tag::PUT_PAGE, bytes),
            Self::PutBody(bytes) => (tag::PUT_BODY, bytes),
            Self::PutHead(bytes) => (tag::PUT_HEAD, bytes),
            Self::PutSubstitute(bytes) => (tag::PUT_SUBSTITUTE, bytes),
        };
        Frame { tag, payload: payload.clone() }
    }
}

impl Request for ReadRequest {
    fn parse(frame: Frame) -> Result<Self, RequestError> {
        if frame.tag != tag::GET_PARTS {
            return Ok(Self::Query(Query::parse_in("read", frame)?));
        }
        let query: GetParts = cbor(&frame, "parts request")?;
        if query.parts.is_empty() || query.parts.windows(2).any(|pair| pair[0] >= pair[1]) {
            let error = FormatError::Rule("no parts, or parts not ascending");
            return Err(RequestError::Format { tag: frame.tag, error });
        }
        Ok(Self::GetParts(query))
    }
    fn frame(&self) -> Frame {
        match self {
            Self::Query(query) => query.frame(),
            Self::GetParts(query) => Frame { tag: tag::GET_PARTS, payload: codec::encode(query) },
        }
    }
}

impl Request for AuditRequest {
    fn parse(frame: Frame) -> Result<Self, RequestError> {
        Ok(Self::Query(Query::parse_in("audit", frame)?))
    }
    fn frame(&self) -> Frame {
        let Self::Query(query) = self;
        query.frame()
    }
}

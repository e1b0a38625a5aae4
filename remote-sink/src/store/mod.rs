//! The store: what a session may do with objects. There is no call that replaces or removes one.

pub mod layout;

use shared::id::{ArchiveNumber, Digest, Lineage, SessionId};

/// A kind of objects that lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shelf {
    Archives,
    Envelopes,
    Pages,
    Bodies,
    Heads,
    Receipts,
    Substitutes,
    Records,
    OwnerRecords,
    Vouchers,
    Wraps,
    Releases,
}

impl Shelf {
    /// Shelves in the room of a source.
    pub const OF_SOURCE: [Self; 8] = [
        Self::Archives,
        Self::Envelopes,
        Self::Pages,
        Self::Bodies,
        Self::Heads,
        Self::Receipts,
        Self::Substitutes,
        Self::Records,
    ];
    /// Shelves in the room of an owner.
    pub const OF_OWNER: [Self; 4] = [Self::OwnerRecords, Self::Vouchers, Self::Wraps, Self::Releases];
}

/// The name of an object within the room of its source or owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Name {
    Archive(Lineage, ArchiveNumber),
    Envelope(SessionId),
    Page(Digest),
    Body(Digest),
    Head(Lineage, u64),
    Receipt(Lineage, u64),
    Substitute(Lineage, Digest),
    /// A session record: when it was published (seconds since 1970) and a random tail.
    Record {
        started: u64,
        random: [u8; 8],
    },
    OwnerRecord(u64),
    Voucher(Digest),
    Wrap(Digest),
    Release(Digest),
}

impl Name {
    pub const fn shelf(&self) -> Shelf {
        match self {
            Self::Archive(..) => Shelf::Archives,
            Self::Envelope(_) => Shelf::Envelopes,
            Self::Page(_) => Shelf::Pages,
            Self::Body(_) => Shelf::Bodies,
            Self::Head(..) => Shelf::Heads,
            Self::Receipt(..) => Shelf::Receipts,
            Self::Substitute(..) => Shelf::Substitutes,
            Self::Record { .. } => Shelf::Records,
            Self::OwnerRecord(_) => Shelf::OwnerRecords,
            Self::Voucher(_) => Shelf::Vouchers,
            Self::Wrap(_) => Shelf::Wraps,
            Self::Release(_) => Shelf::Releases,
        }
    }
}

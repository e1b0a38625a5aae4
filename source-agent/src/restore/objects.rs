//! Where a reader's objects come from: one sink, over a connection or, in tests, in memory. Nothing that comes from here
//! is believed: [`crate::restore::verify`] judges it.

use crate::report::{Exit, Failure, Outcome};
use crate::restore::verify::Archive;
use shared::format::{OwnerRecord, Voucher, Wrap};
use shared::id::{ArchiveId, ArchiveNumber, Digest, Lineage, SessionId, SourceId, VerifyKey};
use shared::signature::Verified;
use shared::wire::{HeadItem, SourceItem};
use std::sync::Arc;

/// An archive within everything that a sink holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ArchiveName {
    pub source: SourceId,
    pub lineage: Lineage,
    pub number: ArchiveNumber,
}

/// Parts wanted from one archive: ascending numbers.
#[derive(Debug, Clone)]
pub struct PartsWanted {
    pub archive: Arc<Archive>,
    pub parts: Vec<u32>,
}

/// What came for a [`PartsWanted`].
#[derive(Debug)]
pub enum Got {
    /// A part, not yet checked.
    Part(u32, Vec<u8>),
    /// What did not come of this request will not come, and why.
    Ended(Failure),
}

/// One object by its name.
#[derive(Debug, Clone, Copy)]
pub enum Wanted {
    Body(SourceId, Digest),
    Page(SourceId, Digest),
    Envelope(SourceId, SessionId),
    /// The header region of the archive that should have this id.
    Region(ArchiveName, ArchiveId),
}

/// Takes what came for an object of a list; a failure is about that object alone.
pub type EachObject<'a> = &'a mut dyn FnMut(usize, Outcome<Vec<u8>>) -> Outcome<()>;
/// Checks the header region of an archive of a list.
pub type CheckRegion<'a> = &'a dyn Fn(usize, &[u8]) -> Outcome<Archive>;
/// Takes a checked archive of a list and its sealed chunk table; a failure is about that archive alone.
pub type EachArchive<'a> = &'a mut dyn FnMut(usize, Outcome<(Archive, Vec<u8>)>) -> Outcome<()>;

/// Takes what came for the request at this place of the list.
pub type Each<'a> = &'a mut dyn FnMut(usize, Got) -> Outcome<()>;

/// One sink. An `Err` of a method is the connection's or the sink's failure as a whole, unless [`is_lost`] says that only
/// the one object is not there.
pub trait Objects: Send {
    /// The remote's name in the configuration.
    fn remote(&self) -> &str;
    /// The pinned key of the sink, which the handshake proved.
    fn sink(&self) -> VerifyKey;
    /// The sink's clock at the handshake.
    fn clock(&self) -> i64;
    fn sources(&mut self) -> Outcome<Vec<SourceItem>>;
    /// All heads from this sequence number on.
    fn heads(&mut self, source: &SourceId, lineage: &Lineage, from: u64) -> Outcome<Vec<HeadItem>>;
    fn envelope(&mut self, source: &SourceId, session: &SessionId) -> Outcome<Vec<u8>>;
    fn body(&mut self, source: &SourceId, digest: &Digest) -> Outcome<Vec<u8>>;
    fn page(&mut self, source: &SourceId, digest: &Digest) -> Outcome<Vec<u8>>;
    /// The header region of the archive that should have this id.
    fn region(&mut self, name: &ArchiveName, id: &ArchiveId) -> Outcome<Vec<u8>>;
    /// The sealed chunk table of a checked archive.
    fn table(&mut self, archive: &Archive) -> Outcome<Vec<u8>>;
    /// Objects, in the order of the list; all requests may be in flight together.
    fn objects(&mut self, wanted: &[Wanted], each: EachObject<'_>) -> Outcome<()> {
        for (at, wanted) in wanted.iter().enumerate() {
            let got = match wanted {
                Wanted::Body(source, digest) => self.body(source, digest),
                Wanted::Page(source, digest) => self.page(source, digest),
                Wanted::Envelope(source, session) => self.envelope(source, session),
                Wanted::Region(name, id) => self.region(name, id),
            };
            match got {
                Err(failure) if !is_lost(&failure) => return Err(failure),
                got => each(at, got)?,
            }
        }
        Ok(())
    }
    /// Header regions and sealed chunk tables of archives, in the order of the list; all requests may be in flight
    /// together. `check` looks at a region before its table is taken.
    fn archives(
        &mut self,
        wanted: &[(ArchiveName, ArchiveId)],
        check: CheckRegion<'_>,
        each: EachArchive<'_>,
    ) -> Outcome<()> {
        for (at, (name, id)) in wanted.iter().enumerate() {
            let got = self.region(name, id).and_then(|bytes| check(at, &bytes));
            let got = got.and_then(|archive| self.table(&archive).map(|table| (archive, table)));
            match got {
                Err(failure) if !is_lost(&failure) => return Err(failure),
                got => each(at, got)?,
            }
        }
        Ok(())
    }
    /// Sealed parts, each as soon as it is there; all requests may be in flight together.
    /// `each` is told the place of the request in the list.
    fn parts(&mut self, wanted: &[PartsWanted], each: Each<'_>) -> Outcome<()>;
    /// Owner records from this number on, in the sink's order.
    fn owner_records(&mut self, owner: &VerifyKey, from: u64) -> Outcome<Vec<Vec<u8>>>;
    fn substitutes(&mut self, source: &SourceId, lineage: &Lineage) -> Outcome<Vec<Vec<u8>>>;
    fn vouchers(&mut self, source: &SourceId, lineage: &Lineage) -> Outcome<Vec<Vec<u8>>>;
    fn wraps(&mut self, source: &SourceId, lineage: &Lineage) -> Outcome<Vec<Vec<u8>>>;
    fn put_owner_record(&mut self, record: &Verified<OwnerRecord>) -> Outcome<()>;
    fn put_voucher(&mut self, voucher: &Verified<Voucher>) -> Outcome<()>;
    fn put_wrap(&mut self, wrap: &Verified<Wrap>) -> Outcome<()>;
}

/// Is this failure about one object (not there, expired, damaged, forged), so that others may still be read?
pub fn is_lost(failure: &Failure) -> bool {
    matches!(failure.exit, Exit::NotFound | Exit::Tampered)
}

/// A signature, hash or structure that does not fit what was signed.
pub fn tampered(code: &'static str, message: impl Into<String>) -> Failure {
    Failure::new(code, Exit::Tampered, message)
}

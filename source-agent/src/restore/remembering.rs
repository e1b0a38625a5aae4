//! A sink whose small objects are remembered for a while: checks of many snapshots ask for the same ones again, and for
//! many of them ahead.

use crate::report::Outcome;
use crate::restore::lru::Lru;
use crate::restore::objects::{ArchiveName, CheckRegion, Each, EachArchive, EachObject, Objects, PartsWanted, Wanted};
use crate::restore::verify::Archive;
use shared::format::{OwnerRecord, Voucher, Wrap};
use shared::id::{ArchiveId, Digest, Lineage, SessionId, SourceId, VerifyKey};
use shared::signature::Verified;
use shared::wire::{HeadItem, SourceItem};
use std::collections::HashMap;

/// Bytes of bodies, pages and envelopes that are remembered.
const BYTES_MAX: usize = 48 << 20;

/// Bodies, pages, envelopes and substitute records come from here a second time. All of them name themselves by what
/// they hold, but for the records, of which a session sees one state.
pub struct Remembering {
    sink: Box<dyn Objects>,
    papers: Lru<Digest, Vec<u8>>,
    substitutes: HashMap<(SourceId, Lineage), Vec<Vec<u8>>>,
}

impl Remembering {
    pub fn new(sink: Box<dyn Objects>) -> Self {
        Self { sink, papers: Lru::new(BYTES_MAX), substitutes: HashMap::new() }
    }

    fn or_ask(&mut self, digest: &Digest, ask: impl FnOnce(&mut dyn Objects) -> Outcome<Vec<u8>>) -> Outcome<Vec<u8>> {
        if let Some(known) = self.papers.get(digest) {
            return Ok(known);
        }
        let bytes = ask(&mut *self.sink)?;
        self.papers.put(*digest, bytes.clone(), bytes.len());
        Ok(bytes)
    }
}

/// What a wanted object is remembered by.
fn digest(wanted: &Wanted) -> Option<Digest> {
    match wanted {
        Wanted::Body(_, digest) | Wanted::Page(_, digest) => Some(*digest),
        Wanted::Envelope(_, session) => Some(Digest::new(*session.as_bytes())),
        Wanted::Region(..) => None,
    }
}

impl Objects for Remembering {
    fn remote(&self) -> &str {
        self.sink.remote()
    }
    fn sink(&self) -> VerifyKey {
        self.sink.sink()
    }
    fn clock(&self) -> i64 {
        self.sink.clock()
    }
    fn sources(&mut self) -> Outcome<Vec<SourceItem>> {
        self.sink.sources()
    }
    fn heads(&mut self, source: &SourceId, lineage: &Lineage, from: u64) -> Outcome<Vec<HeadItem>> {
        self.sink.heads(source, lineage, from)
    }
    fn envelope(&mut self, source: &SourceId, session: &SessionId) -> Outcome<Vec<u8>> {
        self.or_ask(&Digest::new(*session.as_bytes()), |sink| sink.envelope(source, session))
    }
    fn body(&mut self, source: &SourceId, digest: &Digest) -> Outcome<Vec<u8>> {
        self.or_ask(digest, |sink| sink.body(source, digest))
    }
    fn page(&mut self, source: &SourceId, digest: &Digest) -> Outcome<Vec<u8>> {
        self.or_ask(digest, |sink| sink.page(source, digest))
    }
    fn region(&mut self, name: &ArchiveName, id: &ArchiveId) -> Outcome<Vec<u8>> {
        self.sink.region(name, id)
    }
    fn table(&mut self, archive: &Archive) -> Outcome<Vec<u8>> {
        self.sink.table(archive)
    }
    fn objects(&mut self, wanted: &[Wanted], each: EachObject<'_>) -> Outcome<()> {
        let papers = &mut self.papers;
        self.sink.objects(wanted, &mut |at, got| {
            if let (Ok(bytes), Some(digest)) = (&got, wanted.get(at).and_then(digest)) {
                papers.put(digest, bytes.clone(), bytes.len());
            }
            each(at, got)
        })
    }
    fn archives(
        &mut self,
        wanted: &[(ArchiveName, ArchiveId)],
        check: CheckRegion<'_>,
        each: EachArchive<'_>,
    ) -> Outcome<()> {
        self.sink.archives(wanted, check, each)
    }
    fn parts(&mut self, wanted: &[PartsWanted], each: Each<'_>) -> Outcome<()> {
        self.sink.parts(wanted, each)
    }
    fn owner_records(&mut self, owner: &VerifyKey, from: u64) -> Outcome<Vec<Vec<u8>>> {
        self.sink.owner_records(owner, from)
    }
    fn substitutes(&mut self, source: &SourceId, lineage: &Lineage) -> Outcome<Vec<Vec<u8>>> {
        if let Some(known) = self.substitutes.get(&(*source, *lineage)) {
            return Ok(known.clone());
        }
        let rows = self.sink.substitutes(source, lineage)?;
        self.substitutes.insert((*source, *lineage), rows.clone());
        Ok(rows)
    }
    fn vouchers(&mut self, source: &SourceId, lineage: &Lineage) -> Outcome<Vec<Vec<u8>>> {
        self.sink.vouchers(source, lineage)
    }
    fn wraps(&mut self, source: &SourceId, lineage: &Lineage) -> Outcome<Vec<Vec<u8>>> {
        self.sink.wraps(source, lineage)
    }
    fn put_owner_record(&mut self, record: &Verified<OwnerRecord>) -> Outcome<()> {
        self.sink.put_owner_record(record)
    }
    fn put_voucher(&mut self, voucher: &Verified<Voucher>) -> Outcome<()> {
        self.sink.put_voucher(voucher)
    }
    fn put_wrap(&mut self, wrap: &Verified<Wrap>) -> Outcome<()> {
        self.sink.put_wrap(wrap)
    }
}

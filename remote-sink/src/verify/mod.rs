//! The read-only judge of a vault: signatures, chains, receipts, and every byte against its signed hash, without a
//! decryption key. Used by the operator's `verify` as by tests.

mod archives;
mod chains;
mod healed;
mod owners;

use crate::damaged::{Damaged, LostBlocks};
use crate::enrolment::Enrolment;
use crate::journal::{Journal, JournalError, Memory};
use crate::ledger::{Ledger, read_record};
use crate::published::Published;
use crate::serve::check::verify_any;
use crate::store::directory::Root;
use crate::store::layout::{Layout, object_path, source_room};
use crate::store::{Directory, Entry, Name, Shelf, Store, StoreError, Stored, pack, read_whole};
use archives::{Archives, Reading};
use shared::format::{Body, Envelope, Page, Substitute};
use shared::id::{ArchiveNumber, Lineage, SourceId, SourceName, VerifyKey};
use shared::keyfile::{SINK_KEY, read_signing_key};
use shared::signature::{Object, Plain};
use shared::sys::Clock;
use shared::wire::Role;
use std::collections::HashSet;
use std::io;
use std::path::Path;

/// Findings that a report lists one by one; beyond, they are counted.
const FINDINGS_MAX: usize = 10_000;

/// What to read.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// These sources; empty = all.
    pub sources: Vec<SourceName>,
    /// Share of the archives whose parts are read, in percent; `None` = all.
    pub sample_percent: Option<f64>,
    /// Bytes per second.
    pub limit_read: Option<u64>,
    /// Skip the parts of archives whose last good reading is younger than this many seconds (by the ledger).
    pub older_than: Option<i64>,
}

/// Something that is not as it was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The object; absent for what is none.
    pub object: Option<Name>,
    /// Path relative to the room of the source or owner.
    pub path: String,
    /// Snapshots that need it, by lineage and sequence number; at most 100.
    pub snapshots: Vec<(Lineage, u64)>,
    pub what: String,
}

/// What was found in one source.
#[derive(Debug, Clone, Default)]
pub struct SourceReport {
    pub name: String,
    pub id: Option<SourceId>,
    /// Heads in all chains.
    pub snapshots: u64,
    /// Heads whose signature fits.
    pub signatures_ok: u64,
    /// Chains with a gap, a wrong link, or a receipt that does not fit.
    pub chain_broken: u64,
    /// Heads without a receipt: a crash left them, the next session repairs them.
    pub without_receipt: u64,
    /// Snapshots that cannot be restored whole, by lineage and sequence number.
    pub snapshots_damaged: Vec<(Lineage, u64)>,
    /// Objects of every kind, and their bytes.
    pub objects: u64,
    pub bytes: u64,
    /// Archives whose parts were read. Others were left out by sample or age, or damage left nothing to read.
    pub archives_read: u64,
    pub archives_left_out: u64,
    pub archives: u64,
    /// Damaged blocks whose content lies in others, by substitute records: nothing lacks for them.
    pub healed: u64,
    /// Archives of `archives_read` that were open for writing: they count as read when nobody can change them.
    pub archives_open: u64,
    pub damage: Vec<Finding>,
    /// All damage, also beyond what `damage` lists.
    pub damage_total: u64,
    /// Files that are no object.
    pub unknown: Vec<String>,
    /// All of them, also beyond what `unknown` lists.
    pub unknown_total: u64,
    /// Archives that were read whole, are right, and cannot be changed by any session any more: for the ledger's table of last readings.
    pub verified: Vec<(Lineage, ArchiveNumber)>,
    /// Blocks that kept snapshots need and that cannot be read, ascending: the source is told of them.
    pub lost: Vec<LostBlocks>,
    /// Archives with something wrong in them, healed or not: their last good reading counts no more.
    pub suspect: Vec<(Lineage, ArchiveNumber)>,
}

impl SourceReport {
    pub fn is_ok(&self) -> bool {
        self.damage_total == 0 && self.chain_broken == 0 && self.signatures_ok == self.snapshots
    }

    fn find(&mut self, object: Name, what: impl Into<String>) {
        self.find_path(Some(object), object_path(&object), what);
    }

    fn find_path(&mut self, object: Option<Name>, path: String, what: impl Into<String>) {
        self.damage_total += 1;
        if self.damage.len() < FINDINGS_MAX {
            self.damage.push(Finding { object, path, snapshots: Vec::new(), what: what.into() });
        }
    }

    fn foreign(&mut self, path: String) {
        self.unknown_total += 1;
        if self.unknown.len() < FINDINGS_MAX {
            self.unknown.push(path);
        }
    }

    fn count(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What was found of one owner.
#[derive(Debug, Clone)]
pub struct OwnerReport {
    pub owner: VerifyKey,
    pub objects: u64,
    pub damage: Vec<Finding>,
}

#[derive(Debug, Clone, Default)]
pub struct Report {
    pub sources: Vec<SourceReport>,
    pub owners: Vec<OwnerReport>,
}

impl Report {
    pub fn is_ok(&self) -> bool {
        self.sources.iter().all(SourceReport::is_ok) && self.owners.iter().all(|owner| owner.damage.is_empty())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("cannot read {path}: {error}")]
    Io { path: String, error: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Vault(String),
}

/// A source under judgement.
struct Judged<'a> {
    id: SourceId,
    key: VerifyKey,
    owner: Option<VerifyKey>,
    sink: VerifyKey,
    expired: Expired,
    store: &'a Directory,
    /// What the run before found: read again whatever is left out.
    damaged: Damaged,
}

/// Reads a vault and judges it.
pub fn verify(root: &Path, options: &VerifyOptions, clock: &dyn Clock) -> Result<Report, VerifyError> {
    verify_observed(root, options, clock, &|_| {})
}

/// The same; `observe` is told of each piece of data that was read, in bytes, from several threads.
pub fn verify_observed(
    root: &Path,
    options: &VerifyOptions,
    clock: &dyn Clock,
    observe: &(dyn Fn(u64) + Sync),
) -> Result<Report, VerifyError> {
    let layout = Layout::new(root);
    let vault = Root::open(root)?;
    let sink = sink_key(&layout)?;
    let names = if options.sources.is_empty() { all_sources(&layout)? } else { options.sources.clone() };
    let journal = match Journal::look(&layout) {
        Ok(memory) => Some(memory),
        Err(JournalError::Io { error, .. }) if error.kind() == io::ErrorKind::PermissionDenied => None,
        Err(e) => return Err(VerifyError::Vault(e.to_string())),
    };
    let mut report = Report::default();
    for name in names {
        let enrolment = Enrolment::read(&layout.enrolment(&name)).map_err(|e| VerifyError::Vault(e.to_string()))?;
        if enrolment.role != Role::Push {
            continue;
        }
        let store = vault.room(source_room(&name));
        let judged = Judged {
            id: enrolment.card.source_id(),
            key: *enrolment.card.verify_key(),
            owner: enrolment.card.owner().copied(),
            sink,
            expired: match &journal {
                Some(journal) => Expired::of(journal, &name),
                None => Expired::Published(Published::read(&vault, &name, enrolment.card.source_id())?),
            },
            store: &store,
            // A hint only: this run writes it again.
            damaged: Damaged::read(&vault, &name, enrolment.card.source_id())
                .unwrap_or(Damaged::nothing(enrolment.card.source_id())),
        };
        let ledger = Ledger::open_read(&layout.ledger(&name)).ok().flatten();
        let reading = Reading::new(options, ledger.as_ref(), clock.now(), observe);
        let mut source = SourceReport { name: name.to_string(), id: Some(judged.id), ..SourceReport::default() };
        judge_source(&judged, &reading, &mut source)?;
        report.sources.push(source);
    }
    if options.sources.is_empty() {
        report.owners = owners::judge(&layout, &vault)?;
    }
    Ok(report)
}

/// Snapshots whose content retention gave up.
enum Expired {
    /// By the operator's journal.
    Journal(HashSet<(Lineage, u64)>),
    /// By what the operator left for the sessions, where the journal is another account's.
    Published(Published),
}

impl Expired {
    fn of(journal: &Memory, name: &SourceName) -> Self {
        let gone = journal.source(name).into_iter().flat_map(|source| source.gone.keys());
        Self::Journal(gone.map(|id| (id.lineage, id.sequence)).collect())
    }
    fn has(&self, (lineage, sequence): &(Lineage, u64)) -> bool {
        match self {
            Self::Journal(gone) => gone.contains(&(*lineage, *sequence)),
            Self::Published(published) => published.is_expired(lineage, *sequence),
        }
    }
}

fn all_sources(layout: &Layout) -> Result<Vec<SourceName>, VerifyError> {
    layout.source_names().map_err(|error| VerifyError::Io { path: "sources".into(), error })
}

fn sink_key(layout: &Layout) -> Result<VerifyKey, VerifyError> {
    let path = layout.sink_key();
    let text = std::fs::read_to_string(&path)
        .map(zeroize::Zeroizing::new)
        .map_err(|error| VerifyError::Io { path: path.display().to_string(), error })?;
    let key = read_signing_key(SINK_KEY, &text).map_err(|e| VerifyError::Vault(e.to_string()))?;
    Ok(key.verify_key())
}

/// The order lets a session add objects meanwhile: what a head names was there before the head.
fn judge_source(judged: &Judged, reading: &Reading, report: &mut SourceReport) -> Result<(), VerifyError> {
    let heads = list(judged.store, Shelf::Heads, report)?;
    let receipts = list(judged.store, Shelf::Receipts, report)?;
    let rest = [Shelf::Substitutes, Shelf::Records, Shelf::Bodies, Shelf::Pages, Shelf::Envelopes];
    for shelf in rest {
        for name in list(judged.store, shelf, report)? {
            judge_small(judged, &name, report);
        }
    }
    let names = list(judged.store, Shelf::Archives, report)?;
    let archives = Archives::judge(judged, reading, names, report);
    chains::judge(judged, archives, &heads, &receipts, report);
    Ok(())
}

fn list(store: &Directory, shelf: Shelf, report: &mut SourceReport) -> Result<Vec<Name>, VerifyError> {
    let mut names = Vec::new();
    let listed = store.list(shelf, &mut |entry| match entry {
        Entry::Object(name) => names.push(name),
        Entry::Foreign(path) => report.foreign(path),
    });
    let listed = listed.and_then(|()| pack::duplicates(store, shelf));
    match listed {
        Ok(found) => {
            for (name, _) in found.iter().filter(|(_, same)| !same) {
                report.find(*name, "it is packed, and a file of its name has other bytes: nobody reads that file");
            }
        }
        // A damaged pack: what it holds cannot be told.
        Err(e) if e.is_damage() => report.find_path(None, e.path.clone(), e.to_string()),
        Err(e) => return Err(e.into()),
    }
    names.sort_by_cached_key(object_path);
    Ok(names)
}

/// Reads a small object; what cannot be read is a finding.
fn read(judged: &Judged, name: &Name, bytes_max: usize, report: &mut SourceReport) -> Option<Vec<u8>> {
    match read_whole(judged.store, name, bytes_max) {
        Ok(Some(bytes)) => Some(bytes),
        Ok(None) => {
            report.find(*name, "it is missing");
            None
        }
        Err(e) => {
            report.find(*name, e.to_string());
            None
        }
    }
}

/// Objects that stand alone: their name must be the digest of what they hold, their signature must fit.
fn judge_small(judged: &Judged, name: &Name, report: &mut SourceReport) {
    let bytes_max = match name.shelf() {
        Shelf::Substitutes => Substitute::BYTES_MAX,
        Shelf::Records => shared::limits::RECORD_BYTES_MAX,
        Shelf::Bodies => Body::BYTES_MAX,
        Shelf::Pages => Page::BYTES_MAX,
        _ => Envelope::BYTES_MAX,
    };
    let Some(bytes) = read(judged, name, bytes_max, report) else { return };
    report.count(bytes.len() as u64);
    if let Err(what) = small_is_right(judged, name, &bytes) {
        report.find(*name, what);
    }
}

fn small_is_right(judged: &Judged, name: &Name, bytes: &[u8]) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let (source, named) = match name {
        Name::Body(digest) => (judged.id, Plain::<Body>::parse(bytes).map_err(|e| text(&e))?.digest() == *digest),
        Name::Page(digest) => {
            let page = Plain::<Page>::parse(bytes).map_err(|e| text(&e))?;
            (page.source, page.digest() == *digest)
        }
        Name::Envelope(session) => {
            let envelope = verify_any::<Envelope>(bytes, &[judged.key]).map_err(|e| text(&e))?;
            (envelope.source, envelope.digest().as_bytes() == session.as_bytes())
        }
        Name::Substitute(lineage, digest) => {
            let keys: Vec<_> = judged.owner.into_iter().chain([judged.key]).collect();
            let substitute = verify_any::<Substitute>(bytes, &keys).map_err(|e| text(&e))?;
            (substitute.source, substitute.digest() == *digest && substitute.lineage == *lineage)
        }
        _ => {
            let record = read_record(judged.store, name, &judged.sink).map_err(|e| text(&e))?;
            (record.ok_or("not signed by this sink")?.source, true)
        }
    };
    if !named {
        return Err("its name is not the digest of its content".into());
    }
    if source == judged.id { Ok(()) } else { Err("it belongs to another source".into()) }
}

/// Bytes of an object, 0 if it is not there.
fn stored_bytes(store: &Directory, name: &Name) -> u64 {
    store.get(name).ok().flatten().map_or(0, |stored| stored.bytes())
}

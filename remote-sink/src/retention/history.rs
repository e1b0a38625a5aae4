//! All committed snapshots of a source, with times that neither the source nor a session could have made up.

use crate::journal::SourceMemory;
use crate::retention::observe::read_head;
use crate::retention::policy::{Snapshot, SnapshotId};
use crate::retention::vault::{RetentionError, Source, View, io_error};
use crate::store::layout::{Layout, owner_room};
use crate::store::{Name, Shelf, names, read_whole};
use shared::format::{Receipt, Release, Voucher};
use shared::id::{Digest, Lineage, Series, SessionId, SourceName};
use shared::limits::{RECEIPT_BYTES_MAX, VOUCHER_BYTES_MAX};
use shared::signature::{Object, Signed, Verified};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Where a snapshot's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Here,
    Trash,
    /// Given up, or lost.
    Nowhere,
}

/// One committed snapshot.
#[derive(Debug, Clone)]
pub struct Link {
    pub snapshot: Snapshot,
    pub head: Digest,
    pub body: Digest,
    pub session: SessionId,
    pub place: Place,
    /// Number of the journal's entry that saw it first.
    pub entry: u64,
    /// Journal digest that its receipt binds.
    pub journal: Option<Digest>,
}

/// All of them, oldest first within each lineage.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub links: Vec<Link>,
    /// Heads that the journal knows and that cannot be read any more, with the entry that saw them first.
    pub lost: Vec<(SnapshotId, u64)>,
}

/// Digests of the bodies in a source's trash.
pub fn trash(layout: &Layout, name: &SourceName) -> Result<HashSet<Digest>, RetentionError> {
    let dir = layout.trash(name);
    let mut found = HashSet::new();
    for entry in std::fs::read_dir(&dir).map_err(io_error("list", &dir))? {
        let file = entry.map_err(io_error("list", &dir))?.file_name();
        found.extend(file.to_str().and_then(|file| file.parse::<Digest>().ok()));
    }
    Ok(found)
}

/// Digests of the bodies on the shelf.
pub fn bodies(source: &Source) -> Result<HashSet<Digest>, RetentionError> {
    let digest = |name| if let Name::Body(digest) = name { Some(digest) } else { None };
    Ok(names(&source.store, Shelf::Bodies)?.into_iter().filter_map(digest).collect())
}

/// The owner's signed words about a source's heads at this sink, by head digest.
struct OwnersWord {
    vouched: HashSet<Digest>,
    released: HashSet<Digest>,
}

fn owners_word(view: View, source: &Source) -> Result<OwnersWord, RetentionError> {
    let mut word = OwnersWord { vouched: HashSet::new(), released: HashSet::new() };
    let Some(owner) = source.owner else { return Ok(word) };
    let room = view.root.room(owner_room(&owner));
    for (shelf, is_voucher) in [(Shelf::Vouchers, true), (Shelf::Releases, false)] {
        for name in names(&room, shelf)? {
            let Ok(Some(bytes)) = read_whole(&room, &name, VOUCHER_BYTES_MAX) else { continue };
            if is_voucher {
                let found =
                    verified::<Voucher>(&bytes, &owner).filter(|v| (v.source, v.sink) == (source.id, *view.sink));
                word.vouched.extend(found.map(|voucher| voucher.head));
            } else {
                let found =
                    verified::<Release>(&bytes, &owner).filter(|r| (r.source, r.sink) == (source.id, *view.sink));
                word.released.extend(found.map(|release| release.head));
            }
        }
    }
    Ok(word)
}

fn verified<T: Object>(bytes: &[u8], key: &shared::id::VerifyKey) -> Option<Verified<T>> {
    Signed::<T>::parse(bytes).ok()?.verify(key).ok()
}

fn receipt(view: View, source: &Source, id: &SnapshotId) -> Result<Option<Verified<Receipt>>, RetentionError> {
    let bytes = match read_whole(&source.store, &Name::Receipt(id.lineage, id.sequence), RECEIPT_BYTES_MAX) {
        Err(e) if e.is_damage() => return Ok(None),
        bytes => bytes?,
    };
    Ok(bytes.and_then(|bytes| verified::<Receipt>(&bytes, view.sink)))
}

/// Reads the history of a source. Only heads that the journal has seen are in it.
pub fn read(view: View, source: &Source) -> Result<History, RetentionError> {
    let none = SourceMemory::default();
    let memory = view.memory.source(&source.name).unwrap_or(&none);
    let word = owners_word(view, source)?;
    let (here, trash) = (bodies(source)?, trash(view.layout, &source.name)?);
    let mut history = History::default();
    for (lineage, runs) in &memory.chains {
        let mut received_before = i64::MIN;
        for (run, sequence) in runs.iter().flat_map(|run| (run.first..=run.last).map(move |sequence| (run, sequence))) {
            let id = SnapshotId { lineage: *lineage, sequence };
            let Some(head) = read_head(source, *lineage, sequence)? else {
                history.lost.push((id, run.entry));
                continue;
            };
            if sequence == run.last && head.digest() != run.newest {
                history.lost.push((id, run.entry));
                continue;
            }
            let receipt = receipt(view, source, &id)?.filter(|receipt| receipt.attests(&head).is_ok());
            // The sink's own clock within the two observations that bound it; never before the head before it.
            let said = receipt.as_ref().map_or(run.by, |receipt| receipt.received).min(run.by);
            let later = run.after.map_or(i64::MIN, |after| after.saturating_add(1));
            let received = said.max(later).max(received_before);
            received_before = received;
            let most = received.saturating_add(i64::try_from(memory.promise_max).unwrap_or(i64::MAX));
            let promised = receipt.as_ref().and_then(|receipt| receipt.keep_until).map(|until| until.min(most));
            let snapshot = Snapshot {
                id,
                series: head.series,
                received,
                checkpoint: head.is_checkpoint(),
                run_committed: false,
                held: memory.held.contains(&id),
                vouched: word.vouched.contains(&head.digest()),
                promised: promised.filter(|_| !word.released.contains(&head.digest())),
            };
            let place = match () {
                () if here.contains(&head.body) => Place::Here,
                () if trash.contains(&head.body) => Place::Trash,
                () => Place::Nowhere,
            };
            let journal = receipt.as_ref().and_then(|receipt| receipt.journal);
            let (digest, body, session) = (head.digest(), head.body, head.session);
            history.links.push(Link { snapshot, head: digest, body, session, place, entry: run.entry, journal });
        }
    }
    settle_checkpoints(&mut history.links);
    Ok(history)
}

/// A checkpoint's run has committed when a whole snapshot of its lineage and series follows, here or expired.
fn settle_checkpoints(links: &mut [Link]) {
    let mut newest: HashMap<(Lineage, Series), u64> = HashMap::new();
    for link in links.iter().filter(|link| !link.snapshot.checkpoint) {
        let known = newest.entry((link.snapshot.id.lineage, link.snapshot.series)).or_default();
        *known = (*known).max(link.snapshot.id.sequence);
    }
    for link in links.iter_mut().filter(|link| link.snapshot.checkpoint) {
        let newest = newest.get(&(link.snapshot.id.lineage, link.snapshot.series));
        link.snapshot.run_committed = newest.is_some_and(|newest| *newest > link.snapshot.id.sequence);
    }
}

impl History {
    /// Those whose body is on the shelf: what the policy decides over.
    pub fn present(&self) -> Vec<Snapshot> {
        self.links.iter().filter(|link| link.place == Place::Here).map(|link| link.snapshot.clone()).collect()
    }
    pub fn link(&self, id: &SnapshotId) -> Option<&Link> {
        self.links.iter().find(|link| link.snapshot.id == *id)
    }
    /// The one snapshot whose id begins with these hex digits.
    pub fn find(&self, prefix: &str) -> Result<&Link, RetentionError> {
        let digits = prefix.len() >= 4 && prefix.bytes().all(|b| b.is_ascii_hexdigit());
        let mut found = self.links.iter().filter(|link| digits && link.head.to_string().starts_with(prefix));
        let first = found.next().ok_or_else(|| RetentionError::NoSuch(prefix.into()))?;
        if found.next().is_some() { Err(RetentionError::Ambiguous(prefix.into())) } else { Ok(first) }
    }
    /// By series, oldest first.
    pub fn by_series(&self) -> BTreeMap<Series, Vec<&Link>> {
        let mut series: BTreeMap<Series, Vec<&Link>> = BTreeMap::new();
        for link in &self.links {
            series.entry(link.snapshot.series).or_default().push(link);
        }
        for links in series.values_mut() {
            links.sort_by_key(|link| (link.snapshot.received, link.snapshot.id.sequence));
        }
        series
    }
}

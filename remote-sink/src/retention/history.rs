//! All committed snapshots of a source, with times that neither the source nor a session could have made up.

use crate::journal::{Seen, SourceMemory};
use crate::retention::observe::{on_shelf, read_head};
use crate::retention::policy::{Snapshot, SnapshotId};
use crate::retention::vault::{RetentionError, Source, View, io_error};
use crate::store::layout::{Layout, owner_room};
use crate::store::{Entry, Name, Shelf, Store, Stored, names, read_whole};
use shared::format::{Head, Receipt, Release, Voucher};
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
    /// Where heads are missing, damaged, or do not follow one another.
    pub lost: Vec<Lost>,
    /// Newest heads on the shelf that no observation could read.
    pub unread: Unread,
    /// Heads and receipts on the shelf, of all lineages.
    heads: usize,
    receipts: usize,
}

/// Heads that should be there by the journal: missing, damaged, or not what they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    pub count: u64,
    /// The entry that saw them, or those behind them.
    pub entry: u64,
}

/// Heads behind all that were seen, which cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unread {
    pub count: u64,
    /// When the last of them appeared, by the store's clock.
    pub appeared: i64,
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

/// What is needed to read one source's chains.
struct Reader<'a> {
    view: View<'a>,
    source: &'a Source,
    memory: &'a SourceMemory,
    word: OwnersWord,
    here: HashSet<Digest>,
    trash: HashSet<Digest>,
    history: History,
}

/// Reads the history of a source. Only heads that the journal has seen are in it, and those that came back into a gap.
pub fn read(view: View, source: &Source) -> Result<History, RetentionError> {
    let none = SourceMemory::default();
    let memory = view.memory.source(&source.name).unwrap_or(&none);
    let shelf = on_shelf(source)?;
    let mut history = History { heads: shelf.values().map(Vec::len).sum(), ..History::default() };
    source
        .store
        .list(Shelf::Receipts, &mut |entry| history.receipts += usize::from(matches!(entry, Entry::Object(_))))?;
    let (here, trash) = (bodies(source)?, trash(view.layout, &source.name)?);
    let mut reader = Reader { view, source, memory, word: owners_word(view, source)?, here, trash, history };
    for (lineage, runs) in &memory.chains {
        reader.chain(*lineage, runs, shelf.get(lineage).map_or(&[], Vec::as_slice))?;
    }
    for (lineage, sequences) in &shelf {
        reader.unread(*lineage, sequences)?;
    }
    let mut history = reader.history;
    settle_checkpoints(&mut history.links);
    Ok(history)
}

/// The head before, in the order of sequence numbers.
struct Before {
    sequence: u64,
    head: Digest,
    received: i64,
}

impl Reader<'_> {
    fn lose(&mut self, count: u64, entry: u64) {
        if count > 0 {
            self.history.lost.push(Lost { count, entry });
        }
    }

    fn chain(&mut self, lineage: Lineage, runs: &[Seen], shelf: &[u64]) -> Result<(), RetentionError> {
        let (mut next, mut before) = (0, None);
        for run in runs {
            // Heads that could not be read when those behind them were seen, and can now.
            let gap = shelf.partition_point(|s| *s < next)..shelf.partition_point(|s| *s < run.first);
            let mut missing = run.first.saturating_sub(next);
            for sequence in shelf.get(gap).unwrap_or_default() {
                if let Some(head) = read_head(self.source, lineage, *sequence)? {
                    self.link(run, &head, &mut before)?;
                    missing = missing.saturating_sub(1);
                }
            }
            self.lose(missing, run.entry);
            for sequence in run.first..=run.last {
                match read_head(self.source, lineage, sequence)? {
                    Some(head) if sequence != run.last || head.digest() == run.newest => {
                        self.link(run, &head, &mut before)?;
                    }
                    _ => self.lose(1, run.entry),
                }
            }
            next = run.last.saturating_add(1);
        }
        Ok(())
    }

    fn link(&mut self, run: &Seen, head: &Verified<Head>, before: &mut Option<Before>) -> Result<(), RetentionError> {
        let id = SnapshotId { lineage: head.lineage, sequence: head.sequence };
        let follows =
            |before: &Before| before.sequence.checked_add(1) != Some(id.sequence) || head.previous == Some(before.head);
        if !before.as_ref().is_none_or(follows) {
            self.lose(1, run.entry);
        }
        let receipt = receipt(self.view, self.source, &id)?.filter(|receipt| receipt.attests(head).is_ok());
        // The sink's own clock within the two observations that bound it; never before the head before it.
        let said = receipt.as_ref().map_or(run.by, |receipt| receipt.received).min(run.by);
        let later = run.after.map_or(i64::MIN, |after| after.saturating_add(1));
        let received = said.max(later).max(before.as_ref().map_or(i64::MIN, |before| before.received));
        *before = Some(Before { sequence: id.sequence, head: head.digest(), received });
        let most = received.saturating_add(i64::try_from(self.memory.promise_max).unwrap_or(i64::MAX));
        let promised = receipt.as_ref().and_then(|receipt| receipt.keep_until).map(|until| until.min(most));
        let snapshot = Snapshot {
            id,
            series: head.series,
            received,
            checkpoint: head.is_checkpoint(),
            run_committed: false,
            held: self.memory.held.contains(&id),
            vouched: self.word.vouched.contains(&head.digest()),
            promised: promised.filter(|_| !self.word.released.contains(&head.digest())),
        };
        let place = match () {
            () if self.here.contains(&head.body) => Place::Here,
            () if self.trash.contains(&head.body) => Place::Trash,
            () => Place::Nowhere,
        };
        let journal = receipt.as_ref().and_then(|receipt| receipt.journal);
        let (digest, body, session) = (head.digest(), head.body, head.session);
        self.history.links.push(Link { snapshot, head: digest, body, session, place, entry: run.entry, journal });
        Ok(())
    }

    /// Behind the newest that was seen: what can be read has only just come, the rest hides what it names.
    fn unread(&mut self, lineage: Lineage, sequences: &[u64]) -> Result<(), RetentionError> {
        let newest = self.memory.newest(&lineage).map(|seen| seen.last);
        for sequence in sequences.iter().copied().filter(|sequence| Some(*sequence) > newest) {
            if read_head(self.source, lineage, sequence)?.is_none() {
                let stored = self.source.store.get(&Name::Head(lineage, sequence)).ok().flatten();
                let unread = &mut self.history.unread;
                unread.count += 1;
                unread.appeared = unread.appeared.max(stored.map_or(i64::MAX, |stored| stored.appeared()));
            }
        }
        Ok(())
    }
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
    /// Is every snapshot in it that was ever committed? Only then does a body that it does not name belong to nobody.
    pub fn is_whole(&self) -> bool {
        self.lost.is_empty() && self.heads == self.links.len() && self.receipts <= self.heads
    }
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
    /// The newest whole snapshot of each other series when this one came, of any lineage.
    pub fn newest_before(&self, link: &Link) -> Vec<&Link> {
        let at = |link: &Link| (link.snapshot.received, link.snapshot.id.sequence);
        let mut newest: BTreeMap<Series, &Link> = BTreeMap::new();
        for other in self.links.iter().filter(|other| !other.snapshot.checkpoint && at(other) < at(link)) {
            if other.snapshot.series != link.snapshot.series {
                let known = newest.entry(other.snapshot.series).or_insert(other);
                if at(known) < at(other) {
                    *known = other;
                }
            }
        }
        newest.into_values().collect()
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

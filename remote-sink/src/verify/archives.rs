//! Archives: each index against its signature, each part against its signed hash (docs/format.md, section "Archive").

use crate::ledger::Ledger;
use crate::store::archive::{ArchiveError, Checked, open_checked};
use crate::store::{Directory, Name, Stored, lease};
use crate::verify::healed::{Healed, Sound};
use crate::verify::{Judged, SourceReport, VerifyOptions};
use shared::format::owner::BlockName;
use shared::format::{Index, PageEntry};
use shared::id::{ArchiveId, ArchiveNumber, Lineage};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const THREADS: usize = 2;
/// A part is read in pieces of this size: memory does not grow with it.
const PIECE_BYTES: usize = 1 << 20;

/// How much is read, and how fast.
pub struct Reading<'a> {
    sample: Option<u64>,
    seed: [u8; 32],
    skip_since: Option<i64>,
    ledger: Option<&'a Ledger>,
    pace: Pace<'a>,
}

/// Reading speed, shared by the threads.
struct Pace<'a> {
    limit: Option<u64>,
    observe: &'a (dyn Fn(u64) + Sync),
    read: AtomicU64,
    started: Instant,
}

impl<'a> Reading<'a> {
    pub fn new(
        options: &VerifyOptions,
        ledger: Option<&'a Ledger>,
        now: i64,
        observe: &'a (dyn Fn(u64) + Sync),
    ) -> Self {
        // A share of the whole range of 64 bits; a fresh seed lets repeated samples meet all archives in time.
        let share = |percent: f64| (percent.clamp(0.0, 100.0) / 100.0 * u64::MAX as f64) as u64;
        let limit = options.limit_read.filter(|limit| *limit > 0);
        Self {
            sample: options.sample_percent.filter(|percent| *percent < 100.0).map(share),
            seed: shared::sys::random(),
            skip_since: options.older_than.map(|age| now.saturating_sub(age)),
            ledger,
            pace: Pace { limit, observe, read: AtomicU64::new(0), started: Instant::now() },
        }
    }

    fn wants(&self, judged: &Judged, lineage: &Lineage, number: ArchiveNumber) -> Wanted {
        if judged.damaged.has(lineage, number) {
            return Wanted::Read;
        }
        if let (Some(since), Some(ledger)) = (self.skip_since, self.ledger)
            && let Ok(Some(at)) = ledger.verified_at(lineage, number)
            && at > since
        {
            return Wanted::Verified;
        }
        let Some(share) = self.sample else { return Wanted::Read };
        let mut hasher = blake3::Hasher::new_keyed(&self.seed);
        hasher.update(lineage.as_bytes()).update(&number.get().to_le_bytes());
        let mut draw = [0; 8];
        hasher.finalize_xof().fill(&mut draw);
        if u64::from_le_bytes(draw) < share { Wanted::Read } else { Wanted::LeftOut }
    }
}

/// Is an archive's data to be read?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Read,
    /// It was found right within the age that was asked for.
    Verified,
    LeftOut,
}

impl Pace<'_> {
    /// Counts what was read, and waits while that is more than the limit allows.
    fn account(&self, bytes: u64) {
        (self.observe)(bytes);
        let Some(limit) = self.limit else { return };
        let total = self.read.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let due = Duration::from_secs_f64(total as f64 / limit as f64);
        if let Some(ahead) = due.checked_sub(self.started.elapsed()) {
            std::thread::sleep(ahead);
        }
    }
}

/// What is known of one archive.
#[derive(Debug)]
struct Facts {
    id: ArchiveId,
    blocks: u32,
    /// Parts that the generation lacks, and parts that are damaged: the chunk table also where readers refuse the region.
    absent: BTreeSet<u32>,
    damaged: BTreeSet<u32>,
    /// What is not among those is right: it was read, and nobody can change it any more.
    proven: bool,
}

impl Facts {
    fn sound(&self, id: ArchiveId, block: u32) -> Sound {
        match () {
            () if self.id != id || block >= self.blocks || self.absent.contains(&block) => Sound::Missing,
            // Without the region or the chunk table nobody finds what is in a block.
            () if self.damaged.contains(&block) || self.damaged.contains(&self.blocks) => Sound::Damaged,
            () if self.proven => Sound::Proven,
            () => Sound::Unread,
        }
    }
}

/// All archives of a source, judged.
pub struct Archives {
    facts: HashMap<(Lineage, ArchiveNumber), Facts>,
    healed: Healed,
    /// Findings with chunk tables and with archives as a whole: healed if all that is needed of these is healed.
    whole: Vec<(Place, String)>,
    suspects: HashSet<Place>,
}

/// What one archive came to.
struct Verdict {
    name: (Lineage, ArchiveNumber),
    bytes: u64,
    facts: Option<Facts>,
    read: bool,
    /// A session may still change it: it was open for writing when the reading began.
    open: bool,
    /// What is wrong, and with which part; the archive as a whole where there is none.
    findings: Vec<(Option<u32>, String)>,
}

impl Archives {
    pub fn judge(judged: &Judged, reading: &Reading, names: Vec<Name>, report: &mut SourceReport) -> Self {
        let names: Vec<_> = names
            .into_iter()
            .filter_map(|name| match name {
                Name::Archive(lineage, number) => Some((lineage, number)),
                _ => None,
            })
            .collect();
        // The ledger's connection stays with this thread.
        let wanted: Vec<_> =
            names.into_iter().map(|name| Task { name, wanted: reading.wants(judged, &name.0, name.1) }).collect();
        let mut verdicts = judge_all(judged, &reading.pace, &wanted);
        // What heals a damaged block is read too, whatever was left out: without that it may be as rotten. Among it more
        // may turn out to be damaged, so again until nothing is left.
        loop {
            let was_read = |place: &(Lineage, ArchiveNumber)| verdicts.get(place).is_some_and(|verdict| verdict.read);
            let unread = Healed::unread(judged, |lineage, block| sound(&verdicts, lineage, block), was_read);
            if unread.is_empty() {
                break;
            }
            let tasks: Vec<_> = unread.into_iter().map(|name| Task { name, wanted: Wanted::Read }).collect();
            verdicts.extend(judge_all(judged, &reading.pace, &tasks));
        }
        let healed = Healed::find(judged, |lineage, block| sound(&verdicts, lineage, block));
        let mut found: Vec<Finding> = Vec::new();
        let facts: HashMap<_, _> =
            verdicts.into_values().filter_map(|verdict| verdict.report(report, &mut found)).collect();
        report.suspect = found.iter().map(|(place, ..)| *place).collect();
        report.suspect.dedup();
        let mut whole = Vec::new();
        for (place, part, what) in found {
            let blocks = facts.get(&place).map_or(0, |facts: &Facts| facts.blocks);
            if part.is_none_or(|part| part == blocks) {
                whole.push((place, what));
                continue;
            }
            let is_healed = |facts: &Facts| part.is_some_and(|part| healed.has(&place.0, place.1, facts.id, part));
            if facts.get(&place).is_some_and(is_healed) {
                report.healed += 1;
            } else {
                report.find(Name::Archive(place.0, place.1), what);
            }
        }
        let suspects = whole.iter().map(|(place, _)| *place).collect();
        Self { facts, healed, whole, suspects }
    }

    /// Why a page's entry, of which these blocks are lost, cannot be read back; `None` if it can.
    pub fn lacks(&self, lineage: &Lineage, entry: &PageEntry, lost: &[u32]) -> Option<Lack> {
        let facts = self.facts.get(&(*lineage, entry.number)).filter(|facts| facts.id == entry.id);
        if let Some(facts) = facts
            && entry.blocks_named() > facts.blocks
        {
            return Some(Lack::Beyond);
        }
        let is_absent = |facts: &Facts| lost.iter().any(|block| facts.absent.contains(block));
        match facts {
            _ if lost.is_empty() => None,
            None if self.facts.contains_key(&(*lineage, entry.number)) => Some(Lack::Other),
            None => Some(Lack::Missing),
            Some(facts) if is_absent(facts) => Some(Lack::Absent),
            Some(_) => Some(Lack::Damaged),
        }
    }

    /// Blocks that a page's entry needs, that cannot be read, and that no others stand for. Of an archive with which
    /// something is wrong as a whole that is every block without a record: only healing proves one of these.
    pub fn lost(&self, lineage: &Lineage, entry: &PageEntry) -> Vec<u32> {
        let facts = self.facts.get(&(*lineage, entry.number));
        let is_suspect = self.is_suspect(&(*lineage, entry.number));
        let is_lost = |block: &u32| {
            if is_suspect {
                return true;
            }
            let sound = facts.map_or(Sound::Missing, |facts| facts.sound(entry.id, *block));
            matches!(sound, Sound::Damaged | Sound::Missing)
        };
        let is_healed = |block: &u32| self.healed.has(lineage, entry.number, entry.id, *block);
        let named = (0..entry.blocks_named()).filter(|block| entry.is_live(*block));
        named.filter(|block| is_lost(block) && !is_healed(block)).collect()
    }

    /// Is something wrong with its chunk table, or with all of it?
    pub fn is_suspect(&self, place: &Place) -> bool {
        self.suspects.contains(place)
    }

    /// Findings that concern more than a block: `is_healed` says whether all that is needed of an archive is healed.
    pub fn tell_whole(&self, is_healed: impl Fn(&Place) -> bool, report: &mut SourceReport) {
        for (place, what) in &self.whole {
            if is_healed(place) {
                report.healed += 1;
            } else {
                report.find(Name::Archive(place.0, place.1), what);
            }
        }
    }
}

/// An archive's name within its source.
type Place = (Lineage, ArchiveNumber);

/// A finding before it is known whether the part is healed.
type Finding = (Place, Option<u32>, String);

/// What a page names and the vault does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    Missing,
    Other,
    Beyond,
    Absent,
    /// Reported with the archive itself.
    Damaged,
}

impl Lack {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "it is missing, or its index cannot be read",
            Self::Other => "another archive has this number",
            Self::Beyond => "a snapshot names a block that it never had",
            Self::Absent => "a block that a snapshot names is not held any more",
            Self::Damaged => "a block is damaged",
        }
    }
}

impl Verdict {
    fn report(self, report: &mut SourceReport, found: &mut Vec<Finding>) -> Option<((Lineage, ArchiveNumber), Facts)> {
        report.archives += 1;
        report.count(self.bytes);
        let right = self.findings.is_empty();
        found.extend(self.findings.into_iter().map(|(part, what)| (self.name, part, what)));
        if self.read {
            report.archives_read += 1;
            report.archives_open += u64::from(self.open);
            if right && !self.open {
                report.verified.push(self.name);
            }
        } else if self.facts.is_some() {
            report.archives_left_out += 1;
        }
        Some((self.name, self.facts?))
    }
}

struct Task {
    name: (Lineage, ArchiveNumber),
    wanted: Wanted,
}

type Verdicts = BTreeMap<(Lineage, ArchiveNumber), Verdict>;

fn sound(verdicts: &Verdicts, lineage: &Lineage, block: &BlockName) -> Sound {
    let facts = verdicts.get(&(*lineage, block.number)).and_then(|verdict| verdict.facts.as_ref());
    facts.map_or(Sound::Missing, |facts| facts.sound(block.id, block.block))
}

fn judge_all(judged: &Judged, pace: &Pace, tasks: &[Task]) -> Verdicts {
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(Verdicts::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = judge_one(judged, pace, task);
                    verdicts.lock().unwrap_or_else(PoisonError::into_inner).insert(task.name, verdict);
                }
            });
        }
    });
    verdicts.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn judge_one(judged: &Judged, pace: &Pace, task: &Task) -> Verdict {
    let (name, read) = (task.name, task.wanted == Wanted::Read);
    let object = Name::Archive(name.0, name.1);
    let bytes = super::stored_bytes(judged.store, &object);
    let mut verdict = Verdict { name, bytes, facts: None, read: false, open: false, findings: Vec::new() };
    let found = match open_checked(judged.store, &object, &judged.key) {
        Ok(Some(found)) => found,
        Ok(None) => {
            verdict.findings.push((None, "it is missing".into()));
            return verdict;
        }
        Err(e) => {
            verdict.findings.push((None, e.to_string()));
            return verdict;
        }
    };
    let mut damaged = BTreeSet::new();
    if let Err(what) = owned(judged, &found) {
        verdict.findings.push((None, what));
        // Readers refuse such a region, so nobody gets at any block: as if the chunk table were gone.
        damaged.insert(found.index.blocks());
    }
    let places = found.layout.parts(&found.index);
    let absent = (0u32..).zip(&places).filter(|(_, place)| place.is_none()).map(|(part, _)| part).collect();
    if read {
        // What nobody held open when the reading began is read as it will stay.
        verdict.open = lease::has_writer(found.stored.file()) == Some(true);
        for (part, place) in (0u32..).zip(&places) {
            let Some((offset, bytes)) = place else { continue };
            if let Err(what) = part_is_right(&found, &found.index, part, *offset, *bytes, pace) {
                damaged.insert(part);
                verdict.findings.push((Some(part), format!("part {part}: {what}")));
            }
        }
    }
    verdict.read = read;
    let proven = task.wanted == Wanted::Verified || read && !verdict.open;
    let facts = Facts { id: found.layout.region.id(), blocks: found.index.blocks(), absent, damaged, proven };
    verdict.facts = Some(facts);
    verdict
}

fn owned<O>(judged: &Judged, found: &Checked<O>) -> Result<(), String> {
    if found.index.source != judged.id {
        return Err("its index belongs to another source".into());
    }
    found.layout.region.clone().verify(&judged.key).map(drop).map_err(|e| e.to_string())
}

fn part_is_right(
    found: &Checked<<Directory as crate::store::Store>::Stored>,
    index: &Index,
    part: u32,
    offset: u64,
    bytes: u32,
    pace: &Pace,
) -> Result<(), String> {
    let wanted = index.parts.get(part as usize).ok_or("beyond the index")?.hash;
    let mut hasher = blake3::Hasher::new();
    let (mut at, end) = (offset, offset + u64::from(bytes));
    let mut piece = vec![0; PIECE_BYTES.min(bytes as usize)];
    while at < end {
        let length = piece.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        found.stored.read_at(&mut piece[..length], at).map_err(|e| ArchiveError::Store(e).to_string())?;
        hasher.update(&piece[..length]);
        at += length as u64;
        pace.account(length as u64);
    }
    if hasher.finalize().as_bytes() == wanted.as_bytes() {
        Ok(())
    } else {
        Err("its bytes are not those that were signed".into())
    }
}

//! Healing: blocks that a sink found damaged, and that its snapshots still need, are made again from the files and from
//! the local index, and sent to that remote alone. A substitute record says where (docs/format.md, section 14).
//!
//! Blocks keep their places in trees: what was healed is referred to as before, so that old snapshots come back whole
//! and other remotes get nothing twice. What cannot be healed whole is referred to no more: what is still here of it is
//! read and sent again like new data.
//!
//! The list is the sink's word. Whatever it says, a run sends and reads a bounded amount for it, and a block that was
//! healed is healed again only if a later look at the sink found it damaged once more, a few times at most.

mod find;
mod list;

pub use list::ask;

use super::assemble::{Assembly, Ready, content};
use super::compress::Packer;
use super::outcome::shown;
use super::push::Work;
use super::set::Run;
use super::stop::stopped;
use crate::config::Compression;
use crate::index::series::{self, UsesReader};
use crate::index::uses::Spot;
use crate::index::{Index, Lookup, SinkFacts};
use crate::report::{Exit, Failure, Outcome};
use crate::tree::table::TableEntry;
use crossbeam_channel::{RecvTimeoutError, Sender, unbounded};
use find::Want;
use shared::codec::List;
use shared::format::Kind;
use shared::format::owner::{BlockName, Substitute, SubstitutePair};
use shared::id::{ArchiveId, ArchiveNumber, ChunkId};
use shared::limits::{ARCHIVE_CHUNKS_MAX, ARCHIVE_PARTS_MAX};
use shared::signature::sign;
use shared::sys::Clock;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Plaintext that is sought at a time: each file is read once for so much.
const BATCH_BYTES: u64 = 32 << 20;
const BATCH_CHUNKS: usize = 1 << 17;
/// Seconds by the run's clock after which no more is sought and sent for one remote: the others wait for it meanwhile.
const RUN_SECONDS: i64 = 30 * 60;
/// Bytes of files that are read for one remote. What larger files hold is left to the walk, which reads them once for all.
pub const READ_BYTES: u64 = 64 << 30;
/// Blocks that may stand for one, and pairs of one record.
const RIGHTS_MAX: usize = 64;
const PAIRS_MAX: usize = 256;

/// A damaged block.
struct Sick {
    spot: Spot,
    id: ArchiveId,
    kind: Kind,
    /// Its whole archive is not at the sink: nothing new may refer to it anyway.
    missing: bool,
    /// What it holds; `None` if nobody can say it any more.
    chunks: Option<Vec<(ChunkId, u32)>>,
    fate: Fate,
}

/// What became of a damaged block in this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing, or it cannot be made again: nothing new may refer to it.
    Lost,
    Healed,
    /// It may well be made again, in a later run: it is referred to as before.
    PutOff,
}

/// What a remote's sink says is damaged, as far as this run deals with it.
pub struct Damage {
    sick: Vec<Sick>,
    /// All blocks that are said to be damaged, and are not healed.
    listed: HashSet<Spot>,
    /// Blocks that are healed no more, since that did not last.
    given_up: Vec<Spot>,
    /// Blocks that this source knows nothing of.
    unknown: u64,
    /// Blocks left to later runs.
    later: u64,
    /// The sink's clock, and when that was.
    clock: (i64, Instant),
}

/// What a run healed at one remote, in blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Healing {
    pub healed: u64,
    /// Plaintext of those that had to be sent.
    pub bytes: u64,
    /// What they held is not here any more.
    pub lost: u64,
    /// Left to later runs.
    pub later: u64,
}

/// A remote under treatment.
pub struct Patient {
    pub at: usize,
    facts: SinkFacts,
    damage: Damage,
    healing: Healing,
    /// It takes no more records, or had its time.
    closed: bool,
    effort: Effort,
}

/// What is still to be spent on a remote, whatever its list makes us do.
pub struct Effort {
    clock: Arc<dyn Clock>,
    until: i64,
    /// Bytes of files.
    read_left: u64,
}

impl Effort {
    fn new(run: &Run) -> Self {
        let clock = Arc::clone(&run.env.clock);
        let until = clock.now().saturating_add(RUN_SECONDS);
        Self { clock, until, read_left: run.env.heal_read_bytes }
    }
    fn is_over(&self) -> bool {
        self.clock.now() >= self.until
    }
}

impl Patient {
    pub fn new(at: usize, facts: SinkFacts, damage: Damage, clock: &Arc<dyn Clock>) -> Self {
        let effort = Effort { clock: Arc::clone(clock), until: i64::MAX, read_left: 0 };
        Self { at, facts, damage, healing: Healing::default(), closed: false, effort }
    }

    /// What was done, for the report.
    pub fn healing(&self) -> Healing {
        let of = |fate| self.damage.sick.iter().filter(|sick| sick.fate == fate).count() as u64;
        let lost = of(Fate::Lost) + self.damage.given_up.len() as u64 + self.damage.unknown;
        Healing { lost, later: self.damage.later + of(Fate::PutOff), ..self.healing }
    }

    /// Blocks that nothing new may refer to.
    pub fn lost(&self) -> impl Iterator<Item = Spot> {
        let sick = self.damage.sick.iter().filter(|sick| sick.fate == Fate::Lost && !sick.missing);
        sick.map(|sick| sick.spot).chain(self.damage.given_up.iter().copied())
    }

    /// What was not healed of these is left to later runs.
    fn put_off(&mut self, blocks: &[usize]) {
        for at in blocks {
            if let Some(sick) = self.damage.sick.get_mut(*at).filter(|sick| sick.fate == Fate::Lost) {
                sick.fate = Fate::PutOff;
            }
        }
    }

    fn sick(&self, at: usize) -> Outcome<&Sick> {
        self.damage.sick.get(at).ok_or_else(|| crate::index::Corrupt.into())
    }
}

/// Where else the chunks of damaged blocks lie at a sink, by the index.
struct Elsewhere {
    lookup: Lookup,
    present: HashSet<u64>,
    /// Blocks that were damaged once: others stand for them.
    healed: HashSet<Spot>,
    /// What the last snapshots refer to. Of an archive that is there other blocks may have been freed, unannounced
    /// (docs/decisions/0013-freed-blocks-are-not-announced.md).
    used: Vec<UsesReader>,
}

impl Elsewhere {
    fn new(index: &Index, facts: &SinkFacts, cache_dir: &Path) -> Outcome<Self> {
        let healed = index.healed(facts)?.into_keys().collect();
        let used = series::all(cache_dir).iter().map(|path| UsesReader::open(path)).collect::<Outcome<_>>()?;
        Ok(Self { lookup: index.lookup()?, present: index.present(facts)?, healed, used })
    }

    fn find(&self, damage: &Damage, id: &ChunkId) -> Outcome<Option<Spot>> {
        let sound = |spot: &Spot| {
            self.present.contains(&spot.archive) && !damage.listed.contains(spot) && !self.healed.contains(spot)
        };
        let Some(spot) = self.lookup.find(id)?.filter(sound) else { return Ok(None) };
        for used in &self.used {
            if used.has(spot)? {
                return Ok(Some(spot));
            }
        }
        Ok(None)
    }
}

/// Before anything is walked: makes damaged blocks again from the last snapshots' files and directories.
pub fn before(run: &Run, patients: &mut [Patient], compression: Compression) -> Outcome<()> {
    for patient in patients {
        patient.effort = Effort::new(run);
        let elsewhere = Elsewhere::new(&run.env.index, &patient.facts, &run.env.cache_dir)?;
        for batch in batches(&patient.damage.sick) {
            if patient.closed {
                patient.put_off(&batch);
                continue;
            }
            heal(run, patient, &elsewhere, &batch, compression)?;
        }
    }
    Ok(())
}

/// Blocks to be sought together. What a wholly missing archive held of files the walk sends again by itself.
fn batches(sick: &[Sick]) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let (mut bytes, mut count) = (0u64, 0usize);
    for (at, block) in sick.iter().enumerate() {
        let Some(chunks) = &block.chunks else { continue };
        if block.missing && block.kind == Kind::Data {
            continue;
        }
        let more: u64 = chunks.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
        if batches.is_empty() || bytes + more > BATCH_BYTES || count + chunks.len() > BATCH_CHUNKS {
            batches.push(Vec::new());
            (bytes, count) = (0, 0);
        }
        (bytes, count) = (bytes + more, count + chunks.len());
        if let Some(batch) = batches.last_mut() {
            batch.push(at);
        }
    }
    batches
}

/// Heals what can be healed of these blocks.
fn heal(
    run: &Run,
    patient: &mut Patient,
    elsewhere: &Elsewhere,
    batch: &[usize],
    compression: Compression,
) -> Outcome<()> {
    let mut want = Want::default();
    let mut rights: HashMap<usize, BTreeSet<Spot>> = HashMap::new();
    for at in batch {
        let sick = patient.sick(*at)?;
        for (id, _) in sick.chunks.iter().flatten() {
            match elsewhere.find(&patient.damage, id)? {
                Some(spot) => drop(rights.entry(*at).or_default().insert(spot)),
                None => want.add(*id),
            }
        }
    }
    let spots: HashSet<Spot> = batch.iter().filter_map(|at| Some(patient.damage.sick.get(*at)?.spot)).collect();
    find::collect(run, &spots, &mut want, &mut patient.effort)?;
    if patient.effort.is_over() {
        let name = run.env.remotes[patient.at].dial.name();
        (run.env.warned)(&format!("{name}: healing takes long: the rest is left to later runs"));
        patient.closed = true;
        patient.put_off(batch);
        return Ok(());
    }
    let mut names = wholly_found(run, patient, batch, &want, &rights)?;
    let whole: Vec<usize> = batch.iter().copied().filter(|at| names.contains_key(at)).collect();
    for kind in [Kind::Data, Kind::Metadata] {
        let of_kind = |at: &usize| patient.damage.sick.get(*at).is_some_and(|sick| sick.kind == kind);
        let blocks: Vec<usize> = whole.iter().copied().filter(of_kind).collect();
        if patient.closed {
            break;
        }
        let mut packer = Packer::new(compression)?;
        repeat(run, patient, &want, &blocks, kind, &mut packer, &mut names)?;
    }
    // All of these lies elsewhere already.
    if !patient.closed {
        record(run, patient, names)?;
    }
    if patient.closed {
        // They came out whole, and laying them anew for all remotes would take more room yet.
        patient.put_off(&whole);
    }
    Ok(())
}

/// Those of these blocks of which everything was found and a record can say where; with the others that hold some of
/// it already.
fn wholly_found(
    run: &Run,
    patient: &Patient,
    batch: &[usize],
    want: &Want,
    rights: &HashMap<usize, BTreeSet<Spot>>,
) -> Outcome<Names> {
    let mut names = Names::new();
    for at in batch {
        let (sick, others) = (patient.sick(*at)?, rights.get(at));
        let mut chunks = sick.chunks.iter().flatten();
        let is_whole = chunks.clone().all(|(id, _)| want.is_here(id));
        let needs_own = chunks.any(|(id, _)| want.content(id).is_some());
        // What no record can say need not be sent.
        if is_whole
            && others.map_or(0, BTreeSet::len) + usize::from(needs_own) <= RIGHTS_MAX
            && let Some(others) = named(&run.env.index, others.into_iter().flatten())?
        {
            names.insert(*at, others);
        }
    }
    Ok(names)
}

/// The blocks by their names; `None` if the index does not know an archive of them: a record would not be true.
fn named<'s>(index: &Index, spots: impl Iterator<Item = &'s Spot>) -> Outcome<Option<Vec<BlockName>>> {
    let mut names = Vec::new();
    for spot in spots {
        let (Some(id), Ok(number)) = (index.archive_id(spot.archive)?, ArchiveNumber::new(spot.archive)) else {
            return Ok(None);
        };
        names.push(BlockName { number, id, block: spot.block });
    }
    Ok(Some(names))
}

/// What stands for blocks, by their places among the sick.
type Names = HashMap<usize, Vec<BlockName>>;

/// An archive of repeated blocks as it fills.
struct Repeating {
    assembly: Assembly,
    /// Of each block: its place among the sick, and its plaintext bytes.
    blocks: Vec<(usize, u64)>,
    chunks: usize,
}

impl Repeating {
    fn has_room(&self, run: &Run, bytes: usize, chunks: usize) -> bool {
        let most = run.env.archive_bytes.min(super::lay::ARCHIVE_BYTES_TARGET);
        self.assembly.bytes() + bytes as u64 <= most
            && self.blocks.len() + 2 < ARCHIVE_PARTS_MAX
            && self.chunks + chunks <= ARCHIVE_CHUNKS_MAX
    }

    /// Finishes the archive, hands it to the one remote that lacks its content, and records what it stands for: one
    /// that is refused leaves none behind without a record.
    fn close(self, run: &Run, patient: &mut Patient, names: &mut Names) -> Outcome<()> {
        self.assembly.close(self.blocks.len() as u32);
        let ready: Ready = run.sealer.finish(&self.assembly)?;
        let (number, id) = (ready.number, ready.id);
        if let Some(work) = sender(run, patient.at) {
            // A remote that has left takes nothing.
            let _ = work.send(Work::Archive(Arc::new(ready)));
        }
        let mut own = Names::new();
        for (block, (at, bytes)) in (0u32..).zip(self.blocks) {
            let mut rights = names.remove(&at).unwrap_or_default();
            rights.push(BlockName { number, id, block });
            own.insert(at, rights);
            patient.healing.bytes += bytes;
        }
        record(run, patient, own)
    }
}

/// Lays, seals and sends these blocks again, each as a block of its own, and records them. Leaves in `names` what needs
/// no block of its own.
fn repeat(
    run: &Run,
    patient: &mut Patient,
    want: &Want,
    blocks: &[usize],
    kind: Kind,
    packer: &mut Packer,
    names: &mut Names,
) -> Outcome<()> {
    let mut open: Option<Repeating> = None;
    for at in blocks {
        let (mut plain, mut entries) = (run.sealer.flights.buffers.take(), Vec::new());
        for (id, _) in patient.sick(*at)?.chunks.iter().flatten() {
            if let Some(content) = want.content(id) {
                plain.extend_from_slice(content);
                // As long as it is, whatever the index said.
                let bytes = u32::try_from(content.len()).map_err(|_| crate::index::Corrupt)?;
                entries.push(TableEntry { id: *id, bytes });
            }
        }
        // All of it lies elsewhere already.
        if entries.is_empty() {
            continue;
        }
        let bytes = content(&plain).len();
        if let Some(full) = open.take_if(|open| !open.has_room(run, bytes, entries.len())) {
            full.close(run, patient, names)?;
            if patient.closed {
                return Ok(());
            }
        }
        let permit = run.budget.acquire(bytes as u64).ok_or_else(stopped)?;
        let filling = match &mut open {
            Some(open) => open,
            none => {
                let assembly = Assembly::healing(run.numbers.lock().take()?, kind);
                none.insert(Repeating { assembly, blocks: Vec::new(), chunks: 0 })
            }
        };
        let block = filling.blocks.len() as u32;
        filling.assembly.grow(bytes as u64);
        filling.chunks += entries.len();
        filling.blocks.push((*at, bytes as u64));
        run.sealer.seal_block(packer, &filling.assembly, block, plain, entries, Some(permit))?;
    }
    if let Some(last) = open {
        last.close(run, patient, names)?;
    }
    Ok(())
}

fn sender<'r>(run: &'r Run, at: usize) -> Option<&'r Sender<Work>> {
    run.work.iter().find(|(remote, _)| *remote == at).map(|(_, work)| work)
}

/// Signs and sends what stands for which block, and remembers what the sink has taken.
fn record(run: &Run, patient: &mut Patient, names: Names) -> Outcome<()> {
    let mut all: Vec<(usize, Vec<BlockName>)> =
        names.into_iter().filter(|(_, rights)| (1..=RIGHTS_MAX).contains(&rights.len())).collect();
    all.sort_unstable_by_key(|(at, _)| *at);
    let failed = |e: shared::codec::FormatError| Failure::new("substitute", Exit::Failed, e.to_string());
    for part in all.chunks(PAIRS_MAX) {
        let mut pairs = Vec::with_capacity(part.len());
        for (at, rights) in part {
            let sick = patient.sick(*at)?;
            let number = ArchiveNumber::new(sick.spot.archive).map_err(|_| crate::index::Corrupt)?;
            let left = BlockName { number, id: sick.id, block: sick.spot.block };
            pairs.push(SubstitutePair { left, right: List::new(rights.clone()).map_err(failed)? });
        }
        let (source, lineage) = (run.env.source, run.env.lineage);
        let record = Substitute { source, lineage, pairs: List::new(pairs).map_err(failed)? };
        let record = sign(record, &run.env.signing).map_err(failed)?;
        if !send(run, patient, record)? {
            patient.closed = true;
            return Ok(());
        }
        let (clock, since) = patient.damage.clock;
        let now = clock.saturating_add(i64::try_from(since.elapsed().as_secs() + 1).unwrap_or(i64::MAX));
        let spots = part.iter().filter_map(|(at, _)| Some(patient.damage.sick.get(*at)?.spot));
        run.env.index.note_healed(&patient.facts, spots, now)?;
        for (at, _) in part {
            if let Some(sick) = patient.damage.sick.get_mut(*at) {
                sick.fate = Fate::Healed;
                patient.damage.listed.remove(&sick.spot);
                patient.healing.healed += 1;
            }
        }
    }
    Ok(())
}

/// Sends a record behind the archives that it names; false if the remote does not take it.
fn send(run: &Run, patient: &Patient, record: shared::signature::Verified<Substitute>) -> Outcome<bool> {
    let Some(work) = sender(run, patient.at) else { return Ok(false) };
    let (reply, replies) = unbounded();
    // A remote that has left answers nothing.
    let _ = work.send(Work::Substitute(Arc::new(record), reply));
    loop {
        match replies.recv_timeout(Duration::from_millis(200)) {
            Ok(Ok(())) => return Ok(true),
            Ok(Err(failure)) => {
                let name = run.env.remotes[patient.at].dial.name();
                (run.env.warned)(&format!("{name}: nothing more is healed: {}", shown(failure.message.as_bytes())));
                return Ok(false);
            }
            // A sink that takes it ever so slowly must not hold up the others.
            Err(RecvTimeoutError::Timeout) if patient.effort.is_over() => return Ok(false),
            Err(RecvTimeoutError::Timeout) => run.stop.check()?,
            // It has ended, and says why by itself.
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
        }
    }
}

/// After all sets were committed: blocks whose chunks lie elsewhere by now, sent again as new data.
pub fn after(run: &Run, patients: &mut [Patient]) -> Outcome<()> {
    for patient in patients.iter_mut().filter(|patient| !patient.closed) {
        patient.effort = Effort::new(run);
        let elsewhere = Elsewhere::new(&run.env.index, &patient.facts, &run.env.cache_dir)?;
        let mut names = Names::new();
        for (at, sick) in patient.damage.sick.iter().enumerate().filter(|(_, sick)| sick.fate != Fate::Healed) {
            let Some(chunks) = &sick.chunks else { continue };
            let mut spots = BTreeSet::new();
            let mut whole = true;
            for (id, _) in chunks {
                match elsewhere.find(&patient.damage, id)? {
                    Some(spot) => drop(spots.insert(spot)),
                    None => whole = false,
                }
                if !whole || spots.len() > RIGHTS_MAX {
                    break;
                }
            }
            if whole && let Some(rights) = named(&run.env.index, spots.iter())? {
                names.insert(at, rights);
            }
        }
        record(run, patient, names)?;
    }
    Ok(())
}

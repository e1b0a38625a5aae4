//! Checks of what a sink holds: structure without keys, every chunk with them.

mod named;

pub use named::Named;

use crate::progress::Progress;
use crate::report::{Exit, Failure, Outcome};
use crate::restore::data::local_failure;
use crate::restore::findings::Findings;
use crate::restore::objects::{Got, PartsWanted, is_lost, tampered};
use crate::restore::reader::{OpenArchive, Reader, open_block};
use crate::restore::view::Snapshot;
use crate::restore::walk::{Extents, Step, Walk};
use crate::restore::{WALK_READ_AHEAD, open, ordered};
use crate::tree::{ChunkRef, Entry, EntryKind, Extent};
use crossbeam_channel::bounded;
use parking_lot::Mutex;
use shared::bits;
use shared::id::{ArchiveId, ArchiveNumber, ChunkId};
use shared::text::printable;
use shared::wire::Damage;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// Ids that are remembered of nodes that were walked, and places of chunks that are bad there.
const IDS_MAX: usize = 1 << 20;
/// Threads that open blocks.
const WORKERS_MAX: usize = 8;

/// Which share of the data is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Share {
    /// A random part, in percent.
    Percent(f64),
    /// The n-th of t slices, by archive number.
    Slice(u64, u64),
}

impl std::str::FromStr for Share {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write a percentage (5%) or a slice (2/7)".to_owned();
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| wrong())?;
            return if percent > 0.0 && percent <= 100.0 { Ok(Self::Percent(percent)) } else { Err(wrong()) };
        }
        let (n, t) = text.split_once('/').ok_or_else(wrong)?;
        let (n, t): (u64, u64) = (n.parse().map_err(|_| wrong())?, t.parse().map_err(|_| wrong())?);
        if n == 0 || n > t { Err(wrong()) } else { Ok(Self::Slice(n, t)) }
    }
}

impl Share {
    fn takes(self, number: u64) -> bool {
        match self {
            Self::Percent(percent) => {
                let draw = u64::from_le_bytes(shared::sys::random());
                percent >= 100.0 || (draw as f64 / u64::MAX as f64) * 100.0 < percent
            }
            Self::Slice(n, t) => number % t == n - 1,
        }
    }
}

/// Chunks that cannot be had at a place, or lie about their id there.
#[derive(Debug, Default)]
pub struct Bad {
    /// Chunk, archive and block.
    places: HashSet<(ChunkId, u64, u32)>,
    /// Where the data was read: blocks that stand for others and could be opened. No page need name them (F-30).
    opened: Option<HashSet<(ArchiveId, u32)>>,
    pub blocks: u64,
    pub chunks: u64,
}

impl Bad {
    fn add(&mut self, id: ChunkId, archive: ArchiveNumber, block: u32) {
        if self.places.len() < IDS_MAX {
            self.places.insert((id, archive.get(), block));
        }
    }

    /// Is what an archive lists for this block to be believed? Not before it was read, if the data was.
    fn may_hold(&self, reader: &mut Reader<'_>, open: &OpenArchive, block: u32) -> Outcome<bool> {
        let Some(opened) = &self.opened else { return Ok(true) };
        Ok(opened.contains(&(open.id(), block)) || reader.is_live(open.archive.name.number, block)?)
    }
}

struct Job {
    open: Arc<OpenArchive>,
    block: u32,
    sealed: Vec<u8>,
}

/// Reads the live blocks of the named archives: every hash, every seal, every chunk id. Blocks that stand for these are
/// read too, whatever the share: who signed that they do may have lied about what is in them.
pub fn read_data(reader: &mut Reader<'_>, named: &Named, share: Share, progress: &Progress) -> Outcome<Bad> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, WORKERS_MAX);
    let bad = Mutex::new(Bad { opened: Some(HashSet::new()), ..Bad::default() });
    let findings = Mutex::new(Findings::default());
    let broken = Mutex::new(AllBroken::default());
    let namer = reader.namer.clone();
    reader.also_name(named.archives.iter().map(|(number, (id, _))| (*number, *id)).collect());
    let rights = reader.substitutes()?.rights(|number, id, block| named.is_live(number, id, block));
    let (sender, receiver) = bounded::<Job>(workers + 2);
    let done = std::thread::scope(|scope| {
        for _ in 0..workers {
            let (receiver, namer, bad, findings, broken) = (receiver.clone(), namer.clone(), &bad, &findings, &broken);
            let rights = &rights;
            scope.spawn(move || {
                for Job { open, block, sealed } in receiver.iter() {
                    let number = open.archive.name.number;
                    progress.add(sealed.len() as u64);
                    match open_block(&open, block, sealed) {
                        Ok(opened) => {
                            if rights.get(&number.get()).is_some_and(|blocks| blocks.contains(&block)) {
                                bad.lock().opened.get_or_insert_default().insert((open.id(), block));
                            }
                            for (id, content) in opened.chunks() {
                                bad.lock().chunks += 1;
                                if !open::is_chunk(&namer, id, content) {
                                    findings.lock().poisoned(id, number, block);
                                    bad.lock().add(*id, number, block);
                                }
                            }
                        }
                        Err(failure) => broken.lock().add(&open, block, failure),
                    }
                }
            });
        }
        drop(receiver);
        let done = fetch_all(reader, named, share, &rights, &sender, &bad, &broken);
        drop(sender);
        done
    });
    reader.findings.append(findings.into_inner());
    done?;
    let mut bad = bad.into_inner();
    let AllBroken { first: mut broken, more } = broken.into_inner();
    if more > 0 {
        let line = format!("{more} further blocks are damaged; which files they are part of was not looked up");
        reader.findings.other(line);
    }
    broken.sort_unstable_by_key(|broken| (broken.number, broken.block));
    for Broken { number, id, block, why } in broken {
        // What only stands for others lacks where these lack.
        if !named.is_live(number.get(), &id, block) {
            continue;
        }
        let open = reader.archive(number)?;
        let listed = open.as_ref().and_then(|open| open.table.blocks.get(block as usize));
        let chunks: Option<Vec<ChunkId>> = listed.map(|chunks| chunks.iter().map(|entry| entry.id).collect());
        if !reader.is_healed(number, &id, block, chunks.clone())? {
            reader.findings.block(number, block, tampered("part", why));
            chunks.into_iter().flatten().for_each(|id| bad.add(id, number, block));
        }
    }
    Ok(bad)
}

/// Broken blocks that are looked into one by one, whatever a sink spoils.
const BROKEN_MAX: usize = 200_000;

/// Blocks that cannot be had whole from their places.
#[derive(Default)]
struct AllBroken {
    first: Vec<Broken>,
    more: u64,
}

struct Broken {
    number: ArchiveNumber,
    id: ArchiveId,
    block: u32,
    why: Box<str>,
}

impl AllBroken {
    fn add(&mut self, open: &OpenArchive, block: u32, failure: Failure) {
        if self.first.len() == BROKEN_MAX {
            self.more += 1;
            return;
        }
        let (number, why) = (open.archive.name.number, failure.message.into());
        self.first.push(Broken { number, id: open.id(), block, why });
    }
}

fn fetch_all(
    reader: &mut Reader<'_>,
    named: &Named,
    share: Share,
    rights: &BTreeMap<u64, BTreeSet<u32>>,
    jobs: &crossbeam_channel::Sender<Job>,
    bad: &Mutex<Bad>,
    broken: &Mutex<AllBroken>,
) -> Outcome<()> {
    let numbers: BTreeSet<u64> = named.archives.keys().chain(rights.keys()).copied().collect();
    for number in numbers {
        crate::cli::check_interrupted()?;
        let taken = named.archives.get(&number).filter(|_| share.takes(number));
        let rights = rights.get(&number);
        let Ok(number) = ArchiveNumber::new(number) else { continue };
        if taken.is_none() && rights.is_none() {
            continue;
        }
        let before = std::mem::take(&mut reader.findings);
        let open = reader.archive(number)?;
        let lost = std::mem::replace(&mut reader.findings, before);
        let Some(open) = open else {
            if let Some((id, live)) = taken
                && !reader.all_healed(number, id, live)?
            {
                if lost.is_empty() {
                    // It is said to be elsewhere too: nothing was noted yet.
                    let why = reader.why_failed(number).cloned().unwrap_or_else(|| "it cannot be opened".into());
                    reader.findings.archive(number, tampered("archive", why));
                }
                reader.findings.append(lost);
            }
            continue;
        };
        reader.findings.append(lost);
        let is_wanted = |block: &u32| {
            taken.is_some_and(|(_, live)| bits::is_set(live, *block as usize))
                || rights.is_some_and(|rights| rights.contains(block))
        };
        let parts: Vec<u32> = (0..open.archive.index.blocks()).filter(is_wanted).collect();
        bad.lock().blocks += parts.len() as u64;
        let missing = fetch(reader, &open, parts, jobs)?.0;
        for block in missing {
            let (still, why) = fetch(reader, &open, vec![block], jobs)?;
            if !still.is_empty() {
                let failure = why.unwrap_or_else(|| tampered("part", "the sink did not send it"));
                broken.lock().add(&open, block, failure);
            }
        }
    }
    Ok(())
}

/// Asks for parts; returns those that did not come, and why.
fn fetch(
    reader: &mut Reader<'_>,
    open: &Arc<OpenArchive>,
    parts: Vec<u32>,
    jobs: &crossbeam_channel::Sender<Job>,
) -> Outcome<(Vec<u32>, Option<Failure>)> {
    let mut missing = parts.clone();
    let mut why = None;
    if parts.is_empty() {
        return Ok((missing, why));
    }
    reader.sink.parts(&[PartsWanted { archive: Arc::clone(&open.archive), parts }], &mut |_, got| {
        match got {
            Got::Part(block, sealed) => {
                missing.retain(|wanted| *wanted != block);
                let job = Job { open: Arc::clone(open), block, sealed };
                jobs.send(job).map_err(|_| Failure::new("internal", Exit::Failed, "the checking threads ended"))?;
            }
            Got::Ended(failure) => why = Some(failure),
        }
        Ok(())
    })?;
    Ok((missing, why))
}

/// A file that needs something that is not there or is bad.
#[derive(Debug)]
pub struct Affected {
    pub path: Vec<u8>,
    pub why: String,
}

/// Walks a snapshot: every directory can be read, every chunk that a file needs is listed by an archive that the
/// snapshot names, and is not bad. Directories with a node in `seen` were walked before.
pub fn tree(
    reader: &mut Reader<'_>,
    bad: &Bad,
    seen: &mut HashSet<ChunkId>,
    affected: &mut dyn FnMut(Affected),
    progress: &Progress,
) -> Outcome<()> {
    reader.read_ahead = WALK_READ_AHEAD;
    if !seen.insert(reader.root.top.chunk.id) {
        return Ok(());
    }
    let mut walk = Walk::new(reader, reader.root.top);
    while let Some(step) = walk.next_of(reader, &|node| !seen.contains(&node.chunk.id))? {
        match step {
            Step::Entry(entry) => {
                progress.files(1);
                let known = entry.node.is_some_and(|node| !remember(seen, node.chunk.id));
                if !known {
                    walk.enter(&entry)?;
                }
                if entry.kind == EntryKind::File
                    && let Some(why) = file(reader, &entry, bad)?
                {
                    affected(Affected { path: walk.path_of(&entry.name), why });
                }
            }
            Step::Lost(failure) => {
                affected(Affected { path: [&walk.path()[..], b"/"].concat(), why: failure.message });
            }
            Step::End => {}
        }
    }
    Ok(())
}

/// Says whether the node is new.
fn remember(seen: &mut HashSet<ChunkId>, id: ChunkId) -> bool {
    if seen.len() >= IDS_MAX { !seen.contains(&id) } else { seen.insert(id) }
}

/// Why a file cannot be restored whole from what is known, if so.
fn file(reader: &mut Reader<'_>, entry: &Entry, bad: &Bad) -> Outcome<Option<String>> {
    let mut extents = Extents::new(entry);
    loop {
        match extents.next(reader) {
            Ok(None) => return Ok(None),
            Ok(Some((_, Extent::Hole(_)))) => {}
            Ok(Some((_, Extent::Chunk(chunk)))) => {
                if let Listed::No { any_bad } = listed(reader, &chunk, bad)? {
                    let why = match any_bad {
                        true => "is damaged or poisoned",
                        false => "no archive of the snapshot holds",
                    };
                    return Ok(Some(format!("needs chunk {}, which {why}", chunk.id)));
                }
            }
            Err(failure) if is_lost(&failure) => return Ok(Some(failure.message)),
            Err(failure) => return Err(failure),
        }
    }
}

/// Does an archive list a chunk, at a place where it is not known to be bad?
enum Listed {
    Yes,
    No { any_bad: bool },
}

/// Looks at every candidate that a restore would try.
fn listed(reader: &mut Reader<'_>, chunk: &ChunkRef, bad: &Bad) -> Outcome<Listed> {
    let mut any_bad = false;
    let near = reader.near(chunk)?;
    if is_listed_at(reader, chunk, bad, near, &mut any_bad)? {
        return Ok(Listed::Yes);
    }
    let everywhere = reader.everywhere(&chunk.id)?;
    let found = is_listed_at(reader, chunk, bad, everywhere, &mut any_bad)?;
    Ok(if found { Listed::Yes } else { Listed::No { any_bad } })
}

fn is_listed_at(
    reader: &mut Reader<'_>,
    chunk: &ChunkRef,
    bad: &Bad,
    places: Vec<(u64, u32)>,
    any_bad: &mut bool,
) -> Outcome<bool> {
    for (archive, block) in places {
        let Ok(number) = ArchiveNumber::new(archive) else { continue };
        if bad.places.contains(&(chunk.id, archive, block)) {
            *any_bad = true;
            continue;
        }
        let Some(open) = reader.archive(number)? else { continue };
        let listed = open.table.blocks.get(block as usize);
        if listed.is_some_and(|chunks| chunks.iter().any(|entry| entry.id == chunk.id && entry.bytes == chunk.bytes))
            && bad.may_hold(reader, &open, block)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads one snapshot as a whole: structure, data, tree.
pub fn whole(reader: &mut Reader<'_>, snapshot: &Snapshot, progress: &Progress) -> Outcome<Findings> {
    let mut findings = Findings::default();
    if snapshot.content != Damage::Present {
        findings.other(format!("snapshot {}: its content is not there any more", snapshot.id().short()));
        return Ok(findings);
    }
    let mut named = Named::default();
    named.snapshots(reader.sink, &[snapshot], &mut findings)?;
    let bad = read_data(reader, &named, Share::Percent(100.0), progress)?;
    let mut lines = Vec::new();
    tree(
        reader,
        &bad,
        &mut HashSet::new(),
        &mut |affected| {
            if lines.len() < 1000 {
                lines.push(format!("{}: {}", printable(&affected.path, 8192), affected.why));
            }
        },
        progress,
    )?;
    lines.into_iter().for_each(|line| findings.other(line));
    findings.append(std::mem::take(&mut reader.findings));
    Ok(findings)
}

/// Reads random files of a snapshot as a restore would, into nothing but a count. Returns the files read.
pub fn restore_test(
    reader: &mut Reader<'_>,
    files: usize,
    progress: &Progress,
    failed: &mut dyn FnMut(Affected),
) -> Outcome<u64> {
    reader.read_ahead = WALK_READ_AHEAD;
    let mut sample: Vec<(Vec<u8>, Entry)> = Vec::new();
    let mut seen = 0u64;
    let mut walk = Walk::new(reader, reader.root.top);
    while let Some(step) = walk.next(reader)? {
        match step {
            Step::Entry(entry) => {
                if entry.kind == EntryKind::File && files > 0 {
                    seen += 1;
                    let at = usize::try_from(u64::from_le_bytes(shared::sys::random()) % seen).unwrap_or(usize::MAX);
                    let path = walk.path_of(&entry.name);
                    if sample.len() < files {
                        sample.push((path, *entry.clone()));
                    } else if at < files {
                        sample[at] = (path, *entry.clone());
                    }
                }
                walk.enter(&entry)?;
            }
            Step::Lost(failure) => failed(Affected { path: walk.path(), why: failure.message }),
            Step::End => {}
        }
    }
    let mut whole = 0;
    for (path, entry) in sample {
        let mut count = Count { bytes: 0, progress };
        match ordered::content(reader, &entry, &mut count) {
            Ok(()) if count.bytes == entry.size => whole += 1,
            Ok(()) => failed(Affected { path, why: format!("{} bytes instead of {}", count.bytes, entry.size) }),
            Err(failure) if is_lost(&failure) => failed(Affected { path, why: failure.message }),
            Err(failure) => return Err(failure),
        }
    }
    Ok(whole)
}

struct Count<'p> {
    bytes: u64,
    progress: &'p Progress,
}

impl std::io::Write for Count<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes += bytes.len() as u64;
        self.progress.add(bytes.len() as u64);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Notes when files were restored for a test last, for `status`.
pub fn note_restore_test(state_dir: &std::path::Path, now: i64) -> Outcome<()> {
    let path = state_dir.join("restore-test");
    shared::sys::durable::replace(&path, format!("{now}\n").as_bytes(), shared::sys::durable::PRIVATE)
        .map_err(|e| local_failure(&e, "note the restore test").unwrap_or_else(|fatal| fatal))
}

//! Content: each wanted block is fetched once in storage order, checked and opened on worker threads, and its chunks
//! are written where the plan wants them. A file gets its metadata and name with its last chunk. What fails is sought
//! elsewhere, in further rounds.

use crate::backup::budget::{Budget, Permit};
use crate::crypto::secret::ChunkNamer;
use crate::progress::Progress;
use crate::report::{Exit, Failure, Outcome};
use crate::restore::findings::Findings;
use crate::restore::metadata::Setter;
use crate::restore::objects::{Got, PartsWanted, tampered};
use crate::restore::open::is_chunk;
use crate::restore::plan::{DirId, FailedWant, FileId, Plan, Want, entry_of};
use crate::restore::reader::{OpenArchive, Reader, open_block};
use crate::restore::report::LostList;
use crate::restore::substitutes::Substitutes;
use crate::restore::write::{OpenDir, Overwrite, Target};
use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;
use shared::id::{ArchiveNumber, ChunkId};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Archives that are asked for in one row: their number at first, so that the threads soon have work; their number at
/// most; and the memory that their indexes and chunk tables take.
const ARCHIVES_AT_FIRST: usize = 2;
const ARCHIVES_AHEAD: usize = 32;
const TABLES_AHEAD_BYTES: usize = 32 << 20;
/// A chunk is sought in so many places at most.
const ROUNDS_MAX: u32 = 70;
/// Worker threads at most: each holds an opened block of up to 8 MiB beside the sealed one.
const WORKERS_MAX: usize = 8;
/// Sealed bytes that wait for a thread or are being opened, so that the connection is read on while files are made.
const SEALED_BYTES: u64 = 64 << 20;

/// A block as it came.
struct Job {
    open: Arc<OpenArchive>,
    block: u32,
    sealed: Vec<u8>,
    /// Its share of [`SEALED_BYTES`], given back when it is done.
    _permit: Permit,
}

/// Where content goes, and how.
pub struct Writing<'s> {
    pub plan: &'s Mutex<Plan>,
    pub target: &'s Target,
    pub set: &'s Setter,
    pub overwrite: Overwrite,
    /// A file gets its name as soon as it is whole.
    pub name_at_once: bool,
    pub base: &'s [u8],
    pub lost: &'s LostList,
    pub progress: &'s Progress,
}

/// What all threads of the stage share.
struct Stage<'s> {
    to: &'s Writing<'s>,
    plan: &'s Mutex<Plan>,
    namer: ChunkNamer,
    round: u32,
    /// Files that got their names.
    files: &'s AtomicU64,
    sealed: Arc<Budget>,
    findings: Mutex<Findings>,
    substitutes: Arc<Substitutes>,
    /// Ends the restore: a full disk, a broken temporary database.
    fatal: Mutex<Option<Failure>>,
}

/// Writes all content that the plan wants; files for which that is impossible are marked lost. Returns how many files
/// have their names.
pub fn write_content(reader: &mut Reader<'_>, to: &Writing<'_>) -> Outcome<u64> {
    reader.forget_blocks();
    to.plan.lock().ready()?;
    let files = AtomicU64::new(0);
    for round in 0..ROUNDS_MAX {
        let stage = Stage {
            to,
            plan: to.plan,
            namer: reader.namer.clone(),
            round,
            files: &files,
            sealed: Budget::new(SEALED_BYTES),
            findings: Mutex::new(Findings::default()),
            substitutes: reader.substitutes()?,
            fatal: Mutex::new(None),
        };
        let done = stage.run(reader);
        let Stage { findings, fatal, .. } = stage;
        reader.findings.append(findings.into_inner());
        if let Some(failure) = fatal.into_inner() {
            return Err(failure);
        }
        done?;
        if !relocate(reader, to.plan, to.base, to.lost, round + 1)? {
            break;
        }
    }
    Ok(files.into_inner())
}

/// Gives each failed want the next place to try; a file with a want that has none is lost. Says whether there is
/// another round.
fn relocate(reader: &mut Reader<'_>, plan: &Mutex<Plan>, base: &[u8], lost: &LostList, round: u32) -> Outcome<bool> {
    let mut again = false;
    loop {
        let failed = plan.lock().take_failed()?;
        if failed.is_empty() {
            return Ok(again);
        }
        for FailedWant { row, chunk, tried, file } in failed {
            crate::cli::check_interrupted()?;
            plan.lock().try_once(&chunk.id, tried)?;
            let mut places = reader.near(&chunk)?;
            places.extend(reader.everywhere(&chunk.id)?);
            let mut next = None;
            for place in places {
                if round < ROUNDS_MAX && !plan.lock().was_tried(&chunk.id, place)? {
                    next = Some(place);
                    break;
                }
            }
            match next {
                Some(place) => {
                    plan.lock().move_want(row, place, round)?;
                    again = true;
                }
                None => lose(&mut plan.lock(), file, base, lost, &lost_chunk(&chunk.id, chunk.archive, chunk.block))?,
            }
        }
    }
}

fn lost_chunk(id: &ChunkId, archive: ArchiveNumber, block: u32) -> Failure {
    let place = format!("archive {archive}, block {block}");
    tampered("chunk", format!("chunk {} cannot be had whole (it should be in {place})", id.short()))
}

/// Marks a file lost, once.
pub fn lose(plan: &mut Plan, file: i64, base: &[u8], lost: &LostList, failure: &Failure) -> Outcome<()> {
    if plan.set_lost(file)?
        && let Some(path) = path_of(plan, file, base)?
    {
        lost.add(path, failure);
    }
    Ok(())
}

/// The path of a planned file in the snapshot.
fn path_of(plan: &Plan, file: i64, base: &[u8]) -> Outcome<Option<Vec<u8>>> {
    let Some(row) = plan.file(file)? else { return Ok(None) };
    let dir = plan.path(row.dir)?;
    let mut path = base.to_vec();
    for part in [&dir[..], &row.entry.name[..]] {
        if !part.is_empty() {
            path.push(b'/');
            path.extend_from_slice(part);
        }
    }
    Ok(Some(path))
}

/// [`local_failure`] of a planned file; one that ends the restore names the file.
pub fn local_failure_of(error: &io::Error, what: &str, plan: &Plan, file: i64, base: &[u8]) -> Outcome<Failure> {
    local_failure(error, what).map_err(|fatal| match path_of(plan, file, base) {
        Ok(Some(path)) => {
            let message = format!("{}: {}", shared::text::printable(&path, 4096), fatal.message);
            Failure { message, ..fatal }
        }
        _ => fatal,
    })
}

impl Stage<'_> {
    /// One pass over the wanted archives in storage order.
    fn run(&self, reader: &mut Reader<'_>) -> Outcome<()> {
        // One more than processors: now and then one waits for the file system.
        let workers = std::thread::available_parallelism().map_or(2, usize::from).saturating_add(1).min(WORKERS_MAX);
        let (sender, receiver) = unbounded();
        std::thread::scope(|scope| {
            for _ in 0..workers {
                let receiver = receiver.clone();
                scope.spawn(move || self.work(&receiver));
            }
            drop(receiver);
            let done = self.fetch(reader, &sender);
            // Ends the workers when they have taken what is left.
            drop(sender);
            done
        })
    }

    fn fetch(&self, reader: &mut Reader<'_>, jobs: &Sender<Job>) -> Outcome<()> {
        let (mut from, mut ahead) = (0, ARCHIVES_AT_FIRST);
        loop {
            let (mut batch, mut memory) = (Vec::new(), 0);
            let mut numbers = Vec::new();
            let mut next = from;
            while numbers.len() < ahead
                && let Some(number) = self.plan.lock().next_archive(self.round, next)?
            {
                next = number.get() + 1;
                numbers.push(number);
            }
            if numbers.is_empty() {
                return Ok(());
            }
            reader.prefetch(numbers.iter().map(|number| number.get()))?;
            for number in numbers {
                if memory >= TABLES_AHEAD_BYTES {
                    break;
                }
                from = number.get() + 1;
                if let Some(wanted) = self.prepare(reader, number)? {
                    memory += wanted.0.memory();
                    batch.push(wanted);
                }
            }
            self.fetch_batch(reader, jobs, batch)?;
            ahead = (ahead * 4).min(ARCHIVES_AHEAD);
        }
    }

    /// The blocks to fetch of an archive. Wants of others fail at once: the snapshot does not say that they are there.
    fn prepare(&self, reader: &mut Reader<'_>, number: ArchiveNumber) -> Outcome<Option<(Arc<OpenArchive>, Vec<u32>)>> {
        let blocks = self.plan.lock().blocks(self.round, number)?;
        let open = reader.archive(number)?;
        // An archive that only substitutes name is in no page: all of its blocks may be there.
        let entry = reader.pages.entry(reader.sink, number)?;
        let mut wanted = Vec::new();
        for block in blocks {
            let live = entry.as_ref().is_none_or(|entry| entry.is_live(block) || self.round > 0);
            match &open {
                Some(open) if live && block < open.archive.index.blocks() => wanted.push(block),
                _ => self.fail_block(number, block)?,
            }
        }
        Ok(open.filter(|_| !wanted.is_empty()).map(|open| (open, wanted)))
    }

    fn fetch_batch(
        &self,
        reader: &mut Reader<'_>,
        jobs: &Sender<Job>,
        batch: Vec<(Arc<OpenArchive>, Vec<u32>)>,
    ) -> Outcome<()> {
        let mut missing: BTreeSet<(usize, u32)> = BTreeSet::new();
        for (at, (_, blocks)) in batch.iter().enumerate() {
            missing.extend(blocks.iter().map(|block| (at, *block)));
        }
        let wanted: Vec<PartsWanted> = batch
            .iter()
            .map(|(open, blocks)| PartsWanted { archive: Arc::clone(&open.archive), parts: blocks.clone() })
            .collect();
        reader.sink.parts(&wanted, &mut |at, got| match got {
            Got::Part(block, sealed) => {
                let known = missing.remove(&(at, block));
                match batch.get(at) {
                    Some((open, _)) if known => self.send(jobs, open, block, sealed),
                    _ => Ok(()),
                }
            }
            Got::Ended(_) => self.check_fatal(),
        })?;
        // What a sink refused as a whole is asked for one by one.
        for (at, block) in missing {
            let Some((open, _)) = batch.get(at) else { continue };
            self.fetch_one(reader, jobs, open, block)?;
        }
        Ok(())
    }

    fn fetch_one(
        &self,
        reader: &mut Reader<'_>,
        jobs: &Sender<Job>,
        open: &Arc<OpenArchive>,
        block: u32,
    ) -> Outcome<()> {
        let number = open.archive.name.number;
        let wanted = [PartsWanted { archive: Arc::clone(&open.archive), parts: vec![block] }];
        let mut came = false;
        let mut why = None;
        reader.sink.parts(&wanted, &mut |_, got| match got {
            Got::Part(_, sealed) => {
                came = true;
                self.send(jobs, open, block, sealed)
            }
            Got::Ended(failure) => {
                why = Some(failure);
                self.check_fatal()
            }
        })?;
        if !came {
            let failure = why.unwrap_or_else(|| tampered("part", "the sink did not send it"));
            self.found_bad(open, block, failure);
            self.fail_block(number, block)?;
        }
        Ok(())
    }

    fn check_fatal(&self) -> Outcome<()> {
        crate::cli::check_interrupted()?;
        match self.fatal.lock().as_ref() {
            // The failure itself is taken at the end; this one only ends the fetching.
            Some(failure) => Err(Failure::new(failure.code, failure.exit, failure.message.clone())),
            None => Ok(()),
        }
    }

    fn send(&self, jobs: &Sender<Job>, open: &Arc<OpenArchive>, block: u32, sealed: Vec<u8>) -> Outcome<()> {
        self.check_fatal()?;
        let ended = || Failure::new("internal", Exit::Failed, "the writing threads ended");
        let permit = self.sealed.acquire(sealed.len() as u64).ok_or_else(ended)?;
        jobs.send(Job { open: Arc::clone(open), block, sealed, _permit: permit }).map_err(|_| ended())
    }

    /// A block that cannot be had is a finding, unless its content is said to be elsewhere too: there it is sought next,
    /// and a file that it is not found for is lost.
    fn found_bad(&self, open: &OpenArchive, block: u32, failure: Failure) {
        let number = open.archive.name.number;
        if !self.substitutes.has(number, &open.id(), block) {
            self.findings.lock().block(number, block, failure);
        }
    }

    /// All wants of a block have failed.
    fn fail_block(&self, number: ArchiveNumber, block: u32) -> Outcome<()> {
        let mut after = 0;
        loop {
            let plan = self.plan.lock();
            let wants = plan.wants(self.round, (number, block), after)?;
            let Some(last) = wants.last() else { return Ok(()) };
            after = last.row;
            let rows: Vec<i64> = wants.iter().map(|want| want.row).collect();
            plan.fail(&rows)?;
        }
    }

    fn work(&self, jobs: &Receiver<Job>) {
        for job in jobs.iter() {
            if self.fatal.lock().is_some() {
                continue;
            }
            if let Err(failure) = self.job(job) {
                self.fatal.lock().get_or_insert(failure);
            }
        }
    }

    /// Checks, opens and writes one block. An `Err` ends the restore.
    fn job(&self, job: Job) -> Outcome<()> {
        let Job { open, block, sealed, _permit } = job;
        let number = open.archive.name.number;
        let opened = match open_block(&open, block, sealed) {
            Ok(opened) => opened,
            Err(failure) => {
                self.found_bad(&open, block, failure);
                return self.fail_block(number, block);
            }
        };
        let mut fits: HashMap<ChunkId, bool> = HashMap::new();
        let (mut after, mut near) = (0, None);
        loop {
            let wants = self.plan.lock().wants(self.round, (number, block), after)?;
            let Some(last) = wants.last() else { return Ok(()) };
            after = last.row;
            let (mut failed, mut done) = (Vec::new(), Vec::new());
            for want in &wants {
                let content = opened.get(&want.chunk).filter(|content| content.len() == want.bytes as usize);
                // A chunk that is not here was moved: the hint is old. That is no finding.
                let Some(content) = content else {
                    failed.push(want.row);
                    continue;
                };
                if !*fits.entry(want.chunk).or_insert_with(|| is_chunk(&self.namer, &want.chunk, content)) {
                    self.findings.lock().poisoned(&want.chunk, number, block);
                    failed.push(want.row);
                    continue;
                }
                let dir = self.dir(&mut near, want.dir)?;
                if self.write(&dir, want, content)? {
                    done.push(want.file);
                }
            }
            self.files.fetch_add(done.len() as u64, Ordering::Relaxed);
            self.to.progress.files(done.len() as u64);
            let plan = self.plan.lock();
            plan.fail(&failed)?;
            plan.done(&done)?;
        }
    }

    /// The want's directory: mostly that of the want before it.
    fn dir(&self, near: &mut Option<(DirId, Arc<OpenDir>)>, id: DirId) -> Outcome<Arc<OpenDir>> {
        if let Some((_, dir)) = near.as_ref().filter(|(at, _)| *at == id) {
            return Ok(Arc::clone(dir));
        }
        let dir = match self.to.target.open_dir(id) {
            Some(dir) => dir,
            None => self.to.target.dir(&self.plan.lock(), id)?,
        };
        *near = Some((id, Arc::clone(&dir)));
        Ok(dir)
    }

    /// Writes a chunk. Says whether the file has its name now.
    fn write(&self, dir: &OpenDir, want: &Want, content: &[u8]) -> Outcome<bool> {
        let (done, what) = match &want.last {
            Some(entry) if self.to.name_at_once && want.is_whole() => {
                let (entry, Writing { target, overwrite, set, .. }) = (entry_of(entry)?, self.to);
                let made = target.whole(dir, want.file, &entry, content, *overwrite, set);
                (made.map(|()| true), "make a file")
            }
            _ => (self.piece(dir, want, content)?, "write a file of the target"),
        };
        match done {
            Ok(named) => {
                self.to.progress.add(content.len() as u64);
                Ok(named)
            }
            Err(error) => {
                let mut plan = self.plan.lock();
                let failure = local_failure_of(&error, what, &plan, want.file, self.to.base)?;
                lose(&mut plan, want.file, self.to.base, self.to.lost, &failure)?;
                Ok(false)
            }
        }
    }

    /// Writes one of several chunks of a file; the last one gives it its name.
    fn piece(&self, dir: &OpenDir, want: &Want, content: &[u8]) -> Outcome<io::Result<bool>> {
        let Writing { target, overwrite, set, .. } = self.to;
        let written = target
            .file(dir.as_fd(), want.file, want.file_bytes)
            .and_then(|file| file.write_all_at(content, want.offset));
        if let Err(error) = written {
            return Ok(Err(error));
        }
        let file: FileId = want.file;
        let row = {
            let plan = self.plan.lock();
            if plan.wrote(file)? && self.to.name_at_once { plan.file(file)? } else { None }
        };
        Ok(match row {
            Some(row) => target.publish(dir, file, &row.entry, *overwrite, set).map(|()| true),
            None => Ok(false),
        })
    }
}

/// After a restore that this machine ended.
const GO_ON: &str =
    "make room, or choose another target; into the same one, --overwrite if-changed goes on where this ended";

/// A failure of this machine about one file; `Err` if it will meet every other file too.
pub fn local_failure(error: &io::Error, what: &str) -> Result<Failure, Failure> {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let exit = if full { Exit::Full } else { Exit::Failed };
    let failure = Failure::new("io", exit, format!("cannot {what}: {error}"));
    let everywhere =
        full || matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem) || error.raw_os_error() == Some(5);
    if everywhere { Err(failure.help(GO_ON)) } else { Ok(failure) }
}

//! One set, from walk to commit: the stages in their order, each in its threads.

use super::assemble::{Ready, SealJob, Sealer};
use super::chunk::Cutter;
use super::compress::Packer;
use super::course::Gate;
use super::estimate::Estimate;
use super::lay::{Lane, Layer};
use super::links::Links;
use super::numbers::Numbers;
use super::outcome::Met;
use super::pages::Pages;
use super::push::{CommitJob, Committed, Work};
use super::read::{ReadShared, Reader};
use super::stop::{Stop, stopped};
use super::store::{Keep, LoadedOnce, Shared, Store};
use super::tree::{Output, Top, TreeChange};
use super::users::Users;
use super::walk::{Plan, Walk};
use super::{Env, Input, SetPlan, repack, stream};
use crate::config::OnUnreadable;
use crate::crypto::part::Place;
use crate::crypto::seal::seal_small;
use crate::index::series::{SeriesIndex, SeriesWriter, for_each_use};
use crate::index::uses::Spot;
use crate::report::{Exit, Failure, Outcome};
use crate::tree::node::NodeTop;
use crate::tree::{Counts, Node, Root};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;
use shared::codec::{self, Blob, List, Text};
use shared::format::snapshot::{FLAG_CHECKPOINT, FLAG_INCOMPLETE, SealedRoot};
use shared::format::{Body, Page};
use shared::id::{ArchiveId, Digest, Salt, Series, SessionId};
use shared::signature::Plain;
use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Files that wait for a reader.
const JOBS_MAX: usize = 1024;
/// Directories that wait to be written to the series' index.
const CHANGES_MAX: usize = 256;
/// Runs of a series after which the uses of its blocks are added up again.
const RECOUNT_AFTER: u64 = 30;

/// What the sets of a run share.
pub struct Run<'a> {
    pub env: &'a Env,
    pub sealer: Arc<Sealer>,
    pub numbers: Arc<Mutex<Numbers>>,
    pub stop: Arc<Stop>,
    pub gate: Gate,
    pub budget: Arc<super::budget::Budget>,
    pub cutter: Cutter,
    pub users: Users,
    /// One for each remote, in the order of the remotes.
    pub work: Vec<(usize, Sender<Work>)>,
    /// Damaged blocks that nothing new may refer to.
    pub lost: HashSet<Spot>,
}

/// What a set's run brought.
pub struct SetReport {
    pub name: String,
    pub met: Arc<Met>,
    pub duration: Duration,
    /// Head of each remote that has the snapshot.
    pub snapshots: Vec<(usize, Digest)>,
    /// Nothing was committed, as nothing changed.
    pub unchanged: bool,
    pub incomplete: bool,
}

/// What is to be committed, and the top of its tree.
type ToCommit = (CommitJob, NodeTop);

/// Archives of this run that were handed to the remotes.
type Handed = Mutex<Vec<(u64, ArchiveId, u32)>>;

impl Run<'_> {
    /// Runs a set. What a remote turns out to lack is read again; a remote that goes on lacking ends by itself
    /// (`Lacking`), so that this ends too.
    pub fn set(&self, set: &SetPlan) -> Outcome<SetReport> {
        let begun = Instant::now();
        let mut snapshots: Vec<(usize, Digest)> = Vec::new();
        loop {
            let (met, job) = self.pass(set)?;
            let lacking = match job {
                Some((job, top)) => self.commit_left(set, job, &top, &mut snapshots)?,
                None => Vec::new(),
            };
            if lacking.is_empty() {
                let (incomplete, unchanged) = (is_incomplete(set, &met), snapshots.is_empty());
                let (name, duration) = (set.name.clone(), begun.elapsed());
                return Ok(SetReport { name, met, duration, snapshots, unchanged, incomplete });
            }
            self.sealer.everywhere.remove(&lacking);
        }
    }

    /// Commits on the remotes that have no snapshot of this set yet; returns the archives that some of them lack.
    fn commit_left(
        &self,
        set: &SetPlan,
        job: CommitJob,
        top: &NodeTop,
        snapshots: &mut Vec<(usize, Digest)>,
    ) -> Outcome<Vec<u64>> {
        let remotes = self.work.iter().map(|(at, _)| *at);
        let left: Vec<usize> = remotes.filter(|at| !snapshots.iter().any(|(done, _)| done == at)).collect();
        let before = snapshots.len();
        let lacking = self.commit(&Arc::new(job), &left, snapshots)?;
        // Those of the pass before have another tree.
        self.note_committed(set, top, &snapshots[before..])?;
        Ok(lacking)
    }

    /// Reads everything, hands all archives to the remotes, returns what is to be committed; `None` if nothing is.
    fn pass(&self, set: &SetPlan) -> Outcome<(Arc<Met>, Option<ToCommit>)> {
        let env = self.env;
        let started = env.clock.now();
        let series = env.secret.series(&set.series);
        let index = SeriesIndex::open(&env.cache_dir, &env.source, &env.lineage, &series)?;
        let met = Arc::new(Met::default());
        let force = is_forced(env, set, &index)?;
        let mut sparse = match index.is_new() || force {
            true => HashSet::new(),
            false => repack::sparse_blocks(&env.cache_dir, &env.index, noted_number(&index, BYTES_NOTE)?)?,
        };
        sparse.extend(self.lost.iter().copied());
        let all_usable = sparse.is_empty() && self.all_present(&index)?;
        let (jobs, seal_jobs) = unbounded();
        let flights = Arc::clone(&self.sealer.flights);
        let layer = Layer::new(Arc::clone(&self.numbers), Arc::clone(&flights), jobs, env.archive_bytes);
        let shared = Shared {
            index: &env.index,
            layer,
            flights,
            everywhere: Arc::clone(&self.sealer.everywhere),
            sparse,
            namer: env.secret.chunk_namer(&env.lineage),
            budget: Arc::clone(&self.budget),
            stop: Arc::clone(&self.stop),
            met: Arc::clone(&met),
            filter: LoadedOnce::default(),
        };
        let look = Look { force, all_usable };
        let (top, fresh) = self.pipeline(set, &shared, &index, &series, seal_jobs, look, started)?;
        if set.options.on_unreadable == OnUnreadable::Fail && met.unreadable.count() > 0 {
            let message = format!("{} paths could not be read, and on-unreadable is \"fail\"", met.unreadable.count());
            let failure = met
                .unreadable
                .sorted()
                .into_iter()
                .take(20)
                .fold(Failure::new("unreadable", Exit::Failed, message), |failure, (path, why)| {
                    failure.detail(format!("{}: {why}", super::outcome::shown(&path)))
                });
            return Err(failure);
        }
        if env.skip_if_unchanged && self.is_committed(&index, &top.node)? {
            return Ok((met, None));
        }
        let mut pages = Pages::new(&env.index, fresh, env.source, env.lineage);
        for_each_use(index.path(), |spot: Spot, _| pages.add(spot))?;
        let flags = if is_incomplete(set, &met) { FLAG_INCOMPLETE } else { 0 };
        let root = self.root(set, &met, top.node, top.entry, started)?;
        let job = self.job(pages.finish()?, &root, series, flags, !set.input.is_spent())?;
        Ok((met, Some((job, top.node))))
    }

    /// Is every archive of the last snapshot on every remote of the run?
    fn all_present(&self, index: &SeriesIndex) -> Outcome<bool> {
        let mut all = true;
        for_each_use(index.path(), |spot, _| {
            all &= self.sealer.everywhere.holds(spot.archive);
            Ok(())
        })?;
        Ok(all)
    }

    /// All threads of a pass, from the first name to the last archive handed over.
    #[allow(clippy::too_many_arguments)]
    fn pipeline(
        &self,
        set: &SetPlan,
        shared: &Shared,
        index: &SeriesIndex,
        series: &Series,
        seal_jobs: Receiver<SealJob>,
        look: Look,
        started: i64,
    ) -> Outcome<(Top, HashMap<u64, ArchiveId>)> {
        let env = self.env;
        let (changes, changed) = bounded(CHANGES_MAX);
        let output = Output::new(changes);
        let (jobs, to_read) = bounded(JOBS_MAX);
        let handed = Handed::default();
        let progress = (env.progress)(&set.name);
        let links = Links::default();
        let read = ReadShared {
            cutter: &self.cutter,
            links: &links,
            users: &self.users,
            output: &output,
            xattrs: set.options.xattrs,
            progress: &progress,
        };
        let series_reader = index.reader()?;
        let mut estimate = Estimate::new(env, set, index, &self.numbers, shared, &progress)?;
        let mut writer = index.begin()?;
        let sealers = env.sealers();
        let plan = match &set.input {
            Input::Paths(_) => Some(set.plan(env, look)?),
            Input::Stream { .. } => None,
        };
        let stop = &self.stop;
        let written = std::thread::scope(|scope| {
            let writing = scope.spawn(|| write_changes(&mut writer, &changed, stop));
            for _ in 0..sealers {
                let seal_jobs = seal_jobs.clone();
                let handed = &handed;
                scope.spawn(move || self.seal(&seal_jobs, shared, set, handed));
            }
            let mut producers = Vec::new();
            match (&set.input, &plan) {
                (Input::Stream { from, name }, _) => {
                    let (read, output, users, mut reader) = (&read, &output, &self.users, series_reader);
                    producers.push(scope.spawn(move || {
                        let mut one = Reader::new(read, Store::new(shared));
                        if let Err(failure) = stream::store(from, name, &mut one, &mut reader, users, output) {
                            stop.fail(of_set(failure, &set.name));
                        }
                    }));
                }
                (Input::Paths(_), Some(plan)) => {
                    for _ in 0..env.readers() {
                        let (read, to_read) = (&read, to_read.clone());
                        producers.push(scope.spawn(move || Reader::new(read, Store::new(shared)).run(&to_read)));
                    }
                    let (output, users) = (&output, &self.users);
                    producers.push(scope.spawn(move || {
                        let mut walk = Walk::new(plan, series_reader, Store::new(shared), output, jobs, users);
                        if let Err(failure) = walk.run() {
                            stop.fail(failure);
                        }
                    }));
                }
                (Input::Paths(_), None) => {}
            }
            let mut checkpoint = Checkpoint::new(env);
            while producers.iter().any(|thread| !thread.is_finished()) {
                std::thread::sleep(Duration::from_millis(5));
                if let Some(walk) = estimate.due(look) {
                    scope.spawn(walk);
                }
                if checkpoint.is_due(shared)
                    && !stop.is_set()
                    && let Err(failure) = self.checkpoint(set, shared, series, &handed, started)
                {
                    stop.fail(failure);
                }
            }
            estimate.end();
            let settled = shared.layer.settle(stop);
            if let Err(failure) = settled {
                stop.fail(failure);
            }
            shared.layer.end(sealers);
            // The writer ends even where it has stopped to write.
            let _ = output.changes.send(TreeChange::End);
            writing.join().unwrap_or_else(|_| Err(stopped()))
        });
        stop.check()?;
        written?;
        let top = output.top.lock().take().ok_or_else(stopped)?;
        self.gate.pass(stop)?;
        self.finish_series(index, writer, set, shared.met.bytes.get())?;
        Ok((top, handed.into_inner().into_iter().map(|(number, id, _)| (number, id)).collect()))
    }

    /// The new snapshot becomes the last one of the local index. Nothing in it depends on the commit: a place that a
    /// remote turns out to lack is noticed in the next run.
    fn finish_series(
        &self,
        index: &SeriesIndex,
        mut writer: SeriesWriter,
        set: &SetPlan,
        snapshot_bytes: u64,
    ) -> Outcome<()> {
        let runs = noted_number(index, "runs")?;
        let recount = self.env.force || runs >= RECOUNT_AFTER;
        if recount {
            writer.recount()?;
        }
        writer.set_note(OPTIONS_NOTE, &noted_options(set))?;
        writer.set_note(BYTES_NOTE, &snapshot_bytes.to_le_bytes())?;
        writer.commit()?;
        index.set_note("runs", &if recount { 0 } else { runs + 1 }.to_le_bytes())
    }

    /// A sealing thread.
    fn seal(&self, jobs: &Receiver<SealJob>, shared: &Shared, set: &SetPlan, handed: &Handed) {
        let mut packer = match Packer::new(set.options.compression) {
            Ok(packer) => packer,
            Err(failure) => return self.stop.fail(failure),
        };
        for job in jobs {
            let finished = match job {
                SealJob::End => return,
                _ if self.stop.is_set() => continue,
                SealJob::Finish(assembly) => Ok(Some(assembly)),
                SealJob::Block { assembly, block, plain, entries, permit } => {
                    let sealed = self.sealer.seal_block(&mut packer, &assembly, block, plain, entries, permit);
                    sealed.map(|last| last.then_some(assembly))
                }
            };
            let ready = finished.and_then(|assembly| match assembly {
                Some(assembly) => self.sealer.finish(&assembly).map(Some),
                None => Ok(None),
            });
            match ready {
                Ok(Some(ready)) => self.hand_over(ready, shared, handed),
                Ok(None) => {}
                Err(failure) => self.stop.fail(failure),
            }
        }
    }

    /// Gives an archive to every remote. Their queues have no bound of their own: the budget bounds them all.
    fn hand_over(&self, ready: Ready, shared: &Shared, handed: &Handed) {
        let number = ready.number.get();
        shared.met.bytes_stored.add(ready.bytes());
        handed.lock().push((number, ready.id, ready.blocks()));
        let ready = Arc::new(ready);
        for (_, work) in &self.work {
            // A remote that has left takes nothing.
            let _ = work.send(Work::Archive(Arc::clone(&ready)));
        }
        drop(ready);
        shared.layer.archive_finished(number);
    }

    /// Protects what a long run has pushed so far: a snapshot of an empty directory that refers to all its archives.
    fn checkpoint(
        &self,
        set: &SetPlan,
        shared: &Shared,
        series: &Series,
        handed: &Handed,
        started: i64,
    ) -> Outcome<()> {
        let empty = Node::leaf(Vec::new()).map_err(|e| Failure::new("tree", Exit::Failed, e.to_string()))?;
        let chunk = Store::new(shared).put(Lane::Metadata, &empty.encode())?;
        let bound = shared.layer.settle(&self.stop)?;
        let mut archives: Vec<_> = handed.lock().iter().copied().filter(|(number, ..)| *number < bound).collect();
        archives.sort_unstable_by_key(|(number, ..)| *number);
        let known = archives.iter().any(|(number, ..)| *number == chunk.archive.get());
        let mut pages = Pages::new(&self.env.index, HashMap::new(), self.env.source, self.env.lineage);
        if !known {
            // The empty directory was known before: its block must be named too, in order.
            let at = archives.partition_point(|(number, ..)| *number < chunk.archive.get());
            for (number, id, blocks) in &archives[..at] {
                pages.add_whole(*number, *id, *blocks)?;
            }
            pages.add(Spot { archive: chunk.archive.get(), block: chunk.block })?;
            archives.drain(..at);
        }
        for (number, id, blocks) in archives {
            pages.add_whole(number, id, blocks)?;
        }
        let root = self.root(set, &shared.met, NodeTop { chunk, level: 0 }, None, started)?;
        let job = self.job(pages.finish()?, &root, *series, FLAG_CHECKPOINT, true)?;
        let remotes: Vec<usize> = self.work.iter().map(|(at, _)| *at).collect();
        let lacking = self.commit(&Arc::new(job), &remotes, &mut Vec::new())?;
        self.sealer.everywhere.remove(&lacking);
        Ok(())
    }

    fn root(
        &self,
        set: &SetPlan,
        met: &Met,
        top: NodeTop,
        entry: Option<crate::tree::Entry>,
        started: i64,
    ) -> Outcome<Root> {
        let paths = match &set.input {
            Input::Paths(paths) => paths.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect(),
            Input::Stream { name, .. } => vec![format!("/{name}").into_bytes()],
        };
        let paths: Result<Vec<_>, _> = paths.into_iter().take(1024).map(Blob::new).collect();
        let tags = set.tags.iter().take(256).map(|tag| Text::truncated(tag)).collect();
        let failed = |e: codec::FormatError| Failure::new("root", Exit::Failed, e.to_string());
        Ok(Root {
            top,
            host: Text::truncated(&self.env.host),
            set: Text::truncated(&set.name),
            paths: List::new(paths.map_err(failed)?).map_err(failed)?,
            tags: List::new(tags).map_err(failed)?,
            counts: Counts {
                files: met.files.get(),
                directories: met.directories.get(),
                others: met.others.get(),
                bytes: met.bytes.get(),
                unreadable: met.unreadable.count(),
                changed_while_read: met.changed.count(),
            },
            started,
            finished: self.env.clock.now(),
            program: Text::truncated(concat!("source-agent ", env!("CARGO_PKG_VERSION"))),
            entry,
        })
    }

    fn job(&self, pages: Vec<Plain<Page>>, root: &Root, series: Series, flags: u8, again: bool) -> Outcome<CommitJob> {
        let failed = |e: String| Failure::new("body", Exit::Failed, e);
        let session = SessionId::new(*self.sealer.envelope.digest().as_bytes());
        let salt = Salt::random();
        let place = Place::Root { source: self.env.source, lineage: self.env.lineage, salt, session };
        let sealed =
            seal_small(self.sealer.secret.as_bytes(), &place, &root.encode()).map_err(|e| failed(e.to_string()))?;
        let sealed_bytes = Blob::new(sealed.bytes).map_err(|e| failed(e.to_string()))?;
        let digests = pages.iter().map(Plain::digest).collect();
        let body = Body {
            pages: List::new(digests).map_err(|e| failed(e.to_string()))?,
            root: SealedRoot { salt, plain: sealed.plain, sealed: sealed_bytes },
        };
        let body = Plain::new(body).map_err(|e| failed(e.to_string()))?;
        Ok(CommitJob { pages, body, series, flags, created: self.env.clock.now(), again })
    }

    /// Commits on these remotes; returns the archives that some of them lack.
    fn commit(
        &self,
        job: &Arc<CommitJob>,
        remotes: &[usize],
        snapshots: &mut Vec<(usize, Digest)>,
    ) -> Outcome<Vec<u64>> {
        let (reply, replies) = unbounded();
        for (at, work) in &self.work {
            if remotes.contains(at) {
                // A remote that has left answers nothing; its failure is known by then.
                let _ = work.send(Work::Commit(Arc::clone(job), reply.clone()));
            }
        }
        drop(reply);
        let mut lacking = Vec::new();
        loop {
            match replies.recv_timeout(Duration::from_millis(200)) {
                Ok((at, Ok(Committed::Done(digest)))) => snapshots.push((at, digest)),
                Ok((at, Ok(Committed::Missing(archives)))) => {
                    let (name, count) = (self.env.remotes[at].dial.name(), archives.len());
                    (self.env.warned)(&format!(
                        "{name} lacks {count} archives that it held before: what is needed of them is read and sent again"
                    ));
                    lacking.extend(archives);
                }
                // It is reported when the remote ends.
                Ok((_, Err(_))) => {}
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => self.stop.check()?,
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => break,
            }
        }
        self.stop.check()?;
        Ok(lacking)
    }

    /// Remembers which remotes hold a snapshot of this very tree.
    fn note_committed(&self, set: &SetPlan, top: &NodeTop, snapshots: &[(usize, Digest)]) -> Outcome<()> {
        let series = self.env.secret.series(&set.series);
        let index = SeriesIndex::open(&self.env.cache_dir, &self.env.source, &self.env.lineage, &series)?;
        for (at, _) in snapshots {
            index.set_note(&format!("committed-{}", self.env.remotes[*at].key), &codec::encode(top))?;
        }
        Ok(())
    }

    fn is_committed(&self, index: &SeriesIndex, top: &NodeTop) -> Outcome<bool> {
        let top = codec::encode(top);
        for (at, _) in &self.work {
            if index.note(&format!("committed-{}", self.env.remotes[*at].key))?.as_ref() != Some(&top) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// How much of the last snapshot is believed.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Look at every file again, whatever its times say.
    pub force: bool,
    /// Every place that the last snapshot refers to is usable.
    pub all_usable: bool,
}

/// Name of the series' note of the options that its records were made with.
const OPTIONS_NOTE: &str = "options";

/// Name of the series' note of how many bytes the files of its last snapshot have.
pub(super) const BYTES_NOTE: &str = "bytes";

/// A number that the series notes; 0 where there is none.
pub(super) fn noted_number(index: &SeriesIndex, note: &str) -> Outcome<u64> {
    Ok(index.note(note)?.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?))).unwrap_or(0))
}

/// Options that say what is read of a file that is unchanged.
fn noted_options(set: &SetPlan) -> [u8; 1] {
    [u8::from(set.options.xattrs)]
}

/// Is everything to be looked at again: as asked for, or since the last snapshot holds more or less of each file than
/// is asked for now?
pub fn is_forced(env: &Env, set: &SetPlan, index: &SeriesIndex) -> Outcome<bool> {
    if env.force || index.is_new() {
        return Ok(env.force);
    }
    Ok(index.note(OPTIONS_NOTE)?.as_deref() != Some(&noted_options(set)[..]))
}

/// Says of which set a command is that failed.
fn of_set(mut failure: Failure, set: &str) -> Failure {
    if failure.code == "command" {
        failure.message = format!("set {}: {}", super::outcome::shown(set.as_bytes()), failure.message);
    }
    failure
}

fn is_incomplete(set: &SetPlan, met: &Met) -> bool {
    met.unreadable.count() > 0 && set.options.on_unreadable != OnUnreadable::Ignore
}

/// The thread that writes the series' rows; after a stop it only empties the queue.
fn write_changes(writer: &mut SeriesWriter, changes: &Receiver<TreeChange>, stop: &Stop) -> Outcome<()> {
    let mut written = Ok(());
    for change in changes {
        let done = match change {
            TreeChange::End => break,
            _ if written.is_err() => continue,
            TreeChange::Put { path, row } => writer.put(&path, &row),
            TreeChange::Forget(path) => writer.forget(&path),
        };
        if let Err(failure) = done {
            stop.fail(super::stop::again(&failure));
            written = Err(failure);
        }
    }
    written
}

/// When the next checkpoint is due.
struct Checkpoint {
    every: Duration,
    bytes: u64,
    last: Instant,
    last_bytes: u64,
}

impl Checkpoint {
    fn new(env: &Env) -> Self {
        Self { every: env.checkpoint_every, bytes: env.checkpoint_bytes, last: Instant::now(), last_bytes: 0 }
    }
    fn is_due(&mut self, shared: &Shared) -> bool {
        let bytes = shared.met.bytes_stored.get();
        if bytes == self.last_bytes || (self.last.elapsed() < self.every && bytes - self.last_bytes < self.bytes) {
            return false;
        }
        (self.last, self.last_bytes) = (Instant::now(), bytes);
        true
    }
}

impl SetPlan {
    /// What the walker needs to know.
    pub fn plan(&self, env: &Env, look: Look) -> Outcome<Plan> {
        let Input::Paths(paths) = &self.input else { return Err(stopped()) };
        let options = &self.options;
        let mut excludes = super::exclude::Excludes::new(&options.exclude, &options.exclude_file)?;
        excludes.if_present = options.exclude_if_present.iter().map(|name| name.clone().into_bytes()).collect();
        excludes.caches = options.exclude_caches;
        excludes.larger_than = options.exclude_larger_than;
        excludes.never(&env.cache_dir);
        excludes.never(&env.state_dir);
        Ok(Plan {
            way: super::paths::Way::new(paths),
            excludes,
            one_file_system: options.one_file_system,
            xattrs: options.xattrs,
            force: look.force,
            all_usable: look.all_usable,
            dry: env.dry,
            on_exclude: env.on_exclude.clone(),
        })
    }
}

//! Backing up: walk → read → chunk → identify → lay → compress → seal → assemble → push → commit → remember.
//!
//! One direction, bounded by one budget of bytes. This file joins remotes and sets; `set` joins the stages of one set.
//! Nothing below names `crypto::open` or `crypto::identity`: a source cannot read what it has sent.

mod assemble;
pub mod budget;
mod buffers;
pub mod chunk;
pub mod compress;
mod connect;
mod content;
mod estimate;
pub mod exclude;
mod flights;
pub mod heal;
pub mod hooks;
mod lacking;
mod lay;
mod limit;
mod links;
mod list;
mod meta;
mod numbers;
pub mod outcome;
mod pages;
pub mod paths;
pub mod push;
mod read;
mod repack;
mod set;
mod stop;
mod store;
pub mod stream;
mod taker;
mod tree;
mod users;
mod walk;

#[cfg(test)]
mod tests;

pub use estimate::dry_run;
pub use limit::Limit;
pub use set::SetReport;
pub use walk::OnExclude;

use crate::config::{Compression, Retry, SetOptions};
use crate::crypto::recipient::Recipient;
use crate::crypto::secret::SourceSecret;
use crate::crypto::wrap::new_session;
use crate::index::{self, Index};
use crate::progress::Progress;
use crate::report::{Exit, Failure, Outcome};
use assemble::Sealer;
use budget::Budget;
use chunk::Cutter;
use connect::{Connected, Me, connect};
use crossbeam_channel::unbounded;
use flights::{Everywhere, Flights};
use heal::{Healing, Patient};
use numbers::Numbers;
use parking_lot::Mutex;
use push::{Dial, Ended, Pusher, Remote, Session};
use set::Run;
use shared::format::snapshot::RemoteHead;
use shared::id::{Lineage, SourceId, VerifyKey};
use shared::signature::SigningKey;
use shared::sys::Clock;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use stop::Stop;

/// Time and bytes after which a long run is protected by a checkpoint.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(6 * 3600);
pub const CHECKPOINT_BYTES: u64 = 64 << 30;
/// Threads that read where the configuration says nothing.
pub const READERS: usize = 4;

/// What is backed up.
#[derive(Debug, Clone)]
pub enum Input {
    /// Absolute paths.
    Paths(Vec<PathBuf>),
    Stream {
        from: stream::From,
        name: String,
    },
}

impl Input {
    /// It was read, and cannot be read again.
    fn is_spent(&self) -> bool {
        matches!(self, Self::Stream { from: stream::From::Once(input), .. } if input.is_spent())
    }
}

/// One set.
#[derive(Debug, Clone)]
pub struct SetPlan {
    /// As shown and as stored in the root.
    pub name: String,
    /// What the series is derived from.
    pub series: String,
    pub input: Input,
    pub tags: Vec<String>,
    pub options: SetOptions,
}

/// A remote of the configuration that this run pushes to.
pub struct RemotePlan {
    pub dial: Arc<dyn Dial>,
    pub key: VerifyKey,
    pub limits: Vec<Limit>,
    pub progress: Progress,
}

/// Everything that a run needs to know.
pub struct Env {
    pub source: SourceId,
    pub lineage: Lineage,
    pub signing: Arc<SigningKey>,
    pub secret: SourceSecret,
    pub recipients: Vec<Recipient>,
    pub state_dir: PathBuf,
    pub cache_dir: PathBuf,
    pub index: Arc<Index>,
    pub remotes: Vec<RemotePlan>,
    /// Newest receipted heads of all configured remotes, also of those not in this run.
    pub heads: Vec<RemoteHead>,
    pub retry: Retry,
    pub read_concurrency: Option<usize>,
    pub host: String,
    pub clock: Arc<dyn Clock>,
    pub force: bool,
    pub dry: bool,
    pub skip_if_unchanged: bool,
    pub archive_bytes: u64,
    pub budget_bytes: u64,
    pub checkpoint_every: Duration,
    pub checkpoint_bytes: u64,
    /// Bytes of files that are read to heal one remote.
    pub heal_read_bytes: u64,
    /// Makes the counter that shows the reading of a set.
    pub progress: Box<dyn Fn(&str) -> Progress + Send + Sync>,
    pub told: Box<dyn Fn(&str) + Send + Sync>,
    /// Hears what people must not miss.
    pub warned: Box<dyn Fn(&str) + Send + Sync>,
    pub on_exclude: Option<walk::OnExclude>,
}

impl Env {
    /// Threads that compress and seal.
    fn sealers(&self) -> usize {
        std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 8)
    }
    fn readers(&self) -> usize {
        self.read_concurrency.unwrap_or(READERS).clamp(1, 8)
    }
}

/// What a run brought.
pub struct Report {
    pub sets: Vec<SetReport>,
    /// In the order of the remotes.
    pub remotes: Vec<RemoteReport>,
    /// Why the run ended before its last set.
    pub failure: Option<Failure>,
}

/// What became of one remote.
pub struct RemoteReport {
    pub name: String,
    pub required: bool,
    pub failure: Option<Failure>,
    pub bytes_sent: u64,
    pub archives_sent: u64,
    /// What was done about damage at its sink, if that told of any.
    pub healing: Option<Healing>,
}

/// Runs the sets one after another, in one session. A local index that turns out to be damaged is put aside, and the
/// run begins again, once; but not where standard input was read already.
pub fn run(env: &mut Env, sets: &[SetPlan]) -> Outcome<Report> {
    crate::open_files::raise();
    let first = run_once(env, sets);
    let failure = first.as_ref().map_or_else(Some, |report| report.failure.as_ref());
    if failure.is_none_or(|failure| failure.code != index::DAMAGED) {
        return first;
    }
    (env.told)("the local index is damaged: it is put aside and made again");
    index::series::all(&env.cache_dir).iter().try_for_each(|path| index::put_aside(path))?;
    index::put_aside(env.index.path())?;
    env.index = Arc::new(Index::open(&env.cache_dir, &env.source, &env.lineage)?.0);
    let left = &sets[first.as_ref().map_or(0, |report| report.sets.len())..];
    if left.first().is_some_and(|set| set.input.is_spent()) {
        // Read again it would be empty. The next run finds a new index.
        return first;
    }
    let mut second = run_once(env, left)?;
    second.sets.splice(0..0, first.into_iter().flat_map(|report| report.sets));
    Ok(second)
}

fn run_once(env: &Env, sets: &[SetPlan]) -> Outcome<Report> {
    let index_secret = env.secret.index_secret(&env.lineage);
    let mut remotes: Vec<RemoteReport> = env.remotes.iter().map(RemoteReport::new).collect();
    let mut numbers = Numbers::open(&env.state_dir, env.index.next_number()?)?;
    let connected = connect_all(env, &mut remotes, &index_secret, numbers.next());
    let everywhere = everywhere(&connected);
    if connected.is_empty() {
        return Ok(Report { sets: Vec::new(), failure: first_failure(&remotes), remotes });
    }
    let floor = connected.iter().map(|(_, remote)| remote.next_number).max().unwrap_or(0);
    numbers.raise(floor.max(env.index.next_number()?));
    index::series::put_aside_from(&env.cache_dir, numbers.next())?;
    let numbers = Arc::new(Mutex::new(numbers));
    let (secret, envelope) = new_session(env.source, env.lineage, &env.secret, &env.recipients, &env.signing)
        .map_err(|e| Failure::new("session", Exit::Failed, format!("cannot open a session: {e}")))?;
    let envelope = Arc::new(envelope);
    let budget = Budget::new(env.budget_bytes);
    let stop = Arc::new(Stop::new(Arc::clone(&budget)));
    let sealer = Sealer {
        source: env.source,
        lineage: env.lineage,
        secret: Arc::new(secret),
        index_secret,
        envelope: Arc::clone(&envelope),
        signing: Arc::clone(&env.signing),
        flights: Arc::new(Flights::default()),
        everywhere: Arc::new(Everywhere::new(everywhere)),
    };
    let first = numbers.lock().next();
    let session = Arc::new(Session {
        first,
        index: Arc::clone(&env.index),
        envelope,
        signing: Arc::clone(&env.signing),
        state_dir: env.state_dir.clone(),
        stop: Arc::clone(&stop),
        retry: env.retry.clone(),
        alive: AtomicUsize::new(connected.len()),
    });
    let mut work = Vec::new();
    let mut threads = Vec::new();
    let mut patients = Vec::new();
    for (at, mut remote) in connected {
        patients.extend(remote.damage.take().map(|damage| Patient::new(at, remote.facts, damage, &env.clock)));
        let (sender, receiver) = unbounded();
        work.push((at, sender));
        let facts = (remote.facts, remote.client.welcome().journal);
        let (client, remote) = env.remote(at, remote);
        let session = Arc::clone(&session);
        let thread = std::thread::spawn(move || Pusher::start(session, remote).run(client, &receiver));
        threads.push((at, facts, thread));
    }
    let mut run = Run {
        env,
        sealer: Arc::new(sealer),
        numbers: Arc::clone(&numbers),
        stop: Arc::clone(&stop),
        budget,
        cutter: Cutter::new(env.secret.gear(&env.lineage)),
        users: users::Users::read(),
        work,
        lost: HashSet::new(),
    };
    let mut done = Vec::new();
    let mut failure = before(&mut run, &mut patients, sets).err();
    for set in sets {
        if failure.is_some() {
            break;
        }
        match run.set(set) {
            Ok(report) => done.push(report),
            Err(why) => failure = Some(why),
        }
    }
    if failure.is_none() {
        failure = heal::after(&run, &mut patients).err();
    }
    // Without senders the pushing threads end.
    run.work.clear();
    let next = numbers.lock().next();
    for (at, (facts, journal), thread) in threads {
        let Ok(Ended { failure, bytes_sent, archives_sent, settled }) = thread.join() else {
            remotes[at].failure = Some(Failure::new("push", Exit::Failed, "the pushing thread broke off"));
            continue;
        };
        // Archives that the remote may hold without having said so are listed in the next session.
        if settled {
            env.index.advance(&facts, next, journal)?;
        }
        let healing = patients.iter().find(|patient| patient.at == at).map(Patient::healing);
        remotes[at] =
            RemoteReport { failure, bytes_sent, archives_sent, healing, ..RemoteReport::new(&env.remotes[at]) };
    }
    numbers.lock().close()?;
    Ok(Report { sets: done, remotes, failure })
}

/// Heals what the remotes' sinks say is damaged; what cannot be healed is not referred to any more.
fn before(run: &mut Run, patients: &mut [Patient], sets: &[SetPlan]) -> Outcome<()> {
    let compression = sets.first().map_or(Compression::Auto, |set| set.options.compression);
    heal::before(run, patients, compression)?;
    run.lost = patients.iter().flat_map(Patient::lost).collect();
    Ok(())
}

impl Env {
    fn remote(&self, at: usize, connected: Connected) -> (crate::client::Client, Remote) {
        let plan = &self.remotes[at];
        let others = self.heads.iter().filter(|head| head.sink != plan.key).cloned().collect();
        let remote = Remote {
            at,
            dial: Arc::clone(&plan.dial),
            state: connected.state,
            facts: connected.facts,
            others,
            limits: plan.limits.clone(),
            progress: plan.progress.clone(),
        };
        (connected.client, remote)
    }
}

impl RemoteReport {
    fn new(plan: &RemotePlan) -> Self {
        let (name, required) = (plan.dial.name().to_owned(), plan.dial.is_required());
        Self { name, required, failure: None, bytes_sent: 0, archives_sent: 0, healing: None }
    }
}

/// Connects to all remotes at once; those that fail are out of this run.
fn connect_all(
    env: &Env,
    reports: &mut [RemoteReport],
    index_secret: &crate::crypto::secret::IndexSecret,
    known: u64,
) -> Vec<(usize, Connected)> {
    let me = Me { source: env.source, lineage: env.lineage, key: env.signing.verify_key(), index_secret, known };
    let connect_one = |plan: &RemotePlan| connect(&*plan.dial, &me, &env.index, &env.state_dir, env.force, &*env.told);
    let connect_one = &connect_one;
    let results: Vec<Outcome<Connected>> = std::thread::scope(|scope| {
        let threads: Vec<_> = env.remotes.iter().map(|plan| scope.spawn(move || connect_one(plan))).collect();
        let broke = || Failure::new("connect", Exit::Failed, "the connecting thread broke off");
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(broke()))).collect()
    });
    let mut connected = Vec::new();
    for (at, result) in results.into_iter().enumerate() {
        match result {
            Ok(remote) => {
                remote.warnings.iter().for_each(|line| (env.warned)(line));
                connected.push((at, remote));
            }
            Err(failure) => reports[at].failure = Some(failure.remote(env.remotes[at].dial.name())),
        }
    }
    connected
}

/// Archives that every connected remote holds.
fn everywhere(connected: &[(usize, Connected)]) -> HashSet<u64> {
    let Some(((_, first), others)) = connected.split_first() else { return HashSet::new() };
    let mut all = first.present.clone();
    all.retain(|archive| others.iter().all(|(_, other)| other.present.contains(archive)));
    all
}

fn first_failure(remotes: &[RemoteReport]) -> Option<Failure> {
    let required = remotes.iter().filter(|remote| remote.required);
    required.chain(remotes).find_map(|remote| remote.failure.as_ref()).map(stop::again)
}

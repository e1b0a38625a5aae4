//! Backing up: walk → read → chunk → identify → lay → compress → seal → assemble → push → commit → remember.
//!
//! One direction, bounded by one budget of bytes. `course` joins remotes and sets; `set` joins the stages of one set.
//! Nothing below names `crypto::open` or `crypto::identity`: a source cannot read what it has sent.

mod assemble;
pub mod budget;
mod buffers;
pub mod chunk;
pub mod compress;
mod connect;
mod content;
mod course;
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

use crate::config::{Retry, SetOptions};
use crate::crypto::recipient::Recipient;
use crate::crypto::secret::SourceSecret;
use crate::index::{self, Index};
use crate::progress::Progress;
use crate::report::{Failure, Outcome};
use heal::Healing;
use push::Dial;
use shared::format::snapshot::RemoteHead;
use shared::id::{Lineage, SourceId, VerifyKey};
use shared::signature::SigningKey;
use shared::sys::Clock;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
    let first = course::run(env, sets);
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
    let mut second = course::run(env, left)?;
    second.sets.splice(0..0, first.into_iter().flat_map(|report| report.sets));
    Ok(second)
}

impl RemoteReport {
    fn new(plan: &RemotePlan) -> Self {
        let (name, required) = (plan.dial.name().to_owned(), plan.dial.is_required());
        Self { name, required, failure: None, bytes_sent: 0, archives_sent: 0, healing: None }
    }
}

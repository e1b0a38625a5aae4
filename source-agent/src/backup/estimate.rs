//! Walking only: what a run would read, before it does or while it does.

use super::flights::{Everywhere, Flights};
use super::numbers::Numbers;
use super::outcome::Met;
use super::stop::Stop;
use super::store::{LoadedOnce, Shared, Store};
use super::{Env, Input, SetPlan, lay, set, tree, users, walk};
use crate::backup::budget::Budget;
use crate::index::series::{SeriesIndex, SeriesReader};
use crate::index::uses::Spot;
use crate::progress::Progress;
use crate::report::Outcome;
use crossbeam_channel::unbounded;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A run that is over before this needs no estimate.
const ESTIMATE_AFTER: Duration = Duration::from_secs(3);

/// What a run would read, and what it would leave out.
pub fn dry_run(env: &Env, set: &SetPlan) -> Outcome<Arc<Met>> {
    let series = SeriesIndex::open(&env.cache_dir, &env.source, &env.lineage, &env.secret.series(&set.series))?;
    let look = set::Look { force: set::is_forced(env, set, &series)?, all_usable: true };
    let numbers = Arc::new(Mutex::new(Numbers::open(&env.state_dir, 0)?));
    let usable = Usable { everywhere: Arc::default(), sparse: HashSet::new() };
    count(env, &set.plan(env, look)?, series.reader()?, numbers, usable, Arc::new(Stop::new(Budget::new(0))))
}

/// Which places of the last snapshot a run may refer to.
#[derive(Clone)]
struct Usable {
    everywhere: Arc<Everywhere>,
    sparse: HashSet<Spot>,
}

fn count(
    env: &Env,
    plan: &walk::Plan,
    series: SeriesReader,
    numbers: Arc<Mutex<Numbers>>,
    usable: Usable,
    stop: Arc<Stop>,
) -> Outcome<Arc<Met>> {
    let met = Arc::new(Met::default());
    let flights = Arc::new(Flights::default());
    let (jobs, _unused) = unbounded();
    let shared = Shared {
        index: &env.index,
        layer: lay::Layer::new(numbers, Arc::clone(&flights), jobs, env.archive_bytes),
        flights,
        everywhere: usable.everywhere,
        sparse: usable.sparse,
        namer: env.secret.chunk_namer(&env.lineage),
        budget: Budget::new(0),
        stop,
        met: Arc::clone(&met),
        filter: LoadedOnce::default(),
    };
    let (changes, _nobody) = unbounded();
    let output = tree::Output::new(changes);
    let users = users::Users::read();
    let (to_read, _no_reader) = unbounded();
    walk::Walk::new(plan, series, Store::new(&shared), &output, to_read, &users).run()?;
    Ok(met)
}

/// Tells a progress that people see how much there is to read, from a second walk beside the run.
pub struct Estimate<'a> {
    env: &'a Env,
    set: &'a SetPlan,
    /// The last snapshot, as it is before this run writes; taken by the walk.
    series: Option<SeriesReader>,
    numbers: Arc<Mutex<Numbers>>,
    usable: Usable,
    progress: Progress,
    begun: Instant,
    stop: Arc<Stop>,
}

impl<'a> Estimate<'a> {
    pub fn new(
        env: &'a Env,
        set: &'a SetPlan,
        series: &SeriesIndex,
        numbers: &Arc<Mutex<Numbers>>,
        run: &Shared,
        progress: &Progress,
    ) -> Outcome<Self> {
        let is_wanted = progress.is_shown() && matches!(set.input, Input::Paths(_));
        let series = if is_wanted { Some(series.reader()?) } else { None };
        // The run hears of signals, when it is time; this walk ends with it.
        let stop = Arc::new(Stop::deaf(Budget::new(0)));
        let (numbers, progress) = (Arc::clone(numbers), progress.clone());
        let sparse = if is_wanted { run.sparse.clone() } else { HashSet::new() };
        let usable = Usable { everywhere: Arc::clone(&run.everywhere), sparse };
        Ok(Self { env, set, series, numbers, usable, progress, begun: Instant::now(), stop })
    }

    /// The walk, once, when the run has gone on for a while. What it cannot do the run tells.
    pub fn due(&mut self, look: set::Look) -> Option<impl FnOnce() + Send + use<'a>> {
        let series = self.series.take_if(|_| self.begun.elapsed() >= ESTIMATE_AFTER)?;
        let (env, set, progress) = (self.env, self.set, self.progress.clone());
        let (numbers, usable, stop) = (Arc::clone(&self.numbers), self.usable.clone(), Arc::clone(&self.stop));
        Some(move || {
            let plan = set.plan(env, look).map(|plan| walk::Plan { dry: true, on_exclude: None, ..plan });
            if let Ok(met) = plan.and_then(|plan| count(env, &plan, series, numbers, usable, stop)) {
                progress.set_total(met.bytes_read.get());
            }
        })
    }

    /// The run is over: so is the walk.
    pub fn end(self) {
        self.stop.fail(super::stop::stopped());
    }
}

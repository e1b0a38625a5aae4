//! How a run ends early: the first failure wins, everybody who waits is woken.

use super::budget::Budget;
use crate::cli::signals::check_interrupted;
use crate::report::{Exit, Failure, Outcome};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The switch of one run.
pub struct Stop {
    set: AtomicBool,
    /// Does nobody see to it that a signal ends the run at once? Then this switch does.
    listens: AtomicBool,
    failure: Mutex<Option<Failure>>,
    budget: Arc<Budget>,
}

impl Stop {
    pub fn new(budget: Arc<Budget>) -> Self {
        Self { set: AtomicBool::new(false), listens: AtomicBool::new(true), failure: Mutex::new(None), budget }
    }

    /// Of what may end at any moment without a trace: a signal ends the process, until [`Stop::listen`].
    pub fn deaf(budget: Arc<Budget>) -> Self {
        Self { listens: AtomicBool::new(false), ..Self::new(budget) }
    }

    /// From now on signals end the run tidily.
    pub fn listen(&self) {
        self.listens.store(true, Ordering::Release);
    }

    /// Stops the run because of this; later failures are consequences and are dropped.
    pub fn fail(&self, failure: Failure) {
        self.failure.lock().get_or_insert(failure);
        self.set.store(true, Ordering::Release);
        self.budget.close();
    }

    /// Is the run to end?
    pub fn is_set(&self) -> bool {
        if self.listens.load(Ordering::Acquire)
            && let Err(failure) = check_interrupted()
        {
            self.fail(failure.help("run the same command again: what was acknowledged is not sent again"));
        }
        self.set.load(Ordering::Acquire)
    }

    /// Why the run was stopped.
    pub fn check(&self) -> Outcome<()> {
        if !self.is_set() {
            return Ok(());
        }
        Err(self.failure.lock().as_ref().map_or_else(stopped, again))
    }
}

/// A copy of a failure, for those who only hear of it.
pub fn again(failure: &Failure) -> Failure {
    let mut copy = Failure::new(failure.code, failure.exit, failure.message.clone());
    copy.remote = failure.remote.clone();
    copy.details = failure.details.clone();
    copy.help = failure.help.clone();
    copy
}

/// The failure of everybody who was woken by [`Stop::fail`]; the first failure says why.
pub fn stopped() -> Failure {
    Failure::new("stopped", Exit::Failed, "the run was stopped")
}

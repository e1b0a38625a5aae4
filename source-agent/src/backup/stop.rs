//! How a run ends early: the first failure wins, everybody who waits is woken.

use super::budget::Budget;
use crate::report::{Exit, Failure, Outcome};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// Signals that were received; 0 = none. Shared with the signal handlers.
pub type Signal = Arc<AtomicI32>;

/// The switch of one run.
pub struct Stop {
    set: AtomicBool,
    failure: Mutex<Option<Failure>>,
    budget: Arc<Budget>,
    signal: Signal,
}

impl Stop {
    pub fn new(budget: Arc<Budget>, signal: Signal) -> Self {
        Self { set: AtomicBool::new(false), failure: Mutex::new(None), budget, signal }
    }

    /// Stops the run because of this; later failures are consequences and are dropped.
    pub fn fail(&self, failure: Failure) {
        self.failure.lock().get_or_insert(failure);
        self.set.store(true, Ordering::Release);
        self.budget.close();
    }

    /// Is the run to end?
    pub fn is_set(&self) -> bool {
        if let Some(failure) = interrupted(&self.signal) {
            self.fail(failure);
        }
        self.set.load(Ordering::Acquire)
    }

    /// Why the run was stopped.
    pub fn check(&self) -> Outcome<()> {
        if !self.is_set() {
            return Ok(());
        }
        Err(self.failure.lock().take().unwrap_or_else(stopped))
    }
}

/// The failure of everybody who was woken by [`Stop::fail`]; the first failure says why.
pub fn stopped() -> Failure {
    Failure::new("stopped", Exit::Failed, "the run was stopped")
}

/// The failure that a received signal means.
pub fn interrupted(signal: &Signal) -> Option<Failure> {
    let help = "run the same command again: what was acknowledged is not sent again";
    match signal.load(Ordering::Relaxed) {
        0 => None,
        signal_hook::consts::SIGTERM => {
            Some(Failure::new("terminated", Exit::Terminated, "ended by SIGTERM; no snapshot was made").help(help))
        }
        _ => Some(Failure::new("interrupted", Exit::Interrupted, "interrupted; no snapshot was made").help(help)),
    }
}

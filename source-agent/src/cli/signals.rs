//! SIGINT, SIGTERM and SIGHUP end a run, tidily where the code takes part; SIGUSR1 asks for a line of progress.

use crate::report::{Exit, Failure, Outcome};
use parking_lot::Mutex;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// The first signal that asked for the end; zero before it.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// Does any code look at [`interrupted`]?
static POLLED: AtomicBool = AtomicBool::new(false);
/// What is done before a signal ends the process at once.
static LAST: Mutex<Option<LastWish>> = Mutex::new(None);

type LastWish = Box<dyn FnOnce(Failure) + Send>;

/// Has a signal asked for the end? Code that runs long polls this and ends tidily. By polling it takes over the duty
/// to end: without any poller the signal ends the process at once; a second signal does so in any case.
pub fn interrupted() -> bool {
    POLLED.store(true, Ordering::Relaxed);
    SIGNAL.load(Ordering::Relaxed) != 0
}

/// [`interrupted`] as a failure with exit code 129, 130 or 143.
pub fn check_interrupted() -> Outcome<()> {
    if !interrupted() {
        return Ok(());
    }
    Err(ended_by(SIGNAL.load(Ordering::Relaxed)))
}

fn ended_by(signal: i32) -> Failure {
    match signal {
        SIGTERM => Failure::new("terminated", Exit::Terminated, "ended by SIGTERM"),
        SIGHUP => Failure::new("hung-up", Exit::HungUp, "ended by SIGHUP: the terminal or login is gone"),
        _ => Failure::new("interrupted", Exit::Interrupted, "interrupted"),
    }
}

/// For as long as it is there, what was given to [`before_end`] is done before a signal ends the process at once.
pub struct BeforeEnd(());

/// Has this done where a signal ends the process while nobody polls, once.
pub fn before_end(wish: impl FnOnce(Failure) + Send + 'static) -> BeforeEnd {
    *LAST.lock() = Some(Box::new(wish));
    BeforeEnd(())
}

impl Drop for BeforeEnd {
    /// Where it is being done, this waits for the end of the process.
    fn drop(&mut self) {
        LAST.lock().take();
    }
}

/// Starts the thread that waits for signals.
pub fn watch() -> std::io::Result<()> {
    let ends = [SIGINT, SIGTERM].into_iter().chain((!ignores_hangup()).then_some(SIGHUP));
    let mut signals = signal_hook::iterator::Signals::new(ends.chain([SIGUSR1]))?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            arrived(signal);
        }
    })?;
    Ok(())
}

/// Was this program started to outlive its terminal (`nohup`)?
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (SIGHUP - 1) & 1 == 1
}

fn arrived(signal: i32) {
    if signal == SIGUSR1 {
        return crate::progress::poke();
    }
    let first = SIGNAL.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed).is_ok();
    if first && POLLED.load(Ordering::Relaxed) {
        return;
    }
    crate::keys::passphrase::restore_terminal();
    let failure = ended_by(signal);
    let exit = failure.exit as i32;
    // Held until the process is gone: who ends meanwhile does not do the same again.
    let mut last = LAST.lock();
    if let Some(wish) = last.take().filter(|_| first) {
        wish(failure);
    }
    std::process::exit(exit);
}

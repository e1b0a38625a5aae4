//! SIGINT and SIGTERM end a run, tidily where the code takes part; SIGUSR1 asks for a line of progress.

use crate::report::{Exit, Failure, Outcome};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// The first signal that asked for the end; zero before it.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// Does any code look at [`interrupted`]?
static POLLED: AtomicBool = AtomicBool::new(false);

/// Has SIGINT or SIGTERM arrived? Code that runs long polls this and ends tidily. By polling it takes over the duty
/// to end: without any poller the signal ends the process at once; a second signal does so in any case.
pub fn interrupted() -> bool {
    POLLED.store(true, Ordering::Relaxed);
    SIGNAL.load(Ordering::Relaxed) != 0
}

/// [`interrupted`] as a failure with exit code 130 or 143.
pub fn check_interrupted() -> Outcome<()> {
    if !interrupted() {
        return Ok(());
    }
    Err(match SIGNAL.load(Ordering::Relaxed) {
        SIGTERM => Failure::new("terminated", Exit::Terminated, "ended by SIGTERM"),
        _ => Failure::new("interrupted", Exit::Interrupted, "interrupted"),
    })
}

/// Starts the thread that waits for signals.
pub fn watch() -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGUSR1])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            arrived(signal);
        }
    })?;
    Ok(())
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
    std::process::exit(if signal == SIGTERM { Exit::Terminated as i32 } else { Exit::Interrupted as i32 });
}

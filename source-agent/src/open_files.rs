//! The limit of open files: directories are kept open on the way.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More would help nobody.
const WANTED: u64 = 65_536;

/// Raises the limit as far as this process may. Returns what holds then: with few, work only takes more calls.
pub fn raise() -> u64 {
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.unwrap_or(WANTED).min(WANTED);
    match now.current {
        Some(current) if current < wanted => {
            let more = Rlimit { current: Some(wanted), maximum: now.maximum };
            if setrlimit(Resource::Nofile, more).is_ok() { wanted } else { current }
        }
        Some(current) => current,
        None => WANTED,
    }
}

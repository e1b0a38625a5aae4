//! Upload limits: bytes are let through in small pieces, so that a slow line stays usable for others.

use crate::cli::interrupted;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes let through at a time.
const PIECE_BYTES: usize = 64 << 10;
/// How often who waits looks whether the run is to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Bytes per second; clones count together.
#[derive(Clone)]
pub struct Limit(Arc<Mutex<State>>);

struct State {
    bytes_per_second: u64,
    /// When what was let through so far has had its time.
    paid: Instant,
}

impl Limit {
    pub fn new(bytes_per_second: u64) -> Self {
        Self(Arc::new(Mutex::new(State { bytes_per_second: bytes_per_second.max(1), paid: Instant::now() })))
    }

    /// Waits until so many bytes may go, or a signal asks for the end.
    pub fn pass(&self, bytes: usize) {
        let until = {
            let mut state = self.0.lock();
            let begin = state.paid.max(Instant::now());
            let time = Duration::from_secs_f64(bytes as f64 / state.bytes_per_second as f64);
            state.paid = begin + time;
            begin
        };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || interrupted() {
                break;
            }
            std::thread::sleep(left.min(LOOK_EVERY));
        }
    }
}

/// The parts of an archive, in pieces that wait for all limits.
pub fn limited<'a>(parts: &'a [Vec<u8>], limits: &'a [Limit]) -> impl Iterator<Item = &'a [u8]> {
    let piece_bytes = if limits.is_empty() { usize::MAX } else { PIECE_BYTES };
    parts.iter().flat_map(move |part| part.chunks(piece_bytes)).inspect(move |piece| {
        for limit in limits {
            limit.pass(piece.len());
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_takes_its_time_and_changes_nothing() {
        let parts = vec![vec![1; 100_000], vec![2; 4096]];
        let begin = Instant::now();
        let limits = [Limit::new(400_000)];
        let out: Vec<u8> = limited(&parts, &limits).flatten().copied().collect();
        assert_eq!(out, parts.concat());
        assert!(begin.elapsed() >= Duration::from_millis(200), "{:?}", begin.elapsed());
        assert_eq!(limited(&parts, &[]).count(), 2);
    }
}

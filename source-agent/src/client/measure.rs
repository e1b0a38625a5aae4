//! How fast the way to a sink is.

use super::Client;
use crate::report::Outcome;
use shared::limits::PING_BYTES_MAX;
use shared::wire::Frame;
use shared::wire::request::tag;
use std::time::{Duration, Instant};

/// A batch of pings that takes so long says enough.
const MEASURED_FOR: Duration = Duration::from_millis(250);
/// The largest batch: 32 MiB.
const MEASURED_PINGS: u64 = 512;
/// Pings on their way: 4 MiB. The answers to more could fill what lies between before anybody reads them.
const AHEAD: u64 = 64;

/// What a line carries towards the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speed {
    pub round_trip: Duration,
    pub bytes_per_second: u64,
}

impl Client {
    /// Time of a round trip, and bytes per second towards the sink: a second of pings filled with random bytes at most.
    pub fn measure(&mut self) -> Outcome<Speed> {
        let mut round_trip = Duration::MAX;
        for _ in 0..3 {
            let started = Instant::now();
            self.ping()?;
            round_trip = round_trip.min(started.elapsed());
        }
        let filling = shared::sys::random::<PING_BYTES_MAX>();
        let mut pings = 1;
        loop {
            let started = Instant::now();
            let ahead = pings.min(AHEAD);
            for at in 0..pings + ahead {
                if at < pings {
                    self.send(&Frame { tag: tag::PING, payload: filling.to_vec() })?;
                }
                if at >= ahead {
                    self.pong()?;
                }
            }
            let net = started.elapsed().saturating_sub(round_trip).max(Duration::from_micros(1));
            if net >= MEASURED_FOR || pings >= MEASURED_PINGS {
                let bytes = pings as f64 * PING_BYTES_MAX as f64;
                return Ok(Speed { round_trip, bytes_per_second: (bytes / net.as_secs_f64()) as u64 });
            }
            pings *= 2;
        }
    }
}

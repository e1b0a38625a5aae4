//! One budget over all plaintext and ciphertext in flight, in bytes, whatever the data's size.
//!
//! Why it cannot lock up: a thread that waits here holds no permit. Permits are held by blocks being filled, blocks in
//! work, sealed blocks of open archives and archives on their way; work and sending need no permit, so all of them end
//! but the open archives. These hold at most [`OPEN_BYTES_MAX`], which is below any budget ([`BUDGET_BYTES_MIN`]) by more
//! than one request may ask for ([`REQUEST_BYTES_MAX`]).

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;

/// The most that open archives (one of data, one of metadata) and their open blocks can hold.
pub const OPEN_BYTES_MAX: u64 = 2 * (super::lay::ARCHIVE_BYTES_TARGET + 2 * super::lay::BLOCK_BYTES_MOST);
/// The largest request: one chunk or node.
pub const REQUEST_BYTES_MAX: u64 = shared::limits::CHUNK_BYTES_MAX as u64;
/// The smallest budget that cannot lock up.
pub const BUDGET_BYTES_MIN: u64 = OPEN_BYTES_MAX + REQUEST_BYTES_MAX;
/// What a run uses.
pub const BUDGET_BYTES: u64 = 56 << 20;

const _: () = assert!(BUDGET_BYTES >= BUDGET_BYTES_MIN);

/// Counts bytes; hands out permits.
pub struct Budget {
    state: Mutex<State>,
    freed: Condvar,
}

struct State {
    free: u64,
    closed: bool,
}

/// So many bytes; given back when dropped.
pub struct Permit {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// A budget of at least [`BUDGET_BYTES_MIN`].
    pub fn new(bytes: u64) -> Arc<Self> {
        let free = bytes.max(BUDGET_BYTES_MIN);
        Arc::new(Self { state: Mutex::new(State { free, closed: false }), freed: Condvar::new() })
    }

    /// Waits until so many bytes are free; `None` once the run was stopped.
    pub fn acquire(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        let mut state = self.state.lock();
        while state.free < bytes && !state.closed {
            self.freed.wait(&mut state);
        }
        if state.closed {
            return None;
        }
        state.free -= bytes;
        Some(Permit { budget: Arc::clone(self), bytes })
    }

    /// Wakes everybody who waits; nothing more is handed out.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.freed.notify_all();
    }

    /// Bytes that nobody holds.
    pub fn free(&self) -> u64 {
        self.state.lock().free
    }
}

impl Permit {
    /// Joins two permits of the same budget.
    pub fn merge(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
    /// Gives back what is held above `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.budget.release(surplus);
    }
}

impl Budget {
    fn release(&self, bytes: u64) {
        if bytes > 0 {
            self.state.lock().free += bytes;
            self.freed.notify_all();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_come_back_and_closing_wakes() {
        let budget = Budget::new(0);
        let all = budget.free();
        let mut permit = budget.acquire(all).unwrap();
        permit.shrink_to(all - 10);
        assert_eq!(budget.free(), 10);
        permit.merge(budget.acquire(10).unwrap());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| budget.acquire(1).is_none());
            std::thread::sleep(std::time::Duration::from_millis(20));
            budget.close();
            assert!(waiting.join().unwrap());
        });
        drop(permit);
        assert_eq!(budget.free(), all);
    }
}

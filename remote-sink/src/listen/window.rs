//! How much a client may send ahead of the session's process.
//!
//! The server renews a channel's window when half of it was used, whether or not the bytes were consumed. So the next
//! window is chosen by what waits: it grows while nothing waits, shrinks when something does, and is two bytes (the
//! least that keeps renewing) while much waits. The network itself is always read, so answers keep flowing
//! and a client that sends and asks at once cannot bring both directions to a halt.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Window of a new channel.
pub const FIRST: u32 = 2 << 20;
/// Largest window: what a fast line with 100 ms round trips fills at 300 MiB/s.
pub const LARGEST: u32 = 32 << 20;
/// The least that keeps renewing.
const STALLED: u32 = 2;
/// The packets of a stalled client are no longer than this.
pub const STALLED_BYTES: usize = STALLED as usize;
/// More than this waiting stalls the client.
pub const ROOM: u64 = 8 << 20;
/// No client that keeps to its windows can have more waiting: a window is chosen while no more than [`ROOM`] waits, and
/// opened when the one before it, chosen earlier, is half used up.
pub const WAITING_MAX: u64 = ROOM + 2 * (LARGEST as u64);

/// Bytes by which the windows of all sessions may be larger than [`FIRST`].
#[derive(Debug)]
pub struct Budget(AtomicU64);

impl Budget {
    pub fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(bytes)))
    }
    fn take(&self, bytes: u64) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
    fn give(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The window of one connection.
#[derive(Debug)]
pub struct Window {
    size: u32,
    budget: Arc<Budget>,
}

impl Window {
    pub fn new(budget: Arc<Budget>) -> Self {
        Self { size: FIRST, budget }
    }

    /// The next window, when `waiting` bytes have not reached the session's process.
    pub fn next(&mut self, waiting: u64) -> u32 {
        if waiting > ROOM {
            self.shrink(FIRST);
            return STALLED;
        }
        let size = u64::from(self.size);
        if waiting > size / 2 {
            self.shrink(FIRST.max(self.size / 2));
        } else if waiting < size / 8 && self.size < LARGEST && self.budget.take(size) {
            self.size *= 2;
        }
        self.size
    }

    fn shrink(&mut self, size: u32) {
        self.budget.give(u64::from(self.size - size));
        self.size = size;
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.shrink(FIRST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_while_nothing_waits_and_stalls_when_much_does() {
        let budget = Budget::new(1 << 30);
        let mut window = Window::new(budget.clone());
        let sizes: Vec<u32> = (0..6).map(|_| window.next(0)).collect();
        assert_eq!(sizes, [4 << 20, 8 << 20, 16 << 20, 32 << 20, 32 << 20, 32 << 20]);
        assert_eq!(window.next(ROOM + 1), STALLED);
        assert_eq!(window.next(0), 4 << 20);
        drop(window);
        assert_eq!(budget.0.load(Ordering::Relaxed), 1 << 30, "everything is given back");
    }

    #[test]
    fn all_windows_together_stay_within_the_budget() {
        let budget = Budget::new(3 << 20);
        let (mut a, mut b) = (Window::new(budget.clone()), Window::new(budget));
        assert_eq!((a.next(0), b.next(0), a.next(0)), (4 << 20, FIRST, 4 << 20));
        drop(a);
        assert_eq!(b.next(0), 4 << 20);
    }
}

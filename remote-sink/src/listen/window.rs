//! How much a client may send ahead of the session's process.
//!
//! The server renews a channel's window when half of it was used, whether or not the bytes were consumed. So the next
//! window is chosen by what waits: it grows while nothing waits, shrinks when something does, and is two bytes (the
//! least that keeps renewing) while much waits, in this session or in all of them. The network itself is always read, so answers keep flowing
//! and a client that sends and asks at once cannot bring both directions to a halt.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Window of a new channel.
pub const FIRST: u32 = 512 << 10;
/// Largest window: what a fast line with 100 ms round trips fills at 300 MiB/s.
pub const LARGEST: u32 = 32 << 20;
/// The least that keeps renewing.
const STALLED: u32 = 2;
/// The packets of a stalled client are no longer than this.
pub const STALLED_BYTES: usize = STALLED as usize;
/// More than this waiting stalls the client.
const ROOM: u64 = 4 << 20;
/// While more than this waits in all sessions together, each has little room.
const CROWD: u64 = 32 << 20;
const ROOM_IN_A_CROWD: u64 = FIRST as u64;
/// What all sessions share, in bytes.
#[derive(Debug)]
pub struct Budget {
    /// How much the windows of all sessions may still grow beyond [`FIRST`].
    spare: AtomicU64,
    /// What has not reached the sessions' processes.
    waiting: AtomicU64,
}

impl Budget {
    pub fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { spare: AtomicU64::new(bytes), waiting: AtomicU64::new(0) })
    }
    fn take(&self, bytes: u64) -> bool {
        self.spare.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
    fn give(&self, bytes: u64) {
        self.spare.fetch_add(bytes, Ordering::Relaxed);
    }
    /// These wait now.
    pub fn came(&self, bytes: u64) {
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
    }
    /// These reached a process, or are of no use any more.
    pub fn went(&self, bytes: u64) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }
    /// How much may wait in one session before its client is stalled.
    pub fn room(&self) -> u64 {
        if self.waiting.load(Ordering::Relaxed) > CROWD { ROOM_IN_A_CROWD } else { ROOM }
    }
}

/// The window of one connection.
#[derive(Debug)]
pub struct Window {
    size: u32,
    /// The window that is open, and the next one, as they were last chosen while there was room.
    chosen: (u32, u32),
    budget: Arc<Budget>,
}

impl Window {
    pub fn new(budget: Arc<Budget>) -> Self {
        Self { size: FIRST, chosen: (FIRST, FIRST), budget }
    }

    /// The next window, when `waiting` bytes have not reached the session's process.
    pub fn next(&mut self, waiting: u64) -> u32 {
        if waiting > self.budget.room() {
            self.shrink(FIRST);
            return STALLED;
        }
        let size = u64::from(self.size);
        if waiting > size / 2 {
            self.shrink(FIRST.max(self.size / 2));
        } else if waiting < size / 8 && self.size < LARGEST && self.budget.take(size) {
            self.size *= 2;
        }
        self.chosen = (self.chosen.1, self.size);
        self.size
    }

    /// No client that keeps to its windows can have more waiting: a window is chosen while no more than [`ROOM`] waits,
    /// and opened when the one before it, chosen earlier, is half used up.
    pub fn waiting_max(&self) -> u64 {
        ROOM + u64::from(self.chosen.0) + u64::from(self.chosen.1)
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
        assert_eq!(sizes, [2 * FIRST, 4 * FIRST, 8 * FIRST, 16 * FIRST, 32 * FIRST, LARGEST]);
        assert_eq!(window.next(ROOM + 1), STALLED);
        assert_eq!(window.next(0), 2 * FIRST);
        drop(window);
        assert_eq!(budget.spare.load(Ordering::Relaxed), 1 << 30, "everything is given back");
    }

    #[test]
    fn what_may_wait_is_what_was_chosen_while_there_was_room() {
        let mut window = Window::new(Budget::new(1 << 30));
        let max = |parts: u64| ROOM + parts * u64::from(FIRST);
        assert_eq!(window.waiting_max(), max(2));
        window.next(0);
        assert_eq!(window.waiting_max(), max(1 + 2));
        window.next(0);
        window.next(ROOM + 1);
        assert_eq!(window.waiting_max(), max(2 + 4), "those two may still be on their way");
        window.next(0);
        window.next(0);
        assert_eq!(window.waiting_max(), max(2 + 4));
    }

    #[test]
    fn all_windows_together_stay_within_the_budget() {
        let budget = Budget::new(u64::from(FIRST));
        let (mut a, mut b) = (Window::new(budget.clone()), Window::new(budget));
        assert_eq!((a.next(0), b.next(0), a.next(0)), (2 * FIRST, FIRST, 2 * FIRST));
        drop(a);
        assert_eq!(b.next(0), 2 * FIRST);
    }

    #[test]
    fn in_a_crowd_everybody_has_less_room() {
        let budget = Budget::new(0);
        let mut window = Window::new(budget.clone());
        budget.came(CROWD);
        assert_eq!(window.next(ROOM), FIRST);
        budget.came(1);
        assert_eq!((window.next(ROOM_IN_A_CROWD + 1), window.next(ROOM_IN_A_CROWD)), (STALLED, FIRST));
        budget.went(1);
        assert_eq!(window.next(ROOM), FIRST);
    }
}

//! What a run met: nothing is skipped silently. Counted, listed up to a bound, and part of the exit code.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Paths of one kind that are listed; all are counted.
const LISTED_MAX: usize = 10_000;

/// A counter that many threads add to.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Paths with a reason each.
#[derive(Debug, Default)]
pub struct Listed {
    count: Count,
    list: Mutex<Vec<(Vec<u8>, String)>>,
}

impl Listed {
    pub fn add(&self, path: &[u8], why: impl Into<String>) {
        self.count.add(1);
        let mut list = self.list.lock();
        if list.len() < LISTED_MAX {
            list.push((path.to_vec(), why.into()));
        }
    }
    pub fn count(&self) -> u64 {
        self.count.get()
    }
    /// What is listed, by path.
    pub fn sorted(&self) -> Vec<(Vec<u8>, String)> {
        let mut list = self.list.lock().clone();
        list.sort();
        list
    }
}

/// Everything that one set's run met.
#[derive(Debug, Default)]
pub struct Met {
    pub files: Count,
    pub directories: Count,
    pub others: Count,
    /// Bytes of all files of the snapshot.
    pub bytes: Count,
    pub files_new: Count,
    pub files_changed: Count,
    pub files_unmodified: Count,
    pub dirs_new: Count,
    pub dirs_changed: Count,
    pub dirs_unmodified: Count,
    pub bytes_read: Count,
    /// Plaintext of chunks that no remote had.
    pub bytes_new: Count,
    pub chunks_new: Count,
    /// Sealed bytes of the archives made.
    pub bytes_stored: Count,
    pub sockets: Count,
    pub excluded: Count,
    /// Files and directories that could not be read, and named paths that are missing: exit code 3.
    pub unreadable: Listed,
    /// Changed while they were read, or gone before: notes.
    pub changed: Listed,
    pub vanished: Listed,
    /// Directories on other file systems that were not entered.
    pub mounts: Listed,
}

/// A path for people.
pub fn shown(path: &[u8]) -> String {
    if path.is_empty() { "/".into() } else { shared::text::printable(path, 4096) }
}

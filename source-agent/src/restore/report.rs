//! What a restore did and what it could not do, bounded in memory.

use crate::report::{Exit, Failure};
use crate::restore::findings::Findings;
use crate::restore::metadata::Notes;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lost paths that are kept by name; more are counted.
const NAMED_MAX: usize = 100_000;

/// Something of the snapshot that is not in the target.
#[derive(Debug, Clone)]
pub struct Lost {
    /// Path in the snapshot.
    pub path: Vec<u8>,
    pub why: String,
}

/// Names of what is missing.
#[derive(Debug, Default)]
pub struct LostList {
    kept: Mutex<Vec<Lost>>,
    /// Because of the vault: missing or altered objects.
    vault: AtomicU64,
    /// Because of this machine: rights, names that its file system does not take, …
    local: AtomicU64,
}

impl LostList {
    pub fn add(&self, path: Vec<u8>, failure: &Failure) {
        let vault = matches!(failure.exit, Exit::Tampered | Exit::NotFound | Exit::Identity);
        if vault { &self.vault } else { &self.local }.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.kept.lock();
        if kept.len() < NAMED_MAX {
            kept.push(Lost { path, why: failure.message.clone() });
        }
    }
    pub fn count(&self) -> u64 {
        self.vault.load(Ordering::Relaxed) + self.local.load(Ordering::Relaxed)
    }
    pub fn from_vault(&self) -> u64 {
        self.vault.load(Ordering::Relaxed)
    }
    pub fn named(&self) -> Vec<Lost> {
        self.kept.lock().clone()
    }
}

/// The result of a restore.
#[derive(Debug, Default)]
pub struct Report {
    pub files: u64,
    pub directories: u64,
    pub others: u64,
    pub links: u64,
    /// Bytes of the restored files.
    pub bytes: u64,
    /// Entries left as they were.
    pub kept: u64,
    /// Files with the same content: metadata alone was set.
    pub unchanged: u64,
    pub deleted: u64,
    /// What was deleted, or would be, the first of it: paths of the target.
    pub deletions: Vec<Vec<u8>>,
    pub devices_skipped: u64,
    /// Directories whose content the source had not read.
    pub unread: u64,
    pub verified: u64,
    pub lost: LostList,
    pub findings: Findings,
    pub notes: Notes,
}

impl Report {
    /// Nothing of the snapshot was asked for.
    pub fn is_empty(&self) -> bool {
        let met = [self.files, self.directories, self.others, self.links, self.kept, self.unchanged];
        met.iter().all(|count| *count == 0) && self.lost.count() == 0 && self.devices_skipped == 0
    }

    /// 13 when anything did not fit what was signed; 1 when this machine could not take something.
    pub fn exit(&self) -> Exit {
        if !self.findings.is_empty() || self.lost.from_vault() > 0 {
            Exit::Tampered
        } else if self.lost.count() > 0 {
            Exit::Failed
        } else {
            Exit::Done
        }
    }
}

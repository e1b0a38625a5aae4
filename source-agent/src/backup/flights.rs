//! Chunks that are laid and not yet settled on the remotes, and archives that every remote of the run holds.

use super::buffers::Buffers;
use crate::index::uses::Spot;
use parking_lot::{Mutex, RwLock};
use shared::id::ChunkId;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// Chunk ids are keyed hashes: their first bytes are the hash.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }
    fn write_usize(&mut self, _length: usize) {}
}

type Map = HashMap<ChunkId, Spot, BuildHasherDefault<IdHasher>>;

/// Chunks on their way. As large as the budget allows, whatever the data's size.
#[derive(Default)]
pub struct Flights {
    map: Mutex<Map>,
    /// What they are laid into.
    pub buffers: Buffers,
}

impl Flights {
    pub fn get(&self, id: &ChunkId) -> Option<Spot> {
        self.map.lock().get(id).copied()
    }
    pub(super) fn add(&self, id: ChunkId, spot: Spot) {
        self.map.lock().insert(id, spot);
    }
    /// An archive is settled: its chunks are found in the index from now on, or are given up.
    pub(super) fn land<'a>(&self, archive: u64, ids: impl Iterator<Item = &'a ChunkId>) {
        let mut map = self.map.lock();
        for id in ids {
            if map.get(id).is_some_and(|spot| spot.archive == archive) {
                map.remove(id);
            }
        }
    }
}

/// Archives that every remote of the run holds: only these may be referred to.
#[derive(Default)]
pub struct Everywhere {
    archives: RwLock<HashSet<u64>>,
}

impl Everywhere {
    pub fn new(archives: HashSet<u64>) -> Self {
        Self { archives: RwLock::new(archives) }
    }
    pub fn holds(&self, archive: u64) -> bool {
        self.archives.read().contains(&archive)
    }
    pub fn add(&self, archive: u64) {
        self.archives.write().insert(archive);
    }
    pub fn remove(&self, archives: &[u64]) {
        let mut all = self.archives.write();
        for archive in archives {
            all.remove(archive);
        }
    }
}

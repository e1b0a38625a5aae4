//! Identifying: is this chunk known? On its way in this run, or in the index and on every remote of the run; if not,
//! it is laid.

use super::budget::Budget;
use super::flights::{Everywhere, Flights};
use super::lay::{Laid, Lane, Layer};
use super::outcome::Met;
use super::stop::{Stop, stopped};
use crate::crypto::secret::ChunkNamer;
use crate::index::filter::Filter;
use crate::index::uses::Spot;
use crate::index::{Index, Lookup};
use crate::report::{Exit, Failure, Outcome};
use crate::tree::ChunkRef;
use parking_lot::Mutex;
use shared::id::{ArchiveNumber, ChunkId};
use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

/// What all threads of a run share to store chunks.
pub struct Shared<'a> {
    pub index: &'a Index,
    pub layer: Layer,
    pub flights: Arc<Flights>,
    pub everywhere: Arc<Everywhere>,
    /// Blocks that are mostly dead, or damaged at a remote and not to be healed: what lies in them is laid again.
    pub sparse: HashSet<Spot>,
    pub namer: ChunkNamer,
    pub budget: Arc<Budget>,
    pub stop: Arc<Stop>,
    pub met: Arc<Met>,
    /// Loaded with the first chunk: an unchanged run asks for none.
    pub filter: LoadedOnce,
}

/// A filter that one thread loads while the others wait: with many ids it is large, and each would load its own.
#[derive(Default)]
pub struct LoadedOnce {
    filter: OnceLock<Filter>,
    loading: Mutex<()>,
}

impl Shared<'_> {
    /// May a snapshot of this run refer to this place?
    pub fn is_usable(&self, spot: Spot) -> bool {
        self.everywhere.holds(spot.archive) && !self.sparse.contains(&spot)
    }

    fn filter(&self) -> Outcome<&Filter> {
        self.filter.get(|| self.index.filter())
    }
}

impl LoadedOnce {
    /// The filter; loaded by `load` if there is none yet. After a failure the next one tries again.
    fn get(&self, load: impl FnOnce() -> Outcome<Filter>) -> Outcome<&Filter> {
        if let Some(filter) = self.filter.get() {
            return Ok(filter);
        }
        let _loading = self.loading.lock();
        if let Some(filter) = self.filter.get() {
            return Ok(filter);
        }
        let loaded = load()?;
        Ok(self.filter.get_or_init(|| loaded))
    }
}

/// Takes chunks and says where they are: what content and nodes are made for.
pub trait Keep {
    fn put(&mut self, lane: Lane, chunk: &[u8]) -> Outcome<ChunkRef>;
}

/// One thread's door to the store.
pub struct Store<'a> {
    shared: &'a Shared<'a>,
    lookup: Option<Lookup>,
}

impl<'a> Store<'a> {
    pub fn new(shared: &'a Shared<'a>) -> Self {
        Self { shared, lookup: None }
    }

    pub fn shared(&self) -> &'a Shared<'a> {
        self.shared
    }

    fn find(&mut self, id: &ChunkId) -> Outcome<Option<Spot>> {
        if let Some(spot) = self.shared.flights.get(id) {
            return Ok(Some(spot));
        }
        let lookup = match &self.lookup {
            Some(lookup) => lookup,
            None => self.lookup.insert(self.shared.index.lookup()?),
        };
        Ok(lookup.find(id)?.filter(|spot| self.shared.is_usable(*spot)))
    }
}

impl Keep for Store<'_> {
    /// Makes sure that a chunk is, or will be, on every remote of the run; returns its name and place.
    fn put(&mut self, lane: Lane, chunk: &[u8]) -> Outcome<ChunkRef> {
        let shared = self.shared;
        let id = shared.namer.name(chunk);
        let filter = shared.filter()?;
        if filter.maybe(&id)
            && let Some(spot) = self.find(&id)?
        {
            return reference(id, chunk.len(), spot);
        }
        let permit = shared.budget.acquire(chunk.len() as u64).ok_or_else(stopped)?;
        let spot = match shared.layer.lay(lane, id, chunk, permit)? {
            Laid::Known(spot) => spot,
            Laid::New(spot) => {
                shared.met.bytes_new.add(chunk.len() as u64);
                shared.met.chunks_new.add(1);
                filter.add(&id);
                spot
            }
        };
        reference(id, chunk.len(), spot)
    }
}

pub fn reference(id: ChunkId, bytes: usize, spot: Spot) -> Outcome<ChunkRef> {
    let archive = ArchiveNumber::new(spot.archive)
        .map_err(|e| Failure::new(crate::index::DAMAGED, Exit::Failed, e.to_string()))?;
    Ok(ChunkRef { id, bytes: bytes as u32, archive, block: spot.block })
}

/// The place of a reference.
pub fn spot(chunk: &ChunkRef) -> Spot {
    Spot { archive: chunk.archive.get(), block: chunk.block }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_filter_is_loaded_by_one_thread() {
        let (once, loads) = (LoadedOnce::default(), AtomicUsize::new(0));
        let load = || {
            loads.fetch_add(1, Ordering::Relaxed);
            Ok(Filter::new(1))
        };
        let failed = || Err(Failure::new("test", Exit::Failed, "not this time"));
        assert!(once.get(failed).is_err());
        let gate = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    gate.wait();
                    assert!(once.get(load).is_ok());
                });
            }
        });
        assert_eq!(loads.load(Ordering::Relaxed), 1);
    }
}

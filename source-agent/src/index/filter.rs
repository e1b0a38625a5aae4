//! A Bloom filter over chunk ids: new data asks SQLite almost never. Ids are keyed hashes, so their own bytes serve.

use shared::id::ChunkId;
use std::sync::atomic::{AtomicU64, Ordering};

/// Largest filter: 32 MiB. With more ids it says "maybe" more often, which is only slower.
const BITS_MAX: u64 = 1 << 28;
/// At least so many bits for each id, and at most twice as many: of unknown ids one in 150 is asked for in vain.
const BITS_EACH: u64 = 12;
const BITS_MIN: u64 = 1 << 20;

/// May say "maybe" for an id that was never added, never "no" for one that was.
pub struct Filter {
    words: Box<[AtomicU64]>,
    mask: u64,
}

impl Filter {
    /// For about so many ids.
    pub fn new(ids: u64) -> Self {
        let bits = ids.saturating_mul(BITS_EACH).clamp(BITS_MIN, BITS_MAX).next_power_of_two();
        let words = (0..bits / 64).map(|_| AtomicU64::new(0)).collect();
        Self { words, mask: bits - 1 }
    }

    fn places(&self, id: &ChunkId) -> [u64; 4] {
        let mut places = [0; 4];
        for (place, bytes) in places.iter_mut().zip(id.as_bytes().as_chunks::<8>().0) {
            *place = u64::from_le_bytes(*bytes) & self.mask;
        }
        places
    }

    pub fn add(&self, id: &ChunkId) {
        for place in self.places(id) {
            self.words[(place / 64) as usize].fetch_or(1 << (place % 64), Ordering::Relaxed);
        }
    }

    pub fn maybe(&self, id: &ChunkId) -> bool {
        self.places(id)
            .iter()
            .all(|place| self.words[(place / 64) as usize].load(Ordering::Relaxed) >> (place % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_forgets_and_seldom_errs() {
        let filter = Filter::new(10_000);
        let ids: Vec<ChunkId> = (0..20_000).map(|_| ChunkId::new(shared::sys::random())).collect();
        ids[..10_000].iter().for_each(|id| filter.add(id));
        assert!(ids[..10_000].iter().all(|id| filter.maybe(id)));
        assert!(ids[10_000..].iter().filter(|id| filter.maybe(id)).count() < 200);
    }
}

//! A Bloom filter over chunk ids: new data asks SQLite almost never. Ids are keyed hashes, so their own bytes serve.
//!
//! It grows in layers as ids are added, so that a first backup of many chunks is as quick at its end as at its beginning.

use shared::id::ChunkId;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// All layers together: 32 MiB. With more ids it says "maybe" more often, which is only slower.
const BITS_MAX: u64 = 1 << 28;
/// At least so many bits for each id, and at most twice as many: of unknown ids one in 150 is asked for in vain, for
/// each layer that is full.
const BITS_EACH: u64 = 12;
const BITS_MIN: u64 = 1 << 20;
/// The second layer is as large as the first, each further one twice as large as the one before.
const LAYERS_MAX: usize = 1 + (BITS_MAX / BITS_MIN).ilog2() as usize;

/// May say "maybe" for an id that was never added, never "no" for one that was.
pub struct Filter {
    layers: [OnceLock<Box<[AtomicU64]>>; LAYERS_MAX],
    /// Bits of the first layer, a power of two.
    bits: u64,
    added: AtomicU64,
}

impl Filter {
    /// For about so many ids at first.
    pub fn new(ids: u64) -> Self {
        let bits = ids.saturating_mul(BITS_EACH).clamp(BITS_MIN, BITS_MAX).next_power_of_two();
        Self { layers: [const { OnceLock::new() }; LAYERS_MAX], bits, added: AtomicU64::new(0) }
    }

    /// Which layer takes the id that so many were added before, and its bits.
    fn layer(&self, added: u64) -> (usize, u64) {
        let last = (BITS_MAX / self.bits).ilog2();
        let times = added / (self.bits / BITS_EACH);
        let at = times.checked_ilog2().map_or(0, |log| log + 1).min(last);
        (at as usize, self.bits << at.saturating_sub(1))
    }

    pub fn add(&self, id: &ChunkId) {
        let (at, bits) = self.layer(self.added.fetch_add(1, Ordering::Relaxed));
        let words = self.layers[at].get_or_init(|| (0..bits / 64).map(|_| AtomicU64::new(0)).collect());
        for (word, bit) in places(id, words) {
            words[word].fetch_or(bit, Ordering::Relaxed);
        }
    }

    pub fn maybe(&self, id: &ChunkId) -> bool {
        let has = |words: &[AtomicU64]| {
            places(id, words).into_iter().all(|(word, bit)| words[word].load(Ordering::Relaxed) & bit != 0)
        };
        self.layers.iter().filter_map(OnceLock::get).any(|words| has(words))
    }
}

/// The bits that an id has in a layer: the word and the bit in it. The number of words is a power of two.
fn places(id: &ChunkId, words: &[AtomicU64]) -> [(usize, u64); 4] {
    let mut places = [(0, 0); 4];
    for (place, bytes) in places.iter_mut().zip(id.as_bytes().as_chunks::<8>().0) {
        let number = u64::from_le_bytes(*bytes);
        *place = ((number / 64) as usize & (words.len() - 1), 1 << (number % 64));
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(ids: usize) -> Vec<ChunkId> {
        (0..ids).map(|_| ChunkId::new(shared::sys::random())).collect()
    }

    #[test]
    fn never_forgets_and_seldom_errs() {
        let filter = Filter::new(10_000);
        let ids = random(20_000);
        ids[..10_000].iter().for_each(|id| filter.add(id));
        assert!(ids[..10_000].iter().all(|id| filter.maybe(id)));
        assert!(ids[10_000..].iter().filter(|id| filter.maybe(id)).count() < 200);
    }

    #[test]
    fn grows_with_what_is_added() {
        let filter = Filter::new(1);
        let (ids, others) = (random(1_000_000), random(20_000));
        ids.iter().for_each(|id| filter.add(id));
        assert!(ids.iter().all(|id| filter.maybe(id)));
        assert!(others.iter().filter(|id| filter.maybe(id)).count() < 800);
    }

    #[test]
    fn layers_double_and_end() {
        let bits = |filter: &Filter, added| filter.layer(added);
        let small = Filter::new(1);
        let full = BITS_MIN / BITS_EACH;
        assert_eq!([0, full - 1, full, 2 * full - 1].map(|added| bits(&small, added).0), [0, 0, 1, 1]);
        assert_eq!([2 * full, 4 * full].map(|added| bits(&small, added)), [(2, 2 * BITS_MIN), (3, 4 * BITS_MIN)]);
        for filter in [small, Filter::new(100_000), Filter::new(10_000_000), Filter::new(u64::MAX)] {
            let (last, _) = filter.layer(u64::MAX);
            let all: u64 = (0..=last).map(|at| filter.bits << at.saturating_sub(1)).sum();
            assert_eq!(all, BITS_MAX, "as much as it may take, and no more");
        }
    }
}

//! Repacking without keys: chunks of blocks that are mostly dead are treated as unknown, within a small budget a run,
//! so that they are read and sent again and the old blocks can be freed.

use crate::index::Index;
use crate::index::series::{self, UsesReader};
use crate::index::uses::Spot;
use crate::report::Outcome;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// Least bytes that a run may send again.
const BUDGET_BYTES_MIN: u64 = 64 << 20;
/// Share of the snapshot's bytes that a run may send again: one part in so many.
const BUDGET_PART: u64 = 20;
/// Archive numbers that are looked at together.
const SPAN_ARCHIVES: u64 = 4096;
/// Candidates that are kept before the best of them are chosen.
const CANDIDATES_MAX: usize = 1 << 18;

/// A block that is referred to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub spot: Spot,
    /// References from the last snapshots of all series.
    pub uses: u64,
    /// Chunks that it holds.
    pub chunks: u64,
    /// Their plaintext.
    pub bytes: u64,
}

impl Candidate {
    /// An estimate: references that repeat a chunk make a block look more alive, so that it is rather left alone.
    fn live_bytes(&self) -> u64 {
        self.bytes.checked_div(self.chunks).unwrap_or(0) * self.uses.min(self.chunks)
    }
    fn is_sparse(&self) -> bool {
        self.uses * 2 < self.chunks
    }
}

/// The sparsest blocks whose live bytes fit the budget.
pub fn choose(mut candidates: Vec<Candidate>, budget: u64) -> HashSet<Spot> {
    candidates.retain(Candidate::is_sparse);
    // Least alive first; then by place, so that the choice is the same each time.
    candidates.sort_unstable_by_key(|block| (block.uses * 1000 / block.chunks.max(1), block.spot));
    let mut left = budget;
    let mut chosen = HashSet::new();
    for block in candidates {
        let bytes = block.live_bytes();
        if bytes <= left {
            left -= bytes;
            chosen.insert(block.spot);
        }
    }
    chosen
}

/// Bytes that a run may send again.
pub(super) fn budget(snapshot_bytes: u64) -> u64 {
    (snapshot_bytes / BUDGET_PART).max(BUDGET_BYTES_MIN)
}

/// Chooses among all blocks that the last snapshots of all series refer to. `snapshot_bytes`: the last one's size.
pub fn sparse_blocks(cache_dir: &Path, index: &Index, snapshot_bytes: u64) -> Outcome<HashSet<Spot>> {
    let budget = budget(snapshot_bytes);
    let all = series::all(cache_dir).iter().map(|path| UsesReader::open(path)).collect::<Outcome<Vec<_>>>()?;
    let next = |from: u64| -> Outcome<Option<u64>> {
        let each = all.iter().map(|series| series.next(from)).collect::<Outcome<Vec<_>>>()?;
        Ok(each.into_iter().flatten().min())
    };
    let (mut candidates, mut from) = (Vec::new(), 0);
    // Span by span, so that the memory does not grow with the number of blocks.
    while let Some(begin) = next(from)? {
        from = begin.saturating_add(SPAN_ARCHIVES);
        let mut uses: BTreeMap<Spot, u64> = BTreeMap::new();
        for series in &all {
            series.each(begin..from, |spot, count| {
                *uses.entry(spot).or_default() += count;
                Ok(())
            })?;
        }
        let (mut archive, mut facts) = (None, Vec::new());
        for (spot, uses) in uses {
            if archive != Some(spot.archive) {
                (archive, facts) = (Some(spot.archive), index.blocks(spot.archive)?);
            }
            let Some((chunks, bytes)) = facts.get(spot.block as usize).copied() else { continue };
            let candidate = Candidate { spot, uses, chunks, bytes };
            if candidate.is_sparse() {
                candidates.push(candidate);
            }
        }
        if candidates.len() > CANDIDATES_MAX {
            let chosen = choose(candidates.clone(), budget);
            candidates.retain(|candidate| chosen.contains(&candidate.spot));
        }
    }
    Ok(choose(candidates, budget))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(archive: u64, uses: u64, chunks: u64, bytes: u64) -> Candidate {
        Candidate { spot: Spot { archive, block: 0 }, uses, chunks, bytes }
    }

    #[test]
    fn the_sparsest_first_and_never_a_half_full_one() {
        let chosen = choose(vec![block(1, 4, 8, 800), block(2, 3, 8, 800), block(3, 1, 8, 800)], 1000);
        assert_eq!(chosen, [2, 3].map(|archive| Spot { archive, block: 0 }).into());
        let chosen = choose(vec![block(2, 3, 8, 800), block(3, 1, 8, 800)], 100);
        assert_eq!(chosen, [Spot { archive: 3, block: 0 }].into());
        assert!(choose(vec![block(1, 1, 1, 800)], u64::MAX).is_empty());
    }

    proptest! {
        #[test]
        fn the_budget_holds(blocks in prop::collection::vec((0u64..20, 1u64..20, 1u64..5000), 0..40), budget in 0u64..9000) {
            let all: Vec<Candidate> =
                blocks.iter().enumerate().map(|(at, (uses, chunks, bytes))| block(at as u64, *uses, *chunks, *bytes)).collect();
            let chosen = choose(all.clone(), budget);
            let picked: Vec<&Candidate> = all.iter().filter(|block| chosen.contains(&block.spot)).collect();
            prop_assert!(picked.iter().map(|block| block.live_bytes()).sum::<u64>() <= budget);
            prop_assert!(picked.iter().all(|block| block.uses * 2 < block.chunks));
        }
    }
}

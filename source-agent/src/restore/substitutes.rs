//! Substitutes: blocks that hold the chunks of other blocks (docs/format.md, section 14). Depth one.

use crate::report::Outcome;
use crate::restore::findings::Findings;
use crate::restore::objects::{Objects, is_lost};
use crate::restore::verify;
use shared::format::owner::BlockName;
use shared::id::{ArchiveId, ArchiveNumber, Lineage, SourceId, VerifyKey};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Pairs that are taken of one lineage.
const PAIRS_MAX: usize = 1 << 20;

/// Left id, and all right blocks of a pair: together they hold what the left one held.
type Pair = (ArchiveId, Vec<BlockName>);

#[derive(Debug, Default)]
pub struct Substitutes {
    by_left: HashMap<(u64, u32), Vec<Pair>>,
    /// Right archives: left number, left id, right id.
    by_right: HashMap<u64, Vec<(ArchiveNumber, ArchiveId, ArchiveId)>>,
}

impl Substitutes {
    /// Reads all records of a lineage; one that nobody trusted signed is a finding.
    pub fn load(
        sink: &mut dyn Objects,
        source: &SourceId,
        lineage: &Lineage,
        keys: &[VerifyKey],
        findings: &mut Findings,
    ) -> Outcome<Self> {
        let mut all = Self::default();
        let rows = match sink.substitutes(source, lineage) {
            Err(e) if is_lost(&e) => return Ok(all),
            other => other?,
        };
        let mut pairs = 0usize;
        for bytes in rows {
            let record = match verify::substitute(&bytes, (source, lineage), keys) {
                Ok(record) => record,
                Err(failure) => {
                    findings.other(failure.message);
                    continue;
                }
            };
            for pair in record.pairs.iter() {
                let left = &pair.left;
                pairs += pair.right.len();
                if pairs > PAIRS_MAX {
                    return Ok(all);
                }
                for right in pair.right.iter() {
                    let known = all.by_right.entry(right.number.get()).or_default();
                    if !known.contains(&(left.number, left.id, right.id)) {
                        known.push((left.number, left.id, right.id));
                    }
                }
                let known = all.by_left.entry((left.number.get(), left.block)).or_default();
                known.push((left.id, pair.right.iter().cloned().collect()));
            }
        }
        Ok(all)
    }

    pub fn is_empty(&self) -> bool {
        self.by_left.is_empty()
    }

    /// Blocks that hold what this one held.
    pub fn of(&self, number: ArchiveNumber, id: &ArchiveId, block: u32) -> Vec<(u64, u32)> {
        let rights = self.pairs(number, id, block).flatten();
        rights.map(|right| (right.number.get(), right.block)).collect()
    }

    /// The same pair by pair: each of them holds all of it, if its signer told the truth.
    pub fn pairs(&self, number: ArchiveNumber, id: &ArchiveId, block: u32) -> impl Iterator<Item = &[BlockName]> {
        let found = self.by_left.get(&(number.get(), block)).map_or(&[][..], Vec::as_slice);
        found.iter().filter(move |(left, _)| left == id).map(|(_, rights)| rights.as_slice())
    }

    /// Right blocks of all left blocks that are wanted, by archive.
    pub fn rights(&self, is_wanted: impl Fn(u64, &ArchiveId, u32) -> bool) -> BTreeMap<u64, BTreeSet<u32>> {
        let mut all: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
        for ((number, block), pairs) in &self.by_left {
            let wanted = pairs.iter().filter(|(id, _)| is_wanted(*number, id, *block));
            for right in wanted.flat_map(|(_, rights)| rights) {
                all.entry(right.number.get()).or_default().insert(right.block);
            }
        }
        all
    }

    /// For a right archive: its lefts and the id that it must have.
    pub fn right(&self, number: ArchiveNumber) -> Vec<(ArchiveNumber, ArchiveId, ArchiveId)> {
        self.by_right.get(&number.get()).cloned().unwrap_or_default()
    }

    /// All right archives, ascending.
    pub fn archives(&self) -> Vec<ArchiveNumber> {
        let mut numbers: Vec<_> = self.by_right.keys().filter_map(|number| ArchiveNumber::new(*number).ok()).collect();
        numbers.sort_unstable();
        numbers
    }
}

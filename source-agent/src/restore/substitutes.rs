//! Substitutes: blocks that hold the chunks of other blocks (docs/format.md, section 14). Depth one.

use crate::report::{Exit, Outcome};
use crate::restore::findings::Findings;
use crate::restore::objects::{Objects, is_lost};
use crate::restore::verify;
use shared::format::owner::BlockName;
use shared::id::{ArchiveId, ArchiveNumber, Lineage, SourceId, VerifyKey};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Right blocks that are taken in all.
const RIGHTS_MAX: usize = 1 << 19;
/// Right blocks that are taken for one left block; a source heals a block three times at most.
const RIGHTS_OF_BLOCK_MAX: usize = 64;

/// Left id, and all right blocks of a pair: together they hold what the left one held.
type Pair = (ArchiveId, Vec<BlockName>);

#[derive(Debug, Default)]
pub struct Substitutes {
    by_left: HashMap<(u64, u32), Vec<Pair>>,
    /// Left archives of which any block has a pair.
    lefts: HashSet<(u64, ArchiveId)>,
    /// Right archives: left number, left id, right id.
    by_right: HashMap<u64, HashSet<(ArchiveNumber, ArchiveId, ArchiveId)>>,
}

impl Substitutes {
    /// All records of a lineage, unread. A list that cannot be had is a finding: what was healed by it is not found.
    pub fn fetch(
        sink: &mut dyn Objects,
        source: &SourceId,
        lineage: &Lineage,
        findings: &mut Findings,
    ) -> Outcome<Vec<Vec<u8>>> {
        match sink.substitutes(source, lineage) {
            Err(e) if is_lost(&e) => {
                if e.exit != Exit::NotFound {
                    findings.other(format!("substitute records are not used: {}", e.message));
                }
                Ok(Vec::new())
            }
            other => other,
        }
    }

    /// Reads records of a lineage: of their pairs those whose left block is `wanted`. One that nobody trusted signed is
    /// a finding, and so are more than can be taken.
    pub fn read(
        rows: Vec<Vec<u8>>,
        name: (&SourceId, &Lineage),
        keys: &[VerifyKey],
        findings: &mut Findings,
        wanted: &mut dyn FnMut(&BlockName) -> Outcome<bool>,
    ) -> Outcome<Self> {
        let mut all = Self::default();
        let mut rights = 0usize;
        for bytes in rows {
            crate::cli::check_interrupted()?;
            let record = match verify::substitute(&bytes, name, keys) {
                Ok(record) => record,
                Err(failure) => {
                    findings.other(failure.message);
                    continue;
                }
            };
            for pair in record.pairs.iter() {
                if !wanted(&pair.left)? {
                    continue;
                }
                rights += pair.right.len();
                if rights > RIGHTS_MAX {
                    findings.other(format!("of the substitute records only the first {RIGHTS_MAX} blocks are used"));
                    return Ok(all);
                }
                all.add(&pair.left, &pair.right, findings);
            }
        }
        Ok(all)
    }

    fn add(&mut self, left: &BlockName, right: &[BlockName], findings: &mut Findings) {
        let pairs = self.by_left.entry((left.number.get(), left.block)).or_default();
        let known: usize = pairs.iter().filter(|(id, _)| *id == left.id).map(|(_, rights)| rights.len()).sum();
        if known + right.len() > RIGHTS_OF_BLOCK_MAX {
            findings.other(format!(
                "archive {}, block {}: more than {RIGHTS_OF_BLOCK_MAX} blocks are said to stand for it",
                left.number, left.block
            ));
            return;
        }
        pairs.push((left.id, right.to_vec()));
        self.lefts.insert((left.number.get(), left.id));
        for right in right {
            self.by_right.entry(right.number.get()).or_default().insert((left.number, left.id, right.id));
        }
    }

    /// Is any block of this archive said to be elsewhere too?
    pub fn has_archive(&self, number: ArchiveNumber, id: &ArchiveId) -> bool {
        self.lefts.contains(&(number.get(), *id))
    }

    /// Is this block said to be elsewhere too?
    pub fn has(&self, number: ArchiveNumber, id: &ArchiveId, block: u32) -> bool {
        self.pairs(number, id, block).next().is_some()
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
        self.by_right.get(&number.get()).map(|lefts| lefts.iter().copied().collect()).unwrap_or_default()
    }

    /// All right archives, ascending.
    pub fn archives(&self) -> Vec<ArchiveNumber> {
        let mut numbers: Vec<_> = self.by_right.keys().filter_map(|number| ArchiveNumber::new(*number).ok()).collect();
        numbers.sort_unstable();
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::codec::List;
    use shared::format::Substitute;
    use shared::format::owner::SubstitutePair;
    use shared::signature::{SigningKey, sign};

    const NAME: (SourceId, Lineage) = (SourceId::new([1; 32]), Lineage::new([2; 16]));

    fn name(number: u64, block: u32) -> BlockName {
        BlockName { number: ArchiveNumber::new(number).unwrap(), id: ArchiveId::new([number as u8; 32]), block }
    }

    /// Records of one pair each, read for these left archives.
    fn read(pairs: &[(BlockName, BlockName)], lefts: &[u64]) -> (Substitutes, Vec<String>) {
        let key = SigningKey::from_seed(&[5; 32]);
        let record = |(left, right): &(BlockName, BlockName)| {
            let pair = SubstitutePair { left: left.clone(), right: List::new(vec![right.clone()]).unwrap() };
            let record = Substitute { source: NAME.0, lineage: NAME.1, pairs: List::new(vec![pair]).unwrap() };
            sign(record, &key).unwrap().as_bytes().to_vec()
        };
        let mut findings = Findings::default();
        let mut wanted = |left: &BlockName| Ok(lefts.contains(&left.number.get()));
        let rows = pairs.iter().map(record).collect();
        let read =
            Substitutes::read(rows, (&NAME.0, &NAME.1), &[key.verify_key()], &mut findings, &mut wanted).unwrap();
        (read, findings.lines())
    }

    #[test]
    fn pairs_of_blocks_that_nobody_names_are_passed_over() {
        let (read, findings) = read(&[(name(1, 0), name(8, 3)), (name(2, 0), name(9, 4))], &[1]);
        let id = |number| name(number, 0).id;
        assert_eq!(read.of(ArchiveNumber::new(1).unwrap(), &id(1), 0), [(8, 3)]);
        assert!(read.has_archive(ArchiveNumber::new(1).unwrap(), &id(1)));
        assert!(!read.has_archive(ArchiveNumber::new(2).unwrap(), &id(2)) && findings.is_empty());
    }

    #[test]
    fn a_flood_for_one_block_is_cut_and_told() {
        let pairs: Vec<_> = (0..100).map(|at| (name(1, 0), name(9, at))).collect();
        let (read, findings) = read(&pairs, &[1]);
        assert_eq!(read.of(ArchiveNumber::new(1).unwrap(), &name(1, 0).id, 0).len(), RIGHTS_OF_BLOCK_MAX);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].contains("more than 64 blocks"), "{findings:?}");
    }
}

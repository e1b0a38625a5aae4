//! Blocks that are damaged or gone and whose content lies in others: by substitute records (docs/format.md, section
//! 14) whose right blocks are all here and sound. That they hold the same chunks only a reader with keys can see. An
//! archive that is gone as a whole stays a finding.

use crate::serve::check::verify_any;
use crate::store::{Name, Shelf, names, read_whole};
use crate::verify::Judged;
use shared::format::Substitute;
use shared::format::owner::BlockName;
use shared::id::{ArchiveId, ArchiveNumber, Lineage};
use shared::limits::SUBSTITUTE_BYTES_MAX;
use std::collections::HashSet;

/// Healed blocks that are remembered; more are as good as damaged.
const HEALED_MAX: usize = 1 << 20;

/// Healed blocks by archive.
#[derive(Debug, Default)]
pub struct Healed(HashSet<(Lineage, ArchiveNumber, ArchiveId, u32)>);

impl Healed {
    /// Looks at all records; `sound` says whether a block is here and right, of the blocks that were read.
    pub fn find(judged: &Judged, sound: impl Fn(&Lineage, &BlockName) -> bool) -> Self {
        let mut healed = HashSet::new();
        let keys: Vec<_> = judged.owner.into_iter().chain([judged.key]).collect();
        // What cannot be read heals nothing; it is reported where the shelf is judged.
        for name in names(judged.store, Shelf::Substitutes).unwrap_or_default() {
            let Ok(Some(bytes)) = read_whole(judged.store, &name, SUBSTITUTE_BYTES_MAX) else { continue };
            let Ok(record) = verify_any::<Substitute>(&bytes, &keys) else { continue };
            if record.source != judged.id || name != Name::Substitute(record.lineage, record.digest()) {
                continue;
            }
            for pair in record.pairs.iter() {
                let is_whole = || pair.right.iter().all(|right| sound(&record.lineage, right));
                if !sound(&record.lineage, &pair.left) && healed.len() < HEALED_MAX && is_whole() {
                    healed.insert((record.lineage, pair.left.number, pair.left.id, pair.left.block));
                }
            }
        }
        Self(healed)
    }

    pub fn has(&self, lineage: &Lineage, number: ArchiveNumber, id: ArchiveId, block: u32) -> bool {
        self.0.contains(&(*lineage, number, id, block))
    }
}

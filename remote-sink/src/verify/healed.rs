//! Blocks that are damaged or gone and whose content lies in others: by substitute records (docs/format.md, section
//! 14) whose right blocks are all here and were read: a run that leaves data out reads what heals the damage that it finds. That they hold the same chunks only a reader with keys can see. An
//! archive that is gone as a whole is healed when all its blocks are that snapshots need.

use crate::serve::check::verify_any;
use crate::store::{Name, Shelf, names, read_whole};
use crate::verify::Judged;
use shared::format::Substitute;
use shared::format::owner::{BlockName, SubstitutePair};
use shared::id::{ArchiveId, ArchiveNumber, Lineage};
use shared::limits::SUBSTITUTE_BYTES_MAX;
use std::collections::{BTreeSet, HashSet};

/// Healed blocks that are remembered; more are as good as damaged.
const HEALED_MAX: usize = 1 << 20;

/// What a run knows of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sound {
    /// It was read, in this run or within the age that was asked for, and is right.
    Proven,
    /// It is here; a sample left it out, or a session may still change it.
    Unread,
    Damaged,
    Missing,
}

impl Sound {
    /// Does a block in this state stand for one in the state `left`? For damage that was found only what was read.
    fn heals(self, left: Self) -> bool {
        self == Self::Proven || self == Self::Unread && left == Self::Missing
    }
    fn is_lost(self) -> bool {
        matches!(self, Self::Damaged | Self::Missing)
    }
}

/// Healed blocks by archive.
#[derive(Debug, Default)]
pub struct Healed(HashSet<(Lineage, ArchiveNumber, ArchiveId, u32)>);

/// Calls `tell` for all pairs of all records that are signed.
fn pairs(judged: &Judged, mut tell: impl FnMut(&Lineage, &SubstitutePair)) {
    let keys: Vec<_> = judged.owner.into_iter().chain([judged.key]).collect();
    // What cannot be read heals nothing; it is reported where the shelf is judged.
    for name in names(judged.store, Shelf::Substitutes).unwrap_or_default() {
        let Ok(Some(bytes)) = read_whole(judged.store, &name, SUBSTITUTE_BYTES_MAX) else { continue };
        let Ok(record) = verify_any::<Substitute>(&bytes, &keys) else { continue };
        if record.source == judged.id && name == Name::Substitute(record.lineage, record.digest()) {
            record.pairs.iter().for_each(|pair| tell(&record.lineage, pair));
        }
    }
}

impl Healed {
    /// Archives that were not read and would have to be, to know whether damage that was found is healed.
    pub fn unread(
        judged: &Judged,
        sound: impl Fn(&Lineage, &BlockName) -> Sound,
        was_read: impl Fn(&(Lineage, ArchiveNumber)) -> bool,
    ) -> BTreeSet<(Lineage, ArchiveNumber)> {
        let mut unread = BTreeSet::new();
        pairs(judged, |lineage, pair| {
            let heals = || !pair.right.iter().any(|right| sound(lineage, right).is_lost());
            if sound(lineage, &pair.left) == Sound::Damaged && heals() {
                let rights = pair.right.iter().filter(|right| sound(lineage, right) == Sound::Unread);
                unread.extend(rights.map(|right| (*lineage, right.number)).filter(|place| !was_read(place)));
            }
        });
        unread
    }

    /// Looks at all records; `sound` says what is known of a block.
    pub fn find(judged: &Judged, sound: impl Fn(&Lineage, &BlockName) -> Sound) -> Self {
        let mut healed = HashSet::new();
        pairs(judged, |lineage, pair| {
            let left = sound(lineage, &pair.left);
            let is_whole = || pair.right.iter().all(|right| sound(lineage, right).heals(left));
            if left.is_lost() && healed.len() < HEALED_MAX && is_whole() {
                healed.insert((*lineage, pair.left.number, pair.left.id, pair.left.block));
            }
        });
        Self(healed)
    }

    pub fn has(&self, lineage: &Lineage, number: ArchiveNumber, id: ArchiveId, block: u32) -> bool {
        self.0.contains(&(*lineage, number, id, block))
    }
}

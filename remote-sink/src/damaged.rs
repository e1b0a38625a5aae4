//! What `verify` found damaged and kept snapshots need: `sources/NAME/damaged` (docs/format.md, section "Operator's
//! journal"). Operators write it, the source's sessions hand it on, and the source heals what it still has. A hint:
//! nothing is freed, kept or believed for it.

use crate::store::StoreError;
use crate::store::directory::Root;
use crate::store::layout::damaged_path;
use minicbor::{Decode, Encode};
use shared::bits;
use shared::codec::{Blob, List};
use shared::id::{ArchiveId, ArchiveNumber, Lineage, SourceId, SourceName};
use shared::limits::{ARCHIVE_PARTS_MAX, DAMAGED_ARCHIVES_MAX};
use shared::signature::{Object, Plain};
use shared::wire::reply::{DamagedItem, DamagedList};
use std::io::Read;

/// Blocks of one archive that snapshots need and that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LostBlocks {
    #[n(0)]
    pub lineage: Lineage,
    #[n(1)]
    pub number: ArchiveNumber,
    /// As the snapshots name it.
    #[n(2)]
    pub id: ArchiveId,
    /// One bit per block, lowest first; the last byte is not 0.
    #[n(3)]
    pub blocks: Blob<{ ARCHIVE_PARTS_MAX / 8 }>,
}

impl LostBlocks {
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        bits::numbers(&self.blocks)
    }
    pub fn count(&self) -> u64 {
        self.blocks.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Damaged {
    #[n(0)]
    pub source: SourceId,
    /// When the reading began that found it, seconds since 1970.
    #[n(1)]
    pub checked: i64,
    /// By lineage and number, ascending.
    #[n(2)]
    pub archives: List<LostBlocks, DAMAGED_ARCHIVES_MAX>,
    /// Blocks and archives in all, also beyond what the list holds.
    #[n(3)]
    pub blocks: u64,
    #[n(4)]
    pub all_archives: u64,
}

impl Object for Damaged {
    const KIND: u8 = b'd';
    const BYTES_MAX: usize = 1 << 20;
    const NAME: &'static str = "list of damage";
}

/// A note that is there and cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DamagedError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path} is no list of damage of this source: run remote-sink verify, which writes it again")]
    Malformed { path: String },
}

impl Damaged {
    pub const fn nothing(source: SourceId) -> Self {
        Self { source, checked: 0, archives: List::empty(), blocks: 0, all_archives: 0 }
    }

    /// The list for what was lost, ascending; the first that fit are named.
    pub fn new(source: SourceId, checked: i64, mut lost: Vec<LostBlocks>) -> Self {
        let (blocks, all_archives) = (lost.iter().map(LostBlocks::count).sum(), lost.len() as u64);
        lost.truncate(DAMAGED_ARCHIVES_MAX);
        Self { source, checked, archives: List::new(lost).unwrap_or(List::empty()), blocks, all_archives }
    }

    /// Reads the list of a source; nothing if there is none.
    pub fn read(root: &Root, name: &SourceName, source: SourceId) -> Result<Self, DamagedError> {
        let path = damaged_path(name);
        let Some(file) = root.open_file(&path)? else { return Ok(Self::nothing(source)) };
        let mut bytes = Vec::new();
        if let Err(error) = file.take(Self::BYTES_MAX as u64 + 1).read_to_end(&mut bytes) {
            return Err(StoreError { action: "read", path, error }.into());
        }
        let list = Plain::<Self>::parse(&bytes).ok().map(Plain::into_value).filter(|list| list.source == source);
        list.ok_or(DamagedError::Malformed { path })
    }

    pub fn has(&self, lineage: &Lineage, number: ArchiveNumber) -> bool {
        self.archives.iter().any(|lost| (lost.lineage, lost.number) == (*lineage, number))
    }

    /// Archives of one lineage in it.
    pub fn archives_of(&self, lineage: &Lineage) -> u64 {
        self.archives.iter().filter(|lost| lost.lineage == *lineage).count() as u64
    }

    /// What a source is told. Where the file holds what the protocol does not allow, that is left out.
    pub fn told(&self, lineage: &Lineage) -> DamagedList {
        let mut items: Vec<DamagedItem> = Vec::new();
        for lost in self.archives.iter().filter(|lost| lost.lineage == *lineage) {
            let follows = items.last().is_none_or(|last| last.number < lost.number);
            if follows && lost.blocks.last().is_some_and(|byte| *byte != 0) {
                items.push(DamagedItem { number: lost.number, id: lost.id, blocks: lost.blocks.clone() });
            }
        }
        DamagedList { checked: self.checked, items: List::new(items).unwrap_or(List::empty()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(lineage: u8, number: u64, blocks: &[u8]) -> LostBlocks {
        let (number, id) = (ArchiveNumber::new(number).unwrap(), ArchiveId::new([9; 32]));
        LostBlocks { lineage: Lineage::new([lineage; 16]), number, id, blocks: Blob::new(blocks.to_vec()).unwrap() }
    }

    #[test]
    fn the_largest_list_can_be_written_and_told() {
        let source = SourceId::new([1; 32]);
        let many =
            (0..DAMAGED_ARCHIVES_MAX as u64 + 5).map(|number| lost(7, (1 << 47) + number, &[255; 512])).collect();
        let list = Damaged::new(source, i64::MAX, many);
        assert_eq!((list.archives.len(), list.all_archives), (DAMAGED_ARCHIVES_MAX, DAMAGED_ARCHIVES_MAX as u64 + 5));
        assert_eq!(list.blocks, (DAMAGED_ARCHIVES_MAX as u64 + 5) * 4096);
        let list = Plain::new(list).unwrap();
        assert!(list.as_bytes().len() <= Damaged::BYTES_MAX);
        let told = Plain::<Damaged>::parse(list.as_bytes()).unwrap().told(&Lineage::new([7; 16]));
        assert_eq!(told.items.len(), DAMAGED_ARCHIVES_MAX);
        let frame = shared::wire::Reply::Damaged(told.clone()).frame();
        assert!(frame.payload.len() < shared::limits::FRAME_BYTES_MAX);
        assert_eq!(shared::wire::Reply::parse(frame).unwrap(), shared::wire::Reply::Damaged(told));
    }

    #[test]
    fn a_source_is_told_of_its_own_lineage_what_the_protocol_allows() {
        let all = vec![lost(1, 5, &[1]), lost(2, 5, &[0, 8]), lost(2, 5, &[1]), lost(2, 6, &[1, 0]), lost(2, 9, &[3])];
        let list = Damaged::new(SourceId::new([1; 32]), 3, all);
        let told = list.told(&Lineage::new([2; 16]));
        let seen: Vec<_> =
            told.items.iter().map(|item| (item.number.get(), item.numbers().collect::<Vec<_>>())).collect();
        assert_eq!(seen, [(5, vec![11]), (9, vec![0, 1])]);
        assert!(told.is_in_order());
        assert!(list.has(&Lineage::new([1; 16]), ArchiveNumber::new(5).unwrap()));
        assert_eq!(list.archives_of(&Lineage::new([1; 16])), 1);
    }
}

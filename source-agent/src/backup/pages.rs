//! Ref pages: which archives and blocks a snapshot refers to, one page per span of 1,024 archive numbers.

use crate::index::uses::Spot;
use crate::index::{Corrupt, Index};
use crate::report::{Exit, Failure, Outcome};
use shared::bits;
use shared::codec::{Blob, FormatError, List};
use shared::format::{Page, PageEntry};
use shared::id::{ArchiveId, ArchiveNumber, Lineage, SourceId};
use shared::limits::{ARCHIVE_PARTS_MAX, PAGE_ARCHIVES};
use shared::signature::Plain;
use std::collections::HashMap;

/// Builds pages from blocks in ascending order.
pub struct Pages<'a> {
    index: &'a Index,
    /// Ids of this run's archives: those that no remote has acknowledged yet are not in the index.
    fresh: HashMap<u64, ArchiveId>,
    source: SourceId,
    lineage: Lineage,
    entries: Vec<PageEntry>,
    open: Option<(u64, ArchiveId, Vec<u8>)>,
    pages: Vec<Plain<Page>>,
}

fn failed(e: FormatError) -> Failure {
    Failure::new("pages", Exit::Failed, format!("cannot write a ref page: {e}"))
}

impl<'a> Pages<'a> {
    pub fn new(index: &'a Index, fresh: HashMap<u64, ArchiveId>, source: SourceId, lineage: Lineage) -> Self {
        Self { index, fresh, source, lineage, entries: Vec::new(), open: None, pages: Vec::new() }
    }

    /// Adds a block that is referred to.
    pub fn add(&mut self, spot: Spot) -> Outcome<()> {
        if self.open.as_ref().is_none_or(|(number, ..)| *number != spot.archive) {
            self.end_entry()?;
            let id = match self.fresh.get(&spot.archive) {
                Some(id) => *id,
                None => self.index.archive_id(spot.archive)?.ok_or(Corrupt)?,
            };
            self.open = Some((spot.archive, id, Vec::new()));
        }
        if let Some((.., live)) = &mut self.open {
            set(live, spot.block);
        }
        Ok(())
    }

    /// Adds a whole archive.
    pub fn add_whole(&mut self, number: u64, id: ArchiveId, blocks: u32) -> Outcome<()> {
        self.end_entry()?;
        let mut live = Vec::new();
        (0..blocks).for_each(|block| set(&mut live, block));
        self.open = Some((number, id, live));
        self.end_entry()
    }

    fn end_entry(&mut self) -> Outcome<()> {
        let Some((number, id, live)) = self.open.take() else { return Ok(()) };
        let span = |number: u64| number / PAGE_ARCHIVES;
        if self.entries.last().is_some_and(|last| span(last.number.get()) != span(number)) {
            self.end_page()?;
        }
        let number = ArchiveNumber::new(number).map_err(|_| Corrupt)?;
        self.entries.push(PageEntry { number, id, live: Blob::new(live).map_err(failed)? });
        Ok(())
    }

    fn end_page(&mut self) -> Outcome<()> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let archives = List::new(std::mem::take(&mut self.entries)).map_err(failed)?;
        let page = Page { source: self.source, lineage: self.lineage, archives };
        self.pages.push(Plain::new(page).map_err(failed)?);
        Ok(())
    }

    pub fn finish(mut self) -> Outcome<Vec<Plain<Page>>> {
        self.end_entry()?;
        self.end_page()?;
        Ok(self.pages)
    }
}

fn set(live: &mut Vec<u8>, block: u32) {
    if (block as usize) < ARCHIVE_PARTS_MAX {
        bits::set(live, block as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_split_at_spans_and_name_live_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let (source, lineage) = (SourceId::new([1; 32]), Lineage::new([2; 16]));
        let (index, _) = Index::open(dir.path(), &source, &lineage).unwrap();
        let mut pages = Pages::new(&index, HashMap::new(), source, lineage);
        for number in [0, 1023, 1024, 5000] {
            pages.add_whole(number, ArchiveId::new([3; 32]), 11).unwrap();
        }
        let pages = pages.finish().unwrap();
        assert_eq!(pages.iter().map(|page| page.archives.len()).collect::<Vec<_>>(), [2, 1, 1]);
        let entry = &pages[0].archives[0];
        assert_eq!(entry.blocks_named(), 11);
        assert!((0..11).all(|block| entry.is_live(block)) && !entry.is_live(11));
        let mut pages = Pages::new(&index, HashMap::from([(7, ArchiveId::new([3; 32]))]), source, lineage);
        pages.add(Spot { archive: 7, block: 2 }).unwrap();
        assert!(pages.add(Spot { archive: 8, block: 0 }).is_err(), "an archive that nobody knows");
        assert!(Pages::new(&index, HashMap::new(), source, lineage).finish().unwrap().is_empty());
    }
}

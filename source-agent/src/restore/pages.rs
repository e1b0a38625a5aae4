//! The archives that a snapshot names: its ref pages, checked in their order, kept in bounded memory (docs/format.md,
//! section 11).

use crate::report::Outcome;
use crate::restore::lru::Lru;
use crate::restore::objects::{Objects, tampered};
use crate::restore::verify;
use shared::format::snapshot::PageOrder;
use shared::format::{Body, Page, PageEntry};
use shared::id::{ArchiveNumber, Digest, Lineage, SourceId};
use shared::signature::Plain;
use std::sync::Arc;

/// Bytes of decoded pages that are kept; others are read again.
const CACHE_BYTES: usize = 48 << 20;

/// The pages of one body.
pub struct Pages {
    source: SourceId,
    lineage: Lineage,
    /// Digest, first and last archive number of each page.
    spans: Vec<(Digest, u64, u64)>,
    cache: Lru<usize, Arc<Plain<Page>>>,
    archives: u64,
    /// Sealed bytes cannot be known from pages; live blocks can.
    live_blocks: u64,
}

impl Pages {
    /// Reads and checks all pages of a body.
    pub fn load(sink: &mut dyn Objects, source: &SourceId, lineage: &Lineage, body: &Body) -> Outcome<Self> {
        let mut order = PageOrder::new(*source, *lineage);
        let mut pages = Self {
            source: *source,
            lineage: *lineage,
            spans: Vec::with_capacity(body.pages.len()),
            cache: Lru::new(CACHE_BYTES),
            archives: 0,
            live_blocks: 0,
        };
        for (at, digest) in body.pages.iter().enumerate() {
            let page = pages.fetch(sink, digest)?;
            order
                .follow(digest, &page)
                .map_err(|e| tampered("page", format!("ref page {}: {e}", digest.short())).remote(sink.remote()))?;
            let (Some(first), Some(last)) = (page.archives.first(), page.archives.last()) else { continue };
            pages.spans.push((*digest, first.number.get(), last.number.get()));
            pages.archives += page.archives.len() as u64;
            let live = |entry: &PageEntry| entry.live.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
            pages.live_blocks += page.archives.iter().map(live).sum::<u64>();
            pages.keep(at, page);
        }
        Ok(pages)
    }

    fn fetch(&self, sink: &mut dyn Objects, digest: &Digest) -> Outcome<Plain<Page>> {
        let bytes = sink.page(&self.source, digest)?;
        verify::page(&bytes, digest, &self.source, &self.lineage).map_err(|e| e.remote(sink.remote()))
    }

    fn keep(&mut self, at: usize, page: Plain<Page>) -> Arc<Plain<Page>> {
        let bytes = 4 * page.as_bytes().len() + 64 * page.archives.len();
        let page = Arc::new(page);
        self.cache.put(at, Arc::clone(&page), bytes);
        page
    }

    /// How many archives the snapshot names.
    pub fn archives(&self) -> u64 {
        self.archives
    }
    pub fn live_blocks(&self) -> u64 {
        self.live_blocks
    }
    pub fn count(&self) -> usize {
        self.spans.len()
    }

    /// The page at this place.
    pub fn page(&mut self, sink: &mut dyn Objects, at: usize) -> Outcome<Option<Arc<Plain<Page>>>> {
        let Some((digest, _, _)) = self.spans.get(at).copied() else { return Ok(None) };
        if let Some(page) = self.cache.get(&at) {
            return Ok(Some(page));
        }
        let page = self.fetch(sink, &digest)?;
        Ok(Some(self.keep(at, page)))
    }

    /// What the snapshot says of this archive; `None` if it does not name it.
    pub fn entry(&mut self, sink: &mut dyn Objects, number: ArchiveNumber) -> Outcome<Option<PageEntry>> {
        let number = number.get();
        let at = self.spans.partition_point(|(_, _, last)| *last < number);
        if self.spans.get(at).is_none_or(|(_, first, _)| *first > number) {
            return Ok(None);
        }
        let Some(page) = self.page(sink, at)? else { return Ok(None) };
        let found = page.archives.binary_search_by_key(&number, |entry| entry.number.get());
        Ok(found.ok().map(|at| page.archives[at].clone()))
    }
}

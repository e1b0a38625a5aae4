//! The content of a file as it grows: short lists stand in the entry, long ones become list nodes on the way
//! (docs/format.md, section "Tree"), so that memory does not grow with the file.

use super::lay::Lane;
use super::store::{Keep, spot};
use crate::index::uses::{self, Spot, Uses};
use crate::report::{Exit, Failure, Outcome};
use crate::tree::{ChunkRef, Extent, ListNode, ListRef};
use shared::codec::List;
use shared::limits::{NODE_LEVELS_MAX, NODE_REFS_MAX};

/// Extents that stand in the entry itself.
pub const INLINE_MAX: usize = 128;
/// Fewest and most references of a list node; between them its end depends on the ids, so that an insertion changes
/// few nodes.
const REFS_MIN: usize = 129;
const REFS_MOST: usize = 4096;
const _: () = assert!(REFS_MOST <= NODE_REFS_MAX && REFS_MIN > INLINE_MAX);

/// The content of one file.
#[derive(Debug, Clone)]
pub enum Content {
    Inline(Vec<Extent>),
    Long(ListRef),
}

/// Collects extents.
#[derive(Default)]
pub struct ListBuilder {
    extents: Vec<Extent>,
    extents_bytes: u64,
    /// Finished nodes of each level, not yet under a node of the next.
    levels: Vec<Vec<(ChunkRef, u64)>>,
    bytes: u64,
    /// Runs of the same block.
    uses: Uses,
}

fn ends(id: &shared::id::ChunkId) -> bool {
    id.as_bytes()[31] == 0 && id.as_bytes()[30] & 3 == 0
}

impl ListBuilder {
    fn used(&mut self, spot: Spot) {
        match self.uses.last_mut() {
            Some((last, count)) if *last == spot => *count += 1,
            _ => self.uses.push((spot, 1)),
        }
    }

    pub fn hole(&mut self, bytes: u64, store: &mut dyn Keep) -> Outcome<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bytes += bytes;
        self.extents_bytes += bytes;
        if let Some(Extent::Hole(hole)) = self.extents.last_mut() {
            *hole += bytes;
            return Ok(());
        }
        self.extents.push(Extent::Hole(bytes));
        if self.extents.len() >= REFS_MOST { self.end_extents(store) } else { Ok(()) }
    }

    pub fn chunk(&mut self, chunk: ChunkRef, store: &mut dyn Keep) -> Outcome<()> {
        self.bytes += u64::from(chunk.bytes);
        self.extents_bytes += u64::from(chunk.bytes);
        self.used(spot(&chunk));
        self.extents.push(Extent::Chunk(chunk));
        let count = self.extents.len();
        if count >= REFS_MOST || count >= REFS_MIN && ends(&chunk.id) { self.end_extents(store) } else { Ok(()) }
    }

    fn end_extents(&mut self, store: &mut dyn Keep) -> Outcome<()> {
        let extents = List::new(std::mem::take(&mut self.extents)).map_err(too_long)?;
        let node = ListNode { level: 0, extents: Some(extents), lists: None };
        let bytes = std::mem::take(&mut self.extents_bytes);
        self.push(0, node, bytes, store)
    }

    /// Stores a node of this level and closes the level above where it is full.
    fn push(&mut self, level: usize, node: ListNode, bytes: u64, store: &mut dyn Keep) -> Outcome<()> {
        let chunk = store.put(Lane::Metadata, &node.encode())?;
        self.used(spot(&chunk));
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Vec::new);
        }
        self.levels[level].push((chunk, bytes));
        let count = self.levels[level].len();
        let may_rise = level + 1 < usize::from(NODE_LEVELS_MAX);
        if may_rise && (count >= REFS_MOST || count >= REFS_MIN && ends(&chunk.id)) {
            self.end_level(level, store)?;
        }
        Ok(())
    }

    fn end_level(&mut self, level: usize, store: &mut dyn Keep) -> Outcome<()> {
        let refs = std::mem::take(&mut self.levels[level]);
        let bytes = refs.iter().map(|(_, bytes)| bytes).sum();
        let node = ListNode { level: level as u8 + 1, extents: None, lists: Some(List::new(refs).map_err(too_long)?) };
        self.push(level + 1, node, bytes, store)
    }

    /// The whole content, its bytes, and the blocks that it uses.
    pub fn finish(mut self, store: &mut dyn Keep) -> Outcome<(Content, u64, Uses)> {
        if self.levels.is_empty() && self.extents.len() <= INLINE_MAX {
            return Ok((Content::Inline(self.extents), self.bytes, uses::merge(self.uses)));
        }
        if !self.extents.is_empty() {
            self.end_extents(store)?;
        }
        let mut level = 0;
        // Up to the one node above all: a level is done when nothing lies beside or above it.
        while self.levels.len() > level + 1 || self.levels[level].len() > 1 {
            if !self.levels[level].is_empty() {
                self.end_level(level, store)?;
            }
            level += 1;
        }
        let (chunk, bytes) = self.levels[level].pop().ok_or_else(|| too_long(shared::codec::FormatError::Length))?;
        let list = ListRef { chunk, level: level as u8, bytes };
        Ok((Content::Long(list), self.bytes, uses::merge(self.uses)))
    }
}

fn too_long(error: shared::codec::FormatError) -> Failure {
    Failure::new("file-too-long", Exit::Failed, format!("a file has more chunks than a list can hold: {error}"))
}

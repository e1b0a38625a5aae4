//! Chunk tables (docs/format.md, section "Chunk table"): which chunks lie in which block, in order, without gaps.

use shared::codec::{self, FormatError, List};
use shared::id::ChunkId;
use shared::limits::{ARCHIVE_CHUNKS_MAX, ARCHIVE_PARTS_MAX, BLOCK_BYTES_MAX, CHUNK_BYTES_MAX};

/// A chunk in its block; its offset is the sum of the lengths before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct TableEntry {
    #[n(0)]
    pub id: ChunkId,
    #[n(1)]
    pub bytes: u32,
}

/// The chunks of each block of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkTable {
    pub blocks: List<List<TableEntry, ARCHIVE_CHUNKS_MAX>, ARCHIVE_PARTS_MAX>,
}

impl ChunkTable {
    /// Largest encoded table: 65,536 chunks.
    pub const BYTES_MAX: usize = 4 << 20;

    pub fn new(blocks: Vec<Vec<TableEntry>>) -> Result<Self, FormatError> {
        let blocks: Result<Vec<_>, _> = blocks.into_iter().map(List::new).collect();
        let table = Self { blocks: List::new(blocks?)? };
        table.check()?;
        Ok(table)
    }

    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&self.blocks)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let table = Self { blocks: codec::decode(bytes, Self::BYTES_MAX, "chunk table")? };
        table.check()?;
        Ok(table)
    }

    /// Has it one item for each of so many blocks?
    pub fn fits(&self, blocks: u32) -> Result<(), FormatError> {
        if self.blocks.len() == blocks as usize {
            return Ok(());
        }
        Err(FormatError::Rule("a chunk table with more or fewer blocks than its archive"))
    }

    fn check(&self) -> Result<(), FormatError> {
        let mut chunks = 0usize;
        for block in self.blocks.iter() {
            chunks += block.len();
            let bytes: usize = block.iter().map(|entry| entry.bytes as usize).sum();
            if block.is_empty() || bytes > BLOCK_BYTES_MAX {
                return Err(FormatError::Rule("a block of no chunks, or larger than a block may be"));
            }
            if block.iter().any(|entry| entry.bytes == 0 || entry.bytes as usize > CHUNK_BYTES_MAX) {
                return Err(FormatError::Rule("a chunk of no bytes or too many"));
            }
        }
        if chunks > ARCHIVE_CHUNKS_MAX {
            return Err(FormatError::Rule("too many chunks in one archive"));
        }
        Ok(())
    }
}

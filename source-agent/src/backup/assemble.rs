//! From block to archive: sealed blocks are collected, the chunk table sealed behind them, the index signed.

use super::budget::Permit;
use super::compress::Packer;
use super::flights::{Everywhere, Flights};
use crate::crypto::part::{PAYLOAD_HEADER, Place};
use crate::crypto::seal::{Method, Sealed, begin_payload, seal, seal_small};
use crate::crypto::secret::{IndexSecret, SessionSecret};
use crate::report::{Exit, Failure, Outcome};
use crate::tree::ChunkTable;
use crate::tree::table::TableEntry;
use parking_lot::Mutex;
use shared::codec::List;
use shared::format::{Envelope, Index, Kind, Part, Region};
use shared::id::{ArchiveId, ArchiveNumber, Lineage, Salt, SessionId, SourceId};
use shared::signature::{SigningKey, Verified, sign};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Work for the sealing threads.
pub enum SealJob {
    Block {
        assembly: Arc<Assembly>,
        block: u32,
        plain: Vec<u8>,
        entries: Vec<TableEntry>,
        permit: Option<Permit>,
    },
    /// All blocks of a closed archive are sealed.
    Finish(Arc<Assembly>),
    /// One thread ends.
    End,
}

struct DoneBlock {
    sealed: Sealed,
    entries: Vec<TableEntry>,
}

#[derive(Default)]
struct Parts {
    blocks: Vec<Option<DoneBlock>>,
    done: u32,
    closed: Option<u32>,
    permit: Option<Permit>,
}

/// An archive whose blocks are being sealed.
pub struct Assembly {
    pub number: ArchiveNumber,
    kind: Kind,
    heals: bool,
    salt: Salt,
    bytes: AtomicU64,
    parts: Mutex<Parts>,
}

impl Assembly {
    pub fn new(number: ArchiveNumber, kind: Kind) -> Self {
        let (salt, bytes, parts) = (Salt::random(), AtomicU64::new(0), Mutex::default());
        Self { number, kind, heals: false, salt, bytes, parts }
    }
    /// One that repeats blocks for a single remote: nothing but substitute records refers to it.
    pub fn healing(number: ArchiveNumber, kind: Kind) -> Self {
        Self { heals: true, ..Self::new(number, kind) }
    }
    /// Bytes sealed, and plaintext of what is not sealed yet.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
    pub fn grow(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
    /// No more blocks than these come. True if all are sealed already.
    pub fn close(&self, blocks: u32) -> bool {
        let mut parts = self.parts.lock();
        parts.closed = Some(blocks);
        parts.done == blocks
    }
    /// Takes a sealed block in. True if it was the last one.
    fn put(&self, block: u32, done: DoneBlock, plain_bytes: u64, permit: Option<Permit>) -> bool {
        self.bytes.fetch_add(done.sealed.bytes.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_sub(plain_bytes, Ordering::Relaxed);
        let mut parts = self.parts.lock();
        let at = block as usize;
        if parts.blocks.len() <= at {
            parts.blocks.resize_with(at + 1, || None);
        }
        parts.blocks[at] = Some(done);
        parts.done += 1;
        match (&mut parts.permit, permit) {
            (Some(held), Some(permit)) => held.merge(permit),
            (none, permit) => *none = permit,
        }
        parts.closed == Some(parts.done)
    }
}

/// A signed archive in memory, on its way to the remotes. The last remote to drop it settles it.
pub struct Ready {
    pub number: ArchiveNumber,
    pub id: ArchiveId,
    pub kind: Kind,
    pub session: SessionId,
    pub region: Region,
    pub parts: Vec<Vec<u8>>,
    /// Chunks of each block.
    pub table: Vec<Vec<TableEntry>>,
    /// It goes to one remote alone.
    pub heals: bool,
    /// Set with the first acknowledgement, under the index's lock.
    pub recorded: AtomicBool,
    flights: Arc<Flights>,
    everywhere: Arc<Everywhere>,
    _permit: Option<Permit>,
}

impl Ready {
    /// Bytes as the sink stores them.
    pub fn bytes(&self) -> u64 {
        self.region.as_bytes().len() as u64 + self.parts.iter().map(|part| part.len() as u64).sum::<u64>()
    }
    pub fn blocks(&self) -> u32 {
        self.table.len() as u32
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        // The remotes that did not acknowledge it are out of the run by now.
        if self.recorded.load(Ordering::Acquire) && !self.heals {
            self.everywhere.add(self.number.get());
        }
        std::mem::take(&mut self.parts).into_iter().for_each(|part| self.flights.buffers.give(part));
        self.flights.land(self.number.get(), self.table.iter().flatten().map(|entry| &entry.id));
    }
}

/// What sealing and signing need; nothing in it opens a block.
pub struct Sealer {
    pub source: SourceId,
    pub lineage: Lineage,
    pub secret: Arc<SessionSecret>,
    pub index_secret: IndexSecret,
    pub envelope: Arc<Verified<Envelope>>,
    pub signing: Arc<SigningKey>,
    pub flights: Arc<Flights>,
    pub everywhere: Arc<Everywhere>,
}

impl Sealer {
    fn place(&self, assembly: &Assembly, part: u32) -> Place {
        let (source, lineage) = (self.source, self.lineage);
        Place::Part { source, lineage, salt: assembly.salt, archive: assembly.number, part }
    }

    /// Compresses and seals a block, which stands in `plain` behind room for a payload's header; true if its archive is
    /// complete with it.
    pub fn seal_block(
        &self,
        packer: &mut Packer,
        assembly: &Assembly,
        block: u32,
        plain: Vec<u8>,
        entries: Vec<TableEntry>,
        mut permit: Option<Permit>,
    ) -> Outcome<bool> {
        let plain_bytes = content(&plain).len() as u64;
        let (method, buffer) = match packer.pack(content(&plain))? {
            Some(packed) => {
                let mut buffer = begin_payload(packed.len());
                buffer.extend_from_slice(packed);
                self.flights.buffers.give(plain);
                (Method::Zstd, buffer)
            }
            // A small block must not hold the memory of a large one while it is on its way: its permit does not say so.
            None if plain.capacity() > 2 * plain.len() => {
                let mut buffer = begin_payload(content(&plain).len());
                buffer.extend_from_slice(content(&plain));
                self.flights.buffers.give(plain);
                (Method::Stored, buffer)
            }
            None => (Method::Stored, plain),
        };
        let place = self.place(assembly, block);
        let sealed = seal(self.secret.as_bytes(), &place, method, buffer).map_err(|e| failed(&e.to_string()))?;
        if let Some(permit) = &mut permit {
            permit.shrink_to(sealed.bytes.len() as u64);
        }
        Ok(assembly.put(block, DoneBlock { sealed, entries }, plain_bytes, permit))
    }

    /// Seals the chunk table, signs the index, joins the region.
    pub fn finish(&self, assembly: &Assembly) -> Outcome<Ready> {
        let parts = std::mem::take(&mut *assembly.parts.lock());
        let mut index = Vec::with_capacity(parts.blocks.len() + 1);
        let mut bytes = Vec::with_capacity(parts.blocks.len() + 1);
        let mut table = Vec::with_capacity(parts.blocks.len());
        for block in parts.blocks {
            let block = block.ok_or_else(|| failed("a block is missing"))?;
            take_part(&mut index, &mut bytes, block.sealed);
            table.push(block.entries);
        }
        let encoded = ChunkTable::new(table.clone()).map_err(|e| failed(&e.to_string()))?.encode();
        let place = self.place(assembly, table.len() as u32);
        let sealed = seal_small(self.index_secret.as_bytes(), &place, &encoded).map_err(|e| failed(&e.to_string()))?;
        take_part(&mut index, &mut bytes, sealed);
        let session = SessionId::new(*self.envelope.digest().as_bytes());
        let index = Index {
            source: self.source,
            lineage: self.lineage,
            session,
            number: assembly.number,
            salt: assembly.salt,
            kind: assembly.kind,
            parts: List::new(index).map_err(|e| failed(&e.to_string()))?,
        };
        let index = sign(index, &self.signing).map_err(|e| failed(&e.to_string()))?;
        let region = Region::new(&index, &self.envelope).map_err(|e| failed(&e.to_string()))?;
        Ok(Ready {
            number: assembly.number,
            id: region.id(),
            kind: assembly.kind,
            session,
            region,
            parts: bytes,
            table,
            heals: assembly.heals,
            recorded: AtomicBool::new(false),
            flights: Arc::clone(&self.flights),
            everywhere: Arc::clone(&self.everywhere),
            _permit: parts.permit,
        })
    }
}

/// The content of a block in its buffer.
pub fn content(plain: &[u8]) -> &[u8] {
    plain.get(PAYLOAD_HEADER..).unwrap_or_default()
}

fn take_part(index: &mut Vec<Part>, bytes: &mut Vec<Vec<u8>>, sealed: Sealed) {
    index.push(Part { bytes: sealed.bytes.len() as u32, hash: sealed.hash, plain: sealed.plain });
    bytes.push(sealed.bytes);
}

fn failed(why: &str) -> Failure {
    Failure::new("seal", Exit::Failed, format!("cannot seal an archive: {why}"))
}

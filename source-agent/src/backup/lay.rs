//! Laying: chunk → current block → current archive. The place of a chunk is fixed at once, so that directory nodes can
//! carry it; compressing and sealing come later, on other threads.

use super::assemble::{Assembly, SealJob, content};
use super::budget::Permit;
use super::flights::Flights;
use super::numbers::Numbers;
use super::stop::{Stop, stopped};
use crate::index::uses::Spot;
use crate::report::Outcome;
use crate::tree::table::TableEntry;
use crossbeam_channel::Sender;
use parking_lot::{Condvar, Mutex};
use shared::format::Kind;
use shared::id::ChunkId;
use shared::limits::{ARCHIVE_CHUNKS_MAX, ARCHIVE_PARTS_MAX};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Sealed bytes at which an archive is closed.
pub const ARCHIVE_BYTES_TARGET: u64 = 16 << 20;
/// The least of it.
pub const ARCHIVE_BYTES_LEAST: u64 = 1 << 20;
/// The largest block that comes about: it is closed before a chunk would make it larger.
pub const BLOCK_BYTES_MOST: u64 = 2 << 20;

/// Which row of blocks a chunk goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    Files,
    Images,
    Metadata,
}

impl Lane {
    const ALL: [Self; 3] = [Self::Files, Self::Images, Self::Metadata];
    /// Plaintext at which a block is closed.
    const fn target(self) -> usize {
        match self {
            Self::Files => 1 << 20,
            Self::Images | Self::Metadata => 256 << 10,
        }
    }
    const fn kind(self) -> Kind {
        match self {
            Self::Files | Self::Images => Kind::Data,
            Self::Metadata => Kind::Metadata,
        }
    }
    const fn at(self) -> usize {
        self as usize
    }
}

const fn slot(kind: Kind) -> usize {
    match kind {
        Kind::Data => 0,
        Kind::Metadata => 1,
    }
}

struct OpenBlock {
    assembly: Arc<Assembly>,
    block: u32,
    /// Content behind room for a payload's header.
    plain: Vec<u8>,
    entries: Vec<TableEntry>,
    permit: Option<Permit>,
}

struct OpenArchive {
    assembly: Arc<Assembly>,
    blocks: u32,
    chunks: usize,
}

struct Open {
    blocks: [Option<OpenBlock>; 3],
    archives: [Option<OpenArchive>; 2],
}

/// The one place where blocks and archives are begun.
pub struct Layer {
    open: Mutex<Open>,
    flights: Arc<Flights>,
    jobs: Sender<SealJob>,
    numbers: Arc<Mutex<Numbers>>,
    archive_bytes: u64,
    /// Archives begun and not yet handed to the remotes.
    unfinished: Mutex<BTreeSet<u64>>,
    finished: Condvar,
}

/// What became of a chunk.
pub enum Laid {
    New(Spot),
    /// Another thread laid the same chunk a moment before.
    Known(Spot),
}

impl Layer {
    /// `archive_bytes`: sealed bytes at which an archive is closed; less on slow lines.
    pub fn new(numbers: Arc<Mutex<Numbers>>, flights: Arc<Flights>, jobs: Sender<SealJob>, archive_bytes: u64) -> Self {
        let open = Open { blocks: [None, None, None], archives: [None, None] };
        let archive_bytes = archive_bytes.clamp(ARCHIVE_BYTES_LEAST, ARCHIVE_BYTES_TARGET);
        let (unfinished, finished) = (Mutex::new(BTreeSet::new()), Condvar::new());
        Self { open: Mutex::new(open), flights, jobs, numbers, archive_bytes, unfinished, finished }
    }

    /// Lays a chunk. `permit` covers its bytes; the caller waited for it before, holding nothing.
    pub fn lay(&self, lane: Lane, id: ChunkId, chunk: &[u8], permit: Permit) -> Outcome<Laid> {
        let mut open = self.open.lock();
        if let Some(spot) = self.flights.get(&id) {
            return Ok(Laid::Known(spot));
        }
        let mut block = self.block_for(&mut open, lane, chunk.len())?;
        let spot = Spot { archive: block.assembly.number.get(), block: block.block };
        block.plain.extend_from_slice(chunk);
        block.entries.push(TableEntry { id, bytes: chunk.len() as u32 });
        match &mut block.permit {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        if let Some(archive) = &mut open.archives[slot(lane.kind())] {
            archive.chunks += 1;
            archive.assembly.grow(chunk.len() as u64);
        }
        self.flights.add(id, spot);
        let full = content(&block.plain).len() >= lane.target();
        open.blocks[lane.at()] = Some(block);
        if full {
            self.close_block(&mut open, lane)?;
        }
        Ok(Laid::New(spot))
    }

    /// Takes the lane's open block if the chunk fits, else a fresh one.
    fn block_for(&self, open: &mut Open, lane: Lane, bytes: usize) -> Outcome<OpenBlock> {
        let kind = slot(lane.kind());
        let fits = |block: &OpenBlock| content(&block.plain).len() + bytes <= lane.target() + lane.target() / 2;
        let crowded = open.archives[kind].as_ref().is_some_and(|archive| archive.chunks >= ARCHIVE_CHUNKS_MAX);
        if crowded {
            self.close_archive(open, lane.kind())?;
        }
        match open.blocks[lane.at()].take() {
            Some(block) if fits(&block) => return Ok(block),
            Some(block) => {
                open.blocks[lane.at()] = Some(block);
                self.close_block(open, lane)?;
            }
            None => {}
        }
        let full = open.archives[kind].as_ref().is_some_and(|archive| {
            archive.assembly.bytes() + bytes.max(lane.target()) as u64 > self.archive_bytes
                || archive.blocks as usize + 2 >= ARCHIVE_PARTS_MAX
        });
        if full {
            self.close_archive(open, lane.kind())?;
        }
        let plain = self.flights.buffers.take();
        if open.archives[kind].is_none() {
            let assembly = Arc::new(Assembly::new(self.numbers.lock().take()?, lane.kind()));
            self.unfinished.lock().insert(assembly.number.get());
            open.archives[kind] = Some(OpenArchive { assembly, blocks: 0, chunks: 0 });
        }
        let Some(archive) = &mut open.archives[kind] else { return Err(stopped()) };
        let block = archive.blocks;
        archive.blocks += 1;
        Ok(OpenBlock { assembly: Arc::clone(&archive.assembly), block, plain, entries: Vec::new(), permit: None })
    }

    fn close_block(&self, open: &mut Open, lane: Lane) -> Outcome<()> {
        let Some(block) = open.blocks[lane.at()].take() else { return Ok(()) };
        let OpenBlock { assembly, block, plain, entries, permit } = block;
        let job = SealJob::Block { assembly, block, plain, entries, permit };
        self.jobs.send(job).map_err(|_| stopped())
    }

    /// Closes an archive and the blocks that lie open in it: nothing of it may wait for more data.
    fn close_archive(&self, open: &mut Open, kind: Kind) -> Outcome<()> {
        for lane in Lane::ALL.into_iter().filter(|lane| lane.kind() == kind) {
            self.close_block(open, lane)?;
        }
        let Some(archive) = open.archives[slot(kind)].take() else { return Ok(()) };
        if archive.assembly.close(archive.blocks) {
            self.jobs.send(SealJob::Finish(archive.assembly)).map_err(|_| stopped())?;
        }
        Ok(())
    }

    /// Closes everything that is open; returns a number above all archives begun so far.
    fn flush(&self) -> Outcome<u64> {
        let mut open = self.open.lock();
        self.close_archive(&mut open, Kind::Data)?;
        self.close_archive(&mut open, Kind::Metadata)?;
        let mut numbers = self.numbers.lock();
        numbers.close()?;
        Ok(numbers.next())
    }

    /// Closes everything that is open and waits until it was handed to the remotes; what is begun meanwhile is not
    /// waited for. Returns a number above all archives that were handed over.
    pub fn settle(&self, stop: &Stop) -> Outcome<u64> {
        let bound = self.flush()?;
        let mut unfinished = self.unfinished.lock();
        while unfinished.first().is_some_and(|first| *first < bound) {
            stop.check()?;
            self.finished.wait_for(&mut unfinished, Duration::from_millis(100));
        }
        Ok(bound)
    }

    /// An archive was handed to the remotes.
    pub fn archive_finished(&self, number: u64) {
        self.unfinished.lock().remove(&number);
        self.finished.notify_all();
    }

    /// So many sealing threads end when all work before this is done.
    pub fn end(&self, threads: usize) {
        for _ in 0..threads {
            // No thread listens any more: then all have ended.
            let _ = self.jobs.send(SealJob::End);
        }
    }
}

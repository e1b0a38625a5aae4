//! A file's content in order, for streams: the blocks of some 32 MiB are fetched in one row, checked and opened on
//! worker threads, while a thread of its own writes those before. What fails there is sought as any other chunk.

use crate::crypto::secret::ChunkNamer;
use crate::report::{Exit, Failure, Outcome};
use crate::restore::objects::{Got, Objects, PartsWanted};
use crate::restore::reader::{Block, OpenArchive, Reader, open_block};
use crate::restore::walk::Extents;
use crate::tree::{ChunkRef, Entry, Extent};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;
use shared::id::{ArchiveId, ArchiveNumber, ChunkId};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::io::{self, Write};
use std::sync::Arc;

/// Opened blocks of one window. Three windows are in memory at most: fetched, waiting, being written.
const WINDOW_BYTES: usize = 32 << 20;
/// Extents of one window: holes and chunks that come from blocks which are here already take memory too.
const WINDOW_EXTENTS: usize = 64 << 10;
/// Archives of one window: their indexes and chunk tables are held.
const WINDOW_ARCHIVES: usize = 64;
/// Threads that open blocks at most.
const WORKERS_MAX: usize = 8;
/// Files below this are not worth threads.
const SMALL_BYTES: u64 = 4 << 20;

/// A piece of the file, checked.
enum Piece {
    Chunk(Arc<Block>, ChunkId),
    Bytes(Vec<u8>),
    Hole(u64),
}

/// Blocks to fetch, and the chunks that are wanted of each, in the order of archives; and blocks that are here.
#[derive(Default)]
pub struct Wanted {
    archives: Vec<(Arc<OpenArchive>, BTreeSet<u32>)>,
    /// Where in `archives` a number stands.
    at: HashMap<u64, usize>,
    chunks: HashMap<(u64, u32), Vec<ChunkRef>>,
    here: Found,
    /// Memory of all these blocks, opened.
    bytes: usize,
}

/// Chunks that were found where they should be, and are what they should be.
pub type Found = HashMap<(u64, u32), (Arc<Block>, HashSet<ChunkId>)>;

/// A block that came, and the chunks of it that are what they should be; or what is wrong with it.
pub type Opened = (ArchiveNumber, u32, Outcome<(Arc<Block>, HashSet<ChunkId>)>);

impl Wanted {
    fn chunks_of(&self, place: (u64, u32)) -> &[ChunkRef] {
        self.chunks.get(&place).map_or(&[], Vec::as_slice)
    }
    /// The id of an archive of which blocks are wanted.
    pub fn id_of(&self, number: ArchiveNumber) -> Option<ArchiveId> {
        let (open, _) = self.archives.get(*self.at.get(&number.get())?)?;
        Some(open.id())
    }
    /// Blocks to fetch.
    pub fn blocks(&self) -> usize {
        self.chunks.len()
    }
    pub fn is_full(&self, bytes: usize) -> bool {
        self.bytes >= bytes || self.archives.len() >= WINDOW_ARCHIVES
    }

    /// Wants a chunk at the first place where it is to be sought.
    pub fn add(&mut self, reader: &mut Reader<'_>, chunk: &ChunkRef) -> Outcome<()> {
        let Some(place) = reader.near(chunk)?.first().copied() else { return Ok(()) };
        if let Some(chunks) = self.chunks.get_mut(&place) {
            chunks.push(*chunk);
            return Ok(());
        }
        if let Some((block, good)) = self.here.get_mut(&place) {
            if !good.contains(&chunk.id) {
                good.extend(block.fitting(&reader.namer, &[*chunk]));
            }
            return Ok(());
        }
        if let Some(block) = reader.cached(place) {
            self.bytes += block.memory();
            let good = block.fitting(&reader.namer, &[*chunk]);
            self.here.insert(place, (block, good));
            return Ok(());
        }
        let Some((open, bytes)) = reader.absent(place)? else { return Ok(()) };
        self.chunks.insert(place, vec![*chunk]);
        self.bytes += bytes;
        let at = *self.at.entry(place.0).or_insert_with(|| {
            self.archives.push((open, BTreeSet::new()));
            self.archives.len() - 1
        });
        self.archives[at].1.insert(place.1);
        Ok(())
    }

    /// Fetches the blocks in one row; they are checked and opened on worker threads, and so are the chunks wanted of
    /// them. In no order; what did not come is not there.
    pub fn open(&self, sink: &mut dyn Objects, namer: &ChunkNamer) -> Outcome<Vec<Opened>> {
        let parts: Vec<PartsWanted> = self
            .archives
            .iter()
            .map(|(open, blocks)| PartsWanted {
                archive: Arc::clone(&open.archive),
                parts: blocks.iter().copied().collect(),
            })
            .collect();
        let workers = std::thread::available_parallelism().map_or(2, usize::from).min(WORKERS_MAX);
        let (jobs, to_open) = unbounded::<(&Arc<OpenArchive>, u32, Vec<u8>)>();
        let opened = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..workers {
                let (to_open, opened) = (to_open.clone(), &opened);
                scope.spawn(move || {
                    for (open, number, sealed) in to_open {
                        let archive = open.archive.name.number;
                        let block = open_block(open, number, sealed).map(|block| {
                            let good = block.fitting(namer, self.chunks_of((archive.get(), number)));
                            (Arc::new(block), good)
                        });
                        opened.lock().push((archive, number, block));
                    }
                });
            }
            let fetched = sink.parts(&parts, &mut |at, got| {
                crate::cli::check_interrupted()?;
                if let (Got::Part(number, sealed), Some((open, _))) = (got, self.archives.get(at)) {
                    // The threads take jobs until there are no more.
                    drop(jobs.send((open, number, sealed)));
                }
                Ok(())
            });
            drop(jobs);
            fetched
        })?;
        Ok(opened.into_inner())
    }
}

/// Writes the content of a file, holes as zeros. A chunk that cannot be had ends it with a failure; what comes before
/// the chunk was written then.
pub fn content(reader: &mut Reader<'_>, entry: &Entry, out: &mut (dyn Write + Send)) -> Outcome<()> {
    if entry.size < SMALL_BYTES { one_by_one(reader, entry, out) } else { in_windows(reader, entry, out, WINDOW_BYTES) }
}

fn in_windows(reader: &mut Reader<'_>, entry: &Entry, out: &mut (dyn Write + Send), bytes: usize) -> Outcome<()> {
    let (sender, receiver) = bounded(1);
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || write(&receiver, out));
        let read = windows(reader, entry, bytes, &sender);
        drop(sender);
        let written = writing.join().unwrap_or_else(|_| Err(io::Error::other("the writing thread broke off")));
        // Where writing failed, reading could only tell that it did.
        written.map_err(failed)?;
        read
    })
}

fn one_by_one(reader: &mut Reader<'_>, entry: &Entry, out: &mut dyn Write) -> Outcome<()> {
    let mut extents = Extents::new(entry);
    while let Some((_, extent)) = extents.next(reader)? {
        crate::cli::check_interrupted()?;
        match extent {
            Extent::Chunk(chunk) => out.write_all(&reader.chunk(&chunk)?).map_err(failed)?,
            Extent::Hole(bytes) => zeros(out, bytes).map_err(failed)?,
        }
    }
    Ok(())
}

/// Extents of the windows to come, whose archives are opened in one row.
struct Ahead {
    extents: Extents,
    waiting: VecDeque<Extent>,
    /// How the file ends, once that is known.
    end: Option<Outcome<()>>,
}

impl Ahead {
    /// Reads extents until these and the next window are at hand.
    fn fill(&mut self, reader: &mut Reader<'_>, bytes: usize) -> Outcome<()> {
        let chunk_bytes = |extent: &Extent| match extent {
            Extent::Chunk(chunk) => chunk.bytes as usize,
            Extent::Hole(_) => 0,
        };
        let mut held: usize = self.waiting.iter().map(chunk_bytes).sum();
        if held >= bytes || self.waiting.len() >= WINDOW_EXTENTS {
            return Ok(());
        }
        let mut archives = BTreeSet::new();
        while self.end.is_none() && held < 2 * bytes && self.waiting.len() < WINDOW_EXTENTS {
            crate::cli::check_interrupted()?;
            match self.extents.next(reader) {
                Ok(Some((_, extent))) => {
                    held += chunk_bytes(&extent);
                    if let Extent::Chunk(chunk) = &extent
                        && archives.len() < WINDOW_ARCHIVES
                    {
                        archives.insert(chunk.archive.get());
                    }
                    self.waiting.push_back(extent);
                }
                Ok(None) => self.end = Some(Ok(())),
                // What lies before is written all the same.
                Err(failure) => self.end = Some(Err(failure)),
            }
        }
        reader.prefetch(archives)
    }
}

/// Gathers, fetches and hands over one window after another.
fn windows(reader: &mut Reader<'_>, entry: &Entry, bytes: usize, pieces: &Sender<Vec<Piece>>) -> Outcome<()> {
    let mut ahead = Ahead { extents: Extents::new(entry), waiting: VecDeque::new(), end: None };
    loop {
        ahead.fill(reader, bytes)?;
        let (mut window, mut wanted) = (Vec::new(), Wanted::default());
        while !wanted.is_full(bytes) && window.len() < WINDOW_EXTENTS {
            let Some(extent) = ahead.waiting.pop_front() else { break };
            if let Extent::Chunk(chunk) = &extent {
                wanted.add(reader, chunk)?;
            }
            window.push(extent);
        }
        if window.is_empty() {
            return ahead.end.unwrap_or(Ok(()));
        }
        let mut found = reader.fetch(&wanted)?;
        found.extend(wanted.here);
        hand_over(reader, &found, window, bytes, pieces)?;
    }
}

/// Hands a window over as pieces: in more than one part where much of it had to be sought elsewhere, and so was copied.
/// What lies before a chunk that cannot be had is handed over too.
fn hand_over(
    reader: &mut Reader<'_>,
    found: &Found,
    window: Vec<Extent>,
    bytes: usize,
    pieces: &Sender<Vec<Piece>>,
) -> Outcome<()> {
    let send =
        |ready| pieces.send(ready).map_err(|_| Failure::new("internal", Exit::Failed, "the writing thread ended"));
    let (mut ready, mut copied) = (Vec::new(), 0);
    for extent in window {
        crate::cli::check_interrupted()?;
        match piece(reader, found, extent) {
            Ok(piece) => {
                if let Piece::Bytes(copy) = &piece {
                    copied += copy.len();
                }
                ready.push(piece);
            }
            Err(failure) => {
                send(ready)?;
                return Err(failure);
            }
        }
        if copied >= bytes {
            send(std::mem::take(&mut ready))?;
            copied = 0;
        }
    }
    send(ready)
}

fn piece(reader: &mut Reader<'_>, found: &Found, extent: Extent) -> Outcome<Piece> {
    let chunk = match extent {
        Extent::Hole(bytes) => return Ok(Piece::Hole(bytes)),
        Extent::Chunk(chunk) => chunk,
    };
    if let Some(place) = reader.near(&chunk)?.first()
        && let Some((block, good)) = found.get(place)
        && good.contains(&chunk.id)
    {
        return Ok(Piece::Chunk(Arc::clone(block), chunk.id));
    }
    Ok(Piece::Bytes(reader.chunk(&chunk)?))
}

fn write(pieces: &Receiver<Vec<Piece>>, out: &mut dyn Write) -> io::Result<()> {
    for piece in pieces.iter().flatten() {
        match piece {
            Piece::Chunk(block, id) => {
                let content = block.get(&id).ok_or_else(|| io::Error::other("a chunk went away"))?;
                out.write_all(content)?;
            }
            Piece::Bytes(bytes) => out.write_all(&bytes)?,
            Piece::Hole(bytes) => zeros(out, bytes)?,
        }
    }
    Ok(())
}

fn zeros(out: &mut dyn Write, bytes: u64) -> io::Result<()> {
    let zeros = [0; 16 << 10];
    let mut left = bytes;
    while left > 0 {
        let piece = usize::try_from(left).map_or(zeros.len(), |left| left.min(zeros.len()));
        out.write_all(&zeros[..piece])?;
        left -= piece as u64;
    }
    Ok(())
}

/// A failure of standard output.
pub fn failed(error: io::Error) -> Failure {
    let code = if error.kind() == io::ErrorKind::BrokenPipe { "stdout-closed" } else { "stdout" };
    Failure::new(code, Exit::Failed, format!("cannot write to standard output: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::identity::Identity;
    use crate::restore::later::Later;
    use crate::restore::objects::is_lost;
    use crate::restore::testing::{Vault, file_of};
    use crate::tree::EntryKind;
    use shared::codec::List;
    use shared::format::Kind;

    /// Chunks of 100 bytes, five to a block, twenty to an archive.
    fn chunks(vault: &mut Vault, count: u32) -> (Vec<ChunkRef>, Vec<u8>) {
        vault.block_bytes = 500;
        let contents: Vec<Vec<u8>> = (0..count).map(|n| n.to_le_bytes().repeat(25)).collect();
        let refs = contents.chunks(20).flat_map(|some| vault.archive(Kind::Data, some)).collect();
        (refs, contents.concat())
    }

    /// The content in windows of this size, what was found, and how it ended.
    fn stream(vault: &mut Vault, entry: &Entry, bytes: usize) -> (Vec<u8>, Vec<String>, Outcome<()>) {
        let head = vault.snapshot(vec![entry.clone()]);
        let (source, head) = (vault.trusted(), vault.head(&head));
        let identity = Identity::from_seed(&[7; 32]);
        let mut reader = Reader::open(vault, &source, head, &identity, &Later::default()).unwrap();
        let mut out = Vec::new();
        let end = in_windows(&mut reader, entry, &mut out, bytes);
        (out, reader.findings.lines(), end)
    }

    #[test]
    fn content_comes_in_order_and_each_block_once() {
        for bytes in [1, 700, 3000, 1 << 20] {
            let mut vault = Vault::new();
            let (refs, content) = chunks(&mut vault, 100);
            let (out, findings, end) = stream(&mut vault, &file_of("file", &refs), bytes);
            end.unwrap();
            assert!(out == content && findings.is_empty(), "windows of {bytes}");
            assert!(vault.store.fetched.values().all(|count| *count == 1), "{:?}", vault.store.fetched);
        }
    }

    #[test]
    fn holes_and_chunks_that_come_again() {
        let mut vault = Vault::new();
        let (refs, content) = chunks(&mut vault, 60);
        let again = [&refs[..], &refs[10..30], &refs[..1]].concat();
        let mut extents: Vec<Extent> = again.iter().copied().map(Extent::Chunk).collect();
        extents.insert(30, Extent::Hole(70_000));
        let size = extents.iter().map(Extent::bytes).sum();
        let file = Entry { size, extents: Some(List::new(extents).unwrap()), ..file_of("file", &[]) };
        assert_eq!(file.kind, EntryKind::File);
        let (out, _, end) = stream(&mut vault, &file, 900);
        end.unwrap();
        let expected =
            [&content[..3000], &[0; 70_000], &content[3000..], &content[1000..3000], &content[..100]].concat();
        assert!(out == expected);
    }

    #[test]
    fn a_chunk_that_comes_again_and_again_is_not_copied() {
        let mut vault = Vault::new();
        let (refs, _) = chunks(&mut vault, 20);
        let repeated = vec![refs[3]; 20_000];
        let head = vault.snapshot(vec![file_of("file", &refs)]);
        let (source, head) = (vault.trusted(), vault.head(&head));
        let identity = Identity::from_seed(&[7; 32]);
        let mut reader = Reader::open(&mut vault, &source, head, &identity, &Later::default()).unwrap();
        for _ in 0..2 {
            // The second time its block is here already.
            let mut wanted = Wanted::default();
            repeated.iter().for_each(|chunk| wanted.add(&mut reader, chunk).unwrap());
            assert!(wanted.bytes <= 4096, "one block counts once: {}", wanted.bytes);
            let mut found = reader.fetch(&wanted).unwrap();
            found.extend(wanted.here);
            let piece = piece(&mut reader, &found, Extent::Chunk(refs[3])).unwrap();
            assert!(matches!(piece, Piece::Chunk(..)));
        }
    }

    #[test]
    fn what_is_copied_is_handed_over_in_parts() {
        let mut vault = Vault::new();
        let (refs, _) = chunks(&mut vault, 40);
        let head = vault.snapshot(vec![file_of("file", &refs)]);
        let (source, head) = (vault.trusted(), vault.head(&head));
        let identity = Identity::from_seed(&[7; 32]);
        let mut reader = Reader::open(&mut vault, &source, head, &identity, &Later::default()).unwrap();
        // Nothing was found where it should be: all of it is sought, and copied.
        let (sender, receiver) = crossbeam_channel::unbounded();
        let window = refs.iter().copied().map(Extent::Chunk).collect();
        hand_over(&mut reader, &Found::new(), window, 1000, &sender).unwrap();
        let parts: Vec<usize> = receiver.try_iter().map(|part| part.len()).collect();
        assert_eq!(parts, [10, 10, 10, 10, 0]);
    }

    #[test]
    fn what_lies_before_a_lost_chunk_is_written() {
        let mut vault = Vault::new();
        let (refs, content) = chunks(&mut vault, 100);
        // The tenth block: chunks 45 to 49.
        let lost = (refs[45].archive.get(), refs[45].block);
        vault.store.parts.get_mut(&lost).unwrap()[100] ^= 1;
        let (out, findings, end) = stream(&mut vault, &file_of("file", &refs), 2000);
        assert!(is_lost(&end.unwrap_err()));
        assert!(out == content[..4500], "{} bytes", out.len());
        assert_eq!(findings.len(), 1);
    }

    #[test]
    fn a_poisoned_chunk_is_sought_elsewhere() {
        let mut vault = Vault::new();
        let (refs, content) = chunks(&mut vault, 40);
        let poisoned = vault.archive_named(Kind::Data, &[(refs[7].id, vec![9; 100])])[0];
        let mut hinted = refs.clone();
        hinted[7] = poisoned;
        let (out, findings, end) = stream(&mut vault, &file_of("file", &hinted), 1500);
        end.unwrap();
        assert!(out == content);
        assert_eq!(findings.len(), 1);
    }

    #[test]
    fn an_output_that_closes_ends_it() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut vault = Vault::new();
        let (refs, _) = chunks(&mut vault, 100);
        let file = file_of("file", &refs);
        let head = vault.snapshot(vec![file.clone()]);
        let (source, head) = (vault.trusted(), vault.head(&head));
        let identity = Identity::from_seed(&[7; 32]);
        let mut reader = Reader::open(&mut vault, &source, head, &identity, &Later::default()).unwrap();
        assert_eq!(in_windows(&mut reader, &file, &mut Closed, 300).unwrap_err().code, "stdout-closed");
    }
}

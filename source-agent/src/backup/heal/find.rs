//! Seeking the chunks of damaged blocks where the last snapshots say that they came from: in files, which are read and
//! cut again, and in directories, whose nodes are made again from the local index, byte for byte.

use super::Effort;
use crate::backup::content::{Contents, Issue, Of, device_bytes};
use crate::backup::lay::Lane;
use crate::backup::outcome::Met;
use crate::backup::set::Run;
use crate::backup::store::{Keep, reference};
use crate::backup::tree::nodes_again;
use crate::crypto::secret::ChunkNamer;
use crate::index::record::{self, Record, kind_number};
use crate::index::uses::Spot;
use crate::index::{DAMAGED, Lookup, series};
use crate::report::{Exit, Failure, Outcome};
use crate::tree::{ChunkRef, Entry, EntryKind, Extent};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use shared::id::ChunkId;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Chunks that are sought, and the content of those that were found.
#[derive(Default)]
pub struct Want {
    chunks: HashMap<ChunkId, Option<Vec<u8>>>,
    left: usize,
}

impl Want {
    pub fn add(&mut self, id: ChunkId) {
        if self.chunks.insert(id, None).is_none() {
            self.left += 1;
        }
    }
    pub fn content(&self, id: &ChunkId) -> Option<&[u8]> {
        self.chunks.get(id)?.as_deref()
    }
    /// Found, or not sought at all.
    pub fn is_here(&self, id: &ChunkId) -> bool {
        !self.is_left(id)
    }
    fn is_left(&self, id: &ChunkId) -> bool {
        matches!(self.chunks.get(id), Some(None))
    }
    fn found(&mut self, id: &ChunkId, content: &[u8]) {
        if let Some(slot @ None) = self.chunks.get_mut(id) {
            *slot = Some(content.to_vec());
            self.left -= 1;
        }
    }
}

/// Ends the search: nothing is left to seek, or no time.
const ENOUGH: &str = "enough";

/// Keeps what is sought. References are to where the index says that chunks lie, as in the last snapshot: so nodes come
/// out as they were.
struct Collector<'w> {
    want: &'w mut Want,
    namer: ChunkNamer,
    lookup: Lookup,
    effort: &'w mut Effort,
}

impl Keep for Collector<'_> {
    fn put(&mut self, _: Lane, chunk: &[u8]) -> Outcome<ChunkRef> {
        let id = self.namer.name(chunk);
        self.want.found(&id, chunk);
        if self.want.left == 0 || self.effort.is_over() {
            return Err(Failure::new(ENOUGH, Exit::Done, "there is no more to seek"));
        }
        let spot = self.lookup.find(&id)?.unwrap_or(Spot { archive: 0, block: 0 });
        reference(id, chunk.len(), spot)
    }
}

/// Seeks chunks that lay in these blocks, within what may be spent on it.
pub fn collect(run: &Run, spots: &HashSet<Spot>, want: &mut Want, effort: &mut Effort) -> Outcome<()> {
    if want.left == 0 {
        return Ok(());
    }
    let env = run.env;
    let progress = (env.progress)("healing");
    let met = Arc::new(Met::default());
    let contents = Contents::new(&run.cutter, &progress, Arc::clone(&met), Arc::clone(&run.stop));
    let (namer, lookup) = (env.secret.chunk_namer(&env.lineage), env.index.lookup()?);
    let collector = Collector { want, namer, lookup, effort };
    let mut search = Search { spots, contents, collector, met };
    for path in series::all(&env.cache_dir) {
        let refers = |spot: Spot| spots.contains(&spot);
        let done = series::for_each_row(&path, refers, |dir, row| {
            run.stop.check()?;
            nodes_again(&row, &mut search.collector)?;
            record::read_all(&row.records)?.iter().try_for_each(|record| search.file(dir, record))
        });
        match done {
            Err(failure) if failure.code == ENOUGH => break,
            // The run itself meets a damaged index, and makes it again.
            Err(failure) if failure.code == DAMAGED => {}
            done => done?,
        }
    }
    progress.finish();
    Ok(())
}

struct Search<'s> {
    spots: &'s HashSet<Spot>,
    contents: Contents<'s>,
    met: Arc<Met>,
    collector: Collector<'s>,
}

impl Search<'_> {
    /// Reads a file that held some of it. One that is gone or cannot be read holds nothing.
    fn file(&mut self, dir: &[u8], record: &Record) -> Outcome<()> {
        let refers = record.uses()?.iter().any(|(spot, _)| self.spots.contains(spot));
        if record.kind != kind_number(EntryKind::File) || !refers {
            return Ok(());
        }
        let entry: Entry = minicbor::decode(record.entry).map_err(|_| crate::index::Corrupt)?;
        let is_left =
            |extent: &Extent| matches!(extent, Extent::Chunk(chunk) if self.collector.want.is_left(&chunk.id));
        if entry.extents.as_ref().is_some_and(|extents| !extents.iter().any(is_left)) {
            return Ok(());
        }
        let path = [dir, b"/", record.name].concat();
        match self.read(&path, record.name) {
            Err(Issue::Fatal(failure)) => Err(failure),
            _ => Ok(()),
        }
    }

    fn read(&mut self, path: &[u8], name: &[u8]) -> Result<(), Issue> {
        // Not blocking: the name may be a pipe by now.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = match open(path, flags | OFlags::NOATIME) {
            // Only the owner of a file may read it without a trace.
            Err(Errno::PERM) => open(path, flags)?,
            opened => opened?,
        };
        let stat = rustix::fs::fstat(&fd)?;
        let file = File::from(fd);
        let (size, device) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => (stat.st_size as u64, false),
            FileType::BlockDevice => (device_bytes(&file)?, true),
            _ => return Err(Issue::Gone),
        };
        // A larger one holds nothing for us: the walk reads it, once for all remotes.
        let held = if device { size } else { size.min((stat.st_blocks as u64).saturating_mul(512)) };
        let left = self.collector.effort.read_left.checked_sub(held);
        self.collector.effort.read_left = left.ok_or(Issue::Gone)?;
        let before = self.met.bytes_read.get();
        let read = self.contents.read(&file, &Of { name, stat: &stat, size, device }, &mut self.collector);
        // A file system that compresses holds less than it gives.
        let more = (self.met.bytes_read.get() - before).saturating_sub(held);
        let effort = &mut self.collector.effort;
        effort.read_left = effort.read_left.saturating_sub(more);
        read.map(|_| ())
    }
}

/// Opens a file by its absolute path through no symbolic link: a directory on the way may have become one since the last
/// snapshot, and lead to a device that does something when it is opened.
fn open(path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    match openat2(CWD, OsStr::from_bytes(path), flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // Before Linux 5.6.
        Err(Errno::NOSYS) => open_by_steps(path, flags),
        opened => opened,
    }
}

fn open_by_steps(path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let way = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = rustix::fs::open("/", way, Mode::empty())?;
    let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(OsStr::from_bytes).peekable();
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            return openat(&at, name, flags | OFlags::NOFOLLOW, Mode::empty());
        }
        at = openat(&at, name, way, Mode::empty())?;
    }
    Err(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_opened_through_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        std::fs::create_dir(top.join("real")).unwrap();
        std::fs::write(top.join("real/file"), b"x").unwrap();
        std::os::unix::fs::symlink("real", top.join("link")).unwrap();
        std::os::unix::fs::symlink("file", top.join("real/other")).unwrap();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for open in [open, open_by_steps] {
            let opens = |name: &str| open(top.join(name).as_os_str().as_bytes(), flags).is_ok();
            assert!(opens("real/file"));
            assert!(!opens("link/file") && !opens("real/other") && !opens("real/none"));
        }
    }
}

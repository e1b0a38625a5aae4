//! Reading: several threads, one file each at a time; holes are skipped, what changed or went away meanwhile is noted.

use super::chunk::{CHUNK_BYTES_MOST, Cut, Cutter, IMAGE_CHUNK_BYTES, is_image, is_zero};
use super::lay::Lane;
use super::links::{Known, Links, Turn};
use super::list::{Content, ListBuilder};
use super::meta::{self, Attributes};
use super::outcome::Met;
use super::stop::stopped;
use super::store::Store;
use super::tree::{Filled, Output, fill};
use super::users::Users;
use super::walk::ReadJob;
use crate::index::record;
use crate::index::uses::Uses;
use crate::progress::Progress;
use crate::report::Outcome;
use crate::tree::{Entry, EntryKind, Xattr};
use crossbeam_channel::Receiver;
use rustix::fs::{Advice, Mode, OFlags, SeekFrom, Stat, openat};
use rustix::io::Errno;
use shared::codec::{self, List};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes that a thread reads ahead of cutting: two of the largest chunks. More would move less and take more memory.
const BUFFER_BYTES: usize = 2 * CHUNK_BYTES_MOST;
/// A file that claims to be empty may be made by the kernel or by a driver; so much of it is read.
const UNSIZED_BYTES_MAX: u64 = 16 << 20;

/// Why a file is not in the snapshot.
enum Issue {
    Gone,
    Unreadable(io::Error),
    /// The run cannot go on.
    Fatal(crate::report::Failure),
}

impl From<Errno> for Issue {
    fn from(e: Errno) -> Self {
        match e {
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::STALE => Self::Gone,
            e if meta::is_exhausted(e) => Self::Fatal(meta::exhausted(e)),
            e => Self::Unreadable(e.into()),
        }
    }
}
impl From<io::Error> for Issue {
    fn from(e: io::Error) -> Self {
        Self::Unreadable(e)
    }
}
impl From<crate::report::Failure> for Issue {
    fn from(failure: crate::report::Failure) -> Self {
        Self::Fatal(failure)
    }
}

/// A file that was read.
struct Done {
    entry: Entry,
    stat: Stat,
    trusted: bool,
    uses: Uses,
    changed: bool,
}

/// What all readers share.
pub struct ReadShared<'a> {
    pub cutter: &'a Cutter,
    pub links: &'a Links,
    pub users: &'a Users,
    pub output: &'a Output,
    pub xattrs: bool,
    pub progress: &'a Progress,
}

/// One reading thread.
pub struct Reader<'a> {
    shared: &'a ReadShared<'a>,
    store: Store<'a>,
    met: Arc<Met>,
    buffer: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub fn new(shared: &'a ReadShared<'a>, store: Store<'a>) -> Self {
        let met = Arc::clone(&store.shared().met);
        // Untouched pages of a zeroed buffer take no memory.
        Self { shared, store, met, buffer: vec![0; BUFFER_BYTES] }
    }

    /// Reads files until there are no more; after a stop it only empties the queue.
    pub fn run(&mut self, jobs: &Receiver<ReadJob>) {
        for job in jobs {
            let mut left = vec![job];
            while let Some(job) = left.pop() {
                if self.store.shared().stop.is_set() {
                    break;
                }
                match self.one(job) {
                    Ok(again) => left.extend(again),
                    Err(failure) => self.store.shared().stop.fail(failure),
                }
            }
        }
    }

    /// One name. Returns other names of its file that waited for it in vain: they are read themselves.
    fn one(&mut self, job: ReadJob) -> Outcome<Vec<ReadJob>> {
        let linked = job.stat.st_nlink > 1 && !job.device;
        let turn = if linked { self.shared.links.turn(job) } else { Turn::Alone(job) };
        let (job, first) = match turn {
            Turn::First(job) => (job, true),
            Turn::Alone(job) => (job, false),
            Turn::Take(job, known) => return self.take(job, &known).map(|()| Vec::new()),
            Turn::Waits => return Ok(Vec::new()),
        };
        let path = [&job.dir.path[..], b"/", &job.name].concat();
        let done = match self.read(&job, &path) {
            Ok(done) => Some(done),
            Err(Issue::Gone) => {
                self.met.vanished.add(&path, "gone before it was read");
                None
            }
            Err(Issue::Unreadable(e)) => {
                self.met.unreadable.add(&path, e.to_string());
                None
            }
            Err(Issue::Fatal(failure)) => return Err(failure),
        };
        if let Some(done) = &done {
            let counter = if job.is_new { &self.met.files_new } else { &self.met.files_changed };
            counter.add(1);
            self.met.files.add(1);
            self.met.bytes.add(done.entry.size);
            if done.changed {
                self.met.changed.add(&path, "changed while it was read");
            }
        }
        self.shared.progress.files(1);
        // What was opened may be newer than what was looked at, even another file: then it speaks for this name alone.
        let as_seen = done.as_ref().is_some_and(|done| {
            done.stat.st_dev == job.stat.st_dev && meta::stat_key(&done.stat) == meta::stat_key(&job.stat)
        });
        let known = done.map(|done| {
            let key = meta::stat_key(&done.stat);
            Arc::new((done.entry, key, done.trusted && !done.changed, done.uses))
        });
        let again = if first { self.pass_on(&job, known.as_ref().filter(|_| as_seen))? } else { Vec::new() };
        let filled = known.map_or(Filled::Gone, |known| filled(&job.name, &known));
        fill(job.dir, job.slot, filled, &mut self.store, self.shared.output)?;
        Ok(again)
    }

    /// Gives what was read to the names that wait for it; returns them if there is nothing to give.
    fn pass_on(&mut self, first: &ReadJob, known: Option<&Known>) -> Outcome<Vec<ReadJob>> {
        let waiting = self.shared.links.done(first, known);
        let Some(known) = known else { return Ok(waiting) };
        waiting.into_iter().try_for_each(|job| self.take(job, known))?;
        Ok(Vec::new())
    }

    /// Another name of a file that was read.
    fn take(&mut self, job: ReadJob, known: &Known) -> Outcome<()> {
        self.met.files.add(1);
        self.met.bytes.add(known.0.size);
        self.met.files_new.add(1);
        fill(job.dir, job.slot, filled(&job.name, known), &mut self.store, self.shared.output)
    }

    fn read(&mut self, job: &ReadJob, path: &[u8]) -> Result<Done, Issue> {
        let fd = open(job)?;
        let read_at = meta::now();
        let stat = rustix::fs::fstat(&fd)?;
        let same = (stat.st_dev, stat.st_ino) == (job.stat.st_dev, job.stat.st_ino);
        let file = meta::kind(&stat) == Some(EntryKind::File);
        if !job.device && !file {
            return Err(Issue::Gone);
        }
        let (xattrs, whole) = self.xattrs(fd.as_fd(), path);
        let mut entry = meta::entry(&job.name, EntryKind::File, &stat, self.shared.users, xattrs)
            .ok_or_else(|| io::Error::other("its name is too long"))?;
        entry.hard_link = meta::hard_link(&stat, job.file_system).filter(|_| !job.device);
        let source = File::from(fd);
        let size = if job.device { device_bytes(&source)? } else { stat.st_size as u64 };
        self.shared.progress.message(&super::outcome::shown(path));
        let (content, bytes, uses) = self.content(&source, &stat, size, job)?;
        set_content(&mut entry, content, bytes)?;
        let after = rustix::fs::fstat(&source)?;
        let changed = !job.device && (!same || meta::stat_key(&after) != meta::stat_key(&stat) || bytes != size);
        Ok(Done { entry, stat, trusted: whole && meta::is_trusted(&stat, read_at), uses, changed })
    }

    /// Extended attributes, and whether they are all that there is. What cannot be read is reported, in every run; the
    /// content is worth having without.
    fn xattrs(&self, fd: BorrowedFd<'_>, path: &[u8]) -> (Vec<Xattr>, bool) {
        if !self.shared.xattrs {
            return (Vec::new(), true);
        }
        match meta::xattrs(Attributes::Open(fd)) {
            Ok(xattrs) => (xattrs, true),
            Err(e) => {
                self.met.unreadable.add(path, format!("its extended attributes: {e}"));
                (Vec::new(), false)
            }
        }
    }

    /// Reads, cuts and stores what is not a hole.
    fn content(&mut self, file: &File, stat: &Stat, size: u64, job: &ReadJob) -> Result<(Content, u64, Uses), Issue> {
        let mut list = ListBuilder::default();
        let mut begin = [0; 4096];
        let image = !job.device && size >= (1 << 20) && {
            let bytes = file.read_at(&mut begin, 0)?;
            is_image(&job.name, size, &begin[..bytes])
        };
        let cut = if job.device || image { Cut::Fixed } else { Cut::Content };
        if size > BUFFER_BYTES as u64 {
            // Advice may be ignored.
            let _ = rustix::fs::fadvise(file, 0, None, Advice::Sequential);
        }
        let end = if size == 0 { UNSIZED_BYTES_MAX } else { size };
        let sparse = !job.device && (stat.st_blocks as u64).saturating_mul(512) < size;
        let mut at = 0;
        while at < end {
            let (data, stop) = match (sparse, cut) {
                (false, _) => (at, end),
                (true, Cut::Content) => next_data(file, at, end),
                (true, Cut::Fixed) => aligned(next_data(file, at, end), at, end),
            };
            list.hole(data - at, &mut self.store)?;
            at = data;
            if data < stop {
                let read = self.stretch(file, data, stop, cut, &mut list)?;
                at += read;
                if at < stop {
                    // Shorter than it was: its end.
                    break;
                }
            }
        }
        Ok(list.finish(&mut self.store)?)
    }

    /// Reads from `begin` to `end`, or to the end of the file; returns the bytes read.
    fn stretch(&mut self, file: &File, begin: u64, end: u64, cut: Cut, list: &mut ListBuilder) -> Result<u64, Issue> {
        let mut at = begin;
        let read = |buffer: &mut [u8]| {
            let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let bytes = if wanted == 0 { 0 } else { file.read_at(&mut buffer[..wanted], at)? };
            at += bytes as u64;
            Ok((bytes, at >= end))
        };
        self.pump(read, cut, list)?;
        Ok(at - begin)
    }

    /// Fills the buffer, cuts, stores, until there is no more. `read` returns bytes and whether these were the last.
    fn pump(
        &mut self,
        mut read: impl FnMut(&mut [u8]) -> io::Result<(usize, bool)>,
        cut: Cut,
        list: &mut ListBuilder,
    ) -> Result<(), Issue> {
        let (mut low, mut high, mut ended) = (0, 0, false);
        loop {
            while !ended && high < BUFFER_BYTES {
                match read(&mut self.buffer[high..]) {
                    Ok((0, _)) => ended = true,
                    Ok((bytes, last)) => {
                        high += bytes;
                        ended = last;
                        self.met.bytes_read.add(bytes as u64);
                        self.shared.progress.add(bytes as u64);
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e.into()),
                }
            }
            while high > low && (ended || high - low >= CHUNK_BYTES_MOST) {
                low += store_next(&self.buffer[low..high], cut, self.shared.cutter, &mut self.store, list)?;
            }
            if ended {
                return Ok(());
            }
            if self.store.shared().stop.is_set() {
                return Err(stopped().into());
            }
            self.buffer.copy_within(low..high, 0);
            (low, high) = (0, high - low);
        }
    }

    /// A stream of unknown length as one file.
    pub fn stream(&mut self, from: &mut dyn Read) -> Outcome<(Content, u64, Uses)> {
        let mut list = ListBuilder::default();
        let pumped = self.pump(|buffer| Ok((from.read(buffer)?, false)), Cut::Content, &mut list);
        match pumped {
            Ok(()) => list.finish(&mut self.store),
            Err(Issue::Fatal(failure)) => Err(failure),
            Err(Issue::Unreadable(e)) => Err(stream_failed(&e)),
            Err(Issue::Gone) => Err(stream_failed(&io::ErrorKind::NotFound.into())),
        }
    }

    pub fn store(&mut self) -> &mut Store<'a> {
        &mut self.store
    }
}

fn stream_failed(e: &io::Error) -> crate::report::Failure {
    crate::report::Failure::new("stream", crate::report::Exit::Failed, format!("cannot read the input: {e}"))
}

/// Stores the chunk that `data` begins with; returns its length.
fn store_next(data: &[u8], cut: Cut, cutter: &Cutter, store: &mut Store, list: &mut ListBuilder) -> Outcome<usize> {
    match cut {
        Cut::Content => {
            let length = cutter.cut(&data[..data.len().min(CHUNK_BYTES_MOST)]);
            let chunk = store.put(Lane::Files, &data[..length])?;
            list.chunk(chunk, store)?;
            Ok(length)
        }
        Cut::Fixed => {
            let length = data.len().min(IMAGE_CHUNK_BYTES);
            if is_zero(&data[..length]) {
                list.hole(length as u64, store)?;
            } else {
                let chunk = store.put(Lane::Images, &data[..length])?;
                list.chunk(chunk, store)?;
            }
            Ok(length)
        }
    }
}

/// Puts the content into an entry.
pub fn set_content(entry: &mut Entry, content: Content, bytes: u64) -> Outcome<()> {
    entry.size = bytes;
    match content {
        Content::Inline(extents) if extents.is_empty() => {}
        Content::Inline(extents) => {
            entry.extents = Some(List::new(extents).map_err(|_| crate::index::Corrupt)?);
        }
        Content::Long(list) => entry.list = Some(list),
    }
    Ok(())
}

fn filled(name: &[u8], known: &(Entry, record::StatKey, bool, Uses)) -> Filled {
    let (entry, key, trusted, uses) = known;
    let encoded = if *name == entry.name[..] {
        codec::encode(entry)
    } else {
        let mut entry = entry.clone();
        match codec::Blob::new(name.to_vec()) {
            Ok(name) => entry.name = name,
            Err(_) => return Filled::Gone,
        }
        codec::encode(&entry)
    };
    Filled::New(record::write(name, EntryKind::File, *trusted, key, &encoded, uses))
}

fn open(job: &ReadJob) -> Result<OwnedFd, Issue> {
    // Not blocking: the name may be a pipe by now.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let name = OsStr::from_bytes(&job.name);
    match openat(&*job.fd, name, flags | OFlags::NOATIME, Mode::empty()) {
        // Only the owner of a file may read it without a trace.
        Err(Errno::PERM) => Ok(openat(&*job.fd, name, flags, Mode::empty())?),
        other => Ok(other?),
    }
}

fn device_bytes(device: &File) -> io::Result<u64> {
    Ok(rustix::fs::seek(device, SeekFrom::End(0))?)
}

/// The same stretch on the grid of fixed chunks, so that a hole that is filled moves no chunk beside it.
fn aligned((data, stop): (u64, u64), at: u64, end: u64) -> (u64, u64) {
    let step = IMAGE_CHUNK_BYTES as u64;
    ((data / step * step).max(at), stop.div_ceil(step).saturating_mul(step).min(end))
}

/// The next stretch of data at or behind `at`: its begin and its end.
fn next_data(file: &File, at: u64, end: u64) -> (u64, u64) {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) if data < end => {
            let hole = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap_or(end);
            (data, hole.clamp(data + 1, end))
        }
        // Nothing but a hole up to the end.
        Ok(_) | Err(Errno::NXIO) => (end, end),
        // No such knowledge: all of it is data.
        Err(_) => (at, end),
    }
}

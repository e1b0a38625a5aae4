//! Reading: several threads, one file each at a time; what changed or went away meanwhile is noted.

use super::chunk::Cutter;
use super::content::{Contents, Issue, Of, device_bytes};
use super::links::{Known, Links, Turn};
use super::list::Content;
use super::meta::{self, Attributes};
use super::outcome::Met;
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
use rustix::fs::{Mode, OFlags, Stat, openat};
use rustix::io::Errno;
use shared::codec::{self, List};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

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
    contents: Contents<'a>,
}

impl<'a> Reader<'a> {
    pub fn new(shared: &'a ReadShared<'a>, store: Store<'a>) -> Self {
        let met = Arc::clone(&store.shared().met);
        let stop = Arc::clone(&store.shared().stop);
        let contents = Contents::new(shared.cutter, shared.progress, Arc::clone(&met), stop);
        Self { shared, store, met, contents }
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
        self.shared.progress.message(|| String::from_utf8_lossy(path).into_owned());
        let of = Of { name: &job.name, stat: &stat, size, device: job.device };
        let (content, bytes, uses) = self.contents.read(&source, &of, &mut self.store)?;
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

    /// A stream of unknown length as one file.
    pub fn stream(&mut self, from: &mut dyn Read) -> Outcome<(Content, u64, Uses)> {
        match self.contents.stream(from, &mut self.store) {
            Ok(done) => Ok(done),
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

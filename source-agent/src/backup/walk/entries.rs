//! Records that the walk itself makes: links, pipes, devices, directories that are not entered.

use super::super::meta::{self, Attributes};
use super::super::tree::{Filled, Own, fill};
use super::{Found, Here, Task, Walk, is_gone};
use crate::index::record::{self, Record};
use crate::report::{Exit, Failure, Outcome};
use crate::tree::{Entry, EntryKind, Xattr};
use rustix::fs::{AtFlags, Stat, statat};
use rustix::io::Errno;
use shared::codec::{self, Blob};
use std::ffi::OsStr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Longest path that a system call takes, with the zero byte at its end.
const PATH_BYTES_MAX: usize = 4096;

impl Walk<'_> {
    /// The record of an entry without content; the old one where it says the same. What is not `whole`, as something
    /// of it was not read, is looked at again in the next run, whatever its times say.
    pub(super) fn record(
        &self,
        name: &[u8],
        kind: EntryKind,
        stat: &Stat,
        entry: &Entry,
        known: Option<&(Record, Range<usize>)>,
        whole: bool,
    ) -> Filled {
        let trusted = whole && meta::is_trusted(stat, meta::now());
        let new = record::write(name, kind, trusted, &meta::stat_key(stat), &codec::encode(entry), &Vec::new());
        match known {
            Some((old, range)) if old.raw == new => Filled::Old(range.clone()),
            _ => Filled::New(new),
        }
    }

    /// Links, pipes and devices.
    pub(super) fn other(
        &self,
        here: &Here,
        name: &[u8],
        path: &[u8],
        kind: EntryKind,
        stat: &Stat,
        known: Option<&(Record, Range<usize>)>,
    ) -> Found {
        // The whole path may be longer than a system call takes.
        let near = format!("/proc/self/fd/{}/", here.fd.as_raw_fd()).into_bytes();
        let from = if path.len() < PATH_BYTES_MAX { path.to_vec() } else { [&near[..], name].concat() };
        let (xattrs, whole) = self.xattrs(Attributes::Name(Path::new(OsStr::from_bytes(&from))), path);
        let Some(mut entry) = meta::entry(name, kind, stat, self.users, xattrs) else { return Found::Omitted };
        let number = self.file_systems.get(&stat.st_dev).copied().unwrap_or(0);
        entry.hard_link = meta::hard_link(stat, number);
        if kind == EntryKind::Symlink {
            let target = match rustix::fs::readlinkat(&*here.fd, OsStr::from_bytes(name), Vec::new()) {
                Ok(target) => target.into_bytes(),
                Err(e) if is_gone(e) || e == Errno::INVAL => {
                    self.met.vanished.add(path, "gone before it was read");
                    return Found::Omitted;
                }
                Err(e) => {
                    self.met.unreadable.add(path, std::io::Error::from(e).to_string());
                    return Found::Omitted;
                }
            };
            match Blob::new(target) {
                Ok(target) if !target.is_empty() => entry.target = Some(target),
                _ => {
                    self.met.unreadable.add(path, "its link target is empty or too long");
                    return Found::Omitted;
                }
            }
        }
        Found::Slot(self.record(name, kind, stat, &entry, known, whole))
    }

    /// Extended attributes, and whether they are all that there is: what cannot be read is reported.
    fn xattrs(&self, of: Attributes, path: &[u8]) -> (Vec<Xattr>, bool) {
        if !self.plan.xattrs {
            return (Vec::new(), true);
        }
        match meta::xattrs(of) {
            Ok(xattrs) => (xattrs, true),
            // Gone meanwhile: the next look at it says so.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => (Vec::new(), false),
            Err(e) => {
                self.met.unreadable.add(path, format!("its extended attributes: {e}"));
                (Vec::new(), false)
            }
        }
    }

    /// The directory's own metadata, for its entry in the parent.
    pub(super) fn own(&self, task: &mut Task, fd: &OwnedFd, stat: &Stat) -> Own {
        let key = meta::stat_key(stat);
        // What was opened may be newer than what was looked at.
        let kept = task.kept.take().filter(|_| key == task.stat);
        let trusted = meta::is_trusted(stat, meta::now());
        let name = std::mem::take(&mut task.name);
        if kept.is_some() {
            return Own { name, stat: key, trusted, kept, fresh: None };
        }
        let (fresh, whole) = self.fresh(&name, &task.path, fd, stat);
        let kept = fresh.as_ref().and_then(|fresh| self.same_but_times(task, fresh));
        let fresh = fresh.filter(|_| kept.is_none());
        Own { name, stat: key, trusted: trusted && whole, kept, fresh }
    }

    /// A directory on the way changes its times with names that are not ours: alone they make no new snapshot.
    fn same_but_times(&self, task: &Task, fresh: &Entry) -> Option<Range<usize>> {
        let range = task.on_the_way.clone().filter(|_| !self.plan.force)?;
        let (parent, _) = task.parent.as_ref()?;
        let record = record::read(&mut parent.old()?.records.get(range.clone())?).ok()?;
        let old: Entry = minicbor::decode(record.entry).ok()?;
        let same = Entry { modified: old.modified, changed: old.changed, node: old.node, ..fresh.clone() };
        (same == old).then_some(range)
    }

    /// Its metadata, read now, and whether all of it was read.
    fn fresh(&self, name: &[u8], path: &[u8], fd: &OwnedFd, stat: &Stat) -> (Option<Box<Entry>>, bool) {
        if path.is_empty() && !self.plan.way.named {
            return (None, true);
        }
        let (xattrs, whole) = self.xattrs(Attributes::Open(fd.as_fd()), path);
        // The top has no name in any directory.
        let name = if path.is_empty() { b"root" } else { name };
        (meta::entry(name, EntryKind::Directory, stat, self.users, xattrs).map(Box::new), whole)
    }

    /// A directory that cannot be opened: its entry stays, without a node.
    pub(super) fn closed(&mut self, task: Task, e: Errno) -> Outcome<Vec<Task>> {
        if meta::is_exhausted(e) {
            return Err(meta::exhausted(e));
        }
        let stat =
            task.fd.as_ref().map(|parent| statat(&**parent, OsStr::from_bytes(&task.name), AtFlags::SYMLINK_NOFOLLOW));
        match stat {
            Some(Ok(stat)) if !is_gone(e) && meta::kind(&stat) == Some(EntryKind::Directory) => {
                self.met.unreadable.add(&task.path, std::io::Error::from(e).to_string());
                self.not_entered(task, &stat, "", false)
            }
            Some(Err(other)) if !is_gone(other) => {
                self.met.unreadable.add(&task.path, std::io::Error::from(other).to_string());
                self.leave(task, Filled::Gone)
            }
            _ => {
                self.met.vanished.add(&task.path, "gone before it was read");
                self.leave(task, Filled::Gone)
            }
        }
    }

    pub(super) fn not_entered(&mut self, task: Task, stat: &Stat, why: &str, mount: bool) -> Outcome<Vec<Task>> {
        if mount {
            self.met.mounts.add(&task.path, why);
        } else if !why.is_empty() {
            self.met.unreadable.add(&task.path, why);
        }
        self.met.directories.add(1);
        let filled = match meta::entry(&task.name, EntryKind::Directory, stat, self.users, Vec::new()) {
            Some(entry) => self.record(&task.name, EntryKind::Directory, stat, &entry, None, false),
            None => Filled::Gone,
        };
        self.leave(task, filled)
    }

    fn leave(&mut self, task: Task, filled: Filled) -> Outcome<Vec<Task>> {
        if self.plan.dry {
            return Ok(Vec::new());
        }
        self.output.forget(task.path.clone())?;
        let Some((parent, slot)) = task.parent else {
            return Err(Failure::new("walk", Exit::Failed, "the directory / cannot be read"));
        };
        fill(parent, slot, filled, &mut self.store, self.output)?;
        Ok(Vec::new())
    }
}

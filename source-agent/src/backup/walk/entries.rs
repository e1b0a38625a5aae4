//! Records that the walk itself makes: links, pipes, devices, directories that are not entered.

use super::super::meta::{self, Attributes};
use super::super::tree::{Filled, Own, fill};
use super::{Found, Here, Task, Walk, is_gone};
use crate::index::record::{self, Record};
use crate::report::{Exit, Failure, Outcome};
use crate::tree::{Entry, EntryKind};
use rustix::fs::{AtFlags, Stat, statat};
use rustix::io::Errno;
use shared::codec::{self, Blob};
use std::ffi::OsStr;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

impl Walk<'_> {
    /// The record of an entry without content; the old one where it says the same.
    pub(super) fn record(
        &self,
        name: &[u8],
        kind: EntryKind,
        stat: &Stat,
        entry: &Entry,
        known: Option<&(Record, Range<usize>)>,
    ) -> Filled {
        let trusted = meta::is_trusted(stat, meta::now());
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
        let attributes = Attributes::Name(Path::new(OsStr::from_bytes(path)));
        let xattrs = if self.plan.xattrs { meta::xattrs(attributes).unwrap_or_default() } else { Vec::new() };
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
        Found::Slot(self.record(name, kind, stat, &entry, known))
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
        let fresh = self.fresh(&name, &task.path, fd, stat);
        let kept = fresh.as_ref().and_then(|fresh| self.same_but_times(task, fresh));
        let fresh = fresh.filter(|_| kept.is_none());
        Own { name, stat: key, trusted, kept, fresh }
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

    fn fresh(&self, name: &[u8], path: &[u8], fd: &OwnedFd, stat: &Stat) -> Option<Box<Entry>> {
        if path.is_empty() && !self.plan.way.named {
            return None;
        }
        let xattrs = match self.plan.xattrs.then(|| meta::xattrs(Attributes::Open(fd.as_fd()))) {
            Some(Ok(xattrs)) => xattrs,
            Some(Err(e)) => {
                self.met.unreadable.add(path, format!("its extended attributes: {e}"));
                Vec::new()
            }
            None => Vec::new(),
        };
        // The top has no name in any directory.
        let name = if path.is_empty() { b"root" } else { name };
        meta::entry(name, EntryKind::Directory, stat, self.users, xattrs).map(Box::new)
    }

    /// A directory that cannot be opened: its entry stays, without a node.
    pub(super) fn closed(&mut self, task: Task, e: Errno) -> Outcome<Vec<Task>> {
        let stat =
            task.fd.as_ref().map(|parent| statat(&**parent, OsStr::from_bytes(&task.name), AtFlags::SYMLINK_NOFOLLOW));
        match stat {
            Some(Ok(stat)) if !is_gone(e) && meta::kind(&stat) == Some(EntryKind::Directory) => {
                self.met.unreadable.add(&task.path, std::io::Error::from(e).to_string());
                self.not_entered(task, &stat, "", false)
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
            Some(entry) => self.record(&task.name, EntryKind::Directory, stat, &entry, None),
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

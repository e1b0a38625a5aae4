//! `--dry-run`: the first stage without its writing. What is in the target already is looked at, by the same rules.

use crate::report::{Exit, Failure, Outcome};
use crate::restore::Options;
use crate::restore::finish;
use crate::restore::make::{Start, full_path, link_content};
use crate::restore::metadata::Setter;
use crate::restore::objects::is_lost;
use crate::restore::plan::{DirId, Plan};
use crate::restore::reader::Reader;
use crate::restore::report::Report;
use crate::restore::walk::{Step, Walk};
use crate::restore::write::{Place, Target, There};
use crate::tree::{Entry, EntryKind};
use std::os::fd::AsFd;

/// A directory of the walk.
struct Level {
    /// Its entry, until something in it is wanted.
    waits: Option<Entry>,
    /// The directory of the target that it falls on, if that is there.
    there: Option<DirId>,
    /// All names of it are known.
    whole: bool,
}

struct Counter<'c> {
    start: &'c Start,
    plan: Plan,
    target: Option<&'c Target>,
    set: &'c Setter,
    options: &'c Options,
    report: &'c mut Report,
}

/// Counts what would be restored, left and deleted. `target` is `None` where it is not there.
pub fn count(
    reader: &mut Reader<'_>,
    start: &Start,
    target: Option<&Target>,
    set: &Setter,
    options: &Options,
    report: &mut Report,
    seen: &mut dyn FnMut(&[u8]),
) -> Outcome<()> {
    let mut plan = Plan::new()?;
    let identity = target.map_or(Ok((0, 0)), Target::root_identity)?;
    let top = plan.add_dir(0, b"", identity, None)?;
    let top = Level { waits: None, there: target.map(|_| top), whole: true };
    let mut counter = Counter { start, plan, target, set, options, report };
    if let Some(entry) = &start.single {
        let path = full_path(start, &[b"/", &entry.name[..]].concat());
        return counter.entry(top.there, entry, &path, seen);
    }
    counter.tree(reader, top, seen)?;
    let Counter { mut plan, .. } = counter;
    match target {
        Some(target) if options.delete => finish::delete(&mut plan, target, start, options, report),
        _ => Ok(()),
    }
}

impl Counter<'_> {
    fn tree(&mut self, reader: &mut Reader<'_>, top: Level, seen: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        let Some(node) = self.start.top else { return Ok(()) };
        let mut walk = Walk::new(reader, node);
        let mut levels = vec![top];
        while let Some(step) = walk.next(reader)? {
            match step {
                Step::Entry(entry) => self.step(&mut walk, &mut levels, *entry, seen)?,
                Step::Lost(failure) => {
                    let path = [full_path(self.start, &walk.path()), b"/ (its content)".to_vec()].concat();
                    self.report.lost.add(path, &failure);
                    levels.iter_mut().last().into_iter().for_each(|level| level.whole = false);
                }
                Step::End => self.close(levels.pop())?,
            }
        }
        self.close(levels.pop())
    }

    fn close(&mut self, level: Option<Level>) -> Outcome<()> {
        match level.filter(|level| level.whole).and_then(|level| level.there) {
            Some(id) => self.plan.close(id),
            None => Ok(()),
        }
    }

    fn step(
        &mut self,
        walk: &mut Walk,
        levels: &mut Vec<Level>,
        entry: Entry,
        seen: &mut dyn FnMut(&[u8]),
    ) -> Outcome<()> {
        let path = full_path(self.start, &walk.path_of(&entry.name));
        let directory = entry.kind == EntryKind::Directory;
        let keep = |counter: &mut Self, levels: &[Level]| match levels.last().and_then(|level| level.there) {
            Some(id) if counter.options.delete => counter.plan.keep(id, &entry.name),
            _ => Ok(()),
        };
        if self.options.select.is_excluded(&path, directory) {
            return keep(self, levels);
        }
        let included = self.options.select.is_included(&path, directory);
        if !directory {
            if included && self.ensure(levels, &full_path(self.start, &walk.path()))? {
                keep(self, levels)?;
                self.entry(levels.last().and_then(|level| level.there), &entry, &path, seen)?;
            }
            return Ok(());
        }
        let enter = match walk.enter(&entry) {
            Err(failure) if is_lost(&failure) => {
                self.report.lost.add([&path[..], b"/ (its content)"].concat(), &failure);
                return Ok(());
            }
            other => other?,
        };
        if !enter && entry.node.is_none() {
            self.report.unread += 1;
        }
        levels.push(Level { waits: Some(entry), there: None, whole: true });
        let stays = included && !self.ensure(levels, &path)?;
        if stays && enter {
            walk.leave();
        }
        if included && !stays {
            seen(&path);
        }
        if stays || !enter {
            levels.pop();
        }
        Ok(())
    }

    /// Counts the present directory and those above it; `false` if something that stays is in the way.
    fn ensure(&mut self, levels: &mut [Level], path: &[u8]) -> Outcome<bool> {
        let mut parent = None;
        for level in levels.iter_mut() {
            if let Some(entry) = level.waits.take() {
                match self.dir(parent, &entry) {
                    Ok(there) => level.there = there,
                    Err(failure) => {
                        self.report.lost.add(path.to_vec(), &failure);
                        level.waits = Some(entry);
                        return Ok(false);
                    }
                }
                self.report.directories += 1;
            }
            parent = level.there;
        }
        Ok(true)
    }

    /// The directory of the target that this one falls on, if it is there.
    fn dir(&mut self, parent: Option<DirId>, entry: &Entry) -> Outcome<Option<DirId>> {
        let (Some(target), Some(parent)) = (self.target, parent) else { return Ok(None) };
        let within = target.dir(&self.plan, parent)?;
        let there = target.there(within.as_fd(), &entry.name, self.options.overwrite)?;
        if self.options.delete {
            self.plan.keep(parent, &entry.name)?;
        }
        match there {
            There::Nothing => Ok(None),
            There::Directory(identity) => self.plan.add_dir(parent, &entry.name, identity, None).map(Some),
        }
    }

    /// Anything but a directory.
    fn entry(&mut self, dir: Option<DirId>, entry: &Entry, path: &[u8], seen: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        let device = matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        if device && !self.set.is_root() {
            self.report.devices_skipped += 1;
            return Ok(());
        }
        match self.place(dir, entry) {
            Ok(Place::Keep) => self.report.kept += 1,
            Ok(Place::Same) if entry.mode & 0o6000 == 0 => self.report.unchanged += 1,
            Ok(Place::Same | Place::Free) => {
                seen(path);
                self.note(entry)?;
            }
            Err(failure) if is_lost(&failure) || failure.exit == Exit::Failed => {
                self.report.lost.add(path.to_vec(), &failure);
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    fn place(&self, dir: Option<DirId>, entry: &Entry) -> Outcome<Place> {
        let (Some(target), Some(dir)) = (self.target, dir) else { return Ok(Place::Free) };
        let within = target.dir(&self.plan, dir)?;
        if within.new {
            return Ok(Place::Free);
        }
        let (overwrite, delete) = (self.options.overwrite, self.options.delete);
        let place = target.look(within.as_fd(), entry, overwrite, delete, true)?;
        if place == Place::Free && !delete && target.is_full_directory(within.as_fd(), &entry.name)? {
            return Err(Failure::new("in-the-way", Exit::Failed, "a directory that is not empty stands in its place"));
        }
        Ok(place)
    }

    /// What would be made; a further name of a file has no content of its own.
    fn note(&mut self, entry: &Entry) -> Outcome<()> {
        if let Some(link) = entry.hard_link {
            let content = link_content(entry);
            if self.plan.first_link(link.file_system, link.inode, &content)?.is_some() {
                self.report.links += 1;
                self.report.files += 1;
                return Ok(());
            }
            self.plan.note_link((link.file_system, link.inode), &content, 0, &entry.name, None)?;
        }
        if entry.kind == EntryKind::File {
            self.report.files += 1;
            self.report.bytes = self.report.bytes.saturating_add(entry.size);
        } else {
            self.report.others += 1;
        }
        Ok(())
    }
}

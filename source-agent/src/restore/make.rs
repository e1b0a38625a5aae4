//! The first stage of a restore: walk the tree, make directories, links, fifos and devices, plan files.

use crate::report::{Exit, Failure, Outcome};
use crate::restore::Options;
use crate::restore::data::{local_failure, lose};
use crate::restore::metadata::Setter;
use crate::restore::objects::{is_lost, tampered};
use crate::restore::plan::{DirId, FileId, LinkRow, Plan, State};
use crate::restore::reader::Reader;
use crate::restore::report::Report;
use crate::restore::walk::{self, Extents, Found, Step, Walk};
use crate::restore::write::{Overwrite, Place, Target};
use crate::tree::node::NodeTop;
use crate::tree::{Entry, EntryKind, Extent};
use shared::codec::Blob;
use shared::text::printable;
use std::os::fd::AsFd;

/// Directories on the way to an included entry whose attributes are kept until one is found.
const WAY_ATTRIBUTES_MAX: usize = 64;

/// Where a restore begins.
pub struct Start {
    /// The path in the snapshot that becomes the target; empty for all of it.
    pub base: Vec<u8>,
    /// The directory whose content is restored.
    pub top: Option<NodeTop>,
    /// Metadata for the target itself, if it is new.
    pub own: Option<Entry>,
    /// A single entry instead of a directory.
    pub single: Option<Entry>,
}

/// Finds what is to be restored.
pub fn start(reader: &mut Reader<'_>, path: &[u8]) -> Outcome<Start> {
    let names: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    let mut base = Vec::new();
    for name in &names {
        base.push(b'/');
        base.extend_from_slice(name);
    }
    match walk::find(reader, path)? {
        Found::Top(own) => Ok(Start { base, top: Some(reader.root.top), own: own.map(|entry| *entry), single: None }),
        Found::Entry(entry) if entry.kind == EntryKind::Directory => {
            Ok(Start { base, top: entry.node, own: Some(*entry), single: None })
        }
        Found::Entry(entry) => {
            let parent = base.len() - entry.name.len() - 1;
            base.truncate(parent);
            Ok(Start { base, top: None, own: None, single: Some(*entry) })
        }
        Found::Nothing => {
            let message = format!("the snapshot has no {}", printable(path, 4096));
            Err(Failure::new("no-path", Exit::NotFound, message).help("look into it: source-agent ls SNAP; latest is the newest snapshot of any set: choose the set with --path, as source-agent snapshots shows it"))
        }
    }
}

/// A directory of the walk: made, or not yet because nothing in it is wanted so far.
struct Level {
    id: Option<DirId>,
    entry: Option<Entry>,
}

struct Maker<'m, 'r> {
    reader: &'m mut Reader<'r>,
    start: &'m Start,
    plan: &'m mut Plan,
    target: &'m Target,
    set: &'m Setter,
    options: &'m Options,
    report: &'m mut Report,
    /// Extents that may still be planned: a file of endless tiny chunks is a bomb.
    extents_left: u64,
}

pub(super) fn full_path(start: &Start, path: &[u8]) -> Vec<u8> {
    [&start.base[..], path].concat()
}

/// How many extents a snapshot of these counts may have: honest chunks are far larger than 256 bytes.
fn extents_max(reader: &Reader<'_>) -> u64 {
    let counts = &reader.root.counts;
    (counts.bytes / 256).saturating_add(counts.files.saturating_mul(64)).saturating_add(1 << 20)
}

/// Walks, makes and plans.
#[allow(clippy::too_many_arguments)]
pub fn make(
    reader: &mut Reader<'_>,
    start: &Start,
    plan: &mut Plan,
    target: &Target,
    set: &Setter,
    options: &Options,
    report: &mut Report,
    seen: &mut dyn FnMut(&[u8]),
) -> Outcome<()> {
    // An empty directory that somebody made for this keeps its own mode; one that is overwritten is like any other.
    let replaced = !matches!(options.overwrite, Overwrite::Refuse | Overwrite::Never);
    let own = start.own.as_ref().filter(|_| !target.existed || replaced);
    let top = plan.add_dir(0, b"", target.root_identity()?, own)?;
    let extents_left = extents_max(reader);
    let mut maker = Maker { reader, start, plan, target, set, options, report, extents_left };
    if let Some(entry) = &start.single {
        let path = full_path(start, &[b"/", &entry.name[..]].concat());
        seen(&path);
        return maker.entry(top, entry, &path);
    }
    match start.top {
        Some(node) => maker.tree(top, node, seen),
        None => Ok(()),
    }
}

impl Maker<'_, '_> {
    fn tree(&mut self, top: DirId, node: NodeTop, seen: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        let mut walk = Walk::new(self.reader, node);
        let mut levels = vec![Level { id: Some(top), entry: None }];
        let mut whole = vec![true];
        while let Some(step) = walk.next(self.reader)? {
            match step {
                Step::Entry(entry) => {
                    let path = full_path(self.start, &walk.path_of(&entry.name));
                    let directory = entry.kind == EntryKind::Directory;
                    if self.options.select.is_excluded(&path, directory) {
                        self.keep(&levels, &entry.name)?;
                        continue;
                    }
                    let included = self.options.select.is_included(&path, directory);
                    if directory {
                        self.directory(&mut walk, &mut levels, &mut whole, *entry, included, &path, seen)?;
                    } else if included && let Some(dir) = self.ensure(&mut levels, &walk)? {
                        seen(&path);
                        self.keep(&levels, &entry.name)?;
                        self.entry(dir, &entry, &path)?;
                    }
                }
                Step::Lost(failure) => {
                    self.report
                        .lost
                        .add([full_path(self.start, &walk.path()), b"/ (its content)".to_vec()].concat(), &failure);
                    if let Some(last) = whole.last_mut() {
                        *last = false;
                    }
                }
                Step::End => {
                    let level = levels.pop();
                    let complete = whole.pop().unwrap_or(false);
                    if let Some(id) = level.and_then(|level| level.id).filter(|_| complete) {
                        self.plan.close(id)?;
                    }
                }
            }
        }
        if whole.first() == Some(&true) {
            self.plan.close(top)?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn directory(
        &mut self,
        walk: &mut Walk,
        levels: &mut Vec<Level>,
        whole: &mut Vec<bool>,
        mut entry: Entry,
        included: bool,
        path: &[u8],
        seen: &mut dyn FnMut(&[u8]),
    ) -> Outcome<()> {
        let enter = match walk.enter(&entry) {
            // Deeper than the format allows: this directory alone is lost.
            Err(failure) if is_lost(&failure) => {
                self.report.lost.add([path, b"/ (its content)"].concat(), &failure);
                return Ok(());
            }
            other => other?,
        };
        if !enter && entry.node.is_none() {
            self.report.unread += 1;
        }
        entry.node = None;
        if !included && levels.len() > WAY_ATTRIBUTES_MAX {
            entry.xattrs = None;
        }
        levels.push(Level { id: None, entry: Some(entry) });
        whole.push(true);
        if included {
            seen(path);
            if self.ensure(levels, walk)?.is_none() && enter {
                // What stands in its place stays: nothing below it can be restored.
                self.skip(walk, levels, whole)?;
                return Ok(());
            }
        }
        if !enter {
            levels.pop();
            whole.pop();
        }
        Ok(())
    }

    /// Leaves the directory that was just entered.
    fn skip(&mut self, walk: &mut Walk, levels: &mut Vec<Level>, whole: &mut Vec<bool>) -> Outcome<()> {
        walk.leave();
        levels.pop();
        whole.pop();
        Ok(())
    }

    /// Notes a name that `--delete` must leave.
    fn keep(&mut self, levels: &[Level], name: &[u8]) -> Outcome<()> {
        match levels.last().and_then(|level| level.id) {
            Some(id) if self.options.delete => self.plan.keep(id, name),
            _ => Ok(()),
        }
    }

    /// Makes the present directory and those above it; `None` if one of them cannot be made (a loss, noted).
    fn ensure(&mut self, levels: &mut [Level], walk: &Walk) -> Outcome<Option<DirId>> {
        let mut parent: DirId = 0;
        for level in levels.iter_mut() {
            if let Some(id) = level.id {
                parent = id;
                continue;
            }
            let Some(entry) = level.entry.take() else { return Ok(None) };
            match self.make_dir(parent, &entry) {
                Ok(Some(id)) => {
                    level.id = Some(id);
                    parent = id;
                }
                Ok(None) => return Ok(None),
                Err(failure) if failure.exit == Exit::Full => return Err(failure),
                Err(failure) => {
                    self.report.lost.add(full_path(self.start, &walk.path()), &failure);
                    return Ok(None);
                }
            }
        }
        Ok(Some(parent))
    }

    fn make_dir(&mut self, parent: DirId, entry: &Entry) -> Outcome<Option<DirId>> {
        let dir = self.target.dir(self.plan, parent)?;
        let Some((opened, identity, existed)) =
            self.target.make_dir(dir.as_fd(), &entry.name, self.options.overwrite)?
        else {
            let message = "something that is no directory stands in its place, and stays (--overwrite never)";
            return Err(Failure::new("in-the-way", Exit::Failed, message));
        };
        if self.options.delete {
            self.plan.keep(parent, &entry.name)?;
        }
        let leave = existed && self.options.overwrite == Overwrite::Never;
        let id = self.plan.add_dir(parent, &entry.name, identity, Some(entry).filter(|_| !leave))?;
        self.target.keep_open(id, opened, !existed);
        self.report.directories += 1;
        Ok(Some(id))
    }

    /// Anything but a directory. What this machine cannot take is a loss; an `Err` ends the restore.
    fn entry(&mut self, dir: DirId, entry: &Entry, path: &[u8]) -> Outcome<()> {
        match self.try_entry(dir, entry, path) {
            Err(failure) if is_lost(&failure) || failure.exit == Exit::Failed => {
                self.report.lost.add(path.to_vec(), &failure);
                Ok(())
            }
            other => other,
        }
    }

    fn try_entry(&mut self, dir: DirId, entry: &Entry, path: &[u8]) -> Outcome<()> {
        let fd = self.target.dir(self.plan, dir)?;
        let device = matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        if device && !self.set.is_root() {
            self.report.devices_skipped += 1;
            return Ok(());
        }
        let place = if fd.new {
            Place::Free
        } else {
            self.target.look(fd.as_fd(), entry, self.options.overwrite, self.options.delete, false)?
        };
        match place {
            Place::Keep => {
                self.report.kept += 1;
                return Ok(());
            }
            // A file that looks the same by size and time gets no set-id bits: it may be somebody else's.
            Place::Same if entry.mode & 0o6000 == 0 => {
                self.report.unchanged += 1;
                let file = self.plan.next_file();
                return self.plan.add_file(file, dir, entry, State::Unchanged, 0);
            }
            Place::Same | Place::Free => {}
        }
        let content = entry.hard_link.map(|_| link_content(entry));
        if let (Some(link), Some(content)) = (entry.hard_link, &content)
            && let Some((first_dir, first_name, file)) = self.plan.first_link(link.file_system, link.inode, content)?
        {
            self.report.links += 1;
            let name = entry.name.to_vec();
            return self.plan.add_later_link(&LinkRow { dir, name, first_dir, first_name, file });
        }
        let file = if entry.kind == EntryKind::File {
            Some(self.file(dir, entry, path)?)
        } else {
            self.special(dir, entry)?;
            None
        };
        if let (Some(link), Some(content)) = (entry.hard_link, &content) {
            self.plan.note_link((link.file_system, link.inode), content, dir, &entry.name, file)?;
        }
        Ok(())
    }

    fn special(&mut self, dir: DirId, entry: &Entry) -> Outcome<()> {
        let fd = self.target.dir(self.plan, dir)?;
        let made = self.target.special(&fd, entry, self.options.overwrite, self.set);
        if let Err(error) = made {
            return Err(local_failure(&error, "create it").unwrap_or_else(|fatal| fatal));
        }
        self.report.others += 1;
        Ok(())
    }

    fn file(&mut self, dir: DirId, entry: &Entry, path: &[u8]) -> Outcome<FileId> {
        let file = self.plan.next_file();
        let planned = self.content(file, entry, path);
        self.plan.add_file(file, dir, entry, State::Pending, planned.as_ref().map_or(0, |wants| *wants))?;
        match planned {
            // A file whose content is not planned whole must not be written at all.
            Err(failure) if is_lost(&failure) => lose(self.plan, file, &self.start.base, &self.report.lost, &failure)?,
            other => {
                other?;
                self.report.bytes = self.report.bytes.saturating_add(entry.size);
            }
        }
        Ok(file)
    }

    /// Plans the content of a file; returns how many chunks it has.
    fn content(&mut self, file: FileId, entry: &Entry, path: &[u8]) -> Outcome<u64> {
        let mut extents = Extents::new(entry);
        let mut wants = 0;
        while let Some((offset, extent)) = extents.next(self.reader)? {
            let Extent::Chunk(chunk) = extent else { continue };
            self.extents_left = self.extents_left.checked_sub(1).ok_or_else(|| {
                let shown = printable(path, 4096);
                tampered("tree", format!("{shown}: the snapshot has far more chunks than its root states bytes"))
            })?;
            self.plan.add_want(file, offset, &chunk)?;
            wants += 1;
        }
        Ok(wants)
    }
}

/// What must be equal for two names to be one file.
pub(super) fn link_content(entry: &Entry) -> Vec<u8> {
    let mut content = entry.clone();
    content.name = Blob::new(b"-".to_vec()).unwrap_or_else(|_| entry.name.clone());
    blake3::hash(&shared::codec::encode(&content)).as_bytes().to_vec()
}

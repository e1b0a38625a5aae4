//! Walking: one thread, relative to open directories, names in bytewise order. Every name is lstat'ed; what is as in
//! the last snapshot keeps its record, other files go to the readers.

mod entries;

use super::exclude::{CACHE_SIGNATURE, CACHE_TAG, Excludes};
use super::meta;
use super::outcome::Met;
use super::paths::Way;
use super::store::Store;
use super::tree::{Dir, Filled, Output, release};
use super::users::Users;
use crate::index::record::{self, Record, StatKey};
use crate::index::series::{DirRow, SeriesReader};
use crate::index::uses;
use crate::report::Outcome;
use crate::tree::EntryKind;
use crossbeam_channel::Sender;
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, Stat, openat, statat};
use rustix::io::Errno;
use shared::limits::TREE_DEPTH_MAX;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// Hears of an exclusion: path and reason.
pub type OnExclude = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// What a set wants walked.
pub struct Plan {
    pub way: Way,
    pub excludes: Excludes,
    pub one_file_system: bool,
    pub xattrs: bool,
    /// Read every file, whatever its times say.
    pub force: bool,
    /// Every place that the last snapshot refers to is usable: nothing needs to be looked at twice.
    pub all_usable: bool,
    /// Only count.
    pub dry: bool,
    /// Told of every exclusion: path and reason.
    pub on_exclude: Option<OnExclude>,
}

/// A file that a reader reads.
pub struct ReadJob {
    pub dir: Arc<Dir>,
    pub slot: usize,
    pub fd: Arc<OwnedFd>,
    pub name: Vec<u8>,
    pub stat: Stat,
    /// The file system's number for hard links.
    pub file_system: u32,
    /// A named block device: its content is wanted.
    pub device: bool,
    pub is_new: bool,
}

/// A directory to enter.
struct Task {
    parent: Option<(Arc<Dir>, usize)>,
    fd: Option<Arc<OwnedFd>>,
    path: Vec<u8>,
    name: Vec<u8>,
    stat: StatKey,
    /// Its record in the parent's old row, if its metadata is the same.
    kept: Option<Range<usize>>,
    /// On the way to a named path, and known: its record, whatever its times say.
    on_the_way: Option<Range<usize>>,
    /// On the way to named paths; `None`: everything in it.
    way: Option<Way>,
    /// The file system to stay on.
    device: u64,
    /// It lies on another file system than its parent.
    crossed: bool,
    depth: usize,
}

/// What became of one name.
enum Found {
    Slot(Filled),
    Read { name: Vec<u8>, stat: Stat, device: bool, is_new: bool },
    Enter(Task),
    Omitted,
}

/// The directory being looked at.
struct Here<'a> {
    fd: Arc<OwnedFd>,
    path: &'a [u8],
    device: u64,
    stay_on: u64,
    dirty: bool,
    depth: usize,
}

/// The walker's state.
pub struct Walk<'a> {
    pub plan: &'a Plan,
    pub reader: SeriesReader,
    pub store: Store<'a>,
    pub output: &'a Output,
    pub jobs: Sender<ReadJob>,
    pub users: &'a Users,
    pub met: Arc<Met>,
    file_systems: HashMap<u64, u32>,
    buffer: Vec<u8>,
}

/// File systems without files of their own (statfs(2)); they are never entered from above.
const PSEUDO: [u64; 18] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x1cd1,
    0x7363_6673,
    0xcafe_4a11,
    0x6165_676c,
    0x6265_6570,
    0x1980_0202,
    0x4249_4e4d,
    0xde5e_81e4,
    0xf97c_ff8c,
    0x6573_5543,
    0x6e73_6673,
    0x958f_5840,
];

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    [path, b"/", name].concat()
}

/// The number by which hard links tell file systems apart: from the path where the walk first met it, so that it is the
/// same in the next run, unlike the device number.
fn file_system_number(path: &[u8]) -> u32 {
    path.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// A name that went away, or became something else. ESTALE is none of these: a network mount whose server went away
/// hides what is there.
fn is_gone(e: Errno) -> bool {
    matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

impl<'a> Walk<'a> {
    pub fn new(
        plan: &'a Plan,
        reader: SeriesReader,
        store: Store<'a>,
        output: &'a Output,
        jobs: Sender<ReadJob>,
        users: &'a Users,
    ) -> Self {
        let met = Arc::clone(&store.shared().met);
        let (file_systems, buffer) = (HashMap::new(), Vec::with_capacity(64 << 10));
        Self { plan, reader, store, output, jobs, users, met, file_systems, buffer }
    }

    /// Walks everything.
    pub fn run(&mut self) -> Outcome<()> {
        let top = statat(rustix::fs::CWD, "/", AtFlags::empty())
            .map_err(|e| crate::report::Failure::io("look at", Path::new("/"), &e.into()))?;
        let way = (!self.plan.way.named).then(|| self.plan.way.clone());
        let mut stack = vec![Task {
            parent: None,
            fd: None,
            path: Vec::new(),
            name: Vec::new(),
            stat: meta::stat_key(&top),
            kept: None,
            on_the_way: None,
            way,
            device: top.st_dev,
            crossed: false,
            depth: 0,
        }];
        while let Some(task) = stack.pop() {
            self.store.shared().stop.check()?;
            let deeper = self.enter(task)?;
            stack.extend(deeper.into_iter().rev());
        }
        Ok(())
    }

    /// Looks at one directory; returns those to enter next.
    fn enter(&mut self, task: Task) -> Outcome<Vec<Task>> {
        let opened = self.open(&task).and_then(|fd| rustix::fs::fstat(&fd).map(|stat| (fd, stat)));
        let (fd, stat) = match opened {
            Ok(opened) => opened,
            Err(e) => return self.closed(task, e),
        };
        let pseudo = task.crossed && rustix::fs::fstatfs(&fd).is_ok_and(|fs| PSEUDO.contains(&(fs.f_type as u64)));
        if pseudo || task.depth > TREE_DEPTH_MAX {
            let why = if pseudo { "a file system of the kernel" } else { "too many directories inside one another" };
            return self.not_entered(task, &stat, why, pseudo);
        }
        let mut names = match &task.way {
            Some(way) => way.children.keys().cloned().collect(),
            None => match self.list(&fd) {
                Ok(names) => names,
                Err(e) => return self.closed(task, e),
            },
        };
        self.apply_marker(&task, &fd, &mut names);
        self.met.directories.add(1);
        self.file_systems.entry(stat.st_dev).or_insert_with(|| file_system_number(&task.path));
        let old = self.reader.dir(&task.path)?.map(Arc::new);
        self.look(task, Arc::new(fd), &stat, &names, old)
    }

    /// Looks at all names of an open directory.
    fn look(
        &mut self,
        mut task: Task,
        fd: Arc<OwnedFd>,
        stat: &Stat,
        names: &[Vec<u8>],
        old: Option<Arc<DirRow>>,
    ) -> Outcome<Vec<Task>> {
        let way = task.way.take();
        let dirty = self.is_dirty(old.as_deref())?;
        let here = Here { fd, path: &task.path, device: stat.st_dev, stay_on: task.device, dirty, depth: task.depth };
        let records = match &old {
            Some(row) => record::read_all(&row.records)?,
            None => Vec::new(),
        };
        let mut records = records.into_iter().scan(0, |at, record: Record| {
            let begin = std::mem::replace(at, *at + record.raw.len());
            Some((record, begin..*at))
        });
        let mut next = records.next();
        let mut changed = dirty || self.plan.force;
        let (mut slots, mut reads, mut deeper) = (Vec::new(), Vec::new(), Vec::new());
        for name in names {
            // Old names that are not there any more.
            while next.as_ref().is_some_and(|(record, _)| record.name < name.as_slice()) {
                changed = true;
                if let Some((record, _)) = std::mem::replace(&mut next, records.next()) {
                    self.gone(&here, &record)?;
                }
            }
            let known = match next.take_if(|(record, _)| record.name == name.as_slice()) {
                Some(found) => {
                    next = records.next();
                    Some(found)
                }
                None => None,
            };
            let child = way.as_ref().and_then(|way| way.children.get(name));
            let found = self.classify(&here, name, child, known.as_ref())?;
            let enters = matches!(found, Found::Enter(_));
            let was_there = known.is_some();
            if let Some((record, _)) = known.filter(|(record, _)| record.is_directory() && !enters) {
                self.gone(&here, &record)?;
            }
            match found {
                Found::Slot(filled) => {
                    changed |= !matches!(filled, Filled::Old(_));
                    slots.push(Some(filled));
                }
                Found::Read { name, stat, device, is_new } => {
                    reads.push((slots.len(), name, stat, device, is_new));
                    slots.push(None);
                }
                Found::Enter(task) => {
                    deeper.push((slots.len(), task));
                    slots.push(None);
                }
                Found::Omitted => changed |= was_there,
            }
        }
        while let Some((record, _)) = std::mem::replace(&mut next, records.next()) {
            changed = true;
            self.gone(&here, &record)?;
        }
        let fd = Arc::clone(&here.fd);
        if self.plan.dry {
            return Ok(self.count_only(reads, deeper, &fd));
        }
        let own = self.own(&mut task, &fd, stat);
        let dir = Dir::new(task.path, task.parent, own, old.clone(), slots, changed);
        let file_system = self.file_systems.get(&stat.st_dev).copied().unwrap_or(0);
        for (slot, name, stat, device, is_new) in reads {
            let job =
                ReadJob { dir: Arc::clone(&dir), slot, fd: Arc::clone(&fd), name, stat, file_system, device, is_new };
            self.jobs.send(job).map_err(|_| super::stop::stopped())?;
        }
        let deeper = deeper.into_iter().map(|(slot, mut task)| {
            task.parent = Some((Arc::clone(&dir), slot));
            task.fd = Some(Arc::clone(&fd));
            task
        });
        let deeper = deeper.collect();
        release(&dir, &mut self.store, self.output)?;
        Ok(deeper)
    }

    fn count_only(
        &mut self,
        reads: Vec<(usize, Vec<u8>, Stat, bool, bool)>,
        deeper: Vec<(usize, Task)>,
        fd: &Arc<OwnedFd>,
    ) -> Vec<Task> {
        for (_, _, stat, _, is_new) in reads {
            let counter = if is_new { &self.met.files_new } else { &self.met.files_changed };
            counter.add(1);
            self.met.files.add(1);
            self.met.bytes.add(stat.st_size as u64);
            self.met.bytes_read.add(stat.st_size as u64);
        }
        deeper.into_iter().map(|(_, task)| Task { fd: Some(Arc::clone(fd)), ..task }).collect()
    }

    /// Does the old row refer to places that this run must not refer to?
    fn is_dirty(&self, old: Option<&DirRow>) -> Outcome<bool> {
        match old {
            Some(row) if !self.plan.all_usable => {
                let uses = uses::unpack(&row.uses)?;
                Ok(uses.iter().any(|(spot, _)| !self.store.shared().is_usable(*spot)))
            }
            _ => Ok(false),
        }
    }

    /// A name of the last snapshot is not entered any more: its rows go.
    fn gone(&self, here: &Here, record: &Record) -> Outcome<()> {
        if record.is_directory() && !self.plan.dry {
            self.output.forget(join(here.path, record.name))?;
        }
        Ok(())
    }

    /// Is this name as it was, and may what it refers to be referred to?
    fn unchanged(&self, here: &Here, stat: &StatKey, known: Option<&(Record, Range<usize>)>) -> Outcome<bool> {
        let Some((record, _)) = known else { return Ok(false) };
        if self.plan.force || !record.trusted || record.stat != *stat {
            return Ok(false);
        }
        if !here.dirty {
            return Ok(true);
        }
        Ok(record.uses()?.iter().all(|(spot, _)| self.store.shared().is_usable(*spot)))
    }

    fn excluded(&self, path: &[u8], why: &str) -> Found {
        self.met.excluded.add(1);
        if let Some(tell) = &self.plan.on_exclude {
            tell(&super::outcome::shown(path), why);
        }
        Found::Omitted
    }

    fn classify(
        &mut self,
        here: &Here,
        name: &[u8],
        child: Option<&Way>,
        known: Option<&(Record, Range<usize>)>,
    ) -> Outcome<Found> {
        let path = join(here.path, name);
        let named = child.is_some_and(|way| way.named);
        let on_the_way = child.is_some_and(|way| !way.named);
        // Directories on the way may be reached through a link; everything else is what it is.
        let flags = if on_the_way { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        let stat = match statat(&*here.fd, OsStr::from_bytes(name), flags) {
            Ok(stat) => stat,
            Err(e) if child.is_some() => {
                self.met.unreadable.add(&path, format!("named, but {}", std::io::Error::from(e)));
                return Ok(Found::Omitted);
            }
            Err(e) if is_gone(e) => {
                self.met.vanished.add(&path, "gone before it was read");
                return Ok(Found::Omitted);
            }
            Err(e) => {
                self.met.unreadable.add(&path, std::io::Error::from(e).to_string());
                return Ok(Found::Omitted);
            }
        };
        let Some(kind) = meta::kind(&stat) else {
            self.met.sockets.add(1);
            return Ok(Found::Omitted);
        };
        if child.is_none()
            && let Some(why) = self.plan.excludes.why(&path, kind == EntryKind::Directory)
        {
            return Ok(self.excluded(&path, &why));
        }
        let too_large = self.plan.excludes.larger_than.filter(|max| stat.st_size as u64 > *max);
        if kind == EntryKind::File && !named && too_large.is_some() {
            return Ok(self.excluded(&path, "larger than --exclude-larger-than"));
        }
        let key = meta::stat_key(&stat);
        let unchanged = self.unchanged(here, &key, known)?;
        let kept = known.map(|(_, range)| range.clone()).filter(|_| unchanged);
        match kind {
            EntryKind::Directory => self.directory(here, name, path, child, &stat, kept, known),
            EntryKind::File => Ok(self.file(name, &stat, kept, known)),
            EntryKind::BlockDevice if named => {
                Ok(Found::Read { name: name.to_vec(), stat, device: true, is_new: known.is_none() })
            }
            _ => {
                self.met.others.add(1);
                Ok(match kept {
                    Some(range) => Found::Slot(Filled::Old(range)),
                    None => self.other(here, name, &path, kind, &stat, known),
                })
            }
        }
    }

    fn file(
        &self,
        name: &[u8],
        stat: &Stat,
        kept: Option<Range<usize>>,
        known: Option<&(Record, Range<usize>)>,
    ) -> Found {
        let Some(range) = kept else {
            return Found::Read { name: name.to_vec(), stat: *stat, device: false, is_new: known.is_none() };
        };
        self.met.files.add(1);
        self.met.files_unmodified.add(1);
        self.met.bytes.add(stat.st_size as u64);
        Found::Slot(Filled::Old(range))
    }

    #[allow(clippy::too_many_arguments)]
    fn directory(
        &mut self,
        here: &Here,
        name: &[u8],
        path: Vec<u8>,
        child: Option<&Way>,
        stat: &Stat,
        kept: Option<Range<usize>>,
        known: Option<&(Record, Range<usize>)>,
    ) -> Outcome<Found> {
        let named = child.is_some_and(|way| way.named);
        let crossed = stat.st_dev != here.device && child.is_none();
        if crossed && self.plan.one_file_system && stat.st_dev != here.stay_on {
            self.met.mounts.add(&path, "another file system");
            self.met.directories.add(1);
            let Some(entry) = meta::entry(name, EntryKind::Directory, stat, self.users, Vec::new()) else {
                return Ok(Found::Omitted);
            };
            return Ok(Found::Slot(self.record(name, EntryKind::Directory, stat, &entry, known, false)));
        }
        Ok(Found::Enter(Task {
            parent: None,
            fd: None,
            path,
            name: name.to_vec(),
            stat: meta::stat_key(stat),
            kept,
            on_the_way: known.filter(|_| child.is_some_and(|way| !way.named)).map(|(_, range)| range.clone()),
            way: child.filter(|way| !way.named).cloned(),
            device: if named { stat.st_dev } else { here.stay_on },
            crossed,
            depth: here.depth + 1,
        }))
    }

    fn open(&self, task: &Task) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Some(parent) = &task.fd else { return rustix::fs::open("/", flags, Mode::empty()) };
        let follow = if task.way.is_some() { OFlags::empty() } else { OFlags::NOFOLLOW };
        let name = OsStr::from_bytes(&task.name);
        match openat(&**parent, name, flags | follow | OFlags::NOATIME, Mode::empty()) {
            // Only the owner of a directory may read it without a trace.
            Err(Errno::PERM) => openat(&**parent, name, flags | follow, Mode::empty()),
            other => other,
        }
    }

    /// All names, sorted.
    fn list(&mut self, fd: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        let mut all = RawDir::new(fd, self.buffer.spare_capacity_mut());
        while let Some(entry) = all.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// A directory that says that its content is not wanted keeps what says so.
    fn apply_marker(&self, task: &Task, fd: &OwnedFd, names: &mut Vec<Vec<u8>>) {
        if task.way.is_some() {
            return;
        }
        let Some((marker, why)) = self.plan.excludes.marker(names, || is_cache(fd)) else { return };
        let marker = marker.to_vec();
        self.excluded(&join(&task.path, b"*"), &why);
        names.retain(|name| *name == marker);
    }
}

/// Does the directory's CACHEDIR.TAG begin as it must?
fn is_cache(fd: &OwnedFd) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(tag) = openat(fd, OsStr::from_bytes(CACHE_TAG), flags, Mode::empty()) else { return false };
    let mut begin = [0; CACHE_SIGNATURE.len()];
    matches!(rustix::io::pread(&tag, &mut begin, 0), Ok(bytes) if begin[..bytes] == *CACHE_SIGNATURE)
}

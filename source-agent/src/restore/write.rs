//! Writing beneath the target: the only place that joins a name of a snapshot to a directory.
//!
//! Every open goes from an open directory, by one name, without following a link: openat2(RESOLVE_BENEATH |
//! RESOLVE_NO_SYMLINKS), or openat(O_NOFOLLOW) where the kernel lacks it. A name is checked again just before it is
//! used. A file has no name, or a temporary one, `.pawl-partial-…`, until it is whole and has its metadata.

use crate::report::{Exit, Failure, Outcome};
use crate::restore::lru::Lru;
use crate::restore::metadata::{Has, Setter};
use crate::restore::objects::tampered;
use crate::restore::plan::{DirId, DirRow, FileId, Plan};
use crate::tree::node::is_name;
use crate::tree::{Entry, EntryKind};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;
use shared::limits::NAME_BYTES_MAX;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Files that are kept open.
const OPEN_FILES: usize = 128;
/// Mode of a file under its temporary name.
const PARTIAL_MODE: u32 = 0o600;
/// Directories that are kept open, where the limit of open files allows it.
const OPEN_DIRS_MAX: u64 = 4096;

/// What to do with what is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Overwrite {
    /// The target must be empty.
    Refuse,
    /// Leave it.
    Never,
    /// Replace it if the snapshot's is newer.
    IfNewer,
    /// Replace it unless kind, size and time are the same.
    IfChanged,
    /// Replace it.
    Always,
}

/// What a place in the target holds, judged by [`Overwrite`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nothing, or something that is to be replaced.
    Free,
    /// Something that stays, metadata included.
    Keep,
    /// A file with the same content, by size and time: metadata alone.
    Same,
}

/// A directory that is kept open.
#[derive(Debug)]
pub struct OpenDir {
    fd: OwnedFd,
    /// This restore made it, or saw that it was empty: no name of the snapshot is taken in it.
    pub new: bool,
    /// This restore made it: nobody else writes in it, or says what new files in it get.
    made: bool,
    /// What the first file that was made in it had.
    gives: OnceLock<Given>,
}

/// What a new file has: the mode that was asked for and the one it got, for neither the process's mask nor a default
/// access list is known.
#[derive(Debug, Clone, Copy)]
struct Given {
    owner: (Uid, Gid),
    asked: u32,
    got: u32,
}

impl OpenDir {
    fn new(fd: OwnedFd, new: bool, made: bool) -> Self {
        Self { fd, new, made, gives: OnceLock::new() }
    }

    /// What a file has that was just made in it with this mode: the same for each in a directory that this restore
    /// made, so that only the first one is looked at.
    fn has(&self, file: &File, asked: u32) -> Option<Has> {
        let given = match self.known() {
            Some(given) => *given,
            None => {
                let stat = rustix::fs::fstat(file).ok()?;
                let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                let given = Given { owner, asked, got: stat.st_mode & 0o7777 };
                // Another thread may have looked at another file meanwhile.
                let _ = self.gives.set(given);
                given
            }
        };
        Some(Has { owner: given.owner, mode: (given.asked == asked).then_some(given.got) })
    }

    fn known(&self) -> Option<&Given> {
        self.gives.get().filter(|_| self.made)
    }
}

impl AsFd for OpenDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An open directory, its device and inode, and whether it was there before.
pub type Made = (OwnedFd, (u64, u64), bool);

/// The directory beneath which everything is written.
pub struct Target {
    root: Arc<OpenDir>,
    pub existed: bool,
    prefix: String,
    dirs: Mutex<Lru<DirId, Arc<OpenDir>>>,
    files: Mutex<Lru<FileId, Arc<File>>>,
    /// Whose a new file is.
    maker: OnceLock<u32>,
    /// The file system, or the kernel, has no files without a name.
    named_only: AtomicBool,
    /// An open file gets its name by way of /proc.
    by_proc: AtomicBool,
}

/// One name, safe to use from an open directory.
fn component(name: &[u8]) -> Outcome<&OsStr> {
    if !is_name(name) || name.len() > NAME_BYTES_MAX {
        let shown = shared::text::printable(name, 300);
        return Err(tampered("name", format!("'{shown}' is no name of a directory entry: it is not written")));
    }
    Ok(OsStr::from_bytes(name))
}

/// Opens one name beneath a directory, following nothing.
fn open_beneath(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlags, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(mode);
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(dir, name, flags, mode, resolve) {
        // The kernel, or a filter of system calls, lacks openat2; one name without a slash cannot lead out either.
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => rustix::fs::openat(dir, name, flags, mode),
        other => other,
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn existing(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A failure at a path below the target, for messages; only a full disk ends the whole restore.
pub fn local(what: &str, path: &[u8], error: impl Into<io::Error>) -> Failure {
    Failure::io(what, Path::new(OsStr::from_bytes(path)), &error.into())
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

impl Target {
    /// Opens the target, making it if it is not there. The path is the user's: links in it are followed.
    pub fn open(path: &Path, overwrite: Overwrite) -> Outcome<Self> {
        let existed = match std::fs::symlink_metadata(path) {
            Ok(_) => true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(Failure::io("look at", path, &e)),
        };
        if !existed {
            shared::sys::durable::create_dir(path, 0o700).map_err(|e| Failure::io("create", path, &e))?;
        }
        let flags = DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Failure::io("open", path, &e.into()))?;
        if overwrite == Overwrite::Refuse
            && !is_empty(root.as_fd()).map_err(|e| Failure::io("read", path, &e.into()))?
        {
            let message = format!("the target {} is not empty", path.display());
            return Err(Failure::new("target", Exit::Failed, message)
                .help("name an empty or new directory, or say what becomes of what is there: --overwrite never|if-newer|if-changed|always"));
        }
        let new = !existed || overwrite == Overwrite::Refuse;
        let open_dirs = usize::try_from((crate::open_files::raise() / 4).min(OPEN_DIRS_MAX)).unwrap_or(OPEN_FILES);
        Ok(Self {
            root: Arc::new(OpenDir::new(root, new, !existed)),
            existed,
            prefix: format!(".pawl-partial-{}-", shared::text::hex(&shared::sys::random::<6>())),
            dirs: Mutex::new(Lru::new(open_dirs)),
            files: Mutex::new(Lru::new(OPEN_FILES)),
            named_only: AtomicBool::new(false),
            maker: OnceLock::new(),
            by_proc: AtomicBool::new(false),
        })
    }

    pub fn root_identity(&self) -> Outcome<(u64, u64)> {
        let stat = rustix::fs::fstat(&self.root.fd).map_err(|e| local("look at", b".", e))?;
        Ok(identity(&stat))
    }

    /// An open directory of the plan. One that was opened before and closed since must still be the same.
    pub fn dir(&self, plan: &Plan, id: DirId) -> Outcome<Arc<OpenDir>> {
        let mut way: Vec<DirRow> = Vec::new();
        let mut at = id;
        let mut here = loop {
            if let Some(open) = self.open_dir(at) {
                break open;
            }
            let row =
                plan.dir(at)?.ok_or_else(|| Failure::new("plan", Exit::Failed, "a directory is not in the plan"))?;
            at = row.parent;
            way.push(row);
        };
        while let Some(row) = way.pop() {
            let name = component(&row.name)?;
            let opened = open_beneath(here.as_fd(), name, DIRECTORY, 0).map_err(|e| local("open", &row.name, e))?;
            let stat = rustix::fs::fstat(&opened).map_err(|e| local("look at", &row.name, e))?;
            if identity(&stat) != row.identity {
                let shown = shared::text::printable(&plan.path(row.id)?, 4096);
                let message = format!("somebody replaced the directory {shown} in the target while it was written");
                return Err(Failure::new("target", Exit::Failed, message));
            }
            here = Arc::new(OpenDir::new(opened, false, false));
            self.dirs.lock().put(row.id, Arc::clone(&here), 1);
        }
        Ok(here)
    }

    /// A directory of the plan if it is still open.
    pub fn open_dir(&self, id: DirId) -> Option<Arc<OpenDir>> {
        if id == 0 { Some(Arc::clone(&self.root)) } else { self.dirs.lock().get(&id) }
    }

    /// Makes a directory, or takes the one that is there. `Ok(None)`: what is there stays, and is no directory.
    pub fn make_dir(&self, parent: BorrowedFd<'_>, name: &[u8], overwrite: Overwrite) -> Outcome<Option<Made>> {
        let file = component(name)?;
        let fail = |what: &str, e: Errno| local(what, name, e);
        let make = || rustix::fs::mkdirat(parent, file, Mode::from_raw_mode(0o700));
        let mut existed = false;
        match make() {
            Err(Errno::EXIST) => {
                let there = existing(parent, file).map_err(|e| fail("look at", e))?;
                let directory = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                existed = there.as_ref().is_some_and(directory);
                if !existed {
                    if there.is_some() {
                        if overwrite == Overwrite::Never {
                            return Ok(None);
                        }
                        rustix::fs::unlinkat(parent, file, AtFlags::empty()).map_err(|e| fail("replace", e))?;
                    }
                    make().map_err(|e| fail("create", e))?;
                }
            }
            other => other.map_err(|e| fail("create", e))?,
        }
        let opened = open_beneath(parent, file, DIRECTORY, 0).map_err(|e| fail("open", e))?;
        let stat = rustix::fs::fstat(&opened).map_err(|e| fail("look at", e))?;
        Ok(Some((opened, identity(&stat), existed)))
    }

    /// Remembers an open directory of the plan.
    pub fn keep_open(&self, id: DirId, dir: OwnedFd, new: bool) {
        self.dirs.lock().put(id, Arc::new(OpenDir::new(dir, new, new)), 1);
    }

    /// Looks at the place of an entry that is no directory. A directory in its place is removed if it is empty, or,
    /// where `delete` is asked for, with all that is in it.
    pub fn look(
        &self,
        dir: BorrowedFd<'_>,
        entry: &Entry,
        overwrite: Overwrite,
        delete: bool,
        dry: bool,
    ) -> Outcome<Place> {
        let name = component(&entry.name)?;
        let Some(stat) = existing(dir, name).map_err(|e| local("look at", &entry.name, e))? else {
            return Ok(Place::Free);
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let modified = (stat.st_mtime, stat.st_mtime_nsec as u32);
        let theirs = (entry.modified.seconds, entry.modified.nanoseconds);
        let same_kind = kind == file_type(entry.kind);
        match overwrite {
            Overwrite::Refuse | Overwrite::Never => return Ok(Place::Keep),
            Overwrite::IfNewer if theirs <= modified => return Ok(Place::Keep),
            Overwrite::IfChanged if same_kind && theirs == modified => {
                if kind == FileType::RegularFile && u64::try_from(stat.st_size) == Ok(entry.size) {
                    return Ok(Place::Same);
                }
                if kind != FileType::RegularFile && self.same_special(dir, name, entry, &stat) {
                    return Ok(Place::Keep);
                }
            }
            _ => {}
        }
        if kind == FileType::Directory && !dry {
            let removed = if delete {
                remove_tree(dir, name, stat.st_dev, 0)
            } else {
                rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(Into::into)
            };
            removed.map_err(|e| local("replace the directory", &entry.name, e))?;
        }
        Ok(Place::Free)
    }

    fn same_special(&self, dir: BorrowedFd<'_>, name: &OsStr, entry: &Entry, stat: &Stat) -> bool {
        match (&entry.target, entry.device) {
            (Some(target), _) => {
                rustix::fs::readlinkat(dir, name, Vec::new()).is_ok_and(|at| at.as_bytes() == &target[..])
            }
            (None, Some(device)) => rustix::fs::makedev(device.major, device.minor) == stat.st_rdev,
            (None, None) => true,
        }
    }

    fn temporary(&self, number: &str) -> String {
        format!("{}{number}", self.prefix)
    }

    /// The file under its temporary name, made as long as it will be: what nobody writes is a hole.
    pub fn file(&self, dir: BorrowedFd<'_>, id: FileId, bytes: u64) -> Result<Arc<File>, io::Error> {
        if let Some(open) = self.files.lock().get(&id) {
            return Ok(open);
        }
        let name = self.temporary(&format!("{id:x}"));
        let name = OsStr::new(&name);
        let new = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = match open_beneath(dir, name, new, PARTIAL_MODE) {
            Ok(fd) => {
                let file = File::from(fd);
                file.set_len(bytes)?;
                file
            }
            Err(Errno::EXIST) => {
                let file = File::from(open_beneath(dir, name, OFlags::RDWR, 0)?);
                let stat = rustix::fs::fstat(&file)?;
                let ours = stat.st_nlink == 1 && stat.st_uid == self.maker(dir);
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !ours {
                    return Err(io::Error::other("somebody put something else in its place"));
                }
                file
            }
            Err(e) => return Err(e.into()),
        };
        let file = Arc::new(file);
        self.files.lock().put(id, Arc::clone(&file), 1);
        Ok(file)
    }

    /// Gives a whole file its metadata, then its name.
    pub fn publish(
        &self,
        dir: &OpenDir,
        id: FileId,
        entry: &Entry,
        overwrite: Overwrite,
        set: &Setter,
    ) -> Result<(), io::Error> {
        let file = self.file(dir.as_fd(), id, entry.size)?;
        self.files.lock().remove(&id);
        let has = dir.has(&file, PARTIAL_MODE).map(|has| Has { mode: None, ..has });
        set.file(file.as_fd(), entry, has);
        let name = component(&entry.name).map_err(|e| io::Error::other(e.message))?;
        rename(dir.as_fd(), OsStr::new(&self.temporary(&format!("{id:x}"))), name, overwrite)
    }

    /// Makes a file from all its content at once; what is missing at its end is a hole. It has no name before it is
    /// whole, so that a restore that breaks off leaves nothing of it.
    pub fn whole(
        &self,
        dir: &OpenDir,
        id: FileId,
        entry: &Entry,
        content: &[u8],
        overwrite: Overwrite,
        set: &Setter,
    ) -> Result<(), io::Error> {
        let name = component(&entry.name).map_err(|e| io::Error::other(e.message))?;
        // Nobody can open what has no name: it may have its rights from the start, unless attributes need more.
        let mode = if entry.xattrs.is_none() { entry.mode & 0o777 } else { PARTIAL_MODE };
        if let Some(file) = self.nameless(dir.as_fd(), mode)? {
            file.write_all_at(content, 0)?;
            if content.len() as u64 != entry.size {
                file.set_len(entry.size)?;
            }
            set.file(file.as_fd(), entry, dir.has(&file, mode));
            if self.give_name(&file, dir.as_fd(), id, name, overwrite)? {
                return Ok(());
            }
        }
        self.file(dir.as_fd(), id, entry.size)?.write_all_at(content, 0)?;
        self.publish(dir, id, entry, overwrite, set)
    }

    /// A file without a name; `None` where there is no such thing.
    fn nameless(&self, dir: BorrowedFd<'_>, mode: u32) -> Result<Option<File>, io::Error> {
        if self.named_only.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match open_beneath(dir, OsStr::new("."), OFlags::WRONLY | OFlags::TMPFILE, mode) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                self.named_only.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Names an open file. `Ok(false)`: that cannot be done here.
    fn give_name(
        &self,
        file: &File,
        dir: BorrowedFd<'_>,
        id: FileId,
        name: &OsStr,
        overwrite: Overwrite,
    ) -> Result<bool, io::Error> {
        match self.link_open(file, dir, name) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) if !matches!(overwrite, Overwrite::Refuse | Overwrite::Never) => {
                let temporary = self.temporary(&format!("{id:x}"));
                self.link_open(file, dir, OsStr::new(&temporary))?;
                rename(dir, OsStr::new(&temporary), name, overwrite).map(|()| true)
            }
            Err(Errno::NOENT | Errno::XDEV | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL) => {
                self.named_only.store(true, Ordering::Relaxed);
                Ok(false)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// linkat(2) of an open file. Kernels before 6.10 want a right for it that only root has; /proc does without.
    fn link_open(&self, file: &File, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
        if !self.by_proc.load(Ordering::Relaxed) {
            match rustix::fs::linkat(file, c"", dir, name, AtFlags::EMPTY_PATH) {
                Err(Errno::NOENT) => self.by_proc.store(true, Ordering::Relaxed),
                other => return other,
            }
        }
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::linkat(rustix::fs::CWD, path, dir, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// Opens a file that is whole, to read it again.
    pub fn reopen(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<File, io::Error> {
        let name = component(name).map_err(|e| io::Error::other(e.message))?;
        let file = File::from(open_beneath(dir, name, OFlags::RDONLY | OFlags::NONBLOCK, 0)?);
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is not a regular file any more"));
        }
        Ok(file)
    }

    /// Removes what was written of a file that cannot be had whole.
    pub fn discard(&self, dir: BorrowedFd<'_>, id: FileId) -> Result<(), io::Error> {
        match rustix::fs::unlinkat(dir, OsStr::new(&self.temporary(&format!("{id:x}"))), AtFlags::empty()) {
            Err(Errno::NOENT) | Ok(()) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes a symbolic link, fifo or device with its metadata.
    pub fn special(&self, dir: &OpenDir, entry: &Entry, overwrite: Overwrite, set: &Setter) -> Result<(), io::Error> {
        let name = component(&entry.name).map_err(|e| io::Error::other(e.message))?;
        let has = dir.known().map(|given| Has { owner: given.owner, mode: None });
        let made = dir.made;
        let dir = dir.as_fd();
        // A link is whole when it is made; nobody else writes in a directory that this restore made.
        if let (true, EntryKind::Symlink, Some(target)) = (made, entry.kind, &entry.target) {
            rustix::fs::symlinkat(OsStr::from_bytes(target), dir, name)?;
            let node = File::from(open_beneath(dir, name, OFlags::PATH, 0)?);
            set.special(&node, entry, true, has);
            return Ok(());
        }
        let temporary = self.temporary("special");
        let temporary = OsStr::new(&temporary);
        let mode = Mode::from_raw_mode(0o600);
        match (entry.kind, &entry.target, entry.device) {
            (EntryKind::Symlink, Some(target), _) => rustix::fs::symlinkat(OsStr::from_bytes(target), dir, temporary)?,
            (EntryKind::Fifo, ..) => rustix::fs::mknodat(dir, temporary, FileType::Fifo, mode, 0)?,
            (EntryKind::CharDevice | EntryKind::BlockDevice, _, Some(device)) => {
                let number = rustix::fs::makedev(device.major, device.minor);
                rustix::fs::mknodat(dir, temporary, file_type(entry.kind), mode, number)?;
            }
            _ => return Err(io::Error::other("an entry without what its kind needs")),
        }
        let done = self.open_made(dir, temporary, entry.kind).and_then(|node| {
            set.special(&node, entry, entry.kind == EntryKind::Symlink, has);
            rename(dir, temporary, name, overwrite)
        });
        if done.is_err() {
            // The next one takes this name; the failure that is returned matters more.
            let _ = rustix::fs::unlinkat(dir, temporary, AtFlags::empty());
        }
        done
    }

    /// What was just made, and not something that somebody else put in its place.
    fn open_made(&self, dir: BorrowedFd<'_>, name: &OsStr, kind: EntryKind) -> Result<File, io::Error> {
        let node = File::from(open_beneath(dir, name, OFlags::PATH, 0)?);
        let stat = rustix::fs::fstat(&node)?;
        let ours = stat.st_nlink == 1 && stat.st_uid == self.maker(dir);
        if FileType::from_raw_mode(stat.st_mode) != file_type(kind) || !ours {
            return Err(io::Error::other("somebody put something else in its place"));
        }
        Ok(node)
    }

    /// Whose a new file is: this account's, or what a server makes of it.
    fn maker(&self, dir: BorrowedFd<'_>) -> u32 {
        *self.maker.get_or_init(|| {
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            let file = rustix::fs::openat(dir, ".", flags, Mode::from_raw_mode(0o600));
            let made = file.and_then(|file| rustix::fs::fstat(&file));
            made.map_or_else(|_| rustix::process::geteuid().as_raw(), |stat| stat.st_uid)
        })
    }

    /// A further name for an entry that is there. A link in its place is not followed.
    pub fn link(
        &self,
        first: (BorrowedFd<'_>, &[u8]),
        dir: BorrowedFd<'_>,
        name: &[u8],
        overwrite: Overwrite,
    ) -> Result<(), io::Error> {
        let checked = |name| component(name).map_err(|e| io::Error::other(e.message));
        let temporary = self.temporary("link");
        let temporary = OsStr::new(&temporary);
        rustix::fs::linkat(first.0, checked(first.1)?, dir, temporary, AtFlags::empty())?;
        let done = checked(name).and_then(|name| rename(dir, temporary, name, overwrite));
        // rename(2) does nothing where both names are the same file already; the next link takes this name.
        match rustix::fs::unlinkat(dir, temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => done,
            Err(e) => done.and(Err(e.into())),
        }
    }
}

/// Gives a temporary name its final one. Where nothing may be replaced, the kernel refuses.
fn rename(dir: BorrowedFd<'_>, from: &OsStr, to: &OsStr, overwrite: Overwrite) -> Result<(), io::Error> {
    if !matches!(overwrite, Overwrite::Refuse | Overwrite::Never) {
        return rustix::fs::renameat(dir, from, dir, to).map_err(Into::into);
    }
    match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
        // The file system lacks it: link refuses as well.
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(dir, from, dir, to, AtFlags::empty())?;
            rustix::fs::unlinkat(dir, from, AtFlags::empty()).map_err(Into::into)
        }
        other => other.map_err(Into::into),
    }
}

fn file_type(kind: EntryKind) -> FileType {
    match kind {
        EntryKind::File => FileType::RegularFile,
        EntryKind::Directory => FileType::Directory,
        EntryKind::Symlink => FileType::Symlink,
        EntryKind::Fifo => FileType::Fifo,
        EntryKind::CharDevice => FileType::CharacterDevice,
        EntryKind::BlockDevice => FileType::BlockDevice,
    }
}

fn is_empty(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

mod delete;
#[cfg(test)]
mod tests;
mod there;

use delete::remove_tree;
pub use there::There;

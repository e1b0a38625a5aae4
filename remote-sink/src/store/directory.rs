//! The store in a directory. Objects appear under their name whole and durable, or not at all; the only file opened
//! for writing is one without a name (or, where the file system has none, one in `staging/`).

use crate::store::layout::{self, object_dir, object_file, object_path};
use crate::store::pack::{self, Pack, Packs};
use crate::store::{Entry, Free, Name, Placed, Shelf, Staged, Store, StoreError, Stored};
use rustix::fs::{Advice, AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Mode of objects: nobody writes to them again.
const OBJECT_MODE: Mode = Mode::from_raw_mode(0o440);
/// The kernel is asked to begin writing each time so many bytes were added, so that the fsync at the end is short.
const WRITEBACK_BYTES: u64 = 4 << 20;

fn failed(action: &'static str, path: impl Into<String>) -> impl FnOnce(Errno) -> StoreError {
    let path = path.into();
    move |error| StoreError { action, path, error: error.into() }
}

/// The room of a source or an owner in a vault's directory.
#[derive(Debug, Clone)]
pub struct Directory {
    root: Arc<OwnedFd>,
    room: Arc<str>,
    staging: Option<Arc<OwnedFd>>,
    packs: Arc<Packs>,
}

/// The vault's root, opened once; everything else is opened relative to it.
#[derive(Debug, Clone)]
pub struct Root(Arc<OwnedFd>);

impl Root {
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(failed("open", path.to_string_lossy()))?;
        Ok(Self(Arc::new(fd)))
    }

    /// Opens a directory below the root.
    pub fn open_dir(&self, path: &str) -> Result<OwnedFd, StoreError> {
        open_dir(&self.0, path)
    }

    /// Opens a regular file below the root for reading.
    pub fn open_file(&self, path: &str) -> Result<Option<File>, StoreError> {
        open_file(&self.0, path)
    }

    /// A room that is only read.
    pub fn room(&self, room: String) -> Directory {
        Directory { root: Arc::clone(&self.0), room: room.into(), staging: None, packs: Arc::default() }
    }

    /// A room that takes new objects, staged in this directory below the root.
    pub fn writable_room(&self, room: String, staging: &Arc<OwnedFd>) -> Directory {
        let staging = Some(Arc::clone(staging));
        Directory { root: Arc::clone(&self.0), room: room.into(), staging, packs: Arc::default() }
    }
}

fn open_dir(root: &OwnedFd, path: &str) -> Result<OwnedFd, StoreError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(root, path, flags, Mode::empty()).map_err(failed("open", path))
}

fn open_file(root: &OwnedFd, path: &str) -> Result<Option<File>, StoreError> {
    // NONBLOCK: a fifo that somebody put there must not hold the session.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(root, path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let stat = rustix::fs::fstat(&fd).map_err(failed("stat", path))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        let error = io::Error::new(io::ErrorKind::InvalidData, "not a regular file");
        return Err(StoreError { action: "open", path: path.into(), error });
    }
    Ok(Some(File::from(fd)))
}

/// A file without a name, or one in `staging/` that goes when it is dropped.
#[derive(Debug)]
pub struct StagedFile {
    file: File,
    temporary: Option<Temporary>,
    bytes: u64,
    written_back: u64,
    room: Arc<str>,
}

#[derive(Debug)]
struct Temporary {
    staging: Arc<OwnedFd>,
    name: String,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What stays after a failure here is cleared by the operator's commands.
        let _ = rustix::fs::unlinkat(&*self.staging, &self.name, AtFlags::empty());
    }
}

impl Staged for StagedFile {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let room = &self.room;
        self.file.write_all(bytes).map_err(|error| StoreError {
            action: "write",
            path: format!("{room}/staging"),
            error,
        })?;
        self.bytes += bytes.len() as u64;
        if let Some(span) = NonZeroU64::new(self.bytes - self.written_back)
            && span.get() >= WRITEBACK_BYTES
        {
            // On Linux this begins writing dirty pages and does not wait; a refusal costs only time.
            let _ = rustix::fs::fadvise(&self.file, self.written_back, Some(span), Advice::DontNeed);
            self.written_back = self.bytes;
        }
        Ok(())
    }
}

/// An object's file, or its part of a pack.
#[derive(Debug)]
pub struct StoredFile {
    file: Arc<File>,
    start: u64,
    bytes: u64,
    changed: i64,
    path: String,
}

impl StoredFile {
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Stored for StoredFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }
    /// The inode's change time: linking sets it, and no call sets it back.
    fn appeared(&self) -> i64 {
        self.changed
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let failed = |error| StoreError { action: "read", path: self.path.clone(), error };
        // A pack goes on behind its object.
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.bytes) {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        self.file.read_exact_at(buffer, self.start + offset).map_err(failed)
    }
}

impl Directory {
    fn path(&self, name: &Name) -> String {
        format!("{}/{}", self.room, object_path(name))
    }

    fn staging(&self) -> Result<&Arc<OwnedFd>, StoreError> {
        self.staging.as_ref().ok_or_else(|| StoreError {
            action: "write",
            path: self.room.to_string(),
            error: io::ErrorKind::ReadOnlyFilesystem.into(),
        })
    }

    /// The packs of a shelf; a room without any has no directory of them.
    pub fn packs(&self, shelf: Shelf, fresh: bool) -> Result<Vec<Arc<Pack>>, StoreError> {
        let path = format!("{}/{}", self.room, layout::PACKS);
        let dir = || match open_dir(&self.root, &path) {
            Err(e) if e.error.kind() == io::ErrorKind::NotFound => Ok(None),
            dir => dir.map(Some),
        };
        let packs = self.packs.of(&dir, shelf, fresh);
        packs.map_err(|e| StoreError { path: format!("{}/{}", self.room, e.path), ..e })
    }

    /// An object in a pack.
    pub fn packed(&self, name: &Name, fresh: bool) -> Result<Option<StoredFile>, StoreError> {
        let Some(key) = pack::key(name) else { return Ok(None) };
        let path = self.path(name);
        for pack in self.packs(name.shelf(), fresh)? {
            let found = pack.find(&key);
            let found = found.map_err(|error| StoreError { action: "read", path: path.clone(), error })?;
            if let Some(place) = found {
                let (file, start, bytes) = (Arc::clone(pack.file()), place.offset, u64::from(place.bytes));
                return Ok(Some(StoredFile { file, start, bytes, changed: place.appeared, path }));
            }
        }
        Ok(None)
    }

    /// An object in a file of its own.
    pub fn loose(&self, name: &Name) -> Result<Option<StoredFile>, StoreError> {
        let path = self.path(name);
        let Some(file) = open_file(&self.root, &path)? else { return Ok(None) };
        let stat = rustix::fs::fstat(&file).map_err(failed("stat", path.as_str()))?;
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(Some(StoredFile { file: Arc::new(file), start: 0, bytes, changed: stat.st_ctime, path }))
    }

    /// Objects in files of their own, and files that are none.
    pub fn list_loose(&self, shelf: Shelf, visit: &mut dyn FnMut(Entry)) -> Result<(), StoreError> {
        let mut dirs = vec![shelf.dir().to_owned()];
        if shelf.is_split() {
            dirs = (0..=255u8).map(|byte| format!("{}/{byte:02x}", shelf.dir())).collect();
            self.list_dir(shelf.dir(), &mut |file, is_dir| {
                if !is_dir || shared::text::from_hex::<1>(file).is_none() {
                    visit(Entry::Foreign(format!("{}/{file}", shelf.dir())));
                }
            })?;
        }
        for dir in dirs {
            self.list_dir(&dir, &mut |file, _| {
                let name = layout::parse_file(shelf, file).filter(|name| object_dir(name) == dir);
                visit(name.map_or_else(|| Entry::Foreign(format!("{dir}/{file}")), Entry::Object));
            })?;
        }
        Ok(())
    }

    fn list_dir(&self, dir: &str, visit: &mut dyn FnMut(&str, bool)) -> Result<(), StoreError> {
        let path = format!("{}/{dir}", self.room);
        let fd = open_dir(&self.root, &path)?;
        for entry in Dir::new(fd).map_err(failed("list", path.as_str()))? {
            let entry = entry.map_err(failed("list", path.as_str()))?;
            let name = entry.file_name().to_string_lossy();
            if name != "." && name != ".." {
                visit(&name, entry.file_type() == FileType::Directory);
            }
        }
        Ok(())
    }
}

/// Can files be made there that have no name?
pub fn has_unnamed_files(staging: &OwnedFd) -> bool {
    unnamed(staging).is_ok()
}

fn unnamed(staging: &OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(staging, ".", OFlags::WRONLY | OFlags::CLOEXEC | OFlags::TMPFILE, OBJECT_MODE)
}

impl Store for Directory {
    type Staged = StagedFile;
    type Stored = StoredFile;

    /// open(O_TMPFILE, staging), or where there is none open(O_CREAT|O_EXCL, staging/random)
    fn stage(&self) -> Result<StagedFile, StoreError> {
        let staging = self.staging()?;
        let path = || format!("{}/staging", self.room);
        let (fd, temporary) = match unnamed(staging) {
            Ok(fd) => (fd, None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let name = shared::text::hex(&shared::sys::random::<16>());
                let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let fd = rustix::fs::openat(&**staging, &name, flags, OBJECT_MODE).map_err(failed("create", path()))?;
                (fd, Some(Temporary { staging: Arc::clone(staging), name }))
            }
            Err(error) => return Err(failed("create", path())(error)),
        };
        let room = Arc::clone(&self.room);
        Ok(StagedFile { file: File::from(fd), temporary, bytes: 0, written_back: 0, room })
    }

    /// fsync(file) · linkat (refuses an existing name) · close · fsync(directory)
    fn put_new(&self, name: &Name, staged: StagedFile) -> Result<Placed, StoreError> {
        let path = self.path(name);
        if self.packed(name, true)?.is_some() {
            return Ok(Placed::Existed);
        }
        let dir = open_dir(&self.root, &format!("{}/{}", self.room, object_dir(name)))?;
        staged.file.sync_all().map_err(|error| StoreError { action: "sync", path: path.clone(), error })?;
        // A crash before the link leaves nothing; after it, the whole object, as its data is on the disk already.
        let linked = match &staged.temporary {
            None => {
                let from = format!("/proc/self/fd/{}", staged.file.as_raw_fd());
                rustix::fs::linkat(CWD, from, &dir, object_file(name), AtFlags::SYMLINK_FOLLOW)
            }
            Some(t) => rustix::fs::linkat(&*t.staging, &t.name, &dir, object_file(name), AtFlags::empty()),
        };
        let placed = match linked {
            Ok(()) => Placed::New,
            Err(Errno::EXIST) => Placed::Existed,
            Err(error) => return Err(failed("link", path)(error)),
        };
        drop(staged);
        // Also for a name that was there: whoever made it may have been cut off before this step.
        rustix::fs::fsync(&dir).map_err(failed("sync the directory of", path))?;
        Ok(placed)
    }

    /// Packed, else loose; in neither, it may have been packed just now.
    fn get(&self, name: &Name) -> Result<Option<StoredFile>, StoreError> {
        if let Some(found) = self.packed(name, false)? {
            return Ok(Some(found));
        }
        match self.loose(name)? {
            None => self.packed(name, true),
            found => Ok(found),
        }
    }

    /// Loose objects first: one that is packed meanwhile is seen twice, and then told once.
    fn list(&self, shelf: Shelf, visit: &mut dyn FnMut(Entry)) -> Result<(), StoreError> {
        if pack::letter(shelf).is_none() {
            return self.list_loose(shelf, visit);
        }
        let mut loose = HashSet::new();
        self.list_loose(shelf, &mut |entry| {
            if let Entry::Object(name) = &entry {
                loose.insert(*name);
            }
            visit(entry);
        })?;
        let packs = self.packs(shelf, true)?;
        for (at, one) in packs.iter().enumerate() {
            let path = || format!("{}/{}/{}", self.room, layout::PACKS, layout::pack_file(shelf, one.number));
            let told = pack::each_alone(one, &packs[..at], &mut |name| {
                if !loose.contains(&name) {
                    visit(Entry::Object(name));
                }
            });
            told.map_err(|error| StoreError { action: "read", path: path(), error })?;
        }
        Ok(())
    }

    /// Packs say it in their indexes; loose objects are looked at one by one.
    fn bytes_of(&self, shelf: Shelf, wanted: &dyn Fn(&Name) -> bool) -> Result<u64, StoreError> {
        let (mut bytes, mut done) = (0u64, Ok(()));
        for pack in self.packs(shelf, true)? {
            let path = || format!("{}/{}/{}", self.room, layout::PACKS, layout::pack_file(shelf, pack.number));
            let told = pack.each(&mut |name, place| {
                if wanted(&name) {
                    bytes = bytes.saturating_add(u64::from(place.bytes));
                }
            });
            told.map_err(|error| StoreError { action: "read", path: path(), error })?;
        }
        self.list_loose(shelf, &mut |entry| {
            if let (Entry::Object(name), Ok(())) = (entry, &done)
                && wanted(&name)
            {
                match self.loose(&name) {
                    Ok(stored) => bytes = bytes.saturating_add(stored.map_or(0, |stored| stored.bytes())),
                    Err(e) if e.is_damage() => {}
                    Err(e) => done = Err(e),
                }
            }
        })?;
        done.map(|()| bytes)
    }

    fn free(&self) -> Result<Free, StoreError> {
        let stat = rustix::fs::fstatvfs(&*self.root).map_err(failed("statvfs", ""))?;
        // Some file systems count no inodes and say 0 of 0.
        let objects = if stat.f_files == 0 { u64::MAX } else { stat.f_favail };
        Ok(Free { bytes: stat.f_bavail.saturating_mul(stat.f_frsize), objects })
    }
}

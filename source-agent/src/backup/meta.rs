//! Metadata of one name: stat, owner names, extended attributes, as the tree holds them.

use super::users::Users;
use crate::index::record::StatKey;
use crate::report::{Exit, Failure};
use crate::tree::node::{Device, HardLink};
use crate::tree::{Entry, EntryKind, Time, Xattr};
use rustix::fs::{FileType, Stat};
use shared::codec::{Blob, List};
use shared::limits::{XATTR_TOTAL_BYTES_MAX, XATTRS_MAX};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// A file younger than this when it is read may change again within the same time stamp.
const TRUST_AFTER_NANOSECONDS: i128 = 2_000_000_000;

/// The wall clock, in nanoseconds since 1970.
pub fn now() -> i128 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

pub fn time(seconds: i64, nanoseconds: u64) -> Time {
    // The kernel never says more than 999,999,999.
    Time { seconds, nanoseconds: (nanoseconds % 1_000_000_000) as u32 }
}

// The types of these fields differ between architectures.
#[allow(clippy::unnecessary_cast)]
pub fn modified(stat: &Stat) -> Time {
    time(stat.st_mtime, stat.st_mtime_nsec as u64)
}

#[allow(clippy::unnecessary_cast)]
pub fn changed(stat: &Stat) -> Time {
    time(stat.st_ctime, stat.st_ctime_nsec as u64)
}

/// What is compared in the next run. Directories: without their size, which says nothing.
pub fn stat_key(stat: &Stat) -> StatKey {
    let size = if kind(stat) == Some(EntryKind::Directory) { 0 } else { stat.st_size as u64 };
    StatKey { inode: stat.st_ino, size, modified: modified(stat), changed: changed(stat) }
}

/// Was it old enough at `read_at` that a later change shows in its times?
pub fn is_trusted(stat: &Stat, read_at: i128) -> bool {
    let newest = modified(stat).max(changed(stat));
    let newest = i128::from(newest.seconds) * 1_000_000_000 + i128::from(newest.nanoseconds);
    newest + TRUST_AFTER_NANOSECONDS <= read_at
}

/// What an entry would be; `None` for sockets and the unknown.
pub fn kind(stat: &Stat) -> Option<EntryKind> {
    Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        FileType::Fifo => EntryKind::Fifo,
        FileType::CharacterDevice => EntryKind::CharDevice,
        FileType::BlockDevice => EntryKind::BlockDevice,
        _ => return None,
    })
}

/// An entry without content; `None` if the name is longer than any.
pub fn entry(name: &[u8], kind: EntryKind, stat: &Stat, users: &Users, xattrs: Vec<Xattr>) -> Option<Entry> {
    let device = matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice)
        .then(|| Device { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) });
    Some(Entry {
        name: Blob::new(name.to_vec()).ok()?,
        kind,
        mode: stat.st_mode & 0o7777,
        user: users.user(stat.st_uid),
        group: users.group(stat.st_gid),
        modified: modified(stat),
        changed: changed(stat),
        inode: stat.st_ino,
        size: 0,
        hard_link: None,
        extents: None,
        list: None,
        node: None,
        target: None,
        device,
        xattrs: if xattrs.is_empty() { None } else { List::new(xattrs).ok() },
    })
}

/// The pair by which names of the same file are joined.
pub fn hard_link(stat: &Stat, file_system: u32) -> Option<HardLink> {
    let linked = stat.st_nlink > 1 && kind(stat) != Some(EntryKind::Directory);
    linked.then_some(HardLink { file_system, inode: stat.st_ino })
}

/// How many names the file has.
#[allow(clippy::unnecessary_cast)]
pub fn names(stat: &Stat) -> u64 {
    stat.st_nlink as u64
}

/// Where extended attributes are read.
#[derive(Clone, Copy)]
pub enum Attributes<'a> {
    Open(BorrowedFd<'a>),
    /// Of the name itself, not of what a link points to.
    Name(&'a Path),
}

impl Attributes<'_> {
    fn list(self, into: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Open(fd) => rustix::fs::flistxattr(fd, into),
            Self::Name(path) => rustix::fs::llistxattr(path, into),
        }
    }
    fn get(self, name: &[u8], into: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Open(fd) => rustix::fs::fgetxattr(fd, name, into),
            Self::Name(path) => rustix::fs::lgetxattr(path, name, into),
        }
    }
}

/// All extended attributes, by name. A file system without any has none.
pub fn xattrs(of: Attributes) -> io::Result<Vec<Xattr>> {
    let mut names = [0; 1024];
    let names = match of.list(&mut names) {
        Ok(0) => return Ok(Vec::new()),
        Ok(bytes) => names[..bytes].to_vec(),
        Err(rustix::io::Errno::RANGE) => {
            let mut more = vec![0; 64 << 10];
            let bytes = of.list(&mut more)?;
            more.truncate(bytes);
            more
        }
        Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOSYS) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let mut all = Vec::new();
    let mut total = 0;
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let Some(value) = xattr(of, name)? else { continue };
        total += name.len() + value.len();
        let too_large = || io::Error::other("it has more extended attributes than can be stored");
        if all.len() == XATTRS_MAX || total > XATTR_TOTAL_BYTES_MAX {
            return Err(too_large());
        }
        let name = Blob::new(name.to_vec()).map_err(|_| too_large())?;
        all.push(Xattr { name, value: Blob::new(value).map_err(|_| too_large())? });
    }
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// One value; `None` if it went away or is hidden from this user.
fn xattr(of: Attributes, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 256];
    for _ in 0..2 {
        match of.get(name, &mut value) {
            Ok(bytes) => {
                value.truncate(bytes);
                return Ok(Some(value));
            }
            Err(rustix::io::Errno::RANGE) => value = vec![0; 64 << 10],
            Err(
                rustix::io::Errno::NODATA
                | rustix::io::Errno::ACCESS
                | rustix::io::Errno::PERM
                | rustix::io::Errno::NOTSUP,
            ) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
    Err(io::Error::other("an extended attribute changes while it is read"))
}

/// Is it this machine that has no room for one more open file? That says nothing about the file.
pub fn is_exhausted(e: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(e, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
}

/// The end of the run: a snapshot without what could not be opened for want of room would look like one without it.
pub fn exhausted(e: rustix::io::Errno) -> Failure {
    Failure::new("open-files", Exit::Failed, format!("cannot open one more file: {}", io::Error::from(e)))
        .help("allow the agent more open files (ulimit -n, LimitNOFILE=)")
}

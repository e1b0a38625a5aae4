//! `--delete`: removes from the target what the snapshot does not have.

use super::{DIRECTORY, Target, component, existing, local, open_beneath};
use crate::report::Outcome;
use crate::tree::node::is_name;
use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

/// Directories inside one another that `--delete` goes into.
const DELETE_DEPTH_MAX: usize = 512;

impl Target {
    /// Removes entries of a directory that `unwanted` names, or with `dry` only counts them. Says how many.
    pub fn delete(
        &self,
        dir: BorrowedFd<'_>,
        dry: bool,
        unwanted: &mut dyn FnMut(&[u8], bool) -> Outcome<bool>,
    ) -> Outcome<u64> {
        let here = rustix::fs::fstat(dir).map_err(|e| local("look at", b".", e))?;
        let mut names = Vec::new();
        for entry in Dir::read_from(dir).map_err(|e| local("read", b".", e))? {
            let entry = entry.map_err(|e| local("read", b".", e))?;
            let name = entry.file_name().to_bytes();
            if is_name(name) {
                names.push(name.to_vec());
            }
        }
        let mut removed = 0;
        for name in names {
            let file = component(&name)?;
            let Some(stat) = existing(dir, file).map_err(|e| local("look at", &name, e))? else { continue };
            let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if unwanted(&name, directory)? {
                if !dry {
                    remove_tree(dir, file, here.st_dev, 0).map_err(|e| local("delete", &name, e))?;
                }
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Removes an entry and, for a directory, what is in it; never on another file system, never through a link.
pub(super) fn remove_tree(dir: BorrowedFd<'_>, name: &OsStr, device: u64, depth: usize) -> Result<(), io::Error> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return other.map_err(Into::into),
    }
    let inner = open_beneath(dir, name, DIRECTORY, 0)?;
    if rustix::fs::fstat(&inner)?.st_dev != device {
        return Err(io::Error::other("it lies on another file system"));
    }
    if depth >= DELETE_DEPTH_MAX {
        return Err(io::Error::other("directories too deep inside one another"));
    }
    let mut names = Vec::new();
    for entry in Dir::read_from(&inner)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if is_name(&name) {
            names.push(name);
        }
    }
    for name in names {
        remove_tree(inner.as_fd(), OsStr::from_bytes(&name), device, depth + 1)?;
    }
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(Into::into)
}

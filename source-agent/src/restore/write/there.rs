//! What stands in the target already, for a dry run: nothing is made and nothing removed.

use super::{Overwrite, Target, component, existing, identity, is_empty, local, open_beneath};
use crate::report::{Exit, Failure, Outcome};
use rustix::fs::{FileType, OFlags, Stat};
use std::os::fd::{AsFd, BorrowedFd};

/// What a directory of the snapshot falls on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    /// Nothing, or something that would be replaced.
    Nothing,
    /// A directory: device and inode.
    Directory((u64, u64)),
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

impl Target {
    /// What [`Target::make_dir`] would find.
    pub fn there(&self, parent: BorrowedFd<'_>, name: &[u8], overwrite: Overwrite) -> Outcome<There> {
        match existing(parent, component(name)?).map_err(|e| local("look at", name, e))? {
            None => Ok(There::Nothing),
            Some(stat) if is_directory(&stat) => Ok(There::Directory(identity(&stat))),
            Some(_) if overwrite == Overwrite::Never => {
                let message = "something that is no directory stands in its place, and stays (--overwrite never)";
                Err(Failure::new("in-the-way", Exit::Failed, message))
            }
            Some(_) => Ok(There::Nothing),
        }
    }

    /// Is this a directory that holds anything?
    pub fn is_full_directory(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Outcome<bool> {
        let file = component(name)?;
        let there = existing(parent, file).map_err(|e| local("look at", name, e))?;
        if !there.as_ref().is_some_and(is_directory) {
            return Ok(false);
        }
        let opened = open_beneath(parent, file, OFlags::RDONLY | OFlags::DIRECTORY, 0);
        let empty = opened.and_then(|dir| is_empty(dir.as_fd()));
        empty.map(|empty| !empty).map_err(|e| local("read", name, e))
    }
}

//! All durable writes of small files, the system calls written above each.
//!
//! The sink's published objects go another way (`remote-sink`, `store/directory.rs`): they are never replaced.

use rustix::fs::{AtFlags, Mode, OFlags};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Mode of files with secrets or state.
pub const PRIVATE: u32 = 0o600;
/// Mode of files that anyone may read.
pub const PUBLIC: u32 = 0o644;

/// Whose a new file or directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Caller,
    /// The owner of the directory that it is in, where the caller is root: what root makes for another account is that
    /// account's to read.
    Directory,
}

/// Gives what was just made in `dir` to whom it belongs. An open descriptor, so that no link is followed.
pub fn give(made: &impl AsFd, dir: &Path, owner: Owner) -> io::Result<()> {
    if owner == Owner::Caller || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let of = std::fs::metadata(dir)?;
    let now = rustix::fs::fstat(made)?;
    if (now.st_uid, now.st_gid) != (of.uid(), of.gid()) {
        let (user, group) = (rustix::fs::Uid::from_raw(of.uid()), rustix::fs::Gid::from_raw(of.gid()));
        rustix::fs::fchown(made, Some(user), Some(group))?;
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// fsync of a directory.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn temporary(dir: &Path, mode: u32, owner: Owner) -> io::Result<(File, PathBuf)> {
    let path = dir.join(format!(".tmp-{}", crate::text::hex(&crate::sys::random::<8>())));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = File::from(rustix::fs::open(&path, flags, Mode::from_raw_mode(mode))?);
    if let Err(e) = give(&file, dir, owner) {
        // The failure that is returned matters more than a temporary file that stays.
        let _ = std::fs::remove_file(&path);
        return Err(e);
    }
    Ok((file, path))
}

/// Replaces a file as a whole: after a crash there is the old content or the new.
///
/// open(O_CREAT|O_EXCL, temporary) · write · fsync · rename · fsync(directory)
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace_as(path, bytes, mode, Owner::Caller)
}

/// The same, for this owner.
pub fn replace_as(path: &Path, bytes: &[u8], mode: u32, owner: Owner) -> io::Result<()> {
    let dir = parent(path);
    let (mut file, temporary) = temporary(dir, mode, owner)?;
    let done = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&temporary, path));
    if done.is_err() {
        // The failure that is returned matters more than a temporary file that stays.
        let _ = std::fs::remove_file(&temporary);
    }
    done.and_then(|()| sync_dir(dir))
}

/// Creates a file that must not exist: after a crash there is nothing or the whole file.
///
/// open(O_CREAT|O_EXCL, temporary) · write · fsync · link (refuses an existing name) · unlink(temporary) · fsync(directory)
pub fn create_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    create_new_as(path, bytes, mode, Owner::Caller)
}

/// The same, for this owner.
pub fn create_new_as(path: &Path, bytes: &[u8], mode: u32, owner: Owner) -> io::Result<()> {
    let dir = parent(path);
    let (mut file, temporary) = temporary(dir, mode, owner)?;
    let cwd = rustix::fs::CWD;
    let done = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| rustix::fs::linkat(cwd, &temporary, cwd, path, AtFlags::empty()).map_err(io::Error::from));
    // The temporary name goes in any case; what is linked stays.
    let removed = std::fs::remove_file(&temporary);
    done.and(removed).and_then(|()| sync_dir(dir))
}

/// Removes a file durably; a missing one is no error.
///
/// unlink · fsync(directory)
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => sync_dir(parent(path)),
    }
}

/// Creates a directory and its parents with this mode for each new one.
pub fn create_dir(path: &Path, mode: u32) -> io::Result<()> {
    create_dir_as(path, mode, Owner::Caller)
}

/// The same, for this owner: each new one for the owner of the directory that it is made in.
pub fn create_dir_as(path: &Path, mode: u32, owner: Owner) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let dir = parent(path);
    if dir != path {
        create_dir_as(dir, mode, owner)?;
    }
    match rustix::fs::mkdir(path, Mode::from_raw_mode(mode)) {
        // Somebody else made it meanwhile.
        Err(rustix::io::Errno::EXIST) if path.is_dir() => return Ok(()),
        made => made?,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    give(&rustix::fs::open(path, flags, Mode::empty())?, dir, owner)
}

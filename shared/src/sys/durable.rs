//! All durable writes of small files, the system calls written above each.
//!
//! The sink's published objects go another way (`remote-sink`, `store/directory.rs`): they are never replaced.

use rustix::fs::{AtFlags, Mode, OFlags};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Mode of files with secrets or state.
pub const PRIVATE: u32 = 0o600;
/// Mode of files that anyone may read.
pub const PUBLIC: u32 = 0o644;

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

fn temporary(dir: &Path, mode: u32) -> io::Result<(File, std::path::PathBuf)> {
    let path = dir.join(format!(".tmp-{}", crate::text::hex(&crate::sys::random::<8>())));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(&path, flags, Mode::from_raw_mode(mode))?;
    Ok((File::from(fd), path))
}

/// Replaces a file as a whole: after a crash there is the old content or the new.
///
/// open(O_CREAT|O_EXCL, temporary) · write · fsync · rename · fsync(directory)
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = parent(path);
    let (mut file, temporary) = temporary(dir, mode)?;
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
    let dir = parent(path);
    let (mut file, temporary) = temporary(dir, mode)?;
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
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

//! Is a file open for writing? What injected code in a committer holds open it can still change, also after it was
//! published; a file that nobody holds open for writing stays as it is, for no session may open one again.

use rustix::io::Errno;
use std::fs::File;
use std::os::fd::AsRawFd;

/// Asks the kernel for a read lease and gives it back at once: it is granted only while no descriptor anywhere is open
/// for writing. `None` where this cannot be told: another account's file, or a file system without leases.
///
/// Whoever opens the file for writing within that moment makes the kernel send SIGIO: the caller handles that signal.
pub fn has_writer(file: &File) -> Option<bool> {
    match set(file, libc::F_RDLCK) {
        Ok(()) => {
            // A lease that stays ends with the descriptor.
            let _ = set(file, libc::F_UNLCK);
            Some(false)
        }
        Err(Errno::AGAIN) => Some(true),
        Err(_) => None,
    }
}

#[allow(unsafe_code, reason = "no safe crate offers leases")]
fn set(file: &File, kind: libc::c_int) -> Result<(), Errno> {
    // SAFETY: the descriptor is open as long as `file` is borrowed; F_SETLEASE takes an int and touches no memory of ours.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } {
        -1 => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_seen_until_it_closes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("object");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert_eq!(has_writer(&reader), Some(true));
        drop(writer);
        assert_eq!(has_writer(&reader), Some(false));
        let _second = File::open(&path).unwrap();
        assert_eq!(has_writer(&reader), Some(false), "readers do not matter");
    }
}

//! Files with keys: created once and never over another, read with a bound, refused when others can read them.

use crate::paths::show;
use crate::report::{Exit, Failure, Outcome};
use shared::sys::durable;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Most bytes of a file with a key, a card or recipients.
pub const KEY_FILE_BYTES_MAX: u64 = 256 << 10;

/// Reads a text of at most `bytes_max` bytes; pipes are fine.
pub fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    read_secret_text(path, bytes_max).map(|text| text.as_str().to_owned())
}

/// The same, zeroed when dropped.
pub fn read_secret_text(path: &Path, bytes_max: u64) -> io::Result<Zeroizing<String>> {
    read_bounded(File::open(path)?, bytes_max)
}

/// Reads UTF-8 text to its end, `bytes_max` bytes at most. The buffer is never moved, so no copy of a secret stays.
pub fn read_bounded(reader: impl Read, bytes_max: u64) -> io::Result<Zeroizing<String>> {
    let capacity = usize::try_from(bytes_max.saturating_add(1)).unwrap_or(usize::MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    reader.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is larger than {bytes_max} bytes")));
    }
    let text = std::str::from_utf8(&bytes);
    let text = text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not text (UTF-8)"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Who but the owner can read or change this file? `None` when nobody.
pub fn exposure(path: &Path) -> io::Result<Option<String>> {
    let data = std::fs::metadata(path)?;
    // A pipe or /dev/fd entry has no lasting mode.
    let open = data.mode() & 0o077;
    Ok((data.is_file() && open != 0).then(|| format!("mode {:04o}", data.mode() & 0o7777)))
}

/// Reads a private file made by `init`; refuses one that others can read or change.
pub fn read_private(what: &str, path: &Path) -> Outcome<Zeroizing<String>> {
    let found = exposure(path).map_err(|e| missing_or(what, path, &e))?;
    if let Some(mode) = found {
        let message = format!("others may use {what} {}: {mode}", show(path));
        return Err(Failure::new("key-mode", Exit::Failed, message).help(format!("chmod 600 {}", show(path))));
    }
    read_secret_text(path, KEY_FILE_BYTES_MAX).map_err(|e| missing_or(what, path, &e))
}

fn missing_or(what: &str, path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::io(&format!("read {what}"), path, error);
    match error.kind() {
        io::ErrorKind::NotFound => {
            failure.help("init makes it; a lost one comes from a copy of the configuration and state directories")
        }
        _ => failure,
    }
}

/// Creates files that must not exist yet. Unless [`NewFiles::keep`] is called, all of them go away again.
#[derive(Default)]
pub struct NewFiles {
    made: Vec<PathBuf>,
    kept: bool,
}

impl NewFiles {
    pub fn create(&mut self, path: &Path, text: &str, mode: u32) -> Outcome<()> {
        durable::create_new(path, text.as_bytes(), mode).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => exists(path),
            _ => Failure::io("create", path, &e),
        })?;
        self.made.push(path.to_path_buf());
        Ok(())
    }
    pub fn secret(&mut self, path: &Path, text: &str) -> Outcome<()> {
        self.create(path, text, durable::PRIVATE)
    }
    pub fn public(&mut self, path: &Path, text: &str) -> Outcome<()> {
        self.create(path, text, durable::PUBLIC)
    }
    /// Everything is in place.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for NewFiles {
    fn drop(&mut self) {
        if !self.kept {
            for path in self.made.iter().rev() {
                // The failure that brought us here is what is reported.
                let _ = durable::remove(path);
            }
        }
    }
}

/// Refuses a name that is taken, also by a dangling link.
pub fn must_be_new(path: &Path) -> Outcome<()> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Err(exists(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Failure::io("look at", path, &e)),
    }
}

fn exists(path: &Path) -> Failure {
    Failure::new("exists", Exit::Failed, format!("{} exists and is never overwritten", show(path)))
        .help("choose another name, or move the old file away if nothing needs it any more")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        let mut files = NewFiles::default();
        files.secret(&path, "one").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(files.secret(&path, "two").unwrap_err().code, "exists");
        files.keep();
        assert_eq!(&*read_private("the key", &path).unwrap(), "one");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(read_private("the key", &path).unwrap_err().code, "key-mode");
    }

    #[test]
    fn what_was_not_kept_goes_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        let mut files = NewFiles::default();
        files.secret(&path, "one").unwrap();
        drop(files);
        assert!(!path.exists());
    }

    #[test]
    fn reading_is_bounded() {
        assert!(read_bounded(std::io::repeat(b'a'), 100).is_err());
        assert!(read_bounded(&b"\xff"[..], 100).is_err());
        assert_eq!(&*read_bounded(&b"abc"[..], 3).unwrap(), "abc");
    }

    #[test]
    fn a_dangling_link_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        std::os::unix::fs::symlink("/nowhere/at/all", &path).unwrap();
        assert_eq!(must_be_new(&path).unwrap_err().code, "exists");
        assert_eq!(NewFiles::default().secret(&path, "x").unwrap_err().code, "exists");
    }
}

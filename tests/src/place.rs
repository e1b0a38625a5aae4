//! Temporary directories, gone when a test ends, whoever owns what lies in them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A directory of one test. Others may pass through it: sessions of other accounts work below it.
#[derive(Debug)]
pub struct Place {
    dir: Option<tempfile::TempDir>,
}

impl Place {
    /// In memory where the machine has room: hundreds of fsyncs then take no time, and the programs call them all the same.
    pub fn new() -> Self {
        Self::below(memory().unwrap_or_else(std::env::temp_dir))
    }

    /// On the file system of the temporary directory, for tests in which it matters which one it is.
    pub fn on_disk() -> Self {
        Self::below(std::env::temp_dir())
    }

    fn below(parent: PathBuf) -> Self {
        let dir = tempfile::Builder::new().prefix("pawl-test-").tempdir_in(parent).expect("a temporary directory");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Self { dir: Some(dir) }
    }

    pub fn path(&self) -> &Path {
        self.dir.as_ref().expect("the place is still there").path()
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// A new directory in it.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::env::var_os("PAWL_TESTS_KEEP").is_some()
            && let Some(dir) = self.dir.take()
        {
            eprintln!("kept: {}", dir.keep().display());
            return;
        }
        // Directories without permissions would stay behind when an ordinary user runs the tests.
        if let Some(dir) = &self.dir
            && !rustix::process::geteuid().is_root()
        {
            open_up(dir.path());
        }
    }
}

/// /dev/shm, if programs may run there and 4 GiB are free.
fn memory() -> Option<PathBuf> {
    let path = Path::new("/dev/shm");
    let stat = rustix::fs::statvfs(path).ok()?;
    let may_run = !stat.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC);
    let may_write = rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
    (may_run && may_write && stat.f_bavail * stat.f_frsize >= 4 << 30).then(|| path.to_owned())
}

fn open_up(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // What cannot be opened cannot be removed either; the system's cleaning of /tmp gets it.
            let _ = std::fs::set_permissions(entry.path(), PermissionsExt::from_mode(0o700));
            open_up(&entry.path());
        }
    }
}

//! Failures as people and scripts see them: code, sentence, help line, exit code (the command line's table).

use std::fmt;

/// Exit codes. Unknown codes mean failure; codes get added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    /// Snapshot made, some files unreadable or a named path missing.
    Incomplete = 3,
    /// Snapshot on some remotes, not on all.
    SomeRemotes = 4,
    /// Not enrolled, no such source or snapshot.
    NotFound = 10,
    /// Another session of this source runs.
    Busy = 11,
    /// Wrong passphrase, or no identity fits.
    Identity = 12,
    /// Signature, hash or rollback failure; unknown signer.
    Tampered = 13,
    /// Remote unreachable: DNS, refused, host key, login, not installed.
    Unreachable = 14,
    /// Quota or disk full.
    Full = 15,
    Interrupted = 130,
    Terminated = 143,
}

/// A failure: what failed, on which remote, why, and what to do next.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Stable short code for searching, such as `ssh-hostkey`.
    pub code: &'static str,
    pub exit: Exit,
    pub remote: Option<String>,
    pub message: String,
    /// Further lines, indented when shown.
    pub details: Vec<String>,
    pub help: Option<String>,
}

impl Failure {
    pub fn new(code: &'static str, exit: Exit, message: impl Into<String>) -> Self {
        Self { code, exit, remote: None, message: message.into(), details: Vec::new(), help: None }
    }
    pub fn remote(mut self, name: impl Into<String>) -> Self {
        self.remote.get_or_insert_with(|| name.into());
        self
    }
    pub fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }
    pub fn help(mut self, line: impl Into<String>) -> Self {
        self.help.get_or_insert_with(|| line.into());
        self
    }
    /// An error of the local file system: what was tried, on which path.
    pub fn io(what: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let exit = if error.kind() == std::io::ErrorKind::StorageFull { Exit::Full } else { Exit::Failed };
        let path = shared::text::printable(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()), 4096);
        Self::new("io", exit, format!("cannot {what} {path}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: ", self.code)?;
        if let Some(remote) = &self.remote {
            write!(f, "{remote}: ")?;
        }
        f.write_str(&self.message)?;
        for line in &self.details {
            write!(f, "\n  {line}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// What every fallible step of a command returns.
pub type Outcome<T> = Result<T, Failure>;

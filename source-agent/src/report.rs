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
    /// SIGHUP, SIGINT, SIGTERM.
    HungUp = 129,
    Interrupted = 130,
    Terminated = 143,
}

impl Exit {
    /// Did a signal ask for the end?
    pub const fn is_signal(self) -> bool {
        matches!(self, Self::HungUp | Self::Interrupted | Self::Terminated)
    }
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
    /// Of an error of the local file system: its kind says what may be done, where nobody said it of this one.
    pub kind: Option<std::io::ErrorKind>,
}

impl Failure {
    pub fn new(code: &'static str, exit: Exit, message: impl Into<String>) -> Self {
        Self { code, exit, remote: None, message: message.into(), details: Vec::new(), help: None, kind: None }
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
        Self { kind: Some(error.kind()), ..Self::new("io", exit, format!("cannot {what} {path}: {error}")) }
    }
    /// The line that says what to do.
    pub fn advice(&self) -> Option<&str> {
        self.help.as_deref().or_else(|| self.kind.map_or_else(|| hint_of(self.code), hint_of_io))
    }
}

/// What helps against a kind of failure wherever it comes from.
fn hint_of(code: &str) -> Option<&'static str> {
    Some(match code {
        "not-found" => "what is there? source-agent snapshots; if it should be there: source-agent check",
        "connection-lost" => {
            "run it again: what was acknowledged is not sent again; source-agent remote test says how the way is now"
        }
        "sink-ended" => {
            "source-agent remote test; if that fails too, ask the sink's operator to run: remote-sink doctor"
        }
        "exclude-file" => "its lines are those of a .gitignore file; correct the file, or its path in exclude-file",
        _ => return None,
    })
}

/// The same for errors of the local file system.
fn hint_of_io(kind: std::io::ErrorKind) -> Option<&'static str> {
    use std::io::ErrorKind as Kind;
    Some(match kind {
        Kind::NotFound => "is the path written right, and does its directory exist?",
        Kind::PermissionDenied => "run it as a user who may, or change the owner or mode of the path",
        Kind::NotADirectory => "something in the path is no directory: name another path",
        Kind::IsADirectory => "this is a directory: name a file",
        Kind::StorageFull | Kind::QuotaExceeded => "make room on that file system, then run it again",
        Kind::ReadOnlyFilesystem => "that file system is mounted read-only: name another path, or mount it for writing",
        _ => return None,
    })
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
        if let Some(help) = self.advice() {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// What every fallible step of a command returns.
pub type Outcome<T> = Result<T, Failure>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    #[test]
    fn a_hint_stands_in_for_a_help_line() {
        let denied = Failure::io("open", std::path::Path::new("/x"), &Error::from(ErrorKind::PermissionDenied));
        assert!(denied.to_string().contains("\n  help: run it as a user who may"), "{denied}");
        let told = denied.help("chmod 600 /x");
        assert!(told.to_string().ends_with("\n  help: chmod 600 /x"), "{told}");
        for code in ["not-found", "connection-lost", "sink-ended", "exclude-file"] {
            assert!(Failure::new(code, Exit::Failed, "x").advice().is_some(), "{code}");
        }
        assert_eq!(Failure::new("x", Exit::Failed, "y").to_string(), "error[x]: y");
    }
}

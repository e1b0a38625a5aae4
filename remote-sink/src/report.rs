//! Errors as people and programs read them: one line what failed and why, one line what to do, one exit code.
//!
//! The codes are part of the contract: restic's numbers where a meaning exists.

use crate::authorized_keys::AuthorizedKeysError;
use crate::config::{ConfigError, ValueError};
use crate::confine::ConfineError;
use crate::enrolment::EnrolmentError;
use crate::journal::JournalError;
use crate::ledger::LedgerError;
use crate::listen::{HostKeyError, ListenError};
use crate::retention::vault::RetentionError;
use crate::serve::ServeError;
use crate::verify::VerifyError;
use shared::card::CardError;
use shared::text::printable;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

/// Exit codes.
pub mod exit {
    pub const OK: u8 = 0;
    pub const FAILED: u8 = 1;
    pub const USAGE: u8 = 2;
    /// `status` alone: nothing known about a source.
    pub const UNKNOWN: u8 = 3;
    pub const NO_SUCH: u8 = 10;
    /// A session of this source runs.
    pub const BUSY: u8 = 11;
    pub const DAMAGE: u8 = 13;
    pub const FULL: u8 = 15;
    /// `prune` alone: an alarm stopped it, and nothing was changed.
    pub const STOPPED: u8 = 20;
}

/// Longest message that is shown.
const MESSAGE_CHARS_MAX: usize = 4000;

/// A command that did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Short and stable, to search for.
    pub code: &'static str,
    pub message: String,
    pub help: Option<String>,
    pub exit: u8,
}

impl Failure {
    pub fn new(code: &'static str, message: impl Display) -> Self {
        Self { code, message: message.to_string(), help: None, exit: exit::FAILED }
    }
    /// A line that says what to do.
    pub fn help(mut self, help: impl Display) -> Self {
        self.help = Some(help.to_string());
        self
    }
    pub fn exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }
    /// A failed system call on a path; a full disk has its own exit code.
    pub fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let (code, number) = if full { ("disk-full", exit::FULL) } else { ("io", exit::FAILED) };
        Self::new(code, format!("cannot {what} {}: {error}", path.display())).exit(number)
    }

    /// Writes the error to standard error, as text or as one JSON line, at once: two processes of a session share it.
    pub fn print(&self, to: &mut dyn Write, json: bool) -> io::Result<()> {
        let text = if json {
            let line = serde_json::json!({
                "message_type": "exit_error",
                "code": self.exit,
                "error": self.code,
                "message": clean(&self.message),
                "help": self.help.as_deref().map(clean),
            });
            format!("{line}\n")
        } else {
            let help = self.help.as_ref().map(|help| format!("  help: {}\n", clean(help))).unwrap_or_default();
            format!("error[{}]: {}\n{help}", self.code, clean(&self.message))
        };
        to.write_all(text.as_bytes())
    }
}

/// No text from anywhere may move the cursor; line ends stay, indented.
fn clean(text: &str) -> String {
    let lines: Vec<String> =
        text.lines().map(|line| printable(line.as_bytes(), MESSAGE_CHARS_MAX).replace("\\\\", "\\")).collect();
    lines.join("\n  ")
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new("config", error)
    }
}
impl From<EnrolmentError> for Failure {
    fn from(error: EnrolmentError) -> Self {
        let help = "restore the file from a copy, or enroll the source's card again under another name";
        match error {
            EnrolmentError::Io { path, error } => Self::io("read or write", &path, &error),
            content => Self::new("enrolment", content).help(help),
        }
    }
}
impl From<AuthorizedKeysError> for Failure {
    fn from(error: AuthorizedKeysError) -> Self {
        let help = match &error {
            AuthorizedKeysError::OtherEntry { .. } => {
                "whoever holds the key could do more than push: remove that line first, or make the source a key of its own"
            }
            AuthorizedKeysError::Unsafe { .. } => {
                "correct that, or leave out --install and add the printed line yourself"
            }
            _ => "leave out --install and add the printed line yourself",
        };
        Self::new("authorized-keys", error).help(help)
    }
}
impl From<CardError> for Failure {
    fn from(error: CardError) -> Self {
        Self::new("card", error)
            .help("copy the whole line that `source-agent init` printed; it begins with source-card:1,")
    }
}
impl From<ValueError> for Failure {
    fn from(error: ValueError) -> Self {
        Self::new("value", error).exit(exit::USAGE)
    }
}
impl From<HostKeyError> for Failure {
    fn from(error: HostKeyError) -> Self {
        Self::new("host-key", error).help("a vault has its keys from `remote-sink init`; restore them from a copy")
    }
}
impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Self {
        match error {
            ListenError::HostKey(error) => error.into(),
            error @ ListenError::Bind { .. } => {
                Self::new("listen", error).help("choose another --address; ports below 1024 need root")
            }
            error => Self::new("listen", error),
        }
    }
}
/// Why nothing confines a session, and what helps. In one place: `doctor` says it too.
pub fn unconfined_help(error: &ConfineError) -> &'static str {
    if error.is_refused() { REFUSED_HELP } else { UNCONFINED_HELP }
}

const REFUSED_HELP: &str = "is there a seccomp filter around this process, as of a container or a unit? Under systemd allow: \
     SystemCallFilter=landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp";

const UNCONFINED_HELP: &str = "sessions need Linux 5.19 or newer with Landlock and seccomp; or the operator writes under [serve] in vault.toml: \
     unconfined = \"I accept that nothing but file permissions confines the sink\"";

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Confine(error) => {
                let help = unconfined_help(&error);
                Self::new("unconfined", error).help(help)
            }
            error => Self::new("serve", error),
        }
    }
}
impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Busy(_) => Self::new("busy", error).exit(exit::BUSY),
            error => Self::new("ledger", error).help("a ledger is a cache: remote-sink rebuild makes it again"),
        }
    }
}
impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        let help =
            "the journal is what retention remembers: restore operator/ from a copy; nothing is removed without it";
        match error {
            JournalError::Io { what, path, error } => Self::io(what, &path, &error),
            error => Self::new("journal", error).help(help).exit(exit::DAMAGE),
        }
    }
}
impl From<RetentionError> for Failure {
    fn from(error: RetentionError) -> Self {
        match error {
            RetentionError::Journal(error) => error.into(),
            RetentionError::Io { what, path, error } if error.kind() == std::io::ErrorKind::PermissionDenied => {
                Self::io(what, &path, &error)
                    .help("is its directory append-only (chattr +a), or another account's? docs/retention.md")
            }
            RetentionError::Io { what, path, error } => Self::io(what, &path, &error),
            RetentionError::Busy(_) => Self::new("busy", error).help("try again when it has ended").exit(exit::BUSY),
            RetentionError::Damaged { .. } => Self::new("damaged", error).exit(exit::DAMAGE),
            RetentionError::NoSuch(_)
            | RetentionError::Ambiguous(_)
            | RetentionError::NotInTrash(_)
            | RetentionError::Nowhere(_) => Self::new("no-snapshot", error)
                .help("list them, expired ones too: remote-sink snapshots SOURCE")
                .exit(exit::NO_SUCH),
            RetentionError::InTrash(_) => {
                Self::new("in-trash", error).help("run: remote-sink undelete SOURCE SNAPSHOT").exit(exit::NO_SUCH)
            }
            error if error.is_damage() => Self::new("damaged", error)
                .help("run: remote-sink verify, and where a pack is damaged: remote-sink rebuild")
                .exit(exit::DAMAGE),
            error => Self::new("retention", error),
        }
    }
}
impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        Self::new("verify", error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(failure: &Failure, json: bool) -> String {
        let mut out = Vec::new();
        failure.print(&mut out, json).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_has_a_code_and_a_help_line() {
        let failure = Failure::new("no-source", "no source web9").help("remote-sink sources").exit(exit::NO_SUCH);
        assert_eq!(shown(&failure, false), "error[no-source]: no source web9\n  help: remote-sink sources\n");
        let json: serde_json::Value = serde_json::from_str(&shown(&failure, true)).unwrap();
        assert_eq!((&json["message_type"], &json["code"]), (&"exit_error".into(), &10.into()));
        assert_eq!(json["error"], "no-source");
    }

    #[test]
    fn no_message_reaches_the_terminal_with_escapes() {
        let failure = Failure::new("x", "a\u{1b}[2Jb\nline two");
        assert_eq!(shown(&failure, false), "error[x]: a\\u{1b}[2Jb\n  line two\n");
    }

    #[test]
    fn a_full_disk_has_its_own_code() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(Failure::io("write", Path::new("/x"), &full).exit, exit::FULL);
        assert_eq!(Failure::io("write", Path::new("/x"), &io::Error::other("y")).exit, exit::FAILED);
    }
}

//! One session: the conductor (docs/protocol.md).

pub mod limits;

pub use limits::Limits;
use shared::id::SourceName;
use shared::wire::Role;
use std::path::PathBuf;
use std::process::ExitCode;

/// Name of the hidden subcommand under which the program starts itself again as the receiver.
pub const RECEIVER_COMMAND: &str = "serve-receiver";

/// What the authorized_keys line, or the enrolment, fixes about a session.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    pub root: PathBuf,
    pub source: SourceName,
    pub role: Role,
    /// From `vault.toml`; the enrolment's quota wins over `limits.quota`.
    pub limits: Limits,
    /// Identifier of the SSH session where the door knows it; else empty.
    pub binding: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot start the session's receiver: {0}")]
    Start(std::io::Error),
}

/// Serves one session on standard input and output.
pub fn run(options: ServeOptions) -> Result<ExitCode, ServeError> {
    Err(ServeError::Start(std::io::Error::other(format!("{} is not served yet", options.source))))
}

/// The receiver's process: its standard input is the channel to the committer.
pub fn run_receiver() -> Result<ExitCode, ServeError> {
    Err(ServeError::Start(std::io::Error::other("not yet")))
}

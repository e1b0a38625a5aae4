//! The kernel holds a session to append-only (docs/threat-model.md, section "Code in the serving process").
//!
//! Two layers, both needed: Landlock says which directories may be touched and how; seccomp takes away every system
//! call and flag that the session does not use, also those that Landlock does not know. Both are laid on before a
//! thread runs and before anything is read from the network, and neither can be taken off.

pub mod kernel;
mod landlock;
mod seccomp;

pub use self::landlock::Reach;
use rustix::process::{Resource, Rlimit, setrlimit};
pub use seccomp::{Committer, Staging};

/// What `vault.toml` must say word by word where nothing can confine a session.
pub const WAIVER: &str = "I accept that nothing but file permissions confines the sink";
/// The oldest Landlock that can be used: before it no file could be linked from one directory into another.
pub const ABI_MIN: u32 = 2;

#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    #[error("this kernel cannot confine the session: {0}")]
    Unsupported(String),
    #[error("Landlock refused the session's rules: {0}")]
    Landlock(#[from] ::landlock::RulesetError),
    #[error("seccomp refused the session's filter: {0}")]
    Seccomp(#[from] seccompiler::Error),
    #[error("cannot confine the session: {0}")]
    Root(#[from] ::landlock::PathFdError),
    #[error("the kernel's Landlock was refused to this process: {0}")]
    Refused(std::io::Error),
}

impl ConfineError {
    /// Was a system call forbidden (EPERM), by a filter around this process? A kernel that cannot do it answers ENOSYS or
    /// EOPNOTSUPP.
    pub fn is_refused(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = match self {
            Self::Refused(error) => Some(error),
            other => std::error::Error::source(other),
        };
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<std::io::Error>() {
                return error.raw_os_error() == Some(libc::EPERM);
            }
            cause = error.source();
        }
        false
    }
}

impl From<seccompiler::BackendError> for ConfineError {
    fn from(error: seccompiler::BackendError) -> Self {
        Self::Seccomp(error.into())
    }
}

/// Around the whole session, before its receiver is started: no signal and no abstract socket reaches a process
/// outside, no program gains privileges, no key lands in a core file. The receiver inherits it, so that its committer
/// may still end it. Refuses kernels that could not go further.
pub fn session() -> Result<(), ConfineError> {
    // A refusal costs only what a core file could show to the account itself.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    kernel::require(landlock::scopes()?)
}

/// The receiver: no file, no socket, no process.
pub fn receiver() -> Result<(), ConfineError> {
    kernel::require(landlock::restrict(&Reach::default(), Staging::Unnamed)?)?;
    seccomp::receiver()
}

/// The committer: reads what this connection may see, adds new objects, and nothing else.
pub fn committer(reach: &Reach, session: &Committer) -> Result<(), ConfineError> {
    kernel::require(landlock::restrict(reach, session.staging)?)?;
    seccomp::committer(session)
}

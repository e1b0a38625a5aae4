//! One session: the conductor (docs/protocol.md).
//!
//! `remote-sink serve` is the committer. It opens the vault, starts the receiver as a process of its own, hands the
//! network to it, and then speaks with it alone. Neither process creates a directory, removes an object, or opens a
//! file for writing but an unnamed one in `staging/`.

pub mod channel;
pub mod check;
pub mod committer;
pub mod limits;
pub mod lock;
pub mod receiver;
#[cfg(test)]
mod tests;

use crate::ledger::Ledger;
use crate::store::layout::Layout;
use committer::{Start, access};
pub use limits::Limits;
use lock::Locks;
use shared::id::SourceName;
use shared::sys::{Clock, SystemClock};
use shared::wire::{RefusalCode, Refused, Role};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Name of the hidden subcommand under which the program starts itself again as the receiver.
pub const RECEIVER_COMMAND: &str = "serve-receiver";
/// How long a receiver may take to end after its committer is done.
const RECEIVER_END: Duration = Duration::from_secs(15);

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
    Start(io::Error),
    #[error("the session's channel: {0}")]
    Channel(#[from] channel::ChannelError),
}

/// Opens the vault for one session. What fails here is told to the client.
pub fn open(options: &ServeOptions, clock: Arc<dyn Clock>) -> Result<Start<crate::store::Directory>, Refused> {
    let vault = access::open(&options.root, &options.source, options.role)?;
    let locks = match options.role {
        Role::Push => Some(
            Locks::open(&vault.root, &options.source, &vault.staging)
                .map_err(|e| Refused::new(RefusalCode::Internal, format!("the vault cannot be opened: {e}")))?,
        ),
        _ => None,
    };
    let path = Layout::new(&options.root).ledger(&options.source);
    Ok(Start {
        access: vault.access,
        key: vault.key,
        clock,
        limits: options.limits.clone(),
        binding: options.binding.clone(),
        locks,
        // A ledger that cannot be read is as good as none: the objects are counted instead.
        ledger: Box::new(move || Ledger::open_read(&path).ok().flatten()),
    })
}

/// Serves one session on standard input and output.
pub fn run(options: ServeOptions) -> Result<ExitCode, ServeError> {
    let (channel, other) = channel::pair().map_err(ServeError::Start)?;
    let start = open(&options, Arc::new(SystemClock));
    let mut receiver = spawn(other).map_err(ServeError::Start)?;
    hand_over(&channel).map_err(ServeError::Start)?;
    // From here on nothing but the vault's directories is needed. Nothing was read from the client, no thread runs.
    let done = committer::commit(channel, options.role, start, &options.limits);
    let ended = await_end(&mut receiver);
    done?;
    Ok(if ended { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// This program again, with the channel as its standard input.
fn spawn(channel: UnixStream) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(RECEIVER_COMMAND).env_clear().current_dir("/");
    command.stdin(Stdio::from(OwnedFd::from(channel))).stdout(Stdio::null()).spawn()
}

/// Gives the network to the receiver, and forgets it: when the receiver ends, the client sees the end.
fn hand_over(channel: &UnixStream) -> io::Result<()> {
    let (input, output) = (io::stdin(), io::stdout());
    channel::send_network(channel, input.as_fd(), output.as_fd())?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}

/// Waits for the receiver, not for ever.
fn await_end(receiver: &mut Child) -> bool {
    let deadline = Instant::now() + RECEIVER_END;
    while Instant::now() < deadline {
        match receiver.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
            Err(_) => return false,
        }
    }
    // Its client reads nothing: there is nobody left to tell.
    let _ = receiver.kill();
    let _ = receiver.wait();
    false
}

/// The receiver's process: its standard input is the channel to the committer.
pub fn run_receiver() -> Result<ExitCode, ServeError> {
    let channel = channel::own(io::stdin()).map_err(ServeError::Start)?;
    // The channel must end with one descriptor.
    let null = std::fs::File::open("/dev/null").map_err(ServeError::Start)?;
    rustix::stdio::dup2_stdin(&null).map_err(|e| ServeError::Start(e.into()))?;
    receiver::receive(UnixStream::from(channel))?;
    Ok(ExitCode::SUCCESS)
}

//! One session: the conductor (docs/protocol.md).
//!
//! `remote-sink serve` is the committer. It opens the vault, starts the receiver as a process of its own, hands the
//! network to it, and then speaks with it alone. Neither process creates a directory, removes an object, or opens a
//! file for writing but an unnamed one in `staging/`; and neither could: `confine` sees to that.

pub mod channel;
pub mod check;
pub mod committer;
pub mod limits;
pub mod lock;
pub mod receiver;
#[cfg(test)]
mod tests;

use crate::confine::{self, ConfineError, Reach, Staging};
use crate::ledger::Known;
use crate::store::directory::{self, Root};
use crate::store::layout::{Layout, owner_room, packs_dir, shelf_dir, source_room};
use crate::store::{Shelf, StoreError};
use committer::access::Vault;
use committer::{Start, access};
pub use limits::Limits;
use lock::{Locks, SLOTS, Slot};
use rustix::process::Pid;
use shared::id::SourceName;
use shared::sys::{Clock, SystemClock};
use shared::wire::{RefusalCode, Refused, Role};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Name of the hidden subcommand under which the program starts itself again as the receiver.
pub const RECEIVER_COMMAND: &str = "serve-receiver";
/// Its flag where the operator did without confinement.
pub const UNCONFINED: &str = "--unconfined";
/// Room of the pipe between SSH server and receiver that carries the data: what does not fit into it gathers in sshd, which
/// moves all of it each time. An account may have 64 MiB in pipes before it gets smaller ones: 128 sessions.
const PIPE_BYTES: usize = 512 << 10;
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
    #[error(transparent)]
    Confine(#[from] ConfineError),
}

/// Does the kernel hold the session?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confinement {
    Required,
    /// The operator did without it, in words.
    Waived,
}

/// Opens the vault for one session. What fails here is told to the client.
pub fn open(options: &ServeOptions, clock: Arc<dyn Clock>) -> Started {
    prepare(options, clock).map(|(start, _)| start)
}

type Prepared = (Start<crate::store::Directory>, Reach);

fn prepare(options: &ServeOptions, clock: Arc<dyn Clock>) -> Result<Prepared, Refused> {
    let vault = access::open(&options.root, &options.source, options.role)?;
    let unopened = |e| Refused::new(RefusalCode::Internal, format!("the vault cannot be opened: {e}"));
    // Before anything is read that grows with the source.
    let slot = Slot::take(&vault.root, &options.source).map_err(unopened)?.ok_or_else(|| {
        let text = format!("{SLOTS} sessions of {} run already: no more are taken at a time", options.source);
        Refused::new(RefusalCode::Busy, text)
    })?;
    let reach = reach(&vault).map_err(unopened)?;
    let (mut locks, mut ledger) = (None, None);
    if options.role == Role::Push {
        locks = Some(Locks::open(&vault.root, &options.source, &vault.staging).map_err(unopened)?);
        // A ledger that cannot be read is as good as none: the objects are counted instead.
        ledger = Known::read(&Layout::new(&options.root).ledger(&options.source)).ok().flatten();
    }
    let start = Start {
        access: vault.access,
        key: vault.key,
        clock,
        limits: options.limits.clone(),
        binding: options.binding.clone(),
        slot: Some(slot),
        locks,
        ledger: ledger.map(Arc::new),
    };
    Ok((start, reach))
}

/// The directories that this session will touch.
fn reach(vault: &Vault) -> Result<Reach, StoreError> {
    let access = &vault.access;
    let mut reach = Reach { staging: Some(Arc::clone(&vault.staging)), ..Reach::default() };
    for source in &access.sources {
        let to = if access.role == Role::Push { &mut reach.takes } else { &mut reach.reads };
        to.extend(shelves(&vault.root, &source_room(&source.name), &Shelf::OF_SOURCE)?);
        reach.reads.extend(dirs(&vault.root, [packs_dir(&source_room(&source.name))])?);
    }
    for owner in access.owners.keys() {
        reach.takes.extend(shelves(&vault.root, &owner_room(owner), &Shelf::OF_OWNER)?);
    }
    Ok(reach)
}

fn shelves(root: &Root, room: &str, shelves: &[Shelf]) -> Result<Vec<OwnedFd>, StoreError> {
    dirs(root, shelves.iter().map(|shelf| shelf_dir(room, *shelf)))
}

/// What is not there cannot be reached.
fn dirs(root: &Root, paths: impl IntoIterator<Item = String>) -> Result<Vec<OwnedFd>, StoreError> {
    let dirs = paths.into_iter().map(|path| root.open_dir(&path));
    dirs.filter(|dir| !matches!(dir, Err(e) if e.error.kind() == io::ErrorKind::NotFound)).collect()
}

/// Serves one session on standard input and output.
pub fn run(options: ServeOptions, confinement: Confinement) -> Result<ExitCode, ServeError> {
    if confinement == Confinement::Required {
        confine::session()?;
    }
    let (channel, other) = channel::pair().map_err(ServeError::Start)?;
    let mut receiver = spawn(other, confinement).map_err(ServeError::Start)?;
    hand_over(&channel, options.role).map_err(ServeError::Start)?;
    let id = i32::try_from(receiver.id()).ok().and_then(Pid::from_raw);
    let id = id.ok_or_else(|| ServeError::Start(io::Error::other("the receiver has no process id")))?;
    // From here on nothing but the vault's directories is needed. Nothing was read from the client, no thread runs.
    let start = enter(&options, Arc::new(SystemClock), confinement, id)?;
    let done = committer::commit(channel, options.role, start, &options.limits);
    let ended = await_end(&mut receiver);
    done?;
    Ok(if ended { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a session is started with, or what its client is told instead.
pub type Started = Result<Start<crate::store::Directory>, Refused>;

/// Opens the vault for one session, and shuts the process in with it.
pub fn enter(
    options: &ServeOptions,
    clock: Arc<dyn Clock>,
    confinement: Confinement,
    receiver: Pid,
) -> Result<Started, ConfineError> {
    let (start, reach) = match prepare(options, clock) {
        Ok((start, reach)) => (Ok(start), reach),
        Err(refused) => (Err(refused), Reach::default()),
    };
    if confinement == Confinement::Required {
        let unnamed = reach.staging.as_ref().is_none_or(|staging| directory::has_unnamed_files(staging));
        let staging = if unnamed { Staging::Unnamed } else { Staging::Named };
        confine::committer(&reach, &confine::Committer { staging, receiver, role: options.role })?;
    }
    Ok(start)
}

/// This program again, with the channel as its standard input.
fn spawn(channel: UnixStream, confinement: Confinement) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(RECEIVER_COMMAND).env_clear().current_dir("/");
    if confinement == Confinement::Waived {
        command.arg(UNCONFINED);
    }
    command.stdin(Stdio::from(OwnedFd::from(channel))).stdout(Stdio::null()).spawn()
}

/// Makes room in a pipe; what is none, or may not grow, stays as it is.
fn enlarge(pipe: BorrowedFd<'_>) {
    // Only slower without.
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_BYTES);
}

/// Gives the network to the receiver, and forgets it: when the receiver ends, the client sees the end.
fn hand_over(channel: &UnixStream, role: Role) -> io::Result<()> {
    let (input, output) = (io::stdin(), io::stdout());
    let busy = if role == Role::Push { input.as_fd() } else { output.as_fd() };
    enlarge(busy);
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
    if receiver.kill().is_ok() {
        let _ = receiver.wait();
    }
    false
}

/// The receiver's process: its standard input is the channel to the committer.
pub fn run_receiver(confinement: Confinement) -> Result<ExitCode, ServeError> {
    let channel = channel::own(io::stdin()).map_err(ServeError::Start)?;
    // The channel must end with one descriptor.
    let null = std::fs::File::open("/dev/null").map_err(ServeError::Start)?;
    rustix::stdio::dup2_stdin(&null).map_err(|e| ServeError::Start(e.into()))?;
    receiver::receive_confined(UnixStream::from(channel), || match confinement {
        Confinement::Required => confine::receiver(),
        Confinement::Waived => Ok(()),
    })?;
    Ok(ExitCode::SUCCESS)
}

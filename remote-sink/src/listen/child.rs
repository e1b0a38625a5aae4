//! The process behind a channel: `remote-sink serve` with three pipes, and the pumps between them and the channel.

use crate::listen::Inside;
use crate::listen::window::Budget;
use russh::ChannelId;
use russh::server::Handle;
use rustix::process::{Pid, Signal, kill_process_group};
use shared::wire::Role;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Bytes of one read from the process.
const READ_BYTES: usize = 128 << 10;
/// Bytes of standard error that reach the client; the rest is read and dropped.
const STDERR_BYTES_MAX: usize = 64 << 10;
/// Room that an empty buffer keeps.
const KEPT_BYTES: usize = 128 << 10;
/// How long a process may take to end by itself once its client is gone. One that pushes has objects to make durable
/// on a disk that may be slow, and a record of them to write.
pub const fn grace(role: Role) -> Duration {
    match (role, cfg!(test)) {
        (Role::Push, false) => Duration::from_secs(60),
        (Role::Push, true) | (_, false) => Duration::from_secs(5),
        (_, true) => Duration::from_millis(200),
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Start {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// How long it may take to end by itself once its client is gone.
    pub grace: Duration,
    pub windows: Arc<Budget>,
}

/// Bytes on their way from the channel to the process.
#[derive(Debug)]
struct Queue {
    /// What came since the pump last took all, and whether nothing more comes.
    came: Mutex<(Vec<u8>, bool)>,
    /// All that has not reached the process, what the pump holds included.
    waiting: AtomicU64,
    /// What waits in all sessions together is counted here.
    budget: Arc<Budget>,
    more: Notify,
    consumed: Notify,
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.budget.went(*self.waiting.get_mut());
    }
}

impl Queue {
    fn new(budget: Arc<Budget>) -> Self {
        let (came, waiting) = (Mutex::default(), AtomicU64::new(0));
        Self { came, waiting, budget, more: Notify::new(), consumed: Notify::new() }
    }
    /// Bytes came; returns how many wait now.
    fn add(&self, bytes: u64) -> u64 {
        self.budget.came(bytes);
        self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes
    }
    fn remove(&self, bytes: u64) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.went(bytes);
        self.consumed.notify_one();
    }
    fn lock(&self) -> MutexGuard<'_, (Vec<u8>, bool)> {
        // Nothing panics while it is held.
        self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom to tell what.
#[derive(Debug)]
pub struct Ends {
    pub client: Handle,
    pub channel: ChannelId,
    /// Told when the process ended by itself.
    pub inside: watch::Sender<Inside>,
    /// Dropped when the process has ended.
    pub _running: mpsc::Sender<()>,
}

/// A running process, as the channel's handler sees it. Dropping it ends the process.
#[derive(Debug)]
pub struct Session {
    queue: Arc<Queue>,
    stop: oneshot::Sender<()>,
}

/// More bytes than the windows allowed: the client does not keep to the protocol.
#[derive(Debug)]
pub struct Flood;

impl Session {
    pub fn start(start: &Start, ends: Ends) -> io::Result<Self> {
        let mut child = Command::new(&start.program)
            .args(&start.arguments)
            .env_clear()
            .env("SSH_CONNECTION", connection(start))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let missing = || io::Error::other("a pipe of the new process is missing");
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = child.stderr.take().ok_or_else(missing)?;

        let grace = start.grace;
        let queue = Arc::new(Queue::new(Arc::clone(&start.windows)));
        let (stop, stopped) = oneshot::channel();
        let feeding = tokio::spawn(feed(stdin, Arc::clone(&queue)));
        tokio::spawn(async move {
            let ended = async {
                tokio::join!(pump(stdout, &ends), pump_errors(stderr, &ends));
                child.wait().await
            };
            let status = tokio::select! {
                status = ended => Some(status),
                _ = stopped => None,
            };
            feeding.abort();
            match status {
                Some(status) => say_goodbye(&ends, status).await,
                None => end(&mut child, grace).await,
            }
        });
        Ok(Self { queue, stop })
    }

    /// Did the process end by itself? Its exit status is on the way to the client, or there already.
    pub fn has_ended(&self) -> bool {
        self.stop.is_closed()
    }

    /// Bytes that have not reached the process.
    pub fn waiting(&self) -> u64 {
        self.queue.waiting.load(Ordering::Relaxed)
    }

    /// Queues bytes for the process, if no more than `waiting_max` wait then.
    pub fn put(&self, bytes: &[u8], waiting_max: u64) -> Result<(), Flood> {
        if self.queue.add(bytes.len() as u64) > waiting_max {
            return Err(Flood);
        }
        self.queue.lock().0.extend_from_slice(bytes);
        self.queue.more.notify_one();
        Ok(())
    }

    /// The client sends nothing more.
    pub fn end_input(&self) {
        self.queue.lock().1 = true;
        self.queue.more.notify_one();
    }

    /// Waits until some bytes have reached the process.
    pub async fn consumed(&self) {
        self.queue.consumed.notified().await;
    }
}

/// As sshd sets it, for the session's own log.
fn connection(start: &Start) -> String {
    let (peer, local) = (start.peer, start.local);
    format!("{} {} {} {}", peer.ip().to_canonical(), peer.port(), local.ip().to_canonical(), local.port())
}

/// Takes all that came, writes it, takes again: few system calls however small the packets were.
async fn feed(mut stdin: ChildStdin, queue: Arc<Queue>) {
    let mut open = true;
    let mut taken = Vec::new();
    loop {
        taken.clear();
        taken.shrink_to(KEPT_BYTES);
        let ended = {
            let mut came = queue.lock();
            std::mem::swap(&mut came.0, &mut taken);
            came.1
        };
        if taken.is_empty() {
            if ended {
                return;
            }
            queue.more.notified().await;
            continue;
        }
        for part in taken.chunks(READ_BYTES) {
            // A process that closed its input: the rest is dropped, so that the window moves until it has ended.
            open = open && stdin.write_all(part).await.is_ok();
            queue.remove(part.len() as u64);
        }
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, ends: &Ends) {
    loop {
        let mut bytes = Vec::with_capacity(READ_BYTES);
        match from.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) if ends.client.data(ends.channel, bytes).await.is_err() => return,
            Ok(_) => {}
        }
    }
}

async fn pump_errors(mut from: impl AsyncRead + Unpin, ends: &Ends) {
    let mut left = STDERR_BYTES_MAX;
    loop {
        let mut bytes = Vec::with_capacity(4096);
        match from.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        bytes.truncate(left);
        left -= bytes.len();
        if !bytes.is_empty() && ends.client.extended_data(ends.channel, 1, bytes).await.is_err() {
            return;
        }
    }
}

async fn say_goodbye(ends: &Ends, status: io::Result<std::process::ExitStatus>) {
    use std::os::unix::process::ExitStatusExt;
    // As a shell tells it: 128 + signal.
    let code = status.ok().and_then(|status| status.code().or_else(|| status.signal().map(|signal| 128 + signal)));
    let code = code.and_then(|code| u32::try_from(code).ok()).unwrap_or(1);
    // From now on the connection's own clock runs, whether or not the client closes the channel.
    ends.inside.send_replace(Inside::Idle);
    // A client that is gone needs no answer.
    let _ = ends.client.exit_status_request(ends.channel, code).await;
    let _ = ends.client.eof(ends.channel).await;
    let _ = ends.client.close(ends.channel).await;
}

/// Its pipes are closed; it may end by itself, then it must.
async fn end(child: &mut Child, grace: Duration) {
    if tokio::time::timeout(grace, child.wait()).await.is_ok() {
        return;
    }
    // Not reaped yet, so the number is still its own.
    if let Some(group) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait().await;
}

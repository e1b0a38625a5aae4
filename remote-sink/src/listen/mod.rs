//! The sink's own SSH server: another door to the same session, without shell, sftp or forwarding.
//!
//! accept → waiting room → key → admitted → one channel → `remote-sink serve` with the role of the enrolment

pub mod access;
mod child;
mod door;
mod host_key;
mod rooms;
mod window;

pub use host_key::{HOST_KEY_KIND, HostKeyError, public_key};

use crate::listen::access::Guest;
use crate::listen::child::{Start, grace};
use crate::listen::door::Door;
use crate::listen::rooms::{Closer, Sessions, WaitingRoom};
use crate::listen::window::Budget;
use crate::store::layout::Layout;
use russh::keys::{Algorithm, PrivateKey};
use russh::{MethodKind, MethodSet, Preferred, SshId, cipher, compression, kex, server};
use shared::text::printable;
use shared::wire::Role;
use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

/// Connections that have not shown a key.
const WAITING_MAX: usize = 64;
/// How long a connection may take to show one.
const LOGIN_GRACE: Duration = Duration::from_secs(30);
/// How long an authenticated connection may stay without a session.
const IDLE_GRACE: Duration = Duration::from_secs(60);
/// Sessions in all, half of them for sources that have no other; and sessions of one source.
const SESSIONS_MAX: usize = 128;
const SESSIONS_OF_ONE_MAX: usize = 8;
/// Failed tries to log in per connection.
const AUTH_ATTEMPTS_MAX: usize = 6;
/// Bytes that all windows together may have beyond the first ones.
const WINDOW_BYTES_MAX: u64 = 64 << 20;
/// A peer that answers no keepalive for this long is gone.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_TRIES: usize = 4;
/// How long sessions may take to end when the server does: as long as each may, and a moment for the answers.
const SHUTDOWN_GRACE: Duration = grace(Role::Push).saturating_add(Duration::from_secs(3));

/// A server that could not start.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    #[error("cannot listen on {address}: {source}")]
    Bind { address: String, source: io::Error },
    #[error("cannot start the server: {0}")]
    Start(io::Error),
}

/// What the server is told.
#[derive(Debug, Clone)]
pub struct ListenOptions {
    pub root: PathBuf,
    /// Port 0 takes a free one.
    pub address: String,
    /// The program that is started for each session: this one.
    pub program: PathBuf,
    pub log: Log,
    /// How long a connection may take to show a key, and then to ask for a session.
    pub graces: Graces,
}

/// When a connection without a session ends.
#[derive(Debug, Clone, Copy)]
pub struct Graces {
    pub login: Duration,
    pub idle: Duration,
}

impl Default for Graces {
    fn default() -> Self {
        Self { login: LOGIN_GRACE, idle: IDLE_GRACE }
    }
}

/// The server's log on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    Quiet,
    Lines,
    Details,
}

impl Log {
    fn line(self, peer: SocketAddr, what: &str) {
        if self != Self::Quiet {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
            eprintln!("{now} {peer} {}", printable(what.as_bytes(), 400));
        }
    }
    fn detail(self, peer: SocketAddr, what: &str) {
        if self == Self::Details {
            self.line(peer, what);
        }
    }
}

/// Where a connection stands, for the clock that ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    Waiting,
    Idle,
    Busy,
}

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    layout: Layout,
    program: PathBuf,
    log: Log,
    graces: Graces,
    waiting: Arc<WaitingRoom>,
    sessions: Arc<Sessions>,
    windows: Arc<Budget>,
    /// One clone per running process: when all are dropped, all have ended.
    running: mpsc::Sender<()>,
}

impl Shared {
    /// The forced command of this guest.
    fn serve(&self, guest: &Guest, peer: SocketAddr, local: SocketAddr) -> Start {
        let root = self.layout.root().as_os_str();
        let (name, role) = (guest.name.as_str(), guest.role.as_str());
        let arguments = vec!["serve".into(), "--root".into(), root.into()];
        let fixed = ["--source", name, "--role", role].map(Into::into);
        let arguments = arguments.into_iter().chain(fixed).collect();
        Start {
            program: self.program.clone(),
            arguments,
            peer,
            local,
            grace: grace(guest.role),
            windows: Arc::clone(&self.windows),
        }
    }
}

fn ssh_config(key: PrivateKey) -> server::Config {
    server::Config {
        server_id: SshId::Standard(Cow::Borrowed("SSH-2.0-remote-sink")),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: Duration::from_millis(500),
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![key],
        window_size: window::FIRST,
        maximum_packet_size: 65535,
        max_auth_attempts: AUTH_ATTEMPTS_MAX,
        // A stalled line ends here; a silent session ends by its own, shorter, timeout.
        inactivity_timeout: Some(Duration::from_secs(600)),
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVE_TRIES,
        preferred: Preferred {
            kex: Cow::Borrowed(&[
                kex::MLKEM768X25519_SHA256,
                kex::CURVE25519,
                kex::CURVE25519_PRE_RFC_8731,
                kex::EXTENSION_SUPPORT_AS_SERVER,
                kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
            ]),
            key: Cow::Borrowed(&[Algorithm::Ed25519]),
            cipher: Cow::Borrowed(&[cipher::AES_256_GCM, cipher::CHACHA20_POLY1305]),
            // What the client sends is compressed and sealed already; and nothing may expand before the key is known.
            compression: Cow::Borrowed(&[compression::NONE]),
            ..Preferred::DEFAULT
        },
        ..server::Config::default()
    }
}

/// Serves until `stop` fires; `ready` is told the address once connections are taken.
pub async fn run(
    options: ListenOptions,
    ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<(), ListenError> {
    let layout = Layout::new(options.root);
    let config = Arc::new(ssh_config(host_key::read(&layout)?));
    let listener = TcpListener::bind(&options.address)
        .await
        .map_err(|source| ListenError::Bind { address: printable(options.address.as_bytes(), 100), source })?;
    let (running, mut all_ended) = mpsc::channel(1);
    let shared = Arc::new(Shared {
        layout,
        program: options.program,
        log: options.log,
        graces: options.graces,
        waiting: WaitingRoom::new(WAITING_MAX),
        sessions: Sessions::new(SESSIONS_MAX, SESSIONS_OF_ONE_MAX),
        windows: Budget::new(WINDOW_BYTES_MAX),
        running,
    });
    let (closing, closed) = watch::channel(false);
    ready(listener.local_addr().map_err(ListenError::Start)?);
    tokio::select! {
        never = accept(&listener, &config, &shared, &closed) => never,
        () = stop => {}
    }
    drop(listener);
    closing.send_replace(true);
    drop(shared);
    // Every connection holds a sender by its shared state: `None` comes when the last one has gone.
    let _ = tokio::time::timeout(SHUTDOWN_GRACE, all_ended.recv()).await;
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    config: &Arc<server::Config>,
    shared: &Arc<Shared>,
    closed: &watch::Receiver<bool>,
) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                tokio::spawn(connection(Arc::clone(config), Arc::clone(shared), socket, peer, closed.clone()));
            }
            // Out of descriptors or memory: others must end first.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn connection(
    config: Arc<server::Config>,
    shared: Arc<Shared>,
    socket: TcpStream,
    peer: SocketAddr,
    mut closed: watch::Receiver<bool>,
) {
    let Ok((closer, local)) = prepare(&socket) else { return };
    let (inside, state) = watch::channel(Inside::Waiting);
    let place = shared.waiting.enter(peer.ip(), closer.clone());
    let (log, graces) = (shared.log, shared.graces);
    let door = Door::new(shared, (peer, local), place, inside);
    let session = async {
        let running = server::run_stream(config, socket, door).await?;
        let handle = running.handle();
        tokio::pin!(running);
        tokio::select! {
            ended = &mut running => ended,
            _ = async { closed.wait_for(|closed| *closed).await.is_ok() } => {
                // Said if the client listens; the closer below does not depend on it.
                let bye = handle.disconnect(russh::Disconnect::ByApplication, "the sink stops".into(), String::new());
                let _ = tokio::time::timeout(Duration::from_secs(1), bye).await;
                tokio::time::timeout(Duration::from_secs(2), &mut running).await.unwrap_or(Ok(()))
            }
        }
    };
    tokio::select! {
        ended = session => if let Err(e) = ended {
            log.detail(peer, &format!("ended: {e}"));
        },
        () = too_long(state, graces) => log.detail(peer, "ended: no session was asked for in time"),
    }
    // Also ends the server's own task of this connection, wherever it waits.
    closer.close();
}

fn prepare(socket: &TcpStream) -> io::Result<(Closer, SocketAddr)> {
    use std::os::fd::AsFd;
    socket.set_nodelay(true)?;
    Ok((Closer::new(socket.as_fd().try_clone_to_owned()?), socket.local_addr()?))
}

/// Ends when a connection has been without a session for too long.
async fn too_long(mut state: watch::Receiver<Inside>, graces: Graces) {
    loop {
        let grace = match *state.borrow_and_update() {
            Inside::Waiting => graces.login,
            Inside::Idle => graces.idle,
            Inside::Busy => Duration::MAX,
        };
        match tokio::time::timeout(grace, state.changed()).await {
            Err(_) => return,
            Ok(Ok(())) => {}
            // The door is gone: the session's own end is what counts.
            Ok(Err(_)) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests;

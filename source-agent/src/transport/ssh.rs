//! SSH of our own (russh): pinned host keys, errors that we can name. A thread of its own runs the connection; two bounded
//! queues join it to blocking callers, so that no more lies in between than they and the window hold.

use crate::report::{Exit, Failure, Outcome};
use crate::transport::ending::{Connection, Ending, Guard, Tail};
use crate::transport::queue::queues;
use crate::transport::ssh_session::{self, Offered};
use crate::transport::{Names, Pin, Pipe, fingerprint};
use parking_lot::{Condvar, Mutex};
use russh::keys::PrivateKey;
use std::sync::Arc;
use std::time::Duration;

/// How long the end of a connection is waited for, to say how it came.
const ENDING_WAIT: Duration = Duration::from_secs(3);

/// Where to, and which host keys may be there.
#[derive(Debug, Clone)]
pub struct Target {
    pub user: String,
    pub host: String,
    pub port: u16,
    pub pins: Vec<Pin>,
    pub names: Names,
    /// TCP's congestion control, where the system's is not wanted.
    pub congestion: Option<String>,
}

/// What the connection's thread tells its users.
#[derive(Default)]
pub(super) struct Shared {
    pub state: Mutex<State>,
    pub changed: Condvar,
    /// Ends the thread.
    pub stop: tokio::sync::Notify,
}

#[derive(Default)]
pub(super) struct State {
    pub stderr: Tail,
    pub status: Option<u32>,
    pub reason: Option<String>,
    pub ended: bool,
}

struct Held(Arc<Shared>);

impl Connection for Held {
    fn ending(&self) -> Ending {
        let mut state = self.0.state.lock();
        if !state.ended {
            self.0.changed.wait_while_for(&mut state, |state| !state.ended, ENDING_WAIT);
        }
        let reason = state.reason.clone().map(|text| ("connection-lost", text, None));
        Ending { status: state.status, stderr: state.stderr.bytes(), reason }
    }
    fn stop(&self) {
        self.0.stop.notify_one();
    }
}

/// Connects, checks the host key, logs in, starts the sink's command.
pub fn open(target: &Target, key: PrivateKey, timeout: Duration) -> Outcome<Pipe> {
    let failed = |e: std::io::Error| Failure::new("ssh", Exit::Failed, format!("cannot start a connection: {e}"));
    if target.pins.is_empty() {
        let message = format!("no host key is pinned for {}", target.host);
        return Err(Failure::new("ssh-hostkey", Exit::Unreachable, message).help(target.names.repin()));
    }
    let (reader, writer, incoming, outgoing) = queues(timeout);
    let shared = Arc::new(Shared::default());
    let (opened, result) = std::sync::mpsc::sync_channel(1);
    let thread = {
        let (target, shared) = (target.clone(), shared.clone());
        move || ssh_session::run(&target, key, (incoming, outgoing), &shared, timeout, &opened)
    };
    std::thread::Builder::new().name("ssh".into()).spawn(thread).map_err(failed)?;
    let guard = Guard::new(Held(shared));
    match result.recv() {
        Ok(Ok(())) => {}
        Ok(Err(trouble)) => return Err(explain(target, &trouble)),
        Err(_) => return Err(guard.explain("the connection's thread ended")),
    }
    Ok(Pipe { reader: Box::new(reader), writer: Box::new(writer), guard })
}

/// What can go wrong before a byte of the sink arrives.
#[derive(Debug)]
pub(super) enum Trouble {
    Dns(String),
    Refused(String),
    Timeout(&'static str),
    Unreachable(String),
    HostKey(Offered),
    Login(String),
    Ssh(String),
    Start(String),
}

fn explain(target: &Target, trouble: &Trouble) -> Failure {
    let Target { user, host, port, .. } = target;
    let fail = |code, message: String| Failure::new(code, Exit::Unreachable, message);
    match trouble {
        Trouble::Dns(why) => fail("ssh-dns", format!("the name {host} cannot be resolved: {why}"))
            .help(format!("look at the address in the configuration, and try: getent hosts {host}")),
        Trouble::Refused(why) => fail("ssh-refused", format!("{host} port {port} refuses connections: {why}"))
            .help(format!("is an SSH server running there, and is {port} its port? try: ssh -p {port} {user}@{host}")),
        Trouble::Timeout(step) => fail("ssh-timeout", format!("{host} port {port} does not answer in time ({step})"))
            .help("is the machine up, and does a firewall in between let you through?"),
        Trouble::Unreachable(why) => fail("ssh-unreachable", format!("{host} port {port} cannot be reached: {why}"))
            .help("is this machine's network up?"),
        Trouble::HostKey(offered) => host_key(target, offered),
        Trouble::Login(why) => {
            fail("ssh-login", format!("{host} did not let user {user} in with this machine's SSH key{why}"))
                .help("give the source card to the operator: remote-sink enroll 'source-card:1,...' --install")
        }
        Trouble::Ssh(why) => fail("ssh", format!("no SSH connection to {host} port {port}: {why}"))
            .help(format!("try: ssh -v -p {port} {user}@{host}")),
        Trouble::Start(why) => fail("ssh-start", format!("{host} let us in and starts no command: {why}"))
            .help("the operator finds the reason in the log of its SSH server"),
    }
}

fn host_key(target: &Target, offered: &Offered) -> Failure {
    let message = format!("the host key of {} is not the pinned one", target.host);
    let offered = match offered {
        Offered::Key(blob) => fingerprint(blob),
        Offered::Other(what) => what.clone(),
    };
    let pinned: Vec<String> = target
        .pins
        .iter()
        .map(|pin| match &pin.since {
            Some(since) => format!("pinned {since}  {}", fingerprint(pin.key.blob())),
            None => format!("pinned  {}", fingerprint(pin.key.blob())),
        })
        .collect();
    Failure::new("ssh-hostkey", Exit::Unreachable, message)
        .detail(format!("{}   offered  {offered}", pinned.join("   ")))
        .help(target.names.repin())
}

//! The thread that runs one SSH connection.

use crate::transport::COMMAND;
use crate::transport::queue::{Incoming, Outgoing};
use crate::transport::ssh::{Shared, Target, Trouble};
use russh::client::{self, ChannelOpenHandle, DisconnectReason, Handle, Msg};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Disconnect, Preferred, cipher, compression};
use shared::text::printable;
use std::borrow::Cow;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::timeout as within;

/// What may be on its way to us is what a line of this speed carries in one round trip, within these bounds. No more than
/// that: what the line does not carry yet lies in sshd, which copies all of it each time that some is added.
const WINDOW_BYTES_PER_SECOND: f64 = 800e6;
const WINDOW_BYTES_LEAST: u32 = 4 << 20;
const WINDOW_BYTES_MOST: u32 = 32 << 20;
/// The longest wait for one address to accept.
const CONNECT_WAIT: Duration = Duration::from_secs(30);
/// A dead peer is seen after four unanswered keepalives.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// What a server showed in place of a pinned key.
#[derive(Debug, Clone)]
pub(super) enum Offered {
    Key(Vec<u8>),
    /// No key of a pinned type.
    Other(String),
}

/// Runs the connection to its end. Tells through `opened` whether the command was started.
pub(super) fn run(
    target: &Target,
    key: PrivateKey,
    caller: (Incoming, Outgoing),
    shared: &Arc<Shared>,
    timeout: Duration,
    opened: &SyncSender<Result<(), Trouble>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return drop(opened.send(Err(Trouble::Ssh(e.to_string())))),
    };
    runtime.block_on(async {
        let stopped = shared.stop.notified();
        tokio::pin!(stopped);
        let connected = tokio::select! {
            connected = connect(target, key, shared, timeout) => connected,
            () = &mut stopped => return,
        };
        match connected {
            Ok(connected) => {
                // The opener waits for this.
                let _ = opened.send(Ok(()));
                pump(connected, caller, shared, stopped).await;
            }
            Err(trouble) => drop(opened.send(Err(trouble))),
        }
    });
    // A name look-up that hangs must not hold the thread.
    runtime.shutdown_background();
    shared.state.lock().ended = true;
    shared.changed.notify_all();
}

struct Connected {
    handle: Handle<Handler>,
    reading: ChannelReadHalf,
    writing: ChannelWriteHalf<Msg>,
}

async fn connect(
    target: &Target,
    key: PrivateKey,
    shared: &Arc<Shared>,
    timeout: Duration,
) -> Result<Connected, Trouble> {
    let (socket, round_trip) = dial(target, timeout.min(CONNECT_WAIT)).await?;
    let offered = Arc::new(parking_lot::Mutex::new(None));
    let handler = Handler {
        pins: target.pins.iter().map(|pin| pin.key.blob().to_vec()).collect(),
        offered,
        shared: shared.clone(),
    };
    let offered = handler.offered.clone();
    let connecting = within(timeout, client::connect_stream(Arc::new(config(round_trip)), socket, handler)).await;
    let mut handle = match connecting {
        Err(_) => return Err(Trouble::Timeout("key exchange")),
        Ok(Ok(handle)) => handle,
        Ok(Err(e)) => return Err(exchange_failed(&e, offered.lock().take())),
    };
    let login = handle.authenticate_publickey(&target.user, PrivateKeyWithHashAlg::new(Arc::new(key), None));
    match within(timeout, login).await {
        Err(_) => return Err(Trouble::Timeout("login")),
        Ok(Ok(result)) if result.success() => {}
        Ok(Ok(_)) => return Err(Trouble::Login(String::new())),
        Ok(Err(e)) => return Err(Trouble::Login(format!(": {}", words(&e)))),
    }
    let start = async {
        let channel = handle.channel_open_session().await?;
        channel.exec(true, COMMAND).await?;
        Ok::<_, russh::Error>(channel)
    };
    match within(timeout, start).await {
        Err(_) => Err(Trouble::Timeout("starting the sink")),
        Ok(Err(e)) => Err(Trouble::Start(words(&e))),
        Ok(Ok(channel)) => {
            let (reading, writing) = channel.split();
            Ok(Connected { handle, reading, writing })
        }
    }
}

/// The window for a line of this round trip.
fn window_bytes(round_trip: Duration) -> u32 {
    // As large as it may be where the product is too large for the type.
    let bytes = (round_trip.as_secs_f64() * WINDOW_BYTES_PER_SECOND) as u32;
    bytes.clamp(WINDOW_BYTES_LEAST, WINDOW_BYTES_MOST)
}

fn config(round_trip: Duration) -> client::Config {
    client::Config {
        preferred: Preferred {
            // Fast on every machine with AES instructions; the default order has ChaCha20 first.
            cipher: Cow::Borrowed(&[cipher::AES_256_GCM, cipher::CHACHA20_POLY1305, cipher::AES_256_CTR]),
            // Pinned keys are of this type.
            key: Cow::Borrowed(&[russh::keys::Algorithm::Ed25519]),
            // What is sent is sealed and compressed already; what comes is not to be inflated.
            compression: Cow::Borrowed(&[compression::NONE]),
            ..Preferred::DEFAULT
        },
        window_size: window_bytes(round_trip),
        maximum_packet_size: 65_535,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 4,
        nodelay: true,
        ..client::Config::default()
    }
}

/// Tries each address of the host in turn. Returns how long the one that accepted took: a round trip.
async fn dial(target: &Target, timeout: Duration) -> Result<(TcpStream, Duration), Trouble> {
    let looked_up = within(timeout, tokio::net::lookup_host((target.host.as_str(), target.port))).await;
    let addresses: Vec<_> = match looked_up {
        Err(_) => return Err(Trouble::Dns("the name servers do not answer in time".into())),
        Ok(Err(e)) => return Err(Trouble::Dns(e.to_string())),
        Ok(Ok(addresses)) => addresses.collect(),
    };
    let mut last = Trouble::Dns("it has no address".into());
    for address in addresses {
        let begun = Instant::now();
        match within(timeout, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                let round_trip = begun.elapsed();
                // Small requests must not wait for more; a socket that cannot do it still works.
                let _ = socket.set_nodelay(true);
                if let Some(name) = &target.congestion {
                    // What the kernel does not have is told by `congestion_fault`; the line works without.
                    let _ = rustix::net::sockopt::set_tcp_congestion(&socket, name);
                }
                return Ok((socket, round_trip));
            }
            Err(_) => last = Trouble::Timeout("connecting"),
            Ok(Err(e)) => {
                last = match e.kind() {
                    ErrorKind::ConnectionRefused => Trouble::Refused(e.to_string()),
                    ErrorKind::TimedOut => Trouble::Timeout("connecting"),
                    _ => Trouble::Unreachable(e.to_string()),
                }
            }
        }
    }
    Err(last)
}

fn exchange_failed(error: &russh::Error, offered: Option<Offered>) -> Trouble {
    match (error, offered) {
        (_, Some(offered)) => Trouble::HostKey(offered),
        (russh::Error::NoCommonAlgo { kind: russh::AlgorithmKind::Key, theirs, .. }, None) => {
            let types = printable(theirs.join(", ").as_bytes(), 200);
            Trouble::HostKey(Offered::Other(format!("no key of type ssh-ed25519, only {types}")))
        }
        (error, None) => Trouble::Ssh(words(error)),
    }
}

/// An error in words that are safe to show: parts of it may come from the server.
fn words(error: &russh::Error) -> String {
    printable(error.to_string().as_bytes(), 300)
}

/// Copies both ways until either side ends.
async fn pump(
    connected: Connected,
    (incoming, outgoing): (Incoming, Outgoing),
    shared: &Shared,
    stopped: impl Future<Output = ()>,
) {
    let Connected { mut handle, reading, writing } = connected;
    let sent = send(outgoing, &writing);
    let received = receive(reading, incoming, shared);
    tokio::pin!(sent, received, stopped);
    let mut sending = true;
    loop {
        tokio::select! {
            () = &mut sent, if sending => sending = false,
            () = &mut received => break,
            () = &mut stopped => break,
        }
    }
    // Both take no longer than a moment, or the connection is dead anyway.
    let _ = within(Duration::from_secs(1), handle.disconnect(Disconnect::ByApplication, "", "")).await;
    let _ = within(Duration::from_secs(1), &mut handle).await;
}

async fn send(from: Outgoing, writing: &ChannelWriteHalf<Msg>) {
    while let Some(bytes) = from.take().await {
        // A channel that is closed shows where it is read.
        if writing.data_bytes(bytes).await.is_err() {
            return;
        }
    }
    // The end of our requests. A channel that is closed needs no end.
    let _ = writing.eof().await;
}

async fn receive(mut reading: ChannelReadHalf, to: Incoming, shared: &Shared) {
    let mut open = true;
    while let Some(message) = reading.wait().await {
        match message {
            ChannelMsg::Data { data } if open => open = to.put(data).await,
            ChannelMsg::ExtendedData { data, .. } => shared.state.lock().stderr.push(&data),
            ChannelMsg::ExitStatus { exit_status } => shared.state.lock().status = Some(exit_status),
            ChannelMsg::ExitSignal { signal_name, .. } => {
                let name = printable(format!("{signal_name:?}").as_bytes(), 40);
                shared.state.lock().reason = Some(format!("the sink's program was ended by signal {name}"));
            }
            ChannelMsg::Failure => {
                shared.state.lock().reason = Some("the server refused to start the sink's program".into());
                return;
            }
            // No more output; the exit status follows.
            ChannelMsg::Eof => to.end(),
            ChannelMsg::Close => return,
            _ => {}
        }
    }
}

struct Handler {
    pins: Vec<Vec<u8>>,
    offered: Arc<parking_lot::Mutex<Option<Offered>>>,
    shared: Arc<Shared>,
}

impl client::Handler for Handler {
    type Error = russh::Error;

    async fn check_server_key(&mut self, offered: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let offered = match offered {
            PublicKeyOrCertificate::PublicKey { key, .. } => match key.to_bytes() {
                Ok(blob) if self.pins.contains(&blob) => return Ok(true),
                Ok(blob) => Offered::Key(blob),
                Err(e) => Offered::Other(printable(e.to_string().as_bytes(), 100)),
            },
            PublicKeyOrCertificate::Certificate(_) => Offered::Other("a certificate".into()),
        };
        *self.offered.lock() = Some(offered);
        Ok(false)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<russh::Error>) -> Result<(), russh::Error> {
        let mut state = self.shared.state.lock();
        match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                let text = printable(info.message.as_bytes(), 200);
                state.reason.get_or_insert(format!("the server ended the connection: {text}"));
                Ok(())
            }
            DisconnectReason::Error(e) => {
                // An end behind an exit status is the ordinary one.
                if state.status.is_none() {
                    state.reason.get_or_insert(format!("the connection broke: {}", words(&e)));
                }
                Err(e)
            }
        }
    }

    // A server has no business opening channels: the library would accept these.

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: russh::Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        refused: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        refuse(refused).await
    }
    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: russh::Channel<Msg>,
        _: &str,
        refused: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        refuse(refused).await
    }
    async fn server_channel_open_agent_forward(
        &mut self,
        _: russh::Channel<Msg>,
        refused: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        refuse(refused).await
    }
    async fn server_channel_open_session(
        &mut self,
        _: russh::Channel<Msg>,
        refused: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        refuse(refused).await
    }
    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: russh::Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        refused: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        refuse(refused).await
    }
    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: russh::Channel<Msg>,
        _: &str,
        refused: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        refuse(refused).await
    }
    async fn server_channel_open_x11(
        &mut self,
        _: russh::Channel<Msg>,
        _: &str,
        _: u32,
        refused: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        refuse(refused).await
    }
}

async fn refuse(open: ChannelOpenHandle) -> Result<(), russh::Error> {
    open.reject(russh::ChannelOpenFailure::AdministrativelyProhibited).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Names;

    #[test]
    fn the_window_is_as_large_as_the_line_is_long() {
        let at = |ms| window_bytes(Duration::from_millis(ms));
        assert_eq!((at(0), at(1)), (WINDOW_BYTES_LEAST, WINDOW_BYTES_LEAST));
        assert_eq!(at(20), 16_000_000);
        assert_eq!((at(50), at(u64::MAX / 1000)), (WINDOW_BYTES_MOST, WINDOW_BYTES_MOST));
    }

    #[tokio::test]
    async fn a_connection_gets_the_congestion_control_that_is_wanted_or_the_systems() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let dialled = async |congestion: Option<&str>| {
            let (user, host, congestion) = ("backup".into(), "127.0.0.1".into(), congestion.map(str::to_owned));
            let target = Target { user, host, port, pins: Vec::new(), names: Names::default(), congestion };
            let (socket, _) = dial(&target, Duration::from_secs(10)).await.unwrap();
            rustix::net::sockopt::tcp_congestion(&socket).unwrap()
        };
        let usual = dialled(None).await;
        // The one that every kernel has, and gives to everybody.
        assert_eq!(dialled(Some("reno")).await, "reno");
        assert_eq!(dialled(Some("no-such-one")).await, usual);
    }
}

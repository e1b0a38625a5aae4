//! Transports against servers and programs that are honest, broken or hostile.

use super::*;
use crate::report::{Exit, Failure};
use russh::keys::ssh_key::rand_core::UnwrapErr;
use russh::keys::{Algorithm, PrivateKey};
use russh::server::{self, Auth, ChannelOpenHandle, Msg};
use russh::{Channel, ChannelId, ChannelMsg};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

fn ssh_key() -> PrivateKey {
    PrivateKey::random(&mut UnwrapErr(getrandom::SysRng), Algorithm::Ed25519).unwrap()
}

fn public(key: &PrivateKey) -> SshKey {
    SshKey::from_blob(&key.public_key().to_bytes().unwrap()).unwrap()
}

/// What the server does once it is asked to start a command.
#[derive(Debug, Clone)]
enum Act {
    Echo,
    /// Standard output, standard error, exit status.
    Say(&'static [u8], &'static [u8], u32),
    /// Opens channels to the client, and says how many were accepted.
    OpenChannels,
    /// Ends the TCP connection.
    Drop,
    Refuse,
}

#[derive(Clone)]
struct Server {
    client: SshKey,
    act: Act,
    handle: Option<server::Handle>,
}

impl server::Handler for Server {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, user: &str, key: server::VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        let known = key.public_key.to_bytes().is_ok_and(|blob| blob == self.client.blob()) && user == "backup";
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }
    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        self.handle = Some(session.handle());
        tokio::spawn(serve(channel, self.act.clone(), session.handle()));
        Ok(())
    }
    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        assert_eq!(data, COMMAND.as_bytes());
        match self.act {
            Act::Refuse => session.channel_failure(channel),
            Act::Drop => Err(russh::Error::Disconnect),
            _ => session.channel_success(channel),
        }
    }
}

async fn serve(mut channel: Channel<Msg>, act: Act, handle: server::Handle) {
    match act {
        Act::Echo => {
            while let Some(message) = channel.wait().await {
                match message {
                    ChannelMsg::Data { data } => channel.data_bytes(data).await.unwrap(),
                    ChannelMsg::Eof => break,
                    _ => {}
                }
            }
            end(&channel, 0).await;
        }
        Act::Say(out, err, status) => {
            channel.data_bytes(out).await.unwrap();
            channel.extended_data_bytes(1, err).await.unwrap();
            end(&channel, status).await;
        }
        Act::OpenChannels => {
            let mut accepted = u32::from(handle.channel_open_session().await.is_ok());
            accepted += u32::from(handle.channel_open_agent().await.is_ok());
            accepted += u32::from(handle.channel_open_forwarded_tcpip("a", 1, "b", 2).await.is_ok());
            accepted += u32::from(handle.channel_open_direct_tcpip("a", 1, "b", 2).await.is_ok());
            accepted += u32::from(handle.channel_open_forwarded_streamlocal("/s").await.is_ok());
            accepted += u32::from(handle.channel_open_x11("a", 1).await.is_ok());
            channel.data_bytes(format!("accepted {accepted}").into_bytes()).await.unwrap();
            end(&channel, 0).await;
        }
        Act::Drop | Act::Refuse => {}
    }
}

async fn end(channel: &Channel<Msg>, status: u32) {
    // The client may have gone already.
    let _ = channel.eof().await;
    let _ = channel.exit_status(status).await;
    let _ = channel.close().await;
}

/// A server for one connection; its address.
fn server(host_key: PrivateKey, client: SshKey, act: Act) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (socket, _) = listener.accept().unwrap();
            socket.set_nonblocking(true).unwrap();
            let socket = tokio::net::TcpStream::from_std(socket).unwrap();
            let config = server::Config {
                keys: vec![host_key],
                auth_rejection_time: Duration::ZERO,
                auth_rejection_time_initial: Some(Duration::ZERO),
                ..server::Config::default()
            };
            let handler = Server { client, act, handle: None };
            if let Ok(session) = server::run_stream(Arc::new(config), socket, handler).await {
                // How it ended shows at the client.
                let _ = session.await;
            }
        });
    });
    address
}

fn target(address: SocketAddr, pins: Vec<Pin>) -> ssh::Target {
    let (user, host, port) = ("backup".into(), address.ip().to_string(), address.port());
    ssh::Target { user, host, port, pins, names: names(), congestion: None }
}

fn names() -> Names {
    Names { remote: "offsite".into(), source: "web1".into() }
}

fn pin(key: &PrivateKey) -> Vec<Pin> {
    vec![Pin { key: public(key), since: Some("2026-11-21".into()) }]
}

/// A connection to a server that knows our key and shows the pinned one.
fn connected(act: Act) -> Pipe {
    let (host, ours) = (ssh_key(), ssh_key());
    let address = server(host.clone(), public(&ours), act);
    ssh::open(&target(address, pin(&host)), ours, TIMEOUT).unwrap()
}

fn refused(opened: crate::report::Outcome<Pipe>) -> Failure {
    match opened {
        Ok(_) => panic!("a connection was opened"),
        Err(failure) => failure,
    }
}

fn read_all(pipe: &mut Pipe) -> Vec<u8> {
    let mut bytes = Vec::new();
    pipe.reader.read_to_end(&mut bytes).unwrap();
    bytes
}

// --- SSH of our own ---------------------------------------------------------------------------------------------

#[test]
fn bytes_go_both_ways_and_the_end_is_seen() {
    let mut pipe = connected(Act::Echo);
    let sent: Vec<u8> = (0..12u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let copy = sent.clone();
    let mut writer = pipe.writer;
    let writing = std::thread::spawn(move || writer.write_all(&copy).unwrap());
    let mut got = Vec::new();
    pipe.reader.read_to_end(&mut got).unwrap();
    writing.join().unwrap();
    assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
    assert_eq!(pipe.guard.ending().status, Some(0));
}

#[test]
fn another_host_key_is_refused_and_both_are_shown() {
    let (host, pinned, ours) = (ssh_key(), ssh_key(), ssh_key());
    let address = server(host.clone(), public(&ours), Act::Echo);
    let failure = refused(ssh::open(&target(address, pin(&pinned)), ours, TIMEOUT));
    assert_eq!((failure.code, failure.exit), ("ssh-hostkey", Exit::Unreachable));
    let text = failure.remote("offsite").to_string();
    let expected = format!(
        "error[ssh-hostkey]: offsite: the host key of 127.0.0.1 is not the pinned one\n  \
         pinned 2026-11-21  {}   offered  {}\n  help: ask the operator for the new key (remote-sink card web1), then: \
         source-agent remote repin offsite 'sink-card:1,...'",
        fingerprint(public(&pinned).blob()),
        fingerprint(public(&host).blob()),
    );
    assert_eq!(text, expected);
    assert_eq!(fingerprint(public(&host).blob()), host.fingerprint(russh::keys::HashAlg::Sha256).to_string());
}

#[test]
fn any_of_the_pinned_keys_will_do_and_none_is_trusted_unseen() {
    let (host, ours) = (ssh_key(), ssh_key());
    let address = server(host.clone(), public(&ours), Act::Say(b"hello", b"", 0));
    let pins = [pin(&ssh_key()), pin(&host)].concat();
    let mut pipe = ssh::open(&target(address, pins), ours.clone(), TIMEOUT).unwrap();
    assert_eq!(read_all(&mut pipe), b"hello");
    let failure = refused(ssh::open(&target(address, Vec::new()), ours, TIMEOUT));
    assert_eq!(failure.code, "ssh-hostkey");
}

#[test]
fn a_refused_login_is_said() {
    let (host, ours) = (ssh_key(), ssh_key());
    let address = server(host.clone(), public(&ssh_key()), Act::Echo);
    let failure = refused(ssh::open(&target(address, pin(&host)), ours, TIMEOUT));
    assert_eq!((failure.code, failure.exit), ("ssh-login", Exit::Unreachable));
    assert!(failure.help.unwrap().contains("remote-sink enroll"));
}

#[test]
fn what_does_not_answer_has_its_own_code() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let pins = pin(&ssh_key());
    let failure = refused(ssh::open(&target(address, pins.clone()), ssh_key(), TIMEOUT));
    assert_eq!((failure.code, failure.exit), ("ssh-refused", Exit::Unreachable));
    let unknown = ssh::Target { host: "no-such-host.invalid".into(), ..target(address, pins.clone()) };
    let failure = refused(ssh::open(&unknown, ssh_key(), TIMEOUT));
    assert_eq!((failure.code, failure.exit), ("ssh-dns", Exit::Unreachable));
    // A server that accepts and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = target(listener.local_addr().unwrap(), pins.clone());
    let failure = refused(ssh::open(&silent, ssh_key(), Duration::from_millis(300)));
    assert_eq!((failure.code, failure.exit), ("ssh-timeout", Exit::Unreachable));
    // Something else than SSH.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let web = target(listener.local_addr().unwrap(), pins);
    let serving = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let failure = refused(ssh::open(&web, ssh_key(), TIMEOUT));
    assert_eq!((failure.code, failure.exit), ("ssh", Exit::Unreachable));
    serving.join().unwrap();
}

#[test]
fn a_congestion_control_that_the_kernel_lacks_is_told() {
    let fault = |lines: &str| {
        let remote = toml::from_str(&format!("name = \"offsite\"\nurl = \"ssh://b@h/web1\"\n{lines}")).unwrap();
        congestion_fault(&remote)
    };
    assert_eq!((fault(""), fault("tcp-congestion = \"reno\"")), (None, None));
    let told = fault("tcp-congestion = \"no-such-one\"").unwrap();
    assert!(told.starts_with("remote offsite: no tcp-congestion 'no-such-one' on this machine"), "{told}");
}

#[test]
fn exit_status_and_last_words_are_kept() {
    let mut pipe = connected(Act::Say(b"", b"first\nsh: 1: remote-sink: \x1b[1mnot found\n", 127));
    assert!(read_all(&mut pipe).is_empty());
    let failure = pipe.guard.explain("no banner");
    assert_eq!((failure.code, failure.exit), ("not-installed", Exit::Unreachable));
    let text = failure.to_string();
    assert!(text.contains("remote-sink is not installed there") && text.contains("\\u{1b}[1mnot found"), "{text}");
    assert!(!text.contains("first"), "the last line is enough: {text}");
}

#[test]
fn a_server_may_open_no_channel() {
    let mut pipe = connected(Act::OpenChannels);
    assert_eq!(String::from_utf8(read_all(&mut pipe)).unwrap(), "accepted 0");
}

#[test]
fn a_broken_connection_and_a_refused_command_are_explained() {
    let mut pipe = connected(Act::Drop);
    assert!(read_all(&mut pipe).is_empty());
    let failure = pipe.guard.explain("the sink closed it");
    assert_eq!((failure.code, failure.exit), ("connection-lost", Exit::Unreachable));
    let mut pipe = connected(Act::Refuse);
    assert!(read_all(&mut pipe).is_empty());
    let failure = pipe.guard.explain("the sink closed it");
    assert!(failure.message.contains("refused to start"), "{failure}");
}

// --- child processes --------------------------------------------------------------------------------------------

fn shell(script: &str, classify: child::Classify) -> Pipe {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    child::spawn(command, TIMEOUT, classify).unwrap()
}

#[test]
fn a_child_is_read_written_and_explained() {
    let mut pipe = shell("cat; echo last words >&2; exit 3", Box::new(|_, _| None));
    pipe.writer.write_all(b"through").unwrap();
    drop(std::mem::replace(&mut pipe.writer, Box::new(std::io::sink())));
    assert_eq!(read_all(&mut pipe), b"through");
    let failure = pipe.guard.explain("the sink closed it");
    let text = failure.to_string();
    assert_eq!((failure.code, failure.exit), ("sink-ended", Exit::Unreachable));
    assert!(text.contains("exit code 3") && text.contains("last words"), "{text}");
}

#[test]
fn stderr_of_any_length_does_not_stop_a_child() {
    let mut pipe = shell("yes | head -c 1000000 >&2; echo end >&2; echo done", Box::new(|_, _| None));
    assert_eq!(read_all(&mut pipe), b"done\n");
    assert_eq!(pipe.guard.ending().last_line().as_deref(), Some("end"));
    assert!(pipe.guard.ending().stderr.len() <= 4096);
}

#[test]
fn a_child_that_stays_is_ended_with_its_pipe() {
    let mut pipe = shell("trap '' HUP TERM PIPE; echo $$; exec sleep 1000", Box::new(|_, _| None));
    let mut process = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(&mut pipe.reader), &mut process).unwrap();
    let path = format!("/proc/{}", process.trim());
    assert!(std::path::Path::new(&path).exists());
    drop(pipe);
    assert!(!std::path::Path::new(&path).exists());
}

fn ssh_errors(status: Option<u32>, stderr: &[u8]) -> Option<(&'static str, String, Option<String>)> {
    openssh::classify(status, stderr, &names(), None)
}

#[test]
fn errors_of_ssh_are_classified() {
    for (text, code) in [
        ("Host key verification failed.\r\n", "ssh-hostkey"),
        ("backup@h: Permission denied (publickey).\r\n", "ssh-login"),
        ("ssh: Could not resolve hostname h: Name or service not known\r\n", "ssh-dns"),
        ("ssh: connect to host h port 22: Connection refused\r\n", "ssh-refused"),
        ("ssh: connect to host h port 22: Connection timed out\r\n", "ssh-timeout"),
        ("ssh: connect to host h port 22: No route to host\r\n", "ssh-unreachable"),
        ("kex_exchange_identification: read: Connection reset by peer\r\n", "ssh"),
    ] {
        let pipe = shell(&format!("printf '%s' '{text}' >&2; exit 255"), Box::new(ssh_errors));
        let failure = pipe.guard.explain("nothing came");
        assert_eq!((failure.code, failure.exit), (code, Exit::Unreachable), "{text}");
        assert!(failure.to_string().contains(text.trim()) && failure.help.is_some(), "{failure}");
    }
    let pipe = shell("echo 'sh: 1: remote-sink: not found' >&2; exit 127", Box::new(ssh_errors));
    assert_eq!(pipe.guard.explain("nothing came").code, "not-installed");
}

#[test]
fn a_key_that_ssh_itself_knows_is_not_sent_to_repin() {
    let help = |text: &str| openssh::classify(Some(255), text.as_bytes(), &names(), Some("sink.example")).unwrap();
    let changed = "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\r\nHost key verification failed.\r\n";
    let (code, message, told) = help(changed);
    assert_eq!(code, "ssh-hostkey");
    assert!(!message.contains("pinned"), "{message}");
    assert!(told.unwrap().contains("ssh-keygen -R sink.example, then log in once: ssh sink.example"));
    let own = "  ssh-keygen -f '/root/.ssh/known_hosts' -R '[h]:2222'";
    let (_, _, told) = help(&format!("{own}\r\n{changed}"));
    assert!(told.unwrap().contains("ssh-keygen -f '/root/.ssh/known_hosts' -R '[h]:2222'"));
    let (_, message, told) = help("No ED25519 host key is known for h.\r\nHost key verification failed.\r\n");
    assert!(message.contains("no host key") && told.unwrap().ends_with("ssh sink.example"));
}

#[test]
fn the_system_ssh_asks_nothing_and_forwards_nothing() {
    let target = openssh::Target {
        host: "friend-backup".into(),
        known_hosts: Some(("/var/lib/a \"b\" 100%/known".into(), "pawl-friend".into())),
        identity_file: Some("/etc/x/key".into()),
        names: names(),
    };
    let command = target.command(Duration::from_secs(120));
    let arguments: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    for option in [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "ServerAliveInterval=15",
        "ServerAliveCountMax=4",
        "ClearAllForwardings=yes",
        "ConnectTimeout=30",
        "UserKnownHostsFile=\"/var/lib/a \\\"b\\\" 100%%/known\"",
        "GlobalKnownHostsFile=/dev/null",
        "HostKeyAlias=pawl-friend",
        "IdentitiesOnly=yes",
    ] {
        let at = arguments.iter().position(|word| word == option).unwrap_or_else(|| panic!("{option}"));
        assert_eq!(arguments[at - 1], "-o", "{option}");
    }
    assert_eq!(arguments[0], "-T");
    assert_eq!(&arguments[arguments.len() - 3..], ["--", "friend-backup", COMMAND]);
}

#[test]
fn a_vault_that_is_not_there_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let name = "web1".parse().unwrap();
    let failure = refused(local::open(&dir.path().join("vault"), &name, Role::Push, TIMEOUT));
    assert_eq!(failure.exit, Exit::Unreachable);
    assert!(failure.help.unwrap().contains("mounted"));
}

#[test]
fn pinned_dates_are_read_from_the_comment() {
    let key = SshKey::from_ed25519(&[1; 32]).openssh();
    let lines = [format!("{key} pinned-2026-11-21"), key.clone(), "ssh-rsa AAAA".to_owned()];
    let pins = pins(&lines);
    assert_eq!(pins.iter().map(|pin| pin.since.as_deref()).collect::<Vec<_>>(), [Some("2026-11-21"), None]);
}

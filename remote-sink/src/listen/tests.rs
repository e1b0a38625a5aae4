//! The server, driven by a small SSH client. A shell script stands for the session's process.

use super::*;
use crate::enrolment::{Enrolment, Reads};
use russh::ChannelMsg;
use russh::client::{self, AuthResult, Handle};
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use shared::card::{SourceCard, SshKey};
use shared::id::SourceName;
use shared::keyfile;
use shared::signature::SigningKey;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server on a vault in a temporary directory.
struct Server {
    dir: tempfile::TempDir,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ListenError>>,
}

impl Server {
    async fn start(script: &str) -> Self {
        Self::start_with(script, Graces::default()).await
    }

    async fn start_with(script: &str, graces: Graces) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        layout.create_vault_dirs().unwrap();
        fs::write(layout.listen_key(), keyfile::write(HOST_KEY_KIND, &[5; 32]).as_bytes()).unwrap();
        let program = dir.path().join("program");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let options = ListenOptions {
            root: dir.path().to_owned(),
            address: "127.0.0.1:0".into(),
            program,
            log: Log::Quiet,
            graces,
        };
        let (told, address) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let ready = move |address| told.send(address).unwrap();
        let task = tokio::spawn(run(options, ready, async { stopped.await.unwrap_or(()) }));
        Self { dir, address: address.await.unwrap(), stop: Some(stop), task }
    }

    fn enroll(&self, name: &str, seed: u8, change: impl FnOnce(&mut Enrolment)) {
        let layout = Layout::new(self.dir.path());
        let name: SourceName = name.parse().unwrap();
        let key = SigningKey::from_seed(&[seed ^ 0x80; 32]);
        let ssh = SshKey::from_ed25519(SigningKey::from_seed(&[seed; 32]).verify_key().as_bytes());
        let mut enrolment = Enrolment {
            card: SourceCard::new(name.clone(), ssh, None, &key),
            role: Role::Push,
            quota: None,
            from: vec![],
            reads: Reads::SingleOwner,
            address: None,
            host_keys: vec![],
            enrolled: "2026-11-21T23:40:00Z".into(),
            revoked: false,
        };
        change(&mut enrolment);
        fs::create_dir_all(layout.source(&name)).unwrap();
        enrolment.write(&layout.enrolment(&name)).unwrap();
    }

    async fn connect(&self) -> Result<Handle<Client>, russh::Error> {
        let config = client::Config { window_size: 2 << 20, ..client::Config::default() };
        client::connect(Arc::new(config), self.address, Client).await
    }

    /// `None` when the key is refused.
    async fn log_in(&self, seed: u8) -> Option<Handle<Client>> {
        let mut handle = self.connect().await.unwrap();
        let key = PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(&[seed; 32])), "").unwrap();
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
        match handle.authenticate_publickey("anybody", key).await.unwrap() {
            AuthResult::Success => Some(handle),
            AuthResult::Failure { .. } => None,
        }
    }

    /// Runs one session to its end: what came back, standard error, the exit status.
    async fn session(&self, seed: u8, send: Vec<u8>) -> (Vec<u8>, Vec<u8>, Option<u32>) {
        let handle = self.log_in(seed).await.unwrap();
        let channel = handle.channel_open_session().await.unwrap();
        channel.exec(true, "sh -c 'rm -rf /'").await.unwrap();
        collect(channel, send).await
    }

    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

struct Client;

impl client::Handler for Client {
    type Error = russh::Error;
    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let expected = SigningKey::from_seed(&[5; 32]).verify_key();
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else { return Ok(false) };
        Ok(key.key_data().ed25519().is_some_and(|key| key.0 == *expected.as_bytes()))
    }
}

async fn collect(channel: russh::Channel<client::Msg>, send: Vec<u8>) -> (Vec<u8>, Vec<u8>, Option<u32>) {
    let (mut read, write) = channel.split();
    let sending = tokio::spawn(async move {
        write.data(&send[..]).await.unwrap();
        write.eof().await.unwrap();
        write
    });
    let (mut out, mut errors, mut status) = (Vec::new(), Vec::new(), None);
    while let Some(message) = read.wait().await {
        match message {
            ChannelMsg::Data { data } => out.extend_from_slice(&data),
            ChannelMsg::ExtendedData { data, ext: 1 } => errors.extend_from_slice(&data),
            ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
            _ => {}
        }
    }
    drop(sending.await.unwrap());
    (out, errors, status)
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 % 251) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_both_ways_and_the_exit_status_comes_back() {
    let server = Server::start("cat; echo \"$@\" >&2; env >&2; exit 7").await;
    server.enroll("web1", 1, |_| {});
    let sent = pattern(24 << 20);
    let (out, errors, status) = server.session(1, sent.clone()).await;
    assert!(out == sent, "{} of {} bytes came back", out.len(), sent.len());
    let errors = String::from_utf8(errors).unwrap();
    let line = format!("serve --root {} --source web1 --role push\n", server.dir.path().display());
    assert!(errors.starts_with(&line), "the client's command does not count: {errors}");
    assert!(errors.contains("SSH_CONNECTION=127.0.0.1 "), "{errors}");
    assert!(!errors.contains("HOME="), "no environment is handed on: {errors}");
    assert_eq!(status, Some(7));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_and_asks_at_once_is_not_stuck() {
    // The process answers with much before it reads anything.
    let server = Server::start("head -c 50000000 /dev/zero; wc -c").await;
    server.enroll("web1", 1, |_| {});
    let (out, _, status) = server.session(1, pattern(50_000_000)).await;
    assert_eq!((out.len(), status), (50_000_000 + "50000000\n".len(), Some(0)));
    assert!(out.ends_with(b"50000000\n"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_reads_nothing_ends_all_the_same() {
    let server = Server::start("exec 0<&-; sleep 0.1; echo no; exit 3").await;
    server.enroll("web1", 1, |_| {});
    let (out, _, status) = server.session(1, pattern(4 << 20)).await;
    assert_eq!((out.as_slice(), status), (&b"no\n"[..], Some(3)));
    let failing = Server::start("kill -9 $$").await;
    failing.enroll("web1", 1, |_| {});
    assert_eq!(failing.session(1, vec![]).await.2, Some(137));
    let noisy = Server::start("head -c 1000000 /dev/zero >&2").await;
    noisy.enroll("web1", 1, |_| {});
    assert_eq!(noisy.session(1, vec![]).await.1.len(), 64 << 10, "standard error is bounded");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_enrolled_keys_come_in() {
    let server = Server::start("cat").await;
    server.enroll("web1", 1, |_| {});
    server.enroll("gone", 2, |one| one.revoked = true);
    server.enroll("far", 3, |one| one.from = vec!["192.0.2.0/24".into()]);
    server.enroll("near", 4, |one| one.from = vec!["192.0.2.0/24".into(), "127.0.0.0/8".into()]);
    server.enroll("unclear", 5, |one| one.from = vec!["everywhere".into()]);
    server.enroll("twice", 6, |_| {});
    server.enroll("twice2", 6, |_| {});
    fs::create_dir_all(server.dir.path().join("sources/broken")).unwrap();
    fs::write(server.dir.path().join("sources/broken/enrolment.toml"), "x").unwrap();
    for (seed, comes_in) in [(1, true), (2, false), (3, false), (4, true), (5, false), (6, false), (99, false)] {
        assert_eq!(server.log_in(seed).await.is_some(), comes_in, "key {seed}");
    }
    server.enroll("web1", 1, |one| one.revoked = true);
    assert!(server.log_in(1).await.is_none(), "revoked while the server runs");
    let mut handle = server.connect().await.unwrap();
    assert!(!handle.authenticate_none("root").await.unwrap().success());
    assert!(!handle.authenticate_password("root", "").await.is_ok_and(|result| result.success()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_but_the_session_is_refused() {
    let server = Server::start("cat").await;
    server.enroll("web1", 1, |_| {});
    let handle = server.log_in(1).await.unwrap();
    let mut channel = handle.channel_open_session().await.unwrap();
    channel.request_subsystem(true, "sftp").await.unwrap();
    channel.request_pty(true, "xterm", 80, 24, 0, 0, &[]).await.unwrap();
    channel.set_env(true, "LD_PRELOAD", "/tmp/x.so").await.unwrap();
    channel.request_x11(true, false, "MIT-MAGIC-COOKIE-1", "00", 0).await.unwrap();
    channel.agent_forward(true).await.unwrap();
    for what in ["sftp", "pty", "env", "x11", "agent"] {
        assert!(matches!(channel.wait().await, Some(ChannelMsg::Failure)), "{what}");
    }
    assert!(handle.channel_open_session().await.is_err(), "a second channel");
    assert!(handle.channel_open_direct_tcpip("127.0.0.1", 22, "127.0.0.1", 1).await.is_err());
    assert!(handle.channel_open_direct_streamlocal("/run/x").await.is_err());
    assert!(handle.tcpip_forward("127.0.0.1", 0).await.is_err());
    assert!(handle.streamlocal_forward("/tmp/x.sock").await.is_err());
    // The channel still serves, once.
    channel.request_shell(true).await.unwrap();
    assert!(matches!(channel.wait().await, Some(ChannelMsg::Success)));
    channel.exec(true, "again").await.unwrap();
    assert!(matches!(channel.wait().await, Some(ChannelMsg::Failure)));
    assert_eq!(collect(channel, b"hello".to_vec()).await, (b"hello".to_vec(), vec![], Some(0)));
    // And when it is closed, the connection may open the next.
    assert!(handle.channel_open_session().await.is_ok());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_silence_do_not_disturb_others() {
    let server = Server::start("cat").await;
    server.enroll("web1", 1, |_| {});
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 100_000], b"SSH-2.0-x\r\n\xff\xff\xff\xff\xff\xff"] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        // The server may close while this is written.
        let _ = socket.write_all(garbage).await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"SSH-2.0-remote-sink\r\n") || answer.is_empty());
    }
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert_eq!(server.session(1, b"hello".to_vec()).await.0, b"hello");
    drop(idle);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_has_a_bounded_number_of_sessions() {
    let server = Server::start("cat").await;
    server.enroll("web1", 1, |_| {});
    server.enroll("web2", 2, |_| {});
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS_OF_ONE_MAX {
        sessions.push(server.log_in(1).await.unwrap());
    }
    assert!(server.log_in(1).await.is_none());
    assert!(server.log_in(2).await.is_some(), "others still come in");
    let one = sessions.pop().unwrap();
    one.disconnect(russh::Disconnect::ByApplication, "", "").await.unwrap();
    while server.log_in(1).await.is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop().await;
}

fn is_running(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_ends_with_its_client_and_with_the_server() {
    let server = Server::start("sleep 1000 & echo $$ $!; wait").await;
    server.enroll("web1", 1, |one| one.role = Role::Read);
    let handle = server.log_in(1).await.unwrap();
    let mut pids = Vec::new();
    for _ in 0..2 {
        let mut channel = handle.channel_open_session().await.unwrap();
        channel.exec(false, "").await.unwrap();
        let Some(ChannelMsg::Data { data }) = channel.wait().await else { panic!("no answer") };
        let line = String::from_utf8(data.to_vec()).unwrap();
        pids.push(line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        if pids.len() == 1 {
            channel.close().await.unwrap();
            while pids[0].iter().any(|pid| is_running(pid)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    assert!(is_running(&pids[1][0]));
    server.stop().await;
    while pids[1].iter().any(|pid| is_running(pid)) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_pushes_has_time_to_write_its_record() {
    // It needs longer than a session that reads may take.
    let server = Server::start("echo $$; cat >/dev/null; sleep 0.5; echo >\"$(dirname \"$0\")/record\"").await;
    server.enroll("web1", 1, |_| {});
    let handle = server.log_in(1).await.unwrap();
    let mut channel = handle.channel_open_session().await.unwrap();
    channel.exec(false, "").await.unwrap();
    let Some(ChannelMsg::Data { data }) = channel.wait().await else { panic!("no answer") };
    let pid = String::from_utf8(data.to_vec()).unwrap();
    handle.disconnect(russh::Disconnect::ByApplication, "", "").await.unwrap();
    while is_running(pid.trim()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(server.dir.path().join("record").exists(), "it was killed before it was done");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_ask_for_nothing_are_closed() {
    let short = Duration::from_millis(300);
    let server = Server::start_with("cat", Graces { login: short, idle: Duration::from_secs(600) }).await;
    for start in [&b""[..], b"SSH-2.0-x", b"SSH-2.0-x\r\n"] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(start).await.unwrap();
        let mut answer = Vec::new();
        // Ends only because the server closes.
        let _ = socket.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"SSH-2.0-remote-sink\r\n"));
    }
    let server = Server::start_with("cat", Graces { login: Duration::from_secs(600), idle: short }).await;
    server.enroll("web1", 1, |_| {});
    let handle = server.log_in(1).await.unwrap();
    while !handle.is_closed() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop().await;
}

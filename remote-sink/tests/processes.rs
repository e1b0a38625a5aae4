//! The two processes of a session, as sshd starts them: killed, cut off, measured. The binary is this package's own.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

#[allow(unused_imports)]
use remote_sink::{enrolment, store, verify};

// The client and the objects of the sessions' own tests, under the names that they use.
#[allow(dead_code)]
#[path = "../src/serve/tests/client.rs"]
pub mod client;
#[allow(dead_code)]
#[path = "../src/serve/tests/world.rs"]
pub mod world;
mod serve {
    pub use remote_sink::serve::*;
    pub mod tests {
        pub use crate::client::Client;
        pub use crate::world;
    }
}

use serve::tests::Client;
use serve::tests::world::{Archive, Source, World, files};
use shared::wire::request::tag;
use shared::wire::{Reply, Role};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// `remote-sink serve`, started as a forced command is.
struct Served {
    committer: Child,
    client: Client,
}

impl Served {
    fn start(world: &World, source: &Source, role: Role) -> Self {
        // A low reserve: the test's disk may be nearly full.
        std::fs::write(world.layout.config(), "config-version = 1\n[store]\nmin-free = \"1KiB\"\n").unwrap();
        let (client, network) = UnixStream::pair().unwrap();
        let stdio = || Stdio::from(OwnedFd::from(network.try_clone().unwrap()));
        let committer = Command::new(env!("CARGO_BIN_EXE_remote-sink"))
            .args(["serve", "--source", source.name.as_str(), "--role", role.as_str(), "--root"])
            .arg(world.layout.root())
            .stdin(stdio())
            .stdout(stdio())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        drop(network);
        let mut client = Client::new(client);
        client.banner();
        Self { committer, client }
    }

    fn push(world: &World, source: &Source) -> Self {
        let mut served = Self::start(world, source, Role::Push);
        served.client.greet(source);
        served
    }

    /// The receiver is the committer's only child.
    fn receiver(&self) -> u32 {
        let id = self.committer.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        children.trim().parse().unwrap()
    }

    /// Waits until both processes are gone.
    fn gone(mut self, receiver: u32) {
        self.committer.wait().unwrap();
        // An orphan would stay; one that is ending goes within the test's own patience.
        while PathBuf::from(format!("/proc/{receiver}/exe")).read_link().is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

fn kill(process: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success());
}

fn stage() -> (World, Source, Archive) {
    let world = World::new();
    let source = world.source("web1", 1);
    let one = source.archive(0, &[600, 2, 1]);
    (world, source, one)
}

/// The highest private memory of a process, in KiB.
fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_session_of_two_processes_stays_small_and_leaves_nobody_behind() {
    let (world, source, one) = stage();
    let mut served = Served::push(&world, &source);
    let receiver = served.receiver();
    served.client.put_envelope(&source);
    served.client.put_archive(&one);
    // Parts and archives as large as they may be.
    let large: Vec<_> = (1..4).map(|number| source.archive(number, &[2049, 2049, 2049, 2049, 2049, 1])).collect();
    for archive in &large {
        served.client.send_archive(archive);
    }
    for _ in &large {
        served.client.stored();
    }
    let mut all = vec![&one];
    all.extend(&large);
    served.client.commit(&source, &all, None);
    let used = memory(served.committer.id()) + memory(receiver);
    assert!(used < 40 << 10, "{used} KiB");
    let end = served.client.stream.try_clone().unwrap();
    end.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(served.client.reply().is_none());
    served.gone(receiver);
    world.assert_whole();
}

#[test]
fn whoever_is_killed_the_other_ends_and_nothing_half_is_named() {
    let (world, source, one) = stage();
    for (victim, signal) in
        [("committer", "-KILL"), ("receiver", "-KILL"), ("committer", "-TERM"), ("receiver", "-TERM")]
    {
        let mut served = Served::push(&world, &source);
        let receiver = served.receiver();
        served.client.put_envelope(&source);
        served.client.raw(tag::PUT_ARCHIVE, &one.region);
        served.client.raw(tag::DATA, &one.data()[..1_000_000]);
        kill(if victim == "committer" { served.committer.id() } else { receiver }, signal);
        let last = served.client.reply();
        assert!(last.is_none(), "{victim} {signal}: {last:?}");
        served.gone(receiver);
        assert_eq!(files(&world.layout.staging(&source.name)), Vec::<PathBuf>::new());
        world.assert_whole();
        assert_eq!(world.count(&source, store::Shelf::Archives), 0);
    }
    let mut served = Served::push(&world, &source);
    let receiver = served.receiver();
    assert!(!served.client.put_archive(&one));
    drop(served.client.stream);
    served.client = Client::new(UnixStream::pair().unwrap().0);
    served.gone(receiver);
    world.assert_whole();
}

#[test]
fn a_client_that_vanishes_or_never_speaks_ends_the_session() {
    let (world, source, _) = stage();
    for role in [Role::Push, Role::Read] {
        let served = Served::start(&world, &source, role);
        let receiver = served.receiver();
        served.client.stream.shutdown(std::net::Shutdown::Both).unwrap();
        served.gone(receiver);
    }
}

#[test]
fn a_vault_that_cannot_be_opened_is_said_in_the_protocol() {
    let (world, source, _) = stage();
    std::fs::remove_file(world.layout.enrolment(&source.name)).unwrap();
    let mut served = Served::start(&world, &source, Role::Push);
    let receiver = served.receiver();
    let reply = served.client.say_hello(&Client::hello(Some(&source)));
    assert!(matches!(reply, Some(Reply::Refused(refused)) if refused.message.contains("not enrolled")));
    served.gone(receiver);
}

//! Attack 1 at the doors: the source's key gets the session it was enrolled for, and nothing else that SSH can do.

use shared::wire::{BANNER, RefusalCode, Reply, request};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tests::agent::Owner;
use tests::server::{Listen, Sshd, account, scp, sftp, ssh};
use tests::vault::assert_nothing_lost;
use tests::wire::{Client, hello};
use tests::{Agent, Chance, Place, Run, Vault, tree};

/// A server with one source that has one snapshot; what an attacker has is the private key.
struct Door {
    place: Place,
    vault: Vault,
    source: Agent,
    key: PathBuf,
    user: String,
    port: u16,
}

impl Door {
    fn new(place: Place, vault: Vault, address: &str, admit: impl Fn(&str), more: &[&str]) -> Self {
        let owner = Owner::new(place.path());
        let source = Agent::source(place.path(), "web1", &owner);
        let enrolled = vault.enroll(&source.card, "push", address, more);
        admit(&enrolled.line);
        source.add_remote("offsite", &enrolled);
        let data = place.join("data");
        tree::sample(&data, &mut Chance::new(1), 10);
        source.must_back_up(&data);
        let (user, rest) = address.split_once('@').unwrap();
        let port = rest.rsplit_once(':').unwrap().1.parse().unwrap();
        let key = source.ssh_key();
        Self { user: user.into(), port, key, place, vault, source }
    }

    fn target(&self) -> String {
        format!("{}@127.0.0.1", self.user)
    }
    fn ssh(&self) -> Run {
        ssh(&self.key, self.port)
    }
    fn home(&self) -> &Path {
        self.place.path()
    }

    /// Everything that SSH offers beside a session; nothing may come of it.
    fn must_be_shut(&self) {
        let before = self.vault.accepted("web1");
        let victim = self.vault.files("web1", "heads")[0].clone();
        self.commands(&victim);
        self.copies(&victim);
        self.forwarding();
        self.terminal();
        assert_nothing_lost(&before, &self.vault.accepted("web1"));
        self.vault.must_be_clean();
        assert!(!self.home().join("made-by-attack").exists());
        // The door is still open for what it is for.
        tree::write(&self.place.join("data/new"), b"new");
        self.source.must_back_up(&self.place.join("data"));
    }

    /// Whatever command is asked for, the forced one answers: with its banner, and nothing of ours.
    fn commands(&self, victim: &Path) {
        let made = self.home().join("made-by-attack");
        for command in [
            "echo PWNED".to_owned(),
            "id".into(),
            format!("rm -f {}", victim.display()),
            format!("touch {}", made.display()),
            format!("sh -c 'touch {}'", made.display()),
            format!("remote-sink --root {} revoke web1", self.vault.root.display()),
            "remote-sink serve --root / --source ../x --role read".into(),
            "$(touch /tmp/x); `id`; \n id".into(),
        ] {
            let done = self.ssh().arg("-T").arg(self.target()).arg(&command).done();
            self.assert_only_banner(&done, &command);
        }
        // No command at all is a shell elsewhere.
        let done = self.ssh().arg("-T").arg(self.target()).input("echo PWNED; id\n").done();
        self.assert_only_banner(&done, "a shell");
        let done = self.ssh().args(["-T", "-s"]).arg(self.target()).arg("sftp").done();
        self.assert_only_banner(&done, "the sftp subsystem");
        for variable in ["LD_PRELOAD=/tmp/evil.so", "PATH=/tmp", "REMOTE_SINK_ROOT=/tmp", "BASH_ENV=/tmp/x"] {
            let done =
                self.ssh().args(["-T", "-o", &format!("SetEnv={variable}")]).arg(self.target()).arg("env").done();
            self.assert_only_banner(&done, variable);
        }
    }

    /// Output may be the banner (and what the session says to a peer that says nothing), or nothing.
    fn assert_only_banner(&self, done: &tests::Done, what: &str) {
        let rest = done.stdout.strip_prefix(&BANNER[..]).unwrap_or(&done.stdout);
        let begins = done.stdout.is_empty() || done.stdout.starts_with(BANNER);
        assert!(begins, "{what}: something other than the session answered\n{}", done.tell());
        for evil in ["PWNED", "uid="] {
            assert!(!String::from_utf8_lossy(rest).contains(evil), "{what}\n{}", done.tell());
        }
    }

    fn copies(&self, victim: &Path) {
        let local = self.place.join("local");
        std::fs::write(&local, b"overwritten").unwrap();
        let batch = format!("ls /\nget {v} stolen\nrm {v}\nput local {v}\nrename {v} /tmp/x\n", v = victim.display());
        let done = sftp(&self.key, self.port).args(["-b", "-"]).arg(self.target()).input(batch).dir(self.home()).done();
        assert_ne!(done.exit(), Some(0), "{}", done.tell());
        for mode in [&["-O"][..], &[]] {
            let remote = format!("{}:{}", self.target(), victim.display());
            let done = scp(&self.key, self.port).args(mode).arg(&local).arg(&remote).done();
            assert_ne!(done.exit(), Some(0), "{}", done.tell());
            let done = scp(&self.key, self.port).args(mode).arg(&remote).arg(self.place.join("stolen")).done();
            assert_ne!(done.exit(), Some(0), "{}", done.tell());
        }
        assert!(!self.place.join("stolen").exists());
    }

    fn forwarding(&self) {
        // A target that counts who comes.
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = target.local_addr().unwrap().port();
        let visitors = std::sync::Arc::new(AtomicU32::new(0));
        let seen = visitors.clone();
        std::thread::spawn(move || {
            for stream in target.incoming() {
                seen.fetch_add(1, Ordering::SeqCst);
                drop(stream);
            }
        });
        let through = format!("127.0.0.1:{port}");
        let done = self.ssh().args(["-W", &through]).arg(self.target()).done();
        assert_ne!(done.exit(), Some(0), "{}", done.tell());
        for remote in ["-R", "-L"] {
            let free = tests::server::free_port();
            let mut running = self
                .ssh()
                .args(["-o", "ExitOnForwardFailure=yes", "-N", remote, &format!("{free}:{through}")])
                .arg(self.target())
                .begin();
            if remote == "-R" {
                let done = running.end();
                assert_ne!(done.exit(), Some(0), "{}", done.tell());
                continue;
            }
            // -L fails only when used: use it.
            tests::run::until("ssh listens or ends", Duration::from_secs(60), || {
                running.is_over() || std::net::TcpStream::connect(("127.0.0.1", free)).map(poke).is_ok()
            });
            std::thread::sleep(Duration::from_millis(200));
            running.kill();
            running.end();
        }
        assert_eq!(visitors.load(Ordering::SeqCst), 0, "something was forwarded");
        let socket = self.place.join("unix-socket");
        let done = self
            .ssh()
            .args(["-o", "ExitOnForwardFailure=yes", "-N", "-R"])
            .arg(format!("{}:{through}", socket.display()))
            .arg(self.target())
            .done();
        assert_ne!(done.exit(), Some(0), "{}", done.tell());
        assert!(!socket.exists());
    }

    fn terminal(&self) {
        let done = self.ssh().arg("-tt").arg(self.target()).input("echo PWNED\n\x04").done();
        assert!(!done.out().contains("PWNED") || done.out().starts_with("pawl-sink"), "{}", done.tell());
        assert!(!done.out().contains("uid="), "{}", done.tell());
        let done =
            self.ssh().args(["-A", "-X", "-T"]).arg(self.target()).arg("echo PWNED $SSH_AUTH_SOCK $DISPLAY").done();
        self.assert_only_banner(&done, "agent and X11 forwarding");
    }

    /// Ten sessions at once with one key: at most one pushes, all others are told so.
    fn ten_at_once(&self) {
        let keys = self.source.keys();
        let chain = (keys.card.source_id(), keys.lineage);
        let mut clients: Vec<Client> =
            (0..10).map(|_| Client::start(self.ssh().arg("-T").arg(self.target()))).collect();
        let (mut welcome, mut busy, mut ended) = (0, 0, 0);
        for client in &mut clients {
            client.send(&request::hello_frame(&hello(Some(chain))));
        }
        for client in &mut clients {
            match client.frame().map(|frame| Reply::parse(frame).expect("a reply")) {
                Some(Reply::Welcome(_)) => welcome += 1,
                Some(Reply::Refused(refused)) => {
                    assert_eq!(refused.code, RefusalCode::Busy, "{refused}");
                    busy += 1;
                }
                None => ended += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(welcome <= 1, "{welcome} sessions push at once ({busy} busy, {ended} ended)");
        drop(clients);
        tests::run::until("the door opens again", Duration::from_secs(120), || {
            self.source.backup(&self.place.join("data")).done().exit() == Some(0)
        });
    }

    /// A key that nobody enrolled.
    fn strangers(&self) {
        let key = self.place.join("stranger");
        Run::new(tests::programs::tool("ssh-keygen")).args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).ok();
        let done = ssh(&key, self.port).arg("-T").arg(self.target()).arg("id").done();
        assert_eq!(done.exit(), Some(255), "{}", done.tell());
        assert!(done.stdout.is_empty(), "{}", done.tell());
        for method in ["password", "keyboard-interactive", "none", "gssapi-with-mic"] {
            let option = format!("PreferredAuthentications={method}");
            let done = self.ssh().args(["-o", &option, "-o", "PubkeyAuthentication=no"]).arg(self.target()).done();
            assert_eq!(done.exit(), Some(255), "{method}\n{}", done.tell());
        }
    }
}

fn poke(mut stream: std::net::TcpStream) {
    use std::io::{Read, Write};
    // Whatever happens to this line, the target's counter judges.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let _ = stream.write_all(b"hello");
    let _ = stream.read(&mut [0; 1]);
}

/// An sshd that itself would allow everything.
fn sshd_door(run: impl FnOnce(&Door)) {
    let Some(account) = account() else { return };
    let place = Place::new();
    let vault = Vault::with(place.path(), "vault", Some(account.clone()));
    let sshd = Sshd::start(place.path(), account);
    let host_key = sshd.host_key_file();
    let more = ["--host-key", &*host_key.to_string_lossy()];
    let door = Door::new(place, vault, &sshd.address(), |line| sshd.authorize(line), &more);
    run(&door);
}

fn listen_door(run: impl FnOnce(&Door)) {
    let place = Place::new();
    let vault = Vault::new(place.path());
    let listen = Listen::start(&vault);
    let door = Door::new(place, vault, &listen.address(), |_| {}, &[]);
    run(&door);
}

#[test]
fn sshd_gives_the_key_its_session_and_nothing_else() {
    sshd_door(|door| {
        door.must_be_shut();
        door.strangers();
    });
}

#[test]
fn listen_gives_the_key_its_session_and_nothing_else() {
    listen_door(|door| {
        door.must_be_shut();
        door.strangers();
    });
}

#[test]
fn ten_sessions_at_sshd() {
    sshd_door(Door::ten_at_once);
}

#[test]
fn ten_sessions_at_listen() {
    listen_door(Door::ten_at_once);
}

#[test]
fn a_revoked_key_is_a_stranger_at_listen() {
    listen_door(|door| {
        door.vault.run().args(["revoke", "web1"]).ok();
        door.source.backup(&door.place.join("data")).done().code_in(&[10, 14]).helps();
    });
}

//! The two doors: a real sshd with the printed authorized_keys lines, and `remote-sink listen`.

use crate::programs::{self, tool};
use crate::run::{self, Account, Run, Running};
use crate::vault::Vault;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The account that `deploy/setup` makes for these tests.
pub const TEST_ACCOUNT: &str = "pawl-test-sink";
const LONGEST_START: Duration = Duration::from_secs(60);

/// The test account; `None` only where the user of the tests chose to go without.
pub fn account() -> Option<Account> {
    let wanted = std::env::var("PAWL_TESTS_NO_SSHD").as_deref() != Ok("1");
    if !wanted {
        eprintln!("PAWL_TESTS_NO_SSHD=1: this test of the sshd door did not run");
        return None;
    }
    assert!(
        rustix::process::geteuid().is_root(),
        "tests of the sshd door start an sshd for another account and need root; PAWL_TESTS_NO_SSHD=1 leaves them out"
    );
    let account = Account::find(TEST_ACCOUNT);
    assert!(account.is_some(), "the account {TEST_ACCOUNT} is missing: run deploy/setup");
    account
}

/// A free port of the loopback interface.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server with an SSH banner on a port.
fn answers(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(2)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut banner = [0; 4];
    stream.read_exact(&mut banner).is_ok() && &banner == b"SSH-"
}

/// An OpenSSH server as generous as can be: whatever is refused, the key's own line refuses.
#[derive(Debug)]
pub struct Sshd {
    pub port: u16,
    pub account: Account,
    dir: PathBuf,
    running: Option<Running>,
}

impl Sshd {
    /// Starts it below `dir`.
    pub fn start(dir: &Path, account: Account) -> Self {
        let dir = dir.join("sshd");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::create_dir_all("/run/sshd").unwrap();
        let host_key = dir.join("host_key");
        if !host_key.exists() {
            Run::new(tool("ssh-keygen")).args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&host_key).ok();
        }
        // Another test may take a port between our choice and the server's bind.
        for _ in 0..5 {
            let mut server = Self { port: free_port(), account: account.clone(), dir: dir.clone(), running: None };
            if server.run() {
                return server;
            }
        }
        panic!("sshd does not start");
    }

    fn run(&mut self) -> bool {
        let dir = self.dir.display();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {dir}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n\
             AuthorizedKeysFile {dir}/authorized_keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             AllowUsers {user}\nSubsystem sftp internal-sftp\nAllowTcpForwarding yes\nAllowAgentForwarding yes\n\
             AllowStreamLocalForwarding yes\nGatewayPorts yes\nX11Forwarding yes\nPermitTunnel yes\nPermitTTY yes\n\
             PermitUserEnvironment yes\nAcceptEnv *\nMaxSessions 20\nMaxStartups 100\nLogLevel VERBOSE\n",
            port = self.port,
            user = self.account.name,
        );
        std::fs::write(self.dir.join("sshd_config"), config).unwrap();
        if !self.dir.join("authorized_keys").exists() {
            std::fs::write(self.dir.join("authorized_keys"), "").unwrap();
        }
        let run = Run::new(tool("sshd")).args(["-D", "-e", "-f"]).arg(self.dir.join("sshd_config"));
        let mut running = run.begin();
        let start = std::time::Instant::now();
        while start.elapsed() < LONGEST_START {
            if running.is_over() {
                eprintln!("{}", running.end().tell());
                return false;
            }
            if answers(self.socket()) {
                self.running = Some(running);
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        running.kill();
        false
    }

    pub fn socket(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }
    /// USER@HOST:PORT for `enroll --address`.
    pub fn address(&self) -> String {
        format!("{}@127.0.0.1:{}", self.account.name, self.port)
    }
    pub fn host_key_file(&self) -> PathBuf {
        self.dir.join("host_key.pub")
    }
    /// Adds a printed line.
    pub fn authorize(&self, line: &str) {
        let path = self.dir.join("authorized_keys");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}{line}\n")).unwrap();
    }
    /// Swaps the host key, as another host behind the address would have it.
    pub fn with_other_host_key(mut self) -> Self {
        self.stop();
        std::fs::remove_file(self.dir.join("host_key")).unwrap();
        std::fs::remove_file(self.host_key_file()).unwrap();
        Run::new(tool("ssh-keygen")).args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(self.dir.join("host_key")).ok();
        assert!(self.run(), "sshd with another host key");
        self
    }
    fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill();
            running.end();
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// `remote-sink listen` on an ephemeral port.
#[derive(Debug)]
pub struct Listen {
    pub port: u16,
    running: Option<Running>,
}

impl Listen {
    pub fn start(vault: &Vault) -> Self {
        for _ in 0..5 {
            if let Some(server) = Self::start_at(vault, free_port()) {
                return server;
            }
        }
        panic!("remote-sink listen does not start");
    }

    /// On this port; `None` if it does not start.
    pub fn start_at(vault: &Vault, port: u16) -> Option<Self> {
        let mut running = vault.run().args(["listen", "--address", &format!("127.0.0.1:{port}")]).begin();
        let start = std::time::Instant::now();
        while start.elapsed() < LONGEST_START {
            if running.is_over() {
                eprintln!("{}", running.end().tell());
                return None;
            }
            if answers(SocketAddr::from(([127, 0, 0, 1], port))) {
                return Some(Self { port, running: Some(running) });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        running.kill();
        None
    }

    pub fn address(&self) -> String {
        format!("backup@127.0.0.1:{}", self.port)
    }
    pub fn id(&self) -> u32 {
        self.running.as_ref().expect("it runs").id()
    }
    /// Ends it and gives back what it said.
    pub fn stop(mut self) -> run::Done {
        let mut running = self.running.take().expect("it runs");
        running.kill();
        running.end()
    }
}

impl Drop for Listen {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill();
            running.end();
        }
    }
}

/// The system's `ssh` with one private key and nothing else from this machine; the host key is not looked at.
pub fn ssh(key: &Path, port: u16) -> Run {
    with_options(Run::new(tool("ssh")), key).args(["-p", &port.to_string()])
}

/// The system's `sftp` in the same way.
pub fn sftp(key: &Path, port: u16) -> Run {
    with_options(Run::new(tool("sftp")), key).args(["-P", &port.to_string()])
}

/// The system's `scp` in the same way.
pub fn scp(key: &Path, port: u16) -> Run {
    with_options(Run::new(tool("scp")), key).args(["-P", &port.to_string()])
}

fn with_options(run: Run, key: &Path) -> Run {
    let options = [
        "BatchMode=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "GlobalKnownHostsFile=/dev/null",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "LogLevel=ERROR",
        "ConnectTimeout=30",
        "ServerAliveInterval=30",
    ];
    let run = run.args(["-F", "/dev/null", "-i"]).arg(key);
    options.iter().fold(run, |run, option| run.args(["-o", option]))
}

/// A `Host` of ssh_config with a strict host key, for the transport that uses the system's `ssh`, in `dir`; and a
/// wrapper named `ssh` there, because ssh takes the home directory from the password file and not from HOME.
pub fn ssh_config(dir: &Path, host: &str, address: &str, key: &Path, host_keys: &[String]) {
    let (user, place) = address.split_once('@').expect("user@host:port");
    let (name, port) = place.rsplit_once(':').expect("host:port");
    let known: String = host_keys.iter().map(|key| format!("[{name}]:{port} {key}\n")).collect();
    std::fs::write(dir.join("known"), known).unwrap();
    let text = format!(
        "Host {host}\n HostName {name}\n Port {port}\n User {user}\n IdentityFile {}\n IdentitiesOnly yes\n \
         IdentityAgent none\n UserKnownHostsFile {}\n StrictHostKeyChecking yes\n",
        key.display(),
        dir.join("known").display()
    );
    std::fs::write(dir.join("ssh_config"), text).unwrap();
    let text = format!("#!/bin/sh\nexec {} -F {} \"$@\"\n", tool("ssh").display(), dir.join("ssh_config").display());
    programs::script(&dir.join("ssh"), &text);
}

/// Is the program that a test needs here? Tests of tools nobody must have call this.
pub fn has(name: &str) -> bool {
    programs::has_tool(name)
}

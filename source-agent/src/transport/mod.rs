//! Blocking byte streams to a sink, whatever lies below: SSH of our own, the system's `ssh`, a process on this machine.

mod child;
mod ending;
mod local;
mod openssh;
mod queue;
mod ssh;
mod ssh_session;
mod stream;
#[cfg(test)]
mod tests;

pub use ending::{Connection, Ending, Guard};
pub use stream::{Activity, StreamReader, StreamWriter, stream};

use crate::config::{Loaded, Place, Remote};
use crate::keys;
use crate::report::Outcome;
use rustix::net::sockopt::set_tcp_congestion;
use rustix::net::{AddressFamily, SocketType};
use shared::card::SshKey;
use shared::id::SourceName;
use shared::wire::Role;
use std::io::{Read, Write};

/// What is asked of a remote's shell; a forced command ignores it.
const COMMAND: &str = "remote-sink serve";

/// A connection: reading, writing, and what ends and explains it. Dropping `writer` tells the sink that no more comes.
pub struct Pipe {
    pub reader: Box<dyn Read + Send>,
    pub writer: Box<dyn Write + Send>,
    pub guard: Guard,
}

/// Opens a connection to a remote. What the sink then says is not yet read. Only a sink on this machine is told the
/// `role`; elsewhere the key decides.
pub fn open(loaded: &Loaded, remote: &Remote, role: Role) -> Outcome<Pipe> {
    let timeout = loaded.config.limits.timeout();
    let names = |source: &SourceName| Names { remote: remote.name.clone(), source: source.to_string() };
    let opened = loaded.place(remote).and_then(|place| match place {
        Place::Ssh { user, host, port, source, identity_file, .. } => {
            let key = keys::load_ssh_key(&identity_file)?;
            let (pins, congestion) = (pins(&remote.host_key), remote.tcp_congestion.clone());
            let target = ssh::Target { user, host, port, pins, names: names(&source), congestion };
            ssh::open(&target, key, timeout)
        }
        Place::SshHost { host, source } => {
            openssh::open(openssh::Target::new(loaded, remote, host, names(&source))?, timeout)
        }
        Place::Path { path, source } => local::open(&path, &source, role, timeout),
    });
    opened.map_err(|failure| failure.remote(&remote.name))
}

/// Why the kernel does not give this remote the congestion control that is configured; `None`: it does, or none is. A
/// connection is made all the same, with the system's.
pub fn congestion_fault(remote: &Remote) -> Option<String> {
    let name = remote.tcp_congestion.as_ref()?;
    let set = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)
        .and_then(|socket| set_tcp_congestion(&socket, name));
    let why = std::io::Error::from(set.err()?);
    Some(format!("remote {}: no tcp-congestion '{name}' on this machine, the system's is used: {why}", remote.name))
}

/// What [`congestion_fault`] calls for.
pub const CONGESTION_HELP: &str =
    "load it (modprobe tcp_bbr for bbr), or allow it to other users than root: net.ipv4.tcp_allowed_congestion_control";

/// What help lines call things by: the remote here, and this source at the sink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    pub remote: String,
    pub source: String,
}

impl Names {
    /// Help for a host key that is not the pinned one.
    fn repin(&self) -> String {
        let Self { remote, source } = self;
        format!(
            "ask the operator for the new key (remote-sink card {source}), then: \
             source-agent remote repin {remote} 'sink-card:1,...'"
        )
    }
}

/// A host key that may be offered, and when it was pinned, where the configuration says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    pub key: SshKey,
    pub since: Option<String>,
}

/// What the date of a pinned host key begins with, in the comment of its line.
pub const PINNED: &str = "pinned-";

/// Host keys of the configuration: `ssh-ed25519 AAAA… [pinned-2026-11-21]`.
pub fn pins(lines: &[String]) -> Vec<Pin> {
    let pin = |line: &String| {
        let since = line.split_ascii_whitespace().find_map(|word| word.strip_prefix(PINNED)).map(str::to_owned);
        Some(Pin { key: SshKey::from_openssh(line)?, since })
    };
    lines.iter().filter_map(pin).collect()
}

/// The fingerprint of a key blob as OpenSSH shows it.
pub fn fingerprint(blob: &[u8]) -> String {
    use sha2::Digest;
    format!("SHA256:{}", data_encoding::BASE64_NOPAD.encode(&sha2::Sha256::digest(blob)))
}

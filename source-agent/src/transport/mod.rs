//! Blocking byte streams to a sink, whatever lies below: SSH of our own, the system's `ssh`, a process on this machine.

mod ending;
mod local;
mod openssh;
mod ssh;
mod stream;

pub use ending::{Ending, Guard};
pub use stream::{Activity, StreamReader, StreamWriter, stream};

use crate::config::{Loaded, Place, Remote};
use crate::report::Outcome;
use std::io::{Read, Write};
use std::time::Duration;

/// A remote silent for so long has failed, where the configuration says nothing else.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A connection: reading, writing, and what ends and explains it. Dropping `writer` tells the sink that no more comes.
pub struct Pipe {
    pub reader: Box<dyn Read + Send>,
    pub writer: Box<dyn Write + Send>,
    pub guard: Guard,
}

/// Opens a connection to a remote. What the sink then says is not yet read.
pub fn open(loaded: &Loaded, remote: &Remote) -> Outcome<Pipe> {
    let timeout = loaded.config.limits.timeout.map_or(TIMEOUT, |age| age.duration());
    let opened = match loaded.place(remote)? {
        Place::Ssh { user, host, port, host_keys, identity_file, .. } => {
            ssh::open(ssh::Target { user, host, port, host_keys, identity_file }, &remote.name, timeout)
        }
        Place::SshHost { host, .. } => openssh::open(&openssh::Target::new(loaded, remote, host)?, timeout),
        Place::Path { path, source } => local::open(&path, &source, timeout),
    };
    opened.map_err(|failure| failure.remote(&remote.name))
}

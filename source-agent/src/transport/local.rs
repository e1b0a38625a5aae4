//! A sink on this machine: `remote-sink serve` as a child.

use crate::report::{Failure, Outcome};
use crate::transport::{Pipe, child};
use shared::id::SourceName;
use shared::wire::Role;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub fn open(root: &Path, source: &SourceName, role: Role, timeout: Duration) -> Outcome<Pipe> {
    if !root.is_dir() {
        let error = std::io::Error::from(std::io::ErrorKind::NotFound);
        let mut failure = Failure::io("find the vault", root, &error);
        failure.exit = crate::report::Exit::Unreachable;
        return Err(failure.help("is the disk mounted? a new vault is made with: remote-sink init --root DIR"));
    }
    let mut command = Command::new(program());
    command.arg("serve").arg("--root").arg(root);
    command.args(["--source", source.as_str(), "--role", role.as_str()]);
    child::spawn(command, timeout, Box::new(|_, _| None))
        .map_err(|failure| failure.help("install remote-sink on this machine, beside source-agent or on the PATH"))
}

/// The sink's program that came with this one, else the one on the PATH.
fn program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("remote-sink"));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("remote-sink"))
}

//! A stream as the one file of a snapshot: standard input, or the output of a command. If the command fails there is
//! no snapshot.

use super::list::Content;
use super::meta::{self, now};
use super::outcome::Met;
use super::read::{Reader, set_content};
use super::tree::{Dir, Filled, Output, Own, fill, release};
use super::users::Users;
use crate::cli::interrupted;
use crate::index::record::{self, StatKey};
use crate::index::series::SeriesReader;
use crate::index::uses::Uses;
use crate::report::{Exit, Failure, Outcome};
use crate::tree::{Entry, EntryKind};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use shared::codec::{self, Blob};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// Where a stream comes from.
#[derive(Debug, Clone)]
pub enum From {
    /// Standard input.
    Once(Once),
    /// Program and arguments; no shell.
    Command(Vec<String>),
}

impl From {
    pub fn stdin() -> Self {
        Self::Once(Once::new(Waiting(rustix::stdio::stdin())))
    }
}

/// How long an input that says nothing is waited for before signals are looked at, in nanoseconds.
const WAIT_NANOSECONDS: i64 = 200_000_000;

/// An input that may say nothing for as long as it likes, and still lets a signal end the run.
struct Waiting<F>(F);

impl<F: AsFd> Read for Waiting<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if interrupted() {
                return Err(io::Error::other("interrupted"));
            }
            let wait = Timespec { tv_sec: 0, tv_nsec: WAIT_NANOSECONDS };
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&wait)) {
                Ok(0) | Err(Errno::INTR) => {}
                // Ready, at its end, or no descriptor that can be polled: reading tells.
                _ => return Ok(rustix::io::read(&self.0, &mut *buffer)?),
            }
        }
    }
}

/// An input that can be read once. Clones share it: a second reading is an error and never an empty file.
#[derive(Clone)]
pub struct Once(Arc<Mutex<Option<Box<dyn Read + Send>>>>);

impl Once {
    pub fn new(input: impl Read + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(input)))))
    }

    /// Was it read?
    pub fn is_spent(&self) -> bool {
        self.0.lock().is_none()
    }

    fn take(&self) -> Outcome<Box<dyn Read + Send>> {
        let spent = || Failure::new("stream", Exit::Failed, "standard input was read already and cannot be read twice");
        self.0.lock().take().ok_or_else(spent)
    }
}

impl std::fmt::Debug for Once {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Once").field("spent", &self.is_spent()).finish()
    }
}

/// Checks the name of the file that a stream becomes.
pub fn check_name(name: &str) -> Outcome<()> {
    if crate::tree::node::is_name(name.as_bytes()) && name.len() <= shared::limits::NAME_BYTES_MAX {
        return Ok(());
    }
    let message = format!("'{}' is no name for a file", super::outcome::shown(name.as_bytes()));
    Err(Failure::new("stdin-name", Exit::Usage, message).help("a name without a slash, such as all.sql"))
}

/// Stores the stream as `/NAME`.
pub fn store(
    from: &From,
    name: &str,
    reader: &mut Reader,
    series: &mut SeriesReader,
    users: &Users,
    output: &Output,
) -> Outcome<()> {
    let (content, bytes, uses) = match from {
        From::Once(input) => reader.stream(&mut *input.take()?)?,
        From::Command(argv) => run(argv, reader)?,
    };
    let met: Arc<Met> = Arc::clone(&reader.store().shared().met);
    let old = series.dir(b"")?.map(Arc::new);
    let counter = if old.is_some() { &met.files_changed } else { &met.files_new };
    counter.add(1);
    met.files.add(1);
    met.directories.add(1);
    met.bytes.add(bytes);
    let record = file(name, content, bytes, &uses, users)?;
    let zero = crate::tree::Time { seconds: 0, nanoseconds: 0 };
    let stat = StatKey { inode: 0, size: 0, modified: zero, changed: zero };
    let own = Own { name: Vec::new(), stat, trusted: false, kept: None, fresh: None };
    let top = Dir::new(Vec::new(), None, own, old, vec![None], true);
    fill(Arc::clone(&top), 0, Filled::New(record), reader.store(), output)?;
    release(&top, reader.store(), output)
}

fn file(name: &str, content: Content, bytes: u64, uses: &Uses, users: &Users) -> Outcome<Vec<u8>> {
    let nanoseconds = now();
    let time = meta::time((nanoseconds / 1_000_000_000) as i64, (nanoseconds % 1_000_000_000) as u64);
    let mut entry = Entry {
        name: Blob::new(name.into()).map_err(|_| crate::index::Corrupt)?,
        kind: EntryKind::File,
        mode: 0o600,
        user: users.user(rustix::process::geteuid().as_raw()),
        group: users.group(rustix::process::getegid().as_raw()),
        modified: time,
        changed: time,
        inode: 0,
        size: 0,
        hard_link: None,
        extents: None,
        list: None,
        node: None,
        target: None,
        device: None,
        xattrs: None,
    };
    set_content(&mut entry, content, bytes)?;
    let stat = StatKey { inode: 0, size: bytes, modified: time, changed: time };
    Ok(record::write(name.as_bytes(), EntryKind::File, false, &stat, &codec::encode(&entry), uses))
}

/// Ends the command if it was not waited for.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, or is not wanted any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(argv: &[String], reader: &mut Reader) -> Outcome<(Content, u64, Uses)> {
    let failed = |why: String| {
        let shown = shared::text::printable(argv.join(" ").as_bytes(), 1000);
        Failure::new("command", Exit::Failed, format!("the command '{shown}' {why}; no snapshot was made"))
            .help("run it by hand, as the same user; what it said stands above")
    };
    let Some((program, arguments)) = argv.split_first() else { return Err(failed("is empty".into())) };
    let child = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = Running(child.map_err(|e| failed(format!("cannot be started: {e}")))?);
    let mut output = Waiting(child.0.stdout.take().ok_or_else(|| failed("has no output".into()))?);
    let read = reader.stream(&mut output as &mut dyn Read)?;
    let status = child.0.wait().map_err(|e| failed(format!("cannot be waited for: {e}")))?;
    if status.success() { Ok(read) } else { Err(failed(format!("failed: {status}"))) }
}

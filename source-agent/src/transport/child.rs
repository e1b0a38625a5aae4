//! A child process at the other end of a socket pair: `ssh`, or a sink on this machine.

use crate::report::{Exit, Failure, Outcome};
use crate::transport::ending::{Connection, Ending, Guard, Tail};
use crate::transport::{Pipe, stream};
use parking_lot::Mutex;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a child's end is waited for, to say how it came.
const ENDING_WAIT: Duration = Duration::from_secs(3);
/// How long a child may take to end by itself when its input has ended.
const STOP_WAIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);

/// Turns what is known about a child's end into the transport's own words.
pub type Classify = Box<dyn Fn(Option<u32>, &[u8]) -> Option<(&'static str, String, Option<String>)> + Send + Sync>;

struct Held {
    child: Mutex<Child>,
    /// Our end, for [`Connection::stop`].
    socket: UnixStream,
    stderr: Arc<Mutex<Tail>>,
    drained: crossbeam_channel::Receiver<()>,
    classify: Classify,
}

/// Starts a program whose standard input and output are a sink's.
pub fn spawn(mut command: Command, timeout: Duration, classify: Classify) -> Outcome<Pipe> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |e: io::Error| {
        let code = if e.kind() == io::ErrorKind::NotFound { "not-installed" } else { "start" };
        let shown = shared::text::printable(program.as_bytes(), 200);
        Failure::new(code, Exit::Unreachable, format!("cannot start {shown}: {e}"))
    };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let input = OwnedFd::from(theirs.try_clone().map_err(failed)?);
    command.stdin(Stdio::from(input)).stdout(Stdio::from(OwnedFd::from(theirs))).stderr(Stdio::piped());
    // An interrupt at the terminal is ours to handle: the session is ended in order.
    let mut child = command.process_group(0).spawn().map_err(failed)?;
    // Our copies of its end: with them open, its end would not show.
    drop(command);
    let stderr = Arc::new(Mutex::new(Tail::default()));
    let (draining, drained) = crossbeam_channel::bounded::<()>(0);
    if let Some(from) = child.stderr.take() {
        let tail = stderr.clone();
        // Ends with the child; `draining` is dropped then.
        let reading = std::thread::Builder::new().name("stderr".into()).spawn(move || {
            drain(from, &tail);
            drop(draining);
        });
        reading.map_err(failed)?;
    }
    let socket = ours.try_clone().map_err(failed)?;
    let guard = Guard::new(Held { child: Mutex::new(child), socket, stderr, drained, classify });
    let (reader, writer) = stream(ours, timeout).map_err(failed)?;
    Ok(Pipe { reader: Box::new(reader), writer: Box::new(writer), guard })
}

fn drain(mut from: ChildStderr, tail: &Mutex<Tail>) {
    let mut bytes = [0; 4096];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return,
            Ok(n) => tail.lock().push(&bytes[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

impl Held {
    /// Waits a bounded while; a process that stays is no error.
    fn wait(&self, most: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.lock().try_wait() {
                return Some(status);
            }
            if start.elapsed() >= most {
                return None;
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Connection for Held {
    fn ending(&self) -> Ending {
        let status = self.wait(ENDING_WAIT);
        if status.is_some() {
            // Its last words may still be on their way; a grandchild may hold the pipe open for ever.
            let _ = self.drained.recv_timeout(Duration::from_millis(500));
        }
        let code = status.map(|status| match status.code() {
            Some(code) => u32::try_from(code).unwrap_or(u32::MAX),
            None => 128 + u32::try_from(status.signal().unwrap_or(0)).unwrap_or(0),
        });
        let stderr = self.stderr.lock().bytes();
        let reason = (self.classify)(code, &stderr);
        Ending { status: code, stderr, reason }
    }

    fn stop(&self) {
        if self.wait(STOP_WAIT).is_none() {
            let mut child = self.child.lock();
            // It may have ended just now; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
        // A grandchild may hold the other end open: who still reads here is woken all the same.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

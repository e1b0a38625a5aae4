//! How a connection ended, in words.

use crate::report::{Exit, Failure};
use shared::text::printable;
use std::sync::Arc;

/// What a transport knows about its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ending {
    /// Exit status of the sink's process, or of `ssh`.
    pub status: Option<u32>,
    /// The last lines of standard error, unchecked text of the other side.
    pub stderr: Vec<u8>,
    /// A code and sentence that the transport itself has for it, and a help line.
    pub reason: Option<(&'static str, String, Option<String>)>,
}

/// What a transport offers while it lives.
pub trait Connection: Send + Sync {
    /// Waits a short, bounded while for the end, and says how it came.
    fn ending(&self) -> Ending;
    /// Ends it now.
    fn stop(&self);
}

/// Ends the connection when the last clone is dropped.
#[derive(Clone)]
pub struct Guard(Arc<Held>);

struct Held(Box<dyn Connection>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Guard {
    pub fn new(connection: impl Connection + 'static) -> Self {
        Self(Arc::new(Held(Box::new(connection))))
    }

    /// Why there is no more to read or write: the transport's own words before the bare `cause`.
    pub fn explain(&self, cause: &str) -> Failure {
        self.0.0.ending().failure(cause)
    }

    pub fn ending(&self) -> Ending {
        self.0.0.ending()
    }

    /// Ends the connection now, whoever else holds it.
    pub fn stop(&self) {
        self.0.0.stop();
    }
}

/// Help for a remote that starts no sink.
pub const NOT_INSTALLED: &str =
    "install remote-sink there, or have the operator write its absolute path (remote-sink enroll does)";

impl Ending {
    pub fn failure(&self, cause: &str) -> Failure {
        let failure = match (&self.reason, self.status) {
            (Some((code, message, help)), _) => {
                let failure = Failure::new(code, Exit::Unreachable, message.clone());
                match help {
                    Some(help) => failure.help(help.clone()),
                    None => failure,
                }
            }
            (None, Some(127)) => Failure::new("not-installed", Exit::Unreachable, "remote-sink is not installed there")
                .help(NOT_INSTALLED),
            (None, Some(status)) if status != 0 => {
                let message = format!("the sink's program ended with exit code {status}: {cause}");
                Failure::new("sink-ended", Exit::Unreachable, message)
            }
            _ => Failure::new("connection-lost", Exit::Unreachable, format!("the connection ended: {cause}")),
        };
        self.told().into_iter().fold(failure, |failure, line| failure.detail(format!("it said: {line}")))
    }

    /// What standard error ends with: the last line that tells an error and the `help:` that goes with it, else the
    /// last line.
    fn told(&self) -> Vec<String> {
        let lines: Vec<String> = self.lines().map(|line| printable(line, 300)).collect();
        let Some(at) = lines.iter().rposition(|line| line.starts_with("error")) else {
            return lines.into_iter().next_back().into_iter().collect();
        };
        let help = lines[at..].iter().find(|line| line.starts_with("help:"));
        [&lines[at]].into_iter().chain(help).cloned().collect()
    }

    fn lines(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        let lines = self.stderr.split(|b| *b == b'\n' || *b == b'\r').map(<[u8]>::trim_ascii);
        lines.filter(|line| !line.is_empty())
    }

    /// The last line of standard error that says something.
    pub fn last_line(&self) -> Option<String> {
        self.lines().next_back().map(|line| printable(line, 300))
    }
}

/// Keeps the last bytes of a stream of unknown length.
#[derive(Debug, Default)]
pub struct Tail(Vec<u8>);

impl Tail {
    const BYTES_MAX: usize = 4096;

    pub fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(Self::BYTES_MAX)..];
        let surplus = (self.0.len() + bytes.len()).saturating_sub(Self::BYTES_MAX);
        self.0.drain(..surplus.min(self.0.len()));
        self.0.extend_from_slice(bytes);
    }
    pub fn bytes(&self) -> Vec<u8> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_its_help_and_else_the_last_line() {
        let told = |stderr: &str| {
            let ending = Ending { status: Some(1), stderr: stderr.into(), reason: None };
            ending.failure("it ended").details
        };
        assert_eq!(told(""), [""; 0]);
        assert_eq!(told("one\ntwo\n\n"), ["it said: two"]);
        let error =
            "noise\nerror[first]: no\n  help: no\nerror[no-vault]: /v is no\x1b[2J vault\n  help: make one\nbye\n";
        let lines = told(error);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("it said: error[no-vault]: /v is no") && !lines[0].contains('\x1b'), "{lines:?}");
        assert_eq!(lines[1], "it said: help: make one");
        assert_eq!(told("error: alone\nlast\n"), ["it said: error: alone"]);
    }
}

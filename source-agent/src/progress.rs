//! Progress and notes on standard error: bars on a terminal, one line a minute and on SIGUSR1 off it, JSON lines
//! with `--json`.

use crate::cli::Context;
use std::sync::Arc;

/// One counter that is shown. Cheap to add to from many threads; clones count together.
#[derive(Clone)]
pub struct Progress {
    inner: Arc<()>,
}

impl Progress {
    /// `what` names the line: `reading`, `offsite`. `total` in bytes, when known.
    pub fn new(_context: &Context, _what: &str, _total: Option<u64>) -> Self {
        Self { inner: Arc::new(()) }
    }
    /// Shows nothing; for tests and library users.
    pub fn hidden() -> Self {
        Self { inner: Arc::new(()) }
    }
    /// Bytes done since the last call.
    pub fn add(&self, _bytes: u64) {}
    /// Bytes to do in all.
    pub fn set_total(&self, _bytes: u64) {}
    /// Files done since the last call.
    pub fn files(&self, _count: u64) {}
    /// Files to do in all.
    pub fn set_total_files(&self, _count: u64) {}
    /// What is being done now, such as a path; shown on a terminal and in JSON. Made printable here.
    pub fn message(&self, _text: &str) {}
    pub fn bytes_done(&self) -> u64 {
        0
    }
    pub fn files_done(&self) -> u64 {
        0
    }
    /// Takes the line away. Dropping the last clone does the same.
    pub fn finish(&self) {
        let _ = Arc::strong_count(&self.inner);
    }
}

/// A line for people on standard error; silent with `-q` and `--json`.
pub fn notice(_context: &Context, _line: &str) {}

/// A line with `-v` only.
pub fn detail(_context: &Context, _line: &str) {}

/// A warning on standard error; with `--json` a line of message type "error".
pub fn warn(_context: &Context, _line: &str) {}

/// A size as people read it: `311 KiB`, `6.21 GiB`.
pub fn size(_bytes: u64) -> String {
    String::new()
}

/// A number with thousands separators: `18,204`.
pub fn count(_number: u64) -> String {
    String::new()
}

/// A duration: `02:11`, `1:02:11`.
pub fn elapsed(_duration: std::time::Duration) -> String {
    String::new()
}

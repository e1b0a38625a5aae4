//! A Unix socket as a reader and a writer that give up when neither direction has moved for a while.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When bytes last moved, in either direction.
#[derive(Debug)]
pub struct Activity {
    start: Instant,
    last_ms: AtomicU64,
    timeout: Duration,
}

impl Activity {
    /// One for both directions, and how often a call that waits must look at it.
    pub(super) fn watched(timeout: Duration) -> (Arc<Self>, Duration) {
        let timeout = timeout.max(Duration::from_millis(10));
        let slice = (timeout / 4).clamp(Duration::from_millis(10), Duration::from_secs(5));
        (Arc::new(Self { start: Instant::now(), last_ms: AtomicU64::new(0), timeout }), slice)
    }
    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
    fn moved(&self) {
        self.last_ms.store(self.now_ms(), Ordering::Relaxed);
    }
    fn is_stale(&self) -> bool {
        let idle = self.now_ms().saturating_sub(self.last_ms.load(Ordering::Relaxed));
        u128::from(idle) >= self.timeout.as_millis()
    }
}

/// The reading half.
pub struct StreamReader {
    socket: UnixStream,
    activity: Arc<Activity>,
}

/// The writing half; dropping it ends the stream towards the sink.
pub struct StreamWriter {
    socket: UnixStream,
    activity: Arc<Activity>,
}

/// Splits a socket. Calls wake up often enough to see that nothing moves, and then fail with `TimedOut`.
pub fn stream(socket: UnixStream, timeout: Duration) -> io::Result<(StreamReader, StreamWriter)> {
    let (activity, slice) = Activity::watched(timeout);
    socket.set_read_timeout(Some(slice))?;
    socket.set_write_timeout(Some(slice))?;
    let reading = socket.try_clone()?;
    Ok((StreamReader { socket: reading, activity: activity.clone() }, StreamWriter { socket, activity }))
}

/// A socket's timeout shows as `WouldBlock`.
fn is_slice_over(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Repeats a step that waits for a slice of time until it is done, or nothing moves any more.
pub(super) fn patiently(activity: &Activity, mut step: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    // A wait begins now: silence while nobody waited is no fault of the sink.
    activity.moved();
    loop {
        match step() {
            Ok(bytes) => {
                activity.moved();
                return Ok(bytes);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if is_slice_over(&e) && !activity.is_stale() => {}
            Err(e) if is_slice_over(&e) => {
                let text = format!("nothing moved for {} s", activity.timeout.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            Err(e) => return Err(e),
        }
    }
}

impl Read for StreamReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let socket = &mut self.socket;
        patiently(&self.activity, || socket.read(into))
    }
}

impl Write for StreamWriter {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let socket = &mut self.socket;
        patiently(&self.activity, || socket.write(from))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        // The other side may have closed already; then there is nothing to tell it.
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

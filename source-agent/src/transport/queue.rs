//! Bytes between blocking callers and the thread that runs a connection: one bounded queue for each direction. Callers
//! give up when neither direction has moved for a while.

use crate::transport::stream::{Activity, patiently};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// What may wait in one direction, and one piece.
const QUEUE_BYTES: usize = 512 << 10;
/// Who waited for room goes on when so much is left: fewer switches between the threads.
const REFILL_BYTES: usize = QUEUE_BYTES / 2;
/// Bytes of a caller that make one piece.
const PIECE_BYTES: usize = 64 << 10;
/// What a piece takes besides its bytes: it counts, or many small ones would be beyond all bounds.
const PIECE_COSTS: usize = 256;
/// Writes up to this size join the piece before them.
const SMALL_BYTES: usize = 4 << 10;
/// Buffers that wait for their next use: as many as are on their way at once, or little more.
const SPARES_MAX: usize = 2 * QUEUE_BYTES / PIECE_BYTES;

struct Queue<P> {
    state: Mutex<State<P>>,
    /// The caller waits here, the connection's thread there.
    caller: Condvar,
    thread: Notify,
}

struct State<P> {
    pieces: VecDeque<P>,
    /// Bytes of the first piece that were taken already.
    taken: usize,
    bytes: usize,
    /// Nothing is put in until less than [`REFILL_BYTES`] wait.
    full: bool,
    /// Nothing more will be put in.
    ended: bool,
    /// Nothing more will be taken.
    abandoned: bool,
}

impl<P> Queue<P> {
    fn new() -> Arc<Self> {
        let pieces = VecDeque::new();
        let state = State { pieces, taken: 0, bytes: 0, full: false, ended: false, abandoned: false };
        Arc::new(Self { state: Mutex::new(state), caller: Condvar::new(), thread: Notify::new() })
    }
    fn end(&self) {
        self.state.lock().ended = true;
        self.wake();
    }
    fn abandon(&self) {
        let mut state = self.state.lock();
        state.abandoned = true;
        state.pieces.clear();
        drop(state);
        self.wake();
    }
    fn wake(&self) {
        self.caller.notify_one();
        self.thread.notify_one();
    }
    /// The state as soon as it is other than `blocked`; `WouldBlock` if it stays so for `slice`.
    fn when(
        &self,
        slice: Duration,
        mut blocked: impl FnMut(&State<P>) -> bool,
    ) -> io::Result<MutexGuard<'_, State<P>>> {
        let mut state = self.state.lock();
        if self.caller.wait_while_for(&mut state, |state| blocked(state), slice).timed_out() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(state)
    }
}

impl<P> State<P> {
    fn put(&mut self, piece: P, bytes: usize) {
        self.pieces.push_back(piece);
        self.added(bytes + PIECE_COSTS);
    }
    fn added(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.full |= self.bytes >= QUEUE_BYTES;
    }
    /// Says whether somebody who waited for room may go on.
    fn removed(&mut self, bytes: usize) -> bool {
        self.bytes -= bytes;
        let refill = self.full && self.bytes <= REFILL_BYTES;
        self.full &= !refill;
        refill
    }
}

/// Bytes of a caller, in a buffer that is used again when they are gone: buffers that one thread makes and another one
/// frees cost more than the copy.
pub struct Piece {
    bytes: Vec<u8>,
    spares: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut spares = self.spares.lock();
        if spares.len() < SPARES_MAX {
            spares.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// A caller's reading end: the bytes that came, then the end.
pub struct Reader {
    queue: Arc<Queue<Bytes>>,
    activity: Arc<Activity>,
    slice: Duration,
}

/// A caller's writing end; dropping it tells the thread that no more comes.
pub struct Writer {
    queue: Arc<Queue<Piece>>,
    spares: Arc<Mutex<Vec<Vec<u8>>>>,
    activity: Arc<Activity>,
    slice: Duration,
}

/// The thread's end of what comes. Dropping it ends the stream.
pub struct Incoming(Arc<Queue<Bytes>>);

/// The thread's end of what goes out. When it is dropped, the caller's writes fail.
pub struct Outgoing(Arc<Queue<Piece>>);

/// Two queues and their ends.
pub fn queues(timeout: Duration) -> (Reader, Writer, Incoming, Outgoing) {
    let (activity, slice) = Activity::watched(timeout);
    let (incoming, outgoing) = (Queue::new(), Queue::new());
    let reader = Reader { queue: Arc::clone(&incoming), activity: Arc::clone(&activity), slice };
    let writer = Writer { queue: Arc::clone(&outgoing), spares: Arc::default(), activity, slice };
    (reader, writer, Incoming(incoming), Outgoing(outgoing))
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        patiently(&self.activity, || {
            let mut state = self.queue.when(self.slice, |state| state.pieces.is_empty() && !state.ended)?;
            let State { pieces, taken, .. } = &mut *state;
            let Some(first) = pieces.front() else { return Ok(0) };
            let rest = first.get(*taken..).unwrap_or_default();
            let bytes = rest.len().min(into.len());
            into[..bytes].copy_from_slice(&rest[..bytes]);
            *taken += bytes;
            let done = if bytes == rest.len() { pieces.pop_front() } else { None };
            if done.is_some() {
                *taken = 0;
            }
            let refill = state.removed(bytes + if done.is_some() { PIECE_COSTS } else { 0 });
            drop(state);
            if refill {
                self.queue.thread.notify_one();
            }
            Ok(bytes)
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

impl Writer {
    fn piece(&self, from: &[u8]) -> Piece {
        let spare = self.spares.lock().pop();
        let mut bytes = spare.unwrap_or_else(|| Vec::with_capacity(PIECE_BYTES));
        bytes.clear();
        bytes.extend_from_slice(from);
        Piece { bytes, spares: Arc::clone(&self.spares) }
    }
}

impl Write for Writer {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        patiently(&self.activity, || {
            let mut state = self.queue.when(self.slice, |state| state.full && !state.abandoned)?;
            if state.abandoned {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let bytes = from.len().min(PIECE_BYTES);
            match state.pieces.back_mut() {
                Some(last) if bytes <= SMALL_BYTES && last.bytes.len() + bytes <= PIECE_BYTES => {
                    last.bytes.extend_from_slice(from);
                    state.added(bytes);
                }
                _ => {
                    // The thread need not wait while they are copied.
                    drop(state);
                    let piece = self.piece(&from[..bytes]);
                    state = self.queue.state.lock();
                    state.put(piece, bytes);
                }
            }
            drop(state);
            self.queue.thread.notify_one();
            Ok(bytes)
        })
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.end();
    }
}

impl Outgoing {
    /// The next bytes; `None` at the end.
    pub async fn take(&self) -> Option<Bytes> {
        loop {
            {
                let mut state = self.0.state.lock();
                if let Some(piece) = state.pieces.pop_front() {
                    if state.removed(piece.bytes.len() + PIECE_COSTS) {
                        self.0.caller.notify_one();
                    }
                    return Some(Bytes::from_owner(piece));
                }
                if state.ended {
                    return None;
                }
            }
            self.0.thread.notified().await;
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Incoming {
    /// Waits for room. `false`: nobody reads any more.
    pub async fn put(&self, piece: Bytes) -> bool {
        loop {
            {
                let mut state = self.0.state.lock();
                if state.abandoned {
                    return false;
                }
                if !state.full {
                    let bytes = piece.len();
                    if bytes > 0 {
                        state.put(piece, bytes);
                        self.0.caller.notify_one();
                    }
                    return true;
                }
            }
            self.0.thread.notified().await;
        }
    }
    /// No more comes.
    pub fn end(&self) {
        self.0.end();
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn on_a_thread<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> std::thread::JoinHandle<T> {
        let run = || tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work);
        std::thread::spawn(run)
    }

    #[test]
    fn bytes_come_whole_and_in_order_both_ways() {
        let data: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 251) as u8).collect();
        let (mut reader, mut writer, incoming, outgoing) = queues(TIMEOUT);
        let thread = on_a_thread(async move {
            while let Some(piece) = outgoing.take().await {
                assert!((1..=PIECE_BYTES).contains(&piece.len()));
                assert!(incoming.put(piece).await);
            }
        });
        let sent = data.clone();
        let writing = std::thread::spawn(move || {
            // Pieces of every size, from one byte on.
            let (mut rest, mut size) = (&sent[..], 1);
            while !rest.is_empty() {
                let (now, later) = rest.split_at(size.min(rest.len()));
                writer.write_all(now).unwrap();
                (rest, size) = (later, size * 3 % 200_003);
            }
        });
        let mut came = Vec::new();
        reader.read_to_end(&mut came).unwrap();
        assert_eq!(came, data);
        writing.join().unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn no_more_waits_than_a_queue_holds() {
        let (_reader, mut writer, incoming, outgoing) = queues(Duration::from_millis(40));
        let mut written = 0;
        let error = loop {
            match writer.write(&[7; 100_000]) {
                Ok(bytes) => written += bytes,
                Err(e) => break e,
            }
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!((QUEUE_BYTES - PIECE_BYTES..QUEUE_BYTES + PIECE_BYTES).contains(&written), "{written}");

        // A writer that waited goes on with the first half.
        let thread = on_a_thread(async move {
            let mut left = written;
            while left >= REFILL_BYTES {
                left -= outgoing.take().await.unwrap().len();
            }
            outgoing
        });
        let _outgoing = thread.join().unwrap();
        assert!(writer.write(&[7; 10]).is_ok());

        let thread = on_a_thread(async move {
            let piece = Bytes::from(vec![1; PIECE_BYTES]);
            for _ in 0..QUEUE_BYTES / PIECE_BYTES {
                assert!(incoming.put(piece.clone()).await);
            }
            let piece = Bytes::from_static(b"x");
            tokio::select! {
                biased;
                _ = incoming.put(piece) => panic!("there is no room"),
                () = std::future::ready(()) => {}
            }
        });
        thread.join().unwrap();
    }

    #[test]
    fn each_end_sees_the_others_go() {
        let (mut reader, mut writer, incoming, outgoing) = queues(TIMEOUT);
        on_a_thread(async move { assert!(incoming.put(Bytes::from_static(b"last words")).await) }).join().unwrap();
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert_eq!(said, "last words");
        drop(outgoing);
        assert_eq!(writer.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);

        let (reader, writer, incoming, outgoing) = queues(TIMEOUT);
        let thread = on_a_thread(async move {
            assert_eq!(outgoing.take().await, None);
            incoming.put(Bytes::from_static(b"x")).await
        });
        drop(reader);
        drop(writer);
        assert!(!thread.join().unwrap());
    }

    #[test]
    fn a_silent_thread_is_given_up() {
        let (mut reader, _writer, _incoming, _outgoing) = queues(Duration::from_millis(40));
        assert_eq!(reader.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::TimedOut);
    }
}

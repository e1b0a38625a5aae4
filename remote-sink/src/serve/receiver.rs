//! The process that reads the network. It touches no file and holds no key that signs: it parses, checks form,
//! signatures and ownership, and hands on what is right (docs/protocol.md, section "Requests"). Data of an archive is
//! counted and handed on as it comes: the committer hashes it (docs/decisions/0020).

use crate::confine::ConfineError;
use crate::serve::ServeError;
use crate::serve::channel::{self, ChannelError, Forward, Identity, Inlet, Setup, Watch, timed_out};
use crate::serve::check::{self, Pinned};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shared::limits::DATA_BYTES_MAX;
use shared::wire::request::{parse_hello, tag};
use shared::wire::{
    AuditRequest, BANNER, Frame, FrameError, FrameHead, PushRequest, Query, ReadRequest, RefusalCode, Refused, Request,
    RequestError, Role, read_frame_head, read_frame_rest,
};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long answers may take to leave once the session is over.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the receiver stops.
enum Stop {
    /// Tell the client, through the committer, in the order of its requests.
    Refuse(Refused),
    /// Nobody is left to tell.
    Gone,
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::Refuse(refused)
    }
}
impl From<FrameError> for Stop {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(e) if e.kind() == io::ErrorKind::TimedOut => {
                Refused::new(RefusalCode::Timeout, e.to_string()).into()
            }
            FrameError::Io(_) | FrameError::Cut => Self::Gone,
            error => check::malformed("frame", error).into(),
        }
    }
}
impl From<RequestError> for Stop {
    fn from(error: RequestError) -> Self {
        check::request_refusal(error).into()
    }
}

/// Reads the network until it ends, and forwards what is right. Returns when all answers have left.
pub fn receive(channel: UnixStream) -> Result<(), ServeError> {
    receive_confined(channel, || Ok(()))
}

/// As [`receive`], behind `confine`, which is called before anything is read from the network.
pub fn receive_confined(
    channel: UnixStream,
    confine: impl FnOnce() -> Result<(), ConfineError>,
) -> Result<(), ServeError> {
    let (input, output) = channel::receive_network(&channel).map_err(ServeError::Start)?;
    let setup = channel::receive_setup(&channel)?;
    // From here on the process needs no right to any file. Nothing was read from the network yet, no thread runs.
    confine()?;
    Ok(serve(&channel, input, output, &setup)?)
}

fn serve(channel: &UnixStream, input: OwnedFd, output: OwnedFd, setup: &Setup) -> Result<(), ChannelError> {
    let io = FrameError::from;
    channel::write_all(output.as_fd(), BANNER).map_err(io)?;
    let answers = channel.try_clone().map_err(io)?;
    let (finished, copied) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        copy_answers(&answers, &output);
        drop(finished);
    });

    let watch = Pace::new(setup, Forward::new(channel.try_clone().map_err(io)?));
    let guard = channel::own(channel).map_err(io)?;
    let mut network = Inlet::new(input, Some(guard), watch).buffered();
    let mut forward = Forward::new(channel.try_clone().map_err(io)?);
    if let Err(Stop::Refuse(refused)) = converse(setup, &mut network, &mut forward) {
        // If the committer is gone there is nobody to pass it on.
        let _ = forward.fail(&refused);
    }
    drop(network);
    forward.close();
    drain(channel, &copied).map_err(io)?;
    Ok(())
}

/// Waits until all answers have left. The committer may take its time to make things durable; once it is gone, its
/// last words have [`DRAIN`].
fn drain(channel: &UnixStream, copied: &mpsc::Receiver<()>) -> io::Result<()> {
    let mut deadline = None;
    while let Err(RecvTimeoutError::Timeout) = copied.recv_timeout(Duration::from_secs(1)) {
        if deadline.is_some_and(|at| Instant::now() > at) {
            break;
        }
        let mut fds = [PollFd::new(channel, PollFlags::empty())];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        if deadline.is_none() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
            deadline = Some(Instant::now() + DRAIN);
        }
    }
    Ok(())
}

/// Copies answers to the network until the committer ends them, or the client is gone.
fn copy_answers(mut answers: &UnixStream, output: &OwnedFd) {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match answers.read(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
            Ok(bytes) => {
                if channel::write_all(output.as_fd(), &buffer[..bytes]).is_err() {
                    // The client is gone: wake everybody who waits for it.
                    let _ = answers.shutdown(std::net::Shutdown::Both);
                    return;
                }
            }
        }
    }
}

type Network = BufReader<Inlet<Pace>>;

/// Ends a client that is too slow within a message, and tells the committer of bytes that it cannot see yet.
struct Pace {
    window: Duration,
    floor: u64,
    since: Instant,
    bytes: u64,
    /// Is a message, or an archive, half received?
    half: bool,
    forward: Forward,
}

impl Pace {
    fn new(setup: &Setup, forward: Forward) -> Self {
        let window = Duration::from_millis(setup.slow_window_ms);
        Self { window, floor: setup.slow_bytes, since: Instant::now(), bytes: 0, half: false, forward }
    }
    fn restart(&mut self) {
        self.since = Instant::now();
        self.bytes = 0;
    }
    fn judge(&mut self) -> io::Result<()> {
        if !self.half || self.since.elapsed() < self.window {
            return Ok(());
        }
        if self.bytes < self.floor {
            let (bytes, seconds) = (self.bytes, self.window.as_secs());
            return Err(timed_out(format!("{bytes} bytes in {seconds} s within a message: too slow")));
        }
        self.restart();
        Ok(())
    }
}

impl Watch for Pace {
    fn silent(&mut self, _: Duration) -> io::Result<bool> {
        self.judge().map(|()| false)
    }
    fn heard(&mut self, bytes: usize) -> io::Result<()> {
        if !self.half {
            self.half = true;
            self.restart();
        }
        self.bytes += bytes as u64;
        self.judge()?;
        self.forward.progress()
    }
}

/// The next frame; `None` at the end of input.
fn next_frame(network: &mut Network) -> Result<Option<Frame>, Stop> {
    let head = next_head(network, false)?;
    Ok(head.map(|head| read_frame_rest(network, head)).transpose()?)
}

/// The head of the next frame; `None` at the end of input.
fn next_head(network: &mut Network, in_archive: bool) -> Result<Option<FrameHead>, Stop> {
    let half = in_archive || !network.buffer().is_empty();
    let pace = &mut network.get_mut().watch;
    if pace.half && !half {
        pace.half = false;
    }
    Ok(read_frame_head(network)?)
}

/// Hands a frame on. Waiting for the committer is not the client's slowness.
fn hand_on(network: &mut Network, forward: &mut Forward, tag: u8, payload: &[u8]) -> Result<(), Stop> {
    let before = Instant::now();
    forward.frame(tag, payload).map_err(|_| Stop::Gone)?;
    not_hurried(network, before);
    Ok(())
}

fn not_hurried(network: &mut Network, since: Instant) {
    if since.elapsed() > Duration::from_secs(1) {
        network.get_mut().watch.restart();
    }
}

fn converse(setup: &Setup, network: &mut Network, forward: &mut Forward) -> Result<(), Stop> {
    let Some(frame) = next_frame(network)? else { return Ok(()) };
    let hello = parse_hello(&frame)?;
    hand_on(network, forward, frame.tag, &frame.payload)?;
    let end = Instant::now() + Duration::from_millis(setup.session_ms);
    let Some(identity) = &setup.identity else { return Ok(()) };
    match (setup.role, hello.lineage) {
        (Role::Push, Some(lineage)) if hello.source == Some(identity.source) => {
            let mut push = Push { pinned: Pinned { identity: identity.clone(), lineage }, data_left: 0 };
            while let Some(head) = next_head(network, push.data_left > 0)? {
                over_long(end, push.data_left > 0)?;
                push.take(head, network, forward)?;
            }
            Ok(())
        }
        (Role::Read, _) => queries(network, forward, end, |frame| match ReadRequest::parse(frame)? {
            ReadRequest::Query(query) => Ok(check_query(&query, identity)?),
            ReadRequest::GetParts(_) => Ok(()),
        }),
        (Role::Audit, _) => queries(network, forward, end, |frame| {
            let AuditRequest::Query(query) = AuditRequest::parse(frame)?;
            Ok(check_query(&query, identity)?)
        }),
        // The committer refuses these with its answer to `Hello`.
        _ => Ok(()),
    }
}

fn over_long(end: Instant, in_archive: bool) -> Result<(), Stop> {
    if in_archive || Instant::now() < end {
        return Ok(());
    }
    Err(Refused::new(RefusalCode::Timeout, "this session has lasted long enough: connect again").into())
}

fn queries(
    network: &mut Network,
    forward: &mut Forward,
    end: Instant,
    check: impl Fn(Frame) -> Result<(), Stop>,
) -> Result<(), Stop> {
    while let Some(frame) = next_frame(network)? {
        over_long(end, false)?;
        check(frame.clone())?;
        hand_on(network, forward, frame.tag, &frame.payload)?;
    }
    Ok(())
}

/// What an owner's signature must allow is checked here; what only the store knows, by the committer.
fn check_query(query: &Query, identity: &Identity) -> Result<(), Refused> {
    match query {
        Query::PutOwnerRecord(bytes) => left_to_committer(check::owner_record(bytes, &identity.owners)),
        Query::PutVoucher(bytes) => left_to_committer(check::voucher(bytes, identity)),
        Query::PutWrap(bytes) => left_to_committer(check::wrap(bytes, &identity.owners)),
        Query::PutRelease(bytes) => left_to_committer(check::release(bytes, identity)),
        _ => Ok(()),
    }
}

/// A refusal that does not end the session is the committer's to give: it finds the same.
fn left_to_committer<T>(checked: Result<T, Refused>) -> Result<(), Refused> {
    match checked {
        Err(refused) if check::ends_session(refused.code) => Err(refused),
        _ => Ok(()),
    }
}

/// A pushing client's requests.
struct Push {
    pinned: Pinned,
    /// Bytes of the announced archive that have not come; 0: none is under way.
    data_left: u64,
}

impl Push {
    fn take(&mut self, head: FrameHead, network: &mut Network, forward: &mut Forward) -> Result<(), Stop> {
        if head.tag == tag::DATA {
            return self.data(head.bytes, network, forward);
        }
        if self.data_left > 0 {
            return Err(check::malformed("archive", "another request within its data").into());
        }
        let frame = read_frame_rest(network, head)?;
        let bytes = match PushRequest::parse(frame)? {
            PushRequest::PutArchive(bytes) => {
                self.data_left = self.pinned.region(&bytes)?.index.parts_bytes();
                bytes
            }
            PushRequest::PutEnvelope(bytes) => self.pinned.envelope(&bytes).map(|_| bytes)?,
            PushRequest::PutPage(bytes) => self.pinned.page(&bytes).map(|_| bytes)?,
            PushRequest::PutBody(bytes) => self.pinned.body(&bytes).map(|_| bytes)?,
            PushRequest::PutHead(bytes) => left_to_committer(self.pinned.head(&bytes)).map(|()| bytes)?,
            PushRequest::PutSubstitute(bytes) => self.pinned.substitute(&bytes).map(|_| bytes)?,
            PushRequest::GetDamaged => Vec::new(),
            PushRequest::Query(query) => {
                check_query(&query, &self.pinned.identity)?;
                query.frame().payload
            }
            PushRequest::Data(_) => return Err(check::malformed("data", "no archive was announced").into()),
        };
        hand_on(network, forward, head.tag, &bytes)
    }

    /// Hands data on in whatever pieces it comes, so that the committer has no half frame when the client stops.
    fn data(&mut self, bytes: usize, network: &mut Network, forward: &mut Forward) -> Result<(), Stop> {
        if bytes == 0 || bytes > DATA_BYTES_MAX {
            let text = format!("{bytes} bytes where 1 to {DATA_BYTES_MAX} are allowed");
            return Err(check::malformed("data", text).into());
        }
        let mut left = bytes;
        while left > 0 {
            let wanted = left.min(usize::try_from(self.data_left).unwrap_or(left));
            if wanted == 0 {
                return Err(check::malformed("data", "no archive was announced").into());
            }
            let came = network.fill_buf().map_err(FrameError::from)?;
            if came.is_empty() {
                return Err(Stop::Gone);
            }
            let piece = &came[..came.len().min(wanted)];
            let (bytes, before) = (piece.len(), Instant::now());
            forward.frame(tag::DATA, piece).map_err(|_| Stop::Gone)?;
            network.consume(bytes);
            not_hurried(network, before);
            left -= bytes;
            self.data_left -= bytes as u64;
        }
        Ok(())
    }
}

//! The process that reads the network. It touches no file and holds no key that signs: it parses, checks form,
//! signatures, ownership and hashes, and hands on what is right (docs/protocol.md, section "Requests").

use crate::confine::ConfineError;
use crate::serve::ServeError;
use crate::serve::channel::{self, ChannelError, Forward, Identity, Inlet, Setup, Watch, timed_out};
use crate::serve::check::{self, PartsCheck, Pinned};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shared::limits::DATA_BYTES_MAX;
use shared::wire::request::{parse_hello, tag};
use shared::wire::{
    AuditRequest, BANNER, Frame, FrameError, PushRequest, Query, ReadRequest, RefusalCode, Refused, Request,
    RequestError, Role, read_frame,
};
use std::io::{self, BufReader, Read};
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
fn next_frame(network: &mut Network, in_archive: bool) -> Result<Option<Frame>, Stop> {
    let half = in_archive || !network.buffer().is_empty();
    let pace = &mut network.get_mut().watch;
    if pace.half && !half {
        pace.half = false;
    }
    Ok(read_frame(network)?)
}

/// Runs a forward; waiting for the committer is not the client's slowness.
fn unhurried<T>(network: &mut Network, work: impl FnOnce() -> Result<T, FrameError>) -> Result<T, Stop> {
    let before = Instant::now();
    let done = work().map_err(|_| Stop::Gone)?;
    if before.elapsed() > Duration::from_secs(1) {
        network.get_mut().watch.restart();
    }
    Ok(done)
}

fn converse(setup: &Setup, network: &mut Network, forward: &mut Forward) -> Result<(), Stop> {
    let Some(frame) = next_frame(network, false)? else { return Ok(()) };
    let hello = parse_hello(&frame)?;
    unhurried(network, || forward.frame(frame.tag, &frame.payload))?;
    let end = Instant::now() + Duration::from_millis(setup.session_ms);
    let Some(identity) = &setup.identity else { return Ok(()) };
    match (setup.role, hello.lineage) {
        (Role::Push, Some(lineage)) if hello.source == Some(identity.source) => {
            let mut push =
                Push { pinned: Pinned { identity: identity.clone(), lineage }, archive: None, part: Vec::new() };
            while let Some(frame) = next_frame(network, push.archive.is_some())? {
                over_long(end, push.archive.is_some())?;
                push.take(frame, network, forward)?;
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
    while let Some(frame) = next_frame(network, false)? {
        over_long(end, false)?;
        check(frame.clone())?;
        unhurried(network, || forward.frame(frame.tag, &frame.payload))?;
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
    archive: Option<PartsCheck>,
    /// The part under way: it is handed on when its hash is right.
    part: Vec<u8>,
}

impl Push {
    fn take(&mut self, frame: Frame, network: &mut Network, forward: &mut Forward) -> Result<(), Stop> {
        if self.archive.is_some() && frame.tag != tag::DATA {
            return Err(check::malformed("archive", "another request within its data").into());
        }
        let wire_tag = frame.tag;
        let bytes = match PushRequest::parse(frame)? {
            PushRequest::Data(bytes) => return self.data(&bytes, network, forward),
            PushRequest::PutArchive(bytes) => {
                self.archive = Some(PartsCheck::new(&self.pinned.region(&bytes)?.index));
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
        };
        unhurried(network, || forward.frame(wire_tag, &bytes))
    }

    fn data(&mut self, mut bytes: &[u8], network: &mut Network, forward: &mut Forward) -> Result<(), Stop> {
        while !bytes.is_empty() {
            let Some(check) = &mut self.archive else {
                return Err(check::malformed("data", "no archive was announced").into());
            };
            let (piece, rest) = bytes.split_at(bytes.len().min(check.part_left()));
            bytes = rest;
            self.part.extend_from_slice(piece);
            if check.feed(piece)? {
                if check.is_done() {
                    self.archive = None;
                }
                let part = std::mem::take(&mut self.part);
                unhurried(network, || {
                    part.chunks(DATA_BYTES_MAX).try_for_each(|piece| forward.frame(tag::DATA, piece))
                })?;
                self.part = part;
                self.part.clear();
            }
        }
        Ok(())
    }
}

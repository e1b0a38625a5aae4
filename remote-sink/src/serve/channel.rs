//! What both processes of a session use: bounded waiting on a descriptor, and the frames between them.
//!
//! The channel carries the frames of docs/protocol.md, and three tags of its own that the wire does not have.

use minicbor::{Decode, Encode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use shared::codec::{self, List};
use shared::id::{SourceId, VerifyKey};
use shared::wire::{Frame, FrameError, Refused, Role, read_frame, write_frame};
use std::io::{self, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Committer to receiver, once: what to check against.
const SETUP: u8 = 250;
/// Receiver to committer: what came was refused; the session ends with this answer.
const FAIL: u8 = 251;
/// Receiver to committer: bytes of an unfinished message arrive.
const PROGRESS: u8 = 252;

const BUFFER_BYTES: usize = 256 << 10;
/// Owners whose objects a receiver checks; more are refused at the start.
pub const OWNERS_MAX: usize = 1024;

/// Who the client is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Identity {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub key: VerifyKey,
    #[n(2)]
    pub sink: VerifyKey,
    /// Owners pinned for the sources that this connection may see.
    #[n(3)]
    pub owners: List<VerifyKey, OWNERS_MAX>,
}

/// What the committer hands to the receiver.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Setup {
    #[n(0)]
    pub role: Role,
    /// Absent: the session will be refused, only `Hello` is taken.
    #[n(1)]
    pub identity: Option<Identity>,
    #[n(2)]
    pub slow_window_ms: u64,
    #[n(3)]
    pub slow_bytes: u64,
    #[n(4)]
    pub session_ms: u64,
}

/// A message as the committer sees it.
#[derive(Debug)]
pub enum Inbound {
    Frame(Frame),
    Fail(Refused),
}

#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the other process of the session broke its own rules: {0}")]
    Rule(&'static str),
}

impl ChannelError {
    /// Why the waiting was given up, if it was.
    pub fn timeout(&self) -> Option<&io::Error> {
        match self {
            Self::Frame(FrameError::Io(e)) if e.kind() == io::ErrorKind::TimedOut => Some(e),
            _ => None,
        }
    }
}

pub fn timed_out(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why.into())
}

/// Is asked each second while nothing comes, and told when something does.
pub trait Watch {
    /// `true`: this was no silence, count from now.
    fn silent(&mut self, since: Duration) -> io::Result<bool>;
    fn heard(&mut self, bytes: usize) -> io::Result<()>;
}

/// Reads a descriptor under a watch.
pub struct Inlet<W> {
    from: OwnedFd,
    /// If its other end is gone, reading ends.
    guard: Option<OwnedFd>,
    pub watch: W,
    last: Instant,
}

impl<W: Watch> Inlet<W> {
    pub fn new(from: OwnedFd, guard: Option<OwnedFd>, watch: W) -> Self {
        Self { from, guard, watch, last: Instant::now() }
    }

    pub fn buffered(self) -> BufReader<Self> {
        BufReader::with_capacity(BUFFER_BYTES, self)
    }

    /// Work of our own is not the other side's silence.
    pub fn restart(&mut self) {
        self.last = Instant::now();
    }

    fn wait(&mut self) -> io::Result<()> {
        loop {
            let mut fds = vec![PollFd::new(&self.from, PollFlags::IN)];
            if let Some(guard) = &self.guard {
                fds.push(PollFd::new(guard, PollFlags::empty()));
            }
            match poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })) {
                Ok(0) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
                Ok(_) if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) => {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                Ok(_) => return Ok(()),
            }
            if self.watch.silent(self.last.elapsed())? {
                self.last = Instant::now();
            }
        }
    }
}

impl<W: Watch> Read for Inlet<W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait()?;
            match rustix::io::read(&self.from, &mut *buffer) {
                Ok(bytes) => {
                    self.last = Instant::now();
                    self.watch.heard(bytes)?;
                    return Ok(bytes);
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                // The other end was closed with something of ours unread: an end all the same.
                Err(Errno::CONNRESET) => return Ok(0),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Writes everything, also to a descriptor that somebody made non-blocking.
pub fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&to, PollFlags::OUT)], Some(&Timespec { tv_sec: 1, tv_nsec: 0 }))?;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// The two ends of a channel.
pub fn pair() -> io::Result<(UnixStream, UnixStream)> {
    let (a, b) = UnixStream::pair()?;
    for end in [&a, &b] {
        // More room means fewer switches between the processes; a refusal costs only time.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(end, 1 << 20);
    }
    Ok((a, b))
}

/// Hands the network's descriptors over, with one byte that carries them.
pub fn send_network(channel: &UnixStream, input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> io::Result<()> {
    let fds = [input, output];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no room for two descriptors"));
    }
    rustix::net::sendmsg(channel, &[IoSlice::new(b"n")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes what [`send_network`] sent.
pub fn receive_network(channel: &UnixStream) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(channel, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let err = || io::Error::new(io::ErrorKind::InvalidData, "the network's descriptors did not come");
    let output = fds.pop().ok_or_else(err)?;
    Ok((fds.pop().ok_or_else(err)?, output))
}

pub fn send_setup(mut channel: &UnixStream, setup: &Setup) -> Result<(), FrameError> {
    write_frame(&mut channel, SETUP, &codec::encode(setup))
}

pub fn receive_setup(mut channel: &UnixStream) -> Result<Setup, ChannelError> {
    let frame = read_frame(&mut channel)?.ok_or(FrameError::Cut)?;
    if frame.tag != SETUP {
        return Err(ChannelError::Rule("no setup"));
    }
    codec::decode(&frame.payload, 64 << 10, "setup").map_err(|_| ChannelError::Rule("setup"))
}

/// The receiver's way to the committer.
pub struct Forward {
    to: UnixStream,
    progress: Instant,
}

/// At most one progress message in this time.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

impl Forward {
    pub fn new(to: UnixStream) -> Self {
        Self { to, progress: Instant::now() }
    }
    pub fn frame(&mut self, tag: u8, payload: &[u8]) -> Result<(), FrameError> {
        self.progress = Instant::now();
        write_frame(&mut self.to, tag, payload)
    }
    pub fn fail(&mut self, refused: &Refused) -> Result<(), FrameError> {
        self.frame(FAIL, &codec::encode(refused))
    }
    pub fn progress(&mut self) -> io::Result<()> {
        if self.progress.elapsed() < PROGRESS_EVERY {
            return Ok(());
        }
        self.progress = Instant::now();
        self.to.write_all(&[1, 0, 0, 0, PROGRESS])
    }
    /// Nothing more will come.
    pub fn close(&self) {
        let _ = self.to.shutdown(std::net::Shutdown::Write);
    }
}

/// The committer's next message; `None` at the end.
pub fn next(from: &mut impl Read) -> Result<Option<Inbound>, ChannelError> {
    loop {
        let Some(frame) = read_frame(from)? else { return Ok(None) };
        return Ok(Some(match frame.tag {
            PROGRESS => continue,
            SETUP => return Err(ChannelError::Rule("a setup from the receiver")),
            FAIL => {
                let refused = codec::decode(&frame.payload, 8 << 10, "refusal");
                Inbound::Fail(refused.map_err(|_| ChannelError::Rule("a refusal that is none"))?)
            }
            _ => Inbound::Frame(frame),
        }));
    }
}

/// A descriptor of our own for a standard stream.
pub fn own(fd: impl AsFd) -> io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}

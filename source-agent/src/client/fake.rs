//! Sinks for tests: threads that speak the protocol over a socket pair.

use super::*;
use crate::transport::{Connection, Ending, Guard, Pipe, stream};
use shared::codec::{Blob, Text};
use shared::id::{Lineage, SourceId};
use shared::signature::{SigningKey, sign};
use shared::wire::request::{PushRequest, Request, parse_hello};
use shared::wire::{BANNER, Hello, Role, VERSION};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) const SOURCE: SourceId = SourceId::new([1; 32]);
pub(crate) const LINEAGE: Lineage = Lineage::new([2; 16]);
pub(crate) const PUSH: Greeting = Greeting::Push { source: SOURCE, lineage: LINEAGE };

pub(crate) fn sink_key() -> SigningKey {
    SigningKey::from_seed(&[9; 32])
}
pub(crate) fn source_key() -> SigningKey {
    SigningKey::from_seed(&[8; 32])
}

/// A transport without a process behind it.
pub(crate) struct Nothing(pub Ending);
impl Connection for Nothing {
    fn ending(&self) -> Ending {
        self.0.clone()
    }
    fn stop(&self) {}
}

/// A transport that ends its socket.
struct Socket(UnixStream, Ending);
impl Connection for Socket {
    fn ending(&self) -> Ending {
        self.1.clone()
    }
    fn stop(&self) {
        // The other end may have closed it before.
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

/// The sink's end of the socket.
pub(crate) struct Sink(pub UnixStream);

impl Sink {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        // A client that went away is what some tests want.
        let _ = self.0.write_all(bytes);
    }
    pub(crate) fn reply(&mut self, reply: &Reply) {
        let frame = reply.frame();
        let _ = write_frame(&mut self.0, frame.tag, &frame.payload);
    }
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        read_frame(&mut self.0).unwrap_or(None)
    }
    pub(crate) fn hello(&mut self) -> Hello {
        self.write(BANNER);
        parse_hello(&self.frame().unwrap()).unwrap()
    }
    pub(crate) fn greet(&mut self, role: Role) {
        let hello = self.hello();
        self.welcome(welcome(&hello, role), &sink_key());
    }
    pub(crate) fn welcome(&mut self, welcome: Welcome, key: &SigningKey) {
        self.reply(&Reply::Welcome(sign(welcome, key).unwrap().as_bytes().to_vec()));
    }
    pub(crate) fn push_request(&mut self) -> Option<PushRequest> {
        Some(PushRequest::parse(self.frame()?).unwrap())
    }
}

pub(crate) fn welcome(hello: &Hello, role: Role) -> Welcome {
    Welcome {
        version: VERSION,
        nonce: hello.nonce,
        sink: sink_key().verify_key(),
        role,
        name: "web1".parse().unwrap(),
        program: Text::truncated("remote-sink 0.1.0"),
        clock: 0,
        quota_left: None,
        free: 0,
        journal: None,
        source: hello.source,
        lineage: hello.lineage,
        newest: None,
        next_number: None,
        binding: Blob::new(Vec::new()).unwrap(),
        quota: None,
        used: None,
        damaged: None,
    }
}

pub(crate) fn with_ending(ending: Ending, script: impl FnOnce(&mut Sink) + Send + 'static) -> (Pipe, JoinHandle<()>) {
    patient(ending, Duration::from_secs(60), script)
}

/// A sink whose silence is borne so long.
pub(crate) fn patient(
    ending: Ending,
    timeout: Duration,
    script: impl FnOnce(&mut Sink) + Send + 'static,
) -> (Pipe, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || script(&mut Sink(theirs)));
    let guard = Guard::new(Socket(ours.try_clone().unwrap(), ending));
    let (reader, writer) = stream(ours, timeout).unwrap();
    (Pipe { reader: Box::new(reader), writer: Box::new(writer), guard }, thread)
}

pub(crate) fn sink(script: impl FnOnce(&mut Sink) + Send + 'static) -> (Pipe, JoinHandle<()>) {
    with_ending(Ending::default(), script)
}

//! The protocol by hand: a client that says whatever a test wants said.

use crate::run::{self, LONGEST};
use shared::format::{Head, Index, Region};
use shared::id::{Lineage, Salt, SourceId, VerifyKey};
use shared::limits::DATA_BYTES_MAX;
use shared::signature::Signed;
use shared::wire::{
    BANNER, Frame, Hello, PushRequest, Query, RefusalCode, Refused, Reply, Request, VERSION, Welcome, read_frame,
    request, write_frame,
};
use std::io::{BufReader, Read, Write};
use std::process::{Child, ChildStdin};
use std::sync::mpsc::{Receiver, channel};

/// One session over the pipes of a child: `remote-sink serve`, or `ssh` to a server.
pub struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    frames: Receiver<Option<Frame>>,
    pub banner: Vec<u8>,
}

impl Client {
    /// Starts the program and reads the banner, whatever it is.
    pub fn start(run: run::Run) -> Self {
        let mut child = run.start();
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout"));
        let mut stderr = child.stderr.take().expect("stderr");
        std::thread::spawn(move || {
            let mut text = Vec::new();
            // For whoever reads the output of a failed test.
            let _ = stderr.read_to_end(&mut text);
            eprint!("{}", shared::text::printable(&text, 4000));
        });
        let banner = read_banner(&mut stdout);
        let (send, frames) = channel();
        std::thread::spawn(move || {
            loop {
                let frame = read_frame(&mut stdout).ok().flatten();
                let last = frame.is_none();
                if send.send(frame).is_err() || last {
                    return;
                }
            }
        });
        Self { child, stdin, frames, banner }
    }

    /// Banner and handshake as a pushing source.
    pub fn push(run: run::Run, source: SourceId, lineage: Lineage, sink: &VerifyKey) -> Self {
        let mut client = Self::start(run);
        client.greet(hello(Some((source, lineage))), sink);
        client
    }

    /// Banner and handshake in any other role.
    pub fn other(run: run::Run, sink: &VerifyKey) -> Self {
        let mut client = Self::start(run);
        client.greet(hello(None), sink);
        client
    }

    /// Sends `Hello`; the answer must be a `Welcome` signed by this sink over our nonce.
    #[track_caller]
    pub fn greet(&mut self, hello: Hello, sink: &VerifyKey) -> Welcome {
        assert_eq!(self.banner, BANNER, "the sink's banner");
        let nonce = hello.nonce;
        self.send(&request::hello_frame(&hello));
        let Reply::Welcome(bytes) = self.reply() else { panic!("no welcome") };
        let welcome = Signed::<Welcome>::parse(&bytes).unwrap().verify(sink).expect("the sink key's signature");
        assert_eq!(welcome.nonce, nonce);
        welcome.into_value()
    }

    /// Writes bytes as they are; a sink that has hung up is no failure of the test.
    pub fn raw(&mut self, bytes: &[u8]) -> bool {
        let Some(stdin) = &mut self.stdin else { return false };
        stdin.write_all(bytes).and_then(|()| stdin.flush()).is_ok()
    }
    pub fn send(&mut self, frame: &Frame) -> bool {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, frame.tag, &frame.payload).unwrap();
        self.raw(&bytes)
    }
    /// Ends our side.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// The next frame; `None` when the sink hung up.
    #[track_caller]
    pub fn frame(&mut self) -> Option<Frame> {
        self.frames.recv_timeout(LONGEST).expect("the sink neither answers nor hangs up")
    }
    /// The next frame, if one comes within this time.
    pub fn frame_within(&mut self, longest: std::time::Duration) -> Option<Option<Frame>> {
        self.frames.recv_timeout(longest).ok()
    }
    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        let frame = self.frame().expect("a reply instead of the end");
        Reply::parse(frame).expect("a reply of the protocol")
    }
    #[track_caller]
    pub fn ask(&mut self, request: &impl Request) -> Reply {
        self.send(&request.frame());
        self.reply()
    }
    #[track_caller]
    pub fn query(&mut self, query: Query) -> Reply {
        self.ask(&PushRequest::Query(query))
    }

    /// An archive: its region, then its parts as data.
    #[track_caller]
    pub fn put_archive(&mut self, region: &Region, parts: &[u8]) -> Reply {
        self.send_archive(region.as_bytes(), parts);
        self.reply()
    }
    pub fn send_archive(&mut self, region: &[u8], parts: &[u8]) {
        self.send(&PushRequest::PutArchive(region.to_vec()).frame());
        for piece in parts.chunks(DATA_BYTES_MAX) {
            if !self.send(&PushRequest::Data(piece.to_vec()).frame()) {
                return;
            }
        }
    }

    /// The sink must hang up now, whatever it still says before.
    #[track_caller]
    pub fn must_end(&mut self) -> Vec<Frame> {
        let mut rest = Vec::new();
        while let Some(frame) = self.frame() {
            rest.push(frame);
        }
        rest
    }

    /// Waits for the program.
    pub fn exit(mut self) -> Option<i32> {
        self.stdin = None;
        run::wait_for(&mut self.child, "the session").code()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Still running?
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stdin = None;
        // Give it the chance to end by itself: that is what closed pipes are for.
        for _ in 0..200 {
            if !self.runs() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_banner(from: &mut impl Read) -> Vec<u8> {
    let mut banner = vec![0; BANNER.len()];
    let mut got = 0;
    while got < banner.len() {
        match from.read(&mut banner[got..]) {
            Ok(0) | Err(_) => break,
            Ok(n) => got += n,
        }
    }
    banner.truncate(got);
    banner
}

/// A proper `Hello`.
pub fn hello(chain: Option<(SourceId, Lineage)>) -> Hello {
    Hello {
        version_min: VERSION,
        version_max: VERSION,
        nonce: Salt::random(),
        program: shared::codec::Text::truncated("hostile 1.0"),
        source: chain.map(|(source, _)| source),
        lineage: chain.map(|(_, lineage)| lineage),
    }
}

/// The reply must be a refusal; its code and message.
#[track_caller]
pub fn refused(reply: Reply) -> Refused {
    match reply {
        Reply::Refused(refused) => refused,
        other => panic!("not refused: {other:?}"),
    }
}

/// The reply must be a refusal with one of these codes.
#[track_caller]
pub fn refused_as(reply: Reply, codes: &[RefusalCode]) {
    let refused = refused(reply);
    assert!(codes.contains(&refused.code), "refused as {:?} ({}), expected {codes:?}", refused.code, refused);
}

/// The reply must be `Stored`; was it there before?
#[track_caller]
pub fn stored(reply: Reply) -> bool {
    match reply {
        Reply::Stored(stored) => stored.existed,
        other => panic!("not stored: {other:?}"),
    }
}

/// The reply must be a receipt for this head, signed by this sink.
#[track_caller]
pub fn receipt(reply: Reply, head: &shared::signature::Verified<Head>, sink: &VerifyKey) -> Vec<u8> {
    let Reply::Receipt(bytes) = reply else { panic!("no receipt: {reply:?}") };
    let receipt = Signed::<shared::format::Receipt>::parse(&bytes).unwrap().verify(sink).expect("the sink's signature");
    assert_eq!((receipt.head, receipt.sequence), (head.digest(), head.sequence));
    bytes
}

/// The parts' lengths of an index, for tests that cut them.
pub fn parts_bytes(index: &Index) -> u64 {
    index.parts_bytes()
}

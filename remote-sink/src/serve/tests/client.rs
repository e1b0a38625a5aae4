//! The other side of a session: sends what it is told to, right or wrong.

use crate::serve::tests::world::{Archive, Source};
use shared::codec::Text;
use shared::format::{Body, Head, Page, Receipt};
use shared::id::{Digest, Salt};
use shared::limits::DATA_BYTES_MAX;
use shared::signature::{Plain, Signed, Verified};
use shared::wire::request::{hello_frame, tag};
use shared::wire::{
    BANNER, Frame, Hello, Missing, PushRequest, Query, RefusalCode, Reply, Request, Welcome, read_frame, write_frame,
};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

pub struct Client {
    pub stream: UnixStream,
}

impl Client {
    pub fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    pub fn banner(&mut self) {
        let mut banner = [0; 16];
        self.stream.read_exact(&mut banner).unwrap();
        assert_eq!(&banner, BANNER);
    }

    pub fn hello(source: Option<&Source>) -> Hello {
        Hello {
            version_min: 1,
            version_max: 1,
            nonce: Salt::new([8; 32]),
            program: Text::new("test").unwrap(),
            source: source.map(Source::id),
            lineage: source.map(|source| source.lineage),
        }
    }

    pub fn say_hello(&mut self, hello: &Hello) -> Option<Reply> {
        let frame = hello_frame(hello);
        self.raw(frame.tag, &frame.payload);
        self.reply()
    }

    /// Greets as a pushing source; the Welcome's signature must fit the sink.
    pub fn greet(&mut self, source: &Source) -> Verified<Welcome> {
        match self.say_hello(&Self::hello(Some(source))) {
            Some(Reply::Welcome(bytes)) => Signed::<Welcome>::parse(&bytes).unwrap().verify(&source.sink).unwrap(),
            other => panic!("no welcome: {other:?}"),
        }
    }

    /// Sends a frame; a session that is over already takes nothing.
    pub fn raw(&mut self, tag: u8, payload: &[u8]) {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, tag, payload).unwrap();
        self.bytes(&bytes);
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub fn send(&mut self, request: &PushRequest) {
        let frame = request.frame();
        self.raw(frame.tag, &frame.payload);
    }

    pub fn query(&mut self, query: &Query) {
        let frame = query.frame();
        self.raw(frame.tag, &frame.payload);
    }

    pub fn reply(&mut self) -> Option<Reply> {
        let frame: Frame = read_frame(&mut self.stream).ok().flatten()?;
        Some(Reply::parse(frame).unwrap())
    }

    /// The next reply must be a refusal with this code.
    pub fn refused(&mut self, code: RefusalCode) -> String {
        match self.reply() {
            Some(Reply::Refused(refused)) if refused.code == code => refused.message.to_string(),
            other => panic!("{code:?} expected: {}", brief(&other)),
        }
    }

    /// Refused, and the session is over.
    pub fn refused_and_ended(&mut self, code: RefusalCode) -> String {
        let message = self.refused(code);
        let end = self.reply();
        assert!(end.is_none(), "after the end: {}", brief(&end));
        message
    }

    pub fn stored(&mut self) -> (Digest, bool) {
        match self.reply() {
            Some(Reply::Stored(stored)) => (stored.digest, stored.existed),
            other => panic!("Stored expected: {}", brief(&other)),
        }
    }

    pub fn alive(&mut self) {
        self.query(&Query::Ping);
        assert_eq!(self.reply(), Some(Reply::Pong));
    }

    pub fn put_envelope(&mut self, source: &Source) -> bool {
        self.send(&PushRequest::PutEnvelope(source.envelope.as_bytes().to_vec()));
        self.stored().1
    }

    /// Sends an archive without waiting for the answer.
    pub fn send_archive(&mut self, archive: &Archive) {
        self.raw(tag::PUT_ARCHIVE, &archive.region);
        // An odd size: pieces cross the parts' ends.
        for piece in archive.data().chunks(DATA_BYTES_MAX.min(10_000)) {
            self.raw(tag::DATA, piece);
        }
    }

    pub fn put_archive(&mut self, archive: &Archive) -> bool {
        self.send_archive(archive);
        let (digest, existed) = self.stored();
        assert_eq!(digest.as_bytes(), archive.id.as_bytes());
        existed
    }

    pub fn put_page(&mut self, page: &Plain<Page>) -> bool {
        self.send(&PushRequest::PutPage(page.as_bytes().to_vec()));
        self.stored().1
    }

    pub fn put_body(&mut self, body: &Plain<Body>) -> Missing {
        self.send(&PushRequest::PutBody(body.as_bytes().to_vec()));
        match self.reply() {
            Some(Reply::Missing(missing)) => missing,
            other => panic!("Missing expected: {}", brief(&other)),
        }
    }

    pub fn put_head(&mut self, head: &Verified<Head>) -> Verified<Receipt> {
        self.send(&PushRequest::PutHead(head.as_bytes().to_vec()));
        match self.reply() {
            Some(Reply::Receipt(bytes)) => Signed::<Receipt>::parse(&bytes).unwrap().verify(&head.sink).unwrap(),
            other => panic!("Receipt expected: {}", brief(&other)),
        }
    }

    /// A whole snapshot of these archives, all blocks live.
    pub fn commit(
        &mut self,
        source: &Source,
        archives: &[&Archive],
        before: Option<&Verified<Head>>,
    ) -> Verified<Head> {
        let entries = archives.iter().map(|archive| {
            let blocks: Vec<u32> = (0..archive.parts.len() as u32 - 1).collect();
            archive.entry(&blocks)
        });
        let page = source.page(entries.collect());
        self.put_page(&page);
        let body = source.body(&[&page], before.map_or(0, |head| head.sequence + 1));
        assert!(self.put_body(&body).is_empty());
        let head = source.head(before, &body);
        self.put_head(&head);
        head
    }

    /// Ends the session and waits for its end.
    pub fn close(mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "something was said after the end");
    }
}

pub fn brief(reply: &Option<Reply>) -> String {
    let mut text = format!("{reply:?}");
    text.truncate(300);
    text
}

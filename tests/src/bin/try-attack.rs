//! `try-attack -c CONFIG`: what an attacker with a source's keys says to its sink, over the source's own transport.
//! Prints each try and the sink's answer; exit code 1 if one of them was not refused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use clap::Parser;
use shared::codec::List;
use shared::format::{Head, Index, Part, Region};
use shared::id::{ArchiveNumber, Digest};
use shared::signature::{Signed, SigningKey, sign};
use shared::wire::request::{GetArchive, GetParts, ListHeads, hello_frame, tag};
use shared::wire::{BANNER, Frame, PushRequest, Query, ReadRequest, Reply, Request, Role, read_frame, write_frame};
use source_agent::config::Loaded;
use source_agent::transport::{self, Pipe};
use std::io::Write;
use std::process::ExitCode;
use tests::wire::hello;

/// One session, greeted.
struct Session {
    pipe: Pipe,
}

impl Session {
    fn open(loaded: &Loaded, chain: (shared::id::SourceId, shared::id::Lineage)) -> Self {
        let remote = loaded.config.remotes.first().expect("a remote");
        let mut pipe = transport::open(loaded, remote, Role::Push).unwrap_or_else(|failure| panic!("{failure}"));
        let mut banner = [0; BANNER.len()];
        pipe.reader.read_exact(&mut banner).expect("a banner");
        let mut session = Self { pipe };
        let reply = session.ask_frame(&hello_frame(&hello(Some(chain))));
        assert!(matches!(reply, Some(Reply::Welcome(_))), "no welcome: {reply:?}");
        session
    }

    fn ask_frame(&mut self, frame: &Frame) -> Option<Reply> {
        write_frame(&mut self.pipe.writer, frame.tag, &frame.payload).ok()?;
        self.pipe.writer.flush().ok()?;
        Reply::parse(read_frame(&mut self.pipe.reader).ok().flatten()?).ok()
    }

    fn ask(&mut self, request: &impl Request) -> Option<Reply> {
        self.ask_frame(&request.frame())
    }
}

fn main() -> ExitCode {
    let command = std::env::args_os().chain(["status".into()]);
    let context = source_agent::cli::Cli::parse_from(command).context;
    let loaded = source_agent::config::load(&context).unwrap_or_else(|failure| panic!("{failure}"));
    let keys = source_agent::keys::load_source(&loaded).unwrap_or_else(|failure| panic!("{failure}"));
    let (source, lineage) = (keys.id, keys.lineage);
    let open = || Session::open(&loaded, (source, lineage));

    // What anyone with this key may see: its own heads and indexes, which name what to attack.
    let list = PushRequest::Query(Query::ListHeads(ListHeads { source, lineage, from: 0, limit: 100 }));
    let Some(Reply::Heads(heads)) = open().ask(&list) else { panic!("no heads") };
    let newest = heads.items.last().expect("a snapshot to attack");
    let newest = Signed::<Head>::parse(&newest.head).unwrap().verify(&keys.signing.verify_key()).unwrap();
    let archive = GetArchive { source, lineage, number: ArchiveNumber::FIRST };
    let Some(Reply::Object(region)) = open().ask(&PushRequest::Query(Query::GetRegion(archive))) else {
        panic!("no archive")
    };
    let region = Region::parse(&region).unwrap();
    let index = region.index.clone().verify(&keys.signing.verify_key()).unwrap();

    // An archive of the same number, right in itself, with other content.
    let piece = vec![7; 4096];
    let part = Part { bytes: 4096, hash: Digest::of(&piece), plain: Digest::new([1; 32]) };
    let parts = List::new(vec![part; 2]).unwrap();
    let changed = sign(Index { parts, ..(*index).clone() }, &keys.signing).unwrap();
    let envelope = region.envelope.clone().verify(&keys.signing.verify_key()).unwrap();
    let other_region = Region::new(&changed, &envelope).unwrap();
    let head = |head: Head| PushRequest::PutHead(sign(head, &keys.signing).unwrap().as_bytes().to_vec()).frame();
    let tries: Vec<(&str, Frame)> = vec![
        ("overwrite archive 0 with another", PushRequest::PutArchive(other_region.as_bytes().to_vec()).frame()),
        ("replace the newest snapshot", head(Head { body: Digest::new([1; 32]), ..(*newest).clone() })),
        (
            "add one with an old sequence number",
            head(Head { sequence: 0, previous: None, created: 0, ..(*newest).clone() }),
        ),
        (
            "add one with a forged predecessor",
            head(Head { sequence: newest.sequence + 1, previous: Some(Digest::new([2; 32])), ..(*newest).clone() }),
        ),
        ("add one signed with another key", {
            let next = Head { sequence: newest.sequence + 1, previous: Some(newest.digest()), ..(*newest).clone() };
            PushRequest::PutHead(sign(next, &SigningKey::random()).unwrap().as_bytes().to_vec()).frame()
        }),
        ("read a block back", {
            let parts = List::new(vec![0]).unwrap();
            ReadRequest::GetParts(GetParts { source, lineage, number: ArchiveNumber::FIRST, parts }).frame()
        }),
        (
            "delete: no message of the protocol does; try the next unknown one",
            Frame { tag: tag::GET_DAMAGED + 1, payload: newest.digest().as_bytes().to_vec() },
        ),
    ];
    let mut bad = false;
    for (what, frame) in tries {
        let mut session = open();
        if frame.tag == tag::PUT_ARCHIVE {
            write_frame(&mut session.pipe.writer, frame.tag, &frame.payload).unwrap();
            for _ in 0..2 {
                // A sink that hangs up in the middle has refused.
                let _ = write_frame(&mut session.pipe.writer, tag::DATA, &piece);
            }
            let _ = session.pipe.writer.flush();
            let reply = read_frame(&mut session.pipe.reader).ok().flatten().and_then(|frame| Reply::parse(frame).ok());
            bad |= !told(what, reply);
            continue;
        }
        let reply = session.ask_frame(&frame);
        bad |= !told(what, reply);
    }
    if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Shows one answer; was it a refusal?
fn told(what: &str, reply: Option<Reply>) -> bool {
    match reply {
        Some(Reply::Refused(refused)) => {
            println!("{what}\n    refused ({:?}): {refused}", refused.code);
            true
        }
        None => {
            println!("{what}\n    refused: the sink hung up");
            true
        }
        Some(other) => {
            println!("{what}\n    NOT REFUSED: {other:?}");
            false
        }
    }
}

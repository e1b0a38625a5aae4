//! Bytes in flight: frames, greetings, requests of each role, replies.

use crate::samples::{DIGEST, LINEAGE, SOURCE, number};
use crate::{Target, samples};
use shared::codec::{List, Text};
use shared::id::{Salt, SessionId, VerifyKey};
use shared::wire::reply::{ArchiveItem, ArchiveList, DamagedItem, DamagedList};
use shared::wire::request::{
    GetArchive, GetObject, GetOwned, GetParts, GetSession, ListArchives, ListHeads, ListOf, hello_frame, parse_hello,
};
use shared::wire::{
    AuditRequest, Damage, Frame, HeadItem, HeadList, Hello, Missing, PushRequest, Query, ReadRequest, RefusalCode,
    Refused, Reply, Request, SourceItem, SourceList, Stored, read_frame, write_frame,
};

/// A frame as one byte of tag and the payload.
fn frame(bytes: &[u8]) -> Option<Frame> {
    let (tag, payload) = bytes.split_first()?;
    Some(Frame { tag: *tag, payload: payload.to_vec() })
}

fn flat(frame: &Frame) -> Vec<u8> {
    [&[frame.tag][..], &frame.payload].concat()
}

fn request<R: Request>(bytes: &[u8]) -> bool {
    let Some(frame) = frame(bytes) else { return false };
    let Ok(request) = R::parse(frame.clone()) else { return false };
    // What fills a ping is not kept.
    let filling = frame.tag == shared::wire::request::tag::PING;
    let plain = if filling { Frame { tag: frame.tag, payload: Vec::new() } } else { frame };
    assert_eq!(request.frame(), plain, "a request with another spelling was accepted");
    true
}

fn reply(bytes: &[u8]) -> bool {
    let Some(frame) = frame(bytes) else { return false };
    let Ok(reply) = Reply::parse(frame.clone()) else { return false };
    assert_eq!(reply.frame(), frame, "a reply with another spelling was accepted");
    // What a sink says reaches a terminal only as text.
    if let Reply::Refused(refused) = &reply {
        assert!(refused.to_string().chars().all(|c| !c.is_control()));
    }
    true
}

fn hello(bytes: &[u8]) -> bool {
    let Some(frame) = frame(bytes) else { return false };
    let Ok(hello) = parse_hello(&frame) else { return false };
    assert_eq!(hello_frame(&hello), frame);
    true
}

/// A stream of frames, to its end.
fn frames(bytes: &[u8]) -> bool {
    let mut from = bytes;
    let mut all = Vec::new();
    loop {
        match read_frame(&mut from) {
            Ok(Some(frame)) => write_frame(&mut all, frame.tag, &frame.payload).expect("a frame that was read"),
            Ok(None) => break,
            Err(_) => return false,
        }
    }
    assert_eq!(all, bytes);
    true
}

fn queries() -> Vec<Query> {
    let (source, lineage, from, limit) = (SOURCE, LINEAGE, 0, 10);
    let archive = GetArchive { source, lineage, number: number(5) };
    let list = ListOf { source, lineage, from, limit };
    vec![
        Query::Ping,
        Query::ListSources,
        Query::ListHeads(ListHeads { source, lineage, from, limit }),
        Query::GetEnvelope(GetSession { source, session: SessionId::new([1; 32]) }),
        Query::GetBody(GetObject { source, digest: DIGEST }),
        Query::GetPage(GetObject { source, digest: DIGEST }),
        Query::GetRegion(archive.clone()),
        Query::GetTable(archive),
        Query::ListArchives(ListArchives { source, lineage, from: number(0), limit }),
        Query::GetOwnerRecords(GetOwned { owner: VerifyKey::new([1; 32]), from, limit }),
        Query::GetSubstitutes(list.clone()),
        Query::ListVouchers(list.clone()),
        Query::GetWraps(list),
        Query::PutVoucher(samples::vouchers().remove(0)),
        Query::PutOwnerRecord(samples::owner_records().remove(0)),
        Query::PutWrap(samples::wraps().remove(0)),
        Query::PutRelease(samples::releases().remove(0)),
    ]
}

fn pushes() -> Vec<Vec<u8>> {
    let mut requests: Vec<PushRequest> = queries().into_iter().map(PushRequest::Query).collect();
    requests.extend([
        PushRequest::PutEnvelope(samples::envelopes().remove(0)),
        PushRequest::PutArchive(samples::regions().remove(0)),
        PushRequest::Data(vec![1; 100]),
        PushRequest::PutPage(samples::pages().remove(0)),
        PushRequest::PutBody(samples::bodies().remove(0)),
        PushRequest::PutHead(samples::heads().remove(0)),
        PushRequest::PutSubstitute(samples::substitutes().remove(0)),
        PushRequest::GetDamaged,
    ]);
    requests.iter().map(|request| flat(&request.frame())).collect()
}

fn reads() -> Vec<Vec<u8>> {
    let parts = List::new(vec![0, 1, 24, 300]).unwrap();
    let parts = ReadRequest::GetParts(GetParts { source: SOURCE, lineage: LINEAGE, number: number(1), parts });
    let requests = queries().into_iter().map(ReadRequest::Query).chain([parts]);
    requests.map(|request| flat(&request.frame())).collect()
}

fn audits() -> Vec<Vec<u8>> {
    queries().into_iter().map(|query| flat(&AuditRequest::Query(query).frame())).collect()
}

fn replies() -> Vec<Vec<u8>> {
    let source = SourceItem {
        name: "web1".parse().unwrap(),
        source: SOURCE,
        card: Text::new("source-card:1,…").unwrap(),
        lineages: List::new(vec![LINEAGE]).unwrap(),
    };
    let head = HeadItem {
        head: shared::codec::Blob::new(samples::heads().remove(0)).unwrap(),
        receipt: Some(shared::codec::Blob::new(samples::receipts().remove(0)).unwrap()),
        content: Damage::Present,
    };
    let archive = ArchiveItem { number: number(1), id: shared::id::ArchiveId::new([1; 32]) };
    let missing = Missing {
        body: DIGEST,
        pages: List::new(vec![DIGEST]).unwrap(),
        archives: List::new(vec![number(4)]).unwrap(),
        total: 9,
    };
    let damaged = |at: u64, blocks: Vec<u8>| DamagedItem {
        number: number(at),
        id: shared::id::ArchiveId::new([1; 32]),
        blocks: shared::codec::Blob::new(blocks).unwrap(),
    };
    let damaged = List::new(vec![damaged(3, vec![1]), damaged(9, vec![0, 128])]).unwrap();
    let replies = [
        Reply::Welcome(samples::welcomes().remove(0)),
        Reply::Pong,
        Reply::Stored(Stored { digest: DIGEST, existed: false }),
        Reply::Refused(Refused::new(RefusalCode::Quota, "full \u{1b}[31m")),
        Reply::Missing(missing),
        Reply::Receipt(samples::receipts().remove(0)),
        Reply::Object(vec![1; 50]),
        Reply::Piece(vec![2; 50]),
        Reply::End,
        Reply::Sources(SourceList { items: List::new(vec![source]).unwrap() }),
        Reply::Heads(HeadList { items: List::new(vec![head]).unwrap(), more: true }),
        Reply::Archives(ArchiveList { items: List::new(vec![archive]).unwrap(), more: false }),
        Reply::Damaged(DamagedList { checked: 1_790_000_000, items: damaged }),
    ];
    replies.iter().map(|reply| flat(&reply.frame())).collect()
}

fn hellos() -> Vec<Vec<u8>> {
    let hello = Hello {
        version_min: 1,
        version_max: 2,
        nonce: Salt::new([1; 32]),
        program: Text::new("source-agent 0.1.0").unwrap(),
        source: Some(SOURCE),
        lineage: Some(LINEAGE),
    };
    let reader = Hello { source: None, lineage: None, ..hello.clone() };
    vec![flat(&hello_frame(&hello)), flat(&hello_frame(&reader))]
}

fn streams() -> Vec<Vec<u8>> {
    let mut stream = Vec::new();
    for bytes in pushes() {
        write_frame(&mut stream, bytes[0], &bytes[1..]).unwrap();
    }
    vec![Vec::new(), stream]
}

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target { name: "request_push", run: request::<PushRequest>, samples: pushes },
        Target { name: "request_read", run: request::<ReadRequest>, samples: reads },
        Target { name: "request_audit", run: request::<AuditRequest>, samples: audits },
        Target { name: "reply", run: reply, samples: replies },
        Target { name: "hello", run: hello, samples: hellos },
        Target { name: "frames", run: frames, samples: streams },
    ]
}

//! The client against sinks that are honest, broken or hostile: threads that speak the protocol over a socket pair.

use super::*;
use crate::transport::{Ending, Guard, Pipe, stream};
use shared::codec::{Blob, List};
use shared::format::archive::{Index, Kind, Part, Region};
use shared::format::envelope::{Envelope, Kem, RecipientWrap};
use shared::format::receipt::Receipt;
use shared::format::snapshot::{Body, Head, Page, PageEntry, SealedRoot};
use shared::id::{ArchiveId, Chain, Digest, Lineage, Salt, Series, SessionId, SourceId};
use shared::signature::{Object, Plain, SigningKey, sign};
use shared::wire::reply::{ArchiveItem, ArchiveList, Damage, HeadItem, HeadList, Missing, SourceList, Stored};
use shared::wire::request::{GetObject, PushRequest, ReadRequest, Request};
use shared::wire::{RefusalCode, Refused, Role};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::fake::*;

fn greeted(greeting: Greeting, script: impl FnOnce(&mut Sink) + Send + 'static) -> Outcome<Client> {
    greet(sink(script).0, "offsite", &sink_key().verify_key(), greeting)
}

fn refused_greeting(greeting: Greeting, script: impl FnOnce(&mut Sink) + Send + 'static) -> Failure {
    match greeted(greeting, script) {
        Ok(_) => panic!("the greeting was accepted"),
        Err(failure) => failure,
    }
}

/// A reader's client, and a sink that answers its requests one after another with these replies.
fn answering(replies: Vec<Reply>) -> Client {
    greeted(Greeting::Other, move |sink| {
        sink.greet(Role::Read);
        for reply in replies {
            let more = matches!(reply, Reply::Piece(_));
            sink.reply(&reply);
            if !more && sink.frame().is_none() {
                return;
            }
        }
        while sink.frame().is_some() {}
    })
    .unwrap()
}

// --- greeting ---------------------------------------------------------------------------------------------------

#[test]
fn an_honest_sink_is_greeted() {
    let client = greeted(PUSH, |sink| sink.greet(Role::Push)).unwrap();
    assert_eq!(client.welcome().role, Role::Push);
    assert_eq!(client.sink(), &sink_key().verify_key());
}

#[test]
fn another_sink_key_is_refused() {
    let failure = refused_greeting(PUSH, |sink| {
        let hello = sink.hello();
        let mut welcome = welcome(&hello, Role::Push);
        let other = SigningKey::from_seed(&[7; 32]);
        welcome.sink = other.verify_key();
        sink.welcome(welcome, &other);
    });
    assert_eq!((failure.code, failure.exit), ("sink-key", Exit::Tampered));
}

#[test]
fn a_replayed_welcome_is_refused() {
    let failure = refused_greeting(PUSH, |sink| {
        let hello = sink.hello();
        let mut welcome = welcome(&hello, Role::Push);
        welcome.nonce = Salt::new([0; 32]);
        sink.welcome(welcome, &sink_key());
    });
    assert_eq!(failure.exit, Exit::Tampered);
    assert!(failure.message.contains("nonce"), "{failure}");
}

#[test]
fn a_welcome_for_another_chain_or_role_is_refused() {
    let failure = refused_greeting(PUSH, |sink| {
        let hello = sink.hello();
        let mut welcome = welcome(&hello, Role::Push);
        welcome.lineage = Some(Lineage::new([3; 16]));
        sink.welcome(welcome, &sink_key());
    });
    assert_eq!(failure.exit, Exit::Tampered);
    let failure = refused_greeting(PUSH, |sink| sink.greet(Role::Read));
    assert_eq!((failure.code, failure.exit), ("role", Exit::NotFound));
}

#[test]
fn other_text_than_a_banner_is_shown_without_escapes() {
    let failure = refused_greeting(PUSH, |sink| {
        sink.write(b"This account is \x1b[31mcurrently not available.\n");
        sink.write(&[b'x'; 5000]);
    });
    assert_eq!((failure.code, failure.exit), ("not-a-sink", Exit::Unreachable));
    let text = failure.to_string();
    assert!(text.contains("This account is \\u{1b}[31mcurrently"), "{text}");
    assert!(!text.contains('\x1b') && text.len() < 800, "{text}");
}

#[test]
fn an_endless_greeting_ends() {
    let failure = refused_greeting(PUSH, |sink| while sink.0.write_all(&[b'y'; 4096]).is_ok() {});
    assert_eq!(failure.code, "not-a-sink");
}

#[test]
fn another_wire_version_is_named() {
    let failure = refused_greeting(PUSH, |sink| sink.write(b"pawl-sink wire9\n"));
    assert_eq!(failure.code, "version");
    assert!(failure.message.contains("pawl-sink wire9") && failure.message.contains("wire 1"), "{failure}");
}

#[test]
fn no_program_there_is_said() {
    let ending = Ending { status: Some(127), stderr: b"sh: 1: remote-sink: not found\n".to_vec(), reason: None };
    let (pipe, _) = with_ending(ending, |_| {});
    let Err(failure) = greet(pipe, "offsite", &sink_key().verify_key(), PUSH) else { panic!("accepted") };
    assert_eq!((failure.code, failure.exit), ("not-installed", Exit::Unreachable));
    assert!(failure.to_string().contains("remote-sink: not found"), "{failure}");
}

#[test]
fn a_refused_greeting_has_its_exit_code() {
    for (code, exit) in [(RefusalCode::Busy, Exit::Busy), (RefusalCode::NotFound, Exit::NotFound)] {
        let failure = refused_greeting(PUSH, move |sink| {
            sink.hello();
            sink.reply(&Reply::Refused(Refused::new(code, "because\n")));
        });
        assert_eq!(failure.exit, exit);
        assert!(failure.message.ends_with("because\\n"), "{failure}");
    }
    let failure = refused_greeting(PUSH, |sink| {
        sink.hello();
        sink.reply(&Reply::Refused(Refused::new(RefusalCode::Version, "remote-sink 9 speaks 7 to 8")));
    });
    let text = failure.to_string();
    assert!(text.contains("speaks 7 to 8") && text.contains("speaks protocol version 1"), "{text}");
}

// --- lists ------------------------------------------------------------------------------------------------------

#[test]
fn lists_of_heads_are_joined_page_by_page() {
    let item = |byte| HeadItem { head: Blob::new(vec![byte; 20]).unwrap(), receipt: None, content: Damage::Present };
    let page = |items: Vec<HeadItem>, more| Reply::Heads(HeadList { items: List::new(items).unwrap(), more });
    let mut client = answering(vec![page(vec![item(0), item(1)], true), page(vec![item(2)], false)]);
    let heads = client.heads(&SOURCE, &LINEAGE, 0).unwrap();
    assert_eq!(heads.iter().map(|item| item.head[0]).collect::<Vec<_>>(), [0, 1, 2]);
    // An empty page that promises more would loop for ever.
    let mut client = answering(vec![page(vec![], true)]);
    assert_eq!(client.heads(&SOURCE, &LINEAGE, 0).unwrap_err().exit, Exit::Tampered);
}

#[test]
fn an_endless_list_ends_with_an_error() {
    let mut client = greeted(Greeting::Other, |sink| {
        sink.greet(Role::Read);
        let item = HeadItem { head: Blob::new(vec![0; 500]).unwrap(), receipt: None, content: Damage::Present };
        let list = HeadList { items: List::new(vec![item; 8000]).unwrap(), more: true };
        let reply = Reply::Heads(list);
        while sink.frame().is_some() {
            sink.reply(&reply);
        }
    })
    .unwrap();
    let failure = client.heads(&SOURCE, &LINEAGE, 0).unwrap_err();
    assert_eq!((failure.code, failure.exit), ("endless-list", Exit::Tampered));
    assert_eq!(client.ping().unwrap_err().code, "out-of-step");
}

#[test]
fn an_endless_row_of_objects_ends_with_an_error() {
    let mut client = greeted(Greeting::Other, |sink| {
        sink.greet(Role::Read);
        sink.frame();
        let voucher = shared::format::owner::Voucher {
            owner: source_key().verify_key(),
            source: SOURCE,
            lineage: LINEAGE,
            sink: sink_key().verify_key(),
            sequence: 0,
            head: Digest::of(b""),
            checked: 0,
        };
        let frame = Reply::Object(sign(voucher, &source_key()).unwrap().as_bytes().to_vec()).frame();
        while write_frame(&mut sink.0, frame.tag, &frame.payload).is_ok() {}
    })
    .unwrap();
    assert_eq!(client.vouchers(&SOURCE, &LINEAGE).unwrap_err().code, "endless-list");
}

#[test]
fn archives_out_of_order_are_refused() {
    let item = |number| ArchiveItem { number: ArchiveNumber::new(number).unwrap(), id: ArchiveId::new([0; 32]) };
    let page = |numbers: &[u64], more| {
        Reply::Archives(ArchiveList { items: List::new(numbers.iter().copied().map(item).collect()).unwrap(), more })
    };
    let mut client = answering(vec![page(&[5, 6], true), page(&[9], false)]);
    let from = ArchiveNumber::new(5).unwrap();
    assert_eq!(client.archives(&SOURCE, &LINEAGE, from).unwrap().len(), 3);
    for wrong in [page(&[6, 5], false), page(&[4], false), page(&[5, 5], false), page(&[], true)] {
        assert_eq!(answering(vec![wrong]).archives(&SOURCE, &LINEAGE, from).unwrap_err().exit, Exit::Tampered);
    }
    // The same page again and again: the second does not begin where it was asked to.
    let mut client = answering(vec![page(&[5, 6], true), page(&[5, 6], true)]);
    assert_eq!(client.archives(&SOURCE, &LINEAGE, from).unwrap_err().exit, Exit::Tampered);
}

// --- objects ----------------------------------------------------------------------------------------------------

fn body(byte: u8) -> Plain<Body> {
    let root = SealedRoot {
        salt: Salt::new([byte; 32]),
        plain: Digest::of(&[byte]),
        sealed: Blob::new(vec![byte; 4096]).unwrap(),
    };
    Plain::new(Body { pages: List::empty(), root }).unwrap()
}

fn page(source: SourceId) -> Plain<Page> {
    let entry =
        PageEntry { number: ArchiveNumber::FIRST, id: ArchiveId::new([0; 32]), live: Blob::new(vec![1]).unwrap() };
    Plain::new(Page { source, lineage: LINEAGE, archives: List::new(vec![entry]).unwrap() }).unwrap()
}

fn object<T: Object>(plain: &Plain<T>) -> Reply {
    Reply::Object(plain.as_bytes().to_vec())
}

#[test]
fn an_object_must_have_the_digest_asked_for() {
    let wanted = body(1);
    assert!(answering(vec![object(&wanted)]).body(&SOURCE, &wanted.digest()).is_ok());
    let failure = answering(vec![object(&body(2))]).body(&SOURCE, &wanted.digest()).unwrap_err();
    assert_eq!((failure.code, failure.exit), ("sink-lies", Exit::Tampered));
    // Another kind, garbage, another reply.
    let page = page(SOURCE);
    for wrong in [object(&page), Reply::Object(vec![0; 300]), Reply::Pong, Reply::End] {
        assert_eq!(answering(vec![wrong]).body(&SOURCE, &wanted.digest()).unwrap_err().exit, Exit::Tampered);
    }
    let foreign = self::page(SourceId::new([5; 32]));
    let failure = answering(vec![object(&foreign)]).page(&SOURCE, &foreign.digest()).unwrap_err();
    assert_eq!(failure.exit, Exit::Tampered);
}

#[test]
fn refusals_have_their_exit_codes_and_the_session_goes_on() {
    let refused = |code| Reply::Refused(Refused::new(code, "no"));
    let mut client = answering(vec![refused(RefusalCode::NotFound), refused(RefusalCode::Damaged), Reply::Pong]);
    assert_eq!(client.body(&SOURCE, &Digest::of(b"")).unwrap_err().exit, Exit::NotFound);
    assert_eq!(client.body(&SOURCE, &Digest::of(b"")).unwrap_err().exit, Exit::Tampered);
    client.ping().unwrap();
    let mut client = answering(vec![refused(RefusalCode::NotAllowed)]);
    assert_eq!(client.ping().unwrap_err().exit, Exit::NotFound);
    assert_eq!(client.ping().unwrap_err().code, "out-of-step");
}

#[test]
fn a_cut_in_the_middle_of_a_frame_is_explained_by_the_transport() {
    let ending = Ending { status: Some(1), stderr: b"first\nlast \x07words\n\n".to_vec(), reason: None };
    let (pipe, _) = with_ending(ending, |sink| {
        sink.greet(Role::Read);
        sink.frame();
        let frame = object(&body(1)).frame();
        let mut bytes = Vec::new();
        write_frame(&mut bytes, frame.tag, &frame.payload).unwrap();
        sink.write(&bytes[..bytes.len() - 7]);
    });
    let mut client = greet(pipe, "offsite", &sink_key().verify_key(), Greeting::Other).unwrap();
    let failure = client.body(&SOURCE, &Digest::of(b"")).unwrap_err();
    assert_eq!((failure.code, failure.exit), ("sink-ended", Exit::Unreachable));
    let text = failure.to_string();
    assert!(text.contains("offsite") && text.contains("last \\u{7}words") && text.contains("exit code 1"), "{text}");
}

#[test]
fn a_frame_too_large_or_unknown_is_a_lie() {
    for bytes in [&[0xff, 0xff, 0xff, 0x7f, 134][..], &[1, 0, 0, 0, 250], &[0, 0, 0, 0, 134]] {
        let mut client = greeted(Greeting::Other, move |sink| {
            sink.greet(Role::Read);
            sink.frame();
            sink.write(bytes);
        })
        .unwrap();
        assert_eq!(client.ping().unwrap_err().exit, Exit::Tampered);
    }
}

#[test]
fn sources_are_listed() {
    let mut client = answering(vec![Reply::Sources(SourceList { items: List::empty() })]);
    assert!(client.sources().unwrap().is_empty());
}

// --- archives and parts -----------------------------------------------------------------------------------------

fn envelope() -> Verified<Envelope> {
    let wrap = RecipientWrap {
        kem: Kem::X25519,
        recipient: Digest::of(b"r"),
        enc: Blob::new(vec![1; 32]).unwrap(),
        sealed: Blob::new(vec![2; 80]).unwrap(),
    };
    let envelope = Envelope {
        source: SOURCE,
        lineage: LINEAGE,
        salt: Salt::new([3; 32]),
        commitment: Digest::of(b"c"),
        recipients: List::new(vec![wrap]).unwrap(),
    };
    sign(envelope, &source_key()).unwrap()
}

fn archive(number: u64) -> (Verified<Index>, Region, Vec<Vec<u8>>) {
    let envelope = envelope();
    let parts = vec![vec![1; 4096], vec![2; 2 << 20], vec![3; 8192]];
    let list = parts
        .iter()
        .map(|part| Part { bytes: part.len() as u32, hash: Digest::of(part), plain: Digest::of(b"") })
        .collect();
    let index = Index {
        source: SOURCE,
        lineage: LINEAGE,
        session: SessionId::new(*envelope.digest().as_bytes()),
        number: ArchiveNumber::new(number).unwrap(),
        salt: Salt::new([4; 32]),
        kind: Kind::Data,
        parts: List::new(list).unwrap(),
    };
    let index = sign(index, &source_key()).unwrap();
    let region = Region::new(&index, &envelope).unwrap();
    (index, region, parts)
}

fn pieces(part: &[u8]) -> Vec<Reply> {
    let chunks: Vec<&[u8]> = part.chunks(1 << 20).collect();
    let last = chunks.len() - 1;
    let reply = |(at, chunk): (usize, &&[u8])| {
        if at == last { Reply::Object(chunk.to_vec()) } else { Reply::Piece(chunk.to_vec()) }
    };
    chunks.iter().enumerate().map(reply).collect()
}

/// A reader's client whose sink answers any number of part requests with these rows.
fn serving(rows: Vec<Vec<Reply>>) -> Client {
    greeted(Greeting::Other, move |sink| {
        sink.greet(Role::Read);
        for row in rows {
            let Some(frame) = sink.frame() else { return };
            ReadRequest::parse(frame).unwrap();
            row.iter().for_each(|reply| sink.reply(reply));
        }
        while sink.frame().is_some() {}
    })
    .unwrap()
}

#[test]
fn parts_come_in_pieces_and_ahead() {
    let (index, _, parts) = archive(0);
    let (second, ..) = archive(1);
    let row: Vec<Reply> = [0, 1].iter().flat_map(|at| pieces(&parts[*at])).collect();
    let mut client = serving(vec![row.clone(), row]);
    client.ask_parts(&index, &[0, 1]).unwrap();
    client.ask_parts(&second, &[0, 1]).unwrap();
    // Nothing else may be asked in between: its answer would come behind.
    assert_eq!(client.ping().unwrap_err().code, "out-of-step");
    for index in [&index, &second] {
        let mut got = Vec::new();
        client
            .take_parts(index, &mut |part, sealed| {
                got.push((part, sealed));
                Ok(())
            })
            .unwrap();
        assert_eq!(got, [(0, parts[0].clone()), (1, parts[1].clone())]);
    }
}

#[test]
fn a_damaged_part_is_named_and_the_others_come() {
    let (index, _, parts) = archive(7);
    let mut bad = parts[1].clone();
    bad[12345] ^= 1;
    let row: Vec<Reply> = [&parts[0], &bad, &parts[2]].into_iter().flat_map(|part| pieces(part)).collect();
    let mut client = serving(vec![row, vec![Reply::Pong]]);
    let mut got = Vec::new();
    let failure = client.parts(&index, &[0, 1, 2], &mut |part, _| {
        got.push(part);
        Ok(())
    });
    let failure = failure.unwrap_err();
    assert_eq!((failure.code, failure.exit), ("damaged", Exit::Tampered));
    assert!(failure.details[0].starts_with("part 1:"), "{failure}");
    assert_eq!(got, [0, 2]);
}

#[test]
fn parts_longer_shorter_or_refused_in_the_middle() {
    let (index, _, parts) = archive(0);
    let take = |row: Vec<Reply>| serving(vec![row]).parts(&index, &[0, 1], &mut |_, _| Ok(())).unwrap_err();
    let long = vec![Reply::Piece(vec![0; 1 << 20]); 4];
    assert_eq!(take(long).code, "sink-lies");
    assert_eq!(take(vec![Reply::Object(vec![0; 4095])]).code, "sink-lies");
    assert_eq!(take(vec![Reply::Piece(Vec::new()), Reply::Piece(Vec::new())]).code, "sink-lies");
    let refused = Reply::Refused(Refused::new(RefusalCode::Expired, "gone"));
    assert_eq!(take(vec![refused.clone()]).exit, Exit::NotFound);
    let mut middle = pieces(&parts[0]);
    middle.push(refused);
    assert_eq!(take(middle).code, "sink-lies");
}

#[test]
fn regions_and_tables_are_checked() {
    let (index, region, parts) = archive(3);
    let bytes = Reply::Object(region.as_bytes().to_vec());
    let get = |reply: Reply, id: ArchiveId| answering(vec![reply]).region(&SOURCE, &LINEAGE, index.number, &id);
    assert!(get(bytes.clone(), region.id()).is_ok());
    assert_eq!(get(bytes, ArchiveId::new([0; 32])).unwrap_err().exit, Exit::Tampered);
    let table = |part: &[u8]| answering(pieces(part)).table(&SOURCE, &LINEAGE, index.number, &index.parts[2]);
    assert_eq!(table(&parts[2]).unwrap(), parts[2]);
    assert_eq!(table(&[9; 8192]).unwrap_err().exit, Exit::Tampered);
}

// --- pushing ----------------------------------------------------------------------------------------------------

fn head(sequence: u64) -> Verified<Head> {
    let chain = Chain { source: SOURCE, lineage: LINEAGE, sink: sink_key().verify_key() };
    let head = Head {
        source: chain.source,
        lineage: chain.lineage,
        sink: chain.sink,
        sequence,
        previous: (sequence > 0).then(|| Digest::of(b"p")),
        series: Series::new([0; 16]),
        flags: 0,
        created: 0,
        session: SessionId::new([0; 32]),
        body: body(1).digest(),
        remotes: List::empty(),
        reason: None,
    };
    sign(head, &source_key()).unwrap()
}

fn receipt(head: &Verified<Head>, key: &SigningKey) -> Reply {
    let receipt = Receipt {
        source: head.source,
        lineage: head.lineage,
        sink: key.verify_key(),
        sequence: head.sequence,
        head: head.digest(),
        received: 1,
        previous: None,
        journal: None,
        archives: 0,
        keep_until: None,
    };
    Reply::Receipt(sign(receipt, key).unwrap().as_bytes().to_vec())
}

fn stored(digest: [u8; 32]) -> Reply {
    Reply::Stored(Stored { digest: Digest::new(digest), existed: false })
}

#[test]
fn a_push_is_pipelined_over_two_threads() {
    let (index, region, parts) = archive(0);
    let total = index.parts_bytes();
    let session = index.session;
    let id = region.id();
    let client = greeted(PUSH, move |sink| {
        sink.greet(Role::Push);
        let mut left = 0u64;
        while let Some(request) = sink.push_request() {
            match request {
                PushRequest::PutEnvelope(_) => sink.reply(&stored(*session.as_bytes())),
                PushRequest::PutArchive(_) => left = total,
                PushRequest::Data(data) => {
                    left -= data.len() as u64;
                    if left == 0 {
                        sink.reply(&stored(*id.as_bytes()));
                    }
                }
                PushRequest::PutPage(_) => sink.reply(&stored(*page(SOURCE).digest().as_bytes())),
                PushRequest::PutBody(_) => sink.reply(&Reply::Missing(Missing {
                    body: body(1).digest(),
                    pages: List::empty(),
                    archives: List::empty(),
                    total: 0,
                })),
                PushRequest::PutHead(_) => sink.reply(&receipt(&head(0), &sink_key())),
                _ => sink.reply(&Reply::Pong),
            }
        }
    })
    .unwrap();
    let (mut sender, mut receiver) = client.into_push();
    let sending = std::thread::spawn(move || {
        sender.envelope(&envelope()).unwrap();
        for _ in 0..20 {
            sender.archive(ArchiveNumber::FIRST, &region, parts.iter().map(Vec::as_slice)).unwrap();
        }
        sender.page(&page(SOURCE)).unwrap();
        sender.body(&body(1)).unwrap();
        sender.head(&head(0)).unwrap();
        sender.ping().unwrap();
    });
    let mut seen = Vec::new();
    while let Some((_, answer)) = receiver.next().unwrap() {
        seen.push(match answer {
            Answer::Stored { .. } => 's',
            Answer::Missing(missing) if missing.is_empty() => 'm',
            Answer::Receipt(_) => 'r',
            Answer::Pong => 'p',
            _ => '?',
        });
    }
    sending.join().unwrap();
    assert_eq!(seen.iter().collect::<String>(), format!("{}mrp", "s".repeat(22)));
}

fn pushed(reply: Reply) -> Outcome<Option<(Asked, Answer)>> {
    let client = greeted(PUSH, move |sink| {
        sink.greet(Role::Push);
        sink.frame();
        sink.reply(&reply);
        sink.frame();
    })
    .unwrap();
    let (mut sender, mut receiver) = client.into_push();
    sender.head(&head(0)).unwrap();
    receiver.next()
}

#[test]
fn a_receipt_must_be_the_sinks_and_for_this_head() {
    assert!(matches!(pushed(receipt(&head(0), &sink_key())), Ok(Some((_, Answer::Receipt(_))))));
    assert_eq!(pushed(receipt(&head(1), &sink_key())).unwrap_err().exit, Exit::Tampered);
    assert_eq!(pushed(receipt(&head(0), &SigningKey::from_seed(&[7; 32]))).unwrap_err().exit, Exit::Tampered);
    assert_eq!(pushed(stored([0; 32])).unwrap_err().exit, Exit::Tampered);
    assert_eq!(pushed(Reply::Pong).unwrap_err().exit, Exit::Tampered);
}

#[test]
fn storing_something_else_is_a_lie() {
    let client = greeted(PUSH, |sink| {
        sink.greet(Role::Push);
        sink.frame();
        sink.reply(&stored([0; 32]));
        sink.frame();
    })
    .unwrap();
    let (mut sender, mut receiver) = client.into_push();
    sender.envelope(&envelope()).unwrap();
    assert_eq!(receiver.next().unwrap_err().exit, Exit::Tampered);
    assert!(receiver.next().is_err(), "the session is over, without waiting for a further request");
}

#[test]
fn a_refusal_reaches_the_receiver_and_quota_goes_on() {
    let client = greeted(PUSH, |sink| {
        sink.greet(Role::Push);
        sink.frame();
        sink.reply(&Reply::Refused(Refused::new(RefusalCode::Quota, "500 GiB used")));
        sink.frame();
        sink.reply(&Reply::Pong);
        sink.frame();
    })
    .unwrap();
    let (mut sender, mut receiver) = client.into_push();
    sender.page(&page(SOURCE)).unwrap();
    sender.ping().unwrap();
    let Ok(Some((Asked::Page(_), Answer::Refused(refusal)))) = receiver.next() else { panic!("no refusal") };
    assert_eq!((refusal.code, refusal.failure.exit), (RefusalCode::Quota, Exit::Full));
    assert!(matches!(receiver.next(), Ok(Some((Asked::Ping, Answer::Pong)))));
}

#[test]
fn when_the_connection_dies_both_halves_say_why() {
    let reason = Some(("connection-lost", "the connection broke: keepalive timeout".to_owned(), None));
    let (pipe, thread) = with_ending(Ending { reason, ..Ending::default() }, |sink| {
        sink.greet(Role::Push);
        sink.frame();
    });
    let client = greet(pipe, "offsite", &sink_key().verify_key(), PUSH).unwrap();
    let (mut sender, mut receiver) = client.into_push();
    sender.ping().unwrap();
    thread.join().unwrap();
    let (_, region, parts) = archive(0);
    let sent = sender.archive(ArchiveNumber::FIRST, &region, parts.iter().map(Vec::as_slice)).unwrap_err();
    let received = receiver.next().unwrap_err();
    for failure in [sent, received] {
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(failure.message.contains("keepalive timeout"), "{failure}");
        assert_eq!(failure.remote.as_deref(), Some("offsite"));
    }
}

#[test]
fn a_silent_sink_is_given_up() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (reader, writer) = stream(ours, Duration::from_millis(30)).unwrap();
    let guard = Guard::new(Nothing(Ending::default()));
    let pipe = Pipe { reader: Box::new(reader), writer: Box::new(writer), guard };
    let Err(failure) = greet(pipe, "offsite", &sink_key().verify_key(), PUSH) else { panic!("accepted") };
    assert_eq!(failure.exit, Exit::Unreachable);
    assert!(failure.message.contains("nothing moved"), "{failure}");
    drop(theirs);
}

#[test]
fn the_way_to_a_sink_is_measured_with_pings() {
    let client = greeted(PUSH, |sink| {
        sink.greet(Role::Push);
        while sink.push_request().is_some_and(|request| matches!(request, PushRequest::Query(Query::Ping))) {
            sink.reply(&Reply::Pong);
        }
    });
    let mut client = client.unwrap();
    let speed = client.measure().unwrap();
    assert!(speed.bytes_per_second > 0 && speed.round_trip > Duration::ZERO, "{speed:?}");
    client.ping().unwrap();
}

#[test]
fn a_ping_waits_for_the_answer_to_the_one_before() {
    let (told, hears) = crossbeam_channel::unbounded();
    let (go, may) = crossbeam_channel::unbounded::<()>();
    let client = greeted(PUSH, move |sink| {
        sink.greet(Role::Push);
        while let Some(request) = sink.push_request() {
            let is_ping = matches!(request, PushRequest::Query(Query::Ping));
            told.send(is_ping).unwrap();
            if is_ping {
                may.recv().unwrap();
                sink.reply(&Reply::Pong);
            } else {
                sink.reply(&stored(*envelope().digest().as_bytes()));
            }
        }
    })
    .unwrap();
    let (mut sender, mut receiver) = client.into_push();
    for _ in 0..3 {
        sender.ping().unwrap();
    }
    sender.envelope(&envelope()).unwrap();
    go.send(()).unwrap();
    assert!(matches!(receiver.next(), Ok(Some((Asked::Ping, Answer::Pong)))));
    assert!(matches!(receiver.next(), Ok(Some((Asked::Envelope(_), Answer::Stored { .. })))));
    // Answered: the next one is sent.
    sender.ping().unwrap();
    go.send(()).unwrap();
    assert!(matches!(receiver.next(), Ok(Some((Asked::Ping, Answer::Pong)))));
    drop(sender);
    assert!(matches!(receiver.next(), Ok(None)));
    assert_eq!(hears.iter().collect::<Vec<_>>(), [true, false, true]);
}

#[test]
fn a_stopped_sender_wakes_the_receiver() {
    let (end, ended) = crossbeam_channel::bounded::<()>(0);
    let client = greeted(PUSH, move |sink| {
        sink.greet(Role::Push);
        sink.frame();
        // Silent, and the socket stays open.
        let _ = ended.recv();
    })
    .unwrap();
    let (mut sender, mut receiver) = client.into_push();
    sender.ping().unwrap();
    let receiving = std::thread::spawn(move || receiver.next().unwrap_err());
    sender.stop();
    let failure = receiving.join().unwrap();
    assert!(!failure.message.contains("nothing moved"), "it waited until its time was over: {failure}");
    drop(end);
}

#[test]
fn objects_are_asked_for_ahead_and_a_refusal_is_about_one() {
    let refused = Reply::Refused(Refused::new(RefusalCode::NotFound, "no such body"));
    let object = |bytes: &[u8]| vec![Reply::Object(bytes.to_vec())];
    let mut client = serving(vec![object(b"one"), vec![refused], object(b"three")]);
    let query = Query::GetBody(GetObject { source: SOURCE, digest: Digest::of(b"one") });
    for _ in 0..3 {
        client.ask_object(&query).unwrap();
    }
    assert_eq!(client.take_object().unwrap(), b"one");
    assert_eq!(client.take_object().unwrap_err().exit, Exit::NotFound);
    assert!(!client.is_over());
    assert_eq!(client.take_object().unwrap(), b"three");
    // Nothing is open any more: who takes all the same is out of step.
    assert_eq!(client.take_object().unwrap_err().code, "out-of-step");
    assert!(client.is_over());
}

#[test]
fn no_more_is_asked_ahead_than_buffers_hold() {
    let mut client = serving(Vec::new());
    let query = Query::GetBody(GetObject { source: SOURCE, digest: Digest::of(b"one") });
    for _ in 0..OBJECTS_AHEAD_MAX {
        client.ask_object(&query).unwrap();
    }
    assert_eq!(client.ask_object(&query).unwrap_err().code, "out-of-step");
}

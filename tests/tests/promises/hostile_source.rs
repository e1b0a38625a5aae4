//! Attack 1: root on the source. Whoever holds the source's keys speaks the protocol by hand and changes nothing
//! that was accepted, reads no block, and harms no other snapshot.

use shared::codec::List;
use shared::format::{Head, PageEntry, Region};
use shared::id::{ArchiveId, ArchiveNumber, Digest, Lineage, Salt, Series, SourceId, VerifyKey};
use shared::limits::{DATA_BYTES_MAX, FRAME_BYTES_MAX};
use shared::signature::{Plain, SigningKey, Verified, sign};
use shared::wire::request::{GetArchive, GetObject, GetParts, ListHeads};
use shared::wire::{Frame, PushRequest, Query, ReadRequest, RefusalCode, Reply, Request, request};
use tests::craft::{Crafted, Forger, bitmap, sign_raw};
use tests::vault::assert_nothing_lost;
use tests::wire::{Client, hello, receipt, refused, refused_as, stored};
use tests::{Chance, Place, Vault};

/// A vault with one source that has two snapshots, and its attacker.
struct Scene {
    // Holds the directory.
    place: Place,
    vault: Vault,
    sink: VerifyKey,
    forger: Forger,
    first: Verified<Head>,
    second: Verified<Head>,
}

impl Scene {
    fn new() -> Self {
        let place = Place::new();
        let vault = Vault::new(place.path());
        let forger = Forger::new("web1");
        let sink = forger.enroll(&vault).card.sink;
        let mut client = forger.connect(&vault, &sink);
        let first = forger.push_snapshot(&mut client, sink, 0, 0, None);
        let second = forger.push_snapshot(&mut client, sink, 1, 1, Some(first.digest()));
        client.close_input();
        client.must_end();
        Self { place, vault, sink, forger, first, second }
    }

    fn connect(&self) -> Client {
        self.forger.connect(&self.vault, &self.sink)
    }

    /// Runs an attack: nothing accepted before may change, the vault stays clean, and the next snapshot is taken.
    #[track_caller]
    fn attack(&self, attack: impl FnOnce(&Self)) {
        let before = self.vault.accepted("web1");
        attack(self);
        assert_nothing_lost(&before, &self.vault.accepted("web1"));
        self.vault.must_be_clean();
        assert!(self.vault.files("web1", "staging").is_empty(), "something was left in staging");
    }

    fn put_head(&self, client: &mut Client, head: Head) -> Reply {
        client.ask(&PushRequest::PutHead(self.forger.sign(head).as_bytes().to_vec()))
    }

    /// A head that would be the right next one.
    fn next_head(&self) -> Head {
        self.forger.head(self.sink, 2, Some(self.second.digest()), self.second.body)
    }
}

#[test]
fn an_accepted_archive_cannot_be_replaced() {
    Scene::new().attack(|scene| {
        let mut client = scene.connect();
        let other = scene.forger.archive(0, &[vec![b"instead".to_vec()]]);
        refused_as(client.put_archive(&other.region, &other.parts), &[RefusalCode::Conflict]);
        // The session goes on; the very same archive is simply there already.
        let accepted = std::fs::read(&scene.vault.files("web1", "archives")[0]).unwrap();
        let (region, parts) = Region::parse_prefix(&accepted).unwrap();
        assert!(stored(client.put_archive(&region, parts)), "the same archive existed");
    });
}

#[test]
fn old_and_forged_heads_are_refused() {
    let scene = Scene::new();
    scene.attack(|scene| {
        let forger = &scene.forger;
        let right = scene.next_head();
        let lies: Vec<(&str, Head)> = vec![
            ("the first head again, other content", Head { body: Digest::new([1; 32]), ..(*scene.first).clone() }),
            (
                "an old sequence number",
                Head { sequence: 1, previous: Some(scene.first.digest()), created: 5, ..right.clone() },
            ),
            ("a gap in the sequence", Head { sequence: 7, ..right.clone() }),
            ("a gigantic sequence", Head { sequence: u64::MAX, ..right.clone() }),
            ("a forged predecessor", Head { previous: Some(Digest::new([9; 32])), ..right.clone() }),
            ("the predecessor's predecessor", Head { previous: Some(scene.first.digest()), ..right.clone() }),
            ("another sink's chain", Head { sink: VerifyKey::new([3; 32]), ..right.clone() }),
            ("another source", Head { source: SourceId::new([4; 32]), ..right.clone() }),
            ("another lineage", Head { lineage: Lineage::random(), ..right.clone() }),
            ("a body that is not there", Head { body: Digest::new([5; 32]), ..right.clone() }),
            ("a new first head", Head { sequence: 0, previous: None, ..right.clone() }),
        ];
        for (lie, head) in lies {
            let mut client = scene.connect();
            let reply = scene.put_head(&mut client, head);
            assert!(matches!(reply, Reply::Refused(_)), "{lie}: {reply:?}");
        }
        // Signed by someone else.
        let mut client = scene.connect();
        let foreign = sign(right.clone(), &SigningKey::random()).unwrap();
        refused_as(client.ask(&PushRequest::PutHead(foreign.as_bytes().to_vec())), &[RefusalCode::Signature]);
        // And the right one is still taken.
        let mut client = scene.connect();
        let head = forger.sign(right);
        let first = receipt(client.ask(&PushRequest::PutHead(head.as_bytes().to_vec())), &head, &scene.sink);
        // Again: the same receipt, not a new one.
        let again = receipt(client.ask(&PushRequest::PutHead(head.as_bytes().to_vec())), &head, &scene.sink);
        assert_eq!(first, again);
    });
    assert_eq!(scene.vault.files("web1", "heads").len(), 3);
}

#[test]
fn a_head_cannot_move_the_sinks_clock() {
    let scene = Scene::new();
    let mut previous = scene.second.digest();
    let mut client = scene.connect();
    for (sequence, created) in [(2, 0), (3, i64::MAX), (4, i64::MIN), (5, 1)] {
        let head = Head { sequence, created, previous: Some(previous), ..scene.next_head() };
        let head = scene.forger.sign(head);
        let before = unix_now();
        let reply = client.ask(&PushRequest::PutHead(head.as_bytes().to_vec()));
        let bytes = receipt(reply, &head, &scene.sink);
        let signed = shared::signature::Signed::<shared::format::Receipt>::parse(&bytes).unwrap();
        let received = signed.verify(&scene.sink).unwrap().received;
        assert!((before - 1..=unix_now() + 1).contains(&received), "created {created} became received {received}");
        previous = head.digest();
    }
    drop(client);
    scene.vault.must_be_clean();
}

fn unix_now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64
}

#[test]
fn objects_of_others_are_refused() {
    let scene = Scene::new();
    let victim = Forger::new("web2");
    victim.enroll(&scene.vault);
    let mut client = victim.connect(&scene.vault, &scene.sink);
    victim.push_snapshot(&mut client, scene.sink, 0, 0, None);
    drop(client);
    let victims = scene.vault.accepted("web2");
    scene.attack(|scene| {
        let forger = &scene.forger;
        // Everything of the victim, sent in our session.
        let archive = victim.junk(5, 10_000);
        let mut client = scene.connect();
        assert!(matches!(client.put_archive(&archive.region, &archive.parts), Reply::Refused(_)));
        let mut client = scene.connect();
        refused(client.ask(&PushRequest::PutEnvelope(victim.envelope.as_bytes().to_vec())));
        // The victim's id under our signature.
        let mut index = (*forger.junk(9, 5000).index).clone();
        index.source = victim.source;
        let index = sign(index, &forger.signing).unwrap();
        let region = Region::new(&index, &forger.envelope).unwrap();
        let mut client = scene.connect();
        refused(client.put_archive(&region, &vec![0; index.parts_bytes() as usize]));
        // Our signature over another lineage than the greeting's.
        let mut index = (*forger.junk(9, 5000).index).clone();
        index.lineage = Lineage::random();
        let index = sign(index, &forger.signing).unwrap();
        let region = Region::new(&index, &forger.envelope).unwrap();
        let mut client = scene.connect();
        refused(client.put_archive(&region, &vec![0; index.parts_bytes() as usize]));
        // A greeting that names the victim.
        let mut client = Client::start(scene.vault.serve("web1", "push"));
        client.send(&request::hello_frame(&hello(Some((victim.source, victim.lineage)))));
        assert!(matches!(client.reply(), Reply::Refused(_)), "a greeting under another source's id");
    });
    assert_eq!(victims, scene.vault.accepted("web2"), "the other source is untouched");
}

#[test]
fn a_source_reads_no_block_and_nothing_of_others() {
    let scene = Scene::new();
    let victim = Forger::new("web2");
    victim.enroll(&scene.vault);
    let mut client = victim.connect(&scene.vault, &scene.sink);
    let head = victim.push_snapshot(&mut client, scene.sink, 0, 0, None);
    drop(client);
    scene.attack(|scene| {
        let (source, lineage) = (scene.forger.source, scene.forger.lineage);
        let number = ArchiveNumber::FIRST;
        // Its own index and chunk table are its own; its blocks are not.
        let mut client = scene.connect();
        let region = client.query(Query::GetRegion(GetArchive { source, lineage, number }));
        assert!(matches!(region, Reply::Object(_)), "{region:?}");
        let parts = GetParts { source, lineage, number, parts: List::new(vec![0]).unwrap() };
        refused_as(client.ask(&ReadRequest::GetParts(parts)), &[RefusalCode::NotAllowed]);
        assert!(client.must_end().is_empty(), "the session ends");
        let (source, lineage) = (victim.source, victim.lineage);
        for query in [
            Query::ListHeads(ListHeads { source, lineage, from: 0, limit: 10 }),
            Query::GetRegion(GetArchive { source, lineage, number }),
            Query::GetTable(GetArchive { source, lineage, number }),
            Query::GetBody(GetObject { source, digest: head.body }),
        ] {
            let mut client = scene.connect();
            refused_as(client.query(query), &[RefusalCode::NotAllowed, RefusalCode::NotFound]);
        }
        let mut client = scene.connect();
        let Reply::Sources(list) = client.query(Query::ListSources) else { panic!("no list of sources") };
        assert!(list.items.iter().all(|item| item.source == scene.forger.source), "{list:?}");
    });
}

#[test]
fn changed_and_truncated_archives_are_not_published() {
    Scene::new().attack(|scene| {
        let archive = scene.forger.archive(2, &[vec![Chance::new(1).bytes(50_000)], vec![Chance::new(2).bytes(9000)]]);
        let files = scene.vault.files("web1", "archives");
        for at in [0, 4096, archive.parts.len() / 2, archive.parts.len() - 1] {
            let mut parts = archive.parts.clone();
            parts[at] ^= 1;
            let mut client = scene.connect();
            refused_as(client.put_archive(&archive.region, &parts), &[RefusalCode::Signature]);
        }
        let region = archive.region.as_bytes();
        for at in (0..region.len()).step_by(97) {
            let mut changed = region.to_vec();
            changed[at] ^= 1;
            let mut client = scene.connect();
            client.send_archive(&changed, &archive.parts);
            client.close_input();
            let replies = client.must_end();
            let taken = replies.iter().any(|frame| frame.tag == shared::wire::reply::tag::STORED);
            assert!(!taken, "a region with a flipped bit at {at} was taken");
        }
        for length in [0, 1, 4095, 4096, archive.parts.len() - 1] {
            let mut client = scene.connect();
            client.send_archive(region, &archive.parts[..length]);
            client.close_input();
            assert!(client.must_end().iter().all(|frame| frame.tag != shared::wire::reply::tag::STORED));
        }
        assert_eq!(files, scene.vault.files("web1", "archives"));
        // Untouched it is taken.
        let mut client = scene.connect();
        assert!(!stored(client.put_archive(&archive.region, &archive.parts)));
    });
}

#[test]
fn oversized_and_endless_input_ends_the_session() {
    Scene::new().attack(|scene| {
        let archive = scene.forger.junk(2, 5000);
        let flood = |begin: &dyn Fn(&mut Client), frame: Frame, what: &str| {
            let mut client = scene.connect();
            begin(&mut client);
            let mut bytes = Vec::new();
            shared::wire::write_frame(&mut bytes, frame.tag, &frame.payload).unwrap();
            // 64 MiB at most: a sink that swallows all of it has not ended the session.
            let mut sent = 0;
            while client.raw(&bytes) && sent < 64 << 20 {
                sent += bytes.len();
            }
            client.close_input();
            client.must_end();
            assert!(sent < 64 << 20, "{what}: the sink took {sent} bytes");
        };
        let data = |bytes: usize| PushRequest::Data(vec![7; bytes]).frame();
        flood(&|_| {}, data(1), "data without an archive");
        flood(
            &|client| client.send_archive(archive.region.as_bytes(), &archive.parts),
            data(DATA_BYTES_MAX),
            "data beyond the archive",
        );
        for (what, bytes) in [
            ("a frame of 4 GiB", &[0xff, 0xff, 0xff, 0xff, 65][..]),
            ("a frame above the limit", &[&(FRAME_BYTES_MAX as u32 + 1).to_le_bytes()[..], &[66]].concat()),
            ("an empty frame", &[0, 0, 0, 0, 0]),
        ] {
            let mut client = scene.connect();
            client.raw(bytes);
            for frame in client.must_end() {
                assert_eq!(frame.tag, shared::wire::reply::tag::REFUSED, "{what}");
            }
        }
        for (tag, bytes) in [
            (request::tag::DATA, DATA_BYTES_MAX + 1),
            (request::tag::PUT_HEAD, shared::limits::HEAD_BYTES_MAX + 1),
            (request::tag::PUT_ENVELOPE, shared::limits::ENVELOPE_BYTES_MAX + 1),
            (request::tag::PUT_ARCHIVE, shared::limits::REGION_BYTES_MAX + 1),
            (request::tag::PUT_PAGE, shared::limits::PAGE_BYTES_MAX + 1),
            (request::tag::PUT_BODY, shared::limits::BODY_BYTES_MAX + 1),
            (request::tag::LIST_HEADS, 65 << 10),
            (request::tag::PING, shared::limits::PING_BYTES_MAX + 1),
        ] {
            let mut client = scene.connect();
            client.send(&Frame { tag, payload: vec![0; bytes] });
            refused_as(client.reply(), &[RefusalCode::Malformed]);
            assert!(client.must_end().is_empty(), "request {tag}: the session ends");
        }
    });
}

#[test]
fn garbage_ends_the_session_and_nothing_else() {
    Scene::new().attack(|scene| {
        let mut chance = Chance::new(42);
        for round in 0..60 {
            let mut client = scene.connect();
            let count = 1 + chance.below(3000) as usize;
            let tag = chance.below(80) as u8;
            let payload = chance.bytes(count);
            match round % 3 {
                0 => client.raw(&payload),
                1 => client.send(&Frame { tag, payload }),
                // An object of the right kind, signed by the source, with a body of garbage.
                _ => {
                    let kind = *chance.pick(b"IEHBPSWVXORLG");
                    let tag = *chance.pick(&[64, 65, 67, 68, 69, 70, 32, 33, 34, 35]);
                    client.send(&Frame { tag, payload: sign_raw(kind, &payload, &scene.forger.signing) })
                }
            };
            client.close_input();
            for frame in client.must_end() {
                assert_ne!(frame.tag, shared::wire::reply::tag::STORED, "round {round}: garbage was stored");
            }
            assert!(client.exit().is_some(), "round {round}: the sink died of a signal");
        }
    });
}

#[test]
fn a_body_that_names_what_is_not_there_harms_only_itself() {
    Scene::new().attack(|scene| {
        let forger = &scene.forger;
        let absent = forger.junk(4, 5000);
        let mut client = scene.connect();
        let put_page = |client: &mut Client, page: &Plain<shared::format::Page>| {
            client.ask(&PushRequest::PutPage(page.as_bytes().to_vec()))
        };
        let missing = |reply: Reply| match reply {
            Reply::Missing(missing) => missing,
            other => panic!("no list of what is missing: {other:?}"),
        };
        let put_body = |client: &mut Client, body: &Plain<shared::format::Body>| {
            client.ask(&PushRequest::PutBody(body.as_bytes().to_vec()))
        };
        // A page that is not there.
        let page = forger.page(&[(&absent, 1)]);
        let body = forger.body(&[&page]);
        assert_eq!(missing(put_body(&mut client, &body)).pages.len(), 1);
        // An archive that is not there.
        stored(put_page(&mut client, &page));
        assert_eq!(missing(put_body(&mut client, &body)).archives.to_vec(), [ArchiveNumber::new(4).unwrap()]);
        let head = Head { body: body.digest(), ..scene.next_head() };
        assert!(matches!(scene.put_head(&mut client, head), Reply::Refused(_)), "a head over a refused body");
        // The right number with another id, and blocks that no archive has.
        drop(client);
        let held = held(scene);
        for (id, live) in [(ArchiveId::new([8; 32]), 1), (held.id, 4000)] {
            let entry = PageEntry { number: held.number, id, live: bitmap(live) };
            let page = shared::format::Page {
                source: forger.source,
                lineage: forger.lineage,
                archives: List::new(vec![entry]).unwrap(),
            };
            let page = Plain::new(page).unwrap();
            let mut client = scene.connect();
            if let Reply::Refused(_) = put_page(&mut client, &page) {
                continue;
            }
            match put_body(&mut client, &forger.body(&[&page])) {
                Reply::Missing(missing) => assert!(!missing.is_empty()),
                Reply::Refused(_) => {}
                other => panic!("{other:?}"),
            }
        }
        // A page of another source.
        let foreign = Forger::new("elsewhere");
        let mut client = scene.connect();
        refused(put_page(&mut client, &foreign.page(&[(&foreign.junk(0, 500), 1)])));
    });
}

/// Archive 0 as the vault holds it.
struct Held {
    number: ArchiveNumber,
    id: ArchiveId,
}

fn held(scene: &Scene) -> Held {
    let bytes = std::fs::read(&scene.vault.files("web1", "archives")[0]).unwrap();
    let (region, _) = Region::parse_prefix(&bytes).unwrap();
    let id = region.id();
    let index = region.index.verify(&scene.forger.signing.verify_key()).unwrap();
    Held { number: index.number, id }
}

#[test]
fn a_quota_ends_the_flood_of_bytes() {
    let place = Place::new();
    let vault = Vault::new(place.path());
    let forger = Forger::new("web1");
    let enrolled = vault.enroll(&forger.card.to_string(), "push", "backup@127.0.0.1:22", &["--quota", "1MiB"]);
    let sink = enrolled.card.sink;
    let mut client = forger.connect(&vault, &sink);
    let head = forger.push_snapshot(&mut client, sink, 0, 0, None);
    let before = vault.accepted("web1");
    let large = forger.junk(1, 2 << 20);
    refused_as(client.put_archive(&large.region, &large.parts), &[RefusalCode::Quota]);
    // The session stays in step after a refused archive.
    assert_eq!(client.query(Query::Ping), Reply::Pong);
    // Tiny objects count as 4 KiB each.
    let mut taken = 0;
    let full = loop {
        let small = forger.archive(1 + taken, &[vec![vec![taken as u8]]]);
        match client.put_archive(&small.region, &small.parts) {
            Reply::Stored(_) => taken += 1,
            Reply::Refused(refused) => break refused,
            other => panic!("{other:?}"),
        }
        assert!(taken < 256, "more than 1 MiB of small archives was taken");
    };
    assert_eq!(full.code, RefusalCode::Quota);
    assert_nothing_lost(&before, &vault.accepted("web1"));
    drop(client);
    let used: u64 = vault.accepted("web1").keys().map(|file| std::fs::metadata(file).unwrap().len().max(4096)).sum();
    assert!(used <= (1 << 20) + (256 << 10), "{used} bytes with a quota of 1 MiB");
    vault.must_be_clean();
    assert_eq!(head.sequence, 0);
}

#[test]
fn caps_end_the_flood_of_series_heads_and_envelopes() {
    Scene::new().attack(|scene| {
        let mut client = scene.connect();
        let mut previous = scene.second.digest();
        let mut refused = None;
        for number in 0..2000u64 {
            let mut series = [0; 16];
            series[..8].copy_from_slice(&number.to_le_bytes());
            let head = Head {
                sequence: 2 + number,
                previous: Some(previous),
                series: Series::new(series),
                ..scene.next_head()
            };
            let head = scene.forger.sign(head);
            match client.ask(&PushRequest::PutHead(head.as_bytes().to_vec())) {
                Reply::Receipt(_) => previous = head.digest(),
                Reply::Refused(why) => {
                    refused = Some((number, why.code));
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        let (number, code) = refused.expect("a flood of 2000 series was taken");
        assert_eq!(code, RefusalCode::Cap, "after {number} series");
        // A known series is still taken: the flood does not keep good snapshots out.
        let sequence = 2 + number;
        let head = scene.forger.sign(Head { sequence, previous: Some(previous), ..scene.next_head() });
        receipt(client.ask(&PushRequest::PutHead(head.as_bytes().to_vec())), &head, &scene.sink);
    });
    Scene::new().attack(|scene| {
        let recipients = [scene.forger.owner.recipient(shared::format::Kem::X25519)];
        let mut client = scene.connect();
        let mut capped = false;
        for _ in 0..1200 {
            let forger = &scene.forger;
            let (_, envelope) = source_agent::crypto::wrap::new_session(
                forger.source,
                forger.lineage,
                &forger.secret,
                &recipients,
                &forger.signing,
            )
            .unwrap();
            match client.ask(&PushRequest::PutEnvelope(envelope.as_bytes().to_vec())) {
                Reply::Stored(_) => {}
                Reply::Refused(refused) => {
                    assert_eq!(refused.code, RefusalCode::Cap);
                    capped = true;
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(capped, "a flood of 1200 envelopes was taken");
    });
}

#[test]
fn slow_and_silent_sessions_end() {
    let scene = Scene::new();
    scene.vault.configure("serve", "idle-timeout = \"2s\"");
    scene.attack(|scene| {
        let archive = scene.forger.junk(2, 100_000);
        for begin in 0..3 {
            let mut client = scene.connect();
            match begin {
                0 => true,
                1 => client.raw(&[200, 0, 0]),
                _ => client.send(&PushRequest::PutArchive(archive.region.as_bytes().to_vec()).frame()),
            };
            // Nothing more is said; the other side must end it by itself.
            for frame in client.must_end() {
                let Ok(Reply::Refused(refused)) = Reply::parse(frame) else { panic!("case {begin}") };
                assert_eq!(refused.code, RefusalCode::Timeout, "case {begin}");
            }
        }
    });
}

#[test]
fn one_push_session_at_a_time() {
    Scene::new().attack(|scene| {
        let mut first = scene.connect();
        assert_eq!(first.query(Query::Ping), Reply::Pong);
        let mut second = Client::start(scene.vault.serve("web1", "push"));
        let chain = (scene.forger.source, scene.forger.lineage);
        second.send(&request::hello_frame(&hello(Some(chain))));
        refused_as(second.reply(), &[RefusalCode::Busy]);
        assert_eq!(first.query(Query::Ping), Reply::Pong, "the first goes on");
        drop(first);
        // Its lock ended with it.
        let mut third = scene.connect();
        assert_eq!(third.query(Query::Ping), Reply::Pong);
    });
}

#[test]
fn owners_objects_need_the_owners_signature() {
    Scene::new().attack(|scene| {
        let forger = &scene.forger;
        let voucher = |owner: VerifyKey| shared::format::Voucher {
            owner,
            source: forger.source,
            lineage: forger.lineage,
            sink: scene.sink,
            sequence: 1,
            head: scene.second.digest(),
            checked: 1,
        };
        let owner = forger.owner.owner_key();
        let lies = [
            ("the source's key for the owner's", sign(voucher(owner.verify_key()), &forger.signing).unwrap()),
            ("a stranger's voucher", {
                let stranger = SigningKey::random();
                sign(voucher(stranger.verify_key()), &stranger).unwrap()
            }),
            ("the source as owner", sign(voucher(forger.signing.verify_key()), &forger.signing).unwrap()),
        ];
        for (lie, voucher) in lies {
            let mut client = scene.connect();
            let reply = client.query(Query::PutVoucher(voucher.as_bytes().to_vec()));
            assert!(matches!(reply, Reply::Refused(_)), "{lie}: {reply:?}");
        }
        let right = sign(voucher(owner.verify_key()), &owner).unwrap();
        let mut client = scene.connect();
        stored(client.query(Query::PutVoucher(right.as_bytes().to_vec())));
    });
}

#[test]
fn a_session_of_an_unknown_envelope_brings_no_archive() {
    Scene::new().attack(|scene| {
        // Another session of the same source, whose envelope the sink has never seen.
        let fresh = Forger::with_owner("web1", tests_owner());
        let forger = &scene.forger;
        let (secret, envelope) = source_agent::crypto::wrap::new_session(
            forger.source,
            forger.lineage,
            &forger.secret,
            &[fresh.owner.recipient(shared::format::Kem::X25519)],
            &forger.signing,
        )
        .unwrap();
        let salt = Salt::random();
        let number = ArchiveNumber::new(2).unwrap();
        let place = |part| source_agent::crypto::part::Place::Part {
            source: forger.source,
            lineage: forger.lineage,
            salt,
            archive: number,
            part,
        };
        let sealed: Vec<_> = (0..2)
            .map(|part| source_agent::crypto::seal::seal_small(secret.as_bytes(), &place(part), b"x").unwrap())
            .collect();
        let mut index = (*forger.archive_of(number, salt, &sealed).index).clone();
        index.session = shared::id::SessionId::new(*envelope.digest().as_bytes());
        let index = sign(index, &forger.signing).unwrap();
        let region = Region::new(&index, &envelope).unwrap();
        let parts: Vec<u8> = sealed.iter().flat_map(|part| part.bytes.clone()).collect();
        let mut client = scene.connect();
        refused(client.put_archive(&region, &parts));
        // With its envelope first, it is taken: the promise is about the order.
        drop(client);
        let mut client = scene.connect();
        stored(client.ask(&PushRequest::PutEnvelope(envelope.as_bytes().to_vec())));
        stored(client.put_archive(&region, &parts));
        // An index that names another session than its envelope.
        let mut index = index.into_value();
        index.session = forger.session();
        index.number = ArchiveNumber::new(3).unwrap();
        let index = sign(index, &forger.signing).unwrap();
        let region = Region::new(&index, &envelope).unwrap();
        drop(client);
        let mut client = scene.connect();
        refused(client.put_archive(&region, &parts));
    });
}

fn tests_owner() -> source_agent::crypto::identity::Identity {
    source_agent::crypto::identity::Identity::random()
}

#[test]
fn archives_pipelined_without_waiting_stay_in_step() {
    let scene = Scene::new();
    let mut client = scene.connect();
    let archives: Vec<Crafted> = (2..12).map(|number| scene.forger.junk(number, 30_000)).collect();
    for (at, archive) in archives.iter().enumerate() {
        let mut parts = archive.parts.clone();
        if at == 4 {
            // A number that is taken: refused, its data swallowed.
            let other = scene.forger.archive(0, &[vec![vec![1]]]);
            client.send_archive(other.region.as_bytes(), &other.parts);
        }
        parts.truncate(archive.parts.len());
        client.send_archive(archive.region.as_bytes(), &parts);
        client.send(&PushRequest::Query(Query::Ping).frame());
    }
    for (at, archive) in archives.iter().enumerate() {
        if at == 4 {
            refused_as(client.reply(), &[RefusalCode::Conflict]);
        }
        match client.reply() {
            Reply::Stored(stored) => assert_eq!(stored.digest.as_bytes(), archive.id().as_bytes()),
            other => panic!("archive {at}: {other:?}"),
        }
        assert_eq!(client.reply(), Reply::Pong);
    }
    drop(client);
    scene.vault.must_be_clean();
    assert!(scene.place.path().exists());
}

//! A source in an attacker's hands, with the source's own key; and a receiver in an attacker's hands.

use crate::serve::channel;
use crate::serve::tests::Client;
use crate::serve::tests::world::{Archive, NOW, Source, World, files, random_bytes};
use crate::store::Shelf;
use shared::format::Region;
use shared::id::{Digest, Lineage, SourceId, VerifyKey};
use shared::signature::{SIGNATURE_BYTES, SigningKey, sign};
use shared::wire::request::{hello_frame, tag};
use shared::wire::{PushRequest, RefusalCode, Reply, Role, read_frame, write_frame};
use std::io::Write;

struct Stage {
    world: World,
    source: Source,
    one: Archive,
}

/// A vault with one snapshot in it.
fn stage() -> Stage {
    let world = World::new();
    let source = world.source("web1", 1);
    let mut client = world.push(&source);
    client.put_envelope(&source);
    let one = source.archive(0, &[3, 2, 1]);
    client.put_archive(&one);
    client.commit(&source, &[&one], None);
    client.close();
    Stage { world, source, one }
}

impl Stage {
    /// Nothing was added or changed but what is named here.
    fn assert_kept(&self, archives: usize, heads: usize) {
        self.world.assert_whole();
        assert_eq!(self.world.count(&self.source, Shelf::Archives), archives);
        assert_eq!(self.world.count(&self.source, Shelf::Heads), heads);
        assert_eq!(files(&self.world.layout.staging(&self.source.name)), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn a_wrong_hash_in_any_part_ends_the_session_and_nothing_is_named() {
    let stage = stage();
    for part in 0..3 {
        let mut client = stage.world.push(&stage.source);
        let mut archive = stage.source.archive(1, &[3, 2, 1]);
        let last = archive.parts[part].len() - 1;
        archive.parts[part][last] ^= 1;
        client.send_archive(&archive);
        client.refused_and_ended(RefusalCode::Signature);
    }
    stage.assert_kept(1, 1);
}

#[test]
fn forged_and_foreign_objects_are_refused() {
    let stage = stage();
    let source = &stage.source;
    let thief = Source::new(
        source.name.clone(),
        SigningKey::from_seed(&[99; 32]),
        source.card.clone(),
        source.lineage,
        source.sink,
    );
    let other_lineage = source.in_lineage(77);
    let foreign = stage.world.source("db", 2);
    let body = source.body(&[&source.page(vec![stage.one.entry(&[0])])], 1);
    let mut cut = source.envelope.as_bytes().to_vec();
    cut.pop();
    let mut flipped = source.archive(1, &[1, 1]).region;
    let at = flipped.len() - 4096;
    flipped[at + 20] ^= 1;
    let cases = [
        ("an envelope by another key", tag::PUT_ENVELOPE, thief.envelope.as_bytes().to_vec(), RefusalCode::Signature),
        (
            "an envelope of another lineage",
            tag::PUT_ENVELOPE,
            other_lineage.envelope.as_bytes().to_vec(),
            RefusalCode::NotAllowed,
        ),
        ("another source's envelope", tag::PUT_ENVELOPE, foreign.envelope.as_bytes().to_vec(), RefusalCode::Signature),
        ("a cut envelope", tag::PUT_ENVELOPE, cut, RefusalCode::Malformed),
        ("an archive by another key", tag::PUT_ARCHIVE, thief.archive(1, &[1, 1]).region, RefusalCode::Signature),
        (
            "an archive of another lineage",
            tag::PUT_ARCHIVE,
            other_lineage.archive(1, &[1, 1]).region,
            RefusalCode::NotAllowed,
        ),
        ("an archive with a flipped bit", tag::PUT_ARCHIVE, flipped, RefusalCode::Signature),
        (
            "a page of another source",
            tag::PUT_PAGE,
            foreign.page(vec![stage.one.entry(&[0])]).as_bytes().to_vec(),
            RefusalCode::NotAllowed,
        ),
        (
            "a page where a body belongs",
            tag::PUT_BODY,
            source.page(vec![stage.one.entry(&[0])]).as_bytes().to_vec(),
            RefusalCode::Malformed,
        ),
        ("a head by another key", tag::PUT_HEAD, thief.head(None, &body).as_bytes().to_vec(), RefusalCode::Signature),
        (
            "a head of another lineage",
            tag::PUT_HEAD,
            other_lineage.head(None, &body).as_bytes().to_vec(),
            RefusalCode::NotAllowed,
        ),
    ];
    for (wrong, tag, payload, code) in cases {
        let mut client = stage.world.push(source);
        client.raw(tag, &payload);
        let message = client.refused_and_ended(code);
        assert!(!message.is_empty(), "{wrong}");
    }
    stage.assert_kept(1, 1);
}

#[test]
fn an_index_that_names_another_source_or_envelope_is_refused() {
    let stage = stage();
    let source = &stage.source;
    let parts = vec![random_bytes(1, 4096), random_bytes(2, 4096)];
    let mut foreign = source.index(1, &parts);
    foreign.source = SourceId::new([7; 32]);
    let foreign = Region::new(&sign(foreign, &source.key).unwrap(), &source.envelope).unwrap();
    let mut stranger = source.index(1, &parts);
    stranger.session = shared::id::SessionId::new([7; 32]);
    let stranger = Region::new(&sign(stranger, &source.key).unwrap(), &source.envelope).unwrap();
    for (region, code) in [(foreign, RefusalCode::NotAllowed), (stranger, RefusalCode::Malformed)] {
        let mut client = stage.world.push(source);
        client.raw(tag::PUT_ARCHIVE, region.as_bytes());
        client.refused_and_ended(code);
    }
    stage.assert_kept(1, 1);
}

#[test]
fn heads_that_do_not_follow_are_refused() {
    let stage = stage();
    let source = &stage.source;
    let page = source.page(vec![stage.one.entry(&[0])]);
    let body = source.body(&[&page], 50);
    let mut client = stage.world.push(source);
    client.put_page(&page);
    assert!(client.put_body(&body).is_empty());
    let newest = {
        let bytes = std::fs::read(&files(&stage.world.layout.shelf(&source.name, Shelf::Heads))[0]).unwrap();
        shared::signature::Signed::parse(&bytes).unwrap().verify(&source.key.verify_key()).unwrap()
    };
    let right = source.head_value(Some(&newest), &body);
    let mut old = right.clone();
    (old.sequence, old.previous) = (0, None);
    let mut gap = right.clone();
    gap.sequence = 2;
    let mut forged = right.clone();
    forged.previous = Some(Digest::new([1; 32]));
    let mut elsewhere = right.clone();
    elsewhere.sink = VerifyKey::new([1; 32]);
    let mut bodyless = right.clone();
    bodyless.body = Digest::new([1; 32]);
    let mut sessionless = right.clone();
    sessionless.session = shared::id::SessionId::new([1; 32]);
    for (wrong, head, code) in [
        ("an old sequence number", old, RefusalCode::Conflict),
        ("a gap", gap, RefusalCode::Chain),
        ("a forged predecessor", forged, RefusalCode::Chain),
        ("a chain at another sink", elsewhere, RefusalCode::Chain),
        ("a body that is not here", bodyless, RefusalCode::NotFound),
        ("a session that is not here", sessionless, RefusalCode::NotFound),
    ] {
        let head = sign(head, &source.key).unwrap();
        client.send(&PushRequest::PutHead(head.as_bytes().to_vec()));
        assert!(!client.refused(code).is_empty(), "{wrong}");
    }
    // A date in the past or the future is the source's own word: taken, and never used.
    let mut dated = right;
    dated.created = i64::MAX;
    let receipt = client.put_head(&sign(dated, &source.key).unwrap());
    assert_eq!(receipt.received, NOW);
    client.close();
    stage.assert_kept(1, 2);
}

#[test]
fn garbage_ends_the_session_and_only_it() {
    let stage = stage();
    let archive = stage.source.archive(1, &[2, 1]);
    type Act = Box<dyn Fn(&mut Client)>;
    let region = archive.region.clone();
    let cases: Vec<(&str, Act)> = vec![
        ("an empty frame", Box::new(|client| client.bytes(&[0, 0, 0, 0, 66]))),
        ("a frame beyond the limit", Box::new(|client| client.bytes(&[0xff, 0xff, 0xff, 0x7f, 66]))),
        ("data without an archive", Box::new(|client| client.raw(tag::DATA, &[0; 4096]))),
        (
            "a ping with more than it may hold",
            Box::new(|client| {
                client.raw(tag::PING, &[7; shared::limits::PING_BYTES_MAX]);
                assert_eq!(client.reply(), Some(shared::wire::Reply::Pong));
                client.raw(tag::PING, &[7; shared::limits::PING_BYTES_MAX + 1]);
            }),
        ),
        ("empty data", Box::new(|client| client.raw(tag::DATA, &[]))),
        ("a list without an end", Box::new(|client| client.raw(tag::LIST_HEADS, &[0x9f; 100]))),
        (
            "another request within an archive",
            Box::new(move |client| {
                client.raw(tag::PUT_ARCHIVE, &region);
                client.raw(tag::PING, &[]);
            }),
        ),
        (
            "more data than announced",
            Box::new(move |client| {
                client.raw(tag::PUT_ARCHIVE, &archive.region);
                let mut data = archive.data();
                data.push(0);
                client.raw(tag::DATA, &data);
                // The archive itself was right, and is acknowledged.
                client.stored();
            }),
        ),
    ];
    for (wrong, act) in cases {
        let mut client = stage.world.push(&stage.source);
        act(&mut client);
        assert!(!client.refused_and_ended(RefusalCode::Malformed).is_empty(), "{wrong}");
    }
    for unknown in [0, 3, 15, 63, 72, 127, 128, 130, 200, 250, 251, 252, 255] {
        let mut client = stage.world.push(&stage.source);
        client.raw(unknown, &[1, 2, 3]);
        client.refused_and_ended(RefusalCode::NotAllowed);
    }
    stage.assert_kept(2, 1);
}

#[test]
fn an_archive_cut_off_anywhere_leaves_nothing() {
    let stage = stage();
    let archive = stage.source.archive(1, &[2, 1]);
    let mut all = Vec::new();
    write_frame(&mut all, tag::PUT_ARCHIVE, &archive.region).unwrap();
    archive.data().chunks(5000).for_each(|piece| write_frame(&mut all, tag::DATA, piece).unwrap());
    for at in (1..all.len()).step_by(997).chain([all.len() - 1]) {
        let mut client = stage.world.push(&stage.source);
        client.bytes(&all[..at]);
        client.close();
    }
    stage.assert_kept(1, 1);
    let mut client = stage.world.push(&stage.source);
    assert!(!client.put_archive(&archive), "what was cut off can be sent again");
    client.close();
}

#[test]
fn a_greeting_of_somebody_else_is_refused() {
    let stage = stage();
    let foreign = stage.world.source("db", 2);
    let mut none = Client::hello(Some(&stage.source));
    none.lineage = None;
    let mut version = Client::hello(Some(&stage.source));
    (version.version_min, version.version_max) = (2, 3);
    for (hello, code) in [
        (Client::hello(Some(&foreign)), RefusalCode::NotAllowed),
        (Client::hello(None), RefusalCode::NotAllowed),
        (none, RefusalCode::Malformed),
        (version, RefusalCode::Version),
    ] {
        let mut client = stage.world.connect(&stage.source.name, Role::Push);
        client.banner();
        let frame = hello_frame(&hello);
        client.raw(frame.tag, &frame.payload);
        client.refused_and_ended(code);
    }
    let mut client = stage.world.connect(&stage.source.name, Role::Push);
    client.banner();
    client.raw(tag::PING, &[]);
    client.refused_and_ended(RefusalCode::NotAllowed);
    stage.assert_kept(1, 1);
}

/// The receiver is taken over: what it passes on is no better than what the network says.
#[test]
fn the_committer_believes_nothing_that_its_receiver_says() {
    let stage = stage();
    let source = &stage.source;
    let thief = SigningKey::from_seed(&[99; 32]);
    let thief = Source::new(source.name.clone(), thief, source.card.clone(), source.lineage, source.sink);
    let body = source.body(&[&source.page(vec![stage.one.entry(&[0])])], 1);
    let mut bad = source.archive(1, &[2, 1]);
    bad.parts[1][0] ^= 1;
    let last = bad.region.len();
    let mut unsigned = source.archive(1, &[1, 1]).region;
    let envelope = source.envelope.as_bytes().len();
    unsigned.truncate(last);
    let start = unsigned.windows(4).rposition(|w| w == b"pawl").unwrap();
    unsigned[start + envelope - SIGNATURE_BYTES] ^= 1;
    let frames = |tag: u8, payload: &[u8]| vec![(tag, payload.to_vec())];
    let mut bad_frames = frames(tag::PUT_ARCHIVE, &bad.region);
    bad_frames.push((tag::DATA, bad.data()));
    for (wrong, frames, code) in [
        ("data with a wrong hash", bad_frames, RefusalCode::Signature),
        (
            "an archive by another key",
            frames(tag::PUT_ARCHIVE, &thief.archive(1, &[1, 1]).region),
            RefusalCode::Signature,
        ),
        ("an archive whose envelope is not signed", frames(tag::PUT_ARCHIVE, &unsigned), RefusalCode::Signature),
        ("a head by another key", frames(tag::PUT_HEAD, thief.head(None, &body).as_bytes()), RefusalCode::Signature),
        ("a request of another role", frames(tag::GET_PARTS, &[0xa0]), RefusalCode::NotAllowed),
        ("a tag of no request", frames(99, &[]), RefusalCode::NotAllowed),
    ] {
        let mut channel = stage.world.committer(&source.name, Role::Push);
        channel::receive_setup(&channel).unwrap();
        let hello = hello_frame(&Client::hello(Some(source)));
        write_frame(&mut channel, hello.tag, &hello.payload).unwrap();
        let mut client = Client::new(channel);
        assert!(matches!(client.reply(), Some(Reply::Welcome(_))), "{wrong}");
        frames.iter().for_each(|(tag, payload)| client.raw(*tag, payload));
        assert!(!client.refused_and_ended(code).is_empty(), "{wrong}");
    }
    // Another lineage than it said in Hello, a setup sent back, a frame that is none.
    for garbage in [vec![1, 0, 0, 0, 250], vec![2, 0, 0, 0, 251, 9], vec![0; 5], vec![0xff; 64]] {
        let mut channel = stage.world.committer(&source.name, Role::Push);
        channel::receive_setup(&channel).unwrap();
        channel.write_all(&garbage).unwrap();
        let _ = channel.shutdown(std::net::Shutdown::Write);
        assert!(!matches!(read_frame(&mut channel), Ok(Some(frame)) if frame.tag == 129), "no welcome");
    }
    assert_eq!(Lineage::new([1; 16]), source.lineage);
    stage.assert_kept(1, 1);
}

#[test]
fn a_number_far_above_the_others_is_refused() {
    const LEAP: u64 = 1 << 21;
    let stage = stage();
    let appeared = {
        use std::os::unix::fs::MetadataExt;
        let name = crate::store::Name::Archive(stage.source.lineage, stage.one.number);
        std::fs::metadata(stage.world.object(&stage.source, &name)).unwrap().ctime()
    };
    stage.world.clock.set(appeared);
    let refused = |client: &mut Client, number: u64| {
        client.send_archive(&stage.source.archive(number, &[1, 1]));
        let message = client.refused(RefusalCode::Cap);
        assert!(message.contains("too far above"), "{message}");
    };
    let mut client = stage.world.push(&stage.source);
    for number in [(1 << 48) - 1, 1 << 24, 1 + LEAP + 1] {
        refused(&mut client, number);
    }
    // One leap, and no second one on top of it in this session.
    client.put_archive(&stage.source.archive(1 + LEAP, &[1, 1]));
    client.put_archive(&stage.source.archive(2 + LEAP, &[1, 1]));
    refused(&mut client, 2 * LEAP);
    client.close();
    stage.assert_kept(3, 1);

    // A sink that was away meets larger gaps; and none that its source would not believe.
    stage.world.clock.set(appeared + 4 * 24 * 3600);
    let mut client = stage.world.push(&stage.source);
    refused(&mut client, 2 + LEAP + 1 + (6 << 20) + 1);
    client.put_archive(&stage.source.archive(2 + LEAP + 1 + (5 << 20), &[1, 1]));
    client.close();
    stage.world.clock.set(appeared + 400 * 24 * 3600);
    let mut client = stage.world.push(&stage.source);
    refused(&mut client, 1 << 24);
    client.close();

    // A lineage begins where its source is by now.
    let other = stage.source.in_lineage(10);
    let mut client = stage.world.push(&other);
    client.put_envelope(&other);
    client.send_archive(&other.archive((1 << 23) + 1, &[1, 1]));
    client.refused(RefusalCode::Cap);
    client.put_archive(&other.archive(1 << 23, &[1, 1]));
    client.close();
}

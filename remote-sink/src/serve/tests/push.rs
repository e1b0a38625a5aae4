//! What is right is accepted, once, and stays.

use crate::ledger;
use crate::serve::limits::Limits;
use crate::serve::tests::{Client, Source, World};
use crate::store::{Name, Shelf, Store};
use shared::format::{Receipt, Substitute};
use shared::signature::{Signed, Verified};
use shared::wire::request::tag;
use shared::wire::{PushRequest, Query, RefusalCode, Reply};

#[test]
fn a_snapshot_is_accepted_and_the_next_session_goes_on() {
    let world = World::new();
    let source = world.source("web1", 1);
    let mut client = world.connect(&source.name, shared::wire::Role::Push);
    client.banner();
    let welcome = client.greet(&source);
    assert_eq!((welcome.newest.clone(), welcome.next_number.unwrap().get(), welcome.used), (None, 0, Some(0)));
    assert_eq!((welcome.nonce, &*welcome.binding), (Client::hello(None).nonce, &b"ssh"[..]));
    assert!(!client.put_envelope(&source));
    let (one, two) = (source.archive(0, &[3, 1, 1]), source.archive(5, &[300, 1]));
    client.send_archive(&one);
    client.send_archive(&two);
    assert_eq!(client.stored().0.as_bytes(), one.id.as_bytes());
    assert_eq!(client.stored().0.as_bytes(), two.id.as_bytes());
    let first = client.commit(&source, &[&one, &two], None);
    client.close();
    world.assert_whole();
    let stored = std::fs::read(world.object(&source, &Name::Archive(source.lineage, two.number))).unwrap();
    assert_eq!(stored, [two.region.clone(), two.data()].concat(), "stored exactly as signed");

    let mut client = world.connect(&source.name, shared::wire::Role::Push);
    client.banner();
    let welcome = client.greet(&source);
    let newest = welcome.newest.clone().unwrap();
    assert_eq!((newest.sequence, newest.digest), (0, first.digest()));
    assert_eq!(welcome.next_number.unwrap().get(), 6);
    let three = source.archive(6, &[1, 1]);
    client.put_archive(&three);
    let second = client.commit(&source, &[&one, &two, &three], Some(&first));
    client.close();
    world.assert_whole();
    let receipt = |sequence| {
        let bytes = std::fs::read(world.object(&source, &Name::Receipt(source.lineage, sequence))).unwrap();
        Signed::<Receipt>::parse(&bytes).unwrap().verify(&world.sink).unwrap()
    };
    assert_eq!(receipt(1).previous, Some(receipt(0).digest()));
    assert_eq!((receipt(1).head, receipt(1).archives), (second.digest(), 3));
    let report = world.verify();
    assert_eq!((report.sources[0].snapshots, report.sources[0].archives_read), (2, 3));
}

#[test]
fn everything_may_be_sent_twice() {
    let world = World::new();
    let source = world.source("web1", 1);
    let mut client = world.push(&source);
    let archive = source.archive(0, &[2, 1]);
    let page = source.page(vec![archive.entry(&[0])]);
    let body = source.body(&[&page], 1);
    let head = source.head(None, &body);
    let mut receipts = Vec::new();
    for again in [false, true, true] {
        assert_eq!(client.put_envelope(&source), again);
        assert_eq!(client.put_archive(&archive), again);
        assert_eq!(client.put_page(&page), again);
        assert!(client.put_body(&body).is_empty());
        receipts.push(client.put_head(&head).as_bytes().to_vec());
        world.clock.set(super::world::NOW + 5);
        if again {
            client.close();
            client = world.push(&source);
        }
    }
    assert!(receipts.windows(2).all(|pair| pair[0] == pair[1]), "the same head has one receipt");
    client.close();
    world.assert_whole();
    assert_eq!(world.count(&source, Shelf::Archives), 1);
}

#[test]
fn used_bytes_are_the_same_by_ledger_by_records_and_by_counting() {
    let world = World::new();
    let source = world.source("web1", 1);
    let used = || {
        let mut client = world.connect(&source.name, shared::wire::Role::Push);
        client.banner();
        let used = client.greet(&source).used;
        client.close();
        used.unwrap()
    };
    let mut client = world.push(&source);
    client.put_envelope(&source);
    let one = source.archive(0, &[7, 1]);
    client.put_archive(&one);
    let first = client.commit(&source, &[&one], None);
    client.close();
    let counted = used();
    assert_eq!(counted, 4096 * (1 + 9 + 1 + 2 + 1 + 1), "envelope, archive with region, page, body, head, receipt");

    let (root, key) = (world.layout.root(), source.key.verify_key());
    let totals = loop {
        match ledger::rebuild(root, &source.name, &key) {
            // The client saw the end of its session a moment before the lock was let go.
            Err(ledger::LedgerError::Busy(_)) => std::thread::sleep(std::time::Duration::from_millis(10)),
            totals => break totals.unwrap(),
        }
    };
    assert_eq!((totals.bytes, totals.objects, totals.archives), (counted, 6, 1));
    assert_eq!(used(), counted, "with a ledger");

    let mut client = world.push(&source);
    let two = source.archive(1, &[1, 1]);
    client.put_archive(&two);
    client.commit(&source, &[&one, &two], Some(&first));
    client.close();
    let by_records = used();
    let folded = ledger::fold(root, &source.name, &key, &world.sink).unwrap();
    assert!(folded.records > 0 && folded.refused.is_empty(), "{folded:?}");
    assert_eq!(ledger::fold(root, &source.name, &key, &world.sink).unwrap().records, 0, "each record counts once");
    assert_eq!(ledger::totals(root, &source.name).unwrap().unwrap().bytes, by_records);
    let folded = used();
    std::fs::remove_file(world.layout.ledger(&source.name)).unwrap();
    assert_eq!([used(), folded], [by_records; 2]);
    std::fs::write(world.layout.ledger(&source.name), b"junk").unwrap();
    assert_eq!(used(), by_records, "a ledger that is none is passed over");
}

#[test]
fn refusals_that_lose_nothing_keep_the_session_in_step() {
    let mut world = World::new();
    world.limits.quota = Some(40 * 4096);
    world.limits.envelopes_per_day = 2;
    let source = world.source("web1", 1);
    let mut client = world.push(&source);
    let (small, large) = (source.archive(0, &[2, 1]), source.archive(1, &[50, 1]));
    client.send_archive(&small);
    client.refused(RefusalCode::NotFound);
    client.put_envelope(&source);
    // All at once: the answers come in order, and the refused data is passed over.
    client.send_archive(&large);
    client.send_archive(&small);
    client.query(&Query::Ping);
    client.send_archive(&source.archive(0, &[3, 1]));
    client.send_archive(&small);
    client.refused(RefusalCode::Quota);
    assert!(!client.stored().1);
    assert_eq!(client.reply(), Some(Reply::Pong));
    client.refused(RefusalCode::Conflict);
    assert!(client.stored().1);
    for salt in [2, 3] {
        let envelope = super::world::envelope(&source.key, source.id(), source.lineage, salt);
        client.send(&PushRequest::PutEnvelope(envelope.as_bytes().to_vec()));
        if salt == 2 { assert!(!client.stored().1) } else { drop(client.refused(RefusalCode::Cap)) }
    }
    client.commit(&source, &[&small], None);
    client.close();
    world.assert_whole();
    assert_eq!(world.count(&source, Shelf::Archives), 1);
}

#[test]
fn the_reserve_is_for_what_makes_archives_count() {
    let mut world = World::new();
    let source = world.source("web1", 1);
    let mut client = world.push(&source);
    client.put_envelope(&source);
    let one = source.archive(0, &[2, 1]);
    client.put_archive(&one);
    client.close();
    // Archives stop, and half of this is less than there is.
    let free = crate::store::directory::Root::open(world.layout.root()).unwrap().room(String::new()).free().unwrap();
    world.limits.min_free = free.bytes.saturating_add(free.bytes / 2);
    let mut client = world.push(&source);
    client.send_archive(&source.archive(1, &[2, 1]));
    client.refused(RefusalCode::Full);
    client.commit(&source, &[&one], None);
    client.close();
    world.assert_whole();
}

#[test]
fn half_of_the_reserve_is_for_heads_alone() {
    half_is_for_heads_alone(|limits| limits.min_free = u64::MAX);
    let world = World::new();
    let free = crate::store::directory::Root::open(world.layout.root()).unwrap().room(String::new()).free().unwrap();
    if free.objects < u64::MAX / 2 {
        half_is_for_heads_alone(|limits| limits.min_free_objects = u64::MAX);
    }
}

fn half_is_for_heads_alone(reserve: impl Fn(&mut Limits)) {
    let mut world = World::new();
    let source = world.source("web1", 1);
    let mut client = world.push(&source);
    client.put_envelope(&source);
    let one = source.archive(0, &[2, 1]);
    client.put_archive(&one);
    let page = source.page(vec![one.entry(&[0])]);
    client.put_page(&page);
    let body = source.body(&[&page], 0);
    assert!(client.put_body(&body).is_empty());
    client.close();
    reserve(&mut world.limits);
    let mut client = world.push(&source);
    let second = super::world::envelope(&source.key, source.id(), source.lineage, 2);
    let other = source.page(vec![one.entry(&[0]), source.archive(9, &[1, 1]).entry(&[0])]);
    for (tag, bytes) in [
        (tag::PUT_ENVELOPE, second.as_bytes()),
        (tag::PUT_PAGE, other.as_bytes()),
        (tag::PUT_BODY, source.body(&[&page], 1).as_bytes()),
        (tag::PUT_SUBSTITUTE, source.substitute(&one, &source.archive(9, &[1, 1])).as_bytes()),
    ] {
        client.raw(tag, bytes);
        client.refused(RefusalCode::Full);
    }
    // What is here needs no room, and the head of it is taken.
    assert!(client.put_envelope(&source) && client.put_page(&page));
    assert!(client.put_body(&body).is_empty());
    let head = source.head(None, &body);
    client.put_head(&head);
    client.close();
    assert_eq!(world.count(&source, Shelf::Records), 2, "both sessions left their records");
    world.assert_whole();
}

#[test]
fn heads_and_series_and_objects_have_caps() {
    let mut world = World::new();
    world.limits.heads_per_day = 2;
    world.limits.series = 1;
    let source = world.source("web1", 1);
    let mut client = world.push(&source);
    client.put_envelope(&source);
    let one = source.archive(0, &[2, 1]);
    client.put_archive(&one);
    let first = client.commit(&source, &[&one], None);
    let page = source.page(vec![one.entry(&[0])]);
    let body = source.body(&[&page], 77);
    assert!(client.put_body(&body).is_empty());
    let mut other = source.head_value(Some(&first), &body);
    other.series = shared::id::Series::new([6; 16]);
    let other = shared::signature::sign(other, &source.key).unwrap();
    client.send(&PushRequest::PutHead(other.as_bytes().to_vec()));
    client.refused(RefusalCode::Cap);
    let second = source.head(Some(&first), &body);
    client.put_head(&second);
    client.close();
    let mut client = world.push(&source);
    let third = source.head(Some(&second), &body);
    client.send(&PushRequest::PutHead(third.as_bytes().to_vec()));
    client.refused(RefusalCode::Cap);
    client.close();
    world.clock.set(super::world::NOW + 25 * 3600);
    let mut client = world.push(&source);
    client.put_head(&third);
    client.close();
    world.limits.objects = 3;
    let mut client = world.push(&source);
    client.raw(tag::PUT_PAGE, source.page(vec![one.entry(&[0]), source.archive(9, &[1, 1]).entry(&[0])]).as_bytes());
    client.refused(RefusalCode::Cap);
    client.close();
    world.assert_whole();
}

/// A session with two archives, and substitute records that say several things of them.
fn substitutes(world: &World, source: &Source) -> (Client, Vec<Verified<Substitute>>) {
    let mut client = world.push(source);
    client.put_envelope(source);
    let archives: Vec<_> = (0..4).map(|number| source.archive(number, &[1, 1])).collect();
    for archive in &archives {
        client.put_archive(archive);
    }
    let records = archives[1..].iter().map(|right| source.substitute(&archives[0], right)).collect();
    (client, records)
}

fn put_substitute(client: &mut Client, record: &Verified<Substitute>) {
    client.send(&PushRequest::PutSubstitute(record.as_bytes().to_vec()));
}

#[test]
fn substitutes_have_a_cap_of_records_and_one_of_bytes() {
    for by_bytes in [false, true] {
        let mut world = World::new();
        let source = world.source("web1", 1);
        let length = substitutes(&world, &source).1[0].as_bytes().len() as u64;
        match by_bytes {
            true => world.limits.substitutes_bytes = 2 * length + 1,
            false => world.limits.substitutes = 2,
        }
        let (mut client, records) = substitutes(&world, &source);
        for record in &records[..2] {
            put_substitute(&mut client, record);
            assert!(!client.stored().1);
        }
        // In this session and in the next one; nothing else is kept from it.
        for _ in 0..2 {
            put_substitute(&mut client, &records[2]);
            assert!(client.refused(RefusalCode::Cap).contains("of substitute records") == by_bytes);
            client.put_archive(&source.archive(9, &[1, 1]));
            client.close();
            client = world.push(&source);
        }
        client.close();
        assert_eq!(world.count(&source, Shelf::Substitutes), 2);
        world.assert_whole();
    }
}

#[test]
fn what_cannot_be_opened_counts_and_stops_nothing() {
    let world = World::new();
    let source = world.source("web1", 1);
    let rotten = [
        Name::Envelope(shared::id::SessionId::new([9; 32])),
        Name::Substitute(source.lineage, shared::id::Digest::new([9; 32])),
    ];
    for name in rotten {
        // As a file system that says EIO or EUCLEAN: whatever opens it fails.
        std::os::unix::fs::symlink("/nowhere", world.object(&source, &name)).unwrap();
    }
    let (mut client, records) = substitutes(&world, &source);
    put_substitute(&mut client, &records[0]);
    assert!(!client.stored().1);
    client.close();
}

#[test]
fn a_restored_vault_takes_envelopes_at_once() {
    let mut world = World::new();
    world.limits.envelopes_per_day = 2;
    let source = world.source("web1", 1);
    let put = |client: &mut Client, salt: u8| {
        let envelope = super::world::envelope(&source.key, source.id(), source.lineage, salt);
        client.send(&PushRequest::PutEnvelope(envelope.as_bytes().to_vec()));
    };
    // Names are of today, as after a copy; the sessions that brought them were two days ago.
    let today = jiff::Timestamp::now().as_second();
    world.clock.set(today - 2 * 24 * 3600);
    let mut client = world.push(&source);
    for salt in [2, 3] {
        put(&mut client, salt);
        assert!(!client.stored().1);
    }
    client.close();
    world.clock.set(today);
    let mut client = world.push(&source);
    for salt in [4, 5] {
        put(&mut client, salt);
        assert!(!client.stored().1);
    }
    // The cap holds, in this session and in the next one.
    put(&mut client, 6);
    client.refused(RefusalCode::Cap);
    client.close();
    let mut client = world.push(&source);
    put(&mut client, 6);
    client.refused(RefusalCode::Cap);
    client.close();
    world.assert_whole();
}

#[test]
fn bodies_without_heads_have_a_cap() {
    let mut world = World::new();
    world.limits.headless_bodies = 2;
    let source = world.source("web1", 1);
    let mut client = world.push(&source);
    client.put_envelope(&source);
    let one = source.archive(0, &[1, 1]);
    client.put_archive(&one);
    let page = source.page(vec![one.entry(&[0])]);
    client.put_page(&page);
    let bodies: Vec<_> = (0..5).map(|seed| source.body(&[&page], seed)).collect();
    assert!(client.put_body(&bodies[0]).is_empty() && client.put_body(&bodies[1]).is_empty());
    let refused = |client: &mut Client, body: usize| {
        client.send(&PushRequest::PutBody(bodies[body].as_bytes().to_vec()));
        client.refused(RefusalCode::Cap);
    };
    refused(&mut client, 2);
    // What is here may be sent again; and each head makes room for one body.
    assert!(client.put_body(&bodies[0]).is_empty());
    client.put_head(&source.head(None, &bodies[0]));
    assert!(client.put_body(&bodies[2]).is_empty());
    refused(&mut client, 3);
    client.close();
    assert_eq!(world.count(&source, Shelf::Bodies), 3);
    // Another session begins anew: nothing is blocked for ever.
    let mut client = world.push(&source);
    assert!(client.put_body(&bodies[3]).is_empty());
    client.close();
    world.assert_whole();
}

#[test]
fn a_new_lineage_is_a_chain_of_its_own_and_lineages_have_a_cap() {
    let mut world = World::new();
    world.limits.lineages = 2;
    let source = world.source("web1", 1);
    for lineage in [10, 11] {
        let source = source.in_lineage(lineage);
        let mut client = world.push(&source);
        client.put_envelope(&source);
        let one = source.archive(0, &[2, 1]);
        client.put_archive(&one);
        client.commit(&source, &[&one], None);
        client.close();
    }
    let mut client = world.connect(&source.name, shared::wire::Role::Push);
    client.banner();
    let third = Client::hello(Some(&source.in_lineage(12)));
    assert!(matches!(client.say_hello(&third), Some(Reply::Refused(refused)) if refused.code == RefusalCode::Cap));
    world.assert_whole();
    assert_eq!(world.verify().sources[0].snapshots, 2);
}

#[test]
fn a_body_names_what_is_missing_and_is_stored_only_when_nothing_is() {
    let world = World::new();
    let source = world.source("web1", 1);
    let mut client = world.push(&source);
    client.put_envelope(&source);
    let (one, two, never) = (source.archive(0, &[2, 1, 1]), source.archive(1, &[1, 1]), source.archive(2, &[1, 1]));
    client.put_archive(&one);
    client.put_archive(&two);
    let absent = source.page(vec![never.entry(&[0])]);
    let body = source.body(&[&absent], 1);
    assert_eq!(client.put_body(&body).pages.to_vec(), vec![absent.digest()]);
    let other = source.archive_of(1, vec![vec![7; 4096], vec![8; 4096]]);
    for (wrong, entries, numbers) in [
        ("an archive that never came", vec![one.entry(&[0]), never.entry(&[0])], vec![2]),
        ("another archive of this number", vec![one.entry(&[0]), other.entry(&[0])], vec![1]),
        ("a block that it never had", vec![one.entry(&[0, 2]), two.entry(&[1])], vec![0, 1]),
    ] {
        let page = source.page(entries);
        client.put_page(&page);
        let missing = client.put_body(&source.body(&[&page], 2));
        assert_eq!(missing.archives.iter().map(|number| number.get()).collect::<Vec<_>>(), numbers, "{wrong}");
    }
    assert_eq!(world.count(&source, Shelf::Bodies), 0);
    client.close();

    // Pages that overlap are no body at all.
    let mut client = world.push(&source);
    let (a, b) = (source.page(vec![one.entry(&[0]), two.entry(&[0])]), source.page(vec![two.entry(&[0])]));
    client.put_page(&a);
    client.put_page(&b);
    client.send(&PushRequest::PutBody(source.body(&[&a, &b], 3).as_bytes().to_vec()));
    client.refused_and_ended(RefusalCode::Malformed);
    assert_eq!(world.count(&source, Shelf::Bodies), 0);
    world.assert_whole();
}

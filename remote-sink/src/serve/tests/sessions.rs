//! One session per source; idle and silent ones end.

use crate::enrolment::Reads;
use crate::serve::lock::SLOTS;
use crate::serve::tests::{Client, World};
use crate::store::Shelf;
use shared::wire::request::{hello_frame, tag};
use shared::wire::{PushRequest, RefusalCode, Reply, Role};
use std::time::Duration;

#[test]
fn a_second_session_of_a_busy_source_is_refused() {
    let world = World::new();
    let (source, other) = (world.source("web1", 1), world.source("db", 2));
    let mut first = world.push(&source);
    let mut second = world.connect(&source.name, Role::Push);
    second.banner();
    let hello = hello_frame(&Client::hello(Some(&source)));
    second.raw(hello.tag, &hello.payload);
    let message = second.refused_and_ended(RefusalCode::Busy);
    assert!(message.contains("another session of web1 runs"), "{message}");
    // Other sources, and the first session, do not notice.
    world.push(&other).alive();
    first.alive();
    first.close();
    world.push(&source).alive();
}

#[test]
fn a_key_has_a_bounded_number_of_sessions() {
    let world = World::new();
    let source = world.source("web1", 1);
    let reader = world.enroll("laptop", Role::Read, 3, None, Reads::Sources(vec![source.name.clone()]));
    let auditor = world.enroll("auditor", Role::Audit, 4, None, Reads::Sources(vec![source.name.clone()]));
    let enter = |name, role| {
        let mut client = world.connect(name, role);
        client.banner();
        match client.say_hello(&Client::hello(None)) {
            Some(Reply::Welcome(_)) => Ok(client),
            Some(Reply::Refused(refused)) => Err(refused),
            other => panic!("{other:?}"),
        }
    };
    let mut sessions: Vec<_> = (0..SLOTS).map(|_| enter(&reader.name, Role::Read).ok().unwrap()).collect();
    let refused = enter(&reader.name, Role::Read).err().unwrap();
    assert_eq!(refused.code, RefusalCode::Busy);
    assert!(refused.message.contains("8 sessions of laptop run already"), "{refused}");
    // Other keys do not notice: neither another reader, nor the source that is read.
    enter(&auditor.name, Role::Audit).ok().unwrap().alive();
    let mut pushing = world.push(&source);
    assert!(!pushing.put_envelope(&source));
    pushing.close();
    // Nor does the operator.
    crate::ledger::rebuild(world.layout.root(), &reader.name, &reader.key.verify_key()).unwrap();
    // Who leaves makes room.
    sessions.pop().unwrap().close();
    let mut next = loop {
        // The client saw the end of its session a moment before its place was free.
        match enter(&reader.name, Role::Read) {
            Ok(next) => break next,
            Err(refused) => assert_eq!(refused.code, RefusalCode::Busy),
        }
    };
    next.alive();
    sessions.iter_mut().for_each(Client::alive);
}

#[test]
fn a_silent_session_gives_way() {
    let mut world = World::new();
    world.limits.takeover = Duration::ZERO;
    let source = world.source("web1", 1);
    let mut first = world.push(&source);
    first.put_envelope(&source);
    // The first one says nothing more; sooner or later its silence shows.
    let mut second = loop {
        let mut second = world.connect(&source.name, Role::Push);
        second.banner();
        match second.say_hello(&Client::hello(Some(&source))) {
            Some(Reply::Welcome(_)) => break second,
            Some(Reply::Refused(refused)) => assert_eq!(refused.code, RefusalCode::Busy),
            other => panic!("{other:?}"),
        }
    };
    let message = first.refused_and_ended(RefusalCode::Timeout);
    assert!(message.contains("another session"), "{message}");
    assert!(second.put_envelope(&source), "what the first one left is there");
    second.close();
    world.assert_whole();
}

#[test]
fn idle_over_long_and_slow_sessions_end() {
    let mut world = World::new();
    let source = world.source("web1", 1);
    world.limits.idle = Duration::ZERO;
    world.push(&source).refused_and_ended(RefusalCode::Timeout);
    world.limits.idle = Duration::from_secs(300);
    world.limits.session = Duration::ZERO;
    let mut client = world.push(&source);
    client.raw(2, &[]);
    client.refused_and_ended(RefusalCode::Timeout);
    world.limits.session = Duration::from_secs(300);
    world.limits.slow_window = Duration::ZERO;
    // Hello is longer; a lonely beginning of a frame is not.
    world.limits.slow_bytes = 64;
    let mut client = world.push(&source);
    client.bytes(&[100, 0, 0, 0, 64, 1]);
    client.refused_and_ended(RefusalCode::Timeout);
    world.limits.greeting = Duration::ZERO;
    let mut client = world.connect(&source.name, Role::Push);
    client.banner();
    client.refused_and_ended(RefusalCode::Timeout);
}

#[test]
fn a_session_leaves_one_signed_record_of_what_it_added() {
    let mut world = World::new();
    world.limits.record_objects = 3;
    let source = world.source("web1", 1);
    world.push(&source).close();
    assert_eq!(world.count(&source, Shelf::Records), 0, "nothing was added");
    let mut client = world.push(&source);
    client.put_envelope(&source);
    for number in 0..5 {
        client.put_archive(&source.archive(number, &[1, 1]));
    }
    let all: Vec<_> = (0..5).map(|number| source.archive(number, &[1, 1])).collect();
    client.commit(&source, &all.iter().collect::<Vec<_>>(), None);
    client.close();
    assert!(world.count(&source, Shelf::Records) >= 2, "one after some archives, one after the head");
    let (key, root) = (source.key.verify_key(), world.layout.root());
    let folded = crate::ledger::fold(root, &source.name, &key, &world.sink).unwrap();
    assert!(folded.refused.is_empty());
    let totals = crate::ledger::totals(root, &source.name).unwrap().unwrap();
    assert_eq!((totals.archives, totals.objects), (5, 5 + 5), "envelope, page, body, head, receipt");
    world.assert_whole();
}

#[test]
fn what_a_session_added_is_on_record_before_it_ends() {
    for (objects, bytes) in [(2, u64::MAX), (u64::MAX, 3 * 4096)] {
        let mut world = World::new();
        world.limits.record_objects = objects;
        world.limits.record_bytes = bytes;
        let source = world.source("web1", 1);
        let mut client = world.push(&source);
        client.put_envelope(&source);
        assert_eq!(world.count(&source, Shelf::Records), 0, "not due yet");
        client.raw(tag::PUT_PAGE, source.page(vec![source.archive(9, &[1, 1]).entry(&[0])]).as_bytes());
        client.raw(tag::PUT_PAGE, source.page(vec![source.archive(8, &[1, 1]).entry(&[0])]).as_bytes());
        client.stored();
        client.stored();
        // The record is looked for behind each message: the second answer comes after the look behind the first one.
        client.alive();
        client.alive();
        assert!(world.count(&source, Shelf::Records) >= 1, "a session that is killed now leaves little uncounted");
        client.close();
    }
}

#[test]
fn a_head_cut_off_from_its_receipt_gets_it_later() {
    let world = World::new();
    let source = world.source("web1", 1);
    let mut client = world.push(&source);
    client.put_envelope(&source);
    let one = source.archive(0, &[1, 1]);
    client.put_archive(&one);
    let first = client.commit(&source, &[&one], None);
    let second = client.commit(&source, &[&one], Some(&first));
    client.close();
    // As a crash between the two links leaves it.
    let receipt = world.object(&source, &crate::store::Name::Receipt(source.lineage, 1));
    std::fs::remove_file(&receipt).unwrap();
    assert_eq!(world.verify().sources[0].without_receipt, 1);
    assert!(world.verify().is_ok(), "a crash is no damage");
    let mut client = world.push(&source);
    assert!(receipt.exists(), "made at the start of the session");
    let again = client.put_head(&second);
    assert_eq!(again.as_bytes(), std::fs::read(&receipt).unwrap());
    client.close();
    world.assert_whole();
    assert_eq!(world.verify().sources[0].without_receipt, 0);

    // While a session runs, the same head sent again makes it too.
    let mut client = world.push(&source);
    std::fs::remove_file(&receipt).unwrap();
    client.send(&PushRequest::PutHead(second.as_bytes().to_vec()));
    assert!(matches!(client.reply(), Some(Reply::Receipt(_))));
    client.close();
    world.assert_whole();
}

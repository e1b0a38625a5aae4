//! Sessions on a vault whose old heads, receipts and envelopes are packed.

use crate::config::Config;
use crate::enrolment::{Enrolment, Reads};
use crate::journal::{Journal, Moment};
use crate::retention::packing::Packing;
use crate::retention::vault::{Desk, Source as Pruned};
use crate::retention::{Options, prune};
use crate::serve::tests::{Client, Source, World};
use crate::store::Shelf;
use crate::store::directory::Root;
use shared::id::VerifyKey;
use shared::limits::RECEIPT_BYTES_MAX;
use shared::signature::Verified;
use shared::wire::request::{GetSession, ListHeads};
use shared::wire::{PushRequest, Query, RefusalCode, Reply, Role};

fn pack(world: &World, source: &Source) -> u64 {
    let root = Root::open(world.layout.root()).unwrap();
    let enrolment = Enrolment::read(&world.layout.enrolment(&source.name)).unwrap();
    let config = Config::empty();
    let mut desk = Desk {
        layout: &world.layout,
        config: &config,
        sources: vec![Pruned::new(&root, &source.name, &enrolment)],
        root,
        sink: world.sink,
        journal: Journal::open(&world.layout).unwrap(),
        now: Moment::now(),
    };
    let packing = Packing { least: 1, packs: 4, loose: 1 };
    prune(&mut desk, &source.name, &Options { packing, ..Options::default() }).unwrap().packed.objects
}

#[test]
fn a_chain_goes_on_and_is_read_when_its_beginning_is_packed() {
    let world = World::new();
    let web = world.enroll("web1", Role::Push, 1, Some(VerifyKey::new([50; 32])), Reads::SingleOwner);
    world.enroll("laptop", Role::Read, 9, None, Reads::SingleOwner);
    let mut client = world.push(&web);
    client.put_envelope(&web);
    let one = web.archive(0, &[1, 2]);
    client.put_archive(&one);
    let mut heads = vec![client.commit(&web, &[&one], None)];
    for _ in 0..5 {
        heads.push(client.commit(&web, &[&one], heads.last()));
    }
    let receipt = client.put_head(&heads[1]);
    client.close();
    // All heads and receipts but the newest, and the one envelope.
    assert_eq!(pack(&world, &web), 5 + 5 + 1);
    assert_eq!((world.count(&web, Shelf::Heads), world.count(&web, Shelf::Envelopes)), (1, 0));

    let mut client = world.connect(&web.name, Role::Push);
    client.banner();
    let welcome = client.greet(&web);
    assert_eq!(welcome.newest.as_ref().map(|newest| newest.digest), heads.last().map(|head| head.digest()));
    assert!(client.put_envelope(&web), "the envelope is there");
    assert_eq!(client.put_head(&heads[1]).as_bytes(), receipt.as_bytes(), "a packed head gets its receipt again");
    // Another head of a packed number is refused.
    let other = web.head(Some(&heads[0]), &web.body(&[], 77));
    client.send(&PushRequest::PutHead(other.as_bytes().to_vec()));
    client.refused(RefusalCode::Conflict);
    heads.push(client.commit(&web, &[&one], heads.last()));
    client.close();
    assert_eq!(world.count(&web, Shelf::Heads), 2);

    let mut reader = world.connect(&"laptop".parse().unwrap(), Role::Read);
    reader.banner();
    assert!(matches!(reader.say_hello(&Client::hello(None)), Some(Reply::Welcome(_))));
    reader.query(&Query::ListHeads(ListHeads { source: web.id(), lineage: web.lineage, from: 0, limit: 100 }));
    let Some(Reply::Heads(list)) = reader.reply() else { panic!("no heads") };
    let read: Vec<&[u8]> = list.items.iter().map(|item| &item.head[..]).collect();
    assert_eq!(read, heads.iter().map(|head| head.as_bytes()).collect::<Vec<_>>());
    assert!(list.items.iter().all(|item| item.receipt.is_some()));
    reader.query(&Query::GetEnvelope(GetSession { source: web.id(), session: web.session() }));
    let Some(Reply::Object(bytes)) = reader.reply() else { panic!("no envelope") };
    assert_eq!(bytes, web.envelope.as_bytes());
    reader.close();
    world.assert_whole();
}

#[test]
fn a_chain_that_readers_would_not_take_is_not_made() {
    let mut world = World::new();
    let web = world.enroll("web1", Role::Push, 1, Some(VerifyKey::new([50; 32])), Reads::SingleOwner);
    let mut client = world.push(&web);
    client.put_envelope(&web);
    let one = web.archive(0, &[1, 2]);
    client.put_archive(&one);
    let (mut heads, mut bytes) = (Vec::new(), 0);
    for _ in 0..4 {
        let head = client.commit(&web, &[&one], heads.last());
        bytes += head.as_bytes().len() + client.put_head(&head).as_bytes().len();
        heads.push(head);
    }
    client.close();
    let refused = |client: &mut Client, heads: &[Verified<shared::format::Head>]| {
        let page = web.page(vec![one.entry(&[0])]);
        let body = web.body(&[&page], 900);
        assert!(client.put_body(&body).is_empty());
        let head = web.head(heads.last(), &body);
        client.send(&PushRequest::PutHead(head.as_bytes().to_vec()));
        let message = client.refused(RefusalCode::Cap);
        assert!(message.contains("new lineage"), "{message}");
    };
    // Room for one more, in whatever files the others lie; what a session brings counts in it.
    pack(&world, &web);
    world.limits.chain_bytes = (bytes + heads[3].as_bytes().len() + RECEIPT_BYTES_MAX) as u64;
    let mut client = world.push(&web);
    heads.push(client.commit(&web, &[&one], heads.last()));
    refused(&mut client, &heads);
    client.close();
    assert_eq!((world.count(&web, Shelf::Heads), heads.len()), (2, 5));
    let mut client = world.push(&web);
    refused(&mut client, &heads);
    client.put_head(&heads[4]);
    client.close();
    // The number of heads has a limit too, and another lineage has its own.
    world.limits.chain_bytes = u64::MAX;
    world.limits.chain_heads = 5;
    let mut client = world.push(&web);
    refused(&mut client, &heads);
    client.close();
    let other = web.in_lineage(7);
    let mut client = world.push(&other);
    client.put_envelope(&other);
    let one = other.archive(0, &[1, 2]);
    client.put_archive(&one);
    client.commit(&other, &[&one], None);
    client.close();
    world.assert_whole();
}

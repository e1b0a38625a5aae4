//! Each step of a push fails once, before it took effect and after: what was acknowledged is there, the rest can be
//! sent again, and a chain never forks.

use crate::serve::channel::{self, Identity};
use crate::serve::committer::access::{Access, Source as Seen};
use crate::serve::committer::{Start, commit};
use crate::serve::lock::Locks;
use crate::serve::tests::{Archive, Client, Source, World};
use crate::store::directory::Root;
use crate::store::fake::{Fake, Fault};
use crate::store::{Name, Store, read_whole};
use shared::codec::List;
use shared::format::{Body, Head, Page};
use shared::keyfile::{SINK_KEY, read_signing_key};
use shared::signature::{Plain, Verified};
use shared::wire::request::hello_frame;
use shared::wire::{PushRequest, RefusalCode, Reply, Request, Role, write_frame};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// A committer over a store in memory; the locks are real.
fn connect(world: &World, source: &Source, store: &Fake) -> Client {
    let text = std::fs::read_to_string(world.layout.sink_key()).unwrap();
    let identity =
        Identity { source: source.id(), key: source.key.verify_key(), sink: world.sink, owners: List::empty() };
    let root = Root::open(world.layout.root()).unwrap();
    let published = Arc::new(crate::published::Published::read(&root, &source.name, source.id()).unwrap());
    let seen = Seen {
        name: source.name.clone(),
        id: source.id(),
        key: source.key.verify_key(),
        owner: None,
        card: source.card.to_string(),
        store: store.clone(),
        published,
        damaged: Arc::new(crate::damaged::Damaged::nothing(source.id())),
    };
    let staging = Arc::new(root.open_dir("sources/web1/staging").unwrap());
    let name = source.name.clone();
    let access = Access { name, role: Role::Push, identity, quota: None, sources: vec![seen], owners: BTreeMap::new() };
    let start = Start {
        access,
        key: read_signing_key(SINK_KEY, &text).unwrap(),
        clock: Arc::clone(&world.clock) as Arc<dyn shared::sys::Clock>,
        limits: world.limits.clone(),
        binding: Vec::new(),
        slot: None,
        locks: Some(Locks::open(&root, &source.name, &staging).unwrap()),
        ledger: None,
    };
    let (channel, mut other) = channel::pair().unwrap();
    let limits = world.limits.clone();
    std::thread::spawn(move || commit(channel, Role::Push, Ok(start), &limits));
    channel::receive_setup(&other).unwrap();
    let hello = hello_frame(&Client::hello(Some(source)));
    write_frame(&mut other, hello.tag, &hello.payload).unwrap();
    Client::new(other)
}

struct Snapshot {
    archive: Archive,
    page: Plain<Page>,
    body: Plain<Body>,
    head: Verified<Head>,
}

impl Snapshot {
    fn of(source: &Source) -> Self {
        let archive = source.archive(0, &[1, 1]);
        let page = source.page(vec![archive.entry(&[0])]);
        let body = source.body(&[&page], 1);
        let head = source.head(None, &body);
        Self { archive, page, body, head }
    }

    fn requests(&self, source: &Source) -> Vec<Vec<PushRequest>> {
        vec![
            vec![PushRequest::PutEnvelope(source.envelope.as_bytes().to_vec())],
            vec![PushRequest::PutArchive(self.archive.region.clone()), PushRequest::Data(self.archive.data())],
            vec![PushRequest::PutPage(self.page.as_bytes().to_vec())],
            vec![PushRequest::PutBody(self.body.as_bytes().to_vec())],
            vec![PushRequest::PutHead(self.head.as_bytes().to_vec())],
        ]
    }
}

/// Sends everything in order; gives how many were acknowledged, and the refusal that stopped it.
fn push_all(client: &mut Client, snapshot: &Snapshot, source: &Source) -> (usize, Option<RefusalCode>) {
    match client.reply() {
        Some(Reply::Welcome(_)) => {}
        Some(Reply::Refused(refused)) => return (0, Some(refused.code)),
        other => panic!("{other:?}"),
    }
    for (done, request) in snapshot.requests(source).iter().enumerate() {
        for message in request {
            let frame = message.frame();
            client.raw(frame.tag, &frame.payload);
        }
        match client.reply() {
            Some(Reply::Stored(_) | Reply::Receipt(_)) => {}
            Some(Reply::Missing(missing)) => assert!(missing.is_empty()),
            Some(Reply::Refused(refused)) => return (done, Some(refused.code)),
            other => panic!("{other:?}"),
        }
    }
    (5, None)
}

fn names(source: &Source, snapshot: &Snapshot) -> [Name; 5] {
    [
        Name::Envelope(source.session()),
        Name::Archive(source.lineage, snapshot.archive.number),
        Name::Page(snapshot.page.digest()),
        Name::Body(snapshot.body.digest()),
        Name::Receipt(source.lineage, 0),
    ]
}

#[test]
fn every_put_may_fail_before_or_after_it_took_effect() {
    let world = World::new();
    let source = world.source("web1", 1);
    let snapshot = Snapshot::of(&source);
    for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
        for fault in [Fault::Before, Fault::After] {
            // Envelope, archive, page, body, head, receipt.
            for nth in 1..=6 {
                let store = Fake::default();
                store.fail_put(nth, fault, kind);
                let mut client = connect(&world, &source, &store);
                let (done, code) = push_all(&mut client, &snapshot, &source);
                let wanted = if kind == io::ErrorKind::Other { RefusalCode::Internal } else { RefusalCode::Full };
                assert_eq!(code, Some(wanted), "{nth} {fault:?} {kind:?}");
                for name in &names(&source, &snapshot)[..done] {
                    assert!(store.get(name).unwrap().is_some(), "{name:?} was acknowledged");
                }
                let _ = client.stream.shutdown(std::net::Shutdown::Both);
                drop(client);
                let mut client = connect(&world, &source, &store);
                assert_eq!(
                    push_all(&mut client, &snapshot, &source),
                    (5, None),
                    "{nth} {fault:?} {kind:?}: sent again"
                );
                let head = read_whole(&store, &Name::Head(source.lineage, 0), 1 << 20).unwrap().unwrap();
                assert_eq!(head, snapshot.head.as_bytes());
                let _ = client.stream.shutdown(std::net::Shutdown::Both);
            }
        }
    }
}

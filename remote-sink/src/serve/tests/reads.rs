//! What readers get, and what they never see.

use crate::enrolment::Reads;
use crate::serve::tests::world::{Archive, files};
use crate::serve::tests::{Client, Source, World};
use crate::store::{Name, Shelf};
use shared::codec::List;
use shared::id::{ArchiveNumber, Digest, VerifyKey};
use shared::wire::request::{GetArchive, GetObject, GetParts, GetSession, ListArchives, ListHeads};
use shared::wire::{Damage, Query, ReadRequest, RefusalCode, Reply, Request, Role};

struct Stage {
    world: World,
    web: Source,
    one: Archive,
}

fn stage() -> Stage {
    let world = World::new();
    let web = world.enroll("web1", Role::Push, 1, Some(VerifyKey::new([50; 32])), Reads::SingleOwner);
    world.enroll("laptop", Role::Read, 9, None, Reads::SingleOwner);
    let mut client = world.push(&web);
    client.put_envelope(&web);
    // One part is larger than a piece.
    let one = web.archive(0, &[1, 600, 2]);
    client.put_archive(&one);
    let first = client.commit(&web, &[&one], None);
    client.commit(&web, &[&one], Some(&first));
    client.close();
    Stage { world, web, one }
}

impl Stage {
    fn reader(&self) -> Client {
        reader(&self.world, "laptop")
    }
    fn parts(&self, client: &mut Client, parts: &[u32]) {
        let parts = List::new(parts.to_vec()).unwrap();
        let (source, lineage, number) = (self.web.id(), self.web.lineage, self.one.number);
        let frame = ReadRequest::GetParts(GetParts { source, lineage, number, parts }).frame();
        client.raw(frame.tag, &frame.payload);
    }
    fn archive(&self) -> GetArchive {
        GetArchive { source: self.web.id(), lineage: self.web.lineage, number: self.one.number }
    }
    fn heads(&self, from: u64, limit: u32) -> Query {
        Query::ListHeads(ListHeads { source: self.web.id(), lineage: self.web.lineage, from, limit })
    }
}

fn reader(world: &World, name: &str) -> Client {
    let mut client = world.connect(&name.parse().unwrap(), Role::Read);
    client.banner();
    assert!(matches!(client.say_hello(&Client::hello(None)), Some(Reply::Welcome(_))));
    client
}

fn object(client: &mut Client) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        match client.reply() {
            Some(Reply::Piece(bytes)) => all.extend(bytes),
            Some(Reply::Object(bytes)) => return [all, bytes].concat(),
            other => panic!("{}", super::client::brief(&other)),
        }
    }
}

#[test]
fn a_reader_gets_every_byte_as_it_was_signed() {
    let stage = stage();
    let mut client = stage.reader();
    stage.parts(&mut client, &[0, 1, 2]);
    for part in &stage.one.parts {
        assert!(object(&mut client) == *part);
    }
    client.query(&Query::GetRegion(stage.archive()));
    assert_eq!(object(&mut client), stage.one.region);
    client.query(&Query::GetTable(stage.archive()));
    assert_eq!(object(&mut client), stage.one.parts[2]);
    client.query(&Query::GetEnvelope(GetSession { source: stage.web.id(), session: stage.web.session() }));
    assert_eq!(object(&mut client), stage.web.envelope.as_bytes());
    client.query(&Query::ListSources);
    let Some(Reply::Sources(sources)) = client.reply() else { panic!() };
    assert_eq!(sources.items.len(), 1);
    assert_eq!(
        (sources.items[0].source, sources.items[0].lineages.to_vec()),
        (stage.web.id(), vec![stage.web.lineage])
    );
    client.query(&stage.heads(0, 1));
    let Some(Reply::Heads(heads)) = client.reply() else { panic!() };
    assert_eq!((heads.items.len(), heads.more, heads.items[0].content), (1, true, Damage::Present));
    assert!(heads.items[0].receipt.is_some());
    client.query(&stage.heads(1, 8192));
    let Some(Reply::Heads(heads)) = client.reply() else { panic!() };
    assert_eq!((heads.items.len(), heads.more), (1, false));
    let list =
        ListArchives { source: stage.web.id(), lineage: stage.web.lineage, from: ArchiveNumber::FIRST, limit: 5 };
    client.query(&Query::ListArchives(list));
    let Some(Reply::Archives(archives)) = client.reply() else { panic!() };
    assert_eq!((archives.items[0].id, archives.more), (stage.one.id, false));
    client.close();
}

#[test]
fn what_is_not_there_is_not_found_and_the_session_goes_on() {
    let stage = stage();
    let mut client = stage.reader();
    stage.parts(&mut client, &[0, 3]);
    client.refused(RefusalCode::NotFound);
    let absent = GetArchive { number: ArchiveNumber::new(7).unwrap(), ..stage.archive() };
    client.query(&Query::GetTable(absent));
    client.refused(RefusalCode::NotFound);
    client.query(&Query::GetBody(GetObject { source: stage.web.id(), digest: Digest::new([1; 32]) }));
    client.refused(RefusalCode::NotFound);
    client.alive();
}

#[test]
fn files_are_never_believed() {
    let stage = stage();
    let path = stage.world.object(&stage.web, &Name::Archive(stage.web.lineage, stage.one.number));
    let whole = std::fs::read(&path).unwrap();
    let replace = |bytes: &[u8]| {
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    };
    let mut longer = whole.clone();
    longer.push(0);
    let mut flipped = whole.clone();
    flipped[40] ^= 1;
    for wrong in [&whole[..whole.len() - 1], &whole[..100], &[], &longer, &flipped, b"junk"] {
        replace(wrong);
        let mut client = stage.reader();
        stage.parts(&mut client, &[1]);
        client.refused(RefusalCode::Damaged);
        client.query(&Query::GetRegion(stage.archive()));
        client.refused(RefusalCode::Damaged);
        client.alive();
    }
    replace(&whole);
    for shelf in [Shelf::Heads, Shelf::Receipts] {
        let file = &files(&stage.world.layout.shelf(&stage.web.name, shelf))[0];
        std::fs::remove_file(file).unwrap();
        if shelf == Shelf::Heads {
            std::fs::write(file, vec![0; 20_000]).unwrap();
            let mut client = stage.reader();
            client.query(&stage.heads(0, 10));
            client.refused(RefusalCode::Damaged);
            std::fs::remove_file(file).unwrap();
            client.query(&stage.heads(0, 10));
            assert!(client.refused(RefusalCode::Damaged).contains("head 0"), "a missing head is no end of the chain");
        }
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let mut client = stage.reader();
    stage.parts(&mut client, &[1]);
    client.refused(RefusalCode::Damaged);
}

#[test]
fn a_reader_sees_what_its_enrolment_says() {
    let world = World::new();
    let (ann, bob) = (VerifyKey::new([50; 32]), VerifyKey::new([51; 32]));
    let web = world.enroll("web1", Role::Push, 1, Some(ann), Reads::SingleOwner);
    let db = world.enroll("db", Role::Push, 2, Some(bob), Reads::SingleOwner);
    let seen = |reads: Reads, owner| {
        let name: shared::id::SourceName = "reader".parse().unwrap();
        world.enroll("reader", Role::Read, 9, owner, reads);
        let mut client = world.connect(&name, Role::Read);
        client.banner();
        match client.say_hello(&Client::hello(None)) {
            Some(Reply::Welcome(_)) => {
                client.query(&Query::ListSources);
                let Some(Reply::Sources(sources)) = client.reply() else { panic!() };
                // The other source is not there for this connection, whether it exists or not.
                for id in [web.id(), db.id(), shared::id::SourceId::new([1; 32])] {
                    if !sources.items.iter().any(|item| item.source == id) {
                        client.query(&Query::GetBody(GetObject { source: id, digest: Digest::new([1; 32]) }));
                        client.refused_and_ended(RefusalCode::NotAllowed);
                        break;
                    }
                }
                Ok(sources.items.iter().map(|item| item.name.to_string()).collect::<Vec<_>>())
            }
            Some(Reply::Refused(refused)) => Err(refused.message.to_string()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(seen(Reads::Sources(vec!["db".parse().unwrap()]), Some(ann)).unwrap(), ["db"]);
    assert_eq!(seen(Reads::Owner(ann), None).unwrap(), ["web1"]);
    assert_eq!(seen(Reads::SingleOwner, Some(bob)).unwrap(), ["db"]);
    assert!(seen(Reads::SingleOwner, None).unwrap_err().contains("--of"));
    std::fs::remove_dir_all(world.layout.source(&db.name)).unwrap();
    assert_eq!(seen(Reads::SingleOwner, None).unwrap(), ["web1"]);
}

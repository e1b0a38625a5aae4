//! Every role × every message: what a role has is answered, everything else is refused and ends the session.

use shared::codec::List;
use shared::id::{ArchiveNumber, Digest, VerifyKey};
use shared::wire::request::{
    GetArchive, GetObject, GetOwned, GetParts, GetSession, ListArchives, ListHeads, ListOf, tag,
};
use shared::wire::{Frame, PushRequest, Query, ReadRequest, RefusalCode, Reply, Request, request};
use tests::craft::Forger;
use tests::wire::{Client, hello};
use tests::{Place, Vault};

const EVERY: &[&str] = &["push", "read", "audit"];
const PUSH: &[&str] = &["push"];
const READ: &[&str] = &["read"];
const NONE: &[&str] = &[];

struct Scene {
    _place: Place,
    vault: Vault,
    sink: VerifyKey,
    forger: Forger,
    body: Digest,
}

impl Scene {
    fn new() -> Self {
        let place = Place::new();
        let vault = Vault::new(place.path());
        let forger = Forger::new("web1");
        let sink = forger.enroll(&vault).card.sink;
        for role in ["read", "audit"] {
            let card = Forger::new(role).card.to_string();
            vault.enroll(&card, role, "backup@127.0.0.1:22", &["--of", "web1"]);
        }
        let mut client = forger.connect(&vault, &sink);
        let head = forger.push_snapshot(&mut client, sink, 0, 0, None);
        drop(client);
        Self { _place: place, vault, sink, body: head.body, forger }
    }

    fn connect(&self, role: &str) -> Client {
        match role {
            "push" => self.forger.connect(&self.vault, &self.sink),
            role => Client::other(self.vault.serve(role, role), &self.sink),
        }
    }

    /// One well-formed frame of each message, and the roles that have it.
    fn messages(&self) -> Vec<(&'static str, Frame, &'static [&'static str])> {
        let (source, lineage) = (self.forger.source, self.forger.lineage);
        let owner = self.forger.owner.owner_key().verify_key();
        let number = ArchiveNumber::FIRST;
        let archive = GetArchive { source, lineage, number };
        let list = ListOf { source, lineage, from: 0, limit: 10 };
        let query = |query: Query| PushRequest::Query(query).frame();
        let raw = |tag: u8| Frame { tag, payload: vec![1; 200] };
        let parts = GetParts { source, lineage, number, parts: List::new(vec![0]).unwrap() };
        vec![
            ("Ping", query(Query::Ping), EVERY),
            ("ListSources", query(Query::ListSources), EVERY),
            ("ListHeads", query(Query::ListHeads(ListHeads { source, lineage, from: 0, limit: 10 })), EVERY),
            ("GetEnvelope", query(Query::GetEnvelope(GetSession { source, session: self.forger.session() })), EVERY),
            ("GetBody", query(Query::GetBody(GetObject { source, digest: self.body })), EVERY),
            ("GetPage", query(Query::GetPage(GetObject { source, digest: Digest::new([1; 32]) })), EVERY),
            ("GetRegion", query(Query::GetRegion(archive.clone())), EVERY),
            ("GetTable", query(Query::GetTable(archive)), EVERY),
            (
                "ListArchives",
                query(Query::ListArchives(ListArchives { source, lineage, from: number, limit: 10 })),
                EVERY,
            ),
            ("GetOwnerRecords", query(Query::GetOwnerRecords(GetOwned { owner, from: 0, limit: 10 })), EVERY),
            ("GetSubstitutes", query(Query::GetSubstitutes(list.clone())), EVERY),
            ("ListVouchers", query(Query::ListVouchers(list.clone())), EVERY),
            ("GetWraps", query(Query::GetWraps(list)), EVERY),
            ("PutOwnerRecord", raw(tag::PUT_OWNER_RECORD), EVERY),
            ("PutVoucher", raw(tag::PUT_VOUCHER), EVERY),
            ("PutWrap", raw(tag::PUT_WRAP), EVERY),
            ("PutRelease", raw(tag::PUT_RELEASE), EVERY),
            ("GetParts", ReadRequest::GetParts(parts).frame(), READ),
            ("PutEnvelope", raw(tag::PUT_ENVELOPE), PUSH),
            ("PutArchive", raw(tag::PUT_ARCHIVE), PUSH),
            ("Data", raw(tag::DATA), PUSH),
            ("PutPage", raw(tag::PUT_PAGE), PUSH),
            ("PutBody", raw(tag::PUT_BODY), PUSH),
            ("PutHead", raw(tag::PUT_HEAD), PUSH),
            ("PutSubstitute", raw(tag::PUT_SUBSTITUTE), PUSH),
            ("GetDamaged", PushRequest::GetDamaged.frame(), PUSH),
            ("a second Hello", request::hello_frame(&hello(None)), NONE),
            ("a reply", Reply::Pong.frame(), NONE),
        ]
    }
}

#[test]
fn every_role_times_every_message() {
    let scene = Scene::new();
    let before = scene.vault.accepted("web1");
    for role in EVERY {
        for (name, frame, roles) in scene.messages() {
            let mut client = scene.connect(role);
            client.send(&frame);
            let reply = client.reply();
            let refused = match &reply {
                Reply::Refused(refused) => Some(refused.code),
                _ => None,
            };
            if roles.contains(role) {
                assert_ne!(refused, Some(RefusalCode::NotAllowed), "{role} has {name}");
            } else {
                assert_eq!(refused, Some(RefusalCode::NotAllowed), "{role} does not have {name}: {reply:?}");
                assert!(client.must_end().is_empty(), "{role}, {name}: the session ends");
            }
        }
    }
    assert_eq!(before, scene.vault.accepted("web1"), "no message changed anything");
    scene.vault.must_be_clean();
}

#[test]
fn there_is_no_other_message() {
    let scene = Scene::new();
    let known: Vec<u8> = scene.messages().iter().map(|(_, frame, _)| frame.tag).collect();
    for role in EVERY {
        for tag in (0..=255u8).filter(|tag| !known.contains(tag)).step_by(if *role == "push" { 1 } else { 9 }) {
            let mut client = scene.connect(role);
            client.send(&Frame { tag, payload: vec![0; 10] });
            let Reply::Refused(refused) = client.reply() else { panic!("{role}: message {tag} was answered") };
            assert!(matches!(refused.code, RefusalCode::NotAllowed | RefusalCode::Malformed), "{role}: message {tag}");
            assert!(client.must_end().is_empty(), "{role}, message {tag}: the session ends");
        }
    }
}

#[test]
fn a_reader_reads_what_it_may_and_nothing_else() {
    let scene = Scene::new();
    let other = Forger::new("web2");
    other.enroll(&scene.vault);
    let mut client = other.connect(&scene.vault, &scene.sink);
    other.push_snapshot(&mut client, scene.sink, 0, 0, None);
    drop(client);
    let parts = |forger: &Forger, part: u32| {
        ReadRequest::GetParts(GetParts {
            source: forger.source,
            lineage: forger.lineage,
            number: ArchiveNumber::FIRST,
            parts: List::new(vec![part]).unwrap(),
        })
    };
    let mut client = scene.connect("read");
    assert!(matches!(client.ask(&parts(&scene.forger, 0)), Reply::Object(_) | Reply::Piece(_)));
    for role in ["read", "audit"] {
        let mut client = scene.connect(role);
        let list = Query::ListHeads(ListHeads { source: other.source, lineage: other.lineage, from: 0, limit: 1 });
        tests::wire::refused_as(client.query(list), &[RefusalCode::NotAllowed, RefusalCode::NotFound]);
    }
    let mut client = scene.connect("read");
    tests::wire::refused_as(client.ask(&parts(&other, 0)), &[RefusalCode::NotAllowed, RefusalCode::NotFound]);
    // A part that the archive does not have.
    let mut client = scene.connect("read");
    assert!(matches!(client.ask(&parts(&scene.forger, 4000)), Reply::Refused(_)));
    // Without a list the vault must have one owner; this one has two now.
    let stranger = Forger::new("stranger").card.to_string();
    let done = scene.vault.enroll_run(&stranger, "read", "backup@127.0.0.1:22", &[]).done();
    if done.exit() == Some(0) {
        let mut client = Client::start(scene.vault.serve("stranger", "read"));
        client.send(&request::hello_frame(&hello(None)));
        if let Reply::Welcome(_) = client.reply() {
            let list = client.query(Query::ListSources);
            match list {
                Reply::Sources(list) => assert!(list.items.is_empty(), "a stranger sees sources of two owners"),
                Reply::Refused(_) => {}
                other => panic!("{other:?}"),
            }
        }
    } else {
        assert!(done.err().contains("--of"), "{}", done.tell());
    }
}

#[test]
fn a_revoked_key_gets_no_session_and_its_data_stays() {
    let scene = Scene::new();
    let before = scene.vault.accepted("web1");
    scene.vault.run().args(["revoke", "web1"]).ok();
    let mut client = Client::start(scene.vault.serve("web1", "push"));
    client.send(&request::hello_frame(&hello(Some((scene.forger.source, scene.forger.lineage)))));
    if let Some(frame) = client.frame() {
        assert_eq!(frame.tag, shared::wire::reply::tag::REFUSED);
    }
    assert_eq!(before, scene.vault.accepted("web1"));
    let mut reader = scene.connect("read");
    assert_eq!(reader.query(Query::Ping), Reply::Pong);
}

#[test]
fn versions_that_do_not_meet_are_told() {
    let scene = Scene::new();
    for (min, max) in [(2, 9), (0, 0), (5, 2)] {
        let mut client = Client::start(scene.vault.serve("web1", "push"));
        let mut hello = hello(Some((scene.forger.source, scene.forger.lineage)));
        (hello.version_min, hello.version_max) = (min, max);
        client.send(&request::hello_frame(&hello));
        let refused = tests::wire::refused(client.reply());
        assert!(matches!(refused.code, RefusalCode::Version | RefusalCode::Malformed), "{refused:?}");
    }
}

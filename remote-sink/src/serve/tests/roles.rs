//! Every role, every message: what a role does not have is refused, and ends the session.

use crate::enrolment::Reads;
use crate::serve::tests::{Client, Source, World};
use shared::codec::List;
use shared::id::{ArchiveNumber, Digest, SessionId, VerifyKey};
use shared::wire::request::{
    self, GetArchive, GetObject, GetOwned, GetParts, GetSession, ListArchives, ListHeads, ListOf, tag,
};
use shared::wire::{Frame, PushRequest, Query, ReadRequest, RefusalCode, Reply, Request, Role};

/// One frame of each request, well formed, with the roles that have it.
fn requests(source: &Source) -> Vec<(Frame, &'static [Role])> {
    const ALL: &[Role] = &[Role::Push, Role::Read, Role::Audit];
    const PUSH: &[Role] = &[Role::Push];
    let (id, lineage, number) = (source.id(), source.lineage, ArchiveNumber::FIRST);
    let (from, limit) = (0, 10);
    let archive = || GetArchive { source: id, lineage, number };
    let list = || ListOf { source: id, lineage, from, limit };
    let object = || GetObject { source: id, digest: Digest::new([1; 32]) };
    let queries = [
        Query::Ping,
        Query::ListSources,
        Query::ListHeads(ListHeads { source: id, lineage, from, limit }),
        Query::GetEnvelope(GetSession { source: id, session: SessionId::new([1; 32]) }),
        Query::GetBody(object()),
        Query::GetPage(object()),
        Query::GetRegion(archive()),
        Query::GetTable(archive()),
        Query::ListArchives(ListArchives { source: id, lineage, from: number, limit }),
        Query::GetOwnerRecords(GetOwned { owner: VerifyKey::new([50; 32]), from, limit }),
        Query::GetSubstitutes(list()),
        Query::ListVouchers(list()),
        Query::GetWraps(list()),
        Query::PutOwnerRecord(vec![1]),
        Query::PutVoucher(vec![1]),
        Query::PutWrap(vec![1]),
        Query::PutRelease(vec![1]),
    ];
    let mut all: Vec<_> = queries.iter().map(|query| (query.frame(), ALL)).collect();
    let parts = GetParts { source: id, lineage, number, parts: List::new(vec![0]).unwrap() };
    all.push((ReadRequest::GetParts(parts).frame(), &[Role::Read]));
    for tag in [
        tag::PUT_ENVELOPE,
        tag::PUT_ARCHIVE,
        tag::DATA,
        tag::PUT_PAGE,
        tag::PUT_BODY,
        tag::PUT_HEAD,
        tag::PUT_SUBSTITUTE,
    ] {
        all.push((Frame { tag, payload: vec![1] }, PUSH));
    }
    all.push((PushRequest::GetDamaged.frame(), PUSH));
    all
}

#[test]
fn a_role_has_its_requests_and_no_others() {
    let world = World::new();
    let owner = VerifyKey::new([50; 32]);
    let web = world.enroll("web1", Role::Push, 1, Some(owner), Reads::SingleOwner);
    let reader = world.enroll("laptop", Role::Read, 2, Some(owner), Reads::SingleOwner);
    let auditor = world.enroll("watch", Role::Audit, 3, Some(owner), Reads::SingleOwner);
    let mut tried = 0;
    for (role, who) in [(Role::Push, &web), (Role::Read, &reader), (Role::Audit, &auditor)] {
        for (frame, roles) in requests(&web) {
            let mut client = world.connect(&who.name, role);
            client.banner();
            let hello = Client::hello((role == Role::Push).then_some(&web));
            assert!(matches!(client.say_hello(&hello), Some(Reply::Welcome(_))));
            client.raw(frame.tag, &frame.payload);
            if roles.contains(&role) {
                let code = match client.reply() {
                    Some(Reply::Refused(refused)) => Some(refused.code),
                    Some(_) => None,
                    None => panic!("no answer to {} in role {role}", frame.tag),
                };
                assert_ne!(code, Some(RefusalCode::NotAllowed), "{} in role {role}", frame.tag);
            } else {
                client.refused_and_ended(RefusalCode::NotAllowed);
            }
            tried += 1;
        }
    }
    assert_eq!(tried, 3 * 26);
    world.assert_whole();
}

#[test]
fn the_line_and_the_enrolment_must_agree() {
    let world = World::new();
    let web = world.source("web1", 1);
    let refused = |name: &str, role| {
        let mut client = world.connect(&name.parse().unwrap(), role);
        client.banner();
        let frame = request::hello_frame(&Client::hello(Some(&web)));
        client.raw(frame.tag, &frame.payload);
        client.refused_and_ended(RefusalCode::NotAllowed)
    };
    for role in [Role::Read, Role::Audit, Role::Mirror] {
        assert!(refused("web1", role).contains("enrolled with role push"));
    }
    assert!(refused("nobody", Role::Push).contains("not enrolled"));
    let path = world.layout.enrolment(&web.name);
    let mut enrolment = crate::enrolment::Enrolment::read(&path).unwrap();
    enrolment.revoked = true;
    enrolment.write(&path).unwrap();
    assert!(refused("web1", Role::Push).contains("revoked"));
}

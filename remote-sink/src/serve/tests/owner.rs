//! An owner's objects are taken for their signature, through any role, and never replaced.

use crate::enrolment::Reads;
use crate::serve::tests::{Client, Source, World};
use shared::codec::{Blob, List, Text};
use shared::format::{Kem, OwnerRecord, Release, Voucher, Wrap};
use shared::id::{Digest, VerifyKey};
use shared::signature::{Object, SigningKey, Verified, sign};
use shared::wire::request::{GetOwned, ListOf};
use shared::wire::{Query, RefusalCode, Reply, Role};

struct Stage {
    world: World,
    owner: SigningKey,
    web: Source,
    head: Verified<shared::format::Head>,
}

fn stage() -> Stage {
    let world = World::new();
    let owner = SigningKey::from_seed(&[60; 32]);
    let web = world.enroll("web1", Role::Push, 1, Some(owner.verify_key()), Reads::SingleOwner);
    world.enroll("laptop", Role::Read, 9, None, Reads::SingleOwner);
    world.enroll("watch", Role::Audit, 8, None, Reads::SingleOwner);
    let mut client = world.push(&web);
    client.put_envelope(&web);
    let one = web.archive(0, &[1, 1]);
    client.put_archive(&one);
    let head = client.commit(&web, &[&one], None);
    client.close();
    Stage { world, owner, web, head }
}

fn connect(world: &World, name: &str, role: Role) -> Client {
    let mut client = world.connect(&name.parse().unwrap(), role);
    client.banner();
    assert!(matches!(client.say_hello(&Client::hello(None)), Some(Reply::Welcome(_))));
    client
}

fn record(
    key: &SigningKey,
    owner: VerifyKey,
    number: u64,
    previous: Option<Digest>,
    seed: u8,
) -> Verified<OwnerRecord> {
    let (enc, sealed) = (Blob::new(vec![1; 32]).unwrap(), Blob::new(vec![seed; 100]).unwrap());
    sign(OwnerRecord { owner, number, previous, kem: Kem::X25519, enc, sealed }, key).unwrap()
}

fn bytes<T: Object>(object: &Verified<T>) -> Vec<u8> {
    object.as_bytes().to_vec()
}

fn row(client: &mut Client) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        match client.reply() {
            Some(Reply::Object(bytes)) => all.push(bytes),
            Some(Reply::End) => return all,
            other => panic!("{}", super::client::brief(&other)),
        }
    }
}

#[test]
fn owner_records_are_numbered_chained_and_kept() {
    let stage = stage();
    let me = stage.owner.verify_key();
    let zero = record(&stage.owner, me, 0, None, 1);
    let one = record(&stage.owner, me, 1, Some(zero.digest()), 2);
    let mut client = connect(&stage.world, "laptop", Role::Read);
    for (existed, object) in [(false, &zero), (true, &zero), (false, &one), (true, &zero)] {
        client.query(&Query::PutOwnerRecord(bytes(object)));
        assert_eq!(client.stored(), (object.digest(), existed));
    }
    let fork = record(&stage.owner, me, 1, Some(zero.digest()), 3);
    let gap = record(&stage.owner, me, 3, Some(one.digest()), 3);
    let beside = record(&stage.owner, me, 2, Some(zero.digest()), 3);
    let again = record(&stage.owner, me, 0, None, 9);
    for (wrong, object) in
        [("a fork", fork), ("a gap", gap), ("a wrong predecessor", beside), ("a second first", again)]
    {
        client.query(&Query::PutOwnerRecord(bytes(&object)));
        assert!(!client.refused(RefusalCode::Conflict).is_empty(), "{wrong}");
    }
    client.query(&Query::GetOwnerRecords(GetOwned { owner: me, from: 0, limit: 10 }));
    assert_eq!(row(&mut client), [bytes(&zero), bytes(&one)]);
    client.query(&Query::GetOwnerRecords(GetOwned { owner: me, from: 1, limit: 10 }));
    assert_eq!(row(&mut client), [bytes(&one)]);
    client.query(&Query::GetOwnerRecords(GetOwned { owner: VerifyKey::new([1; 32]), from: 0, limit: 10 }));
    client.refused_and_ended(RefusalCode::NotAllowed);
    stage.world.assert_whole();
}

#[test]
fn nobody_but_the_owner_signs_for_the_owner() {
    let stage = stage();
    let thief = SigningKey::from_seed(&[61; 32]);
    let me = stage.owner.verify_key();
    for wrong in [
        record(&thief, me, 0, None, 1),
        record(&thief, thief.verify_key(), 0, None, 1),
        record(&stage.owner, thief.verify_key(), 0, None, 1),
        record(&stage.web.key, me, 0, None, 1),
    ] {
        for (name, role) in [("laptop", Role::Read), ("watch", Role::Audit)] {
            let mut client = connect(&stage.world, name, role);
            client.query(&Query::PutOwnerRecord(bytes(&wrong)));
            client.refused_and_ended(RefusalCode::Signature);
        }
        let mut client = stage.world.push(&stage.web);
        client.query(&Query::PutOwnerRecord(bytes(&wrong)));
        client.refused_and_ended(RefusalCode::Signature);
    }
    stage.world.assert_whole();
}

#[test]
fn vouchers_releases_and_wraps_fit_what_is_here() {
    let stage = stage();
    let (source, lineage, sink) = (stage.web.id(), stage.web.lineage, stage.world.sink);
    let owner = stage.owner.verify_key();
    let voucher = Voucher { owner, source, lineage, sink, sequence: 0, head: stage.head.digest(), checked: 5 };
    let reason = Text::new("too old").unwrap();
    let release = Release { owner, source, lineage, sink, sequence: 0, head: stage.head.digest(), reason };
    let recipients = stage.web.envelope.recipients.to_vec();
    let (session, commitment) = (stage.web.session(), stage.web.envelope.commitment);
    let wrap = Wrap { source, lineage, session, commitment, recipients: List::new(recipients).unwrap() };
    let put = |client: &mut Client, query| {
        client.query(&query);
        client.reply()
    };
    let mut client = connect(&stage.world, "laptop", Role::Read);
    let signed = bytes(&sign(voucher.clone(), &stage.owner).unwrap());
    let wrapped = bytes(&sign(wrap.clone(), &stage.owner).unwrap());
    assert!(matches!(put(&mut client, Query::PutVoucher(signed.clone())), Some(Reply::Stored(s)) if !s.existed));
    assert!(matches!(put(&mut client, Query::PutVoucher(signed.clone())), Some(Reply::Stored(s)) if s.existed));
    let released = bytes(&sign(release.clone(), &stage.owner).unwrap());
    assert!(matches!(put(&mut client, Query::PutRelease(released)), Some(Reply::Stored(_))));
    assert!(matches!(put(&mut client, Query::PutWrap(wrapped.clone())), Some(Reply::Stored(_))));
    let list = ListOf { source, lineage, from: 0, limit: 5 };
    client.query(&Query::ListVouchers(list.clone()));
    assert_eq!(row(&mut client), [signed]);
    client.query(&Query::GetWraps(list.clone()));
    assert_eq!(row(&mut client), [wrapped]);
    client.query(&Query::GetWraps(ListOf { from: 1, ..list }));
    assert_eq!(row(&mut client), Vec::<Vec<u8>>::new());

    let absent = sign(Voucher { sequence: 1, ..voucher.clone() }, &stage.owner).unwrap();
    let other = sign(Voucher { head: Digest::new([1; 32]), ..voucher.clone() }, &stage.owner).unwrap();
    let strange = sign(Voucher { sink: VerifyKey::new([1; 32]), ..voucher }, &stage.owner).unwrap();
    let unfit = sign(Wrap { commitment: Digest::new([1; 32]), ..wrap }, &stage.owner).unwrap();
    client.query(&Query::PutVoucher(bytes(&absent)));
    client.refused(RefusalCode::NotFound);
    client.query(&Query::PutVoucher(bytes(&other)));
    client.refused(RefusalCode::Conflict);
    client.query(&Query::PutWrap(bytes(&unfit)));
    client.refused(RefusalCode::Conflict);
    client.query(&Query::PutVoucher(bytes(&strange)));
    assert!(matches!(client.reply(), Some(Reply::Refused(refused)) if refused.code == RefusalCode::Chain));
    stage.world.assert_whole();
}

#[test]
fn owners_have_caps_too() {
    let mut stage = stage();
    stage.world.limits.owner_objects = 1;
    let me = stage.owner.verify_key();
    let zero = record(&stage.owner, me, 0, None, 1);
    let mut client = connect(&stage.world, "laptop", Role::Read);
    client.query(&Query::PutOwnerRecord(bytes(&zero)));
    client.stored();
    client.query(&Query::PutOwnerRecord(bytes(&record(&stage.owner, me, 1, Some(zero.digest()), 2))));
    client.refused(RefusalCode::Cap);
    client.alive();
}

#[test]
fn what_an_owner_signs_has_a_cap_of_bytes() {
    let mut stage = stage();
    stage.world.limits.owner_bytes = 3 * 4096;
    let me = stage.owner.verify_key();
    let zero = record(&stage.owner, me, 0, None, 1);
    let one = record(&stage.owner, me, 1, Some(zero.digest()), 2);
    let two = record(&stage.owner, me, 2, Some(one.digest()), 3);
    let (source, lineage, sink) = (stage.web.id(), stage.web.lineage, stage.world.sink);
    let voucher = |checked| {
        let head = stage.head.digest();
        bytes(&sign(Voucher { owner: me, source, lineage, sink, sequence: 0, head, checked }, &stage.owner).unwrap())
    };
    let mut client = connect(&stage.world, "laptop", Role::Read);
    client.query(&Query::PutOwnerRecord(bytes(&zero)));
    client.stored();
    client.query(&Query::PutVoucher(voucher(1)));
    client.stored();
    client.query(&Query::PutOwnerRecord(bytes(&one)));
    client.stored();
    // All kinds count together, in this session and in the next one; what is here may be sent again.
    for _ in 0..2 {
        client.query(&Query::PutOwnerRecord(bytes(&two)));
        assert!(client.refused(RefusalCode::Cap).contains("takes 12288 bytes here"));
        client.query(&Query::PutVoucher(voucher(2)));
        client.refused(RefusalCode::Cap);
        client.query(&Query::PutVoucher(voucher(1)));
        assert!(client.stored().1);
        client = connect(&stage.world, "laptop", Role::Read);
    }
    stage.world.assert_whole();
}

#[test]
fn wraps_have_caps_for_each_source() {
    for by_bytes in [false, true] {
        let mut stage = stage();
        let owner = stage.owner.verify_key();
        let other = stage.world.enroll("db", Role::Push, 2, Some(owner), Reads::SingleOwner);
        let mut client = stage.world.push(&other);
        client.put_envelope(&other);
        client.close();
        let wrap = |of: &Source, seed: u8| {
            let mut recipients = of.envelope.recipients.to_vec();
            recipients[0].recipient = Digest::new([seed; 32]);
            let (source, lineage) = (of.id(), of.lineage);
            let (session, commitment) = (of.session(), of.envelope.commitment);
            let wrap = Wrap { source, lineage, session, commitment, recipients: List::new(recipients).unwrap() };
            bytes(&sign(wrap, &stage.owner).unwrap())
        };
        match by_bytes {
            true => stage.world.limits.wraps_bytes = 2 * wrap(&stage.web, 0).len() as u64 + 1,
            false => stage.world.limits.owner_objects = 2,
        }
        for (of, taken) in [(&stage.web, 0), (&other, 0), (&other, 2)] {
            let mut client = connect(&stage.world, "laptop", Role::Read);
            for seed in taken..2 {
                client.query(&Query::PutWrap(wrap(of, seed)));
                assert!(!client.stored().1);
            }
            client.query(&Query::PutWrap(wrap(of, 2)));
            assert!(client.refused(RefusalCode::Cap).starts_with("this source has 2 wraps here"));
            client.query(&Query::PutWrap(wrap(of, 1)));
            assert!(client.stored().1, "what is here may be sent again");
        }
        stage.world.assert_whole();
    }
}

//! What a substitute record heals stays healed as long as a snapshot needs it.

use super::*;
use shared::format::Substitute;
use shared::format::owner::{BlockName, SubstitutePair};

fn substitute(world: &World, left: (Made, u32), right: (Made, u32)) -> Substitute {
    let block =
        |(made, block): (Made, u32)| BlockName { number: ArchiveNumber::new(made.number).unwrap(), id: made.id, block };
    let pair = SubstitutePair { left: block(left), right: List::new(vec![block(right)]).unwrap() };
    let (source, lineage) = (world.card.source_id(), world.lineage);
    Substitute { source, lineage, pairs: List::new(vec![pair]).unwrap() }
}

fn damaged(world: &World) -> (u64, usize, u64) {
    let report = verify(world.layout.root(), &VerifyOptions::default(), &FixedClock::at(world.now)).unwrap();
    let source = &report.sources[0];
    (source.damage_total, source.snapshots_damaged.len(), source.healed)
}

#[test]
fn an_old_snapshot_stays_healed_when_the_healing_one_has_expired_and_room_was_given_back() {
    let mut world = World::new("keep-last = 1\ngrace = \"7d\"\nmax-remove = \"100%\"");
    world.observe();
    let [old, other] = [4, 2].map(|blocks| world.archive(blocks));
    world.now += DAY;
    let first = world.commit(&[(old, 0b1111)], 0, 0);
    world.observe();
    hold(&mut world.desk(), &name(), &first.id[..8], true, "the good one").unwrap();
    // Block 2 rots.
    let path = world.layout.object(&name(), &Name::Archive(world.lineage, ArchiveNumber::new(old.number).unwrap()));
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 3 * 4096 + 77;
    bytes[at] ^= 1;
    durable::replace(&path, &bytes, 0o440).unwrap();
    assert_eq!(damaged(&world), (1, 1, 0));
    // The next run still has its chunks: it sends them again, beside what is new, and says so.
    let healing = world.archive(6);
    let record = sign(substitute(&world, (old, 2), (healing, 4)), &world.key).unwrap();
    world.put(Name::Substitute(world.lineage, record.digest()), record.as_bytes());
    assert_eq!(damaged(&world), (0, 0, 1));
    world.now += DAY;
    let second = world.commit(&[(old, 0b0011), (healing, 0b111111)], 0, 0);
    world.now += DAY;
    world.commit(&[(other, 0b11)], 0, 0);
    // A later archive, so that the healing one is not kept for its number.
    world.archive(1);
    let before = world.archive_bytes(healing).unwrap();
    let mut freed = 0;
    for _ in 0..5 {
        freed += world.prune(&all()).given.freed_bytes;
        world.now += 9 * DAY;
    }
    assert!(world.is_here(&first) && !world.is_here(&second), "the healing snapshot has expired");
    let after = world.archive_bytes(healing).unwrap();
    assert!(freed > 0 && after < before, "the rest of the archive was freed: {before} to {after}");
    assert_eq!(damaged(&world), (0, 0, 1), "the old snapshot is whole");
    let outcome = world.prune(&Options::default());
    assert!(!outcome.is_stopped() && outcome.damaged.is_none() && outcome.given.damaged.is_empty());
    // Given up, it needs nothing any more.
    hold(&mut world.desk(), &name(), &first.id[..8], false, "").unwrap();
    for _ in 0..4 {
        world.prune(&all());
        world.now += 9 * DAY;
    }
    assert_eq!((world.archive_bytes(old), world.archive_bytes(healing)), (None, None));
}

#[test]
fn what_heals_found_damage_is_read_whatever_a_sample_or_an_age_leaves_out() {
    let mut world = World::new("keep-last = 1");
    let [old, healing, further, other] = [2, 2, 2, 2].map(|blocks| world.archive(blocks));
    world.commit(&[(old, 0b11), (other, 0b11)], 0, 0);
    let rot = |made: Made| {
        let path =
            world.layout.object(&name(), &Name::Archive(world.lineage, ArchiveNumber::new(made.number).unwrap()));
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.len() - 3 * 4096;
        bytes[at] ^= 1;
        durable::replace(&path, &bytes, 0o440).unwrap();
    };
    let heal = |left: Made, right: Made| {
        let record = sign(substitute(&world, (left, 0), (right, 0)), &world.key).unwrap();
        world.put(Name::Substitute(world.lineage, record.digest()), record.as_bytes());
    };
    let number = |made: Made| (world.lineage, ArchiveNumber::new(made.number).unwrap());
    let mut ledger = crate::ledger::Ledger::open(&world.layout.ledger(&name())).unwrap();
    let read = |options: &VerifyOptions| {
        let report = verify(world.layout.root(), options, &FixedClock::at(world.now)).unwrap();
        let source = &report.sources[0];
        (source.damage_total, source.healed, source.archives_read)
    };
    rot(old);
    heal(old, healing);
    // A run by age: the archive that is damaged was not read for long, the others are young. What is young counts.
    let by_age = VerifyOptions { older_than: Some(DAY), ..VerifyOptions::default() };
    ledger.mark_verified(&[healing, further, other].map(number), world.now - 10).unwrap();
    assert_eq!(read(&by_age), (0, 1, 1));
    // A sample that takes the damaged archive and leaves out the other: whichever it takes, damage that it finds is
    // healed by what it reads.
    let sample = VerifyOptions { sample_percent: Some(50.0), ..VerifyOptions::default() };
    rot(healing);
    let mut met = 0;
    for _ in 0..64 {
        let (damage, healed, _) = read(&sample);
        assert_eq!(healed, 0, "what should heal it is rotten");
        met += damage;
    }
    assert!(met > 0, "the sample takes it now and then");
    // What heals may be healed itself, for itself: one step alone counts.
    heal(healing, further);
    for _ in 0..64 {
        let (damage, healed, archives) = read(&sample);
        assert!(healed <= 1 && (healed == 0 || archives >= 2), "{damage} {healed} {archives}");
    }
    // The whole is read: one is healed, the other is not.
    let all = read(&VerifyOptions::default());
    assert_eq!((all.1, all.2), (1, 4));
    assert!(all.0 > 0);
    let report = verify(world.layout.root(), &by_age, &FixedClock::at(world.now)).unwrap();
    assert!(report.sources[0].suspect.contains(&number(old)));
    ledger.unmark_verified(&[number(healing)]).unwrap();
    assert_eq!(ledger.verified_at(&number(healing).0, number(healing).1).unwrap(), None);
    assert_eq!(ledger.verified_at(&number(other).0, number(other).1).unwrap(), Some(world.now - 10));
    assert_eq!((read(&by_age).1, read(&by_age).2), (1, 2), "both are read, and what heals the second counts as young");
}

#[test]
fn a_block_is_healed_only_by_whole_blocks_of_the_archive_that_is_meant() {
    let mut world = World::new("keep-last = 1");
    let [old, healing] = [2, 2].map(|blocks| world.archive(blocks));
    world.commit(&[(old, 0b11)], 0, 0);
    let rot = |world: &World, made: Made, from_end: usize| {
        let path =
            world.layout.object(&name(), &Name::Archive(world.lineage, ArchiveNumber::new(made.number).unwrap()));
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.len() - from_end;
        bytes[at] ^= 1;
        durable::replace(&path, &bytes, 0o440).unwrap();
    };
    rot(&world, old, 3 * 4096);
    let other = Made { id: ArchiveId::new([9; 32]), ..healing };
    let wrong_key = SigningKey::from_seed(&[77; 32]);
    for (right, key) in [((other, 0), &world.key), ((healing, 2), &world.key), ((healing, 1), &wrong_key)] {
        let record = sign(substitute(&world, (old, 0), right), key).unwrap();
        world.put(Name::Substitute(world.lineage, record.digest()), record.as_bytes());
        let (damage, snapshots, healed) = damaged(&world);
        assert!(damage > 0 && snapshots == 1 && healed == 0);
    }
    let record = sign(substitute(&world, (old, 0), (healing, 0)), &world.key).unwrap();
    world.put(Name::Substitute(world.lineage, record.digest()), record.as_bytes());
    assert_eq!(damaged(&world).2, 1);
    rot(&world, healing, 3 * 4096);
    assert_eq!(damaged(&world).2, 0, "what should heal it rots too");
}

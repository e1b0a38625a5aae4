//! Packing: whatever is packed is read, listed and refused like before, and a crash loses nothing.

use super::*;
use crate::ledger;
use crate::store::pack::SHELVES;
use crate::store::{Directory, Placed, Shelf, Staged, Store, names, read_whole};
use shared::signature::Signed;
use std::collections::BTreeMap;

const PACKING: Packing = Packing { least: 5, packs: 2, loose: 3 };

fn options() -> Options {
    Options { packing: PACKING, ..Options::default() }
}

/// So many snapshots, each of a session of its own, none of which goes.
fn long(count: u64) -> World {
    let mut world = World::new("keep-last = 1000");
    world.observe();
    more(&mut world, count);
    world
}

fn more(world: &mut World, count: u64) {
    let made = world.archive(1);
    for _ in 0..count {
        world.now += DAY;
        let salt = Salt::random();
        world.envelope = sign(Envelope { salt, ..(*world.envelope).clone() }, &world.key).unwrap();
        let session = SessionId::new(*world.envelope.digest().as_bytes());
        world.put(Name::Envelope(session), world.envelope.as_bytes());
        world.commit(&[(made, 1)], 0, 0);
    }
    world.observe();
}

fn store(world: &World) -> Directory {
    Root::open(world.layout.root()).unwrap().room(source_room(&name()))
}

/// Every object that may be packed, as a reader finds it.
fn all_objects(world: &World) -> BTreeMap<String, Vec<u8>> {
    let store = store(world);
    let read = |shelf| {
        let names = names(&store, shelf).unwrap();
        let read = |name: Name| (object_path(&name), read_whole(&store, &name, 1 << 20).unwrap().unwrap());
        names.into_iter().map(read).collect::<Vec<_>>()
    };
    let all: Vec<_> = SHELVES.into_iter().flat_map(read).collect();
    let count = all.len();
    let all: BTreeMap<_, _> = all.into_iter().collect();
    assert_eq!(all.len(), count, "each is told once");
    all
}

fn loose(world: &World, shelf: Shelf) -> usize {
    std::fs::read_dir(world.layout.shelf(&name(), shelf)).unwrap().count()
}

fn packs(world: &World) -> usize {
    std::fs::read_dir(world.layout.packs(&name())).unwrap().count()
}

use crate::store::layout::object_path;

#[test]
fn what_is_packed_is_read_listed_and_refused_like_before() {
    let mut world = long(12);
    let before = all_objects(&world);
    let charged = ledger::rebuild(world.layout.root(), &name(), &world.key.verify_key()).unwrap();
    let outcome = world.prune(&options());
    // Ten heads and receipts are old enough, thirteen envelopes are there.
    assert_eq!((outcome.packed.objects, outcome.damage().count()), (9 + 9 + 13, 0));
    assert_eq!((loose(&world, Shelf::Heads), loose(&world, Shelf::Receipts), packs(&world)), (3, 3, 3));
    assert_eq!(loose(&world, Shelf::Envelopes), 0);
    assert_eq!(all_objects(&world), before);
    world.is_whole("packed");
    assert_eq!(ledger::rebuild(world.layout.root(), &name(), &world.key.verify_key()).unwrap(), charged);
    // A session cannot take a packed name again.
    let root = Root::open(world.layout.root()).unwrap();
    let staging = Arc::new(root.open_dir(&format!("{}/staging", source_room(&name()))).unwrap());
    let room = root.writable_room(source_room(&name()), &staging);
    let mut staged = room.stage().unwrap();
    staged.append(b"another head").unwrap();
    assert_eq!(room.put_new(&Name::Head(world.lineage, 2), staged).unwrap(), Placed::Existed);
    assert_eq!(loose(&world, Shelf::Heads), 3);
    // Few are not worth a pack; the third pack of a shelf makes one of all.
    assert_eq!(world.prune(&options()).packed, Packed::default());
    for _ in 0..2 {
        more(&mut world, 6);
        world.prune(&options());
        world.is_whole("packed again");
    }
    assert_eq!((packs(&world), loose(&world, Shelf::Heads)), (3, 3));
    let after = all_objects(&world);
    assert!(before.iter().all(|(path, bytes)| after.get(path) == Some(bytes)) && after.len() == before.len() + 36);
    let desk = world.desk();
    let history = history::read(desk.view(), &desk.sources[0]).unwrap();
    assert!(history.is_whole() && history.links.len() == 24);
}

#[test]
fn a_reader_that_knew_the_loose_files_finds_the_packed_ones() {
    let world = long(12);
    let reader = store(&world);
    assert!(reader.get(&Name::Head(world.lineage, 1)).unwrap().is_some());
    world.prune(&options());
    assert!(reader.get(&Name::Head(world.lineage, 1)).unwrap().is_some());
    assert!(reader.get(&Name::Head(world.lineage, 99)).unwrap().is_none());
    assert_eq!(names(&reader, Shelf::Heads).unwrap().len(), 12);
}

#[test]
fn a_crash_at_any_step_of_packing_loses_nothing() {
    let mut stops = 0;
    for again in [false, true] {
        for nth in 0.. {
            let mut world = long(9);
            if again {
                world.prune(&options());
                more(&mut world, 6);
                world.prune(&options());
                more(&mut world, 6);
            }
            let before = all_objects(&world);
            let count = Cell::new(0);
            let step = |what: &'static str| {
                count.set(count.get() + 1);
                if count.get() > nth { Err(io::Error::other(what)) } else { Ok(()) }
            };
            let crashed = prune_stepwise(&mut world.desk(), &name(), &options(), &step).is_err();
            assert_eq!(all_objects(&world), before, "step {nth}");
            if nth % 5 == 0 {
                world.is_whole(&format!("crash at step {nth}"));
            }
            world.prune(&options());
            assert_eq!(all_objects(&world), before, "after step {nth}");
            assert_eq!((loose(&world, Shelf::Heads), packs(&world)), (3, 3), "after step {nth}");
            assert!(std::fs::read_dir(world.layout.staging(&name())).unwrap().next().is_none());
            if !crashed {
                break;
            }
            stops += 1;
        }
    }
    assert!(stops > 30, "{stops} steps were tried");
}

#[test]
fn a_file_with_the_name_of_a_packed_head_is_read_by_nobody() {
    let world = long(12);
    world.prune(&options());
    let before = all_objects(&world);
    // As injected code in a session could: the name is free again.
    let path = world.layout.object(&name(), &Name::Head(world.lineage, 2));
    std::fs::write(&path, b"something else").unwrap();
    assert_eq!(all_objects(&world), before);
    let report = verify(world.layout.root(), &VerifyOptions::default(), &FixedClock::at(world.now)).unwrap();
    assert_eq!(report.sources[0].damage_total, 1, "{:?}", report.sources[0].damage);
    let outcome = world.prune(&options());
    assert_eq!(outcome.damage().count(), 1);
    assert!(path.exists(), "it is evidence");
}

#[test]
fn junk_with_the_names_of_objects_is_not_packed() {
    let world = long(12);
    world.prune(&options());
    let before = packs(&world);
    let session = |at: u8| Name::Envelope(SessionId::new([at; 32]));
    for at in 0..20 {
        std::fs::write(world.layout.object(&name(), &session(at)), b"no envelope").unwrap();
    }
    for _ in 0..3 {
        assert_eq!(world.prune(&options()).packed, Packed::default());
    }
    assert_eq!((packs(&world), loose(&world, Shelf::Envelopes)), (before, 20), "it stays for verify to name");
    assert!(std::fs::read_dir(world.layout.staging(&name())).unwrap().next().is_none());
}

#[test]
fn a_damaged_index_is_made_again_from_the_objects() {
    // Of what is cut off nobody can say what it held: the file is kept.
    for (what, lost, kept) in [("footer", 0, 0), ("index", 0, 0), ("cut", 0, 1), ("object", 1, 1)] {
        let world = long(12);
        world.prune(&options());
        let before = all_objects(&world);
        let path = world.layout.pack(&name(), Shelf::Heads, 0);
        let mut bytes = std::fs::read(&path).unwrap();
        let length = bytes.len();
        match what {
            "footer" => bytes[length - 70] ^= 1,
            "index" => bytes[length - 96 - 52] ^= 1,
            "cut" => bytes.truncate(length - 40),
            // The index too: else only this object is damaged, and the others are read as before.
            _ => {
                bytes[200] ^= 1;
                bytes[length - 1] ^= 1;
            }
        }
        durable::replace(&path, &bytes, 0o440).unwrap();
        let error = names(&store(&world), Shelf::Heads).unwrap_err();
        assert!(error.is_damage(), "{what}: nothing is taken for missing: {error}");
        let report = verify(world.layout.root(), &VerifyOptions::default(), &FixedClock::at(world.now)).unwrap();
        assert!(!report.is_ok(), "{what}");
        let told = salvage(&world.desk(), &name()).unwrap().unwrap();
        assert_eq!(told.len(), 1, "{what}: {told:?}");
        let after = all_objects(&world);
        assert_eq!(after.len(), before.len() - lost, "{what}");
        assert!(after.iter().all(|(path, bytes)| before.get(path) == Some(bytes)), "{what}");
        let aside = std::fs::read_dir(world.layout.packs(&name())).unwrap();
        let aside = aside.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with("damaged"));
        assert_eq!(aside.count(), kept, "{what}");
        if lost == 0 {
            world.is_whole(what);
            assert!(!world.prune(&options()).is_stopped());
        } else {
            assert_eq!(world.prune(&options()).alarms[0].brake, Brake::Rollback);
        }
        assert!(salvage(&world.desk(), &name()).unwrap().unwrap().is_empty());
    }
}

#[test]
fn a_damaged_object_gives_way_to_a_good_copy() {
    let world = long(12);
    world.prune(&options());
    let before = all_objects(&world);
    let path = world.layout.pack(&name(), Shelf::Heads, 0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[200] ^= 1;
    durable::replace(&path, &bytes, 0o440).unwrap();
    let wrong = all_objects(&world);
    let lost: Vec<_> = before.iter().filter(|(path, bytes)| wrong.get(*path) != Some(bytes)).collect();
    assert_eq!(lost.len(), 1, "the others are read as before");
    // From another sink, or a copy of the vault: of no use until the pack is made again without the damaged one.
    std::fs::write(world.layout.source(&name()).join(lost[0].0), lost[0].1).unwrap();
    assert_eq!(all_objects(&world), wrong);
    assert_eq!(salvage(&world.desk(), &name()).unwrap().unwrap().len(), 1);
    assert_eq!(all_objects(&world), before);
    world.is_whole("healed");
    assert!(!world.prune(&options()).is_stopped());
}

#[test]
fn old_session_records_go_and_the_ledger_stays_right() {
    use shared::format::SessionRecord;
    let mut world = long(2);
    let record = |world: &World, started: i64| {
        let record = SessionRecord {
            source: world.card.source_id(),
            lineage: None,
            started,
            ended: started,
            archives: List::empty(),
            heads: List::empty(),
            objects: 1,
            bytes: 4096,
        };
        let record = sign(record, &world.sink).unwrap();
        world.put(Name::Record { started: started as u64, random: [7; 8] }, record.as_bytes());
    };
    record(&world, world.now);
    world.prune(&options());
    assert_eq!(loose(&world, Shelf::Records), 1);
    world.now += 40 * DAY;
    record(&world, world.now);
    let (root, key) = (world.layout.root().to_owned(), world.key.verify_key());
    ledger::rebuild(&root, &name(), &key).unwrap();
    world.prune(&options());
    assert_eq!(loose(&world, Shelf::Records), 1);
    let known = ledger::totals(&root, &name()).unwrap();
    assert_eq!(known, Some(ledger::rebuild(&root, &name(), &key).unwrap()));
}

#[test]
fn prune_makes_an_unreadable_pack_again_before_it_looks() {
    let world = long(12);
    world.prune(&options());
    let before = all_objects(&world);
    let path = world.layout.pack(&name(), Shelf::Receipts, 0);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 96 - 52;
    bytes[at] ^= 1;
    durable::replace(&path, &bytes, 0o440).unwrap();
    // What lies on another shelf is read all the same.
    let reader = store(&world);
    assert!(reader.get(&Name::Head(world.lineage, 1)).unwrap().is_some());
    assert!(reader.get(&Name::Receipt(world.lineage, 1)).unwrap_err().is_damage());
    let outcome = world.prune(&options());
    assert_eq!((outcome.salvaged.len(), outcome.damage().count(), outcome.is_stopped()), (1, 0, false));
    assert_eq!(all_objects(&world), before);
    world.is_whole("made again");
}

#[test]
fn a_signed_forgery_beside_a_packed_object_is_never_packed() {
    let mut world = long(12);
    world.prune(&options());
    let before = all_objects(&world);
    // Code in a committer has the sink's key: another receipt of a packed head, without its promise.
    let id = Name::Receipt(world.lineage, 2);
    let bytes = read_whole(&store(&world), &id, 1 << 20).unwrap().unwrap();
    let receipt = Signed::<Receipt>::parse(&bytes).unwrap().verify(&world.sink.verify_key()).unwrap();
    let forged = sign(Receipt { received: receipt.received + 1, ..(*receipt).clone() }, &world.sink).unwrap();
    let path = world.layout.object(&name(), &id);
    std::fs::write(&path, forged.as_bytes()).unwrap();
    for _ in 0..4 {
        more(&mut world, 6);
        let outcome = world.prune(&options());
        assert!(outcome.packed.objects > 0);
        assert_eq!(outcome.damage().count(), 1, "it is told each time: {:?}", outcome.damage().collect::<Vec<_>>());
    }
    let after = all_objects(&world);
    assert!(before.iter().all(|(path, bytes)| after.get(path) == Some(bytes)));
    assert_eq!(std::fs::read(&path).unwrap(), forged.as_bytes(), "it is evidence");
    ledger::rebuild(world.layout.root(), &name(), &world.key.verify_key()).unwrap();
}

#[test]
fn a_pack_with_a_damaged_object_stays_and_the_others_are_packed_again() {
    let mut world = long(12);
    world.prune(&options());
    let path = world.layout.pack(&name(), Shelf::Heads, 0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[200] ^= 1;
    durable::replace(&path, &bytes, 0o440).unwrap();
    let damaged = bytes.clone();
    for _ in 0..3 {
        more(&mut world, 6);
        // A lost head stops prune until somebody has looked.
        let accept = vec![Brake::Rollback];
        let outcome = world.prune(&Options { accept, reason: "one head is lost".into(), ..options() });
        assert!(!outcome.is_stopped(), "{:?}", outcome.alarms);
        assert!(outcome.packed.objects > 0);
    }
    assert_eq!(std::fs::read(&path).unwrap(), damaged);
    // Receipts and envelopes are one pack each, heads the damaged one and one of all others.
    let of = |shelf| store(&world).packs(shelf, true).unwrap().len();
    assert_eq!((of(Shelf::Receipts) <= 2, of(Shelf::Envelopes) <= 2, of(Shelf::Heads) <= 3), (true, true, true));
    assert_eq!(names(&store(&world), Shelf::Heads).unwrap().len(), 30);
}

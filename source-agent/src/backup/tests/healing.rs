//! Healing: what a sink says is damaged is made again, byte for byte, for that sink alone; and lies cost little.

use super::opened::{live_blocks, open_block};
use super::*;
use crate::index::uses::Spot;
use std::collections::BTreeSet;

type Blocks = BTreeSet<(u64, u32)>;

/// Files of every kind: small ones that share a block, one of many chunks, one whose chunks fill a list.
fn filled(sinks: u8) -> World {
    let world = World::new(sinks);
    world.write("small", b"hello");
    world.write("big", &noise(3 << 20, 1));
    let mut image = noise(10 << 20, 2);
    image[..4].copy_from_slice(b"QFI\xfb");
    world.write("disk.qcow2", &image);
    world.write("deep/er/and/deeper/file", &noise(100_000, 3));
    for at in 0..700 {
        world.write(&format!("many/{at:04}"), format!("file {at}").as_bytes());
    }
    age(&world);
    world.run_and_check();
    world
}

fn live(world: &World, sink: usize) -> Blocks {
    live_blocks(&world.sinks[sink].held(), &world.sinks[sink].newest().unwrap())
}

fn claim(world: &World, sink: usize, blocks: &Blocks, checked: i64, clock: i64) {
    world.sinks[sink].claim_damage(&blocks.iter().copied().collect::<Vec<_>>(), checked, clock);
}

/// Everything that each left block held is in the right ones, which are others.
fn assert_pairs_are_true(world: &World, sink: usize, held: &memory_sink::Held) {
    let now = world.sinks[sink].held();
    for (left, rights) in world.sinks[sink].pairs() {
        assert!(!rights.contains(&left));
        let mut found = std::collections::HashMap::new();
        rights.iter().for_each(|right| found.extend(open_block(&now, &world.identity, *right)));
        for (id, content) in open_block(held, &world.identity, left) {
            assert_eq!(found.get(&id), Some(&content), "a chunk of {left:?} is not in {rights:?}");
        }
    }
}

fn lefts(world: &World, sink: usize) -> Vec<(u64, u32)> {
    let mut lefts: Vec<_> = world.sinks[sink].pairs().into_iter().map(|(left, _)| left).collect();
    lefts.sort_unstable();
    lefts
}

#[test]
fn every_block_of_a_snapshot_is_made_again_and_the_tree_stays_as_it_is() {
    let world = filled(1);
    let all = live(&world, 0);
    let before = world.sinks[0].held();
    claim(&world, 0, &all, 10, 20);
    let report = world.run_and_check();
    let healing = report.remotes[0].healing.unwrap();
    assert_eq!((healing.healed, healing.lost, healing.later), (all.len() as u64, 0, 0));
    assert!(healing.bytes > 13 << 20);
    assert_eq!(lefts(&world, 0), all.iter().copied().collect::<Vec<_>>());
    assert_pairs_are_true(&world, 0, &before);
    assert_eq!(live(&world, 0), all, "the new snapshot refers to the same places");
    assert_eq!(report.sets[0].met.bytes_read.get(), 0, "and nothing was read for it");
}

#[test]
fn what_was_healed_is_not_sent_again_unless_a_later_look_found_it_damaged_again_and_not_for_ever() {
    let world = filled(1);
    let all = live(&world, 0);
    claim(&world, 0, &all, 10, 20);
    world.run_and_check();
    let sent = world.sinks[0].archives();
    // The same list, and one of a look before the healing.
    for checked in [10, 20] {
        claim(&world, 0, &all, checked, 30);
        let report = world.run_and_check();
        assert_eq!(report.remotes[0].healing.unwrap().healed, 0);
        assert_eq!(world.sinks[0].archives(), sent, "nothing was sent");
    }
    let mut healed = 1;
    for look in 1..6 {
        claim(&world, 0, &all, 1000 * look, 1000 * look);
        let report = world.run_and_check();
        healed += u32::from(report.remotes[0].healing.unwrap().healed > 0);
    }
    assert_eq!(healed, 3);
    // After that such blocks are referred to no more.
    assert!(live(&world, 0).is_disjoint(&all));
}

#[test]
fn the_other_remote_gets_nothing_of_what_one_lost() {
    let world = filled(2);
    let all = live(&world, 0);
    let before = world.sinks[0].held();
    let other = world.sinks[1].archives();
    claim(&world, 0, &all, 10, 20);
    let report = world.run_and_check();
    assert_eq!(report.remotes[0].healing.unwrap().healed, all.len() as u64);
    assert_eq!(report.remotes[1].healing, None);
    assert_eq!(world.sinks[1].archives(), other, "nothing was sent there");
    assert_pairs_are_true(&world, 0, &before);
    // Later runs refer to the places that both hold, and archives that heal are no news.
    claim(&world, 0, &Blocks::new(), 10, 20);
    world.write("small", b"changed");
    world.write("copy", &noise(3 << 20, 1));
    age(&world);
    let report = world.run_and_check();
    assert!(report.sets[0].met.bytes_new.get() < 1 << 20, "the copy is known at both");
}

#[test]
fn what_is_only_in_part_here_is_laid_anew_and_not_claimed_to_be_healed() {
    let world = World::new(2);
    world.write("gone", &noise(2000, 1));
    world.write("stays", &noise(2000, 2));
    world.run_and_check();
    let spot = |name: &[u8]| {
        let secret = SourceSecret::from_bytes(&[3; 32]);
        let (env, id) = (world.env(), secret.chunk_namer(&LINEAGE).name(name));
        let Spot { archive, block } = env.index.lookup().unwrap().find(&id).unwrap().unwrap();
        (archive, block)
    };
    let shared = spot(&noise(2000, 1));
    assert_eq!(shared, spot(&noise(2000, 2)), "both files lie in one block");
    std::fs::remove_file(world.data().join("gone")).unwrap();
    age(&world);
    claim(&world, 0, &Blocks::from([shared]), 10, 20);
    let report = world.run_and_check();
    let healing = report.remotes[0].healing.unwrap();
    assert_eq!((healing.healed, healing.lost), (0, 1));
    assert!(world.sinks[0].pairs().is_empty(), "a record would not be true");
    for sink in 0..2 {
        assert!(!live(&world, sink).contains(&shared), "the new snapshot stands on its own");
    }
    // The block stays damaged; nothing is sent for it again.
    let sent = world.sinks[0].archives();
    let report = world.run_and_check();
    assert_eq!(report.remotes[0].healing.unwrap().lost, 1);
    assert_eq!((world.sinks[0].archives(), report.sets[0].met.bytes_read.get()), (sent, 0));
}

#[test]
fn wholly_missing_archives_are_healed_too() {
    let world = filled(1);
    let all = live(&world, 0);
    let before = world.sinks[0].held();
    claim(&world, 0, &all, 10, 20);
    while !world.sinks[0].archives().is_empty() {
        world.sinks[0].lose_archive(0);
    }
    let report = world.run_and_check();
    let healing = report.remotes[0].healing.unwrap();
    assert_eq!((healing.healed, healing.lost), (all.len() as u64, 0));
    assert_eq!(lefts(&world, 0), all.iter().copied().collect::<Vec<_>>());
    assert_pairs_are_true(&world, 0, &before);
    assert!(live(&world, 0).is_disjoint(&all), "the new snapshot refers to what is there");
}

#[test]
fn a_list_of_nonsense_costs_nothing() {
    let world = filled(1);
    let all = live(&world, 0);
    let sent = world.sinks[0].archives();
    let (last, block) = *all.last().unwrap();
    claim(&world, 0, &Blocks::from([(last, block + 900), (last + 5, 0), (1 << 47, 4000)]), i64::MAX, i64::MIN);
    let report = world.run_and_check();
    assert_eq!(report.remotes[0].healing.unwrap().healed, 0);
    assert_eq!(world.sinks[0].archives(), sent);
    // A list that breaks the protocol is told, and the backup goes on.
    claim(&world, 0, &Blocks::from([(1, 0), (2, 0)]), 10, 20);
    world.sinks[0].disorder_damage();
    let report = world.run_and_check();
    assert_eq!((report.remotes[0].healing, report.sets[0].snapshots.len()), (None, 1));
    assert!(world.warnings.lock().iter().any(|line| line.contains("nothing is healed")), "{:?}", world.warnings.lock());
}

#[test]
fn a_lost_index_costs_no_more_than_metadata() {
    let world = filled(1);
    let all = live(&world, 0);
    let before = world.sinks[0].held();
    world.lose_cache();
    claim(&world, 0, &all, 10, 20);
    let report = world.run_and_check();
    let healing = report.remotes[0].healing.unwrap();
    assert!(healing.healed >= 4, "what held file data, at least: {healing:?}");
    assert_pairs_are_true(&world, 0, &before);
}

#[test]
fn a_sink_without_room_for_what_heals_still_gets_its_backup() {
    let world = filled(1);
    let all = live(&world, 0);
    let before = world.sinks[0].held();
    claim(&world, 0, &all, 10, 20);
    world.sinks[0].fill_up_after(2);
    let report = world.run_and_check();
    let (remote, healing) = (&report.remotes[0], report.remotes[0].healing.unwrap());
    assert!(remote.failure.is_none(), "{}", remote.failure.as_ref().unwrap());
    assert_eq!(report.sets[0].snapshots.len(), 1);
    assert_eq!(world.sinks[0].refused(), 1, "it is not asked again");
    assert!(world.warnings.lock().iter().any(|line| line.contains("nothing more is healed")));
    // What it took is recorded; the rest is referred to as before, as laying it anew would need more room yet.
    assert!(healing.healed > 0);
    assert_eq!((healing.healed + healing.later, healing.lost), (all.len() as u64, 0));
    assert_pairs_are_true(&world, 0, &before);
    let rights: BTreeSet<u64> =
        world.sinks[0].pairs().iter().flat_map(|(_, rights)| rights.iter().map(|right| right.0)).collect();
    let added = world.sinks[0].archives().into_iter().filter(|number| !before.archives.contains_key(number));
    assert_eq!(added.collect::<BTreeSet<_>>(), rights, "each archive that was taken has its record");
    assert_eq!(live(&world, 0), all);
    // With room again, the rest follows.
    world.sinks[0].fill_up_after(i64::MAX);
    let report = world.run_and_check();
    assert_eq!(report.remotes[0].healing.unwrap().healed, healing.later);
    assert_eq!(lefts(&world, 0), all.iter().copied().collect::<Vec<_>>());
}

#[test]
fn healing_leaves_the_last_of_the_quota_to_the_backup() {
    let world = filled(1);
    let all = live(&world, 0);
    let sent = world.sinks[0].archives();
    claim(&world, 0, &all, 10, 20);
    world.sinks[0].say_quota(100 << 20, 10 << 20);
    let healing = world.run_and_check().remotes[0].healing.unwrap();
    assert_eq!((healing.healed, healing.lost, healing.later), (0, 0, all.len() as u64));
    assert_eq!(world.sinks[0].archives(), sent, "nothing was sent");
    world.sinks[0].say_quota(100 << 20, 15 << 20);
    let healing = world.run_and_check().remotes[0].healing.unwrap();
    assert!(healing.healed > 0 && healing.later > 0 && healing.bytes <= 5 << 20, "{healing:?}");
    world.sinks[0].say_quota(100 << 20, 90 << 20);
    assert_eq!(world.run_and_check().remotes[0].healing.unwrap().later, 0);
    assert_eq!(lefts(&world, 0), all.iter().copied().collect::<Vec<_>>());
}

/// Half an hour goes by with each look at it.
struct Racing(std::sync::atomic::AtomicI64);
impl shared::sys::Clock for Racing {
    fn now(&self) -> i64 {
        self.0.fetch_add(1800, std::sync::atomic::Ordering::Relaxed)
    }
}

#[test]
fn a_remote_gets_no_more_time_than_its_share() {
    let world = filled(2);
    let all = live(&world, 0);
    let sent = world.sinks[0].archives();
    claim(&world, 0, &all, 10, 20);
    let mut env = world.env();
    env.clock = Arc::new(Racing(1_700_000_000.into()));
    let report = run(&mut env, &[world.set()]).unwrap();
    assert!(report.failure.is_none());
    assert_eq!(report.sets[0].snapshots.len(), 2, "both have their snapshot");
    let healing = report.remotes[0].healing.unwrap();
    assert_eq!((healing.healed, healing.lost, healing.later), (0, 0, all.len() as u64));
    assert_eq!(world.sinks[0].archives(), sent);
}

#[test]
fn files_beyond_what_is_read_for_healing_are_left_to_the_walk() {
    let world = filled(2);
    let all = live(&world, 0);
    let before = world.sinks[0].held();
    claim(&world, 0, &all, 10, 20);
    let mut env = world.env();
    env.heal_read_bytes = 8 << 20;
    let report = run(&mut env, &[world.set()]).unwrap();
    assert!(report.failure.is_none());
    // Read once, laid anew for both, and then it stands for what was damaged.
    let read = report.sets[0].met.bytes_read.get();
    assert!((10 << 20..14 << 20).contains(&read), "{read}");
    assert!(report.remotes[0].healing.unwrap().healed > 0);
    assert_pairs_are_true(&world, 0, &before);
    drop(env);
    claim(&world, 0, &Blocks::new(), 10, 20);
    world.run_and_check();
}

#[test]
fn what_is_made_again_says_its_true_lengths() {
    let world = filled(1);
    let all = live(&world, 0);
    let before = world.sinks[0].held();
    let index = rusqlite::Connection::open(world.dir.path().join("cache/index.sqlite")).unwrap();
    index.execute("UPDATE chunks SET bytes = bytes + 1", []).unwrap();
    drop(index);
    claim(&world, 0, &all, 10, 20);
    assert_eq!(world.run().remotes[0].healing.unwrap().healed, all.len() as u64);
    assert_pairs_are_true(&world, 0, &before);
}

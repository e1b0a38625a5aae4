//! Sinks that fall silent, lie, and list what is not there: they fail alone, and nothing of theirs stays.

use super::super::connect::{Me, connect};
use super::super::numbers::{self, Numbers};
use super::once::once;
use super::*;
use shared::id::Chain;

/// Without an end that the agent makes, this run would wait for a day.
#[test]
fn a_silent_sink_does_not_hold_up_the_end_of_a_run() {
    let world = World::new(1);
    world.sinks[0].fall_silent();
    let silent = world.sinks[0].fell_silent.clone();
    // Archives are on their way when the input breaks off.
    let set = once(&world, &noise(6 << 20, 60), move || {
        silent.recv().unwrap();
        Err(std::io::Error::other("broken"))
    });
    let report = run(&mut world.env(), &[set]).unwrap();
    assert_eq!(report.failure.unwrap().code, "stream");
}

#[test]
fn a_remote_that_goes_on_lacking_fails_alone() {
    let world = World::new(2);
    world.write("a", &noise(3 << 20, 42));
    world.run_and_check();
    age(&world);
    world.sinks[1].lie();
    let other = SetPlan { name: "other".into(), series: "other".into(), ..world.set() };
    let report = run(&mut world.env(), &[world.set(), other]).unwrap();
    assert!(report.failure.is_none(), "{}", report.failure.unwrap());
    let snapshots: Vec<Vec<usize>> =
        report.sets.iter().map(|set| set.snapshots.iter().map(|(at, _)| *at).collect()).collect();
    assert_eq!(snapshots, [[0], [0]], "both sets, on the honest sink");
    assert!(report.remotes[0].failure.is_none());
    assert_eq!(report.remotes[1].failure.as_ref().unwrap().code, "missing-archives");
}

#[test]
fn a_number_far_above_all_that_is_known_is_refused_and_harms_no_other_remote() {
    let world = World::new(2);
    world.write("a", &noise(100_000, 43));
    for claim in [(1 << 48) - 1, numbers::LEAP_MAX as i64 + 100] {
        world.sinks[1].claim_next_number(claim);
        let report = world.run_and_check();
        assert_eq!(report.sets[0].snapshots.len(), 1);
        let failure = report.remotes[1].failure.as_ref().unwrap();
        assert_eq!((failure.code, failure.exit), ("sink-lies", Exit::Tampered));
        assert_eq!(world.env().index.sink(&world.sinks[1].key.verify_key()).unwrap().next, 0, "nothing is remembered");
        assert!(Numbers::open(&world.dir.path().join("state"), 0).unwrap().next() < 100);
    }
    world.sinks[1].claim_next_number(-1);
    assert_eq!(world.run_and_check().sets[0].snapshots.len(), 2);
}

#[test]
fn the_whole_list_is_read_now_and_then() {
    let world = World::new(1);
    world.write("a", b"1");
    let mut asked = Vec::new();
    for run in 0..2 * connect::WHOLE_LIST_AFTER + 10 {
        let before = world.sinks[0].whole_lists();
        assert!(world.run().failure.is_none());
        if world.sinks[0].whole_lists() > before {
            asked.push(run);
        }
    }
    // In the run after so many that did without, each time.
    assert_eq!(asked, [connect::WHOLE_LIST_AFTER, 2 * connect::WHOLE_LIST_AFTER + 1]);
}

#[test]
fn what_refers_to_forgotten_numbers_is_not_believed() {
    let world = World::new(1);
    world.write("a", &noise(300_000, 44));
    let beside = world.dir.path().join("beside");
    std::fs::create_dir(&beside).unwrap();
    let first = SetPlan { series: "other".into(), input: Input::Paths(vec![beside.clone()]), ..world.set() };
    world.run_and_check();
    age(&world);
    world.run_and_check();
    // The sink, the index and the file of the numbers have forgotten; what is remembered of the set's files has not.
    while !world.sinks[0].archives().is_empty() {
        world.sinks[0].lose_archive(0);
    }
    std::fs::remove_file(world.dir.path().join("state/next-archive")).unwrap();
    for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        let _ = std::fs::remove_file(world.dir.path().join("cache").join(name));
    }
    // Another set takes the numbers first.
    std::fs::write(beside.join("b"), noise(300_000, 45)).unwrap();
    let report = run(&mut world.env(), &[first, world.set()]).unwrap();
    assert!(report.failure.is_none(), "{}", report.failure.unwrap());
    assert!(report.sets[1].met.bytes_read.get() >= 300_000);
    let found = open_newest(&world.sinks[0], &world.identity);
    assert!(found[&format!("{}/a", world.data().display())] == Found::File(noise(300_000, 44)));
}

#[test]
fn a_list_that_does_not_check_takes_nothing_from_other_remotes() {
    let world = World::new(2);
    world.write("a", &noise(3 << 20, 46));
    world.run_and_check();
    let env = world.env();
    let sinks = [0, 1].map(|at: usize| env.index.sink(&world.sinks[at].key.verify_key()).unwrap());
    let ids = || -> Vec<_> { (0..10).map(|number| env.index.archive_id(number).unwrap()).collect() };
    let (before, present) = (ids(), env.index.present(&sinks[0]).unwrap());
    assert_eq!(present, env.index.present(&sinks[1]).unwrap());
    assert!(present.len() > 3 && before.iter().flatten().count() == present.len());
    let index_secret = &env.secret.index_secret(&LINEAGE);
    let me = Me {
        source: SOURCE,
        lineage: LINEAGE,
        key: signing().verify_key(),
        index_secret,
        known: 100,
        now: 0,
        alone: true,
    };
    let told = Mutex::new(0);
    let tell = |_: &str| *told.lock() += 1;
    let connect_again = || connect(&*world.sinks[1], &me, &env.index, &env.state_dir, true, &tell);
    let held = world.sinks[1].copy();
    // Archives of its own making, and then none that fits the list.
    world.sinks[1].forge_all();
    let connected = connect_again().unwrap();
    assert!(connected.present.is_empty(), "the sink is not believed to hold what it does not show");
    assert!(*told.lock() > 3);
    let unharmed = || {
        assert_eq!((ids(), env.index.present(&sinks[0]).unwrap()), (before.clone(), present.clone()));
        assert_eq!(index::series::all(&env.cache_dir).len(), 1);
    };
    unharmed();
    world.sinks[1].set_back(held);
    world.sinks[1].misname_all();
    let failure = connect_again().err().unwrap();
    assert_eq!((failure.code, failure.exit), ("sink-lies", Exit::Tampered));
    unharmed();
}

#[test]
fn a_history_that_is_not_remembered_is_told_once() {
    let other = Lineage::new([77; 16]);
    let world = World::new(2);
    world.write("a", b"1");
    world.sinks[1].hold_lineage(other);
    world.run_and_check();
    let told = std::mem::take(&mut *world.warnings.lock());
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("sink1") && told[0].contains(&other.to_string()), "{}", told[0]);
    world.run_and_check();
    assert!(world.warnings.lock().is_empty());
    // A lineage that was this machine's own is no surprise.
    let world = World::new(1);
    world.write("a", b"1");
    world.sinks[0].hold_lineage(other);
    let chain = Chain { source: SOURCE, lineage: other, sink: world.sinks[0].key.verify_key() };
    crate::watch::ChainState::empty(&chain).save(&world.dir.path().join("state")).unwrap();
    world.run_and_check();
    assert!(world.warnings.lock().is_empty());
}

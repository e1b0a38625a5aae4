//! What a source can make a run read is bounded.

use super::*;

/// Work of one run, and its alarms.
fn judged(world: &World, work: u64) -> (Vec<Brake>, u64) {
    let desk = world.desk();
    let source = desk.source(&name()).unwrap().clone();
    let history = history::read(desk.view(), &source).unwrap();
    let weighed = weigh::weigh(&source, &history, None, brakes::WEIGHED_BEFORE, work).unwrap();
    let outcome = judge_within(&desk, &source, &Options::default(), false, work).unwrap();
    (outcome.alarms.iter().map(|alarm| alarm.brake).collect(), weighed.work)
}

/// Two snapshots without a page in common that come by turns, each of so many pages of one archive.
fn by_turns(pages: u64, snapshots: usize) -> (World, Vec<Made>) {
    let mut world = World::new("keep-last = 3\nmax-remove = \"100%\"");
    let made: Vec<Made> = (0..pages).map(|_| world.archive(1)).collect();
    let bodies = [1, 3].map(|live| world.body_of(&pages_of(&made, live)));
    for at in 0..snapshots {
        world.now += DAY;
        world.commit_body(bodies[at % 2], pages, 0, 0);
    }
    world.observe();
    (world, made)
}

fn pages_of(made: &[Made], live: u8) -> Vec<Vec<(Made, u8)>> {
    made.iter().map(|made| vec![(*made, live)]).collect()
}

#[test]
fn snapshots_that_come_by_turns_are_read_once() {
    let (world, _) = by_turns(12, 20);
    // One envelope, two bodies, and the pages of both; once more a body for the snapshot before.
    let (alarms, work) = judged(&world, 1000);
    assert_eq!(alarms, []);
    assert!((27..=30).contains(&work), "{work}");
}

#[test]
fn what_is_too_much_to_weigh_stops_the_run_until_it_is_accepted() {
    let (mut world, made) = by_turns(12, 4);
    assert_eq!(judged(&world, 20), (vec![Brake::Bulk], 20));
    let accept = |world: &World, brake: Brake| {
        let (what, why) = (Words::truncated(brake.as_str()), Words::truncated("looked"));
        let mut desk = world.desk();
        let now = desk.now.clone();
        desk.journal.append(&now, Event::Accepted(name(), what, why)).unwrap();
    };
    accept(&world, Brake::New);
    assert_eq!(judged(&world, 20).0, [Brake::Bulk], "each alarm is accepted by its own name");
    accept(&world, Brake::Bulk);
    assert_eq!(judged(&world, 20).0, []);
    // What comes later is not what was accepted.
    world.now += DAY;
    let body = world.body_of(&pages_of(&made, 7));
    world.commit_body(body, 12, 0, 0);
    world.observe();
    assert_eq!(judged(&world, 20).0, [Brake::Bulk]);
    assert_eq!(judged(&world, 1000).0, []);
}

#[test]
fn while_a_burst_stops_the_run_nothing_is_weighed() {
    let (mut world, _) = by_turns(4, 5);
    world.prune(&Options::default());
    // Everything new, forty times within a day.
    let fresh: Vec<(Made, u8)> = (0..4).map(|_| (world.archive(8), 255)).collect();
    for _ in 0..40 {
        world.commit(&fresh, 0, 0);
    }
    world.observe();
    assert_eq!(judged(&world, 1000).0, [Brake::Burst]);
    let desk = world.desk();
    let source = desk.source(&name()).unwrap().clone();
    let options = Options { accept: vec![Brake::Burst], ..Options::default() };
    let outcome = judge_within(&desk, &source, &options, false, 1000).unwrap();
    assert_eq!(outcome.alarms.iter().map(|alarm| alarm.brake).collect::<Vec<_>>(), [Brake::New]);
}

//! The brake `recipients` where series begin.

use super::*;

/// Commits a snapshot of this series, sealed to this recipient, a day later.
fn commit(world: &mut World, series: u8, recipient: u8) {
    world.now += DAY;
    world.series = Series::new([series; 16]);
    world.envelope = World::envelope(&world.card, world.lineage, &world.key, recipient);
    let session = SessionId::new(*world.envelope.digest().as_bytes());
    world.put(Name::Envelope(session), world.envelope.as_bytes());
    let made = world.archive(2);
    world.commit(&[(made, 0b11)], 0, 0);
    world.observe();
}

fn alarms(world: &World) -> Vec<Brake> {
    let outcome = world.prune(&Options::default());
    outcome.alarms.iter().map(|alarm| alarm.brake).collect()
}

fn world() -> World {
    let mut world = World::new("keep-last = 30");
    for _ in 0..3 {
        commit(&mut world, 1, 8);
    }
    assert_eq!(alarms(&world), []);
    world
}

#[test]
fn a_new_series_with_other_recipients_stops() {
    let mut world = world();
    commit(&mut world, 2, 99);
    let outcome = world.prune(&Options::default());
    assert_eq!(outcome.alarms.iter().map(|alarm| alarm.brake).collect::<Vec<_>>(), [Brake::Recipients]);
    assert!(outcome.alarms[0].message.contains("begins a set"), "{}", outcome.alarms[0].message);
    // Going on in it, or beginning another one, does not make it go away.
    commit(&mut world, 2, 99);
    commit(&mut world, 3, 99);
    assert_eq!(alarms(&world), [Brake::Recipients]);
    let accept = Options { accept: vec![Brake::Recipients], reason: "a new set".into(), ..Options::default() };
    assert!(!world.prune(&accept).is_stopped());
    assert_eq!(alarms(&world), []);
    commit(&mut world, 2, 99);
    assert_eq!(alarms(&world), [], "told once");
}

#[test]
fn sets_may_have_recipients_of_their_own() {
    let mut world = world();
    commit(&mut world, 2, 9);
    let accept = Options { accept: vec![Brake::Recipients], reason: "a new set".into(), ..Options::default() };
    assert!(!world.prune(&accept).is_stopped());
    for _ in 0..3 {
        commit(&mut world, 1, 8);
        commit(&mut world, 2, 9);
        assert_eq!(alarms(&world), []);
    }
    // A new one to those of any set; then one of them is changed.
    commit(&mut world, 3, 8);
    commit(&mut world, 4, 9);
    assert_eq!(alarms(&world), []);
    commit(&mut world, 3, 9);
    assert_eq!(alarms(&world), [Brake::Recipients]);
}

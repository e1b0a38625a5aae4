//! Round trips: over a long line each of them is a wait.

use super::{World, noise};

#[test]
fn data_goes_after_two_round_trips() {
    let world = World::new(1);
    let sink = &world.sinks[0];
    world.write("big", &noise(5 << 20, 1));
    sink.answer_late();
    world.run_and_check();
    // The greeting, and which lineages the sink has, which is asked at the first meeting alone. Nobody waits for the
    // envelope's answer.
    assert_eq!(sink.trips_before_data(), Some(2));
    world.write("more", &noise(3 << 20, 2));
    world.run_and_check();
    assert_eq!(sink.trips_before_data(), Some(1));
}

#[test]
fn an_unchanged_run_takes_three_round_trips() {
    let world = World::new(1);
    let sink = &world.sinks[0];
    world.write("big", &noise(5 << 20, 1));
    world.run_and_check();
    sink.answer_late();
    let archives = sink.archives();
    world.run_and_check();
    assert_eq!(sink.archives(), archives, "nothing new");
    // The greeting; envelope, pages and body; the head.
    assert_eq!((sink.trips(), sink.trips_before_data()), (3, None));
}

#[test]
fn a_lost_index_is_made_again_in_one_round_trip() {
    let world = World::new(1);
    let sink = &world.sinks[0];
    world.write("big", &noise(5 << 20, 1));
    world.run_and_check();
    assert!(sink.archives().len() > 2, "several archives");
    world.lose_cache();
    sink.answer_late();
    world.run_and_check();
    // The greeting, the list, all regions and tables; an archive of nodes at most, the body, the head.
    assert!(sink.trips_before_data().is_none_or(|trips| trips == 3));
    assert!((5..=6).contains(&sink.trips()), "{}", sink.trips());
}

#[test]
fn an_envelope_that_is_refused_is_why_the_run_failed() {
    let world = World::new(1);
    let sink = &world.sinks[0];
    world.write("big", &noise(5 << 20, 1));
    sink.refuse_envelopes();
    let report = world.run();
    // What was sent behind it was refused as well, for want of an envelope.
    let failure = report.remotes[0].failure.as_ref().unwrap();
    assert!(failure.message.contains("too many envelopes today"), "{failure}");
    assert!(sink.archives().is_empty() && sink.heads() == 0);
}

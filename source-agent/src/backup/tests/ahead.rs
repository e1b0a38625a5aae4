//! Sets begin before the remotes have answered, and nothing stays of that where one answers otherwise.

use super::super::numbers::Numbers;
use super::once::once;
use super::*;
use crate::client::Client;
use std::time::Instant;

/// A remote that is reached only when something was read.
struct Late {
    sink: Arc<MemorySink>,
    /// Written when the first number of an archive is taken.
    numbers: PathBuf,
    /// What it holds before.
    before: Option<String>,
    /// Nothing is waited for but a moment: whoever reads too early has time to.
    blind: bool,
}

impl Late {
    fn new(world: &World) -> Self {
        let numbers = world.dir.path().join("state/next-archive");
        Self {
            sink: Arc::clone(&world.sinks[0]),
            before: std::fs::read_to_string(&numbers).ok(),
            numbers,
            blind: false,
        }
    }
}

impl Dial for Late {
    fn name(&self) -> &str {
        self.sink.name()
    }
    fn is_required(&self) -> bool {
        true
    }
    fn dial(&self) -> Outcome<Client> {
        let begun = Instant::now();
        while !self.blind && std::fs::read_to_string(&self.numbers).ok() == self.before {
            if begun.elapsed() > Duration::from_secs(60) {
                return Err(Failure::new("refused", Exit::Unreachable, "nothing is read before the remote answers"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // Time to read everything, and to note it, which nobody may do yet.
        std::thread::sleep(Duration::from_millis(300));
        self.sink.dial()
    }
}

/// A number above all that were taken.
fn next_number(world: &World) -> u64 {
    Numbers::open(&world.dir.path().join("state"), 0).unwrap().next()
}

#[test]
fn files_are_read_before_the_remote_answers() {
    let world = World::new(1);
    world.write("a", &noise(100_000, 1));
    let mut env = world.env();
    env.remotes[0].dial = Arc::new(Late::new(&world));
    let report = run(&mut env, &[world.set()]).unwrap();
    assert!(report.failure.is_none(), "{}", report.failure.unwrap());
    assert!(report.remotes[0].failure.is_none());
    world.run_and_check();
}

/// What is there only once is left alone until the remote has answered.
#[test]
fn standard_input_waits_for_the_remote() {
    let world = World::new(1);
    world.sinks[0].set_down(true);
    let set = once(&world, &noise(100_000, 1), || Ok(0));
    let mut env = world.env();
    env.remotes[0].dial = Arc::new(Late { blind: true, ..Late::new(&world) });
    let report = run(&mut env, std::slice::from_ref(&set)).unwrap();
    assert_eq!(report.failure.unwrap().message, "down");
    assert!(!set.input.is_spent());
    world.sinks[0].set_down(false);
    assert!(run(&mut world.env(), std::slice::from_ref(&set)).unwrap().failure.is_none());
    assert!(set.input.is_spent());
}

#[test]
fn nothing_stays_of_what_was_read_for_a_remote_that_is_away() {
    let world = World::new(1);
    world.write("a", &noise(100_000, 1));
    world.run_and_check();
    let (next, archives) = (next_number(&world), world.sinks[0].archives());
    world.write("b", &noise(3 << 20, 2));
    world.sinks[0].set_down(true);
    for _ in 0..2 {
        let mut env = world.env();
        env.remotes[0].dial = Arc::new(Late::new(&world));
        let report = run(&mut env, &[world.set()]).unwrap();
        assert_eq!(report.failure.unwrap().message, "down", "files were read before");
        assert_eq!((report.sets.len(), next_number(&world)), (0, next), "no number was used up");
    }
    world.sinks[0].set_down(false);
    let report = world.run_and_check();
    assert_eq!(report.sets[0].met.files_new.get(), 1, "b is as new as before");
    assert_eq!(world.sinks[0].archives()[archives.len()], next);
}

/// Until it is back, a remote that is away must not make the others take again what it alone lacks.
#[test]
fn a_remote_that_is_away_costs_the_others_nothing() {
    let world = World::new(2);
    world.write("a", &noise(2 << 20, 3));
    world.sinks[1].set_down(true);
    let sent = |report: Report| report.sets[0].met.bytes_new.get();
    assert!(sent(world.run_and_check()) >= 2 << 20);
    assert_eq!(sent(world.run_and_check()), 0);
    world.sinks[1].set_down(false);
    assert!(sent(world.run_and_check()) >= 2 << 20, "for the one that lacked it");
}

/// Archives are numbered above what the sink holds, whoever pushed that.
#[test]
fn numbers_that_a_sink_has_and_this_machine_forgot_are_not_given_again() {
    let world = World::new(1);
    world.write("a", &noise(100_000, 4));
    world.run_and_check();
    let held = world.sinks[0].archives();
    world.lose_cache();
    std::fs::remove_file(world.dir.path().join("state/next-archive")).unwrap();
    world.write("b", &noise(100_000, 5));
    let report = world.run_and_check();
    let more = world.sinks[0].archives();
    assert_eq!(more[..held.len()], held[..]);
    assert!(more.len() > held.len());
    assert!(report.sets[0].met.bytes_new.get() < 150_000, "a was learned again from the sink");
}

/// What one remote lacks is laid anew for all: once that may be a disk that failed, twice the others are spared.
#[test]
fn a_remote_that_denies_again_what_it_acknowledged_fails_alone() {
    let world = World::new(2);
    world.write("a", &noise(2 << 20, 6));
    world.run_and_check();
    let lose_all = || (0..world.sinks[1].archives().len()).for_each(|_| world.sinks[1].lose_archive(0));
    lose_all();
    world.run_and_check();
    let warned = |what: &str| world.warnings.lock().iter().any(|line| line.contains(what));
    assert!(warned("archives that it acknowledged and that the last snapshot needs are not there any more"));
    assert!(!world.sinks[1].archives().is_empty(), "sent again");
    lose_all();
    let held = world.sinks[0].archives();
    for _ in 0..2 {
        let report = world.run_and_check();
        assert_eq!(report.remotes[1].failure.as_ref().unwrap().code, "sink-denies");
        assert_eq!(report.sets[0].snapshots.len(), 1, "the other remote has its snapshot");
    }
    assert_eq!(world.sinks[0].archives(), held, "and took nothing twice");
    let mut env = world.env();
    env.remotes.remove(0);
    assert!(run(&mut env, &[world.set()]).unwrap().failure.is_none());
    assert!(!world.sinks[1].archives().is_empty(), "alone it is sent what it lacks");
    assert_eq!(world.run_and_check().sets[0].snapshots.len(), 2, "and it is back");
    assert_eq!(world.run_and_check().sets[0].met.bytes_new.get(), 0);
}

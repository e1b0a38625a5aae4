//! Killed or failing at every step: after each, the vault is clean, the next run succeeds, a restore is exact.

use std::path::PathBuf;
use tests::agent::Usual;
use tests::trace::{Bench, Fault, calls, happened};
use tests::{Agent, Chance, tree};

/// A source whose agent and sink can be given faults.
struct Scene {
    usual: Usual,
    bench: Bench,
    agent: Agent,
    chance: Chance,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let usual = Usual::new();
        // What the next run makes of it is judged, not the patience of this one.
        usual.source.attempts(1);
        let bench = Bench::new(&usual.place.dir("bench"));
        let agent = usual.source.clone().with_program(bench.agent.clone());
        let mut chance = Chance::new(seed);
        tree::sample(&usual.data, &mut chance, 12);
        let mut scene = Self { usual, bench, agent, chance };
        scene.change();
        scene
    }

    /// Something new for the next run, enough for more than one archive of more than one block.
    fn change(&mut self) {
        let path = self.usual.data.join(format!("new-{}", self.chance.below(6)));
        let count = 100_000 + self.chance.below(2_500_000) as usize;
        tree::write(&path, &self.chance.bytes(count));
    }

    fn environment(&self, run: tests::Run) -> tests::Run {
        run.env("HOME", &self.agent.dir).env("PATH", self.bench.path())
    }

    fn backup(&self) -> tests::Done {
        self.environment(self.agent.backup(&self.usual.data)).done()
    }

    fn log(&self) -> PathBuf {
        self.bench.log.clone()
    }

    /// The judge: verify is clean, the next run works, the newest snapshot is exact.
    #[track_caller]
    fn judge(&mut self, fault: &Fault, restore: bool) {
        let done = self.usual.vault.verify();
        assert_eq!(done.exit(), Some(0), "after {fault:?} the vault is not clean\n{}", done.tell());
        let done = self.backup();
        assert_eq!(done.exit(), Some(0), "after {fault:?} the next run failed\n{}", done.tell());
        if restore {
            let target = self.usual.place.join("restored");
            if target.exists() {
                std::fs::remove_dir_all(&target).unwrap();
            }
            self.usual.must_restore("restored");
        }
    }

    /// Runs with this fault in the agent. Did it happen?
    fn fault_in_agent(&mut self, fault: &Fault) -> bool {
        self.change();
        // Its own program only: the sink below it is started without the tracer's filter but traced as its child,
        // so calls of both are counted; which of them dies first is as good a place as any.
        let mut command = self.agent.command();
        command.push("backup".into());
        command.push(self.usual.data.clone().into());
        let _ = std::fs::remove_file(self.log());
        let done = self.environment(fault.run(&command, &self.log())).done();
        let happened = happened(&self.log());
        if !happened {
            assert_eq!(done.exit(), Some(0), "without a fault\n{}", done.tell());
        }
        happened
    }

    /// Runs with this fault in the sink's processes.
    fn fault_in_sink(&mut self, fault: &Fault) -> bool {
        self.change();
        self.bench.fault_in_sink(fault);
        let done = self.backup();
        self.bench.no_fault();
        let happened = happened(&self.log());
        if happened {
            // The agent may come through by itself (a retry), or say that it failed; it never dies of it.
            assert!(done.exit().is_some(), "{fault:?}\n{}", done.tell());
        } else {
            assert_eq!(done.exit(), Some(0), "without a fault\n{}", done.tell());
        }
        happened
    }

    /// How often a thread of the sink makes this call in a session like those that follow.
    fn calls_of_sink(&mut self, call: &'static str) -> u32 {
        self.change();
        let far = Fault { call, what: "error=EIO", when: 60_000 };
        self.bench.fault_in_sink(&far);
        let done = self.backup();
        self.bench.no_fault();
        assert_eq!(done.exit(), Some(0), "{}", done.tell());
        calls(&self.log(), call)
    }

    fn calls_of_agent(&mut self, call: &'static str) -> u32 {
        self.fault_in_agent(&Fault { call, what: "error=EIO", when: 60_000 });
        calls(&self.log(), call)
    }
}

/// Up to `count` places among `last`: all of them if they are few, else the first, the last and some between.
fn places(last: u32, count: u32) -> Vec<u32> {
    if last <= count {
        return (1..=last).collect();
    }
    let mut places: Vec<u32> = (0..count).map(|at| 1 + at * (last - 1) / (count - 1)).collect();
    places.dedup();
    places
}

/// Every place of these calls in the sink, with this fault.
fn through_the_sink(seed: u64, calls: &[&'static str], what: &'static str, count: u32) {
    let mut scene = Scene::new(seed);
    assert_eq!(scene.backup().exit(), Some(0));
    let mut happened = 0;
    for call in calls {
        let last = scene.calls_of_sink(call);
        for when in places(last, count) {
            let fault = Fault { call, what, when };
            happened += u32::from(scene.fault_in_sink(&fault));
            scene.judge(&fault, when % 3 == 0);
        }
    }
    assert!(happened > 0, "no fault ever happened at {calls:?}");
    scene.usual.must_restore("last");
}

fn through_the_agent(seed: u64, calls: &[&'static str], what: &'static str, count: u32) {
    let mut scene = Scene::new(seed);
    assert_eq!(scene.backup().exit(), Some(0));
    let mut happened = 0;
    for call in calls {
        let last = scene.calls_of_agent(call);
        for when in places(last, count) {
            let fault = Fault { call, what, when };
            happened += u32::from(scene.fault_in_agent(&fault));
            scene.judge(&fault, when % 3 == 0);
        }
    }
    assert!(happened > 0, "no fault ever happened at {calls:?}");
    scene.usual.must_restore("last");
}

#[test]
fn committer_killed_at_each_fsync() {
    through_the_sink(1, &["fsync"], "signal=KILL", 20);
}

#[test]
fn committer_killed_at_each_link() {
    through_the_sink(2, &["linkat"], "signal=KILL", 14);
}

#[test]
fn committer_killed_while_writing() {
    through_the_sink(3, &["openat", "write", "pwrite64"], "signal=KILL", 6);
}

#[test]
fn receiver_killed_while_talking() {
    through_the_sink(4, &["read", "recvmsg", "recvfrom", "sendmsg", "sendto"], "signal=KILL", 6);
}

#[test]
fn each_fsync_fails_in_the_sink() {
    through_the_sink(5, &["fsync"], "error=EIO", 14);
}

#[test]
fn each_link_fails_in_the_sink() {
    through_the_sink(6, &["linkat"], "error=ENOSPC", 10);
}

#[test]
fn writes_fail_in_the_sink() {
    through_the_sink(7, &["write", "pwrite64"], "error=ENOSPC", 8);
}

#[test]
fn agent_killed_at_each_durable_step() {
    through_the_agent(8, &["fsync", "fdatasync", "rename,renameat,renameat2"], "signal=KILL", 12);
}

#[test]
fn agent_killed_while_working() {
    through_the_agent(9, &["write", "read", "pread64"], "signal=KILL", 6);
}

#[test]
fn durable_steps_fail_in_the_agent() {
    through_the_agent(10, &["fsync", "rename,renameat,renameat2", "linkat"], "error=EIO", 6);
}

#[test]
fn agent_killed_at_random_moments() {
    let mut scene = Scene::new(11);
    for round in 0..12 {
        scene.change();
        let mut running = scene.environment(scene.agent.backup(&scene.usual.data)).begin();
        std::thread::sleep(std::time::Duration::from_millis(20 + scene.chance.below(600)));
        running.kill();
        running.end();
        let fault = Fault { call: "any", what: "kill -9", when: round };
        scene.judge(&fault, round % 4 == 3);
    }
}

#[test]
fn interrupted_by_hand_says_so() {
    let mut scene = Scene::new(12);
    tree::write(&scene.usual.data.join("large"), &Chance::new(1).bytes(60 << 20));
    for (signal, code) in [(rustix::process::Signal::INT, 130), (rustix::process::Signal::TERM, 143)] {
        scene.change();
        let running = scene.environment(scene.agent.backup(&scene.usual.data)).begin();
        std::thread::sleep(std::time::Duration::from_millis(400));
        running.signal(signal);
        let done = running.end();
        // Quick machines may be through already.
        assert!(matches!(done.exit(), Some(c) if c == code || c == 0), "expected {code}\n{}", done.tell());
        let fault = Fault { call: "any", what: "signal", when: code as u32 };
        scene.judge(&fault, true);
    }
}

#[test]
fn a_slow_line_does_not_hold_up_the_end() {
    let mut scene = Scene::new(13);
    scene.backup();
    let archives = |scene: &Scene| scene.usual.vault.files("web1", "archives").len();
    let before = archives(&scene);
    tree::write(&scene.usual.data.join("large"), &Chance::new(1).bytes(24 << 20));
    let slow = scene.agent.backup(&scene.usual.data).args(["--limit-upload", "512KiB"]);
    let running = scene.environment(slow).begin();
    std::thread::sleep(std::time::Duration::from_secs(2));
    running.signal(rustix::process::Signal::TERM);
    running.end().code(143);
    assert_eq!(archives(&scene), before, "it sent the rest first");
    scene.judge(&Fault { call: "any", what: "signal", when: 143 }, true);
}

#[test]
fn a_silent_command_does_not_hold_up_the_end() {
    let usual = Usual::new();
    usual.source.must_back_up(&usual.data);
    let before = usual.reader.snapshot_ids();
    for input in [&["--stdin-from-command", "all.sql", "--", "sleep", "1000"][..], &["--stdin", "all.sql"]] {
        // Its standard input stays open.
        let mut child = usual.source.run().arg("backup").args(input).start();
        std::thread::sleep(std::time::Duration::from_secs(2));
        let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(tests::run::wait_for(&mut child, "backup").code(), Some(143), "{input:?}");
    }
    assert_eq!(usual.reader.snapshot_ids(), before);
}

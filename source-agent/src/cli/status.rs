//! `source-agent status`: when each remote was last backed up to, and when a restore was last tested, from this
//! machine's own memory.

use crate::cli::backup::times::{Times, series_name};
use crate::cli::{Context, print_json, print_line};
use crate::config::{self, Age, Loaded, Remote};
use crate::keys::files::read_text;
use crate::keys::{self, SourceKeys};
use crate::progress::{notice, warn};
use crate::report::{Exit, Failure, Outcome};
use crate::watch;
use shared::id::Chain;
use shared::sys::{Clock, SystemClock, durable};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// How far a snapshot may lie in the future before the clock is called wrong.
const FUTURE_SECONDS: i64 = 300;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
No remote is called: this tells what they acknowledged. Every configured set
counts: its last complete snapshot at each required remote must be within
--max-age. Exit code 0: fresh; 1: too old; 3: unknown. A machine that only
reads has restore tests to tell of (check --restore-test).

Examples:
  source-agent status --max-age 36h
  source-agent status --prometheus /var/lib/node-exporter/source-agent.prom")]
pub struct StatusArgs {
    /// Fail when the last snapshot of a remote, or of a set there, is older [default: max-age of the configuration]
    #[arg(long, value_name = "AGE")]
    pub max_age: Option<Age>,
    /// Write metrics to FILE too, for the textfile collector
    #[arg(long, value_name = "FILE.prom")]
    pub prometheus: Option<PathBuf>,
}

/// How a remote stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    Old,
    Unknown,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Old => "too old",
            Self::Unknown => "unknown",
        }
    }
    const fn exit(self) -> Exit {
        match self {
            Self::Fresh => Exit::Done,
            Self::Old => Exit::Failed,
            // By the command line's table, 3 here.
            Self::Unknown => Exit::Incomplete,
        }
    }
}

/// What is known of one remote.
#[derive(Debug)]
struct Line {
    remote: String,
    state: State,
    snapshot: Option<watch::Snapshot>,
    /// Seconds since the snapshot, by this machine's clock.
    age: Option<i64>,
    pending: bool,
}

/// A configured set at a required remote.
#[derive(Debug)]
struct SetLine {
    set: String,
    remote: String,
    state: State,
    /// When its last complete snapshot was noted, and how long ago that is.
    saved: Option<(i64, i64)>,
}

pub fn run(args: &StatusArgs, context: &Context) -> Outcome<Exit> {
    let loaded = config::load(context)?;
    let now = SystemClock.now();
    let reads_only = loaded.config.source.recipients.is_empty();
    let (lines, sets) = if reads_only { Default::default() } else { lines(args, &loaded, now, context)? };
    let test = RestoreTest::read(&loaded.paths.state_dir, now).unwrap_or_else(|failure| {
        warn(context, &failure.to_string());
        None
    });
    for line in &lines {
        line.print(context)?;
    }
    for line in &sets {
        line.print(context)?;
    }
    if let Some(test) = &test {
        test.print(context)?;
    }
    if let Some(line) = RestoreTest::warning(test.as_ref(), loaded.config.check.restore_test_every, reads_only) {
        warn(context, &line);
    }
    if let Some(path) = &args.prometheus {
        write_metrics(path, &metrics(&lines, &sets, test.as_ref()))?;
    }
    if reads_only {
        notice(context, "this machine reads and does not back up: source-agent snapshots shows what the remotes hold");
        return Ok(RestoreTest::state(test.as_ref(), loaded.config.check.restore_test_every).exit());
    }
    if lines.is_empty() {
        warn(context, "no remote is configured: source-agent remote add NAME SINK-CARD");
    }
    Ok(worst(lines.iter().map(|line| line.state).chain(sets.iter().map(|set| set.state))))
}

/// How each remote stands, and each set at those that are required.
fn lines(args: &StatusArgs, loaded: &Loaded, now: i64, context: &Context) -> Outcome<(Vec<Line>, Vec<SetLine>)> {
    let remotes = loaded.remotes(context)?;
    let limit = args.max_age.or(loaded.config.check.max_age).map(seconds);
    let keys = keys::load_source(loaded)?;
    let times = Times::read(&loaded.paths.state_dir).unwrap_or_else(|failure| {
        warn(context, &failure.to_string());
        Times::default()
    });
    let mut sets = Vec::new();
    for set in &loaded.config.backup.sets {
        let series = keys.secret.series(&series_name(set));
        let limit = limit.map(|limit| limit_of(limit, set.min_interval.or(loaded.config.backup.min_interval)));
        for remote in remotes.iter().filter(|remote| remote.required) {
            let saved = remote.sink.as_ref().and_then(|sink| times.get(&series, sink));
            let saved = saved.map(|time| (time, now.saturating_sub(time)));
            let state = judge(saved.map(|(_, age)| age), limit);
            sets.push(SetLine { set: set.name.clone(), remote: remote.name.clone(), state, saved });
        }
    }
    Ok((remotes.iter().map(|remote| line(loaded, &keys, remote, limit, now, context)).collect(), sets))
}

/// A set that is meant to run more seldom than the limit is due that much later.
fn limit_of(limit: i64, interval: Option<Age>) -> i64 {
    match interval.map(seconds) {
        Some(interval) if interval > limit => limit.saturating_add(interval),
        _ => limit,
    }
}

fn seconds(age: Age) -> i64 {
    i64::try_from(age.duration().as_secs()).unwrap_or(i64::MAX)
}

/// The last `check --restore-test` that found everything whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RestoreTest {
    time: i64,
    age: i64,
}

impl RestoreTest {
    /// What `check` noted.
    fn read(state_dir: &Path, now: i64) -> Outcome<Option<Self>> {
        let path = state_dir.join("restore-test");
        let text = match read_text(&path, 64) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Failure::io("read", &path, &e)),
        };
        let wrong = |e| Failure::new("state", Exit::Failed, format!("{} does not hold a time: {e}", path.display()));
        let time: i64 = text.trim().parse().map_err(wrong)?;
        Ok(Some(Self { time, age: now.saturating_sub(time) }))
    }

    /// How a machine stands that only reads: by its restore tests.
    fn state(test: Option<&Self>, every: Option<Age>) -> State {
        judge(test.map(|test| test.age), every.map(seconds))
    }

    /// What is wrong with it. A source tests no restores, so one that never did is no finding there.
    fn warning(test: Option<&Self>, every: Option<Age>, reads_only: bool) -> Option<String> {
        const HOW: &str = "source-agent check --restore-test 20";
        match (test, every) {
            (None, _) if reads_only => Some(format!("no restore was tested here yet: {HOW}")),
            (Some(test), _) if test.age < -FUTURE_SECONDS => {
                Some(format!("the last restore test lies in the future; is the clock right? then: {HOW}"))
            }
            (Some(test), Some(every)) if test.age > seconds(every) => Some(format!(
                "the last restore test was {}, which is longer than restore-test-every: {HOW}",
                ago(test.age)
            )),
            _ => None,
        }
    }

    fn print(&self, context: &Context) -> Outcome<()> {
        if context.json {
            return print_json(&serde_json::json!({
                "message_type": "restore_test",
                "time": rfc3339(self.time),
                "age_seconds": self.age,
            }));
        }
        print_line(&format!("restore test  {} ({})", local(self.time), ago(self.age)))
    }
}

fn worst(states: impl Iterator<Item = State>) -> Exit {
    let states: Vec<State> = states.collect();
    if states.contains(&State::Old) {
        Exit::Failed
    } else if states.is_empty() || states.contains(&State::Unknown) {
        Exit::Incomplete
    } else {
        Exit::Done
    }
}

fn line(loaded: &Loaded, keys: &SourceKeys, remote: &Remote, limit: Option<i64>, now: i64, context: &Context) -> Line {
    let remembered = remote.sink_key().and_then(|sink| {
        let chain = Chain { source: keys.id, lineage: keys.lineage, sink };
        watch::load(&loaded.paths.state_dir, &chain)
    });
    let state = remembered.unwrap_or_else(|failure| {
        warn(context, &failure.to_string());
        // Nothing that can be relied on is known: shown as unknown.
        watch::ChainState::empty(&Chain { source: keys.id, lineage: keys.lineage, sink: keys.signing.verify_key() })
    });
    let age = state.snapshot.as_ref().map(|snapshot| now.saturating_sub(snapshot.created));
    let pending = state.pending.is_some();
    Line { remote: remote.name.clone(), state: judge(age, limit), snapshot: state.snapshot, age, pending }
}

/// A snapshot from the future says nothing: a clock was wrong then or is now.
fn judge(age: Option<i64>, limit: Option<i64>) -> State {
    match (age, limit) {
        (None, _) => State::Unknown,
        (Some(age), _) if age < -FUTURE_SECONDS => State::Unknown,
        (Some(age), Some(limit)) if age > limit => State::Old,
        _ => State::Fresh,
    }
}

fn rfc3339(seconds: i64) -> Option<String> {
    jiff::Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}

/// Local time with its offset.
fn local(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(
        |_| seconds.to_string(),
        |time| time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M %:z").to_string(),
    )
}

fn ago(seconds: i64) -> String {
    match seconds {
        ..0 => "in the future".to_owned(),
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

impl Line {
    fn print(&self, context: &Context) -> Outcome<()> {
        if context.json {
            return print_json(&self.json());
        }
        let pending = if self.pending { "   one snapshot waits for its receipt" } else { "" };
        let text = match (&self.snapshot, self.age) {
            (Some(snapshot), Some(age)) => {
                let incomplete = if snapshot.incomplete { "   incomplete" } else { "" };
                let (id, time, ago) = (snapshot.head.short(), local(snapshot.created), ago(age));
                format!(
                    "{}  {}   snapshot {id}   {time} ({ago}){incomplete}{pending}",
                    self.remote,
                    self.state.as_str()
                )
            }
            _ => format!("{}  {}   no snapshot was acknowledged yet{pending}", self.remote, self.state.as_str()),
        };
        print_line(&text)
    }

    fn json(&self) -> serde_json::Value {
        let snapshot = self.snapshot.as_ref();
        serde_json::json!({
            "message_type": "remote_status",
            "remote": self.remote,
            "state": self.state.as_str(),
            "snapshot_id": snapshot.map(|snapshot| snapshot.head.to_string()),
            "short_id": snapshot.map(|snapshot| snapshot.head.short()),
            "time": snapshot.and_then(|snapshot| rfc3339(snapshot.created)),
            "received": snapshot.and_then(|snapshot| rfc3339(snapshot.received)),
            "age_seconds": self.age,
            "incomplete": snapshot.map(|snapshot| snapshot.incomplete),
            "pending": self.pending,
        })
    }
}

impl SetLine {
    /// For people a set is worth a line where something is wrong with it.
    fn print(&self, context: &Context) -> Outcome<()> {
        let Self { set, remote, state, saved } = self;
        if context.json {
            return print_json(&serde_json::json!({
                "message_type": "set_status",
                "set": set,
                "remote": remote,
                "state": state.as_str(),
                "time": saved.and_then(|(time, _)| rfc3339(time)),
                "age_seconds": saved.map(|(_, age)| age),
            }));
        }
        let what = match saved {
            _ if *state == State::Fresh => return Ok(()),
            Some((time, age)) => format!("last complete snapshot   {} ({})", local(*time), ago(*age)),
            None => "no complete snapshot is known yet".to_owned(),
        };
        print_line(&format!("{remote}  {}   set {set}: {what}", state.as_str()))
    }
}

/// The metrics' text. Names of remotes and sets have no character that needs an escape (the configuration's rule).
fn metrics(lines: &[Line], sets: &[SetLine], test: Option<&RestoreTest>) -> String {
    let mut text = String::new();
    let mut family = |name: &str, help: &str, value: &dyn Fn(&Line) -> Option<i64>| {
        // Writing to a string cannot fail.
        let _ = write!(text, "# HELP source_agent_{name} {help}\n# TYPE source_agent_{name} gauge\n");
        for line in lines {
            if let Some(value) = value(line) {
                let _ = writeln!(text, "source_agent_{name}{{remote=\"{}\"}} {value}", line.remote);
            }
        }
    };
    family("last_success_timestamp_seconds", "Time of the last snapshot that the remote acknowledged.", &|line| {
        line.snapshot.as_ref().map(|snapshot| snapshot.created)
    });
    family("remote_fresh", "1 if the last snapshot is within max-age, 0 if not or if there is none.", &|line| {
        Some(i64::from(line.state == State::Fresh))
    });
    family("remote_pending", "1 if a snapshot waits for its receipt.", &|line| Some(i64::from(line.pending)));
    if !sets.is_empty() {
        let name = "source_agent_set_last_success_timestamp_seconds";
        let help =
            "Time of the last complete snapshot of a set that a required remote acknowledged; 0 if there is none.";
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
        for SetLine { set, remote, saved, .. } in sets {
            let time = saved.map_or(0, |(time, _)| time);
            let _ = writeln!(text, "{name}{{set=\"{set}\",remote=\"{remote}\"}} {time}");
        }
    }
    if let Some(test) = test {
        let name = "source_agent_last_restore_test_timestamp_seconds";
        let help = "Time of the last restore test that found everything whole.";
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {}\n", test.time);
    }
    let version = env!("CARGO_PKG_VERSION");
    let _ = write!(
        text,
        "# HELP source_agent_build_info The program's version.\n# TYPE source_agent_build_info gauge\nsource_agent_build_info{{version=\"{version}\"}} 1\n"
    );
    text
}

/// The collector reads whole files only: written beside and renamed.
fn write_metrics(path: &Path, text: &str) -> Outcome<()> {
    durable::replace(path, text.as_bytes(), durable::PUBLIC).map_err(|e| {
        Failure::io("write the metrics", path, &e).help("its directory must exist and be writable for this user")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::id::Digest;

    fn made(state: State, created: Option<i64>) -> Line {
        let snapshot = created.map(|created| watch::Snapshot {
            sequence: 0,
            head: Digest::of(b"h"),
            created,
            received: created,
            incomplete: false,
        });
        Line { remote: "offsite".into(), state, snapshot, age: created.map(|created| 1000 - created), pending: false }
    }

    #[test]
    fn ages_are_judged_against_the_limit() {
        assert_eq!(judge(None, Some(10)), State::Unknown);
        assert_eq!(judge(Some(10), Some(10)), State::Fresh);
        assert_eq!(judge(Some(11), Some(10)), State::Old);
        assert_eq!(judge(Some(i64::MAX), None), State::Fresh);
        assert_eq!(judge(Some(-301), Some(10)), State::Unknown);
        assert_eq!(judge(Some(-299), Some(10)), State::Fresh);
    }

    #[test]
    fn the_exit_code_is_the_worst() {
        use State::{Fresh, Old, Unknown};
        let worst = |states: &[State]| worst(states.iter().copied());
        assert_eq!(worst(&[Fresh]), Exit::Done);
        assert_eq!(worst(&[Fresh, Unknown]), Exit::Incomplete);
        assert_eq!(worst(&[Unknown, Old, Fresh]), Exit::Failed);
        assert_eq!(worst(&[]), Exit::Incomplete);
    }

    #[test]
    fn a_set_that_runs_seldom_is_due_later() {
        assert_eq!(limit_of(36, None), 36);
        assert_eq!(limit_of(36, Some(Age::from_secs(20))), 36);
        assert_eq!(limit_of(36, Some(Age::from_secs(100))), 136);
    }

    #[test]
    fn metrics_leave_out_what_is_not_known() {
        let set = SetLine { set: "system".into(), remote: "offsite".into(), state: State::Unknown, saved: None };
        let text = metrics(&[made(State::Fresh, Some(990))], &[set], Some(&RestoreTest { time: 77, age: 0 }));
        assert!(text.contains("source_agent_last_success_timestamp_seconds{remote=\"offsite\"} 990\n"), "{text}");
        assert!(text.contains("source_agent_remote_fresh{remote=\"offsite\"} 1\n"));
        let none = "source_agent_set_last_success_timestamp_seconds{set=\"system\",remote=\"offsite\"} 0\n";
        assert!(text.contains(none), "{text}");
        assert!(text.contains("source_agent_last_restore_test_timestamp_seconds 77\n"), "{text}");
        let text = metrics(&[made(State::Unknown, None)], &[], None);
        assert!(
            !text.contains("timestamp_seconds{") && text.contains("source_agent_remote_fresh{remote=\"offsite\"} 0\n")
        );
        assert!(text.ends_with('\n') && !text.contains("restore_test"));
    }

    #[test]
    fn restore_tests_are_read_and_judged() {
        let dir = tempfile::tempdir().unwrap();
        let read = || RestoreTest::read(dir.path(), 1000);
        assert_eq!(read().unwrap(), None);
        crate::restore::check::note_restore_test(dir.path(), 400).unwrap();
        assert_eq!(read().unwrap(), Some(RestoreTest { time: 400, age: 600 }));
        std::fs::write(dir.path().join("restore-test"), "long ago\n").unwrap();
        assert!(read().is_err());
        let warns = |test: Option<RestoreTest>, every, reads_only| {
            RestoreTest::warning(test.as_ref(), every, reads_only).is_some()
        };
        let at = |age| Some(RestoreTest { time: 0, age });
        let every = Some(Age::from_secs(600));
        assert!(!warns(None, every, false) && warns(None, None, true));
        assert!(!warns(at(600), every, true) && warns(at(601), every, false) && !warns(at(601), None, true));
        assert!(warns(at(-301), None, false) && !warns(at(-299), every, true));
        let exit = |test: Option<RestoreTest>, every| RestoreTest::state(test.as_ref(), every).exit();
        assert_eq!((exit(at(600), every), exit(at(601), every)), (Exit::Done, Exit::Failed));
        assert_eq!((exit(None, None), exit(at(-301), None)), (Exit::Incomplete, Exit::Incomplete));
    }
}

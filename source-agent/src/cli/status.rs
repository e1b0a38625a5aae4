//! `source-agent status`: when each remote was last backed up to, from this machine's own memory.

use crate::cli::{Context, print_json, print_line};
use crate::config::{self, Age, Loaded, Remote};
use crate::keys::{self, SourceKeys};
use crate::progress::warn;
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
No remote is called: this tells what they acknowledged. Exit code 0: fresh; 1: too old; 3: unknown.

Examples:
  source-agent status --max-age 36h
  source-agent status --prometheus /var/lib/prometheus/node-exporter/source-agent-status.prom")]
pub struct StatusArgs {
    /// Fail when the last snapshot of a remote is older [default: max-age of the configuration]
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

pub fn run(args: &StatusArgs, context: &Context) -> Outcome<Exit> {
    let loaded = config::load(context)?;
    let remotes = loaded.remotes(context)?;
    let limit = args.max_age.or(loaded.config.check.max_age).map(Age::duration);
    let limit = limit.map(|limit| i64::try_from(limit.as_secs()).unwrap_or(i64::MAX));
    let keys = keys::load_source(&loaded)?;
    let now = SystemClock.now();
    let lines: Vec<Line> = remotes.iter().map(|remote| line(&loaded, &keys, remote, limit, now, context)).collect();
    for line in &lines {
        line.print(context)?;
    }
    if let Some(path) = &args.prometheus {
        write_metrics(path, &metrics(&lines))?;
    }
    if lines.is_empty() {
        warn(context, "no remote is configured: source-agent remote add NAME SINK-CARD");
    }
    Ok(worst(&lines))
}

fn worst(lines: &[Line]) -> Exit {
    let any = |state| lines.iter().any(|line| line.state == state);
    if any(State::Old) {
        Exit::Failed
    } else if lines.is_empty() || any(State::Unknown) {
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
            "snapshot_id": snapshot.map(|snapshot| snapshot.head.short()),
            "time": snapshot.and_then(|snapshot| rfc3339(snapshot.created)),
            "received": snapshot.and_then(|snapshot| rfc3339(snapshot.received)),
            "age_seconds": self.age,
            "incomplete": snapshot.map(|snapshot| snapshot.incomplete),
            "pending": self.pending,
        })
    }
}

/// The metrics' text. Remote names have no character that needs an escape (the configuration's rule).
fn metrics(lines: &[Line]) -> String {
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
        let [fresh, old, unknown] =
            [State::Fresh, State::Old, State::Unknown].map(|state| move || made(state, Some(1)));
        assert_eq!(worst(&[fresh()]), Exit::Done);
        assert_eq!(worst(&[fresh(), unknown()]), Exit::Incomplete);
        assert_eq!(worst(&[unknown(), old(), fresh()]), Exit::Failed);
        assert_eq!(worst(&[]), Exit::Incomplete);
    }

    #[test]
    fn metrics_leave_out_what_is_not_known() {
        let text = metrics(&[made(State::Fresh, Some(990))]);
        assert!(text.contains("source_agent_last_success_timestamp_seconds{remote=\"offsite\"} 990\n"), "{text}");
        assert!(text.contains("source_agent_remote_fresh{remote=\"offsite\"} 1\n"));
        let text = metrics(&[made(State::Unknown, None)]);
        assert!(
            !text.contains("timestamp_seconds{") && text.contains("source_agent_remote_fresh{remote=\"offsite\"} 0\n")
        );
        assert!(text.ends_with('\n'));
    }
}

//! `remote-sink status`: is every source still sending? For people, for cron, for Prometheus.

use super::snapshots::{self, Snapshot};
use super::{Context, table};
use crate::cli::vault::{Enrolled, Vault};
use crate::config::{Age, iec};
use crate::damaged::Damaged;
use crate::journal::{Journal, SourceMemory};
use crate::report::{Failure, exit};
use crate::retention::rules::InForce;
use crate::retention::vault::{RetentionError, Source, View};
use crate::retention::{history, policy};
use crate::serve::limits::charge;
use crate::store::directory::Root;
use crate::store::layout::{Layout, source_room};
use crate::store::{Shelf, pack};
use shared::id::{Digest, SourceName, VerifyKey};
use shared::sys::{Clock, SystemClock, durable};
use shared::wire::Role;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

/// Show per source: last snapshot, sizes, damage, growth, holds, alarms, next removal
///
/// Checkpoints of unfinished runs do not count as snapshots here. Growth, holds, alarms and the next removal are in the
/// operator's journal: an account that may not read it sees the rest.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 every source is fresh, 1 one is too old, 3 one has no snapshot yet.")]
pub struct StatusArgs {
    /// Only these sources [default: all that are not revoked]
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// Fail when a source's newest snapshot is older, for example 36h [default: [alerts] max-age in vault.toml]
    #[arg(long, value_name = "AGE")]
    pub max_age: Option<Age>,
    /// Also write metrics for node_exporter's textfile collector [default: [metrics] textfile in vault.toml]
    #[arg(long, value_name = "FILE")]
    pub prometheus: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freshness {
    Fresh,
    TooOld,
    Unknown,
}

impl Freshness {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::TooOld => "TOO OLD",
            Self::Unknown => "unknown",
        }
    }
}

/// What is known of one source.
#[derive(Debug)]
struct Line {
    name: SourceName,
    received: Option<i64>,
    snapshots: u64,
    objects: u64,
    bytes: u64,
    quota: Option<u64>,
    freshness: Freshness,
    /// Digest of the newest head.
    newest: Option<Digest>,
    /// Damaged blocks that snapshots need, by the last `verify`; unknown where its list cannot be read.
    damaged: Option<u64>,
    outlook: Option<Outlook>,
}

impl Line {
    fn unknown(name: &SourceName, quota: Option<u64>) -> Self {
        let (name, freshness) = (name.clone(), Freshness::Unknown);
        let (received, newest, damaged, outlook) = (None, None, None, None);
        let (snapshots, objects, bytes) = (0, 0, 0);
        Self { name, received, snapshots, objects, bytes, quota, freshness, newest, damaged, outlook }
    }
}

/// What the operator's journal adds.
#[derive(Debug)]
struct Outlook {
    /// Bytes held more than a week ago, or than when it was first seen.
    growth: i64,
    held: u64,
    /// Alarms since the last complete `prune`, by name, each once.
    alarms: Vec<String>,
    next_removal: Option<i64>,
}

const WEEK_SECONDS: i64 = 7 * 86_400;

pub fn run(args: &StatusArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    let vault = Vault::open(context.global.root.as_deref())?;
    let sink = vault.sink()?;
    let chosen = vault.choose(&args.sources)?;
    let named = !args.sources.is_empty();
    let sources = chosen.iter().filter(|one| one.enrolment.role == Role::Push && (named || !one.enrolment.revoked));
    let now = SystemClock.now();
    let oldest = oldest(args.max_age.or(vault.config.alerts.max_age), now);
    let memory = Journal::look(&vault.layout).ok();
    let root = Root::open(vault.layout.root()).map_err(RetentionError::Store)?;
    let with_outlook = |one: &Enrolled| {
        let mut line = line(&vault, one, &sink, oldest).unwrap_or_else(|failure| {
            // What is wrong with one source hides no other.
            context.failed(&failure);
            Line::unknown(&one.name, super::sources::quota(one, &vault))
        });
        let view = memory.as_ref().map(|memory| View { layout: &vault.layout, root: &root, sink: &sink, memory });
        line.damaged = Damaged::read(&root, &one.name, one.enrolment.card.source_id()).ok().map(|list| list.blocks);
        line.outlook = view.and_then(|view| outlook(&vault, one, view, now));
        line
    };
    let lines: Vec<Line> = sources.map(with_outlook).collect();
    if let Some(path) = args.prometheus.as_ref().or(vault.config.metrics.textfile.as_ref()) {
        durable::replace(path, metrics(&lines).as_bytes(), durable::PUBLIC)
            .map_err(|e| Failure::io("write", path, &e))?;
    }
    tell(&lines, now, context)?;
    let has = |freshness| lines.iter().any(|line| line.freshness == freshness);
    Ok(match () {
        () if has(Freshness::TooOld) => exit::FAILED,
        () if has(Freshness::Unknown) => exit::UNKNOWN,
        () => exit::OK,
    })
}

/// The oldest time of receipt that is still fresh.
fn oldest(max_age: Option<Age>, now: i64) -> Option<i64> {
    let now = jiff::Timestamp::from_second(now).ok()?;
    max_age.map(|age| age.before(now).as_second())
}

fn line(vault: &Vault, one: &Enrolled, sink: &VerifyKey, oldest: Option<i64>) -> Result<Line, Failure> {
    // Sessions leave records; taking them into the ledger keeps the start of the next session short. It is a cache, and
    // whoever watches may not be allowed to write it.
    let _ = crate::ledger::fold(vault.layout.root(), &one.name, one.enrolment.card.verify_key(), sink);
    let all = snapshots::of_source(&vault.layout, one, sink)?;
    let counts = |snapshot: &&Snapshot| snapshot.head.as_ref().is_some_and(|head| !head.is_checkpoint());
    let newest = all.iter().filter(counts).max_by_key(|snapshot| (snapshot.received, snapshot.sequence));
    let received = newest.and_then(|snapshot| snapshot.received);
    let newest = newest.and_then(|snapshot| Some(snapshot.head.as_ref()?.digest()));
    let (objects, bytes) = usage(&vault.layout, &one.name)?;
    let freshness = match (received, oldest) {
        (None, _) => Freshness::Unknown,
        (Some(received), Some(oldest)) if received < oldest => Freshness::TooOld,
        _ => Freshness::Fresh,
    };
    let snapshots = all.iter().filter(counts).count() as u64;
    let quota = super::sources::quota(one, vault);
    let name = one.name.clone();
    let (damaged, outlook) = (None, None);
    Ok(Line { name, received, snapshots, objects, bytes, quota, freshness, newest, damaged, outlook })
}

/// What is in the journal about a source; nothing where it cannot be read as a whole.
fn outlook(vault: &Vault, one: &Enrolled, view: View, now: i64) -> Option<Outlook> {
    let none = SourceMemory::default();
    let memory = view.memory.source(&one.name).unwrap_or(&none);
    let source = Source::new(view.root, &one.name, &one.enrolment);
    let history = history::read(view, &source).ok()?;
    let decisions = policy::decide(&InForce::of(&vault.config, &one.name).rules, &history.present(), now);
    let held = history.links.iter().filter(|link| link.snapshot.held).count() as u64;
    Some(Outlook {
        growth: growth(memory, now),
        held,
        alarms: alarms(memory),
        next_removal: policy::next_removal(&decisions),
    })
}

fn growth(memory: &SourceMemory, now: i64) -> i64 {
    let week_ago = now.saturating_sub(WEEK_SECONDS);
    let before = memory.growth.iter().rev().find(|held| held.at <= week_ago).or(memory.growth.first());
    let bytes = |held: Option<&crate::journal::Holding>| held.map_or(0, |held| held.bytes.cast_signed());
    bytes(memory.growth.last()).saturating_sub(bytes(before))
}

fn alarms(memory: &SourceMemory) -> Vec<String> {
    let pruned = memory.pruned.map_or(i64::MIN, |(at, _)| at);
    let is_open = |(at, what, _): &&(i64, String, String)| {
        let accepted = memory.accepted.get(what).map_or(i64::MIN, |(at, _)| *at);
        *at > pruned.max(accepted)
    };
    let names: std::collections::BTreeSet<_> =
        memory.alarms.iter().filter(is_open).map(|(_, what, _)| what.clone()).collect();
    names.into_iter().collect()
}

/// Objects and the bytes that they are charged, counted from the files themselves.
fn usage(layout: &Layout, name: &SourceName) -> Result<(u64, u64), Failure> {
    let (mut objects, mut bytes) = (0, 0);
    for shelf in Shelf::OF_SOURCE {
        let dir = layout.shelf(name, shelf);
        count(&dir, shelf.is_split(), &mut objects, &mut bytes).map_err(|e| Failure::io("count", &dir, &e))?;
    }
    let store = Root::open(layout.root()).map_err(RetentionError::Store)?.room(source_room(name));
    for shelf in pack::SHELVES {
        for pack in store.packs(shelf, true).map_err(RetentionError::Store)? {
            let path = layout.pack(name, shelf, pack.number);
            let told = pack.each(&mut |_, place| {
                objects += 1;
                bytes += charge(u64::from(place.bytes));
            });
            told.map_err(|e| Failure::io("read", &path, &e))?;
        }
    }
    Ok((objects, bytes))
}

fn count(dir: &Path, split: bool, objects: &mut u64, bytes: &mut u64) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = match entry.metadata() {
            // Removed between the listing and the look.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            meta => meta?,
        };
        if meta.is_dir() && split {
            count(&entry.path(), false, objects, bytes)?;
        } else if meta.is_file() {
            *objects += 1;
            *bytes += charge(meta.len());
        }
    }
    Ok(())
}

fn tell(lines: &[Line], now: i64, context: &mut Context<'_>) -> Result<(), Failure> {
    if context.global.json {
        return lines.iter().try_for_each(|line| context.json(&json(line)));
    }
    let shown: Vec<&Line> =
        lines.iter().filter(|line| !context.global.quiet || line.freshness != Freshness::Fresh).collect();
    if lines.is_empty() {
        return context.remark("No source is enrolled.");
    }
    if shown.is_empty() {
        return Ok(());
    }
    let titles = ["Source", "State", "Last snapshot", "", "Newest", "Snapshots", "Used", "Quota"];
    let more = ["Damage", "7 days", "Held", "Alarms", "Next removal"];
    let titles: Vec<_> = titles.into_iter().chain(more).map(str::to_owned).collect();
    let rows: Vec<Vec<String>> = [titles].into_iter().chain(shown.into_iter().map(|line| row(line, now))).collect();
    table::columns(&rows).into_iter().try_for_each(|line| context.line(line))
}

fn row(line: &Line, now: i64) -> Vec<String> {
    let of = |what: fn(&Outlook) -> String| line.outlook.as_ref().map_or_else(|| "?".into(), what);
    vec![
        line.name.to_string(),
        line.freshness.as_str().into(),
        line.received.map_or_else(|| "never".into(), table::local),
        line.received.map(|received| table::ago(now.saturating_sub(received))).unwrap_or_default(),
        line.newest.map_or_else(|| "-".into(), |head| head.short()),
        table::grouped(line.snapshots),
        iec(line.bytes),
        line.quota.map_or_else(|| "none".into(), iec),
        match line.damaged {
            None => "?".into(),
            Some(0) => "none".into(),
            Some(blocks) => table::counted(blocks, "block"),
        },
        of(|outlook| {
            let sign = if outlook.growth < 0 { '-' } else { '+' };
            format!("{sign}{}", iec(outlook.growth.unsigned_abs()))
        }),
        of(|outlook| table::grouped(outlook.held)),
        of(|outlook| if outlook.alarms.is_empty() { "none".into() } else { outlook.alarms.join(",") }),
        of(|outlook| outlook.next_removal.map_or_else(|| "none".into(), table::local)),
    ]
}

fn json(line: &Line) -> serde_json::Value {
    serde_json::json!({
        "message_type": "status",
        "source": line.name.as_str(),
        "state": line.freshness.as_str().to_lowercase(),
        "last_received": line.received.and_then(table::utc),
        "snapshots": line.snapshots,
        "objects": line.objects,
        "bytes": line.bytes,
        "quota": line.quota,
        "head": line.newest.map(|head| head.to_string()),
        "damaged_blocks": line.damaged,
        "growth_7_days": line.outlook.as_ref().map(|outlook| outlook.growth),
        "held": line.outlook.as_ref().map(|outlook| outlook.held),
        "alarms": line.outlook.as_ref().map(|outlook| &outlook.alarms),
        "next_removal": line.outlook.as_ref().and_then(|outlook| outlook.next_removal).and_then(table::utc),
    })
}

/// Text format of Prometheus, without time stamps: the collector refuses them. Names need no escaping.
fn metrics(lines: &[Line]) -> String {
    type Value = fn(&Line) -> Option<i128>;
    const ALL: [(&str, &str, Value); 10] = [
        ("last_received_timestamp_seconds", "When the newest snapshot was received.", |l| l.received.map(i128::from)),
        ("snapshots", "Snapshots held.", |l| Some(l.snapshots.into())),
        ("objects", "Objects held.", |l| Some(l.objects.into())),
        ("used_bytes", "Bytes charged to the source.", |l| Some(l.bytes.into())),
        ("quota_bytes", "Bytes that the source may use.", |l| l.quota.map(i128::from)),
        ("damaged_blocks", "Damaged blocks that snapshots need, by the last verify.", |l| l.damaged.map(i128::from)),
        ("growth_7_days_bytes", "Growth of the bytes held within 7 days.", |l| Some(l.outlook.as_ref()?.growth.into())),
        ("held_snapshots", "Snapshots that the operator holds.", |l| Some(l.outlook.as_ref()?.held.into())),
        (
            "alarms",
            "Kinds of alarms since the last complete prune.",
            |l| Some(l.outlook.as_ref()?.alarms.len() as i128),
        ),
        ("next_removal_timestamp_seconds", "When a snapshot becomes removable.", |l| {
            l.outlook.as_ref()?.next_removal.map(i128::from)
        }),
    ];
    let mut out = String::new();
    let mut put = |text: std::fmt::Arguments<'_>| out.write_fmt(text).unwrap_or_default();
    for (name, help, value) in ALL {
        put(format_args!("# HELP remote_sink_{name} {help}\n# TYPE remote_sink_{name} gauge\n"));
        for line in lines {
            if let Some(value) = value(line) {
                put(format_args!("remote_sink_{name}{{source=\"{}\"}} {value}\n", line.name));
            }
        }
    }
    put(format_args!("# HELP remote_sink_build_info Version.\n# TYPE remote_sink_build_info gauge\n"));
    put(format_args!("remote_sink_build_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION")));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_no_value_for_what_is_unknown() {
        let line = Line { objects: 3, bytes: 12_288, ..Line::unknown(&"web1".parse().unwrap(), Some(1 << 30)) };
        let text = metrics(&[line]);
        assert!(text.contains("remote_sink_quota_bytes{source=\"web1\"} 1073741824\n"), "{text}");
        assert!(!text.contains("last_received_timestamp_seconds{"), "{text}");
        assert!(
            text.contains("# HELP remote_sink_growth_7_days_bytes Growth of the bytes held within 7 days.\n"),
            "{text}"
        );
    }
}

//! What the entries of the journal come to.

use crate::journal::{Entry, Event, Moment, SourceSeen};
use crate::retention::policy::SnapshotId;
use shared::id::{Digest, Lineage, SourceId, SourceName};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Heads that were first seen together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub first: u64,
    pub last: u64,
    /// Digest of the last.
    pub newest: Digest,
    /// The observation before, which did not see them; absent at the journal's beginning.
    pub after: Option<i64>,
    /// The observation that saw them first, and its entry's number.
    pub by: i64,
    pub entry: u64,
}

/// A snapshot that retention gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    pub at: i64,
    pub head: Digest,
    pub body: Digest,
}

/// Archives and bytes of a source at one observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    pub at: i64,
    pub archives: u64,
    pub bytes: u64,
    pub entry: u64,
}

/// What is known of one source.
#[derive(Debug, Clone, Default)]
pub struct SourceMemory {
    pub source: Option<SourceId>,
    pub chains: BTreeMap<Lineage, Vec<Seen>>,
    /// What was held at observations that found it changed.
    pub growth: Vec<Holding>,
    pub rules: Option<String>,
    /// The longest that any rules so far promised, in seconds.
    pub promise_max: u64,
    pub gone: BTreeMap<SnapshotId, Gone>,
    pub held: BTreeSet<SnapshotId>,
    pub condemned: Option<Digest>,
    /// When each alarm was last accepted, and by which entry.
    pub accepted: BTreeMap<String, (i64, u64)>,
    /// Clock of the last complete run, and its entry.
    pub pruned: Option<(i64, u64)>,
    /// Last `verify`: when, how many objects were damaged, and its entry.
    pub scrubbed: Option<(i64, u64, u64)>,
    /// Newest entry that changed what is held of it, or may be.
    pub changed: Option<Digest>,
    pub alarms: Vec<(i64, String, String)>,
    /// When the newest heads were seen, as far as later entries leave that possible, and by which entry.
    pub heard: Option<(i64, u64)>,
    /// The entry of the last alarm about silence.
    pub silent: Option<u64>,
}

/// What an alarm about silence is called.
pub const SILENT: &str = "silent";

impl SourceMemory {
    /// When a head was first seen, if it was.
    pub fn seen(&self, id: &SnapshotId) -> Option<&Seen> {
        let runs = self.chains.get(&id.lineage)?;
        let at = runs.partition_point(|run| run.last < id.sequence);
        runs.get(at).filter(|run| run.first <= id.sequence)
    }
    /// The newest head that was seen of a lineage.
    pub fn newest(&self, lineage: &Lineage) -> Option<&Seen> {
        self.chains.get(lineage)?.last()
    }
}

/// The whole journal, folded.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    pub entries: u64,
    pub last: Option<Digest>,
    pub digests: HashSet<Digest>,
    /// The clocks at the newest entry.
    pub clock: Option<Moment>,
    /// Clock of the newest observation, and of the one before it.
    observed: Option<i64>,
    observed_before: Option<i64>,
    pub sources: BTreeMap<SourceName, SourceMemory>,
    /// The last jump of the clock: the entry that showed it, and what it was.
    pub jump: Option<(u64, String)>,
}

/// The clock may go back so far.
const BACK_SECONDS: i64 = 600;
/// It may run ahead of the time since boot so far.
const AHEAD_SECONDS: i64 = 86_400;
/// So long may a machine have been off.
const OFF_SECONDS: i64 = 32 * 86_400;

/// What is wrong with going from one moment to the next, if anything.
fn jump(before: &Moment, now: &Moment) -> Option<String> {
    let ahead = now.wall.saturating_sub(before.wall);
    if ahead < -BACK_SECONDS {
        return Some(format!("the clock went back by {} s", ahead.unsigned_abs()));
    }
    if !now.boot.is_empty() && now.boot == before.boot {
        let up = i64::try_from(now.up.saturating_sub(before.up)).unwrap_or(i64::MAX);
        let extra = ahead.saturating_sub(up);
        return (extra > AHEAD_SECONDS).then(|| format!("the clock went ahead by {extra} s more than time passed"));
    }
    (ahead > OFF_SECONDS).then(|| format!("the clock went ahead by {} days across a restart", ahead / 86_400))
}

/// Alarms that are remembered of a source.
const ALARMS_MAX: usize = 100;

impl Memory {
    pub fn source(&self, name: &SourceName) -> Option<&SourceMemory> {
        self.sources.get(name)
    }
    /// Clock of the newest observation.
    pub fn observed(&self) -> Option<i64> {
        self.observed
    }

    /// Takes the next entry.
    pub fn take(&mut self, digest: Digest, entry: Entry) {
        let at = entry.at.wall;
        self.entries = entry.number.saturating_add(1);
        self.last = Some(digest);
        self.digests.insert(digest);
        if self.clock.as_ref().is_some_and(|before| before.wall > at) {
            // It had run ahead: what was seen before this entry was not seen later than now.
            for (seen, _) in self.sources.values_mut().filter_map(|source| source.heard.as_mut()) {
                *seen = at.min(*seen);
            }
        }
        if let Some(jump) = self.clock.as_ref().and_then(|before| jump(before, &entry.at)) {
            self.jump = Some((entry.number, jump));
        }
        self.clock = Some(entry.at);
        if let Event::Observed(sources) = entry.event {
            if self.observed != Some(at) {
                self.observed_before = self.observed.replace(at);
            }
            let before = self.observed_before;
            for seen in sources.into_vec() {
                self.sources.entry(seen.name.clone()).or_default().observed(seen, before, at, entry.number);
            }
            return;
        }
        let Some(name) = subject(&entry.event).cloned() else { return };
        let source = self.sources.entry(name).or_default();
        if changes(&entry.event) {
            source.changed = Some(digest);
        }
        source.happened(at, entry.number, entry.event);
    }
}

/// The source that an event is about.
fn subject(event: &Event) -> Option<&SourceName> {
    match event {
        Event::Observed(_) => None,
        Event::Policy(name, ..)
        | Event::Removed(name, _)
        | Event::Purged(name, _)
        | Event::Condemned(name, ..)
        | Event::Freed(name, _)
        | Event::Held(name, ..)
        | Event::Released(name, ..)
        | Event::Undeleted(name, _)
        | Event::Alarm(name, ..)
        | Event::Accepted(name, ..)
        | Event::Pruned(name, ..)
        | Event::Scrubbed(name, _) => Some(name),
    }
}

/// Does this event change what is held, or what is promised?
fn changes(event: &Event) -> bool {
    use Event::{Freed, Policy, Purged, Removed, Undeleted};
    matches!(event, Policy(..) | Removed(..) | Purged(..) | Freed(..) | Undeleted(..))
}

impl SourceMemory {
    fn observed(&mut self, seen: SourceSeen, after: Option<i64>, by: i64, entry: u64) {
        self.source = Some(seen.source);
        for heads in seen.heads.into_vec() {
            let run = Seen { first: heads.first, last: heads.last, newest: heads.newest, after, by, entry };
            let runs = self.chains.entry(heads.lineage).or_default();
            if runs.last().is_none_or(|last| last.last < run.first) {
                runs.push(run);
                self.heard = Some((by, entry));
            }
        }
        self.growth.push(Holding { at: by, archives: seen.archives, bytes: seen.bytes, entry });
    }

    fn happened(&mut self, at: i64, number: u64, event: Event) {
        let id = |lineage, sequence| SnapshotId { lineage, sequence };
        match event {
            Event::Policy(_, rules, promise) => {
                self.rules = Some(rules.to_string());
                self.promise_max = self.promise_max.max(promise);
            }
            Event::Removed(_, snapshots) => {
                for one in snapshots.into_vec() {
                    let gone = Gone { at, head: one.head, body: one.body };
                    self.gone.insert(id(one.lineage, one.sequence), gone);
                }
            }
            Event::Undeleted(_, body) => self.gone.retain(|_, gone| gone.body != body),
            Event::Condemned(_, list, _) => self.condemned = Some(list),
            Event::Held(_, lineage, sequence, _) => drop(self.held.insert(id(lineage, sequence))),
            Event::Released(_, lineage, sequence, _) => drop(self.held.remove(&id(lineage, sequence))),
            Event::Alarm(_, what, message) => {
                if *what == *SILENT {
                    self.silent = Some(number);
                }
                self.alarms.push((at, what.to_string(), message.to_string()));
                if self.alarms.len() > ALARMS_MAX {
                    self.alarms.remove(0);
                }
            }
            Event::Accepted(_, what, _) => drop(self.accepted.insert(what.to_string(), (at, number))),
            Event::Pruned(..) => self.pruned = Some((at, number)),
            Event::Scrubbed(_, damaged) => self.scrubbed = Some((at, damaged, number)),
            Event::Purged(..) | Event::Freed(..) | Event::Observed(_) => {}
        }
    }
}

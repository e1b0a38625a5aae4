//! Which snapshots stay, and why (docs/retention.md). Pure: everything it knows comes as an argument, and the time in
//! a head (which its source writes) is not among it.
//!
//! Slots are hours, days, weeks (from Monday), months and years of UTC, counted over the time of *receipt*. The
//! **oldest** snapshot of a slot holds it, so who holds a slot is settled when the slot begins: nothing that comes
//! later can displace it.

use crate::config::Age;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use shared::id::{Lineage, Series};
use std::collections::BTreeMap;

/// The rules for one source. With no rule that keeps ([`Rules::is_set`]) everything stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    pub keep_within: Option<Age>,
    pub last: u32,
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
    pub yearly: u32,
    pub min_age: Option<Age>,
}

impl Rules {
    /// Does any rule say what to keep? Only then may anything go.
    pub fn is_set(&self) -> bool {
        let counts = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        self.keep_within.is_some() || counts.iter().any(|count| *count > 0)
    }

    /// Seconds that a new snapshot is kept whatever else happens; 0 if nothing is promised.
    pub fn promise_seconds(&self) -> u64 {
        if !self.is_set() {
            return 0;
        }
        match (self.min_age.map(Age::seconds_min), self.keep_within.map(Age::seconds_min)) {
            (Some(age), Some(within)) => age.min(within),
            (one, other) => one.or(other).unwrap_or(0),
        }
    }

    /// The same for a checkpoint, which `keep-within` does not keep.
    pub fn checkpoint_promise_seconds(&self) -> u64 {
        if self.is_set() { self.min_age.map_or(0, Age::seconds_min).min(self.promise_seconds()) } else { 0 }
    }
}

/// A snapshot's place in its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId {
    pub lineage: Lineage,
    pub sequence: u64,
}

/// What the policy knows of a snapshot whose body is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub id: SnapshotId,
    pub series: Series,
    /// Time of receipt, as the operator's journal bounds it.
    pub received: i64,
    pub checkpoint: bool,
    /// Of a checkpoint: a whole snapshot of its lineage and series followed it, be it here or expired.
    pub run_committed: bool,
    pub held: bool,
    /// The owner checked it whole and signed that.
    pub vouched: bool,
    /// A receipt promised to keep it until then.
    pub promised: Option<i64>,
}

/// Why a snapshot stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// No policy is set.
    NoPolicy,
    Held,
    /// The newest vouched one of its series.
    Vouched,
    /// The newest of its series.
    Newest,
    Last,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
    /// A checkpoint whose run has not committed.
    Unfinished,
    Within,
    MinAge,
    Promised,
}

impl Reason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoPolicy => "no policy",
            Self::Held => "held",
            Self::Vouched => "vouched",
            Self::Newest => "newest",
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::Unfinished => "unfinished run",
            Self::Within => "keep-within",
            Self::MinAge => "min-age",
            Self::Promised => "promised",
        }
    }
    /// Does it end by the mere passing of time?
    const fn ends(self) -> bool {
        matches!(self, Self::Within | Self::MinAge | Self::Promised)
    }
}

/// What becomes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub id: SnapshotId,
    /// Why it stays; empty = it goes.
    pub kept: Vec<Reason>,
    pub checkpoint: bool,
    /// When it will go if nothing more comes; absent if it goes now or stays for another reason than its age.
    pub removable_at: Option<i64>,
}

impl Decision {
    pub fn is_kept(&self) -> bool {
        !self.kept.is_empty()
    }
    /// For people: why it stays or goes.
    pub fn why(&self) -> String {
        match (self.kept.is_empty(), self.checkpoint) {
            (true, true) => "checkpoint: its run has committed".into(),
            (true, false) => "no rule keeps it".into(),
            (false, _) => self.kept.iter().map(|reason| reason.as_str()).collect::<Vec<_>>().join(", "),
        }
    }
}

/// Decides over all snapshots of one source, in the order in which they are given.
pub fn decide(rules: &Rules, snapshots: &[Snapshot], now: i64) -> Vec<Decision> {
    let mut kept: Vec<Vec<Reason>> = vec![Vec::new(); snapshots.len()];
    if rules.is_set() {
        for members in by_series(snapshots).values() {
            keep_of_series(rules, snapshots, members, &mut kept);
        }
    } else {
        kept.iter_mut().for_each(|reasons| reasons.push(Reason::NoPolicy));
    }
    let mut decisions = Vec::with_capacity(snapshots.len());
    for (snapshot, mut kept) in snapshots.iter().zip(kept) {
        if snapshot.held {
            kept.push(Reason::Held);
        }
        let ends = time_limits(rules, snapshot);
        kept.extend(ends.iter().filter(|(_, end)| now < *end).map(|(reason, _)| *reason));
        kept.sort_unstable();
        let by_age = !kept.is_empty() && kept.iter().all(|reason| reason.ends());
        let removable_at = ends.iter().map(|(_, end)| *end).max().filter(|_| by_age);
        decisions.push(Decision { id: snapshot.id, kept, checkpoint: snapshot.checkpoint, removable_at });
    }
    decisions
}

/// The next time at which something becomes removable.
pub fn next_removal(decisions: &[Decision]) -> Option<i64> {
    decisions.iter().filter_map(|decision| decision.removable_at).min()
}

/// Indexes of the snapshots of each series, oldest first.
fn by_series(snapshots: &[Snapshot]) -> BTreeMap<Series, Vec<usize>> {
    let mut series: BTreeMap<Series, Vec<usize>> = BTreeMap::new();
    for (at, snapshot) in snapshots.iter().enumerate() {
        series.entry(snapshot.series).or_default().push(at);
    }
    for members in series.values_mut() {
        members.sort_by_key(|at| (snapshots[*at].received, snapshots[*at].id.sequence, snapshots[*at].id.lineage));
    }
    series
}

/// The slot that a time lies in.
type SlotOf = fn(i64) -> i64;

fn keep_of_series(rules: &Rules, snapshots: &[Snapshot], members: &[usize], kept: &mut [Vec<Reason>]) {
    let whole: Vec<usize> = members.iter().copied().filter(|at| !snapshots[*at].checkpoint).collect();
    for at in whole.iter().rev().take(rules.last as usize) {
        kept[*at].push(Reason::Last);
    }
    if let Some(at) = whole.last() {
        kept[*at].push(Reason::Newest);
    }
    if let Some(at) = members.iter().rev().find(|at| snapshots[**at].vouched) {
        kept[*at].push(Reason::Vouched);
    }
    let slots: [(u32, Reason, SlotOf); 5] = [
        (rules.hourly, Reason::Hourly, |at| at.div_euclid(3600)),
        (rules.daily, Reason::Daily, day),
        (rules.weekly, Reason::Weekly, week),
        (rules.monthly, Reason::Monthly, month),
        (rules.yearly, Reason::Yearly, year),
    ];
    for (count, reason, slot) in slots {
        // The first of each slot, as the members stand oldest first.
        let mut holders: BTreeMap<i64, usize> = BTreeMap::new();
        for at in &whole {
            holders.entry(slot(snapshots[*at].received)).or_insert(*at);
        }
        for at in holders.values().rev().take(count as usize) {
            kept[*at].push(reason);
        }
    }
    for at in members.iter().filter(|at| snapshots[**at].checkpoint && !snapshots[**at].run_committed) {
        kept[*at].push(Reason::Unfinished);
    }
}

/// Reasons that end, and when.
fn time_limits(rules: &Rules, snapshot: &Snapshot) -> Vec<(Reason, i64)> {
    let mut ends = Vec::new();
    if rules.is_set() {
        if let Some(within) = rules.keep_within.filter(|_| !snapshot.checkpoint) {
            ends.push((Reason::Within, end_of(within, snapshot.received)));
        }
        if let Some(age) = rules.min_age {
            ends.push((Reason::MinAge, end_of(age, snapshot.received)));
        }
    }
    ends.extend(snapshot.promised.map(|until| (Reason::Promised, until)));
    ends
}

/// The first moment at which something received at `received` is older than `age`. Months end at different days, so
/// that "a month before the 30th of March" is the 28th of February: the later of both readings counts.
fn end_of(age: Age, received: i64) -> i64 {
    let Ok(from) = Timestamp::from_second(received) else { return i64::MAX };
    let mut end = age.after(from);
    for _ in 0..5 {
        if age.before(end) >= from {
            break;
        }
        end = end.checked_add(jiff::SignedDuration::from_hours(24)).unwrap_or(Timestamp::MAX);
    }
    end.as_second()
}

fn day(at: i64) -> i64 {
    at.div_euclid(86_400)
}

/// Weeks begin on Monday; 1970-01-01 was a Thursday.
fn week(at: i64) -> i64 {
    (day(at) + 3).div_euclid(7)
}

fn month(at: i64) -> i64 {
    Timestamp::from_second(at).map_or(i64::MIN, |time| {
        let date = time.to_zoned(TimeZone::UTC).date();
        i64::from(date.year()) * 12 + i64::from(date.month())
    })
}

fn year(at: i64) -> i64 {
    Timestamp::from_second(at).map_or(i64::MIN, |time| i64::from(time.to_zoned(TimeZone::UTC).date().year()))
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;

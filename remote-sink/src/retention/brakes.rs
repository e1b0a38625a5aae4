//! Brakes: what makes `prune` stop and call for a person instead of expiring. Each is judged on what the journal and
//! the objects say, never on a time or a number that a source or a session made up.

use crate::config::Alerts;
use crate::journal::{Memory, SourceMemory};
use crate::retention::history::{History, Link, Place};
use crate::retention::policy::Decision;
use crate::retention::weigh::{Weighed, Weight};
use std::collections::BTreeMap;

const DAY: i64 = 86_400;
/// Heads within a day that never are a burst.
const BURST_MIN: u64 = 30;
/// Bytes within a day that never are a flood.
const FLOOD_MIN: u64 = 1 << 30;
/// Blocks below which a snapshot is too small to judge.
const BLOCKS_MIN: u64 = 16;
/// Share of new blocks that is "nearly everything".
const NEW_PERCENT: u64 = 90;
/// Snapshots before one that make its measure.
const MEASURE: usize = 7;
/// A source whose sessions kept every run away for so long is looked at by a person.
const BUSY_DAYS: i64 = 3;
/// Newest share of the median that is no collapse.
const SHRINK_PERCENT: u64 = 50;

/// What can stop a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Brake {
    Clock,
    Rollback,
    Scrub,
    Burst,
    Flood,
    New,
    Shrink,
    Grow,
    Recipients,
    /// Too much came since the last run to weigh all of it.
    Bulk,
    Share,
    Busy,
}

impl Brake {
    pub const ALL: [Self; 12] = [
        Self::Clock,
        Self::Rollback,
        Self::Scrub,
        Self::Burst,
        Self::Flood,
        Self::New,
        Self::Shrink,
        Self::Grow,
        Self::Recipients,
        Self::Bulk,
        Self::Share,
        Self::Busy,
    ];
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Rollback => "rollback",
            Self::Scrub => "scrub",
            Self::Burst => "burst",
            Self::Flood => "flood",
            Self::New => "new",
            Self::Shrink => "shrink",
            Self::Grow => "grow",
            Self::Recipients => "recipients",
            Self::Bulk => "bulk",
            Self::Share => "share",
            Self::Busy => "busy",
        }
    }
}

impl std::str::FromStr for Brake {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let all = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL.into_iter().find(|brake| brake.as_str() == text).ok_or_else(|| format!("one of {}", all()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    pub brake: Brake,
    pub message: String,
}

/// Snapshots before the first new one of a series that are weighed too: two measures, some of whose bodies are gone.
pub const WEIGHED_BEFORE: usize = 2 * MEASURE + 2;

/// Everything that the brakes look at.
pub struct Facts<'a> {
    pub memory: &'a Memory,
    pub source: &'a SourceMemory,
    pub history: &'a History,
    /// What came since the last run, and what it is measured by.
    pub weighed: Weighed,
    pub alerts: &'a Alerts,
    pub decisions: &'a [Decision],
    /// A session of the source runs, at this time.
    pub busy: bool,
    pub now: i64,
    pub max_remove_percent: u32,
}

/// Days since a run could last do its work, if they are too many.
pub fn overdue_days(source: &SourceMemory, now: i64) -> Option<i64> {
    let first_seen = source.growth.first().map(|held| held.at);
    let accepted = source.accepted.get(Brake::Busy.as_str()).map(|(at, _)| *at);
    let last = source.pruned.map(|(at, _)| at).or(first_seen).max(accepted)?;
    let days = now.saturating_sub(last) / DAY;
    (days >= BUSY_DAYS).then_some(days)
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

impl Facts<'_> {
    /// The entry up to which an earlier run, or the operator, has looked: what was first seen later is judged. Entries
    /// count, not times: a session may lie about when something came, not about when the observer saw it first.
    fn looked(&self, brake: Brake) -> Option<u64> {
        self.accepted(brake).max(self.source.pruned.map(|(_, entry)| entry))
    }

    fn accepted(&self, brake: Brake) -> Option<u64> {
        self.source.accepted.get(brake.as_str()).map(|(_, entry)| *entry)
    }

    /// Everything that is wrong.
    pub fn judge(&self) -> Vec<Alarm> {
        // One of each kind, the first that was found; the others are counted.
        let mut found: BTreeMap<Brake, (String, u64)> = BTreeMap::new();
        let mut raise = |brake, message: Option<String>| {
            if let Some(message) = message {
                found.entry(brake).and_modify(|(_, more)| *more += 1).or_insert((message, 0));
            }
        };
        raise(Brake::Clock, self.clock());
        raise(Brake::Rollback, self.rollback());
        raise(Brake::Scrub, self.scrub());
        raise(Brake::Burst, self.burst());
        raise(Brake::Flood, self.flood());
        raise(Brake::Bulk, self.bulk());
        for series in self.history.by_series().values() {
            let whole: Vec<&Link> = series.iter().copied().filter(|link| !link.snapshot.checkpoint).collect();
            for (brake, message) in self.series(&whole) {
                raise(brake, Some(message));
            }
        }
        raise(Brake::Share, self.share());
        raise(Brake::Busy, self.kept_away());
        let said = |message, more| if more == 0 { message } else { format!("{message}; and {more} more like it") };
        found.into_iter().map(|(brake, (message, more))| Alarm { brake, message: said(message, more) }).collect()
    }

    fn clock(&self) -> Option<String> {
        let (number, what) = self.memory.jump.as_ref()?;
        (self.accepted(Brake::Clock) < Some(*number)).then(|| what.clone())
    }

    /// Heads are never removed, and receipts bind entries of the journal: what is missing was rolled back.
    fn rollback(&self) -> Option<String> {
        let accepted = self.accepted(Brake::Rollback);
        let lost = self.history.lost.iter().filter(|lost| Some(lost.entry) > accepted);
        let lost = lost.fold(0u64, |sum, lost| sum.saturating_add(lost.count));
        if lost > 0 {
            return Some(format!("heads that are missing, damaged, or not what they were: {lost}"));
        }
        let unread = self.history.unread;
        let accepted_at = self.source.accepted.get(Brake::Rollback.as_str()).map(|(at, _)| *at);
        if unread.count > 0 && Some(unread.appeared) > accepted_at {
            return Some(format!("damaged heads behind the newest that was seen: {}", unread.count));
        }
        let unknown = |link: &&Link| {
            Some(link.entry) > accepted && link.journal.is_some_and(|digest| !self.memory.digests.contains(&digest))
        };
        let count = self.history.links.iter().filter(unknown).count();
        if count > 0 {
            return Some(format!("receipts that bind entries which the journal does not have: {count}"));
        }
        let explained = |link: &&Link| !self.source.gone.contains_key(&link.snapshot.id);
        let missing = |link: &&Link| link.place == Place::Nowhere && Some(link.entry) > accepted;
        let count = self.history.links.iter().filter(missing).filter(explained).count();
        (count > 0).then(|| format!("bodies that are missing, and the journal does not say why: {count}"))
    }

    fn scrub(&self) -> Option<String> {
        let (_, damaged, entry) = self.source.scrubbed?;
        (damaged > 0 && Some(entry) > self.accepted(Brake::Scrub))
            .then(|| format!("damaged objects that the last verify found: {damaged}"))
    }

    fn burst(&self) -> Option<String> {
        let mut times: Vec<(i64, u64)> =
            self.history.links.iter().map(|link| (link.snapshot.received, link.entry)).collect();
        times.sort_unstable();
        let looked = self.looked(Brake::Burst);
        let mut days: BTreeMap<i64, u64> = BTreeMap::new();
        let mut start = 0;
        for (at, (time, entry)) in times.iter().enumerate() {
            while times[start].0 <= time.saturating_sub(DAY) {
                start += 1;
            }
            let count = (at - start + 1) as u64;
            let earlier = days.range(..time.div_euclid(DAY) - 1).rev().take(30).map(|(_, count)| *count).collect();
            let most = BURST_MIN.max(4 * median(earlier));
            if Some(*entry) > looked && count > most {
                return Some(format!("{count} snapshots within a day where {most} are the most that is usual"));
            }
            *days.entry(time.div_euclid(DAY)).or_default() += 1;
        }
        None
    }

    fn flood(&self) -> Option<String> {
        let looked = self.looked(Brake::Flood);
        let growth = &self.source.growth;
        let mut days: BTreeMap<i64, u64> = BTreeMap::new();
        let mut last = 0;
        for held in growth {
            let before = growth.partition_point(|then| then.at <= held.at.saturating_sub(DAY));
            let base = before.checked_sub(1).and_then(|at| growth.get(at)).map_or(0, |then| then.bytes);
            let added = held.bytes.saturating_sub(base);
            let day = held.at.div_euclid(DAY);
            let earlier: Vec<u64> = days.range(..day - 1).rev().take(30).map(|(_, bytes)| *bytes).collect();
            let known = earlier.len() >= MEASURE;
            let most = FLOOD_MIN.max(8 * median(earlier));
            if Some(held.entry) > looked && known && added > most && added > base / 4 {
                return Some(format!("{added} bytes came within a day where {most} are the most that is usual"));
            }
            *days.entry(day).or_default() += held.bytes.saturating_sub(last);
            last = held.bytes;
        }
        None
    }

    /// Do too many snapshots come, or too many bytes? Then the run stops whatever the snapshots weigh.
    pub fn is_flooded(&self, accepted: &[Brake]) -> bool {
        let stops = |brake| !accepted.contains(&brake);
        stops(Brake::Burst) && self.burst().is_some() || stops(Brake::Flood) && self.flood().is_some()
    }

    fn bulk(&self) -> Option<String> {
        let left = self.weighed.unweighed.filter(|left| Some(left.entry) > self.looked(Brake::Bulk))?;
        Some(format!("more came than one run can weigh; snapshots not compared with those before: {}", left.count))
    }

    /// Each snapshot of a series that came since the last run, against those before it.
    fn series(&self, whole: &[&Link]) -> Vec<(Brake, String)> {
        let mut found = Vec::new();
        for (at, link) in whole.iter().enumerate() {
            let name = link.head.short();
            let Some(weight) = self.weighed.weights.get(&link.head) else { continue };
            let before: Vec<&Weight> = whole[..at]
                .iter()
                .rev()
                .filter_map(|link| self.weighed.weights.get(&link.head))
                .take(MEASURE)
                .collect();
            let entry = Some(link.entry);
            if before.len() >= 3 {
                let (blocks, new) = (weight.blocks, weight.new);
                let usual = median(before.iter().map(|weight| weight.blocks).collect());
                let shrink = self.alerts.shrink.map_or(SHRINK_PERCENT, |percent| u64::from(percent.get()));
                let judged = usual >= BLOCKS_MIN;
                if judged && entry > self.looked(Brake::Shrink) && blocks * 100 < usual * shrink {
                    found.push((Brake::Shrink, format!("snapshot {name} has {blocks} blocks where {usual} are usual")));
                }
                let grow = self.alerts.grow.map(|percent| u64::from(percent.get()));
                if judged && entry > self.looked(Brake::Grow) && grow.is_some_and(|grow| blocks * 100 > usual * grow) {
                    found.push((Brake::Grow, format!("snapshot {name} has {blocks} blocks where {usual} are usual")));
                }
                if blocks >= BLOCKS_MIN && entry > self.looked(Brake::New) && new * 100 >= blocks * NEW_PERCENT {
                    found.push((
                        Brake::New,
                        format!("nearly everything in snapshot {name} is new: {new} of {blocks} blocks"),
                    ));
                }
            }
            if entry > self.looked(Brake::Recipients)
                && let Some(message) = self.recipients(&whole[..at], link)
            {
                found.push((Brake::Recipients, message));
            }
        }
        found
    }

    /// Is a snapshot sealed to others than the one before it in its series? The first of a series is compared with all
    /// other series: sets may have recipients of their own, but who swaps them could begin a new set.
    fn recipients(&self, before: &[&Link], link: &Link) -> Option<String> {
        let of = |link: &Link| self.weighed.recipients.get(&link.head);
        let (now, name) = (of(link)?, link.head.short());
        if let Some(earlier) = before.iter().rev().find_map(|link| of(link)) {
            return (now != earlier).then(|| format!("snapshot {name} is sealed to other recipients than before"));
        }
        let others: Vec<_> = self.history.newest_before(link).into_iter().filter_map(of).collect();
        let alone = !others.is_empty() && !others.contains(&now);
        alone.then(|| format!("snapshot {name} begins a set that is sealed to other recipients than any set before it"))
    }

    fn kept_away(&self) -> Option<String> {
        let days = overdue_days(self.source, self.now).filter(|_| self.busy)?;
        Some(format!("its sessions have kept every run away for {days} days: revoke the source, or end its session"))
    }

    fn share(&self) -> Option<String> {
        let all = self.decisions.len() as u64;
        let going = self.decisions.iter().filter(|decision| !decision.is_kept()).count() as u64;
        let most = u64::from(self.max_remove_percent);
        (going * 100 > all * most).then(|| format!("{going} of {all} snapshots would go, more than max-remove {most}%"))
    }
}

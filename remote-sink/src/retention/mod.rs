//! Retention: what the operator lets go, and the room that it gives back (docs/retention.md). The conductor: it alone
//! names the stages and their order. Reached from the operator's commands alone, never from a session.
//!
//! `observe` → history (heads with times that can be believed) → policy (kept, with reasons) → brakes → trash →
//! reach → condemn → free.

pub mod brakes;
pub mod condemned;
pub mod history;
pub mod observe;
pub mod packing;
pub mod policy;
pub mod reach;
pub mod rules;
mod space;
mod sweep;
pub mod vault;
mod weigh;

use crate::journal::{Event, ITEMS_MAX, RemovedSnapshot, SourceMemory, Words};
use crate::ledger;
use crate::store::layout::Layout;
use crate::store::pack::SHELVES;
use crate::store::{Name, Shelf, names};
use brakes::{Alarm, Brake, Facts};
use history::{History, Link, Place};
use packing::{Packed, Packing};
use policy::Decision;
use rules::InForce;
use rustix::fs::{FlockOperation, flock};
use shared::codec::List;
use shared::id::{Digest, SourceName};
pub use space::Given;
use std::collections::HashSet;
use std::fs::File;
use std::time::{Duration, Instant};
use sweep::Step;
use vault::{Desk, RetentionError, Source, io_error};
use weigh::Weighed;

/// Between two tries to get a source from its session.
const RETRY: Duration = Duration::from_millis(100);

/// How a run goes on.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub dry_run: bool,
    /// Empties the trash and frees what is dead without waiting.
    pub now: bool,
    pub max_remove_percent: Option<u32>,
    /// Alarms that the operator has looked into, and what was found.
    pub accept: Vec<Brake>,
    pub reason: String,
    pub packing: Packing,
    /// How long to wait for a session of a source that could not be pruned for days.
    pub wait: Duration,
}

/// What a run did with one source, or would do.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub source: SourceName,
    pub rules: InForce,
    pub history: History,
    pub decisions: Vec<Decision>,
    pub alarms: Vec<Alarm>,
    /// A session runs: nothing was changed.
    pub busy: bool,
    pub given: Given,
    pub packed: Packed,
    /// Packs that could not be read and were made again; for people.
    pub salvaged: Vec<String>,
    /// Blocks cannot be freed while something is damaged.
    pub damaged: Option<String>,
}

impl Outcome {
    /// Alarms stopped it.
    pub fn is_stopped(&self) -> bool {
        !self.alarms.is_empty()
    }
    /// Paths of what is damaged, or not what it should be.
    pub fn damage(&self) -> impl Iterator<Item = &String> {
        let packed = self.packed.foreign.iter().chain(&self.packed.damaged);
        self.damaged.iter().chain(&self.given.damaged).chain(packed)
    }
    pub fn removed(&self) -> usize {
        self.decisions.iter().filter(|decision| !decision.is_kept()).count()
    }
}

/// The source's lock, as a pushing session takes it; `None` while one runs.
fn lock(layout: &Layout, name: &SourceName) -> Result<Option<File>, RetentionError> {
    let path = layout.lock(name);
    let file = File::open(&path).map_err(io_error("open", &path))?;
    Ok(flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(file))
}

/// The same, trying for a while. A silent session sees that somebody waits, and ends (`serve/lock.rs`).
fn lock_waiting(layout: &Layout, name: &SourceName, wait: Duration) -> Result<Option<File>, RetentionError> {
    let start = Instant::now();
    let path = layout.staging(name);
    let waiting = File::open(&path).map_err(io_error("open", &path))?;
    loop {
        let held = lock(layout, name)?;
        if held.is_some() || start.elapsed() >= wait {
            return Ok(held);
        }
        // Another that waits shares it; a session that asks at this very moment has it for an instant.
        let _ = flock(&waiting, FlockOperation::NonBlockingLockShared);
        std::thread::sleep(RETRY);
    }
}

/// Prunes one source.
pub fn prune(desk: &mut Desk, name: &SourceName, options: &Options) -> Result<Outcome, RetentionError> {
    prune_stepwise(desk, name, options, &|_| Ok(()))
}

fn prune_stepwise(
    desk: &mut Desk,
    name: &SourceName,
    options: &Options,
    step: Step,
) -> Result<Outcome, RetentionError> {
    let source = desk.source(name).cloned().ok_or_else(|| RetentionError::NoSuch(name.to_string()))?;
    // The lock first: a head that were committed between the look and the lock would be missing from the history, and
    // its body would seem to belong to nobody.
    let none = SourceMemory::default();
    let overdue = brakes::overdue_days(desk.journal.memory.source(name).unwrap_or(&none), desk.now.wall);
    let wait = if overdue.is_some() && !options.dry_run { options.wait } else { Duration::ZERO };
    let held = lock_waiting(desk.layout, name, wait)?;
    let salvaged = match &held {
        Some(_) if !options.dry_run => salvage_unreadable(desk, &source, step)?,
        _ => Vec::new(),
    };
    observe::observe(desk)?.of(name)?;
    step("after observing").map_err(io_error("observe", desk.layout.root()))?;
    for brake in options.accept.iter().filter(|_| !options.dry_run) {
        let (what, why) = (Words::truncated(brake.as_str()), Words::truncated(&options.reason));
        desk.journal.append(&desk.now, Event::Accepted(name.clone(), what, why))?;
    }
    let mut outcome = judge(desk, &source, options, held.is_none())?;
    outcome.salvaged = salvaged;
    for alarm in outcome.alarms.iter().filter(|_| !options.dry_run) {
        let (what, message) = (Words::truncated(alarm.brake.as_str()), Words::truncated(&alarm.message));
        desk.journal.append(&desk.now, Event::Alarm(name.clone(), what, message))?;
    }
    if options.dry_run || outcome.busy || outcome.is_stopped() {
        return Ok(outcome);
    }
    remove(desk, &source, &outcome, step)?;
    match space::give_back(desk, &source, &outcome.history, options.now, step) {
        Ok(given) => outcome.given = given,
        Err(RetentionError::Damaged { path, .. }) => outcome.damaged = Some(path),
        Err(e) => return Err(e),
    }
    match packing::pack(desk, &source, &outcome.history, options.packing, step) {
        Ok(packed) => outcome.packed = packed,
        // Room was given back, and the journal is to know of it.
        Err(RetentionError::Damaged { path, .. }) => outcome.damaged = outcome.damaged.or(Some(path)),
        Err(e) if e.is_damage() => outcome.damaged = outcome.damaged.or(Some(e.to_string())),
        Err(e) => return Err(e),
    }
    forget_records(desk, &source, step)?;
    let (kept, removed) = ((outcome.decisions.len() - outcome.removed()) as u64, outcome.removed() as u64);
    let freed = outcome.given.freed_bytes;
    desk.journal.append(&desk.now, Event::Pruned(name.clone(), kept, removed, freed))?;
    observe::publish(desk, &source)?;
    if removed > 0 || freed > 0 {
        ledger::rebuild_held(desk.layout.root(), name, &source.key)?;
    }
    Ok(outcome)
}

/// A pack whose index is damaged stops every reader: it is made again before anything else is looked at.
fn salvage_unreadable(desk: &Desk, source: &Source, step: Step) -> Result<Vec<String>, RetentionError> {
    let is_damaged = |shelf| source.store.packs(shelf, true).is_err_and(|e| e.is_damage());
    if !SHELVES.into_iter().any(is_damaged) {
        return Ok(Vec::new());
    }
    let sweeper = sweep::Sweeper { layout: desk.layout, source, step };
    sweeper.clear_leftovers()?;
    packing::salvage(&sweeper, &desk.sink)
}

/// Makes damaged packs again; what was done, for people. `None`: a session of the source runs.
pub fn salvage(desk: &Desk, name: &SourceName) -> Result<Option<Vec<String>>, RetentionError> {
    let source = desk.source(name).ok_or_else(|| RetentionError::NoSuch(name.to_string()))?;
    let Some(_held) = lock(desk.layout, name)? else { return Ok(None) };
    let sweeper = sweep::Sweeper { layout: desk.layout, source, step: &|_| Ok(()) };
    sweeper.clear_leftovers()?;
    packing::salvage(&sweeper, &desk.sink).map(Some)
}

/// Session records that are so old say nothing any more: the journal has seen what they brought, the ledger has it.
const RECORD_SECONDS: i64 = 32 * 86_400;

/// Removes old session records, which are in the ledger before. A crash leaves some of them, and a ledger that is right.
fn forget_records(desk: &Desk, source: &Source, step: Step) -> Result<(), RetentionError> {
    let before = u64::try_from(desk.now.wall.saturating_sub(RECORD_SECONDS)).unwrap_or(0);
    let is_old = |name: &Name| matches!(name, Name::Record { started, .. } if *started < before);
    let old: Vec<Name> = names(&source.store, Shelf::Records)?.into_iter().filter(is_old).collect();
    if old.is_empty() {
        return Ok(());
    }
    if ledger::fold(desk.layout.root(), &source.name, &source.key, &desk.sink).is_err() {
        // It is a cache: what the objects say is as good.
        ledger::rebuild_held(desk.layout.root(), &source.name, &source.key)?;
    }
    let sweeper = sweep::Sweeper { layout: desk.layout, source, step };
    sweeper.remove_records(&old)?;
    Ok(ledger::forget_records(desk.layout.root(), &source.name, &old)?)
}

/// What the rules and the brakes say.
fn judge(desk: &Desk, source: &Source, options: &Options, busy: bool) -> Result<Outcome, RetentionError> {
    judge_within(desk, source, options, busy, weigh::WORK_MAX)
}

/// The same; `work` is what the weighing may cost.
fn judge_within(
    desk: &Desk,
    source: &Source,
    options: &Options,
    busy: bool,
    work: u64,
) -> Result<Outcome, RetentionError> {
    let history = history::read(desk.view(), source)?;
    let rules = InForce::of(desk.config, &source.name);
    let decisions = policy::decide(&rules.rules, &history.present(), desk.now.wall);
    let none = SourceMemory::default();
    let memory = desk.journal.memory.source(&source.name).unwrap_or(&none);
    let since = memory.pruned.map(|(_, entry)| entry);
    let mut facts = Facts {
        memory: &desk.journal.memory,
        source: memory,
        history: &history,
        weighed: Weighed::default(),
        alerts: &desk.config.alerts,
        decisions: &decisions,
        busy,
        now: desk.now.wall,
        max_remove_percent: options.max_remove_percent.unwrap_or(rules.max_remove_percent),
    };
    // What stops the run anyway costs no further work: it is weighed when the operator has accepted that.
    if !facts.is_flooded(&options.accept) {
        facts.weighed = weigh::weigh(source, &history, since, brakes::WEIGHED_BEFORE, work)?;
    }
    let mut alarms = facts.judge();
    alarms.retain(|alarm| !options.accept.contains(&alarm.brake));
    let source = source.name.clone();
    Ok(Outcome {
        source,
        rules,
        history,
        decisions,
        alarms,
        busy,
        given: Given::default(),
        packed: Packed::default(),
        salvaged: Vec::new(),
        damaged: None,
    })
}

/// Moves the bodies of what goes to the trash. First the journal, then what sessions say, then the bodies: whatever is
/// missing was explained before it went.
fn remove(desk: &mut Desk, source: &Source, outcome: &Outcome, step: Step) -> Result<(), RetentionError> {
    let link = |decision: &Decision| outcome.history.link(&decision.id);
    let kept: HashSet<Digest> =
        outcome.decisions.iter().filter(|d| d.is_kept()).filter_map(link).map(|link| link.body).collect();
    let going: Vec<(&Decision, &Link)> =
        outcome.decisions.iter().filter(|d| !d.is_kept()).filter_map(|d| Some((d, link(d)?))).collect();
    for chunk in going.chunks(ITEMS_MAX) {
        let removed =
            chunk.iter().filter(|(_, link)| !kept.contains(&link.body)).map(|(decision, link)| RemovedSnapshot {
                lineage: decision.id.lineage,
                sequence: decision.id.sequence,
                head: link.head,
                body: link.body,
                why: Words::truncated(&decision.why()),
            });
        let removed: Vec<_> = removed.collect();
        if !removed.is_empty() {
            desk.journal.append(&desk.now, Event::Removed(source.name.clone(), List::new(removed)?))?;
        }
    }
    observe::publish(desk, source)?;
    let sweeper = sweep::Sweeper { layout: desk.layout, source, step };
    for body in going.iter().map(|(_, link)| link.body).filter(|body| !kept.contains(body)).collect::<HashSet<_>>() {
        sweeper.to_trash(&body)?;
    }
    Ok(())
}

/// Brings a snapshot back from the trash, and holds it: the rules would remove it again.
pub fn undelete(desk: &mut Desk, name: &SourceName, prefix: &str) -> Result<Link, RetentionError> {
    undelete_stepwise(desk, name, prefix, &|_| Ok(()))
}

fn undelete_stepwise(desk: &mut Desk, name: &SourceName, prefix: &str, step: Step) -> Result<Link, RetentionError> {
    let source = desk.source(name).cloned().ok_or_else(|| RetentionError::NoSuch(name.to_string()))?;
    let Some(_held) = lock(desk.layout, name)? else { return Err(RetentionError::Busy(name.clone())) };
    observe::observe(desk)?.of(name)?;
    step("after observing").map_err(io_error("observe", desk.layout.root()))?;
    let link = history::read(desk.view(), &source)?.find(prefix)?.clone();
    if link.place != Place::Trash {
        return Err(RetentionError::NotInTrash(prefix.into()));
    }
    let id = link.snapshot.id;
    let why = Words::truncated("brought back from the trash");
    desk.journal.append(&desk.now, Event::Held(name.clone(), id.lineage, id.sequence, why))?;
    sweep::Sweeper { layout: desk.layout, source: &source, step }.bring_back(&link.body)?;
    desk.journal.append(&desk.now, Event::Undeleted(name.clone(), link.body))?;
    observe::publish(desk, &source)?;
    ledger::rebuild_held(desk.layout.root(), name, &source.key)?;
    Ok(link)
}

/// Holds a snapshot against every rule, or lets the rules decide again. Only what is here can be held.
pub fn hold(
    desk: &mut Desk,
    name: &SourceName,
    prefix: &str,
    hold: bool,
    reason: &str,
) -> Result<Link, RetentionError> {
    observe::observe(desk)?.of(name)?;
    let source = desk.source(name).cloned().ok_or_else(|| RetentionError::NoSuch(name.to_string()))?;
    let link = history::read(desk.view(), &source)?.find(prefix)?.clone();
    match link.place {
        Place::Trash if hold => return Err(RetentionError::InTrash(prefix.into())),
        Place::Nowhere if hold => return Err(RetentionError::Nowhere(prefix.into())),
        Place::Here | Place::Trash | Place::Nowhere => {}
    }
    let (id, why) = (link.snapshot.id, Words::truncated(reason));
    let event = if hold { Event::Held } else { Event::Released };
    desk.journal.append(&desk.now, event(name.clone(), id.lineage, id.sequence, why))?;
    Ok(link)
}

#[cfg(test)]
mod tests;

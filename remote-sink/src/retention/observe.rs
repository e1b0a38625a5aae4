//! The observer: notes in the journal what is new since the last look, and tells sessions what is promised. Run every
//! few minutes, and by every command that changes something; so a time of receipt can be believed as far as two
//! observations bound it.

use crate::journal::{Event, NewHeads, SourceSeen, Words};
use crate::published::{Expired, Published, runs};
use crate::retention::rules::InForce;
use crate::retention::vault::{Desk, RetentionError, Source, io_error};
use crate::store::{Entry, Name, Shelf, Store, Stored, read_whole};
use shared::codec::List;
use shared::format::Head;
use shared::id::{Lineage, SourceName};
use shared::limits::HEAD_BYTES_MAX;
use shared::signature::{Plain, Signed, Verified};
use shared::sys::durable;
use std::collections::BTreeMap;

/// An observation without anything new is noted when the last one is so old.
const TICK_SECONDS: i64 = 3600;

/// What one look found.
#[derive(Debug, Default)]
pub struct Observed {
    pub sources: u64,
    pub new_heads: u64,
    /// Sources that could not be looked at, or told. The others were.
    pub failed: Vec<(SourceName, RetentionError)>,
}

impl Observed {
    /// The failure of this source, if it is among them.
    pub fn of(self, name: &SourceName) -> Result<(), RetentionError> {
        self.failed.into_iter().find(|(failed, _)| failed == name).map_or(Ok(()), |(_, error)| Err(error))
    }
}

/// A head whose signature and name fit.
pub fn read_head(source: &Source, lineage: Lineage, sequence: u64) -> Result<Option<Verified<Head>>, RetentionError> {
    let bytes = match read_whole(&source.store, &Name::Head(lineage, sequence), HEAD_BYTES_MAX) {
        Err(e) if e.is_damage() => return Ok(None),
        bytes => bytes?,
    };
    let head = bytes.and_then(|bytes| Signed::<Head>::parse(&bytes).ok()?.verify(&source.key).ok());
    Ok(head.filter(|head| (head.source, head.lineage, head.sequence) == (source.id, lineage, sequence)))
}

/// Sequence numbers on the shelf, ascending, of each lineage.
pub fn on_shelf(source: &Source) -> Result<BTreeMap<Lineage, Vec<u64>>, RetentionError> {
    let mut found: BTreeMap<Lineage, Vec<u64>> = BTreeMap::new();
    source.store.list(Shelf::Heads, &mut |entry| {
        if let Entry::Object(Name::Head(lineage, sequence)) = entry {
            found.entry(lineage).or_default().push(sequence);
        }
    })?;
    found.values_mut().for_each(|sequences| sequences.sort_unstable());
    Ok(found)
}

/// Archives and their bytes.
pub fn holdings(source: &Source) -> Result<(u64, u64), RetentionError> {
    let mut names = Vec::new();
    source.store.list(Shelf::Archives, &mut |entry| {
        if let Entry::Object(name) = entry {
            names.push(name);
        }
    })?;
    let mut bytes = 0u64;
    for name in &names {
        bytes = bytes.saturating_add(match source.store.get(name) {
            Err(e) if e.is_damage() => 0,
            stored => stored?.map_or(0, |stored| stored.bytes()),
        });
    }
    Ok((names.len() as u64, bytes))
}

/// Runs of heads that one observation lists; what is left is seen by the next one.
const RUNS_MAX: usize = 256;

/// Heads behind the newest that was seen, in runs that follow one another. One that cannot be read ends a run and hides
/// nothing behind it: history tells of the gap, and what came later is seen all the same.
fn new_heads(desk: &Desk, source: &Source) -> Result<Vec<NewHeads>, RetentionError> {
    let memory = desk.journal.memory.source(&source.name);
    let mut found = Vec::new();
    for (lineage, sequences) in on_shelf(source)? {
        let known = memory.and_then(|memory| memory.newest(&lineage)).map(|seen| seen.last);
        let first = sequences.partition_point(|sequence| Some(*sequence) <= known);
        let mut run: Option<NewHeads> = None;
        for sequence in sequences[first..].iter().copied() {
            let Some(head) = read_head(source, lineage, sequence)? else { continue };
            let newest = head.digest();
            match &mut run {
                Some(run) if run.last.checked_add(1) == Some(sequence) && head.previous == Some(run.newest) => {
                    (run.last, run.newest) = (sequence, newest);
                }
                _ => found.extend(run.replace(NewHeads { lineage, first: sequence, last: sequence, newest })),
            }
            if found.len() >= RUNS_MAX {
                return Ok(found);
            }
        }
        found.extend(run);
        if found.len() >= RUNS_MAX {
            break;
        }
    }
    Ok(found)
}

/// What is new of a source; `None`: nothing.
fn look(desk: &Desk, source: &Source) -> Result<Option<SourceSeen>, RetentionError> {
    let heads = new_heads(desk, source)?;
    let (archives, bytes) = holdings(source)?;
    let before = desk.journal.memory.source(&source.name).and_then(|memory| memory.growth.last().copied());
    if heads.is_empty() && before.is_some_and(|held| (held.archives, held.bytes) == (archives, bytes)) {
        return Ok(None);
    }
    let (name, heads) = (source.name.clone(), List::new(heads)?);
    Ok(Some(SourceSeen { name, source: source.id, heads, archives, bytes }))
}

/// Looks at all sources. One that cannot be looked at keeps nobody from seeing the others.
pub fn observe(desk: &mut Desk) -> Result<Observed, RetentionError> {
    let mut result = Observed { sources: desk.sources.len() as u64, ..Observed::default() };
    let mut seen = Vec::new();
    for source in &desk.sources {
        match look(desk, source) {
            Ok(new) => seen.extend(new),
            Err(error) => result.failed.push((source.name.clone(), error)),
        }
    }
    let count = |run: &NewHeads| (run.last - run.first).saturating_add(1);
    result.new_heads = seen.iter().flat_map(|seen| seen.heads.iter()).map(count).fold(0, u64::saturating_add);
    let due = desk.journal.memory.observed().is_none_or(|at| desk.now.wall.abs_diff(at) >= TICK_SECONDS as u64);
    if !seen.is_empty() || due {
        let mut rest = seen;
        loop {
            let more = rest.split_off(rest.len().min(256));
            desk.journal.append(&desk.now, Event::Observed(List::new(rest)?))?;
            if more.is_empty() {
                break;
            }
            rest = more;
        }
    }
    note_rules(desk)?;
    for source in &desk.sources {
        if let Err(error) = publish(desk, source) {
            result.failed.push((source.name.clone(), error));
        }
    }
    Ok(result)
}

/// Rules that changed are noted: what they promised counts on.
fn note_rules(desk: &mut Desk) -> Result<(), RetentionError> {
    for name in desk.sources.iter().map(|source| source.name.clone()).collect::<Vec<_>>() {
        let rules = InForce::of(desk.config, &name);
        let text = Words::truncated(&rules.describe());
        let known = desk.journal.memory.source(&name).and_then(|memory| memory.rules.clone());
        let unchanged = known.as_deref() == Some(&*text) || (known.is_none() && !rules.rules.is_set());
        if !unchanged {
            let promise = rules.rules.promise_seconds();
            desk.journal.append(&desk.now, Event::Policy(name, text, promise))?;
        }
    }
    Ok(())
}

/// What sessions of a source should say, by the journal and the rules in force.
pub fn note_of(desk: &Desk, source: &Source) -> Result<Published, RetentionError> {
    let rules = InForce::of(desk.config, &source.name).rules;
    let mut note = Published {
        promise: rules.promise_seconds(),
        checkpoint_promise: rules.checkpoint_promise_seconds(),
        ..Published::nothing(source.id)
    };
    if let Some(memory) = desk.journal.memory.source(&source.name) {
        note.journal = memory.changed;
        let mut lineages: BTreeMap<Lineage, Vec<u64>> = BTreeMap::new();
        for id in memory.gone.keys() {
            lineages.entry(id.lineage).or_default().push(id.sequence);
        }
        let expired = lineages.into_iter().map(|(lineage, all)| Expired { lineage, runs: runs(all.into_iter()) });
        note.expired = List::new(expired.take(256).collect())?;
    }
    Ok(note)
}

/// Writes a source's note if it is not up to date: replaced as a whole.
pub fn publish(desk: &Desk, source: &Source) -> Result<(), RetentionError> {
    let path = desk.layout.published(&source.name);
    let note = Plain::new(note_of(desk, source)?)?;
    if std::fs::read(&path).is_ok_and(|held| held == note.as_bytes()) {
        return Ok(());
    }
    durable::replace_as(&path, note.as_bytes(), durable::PUBLIC, durable::Owner::Directory)
        .map_err(io_error("write", &path))
}

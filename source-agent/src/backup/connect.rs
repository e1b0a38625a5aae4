//! The beginning of a session with one remote: is it the chain we remember, and what does it hold?

use super::heal::{self, Damage};
use super::numbers::LEAP_MAX;
use super::outcome::shown;
use super::push::Dial;
use crate::client::{Client, OBJECTS_AHEAD_MAX};
use crate::crypto::secret::IndexSecret;
use crate::index::rebuild::{Own, learn};
use crate::index::{Index, SinkFacts};
use crate::report::{Exit, Failure, Outcome};
use crate::watch::{self, ChainState, Verdict};
use shared::format::archive::{Part, Region};
use shared::id::{ArchiveId, ArchiveNumber, Chain, Lineage, SourceId, VerifyKey};
use shared::wire::Welcome;
use shared::wire::reply::ArchiveItem;
use std::collections::HashSet;
use std::path::Path;

/// Sessions after which the whole list of archives is read again, to notice what went away without a word.
pub const WHOLE_LIST_AFTER: u64 = 30;

/// A remote that denies again, within so many seconds, archives that it had acknowledged is left out of runs with
/// others: what one lacks is laid anew for all, so a sink that lies could fill up the honest ones.
const DENIES_AGAIN: i64 = 90 * 24 * 3600;

/// Archives that are not used and are told of one by one.
const TOLD_MAX: usize = 10;

/// A remote that is ready to be pushed to.
pub struct Connected {
    pub client: Client,
    pub state: ChainState,
    pub facts: SinkFacts,
    /// Archives that it holds.
    pub present: HashSet<u64>,
    /// It listed archives that the index did not have, or had with another id.
    pub learned: bool,
    pub next_number: u64,
    /// What its sink says is damaged there.
    pub damage: Option<Damage>,
    /// What people must hear of.
    pub warnings: Vec<String>,
}

/// Who we are, for the checks.
pub struct Me<'a> {
    pub source: SourceId,
    pub lineage: Lineage,
    pub key: VerifyKey,
    pub index_secret: &'a IndexSecret,
    /// Above all archive numbers that this machine knows of.
    pub known: u64,
    /// Seconds since 1970, by this machine's clock.
    pub now: i64,
    /// No other remote takes part in the run.
    pub alone: bool,
}

/// Connects, judges the chain, brings the index up to date with what the sink holds. `told` hears of what takes long.
pub fn connect(
    dial: &dyn Dial,
    me: &Me,
    index: &Index,
    state_dir: &Path,
    whole_list: bool,
    told: &dyn Fn(&str),
) -> Outcome<Connected> {
    let mut client = dial.dial()?;
    let chain = Chain { source: me.source, lineage: me.lineage, sink: *client.sink() };
    let mut state = watch::load(state_dir, &chain).map_err(|failure| failure.remote(dial.name()))?;
    // A pending head is judged here and sent by the pushing thread; an alarm ends it before anything is sent.
    if let Verdict::Alarm(_) = watch::judge(&state, client.welcome().newest.as_ref()) {
        return match watch::reconcile(&mut client, state_dir, &mut state, &me.key)? {
            Verdict::Alarm(failure) => Err(failure.remote(dial.name())),
            _ => Err(Failure::new("chain", Exit::Tampered, "the sink changed its word").remote(dial.name())),
        };
    }
    let next_number = next_number(client.welcome(), me).map_err(|failure| failure.remote(dial.name()))?;
    let first = state.remembered.is_none() && state.pending.is_none();
    let mut warnings = if first { foreign_lineages(&mut client, me, state_dir)? } else { Vec::new() };
    let facts = index.sink(client.sink())?;
    let Refreshed { learned, denied } =
        refresh(&mut client, me, index, &facts, whole_list, told).map_err(|failure| failure.remote(dial.name()))?;
    if denied > 0 {
        warnings.push(format!(
            "{}: {denied} archives that it acknowledged and that the last snapshot needs are not there any more: their \
             content is sent again; ask the sink's operator (remote-sink verify)",
            dial.name()
        ));
    }
    let facts = index.sink(client.sink())?;
    let present = index.present(&facts)?;
    let damage = match heal::ask(&mut client, me, index, &facts, &present) {
        Ok(damage) => damage,
        // A list that cannot be used heals nothing, and stops nothing either.
        Err(failure) if failure.code == "sink-lies" => {
            let why = shown(failure.message.as_bytes());
            warnings.push(format!("{}: its list of damage cannot be used, nothing is healed: {why}", dial.name()));
            client = dial.dial()?;
            None
        }
        Err(failure) => return Err(failure.remote(dial.name())),
    };
    Ok(Connected { client, state, facts, present, learned, next_number, damage, warnings })
}

pub fn own<'a>(me: &Me<'a>) -> Own<'a> {
    Own { source: me.source, lineage: me.lineage, key: me.key, index_secret: me.index_secret }
}

/// At the first meeting of this lineage and a sink: does the sink hold other lineages of this source, of which nothing is
/// remembered here? The sink stores any lineage, so nothing else would tell that a history was cut off
/// (docs/decisions/0009-lineages-at-the-sink.md).
fn foreign_lineages(client: &mut Client, me: &Me, state_dir: &Path) -> Outcome<Vec<String>> {
    let mut known = watch::remembered_lineages(state_dir, client.sink());
    known.push(me.lineage);
    let own = client.sources()?.into_iter().filter(|item| item.source == me.source);
    let foreign: Vec<Lineage> =
        own.flat_map(|item| item.lineages.into_vec()).filter(|lineage| !known.contains(lineage)).collect();
    let Some(one) = foreign.first() else { return Ok(Vec::new()) };
    let more = if foreign.len() > 1 { format!(" and {} more", foreign.len() - 1) } else { String::new() };
    Ok(vec![format!(
        "{} holds a history of this source that this machine does not remember: lineage {one}{more}. Either this \
         machine's state was lost, or another machine has its key; find out which. This run begins a history of its \
         own, lineage {}: everything is sent again, and readers count it only after: source-agent trust add \
         SOURCE-CARD --lineage {}",
        client.remote_name(),
        me.lineage,
        me.lineage,
    )])
}

/// The number above all that the sink holds, if that can be.
fn next_number(welcome: &Welcome, me: &Me) -> Outcome<u64> {
    let next = welcome.next_number.map_or(0, ArchiveNumber::get);
    if next <= me.known.saturating_add(LEAP_MAX) {
        return Ok(next);
    }
    let message = format!("the sink says that its next archive has number {next}; this machine expects {}", me.known);
    Err(Failure::new("sink-lies", Exit::Tampered, message)
        .help("do not trust this sink's answers; compare with its operator (remote-sink verify), and check your other remotes"))
}

/// What came of comparing the index with a sink's list.
struct Refreshed {
    /// There were archives that the index did not have.
    learned: bool,
    /// Archives that are needed, were acknowledged once, and are not on the list, or are others there.
    denied: usize,
}

/// Compares the index with the sink's list of archives, from where it was last accounted for.
fn refresh(
    client: &mut Client,
    me: &Me,
    index: &Index,
    facts: &SinkFacts,
    whole_list: bool,
    told: &dyn Fn(&str),
) -> Outcome<Refreshed> {
    let next = client.welcome().next_number.map_or(0, ArchiveNumber::get);
    let journal = client.welcome().journal;
    // Where something is damaged, archives may be gone as a whole.
    let damaged = client.welcome().damaged.is_some();
    let whole =
        whole_list || damaged || facts.journal != journal || facts.lists >= WHOLE_LIST_AFTER || next < facts.next;
    let from = if whole { 0 } else { facts.next };
    if from >= next && !whole {
        return index.account(facts, next, journal, false).map(|()| Refreshed { learned: false, denied: 0 });
    }
    let number = ArchiveNumber::new(from).map_err(|e| Failure::new("numbers", Exit::Failed, e.to_string()))?;
    // A sink whose next number is 0 says already that it holds none: that costs no round trip.
    let items = if next == 0 { Vec::new() } else { client.archives(&me.source, &me.lineage, number)? };
    if items.last().is_some_and(|last| last.number.get() >= next) {
        let message = "the sink lists archives above the number that it says is its next";
        return Err(Failure::new("sink-lies", Exit::Tampered, message));
    }
    let present = index.present(facts)?;
    let held: HashSet<u64> = items.iter().map(|item| item.number.get()).collect();
    // The sink's word alone: it takes away nothing but what is believed of this sink.
    let mut gone: HashSet<u64> =
        present.iter().copied().filter(|number| *number >= from && !held.contains(number)).collect();
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for item in items {
        let number = item.number.get();
        match index.archive_id(number)? {
            Some(id) if id == item.id => known.push(number),
            Some(_) => {
                gone.extend(present.get(&number));
                unknown.push(item);
            }
            None => unknown.push(item),
        }
    }
    let denied = denied(me, index, facts, &gone)?;
    index.drop_presence(facts, &gone.into_iter().collect::<Vec<_>>())?;
    let known: Vec<u64> = known.into_iter().filter(|number| !present.contains(number)).collect();
    index.add_presence(facts, &known)?;
    let learned = !unknown.is_empty();
    learn_all(client, me, index, facts, unknown, told)?;
    index.account(facts, next, journal, whole)?;
    Ok(Refreshed { learned, denied })
}

/// How many of these archives are needed. Fails where that is so again and others would have to take them too.
fn denied(me: &Me, index: &Index, facts: &SinkFacts, gone: &HashSet<u64>) -> Outcome<usize> {
    let needed = index.needed(gone)?;
    if needed == 0 {
        return Ok(0);
    }
    let again = index.denied_at(facts)?.is_some_and(|at| (at..at.saturating_add(DENIES_AGAIN)).contains(&me.now));
    if again && !me.alone {
        let message = format!(
            "the sink denies, once more, {needed} archives that it acknowledged and that the last snapshot needs: \
             nothing is laid anew for it in a run with other remotes"
        );
        return Err(Failure::new("sink-denies", Exit::Tampered, message).help(
            "ask its operator (remote-sink verify); to go on with it, whereupon the others take once more what it lacks: \
             source-agent backup -r NAME",
        ));
    }
    index.note_denied(facts, me.now)?;
    Ok(needed)
}

fn learn_all(
    client: &mut Client,
    me: &Me,
    index: &Index,
    facts: &SinkFacts,
    unknown: Vec<ArchiveItem>,
    told: &dyn Fn(&str),
) -> Outcome<()> {
    let own = own(me);
    if !unknown.is_empty() {
        told(&format!("the local index lacks {} archives; their chunk tables are fetched", unknown.len()));
    }
    let (mut unused, mut ahead) = (0usize, unknown.iter());
    // Asked for ahead: over a long line each answer that is waited for is a round trip.
    for item in ahead.by_ref().take(OBJECTS_AHEAD_MAX) {
        client.ask_archive(&me.source, &me.lineage, item.number)?;
    }
    for ArchiveItem { number, id } in &unknown {
        let fetched = client.take_archive(*number, id, |region| table_part(region, me));
        if let (Some(item), false) = (ahead.next(), client.is_over()) {
            client.ask_archive(&me.source, &me.lineage, item.number)?;
        }
        let learned = fetched.and_then(|(region, table)| learn(index, facts, &own, *number, id, &region, table));
        match learned {
            Ok(()) => {}
            // Lost line, full disk, damaged index: no reason to go on. Nor with a sink that contradicts itself.
            Err(failure) if !matches!(failure.exit, Exit::Tampered | Exit::NotFound) => return Err(failure),
            Err(failure) if failure.code == "sink-lies" => return Err(failure),
            Err(failure) => {
                unused += 1;
                if unused <= TOLD_MAX {
                    told(&format!("archive {number} is not used: {}", shown(failure.message.as_bytes())));
                }
            }
        }
    }
    if unused > TOLD_MAX {
        told(&format!("and {} more archives are not used", unused - TOLD_MAX));
    }
    Ok(())
}

/// Region and sealed chunk table of an archive.
pub fn fetch(client: &mut Client, me: &Me, number: ArchiveNumber, id: &ArchiveId) -> Outcome<(Region, Vec<u8>)> {
    let region = client.region(&me.source, &me.lineage, number, id)?;
    let part = table_part(&region, me)?;
    let table = client.table(&me.source, &me.lineage, number, &part)?;
    Ok((region, table))
}

/// What an archive's signed index says of its chunk table.
fn table_part(region: &Region, me: &Me) -> Outcome<Part> {
    let foreign = |why: &str| Failure::new("foreign-archive", Exit::Tampered, why);
    let index = region.index.clone().verify(&me.key).map_err(|e| foreign(&e.to_string()))?;
    index.parts.last().cloned().ok_or_else(|| foreign("it has no chunk table"))
}

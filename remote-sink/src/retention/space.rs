//! Giving room back, in two phases: this run condemns what nothing names, a later one frees what an earlier one
//! condemned and still nothing names. All of it under the source's lock, so that every session that could have relied
//! on a condemned block has ended, and whatever it committed is among the bodies that are read here.

use crate::journal::{Event, FreedArchive};
use crate::retention::condemned::{self, Condemned, Dead, Item, OrphanBody};
use crate::retention::history::{History, bodies, trash};
use crate::retention::reach::{Bits, Named, Place, Reachable, add_page, parse_body, reach, read_body, read_page};
use crate::retention::rules::InForce;
use crate::retention::sweep::{Step, Sweeper, Swept};
use crate::retention::vault::{Desk, RetentionError, Source, io_error};
use crate::store::archive::{self, ArchiveError};
use crate::store::{Name, Shelf, names};
use shared::codec::{Blob, List};
use shared::format::Body;
use shared::id::{ArchiveNumber, Digest, Lineage};
use shared::limits::BODY_BYTES_MAX;
use shared::signature::Plain;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read;

/// From condemning to freeing: longer than the longest session.
const WAIT_SECONDS: i64 = 25 * 3600;
/// An archive is written again when so much of what it holds is dead.
const DEAD_SHARE: u64 = 4;

/// In a vault of more archives a run looks at the indexes of one in `SLICES` only, at others each time.
const ARCHIVES_AT_ONCE: usize = 4096;
const SLICES: u64 = 32;

/// What a run gave back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    pub freed_bytes: u64,
    pub archives_removed: u64,
    pub archives_rewritten: u64,
    pub purged: u64,
    /// Archives with blocks that a later run will free.
    pub condemned: u64,
    pub damaged: Vec<String>,
}

fn read_trashed(desk: &Desk, source: &Source, digest: &Digest) -> Result<Plain<Body>, RetentionError> {
    let path = desk.layout.trashed(&source.name, digest);
    let file = std::fs::File::open(&path).map_err(io_error("open", &path))?;
    let mut bytes = Vec::new();
    file.take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(io_error("read", &path))?;
    parse_body(source, digest, Some(&bytes), &format!("trash/{digest}"))
}

/// Bodies in the trash whose grace is over for every snapshot that named them. One that the journal does not know stays,
/// and one of a snapshot that is held.
fn to_purge(desk: &Desk, source: &Source, trash: &HashSet<Digest>, now: bool) -> Vec<Digest> {
    let Some(memory) = desk.journal.memory.source(&source.name) else { return Vec::new() };
    let rules = InForce::of(desk.config, &source.name);
    let mut over: BTreeMap<Digest, bool> = BTreeMap::new();
    for (id, gone) in memory.gone.iter().filter(|(_, gone)| trash.contains(&gone.body)) {
        let is_over = !memory.held.contains(id) && (now || rules.grace_is_over(gone.at, desk.now.wall));
        over.entry(gone.body).and_modify(|all| *all &= is_over).or_insert(is_over);
    }
    over.into_iter().filter(|(_, over)| *over).map(|(body, _)| body).collect()
}

/// Everything that one run needs to know about a source's blocks.
struct Survey {
    reachable: Reachable,
    purge: Vec<Digest>,
    /// What only purged bodies named.
    purged: Named,
    archives: BTreeSet<Place>,
    old: Option<Condemned>,
    look: Look,
}

/// Which archives' indexes a run reads, to find dead blocks that no list knows of: what an interrupted run pushed beside
/// what was committed later, and what did not fit into an earlier list.
#[derive(Clone, Copy)]
enum Look {
    All,
    Slice(u64),
}

impl Look {
    fn takes(self, number: ArchiveNumber) -> bool {
        match self {
            Self::All => true,
            Self::Slice(slice) => number.get() % SLICES == slice,
        }
    }
}

fn survey(desk: &Desk, source: &Source, now: bool) -> Result<Survey, RetentionError> {
    let trash = trash(desk.layout, &source.name)?;
    let purge = to_purge(desk, source, &trash, now);
    let shelf = bodies(source)?;
    let stays = trash.iter().filter(|digest| !purge.contains(digest));
    let here = shelf.iter().map(|digest| read_body(source, digest));
    let place = |name| if let Name::Archive(lineage, number) = name { Some((lineage, number)) } else { None };
    let archives = names(&source.store, Shelf::Archives)?.into_iter().filter_map(place).collect();
    let named = here.chain(stays.map(|digest| read_trashed(desk, source, digest)));
    let reachable = reach(source, &archives, named)?;
    let (mut purged, mut read) = (Named::new(), HashSet::new());
    for digest in &purge {
        for page in read_trashed(desk, source, digest)?.pages.iter() {
            if !reachable.pages.contains(page) && read.insert(*page) {
                add_page(&mut purged, &*read_page(source, page)?);
            }
        }
    }
    let old = condemned::read(desk, source)?;
    // By chance, as the journal's last digest is: in time every slice is looked at, however often a run comes.
    let slice = desk.journal.memory.last.map_or(0, |digest| u64::from(digest.as_bytes()[0]) % SLICES);
    let all = now || (old.is_none() && archives.len() <= ARCHIVES_AT_ONCE);
    let look = if all { Look::All } else { Look::Slice(slice) };
    Ok(Survey { reachable, purge, purged, archives, old, look })
}

/// All blocks of an archive that are present and not named; `None` if the archive cannot be read.
fn dead_blocks(source: &Source, place: &Place, live: &Bits) -> Result<Option<Bits>, RetentionError> {
    let name = Name::Archive(place.0, place.1);
    let found = match archive::open_checked(&source.store, &name, &source.key) {
        Ok(Some(found)) => found,
        Err(ArchiveError::Store(e)) if !e.is_damage() => return Err(e.into()),
        Ok(None) | Err(_) => return Ok(None),
    };
    let mut dead = Bits::default();
    let blocks = 0..found.index.blocks() as usize;
    blocks.filter(|block| found.layout.holds(*block) && !live.has(*block)).for_each(|block| dead.set(block));
    Ok(Some(dead))
}

impl Survey {
    /// What nothing names: whole archives by their names alone, of others what an earlier list and purged bodies named,
    /// and of some archives everything that their index tells.
    fn dead(&self, source: &Source) -> Result<BTreeMap<Place, Dead>, RetentionError> {
        let mut carried: BTreeMap<Place, Option<Bits>> = BTreeMap::new();
        for item in self.old.iter().flat_map(|old| old.items.iter()) {
            let entry = carried.entry((item.lineage, item.number)).or_insert_with(|| Some(Bits::default()));
            match entry {
                Some(bits) if !item.blocks.is_empty() => bits.add(&item.blocks),
                // A whole archive that was rescued in part: which blocks are dead its index tells.
                _ => *entry = None,
            }
        }
        let mut dead = BTreeMap::new();
        for place in &self.archives {
            let Some(live) = self.reachable.blocks.get(place) else {
                dead.insert(*place, Dead::Whole);
                continue;
            };
            let listed = match carried.get(place) {
                _ if self.look.takes(place.1) => None,
                None => Some(Bits::default()),
                Some(bits) => bits.clone(),
            };
            let bits = match listed {
                None => dead_blocks(source, place, live)?,
                Some(mut bits) => {
                    if let Some(purged) = self.purged.get(place) {
                        bits.add(purged.as_bytes());
                    }
                    Some(bits.without(live))
                }
            };
            if let Some(bits) = bits.filter(|bits| !bits.is_empty()) {
                dead.insert(*place, Dead::Blocks(bits));
            }
        }
        Ok(dead)
    }

    /// Highest archive number that a body names in each lineage.
    fn newest_named(&self) -> BTreeMap<Lineage, ArchiveNumber> {
        self.reachable.blocks.keys().map(|(lineage, number)| (*lineage, *number)).collect()
    }
}

/// What will be freed of one archive.
enum Free {
    Remove,
    /// Parts that stay.
    Rewrite(Bits),
}

fn plan_archive(
    source: &Source,
    place: &Place,
    ripe: Option<&Bits>,
    live: Option<&Bits>,
    is_last: bool,
) -> Result<Option<Free>, RetentionError> {
    if live.is_none() && ripe.is_none() && !is_last {
        return Ok(Some(Free::Remove));
    }
    let none = Bits::default();
    let live = live.unwrap_or(&none);
    let name = Name::Archive(place.0, place.1);
    let found = match archive::open_checked(&source.store, &name, &source.key) {
        Ok(Some(found)) => found,
        Err(ArchiveError::Store(e)) if !e.is_damage() => return Err(e.into()),
        Ok(None) | Err(_) => return Ok(None),
    };
    let blocks = found.index.blocks() as usize;
    let (mut present, mut dead_bytes, mut all_bytes) = (Bits::default(), 0u64, 0u64);
    for (at, part) in found.index.parts.iter().enumerate().filter(|(at, _)| found.layout.holds(*at)) {
        all_bytes += u64::from(part.bytes);
        let dead = at < blocks && !live.has(at) && ripe.is_none_or(|ripe| ripe.has(at));
        if dead {
            dead_bytes += u64::from(part.bytes);
        } else {
            present.set(at);
        }
    }
    let worth = dead_bytes > 0 && dead_bytes.saturating_mul(DEAD_SHARE) >= all_bytes;
    Ok(worth.then_some(Free::Rewrite(present)))
}

/// Frees what an earlier run condemned and still nothing names.
fn free(
    desk: &mut Desk,
    sweeper: &Sweeper,
    survey: &Survey,
    now: bool,
    given: &mut Given,
) -> Result<BTreeMap<Place, Bits>, RetentionError> {
    let source = sweeper.source;
    let items: Vec<_> = survey.old.iter().flat_map(|old| old.items.iter().cloned()).collect();
    let newest_named = survey.newest_named();
    let last: BTreeMap<Lineage, ArchiveNumber> = survey.archives.iter().copied().collect();
    let rules = InForce::of(desk.config, &source.name);
    let clock = desk.now.wall;
    let mut ripe: BTreeMap<Place, Option<Bits>> = BTreeMap::new();
    for item in items {
        let place = (item.lineage, item.number);
        // Pushed by a run that has not committed yet: it may go on tomorrow.
        let uncommitted = newest_named.get(&place.0).is_none_or(|newest| place.1 > *newest);
        let waited = clock.saturating_sub(item.since) >= WAIT_SECONDS;
        let is_ripe = now || (waited && (!uncommitted || rules.grace_is_over(item.since, clock)));
        if !is_ripe || !survey.archives.contains(&place) {
            continue;
        }
        match (ripe.entry(place).or_insert_with(|| Some(Bits::default())), item.blocks.is_empty()) {
            (Some(bits), false) => bits.add(&item.blocks),
            // A whole archive is ripe only while nothing at all names it.
            (entry, true) if !survey.reachable.blocks.contains_key(&place) => *entry = None,
            _ => {}
        }
    }
    let mut plan = Vec::new();
    for (place, bits) in &ripe {
        let live = survey.reachable.blocks.get(place);
        let is_last = last.get(&place.0) == Some(&place.1);
        if let Some(free) = plan_archive(source, place, bits.as_ref(), live, is_last)? {
            plan.push((*place, free));
        }
    }
    for chunk in plan.chunks(crate::journal::ITEMS_MAX) {
        let item = |(place, free): &(Place, Free)| {
            let bits = match free {
                Free::Remove => Vec::new(),
                Free::Rewrite(present) => present.as_bytes().to_vec(),
            };
            Ok(FreedArchive { lineage: place.0, number: place.1, present: Blob::new(bits)? })
        };
        let freed = chunk.iter().map(item).collect::<Result<Vec<_>, shared::codec::FormatError>>()?;
        desk.journal.append(&desk.now, Event::Freed(source.name.clone(), List::new(freed)?))?;
    }
    let mut done = BTreeMap::new();
    // Removals first: they give room to what is written again.
    for (place, free) in &plan {
        if matches!(free, Free::Remove) {
            count(sweeper.remove_archive(place)?, place, given);
            given.archives_removed += 1;
            done.insert(*place, Bits::default());
        }
    }
    for (place, free) in &plan {
        if let Free::Rewrite(present) = free {
            count(sweeper.rewrite(place, present)?, place, given);
            given.archives_rewritten += 1;
            done.insert(*place, present.clone());
        }
    }
    Ok(done)
}

fn count(swept: Swept, place: &Place, given: &mut Given) {
    match swept {
        Swept::Freed(bytes) => given.freed_bytes += bytes,
        Swept::Damaged => given.damaged.push(crate::store::layout::object_path(&Name::Archive(place.0, place.1))),
    }
}

/// Bodies on the shelf that no committed head names, with the time since when. None while a head cannot be read: its
/// body would seem to be one of them.
fn orphans(
    source: &Source,
    history: &History,
    old: Option<&Condemned>,
    now: i64,
) -> Result<Vec<OrphanBody>, RetentionError> {
    if !history.is_whole() {
        return Ok(Vec::new());
    }
    let named: HashSet<Digest> = history.links.iter().map(|link| link.body).collect();
    let known: BTreeMap<Digest, i64> =
        old.iter().flat_map(|old| old.bodies.iter()).map(|orphan| (orphan.body, orphan.since)).collect();
    let since = |body: Digest| OrphanBody { body, since: known.get(&body).copied().unwrap_or(now) };
    let mut found: Vec<_> = bodies(source)?.into_iter().filter(|body| !named.contains(body)).map(since).collect();
    found.sort_by_key(|orphan| orphan.body);
    Ok(found)
}

/// The whole of it, for a source whose lock the caller holds. The order matters: what is condemned is written down
/// before the bodies go that named it; what is freed was condemned by an earlier run (or `now` says not to wait).
pub fn give_back(
    desk: &mut Desk,
    source: &Source,
    history: &History,
    now: bool,
    step: Step,
) -> Result<Given, RetentionError> {
    let mut given = Given::default();
    let sweeper_layout = desk.layout;
    let sweeper = Sweeper { layout: sweeper_layout, source, step };
    sweeper.clear_leftovers()?;
    let mut survey = survey(desk, source, now)?;
    let dead = survey.dead(source)?;
    let old = survey.old.as_ref().map(|old| old.items.to_vec()).unwrap_or_default();
    let items = condemned::renew(&old, &dead, desk.now.wall);
    let orphaned = orphans(source, history, survey.old.as_ref(), desk.now.wall)?;
    let rules = InForce::of(desk.config, &source.name);
    let (gone, orphaned): (Vec<_>, Vec<_>) =
        orphaned.into_iter().partition(|orphan| rules.grace_is_over(orphan.since, desk.now.wall));
    // Until here nothing has changed. A crash from here on leaves blocks that are condemned too early by list alone:
    // they are freed only when a later run finds that nothing names them.
    condemned::write(desk, source, items.clone(), orphaned.clone())?;
    if now {
        survey.old = condemned::read(desk, source)?;
    }
    purge(desk, &sweeper, &survey, &mut given)?;
    for orphan in gone {
        given.freed_bytes += sweeper.remove_unnamed(&Name::Body(orphan.body))?;
    }
    let done = free(desk, &sweeper, &survey, now, &mut given)?;
    let items = still_condemned(items, &done);
    given.condemned = items.iter().map(|item| (item.lineage, item.number)).collect::<BTreeSet<_>>().len() as u64;
    condemned::write(desk, source, items, orphaned)?;
    for name in names(&source.store, Shelf::Pages)? {
        if matches!(name, Name::Page(digest) if !survey.reachable.pages.contains(&digest)) {
            given.freed_bytes += sweeper.remove_unnamed(&name)?;
        }
    }
    Ok(given)
}

/// What is still to be freed after this run freed some of it.
fn still_condemned(items: Vec<Item>, done: &BTreeMap<Place, Bits>) -> Vec<Item> {
    let left = |mut item: Item| {
        let Some(present) = done.get(&(item.lineage, item.number)) else { return Some(item) };
        let blocks = Bits::from_bytes(&item.blocks);
        let gone = blocks.clone().without(present);
        let left = blocks.without(&gone);
        item.blocks = Blob::new(left.as_bytes().to_vec()).ok().filter(|blocks| !blocks.is_empty())?;
        Some(item)
    };
    items.into_iter().filter_map(left).collect()
}

fn purge(desk: &mut Desk, sweeper: &Sweeper, survey: &Survey, given: &mut Given) -> Result<(), RetentionError> {
    for chunk in survey.purge.chunks(crate::journal::ITEMS_MAX) {
        let event = Event::Purged(sweeper.source.name.clone(), List::new(chunk.to_vec())?);
        desk.journal.append(&desk.now, event)?;
        for body in chunk {
            sweeper.purge(body)?;
            given.purged += 1;
        }
    }
    Ok(())
}

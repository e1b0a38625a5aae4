//! What a sink says is damaged, and what of that a run deals with. It is the sink's word: all of it is bounded.

use super::{Damage, Fate, Sick};
use crate::backup::connect::{Me, fetch, own};
use crate::client::Client;
use crate::index::rebuild::chunks_of;
use crate::index::uses::Spot;
use crate::index::{Index, SinkFacts};
use crate::report::{Exit, Outcome};
use crate::tree::table::TableEntry;
use shared::id::{ArchiveId, ArchiveNumber};
use shared::wire::Welcome;
use shared::wire::reply::DamagedList;
use std::collections::{HashMap, HashSet};
use std::time::Instant;

/// Plaintext of blocks that a run heals at one remote, and their chunks.
const RUN_BYTES: u64 = 256 << 20;
const RUN_CHUNKS: u64 = 1 << 20;
/// Chunk tables that are fetched to learn what blocks held.
const TABLES_MAX: usize = 128;
/// Room that healing leaves to the backup: this much, or this part of the source's quota if that is less.
const ROOM_KEPT: u64 = 1 << 30;
const QUOTA_KEPT: u64 = 10;
/// A block is healed so often at one remote.
const TIMES_MAX: u32 = 3;

/// Asks a sink for its list of damage, and looks up what the damaged blocks held.
pub fn ask(
    client: &mut Client,
    me: &Me,
    index: &Index,
    facts: &SinkFacts,
    present: &HashSet<u64>,
) -> Outcome<Option<Damage>> {
    if client.welcome().damaged.is_none_or(|archives| archives == 0) {
        return Ok(None);
    }
    let clock = (client.welcome().clock, Instant::now());
    let room = room(client.welcome());
    let list = client.damage()?;
    let (mut damage, counts) = choose(&list, index, facts, present, (clock, room))?;
    look_up(client, me, index, &mut damage.sick, &counts)?;
    Ok(Some(damage))
}

/// Chooses what this run deals with; how many chunks each of these blocks should have, by the index.
fn choose(
    list: &DamagedList,
    index: &Index,
    facts: &SinkFacts,
    present: &HashSet<u64>,
    (clock, room): ((i64, Instant), u64),
) -> Outcome<(Damage, HashMap<Spot, u64>)> {
    let healed = index.healed(facts)?;
    let (sick, listed) = (Vec::new(), HashSet::new());
    let mut damage = Damage { sick, listed, given_up: Vec::new(), unknown: 0, later: 0, clock };
    let most = RUN_BYTES.min(room);
    let (mut bytes, mut chunks) = (0u64, 0u64);
    let mut counts = HashMap::new();
    // From another place each time: what cannot be healed must not keep the rest from its turn.
    let start = usize::try_from(u32::from_le_bytes(shared::sys::random())).unwrap_or(0) % list.items.len().max(1);
    for item in list.items.iter().cycle().skip(start).take(list.items.len()) {
        let number = item.number.get();
        let Some((id, kind)) = index.archive_kind(number)?.filter(|(id, _)| *id == item.id) else {
            damage.unknown += item.numbers().count() as u64;
            continue;
        };
        let blocks = index.blocks(number)?;
        for block in item.numbers() {
            let (spot, Some(held)) = (Spot { archive: number, block }, blocks.get(block as usize)) else {
                damage.unknown += 1;
                continue;
            };
            let before = healed.get(&spot);
            // The sink's look is older than the healing.
            if before.is_some_and(|before| before.at >= list.checked) {
                continue;
            }
            damage.listed.insert(spot);
            // What is given up is laid anew: that is sending too, if as backup and not beside it.
            let gives_up = before.is_some_and(|before| before.times >= TIMES_MAX);
            if bytes + held.1 > if gives_up { RUN_BYTES } else { most } || chunks + held.0 > RUN_CHUNKS {
                damage.later += 1;
                continue;
            }
            (bytes, chunks) = (bytes + held.1, chunks + held.0);
            if gives_up {
                damage.given_up.push(spot);
                continue;
            }
            counts.insert(spot, held.0);
            let missing = !present.contains(&number);
            damage.sick.push(Sick { spot, id, kind, missing, chunks: None, fate: Fate::Lost });
        }
    }
    Ok((damage, counts))
}

/// Bytes that the sink has for healing, by its word: what heals must not take the room of the next backups.
fn room(welcome: &Welcome) -> u64 {
    let free = welcome.free.saturating_sub(ROOM_KEPT);
    let Some(left) = welcome.quota_left else { return free };
    let kept = welcome.quota.map_or(ROOM_KEPT, |quota| ROOM_KEPT.min(quota / QUOTA_KEPT));
    free.min(left.saturating_sub(kept))
}

/// What the blocks hold: by the index; where that says of some chunks that they lie elsewhere, by the chunk table.
fn look_up(client: &mut Client, me: &Me, index: &Index, sick: &mut [Sick], counts: &HashMap<Spot, u64>) -> Outcome<()> {
    let mut known = index.chunks_in(sick.iter().map(|sick| sick.spot))?;
    // One at a time: the blocks are in order.
    let mut held: Option<(u64, Option<Vec<Vec<TableEntry>>>)> = None;
    let mut fetched = 0;
    for block in sick {
        let chunks = known.remove(&block.spot).unwrap_or_default();
        if counts.get(&block.spot) == Some(&(chunks.len() as u64)) {
            block.chunks = Some(chunks);
            continue;
        }
        let number = block.spot.archive;
        let is_held = held.as_ref().is_some_and(|(of, _)| *of == number);
        if !is_held && !block.missing && fetched < TABLES_MAX {
            fetched += 1;
            held = Some((number, table(client, me, number, &block.id)?));
        }
        let table = held.as_ref().filter(|(of, _)| *of == number).and_then(|(_, table)| table.as_ref());
        let entries = table.and_then(|table| table.get(block.spot.block as usize));
        block.chunks = entries.map(|entries| entries.iter().map(|entry| (entry.id, entry.bytes)).collect());
    }
    Ok(())
}

/// The chunk table of an archive, where the sink has it whole.
fn table(client: &mut Client, me: &Me, number: u64, id: &ArchiveId) -> Outcome<Option<Vec<Vec<TableEntry>>>> {
    let Ok(number) = ArchiveNumber::new(number) else { return Ok(None) };
    let fetched = fetch(client, me, number, id);
    match fetched.and_then(|(region, table)| chunks_of(&own(me), number, id, &region, table)) {
        Ok((_, table)) => Ok(Some(table)),
        Err(failure) if matches!(failure.exit, Exit::Tampered | Exit::NotFound) && failure.code != "sink-lies" => {
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

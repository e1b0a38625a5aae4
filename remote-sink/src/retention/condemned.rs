//! The list of what will be freed (docs/format.md, section "Operator's journal"): written by one run, acted upon by a
//! later one. The journal has its digest: a list that somebody else changed condemns nothing.

use crate::journal::Event;
use crate::retention::reach::{Bits, Place};
use crate::retention::vault::{Desk, RetentionError, Source, io_error};
use minicbor::{Decode, Encode};
use shared::codec::{Blob, List};
use shared::id::{ArchiveNumber, Digest, Lineage, SourceId};
use shared::limits::ARCHIVE_PARTS_MAX;
use shared::signature::{Object, Plain};
use shared::sys::durable;
use std::collections::BTreeMap;

/// What one list may hold; the rest is condemned by a later run.
const ITEMS_MAX: usize = 500_000;
/// Bytes that the bits of all its items may take: with the rest of them a list stays below its limit.
const BITS_BYTES_MAX: usize = 128 << 20;

/// Blocks of one archive that nothing names.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Item {
    #[n(0)]
    pub lineage: Lineage,
    #[n(1)]
    pub number: ArchiveNumber,
    /// When they were condemned.
    #[n(2)]
    pub since: i64,
    /// One bit per block, lowest first; empty = the whole archive.
    #[n(3)]
    pub blocks: Blob<{ ARCHIVE_PARTS_MAX / 8 }>,
}

/// A body that no head names.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct OrphanBody {
    #[n(0)]
    pub body: Digest,
    #[n(1)]
    pub since: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Condemned {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub items: List<Item, ITEMS_MAX>,
    #[n(2)]
    pub bodies: List<OrphanBody, ITEMS_MAX>,
}

impl Object for Condemned {
    const KIND: u8 = b'c';
    const BYTES_MAX: usize = 256 << 20;
    const NAME: &'static str = "list of condemned blocks";
}

/// The list that the journal names; `None` if there is none, or another.
pub fn read(desk: &Desk, source: &Source) -> Result<Option<Condemned>, RetentionError> {
    let path = desk.layout.condemned(&source.name);
    let Some(digest) = desk.journal.memory.source(&source.name).and_then(|memory| memory.condemned) else {
        return Ok(None);
    };
    let bytes = match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(io_error("read", &path))?,
    };
    let list = Plain::<Condemned>::parse(&bytes).ok().filter(|list| list.digest() == digest);
    Ok(list.map(Plain::into_value).filter(|list| list.source == source.id))
}

/// As many as one list may hold: whole archives, which give most, then what has waited longest.
fn cut_items(mut items: Vec<Item>) -> Vec<Item> {
    items.sort_by_key(|item| (!item.blocks.is_empty(), item.since, item.lineage, item.number));
    let mut bytes = 0usize;
    let fits = |item: &Item| {
        bytes = bytes.saturating_add(item.blocks.len());
        bytes <= BITS_BYTES_MAX
    };
    items.into_iter().take(ITEMS_MAX).take_while(fits).collect()
}

fn cut_bodies(mut bodies: Vec<OrphanBody>) -> Vec<OrphanBody> {
    bodies.sort_by_key(|orphan| (orphan.since, orphan.body));
    bodies.truncate(ITEMS_MAX);
    bodies
}

/// Writes the list, then its digest into the journal. A crash between leaves a list that condemns nothing. What does not
/// fit is left to a later run.
pub fn write(
    desk: &mut Desk,
    source: &Source,
    items: Vec<Item>,
    bodies: Vec<OrphanBody>,
) -> Result<(), RetentionError> {
    let (items, bodies) = (List::new(cut_items(items))?, List::new(cut_bodies(bodies))?);
    let count = items.len() as u64;
    let list = Plain::new(Condemned { source: source.id, items, bodies })?;
    let known = desk.journal.memory.source(&source.name).and_then(|memory| memory.condemned);
    let path = desk.layout.condemned(&source.name);
    if known == Some(list.digest()) && std::fs::read(&path).is_ok_and(|held| held == list.as_bytes()) {
        return Ok(());
    }
    durable::replace_as(&path, list.as_bytes(), durable::PUBLIC, durable::Owner::Directory)
        .map_err(io_error("write", &path))?;
    desk.journal.append(&desk.now, Event::Condemned(source.name.clone(), list.digest(), count))?;
    Ok(())
}

/// What is dead in one archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dead {
    Whole,
    Blocks(Bits),
}

/// The new list: what is dead now, with the time since when; what lives again is rescued.
pub fn renew(old: &[Item], dead: &BTreeMap<Place, Dead>, now: i64) -> Vec<Item> {
    let mut by_place: BTreeMap<Place, Vec<&Item>> = BTreeMap::new();
    for item in old {
        by_place.entry((item.lineage, item.number)).or_default().push(item);
    }
    let mut items = Vec::new();
    let mut push = |place: &Place, since, bits: &Bits| {
        // Bits come from pages, which are bounded alike.
        if let Ok(blocks) = Blob::new(bits.as_bytes().to_vec()) {
            items.push(Item { lineage: place.0, number: place.1, since, blocks });
        }
    };
    for (place, dead) in dead {
        let before = by_place.get(place).map(Vec::as_slice).unwrap_or_default();
        match dead {
            Dead::Whole => {
                let since = before.iter().filter(|item| item.blocks.is_empty()).map(|item| item.since).min();
                push(place, since.unwrap_or(now), &Bits::default());
            }
            Dead::Blocks(bits) => {
                let mut left = bits.clone();
                for item in before.iter().filter(|item| !item.blocks.is_empty()) {
                    let theirs = Bits::from_bytes(&item.blocks);
                    let both = left.clone().without(&left.clone().without(&theirs));
                    if !both.is_empty() {
                        push(place, item.since, &both);
                        left = left.without(&theirs);
                    }
                }
                if !left.is_empty() {
                    push(place, now, &left);
                }
            }
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_takes_what_fits_and_leaves_the_rest_to_a_later_run() {
        let digest = |at: usize| Digest::of(&at.to_le_bytes());
        let orphan = |at: usize| OrphanBody { body: digest(at), since: (at % 7) as i64 };
        let bodies = cut_bodies((0..ITEMS_MAX + 1000).map(orphan).collect());
        assert_eq!((bodies.len(), bodies[0].since, bodies.last().unwrap().since), (ITEMS_MAX, 0, 6));
        let item = |at: usize, bytes: usize| Item {
            lineage: Lineage::new([1; 16]),
            number: ArchiveNumber::new(at as u64).unwrap(),
            since: 5,
            blocks: Blob::new(vec![255; bytes]).unwrap(),
        };
        let many = (0..ITEMS_MAX).map(|at| item(at, 512)).chain([item(ITEMS_MAX, 0)]).collect();
        let items = cut_items(many);
        assert_eq!((items.len(), items[0].blocks.len()), (1 + BITS_BYTES_MAX / 512, 0));
        let source = SourceId::new([3; 32]);
        let list = Condemned { source, items: List::new(items).unwrap(), bodies: List::new(bodies).unwrap() };
        let list = Plain::new(list).unwrap();
        assert_eq!(Plain::<Condemned>::parse(list.as_bytes()).unwrap().digest(), list.digest());
    }

    #[test]
    fn what_lives_again_is_rescued_and_time_counts_for_each_block() {
        let place = |number| (Lineage::new([1; 16]), ArchiveNumber::new(number).unwrap());
        let bits = |byte: u8| Dead::Blocks(Bits::from_bytes(&[byte]));
        let first = renew(&[], &BTreeMap::from([(place(1), bits(0b0110)), (place(2), Dead::Whole)]), 10);
        let second = renew(&first, &BTreeMap::from([(place(1), bits(0b1100)), (place(2), Dead::Whole)]), 20);
        let seen: Vec<_> = second.iter().map(|i| (i.number.get(), i.since, i.blocks.to_vec())).collect();
        assert_eq!(seen, [(1, 10, vec![0b0100]), (1, 20, vec![0b1000]), (2, 10, vec![])]);
        assert!(renew(&second, &BTreeMap::new(), 30).is_empty());
        let again = renew(&second, &BTreeMap::from([(place(2), bits(1))]), 30);
        assert_eq!(again[0].since, 30, "a whole archive's time does not count for single blocks");
    }
}

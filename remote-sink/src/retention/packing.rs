//! Packing (docs/format.md, section "Packs"): old heads, receipts and envelopes go into few files. Under the source's
//! lock, so that no session adds meanwhile; readers find each object at every moment, loose or packed.
//!
//! What a crash leaves: before the pack has its name, a leftover that the next run clears; behind it, objects that are
//! both packed and loose, of which the next run removes the loose ones; or packs that were packed again, likewise.

use crate::retention::history::History;
use crate::retention::sweep::{PackWriter, Step, Sweeper};
use crate::retention::vault::{Desk, RetentionError, Source, io_error};
use crate::store::layout::{object_path, pack_file};
use crate::store::pack::{self, OBJECT_BYTES_MAX, Pack, Place, SHELVES};
use crate::store::{Entry, Name, Shelf, StoreError, Stored};
use shared::format::{Envelope, Head, Receipt};
use shared::id::{Lineage, VerifyKey};
use shared::signature::{self, HEADER_BYTES, Object, SIGNATURE_BYTES, Signed, Verified};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// When packs are made.
#[derive(Debug, Clone, Copy)]
pub struct Packing {
    /// Objects of a shelf that are worth a pack.
    pub least: usize,
    /// Packs of a shelf that are worth packing again into one.
    pub packs: usize,
    /// Newest heads of each lineage that stay loose: these are read most.
    pub loose: usize,
}

impl Default for Packing {
    fn default() -> Self {
        Self { least: 4096, packs: 8, loose: 64 }
    }
}

/// What packing did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    pub objects: u64,
    /// Loose files with the name of a packed object and other bytes: somebody put them there.
    pub foreign: Vec<String>,
    /// Packs with a damaged object: they stay as they are.
    pub damaged: Vec<String>,
}

/// Packs what is worth it.
pub fn pack(
    desk: &Desk,
    source: &Source,
    history: &History,
    packing: Packing,
    step: Step,
) -> Result<Packed, RetentionError> {
    let sweeper = Sweeper { layout: desk.layout, source, step };
    let mut done = Packed::default();
    let mut failed = None;
    for shelf in SHELVES {
        // What is wrong with one kind keeps the others from nothing.
        if let Err(e) = pack_shelf(desk, &sweeper, history, shelf, packing, &mut done) {
            failed.get_or_insert(e);
        }
    }
    done.foreign.sort_unstable();
    done.foreign.dedup();
    failed.map_or(Ok(done), Err)
}

fn pack_shelf(
    desk: &Desk,
    sweeper: &Sweeper,
    history: &History,
    shelf: Shelf,
    packing: Packing,
    done: &mut Packed,
) -> Result<(), RetentionError> {
    let source = sweeper.source;
    if sweeper.is_append_only(shelf)? {
        return Ok(());
    }
    remove_packed_again(sweeper, shelf)?;
    done.foreign.extend(remove_duplicates(sweeper, shelf)?);
    let loose = chosen(source, history, shelf, packing)?;
    if loose.len() < packing.least.max(1) {
        return Ok(());
    }
    let old = source.store.packs(shelf, true)?;
    let number = old.last().map_or(0, |pack| pack.number.saturating_add(1));
    let again = if old.len() + 1 > packing.packs { old } else { Vec::new() };
    let (objects, damaged) = write(sweeper, &desk.sink, shelf, number, again, &loose)?;
    done.objects += objects;
    done.damaged.extend(damaged);
    remove_packed_again(sweeper, shelf)?;
    done.foreign.extend(remove_duplicates(sweeper, shelf)?);
    Ok(())
}

/// Loose objects that may go into a pack: committed and seen, but for the newest; envelopes as they are.
fn chosen(source: &Source, history: &History, shelf: Shelf, packing: Packing) -> Result<Vec<Name>, StoreError> {
    let mut newest: BTreeMap<Lineage, u64> = BTreeMap::new();
    for link in &history.links {
        let known = newest.entry(link.snapshot.id.lineage).or_default();
        *known = (*known).max(link.snapshot.id.sequence);
    }
    let old = |lineage: &Lineage, sequence: u64| {
        newest.get(lineage).is_some_and(|newest| sequence.saturating_add(packing.loose as u64) <= *newest)
    };
    let seen: HashSet<_> = history.links.iter().map(|link| link.snapshot.id).collect();
    let mut names = Vec::new();
    source.store.list_loose(shelf, &mut |entry| {
        let Entry::Object(name) = entry else { return };
        let takes = match name {
            Name::Head(lineage, sequence) | Name::Receipt(lineage, sequence) => {
                let id = crate::retention::policy::SnapshotId { lineage, sequence };
                old(&lineage, sequence) && seen.contains(&id)
            }
            _ => true,
        };
        if takes {
            names.push(name);
        }
    })?;
    // What is packed already is the object; a file beside it with other bytes is evidence, and stays what it is.
    let mut alone = Vec::with_capacity(names.len());
    for name in names {
        if source.store.packed(&name, false)?.is_none() {
            alone.push(name);
        }
    }
    Ok(alone)
}

/// Is this what its name says, signed by whom it should be?
fn is_right(source: &Source, sink: &VerifyKey, name: &Name, bytes: &[u8]) -> bool {
    fn verified<T: Object>(bytes: &[u8], key: &VerifyKey) -> Option<Verified<T>> {
        Signed::<T>::parse(bytes).ok()?.verify(key).ok()
    }
    match name {
        Name::Head(lineage, sequence) => verified::<Head>(bytes, &source.key)
            .is_some_and(|head| (head.source, head.lineage, head.sequence) == (source.id, *lineage, *sequence)),
        Name::Receipt(lineage, sequence) => verified::<Receipt>(bytes, sink)
            .is_some_and(|it| (it.source, it.lineage, it.sequence) == (source.id, *lineage, *sequence)),
        Name::Envelope(session) => verified::<Envelope>(bytes, &source.key)
            .is_some_and(|envelope| envelope.digest().as_bytes() == session.as_bytes()),
        _ => false,
    }
}

/// One of the three, whichever its header says: how a damaged pack is read.
fn name_of(source: &Source, sink: &VerifyKey, shelf: Shelf, bytes: &[u8]) -> Option<Name> {
    let name = match shelf {
        Shelf::Heads => {
            let head = Signed::<Head>::parse(bytes).ok()?.verify(&source.key).ok()?;
            Name::Head(head.lineage, head.sequence)
        }
        Shelf::Receipts => {
            let receipt = Signed::<Receipt>::parse(bytes).ok()?.verify(sink).ok()?;
            Name::Receipt(receipt.lineage, receipt.sequence)
        }
        _ => Name::Envelope(shared::id::SessionId::new(*Signed::<Envelope>::parse(bytes).ok()?.digest().as_bytes())),
    };
    is_right(source, sink, &name, bytes).then_some(name)
}

/// How a pack that should be packed again turned out.
enum Turned {
    Whole,
    /// An object in it is damaged, cannot be read, or is another one than an earlier pack has.
    Damaged,
}

/// Writes these packs and loose objects as one new pack. What is not what it should be stays loose, for `verify` to name;
/// a pack with such an object stays as it is, and its path is told.
fn write(
    sweeper: &Sweeper,
    sink: &VerifyKey,
    shelf: Shelf,
    number: u64,
    mut again: Vec<Arc<Pack>>,
    loose: &[Name],
) -> Result<(u64, Vec<String>), RetentionError> {
    let mut left = Vec::new();
    let mut writer = loop {
        let mut writer = sweeper.begin_pack(shelf, number)?;
        let mut bad = None;
        for (at, pack) in again.iter().enumerate() {
            if let Turned::Damaged = take_over(sweeper, sink, pack, &again[..at], &mut writer)? {
                bad = Some(at);
                break;
            }
        }
        let Some(bad) = bad else { break writer };
        let pack = again.remove(bad);
        left.push(format!("{}/{}", crate::store::layout::PACKS, pack_file(shelf, pack.number)));
        drop(writer);
        sweeper.clear_leftovers()?;
    };
    let source = sweeper.source;
    let mut count = 0;
    for name in loose {
        let found = match source.store.loose(name) {
            Err(e) if e.is_damage() => continue,
            found => found?,
        };
        let Some(stored) = found else { continue };
        let bytes = match pack::whole(&stored) {
            Err(e) if e.is_damage() => continue,
            bytes => bytes?.filter(|bytes| is_right(source, sink, name, bytes)),
        };
        if let (Some(bytes), Some(key)) = (bytes, pack::key(name)) {
            writer.add(key, &bytes, stored.appeared())?;
            count += 1;
        }
    }
    if count == 0 && again.is_empty() {
        sweeper.abandon_pack(writer)?;
    } else {
        sweeper.finish_pack(writer)?;
    }
    Ok((count, left))
}

/// Adds the objects of a pack, but for those that an earlier one brought.
fn take_over(
    sweeper: &Sweeper,
    sink: &VerifyKey,
    pack: &Pack,
    earlier: &[Arc<Pack>],
    writer: &mut PackWriter,
) -> Result<Turned, RetentionError> {
    let mut places = Vec::new();
    if pack.each(&mut |name, place| places.push((name, place))).is_err() || places.len() as u64 != pack.count() {
        return Ok(Turned::Damaged);
    }
    places.sort_unstable_by_key(|(_, place)| place.offset);
    for (name, place) in places {
        let Some(bytes) = pack.object(&place).ok().filter(|bytes| is_right(sweeper.source, sink, &name, bytes)) else {
            return Ok(Turned::Damaged);
        };
        let before = earlier.iter().find_map(|other| Some((other, other.find(&place.key).ok()??)));
        match before.map(|(other, place)| other.object(&place)) {
            None => writer.add(place.key, &bytes, place.appeared)?,
            Some(Ok(same)) if same == bytes => {}
            Some(_) => return Ok(Turned::Damaged),
        }
    }
    Ok(Turned::Whole)
}

/// Removes loose files whose bytes are packed; returns those that have other bytes.
fn remove_duplicates(sweeper: &Sweeper, shelf: Shelf) -> Result<Vec<String>, RetentionError> {
    let (mut same, mut foreign) = (Vec::new(), Vec::new());
    for (name, is_same) in pack::duplicates(&sweeper.source.store, shelf)? {
        if is_same { same.push(name) } else { foreign.push(object_path(&name)) }
    }
    sweeper.remove_loose(shelf, &same)?;
    Ok(foreign)
}

/// Removes packs all of whose objects lie in a later pack too, the same bytes.
fn remove_packed_again(sweeper: &Sweeper, shelf: Shelf) -> Result<(), RetentionError> {
    let packs = sweeper.source.store.packs(shelf, true)?;
    for (at, old) in packs.iter().enumerate() {
        let path = sweeper.layout.pack(&sweeper.source.name, shelf, old.number);
        for later in &packs[at + 1..] {
            // One that cannot be read is no reason to remove another.
            if holds_all(later, old).unwrap_or(false) {
                sweeper.remove_pack(&path)?;
                break;
            }
        }
    }
    // What was removed is not asked again.
    sweeper.source.store.packs(shelf, true)?;
    Ok(())
}

fn holds_all(later: &Pack, old: &Pack) -> std::io::Result<bool> {
    if later.count() < old.count() {
        return Ok(false);
    }
    let (mut places, mut first) = (Vec::new(), None);
    old.each(&mut |_, place| {
        first.get_or_insert(place);
        places.push(place);
    })?;
    // Packs of different objects differ in the first already.
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    for place in places {
        let Some(found) = later.find(&place.key)? else { return Ok(false) };
        if found.bytes != place.bytes || place.bytes as usize > OBJECT_BYTES_MAX {
            return Ok(false);
        }
        mine.resize(place.bytes as usize, 0);
        theirs.resize(place.bytes as usize, 0);
        old.file().read_exact_at(&mut mine, place.offset)?;
        later.file().read_exact_at(&mut theirs, found.offset)?;
        if mine != theirs {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes packs again whose index or objects are damaged, from the objects in them that are not, for a source whose lock the caller holds. The damaged file stays,
/// under another name, unless nothing of it was lost. Returns what was done, for people.
pub fn salvage(sweeper: &Sweeper, sink: &VerifyKey) -> Result<Vec<String>, RetentionError> {
    let (source, dir) = (sweeper.source, sweeper.layout.packs(&sweeper.source.name));
    let (mut told, mut damaged, mut highest) = (Vec::new(), Vec::new(), BTreeMap::new());
    let entries = match std::fs::read_dir(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(told),
        entries => entries.map_err(io_error("list", &dir))?,
    };
    for entry in entries {
        let path = entry.map_err(io_error("list", &dir))?.path();
        let file = path.file_name().and_then(|file| file.to_str());
        let Some((shelf, number)) = file.and_then(crate::store::layout::pack_number) else { continue };
        let next = highest.entry(shelf).or_insert(0u64);
        *next = (*next).max(number.saturating_add(1));
        let open = File::open(&path).map_err(io_error("open", &path))?;
        let sound = Pack::open(open, shelf, number).and_then(|pack| all_right(source, sink, &pack));
        if !matches!(sound, Ok(true)) {
            damaged.push((shelf, path));
        }
    }
    for (shelf, path) in damaged {
        let number = highest.get(&shelf).copied().unwrap_or(0);
        highest.insert(shelf, number.saturating_add(1));
        let mut writer = sweeper.begin_pack(shelf, number)?;
        let (count, lost) = scan(source, sink, shelf, &path, &mut writer)?;
        sweeper.finish_pack(writer)?;
        if lost {
            sweeper.set_pack_aside(&path)?;
        } else {
            sweeper.remove_pack(&path)?;
        }
        let loss = if lost {
            "; something in it is damaged: the file is kept as it was, with the ending .damaged"
        } else {
            ""
        };
        told.push(format!("{}: {count} objects found again{loss}", path.display()));
    }
    Ok(told)
}

/// Is every object of a pack what its name says? One that is not would keep a good copy beside the pack from being read.
fn all_right(source: &Source, sink: &VerifyKey, pack: &Pack) -> std::io::Result<bool> {
    let mut places = Vec::new();
    pack.each(&mut |name, place| places.push((name, place)))?;
    let mut bytes = Vec::new();
    for (name, place) in &places {
        bytes.resize((place.bytes as usize).min(OBJECT_BYTES_MAX), 0);
        pack.file().read_exact_at(&mut bytes, place.offset)?;
        if !is_right(source, sink, name, &bytes) {
            return Ok(false);
        }
    }
    Ok(places.len() as u64 == pack.count())
}

/// Walks over the objects of a damaged pack, and on to the next one where something is wrong.
fn scan(
    source: &Source,
    sink: &VerifyKey,
    shelf: Shelf,
    path: &Path,
    writer: &mut PackWriter,
) -> Result<(u64, bool), RetentionError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let end = file.metadata().map_err(io_error("look at", path))?.len();
    let (mut at, mut count, mut keys) = (0u64, 0u64, HashSet::new());
    // Where what is no object begins, and whether an object followed it.
    let (mut gap, mut between) = (None, false);
    let mut buffer = vec![0; HEADER_BYTES + OBJECT_BYTES_MAX + SIGNATURE_BYTES];
    while at < end {
        let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let bytes = &mut buffer[..length];
        file.read_exact_at(bytes, at).map_err(io_error("read", path))?;
        let total = signature::peek(bytes).map(|(_, length)| HEADER_BYTES + length + SIGNATURE_BYTES);
        let object = total.and_then(|total| bytes.get(..total));
        let found = object.and_then(|object| Some((object, name_of(source, sink, shelf, object)?)));
        match found {
            Some((object, name)) => {
                between |= gap.is_some();
                if let Some(key) = pack::key(&name).filter(|key| keys.insert(*key)) {
                    writer.add(key, object, 0)?;
                    count += 1;
                }
                at += object.len() as u64;
            }
            None => {
                let next = bytes.windows(4).skip(1).position(|window| window == b"pawl").map(|skip| skip + 1);
                let skip = next.unwrap_or(length.saturating_sub(3).max(1)) as u64;
                gap.get_or_insert(at);
                at += skip;
            }
        }
    }
    // Index and footer are no objects, and the only bytes that are none; whatever else was passed over is lost.
    let expected = count * pack::ENTRY_BYTES as u64 + pack::FOOTER_BYTES as u64;
    let lost = gap.is_none_or(|from| end - from != expected);
    Ok((count, lost || between))
}

/// The index of what was written, by rising key.
pub fn index(mut places: Vec<Place>) -> Vec<Place> {
    places.sort_unstable_by_key(|place| place.key);
    places.dedup_by_key(|place| place.key);
    places
}

//! Packs: many heads, receipts or envelopes in one file (docs/format.md, section "Packs"), so that a million of them
//! are no million inodes. Written by `prune` alone, under the source's lock; this file only reads them. A pack is a
//! place, not a proof: what comes out of it is judged by its signature like any other object.
//!
//! A packed object comes before a loose file of its name: that name is free again, and must be of no use to whoever
//! takes it.

use crate::store::layout::{PACKS, pack_number};
use crate::store::{Directory, Entry, Name, Shelf, StoreError, Stored};
use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;
use shared::id::{Lineage, SessionId};
use shared::limits::{ENVELOPE_BYTES_MAX, HEAD_BYTES_MAX, RECEIPT_BYTES_MAX};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

/// Shelves whose objects are packed.
pub const SHELVES: [Shelf; 3] = [Shelf::Heads, Shelf::Receipts, Shelf::Envelopes];
/// Largest object that is packed.
pub const OBJECT_BYTES_MAX: usize = ENVELOPE_BYTES_MAX;
const _: () = assert!(HEAD_BYTES_MAX <= OBJECT_BYTES_MAX && RECEIPT_BYTES_MAX <= OBJECT_BYTES_MAX);
/// Bytes of an entry of the index: key, offset, length, time.
pub const ENTRY_BYTES: usize = 32 + 8 + 4 + 8;
/// Bytes behind the index.
pub const FOOTER_BYTES: usize = 96;
const MAGIC: &[u8; 8] = b"pawlpack";
const VERSION: u8 = 1;
/// Entries that are read at once.
const PIECE_ENTRIES: usize = 4096;

/// The name of an object as it stands in an index.
pub type Key = [u8; 32];

/// The shelf's letter in file names and footers: the kind of its objects.
pub const fn letter(shelf: Shelf) -> Option<u8> {
    match shelf {
        Shelf::Heads => Some(b'H'),
        Shelf::Receipts => Some(b'R'),
        Shelf::Envelopes => Some(b'E'),
        _ => None,
    }
}

/// The key of a name that may be packed.
pub fn key(name: &Name) -> Option<Key> {
    let mut key = [0; 32];
    match name {
        Name::Head(lineage, sequence) | Name::Receipt(lineage, sequence) => {
            key[..16].copy_from_slice(lineage.as_bytes());
            key[16..24].copy_from_slice(&sequence.to_be_bytes());
        }
        Name::Envelope(session) => key.copy_from_slice(session.as_bytes()),
        _ => return None,
    }
    Some(key)
}

fn name(shelf: Shelf, key: &Key) -> Option<Name> {
    let numbered = || {
        let lineage = Lineage::from_slice(&key[..16]).ok()?;
        let sequence = u64::from_be_bytes(key[16..24].try_into().ok()?);
        (key[24..] == [0; 8]).then_some((lineage, sequence))
    };
    match shelf {
        Shelf::Heads => numbered().map(|(lineage, sequence)| Name::Head(lineage, sequence)),
        Shelf::Receipts => numbered().map(|(lineage, sequence)| Name::Receipt(lineage, sequence)),
        Shelf::Envelopes => SessionId::from_slice(key).ok().map(Name::Envelope),
        _ => None,
    }
}

/// Where an object lies in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub key: Key,
    pub offset: u64,
    pub bytes: u32,
    /// When its loose file appeared, by the store's clock.
    pub appeared: i64,
}

impl Place {
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..32].copy_from_slice(&self.key);
        bytes[32..40].copy_from_slice(&self.offset.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[44..].copy_from_slice(&self.appeared.to_le_bytes());
        bytes
    }
    fn decode(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let (mut key, mut offset, mut length, mut appeared) = ([0; 32], [0; 8], [0; 4], [0; 8]);
        key.copy_from_slice(&bytes[..32]);
        offset.copy_from_slice(&bytes[32..40]);
        length.copy_from_slice(&bytes[40..44]);
        appeared.copy_from_slice(&bytes[44..]);
        let (offset, bytes) = (u64::from_le_bytes(offset), u32::from_le_bytes(length));
        Self { key, offset, bytes, appeared: i64::from_le_bytes(appeared) }
    }
}

/// What stands behind the index.
pub fn footer(shelf: Shelf, count: u64, index_at: u64, index: &blake3::Hash) -> [u8; FOOTER_BYTES] {
    let mut bytes = [0; FOOTER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    (bytes[8], bytes[9]) = (VERSION, letter(shelf).unwrap_or(0));
    bytes[16..24].copy_from_slice(&count.to_le_bytes());
    bytes[24..32].copy_from_slice(&index_at.to_le_bytes());
    bytes[32..64].copy_from_slice(index.as_bytes());
    let sum = blake3::hash(&bytes[..64]);
    bytes[64..].copy_from_slice(sum.as_bytes());
    bytes
}

/// One pack, whose index was found whole when it was opened.
#[derive(Debug)]
pub struct Pack {
    pub shelf: Shelf,
    pub number: u64,
    file: Arc<File>,
    count: u64,
    index_at: u64,
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

impl Pack {
    /// Checks footer and index; the objects are judged when they are read.
    pub fn open(file: File, shelf: Shelf, number: u64) -> io::Result<Self> {
        // Not the standard library's metadata(): a confined session has no statx.
        let length = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        let end = length.checked_sub(FOOTER_BYTES as u64).ok_or_else(|| broken("too short for a pack"))?;
        let mut bytes = [0; FOOTER_BYTES];
        file.read_exact_at(&mut bytes, end)?;
        let number_at = |at: usize| bytes[at..at + 8].iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let (count, index_at) = (number_at(16), number_at(24));
        let index_bytes = count.checked_mul(ENTRY_BYTES as u64).and_then(|bytes| bytes.checked_add(index_at));
        if index_bytes != Some(end) {
            return Err(broken("not a pack, or cut off"));
        }
        let mut hasher = blake3::Hasher::new();
        let pack = Self { shelf, number, file: Arc::new(file), count, index_at };
        let (mut before, mut ascending) = (None, true);
        pack.each_entry(&mut |entry, raw| {
            hasher.update(raw);
            let fits = entry.offset.checked_add(u64::from(entry.bytes)).is_some_and(|end| end <= index_at);
            ascending &= fits && before < Some(entry.key);
            before = Some(entry.key);
        })?;
        if footer(shelf, count, index_at, &hasher.finalize()) != bytes || !ascending {
            return Err(broken("the index of this pack is damaged: remote-sink rebuild makes it again"));
        }
        Ok(pack)
    }

    fn each_entry(&self, visit: &mut dyn FnMut(Place, &[u8])) -> io::Result<()> {
        let mut piece = vec![0; PIECE_ENTRIES.min(usize::try_from(self.count).unwrap_or(usize::MAX)) * ENTRY_BYTES];
        let (mut at, mut left) = (self.index_at, self.count);
        while left > 0 {
            let entries = left.min(PIECE_ENTRIES as u64);
            let bytes = &mut piece[..entries as usize * ENTRY_BYTES];
            self.file.read_exact_at(bytes, at)?;
            for raw in bytes.as_chunks::<ENTRY_BYTES>().0 {
                visit(Place::decode(raw), raw);
            }
            at += bytes.len() as u64;
            left -= entries;
        }
        Ok(())
    }

    /// All objects, by rising key.
    pub fn each(&self, visit: &mut dyn FnMut(Name, Place)) -> io::Result<()> {
        self.each_entry(&mut |place, _| {
            if let Some(name) = name(self.shelf, &place.key) {
                visit(name, place);
            }
        })
    }

    /// Halving: an index of a million takes twenty short reads.
    pub fn find(&self, key: &Key) -> io::Result<Option<Place>> {
        let (mut low, mut high) = (0, self.count);
        let mut raw = [0; ENTRY_BYTES];
        while low < high {
            let middle = low + (high - low) / 2;
            self.file.read_exact_at(&mut raw, self.index_at + middle * ENTRY_BYTES as u64)?;
            let place = Place::decode(&raw);
            match place.key.cmp(key) {
                std::cmp::Ordering::Equal => return Ok(Some(place)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// The bytes of an object of this pack, no more of them than a packed object has.
    pub fn object(&self, place: &Place) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; (place.bytes as usize).min(OBJECT_BYTES_MAX)];
        self.file.read_exact_at(&mut bytes, place.offset)?;
        Ok(bytes)
    }

    pub fn count(&self) -> u64 {
        self.count
    }
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }
}

/// The packs of a room, those of each shelf opened when they are first needed and looked for again when something is
/// missing. A damaged pack of one shelf keeps nobody from the others.
#[derive(Debug, Default)]
pub struct Packs(Mutex<BTreeMap<Shelf, Known>>);

/// Those of a shelf, by number.
type Known = BTreeMap<u64, Arc<Pack>>;

impl Packs {
    /// The packs of a shelf as they are known; `fresh` looks at the directory again.
    pub fn of(&self, dir: &dyn Fn() -> Result<Option<OwnedFd>, StoreError>, shelf: Shelf, fresh: bool) -> Opened {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if fresh || !known.contains_key(&shelf) {
            let found = load(dir, shelf, known.remove(&shelf).unwrap_or_default())?;
            known.insert(shelf, found);
        }
        Ok(known.get(&shelf).map(|known| known.values().cloned().collect()).unwrap_or_default())
    }
}

type Opened = Result<Vec<Arc<Pack>>, StoreError>;

fn failed(action: &'static str, path: String) -> impl FnOnce(io::Error) -> StoreError {
    move |error| StoreError { action, path, error }
}

/// Opens what is new. One that vanishes meanwhile was packed into another: the directory is read again.
fn load(
    dir: &dyn Fn() -> Result<Option<OwnedFd>, StoreError>,
    wanted: Shelf,
    known: Known,
) -> Result<Known, StoreError> {
    let list = |e: Errno| failed("list", PACKS.into())(e.into());
    'again: loop {
        let mut found = Known::new();
        let Some(fd) = dir()? else { return Ok(found) };
        for entry in Dir::read_from(&fd).map_err(list)? {
            let entry = entry.map_err(list)?;
            let file = entry.file_name().to_string_lossy();
            let Some((shelf, number)) = pack_number(&file).filter(|(shelf, _)| *shelf == wanted) else { continue };
            if let Some(pack) = known.get(&number) {
                found.insert(number, Arc::clone(pack));
                continue;
            }
            let path = format!("{PACKS}/{file}");
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let opened = match rustix::fs::openat(&fd, &*file, flags, Mode::empty()) {
                Err(Errno::NOENT) => continue 'again,
                opened => opened.map_err(|e| failed("open", path.clone())(e.into()))?,
            };
            let pack = Pack::open(File::from(opened), shelf, number).map_err(failed("read", path))?;
            found.insert(number, Arc::new(pack));
        }
        return Ok(found);
    }
}

/// The objects of a pack that no earlier one holds: of two, the earlier is read. Both hold an object only after a crash
/// in the middle of packing again.
pub fn each_alone(pack: &Pack, earlier: &[Arc<Pack>], visit: &mut dyn FnMut(Name)) -> io::Result<()> {
    let mut failed = None;
    pack.each(&mut |name, place| {
        let held = earlier.iter().try_fold(false, |held, other| Ok(held || other.find(&place.key)?.is_some()));
        match held {
            Ok(true) => {}
            Ok(false) => visit(name),
            Err(e) => failed = Some(e),
        }
    })?;
    failed.map_or(Ok(()), Err)
}

/// The bytes of an object, if it is no larger than what is packed.
pub fn whole(stored: &impl Stored) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(bytes) = usize::try_from(stored.bytes()).ok().filter(|bytes| *bytes <= OBJECT_BYTES_MAX) else {
        return Ok(None);
    };
    let mut buffer = vec![0; bytes];
    stored.read_at(&mut buffer, 0)?;
    Ok(Some(buffer))
}

/// Objects that are both packed and loose, and whether they are the same. A crash leaves the same; others were put
/// there, and nobody reads them.
pub fn duplicates(store: &Directory, shelf: Shelf) -> Result<Vec<(Name, bool)>, StoreError> {
    let mut found = Vec::new();
    if letter(shelf).is_none() || store.packs(shelf, true)?.is_empty() {
        return Ok(found);
    }
    let mut names = Vec::new();
    store.list_loose(shelf, &mut |entry| {
        if let Entry::Object(name) = entry {
            names.push(name);
        }
    })?;
    for name in names {
        let Some(packed) = store.packed(&name, false)? else { continue };
        let packed = whole(&packed)?;
        let loose = store.loose(&name).ok().flatten().and_then(|loose| whole(&loose).ok().flatten());
        found.push((name, packed.is_some() && packed == loose));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::text::from_base64;
    use std::io::Write;

    #[test]
    fn the_vectors_of_packs_are_judged_as_they_say() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/testdata/vectors");
        let (mut accepted, mut refused) = (0, 0);
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if !path.file_name().unwrap().to_str().unwrap().starts_with("F-39-") {
                continue;
            }
            let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let bytes = |name: &str| from_base64(value[name].as_str().unwrap()).unwrap();
            let shelf = SHELVES.into_iter().find(|shelf| letter(*shelf) == Some(bytes("shelf")[0])).unwrap();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes("bytes")).unwrap();
            let opened = Pack::open(file, shelf, 0).is_ok();
            assert_eq!(opened, value["expect"] == "accept", "{}", path.display());
            *(if opened { &mut accepted } else { &mut refused }) += 1;
        }
        assert!(accepted >= 2 && refused > accepted);
    }
}

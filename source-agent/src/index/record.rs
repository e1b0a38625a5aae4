//! What the local index remembers of one name in a directory: enough to see without decoding that it is unchanged.
//!
//! name length (u16) | name | kind | trusted | inode | size | modified | changed | entry length (u32) | entry (CBOR as
//! in the tree) | uses of its content. Numbers are little endian. A cache: nobody else reads it.

use super::Corrupt;
use super::uses::{self, Uses};
use crate::tree::{EntryKind, Time};

/// What tells that a file is the same: never the device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatKey {
    pub inode: u64,
    /// Directories: 0.
    pub size: u64,
    pub modified: Time,
    pub changed: Time,
}

/// A record, borrowed from a directory's row.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub name: &'a [u8],
    pub kind: u8,
    /// May an equal [`StatKey`] be trusted? Not if the file was younger than two seconds when it was read.
    pub trusted: bool,
    pub stat: StatKey,
    /// The entry as it stands in the node.
    pub entry: &'a [u8],
    uses: &'a [u8],
    /// All of it.
    pub raw: &'a [u8],
}

impl Record<'_> {
    pub fn uses(&self) -> Result<Uses, Corrupt> {
        uses::unpack(self.uses)
    }
    pub fn is_directory(&self) -> bool {
        self.kind == kind_number(EntryKind::Directory)
    }
}

pub fn kind_number(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::File => 0,
        EntryKind::Directory => 1,
        EntryKind::Symlink => 2,
        EntryKind::Fifo => 3,
        EntryKind::CharDevice => 4,
        EntryKind::BlockDevice => 5,
    }
}

/// Writes a record.
pub fn write(name: &[u8], kind: EntryKind, trusted: bool, stat: &StatKey, entry: &[u8], uses: &Uses) -> Vec<u8> {
    let uses = uses::pack(uses);
    let mut out = Vec::with_capacity(64 + name.len() + entry.len() + uses.len());
    // Names are at most 255 bytes, entries far below 4 GiB.
    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
    out.extend_from_slice(name);
    out.push(kind_number(kind));
    out.push(u8::from(trusted));
    out.extend_from_slice(&stat.inode.to_le_bytes());
    out.extend_from_slice(&stat.size.to_le_bytes());
    for time in [stat.modified, stat.changed] {
        out.extend_from_slice(&time.seconds.to_le_bytes());
        out.extend_from_slice(&time.nanoseconds.to_le_bytes());
    }
    out.extend_from_slice(&(entry.len() as u32).to_le_bytes());
    out.extend_from_slice(entry);
    out.extend_from_slice(&(uses.len() as u32).to_le_bytes());
    out.extend_from_slice(&uses);
    out
}

fn take<'a>(from: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], Corrupt> {
    let (taken, rest) = from.split_at_checked(bytes).ok_or(Corrupt)?;
    *from = rest;
    Ok(taken)
}

fn fixed<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], Corrupt> {
    take(from, N)?.try_into().map_err(|_| Corrupt)
}

fn time(from: &mut &[u8]) -> Result<Time, Corrupt> {
    Ok(Time { seconds: i64::from_le_bytes(fixed(from)?), nanoseconds: u32::from_le_bytes(fixed(from)?) })
}

/// Reads the record that `from` begins with.
pub fn read<'a>(from: &mut &'a [u8]) -> Result<Record<'a>, Corrupt> {
    let whole = *from;
    let name_bytes = usize::from(u16::from_le_bytes(fixed(from)?));
    let name = take(from, name_bytes)?;
    let [kind, trusted] = fixed(from)?;
    let inode = u64::from_le_bytes(fixed(from)?);
    let size = u64::from_le_bytes(fixed(from)?);
    let (modified, changed) = (time(from)?, time(from)?);
    let entry_bytes = u32::from_le_bytes(fixed(from)?) as usize;
    let entry = take(from, entry_bytes)?;
    let uses_bytes = u32::from_le_bytes(fixed(from)?) as usize;
    let uses = take(from, uses_bytes)?;
    let raw = &whole[..whole.len() - from.len()];
    let stat = StatKey { inode, size, modified, changed };
    Ok(Record { name, kind, trusted: trusted != 0, stat, entry, uses, raw })
}

/// All records of a directory's row.
pub fn read_all(mut from: &[u8]) -> Result<Vec<Record<'_>>, Corrupt> {
    let mut all = Vec::new();
    while !from.is_empty() {
        all.push(read(&mut from)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::uses::Spot;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_come_back() {
        let time = |seconds| Time { seconds, nanoseconds: 5 };
        let stat = StatKey { inode: 1, size: 2, modified: time(-3), changed: time(4) };
        let uses = vec![(Spot { archive: 3, block: 1 }, 2)];
        let mut bytes = write(b"a", EntryKind::File, true, &stat, b"entry", &uses);
        bytes.extend(write(b"b", EntryKind::Directory, false, &stat, b"", &Vec::new()));
        let all = read_all(&bytes).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].name, all[0].entry, all[0].trusted, all[0].stat), (&b"a"[..], &b"entry"[..], true, stat));
        assert_eq!(all[0].uses().unwrap(), uses);
        assert!(all[1].is_directory() && !all[1].trusted);
        assert_eq!([all[0].raw, all[1].raw].concat(), bytes);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_all(&bytes);
        }
    }
}

//! The store: what a session may do with objects. There is no call that replaces or removes one.

pub mod archive;
pub mod directory;
#[cfg(test)]
pub mod fake;
pub mod layout;
pub mod lease;
pub mod pack;

pub use directory::Directory;
use shared::id::{ArchiveNumber, Digest, Lineage, SessionId};
use std::io;

/// A kind of objects that lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shelf {
    Archives,
    Envelopes,
    Pages,
    Bodies,
    Heads,
    Receipts,
    Substitutes,
    Records,
    OwnerRecords,
    Vouchers,
    Wraps,
    Releases,
}

impl Shelf {
    /// Shelves in the room of a source.
    pub const OF_SOURCE: [Self; 8] = [
        Self::Archives,
        Self::Envelopes,
        Self::Pages,
        Self::Bodies,
        Self::Heads,
        Self::Receipts,
        Self::Substitutes,
        Self::Records,
    ];
    /// Shelves in the room of an owner.
    pub const OF_OWNER: [Self; 4] = [Self::OwnerRecords, Self::Vouchers, Self::Wraps, Self::Releases];
}

/// The name of an object within the room of its source or owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Name {
    Archive(Lineage, ArchiveNumber),
    Envelope(SessionId),
    Page(Digest),
    Body(Digest),
    Head(Lineage, u64),
    Receipt(Lineage, u64),
    Substitute(Lineage, Digest),
    /// A session record: when it was published (seconds since 1970) and a random tail.
    Record {
        started: u64,
        random: [u8; 8],
    },
    OwnerRecord(u64),
    Voucher(Digest),
    Wrap(Digest),
    Release(Digest),
}

impl Name {
    pub const fn shelf(&self) -> Shelf {
        match self {
            Self::Archive(..) => Shelf::Archives,
            Self::Envelope(_) => Shelf::Envelopes,
            Self::Page(_) => Shelf::Pages,
            Self::Body(_) => Shelf::Bodies,
            Self::Head(..) => Shelf::Heads,
            Self::Receipt(..) => Shelf::Receipts,
            Self::Substitute(..) => Shelf::Substitutes,
            Self::Record { .. } => Shelf::Records,
            Self::OwnerRecord(_) => Shelf::OwnerRecords,
            Self::Voucher(_) => Shelf::Vouchers,
            Self::Wrap(_) => Shelf::Wraps,
            Self::Release(_) => Shelf::Releases,
        }
    }
}

/// What the store could not do, and to what.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {error}")]
pub struct StoreError {
    pub action: &'static str,
    /// Relative to the vault's root.
    pub path: String,
    pub error: io::Error,
}

impl StoreError {
    /// No room: bytes, inodes or the file system's own quota.
    pub fn is_full(&self) -> bool {
        matches!(self.error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
    /// The object is there, but is not what was put: too short, or no regular file.
    pub fn is_damage(&self) -> bool {
        use rustix::io::Errno;
        // What file systems say of a medium that cannot be read, of their own damaged structures (EUCLEAN, of xfs and
        // btrfs also as EBADMSG and EILSEQ for checksums), and of a link where an object should be.
        const OF_THE_OBJECT: [Errno; 5] = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::ILSEQ, Errno::LOOP];
        let code = self.error.raw_os_error();
        matches!(self.error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
            || OF_THE_OBJECT.iter().any(|known| code == Some(known.raw_os_error()))
    }
}

/// Whether [`Store::put_new`] made the name or found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    New,
    /// The name was there; nothing was changed, what was staged is gone.
    Existed,
}

/// An entry of a shelf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Object(Name),
    /// A file that is no object, by its path within the room.
    Foreign(String),
}

/// Bytes on their way to become an object; dropped, they leave nothing.
pub trait Staged: Send + 'static {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError>;
}

/// An object, open for reading.
pub trait Stored {
    fn bytes(&self) -> u64;
    /// When the name appeared, by the store's own clock, which no session can set; seconds since 1970.
    fn appeared(&self) -> i64;
    /// Fills `buffer` from `offset`; a shorter object is an error.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError>;
}

/// Objects of one source or owner. Create, read, list: nothing else.
pub trait Store: Clone + Send + Sync + 'static {
    type Staged: Staged;
    type Stored: Stored;

    fn stage(&self) -> Result<Self::Staged, StoreError>;
    /// Makes what was staged durable under a name that must be new. With either answer the name is durable.
    fn put_new(&self, name: &Name, staged: Self::Staged) -> Result<Placed, StoreError>;
    fn get(&self, name: &Name) -> Result<Option<Self::Stored>, StoreError>;
    /// Visits the entries of a shelf, in no order.
    fn list(&self, shelf: Shelf, visit: &mut dyn FnMut(Entry)) -> Result<(), StoreError>;
    /// Bytes of those objects of a shelf that are wanted. What cannot be opened counts nothing, what is just being
    /// packed may count twice.
    fn bytes_of(&self, shelf: Shelf, wanted: &dyn Fn(&Name) -> bool) -> Result<u64, StoreError>;
    /// Room for new objects.
    fn free(&self) -> Result<Free, StoreError>;
}

/// Room of a store, whoever uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    pub bytes: u64,
    /// Objects that can still be made; the largest number where nobody counts.
    pub objects: u64,
}

/// Reads an object whole. One above `bytes_max` is damage: nothing so large was ever put.
pub fn read_whole<S: Store>(store: &S, name: &Name, bytes_max: usize) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(stored) = store.get(name)? else { return Ok(None) };
    let bytes = usize::try_from(stored.bytes()).unwrap_or(usize::MAX);
    if bytes > bytes_max {
        let error = io::Error::new(io::ErrorKind::InvalidData, format!("{bytes} bytes where {bytes_max} are allowed"));
        return Err(StoreError { action: "read", path: layout::object_path(name), error });
    }
    let mut buffer = vec![0; bytes];
    stored.read_at(&mut buffer, 0)?;
    Ok(Some(buffer))
}

/// Puts a small object; the second time the same bytes are no error.
pub fn put_bytes<S: Store>(store: &S, name: &Name, bytes: &[u8]) -> Result<PutBytes, StoreError> {
    let mut staged = store.stage()?;
    staged.append(bytes)?;
    if store.put_new(name, staged)? == Placed::New {
        return Ok(PutBytes::New);
    }
    let same = match read_whole(store, name, bytes.len()) {
        Ok(held) => held.as_deref() == Some(bytes),
        Err(e) if e.is_damage() => false,
        Err(e) => return Err(e),
    };
    Ok(if same { PutBytes::Same } else { PutBytes::Other })
}

/// What [`put_bytes`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutBytes {
    New,
    /// The same bytes were there.
    Same,
    /// Other bytes have this name: a conflict, or damage.
    Other,
}

/// The objects of a shelf, collected; foreign files are passed over.
pub fn names<S: Store>(store: &S, shelf: Shelf) -> Result<Vec<Name>, StoreError> {
    let mut found = Vec::new();
    store.list(shelf, &mut |entry| {
        if let Entry::Object(name) = entry {
            found.push(name);
        }
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn what_a_file_system_says_of_damage_is_the_objects_fault_and_no_other() {
        let of = |code: Errno| StoreError { action: "read", path: "x".into(), error: code.into() }.is_damage();
        for code in [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::ILSEQ, Errno::LOOP] {
            assert!(of(code), "{code}");
        }
        for code in [Errno::NOSPC, Errno::MFILE, Errno::ACCESS, Errno::NOMEM, Errno::STALE] {
            assert!(!of(code), "{code}");
        }
    }
}

//! The operator's own memory: what was seen first when, what was removed and why (docs/format.md, section "Operator's
//! journal"). Append-only, each entry names the one before it and is signed with a key that no session reads.

use crate::store::layout::Layout;
use minicbor::{Decode, Encode};
use rustix::time::{ClockId, clock_gettime};
use shared::codec::{Blob, FormatError, List, Text};
use shared::id::{ArchiveNumber, Digest, Lineage, SourceId, SourceName};
use shared::keyfile::{self, KeyFileError};
use shared::limits::ARCHIVE_PARTS_MAX;
use shared::signature::{Object, SigningKey, sign};
use shared::sys::{Clock, SystemClock, durable};
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

mod log;
mod memory;
pub use memory::{Gone, Holding, Memory, SILENT, Seen, SourceMemory};

/// First line of the key's file.
pub const JOURNAL_KEY: &str = "pawl-journal-key:1";
/// Sources, snapshots or archives that one entry may list.
pub const ITEMS_MAX: usize = 2048;
/// Why something was done or is wrong, in words.
pub type Words = Text<1024>;

/// What the machine's clocks say at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Moment {
    /// Seconds since 1970 UTC.
    #[n(0)]
    pub wall: i64,
    /// First 16 bytes of BLAKE3 of the kernel's boot id; empty where there is none.
    #[n(1)]
    pub boot: Blob<16>,
    /// Seconds since that boot, sleep included.
    #[n(2)]
    pub up: u64,
}

impl Moment {
    pub fn now() -> Self {
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").map(|id| Digest::of(&id).as_bytes()[..16].to_vec());
        let up = u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(0);
        let none = || Blob::new(Vec::new()).unwrap_or_else(|_| unreachable!("empty"));
        Self { wall: SystemClock.now(), boot: boot.ok().and_then(|id| Blob::new(id).ok()).unwrap_or_else(none), up }
    }
}

/// New heads of one lineage: all from `first` to `last`; the digest of the last binds those before it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct NewHeads {
    #[n(0)]
    pub lineage: Lineage,
    #[n(1)]
    pub first: u64,
    #[n(2)]
    pub last: u64,
    #[n(3)]
    pub newest: Digest,
}

/// What is new of one source, and what it holds now.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SourceSeen {
    #[n(0)]
    pub name: SourceName,
    #[n(1)]
    pub source: SourceId,
    #[n(2)]
    pub heads: List<NewHeads, 256>,
    #[n(3)]
    pub archives: u64,
    #[n(4)]
    pub bytes: u64,
}

/// A snapshot whose body goes to the trash.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct RemovedSnapshot {
    #[n(0)]
    pub lineage: Lineage,
    #[n(1)]
    pub sequence: u64,
    #[n(2)]
    pub head: Digest,
    #[n(3)]
    pub body: Digest,
    #[n(4)]
    pub why: Words,
}

/// An archive that is removed (no bit set) or written again without its dead blocks.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct FreedArchive {
    #[n(0)]
    pub lineage: Lineage,
    #[n(1)]
    pub number: ArchiveNumber,
    /// Parts that stay, lowest bit first; empty = the archive goes.
    #[n(2)]
    pub present: Blob<{ ARCHIVE_PARTS_MAX / 8 }>,
}

/// What happened. Entries of removal are written before the removal.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Event {
    #[n(0)]
    Observed(#[n(0)] List<SourceSeen, 256>),
    /// The rules in force for a source changed.
    #[n(1)]
    Policy(#[n(0)] SourceName, #[n(1)] Words, #[n(2)] u64),
    #[n(2)]
    Removed(#[n(0)] SourceName, #[n(1)] List<RemovedSnapshot, ITEMS_MAX>),
    /// Bodies that leave the trash for good.
    #[n(3)]
    Purged(#[n(0)] SourceName, #[n(1)] List<Digest, ITEMS_MAX>),
    /// Digest of the list of condemned blocks, and how many archives it names.
    #[n(4)]
    Condemned(#[n(0)] SourceName, #[n(1)] Digest, #[n(2)] u64),
    #[n(5)]
    Freed(#[n(0)] SourceName, #[n(1)] List<FreedArchive, ITEMS_MAX>),
    #[n(6)]
    Held(#[n(0)] SourceName, #[n(1)] Lineage, #[n(2)] u64, #[n(3)] Words),
    #[n(7)]
    Released(#[n(0)] SourceName, #[n(1)] Lineage, #[n(2)] u64, #[n(3)] Words),
    #[n(8)]
    Undeleted(#[n(0)] SourceName, #[n(1)] Digest),
    #[n(9)]
    Alarm(#[n(0)] SourceName, #[n(1)] Words, #[n(2)] Words),
    #[n(10)]
    Accepted(#[n(0)] SourceName, #[n(1)] Words, #[n(2)] Words),
    /// A run came to its end: snapshots kept, removed, bytes freed.
    #[n(11)]
    Pruned(#[n(0)] SourceName, #[n(1)] u64, #[n(2)] u64, #[n(3)] u64),
    /// `verify` read a source: damaged objects.
    #[n(12)]
    Scrubbed(#[n(0)] SourceName, #[n(1)] u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Entry {
    #[n(0)]
    pub number: u64,
    #[n(1)]
    pub previous: Option<Digest>,
    #[n(2)]
    pub at: Moment,
    #[n(3)]
    pub event: Event,
}

impl Object for Entry {
    const KIND: u8 = b'J';
    const BYTES_MAX: usize = 4 << 20;
    const NAME: &'static str = "journal entry";
}

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("cannot {what} {path}: {error}")]
    Io { what: &'static str, path: PathBuf, error: io::Error },
    #[error("{path}: {error}")]
    Key { path: PathBuf, error: KeyFileError },
    #[error("{path}: an entry before could not be written")]
    Broken { path: PathBuf },
    #[error("{path}: there is a journal and no key to go on with it")]
    NoKey { path: PathBuf },
    #[error("entry {number} of the operator's journal: {why}")]
    Entry { number: u64, why: String },
}

impl From<FormatError> for JournalError {
    fn from(error: FormatError) -> Self {
        Self::Entry { number: 0, why: error.to_string() }
    }
}

/// The journal, open for the one operator's command that holds the operator's lock.
pub struct Journal {
    path: PathBuf,
    file: File,
    key: SigningKey,
    /// An entry could not be written: how it ends nobody knows, so nothing more may follow it.
    broken: bool,
    /// Where the next entry begins.
    length: u64,
    /// Copy of what a crash left of an entry, if this opening took one off.
    pub cut: Option<PathBuf>,
    pub memory: Memory,
}

fn io_error(what: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |error| JournalError::Io { what, path, error }
}

fn read_key(layout: &Layout) -> Result<Option<SigningKey>, JournalError> {
    let path = layout.journal_key();
    let text = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => zeroize::Zeroizing::new(text.map_err(io_error("read", &path))?),
    };
    keyfile::read_signing_key(JOURNAL_KEY, &text).map(Some).map_err(|error| JournalError::Key { path, error })
}

impl Journal {
    /// Reads and checks all entries; makes key and file where there is neither.
    pub fn open(layout: &Layout) -> Result<Self, JournalError> {
        let path = layout.journal_log();
        let exists = path.try_exists().map_err(io_error("find", &path))?;
        let key = match read_key(layout)? {
            Some(key) => key,
            None if exists => return Err(JournalError::NoKey { path: layout.journal_key() }),
            None => {
                let (key, path) = (SigningKey::random(), layout.journal_key());
                durable::create_new_as(
                    &path,
                    keyfile::write(JOURNAL_KEY, &key.seed()).as_bytes(),
                    durable::PRIVATE,
                    durable::Owner::Directory,
                )
                .map_err(io_error("write", &path))?;
                key
            }
        };
        if !exists {
            durable::create_new_as(&path, b"", durable::PRIVATE, durable::Owner::Directory)
                .map_err(io_error("create", &path))?;
        }
        let log = log::read(&path, &key.verify_key())?;
        let file = File::options().append(true).open(&path).map_err(io_error("open", &path))?;
        let cut = if log.tail.is_empty() { None } else { Some(keep_tail(layout, &log)?) };
        if cut.is_some() {
            file.set_len(log.whole).and_then(|()| file.sync_all()).map_err(io_error("repair", &path))?;
        }
        Ok(Self { path, file, key, broken: false, length: log.whole, cut, memory: log.memory })
    }

    /// What the journal says, for a command that only looks. A vault without one has an empty memory.
    pub fn look(layout: &Layout) -> Result<Memory, JournalError> {
        match read_key(layout)? {
            Some(key) => Ok(log::read(&layout.journal_log(), &key.verify_key())?.memory),
            None => Ok(Memory::default()),
        }
    }

    /// write(O_APPEND) · fsync: after this the entry is there for good; a crash within leaves a cut entry, which the
    /// next opening takes off. What a full disk left of it is taken off at once.
    pub fn append(&mut self, at: &Moment, event: Event) -> Result<Digest, JournalError> {
        let entry = Entry { number: self.memory.entries, previous: self.memory.last, at: at.clone(), event };
        let entry = sign(entry, &self.key)?;
        let path = self.path.clone();
        if self.broken {
            return Err(JournalError::Broken { path });
        }
        if let Err(error) = self.file.write_all(entry.as_bytes()).and_then(|()| self.file.sync_all()) {
            self.broken = self.file.set_len(self.length).and_then(|()| self.file.sync_all()).is_err();
            return Err(io_error("write", &path)(error));
        }
        self.length += entry.as_bytes().len() as u64;
        let digest = entry.digest();
        self.memory.take(digest, entry.into_value());
        Ok(digest)
    }
}

/// Keeps a copy of a cut entry before it is taken off. One that was cut at the same place before has another end.
fn keep_tail(layout: &Layout, log: &log::Log) -> Result<PathBuf, JournalError> {
    let mut path = layout.journal_cut(log.whole);
    let mut more = 0;
    loop {
        match durable::create_new_as(&path, &log.tail, durable::PRIVATE, durable::Owner::Directory) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                more += 1;
                path.set_extension(format!("cut-{}-{more}", log.whole));
            }
            kept => return kept.map_err(io_error("write", &path)).map(|()| path),
        }
    }
}

#[cfg(test)]
mod tests;

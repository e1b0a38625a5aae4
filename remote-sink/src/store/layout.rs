//! The only speller of paths in a vault (docs/ARCHITECTURE.md, section "The vault").

use crate::store::{Name, Shelf};
use shared::id::{ArchiveNumber, Digest, Lineage, SessionId, SourceName, VerifyKey};
use shared::sys::durable::{self, Owner};
use shared::text;
use std::io;
use std::path::{Path, PathBuf};

/// Directories of a vault, its sources and owners.
const VAULT_DIR: u32 = 0o700;

/// A vault's root, and where everything lies below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn config(&self) -> PathBuf {
        self.root.join("vault.toml")
    }
    pub fn sink_key(&self) -> PathBuf {
        self.root.join("sink.key")
    }
    pub fn listen_key(&self) -> PathBuf {
        self.root.join("listen.key")
    }
    pub fn sources(&self) -> PathBuf {
        self.root.join("sources")
    }
    pub fn source(&self, name: &SourceName) -> PathBuf {
        self.root.join(source_room(name))
    }
    pub fn enrolment(&self, name: &SourceName) -> PathBuf {
        self.source(name).join("enrolment.toml")
    }
    pub fn lock(&self, name: &SourceName) -> PathBuf {
        self.source(name).join("lock")
    }
    pub fn staging(&self, name: &SourceName) -> PathBuf {
        self.source(name).join("staging")
    }
    pub fn trash(&self, name: &SourceName) -> PathBuf {
        self.source(name).join("trash")
    }
    /// Where packed objects of a source lie.
    pub fn packs(&self, name: &SourceName) -> PathBuf {
        self.source(name).join(PACKS)
    }
    /// A pack of a source.
    pub fn pack(&self, name: &SourceName, shelf: Shelf, number: u64) -> PathBuf {
        self.packs(name).join(pack_file(shelf, number))
    }
    /// A shelf of a source.
    pub fn shelf(&self, name: &SourceName, shelf: Shelf) -> PathBuf {
        self.source(name).join(shelf.dir())
    }
    pub fn owners(&self) -> PathBuf {
        self.root.join("owners")
    }
    pub fn owner(&self, key: &VerifyKey) -> PathBuf {
        self.root.join(owner_room(key))
    }
    pub fn operator(&self) -> PathBuf {
        self.root.join("operator")
    }
    pub fn journal(&self) -> PathBuf {
        self.operator().join("journal")
    }
    /// The entries of the operator's journal.
    pub fn journal_log(&self) -> PathBuf {
        self.journal().join("log")
    }
    /// What a crash left of an entry that began there.
    pub fn journal_cut(&self, offset: u64) -> PathBuf {
        self.journal().join(format!("log.cut-{offset}"))
    }
    pub fn journal_key(&self) -> PathBuf {
        self.operator().join("journal.key")
    }
    /// What the operator's commands leave for a source's sessions.
    pub fn published(&self, name: &SourceName) -> PathBuf {
        self.root.join(published_path(name))
    }
    /// What `verify` found damaged, for a source's sessions.
    pub fn damaged(&self, name: &SourceName) -> PathBuf {
        self.root.join(damaged_path(name))
    }
    /// Blocks of a source that will be freed.
    pub fn condemned(&self, name: &SourceName) -> PathBuf {
        self.source(name).join("condemned")
    }
    /// A body in a source's trash.
    pub fn trashed(&self, name: &SourceName, body: &Digest) -> PathBuf {
        self.trash(name).join(body.to_string())
    }
    pub fn ledgers(&self) -> PathBuf {
        self.operator().join("ledger")
    }
    pub fn ledger(&self, name: &SourceName) -> PathBuf {
        self.ledgers().join(format!("{name}.sqlite"))
    }
    /// Any object of a source, for messages and the operator's commands.
    pub fn object(&self, name: &SourceName, object: &Name) -> PathBuf {
        self.source(name).join(object_path(object))
    }

    /// Names of the enrolled sources and readers, sorted; other directory entries are passed over.
    pub fn source_names(&self) -> io::Result<Vec<SourceName>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.sources())? {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// What `init` makes: the root and the directories that hold sources, owners and the operator's own files.
    pub fn create_vault_dirs(&self) -> io::Result<()> {
        for dir in [self.root.clone(), self.sources(), self.owners(), self.ledgers(), self.journal()] {
            durable::create_dir_as(&dir, VAULT_DIR, Owner::Directory)?;
        }
        durable::sync_dir(&self.operator())?;
        durable::sync_dir(&self.root)
    }

    /// What `enroll` makes for a source or a reader: every directory that a session will ever need, and the lock.
    pub fn create_source_dirs(&self, name: &SourceName) -> io::Result<()> {
        let source = self.source(name);
        durable::create_dir_as(&source, VAULT_DIR, Owner::Directory)?;
        for shelf in Shelf::OF_SOURCE {
            create_shelf(&source, shelf)?;
        }
        for dir in [self.staging(name), self.trash(name), self.packs(name)] {
            durable::create_dir_as(&dir, VAULT_DIR, Owner::Directory)?;
        }
        let lock = self.lock(name);
        match durable::create_new_as(&lock, b"", durable::PRIVATE, Owner::Directory) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        durable::sync_dir(&source)?;
        durable::sync_dir(&self.sources())
    }

    /// What `enroll` makes for the owner that a card names.
    pub fn create_owner_dirs(&self, key: &VerifyKey) -> io::Result<()> {
        let owner = self.owner(key);
        durable::create_dir_as(&owner, VAULT_DIR, Owner::Directory)?;
        for shelf in Shelf::OF_OWNER {
            create_shelf(&owner, shelf)?;
        }
        durable::sync_dir(&owner)?;
        durable::sync_dir(&self.owners())
    }
}

fn create_shelf(room: &Path, shelf: Shelf) -> io::Result<()> {
    let dir = room.join(shelf.dir());
    durable::create_dir_as(&dir, VAULT_DIR, Owner::Directory)?;
    if shelf.is_split() {
        for byte in 0..=255u8 {
            durable::create_dir_as(&dir.join(text::hex(&[byte])), VAULT_DIR, Owner::Directory)?;
        }
    }
    durable::sync_dir(&dir)
}

/// Where packed objects lie within a source's room.
pub const PACKS: &str = "packs";

/// A pack's file: its shelf and a rising number.
pub fn pack_file(shelf: Shelf, number: u64) -> String {
    format!("{}-{number:016x}", shelf.dir())
}

/// Reads what [`pack_file`] wrote.
pub fn pack_number(file: &str) -> Option<(Shelf, u64)> {
    let (shelf, number) = file.split_once('-')?;
    let shelf = crate::store::pack::SHELVES.into_iter().find(|known| known.dir() == shelf)?;
    let number = u64::from_str_radix(number, 16).ok()?;
    (pack_file(shelf, number) == file).then_some((shelf, number))
}

/// A source's directory, relative to the root.
pub fn source_room(name: &SourceName) -> String {
    format!("sources/{name}")
}

/// What the operator's commands leave for a source's sessions, relative to the root.
pub fn published_path(name: &SourceName) -> String {
    format!("{}/published", source_room(name))
}

/// What `verify` found damaged, for a source's sessions, relative to the root.
pub fn damaged_path(name: &SourceName) -> String {
    format!("{}/damaged", source_room(name))
}

/// An owner's directory, relative to the root.
pub fn owner_room(key: &VerifyKey) -> String {
    format!("owners/{key}")
}

impl Shelf {
    /// Directory within the room of a source or an owner.
    pub const fn dir(self) -> &'static str {
        match self {
            Self::Archives => "archives",
            Self::Envelopes => "envelopes",
            Self::Pages => "pages",
            Self::Bodies => "bodies",
            Self::Heads => "heads",
            Self::Receipts => "receipts",
            Self::Substitutes => "substitutes",
            Self::Records | Self::OwnerRecords => "records",
            Self::Vouchers => "vouchers",
            Self::Wraps => "wraps",
            Self::Releases => "releases",
        }
    }
    /// Is it split into 256 directories?
    pub const fn is_split(self) -> bool {
        matches!(self, Self::Archives | Self::Pages | Self::Bodies)
    }
}

/// A shelf's directory, relative to the root.
pub fn shelf_dir(room: &str, shelf: Shelf) -> String {
    format!("{room}/{}", shelf.dir())
}

/// The directory of a source's packs, relative to the root.
pub fn packs_dir(room: &str) -> String {
    format!("{room}/{PACKS}")
}

/// The directory of an object, relative to its room.
pub fn object_dir(name: &Name) -> String {
    let shelf = name.shelf().dir();
    match name {
        Name::Archive(_, number) => format!("{shelf}/{:02x}", number.get() & 0xff),
        Name::Page(digest) | Name::Body(digest) => format!("{shelf}/{:02x}", digest.as_bytes()[0]),
        _ => shelf.to_owned(),
    }
}

/// The last component of an object's path.
pub fn object_file(name: &Name) -> String {
    match name {
        Name::Archive(lineage, number) => format!("{lineage}-{:012x}", number.get()),
        Name::Envelope(session) => session.to_string(),
        Name::Page(digest)
        | Name::Body(digest)
        | Name::Voucher(digest)
        | Name::Wrap(digest)
        | Name::Release(digest) => digest.to_string(),
        Name::Head(lineage, sequence) | Name::Receipt(lineage, sequence) => format!("{lineage}-{sequence:016x}"),
        Name::Substitute(lineage, digest) => format!("{lineage}-{digest}"),
        Name::Record { started, random } => format!("{started:016x}-{}", text::hex(random)),
        Name::OwnerRecord(number) => format!("{number:016x}"),
    }
}

/// An object's path, relative to its room.
pub fn object_path(name: &Name) -> String {
    format!("{}/{}", object_dir(name), object_file(name))
}

/// Reads what [`object_file`] wrote; `None` for a file that does not belong on this shelf.
pub fn parse_file(shelf: Shelf, file: &str) -> Option<Name> {
    let name = match shelf {
        Shelf::Archives => {
            let (lineage, number) = numbered(file)?;
            Name::Archive(lineage, ArchiveNumber::new(number).ok()?)
        }
        Shelf::Envelopes => Name::Envelope(file.parse::<SessionId>().ok()?),
        Shelf::Pages => Name::Page(file.parse().ok()?),
        Shelf::Bodies => Name::Body(file.parse().ok()?),
        Shelf::Heads => {
            let (lineage, sequence) = numbered(file)?;
            Name::Head(lineage, sequence)
        }
        Shelf::Receipts => {
            let (lineage, sequence) = numbered(file)?;
            Name::Receipt(lineage, sequence)
        }
        Shelf::Substitutes => {
            let (lineage, digest) = file.split_once('-')?;
            Name::Substitute(lineage.parse().ok()?, digest.parse::<Digest>().ok()?)
        }
        Shelf::Records => {
            let (started, random) = file.split_once('-')?;
            Name::Record { started: u64::from_str_radix(started, 16).ok()?, random: text::from_hex(random)? }
        }
        Shelf::OwnerRecords => Name::OwnerRecord(u64::from_str_radix(file, 16).ok()?),
        Shelf::Vouchers => Name::Voucher(file.parse().ok()?),
        Shelf::Wraps => Name::Wrap(file.parse().ok()?),
        Shelf::Releases => Name::Release(file.parse().ok()?),
    };
    // One spelling per name: upper-case digits, signs and wrong lengths are other files.
    (object_file(&name) == file).then_some(name)
}

fn numbered(file: &str) -> Option<(Lineage, u64)> {
    let (lineage, number) = file.split_once('-')?;
    Some((lineage.parse().ok()?, u64::from_str_radix(number, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<Name> {
        let (lineage, digest) = (Lineage::new([0xab; 16]), Digest::new([0xcd; 32]));
        vec![
            Name::Archive(lineage, ArchiveNumber::new(0x12345).unwrap()),
            Name::Envelope(SessionId::new([1; 32])),
            Name::Page(digest),
            Name::Body(digest),
            Name::Head(lineage, 7),
            Name::Receipt(lineage, u64::MAX),
            Name::Substitute(lineage, digest),
            Name::Record { started: 5, random: [9; 8] },
            Name::OwnerRecord(3),
            Name::Voucher(digest),
            Name::Wrap(digest),
            Name::Release(digest),
        ]
    }

    #[test]
    fn every_name_comes_back_from_its_file_and_only_from_it() {
        for name in names() {
            let file = object_file(&name);
            assert_eq!(parse_file(name.shelf(), &file), Some(name));
            let upper = file.to_uppercase();
            assert!(upper == file || parse_file(name.shelf(), &upper).is_none(), "{file}");
            assert_eq!(parse_file(name.shelf(), &format!("{file}0")), None);
            assert_eq!(parse_file(name.shelf(), &file[1..]), None);
        }
        assert_eq!(parse_file(Shelf::OwnerRecords, "+000000000000003"), None);
    }

    #[test]
    fn split_shelves_use_the_low_byte_of_the_number_and_the_first_of_the_digest() {
        let path = object_path(&Name::Archive(Lineage::new([0xab; 16]), ArchiveNumber::new(0x12345).unwrap()));
        assert_eq!(path, format!("archives/45/{}-000000012345", "ab".repeat(16)));
        assert_eq!(object_path(&Name::Body(Digest::new([0xcd; 32]))), format!("bodies/cd/{}", "cd".repeat(32)));
    }
}

//! One source as retention sees it: its room, its keys, and what failed.

use crate::config::Config;
use crate::enrolment::Enrolment;
use crate::journal::{Journal, JournalError, Memory, Moment};
use crate::ledger::LedgerError;
use crate::store::StoreError;
use crate::store::directory::{Directory, Root};
use crate::store::layout::{Layout, source_room};
use shared::codec::FormatError;
use shared::id::{SourceId, SourceName, VerifyKey};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("cannot {what} {path}: {error}")]
    Io { what: &'static str, path: PathBuf, error: io::Error },
    #[error("{0}")]
    Format(#[from] FormatError),
    #[error("{0}: a session of it runs; what it holds is not touched meanwhile")]
    Busy(SourceName),
    #[error("{source_name}: {path} is damaged or missing, so nothing is freed: run remote-sink verify {source_name}")]
    Damaged { source_name: SourceName, path: String },
    #[error("no snapshot {0}")]
    NoSuch(String),
    #[error("{0} names more than one snapshot: give more digits")]
    Ambiguous(String),
    #[error("snapshot {0} is not in the trash")]
    NotInTrash(String),
    #[error("snapshot {0} is in the trash: undelete it, which holds it too")]
    InTrash(String),
    #[error("the content of snapshot {0} is not here any more")]
    Nowhere(String),
}

impl RetentionError {
    /// Something stored is not what was put there, or cannot be read.
    pub fn is_damage(&self) -> bool {
        let kinds = [io::ErrorKind::UnexpectedEof, io::ErrorKind::InvalidData];
        let eio = Some(rustix::io::Errno::IO.raw_os_error());
        match self {
            Self::Damaged { .. } => true,
            Self::Store(error) | Self::Ledger(LedgerError::Store(error)) => error.is_damage(),
            Self::Io { error, .. } => kinds.contains(&error.kind()) || error.raw_os_error() == eio,
            _ => false,
        }
    }
}

pub fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RetentionError {
    let path = path.to_owned();
    move |error| RetentionError::Io { what, path, error }
}

/// A pushing source.
#[derive(Debug, Clone)]
pub struct Source {
    pub name: SourceName,
    pub id: SourceId,
    pub key: VerifyKey,
    pub owner: Option<VerifyKey>,
    pub store: Directory,
}

impl Source {
    pub fn new(root: &Root, name: &SourceName, enrolment: &Enrolment) -> Self {
        Self {
            name: name.clone(),
            id: enrolment.card.source_id(),
            key: *enrolment.card.verify_key(),
            owner: enrolment.card.owner().copied(),
            store: root.room(source_room(name)),
        }
    }
}

/// Everything that a command of retention works on. Whoever makes one holds the operator's lock.
pub struct Desk<'a> {
    pub layout: &'a Layout,
    pub config: &'a Config,
    pub root: Root,
    pub sink: VerifyKey,
    pub sources: Vec<Source>,
    pub journal: Journal,
    pub now: Moment,
}

/// What is read to judge a source; a command that changes nothing needs no more.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub layout: &'a Layout,
    pub root: &'a Root,
    pub sink: &'a VerifyKey,
    pub memory: &'a Memory,
}

impl Desk<'_> {
    pub fn view(&self) -> View<'_> {
        View { layout: self.layout, root: &self.root, sink: &self.sink, memory: &self.journal.memory }
    }
    pub fn source(&self, name: &SourceName) -> Option<&Source> {
        self.sources.iter().find(|source| source.name == *name)
    }
}

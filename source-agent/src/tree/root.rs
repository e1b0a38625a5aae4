//! Roots (docs/format.md, section "Root"): what a snapshot is of, sealed in its body.

use crate::tree::node::{Entry, EntryKind, NodeTop};
use shared::codec::{self, Blob, FormatError, List, Text};
use shared::limits::{PATH_BYTES_MAX, ROOT_BYTES_MAX};

/// What a snapshot holds, as counted by the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Counts {
    #[n(0)]
    pub files: u64,
    #[n(1)]
    pub directories: u64,
    #[n(2)]
    pub others: u64,
    /// Bytes of all files.
    #[n(3)]
    pub bytes: u64,
    /// Files and directories that could not be read, and named paths that were missing.
    #[n(4)]
    pub unreadable: u64,
    #[n(5)]
    pub changed_while_read: u64,
}

/// The root of a snapshot: `/`, with the way to each named path.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Root {
    #[n(0)]
    pub top: NodeTop,
    #[n(1)]
    pub host: Text<256>,
    /// The backup set's name.
    #[n(2)]
    pub set: Text<256>,
    #[n(3)]
    pub paths: List<Blob<PATH_BYTES_MAX>, 1024>,
    #[n(4)]
    pub tags: List<Text<256>, 256>,
    #[n(5)]
    pub counts: Counts,
    /// The source's clock, seconds since 1970 UTC.
    #[n(6)]
    pub started: i64,
    #[n(7)]
    pub finished: i64,
    /// Program and version.
    #[n(8)]
    pub program: Text<128>,
    /// Metadata of `/` itself, where it is one of the paths.
    #[n(9)]
    pub entry: Option<Entry>,
}

impl Root {
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let root: Self = codec::decode(bytes, ROOT_BYTES_MAX, "root")?;
        if let Some(entry) = &root.entry {
            if entry.kind != EntryKind::Directory || entry.node.is_some() {
                return Err(FormatError::Rule("the root entry is not a directory, or has a node of its own"));
            }
            entry.check_fields()?;
        }
        Ok(root)
    }
}

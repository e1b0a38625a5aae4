//! Directory nodes and lists of chunks (docs/format.md, section "Tree"). Each is a chunk of a metadata archive.

use minicbor::decode::{Decode, Decoder, Error as DecodeError};
use minicbor::encode::{Encode, Encoder, Error as EncodeError, Write};
use shared::codec::{self, Blob, FormatError, List, Text};
use shared::id::{ArchiveNumber, ChunkId};
use shared::limits::{
    CHUNK_BYTES_MAX, LINK_BYTES_MAX, NAME_BYTES_MAX, NODE_ENTRIES_MAX, NODE_LEVELS_MAX, NODE_REFS_MAX, XATTR_BYTES_MAX,
    XATTR_TOTAL_BYTES_MAX, XATTRS_MAX,
};

/// A chunk by its id, with its length and the place where the source last knew it (a hint: stale is only slow).
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ChunkRef {
    #[n(0)]
    pub id: ChunkId,
    #[n(1)]
    pub bytes: u32,
    #[n(2)]
    pub archive: ArchiveNumber,
    #[n(3)]
    pub block: u32,
}

/// A run of a file's content: a chunk (CBOR array), or a hole of so many zero bytes (CBOR integer).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    Chunk(ChunkRef),
    Hole(u64),
}

impl Extent {
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Chunk(chunk) => u64::from(chunk.bytes),
            Self::Hole(bytes) => *bytes,
        }
    }
}

impl<C> Encode<C> for Extent {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), EncodeError<W::Error>> {
        match self {
            Self::Chunk(chunk) => chunk.encode(e, ctx),
            Self::Hole(bytes) => e.u64(*bytes)?.ok(),
        }
    }
}
impl<'b, C> Decode<'b, C> for Extent {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, DecodeError> {
        match d.datatype()? {
            minicbor::data::Type::Array => Ok(Self::Chunk(ChunkRef::decode(d, ctx)?)),
            _ => Ok(Self::Hole(d.u64()?)),
        }
    }
}

/// A time: seconds since 1970 UTC (may be negative) and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Time {
    #[n(0)]
    pub seconds: i64,
    #[n(1)]
    pub nanoseconds: u32,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum EntryKind {
    #[n(0)]
    File,
    #[n(1)]
    Directory,
    #[n(2)]
    Symlink,
    #[n(3)]
    Fifo,
    #[n(4)]
    CharDevice,
    #[n(5)]
    BlockDevice,
}

/// A user or group: number, and name where the source knew one.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Owner {
    #[n(0)]
    pub id: u32,
    #[n(1)]
    pub name: Option<Text<256>>,
}

/// An extended attribute; ACLs and capabilities are some.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Xattr {
    #[n(0)]
    pub name: Blob<256>,
    #[n(1)]
    pub value: Blob<XATTR_BYTES_MAX>,
}

/// The tree of list nodes of a long file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct ListRef {
    /// The top list node.
    #[n(0)]
    pub chunk: ChunkRef,
    /// Its level: 0 holds extents, n > 0 holds references to nodes of level n - 1.
    #[n(1)]
    pub level: u8,
    /// Bytes of the file below it.
    #[n(2)]
    pub bytes: u64,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Entry {
    #[n(0)]
    pub name: Blob<NAME_BYTES_MAX>,
    #[n(1)]
    pub kind: EntryKind,
    /// Permission bits, setuid, setgid, sticky: 0 to 0o7777.
    #[n(2)]
    pub mode: u32,
    #[n(3)]
    pub user: Owner,
    #[n(4)]
    pub group: Owner,
    #[n(5)]
    pub modified: Time,
    #[n(6)]
    pub changed: Time,
    #[n(7)]
    pub inode: u64,
    /// Files: bytes of content. Others: 0.
    #[n(8)]
    pub size: u64,
    /// Entries of one snapshot with the same pair are the same file: (number of the file system in the run, inode).
    /// Only where the link count is above 1, never for directories.
    #[n(9)]
    pub hard_link: Option<HardLink>,
    /// Files: the content, if its list is short.
    #[n(10)]
    pub extents: Option<List<Extent, NODE_REFS_MAX>>,
    /// Files: the content, if its list is long.
    #[n(11)]
    pub list: Option<ListRef>,
    /// Directories: the top node. Absent: its content could not be read, or lies on another file system.
    #[n(12)]
    pub node: Option<NodeTop>,
    #[n(13)]
    pub target: Option<Blob<LINK_BYTES_MAX>>,
    /// Devices: major and minor number.
    #[n(14)]
    pub device: Option<Device>,
    #[n(15)]
    pub xattrs: Option<List<Xattr, XATTRS_MAX>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct HardLink {
    #[n(0)]
    pub file_system: u32,
    #[n(1)]
    pub inode: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Device {
    #[n(0)]
    pub major: u32,
    #[n(1)]
    pub minor: u32,
}

/// Where a directory's content begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct NodeTop {
    #[n(0)]
    pub chunk: ChunkRef,
    /// Level of that node: 0 holds entries, n > 0 holds references to nodes of level n - 1.
    #[n(1)]
    pub level: u8,
}

/// A node below another: its first name, so that one name is found without reading all nodes.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct NodeRef {
    #[n(0)]
    pub first: Blob<NAME_BYTES_MAX>,
    #[n(1)]
    pub chunk: ChunkRef,
}

/// A piece of a directory. Names ascend bytewise within it and from node to node.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Node {
    #[n(0)]
    pub level: u8,
    /// Level 0.
    #[n(1)]
    pub entries: Option<List<Entry, NODE_ENTRIES_MAX>>,
    /// Levels above.
    #[n(2)]
    pub nodes: Option<List<NodeRef, NODE_REFS_MAX>>,
}

/// A piece of a long file's list of chunks.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct ListNode {
    #[n(0)]
    pub level: u8,
    /// Level 0.
    #[n(1)]
    pub extents: Option<List<Extent, NODE_REFS_MAX>>,
    /// Levels above: list nodes and the file bytes below each.
    #[n(2)]
    pub lists: Option<List<(ChunkRef, u64), NODE_REFS_MAX>>,
}

/// Is this a name that a directory can hold?
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

impl Entry {
    fn check(&self) -> Result<(), FormatError> {
        if !is_name(&self.name) {
            return Err(FormatError::Rule("an entry's name is empty, '.', '..' or has a slash or a zero byte"));
        }
        self.check_fields()
    }

    fn check_xattrs(&self) -> Result<(), FormatError> {
        let Some(xattrs) = &self.xattrs else { return Ok(()) };
        if xattrs.iter().any(|xattr| xattr.name.is_empty() || xattr.name.contains(&0)) {
            return Err(FormatError::Rule("an extended attribute's name is empty or has a zero byte"));
        }
        if xattrs.windows(2).any(|pair| pair[0].name >= pair[1].name) {
            return Err(FormatError::Rule("extended attributes do not ascend"));
        }
        let bytes: usize = xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum();
        if bytes > XATTR_TOTAL_BYTES_MAX {
            return Err(FormatError::Rule("too many bytes of extended attributes"));
        }
        Ok(())
    }

    /// All rules but that of the name.
    pub(super) fn check_fields(&self) -> Result<(), FormatError> {
        self.check_xattrs()?;
        if self.mode > 0o7777 {
            return Err(FormatError::Rule("an entry's mode has more than permission bits"));
        }
        if self.modified.nanoseconds >= 1_000_000_000 || self.changed.nanoseconds >= 1_000_000_000 {
            return Err(FormatError::Rule("an entry's time has too many nanoseconds"));
        }
        let file = self.kind == EntryKind::File;
        if (self.extents.is_some() || self.list.is_some()) && !file || self.extents.is_some() && self.list.is_some() {
            return Err(FormatError::Rule("content where there is none, or two contents"));
        }
        if !file && self.size != 0 || self.node.is_some() && self.kind != EntryKind::Directory {
            return Err(FormatError::Rule("a size or a node where there is none"));
        }
        if self.target.is_some() != (self.kind == EntryKind::Symlink) {
            return Err(FormatError::Rule("a link target where there is none, or a link without one"));
        }
        let device = matches!(self.kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        if self.device.is_some() != device || self.hard_link.is_some() && self.kind == EntryKind::Directory {
            return Err(FormatError::Rule("a device number or a hard link where there is none"));
        }
        if self.target.as_ref().is_some_and(|target| target.is_empty() || target.contains(&0)) {
            return Err(FormatError::Rule("a link target is empty or has a zero byte"));
        }
        if self.node.is_some_and(|top| top.level > NODE_LEVELS_MAX)
            || self.list.is_some_and(|list| list.level > NODE_LEVELS_MAX)
        {
            return Err(FormatError::Rule("too many levels"));
        }
        match (&self.extents, &self.list) {
            (Some(extents), _) => check_extents(extents, Some(self.size)),
            (None, Some(list)) if list.bytes != self.size => {
                Err(FormatError::Rule("a file's list does not add up to its size"))
            }
            (None, None) if file && self.size != 0 => Err(FormatError::Rule("a file without its content")),
            _ => Ok(()),
        }
    }
}

fn check_extents(extents: &[Extent], bytes: Option<u64>) -> Result<(), FormatError> {
    let mut sum = 0u64;
    for extent in extents {
        if let Extent::Chunk(chunk) = extent
            && (chunk.bytes == 0 || chunk.bytes as usize > CHUNK_BYTES_MAX)
        {
            return Err(FormatError::Rule("a chunk of no bytes or too many"));
        }
        if extent.bytes() == 0 {
            return Err(FormatError::Rule("an extent of no bytes"));
        }
        sum = sum.checked_add(extent.bytes()).ok_or(FormatError::Rule("a file larger than any"))?;
    }
    match bytes {
        Some(bytes) if bytes != sum => Err(FormatError::Rule("a file's chunks do not add up to its size")),
        _ => Ok(()),
    }
}

impl Node {
    /// Reads a node; `level` is what the reference to it said.
    pub fn decode(bytes: &[u8], level: u8) -> Result<Self, FormatError> {
        let node: Self = codec::decode(bytes, CHUNK_BYTES_MAX, "directory node")?;
        if node.level != level || level > NODE_LEVELS_MAX {
            return Err(FormatError::Rule("a directory node has another level than its reference says"));
        }
        let ascending = match (&node.entries, &node.nodes) {
            (Some(entries), None) if level == 0 => {
                entries.iter().try_for_each(Entry::check)?;
                entries.windows(2).all(|pair| pair[0].name < pair[1].name)
            }
            (None, Some(nodes)) if level > 0 && !nodes.is_empty() => {
                nodes.windows(2).all(|pair| pair[0].first < pair[1].first)
            }
            _ => return Err(FormatError::Rule("a directory node of level 0 holds entries, of another level nodes")),
        };
        if ascending { Ok(node) } else { Err(FormatError::Rule("names of a directory do not ascend")) }
    }

    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    pub fn leaf(entries: Vec<Entry>) -> Result<Self, FormatError> {
        Ok(Self { level: 0, entries: Some(List::new(entries)?), nodes: None })
    }

    pub fn inner(level: u8, nodes: Vec<NodeRef>) -> Result<Self, FormatError> {
        Ok(Self { level, entries: None, nodes: Some(List::new(nodes)?) })
    }
}

impl ListNode {
    /// Reads a list node; level and bytes are what the reference to it said.
    pub fn decode(bytes: &[u8], level: u8, file_bytes: u64) -> Result<Self, FormatError> {
        let node: Self = codec::decode(bytes, CHUNK_BYTES_MAX, "list node")?;
        if node.level != level || level > NODE_LEVELS_MAX {
            return Err(FormatError::Rule("a list node has another level than its reference says"));
        }
        match (&node.extents, &node.lists) {
            (Some(extents), None) if level == 0 => check_extents(extents, Some(file_bytes))?,
            (None, Some(lists)) if level > 0 && !lists.is_empty() => {
                let sum = lists.iter().try_fold(0u64, |sum, (_, bytes)| sum.checked_add(*bytes));
                if sum != Some(file_bytes) {
                    return Err(FormatError::Rule("a list node does not add up"));
                }
            }
            _ => return Err(FormatError::Rule("a list node of level 0 holds extents, of another level lists")),
        }
        Ok(node)
    }

    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }
}

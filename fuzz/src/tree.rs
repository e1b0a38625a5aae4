//! What a reader opens: payloads of parts, chunk tables, roots, nodes. Any source whose keys were stolen writes these.

use crate::Target;
use crate::samples::{LINEAGE, SOURCE, number};
use shared::codec::{Blob, List, Text};
use shared::id::{ChunkId, Salt};
use source_agent::crypto::open;
use source_agent::crypto::part::Place;
use source_agent::crypto::seal::{self, Method};
use source_agent::tree::node::{
    ChunkRef, Device, Entry, EntryKind, Extent, HardLink, ListNode, ListRef, Node, NodeRef, NodeTop, Owner, Time, Xattr,
};
use source_agent::tree::root::{Counts, Root};
use source_agent::tree::table::{ChunkTable, TableEntry};

const SECRET: [u8; 32] = [9; 32];

/// A part whose payload is the fuzzer's: first byte even = stored, odd = a zstd frame.
fn part(bytes: &[u8]) -> bool {
    let Some((method, payload)) = bytes.split_first() else { return false };
    let place = Place::Part { source: SOURCE, lineage: LINEAGE, salt: Salt::new([1; 32]), archive: number(1), part: 0 };
    let mut buffer = seal::begin_payload(payload.len());
    buffer.extend_from_slice(payload);
    let method = if method % 2 == 0 { Method::Stored } else { Method::Zstd };
    let Ok(sealed) = seal::seal(&SECRET, &place, method, buffer) else { return false };
    let Ok(opened) = open::open(&SECRET, &place, &sealed.plain, sealed.bytes) else { return false };
    assert!(opened.len() <= shared::limits::BLOCK_BYTES_MAX);
    assert!(method == Method::Zstd || opened == payload);
    true
}

fn node(bytes: &[u8]) -> bool {
    let Some((level, bytes)) = bytes.split_first() else { return false };
    let Ok(node) = Node::decode(bytes, level % 6) else { return false };
    assert_eq!(node.encode(), bytes, "a node with another spelling was accepted");
    for entry in node.entries.iter().flat_map(|entries| entries.iter()) {
        let name: &[u8] = &entry.name;
        assert!(!name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0));
    }
    true
}

/// First byte: level; then eight bytes: the file's length as its reference says.
fn list_node(bytes: &[u8]) -> bool {
    let Some((level, rest)) = bytes.split_first() else { return false };
    let Some((length, bytes)) = rest.split_first_chunk::<8>() else { return false };
    let Ok(node) = ListNode::decode(bytes, level % 6, u64::from_le_bytes(*length)) else { return false };
    assert_eq!(node.encode(), bytes);
    true
}

fn table(bytes: &[u8]) -> bool {
    let Ok(table) = ChunkTable::decode(bytes) else { return false };
    assert_eq!(table.encode(), bytes);
    true
}

fn root(bytes: &[u8]) -> bool {
    let Ok(root) = Root::decode(bytes) else { return false };
    assert_eq!(root.encode(), bytes);
    true
}

fn chunk(bytes: u32) -> ChunkRef {
    ChunkRef { id: ChunkId::new([1; 32]), bytes, archive: number(7), block: 3 }
}

fn entry(name: &[u8], kind: EntryKind) -> Entry {
    let time = Time { seconds: -5, nanoseconds: 999_999_999 };
    Entry {
        name: Blob::new(name.to_vec()).unwrap(),
        kind,
        mode: 0o4755,
        user: Owner { id: 1000, name: Some(Text::new("ann").unwrap()) },
        group: Owner { id: 70_000, name: None },
        modified: time,
        changed: time,
        inode: 1 << 40,
        size: 0,
        hard_link: None,
        extents: None,
        list: None,
        node: None,
        target: None,
        device: None,
        xattrs: None,
    }
}

fn entries() -> Vec<Entry> {
    let xattr = Xattr { name: Blob::new(b"user.x".to_vec()).unwrap(), value: Blob::new(vec![0, 1]).unwrap() };
    vec![
        Entry { node: Some(NodeTop { chunk: chunk(50), level: 1 }), ..entry(b"a", EntryKind::Directory) },
        Entry {
            size: 1 << 33,
            list: Some(ListRef { chunk: chunk(9), level: 2, bytes: 1 << 33 }),
            xattrs: Some(List::new(vec![xattr]).unwrap()),
            ..entry(b"big", EntryKind::File)
        },
        Entry { device: Some(Device { major: 8, minor: 1 }), ..entry(b"dev", EntryKind::BlockDevice) },
        Entry {
            size: 1100,
            extents: Some(List::new(vec![Extent::Chunk(chunk(100)), Extent::Hole(1000)]).unwrap()),
            hard_link: Some(HardLink { file_system: 1, inode: 5 }),
            ..entry(b"file\xff", EntryKind::File)
        },
        Entry { target: Some(Blob::new(b"../x".to_vec()).unwrap()), ..entry(b"link", EntryKind::Symlink) },
        entry(b"pipe", EntryKind::Fifo),
    ]
}

fn with_level(level: u8, bytes: &[u8]) -> Vec<u8> {
    [&[level][..], bytes].concat()
}

fn nodes() -> Vec<Vec<u8>> {
    let leaf = Node::leaf(entries()).unwrap().encode();
    let below = |first: &[u8]| NodeRef { first: Blob::new(first.to_vec()).unwrap(), chunk: chunk(20) };
    let inner = Node::inner(1, vec![below(b"a"), below(b"m")]).unwrap().encode();
    let empty = Node::leaf(Vec::new()).unwrap().encode();
    vec![with_level(0, &leaf), with_level(1, &inner), with_level(0, &empty)]
}

fn list_nodes() -> Vec<Vec<u8>> {
    let extents = List::new(vec![Extent::Chunk(chunk(100)), Extent::Hole(1000), Extent::Chunk(chunk(1))]).unwrap();
    let leaf = ListNode { level: 0, extents: Some(extents), lists: None }.encode();
    let lists = List::new(vec![(chunk(9), 1000), (chunk(9), 5)]).unwrap();
    let inner = ListNode { level: 2, extents: None, lists: Some(lists) }.encode();
    let sample = |level: u8, length: u64, bytes: &[u8]| [&[level][..], &length.to_le_bytes(), bytes].concat();
    vec![sample(0, 1101, &leaf), sample(2, 1005, &inner)]
}

fn tables() -> Vec<Vec<u8>> {
    let entry = TableEntry { id: ChunkId::new([1; 32]), bytes: 70_000 };
    vec![ChunkTable::new(vec![vec![entry; 3], vec![entry]]).unwrap().encode()]
}

fn roots() -> Vec<Vec<u8>> {
    let root = Root {
        top: NodeTop { chunk: chunk(100), level: 0 },
        host: Text::new("web1").unwrap(),
        set: Text::new("system").unwrap(),
        paths: List::new(vec![Blob::new(b"/etc".to_vec()).unwrap()]).unwrap(),
        tags: List::new(vec![Text::new("daily").unwrap()]).unwrap(),
        counts: Counts { files: 3, bytes: 5000, ..Counts::default() },
        started: 1,
        finished: 2,
        program: Text::new("source-agent 0.1.0").unwrap(),
        entry: Some(entry(b"root", EntryKind::Directory)),
    };
    vec![root.encode()]
}

/// The text "pawl pawl pawl pawl pawl\n" as one zstd frame with its length in the header, stored raw.
fn parts() -> Vec<Vec<u8>> {
    let text = b"pawl pawl pawl pawl pawl\n";
    // Magic, single segment with a one-byte length, one raw block that is the last.
    let block = ((text.len() as u32) << 3 | 1).to_le_bytes();
    let frame = [&[0x28, 0xb5, 0x2f, 0xfd, 0x20, text.len() as u8][..], &block[..3], text].concat();
    vec![with_level(0, text), with_level(1, &frame)]
}

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target { name: "part", run: part, samples: parts },
        Target { name: "node", run: node, samples: nodes },
        Target { name: "list_node", run: list_node, samples: list_nodes },
        Target { name: "chunk_table", run: table, samples: tables },
        Target { name: "root", run: root, samples: roots },
    ]
}

//! Opens what a sink in memory holds, with the identity, through the newest snapshot's pages alone; checks on the way
//! that every reference's place is right and that the pages name just the blocks that are referred to.

use super::memory_sink::{Held, MemorySink};
use super::{LINEAGE, SOURCE};
use crate::crypto::identity::Identity;
use crate::crypto::open::open;
use crate::crypto::part::Place;
use crate::crypto::secret::{ChunkNamer, IndexSecret};
use crate::crypto::wrap::open_session;
use crate::tree::{ChunkRef, ChunkTable, Entry, EntryKind, Extent, ListNode, Node, Root};
use shared::format::{Body, Envelope, Head, Page, Region};
use shared::id::{ArchiveNumber, ChunkId, SessionId};
use shared::signature::{Object, Plain, Signed, Verified};
use std::collections::{BTreeMap, BTreeSet, HashMap};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    File(Vec<u8>),
    Directory,
    Link(String),
    Other,
}

fn verified<T: Object>(bytes: &[u8]) -> Verified<T> {
    Signed::parse(bytes).unwrap().verify(&super::signing().verify_key()).unwrap()
}

struct Opened<'a> {
    held: &'a Held,
    identity: &'a Identity,
    namer: ChunkNamer,
    index_secret: IndexSecret,
    /// Live blocks by the pages.
    live: BTreeSet<(u64, u32)>,
    used: BTreeSet<(u64, u32)>,
    blocks: HashMap<(u64, u32), HashMap<ChunkId, Vec<u8>>>,
}

/// Blocks that this snapshot's pages name.
pub fn live_blocks(held: &Held, head: &Head) -> BTreeSet<(u64, u32)> {
    let body = Plain::<Body>::parse(&held.bodies[&head.body]).unwrap();
    let mut live = BTreeSet::new();
    for page in body.pages.iter() {
        for entry in Plain::<Page>::parse(&held.pages[page]).unwrap().archives.iter() {
            let blocks = (0..entry.blocks_named()).filter(|block| entry.is_live(*block));
            live.extend(blocks.map(|block| (entry.number.get(), block)));
        }
    }
    live
}

/// The chunks of a block.
pub fn open_block(held: &Held, identity: &Identity, at: (u64, u32)) -> HashMap<ChunkId, Vec<u8>> {
    let session = held.envelopes.values().next().unwrap();
    let (_, source) = open_session(&verified::<Envelope>(session), identity).unwrap();
    let (namer, index_secret) = (source.chunk_namer(&LINEAGE), source.index_secret(&LINEAGE));
    let (live, used, blocks) = (BTreeSet::new(), BTreeSet::new(), HashMap::new());
    Opened { held, identity, namer, index_secret, live, used, blocks }.block(at)
}

/// Every path of the newest snapshot that is not a checkpoint.
pub fn open_newest(sink: &MemorySink, identity: &Identity) -> BTreeMap<String, Found> {
    let held = sink.held();
    let heads: Vec<Verified<Head>> = held.heads.iter().map(|(head, _)| verified(head)).collect();
    let head = heads.iter().rev().find(|head| !head.is_checkpoint()).unwrap();
    let body = Plain::<Body>::parse(&held.bodies[&head.body]).unwrap();
    let envelope = verified::<Envelope>(&held.envelopes[&head.session]);
    let (session, source) = open_session(&envelope, identity).unwrap();
    let place = Place::Root { source: SOURCE, lineage: LINEAGE, salt: body.root.salt, session: head.session };
    let root = open(session.as_bytes(), &place, &body.root.plain, body.root.sealed.to_vec()).unwrap();
    let root = Root::decode(&root).unwrap();
    let live = live_blocks(&held, head);
    let mut opened = Opened {
        held: &held,
        identity,
        namer: source.chunk_namer(&LINEAGE),
        index_secret: source.index_secret(&LINEAGE),
        live,
        used: BTreeSet::new(),
        blocks: HashMap::new(),
    };
    let mut all = BTreeMap::new();
    opened.directory(&root.top.chunk, root.top.level, "", &mut all);
    assert_eq!(opened.live, opened.used, "the pages name just the blocks that are referred to");
    all
}

impl Opened<'_> {
    fn chunk(&mut self, chunk: &ChunkRef) -> Vec<u8> {
        let at = (chunk.archive.get(), chunk.block);
        assert!(self.live.contains(&at), "{at:?} is not named by a page");
        self.used.insert(at);
        if !self.blocks.contains_key(&at) {
            let block = self.block(at);
            self.blocks.insert(at, block);
        }
        let bytes = self.blocks[&at].get(&chunk.id).expect("the place of a reference is right").clone();
        assert_eq!(bytes.len(), chunk.bytes as usize);
        assert_eq!(self.namer.name(&bytes), chunk.id);
        bytes
    }

    fn block(&self, (number, block): (u64, u32)) -> HashMap<ChunkId, Vec<u8>> {
        let (_, region, parts) = &self.held.archives[&number];
        let region = Region::parse(region).unwrap();
        let index = region.index.verify(&super::signing().verify_key()).unwrap();
        let part = |at: u32| {
            let begin: usize = index.parts[..at as usize].iter().map(|part| part.bytes as usize).sum();
            parts[begin..begin + index.parts[at as usize].bytes as usize].to_vec()
        };
        let place = |part: u32| Place::Part {
            source: SOURCE,
            lineage: LINEAGE,
            salt: index.salt,
            archive: ArchiveNumber::new(number).unwrap(),
            part,
        };
        let last = index.blocks();
        let table = &index.parts[last as usize].plain;
        let table = open(self.index_secret.as_bytes(), &place(last), table, part(last)).unwrap();
        let table = ChunkTable::decode(&table).unwrap();
        let session = SessionId::new(*region.envelope.digest().as_bytes());
        let envelope = verified::<Envelope>(&self.held.envelopes[&session]);
        let (secret, _) = open_session(&envelope, self.identity).unwrap();
        let plain = &index.parts[block as usize].plain;
        let bytes = open(secret.as_bytes(), &place(block), plain, part(block)).unwrap();
        let mut chunks = HashMap::new();
        let mut at = 0;
        for entry in table.blocks[block as usize].iter() {
            chunks.insert(entry.id, bytes[at..at + entry.bytes as usize].to_vec());
            at += entry.bytes as usize;
        }
        assert_eq!(at, bytes.len());
        chunks
    }

    fn directory(&mut self, chunk: &ChunkRef, level: u8, path: &str, all: &mut BTreeMap<String, Found>) {
        let node = Node::decode(&self.chunk(chunk), level).unwrap();
        for below in node.nodes.iter().flat_map(|nodes| nodes.iter()) {
            self.directory(&below.chunk, level - 1, path, all);
        }
        for entry in node.entries.iter().flat_map(|entries| entries.iter()) {
            let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            let found = match entry.kind {
                EntryKind::File => Found::File(self.file(entry)),
                EntryKind::Directory => {
                    if let Some(top) = entry.node {
                        self.directory(&top.chunk, top.level, &path, all);
                    }
                    Found::Directory
                }
                EntryKind::Symlink => Found::Link(String::from_utf8_lossy(entry.target.as_ref().unwrap()).into_owned()),
                _ => Found::Other,
            };
            assert!(all.insert(path, found).is_none());
        }
    }

    fn file(&mut self, entry: &Entry) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(list) = &entry.list {
            self.list(&list.chunk, list.level, list.bytes, &mut out);
        }
        for extent in entry.extents.iter().flat_map(|extents| extents.iter()) {
            self.extent(extent, &mut out);
        }
        assert_eq!(out.len() as u64, entry.size);
        out
    }

    fn list(&mut self, chunk: &ChunkRef, level: u8, bytes: u64, out: &mut Vec<u8>) {
        let node = ListNode::decode(&self.chunk(chunk), level, bytes).unwrap();
        for extent in node.extents.iter().flat_map(|extents| extents.iter()) {
            self.extent(extent, out);
        }
        for (below, bytes) in node.lists.iter().flat_map(|lists| lists.iter()) {
            self.list(below, level - 1, *bytes, out);
        }
    }

    fn extent(&mut self, extent: &Extent, out: &mut Vec<u8>) {
        match extent {
            Extent::Chunk(chunk) => out.extend_from_slice(&self.chunk(chunk)),
            Extent::Hole(bytes) => out.resize(out.len() + *bytes as usize, 0),
        }
    }
}

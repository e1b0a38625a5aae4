//! Directories come together as their files are done: each has a slot for every name and a counter, no lock is held
//! over another. A directory whose slots all are as in the last snapshot keeps its node and is not encoded.

use super::lay::Lane;
use super::store::{Keep, Store, spot};
use crate::index::Corrupt;
use crate::index::record::{self, StatKey};
use crate::index::series::DirRow;
use crate::index::uses::{self, Spot, Uses};
use crate::report::{Exit, Failure, Outcome};
use crate::tree::node::NodeTop;
use crate::tree::{ChunkRef, Entry, EntryKind, Node, NodeRef};
use crossbeam_channel::Sender;
use parking_lot::Mutex;
use shared::codec::{self, Blob};
use shared::limits::{NODE_ENTRIES_MAX, NODE_LEVELS_MAX};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Fewest entries of a piece of a directory that is not its last.
const LEAF_ENTRIES_MIN: usize = 64;
/// Bytes at which a piece ends in any case.
const LEAF_BYTES_MOST: usize = 192 << 10;
/// Fewest and most references of an inner node.
const INNER_REFS_MIN: usize = 16;
const INNER_REFS_MOST: usize = 1024;

/// A change of the series' rows; written by one thread.
pub enum TreeChange {
    Put {
        path: Vec<u8>,
        row: DirRow,
    },
    /// A directory is gone, with all below it.
    Forget(Vec<u8>),
    /// No more come.
    End,
}

/// One name of a directory.
pub enum Filled {
    /// As in the last snapshot: a range of the old row's records.
    Old(Range<usize>),
    /// A record.
    New(Vec<u8>),
    /// Not in the snapshot: gone, unreadable.
    Gone,
}

/// What a directory's entry in its parent is made of.
pub struct Own {
    pub name: Vec<u8>,
    pub stat: StatKey,
    pub trusted: bool,
    /// Its record in the parent's old row, if its metadata is the same.
    pub kept: Option<Range<usize>>,
    /// Its metadata, read now, if it is not.
    pub fresh: Option<Box<Entry>>,
}

/// A directory of this run.
pub struct Dir {
    /// Absolute, without a slash at the end; `/` is empty.
    pub path: Vec<u8>,
    parent: Option<(Arc<Dir>, usize)>,
    own: Own,
    old: Option<Arc<DirRow>>,
    slots: Mutex<Vec<Option<Filled>>>,
    /// Slots not filled, and one for the walker.
    pending: AtomicUsize,
    changed: AtomicBool,
}

/// The tree's top, when all of it is done.
#[derive(Debug, Clone)]
pub struct Top {
    pub node: NodeTop,
    pub entry: Option<Entry>,
}

/// Where finished directories go.
pub struct Output {
    pub changes: Sender<TreeChange>,
    pub top: Mutex<Option<Top>>,
}

impl Output {
    pub fn new(changes: Sender<TreeChange>) -> Self {
        Self { changes, top: Mutex::new(None) }
    }
    pub fn forget(&self, path: Vec<u8>) -> Outcome<()> {
        self.changes.send(TreeChange::Forget(path)).map_err(|_| super::stop::stopped())
    }
}

impl Dir {
    /// A directory whose names are known; `None` in `slots` is filled later with [`fill`]. The walker itself holds the
    /// directory open until it calls [`release`].
    pub fn new(
        path: Vec<u8>,
        parent: Option<(Arc<Dir>, usize)>,
        own: Own,
        old: Option<Arc<DirRow>>,
        slots: Vec<Option<Filled>>,
        changed: bool,
    ) -> Arc<Self> {
        let pending = slots.iter().filter(|slot| slot.is_none()).count() + 1;
        let changed = changed || old.is_none();
        Arc::new(Self {
            path,
            parent,
            own,
            old,
            slots: Mutex::new(slots),
            pending: AtomicUsize::new(pending),
            changed: AtomicBool::new(changed),
        })
    }

    pub fn old(&self) -> Option<&DirRow> {
        self.old.as_deref()
    }

    fn is_done(&self) -> bool {
        self.pending.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// Fills a slot; finishes the directory, and those above it, where it was the last one.
pub fn fill(dir: Arc<Dir>, slot: usize, filled: Filled, store: &mut Store, output: &Output) -> Outcome<()> {
    let mut next = Some((dir, slot, filled));
    while let Some((dir, slot, filled)) = next.take() {
        if !matches!(filled, Filled::Old(_)) {
            dir.changed.store(true, Ordering::Relaxed);
        }
        dir.slots.lock()[slot] = Some(filled);
        if dir.is_done() {
            next = finish(&dir, store, output)?;
        }
    }
    Ok(())
}

/// The walker has handed out all of the directory's names.
pub fn release(dir: &Arc<Dir>, store: &mut Store, output: &Output) -> Outcome<()> {
    if dir.is_done()
        && let Some((parent, slot, filled)) = finish(dir, store, output)?
    {
        return fill(parent, slot, filled, store, output);
    }
    Ok(())
}

type Step = Option<(Arc<Dir>, usize, Filled)>;

/// All slots are filled: makes the node, or keeps the old one.
fn finish(dir: &Arc<Dir>, store: &mut Store, output: &Output) -> Outcome<Step> {
    let met = &store.shared().met;
    let kept = match &dir.old {
        Some(old) if !dir.changed.load(Ordering::Relaxed) => Some(old),
        _ => None,
    };
    let (top, same) = match kept {
        Some(old) => {
            met.dirs_unmodified.add(1);
            (decode_top(&old.top)?, true)
        }
        None => {
            if dir.old.is_some() {
                met.dirs_changed.add(1)
            } else {
                met.dirs_new.add(1)
            }
            encode(dir, store, output)?
        }
    };
    match &dir.parent {
        Some((parent, slot)) => {
            let filled = entry_in_parent(dir, parent, top, same)?;
            Ok(Some((Arc::clone(parent), *slot, filled)))
        }
        None => {
            let mut entry = dir.own.fresh.clone().map(|entry| *entry);
            if let Some(entry) = &mut entry {
                entry.node = Some(top);
            }
            *output.top.lock() = Some(Top { node: top, entry });
            Ok(None)
        }
    }
}

fn decode_top(bytes: &[u8]) -> Outcome<NodeTop> {
    codec::decode(bytes, 4096, "top").map_err(|_| Corrupt.into())
}

/// The directory's record for its parent.
fn entry_in_parent(dir: &Dir, parent: &Dir, top: NodeTop, same: bool) -> Outcome<Filled> {
    let old = dir.own.kept.clone().zip(parent.old());
    let mut entry = match (old, &dir.own.fresh) {
        (Some((range, _)), _) if same => return Ok(Filled::Old(range)),
        (Some((range, row)), _) => {
            let record = record::read(&mut row.records.get(range).ok_or(Corrupt)?)?;
            minicbor::decode(record.entry).map_err(|_| Corrupt)?
        }
        (None, Some(fresh)) => Entry::clone(fresh),
        (None, None) => return Err(Corrupt.into()),
    };
    entry.node = Some(top);
    let entry = codec::encode(&entry);
    let own = &dir.own;
    Ok(Filled::New(record::write(&own.name, EntryKind::Directory, own.trusted, &own.stat, &entry, &Vec::new())))
}

/// Writes the directory's node and row. True if the node is the old one.
fn encode(dir: &Dir, store: &mut Store, output: &Output) -> Outcome<(NodeTop, bool)> {
    let slots = std::mem::take(&mut *dir.slots.lock());
    let mut records = Vec::new();
    let mut all: Uses = Vec::new();
    let mut leaves = Leaves::default();
    for slot in &slots {
        let raw = match slot {
            Some(Filled::Old(range)) => dir.old().and_then(|old| old.records.get(range.clone())).ok_or(Corrupt)?,
            Some(Filled::New(record)) => record,
            Some(Filled::Gone) => continue,
            None => return Err(Failure::new("tree", Exit::Failed, "a directory was finished with an empty slot")),
        };
        let record = record::read(&mut &raw[..])?;
        all.extend(record.uses()?);
        leaves.add(record.name, record.entry, store)?;
        records.extend_from_slice(raw);
    }
    drop(slots);
    let (top, nodes) = leaves.finish(store)?;
    all.extend(uses::count(nodes));
    let row = DirRow { top: codec::encode(&top), uses: uses::pack(&uses::merge(all)), records };
    let same = dir.old().is_some_and(|old| old.top == row.top);
    if dir.old() != Some(&row) {
        let change = TreeChange::Put { path: dir.path.clone(), row };
        output.changes.send(change).map_err(|_| super::stop::stopped())?;
    }
    Ok((top, same))
}

/// Makes the nodes of a directory of the last snapshot again, byte for byte, for who keeps them.
pub fn nodes_again(row: &DirRow, keep: &mut dyn Keep) -> Outcome<()> {
    let mut leaves = Leaves::default();
    for record in record::read_all(&row.records)? {
        leaves.add(record.name, record.entry, keep)?;
    }
    leaves.finish(keep).map(|_| ())
}

/// FNV-1a with a last mix: where a directory is cut depends on its names alone.
fn name_hash(name: &[u8]) -> u64 {
    let hash = name
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The pieces of a directory as they fill; inner nodes above them at the end.
#[derive(Default)]
struct Leaves {
    first: Vec<u8>,
    entries: Vec<u8>,
    count: usize,
    nodes: Vec<(Vec<u8>, ChunkRef)>,
    spots: Vec<Spot>,
}

impl Leaves {
    fn add(&mut self, name: &[u8], entry: &[u8], store: &mut dyn Keep) -> Outcome<()> {
        if self.count == 0 {
            self.first = name.to_vec();
        }
        self.entries.extend_from_slice(entry);
        self.count += 1;
        let may_end = self.count >= LEAF_ENTRIES_MIN && name_hash(name) >> 56 == 0;
        if may_end || self.entries.len() >= LEAF_BYTES_MOST || self.count == NODE_ENTRIES_MAX {
            self.end_leaf(store)?;
        }
        Ok(())
    }

    fn end_leaf(&mut self, store: &mut dyn Keep) -> Outcome<()> {
        let chunk = store.put(Lane::Metadata, &leaf(&self.entries, self.count))?;
        self.spots.push(spot(&chunk));
        self.nodes.push((std::mem::take(&mut self.first), chunk));
        self.entries.clear();
        self.count = 0;
        Ok(())
    }

    /// The top node, and the places of all nodes.
    fn finish(mut self, store: &mut dyn Keep) -> Outcome<(NodeTop, Vec<Spot>)> {
        if self.count > 0 || self.nodes.is_empty() {
            self.end_leaf(store)?;
        }
        let mut level = 0;
        while self.nodes.len() > 1 {
            level += 1;
            if level > NODE_LEVELS_MAX {
                return Err(Failure::new("directory-too-large", Exit::Failed, "a directory has too many names"));
            }
            self.raise(level, store)?;
        }
        let (_, chunk) = self.nodes.pop().ok_or(Corrupt)?;
        Ok((NodeTop { chunk, level }, self.spots))
    }

    /// Puts nodes of this level above the ones there are.
    fn raise(&mut self, level: u8, store: &mut dyn Keep) -> Outcome<()> {
        let mut above = Vec::new();
        let mut refs: Vec<NodeRef> = Vec::new();
        let below = std::mem::take(&mut self.nodes);
        let last = below.len() - 1;
        for (at, (first, chunk)) in below.into_iter().enumerate() {
            let may_end = refs.len() >= INNER_REFS_MIN && (name_hash(&first) >> 40) & 0x7f == 0;
            let first = Blob::new(first).map_err(|_| Corrupt)?;
            refs.push(NodeRef { first, chunk });
            if at == last || may_end || refs.len() == INNER_REFS_MOST {
                let name = refs[0].first.to_vec();
                let node = Node::inner(level, std::mem::take(&mut refs)).map_err(|_| Corrupt)?;
                let chunk = store.put(Lane::Metadata, &node.encode())?;
                self.spots.push(spot(&chunk));
                above.push((name, chunk));
            }
        }
        self.nodes = above;
        Ok(())
    }
}

/// A node of level 0 from entries that are encoded already: map of two, level 0, list of entries.
fn leaf(entries: &[u8], count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() + 16);
    let mut encoder = minicbor::Encoder::new(&mut bytes);
    let written = encoder
        .map(2)
        .and_then(|e| e.u8(0))
        .and_then(|e| e.u8(0))
        .and_then(|e| e.u8(1))
        .and_then(|e| e.array(count as u64))
        .is_ok();
    debug_assert!(written, "writing to memory");
    bytes.extend_from_slice(entries);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Owner, Time};

    fn entry(name: &str) -> Entry {
        let time = Time { seconds: 5, nanoseconds: 6 };
        let owner = Owner { id: 7, name: None };
        Entry {
            name: Blob::new(name.into()).unwrap(),
            kind: EntryKind::Fifo,
            mode: 0o644,
            user: owner.clone(),
            group: owner,
            modified: time,
            changed: time,
            inode: 9,
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

    #[test]
    fn a_joined_leaf_is_an_encoded_leaf() {
        for count in [0, 1, 23, 24, 300] {
            let entries: Vec<Entry> = (0..count).map(|at| entry(&format!("{at:05}"))).collect();
            let joined: Vec<u8> = entries.iter().flat_map(codec::encode).collect();
            let node = Node::leaf(entries).unwrap();
            assert_eq!(leaf(&joined, count), node.encode());
            assert_eq!(Node::decode(&leaf(&joined, count), 0).unwrap(), node);
        }
    }
}

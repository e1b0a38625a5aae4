//! Trees, read in the order of names with bounded memory whatever their depth and width (docs/format.md, section 12).

use crate::report::{Failure, Outcome};
use crate::restore::objects::{is_lost, tampered};
use crate::restore::reader::Reader;
use crate::tree::node::NodeTop;
use crate::tree::{ChunkRef, Entry, EntryKind, Extent, ListNode, Node};
use shared::limits::TREE_DEPTH_MAX;
use std::collections::VecDeque;

/// Directories of a walk whose entries stay in memory; those further up are read again when the walk returns.
const LEVELS_IN_MEMORY: usize = 24;
/// What a tree may hold beyond the counts of its root: directories on the way to the named paths, and slack.
const ENTRIES_SLACK: u64 = 65_536;

fn node(reader: &mut Reader<'_>, chunk: &ChunkRef, level: u8) -> Outcome<Node> {
    let content = reader.chunk(chunk)?;
    Node::decode(&content, level)
        .map_err(|e| tampered("node", format!("directory node {}: {e}", chunk.id.short())).remote(reader.sink.remote()))
}

/// One directory, entry by entry.
pub struct Cursor {
    top: NodeTop,
    /// The name of the last entry that was given.
    after: Option<Vec<u8>>,
    leaf: VecDeque<Entry>,
    ended: bool,
}

impl Cursor {
    pub fn new(top: NodeTop) -> Self {
        Self { top, after: None, leaf: VecDeque::new(), ended: false }
    }

    /// The next entry; names ascend from node to node (F-31).
    pub fn next(&mut self, reader: &mut Reader<'_>) -> Outcome<Option<Entry>> {
        self.load(reader)?;
        Ok(self.pop())
    }

    /// Reads the next entries if none are at hand; says whether it did.
    fn load(&mut self, reader: &mut Reader<'_>) -> Outcome<bool> {
        if !self.leaf.is_empty() || self.ended {
            return Ok(false);
        }
        match leaf_after(reader, &self.top.chunk, self.top.level, self.after.as_deref(), None)? {
            Some(entries) => self.leaf = entries,
            None => self.ended = true,
        }
        Ok(true)
    }

    fn pop(&mut self) -> Option<Entry> {
        let entry = self.leaf.pop_front()?;
        self.after = Some(entry.name.to_vec());
        Some(entry)
    }

    /// Gives no further entry.
    pub fn end(&mut self) {
        self.suspend();
        self.ended = true;
    }

    /// Gives the memory back; the next entry is read again.
    pub fn suspend(&mut self) {
        self.leaf = VecDeque::new();
    }
}

/// The entries behind the name `after` in the first node that has any. `first` is the name with which this node must
/// begin, as the reference to it says.
fn leaf_after(
    reader: &mut Reader<'_>,
    chunk: &ChunkRef,
    level: u8,
    after: Option<&[u8]>,
    first: Option<&[u8]>,
) -> Outcome<Option<VecDeque<Entry>>> {
    let node = node(reader, chunk, level)?;
    if let Some(entries) = node.entries {
        let begins = first.is_none_or(|first| entries.first().is_some_and(|entry| &entry.name[..] == first));
        if !begins {
            let why = "it does not begin with the name that its reference says";
            return Err(tampered("node", format!("directory node {}: {why}", chunk.id.short())));
        }
        let mut entries: VecDeque<Entry> = entries.into_vec().into();
        while entries.front().is_some_and(|entry| after.is_some_and(|after| &entry.name[..] <= after)) {
            entries.pop_front();
        }
        return Ok((!entries.is_empty()).then_some(entries));
    }
    let Some(nodes) = node.nodes else { return Ok(None) };
    let child_level =
        level.checked_sub(1).ok_or_else(|| tampered("node", "a directory node below the lowest level"))?;
    let begin = after.map_or(0, |after| nodes.partition_point(|child| &child.first[..] <= after).saturating_sub(1));
    // The child in which `after` stands may be at its end; the one behind it then begins with a later name.
    for child in nodes.iter().skip(begin).take(2) {
        if let Some(found) = leaf_after(reader, &child.chunk, child_level, after, Some(&child.first))? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The entry of this name.
pub fn lookup(reader: &mut Reader<'_>, top: &NodeTop, name: &[u8]) -> Outcome<Option<Entry>> {
    let (mut chunk, mut level) = (top.chunk, top.level);
    loop {
        let node = node(reader, &chunk, level)?;
        if let Some(entries) = node.entries {
            let found = entries.binary_search_by(|entry| entry.name[..].cmp(name));
            return Ok(found.ok().map(|at| entries[at].clone()));
        }
        let nodes = node.nodes.map(|nodes| nodes.into_vec()).unwrap_or_default();
        let Some(at) = nodes.partition_point(|child| &child.first[..] <= name).checked_sub(1) else { return Ok(None) };
        chunk = nodes[at].chunk;
        level = level.checked_sub(1).ok_or_else(|| tampered("node", "a directory node below the lowest level"))?;
    }
}

/// What a path of a snapshot names.
pub enum Found {
    /// `/`, with its metadata if the snapshot holds it.
    Top(Option<Box<Entry>>),
    Entry(Box<Entry>),
    Nothing,
}

/// Finds a path, name by name. Symbolic links are not followed.
pub fn find(reader: &mut Reader<'_>, path: &[u8]) -> Outcome<Found> {
    let mut top = Some(reader.root.top);
    let mut found = None;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
        let Some(here) = top else { return Ok(Found::Nothing) };
        let Some(entry) = lookup(reader, &here, name)? else { return Ok(Found::Nothing) };
        top = entry.node;
        found = Some(entry);
    }
    Ok(match found {
        Some(entry) => Found::Entry(Box::new(entry)),
        None => Found::Top(reader.root.entry.clone().map(Box::new)),
    })
}

/// A step of a walk.
pub enum Step {
    /// Anything in the present directory; a directory is gone into with [`Walk::enter`].
    Entry(Box<Entry>),
    /// The present directory's content, or the rest of it, cannot be read.
    Lost(Failure),
    /// The present directory is done; the walk is back in the one above.
    End,
}

struct Level {
    name: Vec<u8>,
    cursor: Cursor,
}

/// A walk through a tree, depth first.
pub struct Walk {
    levels: Vec<Level>,
    /// Entries that may still come: a tree that holds many more than its root says is a bomb.
    budget: u64,
}

impl Walk {
    /// Begins in this directory.
    pub fn new(reader: &Reader<'_>, top: NodeTop) -> Self {
        let counts = &reader.root.counts;
        let stated = counts.files.saturating_add(counts.directories).saturating_add(counts.others);
        let budget = stated.saturating_mul(2).saturating_add(ENTRIES_SLACK);
        Self { levels: vec![Level { name: Vec::new(), cursor: Cursor::new(top) }], budget }
    }

    /// The path of the present directory from where the walk began, without a slash at the end.
    pub fn path(&self) -> Vec<u8> {
        let mut path = Vec::new();
        for level in self.levels.iter().skip(1) {
            path.push(b'/');
            path.extend_from_slice(&level.name);
        }
        path
    }

    /// The path of an entry of the present directory.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path();
        path.push(b'/');
        path.extend_from_slice(name);
        path
    }

    pub fn depth(&self) -> usize {
        self.levels.len() - 1
    }

    /// Goes into a directory that was just given. Says whether it has content: without, there is no `End`.
    pub fn enter(&mut self, entry: &Entry) -> Outcome<bool> {
        let Some(top) = entry.node else { return Ok(false) };
        if self.levels.len() > TREE_DEPTH_MAX {
            return Err(tampered("tree", format!("the tree is deeper than {TREE_DEPTH_MAX} directories")));
        }
        if let Some(far) = self.levels.len().checked_sub(LEVELS_IN_MEMORY) {
            self.levels[far].cursor.suspend();
        }
        self.levels.push(Level { name: entry.name.to_vec(), cursor: Cursor::new(top) });
        Ok(true)
    }

    /// Leaves the directory that was just entered, without an `End`.
    pub fn leave(&mut self) {
        if self.levels.len() > 1 {
            self.levels.pop();
        }
    }

    /// The next step; `None` when the directory in which the walk began is done.
    pub fn next(&mut self, reader: &mut Reader<'_>) -> Outcome<Option<Step>> {
        self.next_of(reader, &|_| true)
    }

    /// The same for who goes into some directories alone: blocks of the others are not fetched ahead.
    pub fn next_of(&mut self, reader: &mut Reader<'_>, is_wanted: &dyn Fn(&NodeTop) -> bool) -> Outcome<Option<Step>> {
        crate::cli::check_interrupted()?;
        let Some(level) = self.levels.last_mut() else { return Ok(None) };
        let entry = match level.cursor.load(reader) {
            Ok(true) => {
                let nodes = level.cursor.leaf.iter().filter_map(|entry| entry.node);
                let nodes: Vec<ChunkRef> = nodes.filter(is_wanted).map(|node| node.chunk).collect();
                match reader.prefetch_nodes(&nodes) {
                    // What is lost of others is told when they are read.
                    Err(failure) if !is_lost(&failure) => Err(failure),
                    _ => Ok(level.cursor.pop()),
                }
            }
            loaded => loaded.map(|_| level.cursor.pop()),
        };
        match entry {
            Ok(Some(entry)) => {
                self.budget = self.budget.checked_sub(1).ok_or_else(|| {
                    let why = "the tree holds far more entries than its root states";
                    tampered("tree", format!("snapshot {}: {why}", reader.head.digest().short()))
                })?;
                Ok(Some(Step::Entry(Box::new(entry))))
            }
            Ok(None) => {
                self.levels.pop();
                Ok((!self.levels.is_empty()).then_some(Step::End))
            }
            Err(failure) if is_lost(&failure) => {
                level.cursor.end();
                Ok(Some(Step::Lost(failure)))
            }
            Err(failure) => Err(failure),
        }
    }
}

/// The content of a file: extents in their order, with their offsets.
pub struct Extents {
    stack: Vec<ListLevel>,
    offset: u64,
}

enum ListLevel {
    Extents(std::vec::IntoIter<Extent>),
    Lists(u8, std::vec::IntoIter<(ChunkRef, u64)>),
}

impl Extents {
    pub fn new(entry: &Entry) -> Self {
        let stack = match (&entry.extents, &entry.list) {
            (Some(extents), _) => vec![ListLevel::Extents(extents.clone().into_vec().into_iter())],
            (None, Some(list)) => {
                vec![ListLevel::Lists(list.level.saturating_add(1), vec![(list.chunk, list.bytes)].into_iter())]
            }
            (None, None) => Vec::new(),
        };
        debug_assert!(entry.kind == EntryKind::File || stack.is_empty());
        Self { stack, offset: 0 }
    }

    /// The next extent and where it begins in the file.
    pub fn next(&mut self, reader: &mut Reader<'_>) -> Outcome<Option<(u64, Extent)>> {
        loop {
            let Some(level) = self.stack.last_mut() else { return Ok(None) };
            match level {
                ListLevel::Extents(extents) => {
                    if let Some(extent) = extents.next() {
                        let at = self.offset;
                        self.offset = at.saturating_add(extent.bytes());
                        return Ok(Some((at, extent)));
                    }
                    self.stack.pop();
                }
                ListLevel::Lists(level, lists) => match lists.next() {
                    None => {
                        self.stack.pop();
                    }
                    Some((chunk, bytes)) => {
                        let below =
                            level.checked_sub(1).ok_or_else(|| tampered("list", "a list below the lowest level"))?;
                        let node = list_node(reader, &chunk, below, bytes)?;
                        self.stack.push(node);
                    }
                },
            }
        }
    }
}

fn list_node(reader: &mut Reader<'_>, chunk: &ChunkRef, level: u8, bytes: u64) -> Outcome<ListLevel> {
    let content = reader.chunk(chunk)?;
    let node = ListNode::decode(&content, level, bytes)
        .map_err(|e| tampered("list", format!("list node {}: {e}", chunk.id.short())).remote(reader.sink.remote()))?;
    Ok(match (node.extents, node.lists) {
        (Some(extents), _) => ListLevel::Extents(extents.into_vec().into_iter()),
        (None, lists) => ListLevel::Lists(level, lists.map(|lists| lists.into_vec()).unwrap_or_default().into_iter()),
    })
}

//! What was found wrong on the way, each object named once, bounded.

use crate::report::Failure;
use shared::id::{ArchiveNumber, ChunkId};
use std::collections::HashSet;

/// Findings that are kept in words; more are counted.
const KEPT_MAX: usize = 1000;
/// Objects that are remembered, so that each is named once.
const NAMED_MAX: usize = 1_000_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Object {
    Archive(u64),
    Block(u64, u32),
    Chunk(ChunkId, u64, u32),
    Other(String),
}

/// The list of findings.
#[derive(Debug, Default)]
pub struct Findings {
    named: HashSet<Object>,
    kept: Vec<String>,
    count: u64,
}

impl Findings {
    fn add(&mut self, object: Object, line: String) {
        if self.named.contains(&object) {
            return;
        }
        if self.named.len() < NAMED_MAX {
            self.named.insert(object);
        }
        self.count += 1;
        if self.kept.len() < KEPT_MAX {
            self.kept.push(line);
        }
    }
    pub fn archive(&mut self, number: ArchiveNumber, failure: Failure) {
        self.add(Object::Archive(number.get()), named(&format!("archive {number}"), &failure.message));
    }
    pub fn block(&mut self, number: ArchiveNumber, block: u32, failure: Failure) {
        let name = format!("archive {number}, block {block}");
        self.add(Object::Block(number.get(), block), named(&name, &failure.message));
    }
    pub fn poisoned(&mut self, id: &ChunkId, number: ArchiveNumber, block: u32) {
        let line =
            format!("chunk {id} in archive {number}, block {block} is poisoned: its content does not fit its id");
        self.add(Object::Chunk(*id, number.get(), block), line);
    }
    pub fn other(&mut self, line: String) {
        self.add(Object::Other(line.clone()), line);
    }
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
    pub fn count(&self) -> u64 {
        self.count
    }
    /// The findings in words; the last line counts those that were not kept.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.kept.clone();
        let more = self.count - self.kept.len() as u64;
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        lines
    }
    /// Joins another list.
    pub fn append(&mut self, other: Self) {
        let more = other.count - other.kept.len() as u64;
        for line in other.kept {
            self.other(line);
        }
        self.count += more;
    }
}

/// Puts the object's name before the message unless it begins with it or names its part.
fn named(name: &str, message: &str) -> String {
    if message.starts_with("archive ") { message.to_owned() } else { format!("{name}: {message}") }
}

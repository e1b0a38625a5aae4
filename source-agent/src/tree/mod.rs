//! What a snapshot's content is (docs/format.md, sections "Tree", "Chunk table", "Root"): plaintext structures that only
//! recipients and the source's memory see.

pub mod node;
pub mod root;
pub mod table;

pub use node::{ChunkRef, Entry, EntryKind, Extent, ListNode, ListRef, Node, NodeRef, Owner, Time, Xattr};
pub use root::{Counts, Root};
pub use table::ChunkTable;

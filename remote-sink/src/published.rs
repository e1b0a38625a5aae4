//! What the operator's commands leave for a source's sessions: `sources/NAME/published` (docs/format.md, section
//! "Operator's journal"). A session only reads it; retention never believes it. Without it a session promises nothing.

use crate::store::StoreError;
use crate::store::directory::Root;
use crate::store::layout::published_path;
use minicbor::{Decode, Encode};
use shared::codec::List;
use shared::id::{Digest, Lineage, SourceId, SourceName};
use shared::signature::{Object, Plain};
use std::io::Read;

/// Runs of expired snapshots of one lineage.
pub const RUNS_MAX: usize = 65_536;

/// Sequence numbers from `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Run {
    #[n(0)]
    pub first: u64,
    #[n(1)]
    pub last: u64,
}

/// Snapshots of one lineage whose content retention gave up.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Expired {
    #[n(0)]
    pub lineage: Lineage,
    #[n(1)]
    pub runs: List<Run, RUNS_MAX>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Published {
    #[n(0)]
    pub source: SourceId,
    /// Digest of the newest journal entry that changed what is held of this source: for receipts and Welcome.
    #[n(1)]
    pub journal: Option<Digest>,
    /// Seconds that a new snapshot is kept at least; 0 = no promise.
    #[n(2)]
    pub promise: u64,
    /// The same for a checkpoint.
    #[n(3)]
    pub checkpoint_promise: u64,
    #[n(4)]
    pub expired: List<Expired, 256>,
}

impl Object for Published {
    const KIND: u8 = b'p';
    const BYTES_MAX: usize = 4 << 20;
    const NAME: &'static str = "published note of the operator";
}

impl Published {
    /// Nothing promised, nothing expired.
    pub const fn nothing(source: SourceId) -> Self {
        Self { source, journal: None, promise: 0, checkpoint_promise: 0, expired: List::empty() }
    }

    /// Reads the note of a source. One that is damaged is as good as none: the operator's next command writes it again.
    pub fn read(root: &Root, name: &SourceName, source: SourceId) -> Result<Self, StoreError> {
        let path = published_path(name);
        let Some(file) = root.open_file(&path)? else { return Ok(Self::nothing(source)) };
        let mut bytes = Vec::new();
        let read = file.take(Self::BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| StoreError { action: "read", path, error })?;
        let note = Plain::<Self>::parse(&bytes).ok().map(Plain::into_value).filter(|note| note.source == source);
        Ok(note.unwrap_or(Self::nothing(source)))
    }

    pub fn is_expired(&self, lineage: &Lineage, sequence: u64) -> bool {
        let Some(expired) = self.expired.iter().find(|expired| expired.lineage == *lineage) else { return false };
        let at = expired.runs.partition_point(|run| run.last < sequence);
        expired.runs.get(at).is_some_and(|run| run.first <= sequence)
    }

    /// Until when a snapshot received now will be kept, if anything is promised.
    pub fn keep_until(&self, received: i64, checkpoint: bool) -> Option<i64> {
        let seconds = if checkpoint { self.checkpoint_promise } else { self.promise };
        (seconds > 0).then(|| received.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX)))
    }
}

/// Ascending sequence numbers as runs; beyond the limit the oldest are left out.
pub fn runs(sequences: impl Iterator<Item = u64>) -> List<Run, RUNS_MAX> {
    let mut runs: Vec<Run> = Vec::new();
    for sequence in sequences {
        match runs.last_mut() {
            Some(run) if run.last.checked_add(1) == Some(sequence) => run.last = sequence,
            _ => runs.push(Run { first: sequence, last: sequence }),
        }
    }
    let surplus = runs.len().saturating_sub(RUNS_MAX);
    List::new(runs.split_off(surplus)).unwrap_or(List::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_say_what_expired() {
        let lineage = Lineage::new([1; 16]);
        let expired = Expired { lineage, runs: runs([0, 1, 2, 5, 7, 8].into_iter()) };
        assert_eq!(expired.runs.len(), 3);
        let note =
            Published { expired: List::new(vec![expired]).unwrap(), ..Published::nothing(SourceId::new([2; 32])) };
        let found: Vec<u64> = (0..12).filter(|sequence| note.is_expired(&lineage, *sequence)).collect();
        assert_eq!(found, [0, 1, 2, 5, 7, 8]);
        assert!(!note.is_expired(&Lineage::new([3; 16]), 1));
        assert_eq!(note.keep_until(5, false), None);
        assert_eq!(Published { promise: 10, ..note }.keep_until(5, false), Some(15));
    }
}

//! What a source uses, and what this session adds to it.

use crate::ledger::{Known, read_record};
use crate::serve::limits::charge;
use crate::store::{Entry, Name, Shelf, Store, StoreError, Stored};
use shared::codec::List;
use shared::format::SessionRecord;
use shared::format::receipt::RecordArchive;
use shared::id::{ArchiveId, Lineage, SourceId, VerifyKey};
use std::collections::BTreeMap;

/// Where a lineage stands at this sink.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// One above the highest archive number held.
    pub next_number: u64,
    pub newest_head: Option<u64>,
}

/// What a source holds at the start of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    pub bytes: u64,
    pub objects: u64,
    pub lineages: BTreeMap<Lineage, Standing>,
}

impl Holdings {
    /// Looks at all names. With a ledger, only what it does not know yet is looked at closer. Memory does not grow
    /// with the number of objects.
    pub fn load<S: Store>(store: &S, ledger: Option<&Known>, sink: &VerifyKey) -> Result<Self, StoreError> {
        let mut holdings = Self::default();
        visit(store, Shelf::Archives, |name| {
            let Name::Archive(lineage, number) = name else { return Ok(()) };
            let standing = holdings.lineages.entry(lineage).or_default();
            standing.next_number = standing.next_number.max(number.get() + 1);
            match ledger {
                Some(ledger) if ledger.has_archive(&lineage, number) => Ok(()),
                _ => holdings.add(store, &name),
            }
        })?;
        visit(store, Shelf::Heads, |name| {
            let Name::Head(lineage, sequence) = name else { return Ok(()) };
            let standing = holdings.lineages.entry(lineage).or_default();
            standing.newest_head = standing.newest_head.max(Some(sequence));
            if ledger.is_none() { holdings.add(store, &name) } else { Ok(()) }
        })?;
        if let Some(ledger) = ledger {
            holdings.add_known(store, ledger, sink)?;
            return Ok(holdings);
        }
        let counted = [Shelf::Archives, Shelf::Heads, Shelf::Records];
        for shelf in Shelf::OF_SOURCE.into_iter().filter(|shelf| !counted.contains(shelf)) {
            visit(store, shelf, |name| holdings.add(store, &name))?;
        }
        Ok(holdings)
    }

    fn add<S: Store>(&mut self, store: &S, name: &Name) -> Result<(), StoreError> {
        let bytes = match store.get(name) {
            Ok(stored) => stored.map_or(0, |stored| stored.bytes()),
            Err(e) if e.is_damage() => 0,
            Err(e) => return Err(e),
        };
        self.bytes = self.bytes.saturating_add(charge(bytes));
        self.objects += 1;
        Ok(())
    }

    /// Adds what the ledger knows, and small objects by the records that it has not taken in yet.
    fn add_known<S: Store>(&mut self, store: &S, ledger: &Known, sink: &VerifyKey) -> Result<(), StoreError> {
        self.objects = self.objects.saturating_add(ledger.totals.objects);
        self.bytes = self.bytes.saturating_add(ledger.totals.bytes);
        visit(store, Shelf::Records, |name| {
            if ledger.has_record(&name) {
                return Ok(());
            }
            let record = match read_record(store, &name, sink) {
                Err(e) if !e.is_damage() => return Err(e),
                record => record.ok().flatten(),
            };
            if let Some(record) = record {
                let archives = record.archives.iter().map(|archive| charge(archive.bytes)).fold(0, u64::saturating_add);
                self.objects += record.objects.saturating_sub(record.archives.len() as u64);
                self.bytes = self.bytes.saturating_add(record.bytes.saturating_sub(archives));
            }
            Ok(())
        })
    }
}

/// Visits the objects of a shelf until one fails.
fn visit<S: Store>(
    store: &S,
    shelf: Shelf,
    mut work: impl FnMut(Name) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut done = Ok(());
    store.list(shelf, &mut |entry| {
        if let (Entry::Object(name), Ok(())) = (entry, &done) {
            done = work(name);
        }
    })?;
    done
}

/// Running totals of a pushing session, shared with the thread that publishes.
#[derive(Debug)]
pub struct Account {
    source: SourceId,
    lineage: Lineage,
    started: i64,
    /// Used by the source, with what is on its way.
    pub bytes: u64,
    pub objects: u64,
    archives: Vec<RecordArchive>,
    heads: Vec<u64>,
    added_objects: u64,
    added_bytes: u64,
}

impl Account {
    pub fn new(source: SourceId, lineage: Lineage, started: i64, holdings: &Holdings) -> Self {
        Self {
            source,
            lineage,
            started,
            bytes: holdings.bytes,
            objects: holdings.objects,
            archives: Vec::new(),
            heads: Vec::new(),
            added_objects: 0,
            added_bytes: 0,
        }
    }

    /// An object of so many bytes is on its way.
    pub fn reserve(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(charge(bytes));
        self.objects += 1;
    }

    /// It did not come.
    pub fn release(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(charge(bytes));
        self.objects = self.objects.saturating_sub(1);
    }

    /// It is durable, under this name, and was not there before.
    pub fn placed(&mut self, name: &Name, archive: Option<ArchiveId>, bytes: u64) {
        self.added_objects += 1;
        self.added_bytes = self.added_bytes.saturating_add(charge(bytes));
        match (name, archive) {
            (Name::Archive(_, number), Some(id)) => self.archives.push(RecordArchive { number: *number, id, bytes }),
            (Name::Head(_, sequence), _) => self.heads.push(*sequence),
            _ => {}
        }
    }

    /// Is so much new since the last record that the next one is due?
    pub fn is_record_due(&self, objects: u64, bytes: u64) -> bool {
        self.added_objects >= objects || self.added_bytes >= bytes
    }

    /// The record of what was added since the last one; `None` if nothing was.
    pub fn take_record(&mut self, now: i64) -> Option<SessionRecord> {
        if self.added_objects == 0 {
            return None;
        }
        let record = SessionRecord {
            source: self.source,
            lineage: Some(self.lineage),
            started: self.started,
            ended: now,
            // Records are published long before their lists are full.
            archives: List::new(std::mem::take(&mut self.archives)).unwrap_or(List::empty()),
            heads: List::new(std::mem::take(&mut self.heads)).unwrap_or(List::empty()),
            objects: std::mem::take(&mut self.added_objects),
            bytes: std::mem::take(&mut self.added_bytes),
        };
        Some(record)
    }
}

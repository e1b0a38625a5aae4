//! Archives: their index, chunk table and session's secret, many asked for at once; what is opened serves the next
//! snapshot of a lineage too.

use super::{ARCHIVE_CACHE_BYTES, FAILED_MAX, OpenArchive, Reader};
use crate::crypto::secret::{IndexSecret, SessionSecret, SourceSecret};
use crate::report::{Exit, Outcome};
use crate::restore::lru::Lru;
use crate::restore::objects::{ArchiveName, is_lost, tampered};
use crate::restore::open;
use crate::restore::ordered::Wanted;
use crate::restore::verify::{self, Archive};
use crate::tree::{ChunkRef, ChunkTable};
use shared::id::{ArchiveId, ArchiveNumber, SessionId};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Archives that are opened in one row.
pub(super) const PREFETCH_ARCHIVES: usize = 32;
/// Directories' blocks that are fetched in one row, opened.
const PREFETCH_NODE_BYTES: usize = 8 << 20;

fn open_table(archive: &Archive, secret: &IndexSecret, sealed: Vec<u8>) -> Outcome<ChunkTable> {
    let sealed = verify::part(archive, archive.index.blocks(), sealed)?;
    open::table(archive, secret, sealed)
}

/// What was opened for one snapshot of a lineage and serves the next: archives by their ids, and secrets of sessions.
/// Which of them a snapshot names its own pages say.
pub struct Kept {
    archives: Lru<ArchiveId, Arc<OpenArchive>>,
    sessions: HashMap<SessionId, Arc<SessionSecret>>,
    secret: Option<SourceSecret>,
}

impl Default for Kept {
    fn default() -> Self {
        Self { archives: Lru::new(ARCHIVE_CACHE_BYTES), sessions: HashMap::new(), secret: None }
    }
}

impl Reader<'_> {
    /// Takes over what was opened for another snapshot of the same lineage. Of another source secret nothing is taken.
    pub fn take_over(&mut self, kept: Kept) {
        if kept.secret.as_ref().is_some_and(|secret| secret.as_bytes() == self.secret.as_bytes()) {
            self.keys.sessions.extend(kept.sessions.iter().map(|(id, secret)| (*id, Arc::clone(secret))));
            self.kept = kept;
        }
    }

    /// What was opened, for the next snapshot of the same lineage.
    pub fn into_kept(self) -> Kept {
        let Self { mut kept, archives, keys, secret, .. } = self;
        for open in archives.into_values() {
            let bytes = open.memory();
            kept.archives.put(open.id(), open, bytes);
        }
        Kept { sessions: keys.sessions, secret: Some(secret), ..kept }
    }

    /// Fetches the blocks of directories that will be read, in one row.
    pub fn prefetch_nodes(&mut self, nodes: &[ChunkRef]) -> Outcome<()> {
        let absent = |reader: &Self, node: &ChunkRef| !reader.blocks.contains(&(node.archive.get(), node.block));
        let nodes: Vec<&ChunkRef> = nodes.iter().filter(|node| absent(self, node)).collect();
        let archives: BTreeSet<u64> = nodes.iter().map(|node| node.archive.get()).collect();
        self.prefetch(archives.into_iter().take(PREFETCH_ARCHIVES))?;
        let mut wanted = Wanted::default();
        for node in nodes {
            if wanted.is_full(PREFETCH_NODE_BYTES) {
                break;
            }
            // What was not opened in the row is not worth a question of its own here.
            if self.archives.contains(&node.archive.get()) {
                wanted.add(self, node)?;
            }
        }
        if wanted.blocks() > 1 {
            for (archive, number, block) in wanted.open(&mut *self.sink, &self.namer)? {
                // Who reads the directory after all finds what is wrong with it.
                if let Ok((block, _)) = block {
                    let bytes = block.memory();
                    self.blocks.put((archive.get(), number), block, bytes);
                }
            }
        }
        Ok(())
    }

    /// Why an archive could not be opened.
    pub fn why_failed(&self, number: ArchiveNumber) -> Option<&String> {
        self.failed_archives.get(&number.get())
    }

    /// The id that an archive must have: from the snapshot's pages, or from a substitute of a block in them.
    pub(super) fn expected_id(&mut self, number: ArchiveNumber) -> Outcome<Option<ArchiveId>> {
        if let Some(entry) = self.pages.entry(self.sink, number)? {
            return Ok(Some(entry.id));
        }
        if let Some(id) = self.also.get(&number.get()) {
            return Ok(Some(*id));
        }
        let lefts = self.substitutes()?.right(number);
        for (left, left_id, id) in lefts {
            let named = self.pages.entry(self.sink, left)?.is_some_and(|entry| entry.id == left_id);
            if named || self.also.get(&left.get()) == Some(&left_id) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// Index, envelope and chunk table of an archive, checked; `None` if the snapshot does not name it or it cannot be
    /// had (a finding).
    pub fn archive(&mut self, number: ArchiveNumber) -> Outcome<Option<Arc<OpenArchive>>> {
        if let Some(open) = self.archives.get(&number.get()) {
            return Ok(Some(open));
        }
        if self.failed_archives.contains_key(&number.get()) {
            return Ok(None);
        }
        let Some(id) = self.expected_id(number)? else { return Ok(None) };
        if let Some(open) = self.kept.archives.get(&id) {
            self.archives.put(number.get(), Arc::clone(&open), open.memory());
            return Ok(Some(open));
        }
        let name = ArchiveName { source: self.head.source, lineage: self.head.lineage, number };
        for (_, opened) in self.open_archives(&[(name, id)])? {
            self.opened(number, &id, opened)?;
        }
        Ok(self.archives.get(&number.get()))
    }

    /// Opens archives that will be wanted, all asked for together; each then costs no round trip of its own.
    pub fn prefetch(&mut self, numbers: impl IntoIterator<Item = u64>) -> Outcome<()> {
        let mut wanted = Vec::new();
        for number in numbers {
            let known = self.archives.contains(&number) || self.failed_archives.contains_key(&number);
            let Some(number) = ArchiveNumber::new(number).ok().filter(|_| !known) else { continue };
            let Some(id) = self.expected_id(number)? else { continue };
            match self.kept.archives.get(&id) {
                Some(open) => {
                    let bytes = open.memory();
                    self.archives.put(number.get(), open, bytes);
                }
                None => wanted.push((ArchiveName { source: self.head.source, lineage: self.head.lineage, number }, id)),
            }
            if wanted.len() == PREFETCH_ARCHIVES {
                self.prefetch_all(&std::mem::take(&mut wanted))?;
            }
        }
        self.prefetch_all(&wanted)
    }

    fn prefetch_all(&mut self, wanted: &[(ArchiveName, ArchiveId)]) -> Outcome<()> {
        for (at, opened) in self.open_archives(wanted)? {
            let (name, id) = &wanted[at];
            match opened {
                // It may not be needed after all: who needs it asks again, and is told.
                Err(failure) if is_lost(&failure) || failure.exit == Exit::Identity => {}
                opened => self.opened(name.number, id, opened)?,
            }
        }
        Ok(())
    }

    /// Keeps an archive that was opened; one that cannot be had is a finding.
    fn opened(&mut self, number: ArchiveNumber, id: &ArchiveId, opened: Outcome<OpenArchive>) -> Outcome<()> {
        match opened {
            Ok(open) => {
                let bytes = open.memory();
                self.archives.put(number.get(), Arc::new(open), bytes);
                Ok(())
            }
            Err(failure) if is_lost(&failure) || failure.exit == Exit::Identity => {
                if self.failed_archives.len() < FAILED_MAX {
                    self.failed_archives.insert(number.get(), failure.message.clone());
                }
                if !self.substitutes()?.has_archive(number, id) {
                    self.findings.archive(number, failure);
                }
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    /// Index, chunk table and session's secret of archives; region and table of all are asked for at once. Each
    /// comes with its place in the list.
    fn open_archives(&mut self, wanted: &[(ArchiveName, ArchiveId)]) -> Outcome<Vec<(usize, Outcome<OpenArchive>)>> {
        let (key, index_secret) = (self.source.key(), &self.index_secret);
        let remote = self.sink.remote().to_owned();
        let mut came = Vec::with_capacity(wanted.len());
        self.sink.archives(
            wanted,
            &|at, bytes| {
                let (name, id) = &wanted[at];
                verify::region(bytes, name, id, key).map_err(|e| e.remote(&remote))
            },
            &mut |at, got| {
                crate::cli::check_interrupted()?;
                let opened = got.and_then(|(archive, sealed)| {
                    let table = open_table(&archive, index_secret, sealed).map_err(|e| e.remote(&remote))?;
                    Ok((archive, table))
                });
                came.push((at, opened));
                Ok(())
            },
        )?;
        let open = |(at, got): (usize, Outcome<(Archive, ChunkTable)>)| {
            let opened = got.and_then(|(archive, table)| {
                let secret = self.session(&archive)?;
                Ok(OpenArchive { archive: Arc::new(archive), secret, table })
            });
            (at, opened)
        };
        Ok(came.into_iter().map(open).collect())
    }

    fn session(&mut self, archive: &Archive) -> Outcome<Arc<SessionSecret>> {
        let id = &archive.index.session;
        if let Some(secret) = self.keys.sessions.get(id) {
            return Ok(Arc::clone(secret));
        }
        let (session, source) = self.keys.open(self.sink, self.source, id, &archive.envelope)?;
        if source.as_bytes() != self.secret.as_bytes() {
            let why = "its source secret is not the one of the snapshot";
            return Err(tampered("envelope", format!("session {}: {why}", id.short())).remote(self.sink.remote()));
        }
        let session = Arc::new(session);
        self.keys.sessions.insert(*id, Arc::clone(&session));
        Ok(session)
    }
}

//! One snapshot, opened: chunks by reference, each checked on its way (docs/format.md, section 18). Bounded memory.
//!
//! A chunk is sought where its hint says, in substitutes of that block, then in every archive that the snapshot
//! names. Every candidate is tried; what does not fit is a finding, unless it is said to be elsewhere too and is there.

mod archives;

pub use archives::Kept;

use crate::crypto::identity::Identity;
use crate::crypto::secret::{ChunkNamer, IndexSecret, SessionSecret, SourceSecret};
use crate::owner::TrustedSource;
use crate::report::{Failure, Outcome};
use crate::restore::everywhere::Everywhere;
use crate::restore::findings::Findings;
use crate::restore::later::Later;
use crate::restore::lru::Lru;
use crate::restore::objects::{Got, Objects, PartsWanted, tampered};
use crate::restore::open;
use crate::restore::ordered::{Found, Wanted};
use crate::restore::pages::Pages;
use crate::restore::substitutes::Substitutes;
use crate::restore::verify::{self, Archive};
use crate::tree::{ChunkRef, ChunkTable, Root};
use archives::PREFETCH_ARCHIVES;
use shared::bits;
use shared::format::owner::BlockName;
use shared::format::{Body, Envelope, Head};
use shared::id::{ArchiveId, ArchiveNumber, ChunkId, SessionId};
use shared::signature::{Plain, Verified};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Bytes of opened blocks that are kept.
const BLOCK_CACHE_BYTES: usize = 96 << 20;
/// Bytes of indexes and chunk tables that are kept.
const ARCHIVE_CACHE_BYTES: usize = 64 << 20;
/// Failed archives and blocks that are remembered, so that they are not fetched for each chunk.
const FAILED_MAX: usize = 100_000;

/// An archive that was checked, with its chunk table and its session's secret.
pub struct OpenArchive {
    pub archive: Arc<Archive>,
    pub secret: Arc<SessionSecret>,
    pub table: ChunkTable,
}

impl OpenArchive {
    pub fn id(&self) -> ArchiveId {
        ArchiveId::new(*self.archive.index.digest().as_bytes())
    }

    /// Bytes of memory that it takes, about.
    pub fn memory(&self) -> usize {
        let table: usize = self.table.blocks.iter().map(|block| 48 * block.len() + 32).sum();
        self.archive.index.as_bytes().len() * 3 + table
    }
}

/// An opened block and where its chunks lie in it.
pub struct Block {
    content: Vec<u8>,
    chunks: HashMap<ChunkId, (usize, usize)>,
}

impl Block {
    /// F-22 is the caller's to check.
    pub fn get(&self, id: &ChunkId) -> Option<&[u8]> {
        let (at, bytes) = self.chunks.get(id)?;
        self.content.get(*at..at + bytes)
    }
    /// Those of the chunks that are in it and are what their names say.
    pub fn fitting(&self, namer: &ChunkNamer, wanted: &[ChunkRef]) -> HashSet<ChunkId> {
        let fits = |chunk: &&ChunkRef| {
            let content = self.get(&chunk.id).filter(|content| content.len() == chunk.bytes as usize);
            content.is_some_and(|content| open::is_chunk(namer, &chunk.id, content))
        };
        wanted.iter().filter(fits).map(|chunk| chunk.id).collect()
    }
    /// Bytes of memory that it takes, about.
    pub fn memory(&self) -> usize {
        self.content.len() + 64 * self.chunks.len()
    }
    pub fn chunks(&self) -> impl Iterator<Item = (&ChunkId, &[u8])> {
        self.chunks.iter().filter_map(|(id, (at, bytes))| Some((id, self.content.get(*at..at + bytes)?)))
    }
}

/// Notes a block that cannot be had, so that it is not asked for again with each of its chunks. Without `findings` it
/// is said to be elsewhere too: only what is not found there is told.
fn fail(
    failed: &mut HashMap<(u64, u32), String>,
    findings: Option<&mut Findings>,
    (archive, block): (ArchiveNumber, u32),
    failure: Failure,
) {
    if failed.len() < FAILED_MAX {
        failed.insert((archive.get(), block), failure.message.clone());
    }
    if let Some(findings) = findings {
        findings.block(archive, block, failure);
    }
}

/// Checks and opens a part that came as block `number` of an archive. Pure: may run on any thread.
pub fn open_block(open: &OpenArchive, number: u32, sealed: Vec<u8>) -> Outcome<Block> {
    let checked = verify::part(&open.archive, number, sealed)?;
    let content = open::block(&open.archive, &open.secret, checked)?;
    let offsets = open::offsets(&open.table, number, content.len()).ok_or_else(|| {
        let name = open.archive.name.number;
        tampered("chunk-table", format!("archive {name}, block {number}: its chunks do not add up to its content"))
    })?;
    let chunks = offsets.into_iter().map(|(id, at, bytes)| (id, (at, bytes))).collect();
    Ok(Block { content, chunks })
}

/// Secrets of sessions, opened once each.
struct Keys<'a> {
    identity: &'a Identity,
    sessions: HashMap<SessionId, Arc<SessionSecret>>,
    /// Asked when an envelope does not fit the identity.
    later: Later,
}

/// A snapshot, ready to be read.
pub struct Reader<'a> {
    pub sink: &'a mut dyn Objects,
    pub source: &'a TrustedSource,
    pub head: Verified<Head>,
    pub root: Root,
    pub pages: Pages,
    pub findings: Findings,
    pub namer: ChunkNamer,
    secret: SourceSecret,
    index_secret: IndexSecret,
    keys: Keys<'a>,
    archives: Lru<u64, Arc<OpenArchive>>,
    kept: Kept,
    blocks: Lru<(u64, u32), Arc<Block>>,
    failed_archives: HashMap<u64, String>,
    failed_blocks: HashMap<(u64, u32), String>,
    substitutes: Option<Arc<Substitutes>>,
    everywhere: Option<Everywhere>,
    /// Archives that other snapshots of the lineage name, for checks.
    also: std::collections::BTreeMap<u64, ArchiveId>,
    /// Sealed bytes of neighbours that are fetched along with a block.
    pub read_ahead: u64,
}

/// The body of a head, checked.
pub fn fetch_body(sink: &mut dyn Objects, head: &Head) -> Outcome<Plain<Body>> {
    let bytes = sink.body(&head.source, &head.body)?;
    verify::body(&bytes, &head.body).map_err(|e| e.remote(sink.remote()))
}

fn fetch_envelope(sink: &mut dyn Objects, source: &TrustedSource, head: &Head) -> Outcome<Verified<Envelope>> {
    let bytes = sink.envelope(&head.source, &head.session)?;
    verify::envelope(&bytes, &head.session, &head.source, &head.lineage, source.key())
        .map_err(|e| e.remote(sink.remote()))
}

impl<'a> Keys<'a> {
    fn new(identity: &'a Identity, later: &Later) -> Self {
        Self { identity, sessions: HashMap::new(), later: later.clone() }
    }

    fn open(
        &mut self,
        sink: &mut dyn Objects,
        source: &TrustedSource,
        id: &SessionId,
        envelope: &Verified<Envelope>,
    ) -> Outcome<(SessionSecret, SourceSecret)> {
        let identity = self.identity;
        match open::session(envelope, id, identity) {
            Err(e) if e.exit == crate::report::Exit::Identity => {
                let later = self.later.of(sink, source, &envelope.lineage, identity)?;
                let wraps = later.get(id).map_or(&[][..], Vec::as_slice);
                wraps.iter().find_map(|wrap| open::session_by_wrap(envelope, wrap, identity)).ok_or(e)
            }
            other => other,
        }
    }
}

/// The sealed root of a snapshot alone: for lists.
pub fn open_root(
    sink: &mut dyn Objects,
    source: &TrustedSource,
    head: &Verified<Head>,
    identity: &Identity,
    later: &Later,
) -> Outcome<Root> {
    let body = fetch_body(sink, head)?;
    let envelope = fetch_envelope(sink, source, head)?;
    let mut keys = Keys::new(identity, later);
    let (session, _) = keys.open(sink, source, &head.session, &envelope)?;
    open::root(head, &body, &session)
}

impl<'a> Reader<'a> {
    /// Opens a snapshot: body, pages, envelope, root.
    pub fn open(
        sink: &'a mut dyn Objects,
        source: &'a TrustedSource,
        head: Verified<Head>,
        identity: &'a Identity,
        later: &Later,
    ) -> Outcome<Self> {
        let body = fetch_body(sink, &head)?;
        let pages = Pages::load(sink, &head.source, &head.lineage, &body)?;
        let envelope = fetch_envelope(sink, source, &head)?;
        let mut keys = Keys::new(identity, later);
        let (session, secret) = keys.open(sink, source, &head.session, &envelope)?;
        let root = open::root(&head, &body, &session).map_err(|e| e.remote(sink.remote()))?;
        keys.sessions.insert(head.session, Arc::new(session));
        Ok(Self {
            namer: secret.chunk_namer(&head.lineage),
            index_secret: secret.index_secret(&head.lineage),
            secret,
            sink,
            source,
            head,
            root,
            pages,
            keys,
            findings: Findings::default(),
            archives: Lru::new(ARCHIVE_CACHE_BYTES),
            kept: Kept::default(),
            blocks: Lru::new(BLOCK_CACHE_BYTES),
            failed_archives: HashMap::new(),
            failed_blocks: HashMap::new(),
            substitutes: None,
            everywhere: None,
            also: std::collections::BTreeMap::new(),
            read_ahead: 0,
        })
    }

    /// Names archives of other snapshots of the same chain as well: for checks of all data, never for a restore.
    pub fn also_name(&mut self, archives: std::collections::BTreeMap<u64, ArchiveId>) {
        self.also = archives;
    }

    /// Gives back the memory of blocks that were read.
    pub fn forget_blocks(&mut self) {
        self.blocks.clear();
    }

    /// A chunk's content, whose id was checked.
    pub fn chunk(&mut self, wanted: &ChunkRef) -> Outcome<Vec<u8>> {
        let mut tried = Vec::new();
        for place in self.near(wanted)? {
            if let Some(content) = self.try_place(wanted, place)? {
                return Ok(content);
            }
            tried.push(place);
        }
        for place in self.everywhere(&wanted.id)? {
            if !tried.contains(&place)
                && let Some(content) = self.try_place(wanted, place)?
            {
                return Ok(content);
            }
        }
        let hint = (wanted.archive.get(), wanted.block);
        let why = self.failed_blocks.get(&hint).or_else(|| self.failed_archives.get(&hint.0)).cloned();
        let why = why.unwrap_or_else(|| "no archive that the snapshot names holds it".into());
        Err(tampered("chunk", format!("chunk {} cannot be read: {why}", wanted.id.short())).remote(self.sink.remote()))
    }

    /// Places to look first: the hinted block, then its substitutes. The hint leads for as long as it is not known to
    /// fail: later records, whoever could sign them, must not stand before what is sound (section 18, 6).
    pub fn near(&mut self, wanted: &ChunkRef) -> Outcome<Vec<(u64, u32)>> {
        let hint = (wanted.archive.get(), wanted.block);
        let mut places = vec![hint];
        places.extend(self.substitutes_of(wanted.archive, wanted.block)?.into_iter().filter(|place| *place != hint));
        if self.failed_blocks.contains_key(&hint) || self.failed_archives.contains_key(&hint.0) {
            places.rotate_left(1);
        }
        Ok(places)
    }

    /// Every block of the snapshot's archives that lists the chunk.
    pub fn everywhere(&mut self, id: &ChunkId) -> Outcome<Vec<(u64, u32)>> {
        if self.everywhere.is_none() {
            let mut index = Everywhere::new()?;
            for at in 0..self.pages.count() {
                let Some(page) = self.pages.page(self.sink, at)? else { continue };
                for (at, entry) in page.archives.iter().enumerate() {
                    crate::cli::check_interrupted()?;
                    if at.is_multiple_of(PREFETCH_ARCHIVES) {
                        let row = page.archives.iter().skip(at).take(PREFETCH_ARCHIVES);
                        self.prefetch(row.map(|entry| entry.number.get()))?;
                    }
                    if let Some(open) = self.archive(entry.number)? {
                        index.add(entry.number, &open.table, true)?;
                    }
                }
            }
            for number in self.substitutes()?.archives() {
                if self.pages.entry(self.sink, number)?.is_none()
                    && let Some(open) = self.archive(number)?
                {
                    index.add(number, &open.table, false)?;
                }
            }
            index.finish()?;
            self.everywhere = Some(index);
        }
        self.everywhere.as_ref().map_or_else(|| Ok(Vec::new()), |index| index.find(id))
    }

    /// The chunk at this place: `None` if it is not there, or is a finding.
    fn try_place(&mut self, wanted: &ChunkRef, place: (u64, u32)) -> Outcome<Option<Vec<u8>>> {
        let Ok(number) = ArchiveNumber::new(place.0) else { return Ok(None) };
        let Some(block) = self.block(number, place.1)? else { return Ok(None) };
        let Some(content) = block.get(&wanted.id) else { return Ok(None) };
        if content.len() == wanted.bytes as usize && open::is_chunk(&self.namer, &wanted.id, content) {
            return Ok(Some(content.to_vec()));
        }
        self.findings.poisoned(&wanted.id, number, place.1);
        Ok(None)
    }

    /// Substitutes of the blocks that the snapshot names, and of archives named by [`Reader::also_name`].
    pub fn substitutes(&mut self) -> Outcome<Arc<Substitutes>> {
        if let Some(known) = &self.substitutes {
            return Ok(Arc::clone(known));
        }
        let keys = self.source.signers();
        let name = (&self.head.source, &self.head.lineage);
        let rows = Substitutes::fetch(self.sink, name.0, name.1, &mut self.findings)?;
        let (pages, also, sink) = (&mut self.pages, &self.also, &mut *self.sink);
        let mut wanted = |left: &BlockName| {
            if also.get(&left.number.get()) == Some(&left.id) {
                return Ok(true);
            }
            let entry = pages.entry(sink, left.number)?;
            Ok(entry.is_some_and(|entry| entry.id == left.id && entry.is_live(left.block)))
        };
        let read = Arc::new(Substitutes::read(rows, name, &keys, &mut self.findings, &mut wanted)?);
        self.substitutes = Some(Arc::clone(&read));
        Ok(read)
    }

    /// Substitutes of a block that the snapshot names.
    pub fn substitutes_of(&mut self, number: ArchiveNumber, block: u32) -> Outcome<Vec<(u64, u32)>> {
        if self.substitutes()?.is_empty() {
            return Ok(Vec::new());
        }
        let Some(entry) = self.pages.entry(self.sink, number)? else { return Ok(Vec::new()) };
        Ok(self.substitutes()?.of(number, &entry.id, block))
    }

    /// Do other blocks hold what this one held? All of these chunks; where nobody knows which, at least whole blocks in
    /// which every chunk is what its name says.
    pub fn is_healed(
        &mut self,
        number: ArchiveNumber,
        id: &ArchiveId,
        block: u32,
        chunks: Option<Vec<ChunkId>>,
    ) -> Outcome<bool> {
        let pairs: Vec<Vec<BlockName>> = self.substitutes()?.pairs(number, id, block).map(<[_]>::to_vec).collect();
        let (mut found, mut any_whole) = (HashSet::new(), false);
        for rights in pairs {
            let mut whole = true;
            for right in rights {
                let Some(block) = self.block(right.number, right.block)? else {
                    whole = false;
                    continue;
                };
                for (id, content) in block.chunks() {
                    if open::is_chunk(&self.namer, id, content) {
                        found.insert(*id);
                    } else {
                        whole = false;
                    }
                }
            }
            any_whole |= whole;
        }
        Ok(chunks.map_or(any_whole, |chunks| chunks.iter().all(|id| found.contains(id))))
    }

    /// The same for all blocks of an archive that cannot be opened.
    pub fn all_healed(&mut self, number: ArchiveNumber, id: &ArchiveId, live: &[u8]) -> Outcome<bool> {
        for block in bits::numbers(live) {
            if !self.is_healed(number, id, block, None)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Does the snapshot say that this block is there?
    pub fn is_live(&mut self, number: ArchiveNumber, block: u32) -> Outcome<bool> {
        Ok(self.pages.entry(self.sink, number)?.is_some_and(|entry| entry.is_live(block)))
    }

    /// A block, checked and opened; neighbours come along within the read-ahead. `None` as for [`Reader::archive`].
    pub fn block(&mut self, number: ArchiveNumber, block: u32) -> Outcome<Option<Arc<Block>>> {
        let place = (number.get(), block);
        if let Some(found) = self.blocks.get(&place) {
            return Ok(Some(found));
        }
        if self.failed_blocks.contains_key(&place) {
            return Ok(None);
        }
        let Some(open) = self.archive(number)? else { return Ok(None) };
        if block >= open.archive.index.blocks() {
            return Ok(None);
        }
        let around = self.around(&open, block)?;
        self.fetch_blocks(&open, around)?;
        if !self.blocks.contains(&place) && !self.failed_blocks.contains_key(&place) {
            // A sink that refuses many parts for one is asked for the one.
            self.fetch_blocks(&open, vec![block])?;
        }
        Ok(self.blocks.get(&place))
    }

    /// The block, and live neighbours that are not here yet: behind it, then before it.
    fn around(&mut self, open: &OpenArchive, block: u32) -> Outcome<Vec<u32>> {
        let number = open.archive.name.number;
        let mut parts = vec![block];
        if self.read_ahead == 0 {
            return Ok(parts);
        }
        let Some(entry) = self.pages.entry(self.sink, number)? else { return Ok(parts) };
        let mut left = self.read_ahead;
        for neighbour in (block + 1..open.archive.index.blocks()).chain((0..block).rev()) {
            let bytes = open.archive.index.parts.get(neighbour as usize).map_or(0, |part| u64::from(part.bytes));
            if bytes > left {
                break;
            }
            let place = (number.get(), neighbour);
            if entry.is_live(neighbour) && !self.blocks.contains(&place) && !self.failed_blocks.contains_key(&place) {
                left -= bytes;
                parts.push(neighbour);
            }
        }
        parts.sort_unstable();
        Ok(parts)
    }

    /// A block that is here.
    pub fn cached(&mut self, place: (u64, u32)) -> Option<Arc<Block>> {
        self.blocks.get(&place)
    }

    /// Where a block is to be had that is not here: its archive, and the bytes that it takes, opened or sealed. `None` if it is here, has
    /// failed before, or cannot be had.
    pub fn absent(&mut self, (archive, block): (u64, u32)) -> Outcome<Option<(Arc<OpenArchive>, usize)>> {
        let place = (archive, block);
        if self.blocks.contains(&place) || self.failed_blocks.contains_key(&place) {
            return Ok(None);
        }
        let Ok(number) = ArchiveNumber::new(archive) else { return Ok(None) };
        let Some(open) = self.archive(number)? else { return Ok(None) };
        let Some(entries) = open.table.blocks.get(block as usize) else { return Ok(None) };
        let content: usize = entries.iter().map(|entry| entry.bytes as usize).sum();
        // What is fetched may be more: padding is the source's to choose.
        let sealed = open.archive.index.parts.get(block as usize).map_or(0, |part| part.bytes as usize);
        Ok(Some((open, content.max(sealed))))
    }

    /// Fetches blocks of several archives in one row; they are checked and opened on worker threads, and so are the
    /// chunks wanted of them. What does not come or does not fit is left out: [`Reader::chunk`] seeks it.
    pub fn fetch(&mut self, wanted: &Wanted) -> Outcome<Found> {
        let opened = wanted.open(&mut *self.sink, &self.namer)?;
        let substitutes = self.substitutes()?;
        let mut found = Found::new();
        for (archive, number, block) in opened {
            let place = (archive.get(), number);
            match block {
                Ok((block, good)) => {
                    self.blocks.put(place, Arc::clone(&block), block.memory());
                    found.insert(place, (block, good));
                }
                Err(failure) => {
                    let healed = wanted.id_of(archive).is_some_and(|id| substitutes.has(archive, &id, number));
                    let findings = (!healed).then_some(&mut self.findings);
                    fail(&mut self.failed_blocks, findings, (archive, number), failure);
                }
            }
        }
        Ok(found)
    }

    fn fetch_blocks(&mut self, open: &Arc<OpenArchive>, parts: Vec<u32>) -> Outcome<()> {
        let number = open.archive.name.number;
        let single = match parts[..] {
            [block] => Some(block),
            _ => None,
        };
        let wanted = [PartsWanted { archive: Arc::clone(&open.archive), parts }];
        let (id, substitutes) = (open.id(), self.substitutes()?);
        let (blocks, failed, findings) = (&mut self.blocks, &mut self.failed_blocks, &mut self.findings);
        let mut fail = |block: u32, failure: Failure| {
            let findings = (!substitutes.has(number, &id, block)).then_some(&mut *findings);
            fail(failed, findings, (number, block), failure);
        };
        self.sink.parts(&wanted, &mut |_, got| {
            match got {
                Got::Part(block, sealed) => match open_block(open, block, sealed) {
                    Ok(opened) => {
                        let bytes = opened.memory();
                        blocks.put((number.get(), block), Arc::new(opened), bytes);
                    }
                    Err(failure) => fail(block, failure),
                },
                Got::Ended(failure) => {
                    if let Some(block) = single {
                        fail(block, failure);
                    }
                }
            }
            Ok(())
        })
    }
}

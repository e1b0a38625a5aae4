//! What the snapshots of one chain name: bodies, pages and archives, without a key.

use crate::owner::TrustedSource;
use crate::progress::Progress;
use crate::report::{Failure, Outcome};
use crate::restore::findings::Findings;
use crate::restore::objects::{ArchiveName, Objects, Wanted, is_lost, tampered};
use crate::restore::substitutes::Substitutes;
use crate::restore::verify::{self, Archive};
use crate::restore::view::Snapshot;
use shared::bits;
use shared::format::PageEntry;
use shared::format::owner::BlockName;
use shared::format::snapshot::PageOrder;
use shared::id::{ArchiveId, ArchiveNumber, Digest, Lineage};
use shared::wire::Damage;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Archives of one chain that are checked; the client lists no more of them either.
const ARCHIVES_MAX: usize = 4 << 20;
/// Snapshots whose bodies are asked for in one row.
const SNAPSHOTS_AT_ONCE: usize = 32;
/// Header regions that are asked for in one row.
const REGIONS_AT_ONCE: usize = 1024;

/// What the snapshots of one chain name.
#[derive(Debug, Default)]
pub struct Named {
    pub(super) archives: BTreeMap<u64, (ArchiveId, Vec<u8>)>,
    pages: HashSet<Digest>,
    bodies: HashSet<Digest>,
    pub snapshots: u64,
    /// Snapshots that the sink calls expired.
    pub expired: u64,
}

impl Named {
    pub fn archives(&self) -> u64 {
        self.archives.len() as u64
    }

    fn add(&mut self, entry: &PageEntry, findings: &mut Findings) -> Outcome<()> {
        let number = entry.number.get();
        if self.archives.len() >= ARCHIVES_MAX && !self.archives.contains_key(&number) {
            return Err(tampered("endless", format!("the snapshots name more than {ARCHIVES_MAX} archives")));
        }
        let (id, live) = self.archives.entry(number).or_insert_with(|| (entry.id, Vec::new()));
        if *id != entry.id {
            findings.other(format!("archive {number}: two snapshots name different archives of this number"));
            return Ok(());
        }
        live.resize(live.len().max(entry.live.len()), 0);
        live.iter_mut().zip(entry.live.iter()).for_each(|(all, one)| *all |= one);
        Ok(())
    }

    /// Does a snapshot name this block of this archive?
    pub fn is_live(&self, number: u64, id: &ArchiveId, block: u32) -> bool {
        self.archives.get(&number).is_some_and(|(known, live)| known == id && bits::is_set(live, block as usize))
    }

    /// Bodies and pages of snapshots, each once, asked for in rows.
    pub fn snapshots(
        &mut self,
        sink: &mut dyn Objects,
        snapshots: &[&Snapshot],
        findings: &mut Findings,
    ) -> Outcome<()> {
        for group in snapshots.chunks(SNAPSHOTS_AT_ONCE) {
            let fresh: Vec<&Snapshot> = group.iter().copied().filter(|one| self.is_fresh(one, findings)).collect();
            let wanted: Vec<Wanted> = fresh.iter().map(|one| Wanted::Body(one.head.source, one.head.body)).collect();
            // Pages that are not known yet, each with the snapshot that names it first.
            let (mut pages, mut named): (Vec<(&Snapshot, Digest)>, HashSet<Digest>) = Default::default();
            sink.objects(&wanted, &mut |at, got| {
                crate::cli::check_interrupted()?;
                let snapshot = fresh[at];
                match got.and_then(|bytes| verify::body(&bytes, &snapshot.head.body)) {
                    Ok(body) => {
                        let new = |digest: &&Digest| !self.pages.contains(*digest) && named.insert(**digest);
                        pages.extend(body.pages.iter().filter(new).map(|digest| (snapshot, *digest)));
                    }
                    Err(failure) => lost(findings, snapshot, failure)?,
                }
                Ok(())
            })?;
            self.read_pages(sink, &pages, findings)?;
        }
        Ok(())
    }

    /// Is the content of this snapshot to be looked at, and its body new?
    fn is_fresh(&mut self, snapshot: &Snapshot, findings: &mut Findings) -> bool {
        match snapshot.content {
            Damage::Present => {
                self.snapshots += 1;
                return self.bodies.insert(snapshot.head.body);
            }
            Damage::Expired => self.expired += 1,
            Damage::Absent if snapshot.head.is_checkpoint() => {}
            Damage::Absent => {
                let id = snapshot.id().short();
                findings.other(format!("snapshot {id}: its content is gone, and no retention took it"));
            }
        }
        false
    }

    fn read_pages(
        &mut self,
        sink: &mut dyn Objects,
        pages: &[(&Snapshot, Digest)],
        findings: &mut Findings,
    ) -> Outcome<()> {
        let wanted: Vec<Wanted> = pages.iter().map(|(one, page)| Wanted::Page(one.head.source, *page)).collect();
        let mut order: Option<(Digest, PageOrder)> = None;
        sink.objects(&wanted, &mut |at, got| {
            crate::cli::check_interrupted()?;
            let (snapshot, digest) = pages[at];
            let head = &snapshot.head;
            let page = match got.and_then(|bytes| verify::page(&bytes, &digest, &head.source, &head.lineage)) {
                Ok(page) => page,
                Err(failure) => return lost(findings, snapshot, failure),
            };
            let (_, order) = match &mut order {
                Some(order) if order.0 == snapshot.id() => order,
                other => other.insert((snapshot.id(), PageOrder::new(head.source, head.lineage))),
            };
            if let Err(e) = order.follow(&digest, &page) {
                findings.other(format!("snapshot {}, ref page {}: {e}", snapshot.id().short(), digest.short()));
            }
            for entry in page.archives.iter() {
                self.add(entry, findings)?;
            }
            self.pages.insert(digest);
            Ok(())
        })
    }

    /// Regions of all archives, ascending: id, signatures, and that the blocks that snapshots name exist. `each` sees
    /// those that are right. Returns what stands for the named blocks.
    pub fn regions(
        &self,
        sink: &mut dyn Objects,
        source: &TrustedSource,
        lineage: &Lineage,
        findings: &mut Findings,
        progress: &Progress,
        each: &mut dyn FnMut(&Archive),
    ) -> Outcome<Substitutes> {
        let id = source.id();
        let name = |number| ArchiveName { source: id, lineage: *lineage, number };
        let rows = Substitutes::fetch(sink, &id, lineage, findings)?;
        let mut is_named = |left: &BlockName| Ok(self.is_live(left.number.get(), &left.id, left.block));
        let substitutes = Substitutes::read(rows, (&id, lineage), &source.signers(), findings, &mut is_named)?;
        let mut archives = self.archives.iter();
        loop {
            let row: Vec<_> = archives.by_ref().take(REGIONS_AT_ONCE).collect();
            if row.is_empty() {
                return Ok(substitutes);
            }
            let valid =
                row.iter().filter_map(|(number, (id, live))| Some((ArchiveNumber::new(**number).ok()?, id, live)));
            let valid: Vec<_> = valid.collect();
            let wanted: Vec<Wanted> = valid.iter().map(|(number, id, _)| Wanted::Region(name(*number), **id)).collect();
            let mut lost = Vec::new();
            sink.objects(&wanted, &mut |at, got| {
                crate::cli::check_interrupted()?;
                let (number, id, live) = valid[at];
                match got.and_then(|bytes| verify::region(&bytes, &name(number), id, source.key())) {
                    Ok(archive) => {
                        named_blocks(number, live, archive.index.blocks(), findings);
                        each(&archive);
                    }
                    Err(failure) if is_lost(&failure) => lost.push((at, failure)),
                    Err(failure) => return Err(failure),
                }
                progress.files(1);
                Ok(())
            })?;
            for (at, failure) in lost {
                let (number, id, live) = valid[at];
                // What is in the blocks that stand for it is read with the data.
                let mut blocks = |right: &BlockName| blocks_of(sink, source, &name(right.number), &right.id);
                if !covered(&substitutes, (number, id, live), &mut blocks)? {
                    findings.archive(number, failure);
                }
            }
        }
    }
}

/// Do the blocks that snapshots name exist?
fn named_blocks(number: ArchiveNumber, live: &[u8], blocks: u32, findings: &mut Findings) {
    let highest = live.iter().rposition(|byte| *byte != 0);
    let named = highest.map_or(0, |at| at as u32 * 8 + 8 - live[at].leading_zeros());
    if named > blocks {
        findings.other(format!("archive {number}: snapshots name block {} of {blocks}", named - 1));
    }
}

/// Does a pair stand for each of an archive's live blocks, all of whose right blocks are there?
fn covered(
    substitutes: &Substitutes,
    (number, id, live): (ArchiveNumber, &ArchiveId, &[u8]),
    blocks_of: &mut dyn FnMut(&BlockName) -> Outcome<u32>,
) -> Outcome<bool> {
    // Blocks of one archive mostly stand in few others.
    let mut known: HashMap<(ArchiveNumber, ArchiveId), u32> = HashMap::new();
    'blocks: for block in bits::numbers(live) {
        crate::cli::check_interrupted()?;
        'pairs: for rights in substitutes.pairs(number, id, block) {
            for right in rights {
                let archive = (right.number, right.id);
                let blocks = match known.get(&archive) {
                    Some(blocks) => *blocks,
                    None => blocks_of(right)?,
                };
                known.insert(archive, blocks);
                if right.block >= blocks {
                    continue 'pairs;
                }
            }
            continue 'blocks;
        }
        return Ok(false);
    }
    Ok(true)
}

/// Blocks of an archive whose region is there and right; 0 if it is not.
fn blocks_of(sink: &mut dyn Objects, source: &TrustedSource, name: &ArchiveName, id: &ArchiveId) -> Outcome<u32> {
    match sink.region(name, id).and_then(|bytes| verify::region(&bytes, name, id, source.key())) {
        Ok(archive) => Ok(archive.index.blocks()),
        Err(failure) if is_lost(&failure) => Ok(0),
        Err(failure) => Err(failure),
    }
}

/// Something of a snapshot that is lost is a finding; other failures end the check.
fn lost(findings: &mut Findings, snapshot: &Snapshot, failure: Failure) -> Outcome<()> {
    if !is_lost(&failure) {
        return Err(failure);
    }
    findings.other(format!("snapshot {}: {}", snapshot.id().short(), failure.message));
    Ok(())
}

//! Chains of heads, their receipts, and whether everything that a snapshot names is here.

use crate::damaged::LostBlocks;
use crate::store::{Name, read_whole};
use crate::verify::archives::{Archives, Lack};
use crate::verify::{Judged, SourceReport, read};
use shared::bits;
use shared::codec::Blob;
use shared::format::{Body, Envelope, Head, Page, Receipt};
use shared::id::{ArchiveId, ArchiveNumber, Digest, Lineage};
use shared::limits::{BODY_BYTES_MAX, ENVELOPE_BYTES_MAX, HEAD_BYTES_MAX, PAGE_BYTES_MAX, RECEIPT_BYTES_MAX};
use shared::signature::{Plain, Signed, Verified};
use std::collections::{BTreeMap, BTreeSet, HashMap};

type Snapshot = (Lineage, u64);

/// Snapshots that are listed with each object that they need.
const SNAPSHOTS_MAX: usize = 100;

/// What one page names, judged once however many bodies share it.
#[derive(Debug, Default)]
struct PageVerdict {
    span: Option<(ArchiveNumber, ArchiveNumber)>,
    lacks: Vec<(ArchiveNumber, Lack)>,
    readable: bool,
}

/// An archive as a page names it, and lost blocks of it.
type Named = (ArchiveNumber, ArchiveId, Vec<u32>);

struct Judge<'a> {
    judged: &'a Judged<'a>,
    archives: &'a Archives,
    /// Archives in which something is wrong or lost that snapshots name, with their lost blocks.
    lost: BTreeMap<(Lineage, ArchiveNumber), (ArchiveId, BTreeSet<u32>)>,
    pages: HashMap<Digest, PageVerdict>,
    /// Objects that snapshots lack, and which snapshots.
    needed: HashMap<Name, (String, Vec<Snapshot>)>,
    /// Snapshots that lack something.
    lacking: BTreeSet<Snapshot>,
}

fn by_lineage(names: &[Name]) -> BTreeMap<Lineage, BTreeSet<u64>> {
    let mut chains: BTreeMap<Lineage, BTreeSet<u64>> = BTreeMap::new();
    for name in names {
        if let Name::Head(lineage, sequence) | Name::Receipt(lineage, sequence) = name {
            chains.entry(*lineage).or_default().insert(*sequence);
        }
    }
    chains
}

/// What is lost of an archive, as it is noted; `None` if nothing is.
fn lost_blocks(place: &(Lineage, ArchiveNumber), id: ArchiveId, blocks: &BTreeSet<u32>) -> Option<LostBlocks> {
    blocks.last()?;
    let mut row = Vec::new();
    blocks.iter().for_each(|block| bits::set(&mut row, *block as usize));
    // Page entries have no more bits than a list takes.
    Some(LostBlocks { lineage: place.0, number: place.1, id, blocks: Blob::new(row).ok()? })
}

/// Judges all chains of a source.
pub fn judge(judged: &Judged, archives: Archives, heads: &[Name], receipts: &[Name], report: &mut SourceReport) {
    let (pages, needed, lacking, lost) = (HashMap::new(), HashMap::new(), BTreeSet::new(), BTreeMap::new());
    let mut judge = Judge { judged, archives: &archives, lost, pages, needed, lacking };
    let receipts = by_lineage(receipts);
    let heads = by_lineage(heads);
    for (lineage, sequences) in &heads {
        let receipted = receipts.get(lineage).cloned().unwrap_or_default();
        let unbroken = judge.chain(lineage, sequences, &receipted, report);
        report.chain_broken += u64::from(!unbroken);
    }
    for (lineage, sequences) in &receipts {
        let here = heads.get(lineage);
        let mut orphans = sequences.iter().filter(|sequence| here.is_none_or(|here| !here.contains(sequence)));
        if let Some(sequence) = orphans.next() {
            report.find(Name::Head(*lineage, *sequence), "there is a receipt for it, but no such head");
            report.chain_broken += u64::from(here.is_none());
        }
    }
    report.snapshots_damaged = judge.lacking.iter().copied().collect();
    let is_healed = |place: &_| judge.lost.get(place).is_some_and(|(_, blocks): &(_, BTreeSet<u32>)| blocks.is_empty());
    archives.tell_whole(is_healed, report);
    report.lost = judge.lost.iter().filter_map(|(place, (id, blocks))| lost_blocks(place, *id, blocks)).collect();
    judge.finish(report);
}

impl Judge<'_> {
    /// One chain from its first head; `false` if it is not whole.
    fn chain(
        &mut self,
        lineage: &Lineage,
        heads: &BTreeSet<u64>,
        receipts: &BTreeSet<u64>,
        report: &mut SourceReport,
    ) -> bool {
        let mut unbroken = true;
        let mut before: Option<Verified<Head>> = None;
        let mut receipt_before: Option<Digest> = None;
        for (expected, sequence) in (0u64..).zip(heads) {
            if expected != *sequence && unbroken {
                report.find(Name::Head(*lineage, expected), "the chain has a gap here");
                unbroken = false;
            }
            report.snapshots += 1;
            let head = self.head(lineage, *sequence, report);
            if let Some(head) = &head {
                let previous = before.as_ref().map(Verified::digest);
                if head.previous != previous && sequence.checked_sub(1) == before.as_ref().map(|head| head.sequence) {
                    report.find(Name::Head(*lineage, *sequence), "it does not name the head before it");
                    unbroken = false;
                }
                self.content(head, report);
                let receipt = self.receipt(head, receipts, receipt_before, report);
                unbroken &= receipt.is_ok();
                receipt_before = receipt.ok().flatten();
            } else {
                unbroken = false;
                receipt_before = None;
            }
            before = head;
        }
        unbroken
    }

    fn head(&self, lineage: &Lineage, sequence: u64, report: &mut SourceReport) -> Option<Verified<Head>> {
        let name = Name::Head(*lineage, sequence);
        let bytes = read(self.judged, &name, HEAD_BYTES_MAX, report)?;
        report.count(bytes.len() as u64);
        let head = Signed::<Head>::parse(&bytes).map_err(|e| e.to_string());
        match head.and_then(|head| head.verify(&self.judged.key).map_err(|e| e.to_string())) {
            Err(what) => report.find(name, what),
            Ok(head) if (head.lineage, head.sequence) != (*lineage, sequence) => {
                report.find(name, "it has another name")
            }
            Ok(head) if head.source != self.judged.id => report.find(name, "it belongs to another source"),
            Ok(head) if head.sink != self.judged.sink => report.find(name, "it is of a chain at another sink"),
            Ok(head) => {
                report.signatures_ok += 1;
                return Some(head);
            }
        }
        None
    }

    /// The receipt of a head; `Err` if it is wrong, `Ok(None)` if a crash left the newest head without.
    fn receipt(
        &self,
        head: &Head,
        receipts: &BTreeSet<u64>,
        before: Option<Digest>,
        report: &mut SourceReport,
    ) -> Result<Option<Digest>, ()> {
        let name = Name::Receipt(head.lineage, head.sequence);
        if !receipts.contains(&head.sequence) {
            report.without_receipt += 1;
            if receipts.last().is_some_and(|last| *last > head.sequence) {
                report.find(name, "it is missing, and later ones are there");
                return Err(());
            }
            return Ok(None);
        }
        let bytes = read(self.judged, &name, RECEIPT_BYTES_MAX, report).ok_or(())?;
        report.count(bytes.len() as u64);
        let receipt = Signed::<Receipt>::parse(&bytes).map_err(|e| e.to_string());
        let receipt = receipt.and_then(|receipt| receipt.verify(&self.judged.sink).map_err(|e| e.to_string()));
        let receipt = receipt.map_err(|what| report.find(name, what))?;
        let fits = (receipt.source, receipt.lineage, receipt.sequence, receipt.sink)
            == (head.source, head.lineage, head.sequence, self.judged.sink)
            && receipt.previous == before;
        let names_head = self.digest_of(head) == Some(receipt.head);
        if !fits || !names_head {
            report.find(name, "it does not fit its head, or the receipt before it");
            return Err(());
        }
        Ok(Some(receipt.digest()))
    }

    fn digest_of(&self, head: &Head) -> Option<Digest> {
        let bytes = read_whole(self.judged.store, &Name::Head(head.lineage, head.sequence), HEAD_BYTES_MAX).ok()??;
        Some(Signed::<Head>::parse(&bytes).ok()?.digest())
    }

    fn need(&mut self, name: Name, what: &str, snapshot: Snapshot) {
        let snapshots = &mut self.needed.entry(name).or_insert_with(|| (what.to_owned(), Vec::new())).1;
        if snapshots.len() < SNAPSHOTS_MAX && snapshots.last() != Some(&snapshot) {
            snapshots.push(snapshot);
        }
        self.lacking.insert(snapshot);
    }

    /// Is everything here that this snapshot names?
    fn content(&mut self, head: &Head, report: &mut SourceReport) {
        let snapshot = (head.lineage, head.sequence);
        let envelope = read_whole(self.judged.store, &Name::Envelope(head.session), ENVELOPE_BYTES_MAX).ok().flatten();
        let envelope = envelope.and_then(|bytes| Signed::<Envelope>::parse(&bytes).ok());
        if envelope.is_none_or(|envelope| envelope.digest().as_bytes() != head.session.as_bytes()) {
            self.need(Name::Envelope(head.session), "the envelope of its session is missing or damaged", snapshot);
        }
        let body = read_whole(self.judged.store, &Name::Body(head.body), BODY_BYTES_MAX).ok().flatten();
        let body = body.and_then(|bytes| Plain::<Body>::parse(&bytes).ok()).filter(|body| body.digest() == head.body);
        let Some(body) = body else {
            if self.judged.expired.has(&snapshot) {
                self.lacking.remove(&snapshot);
                return;
            }
            return self.need(Name::Body(head.body), "the body is missing or damaged", snapshot);
        };
        let mut last = None;
        for digest in body.pages.iter() {
            if !self.pages.contains_key(digest) {
                let (verdict, named) = self.page(digest, &head.lineage);
                for (number, id, blocks) in named {
                    // Two snapshots that mean different archives by one number: the first is asked for.
                    let (known, lost) = self.lost.entry((head.lineage, number)).or_insert((id, BTreeSet::new()));
                    if *known == id {
                        lost.extend(blocks);
                    }
                }
                self.pages.insert(*digest, verdict);
            }
            let Some(page) = self.pages.get(digest) else { continue };
            let (readable, span, lacks) = (page.readable, page.span, page.lacks.clone());
            if !readable {
                self.need(Name::Page(*digest), "the ref page is missing, damaged, or of another lineage", snapshot);
            }
            for (number, lack) in lacks {
                self.need(Name::Archive(head.lineage, number), lack.as_str(), snapshot);
            }
            if let Some((first, end)) = span {
                if last.is_some_and(|last| last >= first) {
                    report.find(Name::Body(head.body), "its pages are not ascending, or overlap");
                }
                last = Some(end);
            }
        }
    }

    /// Judges a page; with what it names where something is wrong or lost, and the blocks of that that are lost.
    fn page(&self, digest: &Digest, lineage: &Lineage) -> (PageVerdict, Vec<Named>) {
        let bytes = read_whole(self.judged.store, &Name::Page(*digest), PAGE_BYTES_MAX).ok().flatten();
        let page = bytes
            .and_then(|bytes| Plain::<Page>::parse(&bytes).ok())
            .filter(|page| page.digest() == *digest && page.source == self.judged.id && page.lineage == *lineage);
        let Some(page) = page else { return (PageVerdict::default(), Vec::new()) };
        let (mut lacks, mut named) = (Vec::new(), Vec::new());
        for entry in page.archives.iter() {
            let lost = self.archives.lost(lineage, entry);
            lacks.extend(self.archives.lacks(lineage, entry, &lost).map(|lack| (entry.number, lack)));
            if !lost.is_empty() || self.archives.is_suspect(&(*lineage, entry.number)) {
                named.push((entry.number, entry.id, lost));
            }
        }
        let span = page.archives.first().zip(page.archives.last()).map(|(first, last)| (first.number, last.number));
        (PageVerdict { span, lacks, readable: true }, named)
    }

    /// Says with each damaged object which snapshots need it; what only a snapshot misses is a finding of its own.
    fn finish(self, report: &mut SourceReport) {
        let mut known: HashMap<Name, Vec<usize>> = HashMap::new();
        for (at, finding) in report.damage.iter().enumerate() {
            known.entry(finding.object.unwrap_or(Name::OwnerRecord(0))).or_default().push(at);
        }
        let mut needed: Vec<_> = self.needed.into_iter().collect();
        needed.sort_by_cached_key(|(name, _)| crate::store::layout::object_path(name));
        for (name, (what, snapshots)) in needed {
            let places = known.remove(&name).unwrap_or_else(|| {
                report.find(name, what);
                let last = report.damage.len().saturating_sub(1);
                if report.damage.get(last).is_some_and(|finding| finding.object == Some(name)) {
                    vec![last]
                } else {
                    vec![]
                }
            });
            for place in places {
                if let Some(finding) = report.damage.get_mut(place) {
                    finding.snapshots.clone_from(&snapshots);
                }
            }
        }
    }
}

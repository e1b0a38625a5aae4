//! What the brakes weigh of a snapshot: its blocks, how many of them lie in archives that the one before did not name,
//! and to whom it is sealed. Everything that came since the last run is weighed, and enough before it to compare. Of two
//! snapshots at a time the pages are in memory, and of others as many as fit.
//!
//! How much there is to read a source decides, within its caps, and the operator's lock is held meanwhile: so a run reads
//! so much and no more. What is left over is told, and stops the run ([`Unweighed`]).

use crate::retention::history::{History, Link, Place};
use crate::retention::reach::{read_body, read_page};
use crate::retention::vault::{RetentionError, Source};
use crate::store::{Name, read_whole};
use shared::format::{Envelope, Page};
use shared::id::{ArchiveNumber, Digest, Lineage, SessionId};
use shared::limits::{ENVELOPE_BYTES_MAX, PAGE_ARCHIVES};
use shared::signature::Signed;
use std::collections::HashMap;
use std::rc::Rc;

/// What the pages of a snapshot say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    pub blocks: u64,
    /// Those in archives that the snapshot before it in its series did not name.
    pub new: u64,
}

/// Weights by head.
#[derive(Debug, Default)]
pub struct Weighed {
    pub weights: HashMap<Digest, Weight>,
    /// One digest of all recipients of the snapshot's session; also of other series, with which a new one is compared.
    pub recipients: HashMap<Digest, Digest>,
    pub unweighed: Option<Unweighed>,
    /// Units of work that were done, at most what was allowed.
    pub work: u64,
}

/// Snapshots for which a run had no time left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unweighed {
    pub count: u64,
    /// The newest entry of the journal that saw one of them first.
    pub entry: u64,
}

/// Work that one run does for one source: so many objects opened, or so often [`UNIT_BYTES`] read. Far above what an
/// honest source brings within weeks; seconds, or minutes where the disk seeks for each.
pub const WORK_MAX: u64 = 1 << 17;
const UNIT_BYTES: usize = 16 << 10;
/// Archives of pages that are remembered beyond those of the snapshot before; a page counts as some more.
const SUMS_MAX: usize = 1 << 20;
const SUM_COST: usize = 16;

/// Archives of a page, ascending, and how many blocks of each live.
struct Sum {
    lineage: Lineage,
    archives: Vec<(ArchiveNumber, u64)>,
}

/// Pages of one snapshot.
#[derive(Default)]
struct Pages {
    by_digest: HashMap<Digest, Rc<Sum>>,
    by_span: HashMap<(Lineage, u64), Vec<Rc<Sum>>>,
}

impl Sum {
    fn of(page: &Page) -> Self {
        let blocks = |live: &[u8]| live.iter().map(|byte| u64::from(byte.count_ones())).sum();
        let archives = page.archives.iter().map(|entry| (entry.number, blocks(&entry.live))).collect();
        Self { lineage: page.lineage, archives }
    }
    fn blocks(&self) -> u64 {
        self.archives.iter().map(|(_, blocks)| blocks).sum()
    }
    fn span(&self) -> (Lineage, u64) {
        (self.lineage, self.archives.first().map_or(0, |(number, _)| number.get() / PAGE_ARCHIVES))
    }
}

impl Pages {
    fn add(&mut self, digest: Digest, sum: &Rc<Sum>) {
        self.by_digest.insert(digest, Rc::clone(sum));
        self.by_span.entry(sum.span()).or_default().push(Rc::clone(sum));
    }
    /// Blocks in archives that these pages do not name.
    fn unknown(&self, sum: &Sum) -> u64 {
        let same = self.by_span.get(&sum.span()).map_or(&[][..], Vec::as_slice);
        // They are in order, or their body had not been accepted: only one of them can name it.
        let names = |number| {
            let behind = same.partition_point(|sum| sum.archives.first().is_some_and(|(first, _)| *first <= number));
            let sum = behind.checked_sub(1).and_then(|at| same.get(at));
            sum.is_some_and(|sum| sum.archives.binary_search_by_key(&number, |(n, _)| *n).is_ok())
        };
        sum.archives.iter().filter(|(number, _)| !names(*number)).map(|(_, blocks)| blocks).sum()
    }
}

/// Why a snapshot has no weight.
enum Stop {
    /// The run's work is done.
    Spent,
    Failed(RetentionError),
}

impl From<RetentionError> for Stop {
    fn from(error: RetentionError) -> Self {
        Self::Failed(error)
    }
}

/// Weighs, in each series, what was first seen after the entry `since`, and `before` snapshots ahead of it, with at most
/// `work` units. What cannot be read is left out: `verify` names it.
pub fn weigh(
    source: &Source,
    history: &History,
    since: Option<u64>,
    before: usize,
    work: u64,
) -> Result<Weighed, RetentionError> {
    let mut weighed = Weighed::default();
    let mut scale = Scale::new(source, work);
    for links in history.by_series().values() {
        let whole = |link: &&&Link| !link.snapshot.checkpoint && link.place == Place::Here;
        let whole: Vec<&Link> = links.iter().filter(whole).copied().collect();
        let Some(first) = whole.iter().position(|link| Some(link.entry) > since) else { continue };
        let (mut last, mut compared) = (None, first > 0);
        for link in &whole[first.saturating_sub(before)..] {
            let others = if compared { None } else { Some(&mut weighed.recipients) };
            match scale.weigh_beside(history, link, last, others) {
                Ok((weight, recipients)) => {
                    weighed.weights.insert(link.head, weight);
                    compared |= recipients.is_some();
                    weighed.recipients.extend(recipients.map(|digest| (link.head, digest)));
                    last = Some(link.body);
                }
                Err(Stop::Failed(RetentionError::Damaged { .. })) => {}
                Err(Stop::Failed(e)) => return Err(e),
                Err(Stop::Spent) => {
                    let left = weighed.unweighed.get_or_insert(Unweighed { count: 0, entry: 0 });
                    left.count += 1;
                    left.entry = left.entry.max(link.entry);
                }
            }
        }
    }
    weighed.work = work - scale.left;
    Ok(weighed)
}

/// What a run has read so far.
struct Scale<'a> {
    source: &'a Source,
    left: u64,
    sessions: HashMap<SessionId, Option<Digest>>,
    /// Weights by body and by the body before it: bodies that come again and again are read once.
    known: HashMap<(Option<Digest>, Digest), Weight>,
    sums: HashMap<Digest, Rc<Sum>>,
    sums_cost: usize,
    /// Pages of the body that was read last.
    last: (Option<Digest>, Pages),
}

impl<'a> Scale<'a> {
    fn new(source: &'a Source, left: u64) -> Self {
        let (sessions, known, sums) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { source, left, sessions, known, sums, sums_cost: 0, last: (None, Pages::default()) }
    }

    /// Counts what was read. Once all is spent nothing more is.
    fn spend(&mut self, units: usize) -> Result<(), Stop> {
        let units = units as u64;
        if self.left < units {
            self.left = 0;
            return Err(Stop::Spent);
        }
        self.left -= units;
        Ok(())
    }

    fn recipients(&mut self, session: &SessionId) -> Result<Option<Digest>, Stop> {
        if let Some(known) = self.sessions.get(session) {
            return Ok(*known);
        }
        self.spend(1)?;
        let read = recipients(self.source, session);
        self.sessions.insert(*session, read);
        Ok(read)
    }

    /// Weighs a snapshot; of the first of a series it finds out to whom the others were sealed when that one came.
    fn weigh_beside(
        &mut self,
        history: &History,
        link: &Link,
        before: Option<Digest>,
        others: Option<&mut HashMap<Digest, Digest>>,
    ) -> Result<(Weight, Option<Digest>), Stop> {
        let found = self.weigh(link, before)?;
        if let (Some(others), Some(_)) = (others, found.1) {
            for other in history.newest_before(link) {
                others.extend(self.recipients(&other.session)?.map(|digest| (other.head, digest)));
            }
        }
        Ok(found)
    }

    fn weigh(&mut self, link: &Link, before: Option<Digest>) -> Result<(Weight, Option<Digest>), Stop> {
        let recipients = self.recipients(&link.session)?;
        let weight = match self.known.get(&(before, link.body)) {
            Some(weight) => *weight,
            None => {
                let weight = self.compare(link.body, before)?;
                self.known.insert((before, link.body), weight);
                weight
            }
        };
        Ok((weight, recipients))
    }

    fn compare(&mut self, body: Digest, before: Option<Digest>) -> Result<Weight, Stop> {
        let last = match std::mem::take(&mut self.last) {
            (held, pages) if held == before => pages,
            // The pages of `before` were not read for the snapshot before this one, whose weight was known.
            (_, pages) => match before {
                Some(before) => self.read(before, &pages, |_| ())?,
                None => Pages::default(),
            },
        };
        let mut weight = Weight { blocks: 0, new: 0 };
        let pages = self.read(body, &last, |sum| weight.new += last.unknown(sum))?;
        weight.blocks = pages.by_digest.values().map(|sum| sum.blocks()).sum();
        self.last = (Some(body), pages);
        Ok(weight)
    }

    /// Pages of a body; `fresh` is told of those that are not among `others`.
    fn read(&mut self, body: Digest, others: &Pages, mut fresh: impl FnMut(&Sum)) -> Result<Pages, Stop> {
        self.spend(1)?;
        let body = read_body(self.source, &body)?;
        self.spend(body.as_bytes().len() / UNIT_BYTES)?;
        let mut pages = Pages::default();
        for digest in body.pages.iter() {
            let sum = match others.by_digest.get(digest) {
                Some(sum) => Rc::clone(sum),
                None => {
                    let sum = self.sum(digest)?;
                    fresh(&sum);
                    sum
                }
            };
            pages.add(*digest, &sum);
        }
        Ok(pages)
    }

    fn sum(&mut self, digest: &Digest) -> Result<Rc<Sum>, Stop> {
        if let Some(sum) = self.sums.get(digest) {
            return Ok(Rc::clone(sum));
        }
        self.spend(1)?;
        let page = read_page(self.source, digest)?;
        self.spend(page.as_bytes().len() / UNIT_BYTES)?;
        let sum = Rc::new(Sum::of(&page));
        self.sums_cost += sum.archives.len() + SUM_COST;
        if self.sums_cost > SUMS_MAX {
            self.sums.clear();
            self.sums_cost = sum.archives.len() + SUM_COST;
        }
        self.sums.insert(*digest, Rc::clone(&sum));
        Ok(sum)
    }
}

fn recipients(source: &Source, session: &SessionId) -> Option<Digest> {
    let bytes = read_whole(&source.store, &Name::Envelope(*session), ENVELOPE_BYTES_MAX).ok().flatten()?;
    let envelope = Signed::<Envelope>::parse(&bytes).ok()?.verify(&source.key).ok()?;
    let mut all: Vec<Digest> = envelope.recipients.iter().map(|wrap| wrap.recipient).collect();
    all.sort_unstable();
    all.dedup();
    let bytes: Vec<u8> = all.iter().flat_map(|digest| *digest.as_bytes()).collect();
    Some(Digest::of(&bytes))
}

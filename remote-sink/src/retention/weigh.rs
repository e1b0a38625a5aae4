//! What the brakes weigh of a snapshot: its blocks, how many of them lie in archives that the one before did not name,
//! and to whom it is sealed. Everything that came since the last run is weighed, and enough before it to compare. Of two
//! snapshots at a time the pages are in memory; a page that both name is read once.

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
    /// One digest of all recipients of the snapshot's session.
    pub recipients: HashMap<Digest, Digest>,
}

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
        let names = |number| same.iter().any(|sum| sum.archives.binary_search_by_key(&number, |(n, _)| *n).is_ok());
        sum.archives.iter().filter(|(number, _)| !names(*number)).map(|(_, blocks)| blocks).sum()
    }
}

/// Weighs, in each series, what was first seen after the entry `since`, and `before` snapshots ahead of it. What cannot
/// be read is left out: `verify` names it.
pub fn weigh(source: &Source, history: &History, since: Option<u64>, before: usize) -> Result<Weighed, RetentionError> {
    let mut weighed = Weighed::default();
    let mut sessions: HashMap<SessionId, Option<Digest>> = HashMap::new();
    for links in history.by_series().values() {
        let whole = |link: &&&Link| !link.snapshot.checkpoint && link.place == Place::Here;
        let whole: Vec<&Link> = links.iter().filter(whole).copied().collect();
        let Some(first) = whole.iter().position(|link| Some(link.entry) > since) else { continue };
        let mut last = Pages::default();
        for link in &whole[first.saturating_sub(before)..] {
            let recipients = sessions.entry(link.session).or_insert_with(|| recipients(source, &link.session));
            weighed.recipients.extend(recipients.map(|digest| (link.head, digest)));
            match weigh_one(source, &link.body, &last) {
                Ok((weight, pages)) => {
                    weighed.weights.insert(link.head, weight);
                    last = pages;
                }
                Err(RetentionError::Damaged { .. }) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(weighed)
}

fn weigh_one(source: &Source, body: &Digest, last: &Pages) -> Result<(Weight, Pages), RetentionError> {
    let (mut weight, mut pages) = (Weight { blocks: 0, new: 0 }, Pages::default());
    for digest in read_body(source, body)?.pages.iter() {
        let sum = match last.by_digest.get(digest) {
            Some(sum) => Rc::clone(sum),
            None => {
                let sum = Rc::new(Sum::of(&*read_page(source, digest)?));
                weight.new += last.unknown(&sum);
                sum
            }
        };
        weight.blocks += sum.blocks();
        pages.add(*digest, &sum);
    }
    Ok((weight, pages))
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

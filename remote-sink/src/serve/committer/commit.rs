//! Commit in two steps (docs/protocol.md, section "Commit"): the body, when everything that it names is here; then the
//! head, and its receipt.

use crate::serve::check::{Pinned, malformed};
use crate::serve::committer::Session;
use crate::serve::committer::outbox::store_refusal;
use crate::serve::committer::push::Push;
use crate::serve::limits::Tier;
use crate::store::layout::{object_path, source_room};
use crate::store::{Name, Store, archive, read_whole};
use shared::codec::List;
use shared::format::{Body, Head, Page, PageEntry, Receipt};
use shared::id::{ArchiveNumber, Digest, Lineage};
use shared::limits::{
    BODY_BYTES_MAX, ENVELOPE_BYTES_MAX, HEAD_BYTES_MAX, LIST_ITEMS_MAX, PAGE_BYTES_MAX, RECEIPT_BYTES_MAX,
};
use shared::signature::{Plain, Signed, Verified, sign};
use shared::wire::hello::NewestHead;
use shared::wire::{Missing, RefusalCode, Refused, Reply};
use std::collections::{HashMap, HashSet};

/// Pages whose archives were found complete; more are looked at again.
const PAGES_KEPT: usize = 100_000;

/// Receipts that are made again at a time.
const RECEIPTS_MADE_MAX: usize = 64;

/// What a page that is complete covers.
#[derive(Debug, Clone, Copy)]
struct Span {
    first: ArchiveNumber,
    last: ArchiveNumber,
    archives: u64,
}

impl Span {
    fn of(page: &Page) -> Option<Self> {
        let (first, last) = (page.archives.first()?.number, page.archives.last()?.number);
        Some(Self { first, last, archives: page.archives.len() as u64 })
    }
}

/// The chain that this session prolongs.
pub struct Chain {
    pub newest: Option<NewestHead>,
    /// The body of the newest head: what its pages name was found complete when it was committed.
    newest_body: Option<Digest>,
    committed: Option<HashSet<Digest>>,
    /// Pages found complete in this session, the lock held all the time.
    complete: HashMap<Digest, Span>,
    /// Bodies found complete in this session, with the number of archives that they name.
    bodies: HashMap<Digest, u64>,
}

fn damaged(what: &str) -> Refused {
    Refused::new(
        RefusalCode::Damaged,
        format!("{what} is damaged at the sink: its operator should run remote-sink verify"),
    )
}

/// Reads an object that must be whole if it is there.
fn read<S: Store>(store: &S, name: &Name, bytes_max: usize, what: &str) -> Result<Option<Vec<u8>>, Refused> {
    read_whole(store, name, bytes_max).map_err(|e| if e.is_damage() { damaged(what) } else { store_refusal(&e) })
}

fn read_head<S: Store>(store: &S, pinned: &Pinned, sequence: u64) -> Result<Option<Verified<Head>>, Refused> {
    let bytes = read(store, &Name::Head(pinned.lineage, sequence), HEAD_BYTES_MAX, "a head")?;
    let Some(bytes) = bytes else { return Ok(None) };
    let head = pinned.head(&bytes).map_err(|_| damaged("a head"))?;
    if head.sequence == sequence { Ok(Some(head)) } else { Err(damaged("a head")) }
}

/// A receipt that this sink signed. One that is damaged stays so until the operator takes it away.
pub fn read_receipt<S: Store>(
    session: &Session<S>,
    lineage: &Lineage,
    sequence: u64,
) -> Result<Option<Verified<Receipt>>, Refused> {
    let name = Name::Receipt(*lineage, sequence);
    let rotten = || {
        let path = format!("{}/{}", source_room(&session.access.name), object_path(&name));
        let text = format!(
            "the receipt {path} is damaged at the sink: its operator should move this file out of the vault; the next \
             session then signs a new one, and the source takes it with: source-agent remote accept"
        );
        Refused::new(RefusalCode::Damaged, text)
    };
    let bytes = match read_whole(session.own()?, &name, RECEIPT_BYTES_MAX) {
        Err(e) if e.is_damage() => return Err(rotten()),
        bytes => bytes.map_err(|e| store_refusal(&e))?,
    };
    let Some(bytes) = bytes else { return Ok(None) };
    let receipt = Signed::<Receipt>::parse(&bytes).ok().and_then(|r| r.verify(&session.access.identity.sink).ok());
    receipt.filter(|receipt| receipt.sequence == sequence).map(Some).ok_or_else(rotten)
}

impl Chain {
    pub fn load<S: Store>(session: &Session<S>, pinned: &Pinned, newest: Option<u64>) -> Result<Self, Refused> {
        let head = match newest {
            None => None,
            Some(sequence) => read_head(session.own()?, pinned, sequence)?,
        };
        Ok(Self {
            newest: head.as_ref().map(|head| NewestHead { sequence: head.sequence, digest: head.digest() }),
            newest_body: head.map(|head| head.body),
            committed: None,
            complete: HashMap::new(),
            bodies: HashMap::new(),
        })
    }
}

/// What a body lacks.
#[derive(Default)]
struct Lack {
    pages: Vec<Digest>,
    archives: Vec<ArchiveNumber>,
    total: u64,
}

impl<S: Store> Push<S> {
    /// Pages of the newest committed body.
    fn is_committed(&mut self, session: &Session<S>, page: &Digest) -> Result<bool, Refused> {
        if self.chain.committed.is_none() {
            let mut pages = HashSet::new();
            if let Some(digest) = self.chain.newest_body
                && let Some(bytes) = read(session.own()?, &Name::Body(digest), BODY_BYTES_MAX, "a body")?
                && let Ok(body) = Plain::<Body>::parse(&bytes)
                && body.digest() == digest
            {
                pages.extend(body.pages.iter().copied());
            }
            self.chain.committed = Some(pages);
        }
        Ok(self.chain.committed.as_ref().is_some_and(|pages| pages.contains(page)))
    }

    /// Is this archive here, the one that is meant, with these blocks?
    fn holds(&self, session: &Session<S>, entry: &PageEntry, was_committed: bool) -> Result<bool, Refused> {
        let name = Name::Archive(self.pinned.lineage, entry.number);
        let store = session.own()?;
        if was_committed {
            // Its content was proved when it was committed, and retention keeps what a kept body names.
            return match store.get(&name) {
                Ok(stored) => Ok(stored.is_some()),
                Err(e) if e.is_damage() => Ok(false),
                Err(e) => Err(store_refusal(&e)),
            };
        }
        match archive::open_checked(store, &name, &self.pinned.identity.key) {
            Ok(None) => Ok(false),
            Ok(Some(found)) => {
                let blocks = entry.blocks_named();
                Ok(found.layout.region.id() == entry.id
                    && blocks <= found.index.blocks()
                    && (0..blocks).all(|block| !entry.is_live(block) || found.layout.holds(block as usize)))
            }
            Err(e) if e.is_damage() => Ok(false),
            Err(archive::ArchiveError::Store(e)) => Err(store_refusal(&e)),
            Err(_) => Ok(false),
        }
    }

    /// Looks at a page and what it names; `None` if the page is missing.
    fn prove_page(&mut self, session: &Session<S>, digest: &Digest, lack: &mut Lack) -> Result<Option<Span>, Refused> {
        if let Some(span) = self.chain.complete.get(digest) {
            return Ok(Some(*span));
        }
        let bytes = match read_whole(session.own()?, &Name::Page(*digest), PAGE_BYTES_MAX) {
            Err(e) if !e.is_damage() => return Err(store_refusal(&e)),
            bytes => bytes.ok().flatten(),
        };
        let page = bytes.and_then(|bytes| Plain::<Page>::parse(&bytes).ok()).filter(|page| page.digest() == *digest);
        let Some(page) = page else { return Ok(None) };
        if page.source != self.pinned.identity.source || page.lineage != self.pinned.lineage {
            return Err(malformed("body", "it names a page of another lineage"));
        }
        let was_committed = self.is_committed(session, digest)?;
        let before = lack.archives.len();
        for entry in page.archives.iter() {
            if !self.holds(session, entry, was_committed)? && lack.archives.len() < LIST_ITEMS_MAX {
                lack.archives.push(entry.number);
            }
        }
        let span = Span::of(&page);
        if let Some(span) = span
            && lack.archives.len() == before
            && self.chain.complete.len() < PAGES_KEPT
        {
            self.chain.complete.insert(*digest, span);
        }
        Ok(span)
    }

    /// Looks at everything that a body names. A body whose pages do not fit together is refused.
    fn prove(&mut self, session: &Session<S>, body: &Body) -> Result<Lack, Refused> {
        let mut lack = Lack::default();
        let mut last: Option<ArchiveNumber> = None;
        for digest in body.pages.iter() {
            let Some(span) = self.prove_page(session, digest, &mut lack)? else {
                lack.pages.push(*digest);
                continue;
            };
            if last >= Some(span.first) {
                return Err(malformed("body", "its pages are not ascending, or overlap"));
            }
            last = Some(span.last);
            lack.total += span.archives;
            if lack.archives.len() >= LIST_ITEMS_MAX {
                break;
            }
        }
        Ok(lack)
    }

    pub fn put_body(&mut self, session: &Session<S>, bytes: &[u8]) -> Result<(), Refused> {
        session.outbox.barrier()?;
        let body = self.pinned.body(bytes)?;
        let digest = body.digest();
        let lack = self.prove(session, &body)?;
        let missing = Missing {
            body: digest,
            pages: List::new(lack.pages).map_err(|e| malformed("body", e))?,
            archives: List::new(lack.archives).map_err(|e| malformed("body", e))?,
            total: lack.total,
        };
        if missing.is_empty() {
            self.admit_body(session, &digest, bytes.len() as u64)?;
            if !self.put_now(session, Name::Body(digest), bytes)? {
                return Err(damaged("what is stored under this body's name"));
            }
            self.chain.bodies.insert(digest, missing.total);
        }
        Ok(session.outbox.reply(Reply::Missing(missing))?)
    }

    /// Is there room for this body? One that is here already needs none. Bodies that no head names would have
    /// no bound but the quota: heads have a cap a day.
    fn admit_body(&mut self, session: &Session<S>, digest: &Digest, bytes: u64) -> Result<(), Refused> {
        if session.own()?.get(&Name::Body(*digest)).map_err(|e| store_refusal(&e))?.is_some() {
            session.outbox.shared().account(|account| account.reserve(bytes));
            return Ok(());
        }
        if self.bodies_added >= session.limits.headless_bodies.saturating_add(self.heads_added) {
            let headless = self.bodies_added.saturating_sub(self.heads_added);
            let text = format!("this session brought {headless} bodies without a head: no more are taken");
            return Err(Refused::new(RefusalCode::Cap, text));
        }
        session.admit(bytes, Tier::Small)?;
        self.bodies_added += 1;
        Ok(())
    }

    /// Archives that a durable body names, all present; the body may be of an earlier session.
    fn pinned_archives(&mut self, session: &Session<S>, digest: &Digest) -> Result<u64, Refused> {
        if let Some(total) = self.chain.bodies.get(digest) {
            return Ok(*total);
        }
        let absent =
            || Refused::new(RefusalCode::NotFound, "the body of this head is not complete at the sink: send it again");
        let bytes = read(session.own()?, &Name::Body(*digest), BODY_BYTES_MAX, "the body")?.ok_or_else(absent)?;
        let body = Plain::<Body>::parse(&bytes).ok().filter(|body| body.digest() == *digest);
        let lack = self.prove(session, &body.ok_or_else(|| damaged("the body"))?.into_value())?;
        if !lack.pages.is_empty() || !lack.archives.is_empty() {
            return Err(absent());
        }
        self.chain.bodies.insert(*digest, lack.total);
        Ok(lack.total)
    }

    pub fn put_head(&mut self, session: &Session<S>, bytes: &[u8]) -> Result<(), Refused> {
        session.outbox.barrier()?;
        let head = self.pinned.head(bytes)?;
        if self.chain.newest.as_ref().is_some_and(|newest| head.sequence <= newest.sequence) {
            let receipt = self.resent(session, &head)?;
            return Ok(session.outbox.reply(Reply::Receipt(receipt.as_bytes().to_vec()))?);
        }
        self.follows(&head)?;
        self.has_envelope(session, &head)?;
        let archives = self.pinned_archives(session, &head.body)?;
        self.caps.admit_head(session, &head)?;
        // Before the head is stored: without it the head would get no receipt.
        let before = self.receipt_before(session, head.sequence)?;
        session.admit(bytes.len() as u64, Tier::Commit)?;
        if !self.put_now(session, Name::Head(self.pinned.lineage, head.sequence), bytes)? {
            return Err(Refused::new(RefusalCode::Conflict, "another head has this sequence number"));
        }
        // A crash here leaves a head without a receipt: the next session, or the same head sent again, makes it.
        self.chain.newest = Some(NewestHead { sequence: head.sequence, digest: head.digest() });
        self.chain.newest_body = Some(head.body);
        self.chain.committed = None;
        self.caps.head_added(&head);
        self.heads_added += 1;
        let receipt = self.make_receipt(session, &head, archives, before)?;
        self.publish_record(session);
        Ok(session.outbox.reply(Reply::Receipt(receipt.as_bytes().to_vec()))?)
    }

    /// Is this head the next link?
    fn follows(&self, head: &Head) -> Result<(), Refused> {
        let (sequence, previous) = match &self.chain.newest {
            None => (0, None),
            Some(newest) => (newest.sequence + 1, Some(newest.digest)),
        };
        if head.sequence == sequence && head.previous == previous {
            return Ok(());
        }
        let text = if head.sequence == sequence {
            "this head does not follow the newest one: it names another predecessor".into()
        } else {
            format!("this head does not follow the newest one: sequence {} where {sequence} is next", head.sequence)
        };
        Err(Refused::new(RefusalCode::Chain, text))
    }

    fn has_envelope(&self, session: &Session<S>, head: &Head) -> Result<(), Refused> {
        let absent = || Refused::new(RefusalCode::NotFound, "the envelope of this head's session is not at the sink");
        let bytes = read(session.own()?, &Name::Envelope(head.session), ENVELOPE_BYTES_MAX, "an envelope")?;
        let envelope = self.pinned.envelope(&bytes.ok_or_else(absent)?).map_err(|_| absent())?;
        if envelope.digest().as_bytes() == head.session.as_bytes() { Ok(()) } else { Err(absent()) }
    }

    /// A head that is here already: the same bytes get the same receipt.
    fn resent(&mut self, session: &Session<S>, head: &Verified<Head>) -> Result<Verified<Receipt>, Refused> {
        let held = read_head(session.own()?, &self.pinned, head.sequence)?.ok_or_else(|| damaged("the chain"))?;
        if held.as_bytes() != head.as_bytes() {
            return Err(Refused::new(RefusalCode::Conflict, "another head has this sequence number"));
        }
        if let Some(receipt) = read_receipt(session, &self.pinned.lineage, head.sequence)? {
            return Ok(receipt);
        }
        let before = self.receipt_before(session, head.sequence)?;
        let archives = self.pinned_archives(session, &head.body)?;
        self.make_receipt(session, head, archives, before)
    }

    /// The receipt before that of a head, by digest. Those that are missing are made, oldest first: a head may have got
    /// none because the one before it was damaged, and that one is gone since.
    fn receipt_before(&mut self, session: &Session<S>, sequence: u64) -> Result<Option<Digest>, Refused> {
        let (mut before, mut missing) = (None, Vec::new());
        for sequence in (0..sequence).rev() {
            if let Some(receipt) = read_receipt(session, &self.pinned.lineage, sequence)? {
                before = Some(receipt.digest());
                break;
            }
            if missing.len() >= RECEIPTS_MADE_MAX {
                return Err(damaged("the chain of receipts"));
            }
            missing.push(sequence);
        }
        for sequence in missing.into_iter().rev() {
            let head = read_head(session.own()?, &self.pinned, sequence)?.ok_or_else(|| damaged("the chain"))?;
            let archives = self.pinned_archives(session, &head.body).map_err(|refused| match refused.code {
                RefusalCode::NotFound => damaged("the receipt of a snapshot that is gone"),
                _ => refused,
            })?;
            before = Some(self.make_receipt(session, &head, archives, before)?.digest());
        }
        Ok(before)
    }

    fn make_receipt(
        &self,
        session: &Session<S>,
        head: &Verified<Head>,
        archives: u64,
        previous: Option<Digest>,
    ) -> Result<Verified<Receipt>, Refused> {
        let published = &session.access.source(&head.source)?.published;
        let received = session.clock.now();
        let receipt = Receipt {
            source: head.source,
            lineage: head.lineage,
            sink: session.access.identity.sink,
            sequence: head.sequence,
            head: head.digest(),
            received,
            previous,
            journal: published.journal,
            archives,
            keep_until: published.keep_until(received, head.is_checkpoint()),
        };
        let receipt = sign(receipt, &session.key).map_err(|e| malformed("receipt", e))?;
        session.outbox.shared().account(|account| account.reserve(receipt.as_bytes().len() as u64));
        if !self.put_now(session, Name::Receipt(head.lineage, head.sequence), receipt.as_bytes())? {
            return Err(damaged("what is stored under this receipt's name"));
        }
        Ok(receipt)
    }

    /// Gives the newest head the receipt that a crash kept from it, or that its operator took away.
    pub fn repair(&mut self, session: &Session<S>) {
        let Some(newest) = self.chain.newest.clone() else { return };
        let done = session.own().and_then(|store| read_head(store, &self.pinned, newest.sequence)).and_then(|head| {
            let head = head.ok_or_else(|| damaged("the newest head"))?;
            self.resent(session, &head).map(drop)
        });
        if let Err(refused) = done {
            eprintln!(
                "remote-sink: head {} of lineage {} has no good receipt: {refused}",
                newest.sequence, self.pinned.lineage
            );
        }
    }
}

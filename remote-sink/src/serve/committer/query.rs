//! Answers from what is stored (docs/protocol.md, section "Queries"). A file is never believed: lengths are checked
//! against the signed index, and what does not fit is refused as damaged.

use crate::serve::committer::access::Source;
use crate::serve::committer::outbox::{Closed, store_refusal};
use crate::serve::committer::{Listing, Session};
use crate::store::{Entry, Name, Shelf, Store, StoreError, Stored, archive, names, read_whole};
use shared::codec::{Blob, List, Text};
use shared::format::{Envelope, Head, Page};
use shared::id::{Digest, Lineage};
use shared::limits::{
    BODY_BYTES_MAX, DATA_BYTES_MAX, ENVELOPE_BYTES_MAX, HEAD_BYTES_MAX, LIST_ITEMS_MAX, PAGE_BYTES_MAX,
    RECEIPT_BYTES_MAX,
};
use shared::signature::{Object, Signed};
use shared::wire::reply::{ArchiveItem, ArchiveList};
use shared::wire::request::{GetArchive, GetParts, ListArchives, ListHeads};
use shared::wire::{Damage, HeadItem, HeadList, Query, RefusalCode, Refused, Reply, SourceItem, SourceList};
use std::collections::{BTreeSet, BinaryHeap};

/// A list reply ends near this size; the client asks for the rest.
const LIST_BYTES: usize = 1 << 20;

/// Numbers kept for a client that walks through a list.
const LISTING_MAX: usize = 128 << 10;

pub fn not_found(what: &str) -> Refused {
    Refused::new(RefusalCode::NotFound, format!("no such {what}"))
}

pub fn damaged(what: impl std::fmt::Display) -> Refused {
    Refused::new(RefusalCode::Damaged, format!("{what} is damaged at the sink"))
}

/// A failure of reading: of the object, or of the machine.
fn unread(what: &str, error: &StoreError) -> Refused {
    if error.is_damage() { damaged(what) } else { store_refusal(error) }
}

impl<S: Store> Session<S> {
    /// Answers one query, in order behind what is on its way.
    pub fn answer(&self, query: Query) -> Result<(), Refused> {
        if query == Query::Ping {
            return Ok(self.outbox.reply(Reply::Pong)?);
        }
        self.outbox.barrier()?;
        let reply = match query {
            Query::Ping => Reply::Pong,
            Query::ListSources => self.list_sources()?,
            Query::ListHeads(query) => self.list_heads(&query)?,
            Query::ListArchives(query) => self.list_archives(&query)?,
            Query::GetEnvelope(query) => {
                let store = &self.access.source(&query.source)?.store;
                self.object(store, &Name::Envelope(query.session), ENVELOPE_BYTES_MAX, Envelope::NAME)?
            }
            Query::GetBody(query) => {
                let store = &self.access.source(&query.source)?.store;
                self.object(store, &Name::Body(query.digest), BODY_BYTES_MAX, "body")?
            }
            Query::GetPage(query) => {
                let store = &self.access.source(&query.source)?.store;
                self.object(store, &Name::Page(query.digest), PAGE_BYTES_MAX, Page::NAME)?
            }
            Query::GetRegion(query) => {
                let found = self.open_archive(&query)?;
                Reply::Object(found.layout.region.as_bytes().to_vec())
            }
            Query::GetTable(query) => return self.get_table(&query),
            Query::GetOwnerRecords(query) => return self.get_owner_records(&query),
            Query::GetSubstitutes(query) => return self.get_substitutes(&query),
            Query::ListVouchers(query) => return self.list_vouchers(&query),
            Query::GetWraps(query) => return self.get_wraps(&query),
            Query::PutOwnerRecord(bytes) => self.put_owner_record(&bytes)?,
            Query::PutVoucher(bytes) => self.put_voucher(&bytes)?,
            Query::PutWrap(bytes) => self.put_wrap(&bytes)?,
            Query::PutRelease(bytes) => self.put_release(&bytes)?,
        };
        Ok(self.outbox.reply(reply)?)
    }

    /// An object whole; what its bytes are worth the client finds out.
    fn object(&self, store: &S, name: &Name, bytes_max: usize, what: &str) -> Result<Reply, Refused> {
        let bytes = read_whole(store, name, bytes_max).map_err(|e| unread(what, &e))?;
        Ok(Reply::Object(bytes.ok_or_else(|| not_found(what))?))
    }

    fn list_sources(&self) -> Result<Reply, Refused> {
        let mut items = Vec::new();
        for source in self.access.sources.iter().take(LIST_ITEMS_MAX) {
            let lineages = lineages(source).map_err(|e| store_refusal(&e))?;
            items.push(SourceItem {
                name: source.name.clone(),
                source: source.id,
                card: Text::truncated(&source.card),
                lineages: List::new(lineages).map_err(|_| damaged("the list of lineages"))?,
            });
        }
        Ok(Reply::Sources(SourceList { items: List::new(items).unwrap_or(List::empty()) }))
    }

    fn list_heads(&self, query: &ListHeads) -> Result<Reply, Refused> {
        let source = self.access.source(&query.source)?;
        let mut items = Vec::new();
        let mut bytes = 0;
        let mut sequence = query.from;
        while items.len() < query.limit as usize && bytes < LIST_BYTES {
            let Some(item) = head_item(source, &query.lineage, sequence)? else { break };
            bytes += item.head.len() + item.receipt.as_ref().map_or(0, |receipt| receipt.len());
            items.push(item);
            let Some(next) = sequence.checked_add(1) else { break };
            sequence = next;
        }
        let newest = newest_head(source, &query.lineage).map_err(|e| store_refusal(&e))?;
        let more = newest.is_some_and(|newest| newest >= sequence);
        if items.is_empty() && more {
            // A gap: retention never removes heads.
            return Err(damaged(format!("head {sequence}")));
        }
        Ok(Reply::Heads(HeadList { items: List::new(items).map_err(|_| damaged("the chain"))?, more }))
    }

    fn list_archives(&self, query: &ListArchives) -> Result<Reply, Refused> {
        let source = self.access.source(&query.source)?;
        let mut listing = self.listing.borrow_mut();
        if !listing.as_ref().is_some_and(|known| known.answers(query)) {
            let listed = Listing::load(source, query).map_err(|e| store_refusal(&e))?;
            *listing = Some(listed);
        }
        let (numbers, complete) =
            listing.as_ref().map_or((&[][..], true), |known| (&known.numbers[..], known.complete));
        let start = numbers.partition_point(|number| *number < query.from);
        let wanted = &numbers[start..numbers.len().min(start + query.limit as usize)];
        let mut items = Vec::with_capacity(wanted.len());
        for number in wanted {
            let name = Name::Archive(query.lineage, *number);
            match archive::open(&source.store, &name) {
                Ok(Some(found)) => items.push(ArchiveItem { number: *number, id: found.layout.region.id() }),
                // Gone since the listing, or damaged: the client finds it missing.
                Ok(None) => {}
                Err(e) if e.is_damage() => {}
                Err(archive::ArchiveError::Store(e)) => return Err(store_refusal(&e)),
                Err(_) => {}
            }
        }
        let more = !complete || start + wanted.len() < numbers.len();
        Ok(Reply::Archives(ArchiveList { items: List::new(items).map_err(|_| damaged("the list"))?, more }))
    }

    fn open_archive(&self, query: &GetArchive) -> Result<archive::Checked<S::Stored>, Refused> {
        let source = self.access.source(&query.source)?;
        let name = Name::Archive(query.lineage, query.number);
        match archive::open_checked(&source.store, &name, &source.key) {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(not_found("archive")),
            Err(archive::ArchiveError::Store(e)) => Err(unread("this archive", &e)),
            Err(e) => {
                Err(Refused::new(RefusalCode::Damaged, format!("archive {} is damaged at the sink: {e}", query.number)))
            }
        }
    }

    fn get_table(&self, query: &GetArchive) -> Result<(), Refused> {
        let found = self.open_archive(query)?;
        let table = found.layout.parts(&found.index).pop().flatten();
        let (offset, bytes) = table.ok_or_else(|| expired("chunk table"))?;
        self.stream(&found.stored, offset, bytes)
    }

    pub fn get_parts(&self, query: &GetParts) -> Result<(), Refused> {
        let archive = GetArchive { source: query.source, lineage: query.lineage, number: query.number };
        let found = self.open_archive(&archive)?;
        let places = found.layout.parts(&found.index);
        let mut wanted = Vec::new();
        for part in query.parts.iter() {
            let place = places.get(*part as usize).ok_or_else(|| not_found("part"))?;
            wanted.push(place.ok_or_else(|| expired("part"))?);
        }
        for (offset, bytes) in wanted {
            self.stream(&found.stored, offset, bytes)?;
        }
        Ok(())
    }

    /// Sends a part in pieces. A failure behind the first piece cannot be said any more: it ends the session.
    fn stream(&self, stored: &S::Stored, offset: u64, bytes: u32) -> Result<(), Refused> {
        let (mut offset, mut left) = (offset, bytes as usize);
        loop {
            let mut piece = vec![0; left.min(DATA_BYTES_MAX)];
            stored.read_at(&mut piece, offset).map_err(|e| {
                self.broken.set(true);
                unread("this archive", &e)
            })?;
            offset += piece.len() as u64;
            left -= piece.len();
            if left == 0 {
                return Ok(self.outbox.reply(Reply::Object(piece))?);
            }
            self.outbox.reply(Reply::Piece(piece))?;
        }
    }

    /// Ends a row of objects.
    pub fn end_row(&self) -> Result<(), Closed> {
        self.outbox.reply(Reply::End)
    }
}

fn expired(what: &str) -> Refused {
    Refused::new(RefusalCode::Expired, format!("this {what} was given up by the sink's retention"))
}

fn lineages<S: Store>(source: &Source<S>) -> Result<Vec<Lineage>, StoreError> {
    let mut found = BTreeSet::new();
    for shelf in [Shelf::Heads, Shelf::Archives] {
        source.store.list(shelf, &mut |entry| {
            if let Entry::Object(Name::Head(lineage, _) | Name::Archive(lineage, _)) = entry {
                found.insert(lineage);
            }
        })?;
    }
    Ok(found.into_iter().collect())
}

fn newest_head<S: Store>(source: &Source<S>, lineage: &Lineage) -> Result<Option<u64>, StoreError> {
    let mut newest = None;
    source.store.list(Shelf::Heads, &mut |entry| match entry {
        Entry::Object(Name::Head(of, sequence)) if of == *lineage => newest = newest.max(Some(sequence)),
        _ => {}
    })?;
    Ok(newest)
}

fn head_item<S: Store>(source: &Source<S>, lineage: &Lineage, sequence: u64) -> Result<Option<HeadItem>, Refused> {
    let what = || format!("head {sequence}");
    let bytes = read_whole(&source.store, &Name::Head(*lineage, sequence), HEAD_BYTES_MAX);
    let Some(bytes) = bytes.map_err(|e| unread(&what(), &e))? else { return Ok(None) };
    let head = Signed::<Head>::parse(&bytes).ok().and_then(|head| head.verify(&source.key).ok());
    let head = head.ok_or_else(|| damaged(what()))?;
    let receipt = read_whole(&source.store, &Name::Receipt(*lineage, sequence), RECEIPT_BYTES_MAX);
    let receipt = receipt.map_err(|e| unread("a receipt", &e))?;
    let body = source.store.get(&Name::Body(head.body)).map_err(|e| unread("a body", &e))?;
    let content = match body {
        Some(_) => Damage::Present,
        None if source.published.is_expired(lineage, sequence) => Damage::Expired,
        None => Damage::Absent,
    };
    let blob = |_| damaged(what());
    Ok(Some(HeadItem {
        head: Blob::new(bytes).map_err(blob)?,
        receipt: receipt.map(Blob::new).transpose().map_err(blob)?,
        content,
    }))
}

impl Listing {
    /// Looks at all names and keeps the lowest ones wanted: memory does not grow with the number of archives.
    fn load<S: Store>(source: &Source<S>, query: &ListArchives) -> Result<Self, StoreError> {
        let mut lowest = BinaryHeap::new();
        let mut complete = true;
        source.store.list(Shelf::Archives, &mut |entry| match entry {
            Entry::Object(Name::Archive(of, number)) if of == query.lineage && number >= query.from => {
                lowest.push(number);
                if lowest.len() > LISTING_MAX {
                    lowest.pop();
                    complete = false;
                }
            }
            _ => {}
        })?;
        let (source, lineage, from) = (query.source, query.lineage, query.from);
        Ok(Self { source, lineage, from, numbers: lowest.into_sorted_vec(), complete })
    }

    /// Does it hold what this query asks for? A walk from the start sees the present.
    fn answers(&self, query: &ListArchives) -> bool {
        let within = self.source == query.source && self.lineage == query.lineage && self.from < query.from;
        let rest = self.numbers.len() - self.numbers.partition_point(|number| *number < query.from);
        within && (self.complete || rest > query.limit as usize)
    }
}

/// Names on a shelf in the sink's order: by digest.
pub fn sorted<S: Store>(store: &S, shelf: Shelf, keep: impl Fn(&Name) -> Option<Digest>) -> Result<Vec<Name>, Refused> {
    let mut found: Vec<_> = names(store, shelf)
        .map_err(|e| store_refusal(&e))?
        .into_iter()
        .filter_map(|name| keep(&name).map(|digest| (digest, name)))
        .collect();
    found.sort_unstable_by_key(|(digest, _)| *digest);
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

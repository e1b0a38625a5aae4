//! Lists, page by page, each bounded in total: a sink that never ends ends with an error.

use super::Client;
use crate::report::{Exit, Failure, Outcome};
use shared::codec::FormatError;
use shared::format::envelope::Wrap;
use shared::format::owner::{OwnerRecord, Substitute, Voucher};
use shared::id::{ArchiveNumber, Lineage, SourceId, VerifyKey};
use shared::limits::{CHAIN_BYTES_READ_MAX, CHAIN_HEADS_READ_MAX, LIST_ITEMS_MAX, READ_OBJECTS_BYTES_MAX};
use shared::signature::{Object, Signed, Verified};
use shared::wire::reply::{ArchiveItem, ArchiveList, DamagedList};
use shared::wire::request::{GetOwned, ListArchives, ListHeads, ListOf, PushRequest, Query, Request};
use shared::wire::{HeadItem, Reply, SourceItem};

/// Archives of one lineage that are taken in one call.
pub const ARCHIVES_MAX: usize = 4 << 20;
/// Objects of one row (owner records, vouchers, …) that are taken in one call.
pub const OBJECTS_MAX: usize = 1 << 16;

/// Items asked for at a time; the sink sends fewer where a frame is full.
const LIMIT: u32 = LIST_ITEMS_MAX as u32;

impl Client {
    /// The sources that this connection may ask about. The sink's word, trust comes from the owner.
    pub fn sources(&mut self) -> Outcome<Vec<SourceItem>> {
        match self.ask(&Query::ListSources)? {
            Reply::Sources(list) => Ok(list.items.into_vec()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// The chain from sequence `from` on, as stored: nothing in it is checked yet (`watch::verify_chain` does).
    pub fn heads(&mut self, source: &SourceId, lineage: &Lineage, from: u64) -> Outcome<Vec<HeadItem>> {
        let mut all: Vec<HeadItem> = Vec::new();
        let mut bytes = 0usize;
        loop {
            let at = from.saturating_add(all.len() as u64);
            let query = ListHeads { source: *source, lineage: *lineage, from: at, limit: LIMIT };
            let list = match self.ask(&Query::ListHeads(query))? {
                Reply::Heads(list) => list,
                other => return Err(self.unexpected(&other)),
            };
            let more = list.more;
            if more && list.items.is_empty() {
                return Err(self.lie("its list of heads says that more follow, and gives none"));
            }
            let of = |item: &HeadItem| item.head.len() + item.receipt.as_ref().map_or(0, |receipt| receipt.len());
            bytes = bytes.saturating_add(list.items.iter().map(of).sum());
            all.extend(list.items.into_vec());
            if all.len() > CHAIN_HEADS_READ_MAX || bytes > CHAIN_BYTES_READ_MAX {
                return Err(self.endless("heads", CHAIN_HEADS_READ_MAX));
            }
            if !more {
                return Ok(all);
            }
        }
    }

    /// Archives that the sink says it holds, ascending.
    pub fn archives(&mut self, source: &SourceId, lineage: &Lineage, from: ArchiveNumber) -> Outcome<Vec<ArchiveItem>> {
        let mut all: Vec<ArchiveItem> = Vec::new();
        let mut next = Some(from);
        while let Some(at) = next {
            let list = self.archives_page(source, lineage, at)?;
            next = match list.items.last() {
                Some(last) if list.more => last.number.next().ok(),
                _ => None,
            };
            all.extend(list.items.into_vec());
            if all.len() > ARCHIVES_MAX {
                return Err(self.endless("archives", ARCHIVES_MAX));
            }
        }
        Ok(all)
    }

    /// One page of [`Client::archives`], for callers that keep none.
    pub fn archives_page(&mut self, source: &SourceId, lineage: &Lineage, from: ArchiveNumber) -> Outcome<ArchiveList> {
        let query = ListArchives { source: *source, lineage: *lineage, from, limit: LIMIT };
        let list = match self.ask(&Query::ListArchives(query))? {
            Reply::Archives(list) => list,
            other => return Err(self.unexpected(&other)),
        };
        let ascending = list.items.windows(2).all(|pair| pair[0].number < pair[1].number);
        let begins = list.items.first().is_none_or(|first| first.number >= from);
        if !ascending || !begins || (list.more && list.items.is_empty()) {
            return Err(self.lie("its list of archives is out of order, or says that more follow and gives none"));
        }
        Ok(list)
    }

    /// The owner's records from this number on, each signed by the owner. Numbers and chain are the caller's to check.
    pub fn owner_records(&mut self, owner: &VerifyKey, from: u64) -> Outcome<Vec<Verified<OwnerRecord>>> {
        let rows = self
            .rows::<OwnerRecord>(from, |from, limit| Query::GetOwnerRecords(GetOwned { owner: *owner, from, limit }))?;
        let mut records = Vec::with_capacity(rows.len());
        for row in rows {
            let record = row.verify(owner).map_err(|e| self.lie(format!("an owner record: {e}")))?;
            if record.owner != *owner {
                return Err(self.lie("an owner record that names another owner"));
            }
            records.push(record);
        }
        Ok(records)
    }

    /// Substitute records; signed by the source or the owner, the caller checks by which.
    pub fn substitutes(&mut self, source: &SourceId, lineage: &Lineage) -> Outcome<Vec<Signed<Substitute>>> {
        self.rows(0, |from, limit| Query::GetSubstitutes(ListOf { source: *source, lineage: *lineage, from, limit }))
    }

    /// What the sink's last look found damaged of this source and lineage; role push. The sink's word.
    pub fn damage(&mut self) -> Outcome<DamagedList> {
        self.send(&PushRequest::GetDamaged.frame())?;
        match self.reply()? {
            Reply::Damaged(list) => Ok(list),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Vouchers; the caller checks the owner's signature.
    pub fn vouchers(&mut self, source: &SourceId, lineage: &Lineage) -> Outcome<Vec<Signed<Voucher>>> {
        self.rows(0, |from, limit| Query::ListVouchers(ListOf { source: *source, lineage: *lineage, from, limit }))
    }

    /// Wraps added later; the caller checks the owner's signature and the envelope's commitment.
    pub fn wraps(&mut self, source: &SourceId, lineage: &Lineage) -> Outcome<Vec<Signed<Wrap>>> {
        self.rows(0, |from, limit| Query::GetWraps(ListOf { source: *source, lineage: *lineage, from, limit }))
    }

    /// A row of objects, asked for until nothing more comes.
    fn rows<T: Object>(&mut self, from: u64, query: impl Fn(u64, u32) -> Query) -> Outcome<Vec<Signed<T>>> {
        let mut all: Vec<Signed<T>> = Vec::new();
        let mut bytes = 0usize;
        loop {
            let before = all.len();
            let mut reply = self.ask(&query(from.saturating_add(before as u64), LIMIT))?;
            loop {
                match reply {
                    Reply::Object(object) => {
                        bytes = bytes.saturating_add(object.len());
                        let parsed = Signed::parse(&object);
                        all.push(parsed.map_err(|e: FormatError| self.lie(format!("a {}: {e}", T::NAME)))?);
                    }
                    Reply::End => break,
                    other => return Err(self.unexpected(&other)),
                }
                if all.len() > OBJECTS_MAX || all.len() - before > LIMIT as usize || bytes > READ_OBJECTS_BYTES_MAX {
                    return Err(self.endless(T::NAME, OBJECTS_MAX));
                }
                reply = self.reply()?;
            }
            if all.len() == before {
                return Ok(all);
            }
        }
    }

    fn endless(&mut self, what: &str, max: usize) -> Failure {
        self.broken = true;
        let message = format!("its list of {what} does not end: more than {max}, or too many bytes");
        Failure::new("endless-list", Exit::Tampered, message)
            .remote(self.remote_name())
            .help("no honest sink of this source holds so many; ask its operator, and use another remote")
    }
}

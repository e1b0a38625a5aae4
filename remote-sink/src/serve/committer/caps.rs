//! Caps that need a look at what is there: each is counted when it is first needed, then kept.

use crate::ledger::{Known, read_record, series_of};
use crate::serve::committer::commit::read_receipt;
use crate::serve::committer::outbox::store_refusal;
use crate::serve::committer::{OVERTIME, Session};
use crate::store::{Entry, Name, Shelf, Store, StoreError, Stored};
use shared::format::Head;
use shared::id::{Lineage, Series};
use shared::limits::{HEAD_BYTES_MAX, RECEIPT_BYTES_MAX};
use shared::signature::Verified;
use shared::wire::{RefusalCode, Refused};
use std::collections::HashSet;
use std::sync::Arc;

const DAY: i64 = 24 * 3600;
/// The largest head with the largest receipt.
const LINK_BYTES_MAX: u64 = (HEAD_BYTES_MAX + RECEIPT_BYTES_MAX) as u64;

/// What was counted so far.
pub struct Caps {
    lineages: Vec<(Lineage, Option<u64>)>,
    ledger: Option<Arc<Known>>,
    envelopes: Option<u64>,
    substitutes: Option<(u64, u64)>,
    heads: Option<u64>,
    /// Bytes of the heads and receipts of the lineage that this session prolongs.
    chain_bytes: Option<u64>,
    series: Option<HashSet<Series>>,
}

impl Caps {
    pub fn new(lineages: Vec<(Lineage, Option<u64>)>, ledger: Option<Arc<Known>>) -> Self {
        Self { lineages, ledger, envelopes: None, substitutes: None, heads: None, chain_bytes: None, series: None }
    }

    /// Envelopes that appeared within a day: by the file system's clock for names, or by what the records of sessions
    /// leave possible, whichever is less. A vault that its operator copied or restored has only new names.
    pub fn envelopes_today<S: Store>(&mut self, session: &Session<S>) -> Result<u64, Refused> {
        if let Some(count) = self.envelopes {
            return Ok(count);
        }
        let since = session.clock.now().saturating_sub(DAY);
        let mut count = count_envelopes(session.own()?, since).map_err(|e| store_refusal(&e))?;
        if count >= session.limits.envelopes_per_day {
            let on_record = small_objects_on_record(session, session.own()?, since).map_err(|e| store_refusal(&e))?;
            count = count.min(on_record);
        }
        Ok(*self.envelopes.insert(count))
    }

    pub fn envelope_added(&mut self) {
        self.envelopes = self.envelopes.map(|count| count + 1);
    }

    /// Is there room for a substitute record of so many bytes? Those of this session count even if they were there.
    pub fn admit_substitute<S: Store>(&mut self, session: &Session<S>, bytes: u64) -> Result<(), Refused> {
        let cap = |text: String| Err(Refused::new(RefusalCode::Cap, text));
        let (count, held) = match self.substitutes {
            Some(counted) => counted,
            None => count_substitutes(session.own()?).map_err(|e| store_refusal(&e))?,
        };
        self.substitutes = Some((count, held));
        if count >= session.limits.substitutes {
            return cap(format!("this source has {count} substitute records: no more are taken"));
        }
        let all = held.saturating_add(bytes);
        if all > session.limits.substitutes_bytes {
            return cap(format!("this source has {held} bytes of substitute records: no more are taken"));
        }
        self.substitutes = Some((count + 1, all));
        Ok(())
    }

    /// Would readers still take the chain with this head and its receipt? A short chain is not counted.
    fn admit_link<S: Store>(&mut self, session: &Session<S>, head: &Verified<Head>) -> Result<(), Refused> {
        let limits = &session.limits;
        let long = |what: String| {
            let text = format!(
                "this lineage has {what}: readers take no longer chain, so no more are taken. Look whether the source was taken over; if not, it has to go on in a new lineage (docs/retention.md, \"Long chains\")"
            );
            Err(Refused::new(RefusalCode::Cap, text))
        };
        if head.sequence >= limits.chain_heads {
            return long(format!("{} snapshots", head.sequence));
        }
        if head.sequence.saturating_add(1).saturating_mul(LINK_BYTES_MAX) <= limits.chain_bytes {
            return Ok(());
        }
        let bytes = match self.chain_bytes {
            Some(bytes) => bytes,
            None => {
                *self.chain_bytes.insert(count_chain(session.own()?, &head.lineage).map_err(|e| store_refusal(&e))?)
            }
        };
        if bytes.saturating_add(link_bytes(head)) > limits.chain_bytes {
            return long(format!("{} snapshots, whose heads and receipts have {bytes} bytes", head.sequence));
        }
        Ok(())
    }

    /// Is there room for this head? Heads count by the time of their receipts, over all lineages.
    pub fn admit_head<S: Store>(&mut self, session: &Session<S>, head: &Verified<Head>) -> Result<(), Refused> {
        self.admit_link(session, head)?;
        let cap = |text: String| Err(Refused::new(RefusalCode::Cap, text));
        let heads = match self.heads {
            Some(count) => count,
            None => *self.heads.insert(self.count_heads(session)?),
        };
        if heads >= session.limits.heads_per_day {
            return cap(format!("{heads} snapshots within a day: no more are taken"));
        }
        if self.series.is_none() {
            self.series = Some(self.all_series(session)?);
        }
        let known = self.series.as_ref().is_some_and(|series| series.contains(&head.series));
        let count = self.series.as_ref().map_or(0, HashSet::len);
        if !known && count >= session.limits.series {
            return cap(format!("this source has {count} series: no more are taken"));
        }
        Ok(())
    }

    pub fn head_added(&mut self, head: &Verified<Head>) {
        self.chain_bytes = self.chain_bytes.map(|bytes| bytes.saturating_add(link_bytes(head)));
        self.heads = self.heads.map(|count| count + 1);
        if let Some(series) = &mut self.series {
            series.insert(head.series);
        }
    }

    fn count_heads<S: Store>(&self, session: &Session<S>) -> Result<u64, Refused> {
        let since = session.clock.now().saturating_sub(DAY);
        let mut count = 0;
        for (lineage, newest) in &self.lineages {
            let Some(newest) = newest else { continue };
            for sequence in (0..=*newest).rev() {
                // One that is missing or damaged counts as one of today, and hides none behind it.
                let receipt = match read_receipt(session, lineage, sequence) {
                    Err(refused) if refused.code == RefusalCode::Damaged => None,
                    receipt => receipt?,
                };
                if receipt.is_some_and(|receipt| receipt.received <= since) || count >= session.limits.heads_per_day {
                    break;
                }
                count += 1;
            }
        }
        Ok(count)
    }

    fn all_series<S: Store>(&self, session: &Session<S>) -> Result<HashSet<Series>, Refused> {
        let ledger = self.ledger.as_deref();
        let mut all: HashSet<_> = ledger.iter().flat_map(|ledger| ledger.series.iter().copied()).collect();
        for (lineage, newest) in &self.lineages {
            let Some(newest) = newest else { continue };
            for sequence in 0..=*newest {
                if ledger.is_some_and(|ledger| ledger.has_head(lineage, sequence)) {
                    continue;
                }
                let name = Name::Head(*lineage, sequence);
                match series_of(session.own()?, &name, &session.access.identity.key) {
                    Ok(series) => all.extend(series),
                    Err(e) if e.is_damage() => {}
                    Err(e) => return Err(store_refusal(&e)),
                }
            }
        }
        Ok(all)
    }
}

/// A head with the largest receipt that it may get.
fn link_bytes(head: &Verified<Head>) -> u64 {
    (head.as_bytes().len() + RECEIPT_BYTES_MAX) as u64
}

/// Bytes of the heads and receipts of a lineage.
fn count_chain<S: Store>(store: &S, lineage: &Lineage) -> Result<u64, StoreError> {
    let heads = store.bytes_of(Shelf::Heads, &|name| matches!(name, Name::Head(of, _) if of == lineage))?;
    let receipts = store.bytes_of(Shelf::Receipts, &|name| matches!(name, Name::Receipt(of, _) if of == lineage))?;
    Ok(heads.saturating_add(receipts))
}

/// Objects other than archives and heads that sessions since then brought: envelopes are among them. A record is
/// signed by this sink, and published before a session has brought many more.
fn small_objects_on_record<S: Store>(session: &Session<S>, store: &S, since: i64) -> Result<u64, StoreError> {
    let sink = &session.access.identity.sink;
    let longest = i64::try_from(session.limits.session.saturating_add(OVERTIME).as_secs()).unwrap_or(i64::MAX);
    let oldest = u64::try_from(since.saturating_sub(longest)).unwrap_or(0);
    let (mut count, mut done) = (0u64, Ok(()));
    store.list(Shelf::Records, &mut |entry| {
        if let (Entry::Object(name @ Name::Record { started, .. }), Ok(())) = (entry, &done)
            && started >= oldest
        {
            done = match read_record(store, &name, sink) {
                Err(e) if !e.is_damage() => Err(e),
                Ok(Some(record)) if record.ended > since => {
                    let others = (record.archives.len() + record.heads.len()) as u64;
                    count = count.saturating_add(record.objects.saturating_sub(others));
                    Ok(())
                }
                _ => Ok(()),
            };
        }
    })?;
    done.map(|()| count)
}

/// Substitute records of a source, and their bytes.
fn count_substitutes<S: Store>(store: &S) -> Result<(u64, u64), StoreError> {
    let (mut count, mut bytes, mut done) = (0, 0, Ok(()));
    store.list(Shelf::Substitutes, &mut |entry| {
        count += 1;
        if let (Entry::Object(name), Ok(())) = (entry, &done) {
            // What cannot be opened is one, of no bytes.
            match store.get(&name) {
                Err(e) if e.is_damage() => {}
                stored => done = stored.map(|stored| bytes += stored.map_or(0, |stored| stored.bytes())),
            }
        }
    })?;
    done.map(|()| (count, bytes))
}

fn count_envelopes<S: Store>(store: &S, since: i64) -> Result<u64, StoreError> {
    let (mut count, mut done) = (0, Ok(()));
    store.list(Shelf::Envelopes, &mut |entry| {
        if let (Entry::Object(name), Ok(())) = (entry, &done) {
            // What cannot be opened is one of today.
            match store.get(&name) {
                Err(e) if e.is_damage() => count += 1,
                stored => done = stored.map(|stored| count += u64::from(stored.is_some_and(|s| s.appeared() > since))),
            }
        }
    })?;
    done.map(|()| count)
}

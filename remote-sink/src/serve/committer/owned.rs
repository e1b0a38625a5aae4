//! Objects of owners (docs/protocol.md, section "Owner objects"): taken for their signature alone, never replaced.

use crate::serve::check;
use crate::serve::committer::Session;
use crate::serve::committer::access::owner_room_of;
use crate::serve::committer::outbox::store_refusal;
use crate::serve::committer::query::{damaged, not_found, sorted};
use crate::serve::limits::{Tier, charge};
use crate::store::{Name, PutBytes, Shelf, Store, put_bytes, read_whole};
use shared::format::{Envelope, Head, OwnerRecord, Release, Substitute, Voucher, Wrap};
use shared::id::{Digest, Lineage, SourceId, VerifyKey};
use shared::limits::{ENVELOPE_BYTES_MAX, HEAD_BYTES_MAX, OWNER_BYTES_MAX};
use shared::signature::{Object, Signed, Verified};
use shared::wire::request::{GetOwned, ListOf};
use shared::wire::{RefusalCode, Refused, Reply, Stored};

fn conflict(text: &str) -> Refused {
    Refused::new(RefusalCode::Conflict, text)
}

/// A head that an owner's object names.
struct Named {
    source: SourceId,
    lineage: Lineage,
    sequence: u64,
    head: Digest,
}

impl<S: Store> Session<S> {
    /// Sends the objects that `read` keeps, behind the first `from`, at most `limit`.
    fn send_row<T: Object>(
        &self,
        store: &S,
        names: &[Name],
        query: &ListOf,
        keys: &[VerifyKey],
        keep: impl Fn(&T) -> bool,
    ) -> Result<u32, Refused> {
        let (mut skip, mut sent) = (query.from, 0);
        for name in names {
            if sent == query.limit {
                break;
            }
            // What is damaged is passed over: verify names it.
            let Ok(Some(bytes)) = read_whole(store, name, T::BYTES_MAX) else { continue };
            let Ok(object) = check::verify_any::<T>(&bytes, keys) else { continue };
            if !keep(&object) {
                continue;
            }
            if skip > 0 {
                skip -= 1;
                continue;
            }
            self.outbox.reply(Reply::Object(bytes))?;
            sent += 1;
        }
        Ok(sent)
    }

    pub fn get_substitutes(&self, query: &ListOf) -> Result<(), Refused> {
        let source = self.access.source(&query.source)?;
        let keys: Vec<_> = source.owner.into_iter().chain([source.key]).collect();
        let names = sorted(&source.store, Shelf::Substitutes, |name| match name {
            Name::Substitute(lineage, digest) if *lineage == query.lineage => Some(*digest),
            _ => None,
        })?;
        self.send_row::<Substitute>(&source.store, &names, query, &keys, |s| s.source == query.source)?;
        Ok(self.end_row()?)
    }

    pub fn list_vouchers(&self, query: &ListOf) -> Result<(), Refused> {
        self.owned_row::<Voucher>(query, Shelf::Vouchers, |v| v.source == query.source && v.lineage == query.lineage)
    }

    pub fn get_wraps(&self, query: &ListOf) -> Result<(), Refused> {
        self.owned_row::<Wrap>(query, Shelf::Wraps, |w| w.source == query.source && w.lineage == query.lineage)
    }

    fn owned_row<T: Object>(&self, query: &ListOf, shelf: Shelf, keep: impl Fn(&T) -> bool) -> Result<(), Refused> {
        let source = self.access.source(&query.source)?;
        if let Some(owner) = source.owner {
            let store = owner_room_of(&self.access, &owner)?;
            let names = sorted(store, shelf, |name| match name {
                Name::Voucher(digest) | Name::Wrap(digest) => Some(*digest),
                _ => None,
            })?;
            self.send_row::<T>(store, &names, query, &[owner], keep)?;
        }
        Ok(self.end_row()?)
    }

    pub fn get_owner_records(&self, query: &GetOwned) -> Result<(), Refused> {
        let store = owner_room_of(&self.access, &query.owner)?;
        let end = query.from.saturating_add(u64::from(query.limit));
        for number in query.from..end {
            let record = read_whole(store, &Name::OwnerRecord(number), OWNER_BYTES_MAX);
            let record =
                record.map_err(|e| if e.is_damage() { damaged("an owner record") } else { store_refusal(&e) })?;
            let Some(bytes) = record else { break };
            self.outbox.reply(Reply::Object(bytes))?;
        }
        Ok(self.end_row()?)
    }

    /// Stores an owner's object under a name of its own; a wrap is of a source.
    fn put_owned(
        &self,
        owner: &VerifyKey,
        name: Name,
        bytes: &[u8],
        digest: Digest,
        wrapped: Option<&SourceId>,
    ) -> Result<Reply, Refused> {
        let store = owner_room_of(&self.access, owner)?;
        if store.get(&name).map_err(|e| store_refusal(&e))?.is_none() {
            self.has_room(charge(bytes.len() as u64), Tier::Small)?;
            let mut owned = self.owned.borrow_mut();
            let caps = owned.entry(*owner).or_default();
            match wrapped {
                Some(source) => caps.admit_wrap(store, owner, source, bytes.len() as u64, &self.limits)?,
                None => caps.admit(store, name.shelf(), bytes.len() as u64, &self.limits)?,
            }
        }
        match put_bytes(store, &name, bytes).map_err(|e| store_refusal(&e))? {
            PutBytes::New => Ok(Reply::Stored(Stored { digest, existed: false })),
            PutBytes::Same => Ok(Reply::Stored(Stored { digest, existed: true })),
            PutBytes::Other => Err(conflict("another object has this name")),
        }
    }

    /// Numbered and chained: the next number, the digest of the newest.
    pub fn put_owner_record(&self, bytes: &[u8]) -> Result<Reply, Refused> {
        let record = check::owner_record(bytes, &self.access.identity.owners)?;
        let store = owner_room_of(&self.access, &record.owner)?;
        let name = Name::OwnerRecord(record.number);
        if let Some(before) = record.number.checked_sub(1)
            && store.get(&name).map_err(|e| store_refusal(&e))?.is_none()
        {
            let newest = read_whole(store, &Name::OwnerRecord(before), OWNER_BYTES_MAX);
            let newest =
                newest.map_err(|e| if e.is_damage() { damaged("an owner record") } else { store_refusal(&e) })?;
            let newest = newest.and_then(|bytes| Signed::<OwnerRecord>::parse(&bytes).ok());
            if newest.map(|newest| newest.digest()) != record.previous {
                return Err(conflict("this owner record does not follow the newest one here"));
            }
        }
        self.put_owned(&record.owner, name, bytes, record.digest(), None)
    }

    /// The head must be here: what is signed about others is of no use to this sink.
    fn names_head(&self, owner: &VerifyKey, named: &Named) -> Result<(), Refused> {
        let source = self.access.source(&named.source)?;
        if source.owner != Some(*owner) {
            return Err(Refused::new(RefusalCode::NotAllowed, "that source has another owner"));
        }
        let name = Name::Head(named.lineage, named.sequence);
        let bytes = read_whole(&source.store, &name, HEAD_BYTES_MAX).map_err(|e| store_refusal(&e))?;
        let head = bytes.and_then(|bytes| Signed::<Head>::parse(&bytes).ok()).ok_or_else(|| not_found("head"))?;
        if head.digest() == named.head { Ok(()) } else { Err(conflict("another head has this sequence number")) }
    }

    pub fn put_voucher(&self, bytes: &[u8]) -> Result<Reply, Refused> {
        let voucher: Verified<Voucher> = check::voucher(bytes, &self.access.identity)?;
        let Voucher { source, lineage, sequence, head, .. } = *voucher;
        self.names_head(&voucher.owner, &Named { source, lineage, sequence, head })?;
        self.put_owned(&voucher.owner, Name::Voucher(voucher.digest()), bytes, voucher.digest(), None)
    }

    pub fn put_release(&self, bytes: &[u8]) -> Result<Reply, Refused> {
        let release: Verified<Release> = check::release(bytes, &self.access.identity)?;
        let Release { source, lineage, sequence, head, .. } = *release;
        self.names_head(&release.owner, &Named { source, lineage, sequence, head })?;
        self.put_owned(&release.owner, Name::Release(release.digest()), bytes, release.digest(), None)
    }

    /// Further recipients of a session that is here, with the same commitment.
    pub fn put_wrap(&self, bytes: &[u8]) -> Result<Reply, Refused> {
        let wrap = check::wrap(bytes, &self.access.identity.owners)?;
        let source = self.access.source(&wrap.source)?;
        if source.owner != Some(*wrap.key()) {
            return Err(Refused::new(RefusalCode::NotAllowed, "that source has another owner"));
        }
        let envelope = read_whole(&source.store, &Name::Envelope(wrap.session), ENVELOPE_BYTES_MAX);
        let envelope = envelope.map_err(|e| store_refusal(&e))?.ok_or_else(|| not_found("session"))?;
        let envelope = check::verify_any::<Envelope>(&envelope, &[source.key]).map_err(|_| damaged("its envelope"))?;
        if envelope.commitment != wrap.commitment || envelope.lineage != wrap.lineage || envelope.source != wrap.source
        {
            return Err(conflict("this wrap does not fit its session"));
        }
        self.put_owned(wrap.key(), Name::Wrap(wrap.digest()), bytes, wrap.digest(), Some(&wrap.source))
    }
}

//! Caps of what an owner leaves here. Its signature costs it nothing and no quota counts it, so each owner has a bound
//! of its own; and wraps have one for each source, or a source that was taken over would use up those of all others
//! with its sessions.

use crate::serve::committer::outbox::store_refusal;
use crate::serve::limits::{Limits, charge};
use crate::store::{Name, Shelf, Store, StoreError, Stored, names, read_whole};
use shared::format::Wrap;
use shared::id::{SourceId, VerifyKey};
use shared::limits::ENVELOPE_BYTES_MAX;
use shared::signature::Signed;
use shared::wire::{RefusalCode, Refused};
use std::collections::HashMap;

/// What is not a wrap: each kind has a cap of objects, all together one of bytes.
const OWN: [Shelf; 3] = [Shelf::OwnerRecords, Shelf::Vouchers, Shelf::Releases];

/// Sessions of one owner may run side by side, and none sees what another adds: so each counts anew after so much of
/// its own. Wraps are counted once: a session adds at most what its own count leaves.
const RECOUNT_OBJECTS: u64 = 4096;
const RECOUNT_BYTES: u64 = 16 << 20;

/// Objects and their bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    objects: u64,
    bytes: u64,
}

impl Held {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What was counted of one owner so far.
#[derive(Debug, Default)]
pub struct OwnerCaps {
    own: Option<HashMap<Shelf, Held>>,
    added: Held,
    /// All wraps, whatever their sources.
    wraps: Option<Held>,
    /// Wraps by source: read only where all together are more than one source may have.
    by_source: Option<HashMap<SourceId, Held>>,
}

fn cap(text: String) -> Refused {
    Refused::new(RefusalCode::Cap, text)
}

impl OwnerCaps {
    /// Is there room for a record, a voucher or a release?
    pub fn admit<S: Store>(&mut self, store: &S, shelf: Shelf, bytes: u64, limits: &Limits) -> Result<(), Refused> {
        if self.added.objects >= RECOUNT_OBJECTS || self.added.bytes >= RECOUNT_BYTES {
            self.own = None;
        }
        if self.own.is_none() {
            let own = OWN.iter().map(|shelf| Ok((*shelf, count(store, *shelf)?))).collect::<Result<_, StoreError>>();
            (self.own, self.added) = (Some(own.map_err(|e| store_refusal(&e))?), Held::default());
        }
        let own = self.own.get_or_insert_default();
        let objects = own.get(&shelf).map_or(0, |held| held.objects);
        if objects >= limits.owner_objects {
            return Err(cap(format!("this owner has {objects} such objects here: no more are taken")));
        }
        let held = own.values().fold(0, |sum: u64, held| sum.saturating_add(held.bytes));
        if held.saturating_add(charge(bytes)) > limits.owner_bytes {
            return Err(cap(format!("what this owner signed takes {held} bytes here: no more is taken")));
        }
        own.entry(shelf).or_default().add(charge(bytes));
        self.added.add(charge(bytes));
        Ok(())
    }

    /// Is there room for a wrap of a session of this source?
    pub fn admit_wrap<S: Store>(
        &mut self,
        store: &S,
        owner: &VerifyKey,
        source: &SourceId,
        bytes: u64,
        limits: &Limits,
    ) -> Result<(), Refused> {
        let all = match self.wraps {
            Some(all) => all,
            None => *self.wraps.insert(count_wraps(store, limits).map_err(|e| store_refusal(&e))?),
        };
        if !fits(all, bytes, limits) || self.by_source.is_some() {
            if self.by_source.is_none() {
                self.by_source = Some(wraps_by_source(store, owner).map_err(|e| store_refusal(&e))?);
            }
            let of = self.by_source.get_or_insert_default().entry(*source).or_default();
            if !fits(*of, bytes, limits) {
                let Held { objects, bytes } = of;
                return Err(cap(format!("this source has {objects} wraps here, {bytes} bytes: no more are taken")));
            }
            of.add(bytes);
        }
        self.wraps.get_or_insert_default().add(bytes);
        Ok(())
    }
}

fn fits(wraps: Held, bytes: u64, limits: &Limits) -> bool {
    wraps.objects < limits.owner_objects && wraps.bytes.saturating_add(bytes) <= limits.wraps_bytes
}

/// Objects of a shelf, and the bytes charged for them. What is damaged has none, and counts.
fn count<S: Store>(store: &S, shelf: Shelf) -> Result<Held, StoreError> {
    let mut held = Held::default();
    for name in names(store, shelf)? {
        let bytes = match store.get(&name) {
            Err(e) if e.is_damage() => 0,
            stored => stored?.map_or(0, |stored| stored.bytes()),
        };
        held.add(charge(bytes));
    }
    Ok(held)
}

/// All wraps. Few of them fit whatever their bytes are, and are not looked at.
fn count_wraps<S: Store>(store: &S, limits: &Limits) -> Result<Held, StoreError> {
    let objects = names(store, Shelf::Wraps)?.len() as u64;
    let most = objects.saturating_mul(ENVELOPE_BYTES_MAX as u64);
    let bytes = if most > limits.wraps_bytes / 2 { store.bytes_of(Shelf::Wraps, &|_| true)? } else { most };
    Ok(Held { objects, bytes })
}

/// Wraps by the source that they name. One that cannot be read is nobody's: it was one of many.
fn wraps_by_source<S: Store>(store: &S, owner: &VerifyKey) -> Result<HashMap<SourceId, Held>, StoreError> {
    let mut found: HashMap<SourceId, Held> = HashMap::new();
    for name in names(store, Shelf::Wraps)? {
        let Name::Wrap(_) = name else { continue };
        let bytes = match read_whole(store, &name, ENVELOPE_BYTES_MAX) {
            Err(e) if e.is_damage() => None,
            bytes => bytes?,
        };
        let Some(bytes) = bytes else { continue };
        let wrap = Signed::<Wrap>::parse(&bytes).ok().and_then(|wrap| wrap.verify(owner).ok());
        if let Some(wrap) = wrap {
            found.entry(wrap.source).or_default().add(bytes.len() as u64);
        }
    }
    Ok(found)
}

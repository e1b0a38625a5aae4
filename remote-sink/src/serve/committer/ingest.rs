//! New objects: quota first, then data, each part hashed here again, durable before the answer.

use crate::serve::check::{CheckedRegion, PartsCheck};
use crate::serve::committer::Session;
use crate::serve::committer::outbox::{Closed, Expect, Publication, existing, store_refusal};
use crate::serve::committer::push::Push;
use crate::serve::limits::{Tier, charge};
use crate::store::{Name, Staged, Store};
use shared::format::Index;
use shared::id::{ArchiveId, Digest};
use shared::limits::ALIGN;
use shared::wire::{RefusalCode, Refused, Reply, Stored};

/// An archive whose data is under way.
pub struct Intake<S: Store> {
    check: PartsCheck,
    index: Index,
    id: ArchiveId,
    bytes: u64,
    fate: Fate<S>,
}

enum Fate<S: Store> {
    Taken(S::Staged),
    /// Its data is passed over, then this is answered.
    Passed(Reply),
}

fn cap(text: impl AsRef<str>) -> Refused {
    Refused::new(RefusalCode::Cap, text)
}

impl<S: Store> Session<S> {
    /// May this source store so much more? Small objects may use a slack above the quota, and a part of the vault's
    /// reserve: what is there already must stay committable.
    pub fn admit(&self, bytes: u64, tier: Tier) -> Result<(), Refused> {
        let (used, objects) = self.outbox.shared().account(|account| (account.bytes, account.objects));
        if objects >= self.limits.objects {
            return Err(cap(format!("this source has {objects} objects: no more are taken")));
        }
        let charge = charge(bytes);
        if let Some(quota) = self.quota() {
            let slack = if tier == Tier::Archive { 0 } else { (quota / 16).max(16 << 20) };
            if used.saturating_add(charge) > quota.saturating_add(slack) {
                let text =
                    format!("the quota of {quota} bytes is reached: {used} are used, {charge} more are asked for");
                return Err(Refused::new(RefusalCode::Quota, text));
            }
        }
        self.has_room(charge, tier)?;
        self.outbox.shared().account(|account| account.reserve(bytes));
        Ok(())
    }

    /// Is there room on the file system?
    pub fn has_room(&self, bytes: u64, tier: Tier) -> Result<(), Refused> {
        let free = self.free_for(tier)?;
        if bytes > free {
            let text =
                format!("the sink's disk is full, or out of inodes: {free} bytes may be used, {bytes} are asked for");
            return Err(Refused::new(RefusalCode::Full, text));
        }
        Ok(())
    }

    pub fn cancel(&self, bytes: u64) {
        self.outbox.shared().account(|account| account.release(bytes));
    }

    /// Puts a small object: durable, then answered.
    pub fn put_small(&self, name: Name, bytes: Vec<u8>, digest: Digest, signed: bool) -> Result<(), Refused> {
        let store = self.own()?;
        let length = bytes.len() as u64;
        if store.get(&name).map_err(|e| store_refusal(&e))?.is_some() {
            // Sent again: it needs no room.
            self.outbox.shared().account(|account| account.reserve(length));
        } else {
            self.admit(length, Tier::Small)?;
        };
        let staged = store.stage().and_then(|mut staged| staged.append(&bytes).map(|()| staged));
        let staged = staged.map_err(|e| {
            self.cancel(length);
            store_refusal(&e)
        })?;
        let expect = Expect::Bytes { bytes, signed };
        let store = store.clone();
        let publication = Publication { name, staged, bytes: length, digest, expect, charged: true, store };
        Ok(self.outbox.publish(publication)?)
    }
}

impl From<Closed> for Refused {
    fn from(_: Closed) -> Self {
        Self::new(RefusalCode::Internal, "the sink failed to store something before this")
    }
}

impl<S: Store> Push<S> {
    pub fn put_envelope(&mut self, session: &Session<S>, bytes: Vec<u8>) -> Result<(), Refused> {
        let digest = self.pinned.envelope(&bytes)?.digest();
        let id = shared::id::SessionId::new(*digest.as_bytes());
        let name = Name::Envelope(id);
        let held = session.own()?.get(&name).map_err(|e| store_refusal(&e))?.is_some();
        if !held {
            let today = self.caps.envelopes_today(session)?;
            if today >= session.limits.envelopes_per_day {
                return Err(cap(format!("{today} envelopes within a day: no more are taken")));
            }
            self.caps.envelope_added();
        }
        session.put_small(name, bytes, digest, true)
    }

    pub fn put_page(&mut self, session: &Session<S>, bytes: Vec<u8>) -> Result<(), Refused> {
        let digest = self.pinned.page(&bytes)?.digest();
        session.put_small(Name::Page(digest), bytes, digest, false)
    }

    pub fn put_substitute(&mut self, session: &Session<S>, bytes: Vec<u8>) -> Result<(), Refused> {
        let digest = self.pinned.substitute(&bytes)?.digest();
        self.caps.admit_substitute(session, bytes.len() as u64)?;
        session.put_small(Name::Substitute(self.pinned.lineage, digest), bytes, digest, true)
    }

    /// Begins an archive: everything that can be decided without its data is decided here.
    pub fn put_archive(&mut self, session: &Session<S>, bytes: &[u8]) -> Result<(), Refused> {
        let CheckedRegion { index, region } = self.pinned.region(bytes)?;
        let name = Name::Archive(self.pinned.lineage, index.number);
        let bytes = region.as_bytes().len() as u64 + index.parts_bytes();
        let fate = match self.place_archive(session, &name, &index, region.id(), bytes) {
            Ok(None) => match self.stage(session, region.as_bytes()) {
                Ok(staged) => Fate::Taken(staged),
                Err(refused) => {
                    session.cancel(bytes);
                    Fate::Passed(Reply::Refused(refused))
                }
            },
            Ok(Some(reply)) => Fate::Passed(reply),
            Err(refused) => Fate::Passed(Reply::Refused(refused)),
        };
        let check = PartsCheck::new(&index);
        self.intake = Some(Intake { check, id: region.id(), index: index.into_value(), bytes, fate });
        Ok(())
    }

    /// `Some` is the answer of an archive that is there already.
    fn place_archive(
        &mut self,
        session: &Session<S>,
        name: &Name,
        index: &Index,
        id: ArchiveId,
        bytes: u64,
    ) -> Result<Option<Reply>, Refused> {
        if self.in_flight.contains(&index.number) {
            session.outbox.barrier()?;
            self.in_flight.clear();
        }
        let store = session.own()?;
        if store.get(name).map_err(|e| store_refusal(&e))?.is_some() {
            existing(store, name, &Expect::Archive(id))?;
            return Ok(Some(Reply::Stored(Stored { digest: Digest::new(*id.as_bytes()), existed: true })));
        }
        if self.envelope != Some(index.session) {
            session.outbox.barrier()?;
            let envelope = store.get(&Name::Envelope(index.session)).map_err(|e| store_refusal(&e))?;
            if envelope.is_none() {
                let text = "the envelope of this archive's session is not at the sink: send it first";
                return Err(Refused::new(RefusalCode::NotFound, text));
            }
            self.envelope = Some(index.session);
        }
        self.numbers.admit(session, &self.pinned.lineage, index.number)?;
        session.admit(bytes, Tier::Archive)?;
        self.numbers.note();
        Ok(None)
    }

    fn stage(&self, session: &Session<S>, region: &[u8]) -> Result<S::Staged, Refused> {
        let staged = session.own()?.stage().and_then(|mut staged| staged.append(region).map(|()| staged));
        staged.map_err(|e| store_refusal(&e))
    }

    /// Takes data of the archive under way.
    pub fn data(&mut self, session: &Session<S>, mut bytes: &[u8]) -> Result<(), Refused> {
        while !bytes.is_empty() {
            let Some(intake) = &mut self.intake else {
                return Err(crate::serve::check::malformed("data", "no archive was announced"));
            };
            let (piece, rest) = bytes.split_at(bytes.len().min(intake.check.part_left()));
            bytes = rest;
            intake.check.feed(piece)?;
            if let Fate::Taken(staged) = &mut intake.fate
                && let Err(error) = staged.append(piece)
            {
                session.cancel(intake.bytes);
                intake.fate = Fate::Passed(Reply::Refused(store_refusal(&error)));
            }
            if intake.check.is_done() {
                self.finish_archive(session)?;
            }
        }
        Ok(())
    }

    fn finish_archive(&mut self, session: &Session<S>) -> Result<(), Refused> {
        let Some(intake) = self.intake.take() else { return Ok(()) };
        let staged = match intake.fate {
            Fate::Passed(Reply::Refused(refused)) => return Err(refused),
            Fate::Passed(reply) => return Ok(session.outbox.reply(reply)?),
            Fate::Taken(staged) => staged,
        };
        debug_assert!(intake.bytes.is_multiple_of(ALIGN as u64));
        let number = intake.index.number;
        self.note_in_flight(number);
        session.outbox.publish(Publication {
            name: Name::Archive(self.pinned.lineage, number),
            staged,
            bytes: intake.bytes,
            digest: Digest::new(*intake.id.as_bytes()),
            expect: Expect::Archive(intake.id),
            charged: true,
            store: session.own()?.clone(),
        })?;
        Ok(())
    }
}

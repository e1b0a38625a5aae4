//! A pushing session, from Welcome to its end (docs/protocol.md, section "Role push").

use crate::ledger::Known;
use crate::serve::channel::{self, Inbound};
use crate::serve::check::{Pinned, ends_session};
use crate::serve::committer::caps::Caps;
use crate::serve::committer::commit::Chain;
use crate::serve::committer::greet::Pushing;
use crate::serve::committer::ingest::Intake;
use crate::serve::committer::numbers::Numbers;
use crate::serve::committer::outbox::store_refusal;
use crate::serve::committer::{Incoming, Session};
use crate::store::{Name, PutBytes, Store, put_bytes};
use shared::id::{ArchiveNumber, SessionId};
use shared::signature::sign;
use shared::wire::{Frame, PushRequest, RefusalCode, Refused, Reply, Request};
use std::collections::VecDeque;
use std::sync::Arc;

/// Archives that may be between the session and the disk.
const IN_FLIGHT_MAX: usize = 16;

/// A record is published at the latest after so many objects: its lists have room for no more archives, and a few may
/// be on their way.
const RECORD_OBJECTS: u64 = shared::limits::RECORD_ARCHIVES_MAX as u64 - 64;

/// State of a pushing session.
pub struct Push<S: Store> {
    pub pinned: Pinned,
    pub chain: Chain,
    pub caps: Caps,
    pub intake: Option<Intake<S>>,
    pub numbers: Numbers,
    /// Numbers of the last archives handed to the publishing thread.
    pub in_flight: VecDeque<ArchiveNumber>,
    /// A session whose envelope is known to be durable.
    pub envelope: Option<SessionId>,
    /// New bodies of this session, and new heads.
    pub bodies_added: u64,
    pub heads_added: u64,
}

impl<S: Store> Push<S> {
    /// Prepares the session: the newest head is read, and gets its receipt if a crash kept it from it.
    pub fn begin(session: &Session<S>, pushing: &Pushing, ledger: Option<Arc<Known>>) -> Result<Self, Refused> {
        let identity = session.access.identity.clone();
        let pinned = Pinned { identity, lineage: pushing.lineage };
        let chain = Chain::load(session, &pinned, pushing.standing.newest_head)?;
        let caps = Caps::new(pushing.lineages.clone(), ledger);
        let mut push = Self {
            pinned,
            chain,
            caps,
            intake: None,
            numbers: Numbers::new(pushing.standing.next_number),
            in_flight: VecDeque::new(),
            envelope: None,
            bodies_added: 0,
            heads_added: 0,
        };
        push.repair(session);
        Ok(push)
    }

    pub fn note_in_flight(&mut self, number: ArchiveNumber) {
        self.in_flight.push_back(number);
        if self.in_flight.len() > IN_FLIGHT_MAX {
            self.in_flight.pop_front();
        }
    }

    /// Takes requests until the client or the session ends. Returns what is to be said last, if anything.
    pub fn run(&mut self, session: &Session<S>, incoming: &mut Incoming) -> Option<Refused> {
        loop {
            incoming.get_mut().restart();
            let frame = match channel::next(incoming) {
                Ok(Some(Inbound::Frame(frame))) => frame,
                Ok(Some(Inbound::Fail(refused))) => return Some(refused),
                Ok(None) => return None,
                Err(e) => return e.timeout().map(|e| Refused::new(RefusalCode::Timeout, e.to_string())),
            };
            if let Err(refused) = self.take(session, frame) {
                if ends_session(refused.code) {
                    return Some(refused);
                }
                if session.outbox.reply(Reply::Refused(refused)).is_err() {
                    return None;
                }
            }
            let (objects, bytes) = (session.limits.record_objects.min(RECORD_OBJECTS), session.limits.record_bytes);
            if session.outbox.shared().account(|account| account.is_record_due(objects, bytes)) {
                self.publish_record(session);
            }
        }
    }

    fn take(&mut self, session: &Session<S>, frame: Frame) -> Result<(), Refused> {
        let request = PushRequest::parse(frame).map_err(crate::serve::check::request_refusal)?;
        if self.intake.is_some() && !matches!(request, PushRequest::Data(_)) {
            return Err(crate::serve::check::malformed("archive", "another request within its data"));
        }
        match request {
            PushRequest::Query(query) => session.answer(query),
            PushRequest::PutEnvelope(bytes) => self.put_envelope(session, bytes),
            PushRequest::PutArchive(bytes) => self.put_archive(session, &bytes),
            PushRequest::Data(bytes) => self.data(session, &bytes),
            PushRequest::PutPage(bytes) => self.put_page(session, bytes),
            PushRequest::PutBody(bytes) => self.put_body(session, &bytes),
            PushRequest::PutHead(bytes) => self.put_head(session, &bytes),
            PushRequest::PutSubstitute(bytes) => self.put_substitute(session, bytes),
            PushRequest::GetDamaged => self.get_damaged(session),
        }
    }

    fn get_damaged(&self, session: &Session<S>) -> Result<(), Refused> {
        session.outbox.barrier()?;
        let source = session.access.source(&self.pinned.identity.source)?;
        Ok(session.outbox.reply(Reply::Damaged(source.damaged.told(&self.pinned.lineage)))?)
    }

    /// Leaves a signed note of what was added since the last one. Without it the objects are there all the same.
    pub fn publish_record(&self, session: &Session<S>) {
        let now = session.clock.now();
        let Some(record) = session.outbox.shared().account(|account| account.take_record(now)) else { return };
        let started = u64::try_from(record.started).unwrap_or(0);
        let name = Name::Record { started, random: shared::sys::random() };
        let done = sign(record, &session.key).map_err(|e| e.to_string()).and_then(|record| {
            let store = session.own().map_err(|e| e.to_string())?;
            put_bytes(store, &name, record.as_bytes()).map_err(|e| e.to_string())
        });
        match done {
            Ok(PutBytes::New) => {}
            Ok(_) => eprintln!("remote-sink: a session record's random name was taken"),
            Err(e) => eprintln!("remote-sink: the session's record was not written: {e}"),
        }
    }

    /// Puts a small object at once and waits for the disk; `false` if other bytes have its name.
    pub fn put_now(&self, session: &Session<S>, name: Name, bytes: &[u8]) -> Result<bool, Refused> {
        let length = bytes.len() as u64;
        let placed = put_bytes(session.own()?, &name, bytes);
        session.outbox.shared().account(|account| match &placed {
            Ok(PutBytes::New) => account.placed(&name, None, length),
            _ => account.release(length),
        });
        placed.map(|placed| placed != PutBytes::Other).map_err(|e| store_refusal(&e))
    }
}

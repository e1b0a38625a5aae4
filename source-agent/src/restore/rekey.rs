//! Sessions that are there already, sealed to further recipients: their owner signs one more wrap for each, beside what
//! the source wrote; no archive is touched (docs/format.md, section 6).

use crate::client::OBJECTS_MAX;
use crate::crypto::identity::Identity;
use crate::crypto::recipient::Recipient;
use crate::crypto::wrap::wrap_for;
use crate::owner::TrustedSource;
use crate::progress::Progress;
use crate::report::{Exit, Failure, Outcome};
use crate::restore::check::Named;
use crate::restore::findings::Findings;
use crate::restore::later::Wraps;
use crate::restore::objects::{ArchiveName, Objects, Wanted, is_lost};
use crate::restore::open;
use crate::restore::substitutes::Substitutes;
use crate::restore::verify;
use crate::restore::view::Snapshot;
use shared::codec::List;
use shared::format::{Envelope, Kem, Wrap};
use shared::id::{Chain, SessionId};
use shared::signature::{Verified, sign};
use shared::wire::Damage;
use std::collections::HashSet;
use std::sync::Arc;

/// Envelopes and header regions that are asked for in one row.
const AT_ONCE: usize = 256;
/// Bytes of wraps of a lineage at a sink: readers take little more in one list.
pub const WRAPS_BYTES_MAX: usize = 96 << 20;

/// The work on one chain.
pub struct Rekey<'a> {
    pub source: &'a TrustedSource,
    pub chain: Chain,
    /// Of the source's owner: sinks take wraps from nobody else.
    pub identity: &'a Identity,
    pub recipients: &'a [Recipient],
    /// X25519 recipients beside X-Wing ones are meant.
    pub mixed: bool,
    /// Nothing is written.
    pub dry: bool,
    /// Those that are there.
    pub wraps: Arc<Wraps>,
}

/// What became of the sessions of a chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rekeyed {
    /// Sealed to recipients that they were not sealed to.
    pub sealed: u64,
    /// Sealed to all of them before.
    pub already: u64,
    /// Not sealed to this identity, which cannot pass on what it cannot read.
    pub closed: u64,
    /// Sealed to X-Wing alone, and left so.
    pub strong: u64,
    /// Snapshots whose sessions these are.
    pub snapshots: u64,
}

/// Sessions in the order in which they were met, each once.
#[derive(Default)]
struct Sessions {
    all: Vec<SessionId>,
    seen: HashSet<SessionId>,
}

impl Sessions {
    fn add(&mut self, session: SessionId) {
        if self.seen.insert(session) {
            self.all.push(session);
        }
    }
}

impl Rekey<'_> {
    /// Goes through the sessions of the snapshots that are trusted and present, newest first, then through those of the
    /// archives that they name or that stand for others. What cannot be read, and a session that the sink takes no wrap
    /// for, is a finding. `rekeyed` says what was done, also where this ends early.
    pub fn run(
        &self,
        sink: &mut dyn Objects,
        snapshots: &[&Snapshot],
        findings: &mut Findings,
        progress: &Progress,
        rekeyed: &mut Rekeyed,
    ) -> Outcome<()> {
        // Of lineages that nobody trusts, behind a freeze, and of what is expired, nothing is passed on.
        let read = |one: &&&Snapshot| one.usable && one.content != Damage::Expired;
        let snapshots: Vec<&Snapshot> = snapshots.iter().filter(read).copied().collect();
        rekeyed.snapshots = snapshots.iter().filter(|one| one.content == Damage::Present).count() as u64;
        let sessions = self.sessions(sink, &snapshots, findings, progress)?;
        let mut bytes: usize = self.wraps.values().flatten().map(|wrap| wrap.as_bytes().len()).sum();
        let mut count: usize = self.wraps.values().map(Vec::len).sum();
        for row in sessions.chunks(AT_ONCE) {
            for (session, envelope) in self.envelopes(sink, row, findings)? {
                crate::cli::check_interrupted()?;
                let counter = match self.wrap(&session, &envelope) {
                    Ok(Wrapped::New(wrap)) => {
                        (bytes, count) = (bytes + wrap.as_bytes().len(), count + 1);
                        if bytes > WRAPS_BYTES_MAX || count > OBJECTS_MAX {
                            return Err(too_many());
                        }
                        match if self.dry { Ok(()) } else { sink.put_wrap(&wrap) } {
                            Ok(()) => &mut rekeyed.sealed,
                            Err(failure) if is_of_one(&failure) => {
                                tell(&failure, &session, findings);
                                continue;
                            }
                            Err(failure) => return Err(failure),
                        }
                    }
                    Ok(Wrapped::Already) => &mut rekeyed.already,
                    Ok(Wrapped::Closed) => &mut rekeyed.closed,
                    Ok(Wrapped::Strong) => &mut rekeyed.strong,
                    Err(failure) if is_lost(&failure) => {
                        tell(&failure, &session, findings);
                        continue;
                    }
                    Err(failure) => return Err(failure),
                };
                *counter += 1;
            }
        }
        Ok(())
    }

    /// All sessions, each once, in the order in which they are sealed.
    fn sessions(
        &self,
        sink: &mut dyn Objects,
        snapshots: &[&Snapshot],
        findings: &mut Findings,
        progress: &Progress,
    ) -> Outcome<Vec<SessionId>> {
        let mut named = Named::default();
        named.snapshots(sink, snapshots, findings)?;
        progress.set_total_files(named.archives());
        let mut of_archives = Vec::new();
        let mut each = |archive: &verify::Archive| of_archives.push(archive.index.session);
        let substitutes = named.regions(sink, self.source, &self.chain.lineage, findings, progress, &mut each)?;
        self.rights(sink, &substitutes, &mut of_archives)?;
        let mut sessions = Sessions::default();
        let mut heads: Vec<_> = snapshots.iter().filter(|one| one.content == Damage::Present).collect();
        heads.sort_unstable_by_key(|snapshot| std::cmp::Reverse(snapshot.head.sequence));
        heads.iter().for_each(|snapshot| sessions.add(snapshot.head.session));
        of_archives.into_iter().rev().for_each(|session| sessions.add(session));
        Ok(sessions.all)
    }

    /// Adds the sessions of archives that stand for others. Whether what is lost of them is elsewhere too was looked at
    /// with the archives that they stand for.
    fn rights(&self, sink: &mut dyn Objects, substitutes: &Substitutes, sessions: &mut Vec<SessionId>) -> Outcome<()> {
        let Chain { source, lineage, .. } = self.chain;
        let name = |number| ArchiveName { source, lineage, number };
        let of = |number| substitutes.right(number).into_iter().map(move |(_, _, right)| (number, right));
        let rights: HashSet<_> = substitutes.archives().into_iter().flat_map(of).collect();
        let rights: Vec<_> = rights.into_iter().collect();
        for row in rights.chunks(AT_ONCE) {
            let wanted: Vec<_> = row.iter().map(|(number, id)| Wanted::Region(name(*number), *id)).collect();
            sink.objects(&wanted, &mut |at, got| {
                crate::cli::check_interrupted()?;
                let (number, id) = &row[at];
                match got.and_then(|bytes| verify::region(&bytes, &name(*number), id, self.source.key())) {
                    Ok(archive) => sessions.push(archive.index.session),
                    Err(failure) if is_lost(&failure) => {}
                    Err(failure) => return Err(failure),
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Envelopes of sessions, as far as they can be had.
    fn envelopes(
        &self,
        sink: &mut dyn Objects,
        sessions: &[SessionId],
        findings: &mut Findings,
    ) -> Outcome<Vec<(SessionId, Verified<Envelope>)>> {
        let (source, lineage) = (&self.chain.source, &self.chain.lineage);
        let wanted: Vec<_> = sessions.iter().map(|session| Wanted::Envelope(*source, *session)).collect();
        let mut found = Vec::new();
        sink.objects(&wanted, &mut |at, got| {
            crate::cli::check_interrupted()?;
            let session = sessions[at];
            match got.and_then(|bytes| verify::envelope(&bytes, &session, source, lineage, self.source.key())) {
                Ok(envelope) => found.push((session, envelope)),
                Err(failure) if is_lost(&failure) => tell(&failure, &session, findings),
                Err(failure) => return Err(failure),
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The wrap of a session for those of the recipients that it is not sealed to.
    fn wrap(&self, session: &SessionId, envelope: &Verified<Envelope>) -> Outcome<Wrapped> {
        let later = self.wraps.get(session).map_or(&[][..], Vec::as_slice);
        let mut has = envelope.recipients.iter().chain(later.iter().flat_map(|wrap| wrap.recipients.iter()));
        let new: Vec<&Recipient> = self
            .recipients
            .iter()
            .filter(|recipient| !has.clone().any(|wrap| wrap.recipient == recipient.digest()))
            .collect();
        if new.is_empty() {
            return Ok(Wrapped::Already);
        }
        let is_strong = !self.mixed && has.all(|wrap| wrap.kem == Kem::XWing);
        let by_wrap = || later.iter().find_map(|wrap| open::session_by_wrap(envelope, wrap, self.identity));
        let (secret, source_secret) = match open::session(envelope, session, self.identity) {
            Err(failure) if failure.exit == Exit::Identity => match by_wrap() {
                Some(opened) => opened,
                None => return Ok(Wrapped::Closed),
            },
            opened => opened?,
        };
        if is_strong && new.iter().any(|one| one.kem() == Kem::X25519) {
            return Ok(Wrapped::Strong);
        }
        let failed = |e: String| Failure::new("wrap", Exit::Failed, format!("session {}: {e}", session.short()));
        let commitment = envelope.commitment;
        let seal = |recipient: &&Recipient| {
            wrap_for(recipient, &envelope.source, &envelope.lineage, &commitment, &secret, &source_secret)
        };
        let recipients = new.iter().map(seal).collect::<Result<Vec<_>, _>>().map_err(|e| failed(e.to_string()))?;
        let recipients = List::new(recipients).map_err(|e| failed(e.to_string()))?;
        let wrap =
            Wrap { source: envelope.source, lineage: envelope.lineage, session: *session, commitment, recipients };
        let signed = sign(wrap, &self.identity.owner_key()).map_err(|e| failed(e.to_string()))?;
        Ok(Wrapped::New(Box::new(signed)))
    }
}

/// What is wrong with one session keeps no other from being sealed.
fn tell(failure: &Failure, session: &SessionId, findings: &mut Findings) {
    findings.other(format!("session {}: {}", session.short(), failure.message));
}

/// Does a sink that refuses a wrap so refuse this one alone?
fn is_of_one(failure: &Failure) -> bool {
    matches!(failure.code, "not-found" | "conflict" | "damaged" | "expired")
}

fn too_many() -> Failure {
    let message = format!(
        "no reader takes more than {OBJECTS_MAX} wraps, or {} MiB of them, of one history",
        WRAPS_BYTES_MAX >> 20
    );
    Failure::new("too-many-wraps", Exit::Full, message).help(
        "the newest snapshots come first; so that later ones are whole too, begin a new lineage with all recipients",
    )
}

enum Wrapped {
    New(Box<Verified<Wrap>>),
    Already,
    Closed,
    Strong,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::wrap::new_session;
    use crate::restore::later::Later;
    use crate::restore::reader::Reader;
    use crate::restore::restore;
    use crate::restore::testing::Vault;
    use crate::restore::tests::{options, target};
    use shared::codec::Blob;
    use shared::id::{Digest, VerifyKey};
    use shared::signature::{Signed, SigningKey};

    fn owner() -> Identity {
        Identity::from_seed(&[7; 32])
    }
    fn office() -> Identity {
        Identity::from_seed(&[8; 32])
    }

    /// Two snapshots; the second uses an archive of a session that has no head of its own.
    fn three_sessions() -> (Vault, [Digest; 2]) {
        let mut vault = Vault::new();
        let file = vault.file("f", &[b"one"]);
        let first = vault.snapshot(vec![file.clone()]);
        vault.next_session();
        let cut_off = vault.file("g", &[b"two"]);
        vault.next_session();
        let second = vault.snapshot(vec![file, cut_off]);
        (vault, [first, second])
    }

    fn snapshots(vault: &Vault) -> Vec<Snapshot> {
        let content = Damage::Present;
        let snapshot = |head| Snapshot { sink: 0, source: 0, head, content, receipt: None, usable: true };
        vault.verified_heads().into_iter().map(snapshot).collect()
    }

    fn rekey_of(
        vault: &mut Vault,
        identity: &Identity,
        recipients: &[Recipient],
        snapshots: &[Snapshot],
    ) -> (Outcome<()>, Rekeyed, u64) {
        let source = vault.trusted();
        let chain = Chain { source: source.id(), lineage: vault.lineage, sink: vault.sink_key.verify_key() };
        let snapshots: Vec<&Snapshot> = snapshots.iter().collect();
        let (mut findings, mut rekeyed) = (Findings::default(), Rekeyed::default());
        let wraps = Later::default().of(vault, &source, &chain.lineage, identity).unwrap();
        let rekey = Rekey { source: &source, chain, identity, recipients, mixed: false, dry: false, wraps };
        let done = rekey.run(vault, &snapshots, &mut findings, &Progress::hidden(), &mut rekeyed);
        (done, rekeyed, findings.count())
    }

    /// What became of the sessions, and how many findings there were.
    fn rekey(vault: &mut Vault, identity: &Identity, recipients: &[Recipient]) -> (Rekeyed, u64) {
        let all = snapshots(vault);
        let (done, rekeyed, findings) = rekey_of(vault, identity, recipients, &all);
        done.unwrap();
        (Rekeyed { snapshots: 0, ..rekeyed }, findings)
    }

    /// Files of a snapshot that an identity restores, all of it.
    fn restored(vault: &mut Vault, head: &Digest, identity: &Identity) -> Outcome<u64> {
        let (source, head) = (vault.trusted(), vault.head(head));
        let (_dir, out) = target();
        let mut reader = Reader::open(vault, &source, head, identity, &Later::default())?;
        let report = restore(&mut reader, b"", &options(&out), &Progress::hidden(), &mut |_| {})?;
        assert_eq!(report.lost.count(), 0);
        Ok(report.files)
    }

    #[test]
    fn every_session_opens_for_a_recipient_that_came_later() {
        let (mut vault, heads) = three_sessions();
        assert_eq!(restored(&mut vault, &heads[1], &office()).err().unwrap().exit, Exit::Identity);
        let recipients = [office().recipient(Kem::X25519)];
        let (rekeyed, findings) = rekey(&mut vault, &owner(), &recipients);
        assert_eq!((rekeyed, findings), (Rekeyed { sealed: 3, ..Rekeyed::default() }, 0));
        assert_eq!(heads.map(|head| restored(&mut vault, &head, &office()).unwrap()), [1, 2]);
        let wraps = vault.store.wraps.len();
        let (rekeyed, _) = rekey(&mut vault, &owner(), &recipients);
        assert_eq!((rekeyed.already, vault.store.wraps.len()), (3, wraps), "nothing is sealed twice");
    }

    #[test]
    fn what_is_lost_is_told_and_the_rest_is_sealed() {
        let (mut vault, heads) = three_sessions();
        // The one archive of the session without a head.
        let gone = *vault.store.regions.keys().nth(2).unwrap();
        vault.store.regions.remove(&gone);
        let (rekeyed, findings) = rekey(&mut vault, &owner(), &[office().recipient(Kem::X25519)]);
        assert_eq!((rekeyed.sealed, findings), (2, 1));
        assert_eq!(restored(&mut vault, &heads[0], &office()).unwrap(), 1);
    }

    /// Whoever has a source's key signs a session that no identity opens: it is told, and the others are sealed.
    #[test]
    fn a_session_that_lies_keeps_no_other_shut() {
        let (mut vault, heads) = three_sessions();
        let mut lie = vault.envelope.clone().into_value();
        let mut wraps = lie.recipients.into_vec();
        wraps[0].sealed = Blob::new(vec![0; 80]).unwrap();
        lie.recipients = List::new(wraps).unwrap();
        vault.envelope = sign(lie, &vault.signing).unwrap();
        let session = vault.session_id();
        vault.store.envelopes.insert(session, vault.envelope.as_bytes().to_vec());
        let file = vault.file("h", &[b"three"]);
        vault.snapshot(vec![file]);
        let (rekeyed, findings) = rekey(&mut vault, &owner(), &[office().recipient(Kem::X25519)]);
        assert_eq!((rekeyed.sealed, findings), (3, 1));
        assert_eq!(heads.map(|head| restored(&mut vault, &head, &office()).unwrap()), [1, 2]);
    }

    /// The session of an archive that stands for a damaged one may have no head, and no page names the archive.
    #[test]
    fn sessions_of_what_was_healed_are_sealed_too() {
        let (mut vault, head) = crate::restore::tests::healed_in_another_session();
        let (rekeyed, findings) = rekey(&mut vault, &owner(), &[office().recipient(Kem::X25519)]);
        assert_eq!((rekeyed.sealed, findings), (2, 0));
        assert_eq!(restored(&mut vault, &head, &office()).unwrap(), 1);
    }

    #[test]
    fn who_cannot_read_a_session_seals_it_to_nobody() {
        let (mut vault, _) = three_sessions();
        let stranger = Identity::from_seed(&[9; 32]);
        let (rekeyed, _) = rekey(&mut vault, &stranger, &[office().recipient(Kem::X25519)]);
        assert_eq!((rekeyed, vault.store.wraps.len()), (Rekeyed { closed: 3, ..Rekeyed::default() }, 0));
    }

    /// A sink may keep whatever it likes as wraps: what neither owner signed, or is of another session, opens nothing.
    #[test]
    fn wraps_of_strangers_and_of_other_sessions_open_nothing() {
        let (mut vault, heads) = three_sessions();
        rekey(&mut vault, &owner(), &[office().recipient(Kem::X25519)]);
        let session = vault.head(&heads[1]).session;
        let wraps = std::mem::take(&mut vault.store.wraps);
        let of = |bytes: &&Vec<u8>| {
            let owner = owner().owner_key().verify_key();
            Signed::<Wrap>::parse(bytes).unwrap().verify(&owner).unwrap().session == session
        };
        let mine = wraps.iter().find(of).unwrap();
        let other = wraps.iter().find(|bytes| !of(bytes)).unwrap();
        let by = |bytes: &[u8], key: &SigningKey, change: &dyn Fn(&mut Wrap)| {
            let owner: VerifyKey = owner().owner_key().verify_key();
            let mut wrap = Signed::<Wrap>::parse(bytes).unwrap().verify(&owner).unwrap().into_value();
            change(&mut wrap);
            sign(wrap, key).unwrap().as_bytes().to_vec()
        };
        let stranger = SigningKey::from_seed(&[66; 32]);
        let forged: Vec<Vec<u8>> = wraps.iter().map(|bytes| by(bytes, &stranger, &|_| {})).collect();
        let moved = by(other, &owner().owner_key(), &|wrap| wrap.session = session);
        let taken = by(mine, &owner().owner_key(), &|wrap| wrap.commitment = Digest::new([1; 32]));
        for kept in [forged, vec![moved], vec![taken]] {
            vault.store.wraps = kept;
            assert_eq!(restored(&mut vault, &heads[1], &office()).err().unwrap().exit, Exit::Identity);
        }
    }

    /// Nor does what a thief of the source's key may sign, a session that pretends to be sealed to X-Wing.
    #[test]
    fn x_wing_is_not_weakened_unasked_and_stops_no_other_session() {
        let (mut vault, heads) = three_sessions();
        let (key, x_wing) = (Identity::from_seed(&[7; 32]), Kem::XWing);
        let (session, envelope) =
            new_session(vault.source(), vault.lineage, &vault.secret, &[key.recipient(x_wing)], &vault.signing)
                .unwrap();
        (vault.session, vault.envelope) = (session, envelope);
        vault.store.envelopes.insert(vault.session_id(), vault.envelope.as_bytes().to_vec());
        let file = vault.file("h", &[b"three"]);
        vault.snapshot(vec![file]);
        let (rekeyed, _) = rekey(&mut vault, &owner(), &[office().recipient(Kem::X25519)]);
        assert_eq!(rekeyed, Rekeyed { sealed: 3, strong: 1, ..Rekeyed::default() });
        assert_eq!(heads.map(|head| restored(&mut vault, &head, &office()).unwrap()), [1, 2]);
    }

    #[test]
    fn what_is_expired_or_of_nobody_trusted_is_passed_on_to_nobody() {
        let (mut vault, heads) = three_sessions();
        let mut all = snapshots(&vault);
        all[0].content = Damage::Expired;
        all[1].usable = false;
        let (done, rekeyed, findings) = rekey_of(&mut vault, &owner(), &[office().recipient(Kem::X25519)], &all);
        done.unwrap();
        assert_eq!((rekeyed, findings, vault.store.wraps.len()), (Rekeyed::default(), 0, 0));
        // What is gone and did not expire is told.
        all[0].content = Damage::Absent;
        assert_eq!(rekey_of(&mut vault, &owner(), &[], &all).2, 1);
        assert_eq!(restored(&mut vault, &heads[0], &office()).err().unwrap().exit, Exit::Identity);
    }

    #[test]
    fn a_wrap_that_is_refused_is_told_and_a_sink_that_fails_is_left() {
        let (mut vault, _) = three_sessions();
        let (all, recipients) = (snapshots(&vault), [office().recipient(Kem::X25519)]);
        vault.refuse_wraps = Some(|| Failure::new("not-found", Exit::NotFound, "no such session"));
        let (done, rekeyed, findings) = rekey_of(&mut vault, &owner(), &recipients, &all);
        done.unwrap();
        assert_eq!((rekeyed.sealed, findings), (0, 3));
        vault.refuse_wraps = Some(|| Failure::new("not-allowed", Exit::NotFound, "another owner"));
        let (done, rekeyed, findings) = rekey_of(&mut vault, &owner(), &recipients, &all);
        assert_eq!((done.err().unwrap().code, rekeyed.sealed, findings), ("not-allowed", 0, 0));
    }
}

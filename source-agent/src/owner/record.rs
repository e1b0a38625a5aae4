//! The owner record: a numbered, chained, sealed note of the owner to itself (docs/format.md, section 14).

use crate::crypto::derive::label;
use crate::crypto::identity::Identity;
use crate::crypto::wrap::{hpke_open, hpke_seal};
use crate::owner::{Frozen, Origin, SeenHead, Trust, TrustedSource};
use crate::report::{Exit, Failure, Outcome};
use crate::restore::objects::{Objects, tampered};
use minicbor::{Decode, Encode};
use shared::codec::{self, Blob, List, Text};
use shared::format::{Kem, OwnerRecord};
use shared::id::{Digest, Lineage, SourceId, VerifyKey};
use shared::limits::{CARD_BYTES_MAX, OWNER_BYTES_MAX, SUITE};
use shared::signature::{Signed, Verified, sign};
use shared::sys::durable;
use std::path::{Path, PathBuf};

/// Most lineages of one trusted card.
pub const LINEAGES_MAX: usize = 64;
/// Most trusted cards, and most cards whose trust was ended.
pub const CARDS_MAX: usize = 1024;
/// Most heads that a record remembers.
pub const HEADS_MAX: usize = 8192;
/// Most records that are read from one sink in a go.
const RECORDS_MAX: usize = 1_000_000;

/// A trusted card in the record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct NoteSource {
    #[n(0)]
    pub card: Text<CARD_BYTES_MAX>,
    #[n(1)]
    pub lineages: List<Lineage, LINEAGES_MAX>,
    #[n(2)]
    pub since: i64,
    #[n(3)]
    pub frozen: List<NoteFrozen, LINEAGES_MAX>,
}

/// A frozen lineage in the record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct NoteFrozen {
    #[n(0)]
    pub lineage: Lineage,
    #[n(1)]
    pub sink: VerifyKey,
    #[n(2)]
    pub sequence: u64,
    #[n(3)]
    pub head: Digest,
}

/// A remembered head in the record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct NoteHead {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub lineage: Lineage,
    #[n(2)]
    pub sink: VerifyKey,
    #[n(3)]
    pub sequence: u64,
    #[n(4)]
    pub head: Digest,
    #[n(5)]
    pub time: i64,
}

/// A card whose trust was ended.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct NoteRemoved {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub time: i64,
}

/// What the record seals.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Note {
    #[n(0)]
    pub trusted: List<NoteSource, CARDS_MAX>,
    #[n(1)]
    pub sinks: List<Text<CARD_BYTES_MAX>, 256>,
    #[n(2)]
    pub heads: List<NoteHead, HEADS_MAX>,
    #[n(3)]
    pub written: i64,
    #[n(4)]
    pub removed: List<NoteRemoved, CARDS_MAX>,
}

impl Note {
    pub fn empty() -> Self {
        Self { trusted: List::empty(), sinks: List::empty(), heads: List::empty(), written: 0, removed: List::empty() }
    }

    /// The trusted sources and remembered heads of the note.
    pub fn trust(&self) -> Outcome<Trust> {
        let mut trust = Trust::default();
        for source in self.trusted.iter() {
            let card = source.card.parse().map_err(|e| tampered("owner-record", format!("the owner record: {e}")))?;
            let frozen =
                |f: &NoteFrozen| Frozen { lineage: f.lineage, sink: f.sink, sequence: f.sequence, head: f.head };
            trust.add(TrustedSource {
                card,
                lineages: source.lineages.to_vec(),
                since: source.since,
                frozen: source.frozen.iter().map(frozen).collect(),
                origin: Origin::Record,
            });
        }
        trust.heads = self.heads.iter().map(NoteHead::seen).collect();
        Ok(trust)
    }

    /// Puts a source in, or replaces it.
    pub fn put(&mut self, source: &TrustedSource) -> Outcome<()> {
        let too_many = |e| Failure::new("trust", Exit::Failed, format!("the owner record is full: {e}"));
        let frozen = |f: &Frozen| NoteFrozen { lineage: f.lineage, sink: f.sink, sequence: f.sequence, head: f.head };
        let entry = NoteSource {
            card: Text::new(source.card.to_string()).map_err(too_many)?,
            lineages: List::new(source.lineages.clone()).map_err(too_many)?,
            since: source.since,
            frozen: List::new(source.frozen.iter().map(frozen).collect()).map_err(too_many)?,
        };
        let id = source.id();
        let mut trusted = std::mem::replace(&mut self.trusted, List::empty()).into_vec();
        trusted.retain(|known| card_id(known) != Some(id));
        trusted.push(entry);
        self.trusted = List::new(trusted).map_err(too_many)?;
        let mut removed = std::mem::replace(&mut self.removed, List::empty()).into_vec();
        removed.retain(|gone| gone.source != id);
        self.removed = List::new(removed).map_err(too_many)?;
        Ok(())
    }

    /// Ends the trust in a source; says whether it was trusted.
    pub fn remove(&mut self, id: &SourceId, now: i64) -> Outcome<bool> {
        let mut trusted = std::mem::replace(&mut self.trusted, List::empty()).into_vec();
        let before = trusted.len();
        trusted.retain(|known| card_id(known) != Some(*id));
        let was = trusted.len() < before;
        self.trusted = List::new(trusted).map_err(|e| Failure::new("trust", Exit::Failed, e.to_string()))?;
        let mut removed = std::mem::replace(&mut self.removed, List::empty()).into_vec();
        removed.retain(|gone| gone.source != *id);
        removed.push(NoteRemoved { source: *id, time: now });
        if removed.len() > CARDS_MAX {
            removed.remove(0);
        }
        self.removed = List::new(removed).map_err(|e| Failure::new("trust", Exit::Failed, e.to_string()))?;
        Ok(was)
    }

    /// Forgets remembered heads of a source at these sinks.
    pub fn forget(&mut self, source: &SourceId, sinks: &[VerifyKey]) {
        let mut all = std::mem::replace(&mut self.heads, List::empty()).into_vec();
        all.retain(|known| known.source != *source || !sinks.contains(&known.sink));
        self.heads = List::new(all).unwrap_or_else(|_| List::empty());
    }

    /// Remembers verified heads; an older one of the same chain goes.
    pub fn remember(&mut self, heads: &[SeenHead]) -> Outcome<()> {
        let mut all = std::mem::replace(&mut self.heads, List::empty()).into_vec();
        for seen in heads {
            all.retain(|known| (known.source, known.lineage, known.sink) != (seen.source, seen.lineage, seen.sink));
            all.push(NoteHead {
                source: seen.source,
                lineage: seen.lineage,
                sink: seen.sink,
                sequence: seen.sequence,
                head: seen.head,
                time: seen.time,
            });
        }
        let surplus = all.len().saturating_sub(HEADS_MAX);
        all.drain(..surplus);
        self.heads = List::new(all).map_err(|e| Failure::new("trust", Exit::Failed, e.to_string()))?;
        Ok(())
    }
}

fn card_id(source: &NoteSource) -> Option<SourceId> {
    source.card.parse::<shared::card::SourceCard>().ok().map(|card| card.source_id())
}

impl NoteHead {
    fn seen(&self) -> SeenHead {
        SeenHead {
            source: self.source,
            lineage: self.lineage,
            sink: self.sink,
            sequence: self.sequence,
            head: self.head,
            time: self.time,
        }
    }
}

/// What the seal of a record binds: label, suite, owner, number, predecessor.
fn info(owner: &VerifyKey, number: u64, previous: Option<&Digest>) -> Vec<u8> {
    let previous = previous.map_or([0; 32], |digest| *digest.as_bytes());
    [label::OWNER_RECORD, &[0, SUITE], owner.as_bytes(), &number.to_le_bytes(), &previous].concat()
}

/// Signs and seals the record that follows `newest`.
pub fn write(
    note: &Note,
    newest: Option<&Verified<OwnerRecord>>,
    identity: &Identity,
) -> Outcome<Verified<OwnerRecord>> {
    let failed =
        |why: String| Failure::new("owner-record", Exit::Failed, format!("cannot write the owner record: {why}"));
    let key = identity.owner_key();
    let owner = key.verify_key();
    let number = match newest {
        None => 0,
        Some(record) => record.number.checked_add(1).ok_or_else(|| failed("it has the last number".into()))?,
    };
    let previous = newest.map(Verified::digest);
    let kem = Kem::XWing;
    let info = info(&owner, number, previous.as_ref());
    let (enc, sealed) =
        hpke_seal(&identity.recipient(kem), &info, &codec::encode(note)).map_err(|e| failed(e.to_string()))?;
    let enc = Blob::new(enc).map_err(|e| failed(e.to_string()))?;
    let sealed = Blob::new(sealed).map_err(|e| failed(e.to_string()))?;
    sign(OwnerRecord { owner, number, previous, kem, enc, sealed }, &key).map_err(|e| failed(e.to_string()))
}

/// Opens a verified record.
pub fn read(record: &Verified<OwnerRecord>, identity: &Identity) -> Outcome<Note> {
    let wrong = |why: String| tampered("owner-record", format!("owner record {}: {why}", record.number));
    let info = info(&record.owner, record.number, record.previous.as_ref());
    let content =
        hpke_open(identity, record.kem, &record.enc, &info, &record.sealed).map_err(|e| wrong(e.to_string()))?;
    codec::decode(&content, OWNER_BYTES_MAX, "owner record").map_err(|e| wrong(e.to_string()))
}

fn parse(bytes: &[u8], owner: &VerifyKey) -> Outcome<Verified<OwnerRecord>> {
    let wrong = |why: String| tampered("owner-record", format!("an owner record: {why}"));
    let signed = Signed::<OwnerRecord>::parse(bytes).map_err(|e| wrong(e.to_string()))?;
    let record = signed.verify(owner).map_err(|e| wrong(e.to_string()))?;
    if record.owner == *owner { Ok(record) } else { Err(wrong("it names another owner".into())) }
}

/// The file in which this machine remembers the newest record it saw.
fn remembered_path(state_dir: &Path, owner: &VerifyKey) -> PathBuf {
    state_dir.join("owner").join(format!("{owner}.record"))
}

/// The newest record that this machine remembers.
pub fn remembered(state_dir: &Path, owner: &VerifyKey) -> Outcome<Option<Verified<OwnerRecord>>> {
    let path = remembered_path(state_dir, owner);
    match std::fs::read(&path) {
        Ok(bytes) => parse(&bytes, owner).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::io("read", &path, &e)),
    }
}

/// Remembers a record; never an older one in place of a newer.
pub fn remember(state_dir: &Path, record: &Verified<OwnerRecord>) -> Outcome<()> {
    if remembered(state_dir, &record.owner)?.is_some_and(|known| known.number >= record.number) {
        return Ok(());
    }
    let path = remembered_path(state_dir, &record.owner);
    let dir = state_dir.join("owner");
    durable::create_dir(&dir, 0o700).map_err(|e| Failure::io("create", &dir, &e))?;
    durable::replace(&path, record.as_bytes(), durable::PRIVATE).map_err(|e| Failure::io("write", &path, &e))
}

/// What one sink holds of the owner's records.
pub struct SinkRecords {
    /// Its newest record, if it has any.
    pub newest: Option<Verified<OwnerRecord>>,
    /// All records that it gave, from the asked number on.
    pub records: Vec<Verified<OwnerRecord>>,
}

/// Reads a sink's records from `from` on: each signed by the owner, numbered and chained.
pub fn read_sink(objects: &mut dyn Objects, owner: &VerifyKey, from: u64) -> Outcome<SinkRecords> {
    let remote = objects.remote().to_owned();
    let bytes = match objects.owner_records(owner, from) {
        // This sink knows no owner of that key, or holds nothing.
        Err(e) if e.exit == Exit::NotFound => Vec::new(),
        other => other?,
    };
    let mut records: Vec<Verified<OwnerRecord>> = Vec::new();
    for bytes in bytes.iter().take(RECORDS_MAX) {
        let record = parse(bytes, owner).map_err(|e| e.remote(remote.clone()))?;
        let fits = match records.last() {
            None => record.number == from,
            Some(last) => last.number.checked_add(1) == Some(record.number) && record.previous == Some(last.digest()),
        };
        if !fits {
            let why = format!("the owner records at this sink are not one chain: number {}", record.number);
            return Err(tampered("owner-record", why).remote(remote));
        }
        records.push(record);
    }
    Ok(SinkRecords { newest: records.last().cloned(), records })
}

/// The newest record over all sinks and this machine's memory, and warnings about sinks that are behind.
pub struct Newest {
    pub record: Option<Verified<OwnerRecord>>,
    pub notes: Vec<String>,
}

/// Reads all sinks; the newest record wins. Two records of one number, or a sink that holds another record than the
/// remembered one, are two histories: exit 13. A sink that ends before the remembered one is reported.
pub fn newest(sinks: &mut [Box<dyn Objects + '_>], owner: &VerifyKey, state_dir: &Path) -> Outcome<Newest> {
    let remembered = remembered(state_dir, owner)?;
    let from = remembered.as_ref().map_or(0, |record| record.number);
    let mut best = remembered.clone();
    let mut notes = Vec::new();
    for sink in sinks.iter_mut() {
        let found = read_sink(&mut **sink, owner, from)?;
        let beside = match (found.records.first(), &remembered) {
            (Some(first), Some(known)) => first.digest() != known.digest(),
            _ => false,
        };
        let two = match (&found.newest, &best) {
            (Some(new), Some(best)) => conflict(&found.records, new, best),
            _ => false,
        };
        if beside || two {
            let why = "this sink holds another history of the owner record than the one remembered or another sink has";
            return Err(tampered("owner-record", why)
                .remote(sink.remote())
                .detail("only the identity signs owner records: two machines wrote one at the same time, or the identity is in other hands")
                .help("compare `source-agent trust list -i FILE -r NAME` for each remote; remove the wrong sink, then `trust add` again"));
        }
        if found.newest.is_none() && remembered.is_some() {
            notes.push(format!(
                "{}: its owner record is older than the one remembered here (number {from})",
                sink.remote()
            ));
        }
        if found.newest.as_ref().map(|record| record.number) > best.as_ref().map(|record| record.number) {
            best = found.newest;
        }
    }
    Ok(Newest { record: best, notes })
}

fn conflict(records: &[Verified<OwnerRecord>], new: &Verified<OwnerRecord>, best: &Verified<OwnerRecord>) -> bool {
    match records.iter().find(|record| record.number == best.number) {
        Some(same) => same.digest() != best.digest(),
        // The sink ends before the best one: no conflict can be seen. (It is ahead without the number: not a chain.)
        None => new.number > best.number,
    }
}

/// Leaves `record` on a sink, with the older ones that it lacks: `known` are records of other sinks, ascending.
pub fn publish(
    objects: &mut dyn Objects,
    record: &Verified<OwnerRecord>,
    known: &[Verified<OwnerRecord>],
) -> Outcome<()> {
    let has = read_sink(objects, &record.owner, 0)?.newest.map(|newest| newest.number);
    for older in known.iter().filter(|older| older.number < record.number && Some(older.number) > has) {
        objects.put_owner_record(older)?;
    }
    if Some(record.number) > has {
        objects.put_owner_record(record)?;
    }
    Ok(())
}

//! The source's durable memory of one chain: the remembered and the pending head.

use crate::report::{Exit, Failure, Outcome};
use crate::watch::chain::check_receipt;
use minicbor::{Decode, Encode};
use shared::codec::{self, Blob, List, Text};
use shared::format::receipt::Receipt;
use shared::format::snapshot::{Body, FLAG_CHECKPOINT, FLAG_INCOMPLETE, Head};
use shared::id::{Chain, Digest, Lineage, SourceId, VerifyKey};
use shared::limits::{BODY_BYTES_MAX, HEAD_BYTES_MAX, REASON_BYTES_MAX, RECEIPT_BYTES_MAX};
use shared::signature::{Plain, Signed, Verified};
use shared::sys::durable;
use shared::text::hex;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Largest state file: the pending body is the largest thing in it.
const STATE_BYTES_MAX: usize = BODY_BYTES_MAX + (1 << 20);
/// Acceptances that are kept for the record; the oldest go.
const ACCEPTED_MAX: usize = 64;

/// The newest head that the sink acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Remembered {
    #[n(0)]
    pub sequence: u64,
    #[n(1)]
    pub head: Digest,
    /// The sink's receipt for it, as signed.
    #[n(2)]
    pub receipt: Blob<RECEIPT_BYTES_MAX>,
}

/// A head that was signed and may or may not have reached the sink. It is sent as the same bytes until receipted.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Pending {
    #[n(0)]
    pub sequence: u64,
    #[n(1)]
    pub digest: Digest,
    #[n(2)]
    pub head: Blob<HEAD_BYTES_MAX>,
    #[n(3)]
    pub body: Blob<BODY_BYTES_MAX>,
    /// The head's time and flags, for [`Snapshot`].
    #[n(4)]
    pub created: i64,
    #[n(5)]
    pub flags: u8,
}

/// The newest acknowledged snapshot that is not a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Snapshot {
    #[n(0)]
    pub sequence: u64,
    #[n(1)]
    pub head: Digest,
    /// The source's clock.
    #[n(2)]
    pub created: i64,
    /// The sink's clock.
    #[n(3)]
    pub received: i64,
    #[n(4)]
    pub incomplete: bool,
}

/// An alarm that somebody answered with `remote accept`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Accepted {
    #[n(0)]
    pub at: i64,
    #[n(1)]
    pub reason: Text<REASON_BYTES_MAX>,
    /// What was remembered before.
    #[n(2)]
    pub before: Option<Remembered>,
}

/// One chain, as the source knows it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ChainState {
    #[n(0)]
    source: SourceId,
    #[n(1)]
    lineage: Lineage,
    #[n(2)]
    sink: VerifyKey,
    #[n(3)]
    pub remembered: Option<Remembered>,
    #[n(4)]
    pub pending: Option<Pending>,
    /// Goes into the next head: why it goes on after an alarm.
    #[n(5)]
    pub resume_reason: Option<Text<REASON_BYTES_MAX>>,
    #[n(6)]
    pub snapshot: Option<Snapshot>,
    #[n(7)]
    pub accepted: List<Accepted, ACCEPTED_MAX>,
}

fn path(state_dir: &Path, chain: &Chain) -> PathBuf {
    state_dir.join(format!("chain-{}-{}.cbor", hex(chain.sink.as_bytes()), hex(chain.lineage.as_bytes())))
}

/// Reads the state of a chain; a missing file is an empty state, a damaged one a failure.
pub fn load(state_dir: &Path, chain: &Chain) -> Outcome<ChainState> {
    let path = path(state_dir, chain);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(ChainState::empty(chain)),
        Err(e) => return Err(Failure::io("read", &path, &e)),
    };
    let damaged = |why: String| {
        Failure::new("chain-state", Exit::Tampered, format!("{} is damaged: {why}", path.display()))
            .help("move it away, look at the sink's snapshots, then: source-agent remote accept NAME --reason TEXT")
    };
    let state: ChainState =
        codec::decode(&bytes, STATE_BYTES_MAX, "chain state").map_err(|e| damaged(e.to_string()))?;
    if state.chain() != *chain {
        return Err(damaged("it belongs to another chain".into()));
    }
    Ok(state)
}

/// Lineages of this machine's sources of which it remembers a chain at this sink.
pub fn remembered_lineages(state_dir: &Path, sink: &VerifyKey) -> Vec<Lineage> {
    let Ok(names) = std::fs::read_dir(state_dir) else { return Vec::new() };
    let begin = format!("chain-{}-", hex(sink.as_bytes()));
    let lineage = |name: &str| name.strip_prefix(&begin)?.strip_suffix(".cbor")?.parse().ok();
    names.flatten().filter_map(|entry| lineage(entry.file_name().to_str()?)).collect()
}

impl ChainState {
    pub fn empty(chain: &Chain) -> Self {
        Self {
            source: chain.source,
            lineage: chain.lineage,
            sink: chain.sink,
            remembered: None,
            pending: None,
            resume_reason: None,
            snapshot: None,
            accepted: List::empty(),
        }
    }

    pub fn chain(&self) -> Chain {
        Chain { source: self.source, lineage: self.lineage, sink: self.sink }
    }

    /// Makes it durable.
    pub fn save(&self, state_dir: &Path) -> Outcome<()> {
        let path = path(state_dir, &self.chain());
        durable::create_dir(state_dir, 0o700).map_err(|e| Failure::io("make directory", state_dir, &e))?;
        durable::replace(&path, &codec::encode(self), durable::PRIVATE).map_err(|e| Failure::io("write", &path, &e))
    }

    /// Makes a head durable before it is sent for the first time. Its body is at the sink already.
    pub fn begin(&mut self, state_dir: &Path, head: &Verified<Head>, body: &Plain<Body>) -> Outcome<()> {
        let wrong = |why: &str| Failure::new("chain-state", Exit::Failed, format!("this head cannot be sent: {why}"));
        if head.chain() != self.chain() || head.body != body.digest() {
            return Err(wrong("it is of another chain or body"));
        }
        if self.pending.is_some() {
            return Err(wrong("another one waits for its receipt"));
        }
        let next = self.remembered.as_ref().map_or((0, None), |last| (last.sequence + 1, Some(last.head)));
        if (head.sequence, head.previous) != next {
            return Err(wrong("it does not follow the remembered one"));
        }
        let format = |e: codec::FormatError| wrong(&e.to_string());
        self.pending = Some(Pending {
            sequence: head.sequence,
            digest: head.digest(),
            head: Blob::new(head.as_bytes().to_vec()).map_err(format)?,
            body: Blob::new(body.as_bytes().to_vec()).map_err(format)?,
            created: head.created,
            flags: head.flags,
        });
        self.save(state_dir)
    }

    /// The pending head and body, to be sent again; `None` when nothing is pending.
    pub fn pending(&self, key: &VerifyKey) -> Outcome<Option<(Verified<Head>, Plain<Body>)>> {
        let Some(pending) = &self.pending else { return Ok(None) };
        let damaged =
            |e: String| Failure::new("chain-state", Exit::Tampered, format!("the pending head is damaged: {e}"));
        let head = Signed::<Head>::parse(&pending.head).map_err(|e| damaged(e.to_string()))?;
        let head = head.verify(key).map_err(|e| damaged(e.to_string()))?;
        let body = Plain::<Body>::parse(&pending.body).map_err(|e| damaged(e.to_string()))?;
        if head.body != body.digest() || head.digest() != pending.digest {
            return Err(damaged("head, body and digest do not fit".into()));
        }
        Ok(Some((head, body)))
    }

    /// Takes the sink's receipt for the pending head: checks it, remembers the head, forgets the pending one.
    pub fn acknowledge(&mut self, state_dir: &Path, receipt: &Verified<Receipt>) -> Outcome<()> {
        let Some(pending) = &self.pending else {
            return Err(Failure::new("chain-state", Exit::Failed, "a receipt came and no head waits for one"));
        };
        let (sequence, digest, created, flags) = (pending.sequence, pending.digest, pending.created, pending.flags);
        check_receipt(self, sequence, &digest, receipt)?;
        self.remember(sequence, digest, receipt, created, flags)?;
        self.pending = None;
        self.resume_reason = None;
        self.save(state_dir)
    }

    /// Forgets a pending head that the sink refused for good: its content is missing there and cannot be sent again.
    /// Only after the sink said in this session that its newest head is the one before.
    pub fn abandon_pending(&mut self, state_dir: &Path) -> Outcome<()> {
        self.pending = None;
        self.save(state_dir)
    }

    pub(super) fn remember(
        &mut self,
        sequence: u64,
        head: Digest,
        receipt: &Verified<Receipt>,
        created: i64,
        flags: u8,
    ) -> Outcome<()> {
        let bytes = Blob::new(receipt.as_bytes().to_vec())
            .map_err(|e| Failure::new("chain-state", Exit::Failed, e.to_string()))?;
        self.remembered = Some(Remembered { sequence, head, receipt: bytes });
        if flags & FLAG_CHECKPOINT == 0 {
            let incomplete = flags & FLAG_INCOMPLETE != 0;
            self.snapshot = Some(Snapshot { sequence, head, created, received: receipt.received, incomplete });
        }
        Ok(())
    }

    pub(super) fn note_acceptance(&mut self, at: i64, reason: &str) {
        let entry = Accepted { at, reason: Text::truncated(reason), before: self.remembered.clone() };
        let mut all = self.accepted.to_vec();
        all.push(entry);
        let surplus = all.len().saturating_sub(ACCEPTED_MAX);
        self.accepted = List::new(all.split_off(surplus)).unwrap_or_else(|_| List::empty());
        self.resume_reason = Some(Text::truncated(reason));
    }

    /// The receipt that the next one must name.
    pub fn last_receipt(&self) -> Outcome<Option<Verified<Receipt>>> {
        let Some(remembered) = &self.remembered else { return Ok(None) };
        let damaged =
            |e: String| Failure::new("chain-state", Exit::Tampered, format!("the remembered receipt is damaged: {e}"));
        let signed = Signed::<Receipt>::parse(&remembered.receipt).map_err(|e| damaged(e.to_string()))?;
        signed.verify(&self.sink).map(Some).map_err(|e| damaged(e.to_string()))
    }
}

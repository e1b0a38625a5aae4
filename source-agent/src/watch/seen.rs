//! What a reader or auditor remembers of chains it saw: the same alarms as a source's, from outside.

use crate::report::{Exit, Failure, Outcome};
use crate::watch::chain::{CheckedHead, alarm};
use minicbor::{Decode, Encode};
use shared::codec;
use shared::id::{Chain, Digest, Lineage, SourceId, VerifyKey};
use shared::sys::durable;
use shared::text::hex;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct Seen {
    #[n(0)]
    source: SourceId,
    #[n(1)]
    lineage: Lineage,
    #[n(2)]
    sink: VerifyKey,
    #[n(3)]
    sequence: u64,
    #[n(4)]
    head: Digest,
    /// This machine's clock when the newest head was seen first.
    #[n(5)]
    first_seen: i64,
}

/// How what the sink shows compares with what was seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Nothing was remembered of this chain: that it is the newest state cannot be known.
    First,
    /// The same newest head as last time.
    Same,
    /// The chain went on by so many heads.
    Newer(u64),
}

fn path(state_dir: &Path, chain: &Chain) -> PathBuf {
    let [source, lineage, sink] =
        [hex(chain.source.as_bytes()), hex(chain.lineage.as_bytes()), hex(&chain.sink.as_bytes()[..16])];
    state_dir.join("heads").join(format!("{source}-{lineage}-{sink}.cbor"))
}

fn load(path: &Path, chain: &Chain) -> Outcome<Option<Seen>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Failure::io("read", path, &e)),
    };
    let seen: Option<Seen> = codec::decode(&bytes, 4096, "remembered head").ok();
    let seen = seen.filter(|seen| Chain { source: seen.source, lineage: seen.lineage, sink: seen.sink } == *chain);
    seen.map(Some).ok_or_else(|| {
        Failure::new("seen-state", Exit::Tampered, format!("{} is damaged", path.display()))
            .help("move it away: the next listing is taken as it is, without a check against the past")
    })
}

/// Compares the whole chain as checked (`verify_chain` from sequence 0, or from the remembered one on) with what was
/// remembered, and remembers its newest head. Rolled back or rewritten: exit 13.
pub fn check_seen(state_dir: &Path, chain: &Chain, heads: &[CheckedHead], now: i64) -> Outcome<Freshness> {
    let path = path(state_dir, chain);
    let before = load(&path, chain)?;
    let newest = heads.last().map(|last| (last.head.sequence, last.head.digest()));
    let Some(before) = before else {
        if let Some((sequence, head)) = newest {
            save(&path, chain, sequence, head, now)?;
        }
        return Ok(Freshness::First);
    };
    let Some((sequence, head)) = newest.filter(|newest| newest.0 >= before.sequence) else {
        let shown = newest.map_or_else(|| "none".to_owned(), |newest| format!("number {}", newest.0));
        let message =
            format!("the sink shows an older state: newest snapshot {shown}, number {} was seen", before.sequence);
        return Err(alarm("rolled-back", message)
            .help("compare with its operator and with other remotes before you rely on it"));
    };
    let at_before = heads.iter().find(|checked| checked.head.sequence == before.sequence);
    if at_before.map(|checked| checked.head.digest()) != Some(before.head) {
        let message = format!(
            "the sink shows another history: its snapshot number {} is not the one seen before",
            before.sequence
        );
        return Err(alarm("other-history", message)
            .help("compare with its operator and with other remotes before you rely on it"));
    }
    if sequence == before.sequence {
        return Ok(Freshness::Same);
    }
    save(&path, chain, sequence, head, now)?;
    Ok(Freshness::Newer(sequence - before.sequence))
}

/// A deliberate way on after an alarm: forgets what was seen of a chain. The old memory is kept beside it with the
/// reason, and is never read again.
pub fn forget_seen(state_dir: &Path, chain: &Chain, reason: &str, now: i64) -> Outcome<()> {
    let path = path(state_dir, chain);
    if !path.exists() {
        return Ok(());
    }
    let kept = path.with_extension(format!("forgotten-{now}"));
    let note = path.with_extension(format!("reason-{now}"));
    durable::replace(&note, reason.as_bytes(), durable::PRIVATE).map_err(|e| Failure::io("write", &note, &e))?;
    let old = std::fs::read(&path).map_err(|e| Failure::io("read", &path, &e))?;
    durable::replace(&kept, &old, durable::PRIVATE).map_err(|e| Failure::io("write", &kept, &e))?;
    durable::remove(&path).map_err(|e| Failure::io("remove", &path, &e))
}

fn save(path: &Path, chain: &Chain, sequence: u64, head: Digest, now: i64) -> Outcome<()> {
    let Chain { source, lineage, sink } = *chain;
    let seen = Seen { source, lineage, sink, sequence, head, first_seen: now };
    if let Some(dir) = path.parent() {
        durable::create_dir(dir, 0o700).map_err(|e| Failure::io("make directory", dir, &e))?;
    }
    durable::replace(path, &codec::encode(&seen), durable::PRIVATE).map_err(|e| Failure::io("write", path, &e))
}

//! What the sinks show of trusted sources: every chain checked from its first head, compared with what this machine
//! remembers and with what the other sinks' heads say (docs/format.md, sections 11 and 13). What is wrong with one
//! source keeps no other from being read.

use crate::owner::{SeenHead, Trust, TrustedSource, store};
use crate::progress::counted;
use crate::report::{Exit, Failure, Outcome};
use crate::restore::claims::{self, Chains, Shown};
use crate::restore::objects::{Objects, is_lost, tampered};
use crate::watch::{CheckedHead, Freshness, check_seen, verify_chain};
use shared::format::{Head, Receipt};
use shared::id::{Chain, Digest, SourceId};
use shared::signature::Verified;
use shared::text::printable;
use shared::wire::{Damage, SourceItem};
use std::path::Path;

/// One head of a trusted source at one sink.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Place of the source in the trust.
    pub source: usize,
    /// Place of the sink in the list that was read.
    pub sink: usize,
    pub head: Verified<Head>,
    pub receipt: Option<Verified<Receipt>>,
    /// The sink's word about the content.
    pub content: Damage,
    /// Its lineage is one that the owner trusts, and it is not behind a freeze.
    pub usable: bool,
}

impl Snapshot {
    pub fn id(&self) -> Digest {
        self.head.digest()
    }
    pub fn received(&self) -> Option<i64> {
        self.receipt.as_ref().map(|receipt| receipt.received)
    }
}

/// How fresh what a sink shows of a chain is.
#[derive(Debug, Clone)]
pub struct Fresh {
    pub sink: usize,
    pub source: usize,
    pub chain: Chain,
    pub newest: Option<(u64, Digest, Option<i64>)>,
    /// `None`: no older and no other state than what is remembered, and that is not written on.
    pub compared: Option<Freshness>,
    /// The sink's clock when it was asked.
    pub clock: i64,
}

/// A source that the sink shows and nobody here trusts. All of it is the sink's word.
#[derive(Debug, Clone)]
pub struct Unknown {
    pub sink: usize,
    pub item: SourceItem,
}

/// Everything that can be restored.
#[derive(Debug, Default)]
pub struct View {
    /// By source, then sink and lineage, then sequence.
    pub snapshots: Vec<Snapshot>,
    pub fresh: Vec<Fresh>,
    pub unknown: Vec<Unknown>,
    /// Sources (places in the trust) of which nothing is used, and why.
    pub failed: Vec<(usize, Failure)>,
    pub notes: Vec<String>,
    /// Receipts that do not check; `notes` tells of them.
    pub wrong_receipts: u64,
}

impl View {
    /// How a command ends that looked at all of it and found nothing else wrong.
    pub fn exit(&self) -> Exit {
        self.failed.first().map_or(Exit::Done, |(_, failure)| failure.exit)
    }
}

/// Where a reader remembers, and the time of this machine.
pub struct Memory<'m> {
    pub state_dir: &'m Path,
    pub now: i64,
}

impl Memory<'_> {
    /// [`check_seen`]; where nothing can be written the listing goes on, with a note.
    fn compare(&self, chain: &Chain, heads: &[CheckedHead], notes: &mut Vec<String>) -> Outcome<Option<Freshness>> {
        let failure = match check_seen(self.state_dir, chain, heads, self.now) {
            Err(failure) if failure.kind.is_some() => failure,
            other => return other.map(Some),
        };
        // Without heads nothing is written: this fails alike where the memory cannot even be read.
        match check_seen(self.state_dir, chain, &[], self.now) {
            Err(unread) if unread.kind.is_some() => Err(unread),
            _ => if_written(Err(failure), notes).map(|()| None),
        }
    }
}

/// Memory that cannot be written ends no reading: it is noted, once. What was to be compared was compared before.
pub fn if_written(done: Outcome<()>, notes: &mut Vec<String>) -> Outcome<()> {
    const WHAT: &str = "what was seen is not remembered";
    let failure = match done {
        Err(failure) if failure.kind.is_some() => failure,
        other => return other,
    };
    if !notes.iter().any(|note| note.starts_with(WHAT)) {
        let after = "a sink that shows an older state the next time would not be noticed";
        notes.push(format!("{WHAT}: {}; {after}", failure.message));
    }
    Ok(())
}

/// Reads all chains of trusted sources (those that `wanted` takes) at all sinks.
pub fn load(
    sinks: &mut [Box<dyn Objects + '_>],
    trust: &mut Trust,
    memory: &Memory<'_>,
    wanted: &dyn Fn(&TrustedSource) -> bool,
) -> Outcome<View> {
    let mut view = View::default();
    let mut listed: Vec<Vec<SourceItem>> = Vec::new();
    for (at, sink) in sinks.iter_mut().enumerate() {
        let items = sink.sources().map_err(|e| e.remote(sink.remote()))?;
        for item in &items {
            if trust.find(&item.source).is_none() {
                view.unknown.push(Unknown { sink: at, item: item.clone() });
            }
        }
        listed.push(items);
    }
    for source in 0..trust.sources.len() {
        if !wanted(&trust.sources[source]) {
            continue;
        }
        let (fresh, snapshots) = (view.fresh.len(), view.snapshots.len());
        match load_source(sinks, &listed, trust, source, memory, &mut view) {
            // The fault of what a sink shows of this source; a lost line or a full disk is everybody's.
            Err(failure) if is_lost(&failure) => {
                view.fresh.truncate(fresh);
                view.snapshots.truncate(snapshots);
                view.failed.push((source, of_source(failure, trust.sources[source].name())));
            }
            other => other?,
        }
    }
    Ok(view)
}

/// Says of which source a failure is, where it does not yet.
fn of_source(failure: Failure, name: &str) -> Failure {
    let said = failure.details.iter().any(|line| line.starts_with("source "));
    if said { failure } else { failure.detail(format!("source {name}")) }
}

fn load_source(
    sinks: &mut [Box<dyn Objects + '_>],
    listed: &[Vec<SourceItem>],
    trust: &mut Trust,
    source: usize,
    memory: &Memory<'_>,
    view: &mut View,
) -> Outcome<()> {
    let id = trust.sources[source].id();
    let mut chains = Chains::new();
    let mut order = Vec::new();
    for (at, sink) in sinks.iter_mut().enumerate() {
        let shown = listed[at].iter().find(|item| item.source == id);
        let mut lineages = trust.sources[source].lineages.clone();
        for lineage in shown.map(|item| item.lineages.to_vec()).unwrap_or_default() {
            if !lineages.contains(&lineage) {
                lineages.push(lineage);
            }
        }
        for lineage in lineages {
            let chain = Chain { source: id, lineage, sink: sink.sink() };
            let heads = match load_chain(&mut **sink, &trust.sources[source], &chain) {
                // This connection may not see the source: only a chain that was seen here before makes that a lie.
                Err(e) if is_lost(&e) && e.exit == Exit::NotFound => Vec::new(),
                other => other?,
            };
            let compared = memory.compare(&chain, &heads, &mut view.notes).map_err(|e| way_on(e, &**sink))?;
            check_record(&trust.heads, &chain, &heads, &**sink)?;
            if heads.is_empty() {
                continue;
            }
            let newest = heads.last().map(|last| {
                (last.head.sequence, last.head.digest(), last.receipt.as_ref().map(|receipt| receipt.received))
            });
            view.fresh.push(Fresh { sink: at, source, chain, newest, compared, clock: sink.clock() });
            let frozen = frozen_at(&trust.sources[source], &chain, &heads).map_err(|e| e.remote(sink.remote()))?;
            order.push(chain);
            chains.insert(chain, Shown { sink: at, heads, frozen });
        }
    }
    let is_first = first_lineage(&mut trust.sources[source], &order, &chains, view);
    let lists: Vec<bool> = listed.iter().map(|items| items.iter().any(|item| item.source == id)).collect();
    claims::compare(sinks, &trust.sources[source], &order, (&mut chains, &lists), &mut view.notes)?;
    let trusted = &trust.sources[source];
    if is_first {
        if_written(store::save(memory.state_dir, trusted), &mut view.notes)?;
    }
    for chain in &order {
        let Some(Shown { sink: at, heads, frozen }) = chains.remove(chain) else { continue };
        let known = trusted.lineages.contains(&chain.lineage);
        if !known {
            view.notes.push(format!(
                "{} has a further lineage {} at {}, which appeared after it was trusted: `latest` does not use it. If you know why (a new machine, a lost state), trust it: source-agent trust add --lineage {} SOURCE-CARD",
                trusted.name(), chain.lineage, sinks[at].remote(), chain.lineage
            ));
        }
        missing_receipts(&heads, sinks[at].remote(), trusted.name(), view);
        wrong_receipts(&heads, sinks[at].remote(), trusted.name(), view);
        for head in heads {
            let usable = known && frozen.is_none_or(|last| head.head.sequence <= last);
            let CheckedHead { head, receipt, content, .. } = head;
            view.snapshots.push(Snapshot { source, sink: at, head, receipt, content, usable });
        }
    }
    Ok(())
}

/// All heads that a sink shows of a chain, each checked.
pub(super) fn load_chain(sink: &mut dyn Objects, source: &TrustedSource, chain: &Chain) -> Outcome<Vec<CheckedHead>> {
    let items = sink.heads(&chain.source, &chain.lineage, 0)?;
    verify_chain(items, &[*source.key()], chain, 0, None).map_err(|e| {
        e.remote(sink.remote())
            .detail(format!("source {}, lineage {}", source.name(), chain.lineage))
            .help("this sink shows a history that the source did not sign, or hides a part of it: use another remote (-r), and ask its operator")
    })
}

/// Help for an alarm of memory: what it means and a deliberate way on. A memory that cannot be read is no alarm.
fn way_on(failure: Failure, sink: &dyn Objects) -> Failure {
    if failure.exit != Exit::Tampered || failure.code == "seen-state" {
        return failure;
    }
    let mut failure = failure
        .remote(sink.remote())
        .detail("the sink lost or hides snapshots that it showed before, or shows another history of the same source")
        .detail("another remote may still hold them: name it with -r");
    failure.help = Some(format!(
        "ask the sink's operator; if an older state was restored there and you accept it: source-agent trust forget SOURCE -r {} --reason TEXT",
        sink.remote()
    ));
    failure
}

/// The owner record remembers heads as well; a chain may not end before them or beside them.
fn check_record(seen: &[SeenHead], chain: &Chain, heads: &[CheckedHead], sink: &dyn Objects) -> Outcome<()> {
    let mine = |seen: &&SeenHead| (seen.source, seen.lineage, seen.sink) == (chain.source, chain.lineage, chain.sink);
    for seen in seen.iter().filter(mine) {
        let at = usize::try_from(seen.sequence).ok().and_then(|at| heads.get(at));
        if at.map(|head| head.head.digest()) != Some(seen.head) {
            let message = format!(
                "the sink shows a state older than, or beside, the one that the owner record remembers (snapshot number {})",
                seen.sequence
            );
            return Err(way_on(tampered("rolled-back", message), sink));
        }
    }
    Ok(())
}

/// A source that was trusted before anything was seen of it: the lineage that the sinks received first becomes the
/// trusted one, which this machine is to remember (`true`).
fn first_lineage(source: &mut TrustedSource, order: &[Chain], chains: &Chains, view: &mut View) -> bool {
    if !source.lineages.is_empty() {
        return false;
    }
    let received = |chain: &&Chain| {
        let first = chains.get(chain).and_then(|shown| shown.heads.first());
        first.map(|head| head.receipt.as_ref().map_or(i64::MAX, |receipt| receipt.received))
    };
    let Some(first) = order.iter().min_by_key(received) else { return false };
    source.lineages.push(first.lineage);
    if order.iter().any(|chain| chain.lineage != first.lineage) {
        view.notes.push(format!(
            "{} has several lineages; the first one received, {}, is taken as its own",
            source.name(),
            first.lineage
        ));
    }
    true
}

fn wrong_receipts(heads: &[CheckedHead], remote: &str, name: &str, view: &mut View) {
    let mut wrong = heads.iter().filter_map(|head| head.fault.as_ref());
    let Some(first) = wrong.next() else { return };
    let more = match wrong.count() {
        0 => String::new(),
        more => format!(", and {more} more like it"),
    };
    view.wrong_receipts += heads.iter().filter(|head| head.fault.is_some()).count() as u64;
    view.notes.push(format!(
        "{remote}: {}{more}: the snapshots of {name} are what it signed, but what this sink promised is in doubt; ask \
         its operator (remote-sink verify)",
        first.message
    ));
}

fn missing_receipts(heads: &[CheckedHead], remote: &str, name: &str, view: &mut View) {
    let is_without = |head: &&CheckedHead| head.receipt.is_none() && head.fault.is_none();
    let without = heads.iter().rev().skip(1).filter(is_without).count();
    if without > 0 {
        view.notes.push(format!(
            "{remote}: no receipt for {} of {name}: the sink gave none, or lost it",
            counted(without as u64, "older snapshot")
        ));
    }
    let absent = heads.iter().filter(|head| head.content == Damage::Absent && !head.head.is_checkpoint()).count();
    if absent > 0 {
        view.notes.push(format!(
            "{remote}: the content of {} of {name} is gone, and no retention took it",
            counted(absent as u64, "snapshot")
        ));
    }
}

/// Where a freeze ends this chain; the frozen head must be in it.
fn frozen_at(source: &TrustedSource, chain: &Chain, heads: &[CheckedHead]) -> Outcome<Option<u64>> {
    let frozen = source.frozen.iter().filter(|f| f.lineage == chain.lineage && f.sink == chain.sink);
    let Some(frozen) = frozen.min_by_key(|f| f.sequence) else { return Ok(None) };
    let at = usize::try_from(frozen.sequence).ok().and_then(|at| heads.get(at));
    if at.map(|head| head.head.digest()) != Some(frozen.head) {
        let message = format!("the head at which {} was frozen is not in this sink's chain", source.name());
        return Err(tampered("frozen", message));
    }
    Ok(Some(frozen.sequence))
}

/// The failure for a source that nobody here trusts.
pub fn unknown_signer(item: &SourceItem, remote: &str) -> Failure {
    let name = item.name.as_str();
    let message = format!("{name}: nobody here has said that this source is yours: its signatures count for nothing");
    let card: String = printable(item.card.as_bytes(), 1000);
    Failure::new("unknown-signer", Exit::Tampered, message)
        .remote(remote)
        .detail("the sink shows this card for it; compare its fingerprint words with those that `init` printed on the source")
        .help(format!("source-agent trust add '{card}'"))
}

/// Ids of sources for messages and options: the name, or the beginning of the id.
pub fn is_named(source: &TrustedSource, id: &SourceId, text: &str) -> bool {
    source.name() == text || (text.len() >= 6 && id.to_string().starts_with(text))
}

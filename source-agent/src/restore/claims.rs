//! What heads at one sink say of the other sinks (docs/format.md, section 11): each names the newest receipted head of
//! every other remote. Of a chain its newest claim about a sink counts: it is hash-linked to the older ones, and an
//! honest source contradicts those only after a deliberate `remote accept`.

use crate::owner::TrustedSource;
use crate::report::{Exit, Outcome};
use crate::restore::objects::{Objects, tampered};
use crate::restore::view::load_chain;
use crate::watch::CheckedHead;
use shared::format::Head;
use shared::id::{Chain, Digest, VerifyKey};
use shared::text::printable;
use std::collections::HashMap;

/// Sinks that are not read, of which the claims of one chain are compared: a source has 32 remotes at a time.
const ELSEWHERE_MAX: usize = 256;

/// A chain as a sink showed it, each head checked.
pub struct Shown {
    /// Place of the sink in the list that is read.
    pub sink: usize,
    pub heads: Vec<CheckedHead>,
    /// The last head before a freeze.
    pub frozen: Option<u64>,
}

/// The chains of one source.
pub type Chains = HashMap<Chain, Shown>;

impl Shown {
    /// Heads that are not behind a freeze.
    fn counted(&self) -> &[CheckedHead] {
        let end = self.frozen.and_then(|last| usize::try_from(last).ok()).map_or(usize::MAX, |last| last + 1);
        &self.heads[..end.min(self.heads.len())]
    }

    fn digest(&self, sequence: u64) -> Option<Digest> {
        self.heads.get(usize::try_from(sequence).ok()?).map(|head| head.head.digest())
    }
}

/// "At `about` the newest receipted head is this one", says head `at` of the chain at the sink `by`.
struct Claim {
    by: VerifyKey,
    at: u64,
    about: Chain,
    sequence: u64,
    digest: Digest,
}

/// Compares what the chains of trusted lineages say of one another. A sink that is read must show the head that
/// another sink's heads name there; exit 13 otherwise. `shown`: the chains, and whether each sink lists the source.
pub fn compare(
    sinks: &mut [Box<dyn Objects + '_>],
    source: &TrustedSource,
    order: &[Chain],
    shown: (&mut Chains, &[bool]),
    notes: &mut Vec<String>,
) -> Outcome<()> {
    let (chains, listed) = shown;
    let mut elsewhere: HashMap<(Chain, u64), Digest> = HashMap::new();
    for chain in order.iter().filter(|chain| source.lineages.contains(&chain.lineage)) {
        for claim in newest_claims(chain, chains, sinks) {
            if let Some(sink) = sinks.iter().position(|sink| sink.sink() == claim.about.sink) {
                let is_listed = listed.get(sink).is_none_or(|listed| *listed);
                must_be_shown((sinks, sink, is_listed), source, &claim, chains, notes)?;
                continue;
            }
            let first = *elsewhere.entry((claim.about, claim.sequence)).or_insert(claim.digest);
            if first != claim.digest {
                notes.push(contradiction(source, &claim, first));
            }
        }
    }
    Ok(())
}

/// The newest claim of a chain about each other sink.
fn newest_claims(chain: &Chain, chains: &Chains, sinks: &[Box<dyn Objects + '_>]) -> Vec<Claim> {
    let mut found: HashMap<VerifyKey, Claim> = HashMap::new();
    let mut elsewhere = 0;
    for head in chains.get(chain).map(Shown::counted).unwrap_or_default().iter().rev() {
        for remote in head.head.remotes.iter().filter(|remote| remote.sink != chain.sink) {
            let is_read = || sinks.iter().any(|sink| sink.sink() == remote.sink);
            if found.contains_key(&remote.sink) || (elsewhere >= ELSEWHERE_MAX && !is_read()) {
                continue;
            }
            elsewhere += usize::from(!is_read());
            let about = Chain { sink: remote.sink, ..*chain };
            let (sequence, digest) = (remote.sequence, remote.digest);
            found.insert(remote.sink, Claim { by: chain.sink, at: head.head.sequence, about, sequence, digest });
        }
    }
    let mut found: Vec<Claim> = found.into_values().collect();
    found.sort_by_key(|claim| *claim.about.sink.as_bytes());
    found
}

fn must_be_shown(
    (sinks, sink, is_listed): (&mut [Box<dyn Objects + '_>], usize, bool),
    source: &TrustedSource,
    claim: &Claim,
    chains: &mut Chains,
    notes: &mut Vec<String>,
) -> Outcome<()> {
    let found = |chains: &Chains| chains.get(&claim.about).and_then(|shown| shown.digest(claim.sequence));
    let remote = sinks[sink].remote().to_owned();
    if found(chains).is_none() {
        // A backup may have ended between the two readings: read the end again, once.
        let shows_nothing = !is_listed && chains.keys().all(|chain| chain.sink != claim.about.sink);
        match load_chain(&mut *sinks[sink], source, &claim.about) {
            // It gives nothing of this source to this connection, so nothing of it is used either.
            Err(e) if e.exit == Exit::NotFound && shows_nothing => {
                notes.push(format!("{remote} has snapshots of {} and does not show them here", source.name()));
                return Ok(());
            }
            // It shows the source, but not this: that hides as much as a list that ends too early.
            Err(e) if e.exit == Exit::NotFound => {}
            heads => {
                let frozen = chains.get(&claim.about).and_then(|shown| shown.frozen);
                chains.insert(claim.about, Shown { sink, heads: heads?, frozen });
            }
        }
    }
    if found(chains) == Some(claim.digest) {
        return Ok(());
    }
    let (number, id) = (claim.sequence, claim.digest.short());
    if let Some(head) = accepted(claim, chains) {
        let reason = head.reason.as_ref().map(|reason| printable(reason.as_bytes(), 200)).unwrap_or_default();
        notes.push(format!(
            "{remote} lost snapshot number {number} ({id}) of {}, which another remote's heads name; the source accepted that and went on with number {}: {reason}",
            source.name(),
            head.sequence,
        ));
        return Ok(());
    }
    let message = format!(
        "another sink's heads of {} name a snapshot number {number} here ({id}) that this sink does not show",
        source.name(),
    );
    Err(tampered("hidden-head", message)
        .remote(&remote)
        .detail("the sink lost or hides snapshots that it acknowledged, or heads at the other sink claim what never was")
        .detail("each remote can still be read alone: name it with -r")
        .help(format!(
            "ask the sink's operator; if an older state was restored there and you accept it, say so on the source: source-agent remote accept {remote} --reason TEXT, and back up to all remotes"
        )))
}

/// The head of the sink's own chain with which the source went on after an older state, if it knew of the claim by
/// then: it stands in the claim's place or before, says why, and names the claiming head or a later one of its chain.
/// Claims that were made afterwards it does not excuse.
fn accepted<'c>(claim: &Claim, chains: &'c Chains) -> Option<&'c Head> {
    let claiming = chains.get(&Chain { sink: claim.by, ..claim.about })?;
    let knew = |head: &Head| {
        head.remotes.iter().any(|remote| {
            remote.sink == claim.by
                && remote.sequence >= claim.at
                && claiming.digest(remote.sequence) == Some(remote.digest)
        })
    };
    let heads = chains.get(&claim.about)?.counted().iter().map(|checked| &*checked.head);
    heads.take_while(|head| head.sequence <= claim.sequence).find(|head| head.reason.is_some() && knew(head))
}

fn contradiction(source: &TrustedSource, claim: &Claim, first: Digest) -> String {
    format!(
        "heads of {} name two different snapshots number {} ({} and {}) at one sink, {}, which is not read here. If no older state was accepted there (remote accept), its key is used elsewhere: read that remote as well, and find out which snapshots are its own",
        source.name(),
        claim.sequence,
        first.short(),
        claim.digest.short(),
        claim.about.sink,
    )
}

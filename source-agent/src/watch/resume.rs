//! Bringing memory and sink together at the start of a session, and the deliberate way on after an alarm.

use crate::client::Client;
use crate::report::{Exit, Failure, Outcome};
use crate::watch::chain::{CheckedHead, verify_chain};
use crate::watch::judge::{Verdict, judge};
use crate::watch::state::ChainState;
use shared::id::VerifyKey;
use shared::wire::hello::NewestHead;
use std::path::Path;

/// Judges what the sink's welcome says; takes the receipt of a pending head that the sink has already. Returns
/// `Continue`, `ResendPending` or `Alarm`. `key` is this source's own.
pub fn reconcile(client: &mut Client, state_dir: &Path, state: &mut ChainState, key: &VerifyKey) -> Outcome<Verdict> {
    match inspect(client, state, key) {
        Verdict::AdoptPending => adopt(client, state_dir, state, key),
        verdict => Ok(verdict),
    }
}

/// The same judgement without changing anything here.
pub fn inspect(client: &mut Client, state: &ChainState, key: &VerifyKey) -> Verdict {
    let newest = client.welcome().newest.clone();
    match judge(state, newest.as_ref()) {
        Verdict::Alarm(failure) => Verdict::Alarm(explain(client, state, key, newest.as_ref(), failure)),
        verdict => verdict,
    }
}

fn adopt(client: &mut Client, state_dir: &Path, state: &mut ChainState, key: &VerifyKey) -> Outcome<Verdict> {
    let chain = state.chain();
    let Some(pending) = &state.pending else { return Ok(judge(state, client.welcome().newest.as_ref())) };
    let (sequence, digest) = (pending.sequence, pending.digest);
    let items = client.heads(&chain.source, &chain.lineage, sequence)?;
    let before = state.remembered.as_ref().map(|last| last.head);
    let heads = verify_chain(items, &[*key], &chain, sequence, before).map_err(|f| f.remote(client.remote_name()))?;
    let first = heads.into_iter().next().filter(|first| first.head.digest() == digest);
    match first.map(|first| (first.receipt, first.fault)) {
        Some((None, Some(fault))) => Err(fault.remote(client.remote_name())),
        Some((Some(receipt), _)) => {
            state.acknowledge(state_dir, &receipt).map_err(|f| f.remote(client.remote_name()))?;
            Ok(judge(state, client.welcome().newest.as_ref()))
        }
        // Cut off between head and receipt: the same bytes again bring the same receipt.
        _ => Ok(Verdict::ResendPending),
    }
}

/// Looks at the sink's newest head, to say whether this source's key signed it.
fn explain(
    client: &mut Client,
    state: &ChainState,
    key: &VerifyKey,
    newest: Option<&NewestHead>,
    failure: Failure,
) -> Failure {
    let mut failure = failure.remote(client.remote_name());
    failure.help = failure.help.map(|help| help.replace("accept NAME", &format!("accept {}", client.remote_name())));
    let Some(newest) = newest else { return failure };
    let chain = state.chain();
    let heads = client
        .heads(&chain.source, &chain.lineage, newest.sequence)
        .and_then(|items| verify_chain(items, &[*key], &chain, newest.sequence, None));
    match heads {
        Ok(heads) if heads.first().is_some_and(|head| head.head.digest() == newest.digest) => {
            let created = heads.first().map_or(0, |head| head.head.created);
            let when = jiff::Timestamp::from_second(created).map_or_else(|_| created.to_string(), |t| t.to_string());
            failure.detail(format!("the sink's newest is signed with this machine's key, on {when} by its own clock"))
        }
        Ok(_) => failure.detail("the sink does not show the head that it names: do not trust it"),
        Err(why) => failure.detail(format!("the sink's newest does not check: {}", why.message)),
    }
}

/// Takes what the sink shows as the point to go on from; the next head carries `reason`. Returns what is remembered
/// now, for people. Refused when there is nothing to accept, or when the sink's chain does not check.
pub fn accept(
    client: &mut Client,
    state_dir: &Path,
    state: &mut ChainState,
    key: &VerifyKey,
    reason: &str,
    now: i64,
) -> Outcome<String> {
    let newest = client.welcome().newest.clone();
    let disagree = match judge(state, newest.as_ref()) {
        Verdict::Alarm(_) => true,
        // The sink has the head, and its receipt for it is not one that this machine can take.
        Verdict::AdoptPending => adopt(client, state_dir, state, key).is_err_and(|e| e.exit == Exit::Tampered),
        Verdict::Continue(_) | Verdict::ResendPending => false,
    };
    if !disagree {
        let message = "there is nothing to accept: this machine and the sink agree";
        return Err(Failure::new("nothing-to-accept", Exit::Failed, message).remote(client.remote_name()));
    }
    let heads = whole_chain(client, state, key, newest.as_ref())?;
    state.note_acceptance(now, reason);
    state.pending = None;
    state.remembered = None;
    state.snapshot = None;
    for CheckedHead { head, receipt, .. } in &heads {
        if let Some(receipt) = receipt {
            state.remember(head.sequence, head.digest(), receipt, head.created, head.flags)?;
        }
    }
    state.save(state_dir)?;
    Ok(match heads.last() {
        Some(last) => format!("goes on after snapshot {} (number {})", last.head.digest().short(), last.head.sequence),
        None => "starts a new chain: the sink has no snapshot of it".to_owned(),
    })
}

fn whole_chain(
    client: &mut Client,
    state: &ChainState,
    key: &VerifyKey,
    newest: Option<&NewestHead>,
) -> Outcome<Vec<CheckedHead>> {
    let Some(newest) = newest else { return Ok(Vec::new()) };
    let chain = state.chain();
    let items = client.heads(&chain.source, &chain.lineage, 0)?;
    let remote = client.remote_name().to_owned();
    let mut heads = verify_chain(items, &[*key], &chain, 0, None).map_err(|failure| failure.remote(&remote))?;
    let Some(last) = heads.last_mut().filter(|last| last.head.digest() == newest.digest) else {
        let message = "the sink's list does not end with the head that its welcome names";
        return Err(Failure::new("other-history", Exit::Tampered, message).remote(remote));
    };
    if last.receipt.is_none() {
        // Cut off between head and receipt: the same bytes again bring it.
        last.receipt = Some(client.put_head(&last.head)?);
    }
    Ok(heads)
}

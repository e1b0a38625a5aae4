//! What the sink's newest head means to a source that remembers its own.

use crate::report::Failure;
use crate::watch::chain::alarm;
use crate::watch::state::ChainState;
use shared::id::Digest;
use shared::wire::hello::NewestHead;

/// Where the next head goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    pub sequence: u64,
    pub previous: Option<Digest>,
}

/// What to do.
#[derive(Debug)]
pub enum Verdict {
    /// Both sides agree; the next head follows this.
    Continue(Next),
    /// The sink lacks the pending head, or its receipt did not come: send body and head again, as the same bytes.
    ResendPending,
    /// The sink's newest head is the pending one: only its receipt is missing here.
    AdoptPending,
    /// Exit 13: nothing is pushed. `source-agent remote accept` is the deliberate way on.
    Alarm(Failure),
}

const HELP: &str =
    "find out why before going on; the deliberate way on is: source-agent remote accept NAME --reason TEXT";

/// Judges the newest head that the sink stated in its signed welcome.
pub fn judge(state: &ChainState, newest: Option<&NewestHead>) -> Verdict {
    let remembered = state.remembered.as_ref().map(|last| (last.sequence, last.head));
    let pending = state.pending.as_ref().map(|pending| (pending.sequence, pending.digest));
    let newest = newest.map(|head| (head.sequence, head.digest));
    if newest.is_some() && newest == pending {
        return Verdict::AdoptPending;
    }
    if newest == remembered {
        return match pending {
            Some(_) => Verdict::ResendPending,
            None => Verdict::Continue(next(remembered)),
        };
    }
    Verdict::Alarm(describe(remembered, newest).help(HELP))
}

fn next(last: Option<(u64, Digest)>) -> Next {
    Next { sequence: last.map_or(0, |(sequence, _)| sequence + 1), previous: last.map(|(_, head)| head) }
}

fn describe(remembered: Option<(u64, Digest)>, newest: Option<(u64, Digest)>) -> Failure {
    let show = |head: Option<(u64, Digest)>| match head {
        Some((sequence, digest)) => format!("{} (number {sequence})", digest.short()),
        None => "none".to_owned(),
    };
    let failure = match (remembered, newest) {
        (Some(ours), None) => alarm(
            "rolled-back",
            format!("the sink has no snapshot of this source, and acknowledged {} once", ours.1.short()),
        ),
        (Some(ours), Some(theirs)) if theirs.0 < ours.0 => alarm(
            "rolled-back",
            format!(
                "the sink shows an older state: its newest snapshot is number {}, it acknowledged {}",
                theirs.0, ours.0
            ),
        ),
        (Some(ours), Some(theirs)) if theirs.0 == ours.0 => {
            alarm("other-history", format!("the sink shows another snapshot in the place of number {}", ours.0))
        }
        (Some(_), _) => alarm(
            "unknown-head",
            "the sink has snapshots that this machine does not remember: it was set back or cloned, or its key is used elsewhere",
        ),
        (None, _) => alarm(
            "unknown-head",
            "the sink has snapshots of this source, and this machine remembers none: its state was lost, it was cloned, or its key is used elsewhere",
        ),
    };
    failure.detail(format!("remembered  {}", show(remembered))).detail(format!("the sink's  {}", show(newest)))
}

//! "Expired" is the sink's word. What honest retention never gives up (docs/retention.md, section "Rules") is no such
//! thing, whatever the sink says.

use crate::restore::reading::utc_time;
use crate::restore::view::Snapshot;
use shared::id::{Lineage, Series};
use shared::wire::Damage;
use std::collections::BTreeMap;

/// The sink's clock, which its retention goes by, may be so far ahead of this machine's, in seconds.
const CLOCKS_APART: i64 = 24 * 3600;

/// Places of those snapshots of a list that a sink calls expired and should still hold, with the reason.
pub fn doubtful(snapshots: &[Snapshot], now: i64) -> BTreeMap<usize, String> {
    let mut found = BTreeMap::new();
    for (at, snapshot) in snapshots.iter().enumerate().filter(|(_, snapshot)| is_expired(snapshot)) {
        let promised = snapshot.receipt.as_ref().and_then(|receipt| receipt.keep_until);
        if let Some(until) = promised.filter(|until| until.saturating_sub(CLOCKS_APART) > now) {
            found.insert(at, format!("its receipt promises to keep it until {}", utc_time(until)));
        }
    }
    for newest in newest_of_series(snapshots).into_values() {
        // Between lineages the sink goes by the time when it received them: the last of them is there.
        let (expired, there): (Vec<usize>, Vec<usize>) =
            newest.into_values().partition(|at| is_expired(&snapshots[*at]));
        let last = there.iter().map(|at| received(&snapshots[*at])).max();
        for at in expired {
            if last.is_none_or(|last| received(&snapshots[at]).saturating_sub(CLOCKS_APART) > last) {
                found.entry(at).or_insert_with(|| "retention never takes the newest of a set".into());
            }
        }
    }
    found
}

/// When the sink received it; before everything else where it gave no receipt.
fn received(snapshot: &Snapshot) -> i64 {
    snapshot.receipt.as_ref().map_or(i64::MIN, |receipt| receipt.received)
}

fn is_expired(snapshot: &Snapshot) -> bool {
    snapshot.content == Damage::Expired
}

/// A series at one sink.
type At = (usize, usize, Series);

/// The newest whole snapshot of each lineage of a series, checkpoints left out.
fn newest_of_series(snapshots: &[Snapshot]) -> BTreeMap<At, BTreeMap<Lineage, usize>> {
    let mut all: BTreeMap<At, BTreeMap<Lineage, usize>> = BTreeMap::new();
    for (at, snapshot) in snapshots.iter().enumerate().filter(|(_, snapshot)| !snapshot.head.is_checkpoint()) {
        let head = &snapshot.head;
        let newest = all.entry((snapshot.source, snapshot.sink, head.series)).or_default();
        let known = newest.entry(head.lineage).or_insert(at);
        if snapshots[*known].head.sequence < head.sequence {
            *known = at;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::testing::Vault;
    use crate::restore::view::{self, Memory};
    use shared::format::snapshot::FLAG_CHECKPOINT;

    const NOW: i64 = 2_000_000;
    const NONE: [usize; 0] = [];

    /// What a reader sees of a vault.
    fn seen(vault: Vault) -> Vec<Snapshot> {
        let mut trust = crate::owner::Trust { sources: vec![vault.trusted()], heads: Vec::new() };
        let state = tempfile::tempdir().unwrap();
        let memory = Memory { state_dir: state.path(), now: NOW };
        view::load(&mut [Box::new(vault)], &mut trust, &memory, &|_| true).unwrap().snapshots
    }

    /// Four snapshots of one set and a checkpoint; those of `expired` are so, as the sink says.
    fn told(keep_until: Option<i64>, expired: &[usize]) -> Vec<usize> {
        let mut vault = Vault { keep_until, ..Vault::new() };
        for content in [&b"one"[..], b"two", b"three", b"four"] {
            let file = vault.file("f", &[content]);
            vault.snapshot(vec![file]);
        }
        let file = vault.file("f", &[b"checkpoint"]);
        let top = vault.node(vec![file], 10);
        vault.snapshot_of(top, FLAG_CHECKPOINT);
        for at in expired {
            vault.store.heads[*at].2 = Some(Damage::Expired);
        }
        doubtful(&seen(vault), NOW).into_keys().collect()
    }

    #[test]
    fn the_newest_of_an_old_lineage_stands_for_no_later_one() {
        let day = 24 * 3600;
        let one_of = |lineage: u8, created: i64, expired: bool| {
            let identity = crate::crypto::identity::Identity::from_seed(&[7; 32]);
            let mut vault = Vault { created, ..Vault::with(identity, "web1", Lineage::new([lineage; 16])) };
            let file = vault.file("f", &[b"x"]);
            vault.snapshot(vec![file]);
            vault.store.heads[0].2 = expired.then_some(Damage::Expired);
            seen(vault)
        };
        let told = |old: Vec<Snapshot>, new: Vec<Snapshot>| -> Vec<usize> {
            doubtful(&[old, new].concat(), NOW).into_keys().collect()
        };
        assert_eq!(told(one_of(2, 1000, false), one_of(3, 1000 + 2 * day, true)), [1]);
        assert_eq!(told(one_of(2, 1000, false), one_of(3, 1000 + day / 2, true)), NONE, "clocks differ");
        assert_eq!(told(one_of(2, 1000, true), one_of(3, 1000 + 2 * day, false)), NONE);
        assert_eq!(told(one_of(2, 1000, true), one_of(3, 1000 + 2 * day, true)), [0, 1]);
    }

    #[test]
    fn what_retention_never_takes_is_not_expired() {
        assert_eq!(told(None, &[]), NONE);
        assert_eq!(told(None, &[0, 1, 2, 4]), NONE, "old ones and checkpoints go");
        assert_eq!(told(None, &[3]), [3], "the newest of a set stays");
        assert_eq!(told(None, &[0, 1, 2, 3]), [3]);
    }

    #[test]
    fn a_promise_holds_until_its_time() {
        let day = 24 * 3600;
        assert_eq!(told(Some(NOW + 2 * day), &[0, 4]), [0, 4]);
        assert_eq!(told(Some(NOW + day / 2), &[0, 4]), NONE, "clocks differ");
        assert_eq!(told(Some(NOW - 1), &[0, 4]), NONE);
    }
}

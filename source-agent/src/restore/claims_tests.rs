//! What heads say of other sinks: a sink that hides what they name is noticed, and nobody is locked out by what a
//! source that was taken over signs, nor by a rollback that was accepted.

use super::hostile::{look, look_at_all, refused, three_snapshots, trust_of};
use super::resolve::{self, Name};
use super::testing::{Vault, fixed_lineage};
use super::view::View;
use crate::crypto::identity::Identity;
use crate::owner::{Frozen, Trust};
use crate::report::{Exit, Failure, Outcome};
use shared::card::{SourceCard, SshKey};
use shared::format::snapshot::RemoteHead;
use shared::id::{Digest, Lineage};
use shared::signature::SigningKey;

/// Another sink of the usual source.
fn sink(name: &str, seed: u8, lineage: Lineage) -> Vault {
    let mut vault = Vault::with(Identity::from_seed(&[7; 32]), "web1", lineage);
    vault.name = name.into();
    vault.sink_key = SigningKey::from_seed(&[seed; 32]);
    vault
}

fn push(vault: &mut Vault, remotes: Vec<RemoteHead>) -> RemoteHead {
    vault.remotes = remotes;
    let file = vault.file("f", &[b"x"]);
    vault.snapshot(vec![file]);
    newest(vault)
}

/// What a head at another sink says of this one.
fn newest(vault: &Vault) -> RemoteHead {
    let (sequence, digest, _) = vault.previous.unwrap();
    RemoteHead { sink: vault.sink_key.verify_key(), sequence, digest }
}

fn invented(vault: &Vault, sequence: u64, byte: u8) -> RemoteHead {
    RemoteHead { sink: vault.sink_key.verify_key(), sequence, digest: Digest::new([byte; 32]) }
}

/// As a reader that remembers nothing sees them.
fn seen(vaults: Vec<&mut Vault>, trust: &mut Trust) -> Outcome<View> {
    let state = tempfile::tempdir().unwrap();
    look(vaults, trust, state.path())
}

fn hidden(result: Outcome<View>, why: &str) {
    assert_eq!(refused(result, why).code, "hidden-head", "{why}");
}

#[test]
fn claims_of_a_lineage_that_nobody_trusts_count_for_nothing() {
    let mut one = three_snapshots();
    let mut taken = sink("friend", 44, Lineage::new([66; 16]));
    let mut other = sink("third", 45, Lineage::new([66; 16]));
    let elsewhere = sink("nowhere", 46, fixed_lineage());
    push(&mut taken, vec![invented(&one, 7, 1), invented(&elsewhere, 3, 1)]);
    push(&mut other, vec![invented(&one, 7, 2), invented(&elsewhere, 3, 2)]);
    let mut trust = trust_of(&one);
    let view = seen(vec![&mut one, &mut taken, &mut other], &mut trust).unwrap();
    assert_eq!(view.snapshots.iter().filter(|snapshot| snapshot.usable).count(), 3);
    assert!(!view.notes.iter().any(|note| note.contains("two different")), "{:?}", view.notes);
}

#[test]
fn heads_that_contradict_each_other_about_a_sink_that_is_not_read_are_a_note() {
    let mut one = three_snapshots();
    let mut two = sink("friend", 44, fixed_lineage());
    let elsewhere = sink("nowhere", 46, fixed_lineage());
    push(&mut one, vec![invented(&elsewhere, 3, 1)]);
    push(&mut two, vec![invented(&elsewhere, 3, 2)]);
    let mut trust = trust_of(&one);
    let view = seen(vec![&mut one, &mut two], &mut trust).unwrap();
    assert_eq!(view.snapshots.len(), 5);
    assert_eq!(view.notes.iter().filter(|note| note.contains("two different")).count(), 1, "{:?}", view.notes);
    // Within one chain the newer claim replaces the older one without a word.
    push(&mut two, vec![invented(&elsewhere, 3, 1)]);
    let view = seen(vec![&mut one, &mut two], &mut trust).unwrap();
    assert!(view.notes.is_empty(), "{:?}", view.notes);
}

#[test]
fn the_newest_claim_of_a_chain_counts_and_must_be_shown() {
    let mut one = three_snapshots();
    let mut two = sink("friend", 44, fixed_lineage());
    push(&mut two, vec![invented(&one, 2, 9)]);
    let mut trust = trust_of(&one);
    hidden(seen(vec![&mut one, &mut two], &mut trust), "another history");
    push(&mut two, vec![newest(&one)]);
    // A head that names nobody takes nothing back.
    push(&mut two, vec![]);
    seen(vec![&mut one, &mut two], &mut trust).unwrap();
    one.store.heads.pop();
    hidden(seen(vec![&mut one, &mut two], &mut trust), "the newest one hidden");
    one.store.heads.clear();
    hidden(seen(vec![&mut one, &mut two], &mut trust), "all hidden");
}

#[test]
fn a_sink_that_refuses_what_it_would_have_to_show_hides_it() {
    let mut one = three_snapshots();
    let mut two = sink("friend", 44, fixed_lineage());
    push(&mut two, vec![newest(&one)]);
    let mut trust = trust_of(&one);
    one.store.heads.pop();
    one.heads_answers = 1;
    hidden(seen(vec![&mut one, &mut two], &mut trust), "the second reading refused");
    one.heads_answers = 0;
    hidden(seen(vec![&mut one, &mut two], &mut trust), "listed, and every reading refused");
    // A reader that may not see the source there.
    one.is_listed = false;
    one.heads_answers = 0;
    let view = seen(vec![&mut one, &mut two], &mut trust).unwrap();
    assert!(view.notes.iter().any(|note| note.contains("does not show them here")), "{:?}", view.notes);
    assert!(view.snapshots.iter().all(|snapshot| snapshot.sink == 1));
    // Not listed, yet shown: that it may not see.
    one.heads_answers = 1;
    hidden(seen(vec![&mut one, &mut two], &mut trust), "shown, but not listed");
}

/// `one` lost its newest head, which `two` names; the source accepted that, and the head that went on names `known`.
fn rolled_back(known: impl Fn(&Vault) -> Vec<RemoteHead>) -> (Vault, Vault) {
    let mut one = three_snapshots();
    let (store, previous) = (one.store.clone(), one.previous);
    let mut two = sink("friend", 44, fixed_lineage());
    push(&mut one, vec![]);
    push(&mut two, vec![newest(&one)]);
    (one.store, one.previous) = (store, previous);
    one.reason = Some("restored from Monday\u{7}");
    push(&mut one, known(&two));
    (one, two)
}

#[test]
fn a_rollback_that_the_source_accepted_is_a_note() {
    let (mut one, mut two) = rolled_back(|two| vec![newest(two)]);
    let mut trust = trust_of(&one);
    let view = seen(vec![&mut one, &mut two], &mut trust).unwrap();
    let note = view.notes.iter().find(|note| note.contains("accepted")).unwrap();
    assert!(note.contains("restored from Monday") && note.starts_with("offsite"), "{note}");
    assert!(!note.contains('\u{7}'), "{note}");
    // It has nothing more to say once the other chain goes on.
    push(&mut two, vec![newest(&one)]);
    assert!(seen(vec![&mut one, &mut two], &mut trust).unwrap().notes.is_empty());
}

#[test]
fn an_accepted_rollback_excuses_no_later_one() {
    let (mut one, mut two) = rolled_back(|two| vec![newest(two)]);
    let mut trust = trust_of(&one);
    push(&mut one, vec![newest(&two)]);
    push(&mut two, vec![newest(&one)]);
    seen(vec![&mut one, &mut two], &mut trust).unwrap();
    one.store.heads.pop();
    hidden(seen(vec![&mut one, &mut two], &mut trust), "rolled back once more");
    one.store.heads.pop();
    hidden(seen(vec![&mut one, &mut two], &mut trust), "the acceptance itself is hidden");
}

#[test]
fn a_reason_counts_only_if_the_source_knew_what_was_lost() {
    let mut trust = trust_of(&Vault::new());
    let (mut one, mut two) = rolled_back(|_| vec![]);
    hidden(seen(vec![&mut one, &mut two], &mut trust), "it names no head of the other chain");
    let (mut one, mut two) = rolled_back(|two| vec![invented(two, 0, 9)]);
    hidden(seen(vec![&mut one, &mut two], &mut trust), "it names a head that is not in the other chain");
    let (mut one, mut two) = rolled_back(|two| vec![newest(two)]);
    one.store.heads.pop();
    hidden(seen(vec![&mut one, &mut two], &mut trust), "no head says that it was accepted");
}

#[test]
fn claims_behind_a_freeze_count_for_nothing() {
    let mut one = three_snapshots();
    let mut two = sink("friend", 44, fixed_lineage());
    let last = push(&mut two, vec![newest(&one)]);
    push(&mut two, vec![invented(&one, 900, 1)]);
    let mut trust = trust_of(&one);
    hidden(seen(vec![&mut one, &mut two], &mut trust), "not frozen");
    let RemoteHead { sink, sequence, digest: head } = last;
    trust.sources[0].frozen.push(Frozen { lineage: fixed_lineage(), sink, sequence, head });
    seen(vec![&mut one, &mut two], &mut trust).unwrap();
    one.store.heads.pop();
    hidden(seen(vec![&mut one, &mut two], &mut trust), "what was claimed before the freeze still counts");
}

/// Sources web1, whose chain does not check, and web2, each at a sink of its own.
fn one_failed_of_two() -> (View, Trust, Digest) {
    let mut bad = three_snapshots();
    bad.store.heads[1].0[30] ^= 1;
    let mut good = sink("friend", 44, fixed_lineage());
    good.signing = SigningKey::from_seed(&[90; 32]);
    let ssh = SshKey::from_ed25519(&[91; 32]);
    good.card = SourceCard::new("web2".parse().unwrap(), ssh, good.card.owner().copied(), &good.signing);
    let id = push(&mut good, vec![]).digest;
    let mut trust = Trust { sources: vec![bad.trusted(), good.trusted()], heads: Vec::new() };
    let state = tempfile::tempdir().unwrap();
    let view = look_at_all(vec![&mut bad, &mut good], &mut trust, state.path()).unwrap();
    (view, trust, id)
}

#[test]
fn what_is_wrong_with_one_source_keeps_no_other_from_being_read() {
    let (view, trust, id) = one_failed_of_two();
    let choose = |name: Name, source: Option<&str>| {
        resolve::choose(&view, &trust, &name, source, &[], &mut |_| Ok(true)).map(|s| s.id())
    };
    let why = |failure: Failure| (failure.exit, failure.code);
    assert_eq!((view.failed.len(), view.failed[0].0, view.exit()), (1, 0, Exit::Tampered));
    assert!(view.failed[0].1.to_string().contains("source web1"), "{}", view.failed[0].1);
    assert!(view.snapshots.iter().all(|snapshot| snapshot.source == 1) && view.fresh.len() == 1);
    assert_eq!(choose(Name::Latest(0), Some("web2")).unwrap(), id);
    assert_eq!(choose(Name::Id(id.short()), None).unwrap(), id);
    assert_eq!(choose(Name::Latest(0), Some("web1")).map_err(why), Err(why(view.failed[0].1.clone())));
    assert_eq!(choose(Name::Id("0000".into()), None).map_err(why), Err(why(view.failed[0].1.clone())));
    assert_eq!(choose(Name::Id("0000".into()), Some("web2")).map_err(why), Err((Exit::NotFound, "no-snapshot")));
    // Nobody gets the newest snapshot of another source than before for it.
    assert_eq!(choose(Name::Latest(0), None).map_err(why), Err((Exit::Usage, "ambiguous")));
}

//! Owner records: numbered, chained, sealed; the newest wins and none goes back.

use super::record::{self, Note};
use super::*;
use crate::crypto::identity::Identity;
use crate::report::Exit;
use crate::restore::objects::Objects;
use crate::restore::testing::Vault;
use shared::format::OwnerRecord;
use shared::signature::Verified;

fn identity() -> Identity {
    Identity::from_seed(&[7; 32])
}

fn note(vault: &Vault, written: i64) -> Note {
    let mut note = Note { written, ..Note::empty() };
    note.put(&vault.trusted()).unwrap();
    note
}

/// Records 0 to `count - 1`.
fn records(vault: &Vault, count: i64) -> Vec<Verified<OwnerRecord>> {
    let mut all: Vec<Verified<OwnerRecord>> = Vec::new();
    for written in 0..count {
        all.push(record::write(&note(vault, written), all.last(), &identity()).unwrap());
    }
    all
}

fn newest(vaults: Vec<Vault>, state: &std::path::Path) -> crate::report::Outcome<record::Newest> {
    let mut sinks: Vec<Box<dyn Objects>> =
        vaults.into_iter().map(|vault| Box::new(vault) as Box<dyn Objects>).collect();
    record::newest(&mut sinks, &identity().owner_key().verify_key(), state)
}

fn vault_with(records: &[Verified<OwnerRecord>]) -> Vault {
    let mut vault = Vault::new();
    vault.store.owner_records = records.iter().map(|record| record.as_bytes().to_vec()).collect();
    vault
}

#[test]
fn a_note_comes_back_for_its_owner_alone() {
    let vault = Vault::new();
    let all = records(&vault, 2);
    let read = record::read(&all[1], &identity()).unwrap();
    assert_eq!(read, note(&vault, 1));
    assert_eq!(read.trust().unwrap().sources[0].lineages, [vault.lineage]);
    assert!(record::read(&all[1], &Identity::from_seed(&[8; 32])).is_err());
}

#[test]
fn trust_ends_and_begins_again() {
    let vault = Vault::new();
    let mut note = note(&vault, 0);
    assert!(note.remove(&vault.source(), 5).unwrap());
    assert!(!note.remove(&vault.source(), 6).unwrap());
    assert_eq!((note.trusted.len(), note.removed.len()), (0, 1));
    note.put(&vault.trusted()).unwrap();
    assert_eq!((note.trusted.len(), note.removed.len()), (1, 0));
}

#[test]
fn the_newest_record_of_all_sinks_wins_and_is_remembered() {
    let state = tempfile::tempdir().unwrap();
    let all = records(&Vault::new(), 3);
    let found = newest(vec![vault_with(&all[..1]), vault_with(&all), vault_with(&[])], state.path()).unwrap();
    let record = found.record.unwrap();
    assert_eq!(record.number, 2);
    record::remember(state.path(), &record).unwrap();
    // All sinks are behind now: the remembered one counts, and that is said.
    let found = newest(vec![vault_with(&all[..1])], state.path()).unwrap();
    assert_eq!((found.record.unwrap().number, found.notes.len()), (2, 1));
    // An older one does not replace what is remembered.
    record::remember(state.path(), &all[0]).unwrap();
    let owner = identity().owner_key().verify_key();
    assert_eq!(record::remembered(state.path(), &owner).unwrap().unwrap().number, 2);
}

#[test]
fn two_histories_gaps_and_strangers_are_refused() {
    let state = tempfile::tempdir().unwrap();
    let (one, two) = (records(&Vault::new(), 2), records(&Vault::new(), 2));
    let failure = newest(vec![vault_with(&one), vault_with(&two)], state.path()).err().unwrap();
    assert_eq!(failure.exit, Exit::Tampered, "{failure}");
    record::remember(state.path(), &one[1]).unwrap();
    assert_eq!(newest(vec![vault_with(&two)], state.path()).err().unwrap().exit, Exit::Tampered);
    let fresh = tempfile::tempdir().unwrap();
    assert_eq!(newest(vec![vault_with(&one[1..])], fresh.path()).err().unwrap().exit, Exit::Tampered, "a gap");
    let mixed = [one[0].clone(), two[1].clone()];
    assert_eq!(newest(vec![vault_with(&mixed)], fresh.path()).err().unwrap().exit, Exit::Tampered, "another chain");
    let stranger = Identity::from_seed(&[9; 32]);
    let forged = record::write(&note(&Vault::new(), 0), None, &stranger).unwrap();
    assert_eq!(newest(vec![vault_with(&[forged])], fresh.path()).err().unwrap().exit, Exit::Tampered, "a stranger's");
}

#[test]
fn a_sink_gets_the_records_that_it_lacks() {
    let all = records(&Vault::new(), 3);
    let mut vault = vault_with(&all[..1]);
    record::publish(&mut vault, &all[2], &all).unwrap();
    assert_eq!(vault.store.owner_records.len(), 3);
    record::publish(&mut vault, &all[2], &all).unwrap();
    assert_eq!(vault.store.owner_records.len(), 3);
}

#[test]
fn the_local_store_keeps_and_forgets() {
    let state = tempfile::tempdir().unwrap();
    let vault = Vault::new();
    store::save(state.path(), &vault.trusted()).unwrap();
    assert_eq!(store::load(state.path()).unwrap(), [vault.trusted()]);
    let file = state.path().join("trust").join(format!("{}.toml", vault.source()));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("web1", "web2")).unwrap();
    assert!(store::load(state.path()).is_err(), "a changed card");
    assert!(store::remove(state.path(), &vault.source()).unwrap());
    assert!(store::load(state.path()).unwrap().is_empty());
}

#[test]
fn vouchers_count_for_their_owner_alone() {
    let mut vault = Vault::new();
    let file = vault.file("f", &[b"f"]);
    let digest = vault.snapshot(vec![file]);
    let head = vault.head(&digest);
    let voucher = voucher::write(&head.chain(), 0, digest, 5, &identity()).unwrap();
    let bytes = [voucher.as_bytes().to_vec(), b"junk".to_vec()];
    let read = voucher::read(&bytes, &identity().owner_key().verify_key());
    assert_eq!((read.len(), read[0].head), (1, digest));
    assert!(voucher::read(&bytes, &Identity::from_seed(&[8; 32]).owner_key().verify_key()).is_empty());
}

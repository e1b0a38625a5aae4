//! A vault whose heads, receipts and envelopes are packed (docs/format.md, section "Packs"), written here from the
//! specification: confined sessions of every role go on with it, and so do the operator's commands.

use shared::wire::request::ListHeads;
use shared::wire::{Query, Reply};
use std::path::Path;
use tests::agent::Usual;
use tests::craft::Forger;
use tests::wire::Client;
use tests::{Chance, Vault, tree};

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// The key of an object in its pack's index, from the name of its file.
fn key(file: &Path) -> Vec<u8> {
    let name = file.file_name().unwrap().to_str().unwrap();
    let mut key: Vec<u8> = name.split('-').flat_map(unhex).collect();
    key.resize(32, 0);
    key
}

/// Moves all loose objects of a shelf into a pack.
fn pack(vault: &Vault, source: &str, shelf: &str, letter: u8, number: u64) {
    let mut files: Vec<_> = vault.files(source, shelf).into_iter().map(|file| (key(&file), file)).collect();
    files.sort();
    assert!(!files.is_empty(), "{shelf}");
    let (mut bytes, mut index) = (Vec::new(), Vec::new());
    for (key, file) in &files {
        let object = std::fs::read(file).unwrap();
        index.extend_from_slice(key);
        index.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        index.extend_from_slice(&(object.len() as u32).to_le_bytes());
        index.extend_from_slice(&0i64.to_le_bytes());
        bytes.extend_from_slice(&object);
    }
    let mut footer = b"pawlpack".to_vec();
    footer.extend_from_slice(&[1, letter, 0, 0, 0, 0, 0, 0]);
    footer.extend_from_slice(&(files.len() as u64).to_le_bytes());
    footer.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    footer.extend_from_slice(blake3::hash(&index).as_bytes());
    let sum = blake3::hash(&footer);
    footer.extend_from_slice(sum.as_bytes());
    bytes.extend(index);
    bytes.extend(footer);
    std::fs::write(vault.room(source).join(format!("packs/{shelf}-{number:016x}")), bytes).unwrap();
    files.iter().for_each(|(_, file)| std::fs::remove_file(file).unwrap());
}

#[test]
fn confined_sessions_go_on_with_packed_chains() {
    let usual = Usual::new();
    let mut chance = Chance::new(5);
    let auditor = Forger::new("auditor");
    let card = auditor.card.to_string();
    let sink = usual.vault.enroll(&card, "audit", "backup@127.0.0.1:22", &["--of", "web1"]).card.sink;
    for number in 0..3 {
        for round in 0..2 {
            tree::write(&usual.data.join(format!("file-{number}-{round}")), &chance.bytes(100_000));
            usual.source.must_back_up(&usual.data);
        }
        for (shelf, letter) in [("heads", b'H'), ("receipts", b'R'), ("envelopes", b'E')] {
            pack(&usual.vault, "web1", shelf, letter, number);
        }
        usual.vault.must_be_clean();
        usual.must_restore(&format!("restored-{number}"));
    }
    assert_eq!(usual.reader.snapshot_ids().len(), 6);
    let keys = usual.source.keys();
    let list = ListHeads { source: keys.card.source_id(), lineage: keys.lineage, from: 0, limit: 100 };
    let mut audit = Client::other(usual.vault.serve("auditor", "audit"), &sink);
    let Reply::Heads(heads) = audit.query(Query::ListHeads(list)) else { panic!("no heads") };
    assert!(heads.items.len() == 6 && heads.items.iter().all(|item| item.receipt.is_some()));
    drop(audit);
    // One more: it follows a head that is packed, and its own files are loose.
    tree::write(&usual.data.join("last"), b"one more");
    usual.source.must_back_up(&usual.data);
    assert_eq!(usual.vault.files("web1", "heads").len(), 1);
    usual.must_restore("restored-last");
    for command in ["observe", "rebuild", "prune", "status", "snapshots", "doctor"] {
        usual.vault.run().arg(command).ok();
    }
    usual.vault.must_be_clean();
    usual.source.must_back_up(&usual.data);
}

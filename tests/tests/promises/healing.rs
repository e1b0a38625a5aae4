//! An old snapshot whose block rotted, healed by its source, comes back whole also when the healing snapshot is gone.

use shared::codec::List;
use shared::format::owner::{BlockName, SubstitutePair};
use shared::format::{Head, Kind, Region, Substitute};
use shared::id::{ArchiveId, VerifyKey};
use shared::signature::{Signed, sign};
use shared::wire::{PushRequest, Reply};
use std::path::{Path, PathBuf};
use tests::agent::Usual;
use tests::craft::{Crafted, Forger};
use tests::wire::{receipt, stored};
use tests::{Chance, tree};

/// The one archive of file data, and its header region.
fn data_archive(usual: &Usual) -> (PathBuf, Region) {
    let key = *usual.source.keys().card.verify_key();
    let open = |path: PathBuf| {
        let region = Region::parse_prefix(&std::fs::read(&path).unwrap()).unwrap().0;
        let kind = region.index.clone().verify(&key).unwrap().kind;
        (kind == Kind::Data).then_some((path, region))
    };
    let mut found: Vec<_> = usual.vault.files("web1", "archives").into_iter().filter_map(open).collect();
    assert_eq!(found.len(), 1, "one small file is one archive");
    found.remove(0)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Commits an archive as a whole snapshot behind the newest head.
fn commit(usual: &Usual, forger: &Forger, sink: &VerifyKey, archive: &Crafted, record: Option<Vec<u8>>) {
    let newest = std::fs::read(usual.vault.files("web1", "heads").pop().unwrap()).unwrap();
    let newest = Signed::<Head>::parse(&newest).unwrap().verify(forger.card.verify_key()).unwrap();
    let mut client = forger.connect(&usual.vault, sink);
    let body = forger.push_content(&mut client, archive);
    if let Some(record) = record {
        stored(client.ask(&PushRequest::PutSubstitute(record)));
    }
    let head = forger.head(*sink, newest.sequence + 1, Some(newest.digest()), body);
    let head = forger.sign(Head { series: newest.series, ..head });
    let reply: Reply = client.ask(&PushRequest::PutHead(head.as_bytes().to_vec()));
    receipt(reply, &head, sink);
}

#[test]
fn a_healed_snapshot_outlives_the_one_that_healed_it() {
    let usual = Usual::new();
    let mut chance = Chance::new(40);
    let content = chance.bytes(5000);
    tree::write(&usual.data.join("only"), &content);
    usual.source.must_back_up(&usual.data);
    let id = usual.reader.snapshot_ids().pop().unwrap();
    let (path, region) = data_archive(&usual);
    flip(&path, region.as_bytes().len() + 100);
    let lost = usual.reader.restore_path(&id, &usual.data, &usual.place.join("lost")).done();
    assert_eq!(lost.exit(), Some(13), "{}", lost.tell());
    usual.vault.run().arg("verify").done().code(13);

    // The source still has the chunk and sends it again, beside others.
    let text = std::fs::read_to_string(usual.vault.root.join("sink.key")).unwrap();
    let sink = shared::keyfile::read_signing_key(shared::keyfile::SINK_KEY, &text).unwrap().verify_key();
    let forger = Forger::from_keys(usual.source.keys(), &usual.owner.key);
    let more = (0..4).map(|_| vec![chance.bytes(5000)]);
    let healing = forger.archive(50, &std::iter::once(vec![content]).chain(more).collect::<Vec<_>>());
    let number = region.index.clone().verify(forger.card.verify_key()).unwrap().number;
    let left = BlockName { number, id: region.id(), block: 0 };
    let right = BlockName { number: healing.index.number, id: ArchiveId::new(*healing.id().as_bytes()), block: 0 };
    let pairs = List::new(vec![SubstitutePair { left, right: List::new(vec![right]).unwrap() }]).unwrap();
    let record = Substitute { source: forger.source, lineage: forger.lineage, pairs };
    let record = sign(record, &forger.signing).unwrap().as_bytes().to_vec();
    commit(&usual, &forger, &sink, &healing, Some(record));
    commit(&usual, &forger, &sink, &forger.junk(51, 5000), None);

    // The first is held; the healing one goes, at once and for good.
    let run = |words: &[&str]| usual.vault.run().args(words.iter().copied());
    run(&["observe"]).ok();
    run(&["hold", "web1", &id, "--reason", "the good one"]).ok();
    run(&["verify"]).ok();
    let size = || {
        let files = usual.vault.files("web1", "archives");
        let file = files.iter().find(|file| file.to_string_lossy().ends_with("-000000000032")).expect("archive 50");
        std::fs::metadata(file).unwrap().len()
    };
    let before = size();
    run(&["retention", "web1", "--keep-last", "1", "--max-remove", "100%"]).ok();
    run(&["prune", "--now"]).ok();
    run(&["prune", "--now"]).ok();
    assert_eq!(usual.vault.files("web1", "bodies").len(), 2, "the healing snapshot is gone");
    assert!(size() < before, "and the blocks that it alone named");
    run(&["verify"]).ok();
    usual.reader.restore_path(&id, &usual.data, &usual.place.join("out")).ok();
    tree::assert_same(&usual.data, &usual.place.join("out"));
}

//! Attack 6: a block whose content does not match its chunk ids; a later archive that claims an old id.

use shared::wire::PushRequest;
use source_agent::tree::table::TableEntry;
use tests::agent::Usual;
use tests::craft::Forger;
use tests::wire::stored;
use tests::{Chance, tree};

fn sink_key(usual: &Usual) -> shared::id::VerifyKey {
    let text = std::fs::read_to_string(usual.vault.root.join("sink.key")).unwrap();
    shared::keyfile::read_signing_key(shared::keyfile::SINK_KEY, &text).unwrap().verify_key()
}

/// Pushes, with the source's own keys, an archive that claims `claimed` and holds `junk` of the same length.
fn poison(usual: &Usual, number: u64, claimed: &[u8], junk: Vec<u8>) {
    let keys = usual.source.keys();
    let thief = Forger::from_keys(keys, &usual.owner.key);
    let namer = thief.secret.chunk_namer(&thief.lineage);
    let entry = TableEntry { id: namer.name(claimed), bytes: claimed.len() as u32 };
    let archive = thief.archive_claiming(number, &[vec![junk]], vec![vec![entry]]);
    let sink = sink_key(usual);
    let mut client = thief.connect(&usual.vault, &sink);
    stored(client.ask(&PushRequest::PutEnvelope(thief.envelope.as_bytes().to_vec())));
    stored(client.put_archive(&archive.region, &archive.parts));
}

#[test]
fn a_poisoned_chunk_is_found_and_named_and_the_rest_comes_back() {
    let usual = Usual::new();
    tree::sample(&usual.data, &mut Chance::new(1), 10);
    usual.source.must_back_up(&usual.data);
    // A small file is one chunk: its id is claimed before the file exists.
    let content = Chance::new(2).bytes(5000);
    poison(&usual, 9000, &content, Chance::new(3).bytes(5000));
    // The attacker also takes the index away, so that it is rebuilt from the sink's chunk tables.
    std::fs::remove_dir_all(usual.source.cache()).unwrap();
    tree::write(&usual.data.join("target-of-the-attack"), &content);
    usual.source.must_back_up(&usual.data);
    let expected = tree::read(&usual.data);
    let target = usual.place.join("out");
    let done = usual.reader.restore_path("latest", &usual.data, &target).done();
    let lost = tree::assert_nothing_wrong(&expected, &target);
    if done.exit() == Some(0) {
        assert_eq!(lost, 0, "a restore that says 0 is whole\n{}", done.tell());
        return;
    }
    assert_eq!(done.exit(), Some(13), "{}", done.tell());
    assert_eq!(lost, 1, "only the poisoned file is lost\n{}", done.tell());
    assert!(done.err().contains("target-of-the-attack"), "the lost file is listed\n{}", done.tell());
    let done = usual.reader.owner_run(&["check", "--read-data"]).done().code(13);
    assert!(done.err().contains("chunk") || done.out().contains("chunk"), "{}", done.tell());
    // The operator, without keys, sees only intact objects.
    usual.vault.must_be_clean();
}

#[test]
fn a_later_archive_cannot_take_over_an_old_chunk() {
    let usual = Usual::new();
    let content = Chance::new(4).bytes(5000);
    tree::write(&usual.data.join("old"), &content);
    tree::sample(&usual.data, &mut Chance::new(5), 10);
    usual.source.must_back_up(&usual.data);
    poison(&usual, 9000, &content, Chance::new(6).bytes(5000));
    // The old snapshot is restored from what it names.
    usual.must_restore("out");
    usual.reader.owner_run(&["check", "--read-data"]).ok();
    // And the source's next run with a rebuilt index still gives whole snapshots, or says which chunk is bad.
    std::fs::remove_dir_all(usual.source.cache()).unwrap();
    usual.source.must_back_up(&usual.data);
    let expected = tree::read(&usual.data);
    let target = usual.place.join("again");
    let done = usual.reader.restore_path("latest", &usual.data, &target).done();
    let lost = tree::assert_nothing_wrong(&expected, &target);
    assert!(done.exit() == Some(0) && lost == 0 || done.exit() == Some(13), "{}", done.tell());
    let done = usual.reader.restore_path("latest~1", &usual.data, &usual.place.join("first")).ok();
    tree::assert_tree(&expected, &usual.place.join("first"));
    drop(done);
}

#[test]
fn junk_archives_of_the_source_stop_nothing() {
    // Tables that do not open, sizes that lie, empty promises: the next run and every reader go on.
    let usual = Usual::new();
    tree::sample(&usual.data, &mut Chance::new(7), 10);
    usual.source.must_back_up(&usual.data);
    let thief = Forger::from_keys(usual.source.keys(), &usual.owner.key);
    let sink = sink_key(&usual);
    let mut client = thief.connect(&usual.vault, &sink);
    stored(client.ask(&PushRequest::PutEnvelope(thief.envelope.as_bytes().to_vec())));
    let right = thief.junk(9000, 5000);
    // A chunk table of noise, in an otherwise right archive.
    let noise = |seed| {
        let bytes = Chance::new(seed).bytes(8192);
        source_agent::crypto::seal::Sealed {
            hash: shared::id::Digest::of(&bytes),
            plain: shared::id::Digest::new([1; 32]),
            bytes,
        }
    };
    for number in 0..3 {
        let number = shared::id::ArchiveNumber::new(9001 + number).unwrap();
        let junk = thief.archive_of(number, shared::id::Salt::random(), &[noise(1), noise(2)]);
        stored(client.put_archive(&junk.region, &junk.parts));
    }
    stored(client.put_archive(&right.region, &right.parts));
    drop(client);
    std::fs::remove_dir_all(usual.source.cache()).unwrap();
    usual.source.must_back_up(&usual.data);
    usual.must_restore("out");
    usual.vault.must_be_clean();
}

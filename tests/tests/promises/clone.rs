//! The same key on two machines, a lost state, a sink rolled back: noticed and told, exit 13, with a way on.

use tests::agent::Usual;
use tests::{Chance, tree};

#[test]
fn a_cloned_source_is_noticed() {
    let usual = Usual::new();
    tree::sample(&usual.data, &mut Chance::new(1), 10);
    usual.source.must_back_up(&usual.data);
    let clone = usual.source.clone_to(&usual.place.join("clone"));
    tree::write(&usual.data.join("on-the-original"), b"1");
    usual.source.must_back_up(&usual.data);
    let done = clone.backup(&usual.data).done().code(13).helps();
    let text = done.err().to_lowercase();
    assert!(text.contains("clone") || text.contains("another machine") || text.contains("same key"), "{}", done.tell());
    // The original goes on, and the clone has added nothing.
    assert_eq!(usual.reader.snapshot_ids().len(), 2);
    usual.source.must_back_up(&usual.data);
    usual.vault.must_be_clean();
    usual.must_restore("out");
}

#[test]
fn a_source_without_its_state_stops_and_says_how_to_go_on() {
    let usual = Usual::new();
    tree::sample(&usual.data, &mut Chance::new(2), 10);
    usual.source.must_back_up(&usual.data);
    for entry in std::fs::read_dir(usual.source.state()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("chain") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let done = usual.source.backup(&usual.data).done().code(13).helps();
    assert!(done.err().contains("remote accept"), "{}", done.tell());
    // Not silently, and not without a reason.
    usual.source.run().args(["remote", "accept", "local"]).done().code(2);
    usual.source.run().args(["remote", "accept", "local", "--reason", "the disk was replaced"]).ok();
    usual.source.must_back_up(&usual.data);
    usual.must_restore("out");
    usual.vault.must_be_clean();
    // The reason is in the signed head for ever.
    let reasons = usual.vault.files("web1", "heads").into_iter().filter(|file| {
        let bytes = std::fs::read(file).unwrap();
        bytes.windows(21).any(|window| window == b"the disk was replaced")
    });
    assert_eq!(reasons.count(), 1);
}

#[test]
fn a_source_restored_from_an_older_image_is_noticed() {
    let usual = Usual::new();
    tree::sample(&usual.data, &mut Chance::new(3), 10);
    usual.source.must_back_up(&usual.data);
    let image = usual.source.clone_to(&usual.place.join("image"));
    for number in 0..3u64 {
        tree::write(&usual.data.join("changing"), &Chance::new(number).bytes(1000));
        usual.source.must_back_up(&usual.data);
    }
    // The machine comes back as it was: the sink has heads that it signed and does not know.
    image.backup(&usual.data).done().code(13).helps();
    image.run().args(["remote", "accept", "local", "--reason", "restored from an image"]).ok();
    image.must_back_up(&usual.data);
    usual.must_restore("out");
    usual.vault.must_be_clean();
}

#[test]
fn a_new_lineage_counts_only_with_the_owners_trust() {
    // The same keys with a fresh lineage: what an attacker would do to leave the history behind.
    let usual = Usual::new();
    tree::sample(&usual.data, &mut Chance::new(4), 5);
    usual.source.must_back_up(&usual.data);
    let expected = tree::read(&usual.data);
    let thief = tests::craft::Forger::from_keys(
        tests::agent::Keys { lineage: shared::id::Lineage::random(), ..usual.source.keys() },
        &usual.owner.key,
    );
    let text = std::fs::read_to_string(usual.vault.root.join("sink.key")).unwrap();
    let sink = shared::keyfile::read_signing_key(shared::keyfile::SINK_KEY, &text).unwrap().verify_key();
    let mut client = tests::wire::Client::start(usual.vault.serve("web1", "push"));
    client.send(&shared::wire::request::hello_frame(&tests::wire::hello(Some((thief.source, thief.lineage)))));
    if let shared::wire::Reply::Welcome(_) = client.reply() {
        thief.push_snapshot(&mut client, sink, 0, 0, None);
    }
    drop(client);
    usual.vault.must_be_clean();
    // The reader still restores the trusted history as the latest.
    let target = usual.place.join("out");
    let done = usual.reader.restore_path("latest", &usual.data, &target).done();
    tree::assert_nothing_wrong(&expected, &target);
    assert!(matches!(done.exit(), Some(0 | 13)), "{}", done.tell());
    usual.source.must_back_up(&usual.data);
}

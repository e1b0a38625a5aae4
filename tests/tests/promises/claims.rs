//! What heads at one remote say of another: a rollback that was accepted locks nobody out, another one is noticed, and
//! what is wrong with one source is no other's business.

use std::path::Path;
use tests::agent::Usual;
use tests::{Agent, Chance, Vault, tree};

/// The usual set with a second remote, `friend`.
fn two_remotes() -> (Usual, Vault) {
    let usual = Usual::new();
    let friend = Vault::with(usual.place.path(), "friend", None);
    for (agent, role) in [(&usual.source, "push"), (&usual.reader, "read")] {
        let enrolled = friend.enroll(&agent.card, role, "backup@127.0.0.1:22", &[]);
        agent.add_path("friend", &friend, &enrolled);
    }
    (usual, friend)
}

/// A reader that remembers nothing of what was read before.
fn reader(usual: &Usual) -> Agent {
    let dir = usual.place.join("fresh-reader");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    usual.reader.clone_to(&dir)
}

fn put_back(vault: &Vault, old: &Path) {
    std::fs::remove_dir_all(&vault.root).unwrap();
    tree::copy(old, &vault.root);
}

/// Lists and restores from these remotes; what was said meanwhile.
fn must_read(usual: &Usual, remotes: &[&str]) -> String {
    let agent = reader(usual);
    let only = |run: tests::Run| remotes.iter().fold(run, |run, remote| run.args(["-r", remote]));
    let listed = only(agent.owner_run(&["snapshots"])).ok();
    let target = usual.place.join("target");
    if target.exists() {
        std::fs::remove_dir_all(&target).unwrap();
    }
    only(agent.restore_path("latest", &usual.data, &target)).ok();
    tree::assert_same(&usual.data, &target);
    listed.err()
}

#[test]
fn a_rollback_that_was_accepted_locks_nobody_out() {
    let (usual, friend) = two_remotes();
    tree::sample(&usual.data, &mut Chance::new(1), 10);
    usual.source.must_back_up(&usual.data);
    let old = usual.place.join("old-friend");
    tree::copy(&friend.root, &old);
    tree::write(&usual.data.join("second"), b"2");
    usual.source.must_back_up(&usual.data);
    tree::write(&usual.data.join("third"), b"3");
    usual.source.must_back_up(&usual.data);
    put_back(&friend, &old);
    // Nobody has accepted it yet: the other remote's heads tell a reader who never saw any of it.
    reader(&usual).owner_run(&["snapshots"]).done().code(13).helps();
    usual.source.backup(&usual.data).done().code_in(&[4, 13]);
    reader(&usual).owner_run(&["snapshots"]).done().code(13).helps();
    must_read(&usual, &["local"]);
    usual.source.run().args(["remote", "accept", "friend", "--reason", "restored from Monday"]).ok();
    // The other remote's newest head still names what was lost.
    usual.source.backup(&usual.data).args(["-r", "friend"]).ok();
    for remotes in [&["local"][..], &["friend"], &[]] {
        let told = must_read(&usual, remotes);
        assert_eq!(told.contains("restored from Monday"), remotes.is_empty(), "{remotes:?}: {told}");
    }
    usual.source.must_back_up(&usual.data);
    for remotes in [&["local"][..], &["friend"], &[]] {
        let told = must_read(&usual, remotes);
        assert!(!told.contains("restored from Monday"), "{remotes:?}: {told}");
    }
    // That excuses nothing that came later. (What one run brings to both remotes, the next one's heads name.)
    let old = usual.place.join("older-friend");
    tree::copy(&friend.root, &old);
    usual.source.must_back_up(&usual.data);
    usual.source.must_back_up(&usual.data);
    put_back(&friend, &old);
    let done = reader(&usual).owner_run(&["snapshots"]).done().code(13).helps();
    assert!(done.err().contains("hidden-head"), "{}", done.tell());
    must_read(&usual, &["local"]);
}

#[test]
fn a_source_that_cannot_be_read_keeps_no_other_from_it() {
    let usual = Usual::new();
    tree::sample(&usual.data, &mut Chance::new(2), 5);
    let second = Agent::source(usual.place.path(), "web2", &usual.owner);
    let enrolled = usual.vault.enroll(&second.card, "push", "backup@127.0.0.1:22", &[]);
    second.add_path("local", &usual.vault, &enrolled);
    usual.reader.trust(&second);
    for source in [&usual.source, &second, &usual.source] {
        source.must_back_up(&usual.data);
    }
    let ids = usual.reader.snapshots();
    let of_second = ids.iter().find(|value| value["source"] == "web2").unwrap()["id"].as_str().unwrap().to_owned();
    for shelf in ["heads", "receipts"] {
        std::fs::remove_file(usual.vault.files("web1", shelf).pop().unwrap()).unwrap();
    }
    let reader = &usual.reader;
    for words in [&["snapshots"][..], &["stats"], &["check"], &["find", "*"]] {
        let done = reader.owner_run(words).done().code(13).helps();
        assert!(done.err().contains("rolled-back") && done.err().contains("source web1"), "{}", done.tell());
        assert!(done.out().contains("web2") || !["snapshots", "stats"].contains(&words[0]), "{}", done.tell());
        assert!(!done.out().contains("web1"), "{}", done.tell());
    }
    for (at, snapshot) in [("latest", Some("web2")), (&*of_second, None)].into_iter().enumerate() {
        let target = usual.place.join(format!("good-{at}"));
        let (name, source) = snapshot;
        let mut run = reader.restore_path(name, &usual.data, &target);
        if let Some(source) = source {
            run = run.args(["-H", source]);
        }
        run.ok();
        tree::assert_same(&usual.data, &target);
    }
    let target = usual.place.join("bad");
    reader.restore_path("latest", &usual.data, &target).args(["-H", "web1"]).done().code(13).helps();
    // `latest` of two sources stays a question, also while one of them cannot be read.
    reader.restore_path("latest", &usual.data, &target).done().code(2).helps();
    assert!(!target.exists());
    let done = reader.owner_run(&["trust", "add", &second.card]).ok();
    assert!(done.err().contains("rolled-back"), "{}", done.tell());
    reader.owner_run(&["trust", "forget", "web1", "-r", "local", "--reason", "a test"]).ok();
    reader.owner_run(&["snapshots"]).ok();
}

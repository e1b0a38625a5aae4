//! What the programs say: the names in JSON are the names, an error says what is wrong and what to do.

use serde_json::Value;
use std::os::unix::ffi::OsStrExt;
use tests::agent::Usual;
use tests::run::Done;
use tests::{Agent, Chance, Place, Vault, tree};

/// The one JSON line of standard output of this message type.
#[track_caller]
fn message(done: &Done, kind: &str) -> Value {
    let mut found = done.json().into_iter().filter(|value| value["message_type"] == kind);
    let value = found.next().unwrap_or_else(|| panic!("no message {kind}\n{}", done.tell()));
    assert!(found.next().is_none(), "several messages {kind}\n{}", done.tell());
    value
}

/// The failure on standard error.
#[track_caller]
fn exit_error(done: &Done) -> Value {
    let err = done.err();
    let mut found = err.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    found
        .find(|value| value["message_type"] == "exit_error")
        .unwrap_or_else(|| panic!("no exit_error\n{}", done.tell()))
}

#[test]
fn a_dry_restore_says_what_the_real_one_does() {
    let usual = Usual::new();
    for at in 0..7 {
        tree::write(&usual.data.join(format!("f{at}")), b"content");
    }
    tree::age(&usual.data);
    usual.source.must_back_up(&usual.data);
    let target = usual.place.join("out");
    usual.reader.restore_path("latest", &usual.data, &target).ok();
    tree::write(&target.join("mine/deep"), b"x");
    tree::write(&target.join("other"), b"x");
    let run = |more: &[&str]| {
        let run = usual.reader.restore_path("latest", &usual.data, &target);
        let done = run.args(["--overwrite", "if-changed", "--delete", "--json"]).args(more).ok();
        let value = message(&done, "summary");
        ["files_restored", "files_unchanged", "files_deleted"].map(|key| value[key].as_u64().unwrap())
    };
    assert_eq!(run(&["-n"]), [0, 7, 2]);
    assert!(target.join("other").exists());
    let text = usual.reader.restore_path("latest", &usual.data, &target);
    let text = text.args(["--overwrite", "if-changed", "--delete", "-n"]).ok();
    assert!(text.err().contains("would be deleted: 2") && text.err().contains("would delete"), "{}", text.tell());
    assert_eq!(run(&[]), [0, 7, 2]);
    assert!(!target.join("other").exists());
}

#[test]
fn a_set_of_which_nothing_is_there_makes_no_snapshot() {
    let usual = Usual::new();
    tree::write(&usual.data.join("f"), b"x");
    let (gone, also) = (usual.place.join("gone"), usual.place.join("also"));
    let done = usual.source.backup(&gone).arg(&also).done().code(1).helps();
    assert!(done.err().contains("gone") && done.err().contains("also"), "{}", done.tell());
    assert!(usual.vault.files("web1", "heads").is_empty());
    usual.source.backup(&gone).arg(&usual.data).done().code(3).complains("gone");
    assert_eq!(usual.reader.snapshot_ids().len(), 1);
}

#[test]
fn an_expired_snapshot_is_said_to_be_expired() {
    let usual = Usual::new();
    for content in [&b"one"[..], b"two"] {
        tree::write(&usual.data.join("f"), content);
        usual.source.must_back_up(&usual.data);
    }
    usual.vault.run().args(["retention", "web1", "--keep-last", "1", "--max-remove", "100%"]).ok();
    usual.vault.run().args(["prune", "web1"]).ok();
    let old = usual.reader.snapshot_ids().swap_remove(0);
    for words in [&["ls", &old][..], &["dump", &old], &["stats", &old], &["vouch", &old]] {
        let done = usual.reader.owner_run(words).done().code(10).complains("expired by the sink's retention");
        done.complains("remote-sink undelete web1");
    }
    usual.reader.restore(&old, &usual.place.join("out")).done().code(10).complains("remote-sink undelete web1").helps();
    usual.vault.run().args(["undelete", "web1", "00000000"]).done().code(10).complains("remote-sink snapshots");
    usual.vault.run().args(["undelete", "web1", &old]).ok();
    usual.reader.owner_run(&["ls", &old]).ok();
}

#[test]
fn names_in_json_are_the_names() {
    let usual = Usual::new();
    tree::write(&usual.data.join("a\nb\\c"), b"x");
    tree::write(&usual.data.join(std::ffi::OsStr::from_bytes(b"d\xffe")), b"x");
    usual.source.must_back_up(&usual.data);
    let what = format!("latest:{}", usual.data.display());
    for words in [&["--json", "ls", &what][..], &["--json", "find", "a*", "d*", "!data/"]] {
        let nodes = usual.reader.owner_run(words).ok().json();
        let named = |name: &str| nodes.iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("{nodes:?}"));
        let plain = named("a\nb\\c");
        assert!(plain["path"].as_str().unwrap().ends_with("/a\nb\\c") && plain["name_bytes"].is_null(), "{plain}");
        let odd = named("d\u{fffd}e");
        assert_eq!(odd["name_bytes"], "64ff65");
        assert!(odd["path_bytes"].as_str().unwrap().ends_with("2f64ff65"), "{odd}");
    }
}

#[test]
fn a_stopped_prune_says_that_nothing_was_removed() {
    let usual = Usual::new();
    for content in 0..4 {
        tree::write(&usual.data.join("f"), &[content]);
        usual.source.must_back_up(&usual.data);
    }
    usual.vault.run().args(["retention", "web1", "--keep-last", "1"]).ok();
    let done = usual.vault.run().args(["--json", "prune", "web1"]).done().code(20);
    let pruned = message(&done, "pruned");
    assert_eq!((&pruned["removed"], &pruned["would_remove"]), (&0.into(), &3.into()));
    let failure = exit_error(&done);
    assert_eq!((&failure["code"], &failure["error"]), (&20.into(), &"stopped".into()));
    assert!(failure["message"].as_str().unwrap().contains("share") && failure["help"].is_string(), "{failure}");
}

#[test]
fn commands_that_change_something_say_so_in_json() {
    let usual = Usual::new();
    tree::write(&usual.data.join("f"), b"x");
    usual.source.append(&format!("\n[[backup.set]]\nname = \"due\"\npaths = [\"{}\"]\n", usual.data.display()));
    let backup = |more: &[&str]| usual.source.run().args(["--json", "backup", "--set", "due"]).args(more).ok();
    let id = message(&backup(&[]), "summary")["snapshot_id"].clone();
    assert_eq!(message(&backup(&["--if-due"]), "not_due")["set"], "due");
    let status = usual.source.run().args(["--json", "status"]).done();
    let status = message(&status, "remote_status");
    assert_eq!(status["snapshot_id"], id);
    assert!(id.as_str().unwrap().starts_with(status["short_id"].as_str().unwrap()), "{status}");
    let vouched = message(&usual.reader.owner_run(&["--json", "vouch"]).ok(), "vouched");
    assert_eq!(vouched["snapshot_id"], id);
    let added = usual.reader.owner_run(&["--json", "trust", "add", &usual.source.card]).ok();
    assert_eq!(added.json()[0]["in_owner_record"], true, "{}", added.tell());
    let removed = message(&usual.reader.owner_run(&["--json", "trust", "remove", "web1"]).ok(), "trust_removed");
    assert_eq!(removed["name"], "web1");
    let removed = usual.source.run().args(["--json", "remote", "remove", "local"]).ok();
    assert_eq!(message(&removed, "remote_removed")["remote"], "local");
}

#[test]
fn usage_errors_in_json_say_which_arguments() {
    let usual = Usual::new();
    let failure = exit_error(&usual.source.run().args(["--json", "restore"]).done().code(2));
    assert!(failure["message"].as_str().unwrap().contains("--target <DIR>"), "{failure}");
    assert!(failure["details"].as_array().unwrap().iter().any(|line| line == "--target <DIR>"), "{failure}");
    let failure = exit_error(&usual.vault.run().args(["--json", "undelete"]).done().code(2));
    assert!(failure["message"].as_str().unwrap().contains("<SNAPSHOT>"), "{failure}");
    usual.vault.run().args(["undelete"]).done().code(2).complains("Usage:");
}

#[test]
fn enroll_says_which_rules_are_in_force() {
    let place = Place::new();
    let owner = tests::agent::Owner::new(place.path());
    let vault = Vault::new(place.path());
    let source = Agent::source(place.path(), "web1", &owner);
    let enroll = || vault.enroll_run(&source.card, "push", "backup@127.0.0.1:22", &[]).ok();
    enroll().says("Keeps everything until you run: remote-sink retention web1");
    vault.run().args(["retention", "web1", "--max-remove", "400%"]).done().code(2).complains("100%");
    vault.run().args(["retention", "web1", "--keep-daily", "7"]).ok();
    vault.run().args(["revoke", "web1"]).ok();
    let done = enroll().says("keep-daily 7");
    assert!(!done.out().contains("Keeps everything"), "{}", done.tell());
}

#[test]
fn a_card_of_another_name_and_a_sink_that_is_known_are_warned_of() {
    let usual = Usual::new();
    let other = Agent::source(usual.place.path(), "web2", &usual.owner);
    let add = |agent: &Agent, card: &str| {
        let path = usual.vault.root.to_string_lossy().into_owned();
        agent.run().args(["remote", "add", "again", card, "--path", &path]).done()
    };
    let card = usual.vault.enroll(&usual.source.card, "push", "backup@127.0.0.1:22", &[]).card.to_string();
    add(&other, &card).complains("a source called web1").complains("this machine is called web2");
    add(&usual.source, &card).code(0).complains("'local' is this very sink");
    // The operator may call a source as they like.
    let third = Agent::source(usual.place.path(), "web3", &usual.owner);
    let renamed = usual.vault.enroll(&third.card, "push", "backup@127.0.0.1:22", &["--name", "shop"]);
    add(&third, &renamed.card.to_string()).code(0).complains("a source called shop");
}

#[test]
fn without_a_remote_every_command_says_so_alike() {
    let place = Place::new();
    let owner = tests::agent::Owner::new(place.path());
    let source = Agent::source(place.path(), "web1", &owner);
    let path = place.dir("data").to_string_lossy().into_owned();
    for words in [&["backup", &path][..], &["snapshots"], &["remote", "test"], &["check"]] {
        source.run().args(words).done().code(2).complains("error[no-remote]").helps();
    }
}

#[test]
fn a_busy_lock_names_its_holder() {
    let usual = Usual::new();
    tree::write(&usual.data.join("f"), b"x");
    let slow = usual.source.run().args(["backup", "--stdin-from-command", "slow", "--", "sleep", "1000"]);
    let mut slow = slow.begin();
    let lock = usual.source.state().join("backup.lock");
    let held = || std::fs::read_to_string(&lock).is_ok_and(|text| text.ends_with('\n'));
    tests::run::until("the lock is held", std::time::Duration::from_secs(60), held);
    let done = usual.source.backup(&usual.data).done().code(11).helps();
    assert!(done.err().contains(&format!("process {}, since 20", slow.id())), "{}", done.tell());
    slow.kill();
    slow.end();
}

#[test]
fn a_signal_is_told_once_and_a_hook_after_it_knows_the_remote() {
    let usual = Usual::new();
    let said = usual.place.join("said");
    let hook = format!("echo \"$RESULT $REMOTE\" > {}", said.display());
    let text = std::fs::read_to_string(usual.source.config()).unwrap();
    let old = text.lines().find(|line| line.starts_with("# after-failure"));
    let new = format!("after-failure = [[\"/bin/sh\", \"-c\", {}]]", Value::from(hook));
    match old {
        Some(old) => std::fs::write(usual.source.config(), text.replace(old, &new)).unwrap(),
        None => usual.source.append(&format!("\n[hooks]\n{new}\n")),
    }
    tree::write(&usual.data.join("big"), &Chance::new(1).bytes(60 << 20));
    let slow = usual.source.backup(&usual.data).args(["--limit-upload", "6MiB"]).begin();
    // The whole of it takes ten seconds.
    std::thread::sleep(std::time::Duration::from_secs(2));
    slow.signal(rustix::process::Signal::TERM);
    let done = slow.end().code(143);
    assert_eq!(done.err().matches("error[terminated]").count(), 1, "{}", done.tell());
    assert_eq!(std::fs::read_to_string(said).unwrap(), "failure local\n");
}

#[test]
fn what_was_verified_lately_is_passed_over_if_that_is_asked_for_or_configured() {
    let usual = Usual::new();
    tree::write(&usual.data.join("f"), &Chance::new(2).bytes(100_000));
    usual.source.must_back_up(&usual.data);
    let read = |more: &[&str]| {
        let done = usual.vault.run().args(["verify", "web1", "--json"]).args(more.iter().copied()).ok();
        let found = done.json().into_iter().find(|line| line["message_type"] == "verified").unwrap();
        assert!(found["archives"].as_u64().unwrap() >= 2, "{found}");
        found["archives_read"].as_u64().unwrap()
    };
    let all = read(&[]);
    assert!(all >= 2);
    assert_eq!(read(&["--older-than", "30d"]), 0);
    assert_eq!(read(&[]), all, "nothing is passed over unasked");
    usual.vault.configure("verify", "reverify-after = \"30d\"");
    assert_eq!(read(&[]), 0);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(read(&["--older-than", "1s"]), all, "the flag goes before");
}

#[test]
fn nothing_comes_back_from_below_an_excluded_directory() {
    let usual = Usual::new();
    for name in ["ex/keep", "ex/other", "in/keep", "in/other"] {
        std::fs::create_dir_all(usual.data.join(name).parent().unwrap()).unwrap();
        tree::write(&usual.data.join(name), b"x");
    }
    let data = usual.data.display();
    let lines = [format!("{data}/ex/"), format!("!{data}/ex/keep"), format!("{data}/in/*"), format!("!{data}/in/keep")];
    let excludes = lines.iter().flat_map(|line| ["--exclude", line]);
    usual.source.backup(&usual.data).args(excludes).ok();
    let out = usual.place.join("out");
    usual.reader.restore_path("latest", &usual.data, &out).ok();
    let kept = ["ex/keep", "ex/other", "in/keep", "in/other"].map(|name| out.join(name).exists());
    assert_eq!(kept, [false, false, true, false]);
}

//! Exit codes and help lines: what goes wrong is told with the right number and what to do.

use tests::agent::{Owner, Usual};
use tests::server::Listen;
use tests::{Agent, Chance, Place, Run, Vault, programs, tree};

fn agent() -> Run {
    Run::new(programs::source_agent())
}

#[test]
fn without_a_configuration_init_is_named() {
    let place = Place::new();
    let config = place.join("nowhere/config.toml");
    for words in [&["backup"][..], &["snapshots"], &["status"], &["remote", "list"]] {
        let done = agent().env("HOME", place.path()).arg("-c").arg(&config).args(words).done();
        assert!(!matches!(done.exit(), Some(0) | None), "{}", done.tell());
        let done = done.helps();
        assert!(done.err().contains("source-agent init"), "{}", done.tell());
    }
}

#[test]
fn wrong_usage_is_2() {
    let usual = Usual::new();
    agent().done().code(2);
    agent().arg("--no-such-flag").done().code(2);
    agent().arg("prune").done().code(2);
    agent().arg("forget").done().code(2);
    agent().arg("unlock").done().code(2);
    usual.reader.owner_run(&["restore", "latest"]).done().code(2);
    usual.source.backup(&usual.data).args(["-r", "nobody"]).done().code(2);
    Run::new(programs::remote_sink()).arg("no-such-command").done().code(2);
}

#[test]
fn an_unknown_key_is_shown_with_its_line() {
    let usual = Usual::new();
    let text = std::fs::read_to_string(usual.source.config()).unwrap();
    assert!(text.contains("\nexclude-caches = true"), "{text}");
    let wrong = text.replace("\nexclude-caches = true", "\nexclude-cache = true");
    std::fs::write(usual.source.config(), wrong).unwrap();
    let done = usual.source.backup(&usual.data).done();
    assert!(!matches!(done.exit(), Some(0) | None), "{}", done.tell());
    let text = done.err();
    assert!(text.contains("exclude-cache") && text.contains('^') && text.contains("exclude-caches"), "{}", done.tell());
    let done = usual.source.run().args(["config", "check"]).done();
    assert_ne!(done.exit(), Some(0), "{}", done.tell());
}

#[test]
fn no_such_snapshot_or_source_is_10() {
    let usual = Usual::new();
    tree::write(&usual.data.join("x"), b"x");
    usual.reader.restore("latest", &usual.place.join("o")).done().code(10).helps();
    usual.source.must_back_up(&usual.data);
    usual.reader.restore("deadbeef", &usual.place.join("o")).done().code(10);
    usual.reader.restore("latest~7", &usual.place.join("o")).done().code(10);
    usual.reader.restore("latest:/no/such/path", &usual.place.join("o")).done().code(10);
    assert!(!usual.place.join("o").exists());
    usual.vault.run().args(["card", "nobody"]).done().code_in(&[1, 10]);
    usual.vault.run().args(["revoke", "nobody"]).done().code_in(&[1, 10]);
}

#[test]
fn a_check_that_checked_nothing_says_so() {
    let usual = Usual::new();
    let restored = |usual: &Usual| {
        let done = usual.reader.run().args(["--json", "status"]).done();
        done.json().iter().any(|line| line["message_type"] == "restore_test" && !line["time"].is_null())
    };
    let test = ["check", "--read-data", "--restore-test", "5"];
    usual.reader.owner_run(&test).done().code(10).helps();
    tree::write(&usual.data.join("x"), b"x");
    usual.source.must_back_up(&usual.data);
    usual.reader.owner_run(&[&test[..], &["-H", "nosuch"]].concat()).done().code(10).helps();
    assert!(!restored(&usual), "nothing was restored");
    usual.reader.owner_run(&test).ok();
    assert!(restored(&usual));
}

#[test]
fn a_wrong_passphrase_or_identity_is_12() {
    let usual = Usual::new();
    tree::write(&usual.data.join("x"), b"x");
    usual.source.must_back_up(&usual.data);
    // Another identity opens nothing.
    let other = Owner::new(&usual.place.dir("other"));
    let target = usual.place.join("o");
    let done = usual.reader.run().args(["restore", "latest", "-t"]).arg(&target).arg("-i").arg(&other.key).done();
    let done = done.code_in(&[12, 13]);
    assert!(!target.exists() || std::fs::read_dir(&target).unwrap().next().is_none(), "{}", done.tell());
    // A key with a passphrase.
    let (file, key) = (usual.place.join("passphrase"), usual.place.join("sealed.key"));
    std::fs::write(&file, "correct horse\n").unwrap();
    let made = agent().env("HOME", usual.place.path()).env("SOURCE_AGENT_PASSPHRASE_FILE", &file);
    made.args(["keygen", "-o"]).arg(&key).ok();
    let show = |file: &std::path::Path| {
        let run = agent().env("HOME", usual.place.path()).env("SOURCE_AGENT_PASSPHRASE_FILE", file);
        run.args(["key", "recipient", "-i"]).arg(&key).done()
    };
    show(&file).code(0);
    let wrong = usual.place.join("wrong");
    std::fs::write(&wrong, "incorrect\n").unwrap();
    show(&wrong).code(12);
    // Two passphrases: which one counts is not guessed.
    let both = agent()
        .env("HOME", usual.place.path())
        .env("SOURCE_AGENT_PASSPHRASE_FILE", &file)
        .env("SOURCE_AGENT_PASSPHRASE_COMMAND", "cat /dev/null")
        .args(["key", "recipient", "-i"])
        .arg(&key)
        .done();
    assert_ne!(both.exit(), Some(0), "{}", both.tell());
    // None, and no terminal: no prompt, the ways to give one are named.
    let none = agent().env("HOME", usual.place.path()).args(["key", "recipient", "-i"]).arg(&key).done();
    assert_ne!(none.exit(), Some(0), "{}", none.tell());
    assert!(none.err().contains("SOURCE_AGENT_PASSPHRASE_FILE"), "{}", none.tell());
    // The key file does not hold the passphrase or the seed in the clear.
    let text = std::fs::read_to_string(&key).unwrap();
    assert!(text.contains("argon2id") && !text.contains("correct horse"));
}

#[test]
fn secrets_are_private_files() {
    use std::os::unix::fs::MetadataExt;
    let usual = Usual::new();
    let files = [
        usual.owner.key.clone(),
        usual.source.dir.join("signing.key"),
        usual.source.state().join("source.secret"),
        usual.vault.root.join("sink.key"),
        usual.vault.root.join("listen.key"),
    ];
    for file in files {
        let mode = std::fs::metadata(&file).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}: {mode:o}", file.display());
    }
    // A source holds no key that opens anything, and no copy of the data.
    tree::write(&usual.data.join("secret-file"), b"a very secret sentence of the data");
    usual.source.must_back_up(&usual.data);
    let mut dirs = vec![usual.source.dir.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
            assert!(!holds(b"a very secret sentence"), "{} holds a copy of the data", path.display());
            assert!(!holds(b"pawl-identity:"), "{} holds an identity", path.display());
        }
    }
    // Neither does the vault hold a word of it.
    for path in usual.vault.accepted("web1").into_keys() {
        let bytes = std::fs::read(&path).unwrap();
        for word in [&b"secret sentence"[..], b"secret-file"] {
            assert!(!bytes.windows(word.len()).any(|window| window == word), "{}", path.display());
        }
    }
}

#[test]
fn restore_refuses_a_directory_that_holds_something() {
    let usual = Usual::new();
    tree::write(&usual.data.join("x"), b"new");
    usual.source.must_back_up(&usual.data);
    let target = usual.place.dir("full");
    tree::write(&target.join("x"), b"old");
    let done = usual.reader.restore_path("latest", &usual.data, &target).done();
    assert!(!matches!(done.exit(), Some(0) | None), "{}", done.tell());
    done.helps();
    assert_eq!(std::fs::read(target.join("x")).unwrap(), b"old");
    let overwrite = |how: &str| usual.reader.restore_path("latest", &usual.data, &target).args(["--overwrite", how]);
    overwrite("never").ok();
    assert_eq!(std::fs::read(target.join("x")).unwrap(), b"old");
    overwrite("always").ok();
    assert_eq!(std::fs::read(target.join("x")).unwrap(), b"new");
    // --delete demands an --overwrite; with it, what the snapshot lacks goes.
    tree::write(&target.join("extra"), b"extra");
    let done = usual.reader.restore_path("latest", &usual.data, &target).arg("--delete").done();
    assert_ne!(done.exit(), Some(0), "{}", done.tell());
    assert!(target.join("extra").exists());
    overwrite("always").args(["--delete", "-n"]).ok();
    assert!(target.join("extra").exists(), "-n changes nothing");
    overwrite("always").arg("--delete").ok();
    assert!(!target.join("extra").exists());
    // The target was there before: its own metadata stays.
    let except = tree::Except { top: true, owners: false };
    assert_eq!(tree::differences(&tree::read(&usual.data), &tree::read(&target), except), Vec::<String>::new());
}

#[test]
fn another_session_of_the_source_is_11() {
    let usual = Usual::new();
    tree::sample(&usual.data, &mut Chance::new(1), 5);
    usual.source.must_back_up(&usual.data);
    let keys = usual.source.keys();
    let text = std::fs::read_to_string(usual.vault.root.join("sink.key")).unwrap();
    let sink = shared::keyfile::read_signing_key(shared::keyfile::SINK_KEY, &text).unwrap().verify_key();
    let run = usual.vault.serve("web1", "push");
    let mut other = tests::wire::Client::push(run, keys.card.source_id(), keys.lineage, &sink);
    let pinging = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        // It is not silent, so nobody takes it over.
        scope.spawn(|| {
            while pinging.load(std::sync::atomic::Ordering::Relaxed) {
                other.query(shared::wire::Query::Ping);
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        });
        let done = usual.source.backup(&usual.data).done();
        pinging.store(false, std::sync::atomic::Ordering::Relaxed);
        done.code(11).helps();
    });
}

#[test]
fn bad_cards_are_refused() {
    let usual = Usual::new();
    let card = &usual.source.card;
    let other = Agent::source(usual.place.path(), "web2", &usual.owner);
    let cut = &card[..card.len() - 5];
    let swapped = card.replace("web1", "web9");
    for bad in [cut, &swapped, "sink-card:1,name=x", "", "hello", "source-card:2,name=web1"] {
        let done = usual.vault.run().args(["enroll", "--role", "push", "--", bad]).done();
        assert!(!matches!(done.exit(), Some(0) | None), "{bad:?}\n{}", done.tell());
    }
    // A name that is taken by another card.
    let done = usual.vault.run().args(["enroll", &other.card, "--name", "web1"]).done();
    assert!(!matches!(done.exit(), Some(0) | None), "{}", done.tell());
    for bad in ["sink-card:1,name=web1,user=x", "source-card:1", ""] {
        let done = usual.source.run().args(["remote", "add", "x", bad]).done();
        assert!(!matches!(done.exit(), Some(0) | None), "{bad:?}\n{}", done.tell());
    }
}

#[test]
fn a_source_that_is_not_enrolled_is_told() {
    let place = Place::new();
    let owner = Owner::new(place.path());
    let vault = Vault::new(place.path());
    let listen = Listen::start(&vault);
    let known = Agent::source(place.path(), "web1", &owner);
    let enrolled = vault.enroll(&known.card, "push", &listen.address(), &[]);
    let stranger = Agent::source(place.path(), "web2", &owner);
    stranger.run().args(["remote", "add", "offsite", &enrolled.card.to_string()]).done();
    tree::write(&place.join("data/x"), b"x");
    let done = stranger.backup(&place.join("data")).done();
    let done = done.code_in(&[1, 2, 10, 14]).helps();
    assert!(vault.files("web1", "heads").is_empty(), "{}", done.tell());
}

#[test]
fn status_tells_freshness_by_its_code() {
    let usual = Usual::new();
    tree::write(&usual.data.join("x"), b"x");
    usual.source.run().args(["status", "--max-age", "36h"]).done().code_in(&[1, 3]);
    usual.source.only_set("data", &usual.data);
    usual.source.must_back_up(&usual.data);
    // What was backed up by its path says nothing of the configured set.
    let done = usual.source.run().args(["status", "--max-age", "36h"]).done().code(3);
    assert!(done.out().contains("local  fresh") && done.out().contains("set data: no complete"), "{}", done.tell());
    usual.source.run().args(["backup"]).ok();
    let done = usual.source.run().args(["status", "--max-age", "36h"]).ok();
    assert!(!done.out().contains("set data"), "{}", done.tell());
    // A set that is never saved keeps it from being green, whatever else is.
    usual.source.append("\n[[backup.set]]\nname = \"broken\"\ncommand = [\"false\"]\nstdin-name = \"x\"\n");
    let done = usual.source.run().args(["backup"]).done().code(1).helps();
    assert!(done.err().contains("set broken"), "{}", done.tell());
    usual.source.run().args(["status"]).done().code(3);
    std::thread::sleep(std::time::Duration::from_secs(2));
    usual.source.must_back_up(&usual.data);
    let done = usual.source.run().args(["--json", "status", "--max-age", "1s"]).done().code(1);
    let state = |name: &str| {
        let line = done.json().into_iter().find(|line| line["set"] == name);
        line.unwrap_or_else(|| panic!("no set {name}\n{}", done.tell()))["state"].clone()
    };
    assert_eq!([state("data"), state("broken")], ["too old", "unknown"]);
}

#[test]
fn json_goes_to_standard_output_and_errors_to_standard_error() {
    let usual = Usual::new();
    tree::write(&usual.data.join("x"), b"x");
    let done = usual.source.run().args(["--json", "backup"]).arg(&usual.data).ok();
    let lines = done.json();
    let summary = lines.iter().find(|line| line["message_type"] == "summary");
    assert!(summary.is_some_and(|line| line["snapshot_id"].is_string()), "{}", done.tell());
    let done =
        usual.reader.with_identity(usual.reader.run().args(["--json", "restore", "deadbeef", "-t", "/x"])).done();
    let done = done.code(10);
    let error = done.err().lines().find(|line| line.starts_with('{')).map(str::to_owned);
    let error: serde_json::Value = serde_json::from_str(&error.expect("an error as JSON")).unwrap();
    assert_eq!(error["message_type"], "exit_error", "{}", done.tell());
    assert_eq!(error["code"], 10, "{}", done.tell());
}

#[test]
fn a_dry_run_sends_nothing() {
    let usual = Usual::new();
    tree::sample(&usual.data, &mut Chance::new(2), 10);
    usual.source.backup(&usual.data).arg("-n").ok();
    assert!(usual.vault.files("web1", "archives").is_empty());
    assert!(usual.vault.files("web1", "heads").is_empty());
    usual.source.must_back_up(&usual.data);
    let target = usual.place.join("o");
    usual.reader.restore_path("latest", &usual.data, &target).arg("-n").ok();
    assert!(!target.exists() || std::fs::read_dir(&target).unwrap().next().is_none());
}

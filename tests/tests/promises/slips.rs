//! Slips of those who use it: words in another place than usual, disks that are full, names that nobody has. Nothing is
//! passed over in silence, and what is said is what happened.

use serde_json::Value;
use std::os::unix::fs::symlink;
use tests::agent::{Agent, Usual};
use tests::run::Done;
use tests::tree;

/// JSON lines on standard error of this message type.
fn told(done: &Done, kind: &str) -> Vec<Value> {
    let err = done.err();
    let lines = err.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|value| value["message_type"] == kind).collect()
}

#[test]
fn words_behind_two_dashes_are_paths_unless_there_is_a_command() {
    let usual = Usual::new();
    for name in ["one/a", "two/b", "-n/c"] {
        tree::write(&usual.data.join(name), b"x");
    }
    let backup = |words: &[&str]| usual.source.run().dir(&usual.data).arg("backup").args(words);
    let listed = || {
        let what = format!("latest:{}", usual.data.display());
        usual.reader.owner_run(&["ls", "--recursive", &what]).ok().out()
    };
    backup(&["one", "--", "two", "-n"]).ok();
    let all = listed();
    assert!(["one/a", "two/b", "-n/c"].iter().all(|name| all.contains(name)), "{all}");
    backup(&["--", "-n"]).ok();
    let all = listed();
    assert!(all.contains("-n/c") && !all.contains("one/a"), "{all}");
    backup(&["--", "missing"]).done().code(1).helps();
    backup(&["--stdin", "x", "--", "one"]).done().code(2);
    backup(&["--set", "system", "--", "one"]).done().code(2);
    backup(&["--stdin-from-command", "x"]).done().code(2);
    backup(&["one", "--stdin-from-command", "x", "--", "true"]).done().code(2);
    backup(&["--stdin-from-command", "all.sql", "--", "printf", "%s", "-n"]).ok();
    let dumped = usual.reader.owner_run(&["dump", "latest:/all.sql", "--path", "/all.sql"]).ok();
    assert_eq!(dumped.out(), "-n");
}

#[test]
fn what_cannot_be_read_is_an_error_line_in_json_and_codes_are_the_process_s() {
    let usual = Usual::new();
    tree::write(&usual.data.join("f"), b"x");
    let (missing, also) = (usual.place.join("missing"), usual.place.join("also"));
    let done = usual.source.backup(&usual.data).arg(&missing).arg("--json").done().code(3);
    let errors = told(&done, "error");
    let item = |line: &&Value| line["item"] == missing.to_str().unwrap() && line["during"] == "archival";
    assert_eq!(errors.iter().filter(item).count(), 1, "{}", done.tell());
    let done = usual.source.backup(&missing).arg(&also).arg("--json").done().code(1);
    assert_eq!(told(&done, "error").iter().filter(item).count(), 1, "{}", done.tell());
    assert_eq!(told(&done, "exit_error")[0]["code"], 1);
    // One remote of two is not there: its failure is told with the code that the process ends with.
    let gone = usual.place.join("gone").display().to_string();
    let sink = shared::text::base64(&[7; 32]);
    usual.source.append(&format!("\n[[remote]]\nname = \"gone\"\npath = \"{gone}\"\nsink = \"{sink}\"\n"));
    let done = usual.source.backup(&usual.data).arg("--json").done().code(1);
    assert_eq!(told(&done, "exit_error").iter().map(|line| line["code"].clone()).collect::<Vec<_>>(), [1]);
}

#[test]
fn names_and_patterns_that_nothing_fits_are_told() {
    let usual = Usual::new();
    tree::write(&usual.data.join("f"), b"x");
    usual.source.must_back_up(&usual.data);
    usual.reader.owner_run(&["snapshots", "-H", "nobody"]).done().code(10).helps();
    usual.reader.owner_run(&["snapshots", "-H", "web1"]).ok();
    let restore = |name: &str, pattern: &str| {
        usual.reader.restore("latest", &usual.place.join(name)).args(["--include", pattern]).ok()
    };
    assert!(restore("none", "zzz").err().contains("fits --include"));
    assert!(!restore("some", "f").err().contains("fits --include"));
}

#[test]
fn deletions_are_named_by_their_place_in_the_target() {
    let usual = Usual::new();
    tree::write(&usual.data.join("sub/f"), b"x");
    usual.source.must_back_up(&usual.data);
    let target = usual.place.join("out");
    usual.reader.restore_path("latest", &usual.data, &target).ok();
    let (mine, deep) = (target.join("mine"), target.join("sub/deep"));
    tree::write(&mine, b"x");
    tree::write(&deep, b"x");
    let run = |more: &[&str]| {
        let run = usual.reader.restore_path("latest", &usual.data, &target);
        run.args(["--overwrite", "if-changed", "--delete"]).args(more).ok()
    };
    let named = |done: &Done, what: &str| {
        let names = [&mine, &deep].map(|path| format!("{what} {}", path.display()));
        assert!(names.iter().all(|name| done.err().contains(name)), "{}", done.tell());
    };
    named(&run(&["-n", "-v"]), "would delete");
    named(&run(&["-v"]), "deleted");
    assert!(!mine.exists() && !deep.exists());
}

#[test]
fn an_auditor_of_a_vault_on_this_machine_is_let_in() {
    let usual = Usual::new();
    tree::write(&usual.data.join("f"), b"x");
    usual.source.must_back_up(&usual.data);
    let auditor = Agent::reader(usual.place.path(), "auditor", &usual.owner);
    let enrolled = usual.vault.enroll(&auditor.card, "audit", "backup@127.0.0.1:22", &[]);
    auditor.add_path("local", &usual.vault, &enrolled);
    auditor.run().args(["trust", "add", &usual.source.card]).ok();
    auditor.run().args(["snapshots"]).ok();
    auditor.run().args(["check"]).ok();
    auditor.run().args(["remote", "test"]).ok();
    // It reads no block.
    let done = auditor.restore("latest", &usual.place.join("out")).done().code(10).helps();
    assert!(done.err().contains("audit"), "{}", done.tell());
}

#[test]
fn a_reader_whose_memory_cannot_be_written_reads_on() {
    let usual = Usual::new();
    tree::write(&usual.data.join("f"), b"x");
    usual.source.must_back_up(&usual.data);
    // A link to nowhere can be read, as nothing, and not be made into a directory.
    let heads = usual.reader.state().join("heads");
    assert!(!heads.exists());
    symlink("/proc/nowhere/heads", &heads).unwrap();
    let done = usual.reader.owner_run(&["snapshots"]).ok();
    assert!(done.err().contains("what was seen is not remembered") && done.err().contains("heads"), "{}", done.tell());
    assert!(!done.err().contains("trust forget"), "{}", done.tell());
    usual.must_restore("out");
}

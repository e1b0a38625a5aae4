//! The program as the shell sees it: exit codes, streams, signals, passphrases from the environment.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn agent(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_source-agent"));
    command.args(arguments).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["CONFIG", "REMOTE", "IDENTITY", "PASSPHRASE_FILE", "PASSPHRASE_COMMAND"] {
        command.env_remove(format!("SOURCE_AGENT_{name}"));
    }
    command.env_remove("CREDENTIALS_DIRECTORY").env("HOME", dir).env("XDG_CONFIG_HOME", dir.join("config"));
    command
}

fn run(dir: &Path, arguments: &[&str]) -> Output {
    agent(dir, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Sends a signal and waits for the end, ten seconds at most; `None` if it lives on.
fn signal(child: &mut Child, name: &str) -> Option<i32> {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let wait = if name == "USR1" { Duration::from_millis(500) } else { Duration::from_secs(10) };
    let start = Instant::now();
    while start.elapsed() < wait {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().or(status.signal().map(|signal| -signal));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// Until the program is ready for signals.
fn await_signal_thread(process: u32) {
    let start = Instant::now();
    let ready = || {
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
        tasks.flatten().any(|task| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default() == "signals\n")
    };
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(30), "no thread waits for signals");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn usage_errors_are_exit_2_in_both_forms() {
    let dir = tempfile::tempdir().unwrap();
    let plain = run(dir.path(), &["restroe"]);
    assert_eq!(plain.status.code(), Some(2));
    assert!(plain.stdout.is_empty() && text(&plain.stderr).contains("unrecognized subcommand"));
    let json = run(dir.path(), &["--json", "restroe"]);
    assert_eq!(json.status.code(), Some(2));
    let value: serde_json::Value = serde_json::from_slice(&json.stderr).unwrap();
    assert_eq!((&value["message_type"], &value["code"]), (&"exit_error".into(), &2.into()));
}

#[test]
fn failures_are_one_json_line_on_standard_error() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["--json", "-c", "none/config.toml", "config", "show"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert_eq!(text(&output.stderr).lines().count(), 1);
    let value: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(value["error"], "config-missing");
    assert!(value["help"].as_str().unwrap().contains("init") && value["remote"].is_null());
}

#[test]
fn only_the_card_and_its_fingerprint_are_on_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    assert!(run(dir.path(), &["keygen", "-o", "a.key", "--no-passphrase"]).status.success());
    let output = run(dir.path(), &["-c", "x/config.toml", "init", "--recipient", "a.pub", "--name", "web1"]);
    assert!(output.status.success());
    let out = text(&output.stdout);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2, "{out}");
    let card: shared::card::SourceCard = lines[0].parse().unwrap();
    assert_eq!(lines[1], format!("fingerprint  {}", card.fingerprint()));
    assert!(text(&output.stderr).contains("edit [[backup.set]] paths"));
}

#[test]
fn a_closed_standard_output_ends_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = agent(dir.path(), &["config", "example"]).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_full_standard_output_is_exit_15() {
    let dir = tempfile::tempdir().unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = agent(dir.path(), &["config", "example"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(15));
}

#[test]
fn signals_end_a_run_and_usr1_does_not() {
    let dir = tempfile::tempdir().unwrap();
    for (name, code) in [("TERM", 143), ("INT", 130)] {
        let mut child = agent(dir.path(), &["key", "recover", "-o", "a.key", "--no-passphrase"]);
        let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
        await_signal_thread(child.id());
        assert_eq!(signal(&mut child, "USR1"), None);
        assert_eq!(signal(&mut child, name), Some(code));
        assert!(!dir.path().join("a.key").exists());
    }
}

#[test]
fn passphrases_come_from_one_place_and_are_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let secret = "horse-battery-staple";
    std::fs::write(dir.path().join("pass"), format!("{secret}\n")).unwrap();
    let file = |arguments: &[&str]| {
        let mut command = agent(dir.path(), arguments);
        command.env("SOURCE_AGENT_PASSPHRASE_FILE", dir.path().join("pass"));
        command
    };
    let made = file(&["keygen", "-o", "a.key"]).output().unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    let read = file(&["key", "recipient", "-i", "a.key"]).output().unwrap();
    assert_eq!(text(&read.stdout), std::fs::read_to_string(dir.path().join("a.pub")).unwrap());
    let both = file(&["key", "recipient", "-i", "a.key"])
        .env("SOURCE_AGENT_PASSPHRASE_COMMAND", format!("echo {secret}"))
        .output()
        .unwrap();
    assert_eq!(both.status.code(), Some(2));
    assert!(text(&both.stderr).contains("SOURCE_AGENT_PASSPHRASE_FILE and SOURCE_AGENT_PASSPHRASE_COMMAND"));
    let nobody = run(dir.path(), &["key", "recipient", "-i", "a.key"]);
    assert_eq!(nobody.status.code(), Some(12));
    std::fs::write(dir.path().join("pass"), "wrong-horse\n").unwrap();
    let wrong = file(&["key", "recipient", "-i", "a.key"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(12));
    for output in [&made, &read, &both, &nobody, &wrong] {
        let all = text(&output.stdout) + &text(&output.stderr);
        assert!(!all.contains(secret) && !all.contains("wrong-horse"), "{all}");
    }
}

#[test]
fn the_words_come_from_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = agent(dir.path(), &["key", "recover", "-o", "a.key", "--no-passphrase"]);
    let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{}art\n", "abandon ".repeat(23)).as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let zero = shared::text::base64(&[0; 32]);
    assert!(std::fs::read_to_string(dir.path().join("a.key")).unwrap().contains(&zero));
}

#[test]
fn a_reader_whose_card_names_no_owner_is_told() {
    let dir = tempfile::tempdir().unwrap();
    assert!(run(dir.path(), &["keygen", "-o", "a.key", "--no-passphrase"]).status.success());
    let init = |config: &str| {
        let init = run(dir.path(), &["-c", config, "init", "--reader", "-i", "a.key"]);
        assert!(init.status.success());
        String::from_utf8(init.stderr).unwrap()
    };
    assert!(!init("x/config.toml").contains("names no owner"));
    std::fs::remove_file(dir.path().join("a.pub")).unwrap();
    let told = init("y/config.toml");
    assert!(told.contains("warning: no recipient stands in a.pub, so the card names no owner"), "{told}");
}

#[test]
fn the_environment_names_the_configuration_and_the_identity() {
    let dir = tempfile::tempdir().unwrap();
    assert!(run(dir.path(), &["keygen", "-o", "a.key", "--no-passphrase"]).status.success());
    let init = agent(dir.path(), &["init", "--reader"]).env("SOURCE_AGENT_CONFIG", "x/config.toml").output().unwrap();
    assert!(init.status.success() && dir.path().join("x/state/source.card").exists());
    let with = agent(dir.path(), &["key", "recipient"]).env("SOURCE_AGENT_IDENTITY", "a.key").output().unwrap();
    assert!(with.status.success());
    let without = agent(dir.path(), &["-c", "y/config.toml", "key", "recipient"]).output().unwrap();
    assert_eq!(without.status.code(), Some(12));
}

#[test]
fn empty_variables_count_as_unset() {
    let dir = tempfile::tempdir().unwrap();
    let show = |variable: &str| agent(dir.path(), &["--json", "config", "show"]).env(variable, "").output().unwrap();
    let plain = run(dir.path(), &["--json", "config", "show"]);
    for variable in ["SOURCE_AGENT_CONFIG", "SOURCE_AGENT_REMOTE"] {
        let empty = show(variable);
        assert_eq!((empty.status.code(), text(&empty.stderr)), (plain.status.code(), text(&plain.stderr)));
    }
    // An empty flag is a mistake.
    assert_eq!(run(dir.path(), &["-c", "", "config", "show"]).status.code(), Some(2));
}

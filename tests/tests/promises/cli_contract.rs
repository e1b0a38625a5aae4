//! The command line that wrappers and people rely on: commands and flags exist, dangerous ones do not.

use tests::{Run, programs};

fn help(program: &std::path::Path, command: &[&str]) -> String {
    Run::new(program).args(command).arg("--help").ok().out()
}

/// Does this help text name this flag as a flag of its own?
fn has_flag(help: &str, flag: &str) -> bool {
    help.split(|c: char| !(c.is_alphanumeric() || c == '-')).any(|word| word == flag)
}

const AGENT: &[(&str, &[&str])] = &[
    ("keygen", &["-o", "--no-passphrase", "--paper", "--x25519"]),
    ("init", &["--recipient", "--recipients-file", "--new-key", "--reader", "--name"]),
    ("enroll", &["--name"]),
    (
        "backup",
        &[
            "-n",
            "-e",
            "--exclude",
            "--exclude-file",
            "--exclude-if-present",
            "--exclude-caches",
            "--exclude-larger-than",
            "-x",
            "--tag",
            "--stdin",
            "--stdin-from-command",
            "--if-due",
            "--skip-if-unchanged",
            "-f",
            "--force",
            "--limit-upload",
        ],
    ),
    ("snapshots", &["--latest", "-H", "--source", "--tag", "--path", "-i"]),
    ("list", &["--latest"]),
    ("ls", &["-l", "--recursive", "-i"]),
    ("find", &["-i"]),
    ("diff", &["-i"]),
    ("dump", &["--format", "-i"]),
    ("stats", &[]),
    (
        "restore",
        &[
            "-t",
            "--target",
            "-i",
            "--include",
            "-e",
            "--overwrite",
            "--delete",
            "-n",
            "--owner",
            "--no-xattrs",
            "--verify",
        ],
    ),
    ("check", &["--read-data", "--restore-test", "-i"]),
    ("status", &["--max-age", "--prometheus"]),
    ("doctor", &[]),
    ("completions", &[]),
    ("vouch", &["-i"]),
    ("rekey", &["--recipient", "--recipients-file", "-i", "-H", "-n"]),
];

const SINK: &[(&str, &[&str])] = &[
    ("init", &["--root"]),
    ("enroll", &["--name", "--install", "--address", "--role", "--quota", "--from", "--of"]),
    ("sources", &[]),
    ("card", &[]),
    ("revoke", &[]),
    ("snapshots", &[]),
    ("retention", &["--keep-within", "-l", "-H", "-d", "-w", "-m", "-y", "--min-age"]),
    ("prune", &["-n", "--now", "--max-remove", "--accept", "--reason"]),
    ("undelete", &[]),
    ("hold", &["--reason"]),
    ("release", &["--reason"]),
    ("observe", &[]),
    ("report", &[]),
    ("rebuild", &[]),
    ("verify", &["--older-than", "--sample", "--limit-read"]),
    ("scrub", &["--sample"]),
    ("status", &["--max-age", "--prometheus"]),
    ("doctor", &[]),
    ("completions", &[]),
    ("serve", &["--root", "--source", "--role"]),
    ("listen", &["--root", "--address"]),
];

const AGENT_EVERYWHERE: &[&str] = &["-c", "--config", "-r", "--remote", "--json", "-v", "-q", "--progress", "--color"];
const SINK_EVERYWHERE: &[&str] = &["--root", "--json", "-v", "-q"];

fn contract(program: &std::path::Path, commands: &[(&str, &[&str])], everywhere: &[&str]) {
    for (command, flags) in commands {
        let help = help(program, &[command]);
        for flag in flags.iter().chain(everywhere) {
            assert!(has_flag(&help, flag), "{command} has no {flag}:\n{help}");
        }
    }
}

#[test]
fn the_agents_commands_and_flags() {
    contract(&programs::source_agent(), AGENT, AGENT_EVERYWHERE);
    let agent = programs::source_agent();
    for (command, words) in [
        ("key", &["recipient", "passphrase", "paper", "recover"][..]),
        ("remote", &["add", "list", "test", "repin", "remove", "accept"]),
        ("trust", &["add", "list", "remove", "forget"]),
        ("config", &["show", "check", "example"]),
    ] {
        for word in words {
            help(&agent, &[command, word]);
        }
    }
}

#[test]
fn the_sinks_commands_and_flags() {
    contract(&programs::remote_sink(), SINK, SINK_EVERYWHERE);
}

#[test]
fn a_source_has_no_command_that_removes() {
    let agent = programs::source_agent();
    for word in ["prune", "forget", "unlock", "delete", "rm", "expire", "purge"] {
        Run::new(&agent).args([word, "--help"]).done().code(2);
    }
    let all: String = AGENT.iter().map(|(command, _)| help(&agent, &[command])).collect();
    for flag in ["--password", "--passphrase", "--time", "--key", "--secret"] {
        assert!(!has_flag(&all, flag), "a secret or a lie as an argument: {flag}");
    }
}

#[test]
fn versions_and_completions() {
    for program in [programs::source_agent(), programs::remote_sink()] {
        Run::new(&program).arg("--version").ok().says("0.");
        for shell in ["bash", "zsh", "fish"] {
            let done = Run::new(&program).args(["completions", shell]).ok();
            assert!(done.stdout.len() > 500, "{}", done.tell());
        }
    }
    let place = tests::Place::new();
    let man = place.dir("man");
    Run::new(programs::source_agent()).arg("man").arg(&man).ok();
    assert!(std::fs::read_dir(&man).unwrap().count() > 10);
}

#[test]
fn the_example_configuration_is_right() {
    let usual = tests::agent::Usual::new();
    usual.source.run().args(["config", "check"]).ok();
    let example = usual.source.run().args(["config", "example"]).ok().out();
    assert!(example.contains("[[remote]]") && example.contains("config-version = 1"), "{example}");
    assert!(!example.contains("keep-"), "retention is the sink's business");
}

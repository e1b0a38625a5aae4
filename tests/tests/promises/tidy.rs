//! Rules of the repository that no compiler holds.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Files of the workspace, as git would see them: no build products.
fn files(below: &str, ending: &str) -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut dirs = vec![root.join(below)];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    dirs.push(path);
                }
            } else if name.ends_with(ending)
                && let Ok(text) = std::fs::read_to_string(&path)
            {
                found.push((path.strip_prefix(&root).unwrap().to_string_lossy().into_owned(), text));
            }
        }
    }
    found.sort();
    found
}

/// Lines of code before the file's own tests, without comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    let before_tests =
        lines.take_while(|(_, line)| !line.starts_with("#[cfg(test)]") && !line.starts_with("mod tests"));
    before_tests.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn is_test(path: &str) -> bool {
    path.starts_with("tests/tests/")
        || path.ends_with("tests.rs")
        || path.contains("/tests/")
        || path.ends_with("fake.rs")
}

/// Every line of these files that holds one of the words.
fn lines_with<'a>(below: &str, words: &'a [&'a str], allowed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files(below, ".rs") {
        if is_test(&path) || allowed.iter().any(|allowed| path == *allowed) {
            continue;
        }
        for (line, text) in code(&text) {
            if words.iter().any(|word| text.contains(word)) {
                found.push(format!("{path}:{line}: {}", text.trim()));
            }
        }
    }
    found
}

#[track_caller]
fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn the_backup_names_nothing_that_opens() {
    let words = ["crypto::open", "crypto::identity", "Identity", "open_session", "open_wraps", "hpke_open"];
    none("backup/ names an opening key", lines_with("source-agent/src/backup", &words, &[]));
}

#[test]
fn opening_is_used_by_the_owners_side_alone() {
    let found = lines_with("source-agent/src", &["crypto::open", "open::open("], &[]);
    let allowed = [
        "source-agent/src/crypto/",
        "source-agent/src/restore/",
        "source-agent/src/owner/",
        "source-agent/src/cli/",
        "source-agent/src/index/",
        "source-agent/src/tree/",
    ];
    none(
        "opening where only the owner's side may",
        found.into_iter().filter(|line| !allowed.iter().any(|path| line.starts_with(path))).collect(),
    );
}

#[test]
fn the_sink_has_no_type_for_plaintext_and_no_key_that_opens() {
    let words = ["source_agent", "aes_gcm", "hpke", "zstd", "argon2", "x25519"];
    none("the sink names something that decrypts", lines_with("remote-sink/src", &words, &[]));
    let manifest = std::fs::read_to_string(root().join("remote-sink/Cargo.toml")).unwrap();
    let dependencies = manifest.split("[dev-dependencies]").next().unwrap();
    for word in ["source-agent", "aes-gcm", "hpke", "zstd", "argon2", "x25519"] {
        assert!(!dependencies.contains(word), "remote-sink depends on {word}");
    }
}

#[test]
fn the_shared_crate_knows_neither_end() {
    let words = ["source_agent", "remote_sink", "std::net", "tokio", "russh", "aes_gcm", "hpke"];
    none("shared names an end, a network or a key that opens", lines_with("shared/src", &words, &[]));
}

#[test]
fn few_files_remove_or_rename() {
    let words = ["remove_file", "remove_dir", "unlinkat", "unlink(", "::rename(", "renameat"];
    let allowed = [
        "shared/src/sys/durable.rs",
        // The only remover of what was published; it comes with retention.
        "remote-sink/src/retention/sweep.rs",
        // Its own file in staging, on file systems without O_TMPFILE.
        "remote-sink/src/store/directory.rs",
        // The number of the call, for the filter.
        "remote-sink/src/confine/seccomp.rs",
        // The file with which it probes a file system.
        "remote-sink/src/cli/doctor.rs",
    ];
    let found = lines_with("remote-sink/src", &words, &allowed);
    none("a file of the sink removes or renames", found);
    none("shared removes elsewhere", lines_with("shared/src", &words, &allowed));
    let agent = lines_with("source-agent/src", &words, &[]);
    let may = [
        "source-agent/src/restore/",
        "source-agent/src/index/",
        "source-agent/src/cli/",
        "source-agent/src/keys.rs",
        "source-agent/src/transport/",
    ];
    let elsewhere = agent.into_iter().filter(|line| !may.iter().any(|path| line.starts_with(path))).collect();
    none("a file of the agent removes or renames where it should not", elsewhere);
}

#[test]
fn no_session_reaches_retention() {
    let words = ["retention::", "journal::", "use crate::retention", "use crate::journal", "Journal"];
    for below in ["remote-sink/src/serve", "remote-sink/src/listen", "remote-sink/src/store"] {
        none("a session names retention or the operator's journal", lines_with(below, &words, &[]));
    }
    let cli = ["remote-sink/src/cli/serve.rs", "remote-sink/src/cli/listen.rs", "remote-sink/src/published.rs"];
    let found = lines_with("remote-sink/src", &words, &[]);
    none(
        "nor does what starts it",
        found.into_iter().filter(|line| cli.iter().any(|file| line.starts_with(file))).collect(),
    );
}

#[test]
fn the_policy_knows_no_time_that_a_source_wrote() {
    let words = ["created", "read_whole", "std::fs", "Clock", "Timestamp::now"];
    let found = lines_with("remote-sink/src/retention", &words, &[]);
    let (policy, others): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|line| line.starts_with("remote-sink/src/retention/policy.rs:"));
    none("the policy is not pure", policy);
    assert!(!others.is_empty(), "the search finds such words where they may stand");
}

#[test]
fn the_serving_code_cannot_replace() {
    let words =
        [".truncate(true)", "O_TRUNC", "OFlags::TRUNC", "File::create(", "fs::write(", "set_len(", "RENAME_EXCHANGE"];
    none("the serving code could overwrite", lines_with("remote-sink/src/serve", &words, &[]));
    none("the store could overwrite", lines_with("remote-sink/src/store", &words, &[]));
}

#[test]
fn only_the_layout_spells_paths_of_the_vault() {
    let words =
        ["\"archives\"", "\"heads\"", "\"bodies\"", "\"receipts\"", "\"envelopes\"", "\"sources\"", "\"owners\""];
    let found = lines_with("remote-sink/src", &words, &["remote-sink/src/store/layout.rs"]);
    // Names of tables and JSON fields are no paths.
    let paths = found.into_iter().filter(|line| line.contains("join(") || line.contains("Path")).collect();
    none("a path of the vault is spelled elsewhere", paths);
}

#[test]
fn nothing_is_left_open() {
    let words = ["todo!", "unimplemented!", "FIXME", "XXX", "#[ignore", "dbg!("];
    let mut found = Vec::new();
    for crate_dir in ["shared/src", "source-agent/src", "remote-sink/src", "fuzz/src", "tests/src"] {
        for (path, text) in files(crate_dir, ".rs") {
            for (at, line) in text.lines().enumerate() {
                if words.iter().any(|word| line.contains(word)) {
                    found.push(format!("{path}:{}: {}", at + 1, line.trim()));
                }
            }
        }
    }
    none("left open", found);
}

#[test]
fn no_unsafe() {
    let word = concat!("un", "safe ");
    // Leases, mallopt and why Landlock is refused, which no safe crate offers; system calls by number, as injected code
    // makes them.
    let allowed = [
        "remote-sink/src/confine/kernel.rs",
        "remote-sink/src/store/lease.rs",
        "remote-sink/tests/confinement/raw.rs",
        "source-agent/src/memory.rs",
    ];
    for below in ["shared", "source-agent", "remote-sink", "tests", "fuzz/src"] {
        for (path, text) in files(below, ".rs") {
            for (line, text) in code(&text) {
                let found = !allowed.contains(&&*path) && text.contains(word) && !text.contains('"');
                assert!(!found, "{path}:{line}: {text}");
            }
        }
    }
}

#[test]
fn files_are_short() {
    let mut found = Vec::new();
    for below in ["shared/src", "source-agent/src", "remote-sink/src", "tests", "fuzz/src"] {
        for (path, text) in files(below, ".rs") {
            let lines = text.lines().count();
            // Tests tell stories; code should not need to.
            let most = if is_test(&path) { 900 } else { 650 };
            if lines > most {
                found.push(format!("{path}: {lines} lines"));
            }
        }
    }
    none("too long", found);
}

#[test]
fn the_project_speaks_of_itself_alone() {
    // Put together here, so that this file does not hold them.
    let words =
        [["/wo", "rk/"].concat(), ["/fa", "rm/"].concat(), [".lib", "rary"].concat(), ["BRIEF", "-AGENT"].concat()];
    let mut found = Vec::new();
    for ending in [".rs", ".md", ".toml", ".sh", ".service", ".timer", ".conf"] {
        for (path, text) in files(".", ending) {
            for (at, line) in text.lines().enumerate() {
                if words.iter().any(|word| line.contains(word.as_str())) {
                    found.push(format!("{path}:{}: {}", at + 1, line.trim()));
                }
            }
        }
    }
    none("paths of one machine", found);
}

#[test]
fn every_module_says_what_it_is() {
    let mut found = Vec::new();
    for below in ["shared/src", "source-agent/src", "remote-sink/src", "tests/src", "fuzz/src"] {
        for (path, text) in files(below, ".rs") {
            if !path.ends_with("main.rs") && !is_test(&path) && !text.trim_start().starts_with("//!") {
                found.push(path);
            }
        }
    }
    none("no head line", found);
}

#[test]
fn the_backups_stages_do_not_name_each_other() {
    // The conductor alone names the stages and their order; model, counts and errors are shared.
    let dir = "source-agent/src/backup";
    let stages: Vec<String> = files(dir, ".rs")
        .iter()
        .filter_map(|(path, _)| Path::new(path).file_stem().map(|stem| stem.to_string_lossy().into_owned()))
        .collect();
    let order = ["walk", "read", "chunk", "identify", "compress", "push", "commit"];
    let mut found = Vec::new();
    for (path, text) in files(dir, ".rs") {
        let own = Path::new(&path).file_stem().unwrap().to_string_lossy().into_owned();
        if own == "mod" || !order.contains(&own.as_str()) {
            continue;
        }
        let later = order.iter().skip_while(|stage| **stage != own).skip(1);
        for stage in later.filter(|stage| stages.iter().any(|found| found == *stage)) {
            let word = format!("backup::{stage}::");
            for (line, text) in code(&text) {
                if text.contains(&word) {
                    found.push(format!("{path}:{line}: {own} names {stage}, which comes after it"));
                }
            }
        }
    }
    none("stages that name later ones", found);
}

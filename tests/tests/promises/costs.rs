//! A guard against slowness that measures no time: system calls and bytes of set work, next to `tests/costs.txt`.
//!
//! More than was written down fails; so does much less, so that what was won is written down and kept. After a change
//! that is meant: `PAWL_WRITE_COSTS=1 cargo test --package tests --test promises costs`, and look at the difference.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use tests::agent::Usual;
use tests::costs::{Counts, count};
use tests::{Chance, tree};

/// What may come on top before it counts as more: a tenth, and a few calls of libraries that differ between machines.
fn most(written: u64) -> u64 {
    written + written / 10 + 12
}

fn figures_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("costs.txt")
}

/// 2,000 small files in 20 directories, 12 MiB that do not compress, 4 MiB that do, an image of 8 MiB.
fn fill(usual: &Usual) -> Chance {
    let mut chance = Chance::new(77);
    for number in 0..2000 {
        let text = chance.text(100 + number * 37 % 2000);
        tree::write(&usual.data.join(format!("dir-{}/file-{number}", number / 100)), &text);
    }
    tree::write(&usual.data.join("noise"), &chance.bytes(12 << 20));
    tree::write(&usual.data.join("text"), &chance.text(4 << 20));
    tree::write(&usual.data.join("disk.img"), &chance.bytes(8 << 20));
    tree::age(&usual.data);
    chance
}

/// A backup; with the bytes that it says it sent.
fn backup(usual: &Usual) -> Counts {
    let words = ["backup".into(), "--json".into(), usual.data.clone().into_os_string()];
    let (mut counts, done) = count(&usual.source, &words, &usual.place.join("strace.log"));
    let summary = done.json().into_iter().rev().find(|line| line["message_type"] == "summary").expect("a summary");
    let sent = summary["remotes"][0]["bytes_sent"].as_u64().expect("bytes sent");
    counts.insert("bytes sent".into(), sent);
    counts
}

fn restore(usual: &Usual) -> Counts {
    let mut words: Vec<OsString> = ["restore", "-q", "-i"].map(OsString::from).into();
    words.push(usual.owner.key.clone().into());
    words.push(format!("latest:{}", usual.data.display()).into());
    words.push("-t".into());
    words.push(usual.place.join("out").into());
    count(&usual.reader, &words, &usual.place.join("strace.log")).0
}

#[test]
fn work_costs_what_was_written_down() {
    let usual = Usual::on_disk();
    let mut chance = fill(&usual);
    let mut found = BTreeMap::new();
    let mut note = |case: &str, counts: Counts| {
        found.extend(counts.into_iter().map(|(name, count)| (format!("{case}: {name}"), count)));
    };
    note("first backup", backup(&usual));
    note("unchanged", backup(&usual));
    for number in (0..2000).step_by(100) {
        tree::write(&usual.data.join(format!("dir-{}/file-{number}", number / 100)), &chance.text(1000));
    }
    note("20 of 2,003 files changed", backup(&usual));
    note("restore", restore(&usual));
    tree::assert_same(&usual.data, &usual.place.join("out"));
    if std::env::var_os("PAWL_WRITE_COSTS").is_some() {
        let lines = found.iter().fold(String::new(), |mut all, (name, count)| {
            let _ = writeln!(all, "{name} {count}");
            all
        });
        return std::fs::write(figures_path(), lines).unwrap();
    }
    compare(&found);
}

/// Judges what was found by what was written down.
fn compare(found: &BTreeMap<String, u64>) {
    let text = std::fs::read_to_string(figures_path()).unwrap();
    let split = |line: &str| line.rsplit_once(' ').map(|(name, count)| (name.to_owned(), count.parse().unwrap()));
    let written: BTreeMap<String, u64> = text.lines().filter_map(split).collect();
    let mut wrong = Vec::new();
    for (name, count) in found {
        let before = written.get(name).copied().unwrap_or(0);
        if *count > most(before) {
            wrong.push(format!("{name}: {count}, was {before}"));
        }
    }
    for (name, before) in &written {
        let now = found.get(name).copied().unwrap_or(0);
        if most(now) < *before {
            wrong.push(format!("{name}: only {now}, was {before}: write it down"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The agent's memory is bounded whatever the data's size (docs/performance.md).
#[test]
fn a_first_backup_takes_no_more_than_150_mib() {
    let usual = Usual::on_disk();
    let mut chance = Chance::new(78);
    for number in 0..3000 {
        let bytes = 1000 + chance.below(60_000) as usize;
        tree::write(&usual.data.join(format!("dir-{}/file-{number}", number / 100)), &chance.text(bytes));
    }
    for number in 0..12 {
        tree::write(&usual.data.join(format!("noise-{number}")), &chance.bytes(16 << 20));
        tree::write(&usual.data.join(format!("text-{number}")), &chance.text(8 << 20));
    }
    let mut child = usual.source.backup(&usual.data).begin();
    let mut most = 0;
    while !child.is_over() {
        most = most.max(tests::load::field(child.id(), "VmHWM:").unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.end().code(0);
    assert!(most > 0 && most <= 150 << 10, "the agent took {} MiB", most >> 10);
}

//! `try-compare EXPECTED FOUND`: says every difference between two trees; exit code 1 if there is one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::ExitCode;
use tests::tree::{Except, differences, read};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [expected, found] = &arguments[..] else {
        eprintln!("usage: try-compare EXPECTED FOUND");
        return ExitCode::from(2);
    };
    if !Path::new(found).exists() {
        println!("{} is not there", Path::new(found).display());
        return ExitCode::FAILURE;
    }
    let owners = !rustix::process::geteuid().is_root();
    let (expected, found) = (read(Path::new(expected)), read(Path::new(found)));
    let all = differences(&expected, &found, Except { top: false, owners });
    for difference in all.iter().take(50) {
        println!("{difference}");
    }
    let bytes: u64 = expected.values().map(|facts| facts.size).sum();
    let what = format!("{} names, {bytes} bytes of files", expected.len());
    if all.is_empty() {
        let note = if owners { " (owners were not compared: only root restores them)" } else { "" };
        println!("equal: {what}{note}");
        return ExitCode::SUCCESS;
    }
    println!("{} differences in {what}", all.len());
    ExitCode::FAILURE
}

//! Code inside the processes of a session tries what it must not be able to (docs/threat-model.md, section "Code in
//! the serving process"). Each case is a process of its own, confined by the functions that `serve` calls.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

mod attacks;
mod inside;
mod raw;
mod scene;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

const CASES: [&str; 6] = ["receiver", "push", "read", "named", "waived", "kernels"];
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--inside") {
        return inside::run(&arguments[at + 1..]);
    }
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let programs = scene::Programs::new();
    let mut failed = 0;
    let root = rustix::process::geteuid().is_root();
    for case in CASES {
        failed += usize::from(!run(&programs, case, None));
        if root {
            failed += usize::from(!run(&programs, case, Some(NOBODY)));
        }
    }
    println!("confinement: {failed} cases failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(programs: &scene::Programs, case: &str, user: Option<u32>) -> bool {
    let place = scene::Place::new(user);
    let mut command = Command::new(programs.test());
    command.arg("--inside").arg(case).arg(place.dir.path()).arg(place.port.to_string()).env_clear();
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let before = place.state();
    let status = command.status().expect("the case starts");
    let whole = place.state() == before;
    let account = user.map_or("this account", |_| "nobody");
    println!("{case} as {account}: {status}{}", if whole { "" } else { ", and objects have changed" });
    status.success() && whole
}

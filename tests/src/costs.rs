//! What work costs, counted: system calls of both programs by strace, bytes by the programs' own words.
//!
//! Counts do not hang on the machine's speed or on what else it does. Calls whose number hangs on timing (waiting,
//! waking, how a pipe splits what goes through it) are left out.

use crate::agent::Agent;
use crate::programs::tool;
use crate::run::Run;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::Path;

/// Counted calls: what is done for each file, directory, archive or session.
const CALLS: [&str; 18] = [
    "openat",
    "openat2",
    "newfstatat",
    "fstat",
    "statx",
    "getdents64",
    "pread64",
    "flistxattr",
    "llistxattr",
    "pwrite64",
    "fsync",
    "fdatasync",
    "linkat",
    "renameat",
    "fchmod",
    "fchown",
    "utimensat",
    "unlinkat",
];

/// Counts by name, such as `sink fsync`.
pub type Counts = BTreeMap<String, u64>;

/// Runs a command of this agent and counts its calls, and those of the sink that it starts. Returns its output too.
#[track_caller]
pub fn count(agent: &Agent, words: &[OsString], log: &Path) -> (Counts, crate::run::Done) {
    let trace = format!("trace={},execve,clone,clone3,fork,vfork", CALLS.join(","));
    let run = Run::new(tool("strace")).env("HOME", &agent.dir);
    let run = run.args(["-f", "-qq", "-s", "64", "-e", "signal=none", "-e", &trace, "-o"]).arg(log).arg("--");
    let done = run.args(agent.command()).args(words).ok();
    (read(&std::fs::read_to_string(log).unwrap()), done)
}

/// Counts the calls of a log of strace, apart for the agent and the sink.
fn read(log: &str) -> Counts {
    let mut parents = HashMap::<&str, &str>::new();
    let mut sinks = Vec::<&str>::new();
    let mut calls = Vec::new();
    for line in log.lines() {
        let Some((process, rest)) = line.split_once(char::is_whitespace) else { continue };
        let rest = rest.trim_start();
        let (begun, resumed) = match rest.strip_prefix("<... ") {
            Some(rest) => (rest.split(' ').next().unwrap_or_default(), true),
            None => (rest.split('(').next().unwrap_or_default(), false),
        };
        match begun {
            "clone" | "clone3" | "fork" | "vfork" => {
                if let Some((_, child)) = rest.rsplit_once(" = ") {
                    parents.insert(child.trim(), process);
                }
            }
            "execve" if rest.contains("/remote-sink\"") => sinks.push(process),
            call if !resumed && CALLS.contains(&call) => calls.push((process, call)),
            _ => {}
        }
    }
    let mut counts = Counts::new();
    for (process, call) in calls {
        let line = std::iter::successors(Some(process), |process| parents.get(*process).copied());
        let who = if line.into_iter().any(|process| sinks.contains(&process)) { "sink" } else { "agent" };
        *counts.entry(format!("{who} {call}")).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    #[test]
    fn calls_are_counted_apart() {
        let log = "10 execve(\"/x/source-agent\", [\"source-agent\"]) = 0\n\
                   10 openat(AT_FDCWD, \"a\", O_RDONLY) = 3\n\
                   10 clone3({flags=CLONE_VM}, 88 <unfinished ...>\n\
                   11 openat(AT_FDCWD, \"b\", O_RDONLY <unfinished ...>\n\
                   10 <... clone3 resumed> => {parent_tid=[11]}, 88) = 11\n\
                   11 <... openat resumed>) = 4\n\
                   11 vfork( <unfinished ...>\n\
                   12 execve(\"/x/remote-sink\", [\"remote-sink\"]) = 0\n\
                   11 <... vfork resumed>) = 12\n\
                   12 clone(child_stack=NULL) = 13\n\
                   13 fsync(5) = 0\n\
                   12 fsync(5) = 0\n";
        let counts = super::read(log);
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("agent openat".into(), 2), ("sink fsync".into(), 2)]);
    }
}

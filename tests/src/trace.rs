//! Faults at system calls, injected by strace: a kill, or an error, at the n-th call.

use crate::programs::tool;
use crate::run::Run;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What happens at a system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Name of the call, or several with commas.
    pub call: &'static str,
    /// `signal=KILL`, `error=EIO`, `error=ENOSPC`. With `error` alone the call does nothing; strace has no error after
    /// the effect, so kills stand for those.
    pub what: &'static str,
    /// At the n-th such call of a thread, counted from 1.
    pub when: u32,
}

impl Fault {
    fn options(&self) -> [String; 2] {
        let sets = |call: &str| format!("inject={call}:{}:when={}", self.what, self.when);
        [format!("trace={}", self.call), sets(self.call)]
    }

    /// Puts strace before a command. The log tells whether the fault happened.
    pub fn run(&self, command: &[OsString], log: &Path) -> Run {
        let [trace, inject] = self.options();
        let run = Run::new(tool("strace")).args(["-f", "-qq", "-o"]).arg(log);
        run.args(["-e", &trace, "-e", &inject, "--"]).args(command)
    }

    /// A script that stands where `program` is expected and runs it with this fault.
    pub fn script(&self, at: &Path, program: &Path, log: &Path) {
        let [trace, inject] = self.options();
        let strace = tool("strace");
        let text = format!(
            "#!/bin/sh\nexec {} -f -qq -o {} -e {trace} -e {inject} -- {} \"$@\"\n",
            strace.display(),
            log.display(),
            program.display()
        );
        crate::programs::script(at, &text);
    }
}

/// Did the fault happen?
pub fn happened(log: &Path) -> bool {
    std::fs::read_to_string(log).is_ok_and(|text| text.contains("(INJECTED)") || text.contains("killed by SIGKILL"))
}

/// How often each thread made this call, at most: the last useful `when`.
pub fn calls(log: &Path, call: &str) -> u32 {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let mut counts = std::collections::HashMap::<&str, u32>::new();
    let start = format!("{call}(");
    for line in text.lines() {
        if let Some((thread, rest)) = line.split_once(char::is_whitespace)
            && rest.trim_start().starts_with(&start)
        {
            *counts.entry(thread).or_default() += 1;
        }
    }
    counts.into_values().max().unwrap_or(0)
}

/// A directory with both programs, where `remote-sink` can be swapped for a script.
#[derive(Debug)]
pub struct Bench {
    pub agent: PathBuf,
    pub sink: PathBuf,
    pub real_sink: PathBuf,
    pub log: PathBuf,
}

impl Bench {
    pub fn new(dir: &Path) -> Self {
        let (bin, real) = (dir.join("bin"), dir.join("real"));
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(&real).unwrap();
        let agent = crate::programs::source_agent_in(&bin);
        let real_sink = crate::programs::remote_sink_in(&real);
        let bench = Self { agent, sink: bin.join("remote-sink"), real_sink, log: dir.join("strace.log") };
        bench.no_fault();
        bench
    }
    pub fn no_fault(&self) {
        let _ = std::fs::remove_file(&self.sink);
        std::fs::hard_link(&self.real_sink, &self.sink).unwrap();
    }
    /// The next sessions of the sink have this fault.
    pub fn fault_in_sink(&self, fault: &Fault) {
        let _ = std::fs::remove_file(&self.log);
        fault.script(&self.sink, &self.real_sink, &self.log);
    }
    /// `PATH` for an agent that looks there.
    pub fn path(&self) -> String {
        format!("{}:/usr/bin:/bin", self.sink.parent().expect("bin").display())
    }
}

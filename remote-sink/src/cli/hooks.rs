//! `[hooks] on-alert`: programs that are told when something is out of the ordinary.

use super::Context;
use crate::config::Hooks;
use shared::id::SourceName;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A hook may run so long when nothing else is configured.
const HOOK_SECONDS: u64 = 60;

/// Runs the alert hooks: argument lists without a shell; what happened, to which source, and in which words stands in the
/// environment. A hook that fails is told and stops nothing.
pub fn call(hooks: &Hooks, (what, source, message): (&str, &SourceName, &str), context: &Context<'_>) {
    let limit = Duration::from_secs(hooks.timeout.map_or(HOOK_SECONDS, |age| age.seconds()));
    for argv in &hooks.on_alert {
        let Some((program, args)) = argv.split_first() else { continue };
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
        command.env("ALERT", what).env("SOURCE", source.as_str()).env("MESSAGE", message);
        if let Err(e) = run(command, limit) {
            context.warn(format!("the alert hook {program}: {e}"));
        }
    }
}

fn run(mut command: Command, limit: Duration) -> Result<(), String> {
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let end = Instant::now() + limit;
    loop {
        match child.try_wait().map_err(|e| e.to_string())? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(status.to_string()),
            None if Instant::now() >= end => {
                // Our own child; it may have ended at this very moment.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it ran longer than {} s and was ended", limit.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

//! Results on standard output, failures on standard error, as text or JSON lines.

use crate::cli::{Context, When};
use crate::progress::above_bars;
use crate::report::{Exit, Failure, Outcome};
use std::io::{self, IsTerminal, Write};

/// The code of the failure that is not told to anybody: whoever read the output went away.
pub(super) const STDOUT_CLOSED: &str = "stdout-closed";

/// Writes text to standard output. A closed standard output ends the command quietly.
pub fn print_text(text: &str) -> Outcome<()> {
    let write = || {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush())
    };
    above_bars(write).map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Failure::new(STDOUT_CLOSED, Exit::Failed, "standard output was closed"),
        io::ErrorKind::StorageFull => Failure::new("stdout", Exit::Full, format!("cannot write the output: {e}")),
        _ => Failure::new("stdout", Exit::Failed, format!("cannot write the output: {e}")),
    })
}

/// Writes one line of results to standard output.
pub fn print_line(line: &str) -> Outcome<()> {
    print_text(&format!("{line}\n"))
}

/// A name as JSON: itself where it is UTF-8, else as near as UTF-8 comes, and the bytes in hex under `KEY_bytes`.
pub fn put_name(value: &mut serde_json::Value, key: &str, name: &[u8]) {
    value[key] = String::from_utf8_lossy(name).into();
    if std::str::from_utf8(name).is_err() {
        value[format!("{key}_bytes")] = shared::text::hex(name).into();
    }
}

/// Writes one JSON line to standard output.
pub fn print_json(value: &serde_json::Value) -> Outcome<()> {
    print_line(&value.to_string())
}

pub(super) fn to_stderr(line: &str) {
    above_bars(|| {
        // Standard error may be closed; the exit code still tells.
        let _ = writeln!(io::stderr().lock(), "{line}");
    });
}

/// May this stream have colours? `--color`, then `NO_COLOR`, then whether it is a terminal.
pub fn coloured(context: &Context, stream: &impl IsTerminal) -> bool {
    match context.color {
        When::Always => true,
        When::Never => false,
        When::Auto => std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && stream.is_terminal(),
    }
}

/// A failure as JSON: restic's `exit_error`, with our stable short code, remote and help beside it.
pub(super) fn failure_json(failure: &Failure) -> serde_json::Value {
    serde_json::json!({
        "message_type": "exit_error",
        "code": failure.exit as u8,
        "error": failure.code,
        "message": failure.message,
        "remote": failure.remote,
        "details": failure.details,
        "help": failure.advice(),
    })
}

pub(super) fn eprint_failure(failure: &Failure, context: &Context) {
    if context.json {
        return to_stderr(&failure_json(failure).to_string());
    }
    let text = failure.to_string();
    if !coloured(context, &io::stderr()) {
        return to_stderr(&text);
    }
    let head = format!("error[{}]", failure.code);
    to_stderr(&text.replacen(&head, &format!("\x1b[1;31m{head}\x1b[0m"), 1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_as_json_is_the_name() {
        let mut value = serde_json::json!({});
        put_name(&mut value, "name", b"a\nb\\");
        put_name(&mut value, "path", b"/\xff\xfe");
        let expected = serde_json::json!({"name": "a\nb\\", "path": "/\u{fffd}\u{fffd}", "path_bytes": "2ffffe"});
        assert_eq!(value, expected);
    }

    #[test]
    fn a_failure_as_json_holds_everything() {
        let failure = Failure::new("ssh-hostkey", Exit::Unreachable, "the host key is not the pinned one")
            .remote("offsite")
            .detail("pinned x")
            .help("source-agent remote repin offsite");
        let json = failure_json(&failure);
        assert_eq!(json["message_type"], "exit_error");
        assert_eq!(json["code"], 14);
        assert_eq!(json["error"], "ssh-hostkey");
        assert_eq!(json["remote"], "offsite");
        assert_eq!(json["help"], "source-agent remote repin offsite");
    }
}

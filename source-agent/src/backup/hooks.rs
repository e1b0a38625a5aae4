//! Around a run: hooks, notifications, metrics. None of them gets a path or a file name of what is backed up.

use crate::config::{Hooks, Loaded, Notify, NotifyKind, NotifyState};
use crate::report::{Exit, Failure, Outcome};
use shared::sys::durable;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A hook that runs longer is ended.
const HOOK_TIME: Duration = Duration::from_secs(600);
/// A notification that takes longer is given up.
const NOTIFY_SECONDS: u64 = 20;

/// How a run ended, for those outside.
#[derive(Debug, Clone, Default)]
pub struct Ending {
    pub exit: u8,
    /// Snapshot ids, one for each remote that has one.
    pub snapshots: Vec<String>,
    pub remotes: Vec<String>,
    /// One line.
    pub summary: String,
}

impl Ending {
    fn result(&self) -> &'static str {
        match self.exit {
            0 => "success",
            3 | 4 => "warning",
            _ => "failure",
        }
    }
    fn is_failure(&self) -> bool {
        self.result() == "failure"
    }
}

fn wait(child: &mut std::process::Child, longest: Duration) -> std::io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() >= longest {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs one hook to its end, or to its time's end.
fn hook(argv: &[String], ending: Option<&Ending>, longest: Duration) -> Result<(), String> {
    let Some((program, arguments)) = argv.split_first() else { return Err("is empty".into()) };
    let mut command = Command::new(program);
    // A group of its own: what it started ends with it.
    command.args(arguments).stdin(Stdio::null()).process_group(0);
    if let Some(ending) = ending {
        command.env("RESULT", ending.result()).env("EXIT_CODE", ending.exit.to_string());
        command.env("SNAPSHOT", ending.snapshots.join(" ")).env("REMOTE", ending.remotes.join(" "));
    }
    // What a hook prints is no result of ours.
    command.stdout(std::io::stderr());
    let mut child = command.spawn().map_err(|e| format!("cannot be started: {e}"))?;
    match wait(&mut child, longest).map_err(|e| e.to_string())? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("failed: {status}")),
        None => {
            if let Some(group) = rustix::process::Pid::from_raw(child.id() as i32) {
                // It may have ended this very moment.
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = child.wait();
            Err(format!("took longer than {} s and was ended", longest.as_secs()))
        }
    }
}

fn longest(hooks: &Hooks) -> Duration {
    hooks.timeout.map_or(HOOK_TIME, |timeout| timeout.duration())
}

/// Hooks before a run: the first that fails ends it.
pub fn before(hooks: &Hooks) -> Outcome<()> {
    for argv in &hooks.before {
        hook(argv, None, longest(hooks)).map_err(|why| {
            Failure::new(
                "hook-before",
                Exit::Failed,
                format!("the hook '{}' {why}; nothing was backed up", argv.join(" ")),
            )
        })?;
    }
    Ok(())
}

/// Hooks after a run; returns what went wrong with them, which changes nothing.
pub fn after(hooks: &Hooks, ending: &Ending) -> Vec<String> {
    let chosen = if ending.is_failure() { &hooks.after_failure } else { &hooks.after_success };
    let run = |argv: &Vec<String>| {
        let done = hook(argv, Some(ending), longest(hooks));
        done.err().map(|why| format!("the hook '{}' {why}", argv.join(" ")))
    };
    chosen.iter().chain(&hooks.finally).filter_map(run).collect()
}

/// Tells those who want to know; `None`: the run begins. Returns what went wrong.
pub fn notify(loaded: &Loaded, ending: Option<&Ending>) -> Vec<String> {
    let state = match ending {
        None => NotifyState::Start,
        Some(ending) if ending.is_failure() => NotifyState::Fail,
        Some(_) => NotifyState::Success,
    };
    let wanted = |notify: &&Notify| {
        let always = notify.states.is_empty() && (ending.is_some() || notify.kind == NotifyKind::Healthchecks);
        always || notify.states.contains(&state)
    };
    loaded.config.notify.iter().filter(wanted).filter_map(|notify| tell(loaded, notify, ending).err()).collect()
}

fn secret(loaded: &Loaded, file: &Path) -> Result<String, String> {
    let path = loaded.resolve(file);
    let text = std::fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    Ok(text.trim().to_owned())
}

fn tell(loaded: &Loaded, notify: &Notify, ending: Option<&Ending>) -> Result<(), String> {
    let base = match (&notify.url, &notify.url_file) {
        (_, Some(file)) => secret(loaded, file)?,
        (Some(url), None) => url.clone(),
        (None, None) => return Err("a notification has neither url nor url-file".into()),
    };
    let base = base.trim_end_matches('/');
    let url = match (notify.kind, ending) {
        (NotifyKind::Healthchecks, None) => format!("{base}/start"),
        (NotifyKind::Healthchecks, Some(ending)) => format!("{base}/{}", ending.exit),
        (NotifyKind::Ntfy, _) => match &notify.topic_file {
            Some(file) => format!("{base}/{}", secret(loaded, file)?),
            None => base.to_owned(),
        },
    };
    let body = ending.map_or("backup begins", |ending| ending.summary.as_str());
    curl(&url, body)
}

/// A text as curl's configuration quotes it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The address is a secret: it goes to curl's standard input, never into its arguments.
fn curl(url: &str, body: &str) -> Result<(), String> {
    let script = format!(
        "url = {}\ndata-binary = {}\nmax-time = {NOTIFY_SECONDS}\nsilent\nfail\noutput = /dev/null\n",
        quoted(url),
        // A body that begins with '@' would be read from a file.
        quoted(body.trim_start_matches('@')),
    );
    let mut child = Command::new("curl")
        .args(["-q", "-K", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("notifications need curl: {e}"))?;
    if let Some(mut input) = child.stdin.take() {
        // If curl ended early its status says more.
        let _ = input.write_all(script.as_bytes());
    }
    match wait(&mut child, Duration::from_secs(NOTIFY_SECONDS + 5)) {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(format!("a notification failed: curl: {status}")),
        Ok(None) | Err(_) => {
            let _ = child.kill();
            let _ = child.wait();
            Err("a notification took too long".into())
        }
    }
}

/// The numbers of a run.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub exit: u8,
    pub seconds: f64,
    pub bytes_read: u64,
    pub files: u64,
    pub unreadable: u64,
    /// Name, bytes sent, and time of the last snapshot that the remote acknowledged.
    pub remotes: Vec<(String, u64, Option<i64>)>,
}

fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Metrics {
    /// In the text format of Prometheus, without time stamps.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let mut one = |name: &str, help: &str, lines: Vec<(String, String)>| {
            if !lines.is_empty() {
                out.push_str(&format!("# HELP source_agent_{name} {help}\n# TYPE source_agent_{name} gauge\n"));
            }
            for (labels, value) in lines {
                out.push_str(&format!("source_agent_{name}{labels} {value}\n"));
            }
        };
        let remote = |name: &str| format!("{{remote=\"{}\"}}", label(name));
        let plain = |value: String| vec![(String::new(), value)];
        let last = self.remotes.iter().filter_map(|(name, _, at)| at.map(|at| (remote(name), at.to_string())));
        one("last_success_timestamp_seconds", "Last acknowledged snapshot.", last.collect());
        one("last_run_exit_code", "Exit code of the last run.", plain(self.exit.to_string()));
        one("last_duration_seconds", "Duration of the last run.", plain(format!("{:.3}", self.seconds)));
        one("bytes_read", "Bytes read by the last run.", plain(self.bytes_read.to_string()));
        let sent = self.remotes.iter().map(|(name, bytes, _)| (remote(name), bytes.to_string()));
        one("bytes_sent", "Bytes sent by the last run.", sent.collect());
        one("files", "Files of the last snapshot.", plain(self.files.to_string()));
        one("unreadable_files", "Paths that could not be read.", plain(self.unreadable.to_string()));
        let version = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
        one("build_info", "The program.", vec![(version, "1".into())]);
        out
    }

    /// Replaces the file as a whole: a collector never reads half of it.
    pub fn write(&self, path: &Path) -> Outcome<()> {
        durable::replace(path, self.render().as_bytes(), durable::PUBLIC).map_err(|e| Failure::io("write", path, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn hooks_know_the_result_and_are_ended_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("out");
        let script = format!("echo $RESULT $EXIT_CODE $SNAPSHOT $REMOTE > {}", file.display());
        let hooks = Hooks { after_failure: vec![argv(&["sh", "-c", &script])], ..Hooks::default() };
        let ending =
            Ending { exit: 15, snapshots: vec!["ab".into()], remotes: vec!["x".into()], summary: String::new() };
        assert!(after(&hooks, &ending).is_empty());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "failure 15 ab x\n");
        let begun = Instant::now();
        assert!(hook(&argv(&["sh", "-c", "sleep 20 & sleep 20"]), None, Duration::from_millis(100)).is_err());
        assert!(begun.elapsed() < Duration::from_secs(5));
        let failing = Hooks { before: vec![argv(&["false"])], ..Hooks::default() };
        assert_eq!(before(&failing).unwrap_err().code, "hook-before");
        assert!(before(&Hooks { before: vec![argv(&["true"])], ..Hooks::default() }).is_ok());
    }

    #[test]
    fn curl_gets_no_open_quote() {
        assert_eq!(quoted("a\"b\\c\nd\re"), "\"a\\\"b\\\\c\\nd e\"");
    }

    #[test]
    fn metrics_are_what_the_collector_reads() {
        let metrics = Metrics { exit: 3, remotes: vec![("o\"f".into(), 5, Some(7))], ..Metrics::default() };
        let text = metrics.render();
        assert!(text.contains("source_agent_last_success_timestamp_seconds{remote=\"o\\\"f\"} 7\n"));
        assert!(text.contains("source_agent_last_run_exit_code 3\n"));
        assert!(text.contains("source_agent_bytes_sent{remote=\"o\\\"f\"} 5\n"));
    }
}

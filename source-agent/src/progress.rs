//! Progress and notes on standard error: bars on a terminal, one line a minute and on SIGUSR1 off it, JSON status
//! lines (restic's names) on standard output with `--json`.

use crate::cli::{Context, When};
use crate::config::{Log, LogFormat, LogLevel};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// Between two lines off a terminal.
const LINE_EVERY: Duration = Duration::from_secs(60);
/// Between two lines off a terminal with `--progress always`.
const LINE_OFTEN: Duration = Duration::from_secs(1);
/// Between two looks of the reporting thread.
const TICK: Duration = Duration::from_millis(200);
/// "Not known", for totals.
const UNKNOWN: u64 = u64::MAX;

/// One counter that is shown. Cheap to add to from many threads; clones count together.
#[derive(Clone)]
pub struct Progress {
    inner: Arc<Inner>,
}

/// How a counter is shown.
enum Show {
    Hidden,
    Bar(ProgressBar),
    Lines { json: bool, every: Duration },
}

struct Inner {
    what: String,
    started: Instant,
    bytes: AtomicU64,
    bytes_total: AtomicU64,
    files: AtomicU64,
    files_total: AtomicU64,
    message: Mutex<String>,
    show: Show,
    last: Mutex<Last>,
    finished: AtomicBool,
}

/// What the last line said.
struct Last {
    at: Instant,
    bytes: u64,
}

impl Progress {
    /// `what` names the line: `reading`, `offsite`. `total` in bytes, when known.
    pub fn new(context: &Context, what: &str, total: Option<u64>) -> Self {
        let progress = Self::with(what, total, show(context, what));
        if !matches!(progress.inner.show, Show::Hidden) {
            report(&progress.inner);
        }
        progress
    }

    /// Shows nothing; for tests and library users.
    pub fn hidden() -> Self {
        Self::with("", None, Show::Hidden)
    }

    fn with(what: &str, total: Option<u64>, show: Show) -> Self {
        let started = Instant::now();
        let inner = Inner {
            what: what.to_owned(),
            started,
            bytes: AtomicU64::new(0),
            bytes_total: AtomicU64::new(total.unwrap_or(UNKNOWN)),
            files: AtomicU64::new(0),
            files_total: AtomicU64::new(UNKNOWN),
            message: Mutex::new(String::new()),
            show,
            last: Mutex::new(Last { at: started, bytes: 0 }),
            finished: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Does anybody see it?
    pub fn is_shown(&self) -> bool {
        !matches!(self.inner.show, Show::Hidden)
    }
    /// Bytes done since the last call.
    pub fn add(&self, bytes: u64) {
        self.inner.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
    /// Bytes to do in all.
    pub fn set_total(&self, bytes: u64) {
        self.inner.bytes_total.store(bytes, Ordering::Relaxed);
    }
    /// Files done since the last call.
    pub fn files(&self, count: u64) {
        self.inner.files.fetch_add(count, Ordering::Relaxed);
    }
    /// Files to do in all.
    pub fn set_total_files(&self, count: u64) {
        self.inner.files_total.store(count, Ordering::Relaxed);
    }
    /// What is being done now, such as a path; shown on a terminal and in JSON, and put into words only there.
    pub fn message(&self, text: impl FnOnce() -> String) {
        // A line off a terminal has no room for it.
        if matches!(self.inner.show, Show::Hidden | Show::Lines { json: false, .. }) {
            return;
        }
        // A reporter that reads it right now is no reason to wait: the next message follows.
        if let Some(mut message) = self.inner.message.try_lock() {
            *message = text();
        }
    }
    pub fn bytes_done(&self) -> u64 {
        self.inner.bytes.load(Ordering::Relaxed)
    }
    pub fn files_done(&self) -> u64 {
        self.inner.files.load(Ordering::Relaxed)
    }
    pub fn elapsed(&self) -> Duration {
        self.inner.started.elapsed()
    }
    /// Takes the line away. Dropping the last clone does the same.
    pub fn finish(&self) {
        self.inner.finish();
    }
}

fn show(context: &Context, what: &str) -> Show {
    if context.quiet || context.progress == When::Never {
        return Show::Hidden;
    }
    let often = context.progress == When::Always;
    let every = if often { LINE_OFTEN } else { LINE_EVERY };
    if context.json {
        return Show::Lines { json: true, every };
    }
    if !std::io::stderr().is_terminal() {
        return Show::Lines { json: false, every };
    }
    let bar = ProgressBar::no_length().with_style(style(false)).with_prefix(what.to_owned());
    Show::Bar(bars().add(bar))
}

/// What a bar looks like, with a known total or without. All but the message fits into 80 columns.
fn style(total: bool) -> ProgressStyle {
    let template = if total {
        "{prefix:10} {bar:10} {percent:>3}%  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left  {wide_msg}"
    } else {
        "{prefix:10} {binary_bytes}  {binary_bytes_per_sec}  {elapsed}  {wide_msg}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Inner {
    fn total(value: &AtomicU64) -> Option<u64> {
        Some(value.load(Ordering::Relaxed)).filter(|total| *total != UNKNOWN)
    }

    fn finish(&self) {
        if self.finished.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Show::Bar(bar) = &self.show {
            bar.finish_and_clear();
            bars().remove(bar);
        }
    }

    /// Shows the present state, if it is time; `now` asks for a line at once.
    fn tick(&self, now: bool) {
        if self.finished.load(Ordering::Relaxed) {
            return;
        }
        match &self.show {
            Show::Hidden => {}
            Show::Bar(bar) => self.draw(bar),
            Show::Lines { json, every } => {
                let mut last = self.last.lock();
                if !now && last.at.elapsed() < *every {
                    return;
                }
                let bytes = self.bytes.load(Ordering::Relaxed);
                let rate = rate(bytes.saturating_sub(last.bytes), last.at.elapsed());
                *last = Last { at: Instant::now(), bytes };
                if *json {
                    // A reader that went away is found out when the results are written.
                    let _ = writeln!(std::io::stdout().lock(), "{}", self.json(rate));
                } else {
                    to_stderr(&self.line(rate));
                }
            }
        }
    }

    fn draw(&self, bar: &ProgressBar) {
        if let Some(total) = Self::total(&self.bytes_total)
            && bar.length() != Some(total)
        {
            bar.set_style(style(true));
            bar.set_length(total);
        }
        let files = self.files.load(Ordering::Relaxed);
        let files = if files > 0 { format!("{}  ", counted(files, "file")) } else { String::new() };
        let message = self.message.lock().clone();
        bar.set_message(format!("{files}{}", shared::text::printable(message.as_bytes(), 200)));
        bar.set_position(self.bytes.load(Ordering::Relaxed));
    }

    /// Seconds left at the rate of the whole run.
    fn seconds_left(&self) -> Option<u64> {
        let total = Self::total(&self.bytes_total)?;
        let done = self.bytes.load(Ordering::Relaxed);
        let elapsed = self.started.elapsed().as_secs();
        let left = u128::from(total.saturating_sub(done)) * u128::from(elapsed);
        u64::try_from(left.checked_div(u128::from(done))?).ok()
    }

    /// Per mille of the bytes, or of the files where no bytes are known.
    fn per_mille(&self) -> Option<u64> {
        let share = |done: &AtomicU64, total: Option<u64>| {
            let done = u128::from(done.load(Ordering::Relaxed));
            let total = u128::from(total.filter(|total| *total > 0)?);
            u64::try_from((done * 1000 / total).min(1000)).ok()
        };
        share(&self.bytes, Self::total(&self.bytes_total))
            .or_else(|| share(&self.files, Self::total(&self.files_total)))
    }

    fn line(&self, rate: u64) -> String {
        let mut line = format!("{:<10}", self.what);
        if let Some(share) = self.per_mille() {
            line.push_str(&format!("  {}.{} %", share / 10, share % 10));
        }
        let (files, files_total) = (self.files.load(Ordering::Relaxed), Self::total(&self.files_total));
        match files_total {
            Some(total) => line.push_str(&format!("  {} of {}", count(files), counted(total, "file"))),
            None if files > 0 => line.push_str(&format!("  {}", counted(files, "file"))),
            None => {}
        }
        let bytes = self.bytes.load(Ordering::Relaxed);
        match Self::total(&self.bytes_total) {
            Some(total) => line.push_str(&format!("  {} of {}", size(bytes), size(total))),
            None => line.push_str(&format!("  {}", size(bytes))),
        }
        line.push_str(&format!("  {}/s  {}", size(rate), elapsed(self.started.elapsed())));
        if let Some(left) = self.seconds_left() {
            line.push_str(&format!("  {} left", elapsed(Duration::from_secs(left))));
        }
        line
    }

    fn json(&self, rate: u64) -> serde_json::Value {
        let share = self.per_mille().unwrap_or(0);
        #[allow(clippy::cast_precision_loss)]
        let percent_done = share as f64 / 1000.0;
        let mut value = serde_json::json!({
            "message_type": "status",
            "what": self.what,
            "seconds_elapsed": self.started.elapsed().as_secs(),
            "percent_done": percent_done,
            "bytes_done": self.bytes.load(Ordering::Relaxed),
            "files_done": self.files.load(Ordering::Relaxed),
            "bytes_per_second": rate,
        });
        let mut put = |name: &str, number: Option<u64>| {
            if let Some(number) = number {
                value[name] = number.into();
            }
        };
        put("seconds_remaining", self.seconds_left());
        put("total_bytes", Self::total(&self.bytes_total));
        put("total_files", Self::total(&self.files_total));
        let message = self.message.lock();
        if !message.is_empty() {
            value["current_files"] = serde_json::json!([message.as_str()]);
        }
        value
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Everything that is being shown; one thread looks at it.
static SHOWN: OnceLock<Mutex<Vec<Weak<Inner>>>> = OnceLock::new();
/// A line was asked for (SIGUSR1).
static POKED: AtomicBool = AtomicBool::new(false);
static BARS: OnceLock<MultiProgress> = OnceLock::new();

fn bars() -> &'static MultiProgress {
    BARS.get_or_init(MultiProgress::new)
}

/// Writes a line of each counter soon, as SIGUSR1 asks.
pub fn poke() {
    POKED.store(true, Ordering::Relaxed);
}

fn report(inner: &Arc<Inner>) {
    let mut first = false;
    let shown = SHOWN.get_or_init(|| {
        first = true;
        Mutex::new(Vec::new())
    });
    shown.lock().push(Arc::downgrade(inner));
    if first {
        // Without the thread the work goes on, unshown.
        let _ = std::thread::Builder::new().name("progress".into()).spawn(move || {
            loop {
                std::thread::sleep(TICK);
                let now = POKED.swap(false, Ordering::Relaxed);
                let alive: Vec<Arc<Inner>> = {
                    let mut all = shown.lock();
                    all.retain(|weak| weak.strong_count() > 0);
                    all.iter().filter_map(Weak::upgrade).collect()
                };
                alive.iter().for_each(|inner| inner.tick(now));
            }
        });
    }
}

/// Runs `write` while no bar is on the screen.
pub(crate) fn above_bars<T>(write: impl FnOnce() -> T) -> T {
    match BARS.get() {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

fn to_stderr(line: &str) {
    above_bars(|| {
        // Standard error may be closed; nothing is left to say it on.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    });
}

/// Importance of a line, as syslog numbers it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Importance {
    Warning = 4,
    Notice = 5,
    Debug = 7,
}

/// `[log]`, as far as the lines here go.
#[derive(Clone, Copy)]
struct LogSettings {
    level: LogLevel,
    journald: bool,
}

static LOG: Mutex<LogSettings> = Mutex::new(LogSettings { level: LogLevel::Info, journald: false });

/// Takes `[log]` of the configuration into use. `-q`, `-v` and `--json` go before it.
pub fn set_log(log: &Log) {
    let journald = match log.format.unwrap_or(LogFormat::Auto) {
        LogFormat::Journald => true,
        // systemd names the stream when standard error is the journal.
        LogFormat::Auto => std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal(),
        LogFormat::Text | LogFormat::Json => false,
    };
    if log.format == Some(LogFormat::Json) {
        LOG_JSON.store(true, Ordering::Relaxed);
    }
    *LOG.lock() = LogSettings { level: log.level.unwrap_or(LogLevel::Info), journald };
}

/// `[log] format = "json"`: lines on standard error are JSON though results are not.
static LOG_JSON: AtomicBool = AtomicBool::new(false);

fn wanted(context: &Context, importance: Importance) -> bool {
    let level = LOG.lock().level;
    match importance {
        Importance::Warning => level != LogLevel::Error || context.verbose > 0,
        Importance::Notice if context.quiet => false,
        Importance::Notice => matches!(level, LogLevel::Info | LogLevel::Debug) || context.verbose > 0,
        Importance::Debug => !context.quiet && (level == LogLevel::Debug || context.verbose > 0),
    }
}

fn log(context: &Context, importance: Importance, line: &str) {
    if !wanted(context, importance) {
        return;
    }
    if LOG_JSON.load(Ordering::Relaxed) {
        let kind = if importance == Importance::Warning { "error" } else { "notice" };
        to_stderr(&serde_json::json!({"message_type": kind, "message": line}).to_string());
    } else if LOG.lock().journald {
        let prefix = importance as u8;
        line.lines().for_each(|line| to_stderr(&format!("<{prefix}>{line}")));
    } else if importance == Importance::Warning {
        to_stderr(&format!("warning: {line}"));
    } else {
        to_stderr(line);
    }
}

/// A line for people on standard error; silent with `-q` and `--json`.
pub fn notice(context: &Context, line: &str) {
    if !context.json {
        log(context, Importance::Notice, line);
    }
}

/// A line with `-v` only.
pub fn detail(context: &Context, line: &str) {
    if !context.json {
        log(context, Importance::Debug, line);
    }
}

/// A warning on standard error; with `--json` a line of message type "error".
pub fn warn(context: &Context, line: &str) {
    if context.json {
        to_stderr(&error_json("", "", line).to_string());
    } else {
        log(context, Importance::Warning, line);
    }
}

/// A warning about one item, such as a file: `during` is `scan`, `archival`, `restore` … as restic says.
pub fn warn_item(context: &Context, during: &str, item: &str, line: &str) {
    if context.json {
        to_stderr(&error_json(during, item, line).to_string());
    } else {
        log(context, Importance::Warning, &format!("{}: {line}", shared::text::printable(item.as_bytes(), 4096)));
    }
}

/// A warning about one path: with `--json` the path as it is.
pub fn warn_path(context: &Context, during: &str, path: &[u8], line: &str) {
    if context.json {
        let mut value = error_json(during, "", line);
        crate::cli::put_name(&mut value, "item", path);
        to_stderr(&value.to_string());
    } else {
        log(context, Importance::Warning, &format!("{}: {line}", shared::text::printable(path, 8192)));
    }
}

fn error_json(during: &str, item: &str, line: &str) -> serde_json::Value {
    serde_json::json!({"message_type": "error", "error": {"message": line}, "during": during, "item": item})
}

fn rate(bytes: u64, time: Duration) -> u64 {
    let millis = time.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / millis).unwrap_or(u64::MAX)
}

/// A size as people read it: `311 KiB`, `6.21 GiB`; three figures.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && (bytes >> (10 * unit)) >= 1024 {
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    let hundredths = u128::from(bytes) * 100 / (1u128 << (10 * unit));
    let text = match hundredths {
        0..1_000 => format!("{}.{:02}", hundredths / 100, hundredths % 100),
        1_000..10_000 => format!("{}.{}", hundredths / 100, hundredths % 100 / 10),
        _ => format!("{}", hundredths / 100),
    };
    format!("{text} {}", UNITS[unit])
}

/// A number with thousands separators: `18,204`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things: `1 file`, `18,204 files`, `2 directories`, `3 FINDINGS`.
pub fn counted(number: u64, what: &str) -> String {
    let number_shown = count(number);
    match what.strip_suffix('y') {
        _ if number == 1 => format!("{number_shown} {what}"),
        Some(stem) => format!("{number_shown} {stem}ies"),
        None if what.ends_with(|last: char| last.is_ascii_uppercase()) => format!("{number_shown} {what}S"),
        None => format!("{number_shown} {what}s"),
    }
}

/// A duration: `02:11`, `1:02:11`.
pub fn elapsed(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes:02}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_read_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (311 << 10, "311 KiB"),
            (12 << 20, "12.0 MiB"),
            ((6 << 30) + (215 << 20), "6.20 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!([count(7), count(1000), count(18_204_000)], ["7", "1,000", "18,204,000"]);
        let things = [counted(0, "file"), counted(1, "file"), counted(1000, "directory"), counted(2, "FINDING")];
        assert_eq!(things, ["0 files", "1 file", "1,000 directories", "2 FINDINGS"]);
        assert_eq!(elapsed(Duration::from_secs(131)), "02:11");
        assert_eq!(elapsed(Duration::from_secs(3731)), "1:02:11");
    }

    #[test]
    fn counts_from_many_threads() {
        let progress = Progress::hidden();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let progress = progress.clone();
                scope.spawn(move || (0..1000).for_each(|_| progress.add(3)));
            }
        });
        assert_eq!(progress.bytes_done(), 12_000);
    }

    #[test]
    fn lines_and_json_say_the_same() {
        let progress = Progress::with("offsite", Some(4 << 20), Show::Lines { json: true, every: LINE_EVERY });
        progress.add(1 << 20);
        progress.files(1200);
        progress.message(|| "/etc/passwd".into());
        let line = progress.inner.line(2 << 20);
        assert!(line.starts_with("offsite     25.0 %  1,200 files  1.00 MiB of 4.00 MiB  2.00 MiB/s  00:0"), "{line}");
        let json = progress.inner.json(0);
        assert_eq!(json["message_type"], "status");
        assert_eq!(json["percent_done"], 0.25);
        assert_eq!((&json["bytes_done"], &json["total_bytes"]), (&(1u64 << 20).into(), &(4u64 << 20).into()));
        assert_eq!(json["current_files"][0], "/etc/passwd");
    }

    #[test]
    fn no_total_and_no_bytes_divide_nothing() {
        let progress = Progress::with("x", None, Show::Hidden);
        assert_eq!((progress.inner.seconds_left(), progress.inner.per_mille()), (None, None));
        progress.set_total(0);
        assert_eq!(progress.inner.per_mille(), None);
        progress.inner.line(0);
    }
}

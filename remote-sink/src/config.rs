//! The sink's configuration: `vault.toml` in the vault, or the machine's `config.toml` that names the vault.
//!
//! Unknown keys are errors. Sizes say their unit (`500GiB`, `10GB`), ages too (`30d`, `6mo`, `5min`): a bare `m` means
//! minutes to some programs and months to others, and the wrong guess would delete backups.

use crate::confine::WAIVER;
use crate::serve::Confinement;
use jiff::{Span, Timestamp, tz::TimeZone};
use serde::{Deserialize, Deserializer, de};
use shared::id::SourceName;
use shared::text::printable;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The largest configuration that is read.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// A silent session ends after this when nothing else is configured.
pub const IDLE_TIMEOUT_SECONDS: u64 = 300;
/// Room that archives may not use when nothing else is configured.
pub const MIN_FREE_BYTES: u64 = 1 << 30;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is larger than 1 MiB: not a configuration")]
    TooLarge { path: PathBuf },
    #[error("{path}: {message}")]
    Parse { path: PathBuf, message: String },
}

/// A whole configuration file; every table may be missing.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    #[serde(deserialize_with = "version")]
    pub config_version: u32,
    #[serde(default)]
    pub store: Store,
    #[serde(default)]
    pub serve: Serve,
    #[serde(default)]
    pub listen: Listen,
    #[serde(default)]
    pub defaults: Rules,
    #[serde(default, deserialize_with = "sources")]
    pub source: BTreeMap<SourceName, Rules>,
    #[serde(default)]
    pub verify: Verify,
    #[serde(default)]
    pub alerts: Alerts,
    #[serde(default)]
    pub hooks: Hooks,
    #[serde(default)]
    pub metrics: Metrics,
}

/// Where the vault is and what stays free on its file system.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Store {
    pub root: Option<PathBuf>,
    pub min_free: Option<Size>,
}

/// The serving process.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Serve {
    pub idle_timeout: Option<Age>,
    /// Present: in these words the operator does without the kernel's confinement.
    #[serde(default, deserialize_with = "waiver")]
    pub unconfined: Option<Waiver>,
}

/// The words were the right ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiver(());

/// The sink's own SSH server.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Listen {
    pub address: Option<String>,
}

/// What holds for one source, or for all that have no rules of their own.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rules {
    pub quota: Option<Size>,
    pub retention: Option<Retention>,
}

/// Which snapshots stay; nothing is removed while no rule is set.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Retention {
    pub keep_within: Option<Age>,
    pub keep_last: Option<u32>,
    pub keep_hourly: Option<u32>,
    pub keep_daily: Option<u32>,
    pub keep_weekly: Option<u32>,
    pub keep_monthly: Option<u32>,
    pub keep_yearly: Option<u32>,
    pub min_age: Option<Age>,
    pub max_remove: Option<Share>,
    pub grace: Option<Age>,
}

/// How stored bytes are read again.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Verify {
    pub reverify_after: Option<Age>,
    pub limit_read: Option<Size>,
}

/// When `status` raises its voice.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Alerts {
    pub max_age: Option<Age>,
    pub shrink: Option<Percent>,
    pub grow: Option<Percent>,
}

/// Programs to run, as argument lists without a shell.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Hooks {
    #[serde(default)]
    pub on_alert: Vec<Vec<String>>,
    /// A program that runs longer is ended.
    pub timeout: Option<Age>,
}

/// Where metrics go.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Metrics {
    pub textfile: Option<PathBuf>,
}

fn version<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    match u32::deserialize(d)? {
        1 => Ok(1),
        other => Err(de::Error::custom(format!("config-version is {other}: this version of remote-sink knows 1"))),
    }
}

fn waiver<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Waiver>, D::Error> {
    if String::deserialize(d)? == WAIVER {
        return Ok(Some(Waiver(())));
    }
    Err(de::Error::custom(format!("to serve without confinement it must say, word by word: {WAIVER}")))
}

fn sources<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<SourceName, Rules>, D::Error> {
    BTreeMap::<String, Rules>::deserialize(d)?
        .into_iter()
        .map(|(name, rules)| Ok((name.parse().map_err(de::Error::custom)?, rules)))
        .collect()
}

impl Config {
    /// Reads a configuration text; the error names line and key.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())
    }

    /// Reads a configuration file; `None` if there is none.
    pub fn load(path: &Path) -> Result<Option<Self>, ConfigError> {
        let read = |source| ConfigError::Read { path: path.into(), source };
        match std::fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(read(e)),
            Ok(meta) if meta.len() > CONFIG_BYTES_MAX => return Err(ConfigError::TooLarge { path: path.into() }),
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        Self::parse(&text).map(Some).map_err(|message| ConfigError::Parse { path: path.into(), message })
    }

    /// The configuration of this vault; a vault without the file has the defaults.
    pub fn of_vault(root: &Path) -> Result<Self, ConfigError> {
        Ok(Self::load(&root.join("vault.toml"))?.unwrap_or_else(Self::empty))
    }

    /// Nothing set.
    pub fn empty() -> Self {
        Self {
            config_version: 1,
            store: Store::default(),
            serve: Serve::default(),
            listen: Listen::default(),
            defaults: Rules::default(),
            source: BTreeMap::new(),
            verify: Verify::default(),
            alerts: Alerts::default(),
            hooks: Hooks::default(),
            metrics: Metrics::default(),
        }
    }

    /// Quota of a source in bytes, where its enrolment has none: its own table, else the default.
    pub fn quota(&self, source: &SourceName) -> Option<u64> {
        let own = self.source.get(source).and_then(|rules| rules.quota);
        own.or(self.defaults.quota).map(Size::bytes)
    }

    /// Seconds after which a silent session ends.
    pub fn idle_timeout_seconds(&self) -> u64 {
        self.serve.idle_timeout.map_or(IDLE_TIMEOUT_SECONDS, |age| age.seconds()).max(1)
    }

    /// Must the kernel hold sessions to append-only?
    pub fn confinement(&self) -> Confinement {
        if self.serve.unconfined.is_some() { Confinement::Waived } else { Confinement::Required }
    }

    /// Bytes that archives leave free on the file system.
    pub fn min_free_bytes(&self) -> u64 {
        self.store.min_free.map_or(MIN_FREE_BYTES, Size::bytes)
    }
}

/// Text that is not the value it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(String);

fn wrong<T>(message: String) -> Result<T, ValueError> {
    Err(ValueError(message))
}

macro_rules! from_text {
    ($name:ident) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(de::Error::custom)
            }
        }
    };
}
from_text!(Size);
from_text!(Age);
from_text!(Percent);
from_text!(Share);

/// A number of bytes, written with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

impl FromStr for Size {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let shown = printable(text.as_bytes(), 40);
        let (number, unit) = split_number(text.trim());
        let factor: u64 = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            "PiB" => 1 << 50,
            "KB" | "kB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "PB" => 1_000_000_000_000_000,
            "" => return wrong(format!("'{shown}' has no unit: write for example 500GiB or 500GB")),
            "K" | "k" | "M" | "G" | "T" | "P" | "m" | "g" | "t" | "p" => {
                let letter = unit.to_ascii_uppercase();
                return wrong(format!(
                    "'{shown}' is ambiguous: write {letter}iB (powers of 1024) or {letter}B (of 1000)"
                ));
            }
            _ => return wrong(format!("'{shown}' is not a size: write for example 500GiB or 500GB")),
        };
        let not = || ValueError(format!("'{shown}' is not a size: write for example 500GiB or 500GB"));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if fraction.is_empty() || fraction.len() > 6 {
            return Err(not());
        }
        let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| not())?);
        let whole: u64 = whole.parse().map_err(|_| not())?;
        let fraction: u64 = fraction.parse().map_err(|_| not())?;
        let bytes = u128::from(whole) * u128::from(factor) + u128::from(fraction) * u128::from(factor) / scale;
        u64::try_from(bytes).map(Self).map_err(|_| ValueError(format!("'{shown}' is more bytes than can be counted")))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&iec(self.0))
    }
}

/// Bytes as people read them: `512 B`, `1.50 GiB`, `500 GiB`.
pub fn iec(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.995 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let text = format!("{value:.2}");
    format!("{} {}", text.strip_suffix(".00").unwrap_or(&text), UNITS[unit])
}

/// A length of time; months and years are those of the calendar.
#[derive(Debug, Clone, Copy)]
pub struct Age(Span);

impl fmt::Display for Age {
    /// As it is written in the configuration: `1y6mo`, `36h`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (i64::from(self.0.get_years()), "y"),
            (i64::from(self.0.get_months()), "mo"),
            (i64::from(self.0.get_weeks()), "w"),
            (i64::from(self.0.get_days()), "d"),
            (i64::from(self.0.get_hours()), "h"),
            (self.0.get_minutes(), "min"),
            (self.0.get_seconds(), "s"),
        ];
        let shown: String = parts.iter().filter(|(n, _)| *n != 0).map(|(n, unit)| format!("{n}{unit}")).collect();
        f.write_str(if shown.is_empty() { "0s" } else { &shown })
    }
}

impl PartialEq for Age {
    fn eq(&self, other: &Self) -> bool {
        self.0.fieldwise() == other.0.fieldwise()
    }
}

impl Age {
    /// The moment this long before `now`, by the UTC calendar.
    pub fn before(self, now: Timestamp) -> Timestamp {
        now.to_zoned(TimeZone::UTC).saturating_sub(self.0).timestamp()
    }
    /// The moment this long behind `from`, by the UTC calendar.
    pub fn after(self, from: Timestamp) -> Timestamp {
        from.to_zoned(TimeZone::UTC).saturating_add(self.0).timestamp()
    }
    /// No fewer seconds than this lie between a moment and [`Self::before`] it: 28 days to a month.
    pub fn seconds_min(self) -> u64 {
        let months = i64::from(self.0.get_months()) + i64::from(self.0.get_years()) * 12;
        // Every twelve months in a row have at least 365 days, every single one at least 28.
        let days = (months / 12) * 365 + (months % 12) * 28;
        let days = days + i64::from(self.0.get_weeks()) * 7 + i64::from(self.0.get_days());
        let hours = days * 24 + i64::from(self.0.get_hours());
        u64::try_from((hours * 60 + self.0.get_minutes()) * 60 + self.0.get_seconds()).unwrap_or(0)
    }
    /// Seconds, with 30 days to a month and 365 to a year; for time limits, never for retention.
    pub fn seconds(self) -> u64 {
        let days = i64::from(self.0.get_years()) * 365
            + i64::from(self.0.get_months()) * 30
            + i64::from(self.0.get_weeks()) * 7
            + i64::from(self.0.get_days());
        let hours = days * 24 + i64::from(self.0.get_hours());
        let seconds = (hours * 60 + self.0.get_minutes()) * 60 + self.0.get_seconds();
        u64::try_from(seconds).unwrap_or(0)
    }
}

impl FromStr for Age {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let shown = printable(text.as_bytes(), 40);
        let not = || ValueError(format!("'{shown}' is not an age: write for example 30d, 2w, 6mo, 1y, 36h or 5min"));
        let mut span = Span::new();
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(not());
        }
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| {
                ValueError(format!("'{shown}' has no unit: write for example 30d, 2w, 6mo, 1y, 36h or 5min"))
            })?;
            let number: i32 = rest[..end].parse().map_err(|_| not())?;
            rest = rest[end..].trim_start();
            let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            span = add(span, number, &rest[..end], &shown)?;
            rest = rest[end..].trim_start();
        }
        Ok(Self(span))
    }
}

/// One `number unit` more; each unit may stand once.
fn add(span: Span, number: i32, unit: &str, shown: &str) -> Result<Span, ValueError> {
    let already = match unit {
        "s" | "sec" | "second" | "seconds" => span.get_seconds() != 0,
        "min" | "minute" | "minutes" => span.get_minutes() != 0,
        "h" | "hour" | "hours" => span.get_hours() != 0,
        "d" | "day" | "days" => span.get_days() != 0,
        "w" | "week" | "weeks" => span.get_weeks() != 0,
        "mo" | "month" | "months" => span.get_months() != 0,
        "y" | "year" | "years" => span.get_years() != 0,
        "m" | "M" => {
            return wrong(format!("'{shown}' is ambiguous: write {number}mo for months or {number}min for minutes"));
        }
        _ => return wrong(format!("'{shown}' is not an age: its unit is none of s, min, h, d, w, mo, y")),
    };
    if already {
        return wrong(format!("'{shown}' says the same unit twice"));
    }
    match unit.as_bytes() {
        [b's', ..] => span.try_seconds(number),
        [b'm', b'i', ..] => span.try_minutes(number),
        [b'h', ..] => span.try_hours(number),
        [b'd', ..] => span.try_days(number),
        [b'w', ..] => span.try_weeks(number),
        [b'm', ..] => span.try_months(number),
        _ => span.try_years(number),
    }
    .map_err(|_| ValueError(format!("'{shown}' is longer than time is counted here")))
}

/// A share: `50%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percent(u32);

impl Percent {
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl FromStr for Percent {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let number = text.trim().strip_suffix('%').and_then(|number| number.trim_end().parse().ok());
        number.filter(|percent| *percent <= 100_000).map(Self).ok_or_else(|| {
            ValueError(format!("'{}' is not a share: write for example 50%", printable(text.as_bytes(), 40)))
        })
    }
}

/// A share of a whole, at most `100%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(Percent);

impl Share {
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl FromStr for Share {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let percent: Percent = text.parse()?;
        if percent.get() > 100 {
            return Err(ValueError(format!("'{percent}' is more than everything: write 100% to set no limit")));
        }
        Ok(Self(percent))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;

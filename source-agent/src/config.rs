//! The configuration file: one TOML file, no merging, unknown keys refused (the command line's section 3.2).

pub mod check;
pub mod edit;
pub mod template;
pub mod units;

#[cfg(test)]
mod tests;

use crate::cli::Context;
use crate::paths::{Paths, show};
use crate::report::{Exit, Failure, Outcome};
use serde::{Deserialize, Deserializer};
use shared::card::SshKey;
use shared::id::{SourceName, VerifyKey};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
pub use units::{Age, Rate, Size};

/// The version of the file's format that this program reads.
pub const CONFIG_VERSION: u32 = 1;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    pub config_version: u32,
    pub source: SourceSection,
    /// Present on a machine that restores.
    #[serde(default)]
    pub reader: Option<ReaderSection>,
    #[serde(default)]
    pub backup: BackupSection,
    #[serde(default, rename = "remote")]
    pub remotes: Vec<Remote>,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub check: CheckSection,
    #[serde(default)]
    pub hooks: Hooks,
    #[serde(default)]
    pub notify: Vec<Notify>,
    #[serde(default)]
    pub metrics: Metrics,
    #[serde(default)]
    pub log: Log,
}

/// Who this machine is.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SourceSection {
    #[serde(deserialize_with = "from_text")]
    pub name: SourceName,
    #[serde(default = "signing_key_default")]
    pub signing_key: PathBuf,
    /// Files of recipients, or short recipients in line. Empty on a machine that only reads.
    #[serde(default)]
    pub recipients: Vec<String>,
    /// Says that an X25519 recipient beside X-Wing ones is meant: it gives up what they are for.
    #[serde(default)]
    pub mixed_recipients: bool,
    pub state_dir: Option<PathBuf>,
    pub cache_dir: Option<PathBuf>,
}

/// What a machine that restores knows beyond its own name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ReaderSection {
    /// The identity file that commands use without `-i`.
    #[serde(default)]
    pub identity: Option<PathBuf>,
}

/// How hard to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    Auto,
    Off,
    Fast,
    Max,
}

/// What an unreadable file means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnUnreadable {
    /// The snapshot is made; exit code 3.
    Warn,
    /// The snapshot is made; exit code 0.
    Ignore,
    /// No snapshot.
    Fail,
}

/// `[backup]`: defaults of every set, and the sets.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BackupSection {
    #[serde(default)]
    pub exclude: Vec<String>,
    #[serde(default)]
    pub exclude_file: Vec<PathBuf>,
    #[serde(default)]
    pub exclude_if_present: Vec<String>,
    pub exclude_caches: Option<bool>,
    pub exclude_larger_than: Option<Size>,
    pub one_file_system: Option<bool>,
    pub xattrs: Option<bool>,
    pub compression: Option<Compression>,
    pub on_unreadable: Option<OnUnreadable>,
    /// `backup --if-due` does nothing before this age of the last snapshot.
    pub min_interval: Option<Age>,
    #[serde(default, rename = "set")]
    pub sets: Vec<BackupSet>,
}

/// `[[backup.set]]`: paths, or one command whose output is one file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BackupSet {
    pub name: String,
    #[serde(default)]
    pub paths: Vec<PathBuf>,
    /// Program and arguments, no shell.
    #[serde(default)]
    pub command: Vec<String>,
    /// The name of the file that the command's output becomes.
    pub stdin_name: Option<String>,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub exclude: Vec<String>,
    #[serde(default)]
    pub exclude_file: Vec<PathBuf>,
    #[serde(default)]
    pub exclude_if_present: Vec<String>,
    pub exclude_caches: Option<bool>,
    pub exclude_larger_than: Option<Size>,
    pub one_file_system: Option<bool>,
    pub xattrs: Option<bool>,
    pub compression: Option<Compression>,
    pub on_unreadable: Option<OnUnreadable>,
    pub min_interval: Option<Age>,
}

/// A set's settings with the defaults of `[backup]` filled in; lists are joined, the defaults first.
#[derive(Debug, Clone)]
pub struct SetOptions {
    pub exclude: Vec<String>,
    /// Relative names are resolved against the configuration's directory.
    pub exclude_file: Vec<PathBuf>,
    pub exclude_if_present: Vec<String>,
    pub exclude_caches: bool,
    pub exclude_larger_than: Option<u64>,
    pub one_file_system: bool,
    pub xattrs: bool,
    pub compression: Compression,
    pub on_unreadable: OnUnreadable,
    pub min_interval: Option<std::time::Duration>,
}

/// `[[remote]]`: one sink, by exactly one of `url`, `ssh-host`, `path`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Remote {
    pub name: String,
    /// The pinned key of the sink.
    #[serde(default, deserialize_with = "optional_key")]
    pub sink: Option<VerifyKey>,
    /// `ssh://user@host:port/source`
    pub url: Option<String>,
    /// `ssh-ed25519 AAAA…`: any of these may be the host key.
    #[serde(default)]
    pub host_key: Vec<String>,
    /// Private SSH key, relative to the configuration.
    pub identity_file: Option<PathBuf>,
    /// A `Host` of ~/.ssh/config.
    pub ssh_host: Option<String>,
    /// A vault on this machine.
    pub path: Option<PathBuf>,
    /// The name under which the sink knows this source, with `ssh-host` and `path`; default: `[source] name`.
    #[serde(default, deserialize_with = "optional_text")]
    pub source: Option<SourceName>,
    /// Its failure is exit 1; that of others exit 4.
    #[serde(default = "yes")]
    pub required: bool,
    pub limit_upload: Option<Rate>,
    /// TCP's congestion control on the way to it, with `url`; without it the system's.
    pub tcp_congestion: Option<String>,
}

/// Where a remote is, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Ssh { user: String, host: String, port: u16, source: SourceName, host_keys: Vec<SshKey>, identity_file: PathBuf },
    SshHost { host: String, source: SourceName },
    Path { path: PathBuf, source: SourceName },
}

/// `[limits]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Limits {
    /// Bytes per second, all remotes together.
    pub limit_upload: Option<Rate>,
    pub read_concurrency: Option<usize>,
    pub nice: Option<i32>,
    pub io_class: Option<IoClass>,
    #[serde(default)]
    pub retry: Retry,
    /// A remote silent for so long has failed.
    #[serde(default)]
    pub timeout: Option<Age>,
}

/// The I/O scheduling class of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoClass {
    Idle,
    BestEffort,
}

/// How often a lost connection is made again.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Retry {
    #[serde(default = "attempts_default")]
    pub attempts: u32,
    #[serde(default = "max_wait_default")]
    pub max_wait: Age,
}

/// `[check]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CheckSection {
    /// `status` fails beyond this.
    pub max_age: Option<Age>,
    /// `status` warns beyond this.
    pub restore_test_every: Option<Age>,
}

/// `[hooks]`: lists of argument vectors.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Hooks {
    #[serde(default)]
    pub before: Vec<Vec<String>>,
    #[serde(default)]
    pub after_success: Vec<Vec<String>>,
    #[serde(default)]
    pub after_failure: Vec<Vec<String>>,
    #[serde(default)]
    pub finally: Vec<Vec<String>>,
    pub timeout: Option<Age>,
}

/// `[[notify]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Notify {
    #[serde(rename = "type")]
    pub kind: NotifyKind,
    pub url: Option<String>,
    pub url_file: Option<PathBuf>,
    pub topic_file: Option<PathBuf>,
    #[serde(default)]
    pub states: Vec<NotifyState>,
}

/// The kinds of services that are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotifyKind {
    Healthchecks,
    Ntfy,
}

/// When a service is told; an empty list means always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotifyState {
    Start,
    Success,
    Fail,
}

/// `[metrics]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Metrics {
    pub textfile: Option<PathBuf>,
}

/// `[log]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Log {
    pub level: Option<LogLevel>,
    pub format: Option<LogFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    Auto,
    Text,
    Json,
    Journald,
}

/// A configuration with the places that follow from where it was found.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    pub paths: Paths,
    /// The file as it stands, for commands that edit it.
    pub text: String,
}

fn yes() -> bool {
    true
}
fn signing_key_default() -> PathBuf {
    PathBuf::from("signing.key")
}
fn attempts_default() -> u32 {
    5
}
fn max_wait_default() -> Age {
    Age::from_secs(15 * 60)
}
impl Default for Retry {
    fn default() -> Self {
        Self { attempts: attempts_default(), max_wait: max_wait_default() }
    }
}

fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err: std::fmt::Display>>(d: D) -> Result<T, D::Error> {
    String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
}

fn optional_text<'de, D: Deserializer<'de>, T: FromStr<Err: std::fmt::Display>>(d: D) -> Result<Option<T>, D::Error> {
    from_text(d).map(Some)
}

fn optional_key<'de, D: Deserializer<'de>>(d: D) -> Result<Option<VerifyKey>, D::Error> {
    let text = String::deserialize(d)?;
    let bytes = shared::text::from_base64(&text).unwrap_or_default();
    VerifyKey::from_slice(&bytes)
        .map(Some)
        .map_err(|_| serde::de::Error::custom("not a sink key: 43 characters of base64url, from the sink card"))
}

/// Most bytes of a configuration file.
pub(crate) const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Finds, reads, parses and checks the configuration.
pub fn load(context: &Context) -> Outcome<Loaded> {
    let paths = Paths::find(context)?;
    let text = read(&paths.config)?;
    refuse_writable(&paths.config)?;
    let config = parse(&text, &paths.config)?;
    crate::progress::set_log(&config.log);
    let paths = paths.overridden(config.source.state_dir.as_deref(), config.source.cache_dir.as_deref());
    Ok(Loaded { config, paths, text })
}

/// The file names programs that are run: who can write it can run anything as this user.
fn refuse_writable(path: &Path) -> Outcome<()> {
    let mode = std::fs::metadata(path).map_err(|e| Failure::io("look at", path, &e))?.mode();
    if mode & 0o002 == 0 {
        return Ok(());
    }
    let message = format!("anybody may write the configuration {}: mode {:04o}", show(path), mode & 0o7777);
    Err(Failure::new("config-mode", Exit::Failed, message).help(format!("chmod o-w {}", show(path))))
}

fn read(path: &Path) -> Outcome<String> {
    crate::keys::files::read_text(path, CONFIG_BYTES_MAX).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::new("config-missing", Exit::Failed, format!("there is no configuration {}", show(path)))
                .help("make one: source-agent init --recipient backup.pub; or name it with -c FILE")
        }
        _ => Failure::io("read the configuration", path, &e),
    })
}

/// What a file must say before the rest of it is judged.
#[derive(Deserialize)]
struct Versioned {
    #[serde(rename = "config-version")]
    version: Option<i64>,
}

/// Parses and checks a configuration's text; `shown` names it in errors.
pub fn parse(text: &str, shown: &Path) -> Outcome<Config> {
    let wrong = |e: toml::de::Error| {
        let mut failure = Failure::new("config", Exit::Failed, format!("cannot use the configuration {}", show(shown)));
        failure.details = e.to_string().trim_end().lines().map(str::to_owned).collect();
        failure.help("all keys with their meaning: source-agent config example")
    };
    let version = toml::from_str::<Versioned>(text).map_err(wrong)?.version;
    match version {
        Some(version) if version == i64::from(CONFIG_VERSION) => {}
        Some(version) => {
            let message = format!("{} has config-version {version}; this program reads {CONFIG_VERSION}", show(shown));
            return Err(Failure::new("config-version", Exit::Failed, message)
                .help("use the version of source-agent that wrote it, or a newer one"));
        }
        None => {
            let message = format!("{} does not begin with config-version = {CONFIG_VERSION}", show(shown));
            return Err(Failure::new("config-version", Exit::Failed, message).help("add the line at the top"));
        }
    }
    let config: Config = toml::from_str(text).map_err(wrong)?;
    let faults = check::faults(&config);
    if faults.is_empty() {
        return Ok(config);
    }
    let mut failure = Failure::new("config", Exit::Failed, format!("cannot use the configuration {}", show(shown)));
    failure.details = faults;
    Err(failure.help("all keys with their meaning: source-agent config example"))
}

impl Loaded {
    /// The remotes that `--remote` chooses, all without it; an unknown name is a usage error.
    pub fn remotes(&self, context: &Context) -> Outcome<Vec<&Remote>> {
        let all = &self.config.remotes;
        let known = || all.iter().map(|remote| remote.name.as_str()).collect::<Vec<_>>().join(", ");
        for name in &context.remotes {
            if !all.iter().any(|remote| remote.name == *name) {
                let name = shared::text::printable(name.as_bytes(), 100);
                return Err(Failure::new("remote-unknown", Exit::Usage, format!("no remote is called '{name}'")).help(
                    if all.is_empty() {
                        "add one: source-agent remote add NAME SINK-CARD".into()
                    } else {
                        format!("there are: {}", known())
                    },
                ));
            }
        }
        let chosen = |remote: &&Remote| context.remotes.is_empty() || context.remotes.contains(&remote.name);
        Ok(all.iter().filter(chosen).collect())
    }

    /// The failure of a command that needs a remote.
    pub fn no_remote(&self) -> Failure {
        Failure::new("no-remote", Exit::Usage, "no remote is configured")
            .help("source-agent enroll [USER@]HOST, or: source-agent remote add NAME SINK-CARD")
    }

    /// A path of the file, relative ones below the configuration's directory.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.paths.config_dir.join(path)
    }

    /// The set of this name; an unknown name is a usage error.
    pub fn set(&self, name: &str) -> Outcome<&BackupSet> {
        let sets = &self.config.backup.sets;
        sets.iter().find(|set| set.name == name).ok_or_else(|| {
            let known: Vec<&str> = sets.iter().map(|set| set.name.as_str()).collect();
            let name = shared::text::printable(name.as_bytes(), 100);
            Failure::new("set-unknown", Exit::Usage, format!("no backup set is called '{name}'"))
                .help(format!("there are: {}", known.join(", ")))
        })
    }

    /// The settings of this set, or of paths named on the command line (`None`).
    pub fn options(&self, set: Option<&BackupSet>) -> SetOptions {
        let defaults = &self.config.backup;
        fn joined<T: Clone>(defaults: &[T], own: Option<&Vec<T>>) -> Vec<T> {
            defaults.iter().chain(own.into_iter().flatten()).cloned().collect()
        }
        let exclude_file = joined(&defaults.exclude_file, set.map(|s| &s.exclude_file));
        SetOptions {
            exclude: joined(&defaults.exclude, set.map(|s| &s.exclude)),
            exclude_file: exclude_file.iter().map(|path| self.resolve(path)).collect(),
            exclude_if_present: joined(&defaults.exclude_if_present, set.map(|s| &s.exclude_if_present)),
            exclude_caches: set.and_then(|s| s.exclude_caches).or(defaults.exclude_caches).unwrap_or(true),
            exclude_larger_than: set
                .and_then(|s| s.exclude_larger_than)
                .or(defaults.exclude_larger_than)
                .map(Size::bytes),
            one_file_system: set.and_then(|s| s.one_file_system).or(defaults.one_file_system).unwrap_or(true),
            xattrs: set.and_then(|s| s.xattrs).or(defaults.xattrs).unwrap_or(true),
            compression: set.and_then(|s| s.compression).or(defaults.compression).unwrap_or(Compression::Auto),
            on_unreadable: set.and_then(|s| s.on_unreadable).or(defaults.on_unreadable).unwrap_or(OnUnreadable::Warn),
            min_interval: set.and_then(|s| s.min_interval).or(defaults.min_interval).map(Age::duration),
        }
    }

    /// Where a remote is.
    pub fn place(&self, remote: &Remote) -> Outcome<Place> {
        check::place(remote, &self.config.source.name, &self.paths.config_dir).map_err(|why| {
            Failure::new("remote-config", Exit::Failed, why)
                .remote(&remote.name)
                .help(format!("edit [[remote]] in {}", show(&self.paths.config)))
        })
    }
}

impl Remote {
    /// The pinned sink key. A remote without one is never spoken to.
    pub fn sink_key(&self) -> Outcome<VerifyKey> {
        self.sink.ok_or_else(|| {
            Failure::new("sink-unpinned", Exit::Failed, "no sink key is pinned, so nobody could be recognised there")
                .remote(&self.name)
                .help(format!("take it from the sink's card: source-agent remote repin {} SINK-CARD", self.name))
        })
    }
}

impl Limits {
    /// How long a remote may be silent.
    pub fn timeout(&self) -> std::time::Duration {
        self.timeout.map_or(std::time::Duration::from_secs(120), Age::duration)
    }
}

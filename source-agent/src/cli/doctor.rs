//! `source-agent doctor`: what is wrong with this installation, and what to do.

use crate::cli::{Context, print_json, print_line};
use crate::config::{self, BackupSet, Loaded, Place};
use crate::crypto::identity::Identity;
use crate::crypto::recipient::Recipient;
use crate::keys::{self, files};
use crate::paths::show;
use crate::report::{Exit, Failure, Outcome};
use crate::transport;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Looks at configuration, keys, directories, programs and the clock. Remotes are
not called: source-agent remote test does that.

Example:
  source-agent doctor")]
pub struct DoctorArgs {}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Fine,
    Warning,
    Fault,
}

/// One thing that was looked at.
#[derive(Debug)]
pub(super) struct Finding {
    pub level: Level,
    pub what: String,
    pub help: Option<String>,
}

impl Finding {
    fn fine(what: impl Into<String>) -> Self {
        Self { level: Level::Fine, what: what.into(), help: None }
    }
    fn warning(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { level: Level::Warning, what: what.into(), help: Some(help.into()) }
    }
    fn fault(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { level: Level::Fault, what: what.into(), help: Some(help.into()) }
    }
    fn from_failure(failure: Failure) -> Self {
        let help = failure.advice().map(str::to_owned);
        let mut what = failure.remote.map(|name| format!("{name}: ")).unwrap_or_default() + &failure.message;
        for line in failure.details {
            what.push_str(&format!("\n        {line}"));
        }
        Self { level: Level::Fault, what, help }
    }
}

pub fn run(_args: &DoctorArgs, context: &Context) -> Outcome<Exit> {
    let findings = match config::load(context) {
        Err(failure) => vec![Finding::from_failure(failure)],
        Ok(loaded) => {
            let mut all = of_configuration(&loaded);
            all.extend(of_directories(&loaded));
            all.extend(of_programs(&loaded));
            all.extend(of_machine(&loaded));
            all
        }
    };
    tell(&findings, context)?;
    Ok(exit(&findings))
}

/// Prints findings; the good ones are worth a line too.
pub(super) fn tell(findings: &[Finding], context: &Context) -> Outcome<()> {
    for finding in findings {
        let level = match finding.level {
            Level::Fine => "ok",
            Level::Warning => "warning",
            Level::Fault => "fault",
        };
        if context.json {
            print_json(&serde_json::json!({
                "message_type": "finding", "level": level, "message": finding.what, "help": finding.help,
            }))?;
            continue;
        }
        if finding.level == Level::Fine && context.quiet {
            continue;
        }
        print_line(&format!("{level:<8}{}", finding.what))?;
        if let Some(help) = &finding.help {
            print_line(&format!("        help: {help}"))?;
        }
    }
    if context.json {
        let number = |level| findings.iter().filter(|finding| finding.level == level).count();
        print_json(&serde_json::json!({
            "message_type": "summary", "faults": number(Level::Fault), "warnings": number(Level::Warning),
        }))?;
    }
    Ok(())
}

/// 1 with any fault.
pub(super) fn exit(findings: &[Finding]) -> Exit {
    if findings.iter().any(|finding| finding.level == Level::Fault) { Exit::Failed } else { Exit::Done }
}

/// The configuration and the files that it names.
pub(super) fn of_configuration(loaded: &Loaded) -> Vec<Finding> {
    let mut all = vec![Finding::fine(format!("configuration  {}", show(&loaded.paths.config)))];
    all.extend(of_ownership(loaded));
    all.extend(of_keys(loaded));
    all.extend(of_remotes(loaded));
    all.extend(of_sets(loaded));
    for notify in &loaded.config.notify {
        for file in notify.url_file.iter().chain(&notify.topic_file) {
            all.extend(private_file("the notification secret", &loaded.resolve(file)));
        }
    }
    all
}

/// Who else can change what this program runs?
fn of_ownership(loaded: &Loaded) -> Option<Finding> {
    let path = &loaded.paths.config;
    let (data, own) = (std::fs::metadata(path).ok()?, rustix::process::geteuid().as_raw());
    if data.uid() != own && data.uid() != 0 {
        return Some(Finding::warning(
            format!("{} belongs to user {}, who can run any program as this one through it", show(path), data.uid()),
            format!("chown it: chown {own} {}", show(path)),
        ));
    }
    (data.mode() & 0o020 != 0).then(|| {
        Finding::warning(
            format!("the group {} may write {} and so run any program as this user", data.gid(), show(path)),
            format!("chmod g-w {}", show(path)),
        )
    })
}

fn of_keys(loaded: &Loaded) -> Vec<Finding> {
    let mut all = Vec::new();
    let reader = loaded.config.source.recipients.is_empty();
    let name = &loaded.config.source.name;
    let card = if reader {
        keys::load_card(loaded).map(|card| (card, "reader".to_owned()))
    } else {
        keys::load_source(loaded).map(|keys| {
            let later = keys::began::later(&loaded.paths.state_dir, &keys.lineage, &keys.recipients);
            let label = |recipient: &Recipient| {
                let later = later.iter().any(|one| one.digest() == recipient.digest());
                keys::recipient_label(recipient)
                    + if later { ", which came later (rekey, for what was there before)" } else { "" }
            };
            let to: Vec<String> = keys.recipients.iter().map(label).collect();
            (keys.card, format!("sealed to {}", to.join(", ")))
        })
    };
    match card {
        Ok((card, what)) => all.push(Finding::fine(format!("source         {name}  {}  {what}", card.fingerprint()))),
        Err(failure) => all.push(Finding::from_failure(failure)),
    }
    let identity = loaded.config.reader.as_ref().and_then(|reader| reader.identity.as_deref());
    if let Some(path) = identity.map(|path| loaded.resolve(path)) {
        all.push(match files::read_secret_text(&path, files::KEY_FILE_BYTES_MAX) {
            Err(e) => Finding::from_failure(Failure::io("read the identity", &path, &e)),
            Ok(text) => of_identity(&path, &text, reader),
        });
    }
    all
}

fn of_identity(path: &Path, text: &str, reader: bool) -> Finding {
    let shown = show(path);
    match Identity::needs_passphrase(text) {
        Err(e) => Finding::fault(format!("{shown}: {e}"), "name an identity under [reader]"),
        Ok(_) if !reader => Finding::warning(
            format!("this machine is backed up and holds the identity {shown} that reads its backups"),
            "keep the identity on another machine: who takes this one over must not read or forge the past",
        ),
        Ok(false) => Finding::warning(
            format!("the identity {shown} has no passphrase"),
            format!("source-agent key passphrase -i {shown}"),
        ),
        Ok(true) => Finding::fine(format!("identity       {shown}  (encrypted)")),
    }
}

fn private_file(what: &str, path: &Path) -> Option<Finding> {
    match files::exposure(path) {
        Err(e) => Some(Finding::from_failure(Failure::io(&format!("read {what}"), path, &e))),
        Ok(Some(mode)) => Some(Finding::warning(
            format!("others may read {what} {}: {mode}", show(path)),
            format!("chmod 600 {}", show(path)),
        )),
        Ok(None) => None,
    }
}

fn of_remotes(loaded: &Loaded) -> Vec<Finding> {
    let remotes = &loaded.config.remotes;
    if remotes.is_empty() {
        return vec![Finding::warning("no remote is configured", "source-agent remote add NAME SINK-CARD")];
    }
    remotes.iter().map(|remote| of_remote(loaded, remote).unwrap_or_else(Finding::from_failure)).collect()
}

fn of_remote(loaded: &Loaded, remote: &config::Remote) -> Outcome<Finding> {
    let place = loaded.place(remote)?;
    remote.sink_key()?;
    let shown = match &place {
        Place::Ssh { user, host, port, source, identity_file, .. } => {
            keys::load_ssh_key(identity_file).map_err(|failure| failure.remote(&remote.name))?;
            format!("{user}@{host}:{port} as {source}")
        }
        Place::SshHost { host, source } => format!("ssh {host} as {source}"),
        Place::Path { path, source } => format!("{} as {source}", show(path)),
    };
    if let Some(fault) = transport::congestion_fault(remote) {
        return Ok(Finding::warning(fault, transport::CONGESTION_HELP));
    }
    let required = if remote.required { "" } else { "  (not required)" };
    Ok(Finding::fine(format!("remote         {}  {shown}{required}", remote.name)))
}

fn of_sets(loaded: &Loaded) -> Vec<Finding> {
    let mut all = Vec::new();
    let sets = &loaded.config.backup.sets;
    if sets.is_empty() && !loaded.config.source.recipients.is_empty() {
        all.push(Finding::warning("no backup set is configured", "add [[backup.set]] with a name and paths"));
    }
    if !sets.is_empty() && loaded.config.source.recipients.is_empty() {
        all.push(Finding::fault(
            "backup sets are configured, and nobody that they could be sealed to: [source] recipients is empty",
            "name the owner's public file in it, such as recipients = [\"backup.pub\"]; a machine that only reads has no sets",
        ));
    }
    // A set whose paths are all missing is not saved; if nothing else is there, the run fails.
    let is_there = |set: &BackupSet| set.paths.is_empty() || !set.paths.iter().all(|path| is_missing(path));
    let none_there = !sets.iter().any(is_there) && loaded.config.hooks.before.is_empty();
    for set in sets {
        let options = loaded.options(Some(set));
        let missing: Vec<String> = set.paths.iter().filter(|path| is_missing(path)).map(|path| show(path)).collect();
        if !is_there(set) {
            let what = format!("set '{}': nothing of it is there: {}", set.name, missing.join(" "));
            let help = "a run saves nothing of it: exit 3 where other sets are saved, else 1; mount or make its paths, or take the set out";
            all.push(if none_there { Finding::fault(what, help) } else { Finding::warning(what, help) });
        } else if !missing.is_empty() {
            all.push(Finding::warning(
                format!("set '{}': missing: {}", set.name, missing.join(" ")),
                "a missing path makes the run incomplete (exit 3); take it out or make it",
            ));
        }
        let faults = of_excludes(&options);
        if missing.is_empty() && faults.is_empty() {
            let what = if set.command.is_empty() {
                set.paths.iter().map(|path| show(path)).collect::<Vec<_>>().join(" ")
            } else {
                format!("output of {}", set.command.join(" "))
            };
            all.push(Finding::fine(format!(
                "set            {}  {}",
                set.name,
                shared::text::printable(what.as_bytes(), 200)
            )));
        }
        all.extend(faults.into_iter().map(|why| {
            Finding::fault(format!("set '{}': {why}", set.name), "exclude takes gitignore lines rooted at /")
        }));
    }
    all
}

fn is_missing(path: &Path) -> bool {
    path.symlink_metadata().is_err()
}

/// Lines that are no patterns, and files of lines that cannot be read.
fn of_excludes(options: &config::SetOptions) -> Vec<String> {
    let mut lines: Vec<(String, String)> =
        options.exclude.iter().map(|line| ("exclude".into(), line.clone())).collect();
    let mut faults = Vec::new();
    for path in &options.exclude_file {
        match files::read_text(path, 1 << 20) {
            Ok(text) => lines.extend(text.lines().map(|line| (show(path), line.to_owned()))),
            Err(e) => faults.push(Failure::io("read the exclude file", path, &e).message),
        }
    }
    let mut builder = ignore::gitignore::GitignoreBuilder::new("/");
    for (place, line) in lines {
        if let Err(e) = builder.add_line(None, &line) {
            let shown = shared::text::printable(line.as_bytes(), 200);
            faults.push(format!("{place}: '{shown}': {e}"));
        }
    }
    faults
}

fn of_directories(loaded: &Loaded) -> Vec<Finding> {
    let mut all = Vec::new();
    let own = rustix::process::geteuid().as_raw();
    for (name, dir) in [("state", &loaded.paths.state_dir), ("cache", &loaded.paths.cache_dir)] {
        let shown = show(dir);
        let data = match std::fs::metadata(dir) {
            Ok(data) => data,
            Err(e) => {
                all.push(Finding::from_failure(Failure::io(&format!("use the {name} directory"), dir, &e)));
                continue;
            }
        };
        if data.mode() & 0o022 != 0 {
            all.push(Finding::fault(
                format!("others may write to the {name} directory {shown}: mode {:04o}", data.mode() & 0o7777),
                format!("chmod 700 {shown}"),
            ));
        } else if data.uid() != own && own != 0 {
            all.push(Finding::fault(
                format!("the {name} directory {shown} belongs to user {}", data.uid()),
                "run as that user, or with a configuration of your own",
            ));
        } else if let Err(e) = rustix::fs::access(dir, rustix::fs::Access::WRITE_OK) {
            all.push(Finding::from_failure(Failure::io(&format!("write to the {name} directory"), dir, &e.into())));
        } else {
            all.push(of_space(name, dir));
        }
    }
    all
}

fn of_space(name: &str, dir: &Path) -> Finding {
    let shown = show(dir);
    match rustix::fs::statvfs(dir) {
        Err(e) => Finding::from_failure(Failure::io("look at the file system of", dir, &e.into())),
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let text = format!("{name:<14} {shown}  ({} free)", crate::progress::size(free));
            if free < 100 << 20 {
                Finding::warning(text, "make room: index and state need some")
            } else {
                Finding::fine(text)
            }
        }
    }
}

/// Programs that the configuration starts.
fn of_programs(loaded: &Loaded) -> Vec<Finding> {
    let mut wanted: Vec<(String, String)> = Vec::new();
    for set in &loaded.config.backup.sets {
        wanted.extend(set.command.first().map(|program| (program.clone(), format!("set '{}'", set.name))));
    }
    let hooks = &loaded.config.hooks;
    for argv in [&hooks.before, &hooks.after_success, &hooks.after_failure, &hooks.finally].into_iter().flatten() {
        wanted.extend(argv.first().map(|program| (program.clone(), "a hook".to_owned())));
    }
    for remote in &loaded.config.remotes {
        match (&remote.ssh_host, &remote.path) {
            (Some(_), _) => wanted.push(("ssh".into(), format!("remote '{}'", remote.name))),
            (_, Some(_)) => wanted.push(("remote-sink".into(), format!("remote '{}'", remote.name))),
            _ => {}
        }
    }
    if !loaded.config.notify.is_empty() {
        wanted.push(("curl".into(), "[[notify]]".into()));
    }
    wanted.sort();
    wanted.dedup();
    wanted
        .into_iter()
        .map(|(program, user)| {
            let shown = shared::text::printable(program.as_bytes(), 200);
            match find_program(&program) {
                Some(path) => Finding::fine(format!("program        {}  ({user})", show(&path))),
                None => Finding::fault(
                    format!("{user} needs the program '{shown}', which is not there"),
                    format!("install {shown}, or name it by its whole path"),
                ),
            }
        })
        .collect()
}

/// As execvp looks; besides, `remote-sink` may lie beside this program.
fn find_program(program: &str) -> Option<PathBuf> {
    let runs = |path: &Path| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| runs(path));
    }
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join(program)));
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path).map(|dir| dir.join(program)).chain(beside).find(|path| runs(path))
}

fn of_machine(loaded: &Loaded) -> Vec<Finding> {
    let mut all = Vec::new();
    // 2026-01-01: this program did not exist before.
    if shared::sys::Clock::now(&shared::sys::SystemClock) < 1_767_225_600 {
        all.push(Finding::warning("the clock of this machine is years behind", "set it; timesyncd or chrony keeps it"));
    }
    if loaded.paths.config == Path::new("/etc/source-agent/config.toml") && Path::new("/run/systemd/system").is_dir() {
        let enabled = Path::new("/etc/systemd/system/timers.target.wants/source-agent-backup.timer");
        all.push(if enabled.symlink_metadata().is_ok() {
            Finding::fine("timer          source-agent-backup.timer is enabled")
        } else {
            Finding::warning(
                "no timer starts backups (source-agent-backup.timer is not enabled)",
                "systemctl enable --now source-agent-backup.timer, or a crontab line",
            )
        });
    }
    all
}

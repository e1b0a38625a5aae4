//! `source-agent backup`: what the configuration and the flags ask for, and the result for people and scripts.

mod summary;
pub mod times;

use crate::backup::hooks::{self, Metrics};
use crate::backup::push::Dial;
use crate::backup::{
    CHECKPOINT_BYTES, CHECKPOINT_EVERY, Env, Input, Limit, OnExclude, RemotePlan, Report, SetPlan, budget, heal, paths,
    stream,
};
use crate::cli::{Context, print_json, signals};
use crate::client::{self, Client, Greeting};
use crate::config::{self, BackupSet, IoClass, Loaded, Size};
use crate::index::Index;
use crate::index::series::SeriesIndex;
use crate::keys::{SourceKeys, began, load_source};
use crate::progress::{self, Progress};
use crate::report::{Exit, Failure, Outcome};
use crate::watch;
use shared::format::snapshot::RemoteHead;
use shared::id::{Chain, Lineage, SourceId};
use shared::sys::{Clock, SystemClock, durable};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What `--if-due` waits for where the configuration says nothing.
const MIN_INTERVAL: Duration = Duration::from_secs(20 * 3600);
/// An archive takes no longer than this on a limited line.
const ARCHIVE_SECONDS: u64 = 30;

#[derive(Debug, clap::Args)]
pub struct BackupArgs {
    /// Paths to back up instead of the configured sets; a block device is read, a link is not followed
    #[arg(value_name = "PATH", conflicts_with_all = ["stdin", "stdin_from_command", "set"])]
    paths: Vec<PathBuf>,
    /// Only this configured set (repeatable)
    #[arg(long, value_name = "NAME", conflicts_with_all = ["stdin", "stdin_from_command"])]
    set: Vec<String>,
    /// Only show what would be backed up; with -v also what is left out, and why
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Leave out what matches this line of a .gitignore file, rooted at /; what lies below an excluded directory cannot
    /// come back (repeatable)
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Read such lines from a file (repeatable)
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Leave out the content of directories that hold this name (repeatable)
    #[arg(long, value_name = "NAME")]
    exclude_if_present: Vec<String>,
    /// Leave out the content of directories that are marked as caches (CACHEDIR.TAG); the default, unless
    /// exclude-caches = false
    #[arg(long)]
    exclude_caches: bool,
    /// Leave out larger files, such as 20GiB
    #[arg(long, value_name = "SIZE")]
    exclude_larger_than: Option<Size>,
    /// Do not enter other file systems; the default, unless one-file-system = false
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Mark the snapshot (repeatable)
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    tag: Vec<String>,
    /// Back up standard input as a file of this name
    #[arg(long, value_name = "NAME", conflicts_with = "stdin_from_command")]
    stdin: Option<String>,
    /// Back up the output of a command as a file of this name; no snapshot if it fails
    #[arg(long, value_name = "NAME", requires = "after")]
    stdin_from_command: Option<String>,
    /// With --stdin-from-command the command; else further paths, also such as begin with -
    #[arg(last = true, value_name = "PATH or CMD", conflicts_with_all = ["stdin", "set"])]
    after: Vec<OsString>,
    /// Do nothing if the last snapshot is younger than min-interval
    #[arg(long)]
    if_due: bool,
    /// Make no snapshot if nothing changed
    #[arg(long)]
    skip_if_unchanged: bool,
    /// Read every file, whatever its times say
    #[arg(short, long)]
    force: bool,
    /// Send at most so many bytes a second, such as 8MiB
    #[arg(long, value_name = "SIZE", value_parser = config::check::rate)]
    limit_upload: Option<Size>,
}

impl BackupArgs {
    /// Are paths named, before or after `--`?
    fn names_paths(&self) -> bool {
        self.stdin_from_command.is_none() && !(self.paths.is_empty() && self.after.is_empty())
    }

    /// The words of --stdin-from-command.
    fn command(&self) -> Outcome<Vec<String>> {
        let word = |word: &OsString| {
            let shown = shared::text::printable(word.as_bytes(), 200);
            let wrong = || Failure::new("usage", Exit::Usage, format!("'{shown}' of the command is not UTF-8"));
            word.to_str().map(str::to_owned).ok_or_else(wrong)
        };
        self.after.iter().map(word).collect()
    }
}

pub fn run(args: &BackupArgs, context: &Context) -> Outcome<Exit> {
    let loaded = config::load(context)?;
    let sets = sets(args, &loaded)?;
    let keys = load_source(&loaded)?;
    durable::create_dir(&loaded.paths.state_dir, 0o700)
        .map_err(|e| Failure::io("make directory", &loaded.paths.state_dir, &e))?;
    durable::create_dir(&loaded.paths.cache_dir, 0o700)
        .map_err(|e| Failure::io("make directory", &loaded.paths.cache_dir, &e))?;
    let _lock = lock(&loaded.paths.state_dir)?;
    be_nice(&loaded, context);
    let mut env = env(args, context, &loaded, keys)?;
    if args.dry_run {
        return summary::dry_run(context, &env, &sets);
    }
    let sets = if args.if_due { due(&env, sets, context)? } else { sets };
    if sets.is_empty() {
        return Ok(Exit::Done);
    }
    around(context, &loaded, &mut env, sets)
}

/// Hooks and notifications around the run.
fn around(context: &Context, loaded: &Loaded, env: &mut Env, sets: Vec<SetPlan>) -> Outcome<Exit> {
    let begun = Instant::now();
    warn_of_recipients(context, env);
    warn_all(context, hooks::notify(loaded, None));
    let mut there = Vec::new();
    let all: Vec<String> = env.remotes.iter().map(|remote| remote.dial.name().to_owned()).collect();
    // A hook may mount what is to be backed up, so what ends the run before it takes part in that tells them too.
    let before_end = signals::before_end(ended_at_once(context, loaded, all.clone()));
    let outcome = hooks::before(&loaded.config.hooks).and_then(|()| run_there(context, env, sets, &mut there));
    drop(before_end);
    env.remotes.iter().for_each(|remote| remote.progress.finish());
    let exit = match &outcome {
        Ok(report) => summary::exit(report),
        Err(failure) => failure.exit,
    };
    let ending = summary::ending(exit, outcome.as_ref().ok(), outcome.as_ref().err(), all);
    write_metrics(context, loaded, env, outcome.as_ref().ok(), exit, begun.elapsed());
    // Whoever read the output may have gone away: the hooks run all the same.
    let printed = match &outcome {
        Ok(report) => {
            note_times(context, loaded, env, &there, report);
            summary::print(context, report, begun.elapsed())
        }
        Err(_) => Ok(()),
    };
    warn_all(context, hooks::after(&loaded.config.hooks, &ending));
    warn_all(context, hooks::notify(loaded, Some(&ending)));
    match outcome {
        Ok(Report { failure: Some(failure), .. }) => Err(Failure { exit, ..failure }),
        // Here a full disk would be taken for the remote's.
        Ok(_) => printed.map(|()| exit).map_err(|failure| Failure { exit: Exit::Failed, ..failure }),
        Err(failure) => Err(failure),
    }
}

/// What follows on hooks and notifications that began, where a signal ends the process at once.
fn ended_at_once(context: &Context, loaded: &Loaded, all: Vec<String>) -> impl FnOnce(Failure) + Send + 'static {
    let (context, loaded) = (context.clone(), loaded.clone());
    move |failure| {
        let ending = summary::ending(failure.exit, None, Some(&failure), all);
        warn_all(&context, hooks::after(&loaded.config.hooks, &ending));
        warn_all(&context, hooks::notify(&loaded, Some(&ending)));
    }
}

/// Once, of each recipient that the lineage did not begin with.
fn warn_of_recipients(context: &Context, env: &Env) {
    // A damaged index is put aside later: it is of something.
    let sent = !env.heads.is_empty() || env.index.next_number().map_or(true, |next| next > 0);
    match began::note(&env.state_dir, &env.lineage, &env.recipients, sent) {
        Ok(new) => warn_all(context, new.into_iter().map(began::warning).collect()),
        Err(failure) => progress::warn(context, &failure.to_string()),
    }
}

/// Runs the sets of which anything is there. One of which nothing is gets no empty snapshot, which would be its newest.
fn run_there(context: &Context, env: &mut Env, sets: Vec<SetPlan>, there: &mut Vec<SetPlan>) -> Outcome<Report> {
    let mut missing = None;
    for set in sets {
        let looked = match &set.input {
            Input::Paths(all) => {
                paths::links(all).for_each(|line| progress::warn(context, &line));
                paths::look(&set.name, all, &mut |path, e| {
                    // For people they stand in the failure.
                    if context.json {
                        progress::warn_path(context, summary::DURING, path.as_os_str().as_bytes(), &e.to_string());
                    }
                })
            }
            Input::Stream { .. } => Ok(()),
        };
        match looked {
            Ok(()) => there.push(set),
            Err(failure) => {
                if let Some(earlier) = missing.replace(failure) {
                    progress::warn(context, &earlier.to_string());
                }
            }
        }
    }
    let missing = match missing {
        Some(failure) if there.is_empty() => return Err(failure),
        missing => missing,
    };
    let mut report = crate::backup::run(env, there)?;
    match missing {
        Some(failure) if report.failure.is_none() && report.remotes.iter().all(|remote| remote.failure.is_none()) => {
            report.failure = Some(Failure { exit: Exit::Incomplete, ..failure });
        }
        Some(failure) => progress::warn(context, &failure.to_string()),
        None => {}
    }
    Ok(report)
}

fn warn_all(context: &Context, lines: Vec<String>) {
    lines.iter().for_each(|line| progress::warn(context, line));
}

/// The sets that the flags ask for.
fn sets(args: &BackupArgs, loaded: &Loaded) -> Outcome<Vec<SetPlan>> {
    if let Some(name) = &args.stdin {
        return Ok(vec![stream_plan(args, loaded, None, name, stream::From::stdin())?]);
    }
    if let Some(name) = &args.stdin_from_command {
        let from = stream::From::Command(args.command()?);
        return Ok(vec![stream_plan(args, loaded, None, name, from)?]);
    }
    if args.names_paths() {
        let named = args.paths.iter().map(PathBuf::as_path).chain(args.after.iter().map(Path::new));
        let mut all = named.map(paths::absolute).collect::<Outcome<Vec<_>>>()?;
        all.sort();
        all.dedup();
        let names: Vec<String> = all.iter().map(|path| path.display().to_string()).collect();
        let (name, series) = (names.join(" "), format!("paths\0{}", names.join("\0")));
        return Ok(vec![plan(args, loaded, None, name, series, Input::Paths(all))]);
    }
    let chosen: Vec<&BackupSet> = match args.set.is_empty() {
        true => loaded.config.backup.sets.iter().collect(),
        false => args.set.iter().map(|name| loaded.set(name)).collect::<Outcome<_>>()?,
    };
    if chosen.is_empty() {
        return Err(Failure::new("no-set", Exit::Usage, "there is nothing to back up")
            .help("name paths, or write a [[backup.set]] into the configuration"));
    }
    chosen.into_iter().map(|set| configured(args, loaded, set)).collect()
}

fn configured(args: &BackupArgs, loaded: &Loaded, set: &BackupSet) -> Outcome<SetPlan> {
    if !set.command.is_empty() {
        let name = set.stdin_name.clone().unwrap_or_else(|| set.name.clone());
        return stream_plan(args, loaded, Some(set), &name, stream::From::Command(set.command.clone()));
    }
    let all = set.paths.iter().map(|path| paths::absolute(&loaded.resolve(path))).collect::<Outcome<Vec<_>>>()?;
    Ok(plan(args, loaded, Some(set), set.name.clone(), times::series_name(set), Input::Paths(all)))
}

fn stream_plan(
    args: &BackupArgs,
    loaded: &Loaded,
    set: Option<&BackupSet>,
    name: &str,
    from: stream::From,
) -> Outcome<SetPlan> {
    stream::check_name(name)?;
    let series = match set {
        Some(set) => times::series_name(set),
        None => format!("stdin\0{name}"),
    };
    let shown = set.map_or_else(|| name.to_owned(), |set| set.name.clone());
    Ok(plan(args, loaded, set, shown, series, Input::Stream { from, name: name.to_owned() }))
}

fn plan(
    args: &BackupArgs,
    loaded: &Loaded,
    set: Option<&BackupSet>,
    name: String,
    series: String,
    input: Input,
) -> SetPlan {
    let mut options = loaded.options(set);
    options.exclude.extend(args.exclude.iter().cloned());
    options.exclude_file.extend(args.exclude_file.iter().cloned());
    options.exclude_if_present.extend(args.exclude_if_present.iter().cloned());
    options.exclude_caches |= args.exclude_caches;
    options.exclude_larger_than = args.exclude_larger_than.map(Size::bytes).or(options.exclude_larger_than);
    options.one_file_system |= args.one_file_system;
    let tags = set.into_iter().flat_map(|set| &set.tags).chain(&args.tag).cloned().collect();
    SetPlan { name, series, input, tags, options }
}

/// One run of this source at a time.
fn lock(state_dir: &Path) -> Outcome<File> {
    let path = state_dir.join("backup.lock");
    let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
    let file = file.map_err(|e| Failure::io("open", &path, &e))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            let holder = format!("{} {}\n", std::process::id(), SystemClock.now());
            let noted = file.set_len(0).and_then(|()| file.write_all_at(holder.as_bytes(), 0));
            noted.map_err(|e| Failure::io("write", &path, &e))?;
            Ok(file)
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let who = holder(&file).map_or_else(String::new, |(process, since)| {
                format!(": process {process}, since {}", crate::restore::reading::local_time(since))
            });
            let message = format!("another backup of this source runs on this machine{who}");
            Err(Failure::new("busy", Exit::Busy, message).help("wait for it to end; the lock goes with its process"))
        }
        Err(e) => Err(Failure::io("lock", &path, &e.into())),
    }
}

/// Process and time that the holder of the lock noted in it.
fn holder(file: &File) -> Option<(u32, i64)> {
    let mut bytes = [0; 64];
    let length = file.read_at(&mut bytes, 0).ok()?;
    let (process, since) = std::str::from_utf8(&bytes[..length]).ok()?.trim().split_once(' ')?;
    Some((process.parse().ok()?, since.parse().ok()?))
}

/// `[limits] nice` and `io-class`; threads started later inherit both.
fn be_nice(loaded: &Loaded, context: &Context) {
    if let Some(nice) = loaded.config.limits.nice
        && let Err(e) = rustix::process::setpriority_process(None, nice)
    {
        progress::warn(context, &format!("cannot set nice {nice}: {e}"));
    }
    let class = match loaded.config.limits.io_class {
        Some(IoClass::Idle) => "3",
        Some(IoClass::BestEffort) => "2",
        None => return,
    };
    let own = std::process::id().to_string();
    let done = std::process::Command::new("ionice").args(["-c", class, "-p", &own]).status();
    if !done.is_ok_and(|status| status.success()) {
        progress::warn(context, "cannot set io-class: the program ionice is missing or failed");
    }
}

/// Connects to a remote of the configuration.
struct Configured {
    loaded: Loaded,
    remote: config::Remote,
    source: SourceId,
    lineage: Lineage,
}

impl Dial for Configured {
    fn name(&self) -> &str {
        &self.remote.name
    }
    fn is_required(&self) -> bool {
        self.remote.required
    }
    fn dial(&self) -> Outcome<Client> {
        let greeting = Greeting::Push { source: self.source, lineage: self.lineage };
        client::connect(&self.loaded, &self.remote, greeting)
    }
}

fn env(args: &BackupArgs, context: &Context, loaded: &Loaded, keys: SourceKeys) -> Outcome<Env> {
    let (source, lineage) = (keys.id, keys.lineage);
    let overall = args.limit_upload.or(loaded.config.limits.limit_upload).map(Size::bytes);
    let shared_limit = overall.map(Limit::new);
    let mut remotes = Vec::new();
    let mut slowest = overall;
    let chosen = loaded.remotes(context)?;
    if chosen.is_empty() && !args.dry_run {
        return Err(loaded.no_remote());
    }
    for remote in chosen {
        let own = remote.limit_upload.map(Size::bytes);
        slowest = slowest.into_iter().chain(own).min();
        let limits = shared_limit.iter().cloned().chain(own.map(Limit::new)).collect();
        let dial = Configured { loaded: loaded.clone(), remote: remote.clone(), source, lineage };
        let progress = Progress::new(context, &remote.name, None);
        if let Some(fault) = crate::transport::congestion_fault(remote) {
            progress::warn(context, &format!("{fault}; {}", crate::transport::CONGESTION_HELP));
        }
        remotes.push(RemotePlan { dial: Arc::new(dial), key: remote.sink_key()?, limits, progress });
    }
    let (index, _) = Index::open(&loaded.paths.cache_dir, &source, &lineage)?;
    let [for_progress, for_lines, for_warnings] = [(); 3].map(|()| context.clone());
    Ok(Env {
        source,
        lineage,
        signing: Arc::new(keys.signing),
        secret: keys.secret,
        recipients: keys.recipients,
        state_dir: loaded.paths.state_dir.clone(),
        cache_dir: loaded.paths.cache_dir.clone(),
        index: Arc::new(index),
        remotes,
        heads: heads(loaded, source, lineage)?,
        retry: loaded.config.limits.retry.clone(),
        read_concurrency: loaded.config.limits.read_concurrency,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        clock: Arc::new(SystemClock),
        force: args.force,
        dry: args.dry_run,
        skip_if_unchanged: args.skip_if_unchanged,
        archive_bytes: slowest.map_or(u64::MAX, |bytes| bytes.saturating_mul(ARCHIVE_SECONDS)),
        budget_bytes: budget::BUDGET_BYTES,
        checkpoint_every: CHECKPOINT_EVERY,
        checkpoint_bytes: CHECKPOINT_BYTES,
        heal_read_bytes: heal::READ_BYTES,
        progress: Box::new(move |set| Progress::new(&for_progress, set, None)),
        told: Box::new(move |line| progress::notice(&for_lines, line)),
        warned: Box::new(move |line| progress::warn(&for_warnings, line)),
        on_exclude: tell_excluded(context),
    })
}

/// With -v every exclusion is told, with the rule that made it.
fn tell_excluded(context: &Context) -> Option<OnExclude> {
    let context = context.clone();
    (context.verbose > 0).then(|| -> OnExclude {
        Arc::new(move |path, why| progress::detail(&context, &format!("excluded {path}: {why}")))
    })
}

/// Newest receipted heads of all configured remotes.
fn heads(loaded: &Loaded, source: SourceId, lineage: Lineage) -> Outcome<Vec<RemoteHead>> {
    let mut heads = Vec::new();
    for remote in &loaded.config.remotes {
        let Some(sink) = remote.sink else { continue };
        // A damaged state is an alarm of its own remote, not of the others.
        let Ok(state) = watch::load(&loaded.paths.state_dir, &Chain { source, lineage, sink }) else { continue };
        if let Some(last) = state.remembered {
            heads.push(RemoteHead { sink, sequence: last.sequence, digest: last.head });
        }
    }
    Ok(heads)
}

fn created_note(env: &Env, at: usize) -> String {
    format!("created-{}", env.remotes[at].key)
}

/// Those whose last snapshot is too old on one of the remotes, or unknown.
fn due(env: &Env, sets: Vec<SetPlan>, context: &Context) -> Outcome<Vec<SetPlan>> {
    let now = env.clock.now();
    let mut due = Vec::new();
    for set in sets {
        let index = SeriesIndex::open(&env.cache_dir, &env.source, &env.lineage, &env.secret.series(&set.series))?;
        let interval = set.options.min_interval.unwrap_or(MIN_INTERVAL).as_secs();
        let mut wanted = false;
        for at in 0..env.remotes.len() {
            let note = index.note(&created_note(env, at))?.and_then(|bytes| bytes.try_into().ok());
            let age = note.map(|bytes| now.saturating_sub(i64::from_le_bytes(bytes)));
            // A time in the future is no reason to wait.
            wanted |= !age.is_some_and(|age| u64::try_from(age).is_ok_and(|age| age < interval));
        }
        match wanted {
            true => due.push(set),
            false if context.json => {
                let line = serde_json::json!({"message_type": "not_due", "set": set.name, "min_interval": interval});
                print_json(&line)?;
            }
            false => progress::notice(context, &format!("{}: not due yet", set.name)),
        }
    }
    Ok(due)
}

/// For `--if-due` of the next run, where a cache that cannot be written only makes it run; and for `status`.
fn note_times(context: &Context, loaded: &Loaded, env: &Env, sets: &[SetPlan], report: &Report) {
    let now = env.clock.now();
    let mut saved = Vec::new();
    for (set, done) in sets.iter().zip(&report.sets) {
        let series = env.secret.series(&set.series);
        let held: Vec<usize> = match done.unchanged {
            true => (0..env.remotes.len()).filter(|at| report.remotes[*at].failure.is_none()).collect(),
            false => done.snapshots.iter().map(|(at, _)| *at).collect(),
        };
        if !done.incomplete {
            saved.extend(held.iter().map(|at| (series, env.remotes[*at].key)));
        }
        let Ok(index) = SeriesIndex::open(&env.cache_dir, &env.source, &env.lineage, &series) else { continue };
        for at in held {
            let _ = index.set_note(&created_note(env, at), &now.to_le_bytes());
        }
    }
    if let Err(failure) = times::note(loaded, &env.secret, &saved, now) {
        progress::warn(context, &format!("status will not know of this run: {failure}"));
    }
}

fn write_metrics(
    context: &Context,
    loaded: &Loaded,
    env: &Env,
    report: Option<&Report>,
    exit: Exit,
    elapsed: Duration,
) {
    let Some(path) = &loaded.config.metrics.textfile else { return };
    let sum =
        |of: &dyn Fn(&crate::backup::SetReport) -> u64| report.map_or(0, |report| report.sets.iter().map(of).sum());
    let remotes = env.remotes.iter().enumerate().map(|(at, remote)| {
        let chain = Chain { source: env.source, lineage: env.lineage, sink: remote.key };
        let last = watch::load(&env.state_dir, &chain).ok().and_then(|state| state.snapshot);
        let sent = report.map_or(0, |report| report.remotes[at].bytes_sent);
        (remote.dial.name().to_owned(), sent, last.map(|last| last.created))
    });
    let metrics = Metrics {
        exit: exit as u8,
        seconds: elapsed.as_secs_f64(),
        bytes_read: sum(&|set| set.met.bytes_read.get()),
        files: sum(&|set| set.met.files.get()),
        unreadable: sum(&|set| set.met.unreadable.count()),
        remotes: remotes.collect(),
    };
    if let Err(failure) = metrics.write(&loaded.resolve(path)) {
        progress::warn(context, &failure.message);
    }
}

//! `source-agent restore`: a snapshot, or a path of it, into a directory.

use crate::cli::{Context, print_json, print_line};
use crate::progress::{self, Progress, notice, warn, warn_path};
use crate::report::{Exit, Outcome};
use crate::restore::metadata::OwnerMode;
use crate::restore::reading::{Desk, Filter, Need};
use crate::restore::report::Report;
use crate::restore::resolve::SnapshotPath;
use crate::restore::select::Select;
use crate::restore::write::Overwrite;
use crate::restore::{self, Options};
use shared::text::printable;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Lost paths that are listed; the rest is counted.
const LISTED_MAX: usize = 1000;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
latest is the newest snapshot of any set: choose the set with --path. A whole
snapshot keeps its absolute paths below the target; SNAP:/path puts what lies
at that path into it. A file that cannot be had whole is not there afterwards:
while it is written it is called .pawl-partial-...

Examples:
  source-agent restore latest -t /mnt/out -i ~/backup.key
  source-agent restore latest:/etc/nginx --path /etc -t ./out -i ~/backup.key
  source-agent restore 4f1c09e2 -t / --include /home/ann \\
      --overwrite if-changed -i ~/backup.key")]
pub struct RestoreArgs {
    /// A snapshot: an id's beginning, latest, latest~2, each also with :/path
    #[arg(value_name = "SNAP[:PATH]")]
    pub snapshot: OsString,
    /// The directory to restore into
    #[arg(short, long, value_name = "DIR")]
    pub target: PathBuf,
    /// The identity
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    #[command(flatten)]
    pub filter: Filter,
    /// Only what this pattern (gitignore syntax) takes; repeatable
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// Not what this pattern takes; repeatable
    #[arg(short, long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// What becomes of what is there
    #[arg(long, value_name = "WHEN", default_value = "refuse")]
    pub overwrite: Overwrite,
    /// Delete what is in the target and not in the snapshot
    #[arg(long)]
    pub delete: bool,
    /// Write nothing, say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// How owners are restored
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub owner: OwnerMode,
    /// Leave extended attributes out
    #[arg(long)]
    pub no_xattrs: bool,
    /// Read every file back from the disk and compare
    #[arg(long)]
    pub verify: bool,
}

pub fn run(args: &RestoreArgs, context: &Context) -> Outcome<Exit> {
    let name = SnapshotPath::parse(args.snapshot.as_bytes())?;
    let options = Options {
        target: args.target.clone(),
        select: Select::new(&args.include, &args.exclude)?,
        overwrite: args.overwrite,
        delete: args.delete,
        dry_run: args.dry_run,
        owner: args.owner,
        xattrs: !args.no_xattrs,
        verify: args.verify,
    };
    options.check()?;
    let started = std::time::Instant::now();
    let mut desk = Desk::open(context, args.identity.as_deref(), Need::Blocks)?;
    let view = desk.view(context, args.filter.source.as_deref())?;
    let snapshot = desk.choose(&view, &name, &args.filter)?;
    desk.tell(context, &view, &snapshot);
    let progress = Progress::new(context, "restoring", None);
    let mut reader = desk.reader(&snapshot)?;
    let show = args.dry_run && !context.json && !context.quiet || context.verbose > 0;
    let report = restore::restore(&mut reader, &name.path, &options, &progress, &mut |path| {
        progress.message(|| String::from_utf8_lossy(path).into_owned());
        if show {
            // A closed standard output does not end a restore.
            let _ = print_line(&printable(path, 8192));
        }
    })?;
    progress.finish();
    tell(&report, args, context, started.elapsed(), &snapshot.id().to_string())
}

fn tell(report: &Report, args: &RestoreArgs, context: &Context, took: std::time::Duration, id: &str) -> Outcome<Exit> {
    let notes = &report.notes;
    let mut lines = Vec::new();
    if notes.owners_skipped > 0 {
        lines.push(format!(
            "owners not set: {} (not root, a name that is not here, or --owner skip)",
            progress::count(notes.owners_skipped)
        ));
    }
    if notes.set_id_dropped > 0 {
        lines.push(format!(
            "setuid, setgid or capabilities left out where the owner was not set: {}",
            notes.set_id_dropped
        ));
    }
    for (what, (count, error)) in &notes.failed {
        lines.push(format!("{what} not set: {count} ({error})"));
    }
    if report.devices_skipped > 0 {
        lines.push(format!("devices left out, they need root: {}", report.devices_skipped));
    }
    if report.unread > 0 {
        lines.push(format!("directories whose content the source had not read: {}", report.unread));
    }
    if report.kept > 0 || report.unchanged > 0 || report.deleted > 0 {
        let deleted = if args.dry_run { "would be deleted" } else { "deleted" };
        lines.push(format!(
            "left as they were: {}, unchanged: {}, {deleted}: {}",
            report.kept, report.unchanged, report.deleted
        ));
        if args.dry_run || context.verbose > 0 {
            let what = if args.dry_run { "would delete" } else { "deleted" };
            lines.extend(report.deletions.iter().map(|path| format!("  {what} {}", printable(path, 8192))));
            let more = report.deleted.saturating_sub(report.deletions.len() as u64);
            if more > 0 {
                lines.push(format!("  and {} more", progress::count(more)));
            }
        }
    }
    lines.iter().for_each(|line| notice(context, line));
    for finding in report.findings.lines() {
        warn(context, &finding);
    }
    let lost = report.lost.named();
    for one in lost.iter().take(LISTED_MAX) {
        warn_path(context, "restore", &one.path, &format!("not restored: {}", one.why));
    }
    let unnamed = report.lost.count() - lost.len().min(LISTED_MAX) as u64;
    if unnamed > 0 {
        warn(context, &format!("and {unnamed} more are not restored"));
    }
    if !args.include.is_empty() && report.is_empty() {
        warn(context, "nothing of the snapshot fits --include: its patterns are gitignore lines, rooted at /");
    }
    summary(report, args, context, took, id)?;
    Ok(report.exit())
}

fn summary(report: &Report, args: &RestoreArgs, context: &Context, took: std::time::Duration, id: &str) -> Outcome<()> {
    if context.json {
        return print_json(&serde_json::json!({
            "message_type": "summary",
            "snapshot_id": id,
            "dry_run": args.dry_run,
            "files_restored": report.files,
            "directories": report.directories,
            "others": report.others,
            "total_bytes": report.bytes,
            "files_lost": report.lost.count(),
            "findings": report.findings.count(),
            "files_deleted": report.deleted,
            "files_unchanged": report.unchanged,
            "files_skipped": report.kept,
            "files_verified": report.verified,
            "seconds_elapsed": took.as_secs(),
        }));
    }
    if context.quiet {
        return Ok(());
    }
    let (files, bytes) = (progress::counted(report.files, "file"), progress::size(report.bytes));
    let target = crate::paths::show(&args.target);
    if args.dry_run {
        return print_line(&format!("Would restore {files}, {bytes} to {target}."));
    }
    let end = match (report.lost.count(), args.verify) {
        (0, true) => ", all verified".into(),
        (0, false) => String::new(),
        (lost, _) => format!("; {} NOT restored, see above", progress::count(lost)),
    };
    print_line(&format!("Restored {files}, {bytes} to {target} in {} s{end}.", took.as_secs()))
}

//! The result of `backup`: lines for people, JSON with restic's names, the exit code.

use crate::backup::heal::Healing;
use crate::backup::hooks::Ending;
use crate::backup::outcome::{Listed, Met, shown};
use crate::backup::{Env, RemoteReport, Report, SetPlan, SetReport};
use crate::cli::Context;
use crate::cli::output::{eprint_failure, print_json, print_line};
use crate::progress::{count, counted, elapsed, notice, size, warn_item, warn_path};
use crate::report::{Exit, Failure, Outcome};
use serde_json::json;
use std::time::Duration;

/// restic's word for when a path was met that cannot be read.
pub const DURING: &str = "archival";

/// The exit code of a run.
pub fn exit(report: &Report) -> Exit {
    let failed: Vec<&RemoteReport> = report.remotes.iter().filter(|remote| remote.failure.is_some()).collect();
    let tampered = |remote: &&RemoteReport| remote.failure.as_ref().is_some_and(|f| f.exit == Exit::Tampered);
    if let Some(failure) = &report.failure {
        return failure.exit;
    }
    if failed.iter().any(tampered) {
        // An alarm is told even where the others are fine.
        return Exit::Tampered;
    }
    if failed.len() == report.remotes.len()
        && let Some(failure) = failed.first().and_then(|remote| remote.failure.as_ref())
    {
        // Nothing was saved, and this is why.
        return failure.exit;
    }
    if failed.iter().any(|remote| remote.required) {
        return Exit::Failed;
    }
    if !failed.is_empty() {
        return Exit::SomeRemotes;
    }
    if report.sets.iter().any(|set| set.incomplete) { Exit::Incomplete } else { Exit::Done }
}

/// The same for hooks and notifications.
///
/// Its remotes are those that hold a new snapshot; where none does, those that failed, or else all of the run.
pub fn ending(exit: Exit, report: Option<&Report>, failure: Option<&Failure>, all: Vec<String>) -> Ending {
    let sets = report.map_or(&[][..], |report| &report.sets);
    let snapshots = sets.iter().flat_map(|set| &set.snapshots).map(|(_, digest)| digest.short()).collect();
    let names = |report: &Report| {
        let held = |at: usize| report.sets.iter().any(|set| set.snapshots.iter().any(|(remote, _)| *remote == at));
        let all = report.remotes.iter().enumerate();
        all.filter(|(at, _)| held(*at)).map(|(_, remote)| remote.name.clone()).collect()
    };
    let failure = failure.or_else(|| report.and_then(|report| report.failure.as_ref()));
    let sum = |of: &dyn Fn(&Met) -> u64| sets.iter().map(|set| of(&set.met)).sum::<u64>();
    let summary = match failure {
        // Messages may name paths; the code does not.
        Some(failure) => format!("backup failed: {}", failure.code),
        None => format!(
            "{}, {}, new {}, unreadable {}",
            counted(sum(&|met| met.files.get()), "file"),
            size(sum(&|met| met.bytes.get())),
            size(sum(&|met| met.bytes_new.get())),
            sum(&|met| met.unreadable.count()),
        ),
    };
    let failed = |report: &Report| {
        let failed = report.remotes.iter().filter(|remote| remote.failure.is_some());
        failed.map(|remote| remote.name.clone()).collect()
    };
    let holding: Vec<String> = report.map_or_else(Vec::new, names);
    let quiet = report.is_some_and(|report| report.failure.is_none() && exit == Exit::Done);
    let remotes = if !holding.is_empty() || quiet { holding } else { report.map_or_else(Vec::new, failed) };
    let remotes = if remotes.is_empty() && !quiet { all } else { remotes };
    Ending { exit: exit as u8, snapshots, remotes, summary }
}

/// Prints everything that a run brought.
pub fn print(context: &Context, report: &Report, whole: Duration) -> Outcome<()> {
    let exit = exit(report);
    for remote in &report.remotes {
        // The failure that ends the command is printed by it.
        let Some(failure) = &remote.failure else { continue };
        let signal = failure.exit.is_signal();
        let same = |ends: &Failure| Some(&remote.name) == ends.remote.as_ref() || signal && ends.code == failure.code;
        if !report.failure.as_ref().is_some_and(same) {
            // The code is that of this process.
            eprint_failure(&Failure { exit, ..failure.clone() }, context);
        }
    }
    if context.json {
        report.sets.iter().for_each(|set| list(context, DURING, &set.met.unreadable));
        return report.sets.iter().try_for_each(|set| print_json(&json_summary(report, set, whole)));
    }
    if context.quiet {
        report.sets.iter().for_each(|set| list(context, DURING, &set.met.unreadable));
        return Ok(());
    }
    report.sets.iter().try_for_each(|set| print_set(context, report, set))?;
    for remote in &report.remotes {
        if let Some(line) = remote.healing.and_then(healing_line) {
            print_line(&format!("{:8}  {line}", remote.name))?;
        }
    }
    Ok(())
}

/// `healed 3 damaged blocks (1.2 MiB sent again); …`; nothing where nothing was to be done.
fn healing_line(healing: Healing) -> Option<String> {
    let blocks = |number: u64| format!("{} damaged block{}", count(number), if number == 1 { "" } else { "s" });
    let mut parts = Vec::new();
    if healing.healed > 0 {
        parts.push(format!("healed {} ({} sent again)", blocks(healing.healed), size(healing.bytes)));
    }
    if healing.lost > 0 {
        let what = "cannot be healed whole: part of what it held is not here any more";
        parts.push(format!("{} {what}", blocks(healing.lost)));
    }
    if healing.later > 0 {
        parts.push(format!("{} left to later runs", blocks(healing.later)));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn print_set(context: &Context, report: &Report, set: &SetReport) -> Outcome<()> {
    let met = &set.met;
    let new = met.bytes_new.get();
    let stored = met.bytes_stored.get();
    let ratio = if stored > 0 && new > stored {
        format!(" (compressed {:.1}x)", new as f64 / stored as f64)
    } else {
        String::new()
    };
    let width =
        report.remotes.iter().map(|remote| remote.name.len()).chain([set.name.len()]).max().unwrap_or(8).clamp(8, 40);
    print_line(&format!(
        "{:width$}  {}  {}  read {}  new {}{ratio}        {}",
        shown(set.name.as_bytes()),
        counted(met.files.get(), "file"),
        size(met.bytes.get()),
        size(met.bytes_read.get()),
        size(new),
        elapsed(set.duration),
    ))?;
    for (at, remote) in report.remotes.iter().enumerate() {
        let head = set.snapshots.iter().find(|(has, _)| *has == at);
        let line = match (head, set.unchanged) {
            (Some((_, digest)), _) => format!("snapshot {} stored and acknowledged after fsync", digest.short()),
            (None, true) if remote.failure.is_none() => "no new snapshot: nothing changed".into(),
            (None, _) => "no snapshot".into(),
        };
        print_line(&format!("{:width$}  {line}", remote.name))?;
    }
    print_line(&notes(met, context.verbose > 0))?;
    list(context, DURING, &met.unreadable);
    if context.verbose > 0 {
        list(context, "changed", &met.changed);
        list(context, "vanished", &met.vanished);
    }
    Ok(())
}

/// One line of what was met on the way.
fn notes(met: &Met, verbose: bool) -> String {
    let mut notes = Vec::new();
    let mounts = met.mounts.sorted();
    if !mounts.is_empty() {
        let paths: Vec<String> = mounts.iter().take(20).map(|(path, _)| shown(path)).collect();
        let more = if mounts.len() > 20 { " …" } else { "" };
        notes.push(format!("skipped mount points: {}{more}", paths.join(" ")));
    }
    notes.push(format!("unreadable: {}", count(met.unreadable.count())));
    let hint = |number: u64| if number > 0 && !verbose { " (-v lists them)" } else { "" };
    let changed = met.changed.count();
    notes.push(format!("changed while read: {}{}", count(changed), hint(changed)));
    for (what, number) in
        [("vanished", met.vanished.count()), ("excluded", met.excluded.get()), ("sockets skipped", met.sockets.get())]
    {
        if number > 0 {
            notes.push(format!("{what}: {}", count(number)));
        }
    }
    notes.join("      ")
}

/// Repeated at the end, where it is seen.
fn list(context: &Context, what: &str, listed: &Listed) {
    for (path, why) in listed.sorted() {
        warn_path(context, what, if path.is_empty() { b"/" } else { &path }, &why);
    }
    let hidden = listed.count() - listed.sorted().len() as u64;
    if hidden > 0 {
        warn_item(context, what, "", &format!("and {} more", count(hidden)));
    }
}

fn json_summary(report: &Report, set: &SetReport, whole: Duration) -> serde_json::Value {
    let met = &set.met;
    let remotes: Vec<_> = report
        .remotes
        .iter()
        .enumerate()
        .map(|(at, remote)| {
            let head = set.snapshots.iter().find(|(has, _)| *has == at).map(|(_, digest)| digest);
            json!({
                "name": remote.name,
                "snapshot_id": head.map(ToString::to_string),
                "bytes_sent": remote.bytes_sent,
                "archives_sent": remote.archives_sent,
                "healing": remote.healing.map(|healing| json!({
                    "blocks_healed": healing.healed,
                    "bytes_sent_again": healing.bytes,
                    "blocks_not_healed": healing.lost,
                    "blocks_left": healing.later,
                })),
                "error": remote.failure.as_ref().map(|failure| failure.code),
                "message": remote.failure.as_ref().map(|failure| &failure.message),
            })
        })
        .collect();
    let (unreadable, unreadable_bytes) = names(&met.unreadable);
    let (mounts, mounts_bytes) = names(&met.mounts);
    let mut value = json!({
        "message_type": "summary",
        "set": set.name,
        "files_new": met.files_new.get(),
        "files_changed": met.files_changed.get(),
        "files_unmodified": met.files_unmodified.get(),
        "dirs_new": met.dirs_new.get(),
        "dirs_changed": met.dirs_changed.get(),
        "dirs_unmodified": met.dirs_unmodified.get(),
        "data_blobs": met.chunks_new.get(),
        "data_added": met.bytes_new.get(),
        "data_added_packed": met.bytes_stored.get(),
        "total_files_processed": met.files.get(),
        "total_bytes_processed": met.bytes.get(),
        "bytes_read": met.bytes_read.get(),
        "total_duration": set.duration.as_secs_f64(),
        "run_duration": whole.as_secs_f64(),
        "snapshot_id": set.snapshots.first().map(|(_, digest)| digest.to_string()),
        "incomplete": set.incomplete,
        "unchanged": set.unchanged,
        "unreadable": unreadable,
        "changed_while_read": met.changed.count(),
        "vanished": met.vanished.count(),
        "sockets_skipped": met.sockets.get(),
        "excluded": met.excluded.get(),
        "skipped_mount_points": mounts,
        "remotes": remotes,
    });
    for (key, bytes) in [("unreadable_bytes", unreadable_bytes), ("skipped_mount_points_bytes", mounts_bytes)] {
        if let Some(bytes) = bytes {
            value[key] = bytes.into();
        }
    }
    value
}

/// Paths for scripts; their bytes in hex as well, in the same order, where one of them is not UTF-8.
fn names(listed: &Listed) -> (Vec<String>, Option<Vec<String>>) {
    let listed = listed.sorted();
    let paths = || listed.iter().map(|(path, _)| if path.is_empty() { &b"/"[..] } else { path });
    let odd = paths().any(|path| std::str::from_utf8(path).is_err());
    let bytes = odd.then(|| paths().map(shared::text::hex).collect());
    (paths().map(|path| String::from_utf8_lossy(path).into_owned()).collect(), bytes)
}

/// `-n`: nothing is read or sent.
pub fn dry_run(context: &Context, env: &Env, sets: &[SetPlan]) -> Outcome<Exit> {
    let mut exit = Exit::Done;
    for set in sets {
        if !matches!(set.input, crate::backup::Input::Paths(_)) {
            notice(context, &format!("{}: a stream, not looked at", set.name));
            continue;
        }
        let met = crate::backup::dry_run(env, set)?;
        if met.unreadable.count() > 0 {
            exit = Exit::Incomplete;
        }
        if context.json {
            print_json(&json!({
                "message_type": "summary",
                "dry_run": true,
                "set": set.name,
                "files_new": met.files_new.get(),
                "files_changed": met.files_changed.get(),
                "files_unmodified": met.files_unmodified.get(),
                "total_files_processed": met.files.get(),
                "total_bytes_processed": met.bytes.get(),
                "would_read": met.bytes_read.get(),
                "excluded": met.excluded.get(),
            }))?;
        } else {
            print_line(&format!(
                "{}  {}  {}  would read {} ({} new, {} changed)",
                shown(set.name.as_bytes()),
                counted(met.files.get(), "file"),
                size(met.bytes.get()),
                size(met.bytes_read.get()),
                count(met.files_new.get()),
                counted(met.files_changed.get(), "file"),
            ))?;
            print_line(&notes(&met, context.verbose > 0))?;
        }
        list(context, DURING, &met.unreadable);
    }
    Ok(exit)
}

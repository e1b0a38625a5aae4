//! `source-agent check`: chains, receipts, bodies, pages and indexes without a key; every chunk with the identity.

use crate::cli::{Context, print_json, print_line};
use crate::progress::{self, Progress, warn, warn_path};
use crate::report::{Exit, Failure, Outcome};
use crate::restore::check::{self, Affected, Bad, Named, Share};
use crate::restore::expired;
use crate::restore::findings::Findings;
use crate::restore::objects::{Objects, Wanted, is_lost};
use crate::restore::reader::Kept;
use crate::restore::reading::{Desk, Need};
use crate::restore::remembering::Remembering;
use crate::restore::resolve::{self, is_latest, sort_newest_first};
use crate::restore::view::{Fresh, Snapshot, View};
use shared::wire::Damage;
use std::collections::HashSet;
use std::path::PathBuf;

/// Files that are listed; the rest is counted.
const LISTED_MAX: u64 = 1000;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without the identity: signatures, chains, receipts, bodies, pages and every
archive's signed index. With it: every directory too, and that each chunk is
where an archive says.

Examples:
  source-agent check
  source-agent check --read-data=5% -i ~/backup.key
  source-agent check --restore-test 20 -i ~/backup.key")]
pub struct CheckArgs {
    /// Read, open and check the data as well: all of it, a percentage (5%), or a slice (2/7)
    #[arg(long, value_name = "SHARE", num_args = 0..=1, require_equals = true, default_missing_value = "100%")]
    pub read_data: Option<Share>,
    /// Restore N random files of each set's newest snapshot, and compare
    #[arg(long, value_name = "N")]
    pub restore_test: Option<usize>,
    /// Only this source
    #[arg(short = 'H', long, value_name = "SOURCE")]
    pub source: Option<String>,
    /// The identity
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

#[derive(Default)]
struct Totals {
    snapshots: u64,
    expired: u64,
    archives: u64,
    blocks: u64,
    chunks: u64,
    restored: u64,
    findings: u64,
    affected: u64,
}

pub fn run(args: &CheckArgs, context: &Context) -> Outcome<Exit> {
    let deep = args.read_data.is_some() || args.restore_test.is_some();
    let mut desk = Desk::open(context, args.identity.as_deref(), if deep { Need::Blocks } else { Need::IfNamed })?;
    let view = desk.view(context, args.source.as_deref())?;
    desk.sinks = desk.sinks.into_iter().map(|sink| Box::new(Remembering::new(sink)) as Box<dyn Objects>).collect();
    // The view has told of them.
    let doubtful = expired::doubtful(&view.snapshots, desk.now).len() as u64;
    let mut totals = Totals { findings: doubtful + view.wrong_receipts, ..Totals::default() };
    if view.fresh.is_empty() && view.failed.is_empty() {
        return Err(nothing_to_check(&desk, &view, args.source.as_deref()));
    }
    for fresh in &view.fresh {
        chain(args, context, &mut desk, &view, fresh, &mut totals)?;
    }
    // A test that restored nothing tested nothing.
    if totals.restored > 0 && totals.findings == 0 && totals.affected == 0 && view.failed.is_empty() {
        check::note_restore_test(&desk.loaded.paths.state_dir, desk.now)?;
    }
    summary(&totals, &view, context)?;
    Ok(match (totals.findings + totals.affected, view.exit()) {
        (0, Exit::Done) if desk.unreached > 0 => Exit::SomeRemotes,
        (0, exit) => exit,
        _ => Exit::Tampered,
    })
}

/// No chain of a trusted source is there: nothing was checked, and nobody should believe that it was.
fn nothing_to_check(desk: &Desk, view: &View, source: Option<&str>) -> Failure {
    if let Err(failure) = resolve::check_source(view, &desk.trust, source, &desk.remote_names()) {
        return failure;
    }
    let message = "the remotes show nothing of a source that is trusted here: nothing was checked";
    Failure::new("no-snapshot", Exit::NotFound, message).help("source-agent trust list")
}

/// One chain: everything that one sink holds of one lineage of one source.
fn chain(
    args: &CheckArgs,
    context: &Context,
    desk: &mut Desk,
    view: &View,
    fresh: &Fresh,
    totals: &mut Totals,
) -> Outcome<()> {
    let mine: Vec<&Snapshot> =
        view.snapshots.iter().filter(|s| s.sink == fresh.sink && s.head.chain() == fresh.chain).collect();
    let mut findings = Findings::default();
    let mut named = Named::default();
    let source = desk.trust.sources[fresh.source].clone();
    named.snapshots(&mut *desk.sinks[fresh.sink], &mine, &mut findings)?;
    let what = format!("{} at {}", source.name(), desk.remotes[fresh.sink].name);
    let progress = Progress::new(context, &what, None);
    progress.set_total_files(named.archives());
    let (sink, lineage) = (&mut *desk.sinks[fresh.sink], &fresh.chain.lineage);
    named.regions(sink, &source, lineage, &mut findings, &progress, &mut |_| {})?;
    totals.snapshots += named.snapshots;
    totals.expired += named.expired;
    totals.archives += named.archives();
    let mut affected = Vec::new();
    if desk.identity.is_some() {
        deep(args, desk, &mine, &named, &mut findings, &mut affected, &progress, totals)?;
    }
    progress.finish();
    findings.lines().iter().for_each(|line| warn(context, &format!("{what}: {line}")));
    totals.findings += findings.count();
    for one in affected {
        totals.affected += 1;
        if totals.affected <= LISTED_MAX {
            warn_path(context, "check", &one.path, &one.why);
        }
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn deep(
    args: &CheckArgs,
    desk: &mut Desk,
    mine: &[&Snapshot],
    named: &Named,
    findings: &mut Findings,
    affected: &mut Vec<Affected>,
    progress: &Progress,
    totals: &mut Totals,
) -> Outcome<()> {
    let mut present: Vec<&Snapshot> = mine.iter().copied().filter(|s| s.content == Damage::Present).collect();
    sort_newest_first(&mut present);
    let mut bad = Bad::default();
    if let Some(share) = args.read_data {
        // Any snapshot of the lineage opens its secrets; the newest that can be opened does.
        for snapshot in &present {
            let mut reader = match desk.reader(snapshot) {
                Err(failure) if is_lost(&failure) => continue,
                other => other?,
            };
            bad = check::read_data(&mut reader, named, share, progress)?;
            findings.append(std::mem::take(&mut reader.findings));
            break;
        }
        totals.blocks += bad.blocks;
        totals.chunks += bad.chunks;
    }
    let mut seen = HashSet::new();
    let mut tested = HashSet::new();
    let mut kept = Kept::default();
    if let Some(first) = present.first() {
        // What is lost of these is told when it is read.
        let envelopes = present.iter().map(|one| Wanted::Envelope(one.head.source, one.head.session));
        desk.sinks[first.sink].objects(&envelopes.collect::<Vec<_>>(), &mut |_, _| Ok(()))?;
    }
    for snapshot in present {
        let id = snapshot.id().short();
        let mut reader = match desk.reader(snapshot) {
            Err(failure) if is_lost(&failure) => {
                findings.other(format!("snapshot {id}: {}", failure.message));
                continue;
            }
            other => other?,
        };
        reader.take_over(std::mem::take(&mut kept));
        let mut note = |one: Affected| {
            let path = [format!("{id}:").as_bytes(), &one.path].concat();
            affected.push(Affected { path, why: one.why });
        };
        check::tree(&mut reader, &bad, &mut seen, &mut note, progress)?;
        if let Some(count) = args.restore_test.filter(|_| is_latest(snapshot) && tested.insert(snapshot.head.series)) {
            totals.restored += check::restore_test(&mut reader, count, progress, &mut note)?;
        }
        findings.append(std::mem::take(&mut reader.findings));
        kept = reader.into_kept();
    }
    Ok(())
}

fn summary(totals: &Totals, view: &View, context: &Context) -> Outcome<()> {
    let Totals { snapshots, expired, archives, blocks, chunks, restored, findings, affected } = totals;
    if context.json {
        return print_json(&serde_json::json!({
            "message_type": "summary",
            "snapshots": snapshots,
            "expired": expired,
            "archives": archives,
            "blocks_read": blocks,
            "chunks_checked": chunks,
            "files_restored": restored,
            "num_errors": findings,
            "files_affected": affected,
            "chains": view.fresh.len(),
            "sources_failed": view.failed.len(),
        }));
    }
    if context.quiet {
        return Ok(());
    }
    let count = |number: &u64| progress::count(*number);
    let counted = |number: &u64, what| progress::counted(*number, what);
    let mut text = format!(
        "{} unbroken, {}, {}",
        counted(&(view.fresh.len() as u64), "chain"),
        counted(snapshots, "snapshot"),
        counted(archives, "archive")
    );
    if *expired > 0 {
        text.push_str(&format!(" ({} expired)", count(expired)));
    }
    if *blocks > 0 {
        text.push_str(&format!(", {} read, {}", counted(blocks, "block"), counted(chunks, "chunk")));
    }
    if *restored > 0 {
        text.push_str(&format!(", {} restored", counted(restored, "file")));
    }
    if !view.failed.is_empty() {
        text.push_str(&format!("; {} FAILED", counted(&(view.failed.len() as u64), "source")));
    }
    match (findings, affected) {
        (0, 0) if view.failed.is_empty() => text.push_str(": nothing wrong"),
        (0, 0) => text.push_str(": nothing wrong with the others"),
        _ => text.push_str(&format!(": {}, {} affected", counted(findings, "FINDING"), counted(affected, "file"))),
    }
    print_line(&text)
}

/// Reads one snapshot as a whole, for `vouch`.
pub fn check_snapshot(desk: &mut Desk, snapshot: &Snapshot, progress: &Progress) -> Outcome<Findings> {
    let mut reader = desk.reader(snapshot)?;
    check::whole(&mut reader, snapshot, progress)
}

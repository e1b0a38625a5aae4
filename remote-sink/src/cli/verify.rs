//! `remote-sink verify`: reads everything again and judges it against signatures and hashes; needs no key.

use super::{Context, table};
use crate::cli::vault::Vault;
use crate::config::{Age, Size, iec};
use crate::damaged::{Damaged, LostBlocks};
use crate::journal::Event;
use crate::ledger::Ledger;
use crate::report::{Failure, exit};
use crate::retention::brakes::Brake;
use crate::retention::vault::Desk;
use crate::verify::{Finding, Report, SourceReport, VerifyOptions, verify_observed};
use shared::id::SourceName;
use shared::signature::Plain;
use shared::sys::{Clock, SystemClock, durable};
use shared::text::printable;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Findings that are listed one by one.
const SHOWN_MAX: usize = 50;

/// Read stored data again and check signatures, chains and hashes
///
/// Needs no key and changes no object. What is damaged is named, with the snapshots that need it. The source is told at
/// its next backup, and sends again what it still has. That this is the same content is the source's word: only an
/// owner's `source-agent check --read-data` can confirm it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 all is well, 13 something is damaged or missing, 1 it could not be read.")]
pub struct VerifyArgs {
    /// Only these sources [default: all]
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// Skip data that was read and found good more recently [default: [verify] reverify-after in vault.toml, else none]
    #[arg(long, value_name = "AGE")]
    pub older_than: Option<Age>,
    /// Read only this share of the data, chosen by chance; heads and signatures are all checked
    #[arg(long, value_name = "SHARE")]
    pub sample: Option<Sample>,
    /// Read no faster than this per second [default: [verify] limit-read in vault.toml, else no limit]
    #[arg(long, value_name = "SIZE")]
    pub limit_read: Option<Size>,
}

/// A share of more than nothing: `10%`, `0.5%`.
#[derive(Debug, Clone, Copy)]
pub struct Sample(f64);

impl FromStr for Sample {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
        number
            .filter(|percent| *percent > 0.0 && *percent <= 100.0)
            .map(Self)
            .ok_or_else(|| "write a share above 0% and up to 100%, for example 10%".into())
    }
}

pub fn run(args: &VerifyArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    let vault = Vault::open(context.global.root.as_deref())?;
    let chosen = vault.choose(&args.sources)?;
    let limit_read = args.limit_read.or(vault.config.verify.limit_read).map(Size::bytes);
    let options = VerifyOptions {
        // Nothing named: all of them and the owners' objects.
        sources: if args.sources.is_empty() { Vec::new() } else { chosen.iter().map(|one| one.name.clone()).collect() },
        sample_percent: args.sample.map(|sample| sample.0),
        limit_read,
        older_than: args
            .older_than
            .or(vault.config.verify.reverify_after)
            .map(|age| i64::try_from(age.seconds()).unwrap_or(i64::MAX)),
    };
    // Asking whether a file is open for writing takes a lease for a moment; whoever breaks it sends this signal.
    signal_hook::flag::register(signal_hook::consts::SIGIO, Arc::default())
        .map_err(|e| Failure::new("signal", format!("cannot handle SIGIO: {e}")))?;
    let started = Instant::now();
    let began = SystemClock.now();
    let progress = Progress::new(&context.global);
    let report = verify_observed(vault.layout.root(), &options, &SystemClock, &|bytes| progress.read(bytes))?;
    progress.end();
    note_scrub(&report, options.sample_percent.is_some_and(|percent| percent < 100.0), context);
    for source in &report.sources {
        remember(&vault, source, began, context);
        leave_for_source(&vault, source, began, context);
    }
    tell(&report, started.elapsed(), context)?;
    Ok(if report.is_ok() { exit::OK } else { exit::DAMAGE })
}

/// What was read, on a terminal.
struct Progress(indicatif::ProgressBar);

impl Progress {
    fn new(global: &super::Global) -> Self {
        let bar = if global.quiet || global.json {
            indicatif::ProgressBar::hidden()
        } else {
            indicatif::ProgressBar::no_length()
        };
        let style =
            indicatif::ProgressStyle::with_template("read {binary_bytes}  {binary_bytes_per_sec}  {elapsed_precise}");
        // The bar hides itself where standard error is no terminal.
        Self(style.map(|style| bar.clone().with_style(style)).unwrap_or(bar))
    }
    fn read(&self, bytes: u64) {
        self.0.inc(bytes);
    }
    fn end(&self) {
        self.0.finish_and_clear();
    }
}

/// Notes in the ledger what was read and found good, for `--older-than`. The ledger is a cache: without it the next
/// run reads more.
fn remember(vault: &Vault, source: &SourceReport, began: i64, context: &Context<'_>) {
    let Ok(name) = source.name.parse() else { return };
    let noted = Ledger::open(&vault.layout.ledger(&name)).and_then(|mut ledger| {
        // Read again next time, however young their last good reading is.
        ledger.unmark_verified(&source.suspect)?;
        ledger.mark_verified(&source.verified, began)
    });
    if let Err(e) = noted {
        context.warn(format!("{name}: {e}; what was read is not remembered"));
    }
}

/// Leaves the list of what is lost where the source's sessions find it, and takes it away when nothing is lost any more.
fn leave_for_source(vault: &Vault, source: &SourceReport, began: i64, context: &Context<'_>) {
    let written = || -> Result<(), String> {
        let name: SourceName = source.name.parse().map_err(|e| format!("{e}"))?;
        let path = vault.layout.damaged(&name);
        if source.lost.is_empty() && !path.exists() {
            return Ok(());
        }
        let id = source.id.ok_or("it has no card")?;
        let list = Plain::new(Damaged::new(id, began, source.lost.clone())).map_err(|e| e.to_string())?;
        durable::replace_as(&path, list.as_bytes(), durable::PUBLIC, durable::Owner::Directory)
            .map_err(|e| format!("cannot write {}: {e}", path.display()))
    };
    if let Err(why) = written() {
        context.warn(format!("{}: the source is not told of this: {why}", source.name));
    }
}

/// Notes in the operator's journal what was found: `prune` stops while something is damaged. Where this account may
/// not write there, only the report tells. A sample may have left out just what an earlier run found damaged: what it
/// did not find ends no alarm.
fn note_scrub(report: &Report, is_sample: bool, context: &Context<'_>) {
    let noted = Vault::open_to_change(context.global.root.as_deref()).and_then(|vault| {
        let mut desk = vault.desk()?;
        crate::retention::observe::observe(&mut desk)?;
        for source in &report.sources {
            let Ok(name) = source.name.parse() else { continue };
            if is_sample && source.damage_total == 0 && damage_stands(&desk, &name) {
                context.warn(format!(
                    "{name}: an earlier verify found damage, and this one read a sample: run verify without --sample"
                ));
                continue;
            }
            let now = desk.now.clone();
            desk.journal.append(&now, Event::Scrubbed(name, source.damage_total))?;
        }
        Ok(())
    });
    if let Err(failure) = noted {
        context.warn(format!("the journal does not know of this: {}", failure.message));
    }
}

/// Did the last run that counts find damage, which nobody has accepted?
fn damage_stands(desk: &Desk, name: &SourceName) -> bool {
    let memory = desk.journal.memory.source(name);
    let accepted = memory.and_then(|memory| memory.accepted.get(Brake::Scrub.as_str())).map(|(_, entry)| *entry);
    memory.and_then(|memory| memory.scrubbed).is_some_and(|(_, damaged, entry)| damaged > 0 && Some(entry) > accepted)
}

fn tell(report: &Report, took: Duration, context: &mut Context<'_>) -> Result<(), Failure> {
    for source in &report.sources {
        if context.global.json {
            context.json(&json(source))?;
        } else if source.is_ok() {
            context.remark(line(source, took))?;
        } else {
            context.line(line(source, took))?;
            findings(&source.damage, source.damage_total, context)?;
        }
        notes(source, context)?;
    }
    for owner in &report.owners {
        let damaged = owner.damage.len() as u64;
        let shown =
            format!("owner {}  {}: {damaged} damaged", owner.owner.short(), table::counted(owner.objects, "object"));
        if context.global.json {
            let damage: Vec<_> = owner.damage.iter().map(finding_json).collect();
            let key = owner.owner.to_string();
            context.json(&serde_json::json!({
                "message_type": "verified_owner", "owner": key, "objects": owner.objects, "damage": damage,
            }))?;
        } else if damaged > 0 {
            context.line(shown)?;
            findings(&owner.damage, damaged, context)?;
        } else {
            context.remark(shown)?;
        }
    }
    if report.sources.is_empty() {
        context.remark("No source is enrolled.")?;
    }
    Ok(())
}

/// What is no damage and should be known all the same.
fn notes(source: &SourceReport, context: &mut Context<'_>) -> Result<(), Failure> {
    if !source.snapshots_damaged.is_empty() {
        let snapshots = table::counted(source.snapshots_damaged.len() as u64, "snapshot");
        context.remark(format!("  {snapshots} cannot be restored whole from here"))?;
    }
    if !source.lost.is_empty() {
        let blocks = table::counted(lost_blocks(source), "damaged block");
        let archives = table::counted(source.lost.len() as u64, "archive");
        context.remark(format!(
            "  snapshots need {blocks} of {archives}: the source is told at its next backup, and \
             sends again what it still has; verify again after it"
        ))?;
        for lost in source.lost.iter().take(SHOWN_MAX) {
            context.remark(format!("    archive {}: {}", lost.number, shown_blocks(lost)))?;
        }
        if source.lost.len() > SHOWN_MAX {
            let more = table::counted((source.lost.len() - SHOWN_MAX) as u64, "more archive");
            context.remark(format!("    ... and {more}"))?;
        }
    }
    if source.healed > 0 {
        let healed = table::counted(source.healed, "damaged block");
        context.remark(format!(
            "  {healed} healed by the source's word: it signed that other blocks, which are here and \
             right, hold their content; an owner's check --read-data confirms it"
        ))?;
    }
    if source.without_receipt > 0 {
        let heads = table::counted(source.without_receipt, "head");
        context.remark(format!("  {heads} without a receipt: interrupted, the next session repairs that"))?;
    }
    if source.archives_read < source.archives {
        context.remark(unread(source))?;
    }
    if source.archives_open > 0 {
        let open = table::counted(source.archives_open, "archive");
        context.remark(format!("  {open} still open for writing in a session: read again next time"))?;
    }
    if source.unknown_total > 0 {
        let first = source.unknown.first().map(|path| printable(path.as_bytes(), 200)).unwrap_or_default();
        let files = table::counted(source.unknown_total, "file");
        context.remark(format!("  {files} beside the objects, the first: {first}"))?;
    }
    Ok(())
}

/// Archives whose data was not read, and why.
fn unread(source: &SourceReport) -> String {
    let left_out = source.archives_left_out;
    let lost = source.archives.saturating_sub(source.archives_read).saturating_sub(left_out);
    let mut why = Vec::new();
    if left_out > 0 {
        why.push(format!("{} left out by sample or age", table::grouped(left_out)));
    }
    if lost > 0 {
        why.push(format!("{} cannot be read: damaged or gone", table::grouped(lost)));
    }
    let (read, all) = (table::grouped(source.archives_read), table::counted(source.archives, "archive"));
    format!("  data of {read} of {all} read; {}", why.join(", "))
}

fn lost_blocks(source: &SourceReport) -> u64 {
    source.lost.iter().map(LostBlocks::count).sum()
}

/// `block 3`, `blocks 0 1 7 … (20)`.
fn shown_blocks(lost: &LostBlocks) -> String {
    const MOST: usize = 12;
    let first: Vec<String> = lost.numbers().take(MOST).map(|block| block.to_string()).collect();
    match lost.count() {
        1 => format!("block {}", first.join(" ")),
        count if count as usize <= MOST => format!("blocks {}", first.join(" ")),
        count => format!("blocks {} … ({count})", first.join(" ")),
    }
}

/// `web1  31 snapshots: signatures 31 ok, chain unbroken   data 214,113 objects, 88.1 GiB: 0 damaged   09:12`
fn line(source: &SourceReport, took: Duration) -> String {
    let chain = match source.chain_broken {
        0 => "chain unbroken".into(),
        count => format!("{} BROKEN", table::counted(count, "chain")),
    };
    let seconds = took.as_secs();
    format!(
        "{}  {}: signatures {} ok, {chain}   data {}, {}: {} damaged   {:02}:{:02}",
        printable(source.name.as_bytes(), 64),
        table::counted(source.snapshots, "snapshot"),
        table::grouped(source.signatures_ok),
        table::counted(source.objects, "object"),
        iec(source.bytes),
        table::grouped(source.damage_total),
        seconds / 60,
        seconds % 60
    )
}

fn findings(damage: &[Finding], total: u64, context: &mut Context<'_>) -> Result<(), Failure> {
    for finding in damage.iter().take(SHOWN_MAX) {
        let path = printable(finding.path.as_bytes(), 300);
        let needs = finding.snapshots.len() as u64;
        let needs = (needs > 0).then(|| format!("  (needed by {})", table::counted(needs, "snapshot")));
        context.line(format!("  {path}: {}{}", printable(finding.what.as_bytes(), 300), needs.unwrap_or_default()))?;
    }
    let more = total.saturating_sub(damage.len().min(SHOWN_MAX) as u64);
    if more > 0 {
        context.line(format!("  ... and {more} more"))?;
    }
    Ok(())
}

fn finding_json(finding: &Finding) -> serde_json::Value {
    let snapshots: Vec<_> =
        finding.snapshots.iter().map(|(lineage, sequence)| format!("{lineage}-{sequence}")).collect();
    serde_json::json!({ "path": finding.path, "what": finding.what, "snapshots": snapshots })
}

fn lost_json(lost: &LostBlocks) -> serde_json::Value {
    let blocks: Vec<u32> = lost.numbers().collect();
    serde_json::json!({ "lineage": lost.lineage.to_string(), "archive": lost.number.get(), "blocks": blocks })
}

fn json(source: &SourceReport) -> serde_json::Value {
    serde_json::json!({
        "message_type": "verified",
        "source": source.name,
        "snapshots": source.snapshots,
        "signatures_ok": source.signatures_ok,
        "chain_broken": source.chain_broken,
        "without_receipt": source.without_receipt,
        "snapshots_damaged": source.snapshots_damaged.len(),
        "objects": source.objects,
        "bytes": source.bytes,
        "damaged": source.damage_total,
        "healed": source.healed,
        "damaged_blocks": lost_blocks(source),
        "lost": source.lost.iter().map(lost_json).collect::<Vec<_>>(),
        "damage": source.damage.iter().map(finding_json).collect::<Vec<_>>(),
        "unknown": source.unknown_total,
        "archives": source.archives,
        "archives_read": source.archives_read,
        "archives_left_out": source.archives_left_out,
        "archives_open": source.archives_open,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_read_is_told_with_its_reason() {
        let told = |archives, archives_read, archives_left_out| {
            unread(&SourceReport { archives, archives_read, archives_left_out, ..SourceReport::default() })
        };
        assert_eq!(told(5, 2, 3), "  data of 2 of 5 archives read; 3 left out by sample or age");
        assert_eq!(told(1, 0, 0), "  data of 0 of 1 archive read; 1 cannot be read: damaged or gone");
        assert_eq!(
            told(5, 2, 2).split_once("; ").unwrap().1,
            "2 left out by sample or age, 1 cannot be read: damaged or gone"
        );
    }
}

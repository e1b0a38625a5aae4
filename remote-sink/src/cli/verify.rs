//! `remote-sink verify`: reads everything again and judges it against signatures and hashes; needs no key.

use super::{Context, table};
use crate::cli::vault::Vault;
use crate::config::{Age, Size, iec};
use crate::report::{Failure, exit};
use crate::verify::{Finding, Report, SourceReport, VerifyOptions, verify};
use shared::sys::SystemClock;
use shared::text::printable;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Findings that are listed one by one.
const SHOWN_MAX: usize = 50;

/// Read stored data again and check signatures, chains and hashes
///
/// Needs no key and changes nothing. What is damaged is named; the source's next backup sends it again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 all is well, 13 something is damaged or missing, 1 it could not be read.")]
pub struct VerifyArgs {
    /// Only these sources [default: all]
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// Skip data that was read and found good more recently
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
    let sources = vault.choose(&args.sources)?.into_iter().map(|one| one.name).collect();
    let limit_read = args.limit_read.or(vault.config.verify.limit_read).map(Size::bytes);
    let options = VerifyOptions {
        sources,
        sample_percent: args.sample.map(|sample| sample.0),
        limit_read,
        older_than: args.older_than.map(|age| i64::try_from(age.seconds()).unwrap_or(i64::MAX)),
    };
    let started = Instant::now();
    let report = verify(vault.layout.root(), &options, &SystemClock)?;
    tell(&report, started.elapsed(), context)?;
    let damaged = report.sources.iter().any(is_damaged);
    Ok(if damaged { exit::DAMAGE } else { exit::OK })
}

fn is_damaged(source: &SourceReport) -> bool {
    !source.is_ok()
}

fn tell(report: &Report, took: Duration, context: &mut Context<'_>) -> Result<(), Failure> {
    for source in &report.sources {
        if context.global.json {
            context.json(&json(source))?;
        } else if is_damaged(source) {
            context.line(line(source, took))?;
            findings(source, context)?;
        } else {
            context.remark(line(source, took))?;
        }
        if source.unknown_total > 0 {
            let first = source.unknown.first().map(|path| printable(path.as_bytes(), 200)).unwrap_or_default();
            context.remark(format!("  {} file(s) that are no objects, the first: {first}", source.unknown_total))?;
        }
    }
    if report.sources.is_empty() {
        context.remark("Nothing to verify: no source is enrolled.")?;
    }
    Ok(())
}

/// `web1  31 snapshots: signatures 31 ok, chain unbroken   data 214,113 objects, 88.1 GiB: 0 damaged   09:12`
fn line(source: &SourceReport, took: Duration) -> String {
    let chain = match source.chain_broken {
        0 => "chain unbroken".into(),
        count => format!("chain BROKEN at {count}"),
    };
    let seconds = took.as_secs();
    format!(
        "{}  {} snapshots: signatures {} ok, {chain}   data {} objects, {}: {} damaged   {:02}:{:02}",
        printable(source.name.as_bytes(), 64),
        table::grouped(source.snapshots),
        table::grouped(source.signatures_ok),
        table::grouped(source.objects),
        iec(source.bytes),
        table::grouped(source.damage_total),
        seconds / 60,
        seconds % 60
    )
}

fn findings(source: &SourceReport, context: &mut Context<'_>) -> Result<(), Failure> {
    for finding in source.damage.iter().take(SHOWN_MAX) {
        let path = printable(finding.path.as_bytes(), 300);
        let needs = finding.snapshots.first().map(|_| format!("  (needed by {} snapshots)", finding.snapshots.len()));
        context.line(format!("  {path}: {}{}", printable(finding.what.as_bytes(), 300), needs.unwrap_or_default()))?;
    }
    let more = source.damage_total.saturating_sub(source.damage.len().min(SHOWN_MAX) as u64);
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

fn json(source: &SourceReport) -> serde_json::Value {
    serde_json::json!({
        "message_type": "verified",
        "source": source.name,
        "snapshots": source.snapshots,
        "signatures_ok": source.signatures_ok,
        "chain_broken": source.chain_broken,
        "objects": source.objects,
        "bytes": source.bytes,
        "damaged": source.damage_total,
        "damage": source.damage.iter().map(finding_json).collect::<Vec<_>>(),
        "unknown": source.unknown_total,
    })
}

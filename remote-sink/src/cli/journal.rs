//! `remote-sink observe` and `report`: the operator's journal, fed and read.

use super::{Context, DONE, hooks, table};
use crate::cli::vault::{Enrolled, Vault};
use crate::journal::{Event, Journal, SILENT, SourceMemory, Words};
use crate::report::{Failure, exit};
use crate::retention::observe;
use crate::retention::vault::Desk;
use shared::text::printable;
use shared::wire::Role;

/// Note in the operator's journal what is new (for cron, every few minutes)
///
/// Retention believes a time of receipt only as far as two observations bound it. Every command that changes something
/// observes too; run this in between, so that the bounds are narrow. With `[alerts] max-age` a source that falls silent is
/// noted too, once for each silence, and the alert hooks are called.
#[derive(Debug, clap::Args)]
pub struct ObserveArgs {}

/// Show what the operator's journal knows: rules, holds, removals, alarms
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// Only these sources [default: all]
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
}

pub fn observe(_args: &ObserveArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    let vault = Vault::open_to_change(context.global.root.as_deref())?;
    let (enrolled, unreadable) = vault.all()?;
    let mut desk = vault.desk()?;
    let seen = observe::observe(&mut desk)?;
    for one in enrolled.iter().filter(|one| one.enrolment.role == Role::Push && !one.enrolment.revoked) {
        if let Some(message) = fell_silent(&vault, &desk, one) {
            let event = Event::Alarm(one.name.clone(), Words::truncated(SILENT), Words::truncated(&message));
            let now = desk.now.clone();
            desk.journal.append(&now, event)?;
            hooks::call(&vault.config.hooks, (SILENT, &one.name, &message), context);
        }
    }
    let failed: Vec<Failure> = unreadable.into_iter().chain(seen.failed.into_iter().map(|(_, e)| e.into())).collect();
    if context.global.json {
        context.json(&serde_json::json!({
            "message_type": "observed", "sources": seen.sources, "new_snapshots": seen.new_heads,
        }))?;
    } else {
        let (sources, new) = (table::counted(seen.sources, "source"), table::counted(seen.new_heads, "new snapshot"));
        context.remark(format!("{sources}, {new}"))?;
    }
    Ok(failed.iter().map(|failure| context.failed(failure)).max().unwrap_or(exit::OK))
}

/// Why this source counts as silent, unless that was said already of the same silence: by an entry of the journal behind
/// the one that saw its newest head. Entries count, not times: the clock may have run ahead when one was written.
fn fell_silent(vault: &Vault, desk: &Desk, one: &Enrolled) -> Option<String> {
    let max_age = vault.config.alerts.max_age?;
    let enrolled = one.enrolment.enrolled.parse::<jiff::Timestamp>().ok()?;
    let memory = desk.journal.memory.source(&one.name);
    let newest = memory.and_then(|memory| memory.heard);
    let since = newest.map_or(enrolled.as_second(), |(seen, _)| seen);
    let now = jiff::Timestamp::from_second(desk.now.wall).ok()?;
    let told = memory.is_some_and(|memory| memory.silent > newest.map(|(_, entry)| entry));
    if told || since >= max_age.before(now).as_second() {
        return None;
    }
    let what = if newest.is_some() { "the last snapshot" } else { "enrolled, and no snapshot since" };
    Some(format!("{what}: {}, {}", table::local(since), table::ago(desk.now.wall.saturating_sub(since))))
}

pub fn report(args: &ReportArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    let vault = Vault::open(context.global.root.as_deref())?;
    let memory = Journal::look(&vault.layout)?;
    let none = SourceMemory::default();
    for one in vault.choose(&args.sources)?.iter().filter(|one| one.enrolment.role == Role::Push) {
        tell(one.name.as_str(), memory.source(&one.name).unwrap_or(&none), context)?;
    }
    DONE
}

fn tell(name: &str, source: &SourceMemory, context: &mut Context<'_>) -> Result<(), Failure> {
    let heads: u64 = source
        .chains
        .values()
        .filter_map(|runs| Some(runs.last()?.last.saturating_add(1)))
        .fold(0, u64::saturating_add);
    let rules = source.rules.clone().unwrap_or_else(|| "keeps everything: no rule is set".into());
    if context.global.json {
        let alarm = |(at, what, message): &(i64, String, String)| serde_json::json!({ "at": table::utc(*at), "what": what, "message": message });
        return context.json(&serde_json::json!({
            "message_type": "report", "source": name, "snapshots_seen": heads, "rules": rules,
            "expired": source.gone.len(), "held": source.held.len(),
            "pruned": source.pruned.and_then(|(at, _)| table::utc(at)),
            "verified": source.scrubbed.and_then(|(at, ..)| table::utc(at)),
            "damaged": source.scrubbed.map(|(_, damaged, _)| damaged),
            "alarms": source.alarms.iter().map(alarm).collect::<Vec<_>>(),
        }));
    }
    context.line(format!(
        "{name}: {} seen, {} expired, {} held",
        table::counted(heads, "snapshot"),
        source.gone.len(),
        source.held.len()
    ))?;
    context.line(format!("  rules     {}", printable(rules.as_bytes(), 500)))?;
    let when = |at: Option<i64>| at.map_or_else(|| "never".into(), table::local);
    context.line(format!("  pruned    {}", when(source.pruned.map(|(at, _)| at))))?;
    let damaged = source.scrubbed.map(|(_, damaged, _)| format!(", {damaged} damaged")).unwrap_or_default();
    context.line(format!("  verified  {}{damaged}", when(source.scrubbed.map(|(at, ..)| at))))?;
    for (at, what, message) in source.alarms.iter().rev().take(5) {
        context.line(format!("  alarm     {}  {what}: {}", table::local(*at), printable(message.as_bytes(), 300)))?;
    }
    Ok(())
}

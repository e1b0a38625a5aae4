//! `remote-sink prune`: the rules, then the room. Stops and calls for a person when something is out of the ordinary.

use super::{Context, hooks, table};
use crate::cli::vault::Vault;
use crate::config::{Share, iec};
use crate::report::{Failure, exit};
use crate::retention::brakes::{Alarm, Brake};
use crate::retention::packing::Packing;
use crate::retention::vault::RetentionError;
use crate::retention::{self, Options, Outcome, policy};
use shared::text::printable;
use shared::wire::Role;
use std::time::Duration;

/// So long a run waits for a session that kept runs away for days: longer than a silent one needs to notice.
const SESSION_WAIT: Duration = Duration::from_secs(45);

/// Remove what no rule keeps, and give room back
///
/// Removed snapshots lie in the trash for the grace (`undelete` brings them back). Blocks that nothing names any more are
/// condemned by one run and freed by a later one. With -n nothing is changed and the reason is shown for each snapshot.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 done, 11 a session of a source runs (its part was left out), 13 something is damaged, \
                  20 an alarm stopped it and nothing of that source was changed: look into it, then go on with \
                  --accept WHAT --reason TEXT. What is wrong with one source does not keep the others from being \
                  pruned; the highest of their codes is given."
)]
pub struct PruneArgs {
    /// Only these sources [default: all]
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// Change nothing; show why each snapshot stays or goes
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Empty the trash and free what is dead at once: nothing can be brought back afterwards
    #[arg(long)]
    pub now: bool,
    /// Stop when a larger share of a source's snapshots would go [default: max-remove in vault.toml, else 50%]
    #[arg(long, value_name = "SHARE")]
    pub max_remove: Option<Share>,
    /// Go on in spite of this alarm: clock, rollback, scrub, burst, flood, new, shrink, grow, recipients, bulk, share, busy
    #[arg(long, value_name = "WHAT", requires = "reason")]
    pub accept: Vec<Brake>,
    /// What was found when the alarm was looked into; noted in the journal
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

pub fn run(args: &PruneArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    let vault = Vault::open_to_change(context.global.root.as_deref())?;
    if !args.accept.is_empty() && args.sources.is_empty() {
        return Err(Failure::new("usage", "--accept needs the SOURCE whose alarm was looked into").exit(exit::USAGE));
    }
    let (chosen, unreadable) =
        if args.sources.is_empty() { vault.all()? } else { (vault.choose(&args.sources)?, Vec::new()) };
    let options = Options {
        dry_run: args.dry_run,
        now: args.now,
        max_remove_percent: args.max_remove.map(Share::get),
        accept: args.accept.clone(),
        reason: args.reason.clone().unwrap_or_default(),
        packing: Packing::default(),
        wait: SESSION_WAIT,
    };
    let mut desk = vault.desk()?;
    let mut code = unreadable.iter().map(|failure| context.failed(failure)).max().unwrap_or(exit::OK);
    for one in chosen.iter().filter(|one| one.enrolment.role == Role::Push) {
        let own = match retention::prune(&mut desk, &one.name, &options) {
            Ok(outcome) => report(&outcome, &vault, args.dry_run, context)?,
            // Without a journal nothing may be removed, of no source.
            Err(e @ RetentionError::Journal(_)) => return Err(e.into()),
            // What is wrong with one source keeps no other from its room.
            Err(e) => {
                let mut failure = Failure::from(e);
                failure.message = format!("{}: {}", one.name, failure.message);
                context.failed(&failure)
            }
        };
        code = code.max(own);
    }
    Ok(code)
}

/// Tells what happened to one source, calls the hooks; the exit code.
fn report(outcome: &Outcome, vault: &Vault, dry_run: bool, context: &mut Context<'_>) -> Result<u8, Failure> {
    tell(outcome, dry_run, context)?;
    for alarm in outcome.alarms.iter().filter(|_| !dry_run) {
        hooks::call(&vault.config.hooks, (alarm.brake.as_str(), &outcome.source, &alarm.message), context);
    }
    Ok(match failure(outcome, dry_run) {
        // Lines for people told it already.
        Some(failure) if !context.global.json => failure.exit,
        Some(failure) => context.failed(&failure),
        None => exit::OK,
    })
}

/// Why a source was not, or not wholly, pruned.
fn failure(outcome: &Outcome, dry_run: bool) -> Option<Failure> {
    let source = &outcome.source;
    match () {
        () if outcome.is_stopped() => {
            let alarms: Vec<&str> = outcome.alarms.iter().map(|alarm| alarm.brake.as_str()).collect();
            let message = format!("{source}: an alarm stopped it, nothing was changed: {}", alarms.join(", "));
            let help = format!("look into it, then: remote-sink prune {source} --accept WHAT --reason TEXT");
            Some(Failure::new("stopped", message).help(help).exit(exit::STOPPED))
        }
        () if outcome.damage().next().is_some() => {
            let message = format!("{source}: something that is stored is damaged");
            Some(Failure::new("damaged", message).help(format!("run: remote-sink verify {source}")).exit(exit::DAMAGE))
        }
        () if outcome.busy && !dry_run => {
            let message = format!("{source}: a session runs, nothing was changed");
            Some(Failure::new("busy", message).help("try again when it has ended").exit(exit::BUSY))
        }
        () => None,
    }
}

fn tell(outcome: &Outcome, dry_run: bool, context: &mut Context<'_>) -> Result<(), Failure> {
    if context.global.json {
        return tell_json(outcome, dry_run, context);
    }
    let (source, removed) = (&outcome.source, outcome.removed());
    let kept = outcome.decisions.len() - removed;
    let next = policy::next_removal(&outcome.decisions).map(|at| format!("   next removable on {}", table::local(at)));
    let verb = if dry_run { "remove" } else { "removed" };
    let set = if outcome.rules.rules.is_set() { String::new() } else { " (no rule is set)".into() };
    if dry_run {
        context.remark(format!("{source}: {}", outcome.rules.describe()))?;
        for row in table::columns(&rows(outcome)) {
            context.remark(format!("  {row}"))?;
        }
    }
    if outcome.is_stopped() {
        context.line(format!("{source}: STOPPED, nothing changed ({removed} of {} would go)", kept + removed))?;
    } else if outcome.busy && !dry_run {
        context
            .line(format!("{source}: a session runs, nothing changed ({removed} of {} would go)", kept + removed))?;
    } else {
        context.remark(format!("{source}: keep {kept}, {verb} {removed}{set}{}", next.unwrap_or_default()))?;
    }
    for Alarm { brake, message } in &outcome.alarms {
        context.line(format!("  alarm {}: {message}", brake.as_str()))?;
        let accept = format!("remote-sink prune {source} --accept {} --reason TEXT", brake.as_str());
        context.line(format!("    look into it, then: {accept}"))?;
    }
    if !dry_run && !outcome.is_stopped() {
        let given = &outcome.given;
        if given.freed_bytes > 0 || given.condemned > 0 {
            context.remark(format!(
                "  freed {}: {} removed, {} written again, {} with blocks that a later run frees",
                iec(given.freed_bytes),
                table::counted(given.archives_removed, "archive"),
                table::grouped(given.archives_rewritten),
                table::grouped(given.condemned)
            ))?;
        }
    }
    if outcome.packed.objects > 0 {
        let packed = table::counted(outcome.packed.objects, "object");
        context.remark(format!("  packed {packed}: heads, receipts and envelopes"))?;
    }
    for told in &outcome.salvaged {
        context.line(format!("  {}", printable(told.as_bytes(), 500)))?;
    }
    for path in outcome.damage() {
        context.line(format!("  damaged: {path}; run: remote-sink verify {source}"))?;
    }
    Ok(())
}

fn rows(outcome: &Outcome) -> Vec<Vec<String>> {
    let row = |decision: &policy::Decision| {
        let link = outcome.history.link(&decision.id);
        let until = decision.removable_at.map(|at| format!("until {}", table::local(at)));
        vec![
            link.map_or_else(|| "?".into(), |link| link.head.short()),
            link.map_or_else(|| "?".into(), |link| table::local(link.snapshot.received)),
            link.map_or_else(|| "?".into(), |link| link.snapshot.series.short()),
            if decision.is_kept() { "keep" } else { "REMOVE" }.into(),
            decision.why(),
            until.unwrap_or_default(),
        ]
    };
    outcome.decisions.iter().map(row).collect()
}

fn tell_json(outcome: &Outcome, dry_run: bool, context: &mut Context<'_>) -> Result<(), Failure> {
    let source = outcome.source.as_str();
    for decision in &outcome.decisions {
        let link = outcome.history.link(&decision.id);
        context.json(&serde_json::json!({
            "message_type": "decision",
            "source": source,
            "id": link.map(|link| link.head.to_string()),
            "received": link.and_then(|link| table::utc(link.snapshot.received)),
            "series": link.map(|link| link.snapshot.series.to_string()),
            "checkpoint": decision.checkpoint,
            "keep": decision.is_kept(),
            "reasons": decision.kept.iter().map(|reason| reason.as_str()).collect::<Vec<_>>(),
            "why": decision.why(),
            "removable_at": decision.removable_at.and_then(table::utc),
        }))?;
    }
    let alarms = outcome
        .alarms
        .iter()
        .map(|alarm| serde_json::json!({ "what": alarm.brake.as_str(), "message": alarm.message }));
    let (given, next) = (&outcome.given, policy::next_removal(&outcome.decisions));
    context.json(&serde_json::json!({
        "message_type": "pruned",
        "source": source,
        "dry_run": dry_run,
        "stopped": outcome.is_stopped(),
        "busy": outcome.busy,
        "kept": outcome.decisions.len() - outcome.removed(),
        "removed": if outcome.is_stopped() || outcome.busy { 0 } else { outcome.removed() },
        "would_remove": outcome.removed(),
        "next_removal": next.and_then(table::utc),
        "alarms": alarms.collect::<Vec<_>>(),
        "bytes_freed": given.freed_bytes,
        "archives_removed": given.archives_removed,
        "archives_rewritten": given.archives_rewritten,
        "archives_condemned": given.condemned,
        "damaged": outcome.damaged.iter().chain(&given.damaged).collect::<Vec<_>>(),
    }))
}

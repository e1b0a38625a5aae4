//! `remote-sink hold`, `release`, `undelete`: what the operator says about single snapshots.

use super::{Context, DONE, table};
use crate::cli::vault::Vault;
use crate::report::Failure;
use crate::retention::{self, history::Link};

/// Bring a removed snapshot back from the trash, and hold it
///
/// Works until the grace is over and `prune` emptied the trash. The snapshot is held, as the rules would remove it
/// again: `release` lets them decide.
#[derive(Debug, clap::Args)]
pub struct UndeleteArgs {
    /// The source
    pub source: String,
    /// The snapshot's id, or its first digits
    pub snapshot: String,
}

/// Keep a snapshot whatever the rules say
#[derive(Debug, clap::Args)]
pub struct HoldArgs {
    /// The source
    pub source: String,
    /// The snapshot's id, or its first digits
    pub snapshot: String,
    /// Why; noted in the journal
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
}

/// Let the rules decide about a snapshot again
#[derive(Debug, clap::Args)]
pub struct ReleaseArgs {
    /// The source
    pub source: String,
    /// The snapshot's id, or its first digits
    pub snapshot: String,
    /// Why; noted in the journal
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
}

pub fn undelete(args: &UndeleteArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    let vault = Vault::open_to_change(context.global.root.as_deref())?;
    let one = vault.get(&args.source)?;
    let link = retention::undelete(&mut vault.desk()?, &one.name, &args.snapshot)?;
    tell("undeleted", "brought back and held", one.name.as_str(), &link, context)
}

pub fn hold(args: &HoldArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    let vault = Vault::open_to_change(context.global.root.as_deref())?;
    let one = vault.get(&args.source)?;
    let link = retention::hold(&mut vault.desk()?, &one.name, &args.snapshot, true, &args.reason)?;
    tell("held", "held", one.name.as_str(), &link, context)
}

pub fn release(args: &ReleaseArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    let vault = Vault::open_to_change(context.global.root.as_deref())?;
    let one = vault.get(&args.source)?;
    let link = retention::hold(&mut vault.desk()?, &one.name, &args.snapshot, false, &args.reason)?;
    tell("released", "released: the rules decide", one.name.as_str(), &link, context)
}

fn tell(kind: &str, words: &str, source: &str, link: &Link, context: &mut Context<'_>) -> Result<u8, Failure> {
    if context.global.json {
        context.json(&serde_json::json!({
            "message_type": kind, "source": source, "id": link.head.to_string(),
            "received": table::utc(link.snapshot.received),
        }))?;
    } else {
        context.remark(format!(
            "{source}: {} of {} {words}",
            link.head.short(),
            table::local(link.snapshot.received)
        ))?;
    }
    DONE
}

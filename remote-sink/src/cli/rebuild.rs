//! `remote-sink rebuild`: makes the ledgers again from the objects.

use super::{Context, DONE, table};
use crate::cli::vault::Vault;
use crate::config::iec;
use crate::ledger;
use crate::report::Failure;
use crate::retention;
use shared::text::printable;
use shared::wire::Role;

/// Make the ledgers again from the stored objects
///
/// A ledger is a cache: nothing is lost when one is deleted, damaged or old. Packs of heads, receipts and envelopes whose
/// index is damaged are made again too, from the objects in them.
#[derive(Debug, clap::Args)]
pub struct RebuildArgs {
    /// Only these sources [default: all]
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
}

pub fn run(args: &RebuildArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    let vault = Vault::open_to_change(context.global.root.as_deref())?;
    for one in vault.choose(&args.sources)?.iter().filter(|one| one.enrolment.role == Role::Push) {
        for told in retention::salvage(&vault.desk()?, &one.name)?.unwrap_or_default() {
            let told = printable(told.as_bytes(), 500);
            if context.global.json {
                let name = one.name.as_str();
                context.json(&serde_json::json!({ "message_type": "salvaged", "source": name, "message": told }))?;
            } else {
                context.line(format!("{}  {told}", one.name))?;
            }
        }
    }
    vault.observe(context);
    for one in vault.choose(&args.sources)?.iter().filter(|one| one.enrolment.role == Role::Push) {
        let totals = ledger::rebuild(vault.layout.root(), &one.name, one.enrolment.card.verify_key())?;
        if context.global.json {
            context.json(&serde_json::json!({
                "message_type": "rebuilt", "source": one.name.as_str(),
                "archives": totals.archives, "objects": totals.objects, "bytes": totals.bytes,
            }))?;
        } else {
            let objects = table::counted(totals.objects, "object");
            context.remark(format!("{}  ledger rebuilt: {objects}, {} charged", one.name, iec(totals.bytes)))?;
        }
    }
    DONE
}

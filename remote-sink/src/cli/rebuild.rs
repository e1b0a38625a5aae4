//! `remote-sink rebuild`: makes the ledgers again from the objects.

use super::{Context, DONE};
use crate::cli::vault::Vault;
use crate::report::Failure;

/// Make the ledgers again from the stored objects
///
/// A ledger is a cache: nothing is lost when one is deleted, damaged or old.
#[derive(Debug, clap::Args)]
pub struct RebuildArgs {
    /// Only these sources [default: all]
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
}

pub fn run(args: &RebuildArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    let vault = Vault::open_to_change(context.global.root.as_deref())?;
    let _ = vault.choose(&args.sources)?;
    DONE
}

//! `remote-sink serve`: the forced command. Hidden: sshd and `listen` start it, people do not.

use super::Context;
use crate::cli::vault::Vault;
use crate::report::Failure;
use crate::serve::{self, Confinement, Limits, ServeOptions};
use shared::wire::Role;
use std::process::ExitCode;
use std::time::Duration;

/// Serve one session on standard input and output (the forced command of authorized_keys)
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// The enrolled name
    #[arg(long, value_name = "NAME")]
    pub source: shared::id::SourceName,
    /// What the session may do: push, read or audit
    #[arg(long)]
    pub role: Role,
}

pub fn run(args: ServeArgs, context: &Context<'_>) -> Result<ExitCode, Failure> {
    let vault = Vault::open(context.global.root.as_deref())?;
    let limits = Limits {
        idle: Duration::from_secs(vault.config.idle_timeout_seconds()),
        quota: vault.config.quota(&args.source),
        min_free: vault.config.min_free_bytes(),
        ..Limits::default()
    };
    let root = vault.layout.root().to_owned();
    let options = ServeOptions { root, source: args.source, role: args.role, limits, binding: Vec::new() };
    Ok(serve::run(options, vault.config.confinement())?)
}

/// The half of a session that reads the network (started by `serve`)
#[derive(Debug, clap::Args)]
pub struct ReceiverArgs {
    #[arg(long)]
    pub unconfined: bool,
}

pub fn run_receiver(args: &ReceiverArgs) -> Result<ExitCode, Failure> {
    let confinement = if args.unconfined { Confinement::Waived } else { Confinement::Required };
    Ok(serve::run_receiver(confinement)?)
}

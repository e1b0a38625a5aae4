//! `source-agent man`: the manual pages, made from the same definitions as the help.

use crate::cli::{Cli, Context};
use crate::progress::notice;
use crate::report::{Exit, Failure, Outcome};
use clap::CommandFactory;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  source-agent man /usr/local/share/man/man1")]
pub struct ManArgs {
    /// Write the pages into this directory
    pub dir: PathBuf,
}

pub fn run(args: &ManArgs, context: &Context) -> Outcome<Exit> {
    std::fs::create_dir_all(&args.dir).map_err(|e| Failure::io("create", &args.dir, &e))?;
    clap_mangen::generate_to(Cli::command(), &args.dir)
        .map_err(|e| Failure::io("write the pages to", &args.dir, &e))?;
    notice(context, &format!("Wrote the manual pages to {}", crate::paths::show(&args.dir)));
    Ok(Exit::Done)
}

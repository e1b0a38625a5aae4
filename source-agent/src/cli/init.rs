//! `source-agent init`.

use crate::cli::Context;
use crate::report::{Exit, Failure, Outcome};

#[derive(Debug, clap::Args)]
pub struct InitArgs {}

pub fn run(_args: &InitArgs, _context: &Context) -> Outcome<Exit> {
    Err(Failure::new("unfinished", Exit::Failed, "not built yet"))
}

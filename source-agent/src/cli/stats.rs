//! `source-agent stats`.

use crate::cli::Context;
use crate::report::{Exit, Failure, Outcome};

#[derive(Debug, clap::Args)]
pub struct StatsArgs {}

pub fn run(_args: &StatsArgs, _context: &Context) -> Outcome<Exit> {
    Err(Failure::new("unfinished", Exit::Failed, "not built yet"))
}

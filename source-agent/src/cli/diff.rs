//! `source-agent diff`.

use crate::cli::Context;
use crate::report::{Exit, Failure, Outcome};

#[derive(Debug, clap::Args)]
pub struct DiffArgs {}

pub fn run(_args: &DiffArgs, _context: &Context) -> Outcome<Exit> {
    Err(Failure::new("unfinished", Exit::Failed, "not built yet"))
}

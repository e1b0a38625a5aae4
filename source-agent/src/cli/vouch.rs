//! `source-agent vouch`.

use crate::cli::Context;
use crate::report::{Exit, Failure, Outcome};

#[derive(Debug, clap::Args)]
pub struct VouchArgs {}

pub fn run(_args: &VouchArgs, _context: &Context) -> Outcome<Exit> {
    Err(Failure::new("unfinished", Exit::Failed, "not built yet"))
}

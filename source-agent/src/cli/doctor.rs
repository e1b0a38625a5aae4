//! `source-agent doctor`.

use crate::cli::Context;
use crate::report::{Exit, Failure, Outcome};

#[derive(Debug, clap::Args)]
pub struct DoctorArgs {}

pub fn run(_args: &DoctorArgs, _context: &Context) -> Outcome<Exit> {
    Err(Failure::new("unfinished", Exit::Failed, "not built yet"))
}

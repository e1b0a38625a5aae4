//! Where configuration, state and cache are.

use crate::cli::Context;
use crate::report::{Exit, Failure, Outcome};
use std::path::PathBuf;

/// The places of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The configuration file.
    pub config: PathBuf,
    /// Its directory: relative paths in it start here; keys made by `init` lie here.
    pub config_dir: PathBuf,
    /// What must not be lost: source secret, lineage, remembered heads. Mode 0700.
    pub state_dir: PathBuf,
    /// What can be made again.
    pub cache_dir: PathBuf,
}

impl Paths {
    /// The places before the configuration is read: `--config`, else root's, else the user's.
    pub fn find(_context: &Context) -> Outcome<Self> {
        Err(Failure::new("unfinished", Exit::Failed, "not built yet"))
    }
}

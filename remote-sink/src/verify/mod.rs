//! The read-only judge of a vault.

use crate::store::Name;
use shared::id::{Lineage, SourceName};
use shared::sys::Clock;
use std::path::Path;

/// What to read.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// These sources; empty = all.
    pub sources: Vec<SourceName>,
    /// Share of the archives whose parts are read, in percent; `None` = all.
    pub sample_percent: Option<f64>,
    /// Bytes per second.
    pub limit_read: Option<u64>,
    /// Skip archives whose last good reading is younger than this many seconds (needs the ledger).
    pub older_than: Option<i64>,
}

/// Something that is not as it was signed.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The object, where it is one; else `path` tells.
    pub object: Option<Name>,
    /// Path relative to the vault's root.
    pub path: String,
    /// Sequence number of a snapshot that needs it, where one does.
    pub snapshots: Vec<(Lineage, u64)>,
    pub what: String,
}

/// What was found in one source.
#[derive(Debug, Clone, Default)]
pub struct SourceReport {
    pub name: String,
    pub snapshots: u64,
    pub signatures_ok: u64,
    pub chain_broken: u64,
    pub objects: u64,
    pub bytes: u64,
    /// Damaged or missing objects, unreadable files.
    pub damage: Vec<Finding>,
    /// More damage than `damage` lists.
    pub damage_total: u64,
    /// Files that are no object.
    pub unknown: Vec<String>,
    pub unknown_total: u64,
}

#[derive(Debug, Clone, Default)]
pub struct Report {
    pub sources: Vec<SourceReport>,
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("cannot read {path}: {error}")]
    Io { path: String, error: std::io::Error },
    #[error("{0}")]
    Vault(String),
}

/// Reads a vault and judges it.
pub fn verify(root: &Path, options: &VerifyOptions, clock: &dyn Clock) -> Result<Report, VerifyError> {
    let _ = (root, options, clock.now());
    Err(VerifyError::Vault("not yet".into()))
}

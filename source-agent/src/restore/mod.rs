//! Restore: walk → plan → fetch → verify → open → write → finish. The one place that names the stages and their order.
//!
//! The sink is hostile and the source may have been taken over: each value that passes from stage to stage can only be
//! made by the check before it, and [`write`] alone joins names to paths.

pub mod check;
mod claims;
pub mod data;
pub mod dry;
pub mod everywhere;
pub mod expired;
pub mod findings;
pub mod finish;
pub mod later;
pub mod lru;
pub mod make;
pub mod metadata;
pub mod objects;
pub mod open;
pub mod ordered;
pub mod pages;
pub mod plan;
pub mod reader;
pub mod reading;
pub mod rekey;
pub mod remembering;
pub mod remote;
pub mod report;
pub mod resolve;
pub mod select;
pub mod substitutes;
pub mod tar;
pub mod verify;
pub mod view;
pub mod walk;
pub mod write;

#[cfg(test)]
mod claims_tests;
#[cfg(test)]
mod hostile;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

use crate::progress::Progress;
use crate::report::{Exit, Failure, Outcome};
use metadata::{OwnerMode, Setter};
use parking_lot::Mutex;
use plan::Plan;
use reader::Reader;
use report::Report;
use select::Select;
use std::path::PathBuf;
use write::{Overwrite, Target};

/// Sealed bytes of metadata that are fetched along with a block of it.
pub const WALK_READ_AHEAD: u64 = 4 << 20;

/// What a restore is asked for.
pub struct Options {
    pub target: PathBuf,
    pub select: Select,
    pub overwrite: Overwrite,
    pub delete: bool,
    pub dry_run: bool,
    pub owner: OwnerMode,
    pub xattrs: bool,
    pub verify: bool,
}

impl Options {
    /// Combinations that would destroy more than anybody meant.
    pub fn check(&self) -> Outcome<()> {
        let usage = |message: &str, help: &str| Err(Failure::new("usage", Exit::Usage, message).help(help));
        if self.delete && self.overwrite == Overwrite::Refuse {
            let message = "--delete needs --overwrite with something other than refuse";
            return usage(
                message,
                "--overwrite if-changed --delete makes the target what the snapshot is; -n shows what goes",
            );
        }
        let root = std::fs::canonicalize(&self.target).is_ok_and(|path| path == std::path::Path::new("/"));
        if self.delete && root && !self.select.has_include() {
            let message = "--delete with the target / needs an --include: without, it would delete everything else";
            return usage(message, "name what is to be as in the snapshot: --include /etc/nginx");
        }
        Ok(())
    }
}

/// Restores a snapshot, or what lies at a path of it. `seen` is told each path that is (or would be) restored.
pub fn restore(
    reader: &mut Reader<'_>,
    path: &[u8],
    options: &Options,
    progress: &Progress,
    seen: &mut dyn FnMut(&[u8]),
) -> Outcome<Report> {
    options.check()?;
    reader.read_ahead = WALK_READ_AHEAD;
    let start = make::start(reader, path)?;
    let mut report = Report::default();
    let set = Setter::new(options.owner, options.xattrs);
    if options.dry_run {
        let exists = std::fs::symlink_metadata(&options.target).is_ok();
        let target = if exists { Some(Target::open(&options.target, options.overwrite)?) } else { None };
        dry::count(reader, &start, target.as_ref(), &set, options, &mut report, seen)?;
        report.findings.append(std::mem::take(&mut reader.findings));
        return Ok(report);
    }
    let target = Target::open(&options.target, options.overwrite)?;
    let mut plan = Plan::new()?;
    make::make(reader, &start, &mut plan, &target, &set, options, &mut report, seen)?;
    progress.set_total(report.bytes);
    let plan = Mutex::new(plan);
    let writing = data::Writing {
        plan: &plan,
        target: &target,
        set: &set,
        overwrite: options.overwrite,
        // Files that are read again get their names at the end.
        name_at_once: !options.verify,
        base: &start.base,
        lost: &report.lost,
        progress,
    };
    let written = data::write_content(reader, &writing);
    let mut plan = plan.into_inner();
    let done = written.and_then(|files| {
        report.files += files;
        finish::finish(reader, &start, &mut plan, &target, &set, options, &mut report, progress)
    });
    if let Err(failure) = done {
        // Who interrupts does not want to wait for it.
        if !matches!(failure.exit, Exit::Interrupted | Exit::Terminated) {
            finish::discard_partial(&plan, &target);
        }
        return Err(failure);
    }
    report.notes = set.notes();
    report.findings.append(std::mem::take(&mut reader.findings));
    Ok(report)
}

//! `source-agent vouch`: signs that a snapshot was seen whole, and leaves that with the sink.

use crate::cli::check::check_snapshot;
use crate::cli::{Context, print_json, print_line};
use crate::owner::voucher;
use crate::progress::{Progress, warn};
use crate::report::{Exit, Failure, Outcome};
use crate::restore::reading::{Desk, Filter, Need};
use crate::restore::resolve::SnapshotPath;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reads the snapshot as a whole first, every chunk of it, unless --unread says
that you checked it already. The sink's retention keeps the newest vouched
snapshot of each series.

Example:
  source-agent vouch latest -i ~/backup.key")]
pub struct VouchArgs {
    /// A snapshot: an id's beginning, latest, latest~2
    #[arg(value_name = "SNAP", default_value = "latest")]
    pub snapshot: OsString,
    /// The identity
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Do not read it again
    #[arg(long)]
    pub unread: bool,
    #[command(flatten)]
    pub filter: Filter,
}

pub fn run(args: &VouchArgs, context: &Context) -> Outcome<Exit> {
    let name = SnapshotPath::parse(args.snapshot.as_bytes())?;
    let mut desk = Desk::open(context, args.identity.as_deref(), Need::Blocks)?;
    let view = desk.view(context, args.filter.source.as_deref())?;
    let snapshot = desk.choose(&view, &name, &args.filter)?;
    if !args.unread {
        let progress = Progress::new(context, "checking", None);
        let findings = check_snapshot(&mut desk, &snapshot, &progress)?;
        progress.finish();
        if !findings.is_empty() {
            findings.lines().iter().for_each(|line| warn(context, line));
            let message = format!("snapshot {} is not whole: nothing is vouched for", snapshot.id().short());
            return Err(Failure::new("not-whole", Exit::Tampered, message).help("source-agent check --read-data"));
        }
    }
    let head = &snapshot.head;
    let signed = voucher::write(&head.chain(), head.sequence, snapshot.id(), desk.now, desk.identity()?)?;
    desk.sinks[snapshot.sink].put_voucher(&signed)?;
    let name = desk.trust.sources[snapshot.source].name();
    if context.json {
        print_json(&serde_json::json!({
            "message_type": "vouched",
            "snapshot_id": snapshot.id().to_string(),
            "short_id": snapshot.id().short(),
            "source": name,
            "remote": desk.remotes[snapshot.sink].name,
        }))?;
        return Ok(Exit::Done);
    }
    print_line(&format!(
        "Vouched for snapshot {} of {name} at {}.",
        snapshot.id().short(),
        desk.remotes[snapshot.sink].name
    ))?;
    Ok(Exit::Done)
}

//! `source-agent stats`: sizes of snapshots.

use crate::cli::{Context, print_json, print_line};
use crate::progress::{self, Progress};
use crate::report::{Exit, Outcome};
use crate::restore::objects::{ArchiveName, is_lost};
use crate::restore::pages::Pages;
use crate::restore::reader::{fetch_body, open_root};
use crate::restore::reading::{Desk, Filter, Need};
use crate::restore::resolve::{SnapshotPath, gone, is_latest};
use crate::restore::verify;
use crate::restore::view::Snapshot;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Files and bytes are what the source counted (they need the identity); stored
is the size of the live blocks at the sink, which snapshots share.

Example:
  source-agent stats latest -i ~/backup.key")]
pub struct StatsArgs {
    /// Snapshots; without one, the newest of each source, set and remote
    #[arg(value_name = "SNAP")]
    pub snapshots: Vec<OsString>,
    /// The identity
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    #[command(flatten)]
    pub filter: Filter,
}

struct Stored {
    archives: u64,
    blocks: u64,
    bytes: u64,
    unreadable: u64,
}

pub fn run(args: &StatsArgs, context: &Context) -> Outcome<Exit> {
    let mut desk = Desk::open(context, args.identity.as_deref(), Need::IfNamed)?;
    let view = desk.view(context, args.filter.source.as_deref())?;
    let mut chosen: Vec<Snapshot> = Vec::new();
    for name in &args.snapshots {
        chosen.push(desk.choose(&view, &SnapshotPath::parse(name.as_bytes())?, &args.filter)?);
    }
    if args.snapshots.is_empty() {
        let mut seen = std::collections::HashSet::new();
        for snapshot in view.snapshots.iter().rev().filter(|snapshot| is_latest(snapshot)) {
            if seen.insert((snapshot.source, snapshot.sink, snapshot.head.series)) {
                chosen.push(snapshot.clone());
            }
        }
    }
    let mut exit = if args.snapshots.is_empty() { view.exit() } else { Exit::Done };
    for snapshot in &chosen {
        let stored = stored(&mut desk, snapshot, context)?;
        if stored.unreadable > 0 {
            exit = Exit::Tampered;
        }
        show(&mut desk, snapshot, &stored, context)?;
    }
    Ok(exit)
}

/// Sums the live blocks of a snapshot from the signed indexes of its archives.
fn stored(desk: &mut Desk, snapshot: &Snapshot, context: &Context) -> Outcome<Stored> {
    let source = &desk.trust.sources[snapshot.source];
    let sink = &mut *desk.sinks[snapshot.sink];
    let head = &snapshot.head;
    let remote = &desk.remotes[snapshot.sink].name;
    let body = fetch_body(sink, head).map_err(|failure| gone(snapshot, source.name(), remote, failure))?;
    let mut pages = Pages::load(sink, &head.source, &head.lineage, &body)?;
    let mut stored = Stored { archives: pages.archives(), blocks: pages.live_blocks(), bytes: 0, unreadable: 0 };
    let progress = Progress::new(context, "indexes", None);
    progress.set_total_files(pages.archives());
    for at in 0..pages.count() {
        let Some(page) = pages.page(sink, at)? else { continue };
        for entry in page.archives.iter() {
            let name = ArchiveName { source: head.source, lineage: head.lineage, number: entry.number };
            let region =
                sink.region(&name, &entry.id).and_then(|bytes| verify::region(&bytes, &name, &entry.id, source.key()));
            match region {
                Ok(archive) => {
                    let live = archive.index.parts.iter().zip(0u32..).filter(|(_, block)| entry.is_live(*block));
                    stored.bytes += live.map(|(part, _)| u64::from(part.bytes)).sum::<u64>();
                }
                Err(failure) if is_lost(&failure) => {
                    progress::warn(context, &failure.to_string());
                    stored.unreadable += 1;
                }
                Err(failure) => return Err(failure),
            }
            progress.files(1);
        }
    }
    progress.finish();
    Ok(stored)
}

fn show(desk: &mut Desk, snapshot: &Snapshot, stored: &Stored, context: &Context) -> Outcome<()> {
    let source = &desk.trust.sources[snapshot.source];
    let root = match &desk.identity {
        Some(identity) => {
            Some(open_root(&mut *desk.sinks[snapshot.sink], source, &snapshot.head, identity, &desk.later)?)
        }
        None => None,
    };
    let remote = &desk.remotes[snapshot.sink].name;
    if context.json {
        let counts = root.as_ref().map(|root| root.counts);
        return print_json(&serde_json::json!({
            "message_type": "summary",
            "snapshot_id": snapshot.id().to_string(),
            "source": source.name(),
            "remote": remote,
            "archives": stored.archives,
            "blocks": stored.blocks,
            "stored_bytes": stored.bytes,
            "unreadable_archives": stored.unreadable,
            "total_file_count": counts.map(|counts| counts.files),
            "total_size": counts.map(|counts| counts.bytes),
        }));
    }
    print_line(&format!("{} of {} at {remote}", snapshot.id().short(), source.name()))?;
    if let Some(root) = &root {
        let counts = &root.counts;
        print_line(&format!(
            "  {}, {}, {}, {}",
            progress::counted(counts.files, "file"),
            progress::counted(counts.directories, "directory"),
            progress::counted(counts.others, "other"),
            progress::size(counts.bytes)
        ))?;
    }
    print_line(&format!(
        "  stored: {} in {} of {}",
        progress::size(stored.bytes),
        progress::counted(stored.blocks, "block"),
        progress::counted(stored.archives, "archive")
    ))
}

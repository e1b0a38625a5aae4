//! `source-agent snapshots`: what the remotes hold of trusted sources.

use crate::cli::{Context, print_json, print_line};
use crate::progress::{self, notice, warn};
use crate::report::{Exit, Outcome};
use crate::restore::objects::is_lost;
use crate::restore::reader::open_root;
use crate::restore::reading::{Desk, Filter, Need, freshness, local_time, utc_time};
use crate::restore::resolve;
use crate::restore::view::{Snapshot, View};
use crate::tree::Root;
use shared::text::printable;
use shared::wire::Damage;
use std::path::PathBuf;

/// The source's and the sink's clock may differ so much before both are shown, in seconds.
const CLOCKS_APART: u64 = 300;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without an identity, sizes and sets stay sealed; ids, times and signatures are
shown.

Examples:
  source-agent snapshots -i ~/backup.key
  source-agent snapshots -H web1 --latest 3 --json")]
pub struct SnapshotsArgs {
    /// Only the newest N of each source and set
    #[arg(long, value_name = "N")]
    pub latest: Option<usize>,
    #[command(flatten)]
    pub filter: Filter,
    /// The identity
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

struct Row<'v> {
    snapshot: &'v Snapshot,
    root: Option<Root>,
}

pub fn run(args: &SnapshotsArgs, context: &Context) -> Outcome<Exit> {
    let need = if args.filter.needs_root() { Need::Identity } else { Need::IfNamed };
    let mut desk = Desk::open(context, args.identity.as_deref(), need)?;
    let view = desk.view(context, args.filter.source.as_deref())?;
    if let named @ Some(_) = args.filter.source.as_deref() {
        match resolve::check_source(&view, &desk.trust, named, &desk.remote_names()) {
            // Those of several sources can be listed together.
            Err(failure) if failure.exit != Exit::Usage => return Err(failure),
            _ => {}
        }
    }
    let mut exit = match view.exit() {
        Exit::Done if desk.unreached > 0 => Exit::SomeRemotes,
        exit => exit,
    };
    let rows = rows(args, context, &mut desk, &view, &mut exit)?;
    if context.json {
        let items = rows.iter().map(|row| json(row, &desk)).collect();
        print_json(&serde_json::Value::Array(items))?;
    } else {
        table(&rows, &desk)?;
        for fresh in &view.fresh {
            progress::detail(context, &freshness(fresh, &desk.remotes[fresh.sink].name));
        }
    }
    for unknown in &view.unknown {
        let name = unknown.item.name.as_str();
        notice(
            context,
            &format!(
                "{}: shows a source {name} that nobody here trusts; if it is yours: source-agent trust add '{}'",
                desk.remotes[unknown.sink].name,
                printable(unknown.item.card.as_bytes(), 1000)
            ),
        );
    }
    Ok(exit)
}

fn rows<'v>(
    args: &SnapshotsArgs,
    context: &Context,
    desk: &mut Desk,
    view: &'v View,
    exit: &mut Exit,
) -> Outcome<Vec<Row<'v>>> {
    let mut chosen: Vec<&Snapshot> = view.snapshots.iter().collect();
    if let Some(latest) = args.latest {
        let mut counts = std::collections::HashMap::new();
        let mut kept: Vec<&Snapshot> = Vec::new();
        for snapshot in chosen.into_iter().rev() {
            let count = counts.entry((snapshot.source, snapshot.sink, snapshot.head.series)).or_insert(0);
            if *count < latest && !snapshot.head.is_checkpoint() {
                *count += 1;
                kept.push(snapshot);
            }
        }
        kept.reverse();
        chosen = kept;
    }
    let mut rows = Vec::new();
    for snapshot in chosen {
        crate::cli::check_interrupted()?;
        let root = root(desk, context, snapshot, exit)?;
        let taken = !args.filter.needs_root() || root.as_ref().is_some_and(|root| args.filter.takes(root));
        if taken {
            rows.push(Row { snapshot, root });
        }
    }
    Ok(rows)
}

fn root(desk: &mut Desk, context: &Context, snapshot: &Snapshot, exit: &mut Exit) -> Outcome<Option<Root>> {
    let Some(identity) = desk.identity.as_ref().filter(|_| snapshot.content == Damage::Present) else {
        return Ok(None);
    };
    let source = &desk.trust.sources[snapshot.source];
    match open_root(&mut *desk.sinks[snapshot.sink], source, &snapshot.head, identity, &desk.later) {
        Ok(root) => Ok(Some(root)),
        Err(failure) if failure.exit == Exit::Identity => Ok(None),
        Err(failure) if is_lost(&failure) => {
            warn(context, &format!("snapshot {}: {}", snapshot.id().short(), failure.message));
            *exit = Exit::Tampered;
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

fn json(row: &Row<'_>, desk: &Desk) -> serde_json::Value {
    let (snapshot, source) = (row.snapshot, &desk.trust.sources[row.snapshot.source]);
    let head = &snapshot.head;
    let mut value = serde_json::json!({
        "id": snapshot.id().to_string(),
        "short_id": snapshot.id().short(),
        "time": utc_time(head.created),
        "received": snapshot.received().map(utc_time),
        "source": source.name(),
        "source_id": source.id().to_string(),
        "lineage": head.lineage.to_string(),
        "remote": desk.remotes[snapshot.sink].name,
        "sequence": head.sequence,
        "series": head.series.to_string(),
        "checkpoint": head.is_checkpoint(),
        "incomplete": head.is_incomplete(),
        "content": content(snapshot),
        "signed": signed(snapshot),
        "trusted": snapshot.usable,
        "reason": head.reason.as_ref().map(|reason| reason.to_string()),
    });
    if let (Some(root), Some(map)) = (&row.root, value.as_object_mut()) {
        let paths: Vec<String> = root.paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
        let tags: Vec<String> = root.tags.iter().map(|tag| tag.to_string()).collect();
        map.insert("hostname".into(), root.host.to_string().into());
        map.insert("set".into(), root.set.to_string().into());
        map.insert("paths".into(), paths.into());
        if root.paths.iter().any(|path| std::str::from_utf8(path).is_err()) {
            let bytes: Vec<String> = root.paths.iter().map(|path| shared::text::hex(path)).collect();
            map.insert("paths_bytes".into(), bytes.into());
        }
        map.insert("tags".into(), tags.into());
        map.insert("program_version".into(), root.program.to_string().into());
        map.insert(
            "summary".into(),
            serde_json::json!({
                "total_files_processed": root.counts.files,
                "total_directories": root.counts.directories,
                "total_bytes_processed": root.counts.bytes,
                "unreadable": root.counts.unreadable,
            }),
        );
    }
    value
}

fn content(snapshot: &Snapshot) -> &'static str {
    match snapshot.content {
        Damage::Present => "present",
        Damage::Expired => "expired",
        Damage::Absent => "absent",
    }
}

fn signed(snapshot: &Snapshot) -> &'static str {
    if snapshot.receipt.is_some() { "source, receipted" } else { "source" }
}

/// The sink's time of receipt; the source's beside it where they differ.
fn time(snapshot: &Snapshot) -> String {
    let created = snapshot.head.created;
    match snapshot.received() {
        None => format!("{} (source's clock)", local_time(created)),
        Some(received) if received.abs_diff(created) > CLOCKS_APART => {
            format!("{} (source: {})", local_time(received), local_time(created))
        }
        Some(received) => local_time(received),
    }
}

fn table(rows: &[Row<'_>], desk: &Desk) -> Outcome<()> {
    let several = desk.remotes.len() > 1;
    let mut lines = vec![["ID", "Received", "Source", "Remote", "Set", "Files", "Size", "Signed"].map(String::from)];
    for row in rows {
        let (snapshot, source) = (row.snapshot, &desk.trust.sources[row.snapshot.source]);
        let sealed = || "-".to_owned();
        let name = |name: &str| printable(name.as_bytes(), 64);
        let mut state = if snapshot.usable {
            format!("{} (trusted)", source.name())
        } else {
            format!("{} (NEW LINEAGE)", source.name())
        };
        if snapshot.head.is_checkpoint() {
            state.push_str(", checkpoint");
        }
        if snapshot.head.is_incomplete() {
            state.push_str(", incomplete");
        }
        match snapshot.content {
            Damage::Present => {}
            Damage::Expired => state.push_str(", expired"),
            Damage::Absent => state.push_str(", CONTENT MISSING"),
        }
        if let Some(reason) = &snapshot.head.reason {
            state.push_str(&format!(", after an alarm: {}", name(reason)));
        }
        lines.push([
            snapshot.id().short(),
            time(snapshot),
            source.name().to_owned(),
            desk.remotes[snapshot.sink].name.clone(),
            row.root.as_ref().map_or_else(sealed, |root| name(&root.set)),
            row.root.as_ref().map_or_else(sealed, |root| progress::count(root.counts.files)),
            row.root.as_ref().map_or_else(sealed, |root| progress::size(root.counts.bytes)),
            state,
        ]);
    }
    let mut widths = [0; 8];
    for line in &lines {
        for (width, text) in widths.iter_mut().zip(line) {
            *width = (*width).max(text.chars().count());
        }
    }
    for line in &lines {
        let mut text = String::new();
        for (at, (cell, width)) in line.iter().zip(widths).enumerate() {
            if at == 3 && !several {
                continue;
            }
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        print_line(text.trim_end())?;
    }
    Ok(())
}

//! `source-agent find`: names in snapshots.

use crate::cli::ls::{json_entry, long_line, lost};
use crate::cli::{Context, print_json, print_line};
use crate::report::{Exit, Outcome};
use crate::restore::WALK_READ_AHEAD;
use crate::restore::reading::{Desk, Filter, Need};
use crate::restore::resolve::{SnapshotPath, is_latest};
use crate::restore::select::Select;
use crate::restore::view::Snapshot;
use crate::restore::walk::{Step, Walk};
use shared::text::printable;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  source-agent find 'nginx.conf' -i ~/backup.key\n  source-agent find '*.sql' --snapshot latest -l -i ~/backup.key"
)]
pub struct FindArgs {
    /// Patterns in gitignore syntax
    #[arg(value_name = "PATTERN", required = true)]
    pub pattern: Vec<String>,
    /// Only in this snapshot (default: in all that `latest` could name)
    #[arg(short, long, value_name = "SNAP")]
    pub snapshot: Option<OsString>,
    /// The identity
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Mode, owner, size and time as well
    #[arg(short, long)]
    pub long: bool,
    #[command(flatten)]
    pub filter: Filter,
}

pub fn run(args: &FindArgs, context: &Context) -> Outcome<Exit> {
    let patterns = Select::new(&args.pattern, &[])?;
    let mut desk = Desk::open(context, args.identity.as_deref(), Need::Blocks)?;
    let view = desk.view(context, args.filter.source.as_deref())?;
    let chosen: Vec<Snapshot> = match &args.snapshot {
        Some(name) => vec![desk.choose(&view, &SnapshotPath::parse(name.as_bytes())?, &args.filter)?],
        None => view.snapshots.iter().rev().filter(|snapshot| is_latest(snapshot)).cloned().collect(),
    };
    let mut exit = if args.snapshot.is_none() { view.exit() } else { Exit::Done };
    for snapshot in &chosen {
        let mut reader = desk.reader(snapshot)?;
        if !args.filter.takes(&reader.root) {
            continue;
        }
        reader.read_ahead = WALK_READ_AHEAD;
        let mut walk = Walk::new(&reader, reader.root.top);
        let mut first = true;
        while let Some(step) = walk.next(&mut reader)? {
            match step {
                Step::Entry(entry) => {
                    let path = walk.path_of(&entry.name);
                    if patterns.names(&path, entry.kind == crate::tree::EntryKind::Directory) {
                        if first && !context.json {
                            print_line(&format!("Snapshot {}:", snapshot.id().short()))?;
                        }
                        first = false;
                        let shown = printable(&path, 16 << 10);
                        if context.json {
                            let mut value = json_entry(&entry, &path);
                            value["snapshot"] = snapshot.id().to_string().into();
                            print_json(&value)?;
                        } else {
                            print_line(&if args.long { long_line(&entry, &shown) } else { shown })?;
                        }
                    }
                    walk.enter(&entry)?;
                }
                Step::Lost(failure) => {
                    lost(context, &[&walk.path()[..], b"/"].concat(), &failure);
                    exit = Exit::Tampered;
                }
                Step::End => {}
            }
        }
    }
    Ok(exit)
}

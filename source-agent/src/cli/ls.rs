//! `source-agent ls`: what a snapshot holds.

use crate::cli::{Context, print_json, print_line, put_name};
use crate::progress::warn_path;
use crate::report::{Exit, Failure, Outcome};
use crate::restore::WALK_READ_AHEAD;
use crate::restore::make;
use crate::restore::reading::{Desk, Filter, Need, local_time, utc_time};
use crate::restore::resolve::SnapshotPath;
use crate::restore::walk::{Step, Walk};
use crate::tree::{Entry, EntryKind};
use shared::text::printable;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "latest is the newest snapshot of any set: choose the set with --path.\n\nExamples:\n  source-agent ls latest:/etc -l -i ~/backup.key\n  source-agent ls latest --recursive -i ~/backup.key"
)]
pub struct LsArgs {
    /// A snapshot: an id's beginning, latest, latest~2, each also with :/path
    #[arg(value_name = "SNAP[:PATH]")]
    pub snapshot: OsString,
    /// The identity
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Mode, owner, size and time as well
    #[arg(short, long)]
    pub long: bool,
    /// Directories below as well
    #[arg(long)]
    pub recursive: bool,
    #[command(flatten)]
    pub filter: Filter,
}

pub fn run(args: &LsArgs, context: &Context) -> Outcome<Exit> {
    let name = SnapshotPath::parse(args.snapshot.as_bytes())?;
    let mut desk = Desk::open(context, args.identity.as_deref(), Need::Blocks)?;
    let view = desk.view(context, args.filter.source.as_deref())?;
    let snapshot = desk.choose(&view, &name, &args.filter)?;
    let mut reader = desk.reader(&snapshot)?;
    let start = make::start(&mut reader, &name.path)?;
    if let Some(entry) = &start.single {
        let path = [&start.base[..], b"/", &entry.name[..]].concat();
        show(entry, &path, args, context)?;
        return Ok(Exit::Done);
    }
    let Some(top) = start.top else { return Ok(Exit::Done) };
    reader.read_ahead = if args.recursive { WALK_READ_AHEAD } else { 0 };
    let mut walk = Walk::new(&reader, top);
    let mut exit = Exit::Done;
    while let Some(step) = walk.next(&mut reader)? {
        match step {
            Step::Entry(entry) => {
                let path = [&start.base[..], &walk.path_of(&entry.name)].concat();
                show(&entry, &path, args, context)?;
                if args.recursive {
                    walk.enter(&entry)?;
                }
            }
            Step::Lost(failure) => {
                let path = [&start.base[..], &walk.path(), b"/"].concat();
                lost(context, &path, &failure);
                exit = Exit::Tampered;
            }
            Step::End => {}
        }
    }
    Ok(exit)
}

/// Tells of a directory that cannot be read.
pub fn lost(context: &Context, path: &[u8], failure: &Failure) {
    warn_path(context, "list", path, &format!("cannot be read: {}", failure.message));
}

/// An entry for scripts, its names as they are.
pub fn json_entry(entry: &Entry, path: &[u8]) -> serde_json::Value {
    let kind = match entry.kind {
        EntryKind::File => "file",
        EntryKind::Directory => "dir",
        EntryKind::Symlink => "symlink",
        EntryKind::Fifo => "fifo",
        EntryKind::CharDevice => "chardev",
        EntryKind::BlockDevice => "dev",
    };
    let mut value = serde_json::json!({
        "message_type": "node",
        "type": kind,
        "uid": entry.user.id,
        "gid": entry.group.id,
        "size": (entry.kind == EntryKind::File).then_some(entry.size),
        "mode": entry.mode,
        "permissions": permissions(entry),
        "mtime": utc_time(entry.modified.seconds),
        "linktarget": null,
    });
    put_name(&mut value, "name", &entry.name);
    put_name(&mut value, "path", path);
    if let Some(target) = &entry.target {
        put_name(&mut value, "linktarget", target);
    }
    value
}

fn show(entry: &Entry, path: &[u8], args: &LsArgs, context: &Context) -> Outcome<()> {
    if context.json {
        return print_json(&json_entry(entry, path));
    }
    let shown = printable(path, 16 << 10);
    if !args.long {
        return print_line(&shown);
    }
    print_line(&long_line(entry, &shown))
}

pub fn long_line(entry: &Entry, shown: &str) -> String {
    let owner = |owner: &crate::tree::Owner| match &owner.name {
        Some(name) => printable(name.as_bytes(), 32),
        None => owner.id.to_string(),
    };
    let arrow = entry.target.as_ref().map(|target| format!(" -> {}", printable(target, 4096))).unwrap_or_default();
    let size = match entry.device {
        Some(device) => format!("{}, {}", device.major, device.minor),
        None => entry.size.to_string(),
    };
    format!(
        "{} {:8} {:8} {:>12} {} {shown}{arrow}",
        permissions(entry),
        owner(&entry.user),
        owner(&entry.group),
        size,
        local_time(entry.modified.seconds)
    )
}

/// `-rw-r--r--`.
fn permissions(entry: &Entry) -> String {
    let mut text = String::from(match entry.kind {
        EntryKind::File => '-',
        EntryKind::Directory => 'd',
        EntryKind::Symlink => 'l',
        EntryKind::Fifo => 'p',
        EntryKind::CharDevice => 'c',
        EntryKind::BlockDevice => 'b',
    });
    for (shift, special, set, unset) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
        let bits = entry.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, entry.mode & special != 0) {
            (true, true) => set,
            (false, true) => unset,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

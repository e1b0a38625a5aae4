//! `source-agent dump`: one file, or a tree as tar, to standard output.

use crate::cli::Context;
use crate::progress::warn_path;
use crate::report::{Exit, Failure, Outcome};
use crate::restore::WALK_READ_AHEAD;
use crate::restore::reader::Reader;
use crate::restore::reading::{Desk, Filter, Need};
use crate::restore::resolve::SnapshotPath;
use crate::restore::walk::{Step, Walk};
use crate::restore::{make, ordered, tar};
use crate::tree::{Entry, EntryKind};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A file's content as it is
    Raw,
    /// A tar stream
    Tar,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "latest is the newest snapshot of any set: choose the set with --path.\n\nExamples:\n  source-agent dump latest:/all.sql --path /all.sql -i ~/backup.key\n  source-agent dump latest:/srv --format tar -i ~/backup.key | tar -t"
)]
pub struct DumpArgs {
    /// A snapshot and a path in it
    #[arg(value_name = "SNAP[:PATH]")]
    pub snapshot: OsString,
    /// Path, if it is not behind the snapshot
    #[arg(value_name = "PATH", id = "in_snapshot")]
    pub in_snapshot: Option<OsString>,
    /// raw for a file, tar for a directory unless said otherwise
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// The identity
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    #[command(flatten)]
    pub filter: Filter,
}

pub fn run(args: &DumpArgs, context: &Context) -> Outcome<Exit> {
    let mut name = SnapshotPath::parse(args.snapshot.as_bytes())?;
    if let Some(path) = &args.in_snapshot {
        name.path = path.as_bytes().to_vec();
    }
    let mut desk = Desk::open(context, args.identity.as_deref(), Need::Blocks)?;
    let view = desk.view(context, args.filter.source.as_deref())?;
    let snapshot = desk.choose(&view, &name, &args.filter)?;
    let mut reader = desk.reader(&snapshot)?;
    reader.read_ahead = WALK_READ_AHEAD;
    let start = make::start(&mut reader, &name.path)?;
    // Standard output itself: the library's own handle looks for the ends of lines.
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().map_err(ordered::failed)?;
    let mut out = BufWriter::with_capacity(1 << 20, File::from(stdout));
    let exit = match (&start.single, args.format) {
        (Some(entry), None | Some(Format::Raw)) => raw(&mut reader, entry, &mut out)?,
        (None, Some(Format::Raw)) => {
            return Err(Failure::new("usage", Exit::Usage, "a directory has no raw content").help("--format tar"));
        }
        (Some(entry), Some(Format::Tar)) => {
            let whole = tar::member(&mut reader, &entry.name, entry, &mut out)?;
            tar::end(&mut out)?;
            if whole { Exit::Done } else { Exit::Tampered }
        }
        (None, _) => tree(&mut reader, &start, context, &mut out)?,
    };
    out.flush().map_err(ordered::failed)?;
    drop(out);
    let findings = reader.findings.lines();
    findings.iter().for_each(|line| crate::progress::warn(context, line));
    Ok(if findings.is_empty() { exit } else { Exit::Tampered })
}

fn raw(reader: &mut Reader<'_>, entry: &Entry, out: &mut (dyn Write + Send)) -> Outcome<Exit> {
    if entry.kind != EntryKind::File {
        return Err(Failure::new("usage", Exit::Usage, "it is no file").help("--format tar"));
    }
    ordered::content(reader, entry, out)?;
    Ok(Exit::Done)
}

fn tree(
    reader: &mut Reader<'_>,
    start: &make::Start,
    context: &Context,
    out: &mut (dyn Write + Send),
) -> Outcome<Exit> {
    let mut exit = Exit::Done;
    if let Some(top) = start.top {
        let mut walk = Walk::new(reader, top);
        while let Some(step) = walk.next(reader)? {
            match step {
                Step::Entry(entry) => {
                    let path = walk.path_of(&entry.name);
                    if !tar::member(reader, &path[1..], &entry, out)? {
                        warn_path(context, "dump", &path, "left out: its content cannot be had");
                        exit = Exit::Tampered;
                    }
                    walk.enter(&entry)?;
                }
                Step::Lost(failure) => {
                    crate::cli::ls::lost(context, &[&walk.path()[..], b"/"].concat(), &failure);
                    exit = Exit::Tampered;
                }
                Step::End => {}
            }
        }
    }
    tar::end(out)?;
    Ok(exit)
}

//! `source-agent diff`: what changed between two snapshots. Directories with the same node are not read.

use crate::cli::{Context, print_json, print_line, put_name};
use crate::report::{Exit, Failure, Outcome};
use crate::restore::WALK_READ_AHEAD;
use crate::restore::make;
use crate::restore::reader::Reader;
use crate::restore::reading::{Desk, Filter, Need};
use crate::restore::resolve::{SnapshotPath, gone};
use crate::restore::view::Snapshot;
use crate::restore::walk::{Cursor, Step, Walk};
use crate::tree::node::NodeTop;
use crate::tree::{Entry, EntryKind, Extent};
use shared::limits::TREE_DEPTH_MAX;
use shared::text::printable;
use std::cmp::Ordering;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
+ added   - removed   M content changed   U metadata changed   T kind changed

Example:
  source-agent diff latest~1:/etc latest:/etc -i ~/backup.key")]
pub struct DiffArgs {
    /// The older snapshot
    #[arg(value_name = "SNAP[:PATH]")]
    pub first: OsString,
    /// The newer snapshot
    #[arg(value_name = "SNAP[:PATH]")]
    pub second: OsString,
    /// Metadata changes as well
    #[arg(long)]
    pub metadata: bool,
    /// The identity
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    #[command(flatten)]
    pub filter: Filter,
}

#[derive(Default)]
struct Counts {
    added: u64,
    removed: u64,
    changed: u64,
    lost: u64,
}

pub fn run(args: &DiffArgs, context: &Context) -> Outcome<Exit> {
    let first = SnapshotPath::parse(args.first.as_bytes())?;
    let second = SnapshotPath::parse(args.second.as_bytes())?;
    let mut desk = Desk::open(context, args.identity.as_deref(), Need::Blocks)?;
    let view = desk.view(context, args.filter.source.as_deref())?;
    let (one, two) = (desk.choose(&view, &first, &args.filter)?, desk.choose(&view, &second, &args.filter)?);
    let mut other = desk.another(two.sink, context)?;
    let identity = desk
        .identity
        .take()
        .ok_or_else(|| Failure::new("identity-missing", Exit::Identity, "this needs the identity"))?;
    let trust = desk.trust.clone();
    let (names, later) = (desk.remote_names(), desk.later.clone());
    let open = |sink, snapshot: &Snapshot| {
        let source = &trust.sources[snapshot.source];
        Reader::open(sink, source, snapshot.head.clone(), &identity, &later)
            .map_err(|failure| gone(snapshot, source.name(), &names[snapshot.sink], failure))
    };
    let mut left = open(&mut *desk.sinks[one.sink], &one)?;
    let mut right = open(&mut *other, &two)?;
    (left.read_ahead, right.read_ahead) = (WALK_READ_AHEAD, WALK_READ_AHEAD);
    let (a, b) = (make::start(&mut left, &first.path)?, make::start(&mut right, &second.path)?);
    let same_source = one.source == two.source && one.head.lineage == two.head.lineage;
    let mut differ = Differ { left, right, args, context, counts: Counts::default(), same_source };
    match (&a.single, &b.single, a.top, b.top) {
        (Some(one), Some(two), ..) => differ.pair(b"", one, two)?,
        (None, None, Some(one), Some(two)) => differ.trees(one, two)?,
        (None, None, one, two) => {
            if let Some(top) = one {
                differ.all(Side::Left, b"", top)?;
            }
            if let Some(top) = two {
                differ.all(Side::Right, b"", top)?;
            }
        }
        _ => return Err(Failure::new("usage", Exit::Usage, "one path is a directory and the other is not")),
    }
    let Counts { added, removed, changed, lost } = differ.counts;
    if context.json {
        print_json(
            &serde_json::json!({"message_type": "statistics", "added": added, "removed": removed, "changed": changed, "lost": lost}),
        )?;
    } else {
        print_line(&format!("added {added}, removed {removed}, changed {changed}"))?;
    }
    Ok(if lost > 0 { Exit::Tampered } else { Exit::Done })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// Two directories of one path.
struct Pair {
    path: Vec<u8>,
    left: Cursor,
    right: Cursor,
    next: (Option<Entry>, Option<Entry>),
}

struct Differ<'d, 'r> {
    left: Reader<'r>,
    right: Reader<'r>,
    args: &'d DiffArgs,
    context: &'d Context,
    counts: Counts,
    same_source: bool,
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    [path, b"/", name].concat()
}

impl Differ<'_, '_> {
    fn show(&mut self, mark: char, path: &[u8]) -> Outcome<()> {
        match mark {
            '+' => self.counts.added += 1,
            '-' => self.counts.removed += 1,
            _ => self.counts.changed += 1,
        }
        if self.context.json {
            let mut value = serde_json::json!({"message_type": "change", "modifier": mark.to_string()});
            put_name(&mut value, "path", path);
            return print_json(&value);
        }
        print_line(&format!("{mark}  {}", printable(path, 16 << 10)))
    }

    /// The next entry of a side; a part that cannot be read ends it.
    fn pull(&mut self, side: Side, cursor: &mut Cursor, path: &[u8]) -> Outcome<Option<Entry>> {
        crate::cli::check_interrupted()?;
        let reader = if side == Side::Left { &mut self.left } else { &mut self.right };
        match cursor.next(reader) {
            Err(failure) if crate::restore::objects::is_lost(&failure) => {
                crate::cli::ls::lost(self.context, &join(path, b""), &failure);
                self.counts.lost += 1;
                cursor.end();
                Ok(None)
            }
            other => other,
        }
    }

    fn trees(&mut self, left: NodeTop, right: NodeTop) -> Outcome<()> {
        let mut stack = Vec::new();
        self.push(&mut stack, Vec::new(), left, right)?;
        while let Some(mut pair) = stack.pop() {
            if pair.next.0.is_none() {
                pair.next.0 = self.pull(Side::Left, &mut pair.left, &pair.path)?;
            }
            if pair.next.1.is_none() {
                pair.next.1 = self.pull(Side::Right, &mut pair.right, &pair.path)?;
            }
            let order = match &pair.next {
                (None, None) => continue,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(left), Some(right)) => left.name.cmp(&right.name),
            };
            let one = if order == Ordering::Greater { None } else { pair.next.0.take() };
            let two = if order == Ordering::Less { None } else { pair.next.1.take() };
            let path = pair.path.clone();
            if stack.len() > 24 {
                pair.left.suspend();
                pair.right.suspend();
            }
            stack.push(pair);
            match (one, two) {
                (Some(one), Some(two)) => {
                    let path = join(&path, &one.name);
                    self.pair(&path, &one, &two)?;
                    if let (EntryKind::Directory, EntryKind::Directory) = (one.kind, two.kind) {
                        self.below(&mut stack, path, one.node, two.node)?;
                    }
                }
                (Some(one), None) => self.whole(Side::Left, &join(&path, &one.name), &one)?,
                (None, Some(two)) => self.whole(Side::Right, &join(&path, &two.name), &two)?,
                (None, None) => {}
            }
        }
        Ok(())
    }

    fn below(
        &mut self,
        stack: &mut Vec<Pair>,
        path: Vec<u8>,
        left: Option<NodeTop>,
        right: Option<NodeTop>,
    ) -> Outcome<()> {
        match (left, right) {
            (Some(left), Some(right)) => self.push(stack, path, left, right),
            (Some(left), None) => self.all(Side::Left, &path, left),
            (None, Some(right)) => self.all(Side::Right, &path, right),
            (None, None) => Ok(()),
        }
    }

    fn push(&mut self, stack: &mut Vec<Pair>, path: Vec<u8>, left: NodeTop, right: NodeTop) -> Outcome<()> {
        if self.same_source && left.chunk.id == right.chunk.id {
            return Ok(());
        }
        if stack.len() > TREE_DEPTH_MAX {
            let message = format!("the tree is deeper than {TREE_DEPTH_MAX} directories");
            return Err(Failure::new("tree", Exit::Tampered, message));
        }
        stack.push(Pair { path, left: Cursor::new(left), right: Cursor::new(right), next: (None, None) });
        Ok(())
    }

    /// Two entries of one name.
    fn pair(&mut self, path: &[u8], one: &Entry, two: &Entry) -> Outcome<()> {
        if one.kind != two.kind {
            return self.show('T', path);
        }
        let content =
            one.size == two.size && one.target == two.target && one.device == two.device && same_content(one, two);
        if !content {
            return self.show('M', path);
        }
        let meta =
            |entry: &Entry| (entry.mode, entry.user.clone(), entry.group.clone(), entry.modified, entry.xattrs.clone());
        if self.args.metadata && meta(one) != meta(two) {
            return self.show('U', path);
        }
        Ok(())
    }

    /// An entry that only one side has, with all below it.
    fn whole(&mut self, side: Side, path: &[u8], entry: &Entry) -> Outcome<()> {
        self.show(if side == Side::Left { '-' } else { '+' }, path)?;
        entry.node.map_or(Ok(()), |top| self.all(side, path, top))
    }

    fn all(&mut self, side: Side, path: &[u8], top: NodeTop) -> Outcome<()> {
        let reader = if side == Side::Left { &self.left } else { &self.right };
        let mut walk = Walk::new(reader, top);
        loop {
            let reader = if side == Side::Left { &mut self.left } else { &mut self.right };
            match walk.next(reader)? {
                None => return Ok(()),
                Some(Step::Entry(entry)) => {
                    let path = [path, &walk.path_of(&entry.name)].concat();
                    self.show(if side == Side::Left { '-' } else { '+' }, &path)?;
                    walk.enter(&entry)?;
                }
                Some(Step::Lost(failure)) => {
                    crate::cli::ls::lost(self.context, &[path, &walk.path(), b"/"].concat(), &failure);
                    self.counts.lost += 1;
                }
                Some(Step::End) => {}
            }
        }
    }
}

/// The same chunks, wherever they lie.
fn same_content(one: &Entry, two: &Entry) -> bool {
    let extents = |entry: &Entry| {
        let of = |extent: &Extent| match extent {
            Extent::Chunk(chunk) => (Some(chunk.id), u64::from(chunk.bytes)),
            Extent::Hole(bytes) => (None, *bytes),
        };
        entry.extents.as_ref().map(|extents| extents.iter().map(of).collect::<Vec<_>>())
    };
    let list = |entry: &Entry| entry.list.map(|list| list.chunk.id);
    one.size == 0 && two.size == 0 || extents(one) == extents(two) && list(one) == list(two)
}

//! Names of snapshots: an id's beginning, `latest`, `latest~2`, each with `:/path` behind it.

use crate::owner::Trust;
use crate::report::{Exit, Failure, Outcome};
use crate::restore::view::{Snapshot, View, is_named, unknown_signer};
use shared::id::Digest;
use shared::text::printable;
use shared::wire::Damage;
use std::collections::{HashMap, HashSet};

/// A name as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// So many before the newest.
    Latest(u32),
    /// The beginning of an id, lower-case hex.
    Id(String),
}

/// A name and a path in the snapshot; the path is empty for all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPath {
    pub name: Name,
    pub path: Vec<u8>,
}

impl SnapshotPath {
    /// Reads `latest~2:/path`, `4f1c09e2`, …
    pub fn parse(text: &[u8]) -> Outcome<Self> {
        let (name, path) = match text.iter().position(|byte| *byte == b':') {
            Some(at) => (&text[..at], &text[at + 1..]),
            None => (text, &b""[..]),
        };
        let wrong = || {
            let shown = printable(text, 200);
            Failure::new("usage", Exit::Usage, format!("'{shown}' is no name of a snapshot"))
                .help("write an id's beginning, latest, latest~2, or one of them with :/path")
        };
        let name = std::str::from_utf8(name).map_err(|_| wrong())?;
        let name = match name.strip_prefix("latest") {
            Some("") => Name::Latest(0),
            Some(rest) => Name::Latest(rest.strip_prefix('~').and_then(|n| n.parse().ok()).ok_or_else(wrong)?),
            None => {
                let id = name.to_ascii_lowercase();
                let hex = !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
                if !hex {
                    return Err(wrong());
                }
                Name::Id(id)
            }
        };
        if path.split(|byte| *byte == b'/').any(|part| part == b"..") {
            return Err(wrong());
        }
        Ok(Self { name, path: path.to_vec() })
    }
}

/// Chooses one snapshot. `source` narrows to one source; `fits` to tags and paths (asked for candidates of `latest`
/// alone, the newest first).
pub fn choose<'v>(
    view: &'v View,
    trust: &Trust,
    name: &Name,
    source: Option<&str>,
    remotes: &[String],
    fits: &mut dyn FnMut(&Snapshot) -> Outcome<bool>,
) -> Outcome<&'v Snapshot> {
    check_source(view, trust, source, remotes)?;
    let failed = view.failed.iter().find(|(at, _)| is_of(trust, *at, source)).map(|(_, failure)| failure);
    if let Some(failure) = failed.filter(|_| source.is_some()) {
        return Err(failure.clone());
    }
    let of_source = |snapshot: &&Snapshot| is_of(trust, snapshot.source, source);
    match name {
        // It may be one of a source of which nothing is used.
        Name::Id(id) => by_id(view.snapshots.iter().filter(of_source), id)
            .map_err(|e| failed.filter(|_| e.exit == Exit::NotFound).cloned().unwrap_or(e)),
        Name::Latest(back) => {
            let mut usable: Vec<&Snapshot> = view.snapshots.iter().filter(of_source).filter(|s| is_latest(s)).collect();
            if source.is_none() {
                one_source(&usable, &view.failed, trust)?;
            }
            sort_newest_first(&mut usable);
            let mut left = *back;
            let mut runs = HashSet::new();
            for snapshot in usable {
                // The same run at another sink is not another snapshot.
                let run = (snapshot.head.session, snapshot.head.body);
                if runs.contains(&run) || !fits(snapshot)? {
                    continue;
                }
                if left == 0 {
                    return Ok(snapshot);
                }
                runs.insert(run);
                left -= 1;
            }
            let absent = || {
                Failure::new("no-snapshot", Exit::NotFound, "there is no such snapshot")
                    .help("look with: source-agent snapshots")
            };
            Err(failed.cloned().unwrap_or_else(absent))
        }
    }
}

/// Is this the source that was named, if one was?
fn is_of(trust: &Trust, at: usize, named: Option<&str>) -> bool {
    named.is_none_or(|text| trust.sources.get(at).is_some_and(|source| is_named(source, &source.id(), text)))
}

/// May `latest` name it?
pub fn is_latest(snapshot: &Snapshot) -> bool {
    snapshot.usable && !snapshot.head.is_checkpoint() && snapshot.content == Damage::Present
}

/// What it means that a sink does not give a snapshot of which it said itself that the content is not there.
pub fn gone(snapshot: &Snapshot, source: &str, remote: &str, failure: Failure) -> Failure {
    let id = snapshot.id().short();
    let told = match snapshot.content {
        _ if failure.exit != Exit::NotFound => return failure,
        Damage::Present => return failure,
        Damage::Expired => Failure::new(
            "expired",
            Exit::NotFound,
            format!("snapshot {id} was expired by the sink's retention: its content is not given any more"),
        )
        .help(format!(
            "while the grace lasts the sink's operator can bring it back: remote-sink undelete {source} {id}"
        )),
        Damage::Absent => Failure::new(
            "content-gone",
            Exit::NotFound,
            format!("the content of snapshot {id} is gone from the sink, and no retention took it"),
        )
        .help(format!("ask the sink's operator: remote-sink verify {source}; and look at your other remotes")),
    };
    told.remote(remote)
}

/// By the source's signed time, since a hostile sink could state any time of receipt. Within a chain the sequence
/// decides: a head counts as made no earlier than the heads before it, whatever the source's clock did. What a source
/// that was taken over could do with its clock it can do with its content as well.
pub fn sort_newest_first(snapshots: &mut [&Snapshot]) {
    snapshots.sort_by_key(|snapshot| {
        (std::cmp::Reverse(snapshot.sink), *snapshot.head.lineage.as_bytes(), snapshot.source, snapshot.head.sequence)
    });
    let mut times: HashMap<Digest, i64> = HashMap::new();
    for chain in snapshots.chunk_by(|a, b| a.head.chain() == b.head.chain()) {
        let mut latest = i64::MIN;
        for snapshot in chain {
            latest = latest.max(snapshot.head.created);
            times.insert(snapshot.id(), latest);
        }
    }
    // Stable: heads of one chain and time stay in the order of their sequence, newest first after the turn.
    snapshots.reverse();
    snapshots.sort_by_key(|snapshot| std::cmp::Reverse(times.get(&snapshot.id()).copied()));
}

fn by_id<'v>(snapshots: impl Iterator<Item = &'v Snapshot>, id: &str) -> Outcome<&'v Snapshot> {
    let found: Vec<&Snapshot> = snapshots.filter(|snapshot| snapshot.id().to_string().starts_with(id)).collect();
    match found[..] {
        [one] => Ok(one),
        [] => Err(Failure::new("no-snapshot", Exit::NotFound, format!("there is no snapshot {id}"))
            .help("look with: source-agent snapshots")),
        _ => {
            let failure = Failure::new("ambiguous", Exit::Usage, format!("several snapshots begin with {id}"));
            Err(found.iter().take(8).fold(failure, |failure, s| failure.detail(s.id().to_string())))
        }
    }
}

/// `latest` without a source must not choose between sources: one that failed would be one of them.
fn one_source(usable: &[&Snapshot], failed: &[(usize, Failure)], trust: &Trust) -> Outcome<()> {
    let mut sources: Vec<usize> = usable.iter().map(|snapshot| snapshot.source).collect();
    sources.extend(failed.iter().map(|(source, _)| *source));
    sources.sort_unstable();
    sources.dedup();
    if sources.len() < 2 {
        return Ok(());
    }
    let failure = Failure::new("ambiguous", Exit::Usage, "there are snapshots of several sources: say which with -H");
    let names = sources.iter().filter_map(|at| trust.sources.get(*at));
    Err(names.fold(failure, |failure, source| failure.detail(source.name().to_owned())))
}

/// A source that was named must be trusted; one that a sink shows and nobody trusts is told apart from one that is not
/// there.
pub fn check_source(view: &View, trust: &Trust, source: Option<&str>, remotes: &[String]) -> Outcome<()> {
    let remote = |sink: usize| remotes.get(sink).cloned().unwrap_or_default();
    let Some(text) = source else {
        return match view.unknown.first() {
            Some(unknown) if trust.sources.is_empty() => Err(unknown_signer(&unknown.item, &remote(unknown.sink))),
            _ => Ok(()),
        };
    };
    let trusted = trust.sources.iter().filter(|source| is_named(source, &source.id(), text)).count();
    let unknown = view.unknown.iter().find(|unknown| {
        unknown.item.name.as_str() == text || (text.len() >= 6 && unknown.item.source.to_string().starts_with(text))
    });
    match (trusted, unknown) {
        (1, _) => Ok(()),
        (0, Some(unknown)) => Err(unknown_signer(&unknown.item, &remote(unknown.sink))),
        (0, None) => Err(Failure::new(
            "no-source",
            Exit::NotFound,
            format!("no trusted source is called {}", printable(text.as_bytes(), 100)),
        )
        .help("look with: source-agent trust list")),
        _ => Err(Failure::new(
            "ambiguous",
            Exit::Usage,
            format!("several trusted sources are called {text}: write the beginning of the source id"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let read = |text: &str| SnapshotPath::parse(text.as_bytes());
        let all = |name| SnapshotPath { name, path: Vec::new() };
        assert_eq!(read("latest").unwrap(), all(Name::Latest(0)));
        assert_eq!(read("latest~12").unwrap(), all(Name::Latest(12)));
        assert_eq!(read("4F1C").unwrap(), all(Name::Id("4f1c".into())));
        assert_eq!(
            read("latest:/etc/a:b").unwrap(),
            SnapshotPath { name: Name::Latest(0), path: b"/etc/a:b".to_vec() }
        );
        for wrong in ["", "latest~", "latest~x", "latestx", "xyz", ":/etc", "latest:/a/../b", &"a".repeat(65)] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}

//! `remote-sink snapshots`: what was accepted, from heads and receipts alone; nothing is decrypted.

use super::{Context, DONE, table};
use crate::cli::vault::{Enrolled, Vault};
use crate::published::Published;
use crate::report::{Failure, exit};
use crate::retention::vault::RetentionError;
use crate::store::directory::Root;
use crate::store::layout::{Layout, source_room};
use crate::store::{Directory, Name, Shelf, names, read_whole};
use shared::format::receipt::Receipt;
use shared::format::snapshot::{Body, Head};
use shared::id::{Lineage, VerifyKey};
use shared::signature::{Object, Plain, Signed, Verified};
use shared::wire::Role;

/// The source's own time is shown when it differs from the sink's by more than this.
const CREATED_SHOWN_SECONDS: i64 = 300;

/// List snapshots: time of receipt, series, size in pages and archives, state of the signatures
#[derive(Debug, clap::Args)]
pub struct SnapshotsArgs {
    /// Only of these sources [default: all]
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
}

/// Whether a stored object is what was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Ok,
    /// The head has no receipt: its commit was interrupted, the source sends it again.
    NoReceipt,
    /// Given up by retention: the head stays.
    Expired,
    /// The body is not there, and no journal says why.
    NoBody,
    Damaged,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NoReceipt => "no receipt",
            Self::Expired => "expired",
            Self::NoBody => "no body",
            Self::Damaged => "DAMAGED",
        }
    }
}

/// One head and what belongs to it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub lineage: Lineage,
    pub sequence: u64,
    /// Absent when the head itself is damaged.
    pub head: Option<Verified<Head>>,
    pub received: Option<i64>,
    pub archives: Option<u64>,
    pub pages: Option<u64>,
    pub state: State,
}

pub fn run(args: &SnapshotsArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    let vault = Vault::open(context.global.root.as_deref())?;
    let sink = vault.sink()?;
    let mut code = exit::OK;
    let chosen = vault.choose(&args.sources)?;
    let titles = ["ID", "Received", "Created", "Source", "Series", "Flags", "Pages", "Archives", "Signed"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for one in chosen.iter().filter(|one| one.enrolment.role == Role::Push) {
        let all = match of_source(&vault.layout, one, &sink) {
            Ok(all) => all,
            // What is wrong with one source hides no other.
            Err(failure) => {
                code = code.max(context.failed(&failure));
                continue;
            }
        };
        for snapshot in all {
            if context.global.json {
                context.json(&json(one, &snapshot))?;
            } else {
                rows.push(row(one, &snapshot));
            }
        }
    }
    if context.global.json {
        return Ok(code);
    }
    if rows.len() == 1 && code == exit::OK {
        context.remark("No snapshots yet.")?;
        return DONE;
    }
    for line in table::columns(&rows) {
        context.line(line)?;
    }
    Ok(code)
}

/// All snapshots of a source, by time of receipt.
pub fn of_source(layout: &Layout, one: &Enrolled, sink: &VerifyKey) -> Result<Vec<Snapshot>, Failure> {
    let id = one.enrolment.card.source_id();
    let root = Root::open(layout.root()).map_err(RetentionError::Store)?;
    let published = Published::read(&root, &one.name, id).unwrap_or(Published::nothing(id));
    let store = root.room(source_room(&one.name));
    let mut found = Vec::new();
    for name in names(&store, Shelf::Heads).map_err(RetentionError::Store)? {
        if let Name::Head(lineage, sequence) = name {
            found.push(snapshot(&store, one, sink, &published, lineage, sequence));
        }
    }
    found.sort_by_key(|snapshot| (snapshot.received.unwrap_or(i64::MAX), snapshot.lineage, snapshot.sequence));
    Ok(found)
}

fn snapshot(
    store: &Directory,
    one: &Enrolled,
    sink: &VerifyKey,
    published: &Published,
    lineage: Lineage,
    sequence: u64,
) -> Snapshot {
    let key = one.enrolment.card.verify_key();
    let head = signed::<Head>(store, &Name::Head(lineage, sequence), key).ok().flatten().filter(|head| {
        (head.source, head.lineage, head.sequence) == (one.enrolment.card.source_id(), lineage, sequence)
    });
    let receipt = signed::<Receipt>(store, &Name::Receipt(lineage, sequence), sink);
    let read = |body| read_whole(store, &Name::Body(body), Body::BYTES_MAX);
    let body = head.as_ref().map(|head| (head.body, read(head.body)));
    let (pages, body_state) = match body {
        Some((digest, Ok(Some(bytes)))) => match Plain::<Body>::parse(&bytes) {
            Ok(body) if body.digest() == digest => (Some(body.pages.len() as u64), State::Ok),
            _ => (None, State::Damaged),
        },
        Some((_, Ok(None))) => (None, State::NoBody),
        _ => (None, State::Damaged),
    };
    let receipt_state = match (&receipt, &head) {
        (Ok(Some(receipt)), Some(head)) if receipt.head == head.digest() => State::Ok,
        (Ok(None), _) => State::NoReceipt,
        _ => State::Damaged,
    };
    let receipt = receipt.ok().flatten();
    let body_state = match body_state {
        State::NoBody if published.is_expired(&lineage, sequence) => State::Expired,
        state => state,
    };
    let state = [State::Damaged, State::NoReceipt, State::NoBody, State::Expired]
        .into_iter()
        .find(|state| [receipt_state, body_state].contains(state))
        .unwrap_or(State::Ok);
    let (received, archives) = (receipt.as_ref().map(|r| r.received), receipt.as_ref().map(|r| r.archives));
    Snapshot { lineage, sequence, head, received, archives, pages, state }
}

fn signed<T: Object>(store: &Directory, name: &Name, key: &VerifyKey) -> Result<Option<Verified<T>>, ()> {
    match read_whole(store, name, T::BYTES_MAX) {
        Ok(None) => Ok(None),
        Ok(Some(bytes)) => {
            Signed::<T>::parse(&bytes).ok().and_then(|signed| signed.verify(key).ok()).map(Some).ok_or(())
        }
        Err(_) => Err(()),
    }
}

fn flags(head: Option<&Verified<Head>>) -> String {
    let Some(head) = head else { return "-".into() };
    let all =
        [(head.is_checkpoint(), "checkpoint"), (head.is_incomplete(), "incomplete"), (head.reason.is_some(), "alarm")];
    let set: Vec<&str> = all.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect();
    if set.is_empty() { "-".into() } else { set.join(",") }
}

fn row(one: &Enrolled, snapshot: &Snapshot) -> Vec<String> {
    let head = snapshot.head.as_ref();
    let created = head.map(|head| head.created);
    let differs = match (created, snapshot.received) {
        (Some(created), Some(received)) => received.abs_diff(created) > CREATED_SHOWN_SECONDS as u64,
        _ => true,
    };
    let count = |number: Option<u64>| number.map_or_else(|| "-".into(), table::grouped);
    vec![
        head.map_or_else(|| "?".into(), |head| head.digest().short()),
        snapshot.received.map_or_else(|| "-".into(), table::local),
        created.filter(|_| differs).map(table::local).unwrap_or_default(),
        one.name.to_string(),
        head.map_or_else(|| "?".into(), |head| head.series.short()),
        flags(head),
        count(snapshot.pages),
        count(snapshot.archives),
        match snapshot.state {
            State::Ok => format!("{} ok", one.name),
            state => state.as_str().into(),
        },
    ]
}

fn json(one: &Enrolled, snapshot: &Snapshot) -> serde_json::Value {
    let head = snapshot.head.as_ref();
    serde_json::json!({
        "message_type": "snapshot",
        "id": head.map(|head| head.digest().to_string()),
        "short_id": head.map(|head| head.digest().short()),
        "source": one.name.as_str(),
        "lineage": snapshot.lineage.to_string(),
        "sequence": snapshot.sequence,
        "received": snapshot.received.and_then(table::utc),
        "created": head.and_then(|head| table::utc(head.created)),
        "series": head.map(|head| head.series.to_string()),
        "checkpoint": head.map(|head| head.is_checkpoint()),
        "incomplete": head.map(|head| head.is_incomplete()),
        "alarm": head.map(|head| head.reason.is_some()),
        "pages": snapshot.pages,
        "archives": snapshot.archives,
        "state": snapshot.state.as_str(),
    })
}

//! Hello and Welcome (docs/protocol.md, section "Handshake").

use crate::ledger::Known;
use crate::serve::check::malformed;
use crate::serve::committer::Session;
use crate::serve::committer::account::{Account, Holdings, Standing};
use crate::serve::committer::outbox::store_refusal;
use crate::serve::limits::Tier;
use crate::serve::lock::{Busy, Held, Locks};
use crate::store::Store;
use shared::codec::{Blob, Text};
use shared::id::{ArchiveNumber, Lineage};
use shared::signature::sign;
use shared::wire::hello::NewestHead;
use shared::wire::{Hello, RefusalCode, Refused, Reply, Role, VERSION, Welcome};

/// A pushing session that may begin.
pub struct Pushing {
    pub held: Held,
    pub lineage: Lineage,
    pub standing: Standing,
    /// Lineages with their newest heads, to count heads and series.
    pub lineages: Vec<(Lineage, Option<u64>)>,
}

fn busy(name: &shared::id::SourceName, busy: &Busy) -> Refused {
    let since = busy.since.and_then(|at| jiff::Timestamp::from_second(at).ok());
    let since = since.map(|at| format!(" since {at}")).unwrap_or_default();
    Refused::new(RefusalCode::Busy, format!("another session of {name} runs{since}"))
}

/// Checks who greets, and in which version.
pub fn check_hello<S: Store>(session: &Session<S>, hello: &Hello) -> Result<(), Refused> {
    if hello.version_min > VERSION || hello.version_max < VERSION {
        let text = format!(
            "this sink speaks protocol version {VERSION}, the client {} to {}",
            hello.version_min, hello.version_max
        );
        return Err(Refused::new(RefusalCode::Version, text));
    }
    if session.access.role != Role::Push {
        return Ok(());
    }
    if hello.source != Some(session.access.identity.source) {
        let text = format!("{} is enrolled here with another card", session.access.name);
        return Err(Refused::new(RefusalCode::NotAllowed, text));
    }
    if hello.lineage.is_none() {
        return Err(malformed("hello", "a pushing source must name its lineage"));
    }
    Ok(())
}

/// Takes the source's lock and counts what it has.
pub fn begin_push<S: Store>(
    session: &Session<S>,
    locks: Locks,
    ledger: Option<&Known>,
    lineage: Lineage,
) -> Result<Pushing, Refused> {
    let held = locks.acquire().map_err(|e| busy(&session.access.name, &e))?;
    let store = session.own()?;
    let holdings = Holdings::load(store, ledger, &session.access.identity.sink);
    let holdings = holdings.map_err(|e| store_refusal(&e))?;
    if !holdings.lineages.contains_key(&lineage) && holdings.lineages.len() >= session.limits.lineages {
        let text = format!("this source has {} lineages already", holdings.lineages.len());
        return Err(Refused::new(RefusalCode::Cap, text));
    }
    let account = Account::new(session.access.identity.source, lineage, session.clock.now(), &holdings);
    session.outbox.shared().set_account(account);
    let standing = holdings.lineages.get(&lineage).copied().unwrap_or_default();
    let lineages = holdings.lineages.iter().map(|(lineage, standing)| (*lineage, standing.newest_head)).collect();
    Ok(Pushing { held, lineage, standing, lineages })
}

/// Archives with damage that the source is asked to heal; absent if there are none.
fn told<S: Store>(session: &Session<S>, lineage: &Lineage) -> Option<u64> {
    let archives = session.access.sources.first()?.damaged.archives_of(lineage);
    (archives > 0).then_some(archives)
}

/// The signed answer.
pub fn welcome<S: Store>(
    session: &Session<S>,
    hello: &Hello,
    push: Option<(&Pushing, Option<NewestHead>)>,
) -> Result<Reply, Refused> {
    let quota = session.quota();
    let used = push.is_some().then(|| session.outbox.shared().account(|account| account.bytes));
    let next_number = push.as_ref().map(|(pushing, _)| ArchiveNumber::new(pushing.standing.next_number));
    let welcome = Welcome {
        version: VERSION,
        nonce: hello.nonce,
        sink: session.access.identity.sink,
        role: session.access.role,
        name: session.access.name.clone(),
        program: Text::truncated(concat!("remote-sink ", env!("CARGO_PKG_VERSION"))),
        clock: session.clock.now(),
        quota_left: quota.zip(used).map(|(quota, used)| quota.saturating_sub(used)),
        free: session.free_for(Tier::Archive)?,
        journal: push.is_some().then(|| session.access.sources.first()?.published.journal).flatten(),
        source: push.is_some().then_some(session.access.identity.source),
        lineage: push.as_ref().map(|(pushing, _)| pushing.lineage),
        newest: push.as_ref().and_then(|(_, newest)| newest.clone()),
        // The last number of all leaves none above it. No session leaps there (`numbers`); where one did before that rule,
        // the source goes on with numbers that it knows itself.
        next_number: next_number.and_then(Result::ok),
        binding: Blob::new(session.binding.clone()).map_err(|e| malformed("binding", e))?,
        quota: if used.is_some() { quota } else { None },
        used,
        damaged: push.as_ref().and_then(|(pushing, _)| told(session, &pushing.lineage)),
    };
    Ok(Reply::Welcome(sign(welcome, &session.key).map_err(|e| malformed("welcome", e))?.as_bytes().to_vec()))
}

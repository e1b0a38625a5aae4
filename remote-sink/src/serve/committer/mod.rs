//! The process that holds the sink key and writes. It takes what the receiver checked, and checks all of it again:
//! parses with the same types, verifies signatures, hashes data, makes the names (docs/protocol.md).

pub mod access;
pub mod account;
mod caps;
mod commit;
mod greet;
mod ingest;
mod numbers;
pub mod outbox;
mod owned;
mod owner_caps;
mod push;
mod query;

use crate::ledger::Known;
use crate::serve::channel::{self, ChannelError, Inbound, Inlet, Setup, Watch, timed_out};
use crate::serve::check::{ends_session, request_refusal};
use crate::serve::limits::{Limits, Tier};
use crate::serve::lock::{Held, Locks, Slot};
use crate::store::Store;
use access::Access;
use outbox::{Outbox, Shared, store_refusal};
use owner_caps::OwnerCaps;
use push::Push;
use shared::id::{ArchiveNumber, Lineage, SourceId, VerifyKey};
use shared::signature::SigningKey;
use shared::sys::Clock;
use shared::wire::request::parse_hello;
use shared::wire::{AuditRequest, Frame, Hello, ReadRequest, RefusalCode, Refused, Reply, Request, RequestError, Role};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Beyond the session's time, for the message that was under way.
const OVERTIME: Duration = Duration::from_secs(600);

/// How long a session beyond those that its key may have is waited for, to be told so.
const BUSY_GREETING: Duration = Duration::from_secs(5);

/// Numbers of archives, kept while a client walks through them.
struct Listing {
    source: SourceId,
    lineage: Lineage,
    from: ArchiveNumber,
    /// The lowest ones from there on.
    numbers: Vec<ArchiveNumber>,
    /// Are these all?
    complete: bool,
}

/// What every session has.
pub struct Session<S: Store> {
    pub access: Access<S>,
    pub key: SigningKey,
    pub clock: Arc<dyn Clock>,
    pub limits: Limits,
    pub binding: Vec<u8>,
    pub outbox: Outbox<S>,
    listing: RefCell<Option<Listing>>,
    /// What owners have here, as far as it was counted.
    owned: RefCell<BTreeMap<VerifyKey, OwnerCaps>>,
    /// A part was sent in part: only the end of the connection can say so.
    broken: Cell<bool>,
}

impl<S: Store> Session<S> {
    /// The pushing source's own room.
    pub fn own(&self) -> Result<&S, Refused> {
        Ok(&self.access.source(&self.access.identity.source)?.store)
    }
    pub fn quota(&self) -> Option<u64> {
        self.access.quota.or(self.limits.quota)
    }
    /// Bytes of the file system that objects of this kind may still take; 0 also where its inodes are too few.
    pub fn free_for(&self, tier: Tier) -> Result<u64, Refused> {
        let Some(store) = self.access.sources.first().map(|source| &source.store) else { return Ok(0) };
        let free = store.free().map_err(|e| store_refusal(&e))?;
        let (bytes, objects) = self.limits.kept_free(tier);
        Ok(if free.objects <= objects { 0 } else { free.bytes.saturating_sub(bytes) })
    }
}

/// What the committer reads, under the session's clocks.
pub type Incoming = BufReader<Inlet<Patience>>;

/// Ends an idle session, and a silent one that another waits for.
pub struct Patience {
    idle: Duration,
    takeover: Duration,
    held: Option<Held>,
    shared: Arc<Shared>,
    /// The receiver ends an over-long session between two messages; one that does not is ended here.
    end: Option<Instant>,
}

impl Patience {
    fn over_long(&self) -> io::Result<()> {
        match self.end {
            Some(end) if Instant::now() > end => Err(timed_out("this session has lasted long enough")),
            _ => Ok(()),
        }
    }
}

impl Watch for Patience {
    fn silent(&mut self, since: Duration) -> io::Result<bool> {
        self.over_long()?;
        if self.shared.is_working() {
            return Ok(true);
        }
        if since > self.takeover
            && let Some(held) = &mut self.held
        {
            held.falls_silent();
            if held.is_awaited() {
                return Err(timed_out("another session of this source has begun, and this one was silent"));
            }
        }
        if since > self.idle {
            return Err(timed_out(format!("nothing came for {} s", self.idle.as_secs())));
        }
        Ok(false)
    }
    fn heard(&mut self, _: usize) -> io::Result<()> {
        if let Some(held) = &mut self.held {
            held.speaks();
        }
        self.over_long()
    }
}

/// Everything that a session is started with.
pub struct Start<S: Store> {
    pub access: Access<S>,
    pub key: SigningKey,
    pub clock: Arc<dyn Clock>,
    pub limits: Limits,
    pub binding: Vec<u8>,
    /// Counts this session among those of its key, to its end.
    pub slot: Option<Slot>,
    /// Role push: the locks, and what the ledger knows.
    pub locks: Option<Locks>,
    pub ledger: Option<Arc<Known>>,
}

fn setup<S: Store>(role: Role, start: &Result<Start<S>, Refused>, limits: &Limits) -> Setup {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Setup {
        role,
        identity: start.as_ref().ok().map(|start| start.access.identity.clone()),
        slow_window_ms: ms(limits.slow_window),
        slow_bytes: limits.slow_bytes,
        session_ms: ms(limits.session),
    }
}

/// Runs a session over the channel, from Hello to its end. A `start` that failed is told to the client.
pub fn commit<S: Store>(
    channel: UnixStream,
    role: Role,
    start: Result<Start<S>, Refused>,
    limits: &Limits,
) -> Result<(), ChannelError> {
    let io = |e: io::Error| ChannelError::Frame(e.into());
    channel::send_setup(&channel, &setup(role, &start, limits))?;
    // A client that takes no answers for so long is as good as gone.
    channel.set_write_timeout(Some(limits.idle.max(Duration::from_secs(1)))).map_err(io)?;
    let outbox = Outbox::<S>::start(channel.try_clone().map_err(io)?).map_err(io)?;
    let shared = Arc::clone(outbox.shared());
    let latest = Instant::now().checked_add(limits.session.saturating_add(OVERTIME));
    let full = matches!(&start, Err(refused) if refused.code == RefusalCode::Busy);
    let first_word = if full { limits.greeting.min(BUSY_GREETING) } else { limits.greeting };
    let patience = Patience { idle: first_word, takeover: limits.takeover, held: None, shared, end: latest };
    let mut incoming = Inlet::new(channel::own(&channel).map_err(io)?, None, patience).buffered();
    match start {
        Ok(start) => {
            let Start { access, key, clock, limits, binding, slot: _slot, locks, ledger } = start;
            let (listing, owned, broken) = (RefCell::default(), RefCell::default(), Cell::new(false));
            let session = Session { access, key, clock, limits, binding, outbox, listing, owned, broken };
            let last = converse(&session, &mut incoming, locks, ledger);
            end(session, last)
        }
        Err(refused) => {
            // Hello first: a client reads no answer before it has asked.
            let greeted = greeting(&mut incoming);
            if let Ok(Some(_)) = greeted {
                // Fails only where nobody listens.
                let _ = outbox.reply(Reply::Refused(refused));
            }
            outbox.finish();
        }
    }
    // The receiver sees the end of this channel, and ends.
    let _ = channel.shutdown(std::net::Shutdown::Both);
    Ok(())
}

/// Says the last word, and waits until all is written.
fn end<S: Store>(session: Session<S>, last: Option<Refused>) {
    if let Some(refused) = last
        && !session.broken.get()
    {
        // Fails only where the last answer already said why.
        let _ = session.outbox.reply(Reply::Refused(refused));
    }
    session.outbox.finish();
}

fn greeting(incoming: &mut Incoming) -> Result<Option<Hello>, Refused> {
    match channel::next(incoming) {
        Ok(Some(Inbound::Frame(frame))) => parse_hello(&frame).map(Some).map_err(|e: RequestError| request_refusal(e)),
        Ok(Some(Inbound::Fail(refused))) => Err(refused),
        Ok(None) => Ok(None),
        Err(e) => match e.timeout() {
            Some(_) => Err(Refused::new(RefusalCode::Timeout, "no greeting came")),
            None => Ok(None),
        },
    }
}

/// The session itself; returns what is to be said last.
fn converse<S: Store>(
    session: &Session<S>,
    incoming: &mut Incoming,
    locks: Option<Locks>,
    ledger: Option<Arc<Known>>,
) -> Option<Refused> {
    let hello = match greeting(incoming) {
        Ok(Some(hello)) => hello,
        Ok(None) => return None,
        Err(refused) => return Some(refused),
    };
    if let Err(refused) = greet::check_hello(session, &hello) {
        return Some(refused);
    }
    incoming.get_mut().watch.idle = session.limits.idle;
    match session.access.role {
        Role::Push => push(session, incoming, &hello, locks, ledger).err(),
        Role::Read => serve_queries::<S, ReadRequest>(session, incoming, &hello, |request| match request {
            ReadRequest::Query(query) => session.answer(query),
            ReadRequest::GetParts(query) => session.get_parts(&query),
        }),
        Role::Audit => serve_queries::<S, AuditRequest>(session, incoming, &hello, |request| {
            let AuditRequest::Query(query) = request;
            session.answer(query)
        }),
        Role::Mirror => Some(Refused::new(RefusalCode::NotAllowed, "role mirror is not served")),
    }
}

/// `Err` is the session's last word.
fn push<S: Store>(
    session: &Session<S>,
    incoming: &mut Incoming,
    hello: &Hello,
    locks: Option<Locks>,
    ledger: Option<Arc<Known>>,
) -> Result<(), Refused> {
    let missing = |what: &str| Refused::new(RefusalCode::Internal, format!("the session has no {what}"));
    let (locks, lineage) = (locks.ok_or_else(|| missing("lock"))?, hello.lineage.ok_or_else(|| missing("lineage"))?);
    let pushing = greet::begin_push(session, locks, ledger.as_deref(), lineage)?;
    let mut push = Push::begin(session, &pushing, ledger)?;
    let welcome = greet::welcome(session, hello, Some((&pushing, push.chain.newest.clone())))?;
    incoming.get_mut().watch.held = Some(pushing.held);
    session.outbox.reply(welcome)?;
    let last = push.run(session, incoming);
    if let Some(held) = &mut incoming.get_mut().watch.held {
        // The source may connect again at once: it waits for the end of this one instead of being refused.
        held.falls_silent();
    }
    // After a failure of the disk there is nothing to wait for; what was placed is noted all the same.
    let _ = session.outbox.barrier();
    push.publish_record(session);
    last.map_or(Ok(()), Err)
}

fn serve_queries<S: Store, R: Request>(
    session: &Session<S>,
    incoming: &mut Incoming,
    hello: &Hello,
    answer: impl Fn(R) -> Result<(), Refused>,
) -> Option<Refused> {
    let welcome = greet::welcome(session, hello, None);
    match welcome.map(|welcome| session.outbox.reply(welcome)) {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return None,
        Err(refused) => return Some(refused),
    }
    loop {
        incoming.get_mut().restart();
        let frame: Frame = match channel::next(incoming) {
            Ok(Some(Inbound::Frame(frame))) => frame,
            Ok(Some(Inbound::Fail(refused))) => return Some(refused),
            Ok(None) => return None,
            Err(e) => return e.timeout().map(|e| Refused::new(RefusalCode::Timeout, e.to_string())),
        };
        if let Err(refused) = R::parse(frame).map_err(request_refusal).and_then(&answer) {
            if session.broken.get() || ends_session(refused.code) {
                return Some(refused);
            }
            if session.outbox.reply(Reply::Refused(refused)).is_err() {
                return None;
            }
        }
    }
}

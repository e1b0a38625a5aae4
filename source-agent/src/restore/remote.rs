//! A sink over a connection, which is made again where it was lost or where a lie left it out of step.

use crate::client::{self, Client, Greeting, OBJECTS_AHEAD_MAX};
use crate::config::{Loaded, Remote};
use crate::progress;
use crate::report::{Exit, Failure, Outcome};
use crate::restore::objects::{
    ArchiveName, CheckRegion, Each, EachArchive, EachObject, Got, Objects, PartsWanted, Wanted, is_lost,
};
use crate::restore::verify::Archive;
use shared::format::{OwnerRecord, Voucher, Wrap};
use shared::id::{ArchiveId, Digest, Lineage, SessionId, SourceId, VerifyKey};
use shared::signature::Verified;
use shared::wire::request::{GetArchive, GetObject, GetSession, Query};
use shared::wire::{HeadItem, SourceItem};
use std::sync::Arc;
use std::time::Duration;

/// Requests of parts that may be on their way; the client's own limit.
const AHEAD_MAX: usize = 8;
/// Longest pause before a connection is made again.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// One remote of the configuration.
pub struct RemoteSink {
    loaded: Arc<Loaded>,
    remote: Remote,
    greeting: Greeting,
    client: Option<Client>,
    sink: VerifyKey,
    clock: i64,
    context: crate::cli::Context,
}

/// Did the sink say no to one thing, and the session goes on?
fn in_step(failure: &Failure) -> bool {
    matches!(failure.code, "not-found" | "expired" | "damaged" | "conflict")
}

/// A sink whose own reading of one object failed ends the session; the object is lost, the others are not.
fn as_lost(failure: Failure) -> Failure {
    if failure.code == "sink-failed" { Failure { exit: Exit::NotFound, ..failure } } else { failure }
}

impl RemoteSink {
    /// Connects. A first failure is told at once; later ones are tried again.
    pub fn connect(
        loaded: &Arc<Loaded>,
        remote: &Remote,
        greeting: Greeting,
        context: &crate::cli::Context,
    ) -> Outcome<Self> {
        let client = client::connect(loaded, remote, greeting)?;
        Ok(Self {
            loaded: Arc::clone(loaded),
            remote: remote.clone(),
            greeting,
            sink: *client.sink(),
            clock: client.welcome().clock,
            client: Some(client),
            context: context.clone(),
        })
    }

    /// Another connection to the same sink.
    pub fn again(&self) -> Outcome<Self> {
        Self::connect(&self.loaded, &self.remote, self.greeting, &self.context)
    }

    pub fn role(&self) -> Option<shared::wire::Role> {
        self.client.as_ref().map(|client| client.welcome().role)
    }

    fn client(&mut self) -> Outcome<&mut Client> {
        if self.client.is_none() {
            self.client = Some(client::connect(&self.loaded, &self.remote, self.greeting)?);
        }
        self.client.as_mut().ok_or_else(|| Failure::new("internal", Exit::Failed, "no connection"))
    }

    /// Makes the connection again where it was lost. That it cannot be made says nothing of what is to be asked.
    fn connected(&mut self) -> Outcome<()> {
        let mut attempt = 0;
        while let Err(failure) = self.client().map(|_| ()) {
            crate::cli::check_interrupted()?;
            // A sink that is busy, or whose disk is away for the moment.
            let may_pass = failure.exit == Exit::Busy || failure.code == "sink-failed";
            self.pause_after(failure, may_pass, attempt)?;
            attempt += 1;
        }
        Ok(())
    }

    /// Waits before another try; `Err` with the failure when there were enough of them.
    fn again_after(&self, failure: Failure, attempt: u32) -> Outcome<()> {
        self.pause_after(failure, false, attempt)
    }

    fn pause_after(&self, failure: Failure, may_pass: bool, attempt: u32) -> Outcome<()> {
        let lost = may_pass || (failure.exit == Exit::Unreachable && failure.code != "version");
        if !lost || attempt + 1 >= self.loaded.config.limits.retry.attempts.max(1) {
            return Err(failure);
        }
        let pause = Duration::from_secs(1 << attempt.min(6)).min(PAUSE_MAX);
        let line = format!("{}: {}; trying again in {} s", self.remote.name, failure.message, pause.as_secs());
        progress::warn(&self.context, &line);
        let until = std::time::Instant::now() + pause;
        while std::time::Instant::now() < until {
            crate::cli::check_interrupted()?;
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn with<T>(&mut self, ask: impl Fn(&mut Client) -> Outcome<T>) -> Outcome<T> {
        let mut attempt = 0;
        loop {
            crate::cli::check_interrupted()?;
            self.connected()?;
            let failure = match self.client().and_then(&ask) {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if in_step(&failure) {
                return Err(failure);
            }
            // Out of step, or gone: the next question gets a new connection.
            self.client = None;
            self.again_after(as_lost(failure), attempt)?;
            attempt += 1;
        }
    }

    /// Asks for all of a row of things without waiting and takes the answers in their order; a connection that was lost
    /// is made again, and the row goes on where it was.
    fn row<T>(
        &mut self,
        count: usize,
        ask: &dyn Fn(&mut Client, usize) -> Outcome<()>,
        take: &dyn Fn(&mut Client, usize) -> Outcome<T>,
        each: &mut dyn FnMut(usize, Outcome<T>) -> Outcome<()>,
    ) -> Outcome<()> {
        let (mut next, mut attempt) = (0, 0);
        while next < count {
            crate::cli::check_interrupted()?;
            self.connected()?;
            let begun = next;
            let Err(failure) = self.row_once(&mut next, count, ask, take, each)? else { return Ok(()) };
            self.client = None;
            attempt = if next > begun { 0 } else { attempt };
            match as_lost(failure) {
                // A lie, or an object that the sink cannot read: this one is over, the next ones are not.
                lost if is_lost(&lost) => {
                    each(next, Err(lost))?;
                    next += 1;
                    attempt = 0;
                }
                failure => {
                    self.again_after(failure, attempt)?;
                    attempt += 1;
                }
            }
        }
        Ok(())
    }

    /// [`RemoteSink::row`] on one connection. The inner failure is about the connection, at `next`.
    fn row_once<T>(
        &mut self,
        next: &mut usize,
        count: usize,
        ask: &dyn Fn(&mut Client, usize) -> Outcome<()>,
        take: &dyn Fn(&mut Client, usize) -> Outcome<T>,
        each: &mut dyn FnMut(usize, Outcome<T>) -> Outcome<()>,
    ) -> Outcome<Outcome<()>> {
        let client = match self.client() {
            Ok(client) => client,
            Err(failure) => return Ok(Err(failure)),
        };
        let mut asked = *next;
        while *next < count {
            while asked < count && asked < *next + OBJECTS_AHEAD_MAX {
                if let Err(failure) = ask(client, asked) {
                    return Ok(Err(failure));
                }
                asked += 1;
            }
            let got = match take(client, *next) {
                Err(failure) if client.is_over() => return Ok(Err(failure)),
                got => got,
            };
            if let Err(failure) = each(*next, got) {
                // Answers that nobody takes any more are on their way.
                self.client = None;
                return Err(failure);
            }
            *next += 1;
        }
        Ok(Ok(()))
    }

    /// Asks for the rest of all requests and takes what comes, until all has come or the connection fails. `Ok(place)`
    /// is where to go on.
    fn parts_once(&mut self, rest: &mut [Vec<u32>], wanted: &[PartsWanted], from: usize, each: Each<'_>) -> PartsEnd {
        let client = match self.client() {
            Ok(client) => client,
            Err(failure) => return PartsEnd::Failed(from, failure),
        };
        let mut asked = from;
        for at in from..wanted.len() {
            while asked < wanted.len() && asked < at + AHEAD_MAX {
                if !rest[asked].is_empty()
                    && let Err(failure) = client.ask_parts(&wanted[asked].archive.index, &rest[asked])
                {
                    return PartsEnd::Failed(at, failure);
                }
                asked += 1;
            }
            if rest[at].is_empty() {
                continue;
            }
            let mut stop = None;
            let mut came = Vec::new();
            let taken = client.take_parts(&wanted[at].archive.index, &mut |part, bytes| {
                came.push(part);
                each(at, Got::Part(part, bytes)).map_err(|failure| {
                    let told = Failure::new(failure.code, failure.exit, failure.message.clone());
                    stop = Some(failure);
                    told
                })
            });
            rest[at].retain(|part| !came.contains(part));
            if let Some(failure) = stop {
                return PartsEnd::Stopped(failure);
            }
            match taken {
                Ok(()) => rest[at].clear(),
                Err(failure) if in_step(&failure) => {
                    rest[at].clear();
                    if let Err(failure) = each(at, Got::Ended(failure)) {
                        return PartsEnd::Stopped(failure);
                    }
                }
                Err(failure) => return PartsEnd::Failed(at, failure),
            }
        }
        PartsEnd::Done
    }
}

fn query(wanted: &Wanted) -> Query {
    match wanted {
        Wanted::Body(source, digest) => Query::GetBody(GetObject { source: *source, digest: *digest }),
        Wanted::Page(source, digest) => Query::GetPage(GetObject { source: *source, digest: *digest }),
        Wanted::Envelope(source, session) => Query::GetEnvelope(GetSession { source: *source, session: *session }),
        Wanted::Region(name, _) => {
            Query::GetRegion(GetArchive { source: name.source, lineage: name.lineage, number: name.number })
        }
    }
}

/// How a row of requests of parts ended.
enum PartsEnd {
    Done,
    /// The caller wants no more.
    Stopped(Failure),
    /// The connection is of no more use at this place.
    Failed(usize, Failure),
}

impl Objects for RemoteSink {
    fn remote(&self) -> &str {
        &self.remote.name
    }
    fn sink(&self) -> VerifyKey {
        self.sink
    }
    fn clock(&self) -> i64 {
        self.clock
    }
    fn sources(&mut self) -> Outcome<Vec<SourceItem>> {
        self.with(Client::sources)
    }
    fn heads(&mut self, source: &SourceId, lineage: &Lineage, from: u64) -> Outcome<Vec<HeadItem>> {
        self.with(|client| client.heads(source, lineage, from))
    }
    fn envelope(&mut self, source: &SourceId, session: &SessionId) -> Outcome<Vec<u8>> {
        self.with(|client| client.envelope(source, session).map(|envelope| envelope.as_bytes().to_vec()))
    }
    fn body(&mut self, source: &SourceId, digest: &Digest) -> Outcome<Vec<u8>> {
        self.with(|client| client.body(source, digest).map(|body| body.as_bytes().to_vec()))
    }
    fn page(&mut self, source: &SourceId, digest: &Digest) -> Outcome<Vec<u8>> {
        self.with(|client| client.page(source, digest).map(|page| page.as_bytes().to_vec()))
    }
    fn region(&mut self, name: &ArchiveName, id: &ArchiveId) -> Outcome<Vec<u8>> {
        self.with(|client| {
            client.region(&name.source, &name.lineage, name.number, id).map(|region| region.as_bytes().to_vec())
        })
    }
    fn table(&mut self, archive: &Archive) -> Outcome<Vec<u8>> {
        let name = archive.name;
        let Some(part) = archive.index.parts.last() else {
            return Err(Failure::new("internal", Exit::Failed, "an archive without parts"));
        };
        self.with(|client| client.table(&name.source, &name.lineage, name.number, part))
    }

    fn objects(&mut self, wanted: &[Wanted], each: EachObject<'_>) -> Outcome<()> {
        let ask = |client: &mut Client, at: usize| client.ask_object(&query(&wanted[at]));
        self.row(wanted.len(), &ask, &|client, _| client.take_object(), each)
    }

    fn archives(
        &mut self,
        wanted: &[(ArchiveName, ArchiveId)],
        check: CheckRegion<'_>,
        each: EachArchive<'_>,
    ) -> Outcome<()> {
        let ask = |client: &mut Client, at: usize| {
            let name = &wanted[at].0;
            client.ask_archive(&name.source, &name.lineage, name.number)
        };
        let take = |client: &mut Client, at: usize| {
            let (name, id) = &wanted[at];
            let mut checked = None;
            let (_, table) = client.take_archive(name.number, id, |region| {
                let archive = check(at, region.as_bytes())?;
                let part = archive.index.parts.last().cloned();
                checked = Some(archive);
                part.ok_or_else(|| Failure::new("internal", Exit::Failed, "an archive without parts"))
            })?;
            let archive = checked.ok_or_else(|| Failure::new("internal", Exit::Failed, "an unchecked archive"))?;
            Ok((archive, table))
        };
        self.row(wanted.len(), &ask, &take, each)
    }

    fn parts(&mut self, wanted: &[PartsWanted], each: Each<'_>) -> Outcome<()> {
        let mut rest: Vec<Vec<u32>> = wanted.iter().map(|wanted| wanted.parts.clone()).collect();
        let (mut from, mut attempt) = (0, 0);
        loop {
            crate::cli::check_interrupted()?;
            self.connected()?;
            let left = |rest: &[Vec<u32>]| rest.iter().map(Vec::len).sum::<usize>();
            let before = left(&rest);
            match self.parts_once(&mut rest, wanted, from, each) {
                PartsEnd::Done => return Ok(()),
                PartsEnd::Stopped(failure) => {
                    self.client = None;
                    return Err(failure);
                }
                PartsEnd::Failed(at, failure) => {
                    self.client = None;
                    attempt = if left(&rest) < before { 0 } else { attempt };
                    from = at;
                    match as_lost(failure) {
                        // A lie, or an object that the sink cannot read: this request is over, the next ones are not.
                        lost if is_lost(&lost) => {
                            each(at, Got::Ended(lost))?;
                            from = at + 1;
                            attempt = 0;
                        }
                        failure => {
                            self.again_after(failure, attempt)?;
                            attempt += 1;
                        }
                    }
                }
            }
        }
    }

    fn owner_records(&mut self, owner: &VerifyKey, from: u64) -> Outcome<Vec<Vec<u8>>> {
        self.with(|client| {
            let bytes = |record: &Verified<OwnerRecord>| record.as_bytes().to_vec();
            Ok(client.owner_records(owner, from)?.iter().map(bytes).collect())
        })
    }
    fn substitutes(&mut self, source: &SourceId, lineage: &Lineage) -> Outcome<Vec<Vec<u8>>> {
        self.with(|client| Ok(client.substitutes(source, lineage)?.iter().map(|o| o.as_bytes().to_vec()).collect()))
    }
    fn vouchers(&mut self, source: &SourceId, lineage: &Lineage) -> Outcome<Vec<Vec<u8>>> {
        self.with(|client| Ok(client.vouchers(source, lineage)?.iter().map(|o| o.as_bytes().to_vec()).collect()))
    }
    fn wraps(&mut self, source: &SourceId, lineage: &Lineage) -> Outcome<Vec<Vec<u8>>> {
        self.with(|client| Ok(client.wraps(source, lineage)?.iter().map(|o| o.as_bytes().to_vec()).collect()))
    }
    fn put_owner_record(&mut self, record: &Verified<OwnerRecord>) -> Outcome<()> {
        self.with(|client| client.put_owner_record(record).map(|_| ()))
    }
    fn put_voucher(&mut self, voucher: &Verified<Voucher>) -> Outcome<()> {
        self.with(|client| client.put_voucher(voucher).map(|_| ()))
    }
    fn put_wrap(&mut self, wrap: &Verified<Wrap>) -> Outcome<()> {
        self.with(|client| client.put_wrap(wrap).map(|_| ()))
    }
}

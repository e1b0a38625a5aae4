//! Pushing to one remote, in a thread of its own: envelope, archives (several in flight), pages, body, head. A cut line
//! is joined again within the same session; what was not acknowledged is sent again, the sink knows what it has.

mod commit;

use super::assemble::Ready;
use super::lacking::Lacking;
use super::limit::{Limit, limited};
use super::stop::{Stop, again};
use super::taker::{Flying, NoRoom, Taker};
use crate::cli::interrupted;
use crate::client::{Answer, Asked, Client, PushSender, Refusal};
use crate::config::Retry;
use crate::index::{Index, SinkFacts};
use crate::progress::Progress;
use crate::report::{Exit, Failure, Outcome};
use crate::watch::{self, ChainState, Verdict};
use crossbeam_channel::{Receiver, Sender, select, unbounded};
use shared::format::snapshot::RemoteHead;
use shared::format::{Body, Envelope, Page, Substitute};
use shared::id::{Digest, Series};
use shared::signature::{Plain, SigningKey, Verified};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Makes a connection to a remote; again after a loss.
pub trait Dial: Send + Sync {
    fn name(&self) -> &str;
    fn is_required(&self) -> bool;
    fn dial(&self) -> Outcome<Client>;
}

/// A snapshot to be committed, the same for all remotes.
pub struct CommitJob {
    pub pages: Vec<Plain<Page>>,
    pub body: Plain<Body>,
    pub series: Series,
    pub flags: u8,
    pub created: i64,
    /// What a remote lacks can be read again.
    pub again: bool,
}

/// How a commit ended.
#[derive(Debug)]
pub enum Committed {
    /// Receipted: the head's digest.
    Done(Digest),
    /// The sink lacks archives that the index thought were there; the index knows now.
    Missing(Vec<u64>),
}

/// What a remote is told to do, in this order.
pub enum Work {
    Archive(Arc<Ready>),
    Commit(Arc<CommitJob>, Reply),
    /// A record of what stands for damaged blocks, behind the archives that it names.
    Substitute(Arc<Verified<Substitute>>, Sender<Outcome<()>>),
}

/// Where a remote says what became of its commit.
type Reply = Sender<(usize, Outcome<Committed>)>;

/// What all remotes of a run share.
pub struct Session {
    /// The first archive number of this run.
    pub first: u64,
    pub index: Arc<Index>,
    pub envelope: Arc<Verified<Envelope>>,
    pub signing: Arc<SigningKey>,
    pub state_dir: PathBuf,
    pub stop: Arc<Stop>,
    pub retry: Retry,
    /// Remotes that are still part of the run.
    pub alive: AtomicUsize,
}

/// A remote at the start of a run.
pub struct Remote {
    pub at: usize,
    pub dial: Arc<dyn Dial>,
    pub state: ChainState,
    pub facts: SinkFacts,
    /// Newest receipted heads of the other remotes.
    pub others: Vec<RemoteHead>,
    pub limits: Vec<Limit>,
    pub progress: Progress,
}

/// What became of a remote.
pub struct Ended {
    pub failure: Option<Failure>,
    pub bytes_sent: u64,
    pub archives_sent: u64,
    /// Everything that was sent was acknowledged.
    pub settled: bool,
}

type Answers = Receiver<Outcome<(Asked, Answer)>>;

/// The two halves of a live connection.
struct Link {
    sender: PushSender,
    answers: Answers,
    receiver: JoinHandle<()>,
}

/// Has the sink this session's envelope?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Enveloped {
    No,
    /// Sent on the connection that is open; what follows it is taken in its order.
    Sent,
    Durable,
}

/// One remote's thread.
pub struct Pusher {
    session: Arc<Session>,
    remote: Remote,
    link: Option<Link>,
    flying: Flying,
    /// Set once it refused an archive that heals: it gets no more of these in this run.
    no_room: NoRoom,
    enveloped: Enveloped,
    /// Body and digest of the head that was sent last in this session.
    sent_head: Option<(Digest, Digest)>,
    bytes_sent: u64,
    archives_sent: u64,
    lacking: Lacking,
    /// Connections tried since the sink last acknowledged something new.
    tries: u32,
    /// Archives that it had acknowledged then.
    acknowledged: u64,
    /// Held while a commit is under way: the conductor must not see it end before it can see why.
    reply: Option<Reply>,
}

/// May a new connection help?
fn is_lost(failure: &Failure) -> bool {
    failure.exit == Exit::Unreachable
        && matches!(failure.code, "connection-lost" | "sink-ended" | "sink-timeout" | "timeout" | "silent")
}

impl Pusher {
    pub fn start(session: Arc<Session>, remote: Remote) -> Self {
        let (flying, enveloped, sent_head) = (Flying::default(), Enveloped::No, None);
        let (bytes_sent, archives_sent, tries, acknowledged) = (0, 0, 0, 0);
        let (link, reply, lacking) = (None, None, Lacking::new(session.first));
        Self {
            session,
            remote,
            link,
            lacking,
            flying,
            no_room: NoRoom::default(),
            enveloped,
            sent_head,
            bytes_sent,
            archives_sent,
            tries,
            acknowledged,
            reply,
        }
    }

    /// Splits the connection, sends what is pending from an earlier run.
    fn settle_pending(&mut self, mut client: Client) -> Outcome<()> {
        let key = self.session.signing.verify_key();
        let verdict = watch::reconcile(&mut client, &self.session.state_dir, &mut self.remote.state, &key)?;
        if let Verdict::Alarm(failure) = verdict {
            return Err(failure);
        }
        self.join(client);
        if matches!(verdict, Verdict::ResendPending)
            && let Some((head, body)) = self.remote.state.pending(&key)?
        {
            self.send(|sender| sender.body(&body))?;
            match self.answer()? {
                Answer::Missing(missing) if missing.is_empty() => self.send_head(&head)?,
                // The sink said in this session that its newest head is the one before.
                Answer::Missing(_) => self.remote.state.abandon_pending(&self.session.state_dir)?,
                other => return Err(self.unexpected(other)),
            }
        }
        Ok(())
    }

    /// The envelope goes before the first archive or body of its session, and its answer is not waited for: the sink
    /// makes it durable before it looks at what follows. A run that pushes nothing sends none.
    fn send_envelope(&mut self) -> Outcome<()> {
        if self.enveloped == Enveloped::No {
            let envelope = Arc::clone(&self.session.envelope);
            self.send(|sender| sender.envelope(&envelope))?;
            self.enveloped = Enveloped::Sent;
        }
        Ok(())
    }

    /// Takes an answer that may come at any time; others are given back. A refusal is a failure.
    fn take(&mut self, (asked, answer): (Asked, Answer)) -> Outcome<Option<Answer>> {
        match (asked, answer) {
            (Asked::Ping, _) => Ok(None),
            (_, Answer::Refused(Refusal { failure, .. })) => Err(failure),
            (Asked::Envelope(_), Answer::Stored { .. }) => {
                self.enveloped = Enveloped::Durable;
                Ok(None)
            }
            (_, answer) => Ok(Some(answer)),
        }
    }

    fn join(&mut self, client: Client) {
        let (sender, receiver) = client.into_push();
        let (answering, answers) = unbounded();
        let taker = Taker {
            index: Arc::clone(&self.session.index),
            facts: self.remote.facts,
            flying: Arc::clone(&self.flying),
            no_room: Arc::clone(&self.no_room),
            progress: self.remote.progress.clone(),
            answers: answering,
        };
        let receiver = std::thread::spawn(move || taker.run(receiver));
        self.link = Some(Link { sender, answers, receiver });
    }

    /// Takes over a connection and works until there is no more to do.
    pub fn run(mut self, client: Client, work: &Receiver<Work>) -> Ended {
        let begun = self.settle_pending(client);
        let failure = self.or_lost(begun).and_then(|()| self.work(work)).err();
        if let Some(failure) = &failure {
            self.leave(failure, work);
        }
        let settled = self.end() && failure.is_none();
        Ended { failure, bytes_sent: self.bytes_sent, archives_sent: self.archives_sent, settled }
    }

    /// This remote is out: nobody waits for it any more.
    fn leave(&mut self, failure: &Failure, work: &Receiver<Work>) {
        self.part();
        self.flying.lock().clear();
        if self.session.alive.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.session.stop.fail(again(failure));
        }
        if let Some(reply) = self.reply.take() {
            // A conductor that has gone waits for nothing.
            let _ = reply.send((self.remote.at, Err(again(failure))));
        }
        for work in work {
            if let Work::Commit(_, reply) = work {
                // A conductor that has gone waits for nothing.
                let _ = reply.send((self.remote.at, Err(again(failure))));
            }
        }
    }

    fn work(&mut self, work: &Receiver<Work>) -> Outcome<()> {
        loop {
            let answers = self.link.as_ref().map(|link| link.answers.clone());
            let Some(answers) = answers else {
                self.rejoin()?;
                continue;
            };
            select! {
                recv(work) -> next => match next {
                    Ok(Work::Archive(archive)) => self.archive(archive)?,
                    Ok(Work::Commit(job, reply)) => {
                        self.reply = Some(reply);
                        let done = self.commit_until_done(&job)?;
                        self.tries = 0;
                        if let Some(reply) = self.reply.take() {
                            let _ = reply.send((self.remote.at, Ok(done)));
                        }
                    }
                    Ok(Work::Substitute(record, reply)) => {
                        let done = self.substitute_until_done(&record)?;
                        self.tries = 0;
                        // A conductor that has gone waits for nothing.
                        let _ = reply.send(done);
                    }
                    Err(_) => return Ok(()),
                },
                recv(answers) -> answer => match answer {
                    Ok(Ok(answered)) => match self.take(answered) {
                        Ok(None) => {}
                        Ok(Some(answer)) => return Err(self.unexpected(answer)),
                        Err(failure) => self.lost(failure)?,
                    },
                    Ok(Err(failure)) => self.lost(failure)?,
                    Err(_) => self.lost(self.gone())?,
                },
                default(Duration::from_secs(15)) => {
                    let alive = self.send(PushSender::keep_alive);
                    self.or_lost(alive)?;
                }
            }
        }
    }

    fn archive(&mut self, archive: Arc<Ready>) -> Outcome<()> {
        if archive.heals && self.no_room.lock().is_some() {
            return Ok(());
        }
        self.flying.lock().push_back(Arc::clone(&archive));
        self.bytes_sent += archive.bytes();
        self.archives_sent += 1;
        // What is lost on the way is sent again, behind the envelope, as soon as the line is joined again.
        let sent = self.send_envelope().and_then(|()| self.send_archive(&archive));
        self.or_lost(sent)
    }

    fn send_archive(&mut self, archive: &Ready) -> Outcome<()> {
        let limits = self.remote.limits.clone();
        self.not_interrupted()?;
        // Who was asked to end does not send the rest over a slow line first: the sink drops an archive that is cut.
        let parts = limited(&archive.parts, &limits).take_while(|_| !interrupted());
        self.send(|sender| sender.archive(archive.number, &archive.region, parts))?;
        self.not_interrupted()
    }

    /// Fails once a signal asked for the end; a run that ends for another reason still sends what it has.
    fn not_interrupted(&self) -> Outcome<()> {
        if interrupted() { self.session.stop.check() } else { Ok(()) }
    }

    fn send(&mut self, request: impl FnOnce(&mut PushSender) -> Outcome<()>) -> Outcome<()> {
        match &mut self.link {
            Some(link) => request(&mut link.sender),
            None => Err(self.gone()),
        }
    }

    /// The answer to the oldest open request; archives are answered elsewhere.
    fn answer(&mut self) -> Outcome<Answer> {
        loop {
            let Some(link) = &self.link else { return Err(self.gone()) };
            let answered = match link.answers.recv_timeout(Duration::from_millis(500)) {
                Ok(answered) => answered?,
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => {
                    self.session.stop.check()?;
                    continue;
                }
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return Err(self.gone()),
            };
            if let Some(answer) = self.take(answered)? {
                return Ok(answer);
            }
        }
    }

    fn gone(&self) -> Failure {
        Failure::new("connection-lost", Exit::Unreachable, "the connection ended").remote(self.remote.dial.name())
    }

    fn unexpected(&self, answer: Answer) -> Failure {
        match answer {
            Answer::Refused(Refusal { failure, .. }) => failure,
            other => Failure::new("sink-lies", Exit::Tampered, format!("an answer out of place: {other:?}"))
                .remote(self.remote.dial.name()),
        }
    }

    /// A failure of the line is joined again, any other ends this remote.
    fn or_lost(&mut self, done: Outcome<()>) -> Outcome<()> {
        match done {
            Err(failure) => self.lost(failure),
            Ok(()) => Ok(()),
        }
    }

    fn lost(&mut self, failure: Failure) -> Outcome<()> {
        // Of a lost line the other half may know better why: a refusal, a lie. A refusal is the reason itself, and what
        // was asked behind it is refused because of it.
        let link = self.link.as_ref().filter(|_| is_lost(&failure));
        let better = link.and_then(|link| {
            let answers = std::iter::from_fn(|| link.answers.recv_timeout(Duration::from_millis(200)).ok());
            let why = |answered| match answered {
                Ok((_, Answer::Refused(Refusal { failure, .. }))) | Err(failure) => Some(failure),
                Ok(_) => None,
            };
            answers.filter_map(why).find(|other| !is_lost(other))
        });
        let failure = better.unwrap_or(failure);
        self.part();
        if is_lost(&failure) { self.rejoin_after(failure) } else { Err(failure) }
    }

    /// The end of the work: what is still on its way is waited for, unless the run was stopped. False if something did
    /// not arrive: it is sent again in the next run.
    fn end(&mut self) -> bool {
        let arrived = self.wait_for_archives().is_ok();
        self.part();
        arrived
    }

    /// Ends the connection and waits for its receiving half.
    fn part(&mut self) {
        if let Some(Link { sender, answers, receiver }) = self.link.take() {
            drop(answers);
            // A sink that has gone silent must not hold up the others.
            sender.stop();
            if self.enveloped == Enveloped::Sent {
                self.enveloped = Enveloped::No;
            }
            // A receiver that panicked has nothing more to say.
            let _ = receiver.join();
        }
    }

    fn rejoin(&mut self) -> Outcome<()> {
        let failure = self.gone();
        self.rejoin_after(failure)
    }

    /// Connects again, with growing waits; goes on with the same session. A sink that takes connections and ends them
    /// before it has acknowledged anything gets no more tries than one that is away.
    fn rejoin_after(&mut self, mut last: Failure) -> Outcome<()> {
        let longest = self.session.retry.max_wait.duration();
        let acknowledged = self.archives_sent.saturating_sub(self.flying.lock().len() as u64);
        if acknowledged > self.acknowledged {
            (self.acknowledged, self.tries) = (acknowledged, 0);
        }
        while self.tries < self.session.retry.attempts {
            let wait = Duration::from_secs(1 << self.tries.min(20)).min(longest);
            self.tries += 1;
            let begin = Instant::now();
            while begin.elapsed() < wait {
                self.session.stop.check()?;
                std::thread::sleep(Duration::from_millis(100).min(wait));
            }
            match self.remote.dial.dial().and_then(|client| self.settle_pending(client)).and_then(|()| self.resend()) {
                Ok(()) => return Ok(()),
                Err(failure) if failure.exit == Exit::Unreachable || failure.exit == Exit::Busy => {
                    self.part();
                    last = failure;
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(last)
    }

    /// Sends again what was not acknowledged.
    fn resend(&mut self) -> Outcome<()> {
        let all: Vec<Arc<Ready>> = self.flying.lock().iter().cloned().collect();
        if !all.is_empty() {
            self.send_envelope()?;
        }
        all.iter().try_for_each(|archive| self.send_archive(archive))
    }

    /// Waits until every archive is acknowledged.
    fn wait_for_archives(&mut self) -> Outcome<()> {
        while !self.flying.lock().is_empty() {
            self.session.stop.check()?;
            let Some(link) = &self.link else { return Err(self.gone()) };
            match link.answers.recv_timeout(Duration::from_millis(20)) {
                Ok(answered) => {
                    if let Some(answer) = self.take(answered?)? {
                        return Err(self.unexpected(answer));
                    }
                }
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => {
                    if let Some(link) = &mut self.link {
                        link.sender.keep_alive()?;
                    }
                }
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return Err(self.gone()),
            }
        }
        Ok(())
    }

    /// A record that is refused for want of room or by a cap, or of which an archive was, is no reason to end:
    /// `Ok(Err(_))`.
    fn substitute_until_done(&mut self, record: &Verified<Substitute>) -> Outcome<Outcome<()>> {
        loop {
            match self.substitute(record) {
                Err(failure) => self.lost(failure)?,
                Ok(done) => return Ok(done),
            }
        }
    }

    fn substitute(&mut self, record: &Verified<Substitute>) -> Outcome<Outcome<()>> {
        self.wait_for_archives()?;
        if let Some(failure) = &*self.no_room.lock() {
            return Ok(Err(again(failure)));
        }
        self.send(|sender| sender.substitute(record))?;
        // All before it is answered: a refusal is the record's own.
        match self.answer() {
            Ok(Answer::Stored { .. }) => Ok(Ok(())),
            Ok(other) => Err(self.unexpected(other)),
            Err(failure) if failure.exit == Exit::Full => Ok(Err(failure)),
            Err(failure) => Err(failure),
        }
    }
}

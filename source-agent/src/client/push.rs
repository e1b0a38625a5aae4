//! Pushing, pipelined: one half sends requests, the other reads their answers in order. Two threads may hold them.

use super::objects::check_receipt;
use super::refusal::{self, Refusal, ends_session};
use super::{Client, Reading, Writing, next_reply};
use crate::report::Outcome;
use crate::transport::Guard;
use crossbeam_channel::{Receiver, Sender};
use shared::format::archive::Region;
use shared::format::envelope::Envelope;
use shared::format::owner::Substitute;
use shared::format::receipt::Receipt;
use shared::format::snapshot::{Body, Head, Page};
use shared::id::{ArchiveId, ArchiveNumber, Digest, SessionId, VerifyKey};
use shared::limits::DATA_BYTES_MAX;
use shared::signature::{Plain, Verified};
use shared::wire::request::tag;
use shared::wire::{FrameError, Missing, Reply, write_frame};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A request that was sent, by the names of what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Envelope(SessionId),
    Archive { number: ArchiveNumber, id: ArchiveId },
    Page(Digest),
    Body(Digest),
    Head { sequence: u64, digest: Digest },
    Substitute(Digest),
    Ping,
}

/// Its answer, checked against it.
#[derive(Debug)]
pub enum Answer {
    /// Durable at the sink; `existed`: it was there before.
    Stored {
        existed: bool,
    },
    /// To a body. Empty: the body is durable and its refs are pinned.
    Missing(Missing),
    /// To a head: signed by the sink, for this head. Its place in the row of receipts is `watch`'s to check.
    Receipt(Verified<Receipt>),
    Pong,
    /// The session goes on or not: [`ends_session`].
    Refused(Refusal),
}

/// Sends requests. Dropping it tells the sink that no more come.
pub struct PushSender {
    remote: String,
    writer: Writing,
    guard: Guard,
    asked: Sender<Asked>,
    sent: Instant,
    /// A ping waits for its answer.
    pinged: Arc<AtomicBool>,
}

/// Reads answers in order.
pub struct PushReceiver {
    remote: String,
    reader: Reading,
    guard: Guard,
    asked: Receiver<Asked>,
    sink: VerifyKey,
    ended: bool,
    pinged: Arc<AtomicBool>,
}

/// A ping is due after so long without a request: sinks end idle sessions.
const PING_AFTER: Duration = Duration::from_secs(45);

pub(super) fn split(client: Client) -> (PushSender, PushReceiver) {
    let sink = *client.sink();
    let Client { remote, reader, writer, guard, broken, .. } = client;
    let (asking, asked) = crossbeam_channel::unbounded();
    let pinged = Arc::new(AtomicBool::new(false));
    let sender = PushSender {
        remote: remote.clone(),
        writer,
        guard: guard.clone(),
        asked: asking,
        sent: Instant::now(),
        pinged: Arc::clone(&pinged),
    };
    (sender, PushReceiver { remote, reader, guard, asked, sink, ended: broken, pinged })
}

impl PushSender {
    pub fn remote_name(&self) -> &str {
        &self.remote
    }

    pub fn envelope(&mut self, envelope: &Verified<Envelope>) -> Outcome<()> {
        let asked = Asked::Envelope(SessionId::new(*envelope.digest().as_bytes()));
        self.request(asked, tag::PUT_ENVELOPE, envelope.as_bytes())
    }

    /// Sends a region and its sealed parts; together they must be as long as the index says.
    pub fn archive<'a>(
        &mut self,
        number: ArchiveNumber,
        region: &Region,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> Outcome<()> {
        // Asked before it is sent whole: the sink may end the session in the middle and say why.
        self.ask(Asked::Archive { number, id: region.id() });
        let sent = write_frame(&mut self.writer, tag::PUT_ARCHIVE, region.as_bytes()).and_then(|()| {
            for piece in parts.into_iter().flat_map(|part| part.chunks(DATA_BYTES_MAX)) {
                write_frame(&mut self.writer, tag::DATA, piece)?;
            }
            Ok(self.writer.flush()?)
        });
        self.done(sent)
    }

    pub fn page(&mut self, page: &Plain<Page>) -> Outcome<()> {
        self.request(Asked::Page(page.digest()), tag::PUT_PAGE, page.as_bytes())
    }

    pub fn body(&mut self, body: &Plain<Body>) -> Outcome<()> {
        self.request(Asked::Body(body.digest()), tag::PUT_BODY, body.as_bytes())
    }

    /// A head that is durable here already (`watch::ChainState::begin`).
    pub fn head(&mut self, head: &Verified<Head>) -> Outcome<()> {
        let asked = Asked::Head { sequence: head.sequence, digest: head.digest() };
        self.request(asked, tag::PUT_HEAD, head.as_bytes())
    }

    pub fn substitute(&mut self, record: &Verified<Substitute>) -> Outcome<()> {
        self.request(Asked::Substitute(record.digest()), tag::PUT_SUBSTITUTE, record.as_bytes())
    }

    /// Sends a ping, unless one is still unanswered: bytes of ours must not make a silent sink look alive.
    pub fn ping(&mut self) -> Outcome<()> {
        if self.pinged.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.request(Asked::Ping, tag::PING, &[])
    }

    /// Pings if nothing was sent for a while; to be called now and then while there is nothing to push.
    pub fn keep_alive(&mut self) -> Outcome<()> {
        if self.sent.elapsed() < PING_AFTER { Ok(()) } else { self.ping() }
    }

    /// Ends the connection now, also for a receiver that waits for an answer.
    pub fn stop(self) {
        // What a failed request left in the buffer is not sent: the sink may take nothing any more.
        let (writer, _unsent) = self.writer.into_parts();
        drop(writer);
        self.guard.stop();
    }

    fn request(&mut self, asked: Asked, tag: u8, payload: &[u8]) -> Outcome<()> {
        self.ask(asked);
        let sent = write_frame(&mut self.writer, tag, payload).and_then(|()| Ok(self.writer.flush()?));
        self.done(sent)
    }

    fn ask(&mut self, asked: Asked) {
        // A receiver that is gone shows in the connection's end, not here.
        let _ = self.asked.send(asked);
    }

    fn done(&mut self, sent: Result<(), FrameError>) -> Outcome<()> {
        self.sent = Instant::now();
        sent.map_err(|e| self.guard.explain(&e.to_string()).remote(&self.remote))
    }
}

impl PushReceiver {
    pub fn remote_name(&self) -> &str {
        &self.remote
    }

    /// The answer to the oldest open request; waits for a request, and for its answer. `None` when the sender is gone
    /// and everything is answered.
    #[allow(clippy::should_implement_trait, reason = "an iterator would hide that a failure ends it")]
    pub fn next(&mut self) -> Outcome<Option<(Asked, Answer)>> {
        if self.ended {
            return Err(self.guard.explain("the sink ended the session").remote(&self.remote));
        }
        let Ok(asked) = self.asked.recv() else { return Ok(None) };
        let reply = next_reply(&mut self.reader, &self.guard, &self.remote);
        let answer = reply.and_then(|reply| self.fit(&asked, reply));
        match answer {
            Ok(answer) => {
                self.ended |= matches!(&answer, Answer::Refused(refusal) if ends_session(refusal.code));
                Ok(Some((asked, answer)))
            }
            Err(failure) => {
                self.ended = true;
                Err(failure)
            }
        }
    }

    fn fit(&self, asked: &Asked, reply: Reply) -> Outcome<Answer> {
        let digest = match asked {
            Asked::Envelope(id) => Some(Digest::new(*id.as_bytes())),
            Asked::Archive { id, .. } => Some(Digest::new(*id.as_bytes())),
            Asked::Page(digest) | Asked::Substitute(digest) => Some(*digest),
            Asked::Body(_) | Asked::Head { .. } | Asked::Ping => None,
        };
        match (asked, reply) {
            (_, Reply::Refused(refused)) => Ok(Answer::Refused(Refusal::new(&refused, &self.remote))),
            (_, Reply::Stored(stored)) if digest == Some(stored.digest) => {
                Ok(Answer::Stored { existed: stored.existed })
            }
            (_, Reply::Stored(_)) if digest.is_some() => {
                Err(refusal::lie("it stored something other than what was sent").remote(&self.remote))
            }
            (Asked::Body(digest), Reply::Missing(missing)) if missing.body == *digest => Ok(Answer::Missing(missing)),
            (Asked::Head { sequence, digest }, Reply::Receipt(bytes)) => {
                let receipt = check_receipt(&bytes, &self.sink, *sequence, digest);
                receipt.map(Answer::Receipt).map_err(|why| refusal::lie(why).remote(&self.remote))
            }
            (Asked::Ping, Reply::Pong) => {
                self.pinged.store(false, Ordering::Release);
                Ok(Answer::Pong)
            }
            (_, other) => Err(refusal::unexpected(&other).remote(&self.remote)),
        }
    }
}

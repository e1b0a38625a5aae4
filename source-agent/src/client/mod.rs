//! The client's side of a session (docs/protocol.md). Whatever the sink sends is hostile until its digest or signature
//! fits what was asked.

#[cfg(test)]
pub(crate) mod fake;
mod handshake;
mod lists;
mod measure;
mod objects;
mod parts;
mod push;
mod refusal;
#[cfg(test)]
mod tests;

pub use handshake::{Greeting, greet};
pub use lists::OBJECTS_MAX;
pub use measure::Speed;
pub use objects::OBJECTS_AHEAD_MAX;
pub use push::{Answer, Asked, PushReceiver, PushSender};
pub use refusal::{Refusal, ends_session};

use crate::config::{Loaded, Remote};
use crate::report::{Exit, Failure, Outcome};
use crate::transport::{self, Guard};
use shared::id::{ArchiveNumber, VerifyKey};
use shared::signature::Verified;
use shared::wire::request::Query;
use shared::wire::{Frame, FrameError, Reply, Role, Welcome, read_frame, write_frame};
use std::collections::VecDeque;
use std::io::{BufReader, BufWriter, Read, Write};

type Reading = BufReader<Box<dyn Read + Send>>;
type Writing = BufWriter<Box<dyn Write + Send>>;

/// Connects to a remote and greets its sink.
pub fn connect(loaded: &Loaded, remote: &Remote, greeting: Greeting) -> Outcome<Client> {
    let sink = remote.sink_key()?;
    let role = match greeting {
        Greeting::Push { .. } => Role::Push,
        Greeting::Other => Role::Read,
    };
    let with = |role| greet(transport::open(loaded, remote, role)?, &remote.name, &sink, greeting);
    match with(role) {
        // No key says here what this machine is enrolled as: it may be an auditor.
        Err(failure) if role == Role::Read && remote.path.is_some() && failure.code == "not-allowed" => {
            with(Role::Audit).map_err(|_| failure)
        }
        other => other,
    }
}

/// A session after the handshake: the sink has proved its key.
pub struct Client {
    remote: String,
    reader: Reading,
    writer: Writing,
    guard: Guard,
    welcome: Verified<Welcome>,
    /// Parts that were asked for and not yet taken.
    ahead: VecDeque<(ArchiveNumber, Vec<u32>)>,
    /// What else was asked for and not yet taken: regions with tables by their archive, single objects without.
    objects_ahead: VecDeque<Option<ArchiveNumber>>,
    /// Replies may be out of step: nothing more can be asked.
    broken: bool,
}

impl Client {
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }
    pub fn remote_name(&self) -> &str {
        &self.remote
    }
    /// The pinned key; the handshake proved it.
    pub fn sink(&self) -> &VerifyKey {
        &self.welcome.sink
    }

    /// Nothing more can be asked.
    pub fn is_over(&self) -> bool {
        self.broken
    }

    /// One round trip, to measure it or to keep the session alive.
    pub fn ping(&mut self) -> Outcome<()> {
        self.send(&Query::Ping.frame())?;
        self.pong()
    }

    fn pong(&mut self) -> Outcome<()> {
        match self.reply()? {
            Reply::Pong => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Splits the session into halves for two threads; role push.
    pub fn into_push(self) -> (PushSender, PushReceiver) {
        push::split(self)
    }

    fn ask(&mut self, query: &Query) -> Outcome<Reply> {
        self.send(&query.frame())?;
        self.reply()
    }

    fn send(&mut self, frame: &Frame) -> Outcome<()> {
        if self.broken || !self.ahead.is_empty() || !self.objects_ahead.is_empty() {
            let message = "this connection cannot be asked more: an earlier answer was not taken to its end";
            return Err(Failure::new("out-of-step", Exit::Failed, message).remote(&self.remote));
        }
        self.send_unchecked(frame)
    }

    fn send_unchecked(&mut self, frame: &Frame) -> Outcome<()> {
        let sent = write_frame(&mut self.writer, frame.tag, &frame.payload)
            .and_then(|()| self.writer.flush().map_err(FrameError::from));
        sent.map_err(|e| self.lost(&e))
    }

    /// The next reply; a refusal is a failure.
    fn reply(&mut self) -> Outcome<Reply> {
        match self.reply_or_refusal()? {
            Ok(reply) => Ok(reply),
            Err(refusal) => Err(refusal.failure),
        }
    }

    fn reply_or_refusal(&mut self) -> Outcome<Result<Reply, Refusal>> {
        match next_reply(&mut self.reader, &self.guard, &self.remote) {
            Ok(Reply::Refused(refused)) => {
                self.broken |= ends_session(refused.code);
                Ok(Err(Refusal::new(&refused, &self.remote)))
            }
            Ok(reply) => Ok(Ok(reply)),
            Err(failure) => {
                self.broken = true;
                Err(failure)
            }
        }
    }

    fn lost(&mut self, error: &FrameError) -> Failure {
        self.broken = true;
        self.guard.explain(&error.to_string()).remote(&self.remote)
    }

    fn unexpected(&mut self, reply: &Reply) -> Failure {
        self.broken = true;
        refusal::unexpected(reply).remote(&self.remote)
    }

    /// The sink answered something that does not fit what was asked.
    fn lie(&mut self, message: impl Into<String>) -> Failure {
        self.broken = true;
        refusal::lie(message).remote(&self.remote)
    }
}

/// Reads and parses one reply; the end of the connection is a failure with the transport's explanation.
fn next_reply(reader: &mut Reading, guard: &Guard, remote: &str) -> Outcome<Reply> {
    match read_frame(reader) {
        Ok(Some(frame)) => {
            Reply::parse(frame).map_err(|e| refusal::lie(format!("an answer that cannot be read: {e}")).remote(remote))
        }
        Ok(None) => Err(guard.explain("the sink closed it").remote(remote)),
        Err(FrameError::Io(e)) => Err(guard.explain(&e.to_string()).remote(remote)),
        Err(FrameError::Cut) => Err(guard.explain(&FrameError::Cut.to_string()).remote(remote)),
        Err(e) => Err(refusal::lie(e.to_string()).remote(remote)),
    }
}

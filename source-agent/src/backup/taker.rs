//! The receiving half of a remote: answers are taken in order, archives noted when they are acknowledged.

use super::assemble::Ready;
use crate::client::{Answer, Asked, PushReceiver, Refusal};
use crate::index::{ArchiveFacts, Index, SinkFacts};
use crate::progress::Progress;
use crate::report::{Exit, Failure, Outcome};
use crossbeam_channel::Sender;
use parking_lot::Mutex;
use shared::wire::RefusalCode;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Archives that were sent and not yet acknowledged, in their order.
pub type Flying = Arc<Mutex<VecDeque<Arc<Ready>>>>;

/// Why the sink has no room for archives that heal. It may have some for the backup all the same.
pub type NoRoom = Arc<Mutex<Option<Failure>>>;

/// The receiving half's thread: notes acknowledged archives, passes everything else on.
pub struct Taker {
    pub index: Arc<Index>,
    pub facts: SinkFacts,
    pub flying: Flying,
    pub no_room: NoRoom,
    pub progress: Progress,
    pub answers: Sender<Outcome<(Asked, Answer)>>,
}

impl Taker {
    pub fn run(self, mut receiver: PushReceiver) {
        loop {
            let taken = match receiver.next() {
                Ok(Some((Asked::Archive { id, .. }, answer))) => self.archive(id, answer, &receiver),
                Ok(Some(other)) => self.pass(Ok(other)),
                Ok(None) => return,
                Err(failure) => {
                    self.pass(Err(failure));
                    return;
                }
            };
            if !taken {
                return;
            }
        }
    }

    fn pass(&self, answer: Outcome<(Asked, Answer)>) -> bool {
        self.answers.send(answer).is_ok()
    }

    /// An archive was answered; false if the connection is of no more use.
    fn archive(&self, id: shared::id::ArchiveId, answer: Answer, receiver: &PushReceiver) -> bool {
        let front = self.flying.lock().front().cloned();
        let failure = match (answer, front) {
            (Answer::Stored { .. }, Some(archive)) if archive.id == id => match self.stored(&archive) {
                Ok(()) => {
                    self.flying.lock().pop_front();
                    self.progress.add(archive.bytes());
                    return true;
                }
                Err(failure) => failure,
            },
            // Nothing of the backup refers to it: the session goes on without it.
            (Answer::Refused(refusal), Some(archive))
                if archive.heals && archive.id == id && refusal.failure.exit == Exit::Full =>
            {
                // Before it stops flying: who waits for that looks here next.
                self.no_room.lock().get_or_insert(refusal.failure);
                self.flying.lock().pop_front();
                return true;
            }
            (Answer::Refused(refusal), _) => refused(refusal),
            _ => Failure::new("sink-lies", Exit::Tampered, "an answer for an archive that was not sent")
                .remote(receiver.remote_name()),
        };
        self.pass(Err(failure));
        false
    }

    fn stored(&self, archive: &Ready) -> Outcome<()> {
        let facts = ArchiveFacts {
            number: archive.number,
            id: archive.id,
            kind: archive.kind,
            session: archive.session,
            bytes: archive.bytes(),
            table: &archive.table,
            heals: archive.heals,
        };
        // Two sinks may be first at once: then both write the same rows.
        let first = !archive.recorded.load(Ordering::Acquire);
        self.index.acknowledge(&self.facts, &facts, first)?;
        archive.recorded.store(true, Ordering::Release);
        Ok(())
    }
}

fn refused(refusal: Refusal) -> Failure {
    match refusal.code {
        RefusalCode::Conflict => refusal
            .failure
            .detail("the sink holds another archive of this number: an older state of this machine pushed it"),
        _ => refusal.failure,
    }
}

//! Answers in the order of the requests, and the thread that makes objects durable before it acknowledges them: while
//! it syncs one archive the next one is received.

use crate::serve::committer::account::Account;
use crate::store::{Name, Placed, Store, StoreError, archive, read_whole};
use shared::id::{ArchiveId, Digest};
use shared::limits::FRAME_BYTES_MAX;
use shared::signature::SIGNATURE_BYTES;
use shared::wire::{RefusalCode, Refused, Reply, Stored, write_frame};
use std::io::{BufWriter, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Answers and publications that may wait.
const QUEUE: usize = 3;

/// What must already be under a name that exists.
pub enum Expect {
    Archive(ArchiveId),
    /// These bytes; a signed object may carry another valid signature.
    Bytes {
        bytes: Vec<u8>,
        signed: bool,
    },
}

/// An object that was received whole and checked.
pub struct Publication<S: Store> {
    pub name: Name,
    pub staged: S::Staged,
    pub bytes: u64,
    pub digest: Digest,
    pub expect: Expect,
    /// Charged to the pushing source?
    pub charged: bool,
    /// Where it goes.
    pub store: S,
}

enum Job<S: Store> {
    Reply(Reply),
    Publish(Box<Publication<S>>),
    /// Everything before this is done when the sender is dropped.
    Barrier(SyncSender<()>),
}

/// The outbox's thread has ended: a disk failed, or nobody reads answers any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// The session's side.
pub struct Outbox<S: Store> {
    jobs: SyncSender<Job<S>>,
    thread: JoinHandle<()>,
    shared: Arc<Shared>,
}

/// What session and thread both see.
#[derive(Debug, Default)]
pub struct Shared {
    pending: AtomicUsize,
    failed: AtomicBool,
    account: Mutex<Option<Account>>,
}

impl Shared {
    /// Is anything on its way to the disk or the client?
    pub fn is_working(&self) -> bool {
        self.pending.load(Ordering::Acquire) > 0
    }
    fn lock(&self) -> MutexGuard<'_, Option<Account>> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn set_account(&self, account: Account) {
        *self.lock() = Some(account);
    }
    /// Does something with the account; a session that does not push has none.
    pub fn account<T: Default>(&self, work: impl FnOnce(&mut Account) -> T) -> T {
        self.lock().as_mut().map(work).unwrap_or_default()
    }
}

impl<S: Store> Outbox<S> {
    pub fn start(channel: UnixStream) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let worker = Worker { out: Some(BufWriter::new(channel)), shared: Arc::clone(&shared) };
        let thread = std::thread::Builder::new().name("publish".into()).spawn(move || worker.run(&inbox))?;
        Ok(Self { jobs, thread, shared })
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn send(&self, job: Job<S>) -> Result<(), Closed> {
        if self.shared.failed.load(Ordering::Acquire) {
            return Err(Closed);
        }
        self.shared.pending.fetch_add(1, Ordering::AcqRel);
        self.jobs.send(job).map_err(|_| Closed)
    }

    pub fn reply(&self, reply: Reply) -> Result<(), Closed> {
        self.send(Job::Reply(reply))
    }

    pub fn publish(&self, publication: Publication<S>) -> Result<(), Closed> {
        self.send(Job::Publish(Box::new(publication)))
    }

    /// Waits until everything so far is durable and answered.
    pub fn barrier(&self) -> Result<(), Closed> {
        let (done, wait) = sync_channel(1);
        self.send(Job::Barrier(done))?;
        wait.recv().map_err(|_| Closed)
    }

    /// Does what is left, and ends.
    pub fn finish(self) {
        drop(self.jobs);
        // A panic of the thread has already ended what it could do.
        let _ = self.thread.join();
    }
}

struct Worker {
    out: Option<BufWriter<UnixStream>>,
    shared: Arc<Shared>,
}

impl Worker {
    fn run<S: Store>(mut self, inbox: &Receiver<Job<S>>) {
        loop {
            let job = match inbox.try_recv() {
                Ok(job) => job,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    self.flush();
                    let Ok(job) = inbox.recv() else { break };
                    job
                }
            };
            match job {
                // Nothing may follow an answer that was not given.
                Job::Publish(_) if self.shared.failed.load(Ordering::Acquire) => {}
                Job::Publish(publication) => {
                    self.flush();
                    let reply = self.publish(*publication);
                    self.write(&reply);
                }
                Job::Reply(reply) => self.write(&reply),
                Job::Barrier(done) => {
                    self.flush();
                    let _ = done.send(());
                }
            }
            self.shared.pending.fetch_sub(1, Ordering::AcqRel);
        }
        self.flush();
    }

    fn flush(&mut self) {
        if self.out.as_mut().is_some_and(|out| out.flush().is_err()) {
            // The client is gone. What it sent is made durable all the same.
            self.out = None;
        }
    }

    fn write(&mut self, reply: &Reply) {
        let frame = reply.frame();
        debug_assert!(frame.payload.len() < FRAME_BYTES_MAX);
        if self.out.as_mut().is_some_and(|out| write_frame(out, frame.tag, &frame.payload).is_err()) {
            self.out = None;
        }
    }

    fn publish<S: Store>(&self, publication: Publication<S>) -> Reply {
        let Publication { name, staged, bytes, digest, expect, charged, store } = publication;
        let archive = match &expect {
            Expect::Archive(id) => Some(*id),
            Expect::Bytes { .. } => None,
        };
        let placed = store.put_new(&name, staged);
        if charged {
            self.shared.account(|account| match &placed {
                Ok(Placed::New) => account.placed(&name, archive, bytes),
                _ => account.release(bytes),
            });
        }
        match placed {
            Ok(Placed::New) => Reply::Stored(Stored { digest, existed: false }),
            Ok(Placed::Existed) => match existing(&store, &name, &expect) {
                Ok(()) => Reply::Stored(Stored { digest, existed: true }),
                Err(refused) => Reply::Refused(refused),
            },
            Err(error) => {
                let refused = store_refusal(&error);
                if refused.code == RefusalCode::Internal {
                    self.shared.failed.store(true, Ordering::Release);
                }
                Reply::Refused(refused)
            }
        }
    }
}

/// What the client hears of a failure of the store.
pub fn store_refusal(error: &StoreError) -> Refused {
    if error.is_full() {
        return Refused::new(RefusalCode::Full, "the sink's disk is full");
    }
    Refused::new(RefusalCode::Internal, format!("the sink failed: {error}"))
}

/// Is what a name holds what was sent? Says how not.
pub fn existing<S: Store>(store: &S, name: &Name, expect: &Expect) -> Result<(), Refused> {
    let damaged = || Refused::new(RefusalCode::Damaged, "what the sink holds under this name is damaged");
    match expect {
        Expect::Archive(id) => match archive::open(store, name) {
            Ok(Some(opened)) if opened.layout.region.id() == *id => Ok(()),
            Ok(Some(_)) => Err(Refused::new(RefusalCode::Conflict, "another archive has this number")),
            Ok(None) => Err(damaged()),
            Err(archive::ArchiveError::Store(e)) if !e.is_damage() => Err(store_refusal(&e)),
            Err(_) => Err(damaged()),
        },
        Expect::Bytes { bytes, signed } => {
            let compared = if *signed { bytes.len().saturating_sub(SIGNATURE_BYTES) } else { bytes.len() };
            match read_whole(store, name, bytes.len()) {
                Ok(Some(held)) if held.len() == bytes.len() && held[..compared] == bytes[..compared] => Ok(()),
                Err(e) if !e.is_damage() => Err(store_refusal(&e)),
                _ => Err(damaged()),
            }
        }
    }
}

//! One pushing session per source, without a file that could stay behind (docs/protocol.md, section "Sessions").
//!
//! Three flocks, all gone with the process that holds them:
//! - `lock`, exclusive: the session that pushes;
//! - `records`, exclusive: held by that session while its client says something, let go when the client is silent;
//! - `staging`, shared: held by a session that waits for a silent one to end.
//!
//! So a second session knows at once whether it meets a busy one (it is refused) or a silent one (it waits a moment),
//! and a silent session sees that another waits, and ends.
//!
//! And one flock for each session of a key, whatever its role, on one of the first directories of its own `archives`:
//! sshd itself counts no sessions per key. No command of the operator locks those. It is taken before the session is
//! confined; after that only who pushes may lock anything (`confine`): who reads reaches these directories of others.

use crate::store::directory::Root;
use crate::store::layout::{shelf_dir, source_room};
use crate::store::{Shelf, StoreError};
use rustix::fs::{FlockOperation, flock};
use shared::id::SourceName;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a session waits for a silent one to end.
const WAIT: Duration = Duration::from_secs(10);
/// How long a session tries to get past one that still speaks: it may just be ending.
const GRACE: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(100);

/// The three descriptors, opened before anything is read from the client.
#[derive(Debug)]
pub struct Locks {
    pushing: OwnedFd,
    speaking: OwnedFd,
    waiting: Arc<OwnedFd>,
    /// Start of the session that held the source when this one began: a confined session sees no other process.
    held_since: Option<i64>,
}

/// The source is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Busy {
    /// Start of the session that holds it, seconds since 1970, where the system tells.
    pub since: Option<i64>,
}

/// Sessions of one key at a time.
pub const SLOTS: u8 = 8;

/// A key's place for one session; another may have it when this is dropped or the process ends.
#[derive(Debug)]
pub struct Slot {
    _held: OwnedFd,
}

impl Slot {
    /// Takes a free place; `None` if there is none.
    pub fn take(root: &Root, name: &SourceName) -> Result<Option<Self>, StoreError> {
        let shelf = shelf_dir(&source_room(name), Shelf::Archives);
        for slot in 0..SLOTS {
            let dir = root.open_dir(&format!("{shelf}/{slot:02x}"))?;
            if try_flock(&dir, FlockOperation::NonBlockingLockExclusive) {
                return Ok(Some(Self { _held: dir }));
            }
        }
        Ok(None)
    }
}

fn try_flock(fd: &OwnedFd, operation: FlockOperation) -> bool {
    flock(fd, operation).is_ok()
}

impl Locks {
    /// `staging` is the directory descriptor that the session stages in.
    pub fn open(root: &Root, name: &SourceName, staging: &Arc<OwnedFd>) -> Result<Self, StoreError> {
        let room = source_room(name);
        let path = format!("{room}/lock");
        let missing = || StoreError { action: "open", path: path.clone(), error: std::io::ErrorKind::NotFound.into() };
        let pushing: OwnedFd = root.open_file(&path)?.ok_or_else(missing)?.into();
        Ok(Self {
            held_since: holder_since(&pushing),
            pushing,
            speaking: root.open_dir(&format!("{room}/records"))?,
            waiting: Arc::clone(staging),
        })
    }

    /// Takes the source, waiting a moment for a silent or ending session.
    pub fn acquire(self) -> Result<Held, Busy> {
        let started = Instant::now();
        loop {
            if try_flock(&self.pushing, FlockOperation::NonBlockingLockExclusive) {
                try_flock(&self.waiting, FlockOperation::Unlock);
                let mut held = Held { locks: self, speaking: false };
                held.speaks();
                return Ok(held);
            }
            let silent = try_flock(&self.speaking, FlockOperation::NonBlockingLockShared);
            if silent {
                try_flock(&self.speaking, FlockOperation::Unlock);
                try_flock(&self.waiting, FlockOperation::NonBlockingLockShared);
            }
            let patience = if silent { WAIT } else { GRACE };
            if started.elapsed() > patience {
                return Err(Busy { since: self.held_since });
            }
            std::thread::sleep(RETRY);
        }
    }
}

/// The source is ours until this is dropped or the process ends.
#[derive(Debug)]
pub struct Held {
    locks: Locks,
    speaking: bool,
}

impl Held {
    /// The client said something.
    pub fn speaks(&mut self) {
        if !self.speaking {
            // A session that asks at this very moment holds it for an instant; the next message tries again.
            self.speaking = try_flock(&self.locks.speaking, FlockOperation::NonBlockingLockExclusive);
        }
    }

    /// The client is silent, or gone: another session may have the source.
    pub fn falls_silent(&mut self) {
        if self.speaking {
            try_flock(&self.locks.speaking, FlockOperation::Unlock);
            self.speaking = false;
        }
    }

    /// Does another session wait for this source?
    pub fn is_awaited(&self) -> bool {
        if !try_flock(&self.locks.waiting, FlockOperation::NonBlockingLockExclusive) {
            return true;
        }
        try_flock(&self.locks.waiting, FlockOperation::Unlock);
        false
    }
}

/// When the process that holds this flock was started, from /proc; for messages alone.
fn holder_since(lock: &OwnedFd) -> Option<i64> {
    let inode = rustix::fs::fstat(lock).ok()?.st_ino;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let holder = locks.lines().find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let here = fields.get(1) == Some(&"FLOCK") && fields.get(5)?.rsplit(':').next()?.parse() == Ok(inode);
        if here { fields.get(4)?.parse::<u32>().ok() } else { None }
    })?;
    let stat = std::fs::read_to_string(format!("/proc/{holder}/stat")).ok()?;
    // Field 22, counted behind the program's name, which may hold blanks: start in ticks of 1/100 s since boot.
    let ticks: i64 = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let system = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: i64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + ticks / 100)
}

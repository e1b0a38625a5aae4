//! Files with several names in one run: the first one is read, the others take its content.

use super::meta;
use super::walk::ReadJob;
use crate::index::record::StatKey;
use crate::index::uses::Uses;
use crate::tree::Entry;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Files that are remembered; beyond it each name is read, which only takes time.
const REMEMBERED_MAX: usize = 100_000;
/// Names that wait for a first one, each with an open directory; beyond it a name is read at once.
const WAITING_MAX: usize = 1024;

/// What the other names of a file take over.
pub type Known = Arc<(Entry, StatKey, bool, Uses)>;

enum State {
    Reading(Vec<ReadJob>),
    Read(Known),
}

struct Link {
    /// Of the first name. An inode number may be used again within the run: another key may be another file.
    key: StatKey,
    state: State,
    /// Names of it not seen yet.
    left: u64,
}

/// What to do with a name of a file that has several.
pub enum Turn {
    /// It is the first one: it is read, and [`Links::done`] hears of it.
    First(ReadJob),
    /// It is read for itself.
    Alone(ReadJob),
    Take(ReadJob, Known),
    Waits,
}

#[derive(Default)]
struct All {
    links: HashMap<(u64, u64), Link>,
    waiting: usize,
}

/// Files with several names, by device and inode.
#[derive(Default)]
pub struct Links {
    all: Mutex<All>,
}

fn file(job: &ReadJob) -> (u64, u64) {
    (job.stat.st_dev, job.stat.st_ino)
}

impl Links {
    pub fn turn(&self, job: ReadJob) -> Turn {
        let (file, key) = (file(&job), meta::stat_key(&job.stat));
        let All { links, waiting } = &mut *self.all.lock();
        let full = links.len() >= REMEMBERED_MAX;
        let Some(link) = links.get_mut(&file) else {
            if full {
                return Turn::Alone(job);
            }
            let left = meta::names(&job.stat).saturating_sub(1);
            links.insert(file, Link { key, state: State::Reading(Vec::new()), left });
            return Turn::First(job);
        };
        link.left = link.left.saturating_sub(1);
        let same = link.key == key;
        let known = match &mut link.state {
            State::Reading(names) if same && *waiting < WAITING_MAX => {
                *waiting += 1;
                names.push(job);
                return Turn::Waits;
            }
            State::Reading(_) => return Turn::Alone(job),
            State::Read(known) => Arc::clone(known),
        };
        if link.left == 0 {
            links.remove(&file);
        }
        if same { Turn::Take(job, known) } else { Turn::Alone(job) }
    }

    /// The first name is done; returns those that wait. Without content for them the file is forgotten: the next of its
    /// names is the first one again.
    pub fn done(&self, first: &ReadJob, known: Option<&Known>) -> Vec<ReadJob> {
        let file = file(first);
        let All { links, waiting } = &mut *self.all.lock();
        let Some(mut link) = links.remove(&file) else { return Vec::new() };
        let names = match &mut link.state {
            State::Reading(names) => std::mem::take(names),
            State::Read(_) => Vec::new(),
        };
        *waiting -= names.len();
        if let Some(known) = known
            && link.left > 0
        {
            links.insert(file, Link { state: State::Read(Arc::clone(known)), ..link });
        }
        names
    }
}

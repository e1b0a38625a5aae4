//! Files with several names in one run: the first one is read, the others take its content.

use super::tree::Dir;
use crate::index::record::StatKey;
use crate::index::uses::Uses;
use crate::tree::Entry;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Files that are remembered; beyond it each name is read, which only takes time.
const REMEMBERED_MAX: usize = 100_000;

/// What the other names of a file take over; `None`: it could not be read.
pub type Known = Option<Arc<(Entry, StatKey, bool, Uses)>>;

/// A name that waits for the first one to be read.
pub struct Waiting {
    pub dir: Arc<Dir>,
    pub slot: usize,
    pub name: Vec<u8>,
}

enum State {
    Reading(Vec<Waiting>),
    Read(Known),
}

struct Link {
    state: State,
    /// Names of it not seen yet.
    left: u64,
}

/// What to do with a name of a file that has several.
pub enum Turn {
    /// It is the first one.
    Read,
    Take(Known),
    Waits,
}

/// Files with several names, by device and inode.
#[derive(Default)]
pub struct Links {
    links: Mutex<HashMap<(u64, u64), Link>>,
}

impl Links {
    pub fn turn(&self, file: (u64, u64), names: u64, waiting: impl FnOnce() -> Waiting) -> Turn {
        let mut links = self.links.lock();
        let full = links.len() >= REMEMBERED_MAX;
        let Some(link) = links.get_mut(&file) else {
            if !full {
                links.insert(file, Link { state: State::Reading(Vec::new()), left: names.saturating_sub(1) });
            }
            return Turn::Read;
        };
        link.left = link.left.saturating_sub(1);
        match &mut link.state {
            State::Reading(all) => {
                all.push(waiting());
                Turn::Waits
            }
            State::Read(known) => {
                let known = known.clone();
                if link.left == 0 {
                    links.remove(&file);
                }
                Turn::Take(known)
            }
        }
    }

    /// The first name is read; returns those that wait.
    pub fn read(&self, file: (u64, u64), known: Known) -> Vec<Waiting> {
        let mut links = self.links.lock();
        let Some(link) = links.get_mut(&file) else { return Vec::new() };
        let waiting = match std::mem::replace(&mut link.state, State::Read(known)) {
            State::Reading(waiting) => waiting,
            State::Read(_) => Vec::new(),
        };
        if link.left == 0 {
            links.remove(&file);
        }
        waiting
    }
}

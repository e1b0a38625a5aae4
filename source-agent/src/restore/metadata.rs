//! Owner, mode, extended attributes and times, set through open files. What cannot be set is counted, never silent.

use crate::tree::{Entry, Owner, Time};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// How owners are restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OwnerMode {
    /// By name where the name exists here, else by number; skipped when not root.
    Auto,
    /// By number.
    Id,
    /// By name; where the name does not exist here, skipped.
    Name,
    /// Not at all.
    Skip,
}

/// Bits that give away rights: set only where the owner was set.
const SET_ID_BITS: u32 = 0o6000;
/// Attributes that give away rights in the same way.
const CAPABILITY: &[u8] = b"security.capability";
/// Names of users or groups that are looked up by the system's own program.
const LOOKUPS_MAX: usize = 256;

/// What was not set, for one summary line each.
#[derive(Debug, Default, Clone)]
pub struct Notes {
    pub owners_skipped: u64,
    pub set_id_dropped: u64,
    pub failed: BTreeMap<String, (u64, String)>,
}

/// What a file has for certain, so that it need not be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Has {
    pub owner: (Uid, Gid),
    pub mode: Option<u32>,
}

/// Sets metadata as the command line asks.
pub struct Setter {
    owner: OwnerMode,
    xattrs: bool,
    root: bool,
    users: Mutex<NameTable>,
    groups: Mutex<NameTable>,
    notes: Mutex<Notes>,
}

/// Numbers of names of this machine.
struct NameTable {
    database: &'static str,
    known: HashMap<String, Option<u32>>,
    lookups: usize,
}

impl NameTable {
    fn new(file: &str, database: &'static str) -> Self {
        let text = std::fs::read(file).unwrap_or_default();
        let line = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            Some((name, Some(fields.nth(1)?.parse().ok()?)))
        };
        let known = String::from_utf8_lossy(&text).lines().filter_map(line).collect();
        Self { database, known, lookups: 0 }
    }

    fn find(&mut self, name: &str) -> Option<u32> {
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        self.lookups += 1;
        if self.lookups > LOOKUPS_MAX {
            return None;
        }
        let found = ask(self.database, name);
        self.known.insert(name.to_owned(), found);
        found
    }
}

/// Asks the system's name service, for names that come from a directory server.
fn ask(database: &str, name: &str) -> Option<u32> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@' | b'\\' | b'+' | b'$');
    if name.starts_with('-') || name.bytes().all(|b| b.is_ascii_digit()) || !name.bytes().all(plain) {
        return None;
    }
    let output = std::process::Command::new("getent").args([database, name]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut fields = text.lines().next()?.split(':');
    if fields.next()? != name {
        return None;
    }
    fields.nth(1)?.parse().ok()
}

fn number(table: &Mutex<NameTable>, owner: &Owner, mode: OwnerMode) -> Option<u32> {
    let by_name = || owner.name.as_ref().and_then(|name| table.lock().find(name));
    let number = match mode {
        OwnerMode::Skip => None,
        OwnerMode::Id => Some(owner.id),
        OwnerMode::Name => by_name(),
        OwnerMode::Auto => by_name().or(Some(owner.id)),
    };
    // The highest number means "leave as it is" to the kernel.
    number.filter(|number| *number != u32::MAX)
}

/// Only the time of the last change of content; the time of access stays as it is.
pub fn times(modified: &Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: modified.seconds,
            tv_nsec: i64::from(modified.nanoseconds.min(999_999_999)),
        },
    }
}

impl Setter {
    pub fn new(owner: OwnerMode, xattrs: bool) -> Self {
        Self {
            owner,
            xattrs,
            root: rustix::process::geteuid().is_root(),
            users: Mutex::new(NameTable::new("/etc/passwd", "passwd")),
            groups: Mutex::new(NameTable::new("/etc/group", "group")),
            notes: Mutex::new(Notes::default()),
        }
    }

    pub fn is_root(&self) -> bool {
        self.root
    }
    pub fn notes(&self) -> Notes {
        self.notes.lock().clone()
    }

    /// Counts something that could not be set.
    pub fn failed(&self, what: &str, error: &io::Error) {
        let mut notes = self.notes.lock();
        // Few kinds exist; names of attributes are reduced to their name space before they come here.
        let entry = notes.failed.entry(what.to_owned()).or_insert_with(|| (0, error.to_string()));
        entry.0 += 1;
    }

    /// The owner to set; `None` if it is skipped.
    fn owner_of(&self, entry: &Entry) -> Option<(Uid, Gid)> {
        if self.owner == OwnerMode::Skip {
            return None;
        }
        if !self.root {
            self.notes.lock().owners_skipped += 1;
            return None;
        }
        let found = number(&self.users, &entry.user, self.owner).zip(number(&self.groups, &entry.group, self.owner));
        if found.is_none() {
            self.notes.lock().owners_skipped += 1;
        }
        found.map(|(user, group)| (Uid::from_raw(user), Gid::from_raw(group)))
    }

    /// Mode bits to set: without an owner that was set, no bit that lends rights.
    fn mode_of(&self, entry: &Entry, owner_set: bool) -> u32 {
        if owner_set || entry.mode & SET_ID_BITS == 0 {
            return entry.mode;
        }
        self.notes.lock().set_id_dropped += 1;
        entry.mode & !SET_ID_BITS
    }

    /// A regular file or a directory, open: owner, attributes, mode, times; in this order, since each takes back some
    /// of what comes later.
    pub fn file(&self, file: BorrowedFd<'_>, entry: &Entry, has: Option<Has>) {
        let owner_set = match self.owner_of(entry) {
            None => false,
            owner if owner == has.map(|has| has.owner) => true,
            Some((user, group)) => match rustix::fs::fchown(file, Some(user), Some(group)) {
                Ok(()) => true,
                Err(e) => {
                    self.failed("owner", &e.into());
                    false
                }
            },
        };
        self.xattrs(entry, owner_set, |name, value| rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()));
        let mode = self.mode_of(entry, owner_set);
        // An access list among the attributes changes the mode.
        let has_mode = entry.xattrs.is_none() && has.is_some_and(|has| has.mode == Some(mode));
        if !has_mode && let Err(e) = rustix::fs::fchmod(file, Mode::from_raw_mode(mode)) {
            self.failed("mode", &e.into());
        }
        if let Err(e) = rustix::fs::futimens(file, &times(&entry.modified)) {
            self.failed("time", &e.into());
        }
    }

    /// A symbolic link, fifo or device: `node` is opened with O_PATH and O_NOFOLLOW, so that what is set is set on it and
    /// nothing that a link names.
    pub fn special(&self, node: &File, entry: &Entry, link: bool, has: Option<Has>) {
        let owner_set = match self.owner_of(entry) {
            None => false,
            owner if owner == has.map(|has| has.owner) => true,
            Some((user, group)) => {
                match rustix::fs::chownat(node.as_fd(), c"", Some(user), Some(group), AtFlags::EMPTY_PATH) {
                    Ok(()) => true,
                    Err(e) => {
                        self.failed("owner", &e.into());
                        false
                    }
                }
            }
        };
        // The kernel takes a path to an O_PATH file for what it stands for, a link included.
        let path = format!("/proc/self/fd/{}", node.as_raw_fd());
        self.xattrs(entry, owner_set, |name, value| {
            rustix::fs::setxattr(path.as_str(), name, value, XattrFlags::empty())
        });
        if !link {
            let mode = Mode::from_raw_mode(self.mode_of(entry, owner_set));
            if let Err(e) = rustix::fs::chmodat(rustix::fs::CWD, path.as_str(), mode, AtFlags::empty()) {
                self.failed("mode", &e.into());
            }
        }
        if let Err(e) = rustix::fs::utimensat(node.as_fd(), c"", &times(&entry.modified), AtFlags::EMPTY_PATH) {
            self.failed("time", &e.into());
        }
    }

    fn xattrs(&self, entry: &Entry, owner_set: bool, set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>) {
        let Some(xattrs) = entry.xattrs.as_ref().filter(|_| self.xattrs) else { return };
        for xattr in xattrs.iter() {
            let space = name_space(&xattr.name);
            if &xattr.name[..] == CAPABILITY && !owner_set {
                self.notes.lock().set_id_dropped += 1;
            } else if xattr.name.contains(&0) {
                self.failed(&space, &io::Error::from(io::ErrorKind::InvalidInput));
            } else if let Err(e) = set(&xattr.name, &xattr.value) {
                self.failed(&space, &e.into());
            }
        }
    }
}

/// `user.*`, `security.*`, …: what is counted of an attribute's name.
fn name_space(name: &[u8]) -> String {
    let space = name.split(|byte| *byte == b'.').next().unwrap_or_default();
    match space {
        b"user" | b"security" | b"system" | b"trusted" => format!("{}.* attributes", String::from_utf8_lossy(space)),
        _ => "other attributes".into(),
    }
}

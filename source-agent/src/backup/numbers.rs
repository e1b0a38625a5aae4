//! Archive numbers: unique within source and lineage over all remotes, also after a crash.
//!
//! A number is used only after a higher bound was made durable in the state directory. So a remote that was away while
//! others took numbers never sees one of them again with other content.

use crate::report::{Exit, Failure, Outcome};
use shared::id::ArchiveNumber;
use shared::sys::durable;
use std::path::{Path, PathBuf};

/// No remote is believed to be further ahead of all that is known here: a lie near the highest number would leave none
/// for any remote.
pub const LEAP_MAX: u64 = 1 << 24;
/// Numbers that one durable write reserves.
const STEP: u64 = 32;

/// Hands out numbers.
pub struct Numbers {
    path: PathBuf,
    next: u64,
    reserved: u64,
}

impl Numbers {
    /// Goes on where the file says, or at `floor` if that is higher (what the remotes and the index know).
    pub fn open(state_dir: &Path, floor: u64) -> Outcome<Self> {
        let path = state_dir.join("next-archive");
        let remembered = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse::<u64>().map_err(|_| {
                let message = format!("{} does not hold a number", path.display());
                Failure::new("state", Exit::Failed, message)
                    .help("remove the file: the next number then comes from all remotes, which must be reachable")
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Err(e) => return Err(Failure::io("read", &path, &e)),
        };
        let next = remembered.max(floor);
        Ok(Self { path, next, reserved: next })
    }

    /// Goes on at `floor` if that is higher.
    pub fn raise(&mut self, floor: u64) {
        if floor > self.next {
            (self.next, self.reserved) = (floor, floor);
        }
    }

    /// Goes back to `next`, if no number from there on has left this machine.
    pub fn set_back(&mut self, next: u64) {
        self.next = self.next.min(next);
    }

    /// A number above all that were taken.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The next number, durable before it is used.
    pub fn take(&mut self) -> Outcome<ArchiveNumber> {
        if self.next >= self.reserved {
            self.write(self.next + STEP)?;
            self.reserved = self.next + STEP;
        }
        let number = ArchiveNumber::new(self.next)
            .map_err(|e| Failure::new("numbers", Exit::Failed, format!("no archive number is left: {e}")))?;
        self.next += 1;
        Ok(number)
    }

    /// Gives unused numbers back at the end of a run, so that pages stay dense.
    pub fn close(&mut self) -> Outcome<()> {
        if self.reserved != self.next {
            self.write(self.next)?;
            self.reserved = self.next;
        }
        Ok(())
    }

    fn write(&self, bound: u64) -> Outcome<()> {
        durable::replace(&self.path, format!("{bound}\n").as_bytes(), durable::PRIVATE)
            .map_err(|e| Failure::io("write", &self.path, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_comes_twice_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let mut seen = std::collections::HashSet::new();
        for crash in 0..5 {
            let mut numbers = Numbers::open(dir.path(), 3).unwrap();
            for _ in 0..40 {
                assert!(seen.insert(numbers.take().unwrap().get()));
            }
            if crash % 2 == 0 {
                numbers.close().unwrap();
            }
        }
        assert!(seen.iter().all(|number| *number >= 3));
        assert_eq!(Numbers::open(dir.path(), 9000).unwrap().take().unwrap().get(), 9000);
        let mut numbers = Numbers::open(dir.path(), 0).unwrap();
        let next = numbers.next();
        numbers.raise(next - 1);
        assert_eq!(numbers.take().unwrap().get(), next);
        numbers.raise(10_000);
        assert_eq!(numbers.take().unwrap().get(), 10_000);
        assert!(Numbers::open(dir.path(), 0).unwrap().next() > 10_000, "it was made durable");
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("next-archive"), "x").unwrap();
        assert!(Numbers::open(dir.path(), 0).is_err());
    }
}

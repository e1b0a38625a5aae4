//! What one sink says it lacks at commits: is another pass worth it, or is the sink damaged, or does it lie?
//!
//! Whatever a sink answers, the passes that it can cause are bounded: each number counts once, none of this run counts,
//! and only answers that are as long as the protocol allows may follow one another without end.

use shared::limits::LIST_ITEMS_MAX;
use std::collections::HashSet;

/// Shorter answers about one snapshot. One is enough for an honest sink; a pass may come to refer to other archives.
const ANSWERS_MAX: u32 = 3;

/// The memory of one session with a sink.
pub struct Lacking {
    /// The first archive number of this run.
    first: u64,
    named: HashSet<u64>,
    answers: u32,
}

impl Lacking {
    pub fn new(first: u64) -> Self {
        Self { first, named: HashSet::new(), answers: 0 }
    }

    /// Takes an answer; the error says why no further pass is made for it.
    pub fn take(&mut self, archives: &[u64]) -> Result<(), &'static str> {
        if archives.iter().any(|number| *number >= self.first) {
            return Err("the sink lacks archives that it acknowledged in this very run");
        }
        let mut new = true;
        for number in archives {
            new &= self.named.insert(*number);
        }
        if !new {
            return Err("the sink names archives as lacking to which nothing refers since it named them first");
        }
        if archives.len() < LIST_ITEMS_MAX {
            self.answers += 1;
        }
        if self.answers > ANSWERS_MAX {
            return Err("the sink names ever more archives that it lacks");
        }
        Ok(())
    }

    /// A snapshot was committed: the next one begins anew.
    pub fn committed(&mut self) {
        self.answers = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_counts_once_and_none_of_this_run() {
        let mut lacking = Lacking::new(100);
        assert!(lacking.take(&[1, 2]).is_ok());
        assert!(lacking.take(&[3, 2]).is_err());
        assert!(Lacking::new(100).take(&[99, 100]).is_err());
        assert!(Lacking::new(100).take(&[99, 99]).is_err());
    }

    #[test]
    fn long_answers_may_follow_one_another_and_short_ones_end() {
        let most = LIST_ITEMS_MAX as u64;
        let mut lacking = Lacking::new(1 << 40);
        for answer in 0..20 {
            assert!(lacking.take(&(answer * most..(answer + 1) * most).collect::<Vec<_>>()).is_ok());
        }
        let mut number = 20 * most;
        for _ in 0..2 {
            for _ in 0..ANSWERS_MAX {
                assert!(lacking.take(&[number]).is_ok());
                number += 1;
            }
            lacking.committed();
        }
        for _ in 0..ANSWERS_MAX {
            assert!(lacking.take(&[number]).is_ok());
            number += 1;
        }
        assert!(lacking.take(&[number]).is_err());
    }
}

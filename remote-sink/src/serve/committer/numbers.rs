//! How far an archive's number may lie above those that are here (docs/protocol.md, section "Pushing").
//!
//! A source believes no sink whose next number is 2^24 or more above all that it knows: one archive of a huge number,
//! pushed by who stole its key, would lock it out of its own sink. So numbers rise by less at a time. Gaps are honest
//! all the same: a source numbers its archives for all of its remotes, and this one may have been away. The longer
//! nothing came, the larger a gap may be; so what a thief skipped at one remote keeps the source from another one for
//! some time, and not for ever.

use crate::serve::committer::Session;
use crate::serve::committer::outbox::store_refusal;
use crate::store::{Name, Store, Stored};
use shared::id::{ArchiveNumber, Lineage};
use shared::wire::{RefusalCode, Refused};

/// Always allowed: 64 TiB of full archives.
const LEAP: u64 = 1 << 21;
/// More for each day since the newest archive came.
const LEAP_A_DAY: u64 = 1 << 20;
/// Never more than this; also what the first archive of a lineage may begin with: half of what a source believes.
const LEAP_MAX: u64 = 1 << 23;
const DAY: u64 = 86_400;

/// Numbers that archives of a session may have.
#[derive(Debug)]
pub struct Numbers {
    /// One above the highest that was here when the session began: leaps within it do not add up.
    start: u64,
    /// New archives of this session.
    taken: u64,
    leap: Option<u64>,
}

impl Numbers {
    pub const fn new(start: u64) -> Self {
        Self { start, taken: 0, leap: None }
    }

    /// A new archive was admitted.
    pub const fn note(&mut self) {
        self.taken += 1;
    }

    /// Is this number within reach?
    pub fn admit<S: Store>(
        &mut self,
        session: &Session<S>,
        lineage: &Lineage,
        number: ArchiveNumber,
    ) -> Result<(), Refused> {
        let next = self.start.saturating_add(self.taken);
        if number.get() <= next.saturating_add(LEAP) {
            return Ok(());
        }
        let leap = match self.leap {
            Some(leap) => leap,
            None => *self.leap.insert(leap(session, lineage, self.start)?),
        };
        let most = next.saturating_add(leap);
        if number.get() <= most {
            return Ok(());
        }
        let text = format!(
            "archive number {number} is too far above those that are here: at most {most} is taken now, and {LEAP_A_DAY} \
             more with each day on which nothing comes, up to {LEAP_MAX} above the highest"
        );
        Err(Refused::new(RefusalCode::Cap, text))
    }
}

/// By how much numbers may rise now.
fn leap<S: Store>(session: &Session<S>, lineage: &Lineage, start: u64) -> Result<u64, Refused> {
    let highest = start.checked_sub(1).and_then(|highest| ArchiveNumber::new(highest).ok());
    let Some(highest) = highest else { return Ok(LEAP_MAX) };
    let appeared = match session.own()?.get(&Name::Archive(*lineage, highest)) {
        Err(e) if e.is_damage() => None,
        stored => stored.map_err(|e| store_refusal(&e))?.map(|stored| stored.appeared()),
    };
    let age = appeared.map_or(0, |at| u64::try_from(session.clock.now().saturating_sub(at)).unwrap_or(0));
    Ok((age.saturating_mul(LEAP_A_DAY) / DAY).saturating_add(LEAP).min(LEAP_MAX))
}

//! Whom the owner trusts: the owner record on the sinks, the local trust store, and what the two give together.
//!
//! Nothing here comes from a sink's word: a source counts because the owner signed its card into the record, or
//! because someone compared its words on this machine.

pub mod record;
pub mod store;
pub mod voucher;

#[cfg(test)]
mod tests;

use shared::card::SourceCard;
use shared::id::{Digest, Lineage, SourceId, VerifyKey};

/// From where a trust comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The owner record, signed with the identity.
    Record,
    /// The trust store of this machine.
    Local,
    /// The keys of this machine: a source trusts itself.
    Own,
}

/// A lineage that ends at a named head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    pub lineage: Lineage,
    pub sink: VerifyKey,
    pub sequence: u64,
    pub head: Digest,
}

/// A source whose signatures count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedSource {
    pub card: SourceCard,
    /// The lineages that `latest` may use. Empty: none was seen yet, the first one seen is taken.
    pub lineages: Vec<Lineage>,
    /// Seconds since 1970 UTC.
    pub since: i64,
    pub frozen: Vec<Frozen>,
    pub origin: Origin,
}

impl TrustedSource {
    pub fn id(&self) -> SourceId {
        self.card.source_id()
    }
    pub fn name(&self) -> &str {
        self.card.name().as_str()
    }
    pub fn key(&self) -> &VerifyKey {
        self.card.verify_key()
    }
    /// Who may say what stands for a damaged block: the source and its owner.
    pub fn signers(&self) -> Vec<VerifyKey> {
        [Some(*self.key()), self.card.owner().copied()].into_iter().flatten().collect()
    }
}

/// A head that was verified once; its chain may not end before or beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenHead {
    pub source: SourceId,
    pub lineage: Lineage,
    pub sink: VerifyKey,
    pub sequence: u64,
    pub head: Digest,
    /// Seconds since 1970 UTC.
    pub time: i64,
}

/// Everything that this reader trusts.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    pub sources: Vec<TrustedSource>,
    /// Heads that the owner record remembers.
    pub heads: Vec<SeenHead>,
}

impl Trust {
    /// Adds a source; of one that is there already the lineages are joined.
    pub fn add(&mut self, source: TrustedSource) {
        match self.sources.iter_mut().find(|known| known.id() == source.id()) {
            None => self.sources.push(source),
            Some(known) => {
                for lineage in source.lineages {
                    if !known.lineages.contains(&lineage) {
                        known.lineages.push(lineage);
                    }
                }
                known.frozen.extend(source.frozen);
                known.since = known.since.min(source.since);
            }
        }
    }
    pub fn find(&self, id: &SourceId) -> Option<&TrustedSource> {
        self.sources.iter().find(|source| source.id() == *id)
    }
}

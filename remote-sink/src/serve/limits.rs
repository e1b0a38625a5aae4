//! What a session may take: time, space and numbers of things. Defaults in one place; `vault.toml` may set some.

use shared::limits::{CHAIN_BYTES_MAX, CHAIN_HEADS_MAX, SUBSTITUTES_BYTES_MAX, WRAPS_BYTES_MAX};
use std::time::Duration;

/// Limits of one session and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// A session that says nothing for so long ends.
    pub idle: Duration,
    /// A pushing session that said nothing for so long gives way to another one of the same source.
    pub takeover: Duration,
    /// How long `Hello` may take.
    pub greeting: Duration,
    /// A half-received message must bring `slow_bytes` in each such span.
    pub slow_window: Duration,
    pub slow_bytes: u64,
    /// A session ends at the first message after this.
    pub session: Duration,
    /// Bytes that this source may use; `None` = no quota.
    pub quota: Option<u64>,
    /// Bytes of the file system that archives leave free; other small objects than heads leave half of it.
    pub min_free: u64,
    /// Inodes of the file system that archives leave free, where it counts them; the others half of it.
    pub min_free_objects: u64,
    /// All objects of a source.
    pub objects: u64,
    /// Heads of a source received within 24 hours.
    pub heads_per_day: u64,
    /// Heads of one lineage, and bytes of them with their receipts: no reader takes a longer chain.
    pub chain_heads: u64,
    pub chain_bytes: u64,
    /// Envelopes of a source within 24 hours.
    pub envelopes_per_day: u64,
    pub series: usize,
    pub lineages: usize,
    /// Bodies without a head of theirs that one session may leave.
    pub headless_bodies: u64,
    /// Substitute records of a source.
    pub substitutes: u64,
    /// Their bytes.
    pub substitutes_bytes: u64,
    /// Objects of each kind that one owner may leave; wraps for each of its sources.
    pub owner_objects: u64,
    /// Bytes charged for its records, vouchers and releases together.
    pub owner_bytes: u64,
    /// Bytes of the wraps for one source.
    pub wraps_bytes: u64,
    /// Objects, and bytes charged for them, after which a session record is published: what a session that is killed
    /// leaves uncounted.
    pub record_objects: u64,
    pub record_bytes: u64,
}

/// How far an object may reach into the reserve that the operator keeps on the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Not at all.
    Archive,
    /// Half of it: what is needed to commit archives, of which a source can make as many as it likes.
    Small,
    /// All of it: heads, and what this sink writes about them itself.
    Commit,
}

/// Objects are charged in multiples of this many bytes, as disks store them.
pub const CHARGE_BYTES: u64 = 4096;
/// Lineages that one source may have at a sink.
pub const LINEAGES_MAX: usize = 256;

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(300),
            takeover: Duration::from_secs(30),
            greeting: Duration::from_secs(30),
            slow_window: Duration::from_secs(120),
            slow_bytes: 64 << 10,
            session: Duration::from_secs(24 * 3600),
            quota: None,
            min_free: 1 << 30,
            min_free_objects: 4096,
            objects: 16_000_000,
            heads_per_day: 1000,
            chain_heads: CHAIN_HEADS_MAX,
            chain_bytes: CHAIN_BYTES_MAX,
            envelopes_per_day: 1000,
            series: 256,
            lineages: LINEAGES_MAX,
            headless_bodies: 64,
            substitutes: 65_536,
            substitutes_bytes: SUBSTITUTES_BYTES_MAX,
            owner_objects: 65_536,
            owner_bytes: 256 << 20,
            wraps_bytes: WRAPS_BYTES_MAX,
            record_objects: 4096,
            record_bytes: 256 << 20,
        }
    }
}

impl Limits {
    /// Bytes and inodes of the file system that objects of this kind leave free.
    pub const fn kept_free(&self, tier: Tier) -> (u64, u64) {
        match tier {
            Tier::Archive => (self.min_free, self.min_free_objects),
            Tier::Small => (self.min_free / 2, self.min_free_objects / 2),
            Tier::Commit => (0, 0),
        }
    }
}

/// What an object costs its source.
pub const fn charge(bytes: u64) -> u64 {
    let blocks = if bytes == 0 { 1 } else { bytes.div_ceil(CHARGE_BYTES) };
    blocks.saturating_mul(CHARGE_BYTES)
}

//! What the other side owes us: heads remembered, receipts, chains (docs/format.md, section "Chain").
//!
//! State here is not a cache: it lies in the state directory and is durable before anything depends on it.

mod chain;
mod judge;
mod resume;
mod seen;
mod state;
#[cfg(test)]
mod tests;

pub use chain::{CheckedHead, check_receipt, verify_chain};
pub use judge::{Next, Verdict, judge};
pub use resume::{accept, inspect, reconcile};
pub use seen::{Freshness, check_seen, forget_seen};
pub use state::{Accepted, ChainState, Pending, Remembered, Snapshot, load, remembered_lineages};

//! Retention: what the operator lets go, and the room that it gives back (docs/retention.md).

pub mod policy;

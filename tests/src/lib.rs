//! The rig: what the promises are tested with. Real programs, real servers, real files; nothing of the product is
//! replaced. The promises themselves are in `tests/promises/`, one file each.
//!
//! Everything here may panic: a rig that cannot be built is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

pub mod agent;
pub mod chance;
pub mod costs;
pub mod craft;
pub mod load;
pub mod place;
pub mod programs;
pub mod proxy;
pub mod run;
pub mod server;
pub mod trace;
pub mod tree;
pub mod vault;
pub mod wire;

pub use agent::{Agent, Owner};
pub use chance::Chance;
pub use place::Place;
pub use run::{Done, Run};
pub use vault::Vault;

//! The source's and the owner's side of Pawl.
//!
//! Absences that hold here: nothing under `backup/` names `crypto::open` or `crypto::identity`; no module but
//! `restore::write` joins a name from a snapshot to a path.

pub mod backup;
pub mod cli;
pub mod client;
pub mod config;
pub mod crypto;
pub mod index;
pub mod keys;
pub mod memory;
pub mod open_files;
pub mod owner;
pub mod paths;
pub mod progress;
pub mod report;
pub mod restore;
pub mod transport;
pub mod tree;
pub mod watch;

//! The sink: accepts only new, correctly signed objects, and serves them again.
//!
//! Absences that hold here: no type for plaintext, none for a decrypting key; the serving session has no call that
//! replaces or removes an object; `store/layout.rs` alone spells paths.

pub mod authorized_keys;
pub mod cidr;
pub mod cli;
pub mod config;
pub mod confine;
pub mod damaged;
pub mod enrolment;
pub mod journal;
pub mod ledger;
pub mod listen;
pub mod published;
pub mod report;
pub mod retention;
pub mod serve;
pub mod store;
pub mod verify;

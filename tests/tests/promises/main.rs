//! The promises, one file each. All run the real programs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod big;
mod cli_contract;
mod clone;
mod costs;
mod crash;
mod deploy;
mod full_disk;
mod healing;
mod history;
mod hostile_restore;
mod hostile_sink;
mod hostile_source;
mod load;
mod main_job;
mod metadata;
mod packed;
mod poisoning;
mod refusals;
mod roles;
mod shut_doors;
mod stores;
mod tidy;
mod two_accounts;
mod unchanged;
mod wire;

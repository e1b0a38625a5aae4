//! Sessions against a real vault in a temporary directory, by a small client made by hand. Receiver and committer run
//! as threads; nothing here asserts a time.

mod client;
mod damage;
mod hostile;
mod owner;
mod packed;
mod push;
mod reads;
mod roles;
mod sessions;
mod store_faults;
mod world;

pub use client::Client;
pub use world::{Archive, Source, World};

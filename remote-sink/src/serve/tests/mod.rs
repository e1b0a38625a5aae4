//! Sessions against a real vault in a temporary directory, by a small client made by hand. Receiver and committer run
//! as threads; nothing here asserts a time.

mod client;
mod damage;
mod hostile;
mod owner;
mod packed;
mod push;
mod reads;
mod receipts;
mod roles;
mod sessions;
mod store_faults;
mod world;

pub use client::Client;
pub use world::{Archive, Source, World};

#[test]
fn a_pipe_gets_room_and_what_is_none_is_left() {
    use std::os::fd::AsFd;
    let (reading, _writing) = std::io::pipe().unwrap();
    let usual = rustix::pipe::fcntl_getpipe_size(&reading).unwrap();
    super::enlarge(reading.as_fd());
    let size = rustix::pipe::fcntl_getpipe_size(&reading).unwrap();
    assert!(size > usual && size == super::PIPE_BYTES, "{usual}, {size}");
    super::enlarge(std::fs::File::open("/dev/null").unwrap().as_fd());
}

//! Buffers of blocks, used again: filled, sealed in place where a block does not compress, sent, filled again.

use super::lay::BLOCK_BYTES_MOST;
use crate::crypto::part::PAYLOAD_HEADER;
use crate::crypto::seal::begin_payload;
use parking_lot::Mutex;

/// Room of a fresh buffer: the largest block of files.
const ROOM: usize = 3 << 19;
/// Buffers that are kept.
const KEPT: usize = 12;

#[derive(Default)]
pub struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// A buffer that holds an empty payload, ready to be sealed with what is appended.
    pub fn take(&self) -> Vec<u8> {
        match self.0.lock().pop() {
            Some(mut buffer) => {
                buffer.clear();
                buffer.resize(PAYLOAD_HEADER, 0);
                buffer
            }
            None => begin_payload(ROOM),
        }
    }

    /// Takes a buffer back; one of another size is freed.
    pub fn give(&self, buffer: Vec<u8>) {
        if (ROOM..=BLOCK_BYTES_MOST as usize).contains(&buffer.capacity()) {
            let mut kept = self.0.lock();
            if kept.len() < KEPT {
                kept.push(buffer);
            }
        }
    }
}

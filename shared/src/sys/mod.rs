//! What a test replaces: clock and random; and the file in which all durable writes stand.

pub mod clock;
pub mod durable;

pub use clock::{Clock, FixedClock, SystemClock};

/// Random bytes of the operating system. Without them nothing may go on.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Err(e) = getrandom::fill(&mut bytes) {
        // A machine without random numbers cannot make keys; there is nothing to fall back to.
        panic!("the operating system gives no random bytes: {e}");
    }
    bytes
}

//! What both ends of Pawl agree on: names, limits, formats, signatures, the wire.
//!
//! Absences that hold here: no type for plaintext, none for a decrypting key, no network, no policy.
//! `docs/format.md` specifies the bytes at rest, `docs/protocol.md` the bytes in flight.

pub mod bits;
pub mod card;
pub mod codec;
pub mod format;
pub mod id;
pub mod keyfile;
pub mod limits;
pub mod signature;
pub mod sys;
pub mod text;
pub mod wire;

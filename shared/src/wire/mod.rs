//! Bytes in flight (docs/protocol.md). A role is a type that lacks the other roles' requests; no type has a request
//! that deletes or overwrites.

pub mod frame;
pub mod hello;
pub mod reply;
pub mod request;

pub use frame::{Frame, FrameError, FrameHead, read_frame, read_frame_head, read_frame_rest, write_frame};
pub use hello::{Hello, Role, Welcome};
pub use reply::{Damage, HeadItem, HeadList, Missing, RefusalCode, Refused, Reply, SourceItem, SourceList, Stored};
pub use request::{AuditRequest, PushRequest, Query, ReadRequest, Request, RequestError};

/// What the sink sends first, before anything is asked; text of a broken login shell differs from it.
pub const BANNER: &[u8; 16] = b"pawl-sink wire1\n";
/// Protocol version of this code.
pub const VERSION: u16 = 1;

//! Bytes at rest (docs/format.md): one file per family of objects.

pub mod archive;
pub mod envelope;
pub mod owner;
pub mod receipt;
pub mod snapshot;

pub use archive::{ArchiveLayout, Generation, Index, Kind, Part, Region};
pub use envelope::{Envelope, Kem, RecipientWrap, Wrap};
pub use owner::{OwnerRecord, Release, Substitute, Voucher};
pub use receipt::{Receipt, SessionRecord};
pub use snapshot::{Body, Head, Page, PageEntry};

//! The handshake (docs/protocol.md, section "Handshake"): one round trip.

use crate::codec::{Blob, FormatError, Text};
use crate::id::{ArchiveNumber, Digest, Lineage, Salt, SourceId, SourceName, VerifyKey};
use crate::signature::Object;
use minicbor::{Decode, Encode};

/// What a connection may do; fixed by the authorized_keys line or the enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Role {
    #[n(1)]
    Push,
    #[n(2)]
    Read,
    #[n(3)]
    Audit,
    /// Reserved: a sink that copies another.
    #[n(4)]
    Mirror,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Read => "read",
            Self::Audit => "audit",
            Self::Mirror => "mirror",
        }
    }
}
impl std::str::FromStr for Role {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        [Self::Push, Self::Read, Self::Audit, Self::Mirror].into_iter().find(|role| role.as_str() == s).ok_or_else(
            || format!("unknown role '{}': push, read, audit or mirror", crate::text::printable(s.as_bytes(), 40)),
        )
    }
}
impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The client's first message.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    #[n(0)]
    pub version_min: u16,
    #[n(1)]
    pub version_max: u16,
    /// Fresh; the sink's signature answers it.
    #[n(2)]
    pub nonce: Salt,
    /// Program and version, for messages.
    #[n(3)]
    pub program: Text<128>,
    /// A pushing source says who it is and in which lineage.
    #[n(4)]
    pub source: Option<SourceId>,
    #[n(5)]
    pub lineage: Option<Lineage>,
}

/// The newest head of a chain, as the sink states it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct NewestHead {
    #[n(0)]
    pub sequence: u64,
    #[n(1)]
    pub digest: Digest,
}

/// The sink's answer, signed with the sink key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Welcome {
    #[n(0)]
    pub version: u16,
    /// The client's nonce.
    #[n(1)]
    pub nonce: Salt,
    #[n(2)]
    pub sink: VerifyKey,
    #[n(3)]
    pub role: Role,
    /// The name under which the client is enrolled.
    #[n(4)]
    pub name: SourceName,
    #[n(5)]
    pub program: Text<128>,
    /// The sink's clock, seconds since 1970 UTC.
    #[n(6)]
    pub clock: i64,
    /// Bytes that the sink may still store for this source; absent without a quota, or in other roles than push.
    #[n(7)]
    pub quota_left: Option<u64>,
    /// Bytes free for archives on the sink's file system.
    #[n(8)]
    pub free: u64,
    /// Digest of the removal journal; absent while there is none.
    #[n(9)]
    pub journal: Option<Digest>,
    /// Role push: the source and lineage of `Hello`, repeated.
    #[n(10)]
    pub source: Option<SourceId>,
    #[n(11)]
    pub lineage: Option<Lineage>,
    /// Role push: newest head of the chain; absent while it is empty.
    #[n(12)]
    pub newest: Option<NewestHead>,
    /// Role push: the lowest archive number above all that the sink holds in this lineage.
    #[n(13)]
    pub next_number: Option<ArchiveNumber>,
    /// Identifier of the SSH session where the sink knows it; empty under another sshd.
    #[n(14)]
    pub binding: Blob<64>,
    /// Role push: the quota as a whole, and bytes used.
    #[n(15)]
    pub quota: Option<u64>,
    #[n(16)]
    pub used: Option<u64>,
    /// Role push: archives of which the sink's last look found something damaged that snapshots need; absent if none.
    #[n(17)]
    pub damaged: Option<u64>,
}

impl Object for Welcome {
    const KIND: u8 = b'G';
    const BYTES_MAX: usize = 4096;
    const NAME: &'static str = "welcome";
    fn check(&self) -> Result<(), FormatError> {
        Ok(())
    }
}

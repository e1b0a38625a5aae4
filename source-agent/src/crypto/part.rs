//! What sealing and opening of parts share: payload layout, keys, associated data (docs/format.md, section "Part").
//!
//! Padded plaintext = method (1 byte: 0 stored, 1 zstd) | payload length (u32, little endian) | payload | zeros,
//! so long that with the 16-byte tag it is a multiple of 4096.

use crate::crypto::derive::{derive, label};
use shared::id::{ArchiveNumber, Digest, Lineage, Salt, SessionId, SourceId};
use shared::limits::SUITE;
use zeroize::Zeroizing;

/// Bytes before the payload.
pub const PAYLOAD_HEADER: usize = 5;
pub const METHOD_STORED: u8 = 0;
pub const METHOD_ZSTD: u8 = 1;

/// Where a sealed part belongs; all of it is bound by key and associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A block or chunk table of an archive.
    Part { source: SourceId, lineage: Lineage, salt: Salt, archive: ArchiveNumber, part: u32 },
    /// The sealed root of a body.
    Root { source: SourceId, lineage: Lineage, salt: Salt, session: SessionId },
}

impl Place {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Part { .. } => "part",
            Self::Root { .. } => "sealed root",
        }
    }

    /// Digest of the padded plaintext, keyed under the same secret.
    pub(super) fn digest(&self, secret: &[u8; 32], padded: &[u8]) -> Digest {
        let (salt, label) = match self {
            Self::Part { salt, .. } => (salt, label::PART_DIGEST),
            Self::Root { salt, .. } => (salt, label::ROOT_DIGEST),
        };
        let key: Zeroizing<[u8; 32]> = derive(secret, salt.as_bytes(), label, &[]);
        Digest::new(*blake3::keyed_hash(&key, padded).as_bytes())
    }

    /// The key of this part alone: equal key means equal plaintext, so the nonce is zero.
    pub(super) fn key(&self, secret: &[u8; 32], plain: &Digest) -> Zeroizing<[u8; 32]> {
        match self {
            Self::Part { salt, archive, part, .. } => {
                let number = archive.get().to_le_bytes();
                let context: [&[u8]; 3] = [&number, &part.to_le_bytes(), plain.as_bytes()];
                derive(secret, salt.as_bytes(), label::PART_KEY, &context)
            }
            Self::Root { salt, .. } => derive(secret, salt.as_bytes(), label::ROOT_KEY, &[plain.as_bytes()]),
        }
    }

    pub(super) fn associated_data(&self) -> Vec<u8> {
        match self {
            Self::Part { source, lineage, archive, part, .. } => {
                let number = archive.get().to_le_bytes();
                let pieces: [&[u8]; 6] =
                    [label::PART_AAD, &[0, SUITE], source.as_bytes(), lineage.as_bytes(), &number, &part.to_le_bytes()];
                pieces.concat()
            }
            Self::Root { source, lineage, session, .. } => {
                [label::ROOT_AAD, &[0, SUITE], source.as_bytes(), lineage.as_bytes(), session.as_bytes()].concat()
            }
        }
    }
}

//! Envelopes and wraps: who can open a session (docs/format.md, section "Envelope").

use crate::codec::{Blob, FormatError, List};
use crate::id::{Digest, Lineage, Salt, SessionId, SourceId};
use crate::limits::{ENVELOPE_BYTES_MAX, RECIPIENTS_MAX};
use crate::signature::Object;
use minicbor::{Decode, Encode};

/// Key encapsulation of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Kem {
    /// X-Wing: X25519 and ML-KEM-768.
    #[n(1)]
    XWing,
    /// DHKEM(X25519, HKDF-SHA256).
    #[n(2)]
    X25519,
}

impl Kem {
    /// Bytes of a public key.
    pub const fn public_bytes(self) -> usize {
        match self {
            Self::XWing => 1216,
            Self::X25519 => 32,
        }
    }
    /// Bytes of an encapsulation.
    pub const fn enc_bytes(self) -> usize {
        match self {
            Self::XWing => 1120,
            Self::X25519 => 32,
        }
    }
}

/// Bytes sealed to a recipient: session secret, source secret.
pub const WRAPPED_BYTES: usize = 64;

/// The session's secrets, sealed to one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RecipientWrap {
    #[n(0)]
    pub kem: Kem,
    /// BLAKE3 of the recipient's public key.
    #[n(1)]
    pub recipient: Digest,
    #[n(2)]
    pub enc: Blob<1120>,
    /// Ciphertext and tag of [`WRAPPED_BYTES`].
    #[n(3)]
    pub sealed: Blob<{ WRAPPED_BYTES + 16 }>,
}

fn check_wraps(wraps: &[RecipientWrap]) -> Result<(), FormatError> {
    if wraps.is_empty() {
        return Err(FormatError::Rule("no recipient"));
    }
    for wrap in wraps {
        if wrap.enc.len() != wrap.kem.enc_bytes() || wrap.sealed.len() != WRAPPED_BYTES + 16 {
            return Err(FormatError::Rule("a wrap's length does not fit its KEM"));
        }
    }
    let mut seen: Vec<_> = wraps.iter().map(|wrap| wrap.recipient).collect();
    seen.sort_unstable();
    if seen.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(FormatError::Rule("the same recipient twice"));
    }
    Ok(())
}

/// Opens a session; its digest is the session id. Signed by the source.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Envelope {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub lineage: Lineage,
    #[n(2)]
    pub salt: Salt,
    /// Commits to session secret and source secret.
    #[n(3)]
    pub commitment: Digest,
    #[n(4)]
    pub recipients: List<RecipientWrap, RECIPIENTS_MAX>,
}

impl Object for Envelope {
    const KIND: u8 = b'E';
    const BYTES_MAX: usize = ENVELOPE_BYTES_MAX;
    const NAME: &'static str = "envelope";
    fn check(&self) -> Result<(), FormatError> {
        check_wraps(&self.recipients)
    }
}

/// Further recipients of an old session (rekey). Signed by the owner; checked against the envelope's commitment.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Wrap {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub lineage: Lineage,
    #[n(2)]
    pub session: SessionId,
    #[n(3)]
    pub commitment: Digest,
    #[n(4)]
    pub recipients: List<RecipientWrap, RECIPIENTS_MAX>,
}

impl Object for Wrap {
    const KIND: u8 = b'W';
    const BYTES_MAX: usize = ENVELOPE_BYTES_MAX;
    const NAME: &'static str = "wrap";
    fn check(&self) -> Result<(), FormatError> {
        check_wraps(&self.recipients)
    }
}

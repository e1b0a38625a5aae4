//! Recipients: whom a source seals to (docs/format.md, section "Recipient files"). Public.

use crate::crypto::CryptoError;
use shared::format::Kem;
use shared::id::{Digest, VerifyKey};
use shared::text::{base64, fingerprint_words, from_base64};
use std::fmt;
use std::str::FromStr;

/// What the owner key signs in a recipient line.
const LABEL: &[u8] = b"pawl.recipient.v1\0";

/// A public key to seal to, with the owner key of the same identity, joined by the owner key's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    kem: Kem,
    public: Vec<u8>,
    owner: VerifyKey,
    signature: [u8; 64],
}

impl Recipient {
    pub(super) fn new(kem: Kem, public: Vec<u8>, owner: &shared::signature::SigningKey) -> Self {
        let mut recipient = Self { kem, public, owner: owner.verify_key(), signature: [0; 64] };
        recipient.signature = owner.sign_labelled(LABEL, recipient.unsigned().as_bytes());
        recipient
    }
    fn unsigned(&self) -> String {
        let kem = match self.kem {
            Kem::XWing => "x-wing",
            Kem::X25519 => "x25519",
        };
        format!("pawl-recipient:1,kem={kem},key={},owner={}", base64(&self.public), base64(self.owner.as_bytes()))
    }
    pub fn kem(&self) -> Kem {
        self.kem
    }
    pub fn public(&self) -> &[u8] {
        &self.public
    }
    /// The owner key of the identity behind this recipient.
    pub fn owner(&self) -> &VerifyKey {
        &self.owner
    }
    /// BLAKE3 of the public key: how wraps name it.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.public)
    }
    /// Words for people to compare.
    pub fn fingerprint(&self) -> String {
        fingerprint_words(Digest::of(self.unsigned().as_bytes()).as_bytes())
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},sig={}", self.unsigned(), base64(&self.signature))
    }
}

impl FromStr for Recipient {
    type Err = CryptoError;
    fn from_str(text: &str) -> Result<Self, CryptoError> {
        let err = |why: &str| CryptoError::File { what: "recipient", why: why.into() };
        let text = text.trim();
        let rest =
            text.strip_prefix("pawl-recipient:1,").ok_or_else(|| err("it does not begin with 'pawl-recipient:1,'"))?;
        let fields: Vec<&str> = rest.split(',').collect();
        let [kem, key, owner, sig] = fields[..] else { return Err(err("it was cut or changed")) };
        let kem = match kem {
            "kem=x-wing" => Kem::XWing,
            "kem=x25519" => Kem::X25519,
            _ => return Err(err("unknown kem")),
        };
        let bytes = |field: &str, name: &str| {
            field.strip_prefix(name).and_then(from_base64).ok_or_else(|| err("it was cut or changed"))
        };
        let public = bytes(key, "key=")?;
        if public.len() != kem.public_bytes() {
            return Err(err("its key has the wrong length"));
        }
        let owner =
            VerifyKey::from_slice(&bytes(owner, "owner=")?).map_err(|_| err("its owner key has the wrong length"))?;
        let signature = bytes(sig, "sig=")?.try_into().map_err(|_| err("it was cut or changed"))?;
        let recipient = Self { kem, public, owner, signature };
        if !recipient.owner.verify_labelled(LABEL, recipient.unsigned().as_bytes(), &recipient.signature) {
            return Err(err("its signature does not fit: it was cut or changed"));
        }
        Ok(recipient)
    }
}

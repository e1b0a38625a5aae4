//! HPKE wraps of the session's secrets (docs/format.md, section "Envelope"): RFC 9180 base mode, single shot,
//! HKDF-SHA256, AES-256-GCM; KEM X-Wing or X25519.

use crate::crypto::CryptoError;
use crate::crypto::derive::label;
use crate::crypto::identity::Identity;
use crate::crypto::recipient::Recipient;
use crate::crypto::secret::{SessionSecret, SourceSecret, commitment};
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::{X25519HkdfSha256, XWing};
use hpke::{Deserializable, Kem as KemTrait, OpModeR, OpModeS, Serializable};
use shared::codec::{Blob, List};
use shared::format::envelope::WRAPPED_BYTES;
use shared::format::{Envelope, Kem, RecipientWrap, Wrap};
use shared::id::{Digest, Lineage, Salt, SourceId};
use shared::limits::SUITE;
use shared::signature::{SigningKey, Verified, sign};
use zeroize::Zeroizing;

/// Seals `message` to a recipient; `info` also is the associated data.
pub fn hpke_seal(recipient: &Recipient, info: &[u8], message: &[u8]) -> Result<(Vec<u8>, Vec<u8>), CryptoError> {
    match recipient.kem() {
        Kem::XWing => seal_with::<XWing>(recipient.public(), info, message),
        Kem::X25519 => seal_with::<X25519HkdfSha256>(recipient.public(), info, message),
    }
}

fn seal_with<K: KemTrait>(public: &[u8], info: &[u8], message: &[u8]) -> Result<(Vec<u8>, Vec<u8>), CryptoError> {
    let err = |_| CryptoError::Seal("wrap");
    let public = K::PublicKey::from_bytes(public).map_err(err)?;
    let (enc, sealed) =
        hpke::single_shot_seal::<AesGcm256, HkdfSha256, K>(&OpModeS::Base, &public, info, message, info)
            .map_err(err)?;
    Ok((enc.to_bytes().to_vec(), sealed))
}

/// Opens what [`hpke_seal`] made for this identity.
pub fn hpke_open(
    identity: &Identity,
    kem: Kem,
    enc: &[u8],
    info: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let secret = identity.kem_secret(kem);
    match kem {
        Kem::XWing => open_with::<XWing>(&secret, enc, info, sealed),
        Kem::X25519 => open_with::<X25519HkdfSha256>(&secret, enc, info, sealed),
    }
}

fn open_with<K: KemTrait>(
    secret: &[u8; 32],
    enc: &[u8],
    info: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let err = |_| CryptoError::Open("wrap");
    let secret = K::PrivateKey::from_bytes(secret).map_err(err)?;
    let enc = K::EncappedKey::from_bytes(enc).map_err(err)?;
    hpke::single_shot_open::<AesGcm256, HkdfSha256, K>(&OpModeR::Base, &secret, &enc, info, sealed, info)
        .map(Zeroizing::new)
        .map_err(err)
}

/// What a wrap binds: label, suite, source, lineage, recipient, commitment.
fn info(source: &SourceId, lineage: &Lineage, recipient: &Digest, commitment: &Digest) -> Vec<u8> {
    let pieces: [&[u8]; 6] =
        [label::WRAP, &[0, SUITE], source.as_bytes(), lineage.as_bytes(), recipient.as_bytes(), commitment.as_bytes()];
    pieces.concat()
}

/// Wraps the secrets for one recipient.
pub fn wrap_for(
    recipient: &Recipient,
    source: &SourceId,
    lineage: &Lineage,
    commitment: &Digest,
    session_secret: &SessionSecret,
    source_secret: &SourceSecret,
) -> Result<RecipientWrap, CryptoError> {
    let mut message = Zeroizing::new([0; WRAPPED_BYTES]);
    message[..32].copy_from_slice(session_secret.as_bytes());
    message[32..].copy_from_slice(source_secret.as_bytes());
    let digest = recipient.digest();
    let (enc, sealed) = hpke_seal(recipient, &info(source, lineage, &digest, commitment), &*message)?;
    Ok(RecipientWrap { kem: recipient.kem(), recipient: digest, enc: Blob::new(enc)?, sealed: Blob::new(sealed)? })
}

/// Opens a session: draws its secret and signs its envelope. The digest of the envelope is the session id.
pub fn new_session(
    source: SourceId,
    lineage: Lineage,
    source_secret: &SourceSecret,
    recipients: &[Recipient],
    key: &SigningKey,
) -> Result<(SessionSecret, Verified<Envelope>), CryptoError> {
    let session_secret = SessionSecret::random();
    let salt = Salt::random();
    let commitment = commitment(&source, &lineage, &salt, &session_secret, source_secret);
    let wraps: Result<Vec<_>, _> = recipients
        .iter()
        .map(|recipient| wrap_for(recipient, &source, &lineage, &commitment, &session_secret, source_secret))
        .collect();
    let envelope = Envelope { source, lineage, salt, commitment, recipients: List::new(wraps?)? };
    Ok((session_secret, sign(envelope, key)?))
}

/// The secrets of a session, from its verified envelope; checked against the commitment.
pub fn open_session(envelope: &Envelope, identity: &Identity) -> Result<(SessionSecret, SourceSecret), CryptoError> {
    open_wraps(envelope, &envelope.recipients, identity)
}

/// The same, from a wrap object that the owner added later (F-12).
pub fn open_wrap_object(
    envelope: &Verified<Envelope>,
    object: &Wrap,
    identity: &Identity,
) -> Result<(SessionSecret, SourceSecret), CryptoError> {
    let mine = (object.source, object.lineage, object.session.as_bytes(), object.commitment);
    if mine != (envelope.source, envelope.lineage, envelope.digest().as_bytes(), envelope.commitment) {
        return Err(CryptoError::Commitment);
    }
    open_wraps(envelope, &object.recipients, identity)
}

fn open_wraps(
    envelope: &Envelope,
    wraps: &[RecipientWrap],
    identity: &Identity,
) -> Result<(SessionSecret, SourceSecret), CryptoError> {
    let mine = wraps
        .iter()
        .find(|wrap| identity.recipient(wrap.kem).digest() == wrap.recipient)
        .ok_or(CryptoError::NoRecipient)?;
    let info = info(&envelope.source, &envelope.lineage, &mine.recipient, &envelope.commitment);
    let message = hpke_open(identity, mine.kem, &mine.enc, &info, &mine.sealed)?;
    let (session, source) = message.split_at_checked(32).ok_or(CryptoError::Commitment)?;
    let fixed =
        |bytes: &[u8]| <&[u8; 32]>::try_from(bytes).copied().map(Zeroizing::new).map_err(|_| CryptoError::Commitment);
    let session_secret = SessionSecret::from_bytes(&*fixed(session)?);
    let source_secret = SourceSecret::from_bytes(&*fixed(source)?);
    let found = commitment(&envelope.source, &envelope.lineage, &envelope.salt, &session_secret, &source_secret);
    if found != envelope.commitment {
        return Err(CryptoError::Commitment);
    }
    Ok((session_secret, source_secret))
}

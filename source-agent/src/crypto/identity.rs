//! The identity: one 32-byte seed from which decryption keys and owner key come (docs/format.md, section "Identity files").

use crate::crypto::CryptoError;
use crate::crypto::derive::{derive, label};
use crate::crypto::recipient::Recipient;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Nonce, Tag};
use argon2::{Algorithm, Argon2, Params, Version};
use hpke::{Deserializable, Kem as KemTrait, Serializable};
use shared::format::Kem;
use shared::signature::SigningKey;
use shared::text::{base64, from_base64};
use zeroize::Zeroizing;

/// Argon2id memory in KiB for new files, and the most that a file may ask for.
const MEMORY_KIB: u32 = 256 << 10;
const MEMORY_KIB_MAX: u32 = 4 << 20;
const PASSES: u32 = 3;
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 16;

/// The private side of an owner. Needed to restore, never on a source.
pub struct Identity {
    seed: Zeroizing<[u8; 32]>,
}

impl Identity {
    pub fn random() -> Self {
        Self { seed: Zeroizing::new(shared::sys::random()) }
    }
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self { seed: Zeroizing::new(*seed) }
    }
    pub(super) fn kem_secret(&self, kem: Kem) -> Zeroizing<[u8; 32]> {
        match kem {
            Kem::XWing => derive(&self.seed, &[], label::IDENTITY_XWING, &[]),
            Kem::X25519 => derive(&self.seed, &[], label::IDENTITY_X25519, &[]),
        }
    }
    /// Signs owner records, vouchers, wraps and releases.
    pub fn owner_key(&self) -> SigningKey {
        SigningKey::from_seed(&derive(&self.seed, &[], label::IDENTITY_OWNER, &[]))
    }
    /// The public side for this KEM.
    pub fn recipient(&self, kem: Kem) -> Recipient {
        let secret = self.kem_secret(kem);
        let public = match kem {
            Kem::X25519 => {
                x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(*secret)).as_bytes().to_vec()
            }
            Kem::XWing => match <hpke::kem::XWing as KemTrait>::PrivateKey::from_bytes(&*secret) {
                Ok(private) => hpke::kem::XWing::sk_to_pk(&private).to_bytes().to_vec(),
                Err(_) => unreachable!("an X-Wing private key is any 32 bytes"),
            },
        };
        Recipient::new(kem, public, &self.owner_key())
    }
    /// The 24 words of BIP 39 for the recovery sheet: the seed itself.
    pub fn words(&self) -> Zeroizing<String> {
        match bip39::Mnemonic::from_entropy(&*self.seed) {
            Ok(words) => Zeroizing::new(words.to_string()),
            Err(_) => unreachable!("32 bytes are valid entropy"),
        }
    }
    /// Reads [`Identity::words`]; upper case, several spaces and line ends do not matter.
    pub fn from_words(text: &str) -> Result<Self, CryptoError> {
        let err = |why: String| CryptoError::File { what: "recovery sheet", why };
        let normal = Zeroizing::new(text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase());
        let words =
            bip39::Mnemonic::parse_in_normalized(bip39::Language::English, &normal).map_err(|e| err(e.to_string()))?;
        let seed = Zeroizing::new(words.to_entropy());
        let fixed = <&[u8; 32]>::try_from(seed.as_slice()).map_err(|_| err("it needs all 24 words".into()))?;
        Ok(Self::from_seed(fixed))
    }

    /// The text of an identity file; with a passphrase the seed is sealed under Argon2id and AES-256-GCM.
    pub fn to_file(&self, passphrase: Option<&str>) -> Result<Zeroizing<String>, CryptoError> {
        let Some(passphrase) = passphrase else {
            return Ok(Zeroizing::new(format!("pawl-identity:1,kdf=none,seed={}\n", base64(&*self.seed))));
        };
        let salt: [u8; 16] = shared::sys::random();
        let open = format!("pawl-identity:1,kdf=argon2id,m={MEMORY_KIB},t={PASSES},p=1,salt={}", base64(&salt));
        let key = passphrase_key(passphrase, MEMORY_KIB, PASSES, 1, &salt)?;
        let err = || CryptoError::Seal("identity");
        let cipher = Aes256Gcm::new_from_slice(&*key).map_err(|_| err())?;
        let mut sealed = self.seed.to_vec();
        let tag = cipher
            .encrypt_inout_detached(&Nonce::default(), open.as_bytes(), sealed.as_mut_slice().into())
            .map_err(|_| err())?;
        sealed.extend_from_slice(&tag);
        Ok(Zeroizing::new(format!("{open},sealed={}\n", base64(&sealed))))
    }

    /// Does this file need a passphrase?
    pub fn needs_passphrase(file: &str) -> Result<bool, CryptoError> {
        Ok(matches!(parse(file)?, File::Sealed { .. }))
    }

    /// Reads an identity file. The passphrase is asked for only if [`Identity::needs_passphrase`].
    pub fn from_file(file: &str, passphrase: Option<&str>) -> Result<Self, CryptoError> {
        let (open, memory, passes, lanes, salt, sealed) = match parse(file)? {
            File::Plain(seed) => return Ok(Self { seed }),
            File::Sealed { open, memory, passes, lanes, salt, sealed } => (open, memory, passes, lanes, salt, sealed),
        };
        let key = passphrase_key(passphrase.ok_or(CryptoError::Passphrase)?, memory, passes, lanes, &salt)?;
        let cipher = Aes256Gcm::new_from_slice(&*key).map_err(|_| CryptoError::Passphrase)?;
        let mut seed = Zeroizing::new([0; 32]);
        seed.copy_from_slice(&sealed[..32]);
        let tag = Tag::try_from(&sealed[32..]).map_err(|_| CryptoError::Passphrase)?;
        cipher
            .decrypt_inout_detached(&Nonce::default(), open.as_bytes(), seed.as_mut_slice().into(), &tag)
            .map_err(|_| CryptoError::Passphrase)?;
        Ok(Self { seed })
    }
}

enum File<'a> {
    Plain(Zeroizing<[u8; 32]>),
    Sealed { open: &'a str, memory: u32, passes: u32, lanes: u32, salt: [u8; 16], sealed: [u8; 48] },
}

fn parse(file: &str) -> Result<File<'_>, CryptoError> {
    let err = |why: &str| CryptoError::File { what: "identity file", why: why.into() };
    let line = file.trim();
    let rest = line.strip_prefix("pawl-identity:1,").ok_or_else(|| err("it does not begin with 'pawl-identity:1,'"))?;
    if let Some(seed) = rest.strip_prefix("kdf=none,seed=") {
        let seed = Zeroizing::new(from_base64(seed).ok_or_else(|| err("its seed was cut or changed"))?);
        let fixed = <[u8; 32]>::try_from(seed.as_slice()).map_err(|_| err("its seed is not 32 bytes"))?;
        return Ok(File::Plain(Zeroizing::new(fixed)));
    }
    let fields: Vec<&str> = rest.split(',').collect();
    let ["kdf=argon2id", m, t, p, salt, sealed] = fields[..] else { return Err(err("it was cut or changed")) };
    let number = |field: &str, name: &str, max: u32| {
        let value = field.strip_prefix(name).and_then(|text| text.parse::<u32>().ok());
        value.filter(|value| (1..=max).contains(value)).ok_or_else(|| err("a parameter is out of its bounds"))
    };
    let (memory, passes, lanes) =
        (number(m, "m=", MEMORY_KIB_MAX)?, number(t, "t=", PASSES_MAX)?, number(p, "p=", LANES_MAX)?);
    let bytes = |field: &str, name: &str| field.strip_prefix(name).and_then(from_base64);
    let salt =
        bytes(salt, "salt=").and_then(|b| b.try_into().ok()).ok_or_else(|| err("its salt was cut or changed"))?;
    let sealed =
        bytes(sealed, "sealed=").and_then(|b| b.try_into().ok()).ok_or_else(|| err("its seed was cut or changed"))?;
    let open = line.rsplit_once(",sealed=").map(|(open, _)| open).ok_or_else(|| err("it was cut or changed"))?;
    Ok(File::Sealed { open, memory, passes, lanes, salt, sealed })
}

fn passphrase_key(
    passphrase: &str,
    memory: u32,
    passes: u32,
    lanes: u32,
    salt: &[u8],
) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
    let err = |e: argon2::Error| CryptoError::File { what: "identity file", why: format!("argon2id: {e}") };
    let params = Params::new(memory, passes, lanes, Some(32)).map_err(err)?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
        .map_err(err)?;
    Ok(key)
}

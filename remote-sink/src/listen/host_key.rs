//! The host key of `listen`: 32 secret bytes in the vault (docs/format.md, section "Key files").

use crate::store::layout::Layout;
use russh::keys::PrivateKey;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use shared::card::SshKey;
use shared::keyfile::{self, KeyFileError};
use shared::signature::SigningKey;
use std::io;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// First line of the file.
pub const HOST_KEY_KIND: &str = "pawl-listen-host-key:1";

/// A host key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Content { path: PathBuf, source: KeyFileError },
    #[error("the SSH library does not take the host key: {0}")]
    Key(String),
}

fn seed(layout: &Layout) -> Result<Zeroizing<[u8; 32]>, HostKeyError> {
    let path = layout.listen_key();
    let text = std::fs::read_to_string(&path).map_err(|source| HostKeyError::Read { path: path.clone(), source })?;
    let text = Zeroizing::new(text);
    keyfile::read(HOST_KEY_KIND, &text).map_err(|source| HostKeyError::Content { path, source })
}

pub(super) fn read(layout: &Layout) -> Result<PrivateKey, HostKeyError> {
    let pair = Ed25519Keypair::from_seed(&*seed(layout)?);
    PrivateKey::new(KeypairData::Ed25519(pair), "").map_err(|e| HostKeyError::Key(e.to_string()))
}

/// The public part, for sink cards.
pub fn public_key(layout: &Layout) -> Result<SshKey, HostKeyError> {
    let key = SigningKey::from_seed(&*seed(layout)?);
    Ok(SshKey::from_ed25519(key.verify_key().as_bytes()))
}

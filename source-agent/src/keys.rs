//! The keys of this machine, made by `init` and read here (docs/format.md, section "Key files").

use crate::cli::Context;
use crate::config::Loaded;
use crate::crypto::identity::Identity;
use crate::crypto::recipient::Recipient;
use crate::crypto::secret::SourceSecret;
use crate::report::{Exit, Failure, Outcome};
use shared::card::SourceCard;
use shared::id::{Lineage, SourceId, SourceName};
use shared::signature::SigningKey;
use std::path::Path;
use zeroize::Zeroizing;

/// Everything that a source needs to push; nothing in it reads a block.
pub struct SourceKeys {
    pub name: SourceName,
    pub id: SourceId,
    /// The first card: its digest is the id.
    pub card: SourceCard,
    pub lineage: Lineage,
    pub signing: SigningKey,
    pub secret: SourceSecret,
    /// Never empty.
    pub recipients: Vec<Recipient>,
}

/// The keys of this source. A reader's configuration has none and is refused.
pub fn load_source(_loaded: &Loaded) -> Outcome<SourceKeys> {
    Err(Failure::new("unfinished", Exit::Failed, "not built yet"))
}

/// This machine's card, of a source or a reader.
pub fn load_card(_loaded: &Loaded) -> Outcome<SourceCard> {
    Err(Failure::new("unfinished", Exit::Failed, "not built yet"))
}

/// The SSH private key at `path` (OpenSSH format, no passphrase, not readable by others), for russh.
pub fn load_ssh_key(_path: &Path) -> Outcome<russh::keys::PrivateKey> {
    Err(Failure::new("unfinished", Exit::Failed, "not built yet"))
}

/// The identity: `-i FILE`, else `$SOURCE_AGENT_IDENTITY`, else `[reader] identity`. Looks first; asks for the
/// passphrase last and once.
pub fn load_identity(_flag: Option<&Path>, _context: &Context) -> Outcome<Identity> {
    Err(Failure::new("unfinished", Exit::Failed, "not built yet"))
}

/// Reads a recipient from a file or from text in line.
pub fn read_recipient(_text: &str, _base: &Path) -> Outcome<Recipient> {
    Err(Failure::new("unfinished", Exit::Failed, "not built yet"))
}

/// A new passphrase of eight words of the BIP 39 list: 88 bits.
pub fn random_passphrase() -> Zeroizing<String> {
    Zeroizing::new(String::new())
}

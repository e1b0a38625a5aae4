//! The keys of this machine, made by `init` and read here (docs/format.md, section "Key files").

pub mod began;
pub mod files;
pub mod paper;
pub mod passphrase;

#[cfg(test)]
mod tests;

use crate::cli::Context;
use crate::config::Loaded;
use crate::crypto::CryptoError;
use crate::crypto::identity::Identity;
use crate::crypto::recipient::Recipient;
use crate::crypto::secret::SourceSecret;
use crate::paths::{Paths, show};
use crate::report::{Exit, Failure, Outcome};
use files::{KEY_FILE_BYTES_MAX, read_private, read_text};
use shared::card::{SourceCard, SshKey};
use shared::format::Kem;
use shared::id::{Lineage, SourceId, SourceName};
use shared::keyfile;
use shared::limits::RECIPIENTS_MAX;
use shared::signature::SigningKey;
use std::path::{Path, PathBuf};

pub use passphrase::random_passphrase;

/// The private SSH key, in the configuration's directory, in OpenSSH's format; the public one has `.pub` behind it.
pub const SSH_KEY_FILE: &str = "ssh_ed25519";
/// In the state directory: 32 bytes that chunk names and chunk tables depend on.
pub const SECRET_FILE: &str = "source.secret";
/// In the state directory: the present lineage, in hex.
pub const LINEAGE_FILE: &str = "lineage";
/// In the state directory: the first card, whose digest is the source id.
pub const CARD_FILE: &str = "source.card";

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

/// A file that says something else than it should.
fn wrong(what: &str, path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::new("key-file", Exit::Failed, format!("cannot use {what} {}: {why}", show(path)))
        .help("put back the copy of this file; what was pushed with it cannot go on with another")
}

/// The keys of this source. A reader's configuration has none and is refused.
pub fn load_source(loaded: &Loaded) -> Outcome<SourceKeys> {
    if loaded.config.source.recipients.is_empty() {
        let message =
            format!("{} names no recipients: this machine reads and does not back up", show(&loaded.paths.config));
        return Err(Failure::new("no-recipients", Exit::Failed, message).help(
            "a source is made in a place of its own: source-agent -c DIR/config.toml init --recipient backup.pub",
        ));
    }
    let recipients = load_recipients(loaded)?;
    let card = load_card(loaded)?;
    let signing = load_signing(loaded)?;
    if signing.verify_key() != *card.verify_key() {
        let path = loaded.paths.state_dir.join(CARD_FILE);
        return Err(wrong("the source card", &path, "it was made with another signing key"));
    }
    let state = &loaded.paths.state_dir;
    for file in [SECRET_FILE, LINEAGE_FILE] {
        let path = state.join(file);
        if is_missing(&path) {
            return Err(state_lost(&path));
        }
    }
    let secret_path = state.join(SECRET_FILE);
    let secret = read_private("the source secret", &secret_path)?;
    let secret =
        keyfile::read(keyfile::SOURCE_SECRET, &secret).map_err(|e| wrong("the source secret", &secret_path, e))?;
    let lineage_path = state.join(LINEAGE_FILE);
    let lineage = read_text(&lineage_path, 1024).map_err(|e| Failure::io("read the lineage", &lineage_path, &e))?;
    let lineage = lineage.trim().parse().map_err(|e| wrong("the lineage", &lineage_path, e))?;
    Ok(SourceKeys {
        name: loaded.config.source.name.clone(),
        id: card.source_id(),
        card,
        lineage,
        signing,
        secret: SourceSecret::from_bytes(&secret),
        recipients,
    })
}

fn load_signing(loaded: &Loaded) -> Outcome<SigningKey> {
    let path = loaded.resolve(&loaded.config.source.signing_key);
    let text = read_private("the signing key", &path)?;
    keyfile::read_signing_key(keyfile::SOURCE_SIGNING_KEY, &text).map_err(|e| wrong("the signing key", &path, e))
}

fn is_missing(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// A file of the state directory that cannot be made again is gone. What the sinks hold stays, and can be restored.
fn state_lost(path: &Path) -> Failure {
    let what = match path.file_name().and_then(|name| name.to_str()) {
        Some(SECRET_FILE) => "the source secret, by which this source knows its own data again",
        Some(LINEAGE_FILE) => "the lineage that its snapshots belong to",
        _ => "the source card, whose digest is this source's id",
    };
    Failure::new("state-lost", Exit::Tampered, format!("this machine's state is lost: {} is missing, {what}", show(path)))
        .detail("what the remotes hold is not touched: restoring goes on as ever; but this machine cannot add to it")
        .detail("no other file can take its place: is state-dir the right one, is its file system mounted?")
        .help("put the state directory back from a backup or a copy (then perhaps: source-agent remote accept), or make a new source: source-agent init --name NEW; the guide says how: \"A lost source machine\"")
}

/// The card of a reader is gone; it holds nothing else that is its own.
fn reader_card_lost(path: &Path) -> Failure {
    Failure::new("state-lost", Exit::Tampered, format!("this reader's card is missing: {}", show(path)))
        .detail("is state-dir the right one, is its file system mounted?")
        .help("put the state directory back, or make a new reader (source-agent -c DIR/config.toml init --reader) and have its card enrolled")
}

/// This machine's card, of a source or a reader.
pub fn load_card(loaded: &Loaded) -> Outcome<SourceCard> {
    let path = loaded.paths.state_dir.join(CARD_FILE);
    if is_missing(&path) {
        let reads = loaded.config.source.recipients.is_empty();
        return Err(if reads { reader_card_lost(&path) } else { state_lost(&path) });
    }
    let text = read_text(&path, KEY_FILE_BYTES_MAX).map_err(|e| Failure::io("read the source card", &path, &e))?;
    text.parse().map_err(|e| wrong("the source card", &path, e))
}

/// The recipients that the configuration names, in its order.
pub fn load_recipients(loaded: &Loaded) -> Outcome<Vec<Recipient>> {
    let mut all: Vec<Recipient> = Vec::new();
    for text in &loaded.config.source.recipients {
        all.extend(read_recipients(text, &loaded.paths.config_dir)?);
    }
    check_recipients(&all, loaded.config.source.mixed_recipients)?;
    Ok(all)
}

/// Refuses doubles, too many, and kinds that do not belong together.
pub fn check_recipients(all: &[Recipient], mixed: bool) -> Outcome<()> {
    let fail = |message: String| Failure::new("recipients", Exit::Failed, message);
    if all.len() > RECIPIENTS_MAX {
        return Err(fail(format!("{} recipients; at most {RECIPIENTS_MAX} are possible", all.len())));
    }
    for (at, one) in all.iter().enumerate() {
        if all[..at].iter().any(|other| other.digest() == one.digest()) {
            return Err(fail(format!("the recipient {} stands twice", one.fingerprint())));
        }
    }
    let classical = all.iter().filter(|one| one.kem() == Kem::X25519).count();
    if classical > 0 && classical < all.len() && !mixed {
        return Err(fail("X25519 and X-Wing recipients together are only as strong as X25519 against a quantum computer".into())
            .help("use recipients of one kind; if it is meant: mixed-recipients = true in [source], or init --mixed-recipients"));
    }
    Ok(())
}

/// Reads one recipient from a file or from text in line.
pub fn read_recipient(text: &str, base: &Path) -> Outcome<Recipient> {
    let mut all = read_recipients(text, base)?;
    match (all.pop(), all.is_empty()) {
        (Some(recipient), true) => Ok(recipient),
        _ => Err(Failure::new("recipient", Exit::Usage, format!("{text} holds more than one recipient"))
            .help("use --recipients-file")),
    }
}

/// Reads recipients: text in line, or a file with one a line; empty lines and lines with `#` are passed over.
pub fn read_recipients(text: &str, base: &Path) -> Outcome<Vec<Recipient>> {
    let unfit = |place: &str, e: CryptoError| {
        Failure::new("recipient", Exit::Usage, format!("{place}: {e}"))
            .help("a recipient is made by: source-agent keygen -o backup.key (it writes backup.pub)")
    };
    if text.starts_with("pawl-recipient:") {
        return Ok(vec![text.parse().map_err(|e| unfit("the recipient in line", e))?]);
    }
    let path = base.join(text);
    let content = read_text(&path, KEY_FILE_BYTES_MAX)
        .map_err(|e| Failure { exit: Exit::Usage, ..Failure::io("read the recipient", &path, &e) })?;
    if content.starts_with("pawl-identity:") {
        return Err(Failure::new(
            "recipient",
            Exit::Usage,
            format!("{} is an identity: it must never be on a source", show(&path)),
        )
        .help("use the file with .pub beside it; source-agent key recipient -i FILE prints it"));
    }
    let lines = content.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let all: Result<Vec<Recipient>, CryptoError> = lines.map(str::parse).collect();
    let all = all.map_err(|e| unfit(&show(&path), e))?;
    if all.is_empty() {
        return Err(Failure::new("recipient", Exit::Usage, format!("{} holds no recipient", show(&path))));
    }
    Ok(all)
}

/// The SSH private key at `path` (OpenSSH format, no passphrase, not readable by others), for russh.
pub fn load_ssh_key(path: &Path) -> Outcome<russh::keys::PrivateKey> {
    let text = read_private("the SSH key", path)?;
    let key = russh::keys::PrivateKey::from_openssh(&*text).map_err(|e| wrong("the SSH key", path, e))?;
    if key.is_encrypted() {
        return Err(Failure::new("ssh-key", Exit::Failed, format!("the SSH key {} has a passphrase", show(path)))
            .help("use the key that init made, or ssh-host with an agent"));
    }
    Ok(key)
}

/// A new SSH key: the private file's text and the public side.
pub fn new_ssh_key(comment: &str) -> Outcome<(zeroize::Zeroizing<String>, SshKey)> {
    use russh::keys::ssh_key::{LineEnding, private::Ed25519Keypair, private::KeypairData};
    let fail = |e| Failure::new("ssh-key", Exit::Failed, format!("cannot make an SSH key: {e}"));
    let seed = zeroize::Zeroizing::new(shared::sys::random::<32>());
    let pair = Ed25519Keypair::from_seed(&seed);
    let public = SshKey::from_ed25519(pair.public.as_ref());
    let key = russh::keys::PrivateKey::new(KeypairData::Ed25519(pair), comment).map_err(fail)?;
    Ok((key.to_openssh(LineEnding::LF).map_err(fail)?, public))
}

/// The identity: `-i FILE`, else `$SOURCE_AGENT_IDENTITY`, else `[reader] identity`. Looks first; asks for the
/// passphrase last and once.
pub fn load_identity(flag: Option<&Path>, context: &Context) -> Outcome<Identity> {
    let path = find_identity(flag, context)?;
    read_identity(&path, context, &passphrase::Sources::of_process())
}

/// Where the identity is; it need not exist.
pub fn find_identity(flag: Option<&Path>, context: &Context) -> Outcome<PathBuf> {
    if let Some(path) = flag {
        return Ok(path.to_path_buf());
    }
    if let Some(path) = std::env::var_os("SOURCE_AGENT_IDENTITY").filter(|value| !value.is_empty()) {
        return Ok(path.into());
    }
    let missing = || {
        Failure::new("identity-missing", Exit::Identity, "this needs the identity, and none is named")
            .help("-i FILE, SOURCE_AGENT_IDENTITY=FILE, or identity = \"FILE\" under [reader] of the configuration")
    };
    if !Paths::find(context)?.config.exists() {
        return Err(missing());
    }
    let loaded = crate::config::load(context)?;
    let named = loaded.config.reader.as_ref().and_then(|reader| reader.identity.as_deref());
    named.map(|path| loaded.resolve(path)).ok_or_else(missing)
}

/// Reads the identity at `path`.
pub fn read_identity(path: &Path, context: &Context, sources: &passphrase::Sources) -> Outcome<Identity> {
    let as_identity = |failure: Failure| Failure { exit: Exit::Identity, ..failure };
    let text = files::read_secret_text(path, KEY_FILE_BYTES_MAX)
        .map_err(|e| as_identity(Failure::io("read the identity", path, &e)))?;
    let unfit = |e: CryptoError| match e {
        CryptoError::Passphrase => {
            Failure::new("passphrase", Exit::Identity, format!("wrong passphrase for {}", show(path)))
                .help("the recovery sheet makes a new file: source-agent key recover -o NEW.key")
        }
        e => Failure::new("identity", Exit::Identity, format!("cannot use {}: {e}", show(path))).help(
            if text.starts_with("pawl-recipient:") {
                "this is the public side; the identity is the file that keygen -o named"
            } else {
                "the recovery sheet makes a new file: source-agent key recover -o NEW.key"
            },
        ),
    };
    if !Identity::needs_passphrase(&text).map_err(unfit)? {
        if let Ok(Some(mode)) = files::exposure(path) {
            crate::progress::warn(
                context,
                &format!("others may read the identity {}: {mode}; chmod 600 it", show(path)),
            );
        }
        return Identity::from_file(&text, None).map_err(unfit);
    }
    let passphrase = sources.existing(path)?;
    Identity::from_file(&text, Some(&passphrase)).map_err(unfit)
}

/// A recipient in a few words.
pub fn recipient_label(recipient: &Recipient) -> String {
    let kind = match recipient.kem() {
        Kem::XWing => "X-Wing",
        Kem::X25519 => "X25519",
    };
    format!("{} ({kind})", recipient.fingerprint())
}

//! `source-agent keygen`: a new identity.

use crate::cli::{Context, print_json, print_line};
use crate::crypto::identity::Identity;
use crate::crypto::recipient::Recipient;
use crate::keys::files::{NewFiles, must_be_new};
use crate::keys::{paper, passphrase::Sources};
use crate::paths::show;
use crate::report::{Exit, Failure, Outcome};
use shared::format::Kem;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The identity restores; it is never needed on a machine that is backed up. FILE
with .pub for its ending holds the recipient, which is public: copy that one
to the machines to back up.

Example:
  source-agent keygen -o ~/backup.key --paper backup-key.html")]
pub struct KeygenArgs {
    /// Write the identity to FILE, the recipient to FILE with .pub for its ending
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Leave the identity without a passphrase
    #[arg(long)]
    pub no_passphrase: bool,
    /// Write a recovery sheet too: print it, then delete it
    #[arg(long, value_name = "FILE.html")]
    pub paper: Option<PathBuf>,
    /// A short recipient of X25519 alone, not safe against quantum computers
    #[arg(long)]
    pub x25519: bool,
}

/// An identity about to be written.
pub(super) struct Request<'a> {
    pub output: &'a Path,
    pub no_passphrase: bool,
    pub paper: Option<&'a Path>,
    pub kem: Kem,
}

pub fn run(args: &KeygenArgs, context: &Context) -> Outcome<Exit> {
    let kem = if args.x25519 { Kem::X25519 } else { Kem::XWing };
    let request =
        Request { output: &args.output, no_passphrase: args.no_passphrase, paper: args.paper.as_deref(), kem };
    request.check()?;
    let identity = Identity::random();
    let mut files = NewFiles::default();
    let recipient = request.write(&identity, &mut files)?;
    files.keep();
    request.tell(&recipient, context)?;
    Ok(Exit::Done)
}

impl Request<'_> {
    /// `X.key` → `X.pub`.
    pub fn public_path(&self) -> PathBuf {
        self.output.with_extension("pub")
    }

    /// Refuses what can be refused before anybody types a passphrase.
    pub fn check(&self) -> Outcome<()> {
        let public = self.public_path();
        if public == self.output || self.paper.is_some_and(|paper| paper == self.output || paper == public) {
            let message = format!("{} would be both private and public", show(self.output));
            return Err(Failure::new("key-name", Exit::Usage, message).help("choose another name: -o backup.key"));
        }
        must_be_new(self.output)?;
        must_be_new(&public)?;
        self.paper.map_or(Ok(()), must_be_new)
    }

    /// Asks for the passphrase and writes the files.
    pub fn write(&self, identity: &Identity, files: &mut NewFiles) -> Outcome<Recipient> {
        let passphrase = if self.no_passphrase { None } else { Some(Sources::of_process().new_one()?) };
        let recipient = identity.recipient(self.kem);
        files.secret(self.output, &identity_text(identity, passphrase.as_ref())?)?;
        files.public(&self.public_path(), &format!("{recipient}\n"))?;
        if let Some(paper) = self.paper {
            files.secret(paper, &paper::sheet(identity, &recipient, &today()))?;
        }
        Ok(recipient)
    }

    /// Says what was written.
    pub fn tell(&self, recipient: &Recipient, context: &Context) -> Outcome<()> {
        let public = self.public_path();
        if context.json {
            return print_json(&serde_json::json!({
                "message_type": "summary",
                "identity_file": show(self.output),
                "encrypted": !self.no_passphrase,
                "recipient_file": show(&public),
                "recipient": recipient.to_string(),
                "fingerprint": recipient.fingerprint(),
                "paper_file": self.paper.map(show),
            }));
        }
        let how = if self.no_passphrase { "WITHOUT a passphrase" } else { "encrypted" };
        print_line(&format!("Private key   {}   ({how}, mode 0600)", show(self.output)))?;
        if let Some(paper) = self.paper {
            print_line(&format!(
                "Recovery      {}   print it, then delete it; it holds the key WITHOUT the passphrase",
                show(paper)
            ))?;
        }
        print_line(&format!("Recipient     {}   (public: copy it to the machines to back up)", show(&public)))?;
        print_line(&format!("Fingerprint   {}", recipient.fingerprint()))
    }
}

/// The text of an identity file.
pub(super) fn identity_text(identity: &Identity, passphrase: Option<&Zeroizing<String>>) -> Outcome<Zeroizing<String>> {
    identity
        .to_file(passphrase.map(|text| text.as_str()))
        .map_err(|e| Failure::new("identity", Exit::Failed, format!("cannot make the identity: {e}")))
}

/// The day, UTC.
pub(super) fn today() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()
}

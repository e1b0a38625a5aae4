//! `source-agent key`: what can be done with an identity.

use crate::cli::keygen::{Request, identity_text, today};
use crate::cli::{Context, print_json, print_line};
use crate::crypto::identity::Identity;
use crate::keys::files::{self, KEY_FILE_BYTES_MAX, NewFiles, must_be_new};
use crate::keys::passphrase::{self, Sources};
use crate::keys::{find_identity, load_identity, paper, read_identity, read_recipient};
use crate::paths::show;
use crate::progress::notice;
use crate::report::{Exit, Failure, Outcome};
use shared::format::Kem;
use shared::sys::durable;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

#[derive(Debug, clap::Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    pub command: KeyCommand,
}

#[derive(Debug, clap::Subcommand)]
pub enum KeyCommand {
    /// Show the recipient of an identity: what sources seal to
    #[command(after_help = "Example:\n  source-agent key recipient -i backup.key > backup.pub")]
    Recipient(RecipientArgs),
    /// Change, set or remove the passphrase of an identity
    #[command(after_help = "\
The old passphrase is asked for on the terminal, or comes from
SOURCE_AGENT_PASSPHRASE_FILE or _COMMAND. Older copies of the file still open
with the old one.

Example:
  source-agent key passphrase -i backup.key")]
    Passphrase(PassphraseArgs),
    /// Write the recovery sheet of an identity: print it, then delete it
    #[command(after_help = "Example:\n  source-agent key paper -i backup.key -o backup-key.html")]
    Paper(PaperArgs),
    /// Make the identity again from the words of its recovery sheet
    #[command(after_help = "\
The words come from standard input, or from FILE; the sheet's own HTML file is
read too. With --check nothing is written: it says whether the sheet fits that
recipient.

Examples:
  source-agent key recover -o backup.key
  source-agent key recover --check backup.pub")]
    Recover(RecoverArgs),
}

#[derive(Debug, clap::Args)]
pub struct RecipientArgs {
    /// The identity; else $SOURCE_AGENT_IDENTITY, else the configuration's
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Write it to FILE
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The short recipient of X25519 alone, not safe against quantum computers
    #[arg(long)]
    pub x25519: bool,
}

#[derive(Debug, clap::Args)]
pub struct PassphraseArgs {
    /// The identity; else $SOURCE_AGENT_IDENTITY, else the configuration's
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Take the new passphrase from the first line of FILE
    #[arg(long, value_name = "FILE", conflicts_with = "no_passphrase")]
    pub new_passphrase_file: Option<PathBuf>,
    /// Leave the identity without a passphrase
    #[arg(long)]
    pub no_passphrase: bool,
}

#[derive(Debug, clap::Args)]
pub struct PaperArgs {
    /// The identity; else $SOURCE_AGENT_IDENTITY, else the configuration's
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Write the sheet to FILE
    #[arg(short, long, value_name = "FILE.html")]
    pub output: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct RecoverArgs {
    /// The words, or the sheet's HTML file; '-' is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub sheet: PathBuf,
    /// Write the identity to FILE, the recipient to FILE with .pub for its ending
    #[arg(short, long, value_name = "FILE", required_unless_present = "check")]
    pub output: Option<PathBuf>,
    /// Leave the identity without a passphrase
    #[arg(long)]
    pub no_passphrase: bool,
    /// Write a short recipient of X25519 alone
    #[arg(long)]
    pub x25519: bool,
    /// Only say whether the words fit this recipient (a file, or text in line)
    #[arg(long, value_name = "RECIPIENT", conflicts_with_all = ["output", "no_passphrase", "x25519"])]
    pub check: Option<String>,
}

pub fn run(args: &KeyArgs, context: &Context) -> Outcome<Exit> {
    match &args.command {
        KeyCommand::Recipient(args) => recipient(args, context),
        KeyCommand::Passphrase(args) => change_passphrase(args, context),
        KeyCommand::Paper(args) => write_paper(args, context),
        KeyCommand::Recover(args) => recover(args, context),
    }
}

fn kem(x25519: bool) -> Kem {
    if x25519 { Kem::X25519 } else { Kem::XWing }
}

fn recipient(args: &RecipientArgs, context: &Context) -> Outcome<Exit> {
    if let Some(path) = &args.output {
        must_be_new(path)?;
    }
    let recipient = load_identity(args.identity.as_deref(), context)?.recipient(kem(args.x25519));
    if let Some(path) = &args.output {
        let mut files = NewFiles::default();
        files.public(path, &format!("{recipient}\n"))?;
        files.keep();
    }
    if context.json {
        print_json(&serde_json::json!({
            "message_type": "recipient",
            "recipient": recipient.to_string(),
            "fingerprint": recipient.fingerprint(),
            "recipient_file": args.output.as_deref().map(show),
        }))?;
    } else if args.output.is_none() {
        print_line(&recipient.to_string())?;
    }
    notice(context, &format!("Fingerprint   {}", recipient.fingerprint()));
    Ok(Exit::Done)
}

fn change_passphrase(args: &PassphraseArgs, context: &Context) -> Outcome<Exit> {
    let path = find_identity(args.identity.as_deref(), context)?;
    let identity = read_identity(&path, context, &Sources::of_process())?;
    let new = match (&args.new_passphrase_file, args.no_passphrase) {
        (Some(file), _) => Some(passphrase::from_file(file)?),
        (None, true) => None,
        // The variables name the old passphrase; the new one is typed.
        (None, false) => Some(
            Sources { terminal: io::stdin().is_terminal(), ..Sources::default() }.new_one().map_err(|failure| {
                Failure { help: None, ..failure }
                    .help("run it on a terminal, or say --new-passphrase-file FILE or --no-passphrase")
            })?,
        ),
    };
    let text = identity_text(&identity, new.as_ref())?;
    // The same identity must come out of what replaces the only copy.
    let again = Identity::from_file(&text, new.as_ref().map(|text| text.as_str()));
    let fits = again.is_ok_and(|again| again.owner_key().verify_key() == identity.owner_key().verify_key());
    if !fits {
        return Err(Failure::new(
            "identity",
            Exit::Failed,
            "the new file would not open again; the old one is untouched",
        ));
    }
    let target = std::fs::canonicalize(&path).map_err(|e| Failure::io("find", &path, &e))?;
    durable::replace(&target, text.as_bytes(), durable::PRIVATE).map_err(|e| Failure::io("write", &path, &e))?;
    let how = if new.is_some() { "opens with the new passphrase" } else { "has NO passphrase now" };
    notice(context, &format!("{} {how}. Copies of the old file open as before.", show(&path)));
    if context.json {
        print_json(&serde_json::json!({
            "message_type": "summary", "identity_file": show(&path), "encrypted": new.is_some(),
        }))?;
    }
    Ok(Exit::Done)
}

fn write_paper(args: &PaperArgs, context: &Context) -> Outcome<Exit> {
    must_be_new(&args.output)?;
    let identity = load_identity(args.identity.as_deref(), context)?;
    let recipient = identity.recipient(Kem::XWing);
    let mut files = NewFiles::default();
    files.secret(&args.output, &paper::sheet(&identity, &recipient, &today()))?;
    files.keep();
    notice(
        context,
        &format!(
            "Recovery      {}   print it, then delete it; it holds the key WITHOUT the passphrase",
            show(&args.output)
        ),
    );
    if context.json {
        print_json(&serde_json::json!({"message_type": "summary", "paper_file": show(&args.output)}))?;
    }
    Ok(Exit::Done)
}

fn recover(args: &RecoverArgs, context: &Context) -> Outcome<Exit> {
    let (wanted, request) = match (&args.check, &args.output) {
        (Some(text), _) => (Some(read_recipient(text, Path::new("."))?), None),
        (None, Some(output)) => {
            let request = Request { output, no_passphrase: args.no_passphrase, paper: None, kem: kem(args.x25519) };
            request.check()?;
            (None, Some(request))
        }
        (None, None) => {
            return Err(Failure::new("usage", Exit::Usage, "name the file to write: -o FILE")
                .help("source-agent key recover -o backup.key"));
        }
    };
    let text = read_words(&args.sheet, context)?;
    let identity = paper::read(&text)?;
    if let Some(wanted) = wanted {
        let found = identity.recipient(wanted.kem());
        if found != wanted {
            let message = "the words are a good sheet, of another identity than this recipient's";
            return Err(Failure::new("sheet-other", Exit::Identity, message)
                .detail(format!("sheet      {}", found.fingerprint()))
                .detail(format!("recipient  {}", wanted.fingerprint())));
        }
        return tell_good(&wanted.fingerprint(), context);
    }
    if let Some(request) = request {
        let mut files = NewFiles::default();
        let recipient = request.write(&identity, &mut files)?;
        files.keep();
        request.tell(&recipient, context)?;
    }
    Ok(Exit::Done)
}

fn tell_good(fingerprint: &str, context: &Context) -> Outcome<Exit> {
    if context.json {
        print_json(&serde_json::json!({"message_type": "summary", "sheet": "good", "fingerprint": fingerprint}))?;
    } else {
        print_line(&format!("The sheet is good: it is the key of {fingerprint}"))?;
    }
    Ok(Exit::Done)
}

/// The text of the sheet. From a terminal it ends with the 24th word.
fn read_words(sheet: &Path, context: &Context) -> Outcome<Zeroizing<String>> {
    let fail = |e: io::Error| Failure::io("read the words from", sheet, &e);
    if sheet != Path::new("-") {
        return files::read_secret_text(sheet, KEY_FILE_BYTES_MAX).map_err(fail);
    }
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return files::read_bounded(stdin.lock(), KEY_FILE_BYTES_MAX).map_err(fail);
    }
    notice(context, "Type the 24 words of the sheet, spaces or line ends between them:");
    let mut text = Zeroizing::new(String::with_capacity(8192));
    while paper::words(&text).split_whitespace().count() < 24 && text.len() < 4096 {
        let mut line = Zeroizing::new(String::with_capacity(1024));
        if stdin.read_line(&mut line).map_err(fail)? == 0 {
            break;
        }
        text.push_str(&line);
        text.push(' ');
    }
    Ok(text)
}

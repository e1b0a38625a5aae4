//! `source-agent init`: configuration, keys and card of a source or a reader.

use crate::cli::keygen::Request;
use crate::cli::{Context, print_json, print_line};
use crate::config::{edit, template};
use crate::crypto::identity::Identity;
use crate::crypto::recipient::Recipient;
use crate::keys::files::{KEY_FILE_BYTES_MAX, NewFiles, must_be_new, read_text};
use crate::keys::{self, CARD_FILE, LINEAGE_FILE, SECRET_FILE, SSH_KEY_FILE};
use crate::paths::{Paths, show};
use crate::progress::{notice, warn};
use crate::report::{Exit, Failure, Outcome};
use shared::card::{SinkCard, SourceCard};
use shared::format::Kem;
use shared::id::{Lineage, SourceName, VerifyKey};
use shared::keyfile;
use shared::signature::SigningKey;
use shared::sys::durable;
use std::path::{Path, PathBuf};

const SIGNING_KEY_FILE: &str = "signing.key";
/// A recipient up to so many characters stands in the configuration itself.
const INLINE_CHARS_MAX: usize = 400;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The source card goes to the operator of the sink (remote-sink enroll); it is
public.

Examples:
  source-agent init --recipient backup.pub
  source-agent init --reader -i ~/backup.key
  source-agent -c /srv/b/config.toml init --recipient backup.pub --name web2")]
pub struct InitArgs {
    /// The sink card, if there is one already: adds the remote 'offsite'
    #[arg(value_name = "SINK-CARD")]
    pub card: Option<String>,
    /// Seal to this recipient: a file, or text in line (repeatable)
    #[arg(long, value_name = "RECIPIENT")]
    pub recipient: Vec<String>,
    /// Seal to all recipients of this file, one a line (repeatable)
    #[arg(long, value_name = "FILE")]
    pub recipients_file: Vec<PathBuf>,
    /// Make an identity too, and seal to it; move FILE to a trusted machine afterwards
    #[arg(long, value_name = "FILE", conflicts_with = "reader")]
    pub new_key: Option<PathBuf>,
    /// Leave the identity of --new-key without a passphrase
    #[arg(long, requires = "new_key")]
    pub no_passphrase: bool,
    /// Write a recovery sheet for --new-key
    #[arg(long, value_name = "FILE.html", requires = "new_key")]
    pub paper: Option<PathBuf>,
    /// An X25519 recipient beside X-Wing ones is meant, though not safe against quantum computers
    #[arg(long)]
    pub mixed_recipients: bool,
    /// This machine restores and is not backed up
    #[arg(long)]
    pub reader: bool,
    /// The identity that commands of this reader use without -i; its .pub file beside it names the owner in the card
    #[arg(short, long, value_name = "FILE", requires = "reader")]
    pub identity: Option<PathBuf>,
    /// The name of this source; default: the host name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// A recipient argument: what it holds, and how the configuration will name it.
struct Named {
    recipients: Vec<Recipient>,
    config: String,
    /// To be written beside the configuration under that name.
    copy: bool,
}

pub fn run(args: &InitArgs, context: &Context) -> Outcome<Exit> {
    let paths = Paths::find(context)?;
    refuse_existing(&paths)?;
    let name = source_name(args.name.as_deref())?;
    let remote: Option<SinkCard> = args.card.as_deref().map(parse_sink_card).transpose()?;
    let mut named = named_recipients(args, &paths)?;
    let new_key = args.new_key.as_deref().map(|output| Request {
        output,
        no_passphrase: args.no_passphrase,
        paper: args.paper.as_deref(),
        kem: Kem::XWing,
    });
    if let Some(request) = &new_key {
        request.check()?;
    } else if named.is_empty() && !args.reader {
        return Err(no_recipient());
    }
    let mut files = NewFiles::default();
    let made = match &new_key {
        None => None,
        Some(request) => Some(request.write(&Identity::random(), &mut files)?),
    };
    if let Some(recipient) = &made {
        named.insert(0, name_new(recipient.clone(), &named));
    }
    let all: Vec<Recipient> = named.iter().flat_map(|one| one.recipients.clone()).collect();
    keys::check_recipients(&all, args.mixed_recipients)?;
    let owner = match (all.first(), args.identity.as_deref()) {
        (Some(first), _) => Some(*first.owner()),
        (None, Some(identity)) => owner_beside(identity, context),
        (None, None) => None,
    };
    make_dirs(&paths)?;
    let card = write_keys(&paths, &name, owner, args.reader, &mut files)?;
    for one in named.iter().filter(|one| one.copy && !args.reader) {
        let lines: String = one.recipients.iter().map(|recipient| format!("{recipient}\n")).collect();
        files.public(&paths.config_dir.join(&one.config), &lines)?;
    }
    let facts = facts(args, &name, &named);
    let mut text = template::render(&facts);
    if let Some(card) = &remote {
        text.push_str(&edit::remote_block("offsite", card));
    }
    // What is written must be what is read: a fault shows here, while everything can still be taken back.
    crate::config::parse(&text, &paths.config)?;
    files.public(&paths.config, &text)?;
    files.keep();
    tell(&card, &facts, &paths, context)?;
    if let (Some(request), Some(recipient), false) = (&new_key, &made, context.json) {
        request.tell(recipient, context)?;
        notice(context, &format!("Move {} to a machine that you trust; nothing here needs it.", show(request.output)));
    }
    Ok(Exit::Done)
}

fn no_recipient() -> Failure {
    Failure::new("no-recipients", Exit::Usage, "nobody could read these backups: no recipient is named").help(
        "make an identity on a trusted machine (source-agent keygen -o backup.key), copy backup.pub here, then: \
         source-agent init --recipient backup.pub; or all on this machine: source-agent init --new-key backup.key",
    )
}

/// An existing configuration, or keys that an earlier one left, are never touched.
fn refuse_existing(paths: &Paths) -> Outcome<()> {
    if std::fs::symlink_metadata(&paths.config).is_ok() {
        let message = format!("{} exists; nothing was changed", show(&paths.config));
        return Err(Failure::new("exists", Exit::Failed, message).help(
            "source-agent config show prints it with the source card; for a second agent name a place: -c DIR/config.toml",
        ));
    }
    let in_config = [SIGNING_KEY_FILE, SSH_KEY_FILE].map(|name| paths.config_dir.join(name));
    let in_state = [SECRET_FILE, LINEAGE_FILE, CARD_FILE].map(|name| paths.state_dir.join(name));
    for path in in_config.iter().chain(&in_state) {
        must_be_new(path).map_err(|failure| Failure { help: None, ..failure }.help(
            "it is the key of an earlier source: put its configuration back, or move its keys and state away to begin a new one",
        ))?;
    }
    Ok(())
}

fn parse_sink_card(text: &str) -> Outcome<SinkCard> {
    text.parse().map_err(|e: shared::card::CardError| {
        let failure = Failure::new("card", Exit::Usage, e.to_string());
        if text.trim_start().starts_with("source-card:") {
            failure.help("this is a source card; init takes the sink's card, which remote-sink enroll prints")
        } else {
            failure.help("paste the whole line that remote-sink enroll printed")
        }
    })
}

/// The name that was asked for, or the host name.
fn source_name(asked: Option<&str>) -> Outcome<SourceName> {
    if let Some(name) = asked {
        return name.parse().map_err(|e: shared::id::NameError| {
            Failure::new("name", Exit::Usage, format!("'{}' is {e}", shared::text::printable(name.as_bytes(), 80)))
        });
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let short = host.split('.').next().unwrap_or_default();
    short.parse().map_err(|_| {
        let host = shared::text::printable(host.as_bytes(), 80);
        Failure::new("name", Exit::Usage, format!("the host name '{host}' cannot be the name of a source"))
            .help("name it: source-agent init --name web1 …")
    })
}

/// Reads all recipients that the flags name, in their order.
fn named_recipients(args: &InitArgs, paths: &Paths) -> Outcome<Vec<Named>> {
    let here = Path::new(".");
    let files = args.recipients_file.iter().map(|path| path.to_string_lossy().into_owned());
    let mut all: Vec<Named> = Vec::new();
    for (text, many) in args.recipient.iter().cloned().map(|text| (text, false)).chain(files.map(|text| (text, true))) {
        let recipients =
            if many { keys::read_recipients(&text, here)? } else { vec![keys::read_recipient(&text, here)?] };
        let in_line = text.starts_with("pawl-recipient:");
        if in_line && text.len() <= INLINE_CHARS_MAX {
            all.push(Named { recipients, config: text.trim().to_owned(), copy: false });
            continue;
        }
        let beside = (!in_line).then(|| name_beside(Path::new(&text), paths)).flatten();
        let copy = beside.is_none();
        let config = beside.unwrap_or_else(|| {
            let stem = if in_line { None } else { Path::new(&text).file_stem().and_then(|stem| stem.to_str()) };
            free_name(stem.unwrap_or("recipient"), &all)
        });
        all.push(Named { recipients, config, copy });
    }
    Ok(all)
}

/// A file that lies beside the configuration already is used where it is.
fn name_beside(path: &Path, paths: &Paths) -> Option<String> {
    let (file, dir) = (path.canonicalize().ok()?, paths.config_dir.canonicalize().ok()?);
    (file.parent()? == dir).then(|| file.file_name()?.to_str().map(str::to_owned)).flatten()
}

fn free_name(stem: &str, taken: &[Named]) -> String {
    let plain = stem.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    let stem = if plain && !stem.starts_with(['.', '-']) { stem } else { "recipient" };
    let names = (1..).map(|n: u32| if n == 1 { format!("{stem}.pub") } else { format!("{stem}-{n}.pub") });
    // The public half of the SSH key lies there too, under a name of its own kind.
    let free = |name: &String| *name != format!("{SSH_KEY_FILE}.pub") && !taken.iter().any(|one| one.config == *name);
    names.into_iter().find(free).unwrap_or_else(|| format!("{stem}.pub"))
}

fn name_new(recipient: Recipient, taken: &[Named]) -> Named {
    Named { recipients: vec![recipient], config: free_name("owner", taken), copy: true }
}

/// A reader's owner key, from the public file beside its identity. Without one the card has none, and that is said.
fn owner_beside(identity: &Path, context: &Context) -> Option<VerifyKey> {
    let public = identity.with_extension("pub");
    let text = read_text(&public, KEY_FILE_BYTES_MAX).ok();
    let owner = text.and_then(|text| text.trim().parse::<Recipient>().ok()).map(|recipient| *recipient.owner());
    if owner.is_none() {
        let line = format!(
            "no recipient stands in {}, so the card names no owner: a sink takes what you sign (trust, vouch, rekey) only \
             where a source's card names you (to write that file before init: source-agent key recipient -i {} -o {0})",
            show(&public),
            show(identity)
        );
        warn(context, &line);
    }
    owner
}

fn make_dirs(paths: &Paths) -> Outcome<()> {
    let shared_mode = if paths.config_dir.starts_with("/etc") { 0o755 } else { 0o700 };
    for (dir, mode) in [(&paths.config_dir, shared_mode), (&paths.state_dir, 0o700), (&paths.cache_dir, 0o700)] {
        durable::create_dir(dir, mode).map_err(|e| Failure::io("create the directory", dir, &e))?;
    }
    let tag = paths.cache_dir.join("CACHEDIR.TAG");
    if !tag.exists() {
        durable::replace(&tag, CACHEDIR_TAG.as_bytes(), durable::PUBLIC).map_err(|e| Failure::io("write", &tag, &e))?;
    }
    Ok(())
}

/// Tells backup programs, this one too, that the directory need not be kept.
const CACHEDIR_TAG: &str =
    "Signature: 8a477f597d28d172789f06886806bc55\n# Cache of source-agent; see bford.info/cachedir\n";

/// Makes and writes the keys; returns the card that carries their public sides.
fn write_keys(
    paths: &Paths,
    name: &SourceName,
    owner: Option<VerifyKey>,
    reader: bool,
    files: &mut NewFiles,
) -> Outcome<SourceCard> {
    let (ssh_text, ssh) = keys::new_ssh_key(&format!("source-agent:{name}"))?;
    let signing = SigningKey::random();
    let card = SourceCard::new(name.clone(), ssh.clone(), owner, &signing);
    let at = |file: &str| paths.config_dir.join(file);
    files.secret(&at(SIGNING_KEY_FILE), &keyfile::write(keyfile::SOURCE_SIGNING_KEY, &signing.seed()))?;
    files.secret(&at(SSH_KEY_FILE), &ssh_text)?;
    files.public(&at(&format!("{SSH_KEY_FILE}.pub")), &format!("{} source-agent:{name}\n", ssh.openssh()))?;
    if !reader {
        let secret = crate::crypto::secret::SourceSecret::random();
        let text = keyfile::write(keyfile::SOURCE_SECRET, secret.as_bytes());
        files.secret(&paths.state_dir.join(SECRET_FILE), &text)?;
        files.secret(&paths.state_dir.join(LINEAGE_FILE), &format!("{}\n", Lineage::random()))?;
    }
    files.public(&paths.state_dir.join(CARD_FILE), &format!("{card}\n"))?;
    Ok(card)
}

/// What the configuration says about this machine.
fn facts(args: &InitArgs, name: &SourceName, named: &[Named]) -> template::Facts {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let root = rustix::process::geteuid().is_root();
    let (usual, exclude): (Vec<PathBuf>, Vec<String>) = if root {
        (
            ["/etc", "/home", "/root", "/srv", "/var"].map(PathBuf::from).into(),
            template::ROOT_EXCLUDES.map(str::to_owned).into(),
        )
    } else {
        let home = home.unwrap_or_else(|| PathBuf::from("/home"));
        let cache = format!("{}/", home.join(".cache").to_string_lossy());
        (vec![home], vec![cache])
    };
    // A path that is missing would make every run incomplete.
    let present: Vec<PathBuf> = usual.iter().filter(|path| path.is_dir()).cloned().collect();
    let set = if present.is_empty() { usual } else { present };
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    template::Facts {
        name: name.to_string(),
        recipients: if args.reader { Vec::new() } else { named.iter().map(|one| one.config.clone()).collect() },
        mixed_recipients: args.mixed_recipients,
        paths: (!args.reader).then_some(set),
        exclude,
        reader: args.reader,
        identity: args.identity.as_deref().map(absolute),
    }
}

fn tell(card: &SourceCard, facts: &template::Facts, paths: &Paths, context: &Context) -> Outcome<()> {
    if context.json {
        return print_json(&serde_json::json!({
            "message_type": "summary",
            "config": show(&paths.config),
            "state_dir": show(&paths.state_dir),
            "name": card.name().as_str(),
            "source_id": card.source_id().to_string(),
            "source_card": card.to_string(),
            "fingerprint": card.fingerprint(),
            "reader": facts.reader,
        }));
    }
    match &facts.paths {
        Some(set) => {
            let set: Vec<String> = set.iter().map(|path| show(path)).collect();
            let line = format!(
                "Wrote {}: edit [[backup.set]] paths (now {}, caches excluded)\n\
                 This machine can write backups and cannot read them.",
                show(&paths.config),
                set.join(" ")
            );
            notice(context, &line);
        }
        None => notice(context, &format!("Wrote {}: this machine restores.", show(&paths.config))),
    }
    let whose = if facts.reader {
        "Source card of this reader (public; the sink's operator enrols it with --role read):"
    } else {
        "Source card (public; for the sink's operator, and for `trust add` on your trusted machine):"
    };
    notice(context, whose);
    print_line(&card.to_string())?;
    print_line(&format!("fingerprint  {}", card.fingerprint()))
}

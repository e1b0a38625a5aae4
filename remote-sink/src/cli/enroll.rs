//! `remote-sink enroll`: lets one source, reader or auditor in, and says what each side must know.
//!
//! Everything is checked before anything is written; enrolling the same card again changes only what is said anew.

use super::{Context, DONE, account};
use crate::authorized_keys::{AccountKeys, Grant, Installed};
use crate::cidr::Cidr;
use crate::cli::card::{Address, HOST_KEYS_MAX, read_host_key, sink_card};
use crate::cli::vault::{Enrolled, Vault};
use crate::config::{Size, iec};
use crate::enrolment::{Enrolment, Reads};
use crate::report::{Failure, exit};
use crate::retention::rules::InForce;
use shared::card::SourceCard;
use shared::id::{SourceName, VerifyKey};
use shared::wire::Role;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What is read of standard input: a card, perhaps with a line around it.
const INPUT_BYTES_MAX: u64 = 64 << 10;

const AFTER: &str = "\
Examples:
  remote-sink enroll 'source-card:1,name=web1,...' --address pawl@sink.example --install
  remote-sink enroll 'source-card:1,name=laptop,...' --role read --install
  source-agent init --recipient backup.pub | remote-sink enroll - --address pawl@sink.example

Compare the fingerprint words with the card's owner, by another way than the card came.
Without --install, add the printed line to ~/.ssh/authorized_keys of the account that serves, or
use `remote-sink listen`, which needs no such line.";

/// Let a source, a reader or an auditor in by its card
///
/// Prints the authorized_keys line and the sink card, each on a line of its own. Both are public.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct EnrollArgs {
    /// The card that `source-agent init` printed; `-` reads it from standard input
    #[arg(value_name = "SOURCE-CARD")]
    pub card: String,
    /// Name in this vault [default: the card's own]
    #[arg(long)]
    pub name: Option<SourceName>,
    /// Add the line to ~/.ssh/authorized_keys of this account
    #[arg(long)]
    pub install: bool,
    /// Where the source reaches this sink, for the sink card [default: this account, this host's name, port 22]
    #[arg(long, value_name = "[USER@]HOST[:PORT]")]
    pub address: Option<String>,
    /// push: append only, reads nothing back; read: restore; audit: prove what is there without reading
    #[arg(long, default_value = "push", value_name = "push|read|audit")]
    pub role: Role,
    /// Bytes that the source may use, for example 500GiB
    #[arg(long, value_name = "SIZE")]
    pub quota: Option<Size>,
    /// Take the key only from this network (repeatable)
    #[arg(long, value_name = "CIDR")]
    pub from: Vec<Cidr>,
    /// For readers and auditors: see this source alone (repeatable) [default: all sources of the card's owner]
    #[arg(long, value_name = "SOURCE")]
    pub of: Vec<SourceName>,
    /// A further host key (.pub file) by which this sink may show itself (repeatable)
    #[arg(long, value_name = "FILE")]
    pub host_key: Vec<PathBuf>,
}

/// What the enrolment was before, for the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    New,
    Same,
    Revoked,
}

pub fn run(args: &EnrollArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    check_flags(args)?;
    let card = read_card(&args.card, context)?;
    let vault = Vault::open_to_change(context.global.root.as_deref())?;
    vault.observe(context);
    let name = args.name.clone().unwrap_or_else(|| card.name().clone());
    let others = vault.enrolments()?;
    let old = others.iter().find(|one| one.name == name).cloned();
    refuse_doubles(&name, &card, &others)?;
    let (enrolment, before) = enrolment(args, card, old, &others)?;
    let one = Enrolled { name, enrolment };

    let program = std::env::current_exe().map_err(|e| Failure::io("find", Path::new("remote-sink"), &e))?;
    let grant = Grant {
        program: &program,
        root: vault.layout.root(),
        source: &one.name,
        role: one.enrolment.role,
        from: &one.enrolment.from,
        key: one.enrolment.card.ssh(),
    };
    let line = grant.line()?;
    let sink = sink_card(&vault, &one)?;
    if args.install && account::served_by_another(vault.layout.root()).is_some() {
        // Root does not write where another account may have laid links.
        return Err(Failure::new(
            "authorized-keys",
            "the vault belongs to another account, and root writes no file of its home",
        )
        .help("leave out --install and add the printed line to that account's ~/.ssh/authorized_keys"));
    }
    let mut account = if args.install { Some(open_account(&grant, context)?) } else { None };
    write(&vault, &one)?;
    let installed = match &mut account {
        Some(account) => Some((account.path().to_owned(), account.install(&grant)?)),
        None => None,
    };
    let told = Told { one: &one, before, line: &line, installed, sink: sink.to_string(), words: sink.fingerprint() };
    if context.global.json { told.json(context) } else { told.text(context, &vault) }
}

fn usage(why: &str) -> Failure {
    Failure::new("usage", why).help("remote-sink enroll --help").exit(exit::USAGE)
}

fn check_flags(args: &EnrollArgs) -> Result<(), Failure> {
    match args.role {
        Role::Mirror => {
            return Err(Failure::new("role", "the role mirror is reserved: this version cannot copy a vault by SSH")
                .help("enroll a reader (--role read), or copy the vault's files with the tools of the machine")
                .exit(exit::USAGE));
        }
        Role::Push if !args.of.is_empty() => {
            return Err(usage("--of is for readers and auditors: a source sees only itself"));
        }
        Role::Read | Role::Audit if args.quota.is_some() => {
            return Err(usage("--quota is for sources: readers and auditors store nothing"));
        }
        _ => {}
    }
    if args.host_key.len() > HOST_KEYS_MAX {
        return Err(usage("too many --host-key: a card holds 8"));
    }
    Ok(())
}

/// The card in the argument or on standard input; words around it are passed over.
fn read_card(text: &str, context: &mut Context<'_>) -> Result<SourceCard, Failure> {
    let mut input = String::new();
    let text = if text == "-" {
        let read = context.input.take(INPUT_BYTES_MAX).read_to_string(&mut input);
        read.map_err(|e| Failure::new("card", format!("cannot read a card from standard input: {e}")))?;
        input.as_str()
    } else {
        text
    };
    let cards: BTreeSet<&str> = text.split_whitespace().filter(|word| word.starts_with("source-card:")).collect();
    match cards.len() {
        0 => Ok(text.trim().parse::<SourceCard>()?),
        1 => Ok(cards.into_iter().next().unwrap_or_default().parse::<SourceCard>()?),
        _ => Err(Failure::new("card", "more than one source card was given").help("enroll them one by one")),
    }
}

/// One SSH key and one signing key belong to one enrolment: what a session may do must not depend on the order of names.
fn refuse_doubles(name: &SourceName, card: &SourceCard, others: &[Enrolled]) -> Result<(), Failure> {
    for other in others {
        let theirs = &other.enrolment.card;
        if other.name == *name {
            if theirs != card {
                return Err(Failure::new(
                    "name-taken",
                    format!("{name} is enrolled with another card ({})", theirs.fingerprint()),
                )
                .help(format!(
                    "this card is {}; if it is another machine choose --name, if someone made new keys ask them first",
                    card.fingerprint()
                )));
            }
            continue;
        }
        let what = if theirs.ssh() == card.ssh() {
            "SSH key"
        } else if theirs.verify_key() == card.verify_key() {
            "signing key"
        } else {
            continue;
        };
        return Err(Failure::new(
            "key-taken",
            format!("the {what} of this card is enrolled already, as {}", other.name),
        )
        .help("one key belongs to one enrolment: make the other role a card of its own (source-agent init --reader)"));
    }
    Ok(())
}

/// The new enrolment: the old one with what was said anew.
fn enrolment(
    args: &EnrollArgs,
    card: SourceCard,
    old: Option<Enrolled>,
    others: &[Enrolled],
) -> Result<(Enrolment, Before), Failure> {
    let (mut new, before) = match old {
        Some(old) if old.enrolment.role != args.role => {
            return Err(Failure::new("role", format!("{} is enrolled with role {}", old.name, old.enrolment.role))
                .help("a role never changes: make a card of its own for the other role (source-agent init --reader)"));
        }
        Some(old) => (old.enrolment.clone(), if old.enrolment.revoked { Before::Revoked } else { Before::Same }),
        None => (fresh(card, args.role), Before::New),
    };
    new.revoked = false;
    if let Some(quota) = args.quota {
        new.quota = Some(quota.bytes());
    }
    if !args.from.is_empty() {
        new.from = args.from.iter().map(ToString::to_string).collect();
    }
    if let Some(address) = &args.address {
        new.address = Some(Address::parse(address)?.to_string());
    }
    if !args.host_key.is_empty() {
        let keys = args.host_key.iter().map(|path| read_host_key(path).map(|key| key.openssh()));
        new.host_keys = keys.collect::<Result<_, _>>()?;
    }
    if matches!(args.role, Role::Read | Role::Audit) && (before == Before::New || !args.of.is_empty()) {
        new.reads = reads(args, new.card.owner(), others)?;
    }
    Ok((new, before))
}

fn fresh(card: SourceCard, role: Role) -> Enrolment {
    let enrolled = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    Enrolment {
        card,
        role,
        quota: None,
        from: Vec::new(),
        reads: Reads::SingleOwner,
        address: None,
        host_keys: Vec::new(),
        enrolled,
        revoked: false,
    }
}

/// Which sources a reader sees: those named, else its owner's, else all if they have one owner.
fn reads(args: &EnrollArgs, owner: Option<&VerifyKey>, others: &[Enrolled]) -> Result<Reads, Failure> {
    let sources = || others.iter().filter(|one| one.enrolment.role == Role::Push);
    if !args.of.is_empty() {
        for name in &args.of {
            if !sources().any(|one| one.name == *name) {
                return Err(Failure::new("no-source", format!("--of {name}: no such source is enrolled"))
                    .help("list them: remote-sink sources")
                    .exit(exit::NO_SUCH));
            }
        }
        let names: BTreeSet<&SourceName> = args.of.iter().collect();
        return Ok(Reads::Sources(names.into_iter().cloned().collect()));
    }
    if let Some(owner) = owner {
        return Ok(Reads::Owner(*owner));
    }
    let owners: BTreeSet<Option<&VerifyKey>> = sources().map(|one| one.enrolment.card.owner()).collect();
    if owners.len() > 1 || owners.contains(&None) {
        return Err(Failure::new(
            "owners",
            "this card names no owner, and the sources of this vault do not have one and the same",
        )
        .help("say which sources it may see: --of SOURCE (repeatable)"));
    }
    Ok(Reads::SingleOwner)
}

/// The account's file, after a check that the line may be added.
fn open_account(grant: &Grant<'_>, context: &Context<'_>) -> Result<AccountKeys, Failure> {
    let home = context.home.as_deref().ok_or_else(|| {
        Failure::new("authorized-keys", "this account has no home directory")
            .help("leave out --install and add the printed line yourself")
    })?;
    let account = AccountKeys::open(home)?;
    account.check(grant)?;
    Ok(account)
}

/// Directories first: an enrolment in place means that a session finds all it needs.
fn write(vault: &Vault, one: &Enrolled) -> Result<(), Failure> {
    let layout = &vault.layout;
    layout.create_source_dirs(&one.name).map_err(|e| Failure::io("make", &layout.source(&one.name), &e))?;
    if let Some(owner) = one.enrolment.card.owner() {
        layout.create_owner_dirs(owner).map_err(|e| Failure::io("make", &layout.owner(owner), &e))?;
    }
    Ok(one.enrolment.write(&layout.enrolment(&one.name))?)
}

/// What is told at the end.
struct Told<'a> {
    one: &'a Enrolled,
    before: Before,
    line: &'a str,
    installed: Option<(PathBuf, Installed)>,
    sink: String,
    words: String,
}

impl Told<'_> {
    fn json(&self, context: &mut Context<'_>) -> Result<u8, Failure> {
        let enrolment = &self.one.enrolment;
        context.json(&serde_json::json!({
            "message_type": "enrolled",
            "name": self.one.name.as_str(),
            "role": enrolment.role.as_str(),
            "quota": enrolment.quota,
            "already": self.before == Before::Same,
            "source_id": enrolment.card.source_id().to_string(),
            "fingerprint": enrolment.card.fingerprint(),
            "authorized_keys": self.line,
            "installed": self.installed.as_ref().map(|(path, _)| path),
            "sink_card": self.sink,
            "sink_fingerprint": self.words,
        }))?;
        DONE
    }

    fn text(&self, context: &mut Context<'_>, vault: &Vault) -> Result<u8, Failure> {
        let (name, enrolment) = (&self.one.name, &self.one.enrolment);
        let what = match enrolment.role {
            Role::Push => {
                let quota = super::sources::quota(self.one, vault)
                    .map_or_else(|| "no quota".into(), |quota| format!("quota {}", iec(quota)));
                format!("role push: append only, {quota}")
            }
            Role::Read => "role read: may restore what it can decrypt".into(),
            role => format!("role {role}"),
        };
        let verb = match self.before {
            Before::New => "Enrolled",
            Before::Same => "Enrolled already:",
            Before::Revoked => "Enrolled again:",
        };
        context.line(format!("{verb} {name} ({what}). Check with its owner:  {}", enrolment.card.fingerprint()))?;
        context.line(match &self.installed {
            Some((path, Installed::Added)) => format!("Added to {}:", path.display()),
            Some((path, Installed::Replaced)) => format!("Replaced in {}:", path.display()),
            Some((path, Installed::AlreadyThere)) => format!("Stands already in {}:", path.display()),
            None => "Line for ~/.ssh/authorized_keys of the account that serves (not needed for `listen`):".into(),
        })?;
        context.line(self.line)?;
        if enrolment.role == Role::Push {
            let rules = InForce::of(&vault.config, name);
            context.remark(match rules.rules.is_set() {
                true => format!("Keeps, by the rules in force: {}", rules.describe()),
                false => format!("Keeps everything until you run: remote-sink retention {name}"),
            })?;
        }
        if enrolment.address.is_none() {
            context.remark("The address in the card is a guess from this host's name: say it with --address.")?;
        }
        context.line(format!("Sink card for {name} (fingerprint {}):", self.words))?;
        context.line(&self.sink)?;
        DONE
    }
}

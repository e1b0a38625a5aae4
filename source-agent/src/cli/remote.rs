//! `source-agent remote`: adds, lists, tests, repins and removes remotes; accepts after an alarm.

pub(super) mod edit;
pub(super) mod probe;

use crate::cli::{Context, print_json, print_line};
use crate::client::{self, Greeting};
use crate::config::{self, Loaded, Place, Remote};
use crate::keys;
use crate::paths::show;
use crate::progress::{notice, warn};
use crate::report::{Exit, Failure, Outcome};
use crate::watch;
use edit::Way;
use shared::card::SinkCard;
use shared::id::Chain;
use shared::limits::REASON_BYTES_MAX;
use shared::sys::{Clock, SystemClock};
use shared::text::printable;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct RemoteArgs {
    #[command(subcommand)]
    pub command: RemoteCommand,
}

#[derive(Debug, clap::Subcommand)]
pub enum RemoteCommand {
    /// Add a sink by its card, and test it
    #[command(after_help = "\
Compare the card's words with the sink's operator, by another way than the
card came.

Examples:
  source-agent remote add offsite sink-card:1,name=web1,...
  source-agent remote add disk sink-card:1,... --path /mnt/disk/vault
  source-agent remote add friend sink-card:1,... --ssh-host friend-backup")]
    Add {
        /// What this machine calls it
        name: String,
        /// The card that `remote-sink enroll` printed
        #[arg(value_name = "SINK-CARD")]
        card: String,
        /// The vault is on this machine, in DIR
        #[arg(long, value_name = "DIR", conflicts_with = "ssh_host")]
        path: Option<PathBuf>,
        /// Reach it with the system's ssh, by this Host of ~/.ssh/config
        #[arg(long, value_name = "HOST")]
        ssh_host: Option<String>,
    },
    /// List the remotes
    #[command(visible_alias = "ls")]
    List,
    /// Connect to remotes and show what they say
    #[command(after_help = "Examples:\n  source-agent remote test\n  source-agent remote test offsite")]
    Test {
        /// Only this one
        name: Option<String>,
    },
    /// Take address, host keys and sink key from a new card
    Repin {
        /// What this machine calls it
        name: String,
        /// The new card of the same sink
        #[arg(value_name = "SINK-CARD")]
        card: String,
    },
    /// Forget a remote; what it holds, and what this machine remembers of it, stays
    #[command(visible_alias = "rm")]
    Remove {
        /// What this machine calls it
        name: String,
    },
    /// After an alarm: go on from what the sink shows, and say why in the next snapshot
    #[command(after_help = "\
The reason is signed into the next snapshot's head and stays there.

Example:
  source-agent remote accept offsite --reason 'web1 runs from an old image'")]
    Accept {
        /// What this machine calls it
        name: String,
        /// Why it is right to go on
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
    },
}

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    match text {
        "" => Err("say in a few words why it is right to go on".into()),
        _ if text.len() > REASON_BYTES_MAX => Err(format!("longer than {REASON_BYTES_MAX} bytes")),
        _ if text.chars().any(char::is_control) => Err("control characters in it".into()),
        _ => Ok(text.to_owned()),
    }
}

pub fn run(args: &RemoteArgs, context: &Context) -> Outcome<Exit> {
    match &args.command {
        RemoteCommand::Add { name, card, path, ssh_host } => {
            let way = match (path, ssh_host) {
                (Some(path), _) => Way::Path(std::path::absolute(path).map_err(|e| Failure::io("find", path, &e))?),
                (None, Some(host)) => Way::SshHost(host.clone()),
                (None, None) => Way::Card,
            };
            add_card(context, name, &parse_card(card)?, &way)
        }
        RemoteCommand::List => list(context),
        RemoteCommand::Test { name } => test(name.as_deref(), context),
        RemoteCommand::Repin { name, card } => repin(context, name, &parse_card(card)?),
        RemoteCommand::Remove { name } => remove(context, name),
        RemoteCommand::Accept { name, reason } => accept(context, name, reason),
    }
}

fn parse_card(text: &str) -> Outcome<SinkCard> {
    text.parse().map_err(|e: shared::card::CardError| {
        Failure::new("sink-card", Exit::Usage, e.to_string())
            .help("paste the whole line that begins with 'sink-card:1,' (remote-sink card NAME prints it again)")
    })
}

/// What people may not have meant: a card of another name (which the operator may have given this source), and a sink
/// that is a remote already (a run with both finds its own session in the way).
fn doubts(loaded: &Loaded, card: &SinkCard) -> Outcome<Vec<String>> {
    let (own, theirs) = (keys::load_card(loaded)?.name().to_string(), &card.name);
    let mut doubts = Vec::new();
    if theirs.as_str() != own {
        doubts.push(format!(
            "this card is for a source called {theirs}, and this machine is called {own}: unless its operator enrolled it under that name, ask for this machine's card"
        ));
    }
    let same = loaded.config.remotes.iter().find(|remote| remote.sink == Some(card.sink));
    if let Some(other) = same.filter(|_| loaded.config.reader.is_none()) {
        let other = &other.name;
        doubts.push(format!(
            "the remote '{other}' is this very sink: a run with both finds its own session in the way; use one at a time (-r), or for another address: source-agent remote repin {other} SINK-CARD"
        ));
    }
    Ok(doubts)
}

/// Adds a remote to the configuration, then tests it.
pub(super) fn add_card(context: &Context, name: &str, card: &SinkCard, way: &Way) -> Outcome<Exit> {
    let loaded = config::load(context)?;
    if loaded.config.remotes.iter().any(|remote| remote.name == name) {
        let message = format!("there is a remote '{}' already", printable(name.as_bytes(), 64));
        return Err(Failure::new("remote-exists", Exit::Usage, message)
            .help("choose another name, or take a new card for it: source-agent remote repin"));
    }
    doubts(&loaded, card)?.iter().for_each(|doubt| warn(context, doubt));
    let text = edit::add(&loaded, name, card, way)?;
    config::edit::save(&loaded, &text)?;
    notice(
        context,
        &format!("Added {name} to {}. The sink's words: {}", show(&loaded.paths.config), card.fingerprint()),
    );
    tested(context, name, "the remote is in the configuration")
}

fn tested(context: &Context, name: &str, done: &str) -> Outcome<Exit> {
    let loaded = config::load(context)?;
    let remote = find(&loaded, name)?;
    let tested = probe::probe(&loaded, remote).and_then(|probe| probe.print(context));
    tested
        .map(|()| Exit::Done)
        .map_err(|failure| failure.detail(format!("{done}; the test failed. Again: source-agent remote test {name}")))
}

pub(super) fn find<'a>(loaded: &'a Loaded, name: &str) -> Outcome<&'a Remote> {
    loaded.config.remotes.iter().find(|remote| remote.name == name).ok_or_else(|| {
        let message = format!("there is no remote '{}'", printable(name.as_bytes(), 64));
        Failure::new("remote-unknown", Exit::Usage, message).help("source-agent remote list")
    })
}

/// Where a remote is, in a few words.
pub(super) fn address(place: &Place) -> String {
    match place {
        Place::Ssh { user, host, port: 22, .. } => format!("{user}@{host}"),
        Place::Ssh { user, host, port, .. } => format!("{user}@{host}:{port}"),
        Place::SshHost { host, .. } => format!("ssh {host}"),
        Place::Path { path, .. } => show(path),
    }
}

fn list(context: &Context) -> Outcome<Exit> {
    let loaded = config::load(context)?;
    let keys = keys::load_source(&loaded).ok();
    for remote in loaded.remotes(context)? {
        let place = loaded.place(remote)?;
        let snapshot = match (&keys, remote.sink) {
            (Some(keys), Some(sink)) => {
                let chain = Chain { source: keys.id, lineage: keys.lineage, sink };
                watch::load(&loaded.paths.state_dir, &chain)?.snapshot
            }
            _ => None,
        };
        let id = snapshot.as_ref().map(|snapshot| snapshot.head);
        if context.json {
            print_json(&serde_json::json!({
                "message_type": "remote",
                "remote": remote.name,
                "address": address(&place),
                "sink": remote.sink.map(|key| shared::text::base64(key.as_bytes())),
                "required": remote.required,
                "snapshot_id": id.map(|id| id.to_string()),
                "short_id": id.map(|id| id.short()),
            }))?;
        } else {
            let required = if remote.required { "required" } else { "optional" };
            let last = id.map_or_else(|| "no snapshot yet".to_owned(), |id| format!("last snapshot {}", id.short()));
            print_line(&format!("{:<12}  {:<32}  {required}  {last}", remote.name, address(&place)))?;
        }
    }
    Ok(Exit::Done)
}

fn test(name: Option<&str>, context: &Context) -> Outcome<Exit> {
    let loaded = config::load(context)?;
    let remotes = match name {
        Some(name) => vec![find(&loaded, name)?],
        None => loaded.remotes(context)?,
    };
    if remotes.is_empty() {
        return Err(loaded.no_remote());
    }
    let mut last = None;
    for remote in remotes {
        match probe::probe(&loaded, remote) {
            Ok(probe) => probe.print(context)?,
            Err(failure) => {
                // One that fails does not hide the others; the last failure ends the command.
                if let Some(earlier) = last.replace(failure) {
                    warn(context, &earlier.to_string());
                }
            }
        }
    }
    last.map_or(Ok(Exit::Done), Err)
}

fn repin(context: &Context, name: &str, card: &SinkCard) -> Outcome<Exit> {
    let loaded = config::load(context)?;
    let remote = find(&loaded, name)?;
    let text = edit::repin(&loaded, remote, card)?;
    config::edit::save(&loaded, &text)?;
    if remote.sink.is_some_and(|old| old != card.sink) {
        warn(
            context,
            &format!(
                "{name}: the sink key is another one: this is a new sink to this machine, with a history of its own"
            ),
        );
    }
    notice(context, &format!("Took the new card for {name}. The sink's words: {}", card.fingerprint()));
    tested(context, name, "the new card is in the configuration")
}

fn remove(context: &Context, name: &str) -> Outcome<Exit> {
    let loaded = config::load(context)?;
    find(&loaded, name)?;
    config::edit::save(&loaded, &edit::remove(&loaded, name)?)?;
    if context.json {
        print_json(&serde_json::json!({"message_type": "remote_removed", "remote": name}))?;
    }
    notice(context, &format!("Removed {name} from {}; the sink keeps what it has", show(&loaded.paths.config)));
    Ok(Exit::Done)
}

fn accept(context: &Context, name: &str, reason: &str) -> Outcome<Exit> {
    let loaded = config::load(context)?;
    let remote = find(&loaded, name)?;
    let keys = keys::load_source(&loaded)?;
    let greeting = Greeting::Push { source: keys.id, lineage: keys.lineage };
    let mut client = client::connect(&loaded, remote, greeting)?;
    let chain = Chain { source: keys.id, lineage: keys.lineage, sink: *client.sink() };
    let dir = &loaded.paths.state_dir;
    let mut state = watch::load(dir, &chain)?;
    let key = keys.signing.verify_key();
    let now = SystemClock.now();
    let what = watch::accept(&mut client, dir, &mut state, &key, reason, now)?;
    if context.json {
        print_json(&serde_json::json!({"message_type": "accepted", "remote": name, "reason": reason, "result": what}))?;
    } else {
        print_line(&format!("{name}  accepted: {what}. The next snapshot says why."))?;
    }
    Ok(Exit::Done)
}

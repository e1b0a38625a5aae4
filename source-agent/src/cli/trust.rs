//! `source-agent trust`: whose snapshots count. With the identity it is written into the owner record on every sink.

use crate::cli::{Context, print_json, print_line};
use crate::owner::record::{self, Note};
use crate::owner::{Origin, SeenHead, TrustedSource, store};
use crate::progress::{notice, warn};
use crate::report::{Exit, Failure, Outcome};
use crate::restore::objects::Objects;
use crate::restore::reading::{Desk, Need, local_time, utc_time};
use crate::restore::view::{View, is_named};
use crate::{config, watch};
use shared::card::SourceCard;
use shared::codec::{List, Text};
use shared::format::OwnerRecord;
use shared::id::{Chain, Lineage};
use shared::signature::Verified;
use shared::sys::{Clock, SystemClock};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct TrustArgs {
    #[command(subcommand)]
    pub command: TrustCommand,
}

#[derive(Debug, clap::Subcommand)]
pub enum TrustCommand {
    /// Trust a source's card
    #[command(after_help = "\
Compare the card's fingerprint words with those that `init` printed on the
source before you trust it. With the identity the card goes into the owner
record on every remote: after a total loss the identity, and an operator who
enrols the new machine, are enough; without, this machine alone trusts it.

Example:
  source-agent trust add source-card:1,name=web1,... -i ~/backup.key")]
    Add {
        /// The card that `source-agent init` printed on the source
        #[arg(value_name = "SOURCE-CARD")]
        card: String,
        /// Trust this lineage of the source as well (32 hex digits; see `snapshots`)
        #[arg(long, value_name = "HEX")]
        lineage: Vec<Lineage>,
        /// The identity
        #[arg(short, long, value_name = "FILE")]
        identity: Option<PathBuf>,
    },
    /// List trusted sources
    #[command(visible_alias = "ls")]
    List {
        /// The identity
        #[arg(short, long, value_name = "FILE")]
        identity: Option<PathBuf>,
    },
    /// End the trust in a source
    #[command(visible_alias = "rm")]
    Remove {
        /// Its name, or the beginning of its id
        source: String,
        /// The identity
        #[arg(short, long, value_name = "FILE")]
        identity: Option<PathBuf>,
    },
    /// After an alarm: forget the heads of a source that this machine remembers at a remote (-r)
    #[command(after_help = "\
Do this only if the sink's operator told you why an older state is shown
there.

Example:
  source-agent trust forget web1 -r offsite --reason 'the sink was set back'")]
    Forget {
        /// Its name, or the beginning of its id
        source: String,
        /// Why it is right; noted in the state directory
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// The identity
        #[arg(short, long, value_name = "FILE")]
        identity: Option<PathBuf>,
    },
}

pub fn run(args: &TrustArgs, context: &Context) -> Outcome<Exit> {
    match &args.command {
        TrustCommand::Add { card, lineage, identity } => add(card, lineage, identity.as_deref(), context),
        TrustCommand::List { identity } => list(identity.as_deref(), context),
        TrustCommand::Remove { source, identity } => remove(source, identity.as_deref(), context),
        TrustCommand::Forget { source, reason, identity } => forget(source, reason, identity.as_deref(), context),
    }
}

fn parse(text: &str) -> Outcome<SourceCard> {
    text.parse().map_err(|e: shared::card::CardError| {
        Failure::new("source-card", Exit::Usage, e.to_string())
            .help("paste the whole line that begins with 'source-card:1,' (on the source: source-agent init prints it)")
    })
}

/// Is an identity named anywhere?
fn has_identity(flag: Option<&std::path::Path>, context: &Context) -> bool {
    flag.is_some() || crate::keys::find_identity(None, context).is_ok()
}

fn add(card: &str, lineages: &[Lineage], identity: Option<&std::path::Path>, context: &Context) -> Outcome<Exit> {
    let card = parse(card)?;
    let mut source = TrustedSource {
        card,
        lineages: lineages.to_vec(),
        since: SystemClock.now(),
        frozen: Vec::new(),
        origin: Origin::Local,
    };
    if !has_identity(identity, context) {
        let loaded = config::load(context)?;
        keep_known_lineages(&loaded.paths.state_dir, &mut source)?;
        store::save(&loaded.paths.state_dir, &source)?;
        told(&source, context)?;
        notice(
            context,
            "Without an identity this machine alone trusts it; with -i FILE it goes into the owner record on every remote.",
        );
        return Ok(Exit::Done);
    }
    let mut desk = Desk::open(context, identity, Need::Identity)?;
    let state_dir = desk.loaded.paths.state_dir.clone();
    let known = desk.trust.find(&source.id()).cloned();
    if let Some(known) = &known {
        known
            .lineages
            .iter()
            .filter(|known| !lineages.contains(known))
            .for_each(|lineage| source.lineages.push(*lineage));
        source.frozen = known.frozen.clone();
        source.since = known.since.min(source.since);
    }
    let id = source.id();
    let first = known.is_none_or(|known| known.lineages.is_empty());
    desk.trust.sources.retain(|other| other.id() != id);
    desk.trust.sources.push(source.clone());
    let view = desk.view_anyway(context)?;
    if first {
        // What the source has signed so far is what the owner, who compares the words now, trusts.
        for fresh in view.fresh.iter().filter(|fresh| fresh.chain.source == id) {
            if !source.lineages.contains(&fresh.chain.lineage) && source.lineages.len() < record::LINEAGES_MAX {
                source.lineages.push(fresh.chain.lineage);
            }
        }
    }
    store::save(&state_dir, &source)?;
    let exit = publish(&mut desk, context, &seen(&view, desk_now()), |note| note.put(&source))?;
    source.origin = Origin::Record;
    told(&source, context)?;
    Ok(exit)
}

fn desk_now() -> i64 {
    SystemClock.now()
}

fn keep_known_lineages(state_dir: &std::path::Path, source: &mut TrustedSource) -> Outcome<()> {
    let known = store::load(state_dir)?.into_iter().find(|known| known.id() == source.id());
    for lineage in known.map(|known| known.lineages).unwrap_or_default() {
        if !source.lineages.contains(&lineage) {
            source.lineages.push(lineage);
        }
    }
    Ok(())
}

fn told(source: &TrustedSource, context: &Context) -> Outcome<()> {
    if context.json {
        return print_json(&json(source));
    }
    print_line(&format!("Trusted {}. Compare with its owner:  {}", source.name(), source.card.fingerprint()))?;
    for lineage in &source.lineages {
        print_line(&format!("  lineage {lineage}"))?;
    }
    Ok(())
}

/// Newest verified heads, for the record.
fn seen(view: &View, now: i64) -> Vec<SeenHead> {
    let head = |fresh: &crate::restore::view::Fresh| {
        let (sequence, head, _) = fresh.newest?;
        let Chain { source, lineage, sink } = fresh.chain;
        Some(SeenHead { source, lineage, sink, sequence, head, time: now })
    };
    view.fresh.iter().filter_map(head).collect()
}

/// Writes the next owner record and leaves it on every remote; older ones that a remote lacks go there first.
fn publish(
    desk: &mut Desk,
    context: &Context,
    heads: &[SeenHead],
    change: impl Fn(&mut Note) -> Outcome<()>,
) -> Outcome<Exit> {
    let state_dir = desk.loaded.paths.state_dir.clone();
    let identity = desk.identity()?;
    let owner = identity.owner_key().verify_key();
    let mut note = match &desk.record {
        Some(newest) => record::read(newest, identity)?,
        None => Note::empty(),
    };
    change(&mut note)?;
    note.remember(heads)?;
    note.written = desk.now;
    note.sinks = sinks(&note, desk);
    let next = record::write(&note, desk.record.as_ref(), identity)?;
    let known = all_records(&mut desk.sinks, &owner)?;
    let mut stored = 0;
    let mut exit = Exit::Done;
    for sink in &mut desk.sinks {
        match record::publish(&mut **sink, &next, &known) {
            Ok(()) => stored += 1,
            Err(failure) => {
                warn(context, &format!("{}\n  the owner record is not stored there", failure.remote(sink.remote())));
                exit = Exit::SomeRemotes;
            }
        }
    }
    if stored == 0 {
        let message = "no remote took the owner record: this machine alone knows the change";
        return Err(Failure::new("owner-record", Exit::Failed, message)
            .help("this reader's card must name the owner (init --reader -i FILE), and the operator must have enrolled it; then run it again"));
    }
    record::remember(&state_dir, &next)?;
    notice(
        context,
        &format!("Owner record {} stored on {stored} of {} remotes.", next.number, desk.sinks.len() + desk.unreached),
    );
    Ok(if desk.unreached > 0 { Exit::SomeRemotes } else { exit })
}

/// The longest row of records that a sink holds: another may lack some.
fn all_records(sinks: &mut [Box<dyn Objects>], owner: &shared::id::VerifyKey) -> Outcome<Vec<Verified<OwnerRecord>>> {
    let mut longest = Vec::new();
    for sink in sinks.iter_mut() {
        let found = record::read_sink(&mut **sink, owner, 0)?.records;
        if found.len() > longest.len() {
            longest = found;
        }
    }
    Ok(longest)
}

/// Remotes by key and address, so that after a total loss the record of one names the others.
fn sinks(note: &Note, desk: &Desk) -> List<Text<{ shared::limits::CARD_BYTES_MAX }>, 256> {
    let mut cards = note.sinks.to_vec();
    for remote in &desk.remotes {
        let Ok(config::Place::Ssh { user, host, port, source, host_keys, .. }) = desk.loaded.place(remote) else {
            continue;
        };
        let Ok(sink) = remote.sink_key() else { continue };
        let card = shared::card::SinkCard { name: source, user, host, port, host_keys, sink };
        if let Ok(text) = Text::new(card.to_string())
            && !cards.contains(&text)
            && cards.len() < 256
        {
            cards.push(text);
        }
    }
    List::new(cards).unwrap_or_else(|_| note.sinks.clone())
}

fn json(source: &TrustedSource) -> serde_json::Value {
    let lineages: Vec<String> = source.lineages.iter().map(ToString::to_string).collect();
    serde_json::json!({
        "name": source.name(),
        "source_id": source.id().to_string(),
        "card": source.card.to_string(),
        "fingerprint": source.card.fingerprint(),
        "lineages": lineages,
        "since": utc_time(source.since),
        "in_owner_record": source.origin == Origin::Record,
    })
}

fn list(identity: Option<&std::path::Path>, context: &Context) -> Outcome<Exit> {
    let sources = if has_identity(identity, context) {
        let desk = Desk::open(context, identity, Need::Identity)?;
        if let Some(record) = &desk.record {
            notice(context, &format!("Owner record {}", record.number));
        }
        desk.trust.sources
    } else {
        let loaded = config::load(context)?;
        notice(context, "Only what this machine trusts; with -i FILE also what the owner record says.");
        store::load(&loaded.paths.state_dir)?
    };
    for source in &sources {
        if context.json {
            print_json(&json(source))?;
            continue;
        }
        let origin = match source.origin {
            Origin::Record => "owner record",
            Origin::Local => "this machine",
            Origin::Own => "itself",
        };
        print_line(&format!(
            "{}  {}  {origin}  since {}",
            source.name(),
            source.card.fingerprint(),
            local_time(source.since)
        ))?;
        print_line(&format!("  {}", source.card))?;
        for lineage in &source.lineages {
            print_line(&format!("  lineage {lineage}"))?;
        }
    }
    Ok(Exit::Done)
}

fn one<'s>(sources: &'s [TrustedSource], text: &str) -> Outcome<&'s TrustedSource> {
    let found: Vec<_> = sources.iter().filter(|source| is_named(source, &source.id(), text)).collect();
    match found[..] {
        [one] => Ok(one),
        [] => Err(Failure::new("no-source", Exit::NotFound, format!("no trusted source is called {text}"))
            .help("source-agent trust list")),
        _ => Err(Failure::new(
            "ambiguous",
            Exit::Usage,
            format!("several sources are called {text}: write the beginning of the id"),
        )),
    }
}

fn remove(text: &str, identity: Option<&std::path::Path>, context: &Context) -> Outcome<Exit> {
    if !has_identity(identity, context) {
        let state_dir = config::load(context)?.paths.state_dir;
        let sources = store::load(&state_dir)?;
        let source = one(&sources, text)?;
        store::remove(&state_dir, &source.id())?;
        let still = "The owner record, if it names it, still does: -i FILE.";
        done(
            context,
            source,
            "trust_removed",
            &format!("This machine does not trust {} any more. {still}", source.name()),
        )?;
        return Ok(Exit::Done);
    }
    let mut desk = Desk::open(context, identity, Need::Identity)?;
    let source = one(&desk.trust.sources, text)?.clone();
    let now = desk.now;
    let exit = publish(&mut desk, context, &[], |note| note.remove(&source.id(), now).map(|_| ()))?;
    store::remove(&desk.loaded.paths.state_dir, &source.id())?;
    done(context, &source, "trust_removed", &format!("{} is not trusted any more.", source.name()))?;
    Ok(exit)
}

/// The result of a change: a sentence, or a JSON line of this type.
fn done(context: &Context, source: &TrustedSource, kind: &str, line: &str) -> Outcome<()> {
    if !context.json {
        return print_line(line);
    }
    let id = source.id().to_string();
    print_json(&serde_json::json!({"message_type": kind, "name": source.name(), "source_id": id}))
}

fn forget(text: &str, reason: &str, identity: Option<&std::path::Path>, context: &Context) -> Outcome<Exit> {
    if context.remotes.is_empty() {
        return Err(Failure::new("usage", Exit::Usage, "say at which remote: -r NAME"));
    }
    let mut desk = Desk::open(context, identity, Need::IfNamed)?;
    let source = one(&desk.trust.sources, text)?.clone();
    let state_dir = desk.loaded.paths.state_dir.clone();
    let sinks: Vec<_> = desk.sinks.iter().map(|sink| sink.sink()).collect();
    for sink in &sinks {
        for lineage in &source.lineages {
            let chain = Chain { source: source.id(), lineage: *lineage, sink: *sink };
            watch::forget_seen(&state_dir, &chain, reason, desk.now)?;
        }
    }
    let id = source.id();
    let mut exit = Exit::Done;
    if desk.trust.heads.iter().any(|seen| seen.source == id && sinks.contains(&seen.sink)) {
        exit = publish(&mut desk, context, &[], |note| {
            note.forget(&id, &sinks);
            Ok(())
        })?;
    }
    let line = format!("Forgot what was remembered of {}; the next listing is taken as it is.", source.name());
    done(context, &source, "trust_forgot", &line)?;
    Ok(exit)
}

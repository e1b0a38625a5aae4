//! `source-agent rekey`: what is there already becomes readable for further recipients.

use crate::cli::{Context, print_json, print_line};
use crate::crypto::recipient::Recipient;
use crate::keys;
use crate::owner::TrustedSource;
use crate::progress::{Progress, counted, notice, warn};
use crate::report::{Exit, Failure, Outcome};
use crate::restore::findings::Findings;
use crate::restore::reading::{Desk, Need};
use crate::restore::rekey::{Rekey, Rekeyed};
use crate::restore::resolve;
use crate::restore::view::{Fresh, Snapshot, View};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Seals the secrets of all sessions that can be restored, of the sources that
this identity owns, to further recipients, and leaves that with the sinks. No
data is sent again. A source seals to them from now on if they stand in
`recipients` of its configuration: begin with that. To leave somebody out of
there takes nothing away that is sealed already.

Examples:
  source-agent rekey --recipient office.pub -i ~/backup.key
  source-agent rekey -n --recipient office.pub -H web1      how many sessions")]
pub struct RekeyArgs {
    /// Who shall read it too: a file that keygen made (.pub), or a short recipient in line (repeatable)
    #[arg(long, value_name = "R", required_unless_present = "recipients_file")]
    pub recipient: Vec<String>,
    /// A file with one recipient a line (repeatable)
    #[arg(long, value_name = "FILE")]
    pub recipients_file: Vec<PathBuf>,
    /// X25519 recipients beside X-Wing ones are meant, though not safe against quantum computers
    #[arg(long)]
    pub mixed_recipients: bool,
    /// Only this source (name, or beginning of its id)
    #[arg(short = 'H', long, value_name = "SOURCE")]
    pub source: Option<String>,
    /// The identity of the sources' owner
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Say what would be done, and do nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

pub fn run(args: &RekeyArgs, context: &Context) -> Outcome<Exit> {
    let recipients = recipients(args)?;
    let mut desk = Desk::open(context, args.identity.as_deref(), Need::Identity)?;
    let view = desk.view(context, args.source.as_deref())?;
    resolve::check_source(&view, &desk.trust, args.source.as_deref(), &desk.remote_names())?;
    let mine = owned(&desk, &view, context)?;
    for recipient in &recipients {
        notice(context, &format!("Sealing to {}", keys::recipient_label(recipient)));
    }
    let (mut whole, mut first, mut present) = (true, None, 0);
    for fresh in mine {
        match chain(args, context, &mut desk, &view, fresh, &recipients, &mut present) {
            Ok(all) => whole &= all,
            Err(failure) if failure.exit.is_signal() => return Err(failure),
            // A full disk or a lost line of one sink is no reason to leave the others as they are.
            Err(failure) => {
                if let Some(failure) = first.replace(failure) {
                    warn(context, &failure.to_string());
                }
            }
        }
    }
    if let Some(failure) = first {
        return Err(failure);
    }
    if present == 0 {
        return Err(nothing());
    }
    if !args.dry_run {
        notice(
            context,
            "Backups seal to it once it stands in `recipients` of the source's configuration. What a source sent \
             before that and after this is sealed by running this command again.",
        );
    }
    Ok(match (whole, view.exit()) {
        (false, _) => Exit::Tampered,
        (true, Exit::Done) if desk.unreached > 0 => Exit::SomeRemotes,
        (true, exit) => exit,
    })
}

/// Chains of the sources that this identity owns; the others are told of.
fn owned<'v>(desk: &Desk, view: &'v View, context: &Context) -> Outcome<Vec<&'v Fresh>> {
    let owner = desk.identity()?.owner_key().verify_key();
    let (mine, others): (Vec<&Fresh>, Vec<&Fresh>) =
        view.fresh.iter().partition(|fresh| desk.trust.sources[fresh.source].card.owner() == Some(&owner));
    let others: BTreeSet<usize> = others.iter().map(|fresh| fresh.source).collect();
    let mut others = others.into_iter().map(|source| not_owner(&desk.trust.sources[source]));
    if mine.is_empty() {
        return Err(others.next().unwrap_or_else(nothing));
    }
    others.for_each(|failure| warn(context, &failure.to_string()));
    Ok(mine)
}

fn not_owner(source: &TrustedSource) -> Failure {
    let message = format!("{} belongs to another owner: only the owner's identity seals it further", source.name());
    Failure::new("not-owner", Exit::Identity, message).help("name the identity of its first recipient with -i FILE")
}

fn nothing() -> Failure {
    let message = "the remotes show no snapshot of a source that is trusted here: nothing was sealed";
    Failure::new("no-snapshot", Exit::NotFound, message).help("source-agent trust list")
}

fn recipients(args: &RekeyArgs) -> Outcome<Vec<Recipient>> {
    let here = Path::new("");
    let mut all = Vec::new();
    for text in &args.recipient {
        all.push(keys::read_recipient(text, here)?);
    }
    for path in &args.recipients_file {
        all.extend(keys::read_recipients(&path.to_string_lossy(), here)?);
    }
    keys::check_recipients(&all, args.mixed_recipients)?;
    if all.is_empty() {
        return Err(Failure::new("recipients", Exit::Usage, "no recipient is named").help("--recipient FILE.pub"));
    }
    Ok(all)
}

/// One chain; says whether all of it could be read.
fn chain(
    args: &RekeyArgs,
    context: &Context,
    desk: &mut Desk,
    view: &View,
    fresh: &Fresh,
    recipients: &[Recipient],
    present: &mut u64,
) -> Outcome<bool> {
    let snapshots: Vec<&Snapshot> =
        view.snapshots.iter().filter(|s| s.sink == fresh.sink && s.head.chain() == fresh.chain).collect();
    let source = desk.trust.sources[fresh.source].clone();
    let remote = desk.remotes[fresh.sink].name.clone();
    let what = format!("{} at {remote}", source.name());
    let later = desk.later.clone();
    let (identity, sink) = (desk.identity.as_ref(), &mut *desk.sinks[fresh.sink]);
    let identity =
        identity.ok_or_else(|| Failure::new("identity-missing", Exit::Identity, "this needs the identity"))?;
    let (mut findings, mut rekeyed) = (Findings::default(), Rekeyed::default());
    let progress = Progress::new(context, &what, None);
    let wraps = later.of(sink, &source, &fresh.chain.lineage, identity)?;
    let (mixed, dry) = (args.mixed_recipients, args.dry_run);
    let rekey = Rekey { source: &source, chain: fresh.chain, identity, recipients, mixed, dry, wraps };
    let done = rekey.run(sink, &snapshots, &mut findings, &progress, &mut rekeyed);
    progress.finish();
    findings.lines().iter().for_each(|line| warn(context, &format!("{what}: {line}")));
    print(context, &source, &remote, &rekeyed, recipients, args.dry_run)?;
    if rekeyed.closed > 0 {
        let sessions = rekeyed.closed;
        warn(
            context,
            &format!("{what}: not sealed to this identity, so left as they are: {}", counted(sessions, "session")),
        );
    }
    done.map_err(|failure| failure.remote(&remote))?;
    if rekeyed.strong > 0 {
        let sessions = rekeyed.strong;
        let sessions = counted(sessions, "session");
        let message = format!("{sessions} that X-Wing alone keeps would be no stronger than X25519");
        let failure = Failure::new("recipients", Exit::Failed, message).remote(&remote);
        return Err(failure.help("they were left as they are; if it is meant: --mixed-recipients"));
    }
    *present += rekeyed.snapshots;
    Ok(findings.is_empty() && rekeyed.closed == 0)
}

fn print(
    context: &Context,
    source: &TrustedSource,
    remote: &str,
    rekeyed: &Rekeyed,
    recipients: &[Recipient],
    dry: bool,
) -> Outcome<()> {
    let Rekeyed { sealed, already, closed, strong, .. } = *rekeyed;
    if context.json {
        return print_json(&serde_json::json!({
            "message_type": "rekeyed",
            "source": source.name(),
            "remote": remote,
            "dry_run": dry,
            "recipients": recipients.iter().map(|recipient| recipient.fingerprint()).collect::<Vec<_>>(),
            "sessions_sealed": sealed,
            "sessions_already": already,
            "sessions_closed": closed,
            "sessions_left_strong": strong,
        }));
    }
    let verb = if dry { "would be sealed" } else { "sealed" };
    let sessions = if sealed == 1 { "session" } else { "sessions" };
    let were = if already == 1 { "was" } else { "were" };
    print_line(&format!(
        "{} at {remote}: {sealed} {sessions} {verb} to more recipients, {already} {were} before",
        source.name()
    ))
}

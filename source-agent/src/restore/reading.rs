//! What every reading command begins with: configuration, connections, identity, trust, and the chains.

use crate::cli::Context;
use crate::client::Greeting;
use crate::config::{self, Loaded, Remote};
use crate::crypto::identity::Identity;
use crate::keys;
use crate::owner::{Origin, Trust, TrustedSource, record, store};
use crate::progress::{detail, notice, warn};
use crate::report::{Exit, Failure, Outcome};
use crate::restore::expired;
use crate::restore::later::Later;
use crate::restore::objects::Objects;
use crate::restore::reader::{Reader, open_root};
use crate::restore::remote::RemoteSink;
use crate::restore::resolve::{self, SnapshotPath};
use crate::restore::view::{self, Memory, Snapshot, View, is_named};
use crate::tree::Root;
use crate::watch::Freshness;
use shared::format::OwnerRecord;
use shared::signature::Verified;
use shared::sys::{Clock, SystemClock};
use shared::wire::Role;
use std::path::Path;
use std::sync::Arc;

/// Snapshots that a sink should not call expired and that are told of one by one.
const EXPIRED_TOLD_MAX: usize = 10;

/// Connections and trust, before any chain is read.
pub struct Desk {
    pub loaded: Arc<Loaded>,
    pub sinks: Vec<Box<dyn Objects>>,
    /// Remotes in the order of `sinks`.
    pub remotes: Vec<Remote>,
    pub greeting: Greeting,
    pub identity: Option<Identity>,
    pub trust: Trust,
    /// The newest owner record, if the identity is at hand.
    pub record: Option<Verified<OwnerRecord>>,
    /// Wraps that owners added, as far as they were asked for.
    pub later: Later,
    /// Remotes that could not be reached.
    pub unreached: usize,
    pub now: i64,
}

/// What a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The identity, and remotes that give blocks.
    Blocks,
    /// The identity.
    Identity,
    /// The identity, if one is named.
    IfNamed,
}

impl View {
    fn tell_failed(&self, context: &Context) {
        for (_, failure) in &self.failed {
            warn(context, &format!("{failure}\n  nothing of this source is used; the others are"));
        }
    }
}

/// Which snapshots a command takes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Filter {
    /// Only snapshots of this source (name, or beginning of its id)
    #[arg(short = 'H', long, value_name = "SOURCE")]
    pub source: Option<String>,
    /// Only snapshots with this tag (repeatable)
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// Only snapshots of the set with exactly this path; a stream NAME has the path /NAME (repeatable)
    #[arg(long, value_name = "PATH")]
    pub path: Vec<std::path::PathBuf>,
}

impl Filter {
    pub fn needs_root(&self) -> bool {
        !self.tag.is_empty() || !self.path.is_empty()
    }
    pub fn takes(&self, root: &Root) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let tag = |tag: &String| root.tags.iter().any(|has| **has == **tag);
        let path = |path: &std::path::PathBuf| root.paths.iter().any(|has| &has[..] == path.as_os_str().as_bytes());
        self.tag.iter().all(tag) && self.path.iter().all(path)
    }
}

fn connect(
    loaded: &Arc<Loaded>,
    context: &Context,
    greeting: Greeting,
) -> Outcome<(Vec<RemoteSink>, Vec<Remote>, usize)> {
    let chosen = loaded.remotes(context)?;
    if chosen.is_empty() {
        return Err(loaded.no_remote());
    }
    let (mut sinks, mut remotes, mut first) = (Vec::new(), Vec::new(), None);
    let mut unreached = 0;
    for remote in chosen {
        match RemoteSink::connect(loaded, remote, greeting, context) {
            Ok(sink) => {
                sinks.push(sink);
                remotes.push(remote.clone());
            }
            Err(failure) if matches!(failure.exit, Exit::Unreachable | Exit::Busy) => {
                unreached += 1;
                match &first {
                    None => first = Some(failure),
                    Some(_) => warn(context, &failure.to_string()),
                }
            }
            Err(failure) => return Err(failure),
        }
    }
    match (sinks.is_empty(), first) {
        (true, Some(failure)) => Err(failure),
        (_, Some(failure)) => {
            warn(context, &format!("{failure}\n  going on with the other remotes"));
            Ok((sinks, remotes, unreached))
        }
        _ => Ok((sinks, remotes, unreached)),
    }
}

/// The remotes that give blocks to us. A source's own enrolment (role push) never does.
fn only_readable(
    sinks: Vec<RemoteSink>,
    remotes: Vec<Remote>,
    context: &Context,
) -> Outcome<(Vec<RemoteSink>, Vec<Remote>)> {
    let all = sinks.into_iter().zip(remotes);
    let (readable, closed): (Vec<_>, Vec<_>) = all.partition(|(sink, _)| sink.role() == Some(Role::Read));
    let refused = |(sink, remote): &(RemoteSink, Remote)| {
        let role = sink.role().map_or("unknown", Role::as_str);
        let message = format!("this machine is enrolled with role {role}: it is given no blocks to read");
        Failure::new("role", Exit::NotFound, message).remote(&remote.name)
    };
    for failure in closed.iter().map(refused) {
        if readable.is_empty() {
            return Err(failure.help(
                "restore on a trusted machine: source-agent init --reader there; its card is enrolled with --role read",
            ));
        }
        warn(context, &format!("{failure}\n  going on with the other remotes"));
    }
    Ok(readable.into_iter().unzip())
}

impl Desk {
    /// Connects to the remotes, then reads the identity (a passphrase is asked for last), then the trust.
    pub fn open(context: &Context, flag: Option<&Path>, need: Need) -> Outcome<Self> {
        let loaded = Arc::new(config::load(context)?);
        let source = match loaded.config.reader {
            Some(_) => None,
            None => Some(keys::load_source(&loaded)?),
        };
        let greeting = match &source {
            Some(keys) => Greeting::Push { source: keys.id, lineage: keys.lineage },
            None => Greeting::Other,
        };
        let wanted = need != Need::IfNamed || flag.is_some() || keys::find_identity(None, context).is_ok();
        if wanted {
            // Look before anybody is asked for anything, and before the network.
            let path = keys::find_identity(flag, context)?;
            std::fs::metadata(&path)
                .map_err(|e| Failure { exit: Exit::Identity, ..Failure::io("read the identity", &path, &e) })?;
        }
        let (mut sinks, mut remotes, unreached) = connect(&loaded, context, greeting)?;
        if need == Need::Blocks {
            (sinks, remotes) = only_readable(sinks, remotes, context)?;
        }
        let identity = if wanted { Some(keys::load_identity(flag, context)?) } else { None };
        let mut desk = Self {
            sinks: sinks.into_iter().map(|sink| Box::new(sink) as Box<dyn Objects>).collect(),
            remotes,
            greeting,
            identity,
            trust: Trust::default(),
            record: None,
            later: Later::default(),
            unreached,
            now: SystemClock.now(),
            loaded,
        };
        if let Some(keys) = source {
            desk.trust.add(TrustedSource {
                card: keys.card,
                lineages: vec![keys.lineage],
                since: 0,
                frozen: Vec::new(),
                origin: Origin::Own,
            });
        }
        desk.load_trust(context)?;
        Ok(desk)
    }

    fn load_trust(&mut self, context: &Context) -> Outcome<()> {
        let state_dir = self.loaded.paths.state_dir.clone();
        let mut local = store::load(&state_dir)?;
        if let Some(identity) = &self.identity {
            let owner = identity.owner_key().verify_key();
            let newest = record::newest(&mut self.sinks, &owner, &state_dir)?;
            newest.notes.iter().for_each(|note| warn(context, note));
            if let Some(found) = newest.record {
                let note = record::read(&found, identity)?;
                let removed = |source: &TrustedSource| {
                    note.removed.iter().any(|gone| gone.source == source.id() && gone.time >= source.since)
                };
                local.retain(|source| !removed(source));
                let trusted = note.trust()?;
                trusted.sources.into_iter().for_each(|source| self.trust.add(source));
                self.trust.heads = trusted.heads;
                // What is remembered was read before: only writing can fail here.
                let mut notes = Vec::new();
                view::if_written(record::remember(&state_dir, &found), &mut notes)?;
                notes.iter().for_each(|note| warn(context, note));
                self.record = Some(found);
            }
        }
        local.into_iter().for_each(|source| self.trust.add(source));
        Ok(())
    }

    pub fn identity(&self) -> Outcome<&Identity> {
        self.identity.as_ref().ok_or_else(|| {
            Failure::new("identity-missing", Exit::Identity, "this needs the identity").help("name it with -i FILE")
        })
    }

    pub fn remote_names(&self) -> Vec<String> {
        self.remotes.iter().map(|remote| remote.name.clone()).collect()
    }

    /// Another connection to a sink.
    pub fn another(&self, sink: usize, context: &Context) -> Outcome<Box<dyn Objects>> {
        let remote = self.remotes.get(sink).ok_or_else(|| Failure::new("internal", Exit::Failed, "no such remote"))?;
        Ok(Box::new(RemoteSink::connect(&self.loaded, remote, self.greeting, context)?))
    }

    /// Reads and checks the chains of the sources that the filter takes; notes go to standard error, and what is wrong
    /// with a source while another is shown. Where nothing is left to show, the failure is the command's.
    pub fn view(&mut self, context: &Context, source: Option<&str>) -> Outcome<View> {
        let mut view = self.look(context, source)?;
        if view.fresh.is_empty() && !view.failed.is_empty() {
            let (_, failure) = view.failed.remove(0);
            view.tell_failed(context);
            return Err(failure);
        }
        view.tell_failed(context);
        Ok(view)
    }

    /// The same for `trust`: whatever is wrong with a view is a warning.
    pub fn view_anyway(&mut self, context: &Context) -> Outcome<View> {
        let view = match self.look(context, None) {
            Err(failure) if failure.exit.is_signal() => return Err(failure),
            Err(failure) => {
                warn(context, &failure.to_string());
                View::default()
            }
            Ok(view) => view,
        };
        view.tell_failed(context);
        Ok(view)
    }

    fn look(&mut self, context: &Context, source: Option<&str>) -> Outcome<View> {
        let memory = Memory { state_dir: &self.loaded.paths.state_dir, now: self.now };
        let wanted = |trusted: &TrustedSource| source.is_none_or(|text| is_named(trusted, &trusted.id(), text));
        let view = view::load(&mut self.sinks, &mut self.trust, &memory, &wanted)?;
        view.notes.iter().for_each(|note| warn(context, note));
        self.warn_of_expired(context, &view);
        Ok(view)
    }

    /// Warns of snapshots that a sink calls expired and should hold: `latest` passes over them.
    fn warn_of_expired(&self, context: &Context, view: &View) {
        let doubtful = expired::doubtful(&view.snapshots, self.now);
        for (at, why) in doubtful.iter().take(EXPIRED_TOLD_MAX) {
            let snapshot = &view.snapshots[*at];
            let (id, remote) = (snapshot.id().short(), &self.remotes[snapshot.sink].name);
            warn(
                context,
                &format!(
                    "{remote}: snapshot {id} is said to be expired, but {why}: ask the sink's operator, and look at your other remotes"
                ),
            );
        }
        if doubtful.len() > EXPIRED_TOLD_MAX {
            warn(context, &format!("and {} more are said to be expired", doubtful.len() - EXPIRED_TOLD_MAX));
        }
    }

    /// The snapshot that a name means.
    pub fn choose(&mut self, view: &View, name: &SnapshotPath, filter: &Filter) -> Outcome<Snapshot> {
        let remotes = self.remote_names();
        let Self { sinks, trust, identity, later, .. } = self;
        let mut fits = |snapshot: &Snapshot| {
            let Some(identity) = identity.as_ref().filter(|_| filter.needs_root()) else { return Ok(true) };
            let source = &trust.sources[snapshot.source];
            Ok(filter.takes(&open_root(&mut *sinks[snapshot.sink], source, &snapshot.head, identity, later)?))
        };
        resolve::choose(view, trust, &name.name, filter.source.as_deref(), &remotes, &mut fits).cloned()
    }

    /// Opens a snapshot for reading.
    pub fn reader(&mut self, snapshot: &Snapshot) -> Outcome<Reader<'_>> {
        let Self { sinks, trust, identity, remotes, later, .. } = self;
        let identity = identity.as_ref().ok_or_else(|| {
            Failure::new("identity-missing", Exit::Identity, "this needs the identity").help("name it with -i FILE")
        })?;
        let source = &trust.sources[snapshot.source];
        Reader::open(&mut *sinks[snapshot.sink], source, snapshot.head.clone(), identity, later)
            .map_err(|failure| resolve::gone(snapshot, source.name(), &remotes[snapshot.sink].name, failure))
    }

    /// Says which snapshot it is, and as of when it is known to be the newest.
    pub fn tell(&self, context: &Context, view: &View, snapshot: &Snapshot) {
        let source = &self.trust.sources[snapshot.source];
        let received =
            snapshot.received().map_or_else(|| "no receipt".into(), |time| format!("received {}", local_time(time)));
        notice(
            context,
            &format!(
                "Snapshot {} of {} at {}, {received}",
                snapshot.id().short(),
                source.name(),
                self.remotes[snapshot.sink].name
            ),
        );
        for fresh in view.fresh.iter().filter(|fresh| fresh.source == snapshot.source) {
            notice(context, &format!("  {}", freshness(fresh, &self.remotes[fresh.sink].name)));
        }
        if !snapshot.usable {
            warn(context, "this snapshot is of a lineage that you have not trusted, or behind a freeze");
        }
        if snapshot.head.is_incomplete() {
            notice(context, "  the source could not read everything when it made this snapshot");
        }
        detail(context, &format!("  id {}, sequence {}", snapshot.id(), snapshot.head.sequence));
    }
}

/// As of when a sink's list is known to be whole.
pub fn freshness(fresh: &view::Fresh, remote: &str) -> String {
    let newest = match fresh.newest {
        Some((sequence, id, Some(received))) => {
            format!("newest snapshot there: number {sequence}, {}, received {}", id.short(), local_time(received))
        }
        Some((sequence, id, None)) => {
            format!("newest snapshot there: number {sequence}, {}, without a receipt", id.short())
        }
        None => "no snapshot there".into(),
    };
    let compared = match fresh.compared {
        None => "no older state than remembered, and not remembered now".into(),
        Some(Freshness::First) => {
            "nothing was remembered of it, so a sink that hides newer ones would not be noticed".into()
        }
        Some(Freshness::Same) => "the newest one remembered".into(),
        Some(Freshness::Newer(count)) => format!("{count} newer than remembered"),
    };
    format!("{remote}: {newest}; {compared}; the sink's clock says {}", local_time(fresh.clock))
}

/// Local time with its offset; out of any calendar, the number.
pub fn local_time(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M %:z").to_string(),
        Err(_) => seconds.to_string(),
    }
}

/// RFC 3339, UTC.
pub fn utc_time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

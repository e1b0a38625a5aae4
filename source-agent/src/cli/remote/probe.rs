//! One remote, asked what it is.

use crate::cli::{Context, print_json, print_line};
use crate::client::{self, Greeting, Speed};
use crate::config::{Loaded, Place, Remote};
use crate::keys;
use crate::progress::{size, warn};
use crate::report::Outcome;
use crate::watch::{self, Verdict};
use shared::id::Chain;
use shared::sys::{Clock, SystemClock};
use shared::text::printable;
use shared::wire::{Role, Welcome};

/// A clock that differs by more is warned about; it is never a reason to refuse.
const SKEW_SECONDS: i64 = 300;

/// What a remote said of itself.
#[derive(Debug)]
pub struct Probe {
    name: String,
    host: String,
    door: &'static str,
    welcome: Welcome,
    skew: i64,
    speed: Speed,
}

/// Who this machine greets sinks as: a source that pushes, or a reader.
pub fn greeting(loaded: &Loaded) -> Outcome<Greeting> {
    if loaded.config.source.recipients.is_empty() {
        return Ok(Greeting::Other);
    }
    let keys = keys::load_source(loaded)?;
    Ok(Greeting::Push { source: keys.id, lineage: keys.lineage })
}

/// Connects, and compares the sink's newest snapshot with what is remembered: an alarm is a failure.
pub fn probe(loaded: &Loaded, remote: &Remote) -> Outcome<Probe> {
    let mut client = client::connect(loaded, remote, greeting(loaded)?)?;
    let skew = client.welcome().clock.saturating_sub(SystemClock.now());
    let speed = client.measure()?;
    if client.welcome().role == Role::Push {
        let keys = keys::load_source(loaded)?;
        let chain = Chain { source: keys.id, lineage: keys.lineage, sink: *client.sink() };
        let state = watch::load(&loaded.paths.state_dir, &chain)?;
        if let Verdict::Alarm(failure) = watch::inspect(&mut client, &state, &keys.signing.verify_key()) {
            return Err(failure);
        }
    }
    let (host, door) = match loaded.place(remote)? {
        Place::Ssh { host, .. } => (host, "host key pinned"),
        Place::SshHost { host, .. } => (host, "host key by ssh"),
        Place::Path { .. } => ("this machine".to_owned(), "no network"),
    };
    Ok(Probe { name: remote.name.clone(), host, door, welcome: client.welcome().clone(), skew, speed })
}

impl Probe {
    fn program(&self) -> String {
        printable(self.welcome.program.as_bytes(), 60)
    }

    fn space(&self) -> String {
        match (self.welcome.used, self.welcome.quota) {
            (Some(used), Some(quota)) => format!("{} of {}", size(used), size(quota)),
            (Some(used), None) => format!("{} used, {} free", size(used), size(self.welcome.free)),
            _ => format!("{} free", size(self.welcome.free)),
        }
    }

    pub fn print(&self, context: &Context) -> Outcome<()> {
        if self.skew.abs() > SKEW_SECONDS {
            warn(context, &format!("{}: the sink's clock differs by {:+} s from this machine's", self.name, self.skew));
        }
        if context.json {
            return print_json(&serde_json::json!({
                "message_type": "remote_test",
                "remote": self.name,
                "result": "ok",
                "host": self.host,
                "program": self.program(),
                "role": self.welcome.role.as_str(),
                "source": self.welcome.name.as_str(),
                "used": self.welcome.used,
                "quota": self.welcome.quota,
                "quota_left": self.welcome.quota_left,
                "free": self.welcome.free,
                "clock_difference_seconds": self.skew,
                "round_trip_microseconds": u64::try_from(self.speed.round_trip.as_micros()).unwrap_or(u64::MAX),
                "bytes_per_second": self.speed.bytes_per_second,
            }));
        }
        let role = match self.welcome.role {
            Role::Push => "append",
            other => other.as_str(),
        };
        print_line(&format!(
            "{}  ok   {} {}   {}   {role}   {}   clock {:+} s   {}/s   round trip {:.1} ms",
            self.name,
            self.host,
            self.program(),
            self.door,
            self.space(),
            self.skew,
            size(self.speed.bytes_per_second),
            self.speed.round_trip.as_secs_f64() * 1000.0
        ))
    }
}

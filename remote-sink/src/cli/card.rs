//! `remote-sink card`: the sink card of an enrolled source, made anew from what holds now.

use super::{Context, DONE, account};
use crate::cli::vault::{Enrolled, Vault};
use crate::report::{Failure, exit};
use shared::card::{SinkCard, SshKey, is_host, is_user};
use shared::text::printable;
use std::path::Path;

/// The host key of this machine's sshd: readable by everyone.
const MACHINE_KEY: &str = "/etc/ssh/ssh_host_ed25519_key.pub";
/// Host keys that one `enroll` may add.
pub const HOST_KEYS_MAX: usize = 8;

/// Print the sink card of a source again
///
/// A sink card says where the sink is and which keys it has; it is public. Give it to the source's administrator:
/// `source-agent remote add NAME CARD`, or `remote repin` when a host key changed.
#[derive(Debug, clap::Args)]
pub struct CardArgs {
    /// The enrolled name
    pub name: String,
    /// Another address than the one of `enroll`; not remembered
    #[arg(long, value_name = "[USER@]HOST[:PORT]")]
    pub address: Option<String>,
}

pub fn run(args: &CardArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    let vault = Vault::open(context.global.root.as_deref())?;
    let mut one = vault.get(&args.name)?;
    if one.enrolment.revoked {
        context.remark(format!("{} is revoked: this sink refuses it.", one.name))?;
    }
    if let Some(address) = &args.address {
        one.enrolment.address = Some(Address::parse(address)?.to_string());
    }
    let card = sink_card(&vault, &one)?;
    if context.global.json {
        context.json(&serde_json::json!({
            "message_type": "sink_card", "name": one.name.as_str(), "sink_card": card.to_string(),
            "fingerprint": card.fingerprint(),
        }))?;
    } else {
        context.line(&card)?;
        context.remark(format!("fingerprint  {}", card.fingerprint()))?;
    }
    DONE
}

/// Where a source reaches this sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub user: String,
    pub host: String,
    pub port: u16,
}

impl Address {
    /// `[USER@]HOST[:PORT]`, IPv6 in brackets; the user is this account, the port 22 when not said.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::new("address", format!("'{}' is not an address: {why}", printable(text.as_bytes(), 100)))
                .help("write USER@HOST or USER@HOST:PORT, for example pawl@sink.example or pawl@[2001:db8::1]:2222")
                .exit(exit::USAGE)
        };
        let (user, rest) = match text.rsplit_once('@') {
            Some((user, rest)) => (user.to_owned(), rest),
            None => (account::name().unwrap_or_else(|| "backup".into()), text),
        };
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, tail) = rest.split_once(']').ok_or_else(|| wrong("the bracket is not closed"))?;
                (
                    host,
                    if tail.is_empty() {
                        None
                    } else {
                        Some(tail.strip_prefix(':').ok_or_else(|| wrong("text behind the bracket"))?)
                    },
                )
            }
            None if rest.matches(':').count() > 1 => (rest, None),
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None => 22,
            Some(port) => {
                port.parse().ok().filter(|port| *port != 0).ok_or_else(|| wrong("its port is not a number"))?
            }
        };
        if !is_user(&user) || !is_host(host) {
            return Err(wrong("its user or host has characters that no card holds"));
        }
        Ok(Self { user, host: host.to_owned(), port })
    }

    /// This account on this machine, by its own name.
    pub fn of_this_machine() -> Result<Self, Failure> {
        let uname = rustix::system::uname();
        let host = uname.nodename().to_string_lossy();
        Self::parse(if is_host(&host) { &host } else { "localhost" })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "{}@[{}]:{}", self.user, self.host, self.port)
        } else {
            write!(f, "{}@{}:{}", self.user, self.host, self.port)
        }
    }
}

/// Reads a public host key as `ssh-keygen` writes it.
pub fn read_host_key(path: &Path) -> Result<SshKey, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::io("read", path, &e))?;
    text.lines().find_map(SshKey::from_openssh).ok_or_else(|| {
        Failure::new("host-key", format!("{} holds no ssh-ed25519 public key", path.display()))
            .help("name the .pub file of an Ed25519 host key, for example /etc/ssh/ssh_host_ed25519_key.pub")
    })
}

/// Either door may be pinned: the machine's sshd, those named at `enroll`, and `listen`.
fn host_keys(vault: &Vault, one: &Enrolled) -> Result<Vec<SshKey>, Failure> {
    let machine = std::fs::read_to_string(MACHINE_KEY).ok().and_then(|line| SshKey::from_openssh(&line));
    let named = one.enrolment.host_keys.iter().filter_map(|line| SshKey::from_openssh(line));
    let mut keys: Vec<SshKey> = Vec::new();
    for key in machine.into_iter().chain(named).chain([vault.listen_key()?]) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// The card for this source.
pub fn sink_card(vault: &Vault, one: &Enrolled) -> Result<SinkCard, Failure> {
    let address = match &one.enrolment.address {
        Some(address) => Address::parse(address)?,
        None => Address::of_this_machine()?,
    };
    Ok(SinkCard {
        name: one.name.clone(),
        user: address.user,
        host: address.host,
        port: address.port,
        host_keys: host_keys(vault, one)?,
        sink: vault.sink()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("backup@sink.example", "backup@sink.example:22"),
            ("backup@sink.example:2222", "backup@sink.example:2222"),
            ("b@[2001:db8::1]:2222", "b@[2001:db8::1]:2222"),
            ("b@2001:db8::1", "b@[2001:db8::1]:22"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(Address::parse(shown).unwrap(), address);
        }
        for bad in [
            "",
            "@",
            "a@",
            "a@-oProxyCommand=x",
            "-l@host",
            "a@host:0",
            "a@host:x",
            "a@host:70000",
            "a@[::1",
            "a@[::1]x",
            "a@h o",
            "a@h;x",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}

//! Who may come in: enrolled, not revoked, from a network that the enrolment allows. Read anew at each connection.

use crate::cidr::Cidr;
use crate::enrolment::Enrolment;
use crate::store::layout::Layout;
use shared::card::SshKey;
use shared::id::SourceName;
use shared::wire::Role;
use std::net::IpAddr;

/// A key that is enrolled, and what its session may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    pub name: SourceName,
    pub role: Role,
}

/// Why a key is not let in; for the operator's log, never for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Unknown,
    Revoked(SourceName),
    /// Not from this address.
    Address(SourceName),
    /// The vault could not be read, or two enrolments claim the key.
    Vault(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => f.write_str("key not enrolled"),
            Self::Revoked(name) => write!(f, "{name} is revoked"),
            Self::Address(name) => write!(f, "{name} is not let in from this address"),
            Self::Vault(why) => f.write_str(why),
        }
    }
}

/// Looks a key up. A broken enrolment of another source shuts nobody else out.
pub fn look_up(layout: &Layout, key: &SshKey, peer: IpAddr) -> Result<Guest, Refusal> {
    let names = layout.source_names().map_err(|e| Refusal::Vault(format!("cannot list the sources: {e}")))?;
    let mut found = None;
    for name in names {
        let Ok(enrolment) = Enrolment::read(&layout.enrolment(&name)) else { continue };
        if enrolment.card.ssh() != key {
            continue;
        }
        if let Some((first, _)) = &found {
            return Err(Refusal::Vault(format!("the same SSH key is enrolled as {first} and as {name}")));
        }
        found = Some((name, enrolment));
    }
    let (name, enrolment) = found.ok_or(Refusal::Unknown)?;
    if enrolment.revoked {
        return Err(Refusal::Revoked(name));
    }
    if !may_come_from(&enrolment.from, peer) {
        return Err(Refusal::Address(name));
    }
    Ok(Guest { name, role: enrolment.role })
}

/// A network that cannot be read lets nobody in.
fn may_come_from(networks: &[String], peer: IpAddr) -> bool {
    networks.is_empty() || networks.iter().filter_map(|net| net.parse::<Cidr>().ok()).any(|net| net.contains(peer))
}

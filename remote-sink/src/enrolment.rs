//! What the operator fixed about one source or reader: `sources/NAME/enrolment.toml`. Written by the operator's
//! commands alone; a session reads it.

use serde::{Deserialize, Serialize};
use shared::card::{CardError, SourceCard};
use shared::id::{SourceName, VerifyKey};
use shared::sys::durable;
use shared::wire::Role;
use std::io;
use std::path::{Path, PathBuf};

/// The only version of the file so far.
pub const CONFIG_VERSION: u32 = 1;
/// Larger files are not enrolments.
const FILE_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    #[error("cannot read or write {path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path} is not an enrolment: {why}")]
    Content { path: PathBuf, why: String },
}

/// Which sources a reader or auditor may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reads {
    /// These, by name.
    Sources(Vec<SourceName>),
    /// All whose card names this owner.
    Owner(VerifyKey),
    /// All, as long as every source of the vault has one and the same owner; evaluated at each session's start.
    SingleOwner,
}

/// One line of the vault's list of who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    pub card: SourceCard,
    pub role: Role,
    /// Bytes; absent = the vault's default.
    pub quota: Option<u64>,
    /// Addresses from which the key may be used, as in authorized_keys.
    pub from: Vec<String>,
    pub reads: Reads,
    /// USER@HOST:PORT as the source reaches this sink, for its sink card.
    pub address: Option<String>,
    /// Host keys beside the machine's own and the listen key, as OpenSSH writes them.
    pub host_keys: Vec<String>,
    /// RFC 3339, for people.
    pub enrolled: String,
    pub revoked: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    config_version: u32,
    card: String,
    role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    from: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    host_keys: Vec<String>,
    enrolled: String,
    revoked: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reads: Option<FileReads>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum FileReads {
    Sources(Vec<String>),
    Owner(String),
}

impl Enrolment {
    /// Reads the file as text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
        if file.config_version != CONFIG_VERSION {
            return Err(format!("config-version {} where this program knows {CONFIG_VERSION}", file.config_version));
        }
        let reads = match file.reads {
            None => Reads::SingleOwner,
            Some(FileReads::Owner(key)) => Reads::Owner(key.parse().map_err(|e| format!("reads.owner: {e}"))?),
            Some(FileReads::Sources(names)) => {
                let names = names.iter().map(|name| name.parse()).collect::<Result<_, _>>();
                Reads::Sources(names.map_err(|e| format!("reads.sources: {e}"))?)
            }
        };
        Ok(Self {
            card: file.card.parse().map_err(|e: CardError| e.to_string())?,
            role: file.role.parse()?,
            quota: file.quota,
            from: file.from,
            reads,
            address: file.address,
            host_keys: file.host_keys,
            enrolled: file.enrolled,
            revoked: file.revoked,
        })
    }

    /// The file's text.
    pub fn to_text(&self) -> Result<String, String> {
        let reads = match &self.reads {
            Reads::SingleOwner => None,
            Reads::Owner(key) => Some(FileReads::Owner(key.to_string())),
            Reads::Sources(names) => Some(FileReads::Sources(names.iter().map(SourceName::to_string).collect())),
        };
        toml::to_string(&File {
            config_version: CONFIG_VERSION,
            card: self.card.to_string(),
            role: self.role.to_string(),
            quota: self.quota,
            from: self.from.clone(),
            address: self.address.clone(),
            host_keys: self.host_keys.clone(),
            enrolled: self.enrolled.clone(),
            revoked: self.revoked,
            reads,
        })
        .map_err(|e| e.to_string())
    }

    pub fn read(path: &Path) -> Result<Self, EnrolmentError> {
        let bytes = std::fs::read(path).map_err(|error| EnrolmentError::Io { path: path.into(), error })?;
        Self::from_bytes(&bytes).map_err(|why| EnrolmentError::Content { path: path.into(), why })
    }

    /// Reads the file as bytes, bounded.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > FILE_BYTES_MAX {
            return Err("it is too large".into());
        }
        Self::parse(std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8")?)
    }

    /// Replaces the file durably. Operator's commands alone call this.
    pub fn write(&self, path: &Path) -> Result<(), EnrolmentError> {
        let text = self.to_text().map_err(|why| EnrolmentError::Content { path: path.into(), why })?;
        durable::replace_as(path, text.as_bytes(), durable::PRIVATE, durable::Owner::Directory)
            .map_err(|error| EnrolmentError::Io { path: path.into(), error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::card::SshKey;
    use shared::signature::SigningKey;

    fn enrolment(reads: Reads) -> Enrolment {
        let key = SigningKey::from_seed(&[1; 32]);
        let ssh = SshKey::from_ed25519(&[2; 32]);
        Enrolment {
            card: SourceCard::new("web1".parse().unwrap(), ssh, Some(VerifyKey::new([3; 32])), &key),
            role: Role::Read,
            quota: Some(5 << 30),
            from: vec!["192.0.2.0/24".into()],
            reads,
            address: Some("backup@sink.example:22".into()),
            host_keys: vec!["ssh-ed25519 AAAA".into()],
            enrolled: "2026-11-21T23:40:00Z".into(),
            revoked: false,
        }
    }

    #[test]
    fn comes_back_and_refuses_unknown_keys() {
        let owner = Reads::Owner(VerifyKey::new([7; 32]));
        let sources = Reads::Sources(vec!["web1".parse().unwrap(), "db".parse().unwrap()]);
        for reads in [owner, sources, Reads::SingleOwner] {
            let before = enrolment(reads);
            let text = before.to_text().unwrap();
            assert_eq!(Enrolment::parse(&text).unwrap(), before, "{text}");
            assert!(Enrolment::parse(&format!("extra = 1\n{text}")).is_err());
            assert!(Enrolment::parse(&text.replace("config-version = 1", "config-version = 2")).is_err());
            assert!(
                Enrolment::parse(&text.replace("sources = [\"web1\"", "sources = [\"../web1\"")).is_err()
                    || !text.contains("sources =")
            );
        }
    }
}

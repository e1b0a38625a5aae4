//! The vault that a command works on: found, locked where it writes, its keys and enrolments read.

use crate::cli::Context;
use crate::config::Config;
use crate::enrolment::Enrolment;
use crate::journal::{Journal, Moment};
use crate::listen;
use crate::report::{Failure, exit};
use crate::retention::observe;
use crate::retention::vault::{Desk, RetentionError, Source};
use crate::store::directory::Root;
use crate::store::layout::Layout;
use rustix::fs::{FlockOperation, flock};
use shared::card::SshKey;
use shared::id::{SourceName, VerifyKey};
use shared::keyfile;
use shared::signature::SigningKey;
use shared::wire::Role;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Where the machine's configuration may be, best first.
fn config_files() -> Vec<PathBuf> {
    let home = || super::account::home().map(|home| home.join(".config"));
    let user = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
    let system = PathBuf::from("/etc/remote-sink");
    let dirs =
        if rustix::process::geteuid().is_root() { vec![system] } else { user.into_iter().chain([system]).collect() };
    dirs.into_iter().map(|dir| dir.join("config.toml")).collect()
}

/// The vault's directory, absolute: the flag or variable, else the configuration file.
pub fn root(flag: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(root) = flag {
        return std::path::absolute(root).map_err(|e| Failure::io("find", root, &e));
    }
    for file in config_files() {
        if let Some(config) = Config::load(&file)? {
            return named_root(config, &file);
        }
    }
    Err(Failure::new("no-vault", "no vault was named")
        .help(
            "add --root DIR, set REMOTE_SINK_ROOT, or put root = \"DIR\" under [store] in /etc/remote-sink/config.toml",
        )
        .exit(exit::USAGE))
}

/// The machine's file says where the vault is and nothing else: a rule that is not read must not seem to hold.
fn named_root(mut config: Config, file: &Path) -> Result<PathBuf, Failure> {
    let wrong = |why: &str| Failure::new("config", format!("{}: {why}", file.display()));
    let root = config.store.root.take().ok_or_else(|| wrong("it has no root under [store]"))?;
    if !root.is_absolute() {
        return Err(wrong("[store] root is not an absolute path"));
    }
    if config != Config::empty() {
        return Err(wrong("only [store] root is read from this file")
            .help(format!("move the rest into {}", root.join("vault.toml").display())));
    }
    Ok(root)
}

/// An existing vault.
#[derive(Debug)]
pub struct Vault {
    pub layout: Layout,
    pub config: Config,
    _lock: Option<File>,
}

/// One enrolment with the name that it has in this vault.
#[derive(Debug, Clone)]
pub struct Enrolled {
    pub name: SourceName,
    pub enrolment: Enrolment,
}

impl Vault {
    /// Opens a vault to read from it.
    pub fn open(flag: Option<&Path>) -> Result<Self, Failure> {
        let root = root(flag)?;
        let layout = Layout::new(&root);
        match std::fs::metadata(layout.config()) {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(Failure::new("no-vault", format!("{} is no vault: it has no vault.toml", root.display()))
                    .help(format!("make one: remote-sink init --root {}", root.display())));
            }
            Err(e) => return Err(Failure::io("open", &layout.config(), &e)),
        }
        let config = Config::of_vault(&root)?;
        Ok(Self { layout, config, _lock: None })
    }

    /// Opens a vault to change what only operators change; a second such command waits.
    pub fn open_to_change(flag: Option<&Path>) -> Result<Self, Failure> {
        let mut vault = Self::open(flag)?;
        let dir = vault.layout.operator();
        let file = File::open(&dir).map_err(|e| Failure::io("open", &dir, &e))?;
        flock(&file, FlockOperation::LockExclusive).map_err(|e| Failure::io("lock", &dir, &e.into()))?;
        vault._lock = Some(file);
        Ok(vault)
    }

    /// Looks at what is new, as every command does that changes something. A failure is told and stops nothing.
    pub fn observe(&self, context: &Context<'_>) {
        match self.desk().and_then(|mut desk| Ok(observe::observe(&mut desk)?)) {
            Ok(seen) => seen.failed.iter().for_each(|(name, e)| context.warn(format!("{name} was not observed: {e}"))),
            Err(failure) => context.warn(format!("nothing was observed: {}", failure.message)),
        }
    }

    /// What the commands of retention work on; a source whose enrolment cannot be read is not among it. The vault must be
    /// open to change.
    pub fn desk(&self) -> Result<Desk<'_>, Failure> {
        let root = Root::open(self.layout.root()).map_err(RetentionError::Store)?;
        let pushing = self.all()?.0.into_iter().filter(|one| one.enrolment.role == Role::Push);
        let sources = pushing.map(|one| Source::new(&root, &one.name, &one.enrolment)).collect();
        let journal = Journal::open(&self.layout)?;
        if let Some(path) = &journal.cut {
            let path = path.display();
            eprintln!("warning: the last entry of the operator's journal was cut off; what is left of it is in {path}");
        }
        let (layout, config, sink) = (&self.layout, &self.config, self.sink()?);
        Ok(Desk { layout, config, root, sink, sources, journal, now: Moment::now() })
    }

    /// Every enrolment that can be read, and the failures of those that cannot.
    pub fn all(&self) -> Result<(Vec<Enrolled>, Vec<Failure>), Failure> {
        let names = self.layout.source_names().map_err(|e| Failure::io("list", &self.layout.sources(), &e))?;
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for name in names {
            let path = self.layout.enrolment(&name);
            // A directory without an enrolment is an `enroll` that was interrupted.
            if !path.exists() {
                continue;
            }
            match Enrolment::read(&path) {
                Ok(enrolment) => good.push(Enrolled { name, enrolment }),
                Err(e) => bad.push(e.into()),
            }
        }
        Ok((good, bad))
    }

    /// Every enrolment; one that cannot be read is a failure.
    pub fn enrolments(&self) -> Result<Vec<Enrolled>, Failure> {
        let (good, bad) = self.all()?;
        bad.into_iter().next().map_or(Ok(good), Err)
    }

    /// The enrolment of this name, if there is one.
    pub fn find(&self, name: &SourceName) -> Result<Option<Enrolled>, Failure> {
        let path = self.layout.enrolment(name);
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(Enrolled { name: name.clone(), enrolment: Enrolment::read(&path)? }))
    }

    /// The enrolment of this name; a missing one is exit 10.
    pub fn get(&self, name: &str) -> Result<Enrolled, Failure> {
        let none =
            |why: String| Failure::new("no-source", why).help("list them: remote-sink sources").exit(exit::NO_SUCH);
        let name: SourceName = name.parse().map_err(|e: shared::id::NameError| none(e.to_string()))?;
        self.find(&name)?.ok_or_else(|| none(format!("no source {name} is enrolled")))
    }

    /// These sources, or all when none is named.
    pub fn choose(&self, names: &[String]) -> Result<Vec<Enrolled>, Failure> {
        if names.is_empty() { self.enrolments() } else { names.iter().map(|name| self.get(name)).collect() }
    }

    /// The sink's own key.
    pub fn sink_key(&self) -> Result<SigningKey, Failure> {
        let path = self.layout.sink_key();
        let text = std::fs::read_to_string(&path).map_err(|e| Failure::io("read", &path, &e))?;
        keyfile::read_signing_key(keyfile::SINK_KEY, &Zeroizing::new(text)).map_err(|e| {
            Failure::new("sink-key", format!("{}: {e}", path.display())).help("restore the file from a copy")
        })
    }

    pub fn sink(&self) -> Result<VerifyKey, Failure> {
        Ok(self.sink_key()?.verify_key())
    }

    /// The public host key of `listen`.
    pub fn listen_key(&self) -> Result<SshKey, Failure> {
        Ok(listen::public_key(&self.layout)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_file_names_the_vault_and_nothing_else() {
        let root = |text: &str| named_root(Config::parse(text).unwrap(), Path::new("/etc/x.toml"));
        assert_eq!(root("config-version = 1\n[store]\nroot = '/srv/b'").unwrap(), Path::new("/srv/b"));
        for bad in [
            "",
            "[store]\nroot = 'b'",
            "[store]\nroot = '/b'\nmin-free = '1GiB'",
            "[store]\nroot = '/b'\n[defaults]\nquota = '1GiB'",
        ] {
            assert_eq!(root(&format!("config-version = 1\n{bad}")).unwrap_err().code, "config", "{bad}");
        }
    }
}

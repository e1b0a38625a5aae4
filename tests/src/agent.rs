//! Sources, readers and the owner, each a directory of its own with `config.toml` in it.

use crate::programs;
use crate::run::{Done, Run};
use crate::vault::{Enrolled, Vault};
use shared::card::SourceCard;
use shared::signature::SigningKey;
use source_agent::crypto::secret::SourceSecret;
use std::path::{Path, PathBuf};

/// An identity in a file, without a passphrase.
#[derive(Debug, Clone)]
pub struct Owner {
    pub key: PathBuf,
    pub recipient: PathBuf,
}

impl Owner {
    /// `source-agent keygen`.
    pub fn new(dir: &Path) -> Self {
        let key = dir.join("owner.key");
        Run::new(programs::source_agent()).env("HOME", dir).args(["keygen", "--no-passphrase", "-o"]).arg(&key).ok();
        Self { recipient: dir.join("owner.pub"), key }
    }
}

/// A source or a reader.
#[derive(Debug, Clone)]
pub struct Agent {
    pub dir: PathBuf,
    pub name: String,
    /// The text of its card.
    pub card: String,
    program: PathBuf,
    identity: Option<PathBuf>,
}

impl Agent {
    /// `init` of a source that seals to `owner`.
    pub fn source(dir: &Path, name: &str, owner: &Owner) -> Self {
        Self::init(dir, name, |run| run.arg("--recipient").arg(&owner.recipient))
    }

    /// `init --reader`.
    pub fn reader(dir: &Path, name: &str, owner: &Owner) -> Self {
        let mut agent = Self::init(dir, name, |run| run.arg("--reader"));
        agent.identity = Some(owner.key.clone());
        agent
    }

    fn init(dir: &Path, name: &str, more: impl Fn(Run) -> Run) -> Self {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let mut agent =
            Self { dir, name: name.into(), card: String::new(), program: programs::source_agent(), identity: None };
        let done = more(agent.run().args(["init", "--name", name])).ok();
        agent.card = done.line("source-card:");
        agent
    }

    pub fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }
    pub fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    /// Runs this copy of the program instead; it starts the `remote-sink` that lies beside it.
    pub fn with_program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// The same agent from another directory: a copy made with [`Agent::clone_to`].
    pub fn at(&self, dir: &Path) -> Self {
        Self { dir: dir.to_owned(), ..self.clone() }
    }

    /// Copies configuration, keys, state and cache: what an image of the machine holds.
    pub fn clone_to(&self, dir: &Path) -> Self {
        crate::tree::copy(&self.dir, dir);
        self.at(dir)
    }

    /// `source-agent -c DIR/config.toml`. Programs that lie in DIR come before the system's.
    pub fn run(&self) -> Run {
        let path = format!("{}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", self.dir.display());
        Run::new(&self.program).env("HOME", &self.dir).env("PATH", path).arg("-c").arg(self.config())
    }

    /// Command line of the same, for running it under another program.
    pub fn command(&self) -> Vec<std::ffi::OsString> {
        crate::run::args(&[&self.program, &"-c", &self.config()])
    }

    /// Adds the sink card as a remote over SSH; `remote add` may try the remote, so its server should run.
    pub fn add_remote(&self, name: &str, enrolled: &Enrolled) {
        self.run().args(["remote", "add", name, &enrolled.card.to_string()]).ok();
    }

    /// Adds a vault on this machine, reached through pipes.
    pub fn add_path(&self, name: &str, vault: &Vault, enrolled: &Enrolled) {
        let sink = shared::text::base64(enrolled.card.sink.as_bytes());
        let path = vault.root.display();
        self.append(&format!(
            "\n[[remote]]\nname = \"{name}\"\npath = \"{path}\"\nsource = \"{}\"\nsink = \"{sink}\"\n",
            self.name
        ));
    }

    pub fn append(&self, text: &str) {
        let config = std::fs::read_to_string(self.config()).unwrap();
        std::fs::write(self.config(), config + text).unwrap();
    }

    /// Makes this the one configured set.
    pub fn only_set(&self, name: &str, path: &Path) {
        let text = std::fs::read_to_string(self.config()).unwrap();
        let replace = |text: &str, begin: &str, new: &str| {
            let old = text.lines().find(|line| line.starts_with(begin)).expect("a set").to_owned();
            text.replacen(&old, new, 1)
        };
        let text = replace(&text, "name = \"system\"", &format!("name = \"{name}\""));
        let text = replace(&text, "paths = ", &format!("paths = [\"{}\"]", path.display()));
        std::fs::write(self.config(), text).unwrap();
    }

    /// So many tries of a run when its line breaks.
    pub fn attempts(&self, count: u32) {
        let text = std::fs::read_to_string(self.config()).unwrap();
        let old = text.lines().find(|line| line.starts_with("retry = ")).expect("[limits] retry").to_owned();
        let new = format!("retry = {{ attempts = {count}, max-wait = \"2s\" }}");
        std::fs::write(self.config(), text.replace(&old, &new)).unwrap();
    }

    /// `backup PATH`.
    pub fn backup(&self, path: &Path) -> Run {
        self.run().arg("backup").arg(path)
    }

    /// Restores `what` (`latest`, an id, `latest:/path`) into `target`.
    pub fn restore(&self, what: &str, target: &Path) -> Run {
        self.with_identity(self.run().arg("restore")).args([what, "-t"]).arg(target)
    }

    /// Restores one backed-up directory into `target`, so that `target` becomes it.
    pub fn restore_path(&self, snapshot: &str, path: &Path, target: &Path) -> Run {
        let what = [std::ffi::OsStr::new(&format!("{snapshot}:")), path.as_os_str()].concat_os();
        self.with_identity(self.run().arg("restore")).arg(what).arg("-t").arg(target)
    }

    pub fn with_identity(&self, run: Run) -> Run {
        match &self.identity {
            Some(key) => run.arg("-i").arg(key),
            None => run,
        }
    }

    /// A reading command with the identity: `check`, `snapshots`, `ls`…
    pub fn owner_run(&self, words: &[&str]) -> Run {
        self.with_identity(self.run().args(words))
    }

    /// `trust add CARD` with the identity.
    pub fn trust(&self, source: &Agent) {
        self.with_identity(self.run().args(["trust", "add", &source.card])).ok();
    }

    /// Snapshots as JSON values, oldest first as listed.
    pub fn snapshots(&self) -> Vec<serde_json::Value> {
        let done = self.owner_run(&["snapshots", "--json"]).ok();
        let values = done.json();
        match values.as_slice() {
            [serde_json::Value::Array(items)] => items.clone(),
            _ => values
                .into_iter()
                .filter(|value| value.get("id").is_some() || value.get("snapshot_id").is_some())
                .collect(),
        }
    }

    /// Ids of the snapshots, oldest first.
    pub fn snapshot_ids(&self) -> Vec<String> {
        let id = |value: &serde_json::Value| {
            let id = value.get("id").or_else(|| value.get("snapshot_id")).and_then(|id| id.as_str());
            id.unwrap_or_else(|| panic!("a snapshot without an id: {value}")).to_owned()
        };
        self.snapshots().iter().map(id).collect()
    }

    /// The keys that root on the source has.
    pub fn keys(&self) -> Keys {
        Keys::read(&self.dir)
    }

    /// The SSH private key of a remote, as the configuration names it.
    pub fn ssh_key(&self) -> PathBuf {
        let text = std::fs::read_to_string(self.config()).unwrap();
        let line = text.lines().map(str::trim).find(|line| line.starts_with("identity-file"));
        let line = line.unwrap_or_else(|| panic!("no identity-file in {}", self.config().display()));
        self.dir.join(line.split('"').nth(1).expect("a quoted name"))
    }

    /// `backup` must succeed.
    #[track_caller]
    pub fn must_back_up(&self, path: &Path) -> Done {
        self.backup(path).ok()
    }
}

/// What root on the source holds.
pub struct Keys {
    pub card: SourceCard,
    pub signing: SigningKey,
    pub secret: SourceSecret,
    pub lineage: shared::id::Lineage,
}

impl Keys {
    /// Of the agent whose configuration lies in this directory.
    pub fn read(dir: &Path) -> Self {
        let read = |path: PathBuf| std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let state = dir.join("state");
        let card: SourceCard = read(state.join("source.card")).parse().unwrap();
        let signing =
            shared::keyfile::read_signing_key(shared::keyfile::SOURCE_SIGNING_KEY, &read(dir.join("signing.key")))
                .unwrap();
        let secret = shared::keyfile::read(shared::keyfile::SOURCE_SECRET, &read(state.join("source.secret"))).unwrap();
        let lineage = read(state.join("lineage")).trim().parse().unwrap();
        Self { card, signing, secret: SourceSecret::from_bytes(&secret), lineage }
    }
}

/// Joining of texts that may not be UTF-8.
trait ConcatOs {
    fn concat_os(&self) -> std::ffi::OsString;
}
impl ConcatOs for [&std::ffi::OsStr; 2] {
    fn concat_os(&self) -> std::ffi::OsString {
        let mut all = self[0].to_owned();
        all.push(self[1]);
        all
    }
}

/// The usual set: an owner, a vault, one source and one reader, all joined by pipes.
#[derive(Debug)]
pub struct Usual {
    pub place: crate::Place,
    pub owner: Owner,
    pub vault: Vault,
    pub source: Agent,
    pub reader: Agent,
    /// A directory to back up, empty so far.
    pub data: PathBuf,
}

impl Usual {
    pub fn new() -> Self {
        Self::at(crate::Place::new())
    }

    /// The same on a real disk.
    pub fn on_disk() -> Self {
        Self::at(crate::Place::on_disk())
    }

    fn at(place: crate::Place) -> Self {
        let owner = Owner::new(place.path());
        let vault = Vault::new(place.path());
        let source = Agent::source(place.path(), "web1", &owner);
        let enrolled = vault.enroll(&source.card, "push", "backup@127.0.0.1:22", &[]);
        source.add_path("local", &vault, &enrolled);
        let reader = Agent::reader(place.path(), "laptop", &owner);
        let enrolled = vault.enroll(&reader.card, "read", "backup@127.0.0.1:22", &[]);
        reader.add_path("local", &vault, &enrolled);
        reader.trust(&source);
        let data = place.dir("data");
        Self { place, owner, vault, source, reader, data }
    }

    /// Restores the newest snapshot of `data` into a fresh directory and compares.
    #[track_caller]
    pub fn must_restore(&self, target: &str) {
        let target = self.place.join(target);
        self.reader.restore_path("latest", &self.data, &target).ok();
        crate::tree::assert_same(&self.data, &target);
    }
}

impl Default for Usual {
    fn default() -> Self {
        Self::new()
    }
}

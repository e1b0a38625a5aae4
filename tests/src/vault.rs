//! A vault on disk and its operator's commands.

use crate::programs;
use crate::run::{Account, Done, Run};
use shared::card::SinkCard;
use std::path::{Path, PathBuf};

/// A vault of a test, owned by us or by another account.
#[derive(Debug, Clone)]
pub struct Vault {
    pub root: PathBuf,
    pub account: Option<Account>,
    /// The program, where the account can run it.
    pub program: PathBuf,
}

/// What `enroll` printed.
#[derive(Debug, Clone)]
pub struct Enrolled {
    pub card: SinkCard,
    /// The line for authorized_keys.
    pub line: String,
}

impl Vault {
    /// `remote-sink init` in `dir`/vault.
    pub fn new(dir: &Path) -> Self {
        Self::with(dir, "vault", None)
    }

    /// The same for a vault of another name or account.
    pub fn with(dir: &Path, name: &str, account: Option<Account>) -> Self {
        let room = dir.join(format!("{name}-room"));
        std::fs::create_dir_all(&room).unwrap();
        if let Some(account) = &account {
            std::os::unix::fs::chown(&room, Some(account.uid), Some(account.gid)).unwrap();
        }
        let program = programs::remote_sink_in(dir);
        let vault = Self { root: room.join(name), account, program };
        vault.run().arg("init").ok();
        // Tests run on small disks: the reserve has a test of its own.
        let config = vault.root.join("vault.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        if let Some(line) = text.lines().find(|line| line.trim_start().starts_with("min-free")) {
            std::fs::write(&config, text.replace(line, "min-free = \"16MiB\"")).unwrap();
        }
        vault
    }

    /// `remote-sink --root ROOT`.
    pub fn run(&self) -> Run {
        let home = self.root.parent().expect("a vault lies in a room");
        Run::new(&self.program).env("HOME", home).account(self.account.as_ref()).arg("--root").arg(&self.root)
    }

    /// `enroll` with this role; `address` is what the sink card says.
    pub fn enroll(&self, card: &str, role: &str, address: &str, more: &[&str]) -> Enrolled {
        let done = self.enroll_run(card, role, address, more).ok();
        let card = done.line("sink-card:").parse().unwrap_or_else(|e| panic!("{e}\n{}", done.tell()));
        Enrolled { card, line: done.line("restrict,") }
    }

    pub fn enroll_run(&self, card: &str, role: &str, address: &str, more: &[&str]) -> Run {
        self.run().args(["enroll", card, "--role", role, "--address", address]).args(more)
    }

    /// `remote-sink serve`, as sshd would start it.
    pub fn serve(&self, source: &str, role: &str) -> Run {
        let home = self.root.parent().expect("a vault lies in a room");
        let run = Run::new(&self.program).env("HOME", home).account(self.account.as_ref()).arg("serve");
        run.arg("--root").arg(&self.root).args(["--source", source, "--role", role])
    }

    pub fn verify(&self) -> Done {
        self.run().arg("verify").done()
    }

    /// `remote-sink verify` must find nothing.
    #[track_caller]
    pub fn must_be_clean(&self) {
        let done = self.verify();
        assert_eq!(done.exit(), Some(0), "the vault is not clean\n{}", done.tell());
    }

    /// Room of a source or reader.
    pub fn room(&self, source: &str) -> PathBuf {
        self.root.join("sources").join(source)
    }

    /// Files of a shelf of a source, sorted.
    pub fn files(&self, source: &str, shelf: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut dirs = vec![self.room(source).join(shelf)];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    dirs.push(entry.path());
                } else {
                    files.push(entry.path());
                }
            }
        }
        files.sort();
        files
    }

    /// Everything accepted from a source: path and content digest. What is once here must never change.
    pub fn accepted(&self, source: &str) -> std::collections::BTreeMap<PathBuf, blake3::Hash> {
        let shelves = ["archives", "envelopes", "pages", "bodies", "heads", "receipts", "substitutes"];
        let files = shelves.iter().flat_map(|shelf| self.files(source, shelf));
        files.map(|file| (file.clone(), blake3::hash(&std::fs::read(&file).unwrap()))).collect()
    }

    /// Adds a line to `vault.toml`, under a table that may be there already.
    pub fn configure(&self, table: &str, line: &str) {
        let path = self.root.join("vault.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let key = line.split('=').next().unwrap().trim();
        let kept: Vec<&str> = text.lines().filter(|old| old.split('=').next().unwrap().trim() != key).collect();
        let mut text = kept.join("\n");
        let header = format!("[{table}]");
        match kept.iter().any(|old| old.trim() == header) {
            true => text = text.replacen(&header, &format!("{header}\n{line}"), 1),
            false => text.push_str(&format!("\n{header}\n{line}\n")),
        }
        std::fs::write(&path, text + "\n").unwrap();
    }
}

/// Everything accepted before must still be there, the same bytes.
#[track_caller]
pub fn assert_nothing_lost(
    before: &std::collections::BTreeMap<PathBuf, blake3::Hash>,
    after: &std::collections::BTreeMap<PathBuf, blake3::Hash>,
) {
    for (path, digest) in before {
        assert_eq!(after.get(path), Some(digest), "{} was changed or removed", path.display());
    }
}

//! A vault with two sources, and things outside of it.

use remote_sink::enrolment::{Enrolment, Reads};
use remote_sink::store::layout::Layout;
use shared::card::{SourceCard, SshKey};
use shared::keyfile;
use shared::signature::SigningKey;
use shared::sys::durable;
use shared::wire::Role;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub const OWN: &str = "sources/web1/heads/11111111111111111111111111111111-0000000000000000";
pub const OTHER: &str = "sources/web2/heads/22222222222222222222222222222222-0000000000000000";

/// This test and the sink's own program, where every account can start them.
pub struct Programs(TempDir);

impl Programs {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::copy(std::env::current_exe().unwrap(), dir.path().join("test")).unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_remote-sink"), dir.path().join("remote-sink")).unwrap();
        Self(dir)
    }
    pub fn test(&self) -> PathBuf {
        self.0.path().join("test")
    }
}

pub struct Place {
    pub dir: TempDir,
    pub port: u16,
    _listeners: (TcpListener, UnixListener),
}

impl Place {
    pub fn new(user: Option<u32>) -> Self {
        // In memory where there is some: a vault is many directories, each synced.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let path = dir.path();
        std::fs::write(path.join("outside"), b"outside").unwrap();
        vault(&path.join("vault"));
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let unix = UnixListener::bind(path.join("socket")).unwrap();
        if let Some(user) = user {
            give(path, user);
        }
        let port = tcp.local_addr().unwrap().port();
        Self { dir, port, _listeners: (tcp, unix) }
    }

    /// What must be the same afterwards.
    pub fn state(&self) -> Vec<(Vec<u8>, u32, i64, u64)> {
        let files = [format!("vault/{OWN}"), format!("vault/{OTHER}"), "outside".into()];
        let state = |file: &String| {
            let path = self.dir.path().join(file);
            let meta = std::fs::metadata(&path).unwrap();
            (std::fs::read(&path).unwrap(), meta.mode(), meta.mtime_nsec(), meta.nlink())
        };
        files.iter().map(state).collect()
    }
}

fn give(path: &Path, user: u32) {
    std::os::unix::fs::lchown(path, Some(user), Some(user)).unwrap();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), user);
        }
    }
}

fn vault(root: &Path) {
    let layout = Layout::new(root);
    layout.create_vault_dirs().unwrap();
    let text = keyfile::write(keyfile::SINK_KEY, &SigningKey::from_seed(&[42; 32]).seed());
    durable::create_new(&layout.sink_key(), text.as_bytes(), durable::PRIVATE).unwrap();
    durable::create_new(&layout.config(), b"config-version = 1\n", durable::PRIVATE).unwrap();
    let owner = SigningKey::from_seed(&[7; 32]).verify_key();
    layout.create_owner_dirs(&owner).unwrap();
    for (seed, name, role) in [(1, "web1", Role::Push), (2, "web2", Role::Push), (3, "laptop", Role::Read)] {
        let name: shared::id::SourceName = name.parse().unwrap();
        let key = SigningKey::from_seed(&[seed; 32]);
        let card = SourceCard::new(name.clone(), SshKey::from_ed25519(&[seed; 32]), Some(owner), &key);
        layout.create_source_dirs(&name).unwrap();
        let reads = match role {
            Role::Read => Reads::Sources(vec!["web1".parse().unwrap()]),
            _ => Reads::SingleOwner,
        };
        let enrolment = Enrolment {
            card,
            role,
            quota: None,
            from: Vec::new(),
            reads,
            address: None,
            host_keys: Vec::new(),
            enrolled: "2026-11-21T23:40:00Z".into(),
            revoked: false,
        };
        enrolment.write(&layout.enrolment(&name)).unwrap();
    }
    for (file, bytes) in [(OWN, "own"), (OTHER, "other")] {
        let path = root.join(file);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o440)).unwrap();
    }
}

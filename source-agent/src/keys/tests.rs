//! Keys as `init` writes them and as they are refused.

use super::*;
use crate::cli::Cli;
use clap::Parser;
use std::os::unix::fs::PermissionsExt;

fn context(config: &Path) -> Context {
    let config = config.to_str().unwrap();
    Cli::try_parse_from(["source-agent", "-q", "-c", config, "doctor"]).unwrap().context
}

/// A source in a directory of its own.
fn source() -> (tempfile::TempDir, Loaded) {
    let dir = tempfile::tempdir().unwrap();
    let recipient = Identity::random().recipient(Kem::XWing);
    std::fs::write(dir.path().join("backup.pub"), format!("# mine\n{recipient}\n")).unwrap();
    let config = dir.path().join("agent/config.toml");
    let public = dir.path().join("backup.pub");
    let arguments = ["source-agent", "-q", "-c", config.to_str().unwrap(), "init", "--name", "web1", "--recipient"];
    let cli = Cli::try_parse_from(arguments.into_iter().chain([public.to_str().unwrap()])).unwrap();
    let crate::cli::Command::Init(args) = &cli.command else { panic!("not init") };
    crate::cli::init::run(args, &cli.context).unwrap();
    let loaded = crate::config::load(&context(&config)).unwrap();
    (dir, loaded)
}

fn failure(loaded: &Loaded) -> Failure {
    load_source(loaded).err().unwrap()
}

#[test]
fn what_init_made_is_loaded() {
    let (_dir, loaded) = source();
    let keys = load_source(&loaded).unwrap();
    assert_eq!(keys.name.as_str(), "web1");
    assert_eq!(keys.id, keys.card.source_id());
    assert_eq!(keys.card.owner(), Some(keys.recipients[0].owner()));
    let ssh = load_ssh_key(&loaded.resolve(Path::new(SSH_KEY_FILE))).unwrap();
    let public = ssh.public_key().to_openssh().unwrap();
    assert_eq!(SshKey::from_openssh(&public).as_ref(), Some(keys.card.ssh()));
}

#[test]
fn open_or_changed_keys_are_refused() {
    let (_dir, loaded) = source();
    let signing = loaded.resolve(Path::new("signing.key"));
    let private = std::fs::read_to_string(&signing).unwrap();
    std::fs::set_permissions(&signing, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(failure(&loaded).code, "key-mode");
    std::fs::set_permissions(&signing, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&signing, &private[..private.len() - 5]).unwrap();
    assert_eq!(failure(&loaded).code, "key-file");
    // Another signing key than the card's.
    let other = keyfile::write(keyfile::SOURCE_SIGNING_KEY, &SigningKey::random().seed());
    std::fs::write(&signing, &*other).unwrap();
    assert!(failure(&loaded).message.contains("another signing key"));
    std::fs::write(&signing, &private).unwrap();
    load_source(&loaded).unwrap();
    for name in [SECRET_FILE, LINEAGE_FILE, CARD_FILE] {
        let path = loaded.paths.state_dir.join(name);
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, b"x\n").unwrap();
        assert_eq!(failure(&loaded).code, "key-file", "{name}");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(failure(&loaded).code, "state-lost", "{name}");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    load_source(&loaded).unwrap();
}

#[test]
fn an_ssh_key_for_all_to_read_is_refused() {
    let (_dir, loaded) = source();
    let path = loaded.resolve(Path::new(SSH_KEY_FILE));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(load_ssh_key(&path).unwrap_err().code, "key-mode");
}

#[test]
fn recipients_are_read_and_judged() {
    let dir = tempfile::tempdir().unwrap();
    let (ann, bob) = (Identity::random(), Identity::random());
    let (one, two) = (ann.recipient(Kem::XWing), bob.recipient(Kem::X25519));
    std::fs::write(dir.path().join("both"), format!("# two\n\n{one}\n{two}\n")).unwrap();
    std::fs::write(dir.path().join("none"), "# nobody\n").unwrap();
    std::fs::write(dir.path().join("cut"), &one.to_string()[..100]).unwrap();
    std::fs::write(dir.path().join("private"), &**ann.to_file(None).unwrap()).unwrap();
    assert_eq!(read_recipients("both", dir.path()).unwrap(), [one.clone(), two.clone()]);
    assert_eq!(read_recipient(&two.to_string(), dir.path()).unwrap(), two);
    for bad in ["both", "none", "cut", "private", "missing", "pawl-recipient:1,x"] {
        assert_eq!(read_recipient(bad, dir.path()).unwrap_err().exit, Exit::Usage, "{bad}");
    }
    let private = read_recipients("private", dir.path()).unwrap_err().to_string();
    assert!(private.contains("never be on a source"), "{private}");
    let secret = ann.to_file(None).unwrap();
    assert!(!private.contains(secret.trim().rsplit('=').next().unwrap()));

    assert!(check_recipients(&[one.clone(), two.clone()], false).is_err());
    check_recipients(&[one.clone(), two.clone()], true).unwrap();
    check_recipients(&[two.clone(), ann.recipient(Kem::X25519)], false).unwrap();
    assert!(check_recipients(&[one.clone(), one.clone()], false).is_err());
    let many: Vec<Recipient> = (0..17).map(|_| Identity::random().recipient(Kem::X25519)).collect();
    assert!(check_recipients(&many, false).is_err());
    check_recipients(&many[..16], false).unwrap();
}

#[test]
fn an_identity_is_looked_for_before_anybody_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.key");
    let context = context(&dir.path().join("config.toml"));
    // No source of a passphrase: whoever asked first would fail with another code.
    let nobody = passphrase::Sources::default();
    assert_eq!(read_identity(&path, &context, &nobody).err().unwrap().code, "io");
    std::fs::write(&path, "something else").unwrap();
    assert_eq!(read_identity(&path, &context, &nobody).err().unwrap().code, "identity");
    let identity = Identity::random();
    std::fs::write(&path, identity.recipient(Kem::X25519).to_string()).unwrap();
    let failure = read_identity(&path, &context, &nobody).err().unwrap();
    assert_eq!((failure.code, failure.exit), ("identity", Exit::Identity));
    assert!(failure.help.unwrap().contains("public side"));
    std::fs::write(&path, &**identity.to_file(None).unwrap()).unwrap();
    assert!(read_identity(&path, &context, &nobody).is_ok());
    assert_eq!(load_identity(None, &context).err().unwrap().exit, Exit::Identity);
}

#[test]
fn a_wrong_passphrase_is_exit_12() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.key");
    let identity = Identity::random();
    std::fs::write(&path, &**identity.to_file(Some("correct")).unwrap()).unwrap();
    let context = context(&dir.path().join("config.toml"));
    let with = |command: &str| passphrase::Sources { command: Some(command.into()), ..Default::default() };
    let failure = read_identity(&path, &context, &with("echo wrong")).err().unwrap();
    assert_eq!((failure.code, failure.exit), ("passphrase", Exit::Identity));
    assert!(!failure.to_string().contains("wrong passphrase for wrong"));
    let again = read_identity(&path, &context, &with("echo correct")).unwrap();
    assert_eq!(again.owner_key().verify_key(), identity.owner_key().verify_key());
}

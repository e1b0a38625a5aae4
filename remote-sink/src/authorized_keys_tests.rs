use super::*;
use std::os::unix::fs::symlink;

fn key(byte: u8) -> SshKey {
    SshKey::from_ed25519(&[byte; 32])
}

struct Account {
    dir: tempfile::TempDir,
    name: SourceName,
    key: SshKey,
}

impl Account {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, name: "web1".parse().unwrap(), key: key(1) }
    }
    fn grant(&self) -> Grant<'_> {
        let (program, root) = (Path::new("/usr/bin/remote-sink"), Path::new("/srv/backups"));
        Grant { program, root, source: &self.name, role: Role::Push, from: &[], key: &self.key }
    }
    fn path(&self) -> PathBuf {
        self.dir.path().join(".ssh/authorized_keys")
    }
    fn put(&self, text: &str) {
        durable::create_dir(&self.dir.path().join(".ssh"), 0o700).unwrap();
        fs::write(self.path(), text).unwrap();
        fs::set_permissions(self.path(), fs::Permissions::from_mode(0o600)).unwrap();
    }
    fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }
    fn install(&self, grant: &Grant<'_>) -> Result<Installed, AuthorizedKeysError> {
        AccountKeys::open(self.dir.path())?.install(grant)
    }
}

#[test]
fn the_line_is_the_manuals() {
    let account = Account::new();
    let blob = data_encoding::BASE64.encode(account.key.blob());
    assert_eq!(
        account.grant().line().unwrap(),
        format!(
            "restrict,command=\"/usr/bin/remote-sink serve --root /srv/backups --source web1 --role push\" ssh-ed25519 {blob} remote-sink:web1"
        )
    );
    let from = ["10.0.0.0/8".to_owned(), "::1/128".to_owned()];
    let line = Grant { from: &from, ..account.grant() }.line().unwrap();
    assert!(line.starts_with("restrict,from=\"10.0.0.0/8,::1/128\",command=\""), "{line}");
}

#[test]
fn paths_are_quoted_for_the_shell_and_read_back() {
    let account = Account::new();
    let root = Path::new("/srv/it's \"a\" $(vault)");
    let grant = Grant { root, ..account.grant() };
    let entry = &entries(&grant.line().unwrap())[0];
    assert_eq!(entry.command().unwrap(), grant.command().unwrap());
    assert!(entry.command().unwrap().contains(r#"'/srv/it'\''s "a" $(vault)'"#));
    assert!(entry.serves(root, &account.name));
    assert!(!entry.serves(Path::new("/srv"), &account.name));
    for bad in ["relative", "/a\nb", "/a\u{7}b"] {
        assert!(Grant { root: Path::new(bad), ..account.grant() }.line().is_err(), "{bad:?}");
    }
}

#[test]
fn install_makes_the_directory_and_is_idempotent() {
    let account = Account::new();
    assert_eq!(account.install(&account.grant()).unwrap(), Installed::Added);
    assert_eq!(account.install(&account.grant()).unwrap(), Installed::AlreadyThere);
    assert_eq!(account.text(), format!("{}\n", account.grant().line().unwrap()));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&account.dir.path().join(".ssh")), mode(&account.path())), (0o700, 0o600));
}

#[test]
fn other_lines_stay_byte_for_byte() {
    let account = Account::new();
    let before = format!("# mine\r\n\n  {} ann@laptop", key(9).openssh());
    account.put(&before);
    account.install(&account.grant()).unwrap();
    assert_eq!(account.text(), format!("{before}\n{}\n", account.grant().line().unwrap()));
    let mut keys = AccountKeys::open(account.dir.path()).unwrap();
    assert_eq!(keys.remove(&account.key, Path::new("/srv/backups"), &account.name).unwrap(), 1);
    assert_eq!(account.text(), format!("{before}\n"));
    assert_eq!(keys.remove(&account.key, Path::new("/srv/backups"), &account.name).unwrap(), 0);
}

#[test]
fn an_older_line_of_the_same_source_is_replaced() {
    let account = Account::new();
    account.install(&account.grant()).unwrap();
    let moved = Grant { program: Path::new("/opt/remote-sink"), ..account.grant() };
    assert_eq!(account.install(&moved).unwrap(), Installed::Replaced);
    assert_eq!(account.text(), format!("{}\n", moved.line().unwrap()));
}

#[test]
fn the_same_key_with_another_command_or_none_is_refused() {
    let account = Account::new();
    let key = account.key.openssh();
    for other in [
        format!("{key} a free shell"),
        format!("restrict {key}"),
        format!("command=\"/bin/sh\" {key}"),
        format!("restrict,command=\"/usr/bin/remote-sink serve --root /srv/backups --source db --role push\" {key}"),
        format!("restrict,command=\"/usr/bin/remote-sink serve --root /srv/other --source web1 --role push\" {key}"),
        format!(
            "restrict,command=\"/usr/bin/remote-sink serve --root /srv/backups --source web1 --role push; sh\" {key}"
        ),
        format!("restrict,command=\"/bin/sh; remote-sink serve --root /srv/backups --source web1 --role push\" {key}"),
        format!("\t environment=\"A=\\\"b, c\\\"\",no-pty {key} x"),
    ] {
        account.put(&other);
        let error = account.install(&account.grant()).unwrap_err();
        assert!(matches!(error, AuthorizedKeysError::OtherEntry { line: 1, .. }), "{other}: {error}");
        assert_eq!(account.text(), other, "the file stays as it was");
    }
}

#[test]
fn a_link_stays_a_link() {
    let account = Account::new();
    let target = account.dir.path().join("keys");
    fs::write(&target, "").unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
    durable::create_dir(&account.dir.path().join(".ssh"), 0o700).unwrap();
    symlink(&target, account.path()).unwrap();
    account.install(&account.grant()).unwrap();
    assert!(fs::symlink_metadata(account.path()).unwrap().is_symlink());
    assert!(fs::read_to_string(&target).unwrap().contains("remote-sink:web1"));
}

#[test]
fn unsafe_files_are_refused() {
    let refused = |account: &Account, said: &str| {
        let error = account.install(&account.grant()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    };
    let writable = Account::new();
    writable.put("");
    fs::set_permissions(writable.path(), fs::Permissions::from_mode(0o620)).unwrap();
    refused(&writable, "written by others");

    let dir = Account::new();
    dir.put("");
    fs::set_permissions(dir.dir.path().join(".ssh"), fs::Permissions::from_mode(0o777)).unwrap();
    refused(&dir, "written by others");

    let dangling = Account::new();
    durable::create_dir(&dangling.dir.path().join(".ssh"), 0o700).unwrap();
    symlink("/nowhere/at/all", dangling.path()).unwrap();
    refused(&dangling, "follow the link");

    let strange = Account::new();
    fs::create_dir_all(strange.path()).unwrap();
    fs::set_permissions(strange.dir.path().join(".ssh"), fs::Permissions::from_mode(0o700)).unwrap();
    refused(&strange, "not a regular file");

    let binary = Account::new();
    binary.put("");
    fs::write(binary.path(), [0xff, 0xfe]).unwrap();
    refused(&binary, "not UTF-8");
}

#[test]
fn lint_finds_open_doors() {
    let account = Account::new();
    let root = Path::new("/srv/backups");
    let known = [(account.name.clone(), account.key.clone())];
    let good = account.grant().line().unwrap();
    assert_eq!(lint(&format!("{} ann@laptop\n{good}\n", key(9).openssh()), root, &known), vec![]);
    for (bad, said) in [
        (account.key.openssh(), "free shell"),
        (format!("{} remote-sink:old", key(8).openssh()), "free shell"),
        (good.replace("restrict,", ""), "no restrict"),
        (good.replace("restrict,", "restrict,pty,"), "option pty"),
        (good.replace("/srv/backups", "/srv/other"), "another command"),
    ] {
        let findings = lint(&bad, root, &known);
        assert!(findings.iter().any(|finding| finding.why.contains(said)), "{bad}: {findings:?}");
    }
}

#[test]
fn garbage_lines_are_no_entries() {
    for line in
        ["", "#x", "ssh-ed25519", "ssh-ed25519 AAAA", "command=\"unclosed ssh-ed25519 AAAA", "a b c d", "\u{0}", "\"\""]
    {
        assert_eq!(entries(line), vec![], "{line:?}");
    }
}

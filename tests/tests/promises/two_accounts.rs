//! The operator's commands run as root, the sessions as an account of their own: what root makes is the account's to
//! read, and the operator's journal is not.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use tests::agent::Owner;
use tests::server::{Listen, account};
use tests::{Agent, Chance, Place, Vault, tree};

fn visit(dir: &Path, each: &mut dyn FnMut(&Path, &std::fs::Metadata)) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        each(&path, &meta);
        if meta.is_dir() {
            visit(&path, each);
        }
    }
}

#[test]
fn root_operates_what_another_account_serves() {
    let Some(account) = account() else { return };
    let place = Place::new();
    let serving = Vault::with(place.path(), "vault", Some(account.clone()));
    let operator_dir = serving.root.join("operator");
    // docs/retention.md, "Two accounts"
    std::os::unix::fs::chown(&operator_dir, Some(0), Some(0)).unwrap();
    visit(&operator_dir, &mut |path, _| std::os::unix::fs::chown(path, Some(0), Some(0)).unwrap());
    for (dir, mode) in [(operator_dir.clone(), 0o711), (operator_dir.join("ledger"), 0o755)] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let operator = Vault { account: None, ..serving.clone() };

    let owner = Owner::new(place.path());
    let listen = Listen::start(&serving);
    let source = Agent::source(place.path(), "web1", &owner);
    let reader = Agent::reader(place.path(), "laptop", &owner);
    for (agent, role) in [(&source, "push"), (&reader, "read")] {
        agent.add_remote("offsite", &operator.enroll(&agent.card, role, &listen.address(), &[]));
    }
    operator
        .enroll_run(&reader.card, "read", &listen.address(), &["--install"])
        .done()
        .code(1)
        .complains("another account");
    reader.trust(&source);

    let (data, mut chance) = (place.dir("data"), Chance::new(1));
    // Each larger than a block; those that go lie behind one another, whether one thread read them or two in turn.
    for name in 0..10 {
        tree::write(&data.join(format!("file-{name}")), &chance.bytes(3 << 19));
    }
    source.must_back_up(&data);
    for name in 2..6 {
        tree::write(&data.join(format!("file-{name}")), b"small now");
    }
    source.must_back_up(&data);
    operator.run().args(["retention", "web1", "--keep-last", "1"]).ok();
    let freed = |done: &tests::run::Done| {
        let lines = done.json();
        let line = lines.iter().find(|line| line["message_type"] == "pruned").unwrap().clone();
        let count = |name: &str| line[name].as_u64().unwrap();
        (count("removed"), count("archives_rewritten") + count("archives_removed"))
    };
    let mut sums = (0, 0);
    for _ in 0..3 {
        let (removed, archives) = freed(&operator.run().args(["prune", "--now", "--json"]).ok());
        sums = (sums.0 + removed, sums.1 + archives);
    }
    assert!(sums.0 == 1 && sums.1 >= 1, "one snapshot goes, and room is given back: {sums:?}");
    operator.run().arg("rebuild").ok();
    operator.run().arg("observe").ok();

    for dir in ["sources", "owners"] {
        visit(&serving.root.join(dir), &mut |path, meta| {
            assert_eq!(meta.uid(), account.uid, "{} is not the serving account's", path.display());
        });
    }
    visit(&operator_dir, &mut |path, meta| assert_eq!(meta.uid(), 0, "{}", path.display()));
    let key = std::fs::metadata(operator_dir.join("journal.key")).unwrap();
    assert_eq!(key.mode() & 0o077, 0);
    let ledger = std::fs::metadata(operator_dir.join("ledger/web1.sqlite")).unwrap();
    assert_eq!(ledger.mode() & 0o777, 0o644);
    // The session reads what root wrote: the generation, the ledger, what is published.
    source.must_back_up(&data);
    let target = place.join("restored");
    reader.restore_path("latest", &data, &target).ok();
    tree::assert_same(&data, &target);
    assert_eq!(serving.verify().exit(), Some(0), "{}", serving.verify().tell());
    // What root's look finds damaged the account's sessions are told.
    for archive in serving.files("web1", "archives") {
        let bytes = std::fs::read(&archive).unwrap();
        if bytes.len() > 1 << 20 {
            let file = std::fs::File::options().write(true).open(&archive).unwrap();
            let at = bytes.len() * 3 / 4;
            std::os::unix::fs::FileExt::write_at(&file, &[bytes[at] ^ 1], at as u64).unwrap();
        }
    }
    operator.run().arg("verify").done().code(13);
    let list = std::fs::metadata(serving.room("web1").join("damaged")).unwrap();
    assert_eq!((list.uid(), list.mode() & 0o777), (account.uid, 0o644));
    let done = source.run().args(["backup", "--json"]).arg(&data).ok();
    let lines = done.json();
    let summary = lines.iter().find(|line| line["message_type"] == "summary").unwrap();
    // Some of what shared a block has changed since: such a block cannot be healed, and is told.
    let told = &summary["remotes"][0]["healing"];
    let blocks = |name: &str| told[name].as_u64().unwrap();
    assert!(blocks("blocks_healed") + blocks("blocks_not_healed") > 0, "{summary}");
    operator.run().arg("doctor").done().says("belong to another account than the one that serves");
}

//! What a Unix file system holds comes back; what cannot be read is said; nothing unprintable reaches a terminal.

use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use tests::agent::Usual;
use tests::run::Done;
use tests::server::TEST_ACCOUNT;
use tests::{Chance, tree};

/// Neither stream may carry control characters of a name.
#[track_caller]
fn assert_printable(done: &Done) {
    for stream in [&done.stdout, &done.stderr] {
        let bad = stream.iter().position(|byte| (*byte < 0x20 && !b"\n\t".contains(byte)) || *byte == 0x7f);
        assert!(bad.is_none(), "a control character reached the terminal\n{}", done.tell());
        assert!(!String::from_utf8_lossy(stream).contains('\u{202e}'), "a bidirectional override\n{}", done.tell());
    }
}

#[test]
fn everything_comes_back() {
    let usual = Usual::on_disk();
    tree::everything(&usual.data);
    let done = usual.source.backup(&usual.data).arg("-v").ok();
    assert_printable(&done);
    assert!(
        done.err().contains("socket") || done.out().contains("socket"),
        "sockets are skipped, and said\n{}",
        done.tell()
    );
    usual.must_restore("out");

    assert_printable(&usual.reader.owner_run(&["ls", "--recursive", "-l", "latest"]).ok());
    assert_printable(&usual.reader.owner_run(&["find", "*"]).done());
    assert_printable(&usual.reader.restore("latest", &usual.place.join("whole")).arg("-v").ok());
    tree::assert_same(&usual.data, &usual.place.join("whole").join(usual.data.strip_prefix("/").unwrap()));
    usual.vault.must_be_clean();

    // Nothing changed: the second snapshot holds the same.
    usual.source.must_back_up(&usual.data);
    usual.must_restore("again");
}

#[test]
fn an_ordinary_user_restores_all_but_owners() {
    if !rustix::process::geteuid().is_root() {
        // Run by an ordinary user, every test of this file is this test.
        return;
    }
    let Some(account) = tests::run::Account::find(TEST_ACCOUNT) else {
        panic!("the account {TEST_ACCOUNT} is missing: run deploy/setup")
    };
    let usual = Usual::on_disk();
    tree::sample(&usual.data, &mut Chance::new(1), 20);
    usual.source.must_back_up(&usual.data);
    // Root reads the snapshot, but writes as the account would: the vault and the keys are root's.
    let (chown, room) = (tests::programs::tool("chown"), account.uid.to_string());
    tests::Run::new(chown).args(["-R", &room]).arg(usual.place.path()).ok();
    let target = usual.place.join("out");
    let agent = tests::programs::source_agent_in(usual.place.path());
    let reader = usual.reader.clone().with_program(agent);
    let done = reader.restore_path("latest", &usual.data, &target).account(Some(&account)).ok();
    let except = tree::Except { top: false, owners: true };
    let differences = tree::differences(&tree::read(&usual.data), &tree::read(&target), except);
    assert!(differences.is_empty(), "{differences:?}\n{}", done.tell());
}

#[test]
fn a_missing_named_path_is_exit_3_and_the_rest_is_saved() {
    let usual = Usual::on_disk();
    tree::write(&usual.data.join("here"), b"here");
    let missing = usual.place.join("not-there");
    let done = usual.source.backup(&usual.data).arg(&missing).done().code(3);
    assert!(done.err().contains("not-there") || done.out().contains("not-there"), "{}", done.tell());
    usual.must_restore("out");
}

#[test]
fn files_that_cannot_be_read_are_exit_3_and_listed_at_the_end() {
    if !rustix::process::geteuid().is_root() {
        let usual = Usual::on_disk();
        tree::write(&usual.data.join("good"), b"good");
        tree::write(&usual.data.join("closed"), b"closed");
        tree::set_mode(&usual.data.join("closed"), 0);
        let done = usual.source.backup(&usual.data).done().code(3);
        assert!(done.err().contains("closed"), "{}", done.tell());
        return;
    }
    // Root reads everything: a file whose reading fails is made by a fault at read(2) of that file alone.
    let usual = Usual::on_disk();
    for number in 0..5 {
        tree::write(&usual.data.join(format!("file-{number}")), &Chance::new(number).bytes(5000));
    }
    let strace = tests::programs::tool("strace");
    let bad = usual.data.join("file-3");
    let run = tests::Run::new(strace).env("HOME", &usual.source.dir).args(["-f", "-qq", "-o", "/dev/null", "-P"]);
    let run = run.arg(&bad).args(["-e", "trace=read,pread64,preadv,preadv2", "-e"]);
    let run = run.arg("inject=read,pread64,preadv,preadv2:error=EIO").arg("--");
    let done = run.args(usual.source.command()).arg("backup").arg(&usual.data).done().code(3);
    let all = done.err() + &done.out();
    assert!(all.contains("file-3"), "{}", done.tell());
    let expected = tree::read(&usual.data);
    let target = usual.place.join("out");
    usual.reader.restore_path("latest", &usual.data, &target).done();
    tree::assert_nothing_wrong(&expected, &target);
    assert!(target.join("file-4").exists());
}

#[test]
fn files_that_change_or_vanish_are_notes() {
    let usual = Usual::on_disk();
    tree::sample(&usual.data, &mut Chance::new(2), 100);
    let restless = usual.data.join("restless");
    std::fs::create_dir(&restless).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut chance = Chance::new(3);
            while !stop.load(Ordering::Relaxed) {
                let path = restless.join(format!("f{}", chance.below(20)));
                if chance.below(3) == 0 {
                    // It may never have been there.
                    let _ = std::fs::remove_file(path);
                } else {
                    let count = chance.below(500_000) as usize;
                    std::fs::write(path, chance.bytes(count)).unwrap();
                }
            }
        });
        for _ in 0..3 {
            let done = usual.source.backup(&usual.data).done();
            assert_eq!(done.exit(), Some(0), "{}", done.tell());
        }
        stop.store(true, Ordering::Relaxed);
    });
    usual.source.must_back_up(&usual.data);
    usual.must_restore("out");
}

#[test]
fn excludes_leave_out_and_nothing_else() {
    let usual = Usual::on_disk();
    for name in ["keep/a", "keep/b.tmp", "node_modules/x", "cache/big", "deep/cache/y"] {
        tree::write(&usual.data.join(name), b"content");
    }
    tree::write(&usual.data.join("marked/.nobackup"), b"");
    tree::write(&usual.data.join("marked/secret"), b"content");
    let run = usual.source.backup(&usual.data).args(["-e", "*.tmp", "-e", "node_modules/"]);
    run.args(["--exclude-if-present", ".nobackup"]).ok();
    let target = usual.place.join("out");
    usual.reader.restore_path("latest", &usual.data, &target).ok();
    for (name, there) in [
        ("keep/a", true),
        ("keep/b.tmp", false),
        ("node_modules", false),
        ("cache/big", true),
        ("deep/cache/y", true),
        ("marked/secret", false),
    ] {
        assert_eq!(target.join(name).exists(), there, "{name}");
    }
}

#[test]
fn one_file_by_an_odd_name_comes_back() {
    let usual = Usual::on_disk();
    let name = std::ffi::OsStr::from_bytes(b"\xffodd\n");
    tree::write(&usual.data.join(name), b"odd");
    tree::write(&usual.data.join("other"), b"other");
    usual.source.must_back_up(&usual.data);
    let target = usual.place.join("one");
    usual.reader.restore_path("latest", &usual.data.join(name), &target).ok();
    let found =
        if target.is_dir() { std::fs::read(target.join(name)).unwrap() } else { std::fs::read(&target).unwrap() };
    assert_eq!(found, b"odd");
    assert!(!target.join("other").exists());
}

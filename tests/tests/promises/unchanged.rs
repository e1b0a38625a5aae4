//! What has not changed is neither read nor sent; what has changed is always seen.

use std::os::unix::fs::MetadataExt;
use tests::agent::Usual;
use tests::{Chance, tree};

/// Runs a backup under strace and returns the names of the files it opened.
fn opened(usual: &Usual) -> String {
    let log = usual.place.join("opened.log");
    let run = tests::Run::new(tests::programs::tool("strace")).env("HOME", &usual.source.dir);
    let run = run.args(["-f", "-qq", "-s", "4096", "-e", "trace=open,openat,openat2", "-o"]).arg(&log).arg("--");
    run.args(usual.source.command()).arg("backup").arg(&usual.data).ok();
    std::fs::read_to_string(log).unwrap()
}

/// Runs until nothing happened meanwhile to the directories above the data: they are in the snapshot too, and other
/// tests work beside us.
fn undisturbed<T>(usual: &Usual, mut run: impl FnMut() -> T) -> T {
    let above = || -> Vec<(i64, i64, i64, i64)> {
        let metas = usual.data.ancestors().skip(1).map(|dir| std::fs::metadata(dir).unwrap());
        metas.map(|meta| (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())).collect()
    };
    for _ in 0..50 {
        run();
        let before = above();
        let done = run();
        if before == above() {
            return done;
        }
    }
    panic!("never undisturbed");
}

#[test]
fn unchanged_files_are_not_read_and_send_nothing() {
    let usual = Usual::on_disk();
    tree::sample(&usual.data, &mut Chance::new(1), 50);
    tree::write(&usual.data.join("watched-file"), b"content");
    tree::age(&usual.data);
    assert!(opened(&usual).contains("watched-file"), "the first run reads it");
    let shelves = |shelf| usual.vault.files("web1", shelf).len();
    let (before, after, heads) = undisturbed(&usual, || {
        let before = (shelves("archives"), shelves("pages"));
        let heads = shelves("heads");
        assert!(!opened(&usual).contains("watched-file"), "the second run does not");
        (before, (shelves("archives"), shelves("pages")), shelves("heads") - heads)
    });
    assert_eq!(before, after, "an unchanged run adds neither archive nor page");
    assert_eq!(heads, 1, "and is a snapshot all the same");
    usual.must_restore("out");
}

#[test]
fn skip_if_unchanged_makes_no_snapshot() {
    let usual = Usual::on_disk();
    tree::sample(&usual.data, &mut Chance::new(2), 10);
    tree::age(&usual.data);
    let heads = || usual.vault.files("web1", "heads").len();
    let skip = || {
        let before = heads();
        usual.source.backup(&usual.data).arg("--skip-if-unchanged").ok();
        heads() - before
    };
    assert_eq!(skip(), 1, "the first is never skipped");
    assert_eq!(undisturbed(&usual, skip), 0);
    tree::write(&usual.data.join("new"), b"new");
    assert_eq!(skip(), 1);
}

#[test]
fn a_change_that_hides_its_time_is_seen() {
    let usual = Usual::on_disk();
    let file = usual.data.join("file");
    tree::write(&file, b"before");
    tree::age(&usual.data);
    usual.source.must_back_up(&usual.data);
    let meta = std::fs::metadata(&file).unwrap();
    // The same size, the same time of modification: only the time of change tells.
    std::fs::write(&file, b"after!").unwrap();
    tree::set_modified(&file, meta.mtime(), meta.mtime_nsec());
    usual.source.must_back_up(&usual.data);
    usual.must_restore("out");
}

#[test]
fn a_file_as_young_as_the_run_is_not_trusted() {
    let usual = Usual::on_disk();
    let file = usual.data.join("file");
    for number in 0..4u8 {
        // Written, backed up and written again faster than some file systems' clocks tick.
        tree::write(&file, &[b'0' + number; 6]);
        usual.source.must_back_up(&usual.data);
    }
    usual.must_restore("out");
}

#[test]
fn a_change_of_metadata_alone_is_seen() {
    let usual = Usual::on_disk();
    tree::sample(&usual.data, &mut Chance::new(3), 10);
    tree::write(&usual.data.join("file"), b"content");
    tree::age(&usual.data);
    usual.source.must_back_up(&usual.data);
    tree::set_mode(&usual.data.join("file"), 0o600);
    xattr::set(usual.data.join("file"), "user.new", b"1").unwrap();
    usual.source.must_back_up(&usual.data);
    usual.must_restore("out");
    std::fs::rename(usual.data.join("file"), usual.data.join("renamed")).unwrap();
    usual.source.must_back_up(&usual.data);
    usual.must_restore("renamed");
}

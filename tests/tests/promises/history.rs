//! Random histories against a plain copy: whatever happened, every snapshot is the tree as it was.

use std::path::{Path, PathBuf};
use tests::agent::Usual;
use tests::{Chance, tree};

/// One random change of a tree.
fn change(top: &Path, chance: &mut Chance) {
    let name = |chance: &mut Chance| top.join(format!("d{}", chance.below(3))).join(format!("f{}", chance.below(12)));
    let path = name(chance);
    match chance.below(11) {
        0..=3 => {
            let count = [0, 10, 4000, 100_000, 900_000][chance.below(5) as usize];
            let bytes = if chance.below(2) == 0 { chance.bytes(count) } else { chance.text(count) };
            if !path.is_dir() {
                remove(&path);
                tree::write(&path, &bytes);
            }
        }
        4 => remove(&path),
        5 => {
            let to = name(chance);
            if path.exists() && path != to {
                remove(&to);
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                std::fs::rename(&path, &to).unwrap();
            }
        }
        6 => append_or_cut(&path, chance),
        7 => {
            if std::fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_symlink()) {
                tree::set_mode(
                    &path,
                    [0o600, 0o644, 0o755, 0o400][chance.below(4) as usize] | if path.is_dir() { 0o700 } else { 0 },
                );
            }
        }
        8 => {
            remove(&path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(format!("f{}", chance.below(12)), &path).unwrap();
        }
        9 => {
            let to = name(chance);
            if path.is_file() && path != to && !path.is_symlink() {
                remove(&to);
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                std::fs::hard_link(&path, &to).unwrap();
            }
        }
        _ => {
            // A directory where a file was, or a deeper tree.
            remove(&path);
            tree::write(&path.join("inner").join(format!("x{}", chance.below(3))), &chance.bytes(300));
        }
    }
}

fn remove(path: &Path) {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return };
    if meta.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
}

fn append_or_cut(path: &Path, chance: &mut Chance) {
    use std::io::{Seek, SeekFrom, Write};
    if !path.is_file() || path.is_symlink() {
        return;
    }
    tree::set_mode(path, 0o644);
    let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    if chance.below(2) == 0 {
        file.set_len(length / 2).unwrap();
    } else {
        file.seek(SeekFrom::Start(chance.below(length + 1))).unwrap();
        let count = chance.below(5000) as usize;
        file.write_all(&chance.bytes(count)).unwrap();
    }
}

/// A history of some runs; whatever happens to caches in between, every snapshot comes back.
fn history(seed: u64, runs: u32) {
    let usual = Usual::new();
    let mut chance = Chance::new(seed);
    let mut copies: Vec<PathBuf> = Vec::new();
    for run in 0..runs {
        for _ in 0..chance.below(25) {
            change(&usual.data, &mut chance);
        }
        match chance.below(8) {
            0 if usual.source.cache().exists() => std::fs::remove_dir_all(usual.source.cache()).unwrap(),
            1 => tree::age(&usual.data),
            _ => {}
        }
        let copy = usual.place.join(format!("copy-{run}"));
        tree::copy(&usual.data, &copy);
        let done = usual.source.backup(&usual.data).done();
        assert_eq!(done.exit(), Some(0), "seed {seed}, run {run}\n{}", done.tell());
        copies.push(copy);
    }
    for (at, copy) in copies.iter().rev().enumerate() {
        let target = usual.place.join(format!("restored-{at}"));
        let done = usual.reader.restore_path(&format!("latest~{at}"), &usual.data, &target).done();
        assert_eq!(done.exit(), Some(0), "seed {seed}, latest~{at}\n{}", done.tell());
        let differences = tree::differences(&tree::read(copy), &tree::read(&target), tree::Except::default());
        assert!(differences.is_empty(), "seed {seed}, latest~{at}: {differences:#?}");
    }
    usual.reader.owner_run(&["check", "--read-data"]).ok();
    usual.vault.must_be_clean();
}

#[test]
fn history_one() {
    history(1001, 12);
}

#[test]
fn history_two() {
    history(2002, 12);
}

#[test]
fn history_three() {
    history(3003, 12);
}

/// A seed of the day's own choice, printed, so that the tests do not only ever see the same three histories.
#[test]
fn history_of_another_seed() {
    let seed = std::env::var("PAWL_TESTS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from_le_bytes(shared::sys::random()));
    eprintln!("PAWL_TESTS_SEED={seed}");
    history(seed, 8);
}

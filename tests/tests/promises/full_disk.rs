//! A full disk: refused with exit 15, nothing damaged, and on goes it when there is room.

use std::path::{Path, PathBuf};
use tests::agent::{Agent, Owner};
use tests::programs::tool;
use tests::{Chance, Place, Run, Vault, tree};

/// A small file system of its own; needs root.
struct Small {
    dir: PathBuf,
}

impl Small {
    fn mount(dir: PathBuf, options: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "tests of a full disk mount a small tmpfs and need root (deploy/test asks sudo for it)"
        );
        Run::new(tool("mount")).args(["-t", "tmpfs", "-o", options, "pawl-test"]).arg(&dir).ok();
        Self { dir }
    }
    fn resize(&self, options: &str) {
        Run::new(tool("mount")).args(["-o", &format!("remount,{options}")]).arg(&self.dir).ok();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        Run::new(tool("umount")).arg("-l").arg(&self.dir).done();
    }
}

struct Scene {
    // Unmounted before its directory is removed: fields drop in order.
    small: Small,
    place: Place,
    vault: Vault,
    source: Agent,
    reader: Agent,
    data: PathBuf,
}

fn scene(options: &str) -> Scene {
    let place = Place::new();
    let small = Small::mount(place.dir("small"), options);
    let owner = Owner::new(place.path());
    let vault = Vault::with(&small.dir, "vault", None);
    let source = Agent::source(place.path(), "web1", &owner);
    source.add_path("local", &vault, &vault.enroll(&source.card, "push", "backup@127.0.0.1:22", &[]));
    let reader = Agent::reader(place.path(), "laptop", &owner);
    reader.add_path("local", &vault, &vault.enroll(&reader.card, "read", "backup@127.0.0.1:22", &[]));
    reader.trust(&source);
    let data = place.dir("data");
    Scene { small, place, vault, source, reader, data }
}

fn fill(data: &Path, chance: &mut Chance, megabytes: usize) {
    for number in 0..megabytes {
        tree::write(&data.join(format!("fill-{number}")), &chance.bytes(1 << 20));
    }
}

#[test]
fn a_full_disk_is_exit_15_and_damages_nothing() {
    // The program lies there too (hard links do not cross file systems): room for it, and 100 MiB.
    let program = std::fs::metadata(tests::programs::remote_sink()).unwrap().len() >> 20;
    let size = program + 100;
    let scene = scene(&format!("size={size}m"));
    let mut chance = Chance::new(1);
    tree::sample(&scene.data, &mut chance, 10);
    scene.source.must_back_up(&scene.data);
    let first = tree::read(&scene.data);
    let before = scene.vault.accepted("web1");
    fill(&scene.data, &mut chance, 200);
    scene.source.backup(&scene.data).done().code(15).helps();
    tests::vault::assert_nothing_lost(&before, &scene.vault.accepted("web1"));
    scene.vault.must_be_clean();
    // The old snapshot is there; reading needs no room.
    let target = scene.place.join("out");
    scene.reader.restore_path("latest", &scene.data, &target).ok();
    let mut without_time = tree::read(&target);
    without_time.retain(|path, _| !path.is_empty());
    let mut expected = first;
    expected.retain(|path, _| !path.is_empty());
    assert_eq!(expected, without_time);
    // With room the same run goes through, and what was there is not sent again.
    scene.small.resize(&format!("size={}m", size + 300));
    scene.source.must_back_up(&scene.data);
    let target = scene.place.join("all");
    scene.reader.restore_path("latest", &scene.data, &target).ok();
    tree::assert_same(&scene.data, &target);
    scene.vault.must_be_clean();
}

#[test]
fn no_inodes_left_is_told_and_damages_nothing() {
    let scene = scene("size=600m,nr_inodes=9000");
    let mut chance = Chance::new(2);
    tree::sample(&scene.data, &mut chance, 5);
    scene.source.must_back_up(&scene.data);
    // Use up the rest.
    let mut number = 0;
    while std::fs::write(scene.small.dir.join(format!("inode-{number}")), b"").is_ok() {
        number += 1;
        assert!(number < 20_000);
    }
    tree::write(&scene.data.join("new"), &chance.bytes(500_000));
    let done = scene.source.backup(&scene.data).done();
    assert_ne!(done.exit(), Some(0), "{}", done.tell());
    scene.vault.must_be_clean();
    for used in 0..number {
        std::fs::remove_file(scene.small.dir.join(format!("inode-{used}"))).unwrap();
    }
    scene.source.must_back_up(&scene.data);
    scene.vault.must_be_clean();
}

#[test]
fn a_restore_onto_a_full_disk_names_the_file_and_leaves_nothing_partial() {
    let usual = tests::agent::Usual::new();
    let mut chance = Chance::new(5);
    for name in ["a", "b", "c"] {
        tree::write(&usual.data.join(name), &chance.bytes(9 << 20));
    }
    tree::age(&usual.data);
    usual.source.must_back_up(&usual.data);
    let small = Small::mount(usual.place.dir("small"), "size=16m");
    let target = small.dir.join("out");
    for verify in [&[][..], &["--verify"]] {
        let restore = usual.reader.restore_path("latest", &usual.data, &target).args(verify).done();
        let done = restore.code(15).helps();
        let named =
            ["a", "b", "c"].iter().any(|name| done.err().contains(&usual.data.join(name).display().to_string()));
        assert!(named && done.err().contains("--overwrite if-changed"), "{}", done.tell());
        let names: Vec<String> =
            std::fs::read_dir(&target).unwrap().map(|one| one.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().all(|name| !name.starts_with(".pawl-partial")), "{names:?}");
        std::fs::remove_dir_all(&target).unwrap();
    }
    usual.reader.restore_path("latest", &usual.data, &target).done().code(15);
    small.resize("size=64m");
    usual.reader.restore_path("latest", &usual.data, &target).args(["--overwrite", "if-changed"]).ok();
    tree::assert_same(&usual.data, &target);
}

#[test]
fn the_reserve_is_kept_for_commits() {
    let program = std::fs::metadata(tests::programs::remote_sink()).unwrap().len() >> 20;
    let scene = scene(&format!("size={}m", program + 160));
    scene.vault.configure("store", "min-free = \"64MiB\"");
    let mut chance = Chance::new(3);
    fill(&scene.data, &mut chance, 250);
    scene.source.backup(&scene.data).done().code(15).helps();
    let free = rustix::fs::statvfs(&scene.small.dir).unwrap();
    let free = free.f_bavail * free.f_frsize;
    assert!(free >= 60 << 20, "the archives left {free} bytes of a reserve of 64 MiB");
    scene.vault.must_be_clean();
}

#[test]
fn a_quota_is_exit_15() {
    let usual = tests::agent::Usual::new();
    let place = usual.place.path();
    let second = Agent::source(place, "small", &usual.owner);
    let enrolled = usual.vault.enroll(&second.card, "push", "backup@127.0.0.1:22", &["--quota", "2MiB"]);
    second.add_path("local", &usual.vault, &enrolled);
    fill(&usual.data, &mut Chance::new(4), 8);
    let done = second.backup(&usual.data).done().code(15).helps();
    assert!(done.err().contains("quota"), "{}", done.tell());
    usual.vault.must_be_clean();
}

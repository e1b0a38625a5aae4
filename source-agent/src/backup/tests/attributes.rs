//! Extended attributes from run to run: what the local index remembers of them is what was read.

use super::*;
use crate::index::record;
use crate::index::series::SeriesIndex;
use crate::tree::Entry;
use rustix::fs::XattrFlags;
use rustix::thread::{CapabilitySet, CapabilitySets};
use shared::limits::XATTRS_MAX;

fn set_attribute(path: &Path, name: &str) {
    rustix::fs::setxattr(path, name, b"1", XattrFlags::empty()).unwrap();
}

/// Names of the attributes of what lies in the data directory, as the last snapshot has them.
fn attributes(world: &World, name: &str) -> Vec<String> {
    let env = world.env();
    let series = env.secret.series(&world.set().series);
    let index = SeriesIndex::open(&env.cache_dir, &SOURCE, &LINEAGE, &series).unwrap();
    let path = world.data().into_os_string().into_encoded_bytes();
    let row = index.reader().unwrap().dir(&path).unwrap().unwrap();
    let records = record::read_all(&row.records).unwrap();
    let found = records.iter().find(|record| record.name == name.as_bytes()).unwrap();
    let entry: Entry = minicbor::decode(found.entry).unwrap();
    let names = entry.xattrs.iter().flat_map(|all| all.iter());
    names.map(|xattr| String::from_utf8_lossy(&xattr.name).into_owned()).collect()
}

#[test]
fn turning_the_option_on_or_off_changes_unchanged_files() {
    let world = World::new(1);
    world.write("file", b"1");
    world.write("dir/file", b"2");
    std::os::unix::fs::symlink("file", world.data().join("link")).unwrap();
    for name in ["file", "dir"] {
        set_attribute(&world.data().join(name), "user.note");
    }
    age(&world);
    let run_with = |xattrs: bool| {
        let mut set = world.set();
        set.options.xattrs = xattrs;
        let report = run(&mut world.env(), &[set]).unwrap();
        assert!(report.failure.is_none());
        report.sets[0].met.bytes_read.get()
    };
    let note = ["user.note".to_owned()];
    for (xattrs, read) in [(true, 2), (true, 0), (false, 2), (false, 0), (true, 2), (true, 0)] {
        assert_eq!(run_with(xattrs), read, "{xattrs}");
        let wanted: &[String] = if xattrs { &note } else { &[] };
        for name in ["file", "dir"] {
            assert_eq!(attributes(&world, name), wanted, "{name}");
        }
        assert!(attributes(&world, "link").is_empty());
    }
}

#[test]
fn attributes_that_cannot_be_read_are_reported_in_every_run() {
    cannot_be_read("dir");
}

#[test]
fn a_file_whose_attributes_cannot_be_read_is_read_without() {
    cannot_be_read("dir/file");
}

fn cannot_be_read(what: &str) {
    // A file system that takes more of them than a snapshot can hold.
    let mut world = World::new(1);
    world.dir = tempfile::tempdir_in("/dev/shm").unwrap();
    for name in ["state", "cache", "data", "data/dir"] {
        std::fs::create_dir(world.dir.path().join(name)).unwrap();
    }
    world.write("dir/file", b"1");
    let path = world.data().join(what);
    for at in 0..=XATTRS_MAX {
        let set = rustix::fs::setxattr(&path, format!("user.{at}"), b"", XattrFlags::empty());
        if set == Err(rustix::io::Errno::NOTSUP) {
            eprintln!("kernels before 6.6 have no user attributes in memory: this test did not run");
            return;
        }
        set.unwrap();
    }
    age(&world);
    for _ in 0..3 {
        let met = Arc::clone(&world.run_and_check().sets[0].met);
        let unreadable = met.unreadable.sorted();
        assert_eq!(unreadable.len(), 1, "{unreadable:?}");
        assert_eq!(unreadable[0].0, path.as_os_str().as_encoded_bytes());
    }
    for at in 0..=XATTRS_MAX {
        rustix::fs::removexattr(&path, format!("user.{at}")).unwrap();
    }
    set_attribute(&path, "user.note");
    assert_eq!(world.run_and_check().sets[0].met.unreadable.count(), 0);
    if what == "dir" {
        assert_eq!(attributes(&world, "dir"), ["user.note"]);
    }
}

/// Runs with no more rights than the files' owner has.
fn as_owner<T>(run: impl FnOnce() -> T) -> T {
    let all = rustix::thread::capabilities(None).unwrap();
    let over = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    let fewer = CapabilitySets { effective: all.effective.difference(over), ..all };
    rustix::thread::set_capabilities(None, fewer).unwrap();
    let result = run();
    rustix::thread::set_capabilities(None, all).unwrap();
    result
}

#[test]
fn a_directory_that_was_shut_is_read_whole_when_it_is_open() {
    let world = World::new(1);
    world.write("shut/file", b"1");
    let path = world.data().join("shut");
    set_attribute(&path, "user.note");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o0)).unwrap();
    age(&world);
    for _ in 0..2 {
        assert_eq!(as_owner(|| world.run()).sets[0].met.unreadable.count(), 1);
        assert!(attributes(&world, "shut").is_empty());
    }
    let rights = if rustix::process::geteuid().is_root() { 0 } else { 0o700 };
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(rights)).unwrap();
    assert_eq!(world.run_and_check().sets[0].met.unreadable.count(), 0);
    assert_eq!(attributes(&world, "shut"), ["user.note"]);
}

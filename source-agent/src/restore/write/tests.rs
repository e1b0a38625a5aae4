//! Files get their names in each of the ways that file systems and kernels allow.

use super::*;
use crate::restore::metadata::OwnerMode;
use crate::tree::{Owner, Time};
use shared::codec::Blob;
use std::os::unix::fs::MetadataExt;

fn entry(name: &str, content: &[u8]) -> Entry {
    let owner = Owner { id: 0, name: None };
    let time = Time { seconds: 1_000_000, nanoseconds: 7 };
    Entry {
        name: Blob::new(name.into()).unwrap(),
        kind: EntryKind::File,
        mode: 0o640,
        user: owner.clone(),
        group: owner,
        modified: time,
        changed: time,
        inode: 1,
        size: content.len() as u64,
        hard_link: None,
        extents: None,
        list: None,
        node: None,
        target: None,
        device: None,
        xattrs: None,
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A target whose files get their names in one of three ways.
fn targets(path: &Path, overwrite: Overwrite) -> [Target; 3] {
    let (linked, by_proc, named) =
        (Target::open(path, overwrite), Target::open(path, overwrite), Target::open(path, overwrite));
    let (by_proc, named) = (by_proc.unwrap(), named.unwrap());
    by_proc.by_proc.store(true, Ordering::Relaxed);
    named.named_only.store(true, Ordering::Relaxed);
    [linked.unwrap(), by_proc, named]
}

#[test]
fn a_file_gets_its_name_in_each_way() {
    let dir = tempfile::tempdir().unwrap();
    let set = Setter::new(OwnerMode::Skip, true);
    for (at, target) in targets(dir.path(), Overwrite::Refuse).iter().enumerate() {
        let name = format!("file{at}");
        let entry = entry(&name, b"content");
        target.whole(&target.root, at as FileId, &entry, b"content", Overwrite::Refuse, &set).unwrap();
        let path = dir.path().join(&name);
        assert_eq!(std::fs::read(&path).unwrap(), b"content");
        let stat = std::fs::metadata(&path).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec()), (0o640, 1_000_000, 7), "{at}");
        // Nothing is replaced, and nothing is left behind.
        let again = target.whole(&target.root, 9, &entry, b"another", Overwrite::Refuse, &set);
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AlreadyExists, "{at}");
        target.discard(target.root.as_fd(), 9).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"content");
    }
    assert_eq!(names(dir.path()), ["file0", "file1", "file2"]);
}

#[test]
fn what_is_there_is_replaced_in_each_way() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), b"outside").unwrap();
    let set = Setter::new(OwnerMode::Skip, true);
    for (at, target) in targets(dir.path(), Overwrite::Always).iter().enumerate() {
        for link in [false, true] {
            let path = dir.path().join("file");
            if link {
                std::fs::remove_file(&path).unwrap();
                std::os::unix::fs::symlink(outside.path(), &path).unwrap();
            } else {
                std::fs::write(&path, b"mine").unwrap();
            }
            let content = format!("content {at} {link}").into_bytes();
            let entry = entry("file", &content);
            target.whole(&target.root, 5, &entry, &content, Overwrite::Always, &set).unwrap();
            assert!(!path.is_symlink());
            assert_eq!(std::fs::read(&path).unwrap(), content);
            assert_eq!(std::fs::read(outside.path()).unwrap(), b"outside");
            assert_eq!(names(dir.path()), ["file"]);
        }
    }
}

#[test]
fn a_hole_at_the_end_stays_one() {
    let dir = tempfile::tempdir().unwrap();
    let set = Setter::new(OwnerMode::Skip, true);
    for (at, target) in targets(dir.path(), Overwrite::Refuse).iter().enumerate() {
        let name = format!("file{at}");
        let entry = Entry { size: 1 << 20, ..entry(&name, b"") };
        target.whole(&target.root, at as FileId, &entry, b"", Overwrite::Refuse, &set).unwrap();
        let stat = std::fs::metadata(dir.path().join(&name)).unwrap();
        assert_eq!((stat.len(), stat.blocks()), (1 << 20, 0));
    }
}

#[test]
fn names_that_lead_out_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let set = Setter::new(OwnerMode::Skip, true);
    std::fs::create_dir(&out).unwrap();
    for target in targets(&out, Overwrite::Always) {
        for name in ["..", ".", "../x", "/x", "a/b", "a\0b"] {
            let entry = entry(name, b"x");
            target.whole(&target.root, 1, &entry, b"x", Overwrite::Always, &set).unwrap_err();
        }
    }
    assert!(names(&out).is_empty());
    assert_eq!(names(dir.path()), ["out"]);
}

#[test]
fn owner_and_mode_are_set_where_they_are_not_those_of_new_files() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = Target::open(dir.path(), Overwrite::Refuse).unwrap();
    let set = Setter::new(OwnerMode::Id, true);
    // Set-group-id: new files get the directory's group.
    std::os::unix::fs::chown(dir.path(), None, Some(7)).unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o2700)).unwrap();
    let modes = [0o644, 0o644, 0o600, 0o6755, 0o666, 0o000];
    let owners = [(0, 0), (0, 7), (3, 7), (0, 7), (3, 4)];
    let all = modes.into_iter().flat_map(|mode| owners.map(|owner| (mode, owner)));
    for (at, (mode, owner)) in all.enumerate() {
        let name = format!("file{at}");
        let of = |id| Owner { id, name: None };
        let entry = Entry { user: of(owner.0), group: of(owner.1), mode, ..entry(&name, b"x") };
        target.whole(&target.root, at as FileId, &entry, b"x", Overwrite::Refuse, &set).unwrap();
        let stat = std::fs::metadata(dir.path().join(&name)).unwrap();
        assert_eq!(((stat.uid(), stat.gid()), stat.mode() & 0o7777), (owner, mode));
    }
}

//! Trees of files: make them with every kind of metadata, read them exactly, compare them.

use crate::chance::Chance;
use rustix::fs::{AtFlags, CWD, FileType, Mode, SeekFrom, Timespec, Timestamps};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// All that a restore must bring back about one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub kind: &'static str,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: (i64, i64),
    pub size: u64,
    /// Files: digest of the content, holes read as zeros.
    pub content: Option<blake3::Hash>,
    pub target: Option<Vec<u8>>,
    pub device: u64,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// First name of the same file within the tree, where it has several.
    pub same_as: Option<Vec<u8>>,
    pub allocated: u64,
}

/// A tree: path below its top (empty for the top itself) and facts. Sockets are left out: nothing backs them up.
pub type Tree = BTreeMap<Vec<u8>, Facts>;

/// Reads a tree.
pub fn read(top: &Path) -> Tree {
    let mut tree = Tree::new();
    visit(top, Vec::new(), &mut tree);
    let mut firsts: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let mut counts: HashMap<(u64, u64), u32> = HashMap::new();
    let identity = |path: &[u8]| {
        let meta = std::fs::symlink_metadata(join(top, path)).unwrap();
        (meta.dev(), meta.ino())
    };
    for (path, facts) in &tree {
        if facts.kind != "directory" {
            let identity = identity(path);
            firsts.entry(identity).or_insert_with(|| path.clone());
            *counts.entry(identity).or_default() += 1;
        }
    }
    for (path, facts) in &mut tree {
        if facts.kind != "directory" {
            let identity = identity(path);
            facts.same_as = (counts[&identity] > 1).then(|| firsts[&identity].clone());
        }
    }
    tree
}

fn join(top: &Path, below: &[u8]) -> PathBuf {
    if below.is_empty() { top.to_owned() } else { top.join(OsStr::from_bytes(below)) }
}

fn visit(path: &Path, below: Vec<u8>, tree: &mut Tree) {
    let meta = std::fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let Some(facts) = facts(path, &meta) else { return };
    let is_dir = meta.is_dir();
    tree.insert(below.clone(), facts);
    if !is_dir {
        return;
    }
    for entry in std::fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())) {
        let entry = entry.unwrap();
        let name = entry.file_name().into_vec();
        let below = if below.is_empty() { name } else { [&below[..], b"/", &name].concat() };
        visit(&entry.path(), below, tree);
    }
}

fn facts(path: &Path, meta: &std::fs::Metadata) -> Option<Facts> {
    let kind = meta.file_type();
    let name = if kind.is_file() {
        "file"
    } else if kind.is_dir() {
        "directory"
    } else if kind.is_symlink() {
        "symlink"
    } else if kind.is_fifo() {
        "fifo"
    } else if kind.is_char_device() {
        "character device"
    } else if kind.is_block_device() {
        "block device"
    } else {
        return None;
    };
    Some(Facts {
        kind: name,
        // Modes of symbolic links mean nothing.
        mode: if kind.is_symlink() { 0 } else { meta.mode() & 0o7777 },
        uid: meta.uid(),
        gid: meta.gid(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        size: if kind.is_file() { meta.size() } else { 0 },
        content: kind.is_file().then(|| content(path)),
        target: kind.is_symlink().then(|| std::fs::read_link(path).unwrap().into_os_string().into_vec()),
        device: meta.rdev(),
        xattrs: xattrs(path),
        same_as: None,
        allocated: meta.blocks() * 512,
    })
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let Ok(names) = xattr::list(path) else { return BTreeMap::new() };
    names.filter_map(|name| Some((name.as_bytes().to_vec(), xattr::get(path, &name).ok()??))).collect()
}

/// Digest of a file's content; data is looked for, so that 5 GiB of nothing take no time.
pub fn content(path: &Path) -> blake3::Hash {
    const BLOCK: usize = 64 << 10;
    let mut file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    while let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
        at = data / BLOCK as u64 * BLOCK as u64;
        let hole = rustix::fs::seek(&file, SeekFrom::Hole(data)).unwrap();
        file.seek(std::io::SeekFrom::Start(at)).unwrap();
        while at < hole {
            let mut got = 0;
            while got < BLOCK {
                match file.read(&mut block[got..]).unwrap() {
                    0 => break,
                    n => got += n,
                }
            }
            if got == 0 {
                break;
            }
            // Blocks of zeros count as holes: where the holes are is not content.
            if block[..got].iter().any(|byte| *byte != 0) {
                hasher.update(&at.to_le_bytes());
                hasher.update(&block[..got]);
            }
            at += got as u64;
        }
    }
    hasher.finalize()
}

/// What to leave out of a comparison.
#[derive(Debug, Clone, Copy, Default)]
pub struct Except {
    /// The top directory's own metadata.
    pub top: bool,
    /// Owners: an ordinary user cannot restore them.
    pub owners: bool,
}

/// Every difference between two trees, as sentences; empty = the same.
pub fn differences(expected: &Tree, found: &Tree, except: Except) -> Vec<String> {
    let mut all = Vec::new();
    for (path, want) in expected {
        let shown = shared::text::printable(path, 200);
        match found.get(path) {
            None => all.push(format!("{shown}: missing")),
            Some(_) if path.is_empty() && except.top => {}
            Some(have) => differ(&shown, want, have, except, &mut all),
        }
    }
    for path in found.keys().filter(|path| !expected.contains_key(*path)) {
        all.push(format!("{}: too many", shared::text::printable(path, 200)));
    }
    all
}

fn differ(path: &str, want: &Facts, have: &Facts, except: Except, all: &mut Vec<String>) {
    let mut note = |what: &str, want: String, have: String| {
        if want != have {
            all.push(format!("{path}: {what} is {have} and should be {want}"));
        }
    };
    note("kind", want.kind.into(), have.kind.into());
    note("mode", format!("{:o}", want.mode), format!("{:o}", have.mode));
    if !except.owners {
        note("owner", format!("{}:{}", want.uid, want.gid), format!("{}:{}", have.uid, have.gid));
    }
    note("time", format!("{:?}", want.modified), format!("{:?}", have.modified));
    note("size", want.size.to_string(), have.size.to_string());
    note("content", format!("{:?}", want.content), format!("{:?}", have.content));
    note("target", format!("{:?}", want.target), format!("{:?}", have.target));
    note("device", want.device.to_string(), have.device.to_string());
    note("xattrs", format!("{:?}", want.xattrs), format!("{:?}", have.xattrs));
    note("hard link", format!("{:?}", want.same_as), format!("{:?}", have.same_as));
    if want.size >= 4 << 20 && want.allocated < want.size / 2 {
        note("sparse", true.to_string(), (have.allocated < have.size / 4 * 3).to_string());
    }
}

/// Two directories must be the same, tops included.
#[track_caller]
pub fn assert_same(expected: &Path, found: &Path) {
    assert_tree(&read(expected), found);
}

/// A directory must be what was read before.
#[track_caller]
pub fn assert_tree(expected: &Tree, found: &Path) {
    let owners = !rustix::process::geteuid().is_root();
    let differences = differences(expected, &read(found), Except { top: false, owners });
    let shown = differences.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(differences.is_empty(), "{} differences in {}:\n{shown}", differences.len(), found.display());
}

/// Files that are there must be right; files may lack. For restores of damaged vaults. Returns how many lack.
#[track_caller]
pub fn assert_nothing_wrong(expected: &Tree, found: &Path) -> usize {
    if !found.exists() {
        return expected.len();
    }
    let have = read(found);
    for (path, facts) in &have {
        let shown = shared::text::printable(path, 200);
        let want = expected.get(path).unwrap_or_else(|| panic!("{shown}: restored and never backed up"));
        assert_eq!(want.kind, facts.kind, "{shown}");
        assert_eq!(want.content, facts.content, "{shown}: wrong content was restored");
        assert_eq!(want.target, facts.target, "{shown}");
    }
    expected.len() - have.len()
}

/// Copies a tree with everything, as `cp -a` does.
pub fn copy(from: &Path, to: &Path) {
    crate::run::Run::new(crate::programs::tool("cp")).arg("-a").arg("--").arg(from).arg(to).ok();
}

/// Writes a file, its directories too.
pub fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Sets the modification time of anything, links themselves included.
pub fn set_modified(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Makes everything older than two seconds, so that the next run need not suspect it.
pub fn age(top: &Path) {
    let mut paths = vec![top.to_owned()];
    while let Some(path) = paths.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            paths.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        set_modified(&path, meta.mtime() - 1000, meta.mtime_nsec());
    }
    // The time of change cannot be set.
    std::thread::sleep(std::time::Duration::from_millis(2200));
}

/// A mixed tree of `files` ordinary files in some directories.
pub fn sample(top: &Path, chance: &mut Chance, files: usize) {
    std::fs::create_dir_all(top).unwrap();
    for number in 0..files {
        let depth = chance.below(4);
        let dir = (0..depth).fold(top.to_owned(), |dir, _| dir.join(format!("d{}", chance.below(4))));
        let bytes = match chance.below(8) {
            0 => 0,
            1..=4 => chance.below(4096),
            5 | 6 => chance.below(100_000),
            _ => chance.below(1_500_000),
        } as usize;
        let content = if chance.below(2) == 0 { chance.text(bytes) } else { chance.bytes(bytes) };
        write(&dir.join(format!("file-{number}")), &content);
    }
}

/// Every kind of thing that a Unix file system holds. What needs root is made only by root.
pub fn everything(top: &Path) {
    std::fs::create_dir_all(top).unwrap();
    names(top);
    modes(&top.join("modes"));
    times(&top.join("times"));
    links(&top.join("links"));
    attributes(&top.join("attributes"));
    sparse(&top.join("sparse"));
    special(&top.join("special"));
    deep(&top.join("deep"));
    std::fs::create_dir(top.join("empty")).unwrap();
    if rustix::process::geteuid().is_root() {
        owners(&top.join("owners"));
    }
}

fn names(top: &Path) {
    let dir = top.join("names");
    std::fs::create_dir(&dir).unwrap();
    let odd: [&[u8]; 14] = [
        b"\xff\xfe not UTF-8 \x80",
        b"new\nline",
        b"tab\tand\rreturn",
        b"escape \x1b[31mred\x1b[0m",
        b"\x01\x02\x7f",
        b" leading and trailing ",
        b"-rf",
        b"...",
        b"\\backslash",
        b"quote's \"and\" $(more) `x`",
        b"*?[a]",
        "caf\u{e9} \u{202e}gnp.exe".as_bytes(),
        b"#hash",
        b"~",
    ];
    for name in odd {
        write(&dir.join(OsStr::from_bytes(name)), name);
    }
    write(&dir.join("n".repeat(255)), b"longest");
    write(&dir.join(OsStr::from_bytes(b"dir \xf0\x28")).join(OsStr::from_bytes(b"\xc3\x28")), b"nested");
}

fn modes(dir: &Path) {
    for mode in [0o000, 0o400, 0o644, 0o755, 0o777, 0o4755, 0o2755, 0o6711, 0o1644] {
        let path = dir.join(format!("{mode:04o}"));
        write(&path, b"mode");
        set_mode(&path, mode);
    }
    for mode in [0o700, 0o1777, 0o2775, 0o555] {
        let path = dir.join(format!("dir-{mode:04o}"));
        write(&path.join("inside"), b"x");
        set_mode(&path, mode);
    }
    if !rustix::process::geteuid().is_root() {
        // Nobody but root could back this up.
        std::fs::remove_file(dir.join("0000")).unwrap();
    }
}

fn times(dir: &Path) {
    let all = [(0, 0), (1, 1), (-1, 999_999_999), (-1_000_000_000, 5), (4_000_000_000, 123_456_789), (951_782_400, 7)];
    for (number, (seconds, nanoseconds)) in all.into_iter().enumerate() {
        let path = dir.join(format!("file-{number}"));
        write(&path, b"time");
        set_modified(&path, seconds, nanoseconds);
        let path = dir.join(format!("dir-{number}"));
        write(&path.join("inside"), b"time");
        set_modified(&path, seconds, nanoseconds);
    }
}

fn links(dir: &Path) {
    write(&dir.join("original"), b"one file, three names");
    std::fs::create_dir(dir.join("other")).unwrap();
    std::fs::hard_link(dir.join("original"), dir.join("second")).unwrap();
    std::fs::hard_link(dir.join("original"), dir.join("other/third")).unwrap();
    write(&dir.join("empty-1"), b"");
    std::fs::hard_link(dir.join("empty-1"), dir.join("empty-2")).unwrap();
    let long = "x/".repeat(2000);
    let targets: [&[u8]; 7] =
        [b"original", b"nowhere", b"/", b"../../../../../etc/passwd", b".", long.as_bytes(), b"\xff\n\x1b"];
    for (number, target) in targets.into_iter().enumerate() {
        let path = dir.join(format!("symlink-{number}"));
        std::os::unix::fs::symlink(OsStr::from_bytes(target), &path).unwrap();
        set_modified(&path, 1_234_567 + number as i64, 89);
    }
    std::fs::hard_link(dir.join("symlink-0"), dir.join("symlink-0-again")).unwrap();
}

/// Bytes of a POSIX ACL attribute: version 2, then (tag, permissions, id) for each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

fn attributes(dir: &Path) {
    let nobody = u32::MAX;
    let file = dir.join("file");
    write(&file, b"attributes");
    xattr::set(&file, "user.text", b"value").unwrap();
    xattr::set(&file, "user.binary", &[0, 255, 10, 27]).unwrap();
    xattr::set(&file, "user.empty", b"").unwrap();
    xattr::set(&file, "user.long", &[b'x'; 2000]).unwrap();
    let entries = [(1, 6, nobody), (2, 4, 12345), (4, 4, nobody), (16, 6, nobody), (32, 0, nobody)];
    let folder = dir.join("folder");
    std::fs::create_dir(&folder).unwrap();
    xattr::set(&folder, "user.of-a-directory", b"1").unwrap();
    // File systems without ACLs are still worth the rest of the test.
    if xattr::set(&file, "system.posix_acl_access", &acl(&entries)).is_ok() {
        xattr::set(&folder, "system.posix_acl_default", &acl(&entries)).unwrap();
    }
    if rustix::process::geteuid().is_root() {
        xattr::set(&file, "trusted.secret", b"root only").unwrap();
        let capable = dir.join("capable");
        write(&capable, b"#!/bin/sh\n");
        set_mode(&capable, 0o755);
        // cap_net_bind_service+ep, revision 2.
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        xattr::set(&capable, "security.capability", &capability).unwrap();
        let link = dir.join("link");
        std::os::unix::fs::symlink("file", &link).unwrap();
        xattr::set(&link, "trusted.of-a-link", b"1").unwrap();
    }
}

fn sparse(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    let mut file = File::create(dir.join("middle")).unwrap();
    file.write_all(b"begin").unwrap();
    file.seek(std::io::SeekFrom::Start(20 << 20)).unwrap();
    file.write_all(b"middle").unwrap();
    file.set_len(40 << 20).unwrap();
    File::create(dir.join("all-hole")).unwrap().set_len(10 << 20).unwrap();
    let mut file = File::create(dir.join("hole-first")).unwrap();
    file.seek(std::io::SeekFrom::Start((8 << 20) + 1)).unwrap();
    file.write_all(b"end").unwrap();
    write(&dir.join("zeros-not-hole"), &[0; 100_000]);
}

fn special(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    rustix::fs::mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o620), 0).unwrap();
    // A socket is skipped, and said: the tree that comes back has none.
    drop(std::os::unix::net::UnixListener::bind(dir.join("socket")));
    if rustix::process::geteuid().is_root() {
        let (null, disk) = (rustix::fs::makedev(1, 3), rustix::fs::makedev(7, 300));
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, dir.join("char"), FileType::CharacterDevice, mode, null).unwrap();
        rustix::fs::mknodat(CWD, dir.join("block"), FileType::BlockDevice, mode, disk).unwrap();
    }
}

fn deep(dir: &Path) {
    let mut path = dir.to_owned();
    for level in 0..100 {
        path.push(format!("level-{level}"));
    }
    write(&path.join("bottom"), b"deep");
}

fn owners(dir: &Path) {
    for (name, uid, gid) in [("named", 1, 2), ("numbers", 54321, 54322), ("mixed", 0, 54321)] {
        let path = dir.join(name);
        write(&path, b"owner");
        std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
        let path = dir.join(format!("{name}-setuid"));
        write(&path, b"owner");
        std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
        set_mode(&path, 0o6755);
        let path = dir.join(format!("{name}-link"));
        std::os::unix::fs::symlink("x", &path).unwrap();
        std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The comparer sees each kind of change: a test that cannot fail proves nothing.
    #[test]
    fn every_change_is_seen() {
        let place = crate::Place::new();
        let top = place.join("a");
        everything(&top);
        let before = read(&top);
        copy(&top, &place.join("b"));
        assert!(differences(&before, &read(&place.join("b")), Except::default()).is_empty());
        type Change = fn(&Path);
        let changes: [(&str, Change); 10] = [
            ("content", |top| std::fs::write(top.join("links/original"), b"ONE file, three names").unwrap()),
            ("mode", |top| set_mode(&top.join("modes/0644"), 0o645)),
            ("time", |top| set_modified(&top.join("times/file-1"), 1, 2)),
            ("time of a link", |top| set_modified(&top.join("links/symlink-1"), 1, 2)),
            ("missing", |top| std::fs::remove_dir(top.join("empty")).unwrap()),
            ("added", |top| std::fs::write(top.join("added"), b"").unwrap()),
            ("xattr", |top| xattr::set(top.join("attributes/file"), "user.text", b"valuE").unwrap()),
            ("hard link", |top| {
                std::fs::remove_file(top.join("links/second")).unwrap();
                std::fs::copy(top.join("links/original"), top.join("links/second")).unwrap();
            }),
            ("not sparse", |top| {
                let bytes = std::fs::read(top.join("sparse/middle")).unwrap();
                let meta = std::fs::metadata(top.join("sparse/middle")).unwrap();
                std::fs::write(top.join("sparse/middle"), bytes).unwrap();
                set_modified(&top.join("sparse/middle"), meta.mtime(), meta.mtime_nsec());
            }),
            ("target", |top| {
                std::fs::remove_file(top.join("links/symlink-2")).unwrap();
                std::os::unix::fs::symlink("/x", top.join("links/symlink-2")).unwrap();
            }),
        ];
        for (number, (what, change)) in changes.into_iter().enumerate() {
            let changed = place.join(format!("changed-{number}"));
            copy(&top, &changed);
            change(&changed);
            assert!(!differences(&before, &read(&changed), Except::default()).is_empty(), "{what}");
        }
    }
}

//! Restores from a vault in memory: what comes back, and what a damaged or moved block costs.

use super::check::Named;
use super::findings::Findings;
use super::later::Later;
use super::metadata::OwnerMode;
use super::reader::Reader;
use super::report::Report;
use super::select::Select;
use super::testing::{Vault, entry, file_of, symlink};
use super::view::Snapshot;
use super::write::Overwrite;
use super::{Options, check, restore};
use crate::crypto::identity::Identity;
use crate::progress::Progress;
use crate::report::{Exit, Outcome};
use crate::tree::node::HardLink;
use crate::tree::{Entry, EntryKind, Extent, ListNode, ListRef};
use shared::codec::{Blob, List};
use shared::format::Kind;
use shared::format::owner::{BlockName, Substitute, SubstitutePair};
use shared::id::{ArchiveNumber, ChunkId, Digest};
use shared::signature::sign;
use shared::wire::Damage;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub fn options(target: &Path) -> Options {
    Options {
        target: target.to_owned(),
        select: Select::all(),
        overwrite: Overwrite::Refuse,
        delete: false,
        dry_run: false,
        owner: OwnerMode::Auto,
        xattrs: true,
        verify: false,
    }
}

pub fn run(vault: &mut Vault, head: &Digest, path: &str, options: &Options) -> Outcome<Report> {
    let (source, head) = (vault.trusted(), vault.head(head));
    let identity = Identity::from_seed(&[7; 32]);
    let mut reader = Reader::open(vault, &source, head, &identity, &Later::default())?;
    restore(&mut reader, path.as_bytes(), options, &Progress::hidden(), &mut |_| {})
}

pub fn target() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    (dir, target)
}

fn sample(vault: &mut Vault) -> (Vec<Entry>, Vec<u8>) {
    let big: Vec<u8> = (0..300_000u32).flat_map(|n| n.to_le_bytes()).collect();
    let chunks: Vec<&[u8]> = big.chunks(50_000).collect();
    let big_file = vault.file("big", &chunks);
    let small = vault.file("small", &[b"hello"]);
    let empty = vault.file("empty", &[]);
    let inner = vault.directory("sub", vec![small, empty, symlink("link", "../big")]);
    let etc = vault.directory("etc", vec![inner, big_file]);
    (vec![etc, entry("pipe", EntryKind::Fifo, 0o640)], big)
}

#[test]
fn a_tree_comes_back_with_its_metadata() {
    let mut vault = Vault::new();
    let (entries, big) = sample(&mut vault);
    let head = vault.snapshot(entries);
    for verify in [false, true] {
        let (_dir, out) = target();
        let report = run(&mut vault, &head, "", &Options { verify, ..options(&out) }).unwrap();
        assert_eq!((report.exit(), report.files, report.verified), (Exit::Done, 3, if verify { 3 } else { 0 }));
        assert_eq!(fs::read(out.join("etc/big")).unwrap(), big);
        assert_eq!(fs::read(out.join("etc/sub/small")).unwrap(), b"hello");
        assert_eq!(fs::read_link(out.join("etc/sub/link")).unwrap(), Path::new("../big"));
        for (name, mode) in [("etc/big", 0o644), ("etc", 0o755), ("pipe", 0o640)] {
            let meta = fs::symlink_metadata(out.join(name)).unwrap();
            assert_eq!(
                (meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()),
                (mode, 1_600_000_000, 123_456_789),
                "{name}"
            );
        }
        assert_eq!(fs::symlink_metadata(out.join("etc/sub/link")).unwrap().mtime(), 1_600_000_000);
    }
}

#[test]
fn each_block_is_fetched_once() {
    let mut vault = Vault::new();
    let chunks: Vec<Vec<u8>> = (0..200u32).map(|n| vec![n as u8; 3000]).collect();
    let refs = vault.archive(Kind::Data, &chunks);
    let files: Vec<Entry> =
        refs.iter().enumerate().map(|(at, chunk)| file_of(&format!("f{at:03}"), &[*chunk])).collect();
    let head = vault.snapshot(files);
    let (_dir, out) = target();
    assert_eq!(run(&mut vault, &head, "", &options(&out)).unwrap().files, 200);
    assert!(vault.store.fetched.values().all(|count| *count == 1), "{:?}", vault.store.fetched);
}

#[test]
fn a_path_becomes_the_target_and_a_file_goes_into_it() {
    let mut vault = Vault::new();
    let (entries, _) = sample(&mut vault);
    let head = vault.snapshot(entries);
    let (_dir, out) = target();
    run(&mut vault, &head, "/etc/sub", &options(&out)).unwrap();
    assert_eq!(fs::read(out.join("small")).unwrap(), b"hello");
    // The target is new: it gets the directory's own metadata.
    assert_eq!(fs::metadata(&out).unwrap().mtime(), 1_600_000_000);
    let (_dir, out) = target();
    run(&mut vault, &head, "etc/sub/small", &options(&out)).unwrap();
    assert_eq!(fs::read(out.join("small")).unwrap(), b"hello");
    let (_dir, out) = target();
    assert_eq!(run(&mut vault, &head, "/etc/none", &options(&out)).unwrap_err().exit, Exit::NotFound);
}

#[test]
fn holes_hard_links_and_long_lists_come_back() {
    let mut vault = Vault::new();
    let data = vault.chunk(b"data");
    let extents = List::new(vec![Extent::Hole(1 << 30), Extent::Chunk(data), Extent::Hole(4096)]).unwrap();
    let size = (1 << 30) + 4 + 4096;
    let sparse = Entry { size, extents: Some(extents), ..entry("sparse", EntryKind::File, 0o600) };
    let list = ListNode { level: 0, extents: Some(List::new(vec![Extent::Chunk(data); 3]).unwrap()), lists: None };
    let low = vault.archive(Kind::Metadata, &[list.encode()])[0];
    let upper = ListNode { level: 1, extents: None, lists: Some(List::new(vec![(low, 12), (low, 12)]).unwrap()) };
    let chunk = vault.archive(Kind::Metadata, &[upper.encode()])[0];
    let long =
        Entry { size: 24, list: Some(ListRef { chunk, level: 1, bytes: 24 }), ..entry("long", EntryKind::File, 0o600) };
    let pair = Some(HardLink { file_system: 1, inode: 9 });
    let one = Entry { hard_link: pair, ..file_of("one", &[data]) };
    let two = Entry { hard_link: pair, ..file_of("two", &[data]) };
    // The same pair with another content is another file, whatever the source says.
    let lie = Entry { hard_link: pair, ..file_of("lie", &[data, data]) };
    let head = vault.snapshot(vec![sparse, long, one, two, lie]);
    for verify in [false, true] {
        let (_dir, out) = target();
        let report = run(&mut vault, &head, "", &Options { verify, ..options(&out) }).unwrap();
        assert_eq!(report.exit(), Exit::Done);
        let meta = fs::metadata(out.join("sparse")).unwrap();
        assert_eq!((meta.len(), meta.blocks() < 1000), (size, true));
        assert_eq!(fs::read(out.join("long")).unwrap(), b"data".repeat(6));
        let inode = |name: &str| fs::metadata(out.join(name)).unwrap().ino();
        assert_eq!((inode("one") == inode("two"), inode("one") == inode("lie")), (true, false));
    }
}

#[test]
fn large_directories_come_back_and_single_names_are_found() {
    let mut vault = Vault::new();
    let chunk = vault.chunk(b"x");
    let entries: Vec<Entry> = (0..2500).map(|at| file_of(&format!("f{at:05}"), &[chunk])).collect();
    let top = vault.node(entries, 100);
    let dir = Entry { node: Some(top), ..entry("d", EntryKind::Directory, 0o700) };
    vault.counts = Some(crate::tree::Counts { files: 2500, bytes: 2500, ..Default::default() });
    let head = vault.snapshot(vec![dir]);
    let (_dir, out) = target();
    assert_eq!(run(&mut vault, &head, "", &options(&out)).unwrap().files, 2500);
    for name in ["f00000", "f00099", "f00100", "f02499"] {
        let (_dir, out) = target();
        assert_eq!(run(&mut vault, &head, &format!("/d/{name}"), &options(&out)).unwrap().files, 1, "{name}");
    }
    let (_dir, out) = target();
    assert!(run(&mut vault, &head, "/d/f0009", &options(&out)).is_err());
}

#[test]
fn a_damaged_block_loses_its_files_alone() {
    let mut vault = Vault::new();
    let good = vault.file("good", &[b"good"]);
    let bad = vault.file("bad", &[b"bad"]);
    let archive = vault.next_number - 1;
    let also = Entry { name: Blob::new(b"also".to_vec()).unwrap(), ..bad.clone() };
    let head = vault.snapshot(vec![good, bad, also]);
    vault.store.parts.get_mut(&(archive, 0)).unwrap()[100] ^= 1;
    for verify in [false, true] {
        let (_dir, out) = target();
        let report = run(&mut vault, &head, "", &Options { verify, ..options(&out) }).unwrap();
        assert_eq!((report.exit(), report.files), (Exit::Tampered, 1));
        let mut lost: Vec<_> =
            report.lost.named().into_iter().map(|lost| String::from_utf8(lost.path).unwrap()).collect();
        lost.sort();
        assert_eq!(lost, ["/also", "/bad"]);
        assert!(
            report.findings.lines()[0].contains(&format!("archive {archive}, part 0")),
            "{:?}",
            report.findings.lines()
        );
        let names: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["good"], "nothing partial stays");
    }
}

#[test]
fn a_file_has_its_name_with_its_last_chunk_and_not_before() {
    let mut vault = Vault::new();
    vault.block_bytes = 4;
    let archives: Vec<Vec<_>> = (0..40u32)
        .map(|at| {
            let chunks: Vec<Vec<u8>> = (0..5u32).map(|n| (at * 5 + n).to_le_bytes().to_vec()).collect();
            vault.archive(Kind::Data, &chunks)
        })
        .collect();
    vault.block_bytes = 64 << 10;
    // Each file has a chunk of each archive.
    let file = |n: usize| file_of(&format!("f{n}"), &archives.iter().map(|all| all[n]).collect::<Vec<_>>());
    let head = vault.snapshot((0..5).map(file).collect());
    let broken = (archives[17][2].archive.get(), archives[17][2].block);
    for damage in [false, true] {
        if damage {
            vault.store.parts.get_mut(&broken).unwrap()[7] ^= 1;
        }
        for verify in [false, true] {
            let (_dir, out) = target();
            let report = run(&mut vault, &head, "", &Options { verify, ..options(&out) }).unwrap();
            let (exit, files) = if damage { (Exit::Tampered, 4) } else { (Exit::Done, 5) };
            assert_eq!((report.exit(), report.files, report.lost.count()), (exit, files, 5 - files));
            let entries = fs::read_dir(&out).unwrap().flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
            names.sort();
            let whole: Vec<String> = (0..5).filter(|n| !damage || *n != 2).map(|n| format!("f{n}")).collect();
            assert_eq!(names, whole, "nothing partial stays");
            for name in whole {
                let n: u32 = name[1..].parse().unwrap();
                let content: Vec<u8> = (0..40u32).flat_map(|at| (at * 5 + n).to_le_bytes()).collect();
                assert_eq!(fs::read(out.join(&name)).unwrap(), content);
                assert_eq!(fs::metadata(out.join(&name)).unwrap().mtime(), 1_600_000_000);
            }
        }
    }
}

#[test]
fn a_missing_part_does_not_take_its_neighbours_along() {
    let mut vault = Vault::new();
    vault.block_bytes = 4;
    let entries = vault.archive(Kind::Data, &[b"aaaa".to_vec(), b"bbbb".to_vec(), b"cccc".to_vec()]);
    let archive = vault.next_number - 1;
    let files = ["a", "b", "c"].iter().zip(&entries).map(|(name, chunk)| file_of(name, &[*chunk])).collect();
    vault.block_bytes = 64 << 10;
    let head = vault.snapshot(files);
    vault.store.parts.remove(&(archive, 1));
    let (_dir, out) = target();
    let report = run(&mut vault, &head, "", &options(&out)).unwrap();
    assert_eq!((report.exit(), report.files, report.lost.count()), (Exit::Tampered, 2, 1));
}

#[test]
fn a_stale_hint_is_only_slow() {
    let mut vault = Vault::new();
    let old = vault.chunk(b"moved");
    let now = vault.chunk(b"moved");
    let nowhere = crate::tree::ChunkRef { archive: ArchiveNumber::new(900).unwrap(), ..now };
    // The first archive is not named any more: its block was repacked.
    vault.page_entries.remove(0);
    let head = vault.snapshot(vec![file_of("one", &[old]), file_of("two", &[nowhere])]);
    vault.store.regions.remove(&0);
    let (_dir, out) = target();
    let report = run(&mut vault, &head, "", &options(&out)).unwrap();
    assert_eq!((report.exit(), report.files), (Exit::Done, 2));
    assert_eq!(fs::read(out.join("one")).unwrap(), b"moved");
}

#[test]
fn a_directory_node_with_a_stale_hint_is_found() {
    let mut vault = Vault::new();
    let file = vault.file("f", &[b"f"]);
    let mut dir = vault.directory("d", vec![file]);
    dir.node.as_mut().unwrap().chunk.archive = ArchiveNumber::new(777).unwrap();
    let head = vault.snapshot(vec![dir]);
    let (_dir, out) = target();
    assert_eq!(run(&mut vault, &head, "", &options(&out)).unwrap().exit(), Exit::Done);
    assert_eq!(fs::read(out.join("d/f")).unwrap(), b"f");
}

#[test]
fn substitutes_heal_and_only_from_those_who_may_sign_them() {
    for honest in [true, false] {
        let mut vault = Vault::new();
        let left = vault.chunk(b"healed");
        let left_id = vault.page_entries[0].id;
        let right = vault.chunk(b"healed");
        let right_id = vault.page_entries[1].id;
        // Only the left is named by the snapshot.
        vault.page_entries.remove(1);
        let head = vault.snapshot(vec![file_of("f", &[left])]);
        let name = |number, id| BlockName { number, id, block: 0 };
        let pair = SubstitutePair {
            left: name(left.archive, left_id),
            right: List::new(vec![name(right.archive, right_id)]).unwrap(),
        };
        let record =
            Substitute { source: vault.source(), lineage: vault.lineage, pairs: List::new(vec![pair]).unwrap() };
        let stranger = shared::signature::SigningKey::random();
        let record = sign(record, if honest { &vault.signing } else { &stranger }).unwrap();
        vault.store.substitutes.push(record.as_bytes().to_vec());
        vault.store.parts.get_mut(&(0, 0)).unwrap()[9] ^= 1;
        let (_dir, out) = target();
        let report = run(&mut vault, &head, "", &options(&out)).unwrap();
        assert_eq!(report.exit(), if honest { Exit::Done } else { Exit::Tampered }, "{:?}", report.findings.lines());
        assert_eq!(out.join("f").exists(), honest);
    }
}

#[test]
fn later_records_do_not_stand_before_what_is_sound() {
    let mut vault = Vault::new();
    vault.block_bytes = 1;
    let chunks = vault.archive(Kind::Data, &[b"sound".to_vec(), b"as well".to_vec()]);
    let left_id = vault.page_entries[0].id;
    // Whoever took the source over knows the ids, and names blocks of another content for them.
    let poison: NamedChunks = (0..70).map(|at| (chunks[at % 2].id, format!("junk {at}").into_bytes())).collect();
    let right = vault.archive_named(Kind::Data, &poison)[0].archive;
    let right_id = vault.page_entries.remove(1).id;
    let head = vault.snapshot(vec![file_of("f", &chunks)]);
    for block in 0..60 {
        let left = BlockName { number: chunks[0].archive, id: left_id, block: block % 2 };
        let right = List::new(vec![BlockName { number: right, id: right_id, block }]).unwrap();
        let pairs = List::new(vec![SubstitutePair { left, right }]).unwrap();
        let record = Substitute { source: vault.source(), lineage: vault.lineage, pairs };
        let record = sign(record, &vault.signing).unwrap();
        vault.store.substitutes.push(record.as_bytes().to_vec());
    }
    let (_dir, out) = target();
    let report = run(&mut vault, &head, "", &options(&out)).unwrap();
    assert_eq!(report.exit(), Exit::Done, "{:?}", report.findings.lines());
    assert_eq!(fs::read(out.join("f")).unwrap(), b"soundas well");
    assert!(vault.store.fetched.keys().all(|(archive, _)| *archive != right.get()), "nothing of it was even read");
    // One of the two is damaged: what stands for it is junk, and nothing else is lost with it.
    vault.store.parts.get_mut(&(chunks[0].archive.get(), 1)).unwrap()[9] ^= 1;
    let other = vault.file("g", &[b"sound"]);
    let head = vault.snapshot(vec![file_of("f", &chunks), other]);
    let (_dir, out) = target();
    let report = run(&mut vault, &head, "", &options(&out)).unwrap();
    assert_eq!(report.exit(), Exit::Tampered);
    assert!(!out.join("f").exists() && out.join("g").exists());
}

#[test]
fn what_is_lost_beside_what_was_asked_for_is_no_finding() {
    for what in ["region", "block"] {
        let mut vault = Vault::new();
        let mut dir = |name: &str| {
            let file = vault.file("f", &[name.as_bytes()]);
            vault.directory(name, vec![file])
        };
        let dirs = [dir("a"), dir("b"), dir("c")];
        let head = vault.snapshot(dirs.to_vec());
        let lost = dirs[0].node.unwrap().chunk;
        match what {
            "region" => drop(vault.store.regions.remove(&lost.archive.get())),
            _ => vault.store.parts.get_mut(&(lost.archive.get(), lost.block)).unwrap()[9] ^= 1,
        }
        let (_dir, out) = target();
        let some = Options { select: Select::new(&[], &["/a".into()]).unwrap(), ..options(&out) };
        let report = run(&mut vault, &head, "", &some).unwrap();
        assert_eq!(report.exit(), Exit::Done, "{what}: {:?}", report.findings.lines());
        assert!(out.join("b/f").exists() && out.join("c/f").exists() && !out.join("a").exists());
        let (_dir, out) = target();
        assert_eq!(run(&mut vault, &head, "", &options(&out)).unwrap().exit(), Exit::Tampered, "{what}");
    }
}

/// Chunks under ids that may be wrong.
type NamedChunks = Vec<(ChunkId, Vec<u8>)>;

/// A snapshot of one file whose archive is lost; a record names others instead. With the healing archive's number.
fn healed_by(chunks: &dyn Fn(&Vault) -> NamedChunks, block: u32) -> (Vault, Digest, u64) {
    healed(Vault::new(), chunks, block, &mut |_| {})
}

/// The same where what heals is of a session of its own, and the snapshot of the first one again.
pub fn healed_in_another_session() -> (Vault, Digest) {
    let chunks = |vault: &Vault| vec![(vault.namer().name(b"healed"), b"healed".to_vec())];
    let mut first = None;
    let mut turn = |vault: &mut Vault| match first.take() {
        None => first = Some(vault.next_session()),
        Some(before) => (vault.session, vault.envelope) = before,
    };
    let (vault, head, _) = healed(Vault::new(), &chunks, 0, &mut turn);
    (vault, head)
}

/// `turn` is called before and behind what heals.
fn healed(
    mut vault: Vault,
    chunks: &dyn Fn(&Vault) -> NamedChunks,
    block: u32,
    turn: &mut dyn FnMut(&mut Vault),
) -> (Vault, Digest, u64) {
    vault.block_bytes = 1;
    let left = vault.chunk(b"healed");
    let left_id = vault.page_entries[0].id;
    let chunks = chunks(&vault);
    turn(&mut vault);
    let right = vault.archive_named(Kind::Data, &chunks)[0].archive;
    turn(&mut vault);
    // Only the left is named by the snapshot.
    let right_id = vault.page_entries.remove(1).id;
    let head = vault.snapshot(vec![file_of("f", &[left])]);
    let left = BlockName { number: left.archive, id: left_id, block: 0 };
    let right = List::new(vec![BlockName { number: right, id: right_id, block }]).unwrap();
    let number = right[0].number.get();
    let pairs = List::new(vec![SubstitutePair { left, right }]).unwrap();
    let record = Substitute { source: vault.source(), lineage: vault.lineage, pairs };
    let record = sign(record, &vault.signing).unwrap();
    vault.store.substitutes.push(record.as_bytes().to_vec());
    vault.store.regions.remove(&0);
    (vault, head, number)
}

/// Findings of `check --read-data` on a snapshot.
fn read_all(vault: &mut Vault, head: &Digest) -> Vec<String> {
    let (source, head, identity) = (vault.trusted(), vault.head(head), Identity::from_seed(&[7; 32]));
    let snapshot =
        Snapshot { sink: 0, source: 0, head: head.clone(), content: Damage::Present, receipt: None, usable: true };
    let mut reader = Reader::open(vault, &source, head, &identity, &Later::default()).unwrap();
    check::whole(&mut reader, &snapshot, &Progress::hidden()).unwrap().lines()
}

/// Findings of `check` without an identity.
fn check_regions(vault: &mut Vault, head: &Digest) -> Vec<String> {
    let (source, head) = (vault.trusted(), vault.head(head));
    let lineage = vault.lineage;
    let snapshot = Snapshot { sink: 0, source: 0, head, content: Damage::Present, receipt: None, usable: true };
    let (mut findings, mut named) = (Findings::default(), Named::default());
    named.snapshots(vault, &[&snapshot], &mut findings).unwrap();
    named.regions(vault, &source, &lineage, &mut findings, &Progress::hidden(), &mut |_| {}).unwrap();
    findings.lines()
}

#[test]
fn a_check_believes_what_stands_for_a_lost_archive_when_it_was_read() {
    let id = |vault: &Vault| vault.namer().name(b"healed");
    let other = |vault: &Vault| (vault.namer().name(b"other"), b"other".to_vec());
    // The content itself, also behind something else.
    let (mut vault, head, _) = healed_by(&|vault| vec![(id(vault), b"healed".to_vec())], 0);
    assert_eq!(read_all(&mut vault, &head), [""; 0]);
    let (mut vault, head, _) = healed_by(&|vault| vec![other(vault), (id(vault), b"healed".to_vec())], 1);
    assert_eq!(read_all(&mut vault, &head), [""; 0]);
    // Its id over something else.
    let (mut vault, head, _) = healed_by(&|vault| vec![(id(vault), b"poison".to_vec())], 0);
    let found = read_all(&mut vault, &head);
    assert!(found.iter().any(|line| line.contains("is poisoned")), "{found:?}");
    assert!(found.iter().any(|line| line.starts_with("/f: needs chunk")), "{found:?}");
    // A sound block that the record names, and the id listed for another one, which nobody reads.
    let (mut vault, head, _) = healed_by(&|vault| vec![other(vault), (id(vault), b"poison".to_vec())], 0);
    let found = read_all(&mut vault, &head);
    assert!(found.iter().any(|line| line.starts_with("/f: needs chunk")), "{found:?}");
    // What the record names is gone.
    let (mut vault, head, right) = healed_by(&|vault| vec![(id(vault), b"healed".to_vec())], 0);
    vault.store.parts.remove(&(right, 0));
    assert!(!read_all(&mut vault, &head).is_empty());
}

#[test]
fn a_chunk_is_lost_only_where_no_good_copy_is_listed() {
    // In one archive poisoned or damaged, in another whole; and the other way round.
    for (poisoned, bad_first) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut vault = Vault::new();
        let id = vault.namer().name(b"content");
        let bad = if poisoned { b"poison!".to_vec() } else { b"content".to_vec() };
        let archive = |vault: &mut Vault, content| vault.archive_named(Kind::Data, &[(id, content)])[0];
        let copies = match bad_first {
            true => [bad, b"content".to_vec()],
            false => [b"content".to_vec(), bad],
        };
        let copies = copies.map(|content| archive(&mut vault, content));
        let head = vault.snapshot(vec![file_of("f", &copies[..1]), file_of("g", &copies[1..])]);
        let bad = copies[usize::from(!bad_first)].archive.get();
        if !poisoned {
            vault.store.parts.get_mut(&(bad, 0)).unwrap()[9] ^= 1;
        }
        let found = read_all(&mut vault, &head);
        assert_eq!(found.len(), 1, "the place, and no file: {found:?}");
        assert!(found[0].contains(&format!("archive {bad}, ")), "{found:?}");
        // With the other one gone as well both files are lost.
        let good = copies[usize::from(bad_first)].archive.get();
        vault.store.parts.get_mut(&(good, 0)).unwrap()[9] ^= 1;
        let found = read_all(&mut vault, &head);
        let lost = |name: &str| found.iter().any(|line| line.starts_with(name) && line.contains("damaged or poisoned"));
        assert!(lost("/f: ") && lost("/g: "), "{found:?}");
    }
}

#[test]
fn without_keys_what_stands_for_a_lost_archive_must_be_there() {
    let chunks = |vault: &Vault| vec![(vault.namer().name(b"healed"), b"healed".to_vec())];
    let (mut vault, head, right) = healed_by(&chunks, 0);
    assert_eq!(check_regions(&mut vault, &head), [""; 0]);
    vault.store.regions.remove(&right);
    assert_eq!(check_regions(&mut vault, &head).len(), 1, "both are gone");
    let (mut vault, head, _) = healed_by(&chunks, 1);
    assert_eq!(check_regions(&mut vault, &head).len(), 1, "it has no such block");
}

#[test]
fn what_is_there_is_treated_as_asked() {
    let mut vault = Vault::new();
    let file = vault.file("f", &[b"snapshot"]);
    let dir = vault.directory("d", vec![]);
    let head = vault.snapshot(vec![file, dir]);
    let prepare = || {
        let (dir, out) = target();
        fs::create_dir_all(out.join("d")).unwrap();
        fs::write(out.join("f"), b"mine").unwrap();
        fs::write(out.join("d/extra"), b"extra").unwrap();
        (dir, out)
    };
    let (_dir, out) = prepare();
    assert_eq!(run(&mut vault, &head, "", &options(&out)).unwrap_err().code, "target");
    for (overwrite, expected) in [
        (Overwrite::Never, &b"mine"[..]),
        (Overwrite::IfNewer, b"mine"),
        (Overwrite::IfChanged, b"snapshot"),
        (Overwrite::Always, b"snapshot"),
    ] {
        let (_dir, out) = prepare();
        let report = run(&mut vault, &head, "", &Options { overwrite, ..options(&out) }).unwrap();
        assert_eq!(fs::read(out.join("f")).unwrap(), expected, "{overwrite:?}");
        assert!(out.join("d/extra").exists());
        assert_eq!(report.exit(), Exit::Done);
    }
    let (_dir, out) = prepare();
    let report = run(&mut vault, &head, "", &Options { overwrite: Overwrite::Always, delete: true, ..options(&out) });
    assert_eq!((report.unwrap().deleted, out.join("d/extra").exists()), (1, false));
    let (_dir, out) = prepare();
    let refused = run(&mut vault, &head, "", &Options { delete: true, ..options(&out) });
    assert_eq!(refused.unwrap_err().exit, Exit::Usage);
    let refused =
        run(&mut vault, &head, "", &Options { delete: true, overwrite: Overwrite::Always, ..options(Path::new("/")) });
    assert_eq!(refused.unwrap_err().exit, Exit::Usage);
}

#[test]
fn unchanged_files_keep_their_content_and_get_their_metadata() {
    let mut vault = Vault::new();
    let file = vault.file("f", &[b"content"]);
    let head = vault.snapshot(vec![file]);
    let (_dir, out) = target();
    run(&mut vault, &head, "", &options(&out)).unwrap();
    let before = fs::metadata(out.join("f")).unwrap().ino();
    fs::set_permissions(out.join("f"), fs::Permissions::from_mode(0o600)).unwrap();
    let report = run(&mut vault, &head, "", &Options { overwrite: Overwrite::IfChanged, ..options(&out) }).unwrap();
    let meta = fs::metadata(out.join("f")).unwrap();
    assert_eq!((report.unchanged, meta.ino(), meta.mode() & 0o7777), (1, before, 0o644));
}

#[test]
fn patterns_choose_and_leave_out() {
    let mut vault = Vault::new();
    let (entries, _) = sample(&mut vault);
    let head = vault.snapshot(entries);
    let (_dir, out) = target();
    let select = Select::new(&["/etc/sub/".into()], &["*.none".into(), "empty".into()]).unwrap();
    let report = run(&mut vault, &head, "", &Options { select, ..options(&out) }).unwrap();
    assert_eq!((report.files, report.exit()), (1, Exit::Done));
    assert!(out.join("etc/sub/small").exists() && out.join("etc/sub/link").is_symlink());
    assert!(!out.join("etc/big").exists() && !out.join("pipe").exists() && !out.join("etc/sub/empty").exists());
}

#[test]
fn a_dry_run_writes_nothing_and_says_what_it_would() {
    let mut vault = Vault::new();
    let (entries, big) = sample(&mut vault);
    let head = vault.snapshot(entries);
    let (_dir, out) = target();
    let report = run(&mut vault, &head, "", &Options { dry_run: true, ..options(&out) }).unwrap();
    assert_eq!((report.files, report.bytes, out.exists()), (3, big.len() as u64 + 5, false));
}

#[test]
fn a_dry_run_counts_what_the_real_one_does() {
    let mut vault = Vault::new();
    let (mut entries, _) = sample(&mut vault);
    let chunk = vault.chunk(b"twice");
    let pair = Some(HardLink { file_system: 1, inode: 9 });
    entries.extend(["one", "two"].map(|name| Entry { hard_link: pair, ..file_of(name, &[chunk]) }));
    let head = vault.snapshot(entries);
    let all = [Overwrite::Never, Overwrite::IfNewer, Overwrite::IfChanged, Overwrite::Always];
    let choices: [(&[String], &[String]); 2] = [(&[], &[]), (&["/etc/sub/".into()], &["empty".into()])];
    for (overwrite, (include, exclude)) in all.into_iter().flat_map(|when| choices.map(|choice| (when, choice))) {
        for delete in [false, true] {
            let (_dir, out) = target();
            run(&mut vault, &head, "", &options(&out)).unwrap();
            fs::write(out.join("etc/big"), b"other").unwrap();
            fs::remove_file(out.join("etc/sub/small")).unwrap();
            fs::create_dir_all(out.join("etc/sub/mine/own")).unwrap();
            fs::remove_file(out.join("one")).unwrap();
            fs::create_dir_all(out.join("one/own")).unwrap();
            let select = || Select::new(include, exclude).unwrap();
            let with = |dry_run| Options { overwrite, delete, dry_run, select: select(), ..options(&out) };
            let counts = [true, false].map(|dry| {
                let report = run(&mut vault, &head, "", &with(dry)).unwrap();
                let Report { files, directories, others, links, bytes, kept, unchanged, deleted, .. } = report;
                (files, directories, others, links, bytes, kept, unchanged, deleted, report.lost.count())
            });
            assert_eq!(counts[0], counts[1], "{overwrite:?} {include:?} {delete}");
        }
    }
}

#[test]
fn another_identity_opens_nothing() {
    let mut vault = Vault::new();
    let file = vault.file("f", &[b"f"]);
    let head = vault.snapshot(vec![file]);
    let (source, head) = (vault.trusted(), vault.head(&head));
    let other = Identity::from_seed(&[8; 32]);
    assert_eq!(Reader::open(&mut vault, &source, head, &other, &Later::default()).err().unwrap().exit, Exit::Identity);
}

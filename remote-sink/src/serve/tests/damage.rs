//! Verify finds whatever is done to any file of a source.

use crate::serve::tests::Source;
use crate::serve::tests::world::{World, files};
use crate::store::Name;
use crate::verify::{VerifyOptions, verify};
use shared::codec::List;
use shared::format::Substitute;
use shared::format::owner::{BlockName, SubstitutePair};
use shared::signature::sign;
use shared::wire::PushRequest;
use std::path::{Path, PathBuf};

fn stage() -> (World, Source) {
    let world = World::new();
    let source = world.source("web1", 1);
    let mut client = world.push(&source);
    client.put_envelope(&source);
    let (one, two) = (source.archive(0, &[2, 1]), source.archive(1, &[1, 1]));
    client.put_archive(&one);
    client.put_archive(&two);
    let first = client.commit(&source, &[&one], None);
    client.commit(&source, &[&one, &two], Some(&first));
    let name = |archive: &super::Archive| BlockName { number: archive.number, id: archive.id, block: 0 };
    let pair = SubstitutePair { left: name(&one), right: List::new(vec![name(&two)]).unwrap() };
    let pairs = List::new(vec![pair]).unwrap();
    let substitute = sign(Substitute { source: source.id(), lineage: source.lineage, pairs }, &source.key).unwrap();
    client.send(&PushRequest::PutSubstitute(substitute.as_bytes().to_vec()));
    client.stored();
    client.close();
    world.assert_whole();
    (world, source)
}

fn objects(world: &World, source: &Source) -> Vec<PathBuf> {
    let room = world.layout.source(&source.name);
    let beside = [room.join("enrolment.toml"), room.join("lock")];
    files(&room).into_iter().filter(|path| !beside.contains(path)).collect()
}

fn replace(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn any_changed_cut_or_grown_file_is_found() {
    let (world, source) = stage();
    let all = objects(&world, &source);
    assert!(all.len() >= 13, "{all:?}");
    let mut healed_seen = 0;
    for path in all {
        let whole = std::fs::read(&path).unwrap();
        let mut wrongs = vec![whole[..whole.len() - 1].to_vec(), Vec::new(), [whole.clone(), vec![0]].concat()];
        for at in [0, 5, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            wrongs.push(flipped);
        }
        for (at, wrong) in wrongs.iter().enumerate() {
            replace(&path, wrong);
            let report = world.verify();
            // What the substitute replaces is told, and no snapshot lacks it: a block, a chunk table, a header.
            let healed = report.is_ok() && report.sources[0].healed == 1;
            let damaged = !report.is_ok() && report.sources[0].damage_total > 0;
            healed_seen += u32::from(healed);
            assert!(damaged || healed, "wrong {at} of {}", path.display());
        }
        replace(&path, &whole);
    }
    assert_eq!(healed_seen, 8, "whatever is done to the archive whose one block has a substitute");
    world.assert_whole();
}

#[test]
fn a_missing_file_is_found_where_a_snapshot_needs_it() {
    let (world, source) = stage();
    let mut found = 0;
    for path in objects(&world, &source) {
        let whole = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let report = world.verify();
        let text = path.display().to_string();
        let newest = text.ends_with("0000000000000001");
        if text.contains("archives") && text.ends_with("-000000000000") {
            assert!(report.is_ok(), "its one block has a substitute: {:?}", report.sources[0].damage);
            std::fs::write(&path, whole).unwrap();
            continue;
        }
        let needed = ["archives", "pages", "bodies", "heads", "receipts", "envelopes"];
        if needed.iter().any(|shelf| text.contains(shelf)) && !(newest && text.contains("receipts")) {
            assert!(!report.is_ok(), "{text}");
            found += 1;
        }
        std::fs::write(&path, whole).unwrap();
    }
    assert!(found >= 8, "{found}");
}

#[test]
fn damage_is_said_with_the_snapshots_that_need_it() {
    let (world, source) = stage();
    let name = Name::Archive(source.lineage, source.archive(1, &[1, 1]).number);
    let path = world.object(&source, &name);
    let mut bytes = std::fs::read(&path).unwrap();
    let block = bytes.len() - 8192;
    bytes[block] ^= 1;
    replace(&path, &bytes);
    let report = world.verify().sources.remove(0);
    assert_eq!(report.damage_total, 1, "{report:#?}");
    assert_eq!(report.damage[0].object, Some(name));
    assert_eq!(report.damage[0].snapshots, [(source.lineage, 1)], "the first snapshot does not name it");
    assert_eq!(report.snapshots_damaged, [(source.lineage, 1)]);
    assert_eq!((report.chain_broken, report.signatures_ok), (0, 2));
}

#[test]
fn an_archive_that_cannot_be_opened_was_not_left_out() {
    let (world, source) = stage();
    let path = world.object(&source, &Name::Archive(source.lineage, source.archive(1, &[1, 1]).number));
    replace(&path, b"nothing like it");
    let report = world.verify().sources.remove(0);
    assert_eq!((report.archives, report.archives_read, report.archives_left_out), (2, 1, 0));
}

#[test]
fn files_that_are_no_objects_are_named() {
    let (world, source) = stage();
    let room = world.layout.source(&source.name);
    for file in ["archives/00/junk", "heads/x", "pages/aa/../y", "records/z"] {
        std::fs::write(room.join(file), b"junk").unwrap();
    }
    let report = world.verify().sources.remove(0);
    assert_eq!((report.unknown_total, report.damage_total), (4, 0), "{:?}", report.unknown);
}

#[test]
fn samples_and_ages_leave_archives_out_but_nothing_else() {
    let (world, source) = stage();
    let root = world.layout.root();
    let none = VerifyOptions { sample_percent: Some(0.0), ..VerifyOptions::default() };
    let report = verify(root, &none, &*world.clock).unwrap().sources.remove(0);
    assert_eq!((report.archives, report.archives_read, report.signatures_ok), (2, 0, 2));
    assert_eq!(report.archives_left_out, 2);
    let report = world.verify().sources.remove(0);
    assert_eq!(report.verified.len(), 2);
    let mut ledger = crate::ledger::Ledger::open(&world.layout.ledger(&source.name)).unwrap();
    ledger.mark_verified(&report.verified[..1], super::world::NOW - 10).unwrap();
    let read = |age| {
        let options = VerifyOptions { older_than: Some(age), limit_read: Some(1 << 40), ..VerifyOptions::default() };
        verify(root, &options, &*world.clock).unwrap().sources[0].archives_read
    };
    assert_eq!((read(60), read(5)), (1, 2));
}

#[test]
fn what_a_session_holds_open_for_writing_does_not_count_as_read() {
    use std::os::unix::fs::PermissionsExt;
    let (world, source) = stage();
    let path = world.object(&source, &Name::Archive(source.lineage, source.archive(1, &[1, 1]).number));
    // As injected code keeps the descriptor of its own upload: no session can open one anew.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let report = world.verify().sources.remove(0);
    assert_eq!((report.archives_read, report.archives_open, report.verified.len()), (2, 1, 1));
    assert!(report.is_ok(), "it is no damage: {:?}", report.damage);
    drop(writer);
    let report = world.verify().sources.remove(0);
    assert_eq!((report.archives_open, report.verified.len()), (0, 2));
}

//! Hostile vaults: a sink that lies, a source that was taken over. Nothing is written outside the target, nothing is
//! endless, and whatever does not fit is named.

use super::metadata::OwnerMode;
use super::objects::Objects;
use super::testing::{Vault, entry, file_of, symlink};
use super::tests::{options, run, target};
use super::view::{self, Memory, View};
use super::write::Overwrite;
use super::{Options, resolve};
use crate::crypto::identity::Identity;
use crate::owner::{SeenHead, Trust};
use crate::report::{Exit, Failure, Outcome};
use crate::tree::node::{Device, NodeTop};
use crate::tree::{Counts, Entry, EntryKind, Extent, Node};
use shared::codec::{Blob, List};
use shared::format::Kind;
use shared::format::snapshot::{FLAG_CHECKPOINT, RemoteHead};
use shared::id::{Digest, Lineage};
use shared::signature::SigningKey;
use shared::wire::Damage;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// A node as bytes that `Node::leaf` would not make.
fn raw_node(vault: &mut Vault, entries: Vec<Entry>) -> NodeTop {
    let content = Node::leaf(entries).unwrap().encode();
    NodeTop { chunk: vault.archive(Kind::Metadata, &[content])[0], level: 0 }
}

fn named(name: &[u8], entry: Entry) -> Entry {
    Entry { name: Blob::new(name.to_vec()).unwrap(), ..entry }
}

#[test]
fn names_that_lead_out_are_refused_and_nothing_is_written() {
    for name in [&b".."[..], b".", b"", b"/abs", b"a/../../b", b"../x", b"zero\0byte"] {
        let mut vault = Vault::new();
        let chunk = vault.chunk(b"evil");
        let top = raw_node(&mut vault, vec![named(name, file_of("x", &[chunk]))]);
        let head = vault.snapshot_of(top, 0);
        let (dir, out) = target();
        let report = run(&mut vault, &head, "", &options(&out)).unwrap();
        assert_eq!(report.exit(), Exit::Tampered, "{name:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{name:?}: only the target is there");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "{name:?}");
    }
}

#[test]
fn a_link_and_a_directory_of_one_name_do_not_lead_out() {
    // `a` is a link to the outside, `a/f` below it: two entries of one name cannot stand in one node...
    let mut vault = Vault::new();
    let chunk = vault.chunk(b"evil");
    let (dir, out) = target();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let inner = vault.directory("a", vec![file_of("f", &[chunk])]);
    let top = raw_node(&mut vault, vec![symlink("a", outside.to_str().unwrap()), inner.clone()]);
    let head = vault.snapshot_of(top, 0);
    assert_eq!(run(&mut vault, &head, "", &options(&out)).unwrap().exit(), Exit::Tampered);
    // ... and a link that is in the target already is replaced or left, never followed.
    let head = vault.snapshot(vec![inner]);
    for overwrite in [Overwrite::Never, Overwrite::Always] {
        let (_dir, out) = target();
        fs::create_dir(&out).unwrap();
        std::os::unix::fs::symlink(&outside, out.join("a")).unwrap();
        run(&mut vault, &head, "", &Options { overwrite, ..options(&out) }).unwrap();
        assert_eq!(out.join("a").is_symlink(), overwrite == Overwrite::Never);
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_file_does_not_go_through_a_link_that_is_there() {
    let mut vault = Vault::new();
    let file = vault.file("f", &[b"snapshot"]);
    let head = vault.snapshot(vec![file]);
    let (dir, out) = target();
    fs::create_dir(&out).unwrap();
    let outside = dir.path().join("precious");
    fs::write(&outside, b"precious").unwrap();
    std::os::unix::fs::symlink(&outside, out.join("f")).unwrap();
    let report = run(&mut vault, &head, "", &Options { overwrite: Overwrite::Always, ..options(&out) }).unwrap();
    assert_eq!(report.exit(), Exit::Done);
    assert_eq!(fs::read(&outside).unwrap(), b"precious");
    assert_eq!((fs::read(out.join("f")).unwrap(), out.join("f").is_symlink()), (b"snapshot".to_vec(), false));
}

#[test]
fn a_directory_swapped_while_it_is_written_is_noticed() {
    let (dir, out) = target();
    let target = super::write::Target::open(&out, Overwrite::Refuse).unwrap();
    let mut plan = super::plan::Plan::new().unwrap();
    let top = plan.add_dir(0, b"", target.root_identity().unwrap(), None).unwrap();
    let root = target.dir(&plan, top).unwrap();
    use std::os::fd::AsFd;
    let (opened, identity, _) = target.make_dir(root.as_fd(), b"d", Overwrite::Refuse).unwrap().unwrap();
    drop(opened);
    let id = plan.add_dir(top, b"d", identity, None).unwrap();
    fs::rename(out.join("d"), dir.path().join("moved")).unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, out.join("d")).unwrap();
    assert!(target.dir(&plan, id).is_err(), "a link in its place");
    fs::remove_file(out.join("d")).unwrap();
    fs::create_dir(out.join("d")).unwrap();
    assert!(target.dir(&plan, id).unwrap_err().message.contains("replaced"), "another directory in its place");
}

#[test]
fn devices_and_set_id_bits_need_root_and_an_owner() {
    let mut vault = Vault::new();
    let device = Some(Device { major: 1, minor: 3 });
    let null = Entry { device, ..entry("null", EntryKind::CharDevice, 0o666) };
    let chunk = vault.chunk(b"#!/bin/sh");
    let suid = Entry { mode: 0o6755, ..file_of("suid", &[chunk]) };
    let head = vault.snapshot(vec![null, suid]);
    let (_dir, out) = target();
    let report = run(&mut vault, &head, "", &Options { owner: OwnerMode::Skip, ..options(&out) }).unwrap();
    assert_eq!(fs::metadata(out.join("suid")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(report.notes.set_id_dropped, 1);
    let root = rustix::process::geteuid().is_root();
    assert_eq!(report.devices_skipped, u64::from(!root));
    if root {
        // In a container even root may not make devices: then it is a loss that is named.
        match fs::metadata(out.join("null")) {
            Ok(meta) => assert!(meta.file_type().is_char_device()),
            Err(_) => assert_eq!(report.lost.count(), 1),
        }
        let (_dir, out) = target();
        run(&mut vault, &head, "/suid", &Options { owner: OwnerMode::Id, ..options(&out) }).unwrap();
        assert_eq!(fs::metadata(out.join("suid")).unwrap().mode() & 0o7777, 0o6755, "with its owner");
    }
}

#[test]
fn a_tree_that_multiplies_itself_ends() {
    let mut vault = Vault::new();
    vault.counts = Some(Counts { files: 10, directories: 10, ..Counts::default() });
    let mut level = vault.directory("d", vec![]);
    for _ in 0..8 {
        let entries = (0..500).map(|at| named(format!("d{at:03}").as_bytes(), level.clone())).collect();
        level = vault.directory("d", entries);
    }
    let head = vault.snapshot(vec![level]);
    let (_dir, out) = target();
    let error = run(&mut vault, &head, "", &Options { dry_run: true, ..options(&out) }).unwrap_err();
    assert_eq!((error.exit, error.code), (Exit::Tampered, "tree"), "{error}");
}

#[test]
fn a_file_of_endless_tiny_chunks_ends() {
    let mut vault = Vault::new();
    vault.counts = Some(Counts { files: 1, bytes: 1000, ..Counts::default() });
    let chunk = vault.chunk(b"x");
    let list = |vault: &mut Vault, level: u8, below: crate::tree::ChunkRef, bytes: u64| {
        let node = if level == 0 {
            crate::tree::ListNode {
                level,
                extents: Some(List::new(vec![Extent::Chunk(below); 4096]).unwrap()),
                lists: None,
            }
        } else {
            crate::tree::ListNode { level, extents: None, lists: Some(List::new(vec![(below, bytes); 4096]).unwrap()) }
        };
        vault.archive(Kind::Metadata, &[node.encode()])[0]
    };
    let low = list(&mut vault, 0, chunk, 0);
    let high = list(&mut vault, 1, low, 4096);
    let bytes = 4096 * 4096;
    let reference = crate::tree::ListRef { chunk: high, level: 1, bytes };
    let bomb = Entry { size: bytes, list: Some(reference), ..entry("bomb", EntryKind::File, 0o600) };
    let head = vault.snapshot(vec![bomb]);
    let (_dir, out) = target();
    let report = run(&mut vault, &head, "", &options(&out)).unwrap();
    assert_eq!((report.exit(), report.files), (Exit::Tampered, 0));
}

#[test]
fn a_tower_of_directories_ends_and_takes_nothing_along() {
    let mut vault = Vault::new();
    vault.counts = Some(Counts { directories: 10_000, ..Counts::default() });
    let mut level = vault.directory("d", vec![]);
    for _ in 0..shared::limits::TREE_DEPTH_MAX + 10 {
        level = vault.directory("d", vec![level]);
    }
    let file = vault.file("z", &[b"beside it"]);
    let head = vault.snapshot(vec![level, file]);
    let (_dir, out) = target();
    let report = run(&mut vault, &head, "", &options(&out)).unwrap();
    assert_eq!((report.exit(), report.lost.count()), (Exit::Tampered, 1));
    assert_eq!(fs::read(out.join("z")).unwrap(), b"beside it");
}

#[test]
fn a_chain_of_directories_has_an_end() {
    let mut vault = Vault::new();
    let mut level = vault.directory("d", vec![]);
    for _ in 0..300 {
        level = vault.directory("d", vec![level]);
    }
    let head = vault.snapshot(vec![level]);
    let (dir, out) = target();
    let report = run(&mut vault, &head, "", &options(&out)).unwrap();
    assert_eq!((report.exit(), report.directories), (Exit::Done, 301));
    assert!(dir.path().join("out/d/d/d/d").is_dir());
}

#[test]
fn a_poisoned_chunk_is_named_and_another_candidate_is_taken() {
    for second in [true, false] {
        let mut vault = Vault::new();
        let id = vault.namer().name(b"true!");
        let bad = vault.archive_named(Kind::Data, &[(id, b"false".to_vec())])[0];
        if second {
            vault.chunk(b"true!");
        }
        let head = vault.snapshot(vec![file_of("f", &[bad])]);
        let (_dir, out) = target();
        let report = run(&mut vault, &head, "", &options(&out)).unwrap();
        assert_eq!(report.exit(), Exit::Tampered);
        assert!(report.findings.lines()[0].contains("poisoned"), "{:?}", report.findings.lines());
        assert_eq!(fs::read(out.join("f")).ok(), second.then(|| b"true!".to_vec()));
    }
}

#[test]
fn parts_swapped_or_of_another_archive_do_not_pass() {
    let mut vault = Vault::new();
    let (one, two) = (vault.file("one", &[b"one"]), vault.file("two", &[b"two"]));
    let three = vault.file("three", &[b"three"]);
    let head = vault.snapshot(vec![one, two, three]);
    let (a, b) = (vault.store.parts[&(0, 0)].clone(), vault.store.parts[&(1, 0)].clone());
    vault.store.parts.insert((0, 0), b);
    vault.store.parts.insert((1, 0), a);
    let other = vault.store.regions[&0].clone();
    vault.store.regions.insert(2, other);
    let (_dir, out) = target();
    let report = run(&mut vault, &head, "", &options(&out)).unwrap();
    assert_eq!((report.exit(), report.files, report.lost.count()), (Exit::Tampered, 0, 3));
}

#[test]
fn bodies_pages_and_envelopes_of_others_do_not_pass() {
    let mut vault = Vault::new();
    let file = vault.file("f", &[b"f"]);
    let head = vault.snapshot(vec![file]);
    let good = vault.store.clone();
    let (_dir, out) = target();
    type Change = fn(&mut Vault);
    let changes: [(&str, Change); 4] = [
        ("body", |vault| vault.store.bodies.values_mut().for_each(|bytes| bytes[40] ^= 1)),
        ("page", |vault| vault.store.pages.values_mut().for_each(|bytes| bytes[60] ^= 1)),
        ("envelope", |vault| vault.store.envelopes.values_mut().for_each(|bytes| bytes[60] ^= 1)),
        ("no page", |vault| vault.store.pages.clear()),
    ];
    for (what, change) in changes {
        vault.store = good.clone();
        change(&mut vault);
        let error = run(&mut vault, &head, "", &options(&out)).unwrap_err();
        assert!(matches!(error.exit, Exit::Tampered | Exit::NotFound), "{what}: {error}");
        assert!(!out.exists());
    }
}

pub fn look_at_all(vaults: Vec<&mut Vault>, trust: &mut Trust, state: &Path) -> Outcome<View> {
    let mut sinks: Vec<Box<dyn Objects + '_>> =
        vaults.into_iter().map(|vault| Box::new(Borrowed(vault)) as _).collect();
    view::load(&mut sinks, trust, &Memory { state_dir: state, now: 5 }, &|_| true)
}

/// The same where no source may fail.
pub fn look(vaults: Vec<&mut Vault>, trust: &mut Trust, state: &Path) -> Outcome<View> {
    let mut view = look_at_all(vaults, trust, state)?;
    match view.failed.pop() {
        None => Ok(view),
        Some((_, failure)) => Err(failure),
    }
}

/// A vault that the test still holds.
struct Borrowed<'v>(&'v mut Vault);

macro_rules! forward {
    ($(fn $name:ident(&mut self $(, $arg:ident: $type:ty)*) -> $out:ty;)*) => {
        impl Objects for Borrowed<'_> {
            fn remote(&self) -> &str { self.0.remote() }
            fn sink(&self) -> shared::id::VerifyKey { self.0.sink() }
            fn clock(&self) -> i64 { self.0.clock() }
            $(fn $name(&mut self $(, $arg: $type)*) -> $out { self.0.$name($($arg),*) })*
        }
    };
}
use super::objects::{ArchiveName, Each, PartsWanted};
use super::verify::Archive;
use shared::id::{ArchiveId, SessionId, SourceId, VerifyKey};
forward! {
    fn sources(&mut self) -> Outcome<Vec<shared::wire::SourceItem>>;
    fn heads(&mut self, source: &SourceId, lineage: &Lineage, from: u64) -> Outcome<Vec<shared::wire::HeadItem>>;
    fn envelope(&mut self, source: &SourceId, session: &SessionId) -> Outcome<Vec<u8>>;
    fn body(&mut self, source: &SourceId, digest: &Digest) -> Outcome<Vec<u8>>;
    fn page(&mut self, source: &SourceId, digest: &Digest) -> Outcome<Vec<u8>>;
    fn region(&mut self, name: &ArchiveName, id: &ArchiveId) -> Outcome<Vec<u8>>;
    fn table(&mut self, archive: &Archive) -> Outcome<Vec<u8>>;
    fn parts(&mut self, wanted: &[PartsWanted], each: Each<'_>) -> Outcome<()>;
    fn owner_records(&mut self, owner: &VerifyKey, from: u64) -> Outcome<Vec<Vec<u8>>>;
    fn substitutes(&mut self, source: &SourceId, lineage: &Lineage) -> Outcome<Vec<Vec<u8>>>;
    fn vouchers(&mut self, source: &SourceId, lineage: &Lineage) -> Outcome<Vec<Vec<u8>>>;
    fn wraps(&mut self, source: &SourceId, lineage: &Lineage) -> Outcome<Vec<Vec<u8>>>;
    fn put_owner_record(&mut self, record: &shared::signature::Verified<shared::format::OwnerRecord>) -> Outcome<()>;
    fn put_voucher(&mut self, voucher: &shared::signature::Verified<shared::format::Voucher>) -> Outcome<()>;
    fn put_wrap(&mut self, wrap: &shared::signature::Verified<shared::format::Wrap>) -> Outcome<()>;
}

pub fn trust_of(vault: &Vault) -> Trust {
    Trust { sources: vec![vault.trusted()], heads: Vec::new() }
}

pub fn three_snapshots() -> Vault {
    let mut vault = Vault::new();
    for content in [&b"one"[..], b"two", b"three"] {
        let file = vault.file("f", &[content]);
        vault.snapshot(vec![file]);
    }
    vault
}

/// Looks with a trust of its own.
fn look_anew(vault: &mut Vault, state: &Path) -> Outcome<View> {
    let mut trust = trust_of(vault);
    look(vec![vault], &mut trust, state)
}

#[test]
fn memory_that_cannot_be_written_is_a_note_and_no_alarm() {
    let mut vault = three_snapshots();
    // Nothing is there and nothing can be made there, for root either.
    let nowhere = Path::new("/proc/nowhere");
    let mut trust = trust_of(&vault);
    trust.sources[0].lineages.clear();
    let view = look(vec![&mut vault], &mut trust, nowhere).unwrap();
    assert_eq!((view.snapshots.len(), view.fresh[0].compared), (3, None));
    let told: Vec<&String> = view.notes.iter().filter(|note| note.contains("is not remembered")).collect();
    assert!(told.len() == 1 && told[0].contains("/proc/nowhere/heads"), "{:?}", view.notes);
    // What cannot be read is an error, and not one of the sink's.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("heads"), "no directory").unwrap();
    let failure = look_anew(&mut vault, dir.path()).unwrap_err();
    assert_eq!((failure.code, failure.exit, failure.remote.as_ref()), ("io", Exit::Failed, None));
    assert!(!failure.to_string().contains("trust forget"), "{failure}");
    // Damaged memory says so; an older state is an alarm with its way on, whether it can be written or not.
    let dir = tempfile::tempdir().unwrap();
    look_anew(&mut vault, dir.path()).unwrap();
    vault.store.heads.pop();
    let failure = look_anew(&mut vault, dir.path()).unwrap_err();
    assert!(failure.code == "rolled-back" && failure.to_string().contains("trust forget"), "{failure}");
    let file = std::fs::read_dir(dir.path().join("heads")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(file, "rubbish").unwrap();
    let failure = look_anew(&mut vault, dir.path()).unwrap_err();
    assert!(failure.code == "seen-state" && !failure.to_string().contains("trust forget"), "{failure}");
}

pub fn refused(result: Outcome<View>, why: &str) -> Failure {
    let failure = result.err().unwrap_or_else(|| panic!("{why}: accepted"));
    assert_eq!(failure.exit, Exit::Tampered, "{why}: {failure}");
    assert!(failure.help.is_some(), "{why}: {failure}");
    failure
}

#[test]
fn chains_with_gaps_or_foreign_heads_are_refused_and_forged_receipts_told() {
    type Change = fn(&mut Vault);
    let changes: [(&str, Change); 4] = [
        ("the first head hidden", |vault| drop(vault.store.heads.remove(0))),
        ("a head in the middle hidden", |vault| drop(vault.store.heads.remove(1))),
        ("two heads swapped", |vault| vault.store.heads.swap(1, 2)),
        ("a byte of a head changed", |vault| vault.store.heads[1].0[30] ^= 1),
    ];
    for (what, change) in changes {
        let mut vault = three_snapshots();
        let mut trust = trust_of(&vault);
        change(&mut vault);
        let state = tempfile::tempdir().unwrap();
        refused(look(vec![&mut vault], &mut trust, state.path()), what);
    }
    let changes: [(&str, Change); 2] = [
        ("a byte of a receipt changed", |vault| vault.store.heads[1].1.as_mut().unwrap()[30] ^= 1),
        ("a receipt of another head", |vault| vault.store.heads[1].1 = vault.store.heads[0].1.clone()),
    ];
    for (what, change) in changes {
        let mut vault = three_snapshots();
        change(&mut vault);
        let state = tempfile::tempdir().unwrap();
        let view = look_anew(&mut vault, state.path()).unwrap();
        assert_eq!((view.snapshots.len(), view.wrong_receipts), (3, 1), "{what}: {:?}", view.notes);
    }
    // A sink with another key than the chain's cannot show the chain as its own.
    let mut vault = three_snapshots();
    let mut trust = trust_of(&vault);
    vault.sink_key = SigningKey::random();
    let state = tempfile::tempdir().unwrap();
    refused(look(vec![&mut vault], &mut trust, state.path()), "another sink's chain");
}

#[test]
fn an_older_state_is_refused_by_memory_and_by_the_owner_record() {
    let mut vault = three_snapshots();
    let mut trust = trust_of(&vault);
    let state = tempfile::tempdir().unwrap();
    assert_eq!(look(vec![&mut vault], &mut trust, state.path()).unwrap().snapshots.len(), 3);
    let newest = vault.store.heads.pop().unwrap();
    let failure = refused(look(vec![&mut vault], &mut trust, state.path()), "rolled back");
    assert!(failure.help.as_ref().is_some_and(|line| line.contains("trust forget")), "{failure}");
    vault.store.heads.clear();
    refused(look(vec![&mut vault], &mut trust, state.path()), "all gone");
    // Another machine with nothing but the owner record sees it too.
    let mut vault = three_snapshots();
    let head = super::verify::head(&newest.0, &vault.signing.verify_key()).unwrap();
    let seen = SeenHead {
        source: vault.source(),
        lineage: vault.lineage,
        sink: vault.sink_key.verify_key(),
        sequence: 2,
        head: head.digest(),
        time: 0,
    };
    let mut trust = Trust { heads: vec![seen], ..trust_of(&vault) };
    let other = tempfile::tempdir().unwrap();
    // The three snapshots were made anew with fresh salts: another history, by the same keys.
    refused(look(vec![&mut vault], &mut trust, other.path()), "beside the owner record");
}

#[test]
fn a_head_that_another_sink_names_must_be_shown() {
    let mut one = three_snapshots();
    let hidden = one.previous.unwrap();
    let mut two = Vault::new();
    two.name = "friend".into();
    two.sink_key = SigningKey::from_seed(&[44; 32]);
    two.remotes = vec![RemoteHead { sink: one.sink_key.verify_key(), sequence: hidden.0, digest: hidden.1 }];
    let file = two.file("f", &[b"x"]);
    two.snapshot(vec![file]);
    let mut trust = trust_of(&one);
    let state = tempfile::tempdir().unwrap();
    look(vec![&mut one, &mut two], &mut trust, state.path()).unwrap();
    let fresh = tempfile::tempdir().unwrap();
    one.store.heads.pop();
    let failure = refused(look(vec![&mut one, &mut two], &mut trust, fresh.path()), "hidden");
    assert_eq!(failure.code, "hidden-head");
}

#[test]
fn nobody_else_can_invent_a_snapshot() {
    let mut vault = Vault::new();
    let mut trust = trust_of(&vault);
    // Anyone can seal to the owner's public key and sign with a key of their own.
    vault.signing = SigningKey::random();
    let file = vault.file("f", &[b"invented"]);
    vault.snapshot(vec![file]);
    let state = tempfile::tempdir().unwrap();
    let failure = refused(look(vec![&mut vault], &mut trust, state.path()), "invented");
    assert_eq!(failure.code, "unknown-signer");
    // A source that nobody trusts is not used at all.
    let mut vault = three_snapshots();
    let mut nobody = Trust::default();
    let seen = look(vec![&mut vault], &mut nobody, state.path()).unwrap();
    assert!(seen.snapshots.is_empty());
    let error =
        resolve::choose(&seen, &nobody, &resolve::Name::Latest(0), Some("web1"), &[], &mut |_| Ok(true)).unwrap_err();
    assert_eq!((error.exit, error.code), (Exit::Tampered, "unknown-signer"));
    assert!(error.help.unwrap().starts_with("source-agent trust add 'source-card:1,"));
}

#[test]
fn latest_takes_no_checkpoint_no_expired_content_and_no_new_lineage() {
    let mut vault = three_snapshots();
    let file = vault.file("f", &[b"checkpoint"]);
    let top = vault.node(vec![file], 10);
    vault.snapshot_of(top, FLAG_CHECKPOINT);
    let mut trust = trust_of(&vault);
    let state = tempfile::tempdir().unwrap();
    let seen = look(vec![&mut vault], &mut trust, state.path()).unwrap();
    let latest = |seen: &View, trust: &Trust, back| {
        resolve::choose(seen, trust, &resolve::Name::Latest(back), None, &[], &mut |_| Ok(true))
            .map(|s| s.head.sequence)
    };
    assert_eq!(latest(&seen, &trust, 0).unwrap(), 2);
    assert_eq!(latest(&seen, &trust, 2).unwrap(), 0);
    assert_eq!(latest(&seen, &trust, 3).unwrap_err().exit, Exit::NotFound);
    vault.store.heads[2].2 = Some(Damage::Expired);
    let seen = look(vec![&mut vault], &mut trust, state.path()).unwrap();
    assert_eq!(latest(&seen, &trust, 0).unwrap(), 1);
    // The source's keys in other hands begin another lineage, with the same signature.
    let mut taken = Vault::with(Identity::from_seed(&[7; 32]), "web1", Lineage::new([66; 16]));
    let evil = taken.file("f", &[b"evil"]);
    let evil = taken.snapshot(vec![evil]);
    let state = tempfile::tempdir().unwrap();
    let seen = look(vec![&mut taken], &mut trust, state.path()).unwrap();
    assert_eq!(latest(&seen, &trust, 0).unwrap_err().exit, Exit::NotFound);
    assert!(seen.notes.iter().any(|note| note.contains("--lineage")), "{:?}", seen.notes);
    let id = resolve::Name::Id(evil.short());
    assert!(resolve::choose(&seen, &trust, &id, None, &[], &mut |_| Ok(true)).is_ok(), "by its id it can be had");
}

#[test]
fn a_clock_that_goes_back_confuses_no_order() {
    let mut one = Vault::new();
    let mut two = Vault::new();
    two.name = "friend".into();
    two.sink_key = SigningKey::from_seed(&[44; 32]);
    for (at, created) in [5_000, 100, 9_000, 50, 7_000, 1, 8_000, 300].into_iter().cycle().take(64).enumerate() {
        let vault = if at % 3 == 0 { &mut two } else { &mut one };
        vault.created = created;
        let file = vault.file("f", &[&at.to_le_bytes()]);
        vault.snapshot(vec![file]);
    }
    let last = one.previous.unwrap().1;
    let mut trust = trust_of(&one);
    let state = tempfile::tempdir().unwrap();
    let seen = look(vec![&mut one, &mut two], &mut trust, state.path()).unwrap();
    let mut sorted: Vec<_> = seen.snapshots.iter().collect();
    resolve::sort_newest_first(&mut sorted);
    for sink in [0, 1] {
        let of_sink: Vec<u64> = sorted.iter().filter(|s| s.sink == sink).map(|s| s.head.sequence).collect();
        assert!(of_sink.windows(2).all(|pair| pair[0] > pair[1]), "{of_sink:?}");
    }
    let first_of_one = sorted.iter().find(|s| s.sink == 0).unwrap();
    assert_eq!(first_of_one.id(), last);
}

#[test]
fn the_first_lineage_seen_is_remembered() {
    let mut vault = three_snapshots();
    let mut trust = trust_of(&vault);
    trust.sources[0].lineages.clear();
    let state = tempfile::tempdir().unwrap();
    look(vec![&mut vault], &mut trust, state.path()).unwrap();
    assert_eq!(trust.sources[0].lineages, [vault.lineage]);
    assert_eq!(crate::owner::store::load(state.path()).unwrap()[0].lineages, [vault.lineage]);
}

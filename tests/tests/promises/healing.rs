//! What rotted at the sink is told to the source, which heals it in its next run: old snapshots come back whole, also
//! when the healing snapshot is gone. What cannot be healed is said, and harms nothing else.

use shared::codec::List;
use shared::format::owner::{BlockName, SubstitutePair};
use shared::format::{Head, Kind, Region, Substitute};
use shared::id::{ArchiveId, VerifyKey};
use shared::signature::{Signed, sign};
use shared::wire::{PushRequest, Reply};
use std::path::{Path, PathBuf};
use tests::agent::Usual;
use tests::craft::{Crafted, Forger};
use tests::wire::{receipt, stored};
use tests::{Chance, tree};

/// Archives of a kind, and their header regions.
fn archives(usual: &Usual, wanted: Kind) -> Vec<(PathBuf, Region)> {
    let key = *usual.source.keys().card.verify_key();
    let open = |path: PathBuf| {
        let region = Region::parse_prefix(&std::fs::read(&path).unwrap()).unwrap().0;
        let kind = region.index.clone().verify(&key).unwrap().kind;
        (kind == wanted).then_some((path, region))
    };
    usual.vault.files("web1", "archives").into_iter().filter_map(open).collect()
}

/// The one archive of file data, and its header region.
fn data_archive(usual: &Usual) -> (PathBuf, Region) {
    let mut found = archives(usual, Kind::Data);
    assert_eq!(found.len(), 1, "one small file is one archive");
    found.remove(0)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Commits an archive as a whole snapshot behind the newest head.
fn commit(usual: &Usual, forger: &Forger, sink: &VerifyKey, archive: &Crafted, record: Option<Vec<u8>>) {
    let newest = std::fs::read(usual.vault.files("web1", "heads").pop().unwrap()).unwrap();
    let newest = Signed::<Head>::parse(&newest).unwrap().verify(forger.card.verify_key()).unwrap();
    let mut client = forger.connect(&usual.vault, sink);
    let body = forger.push_content(&mut client, archive);
    if let Some(record) = record {
        stored(client.ask(&PushRequest::PutSubstitute(record)));
    }
    let head = forger.head(*sink, newest.sequence + 1, Some(newest.digest()), body);
    let head = forger.sign(Head { series: newest.series, ..head });
    let reply: Reply = client.ask(&PushRequest::PutHead(head.as_bytes().to_vec()));
    receipt(reply, &head, sink);
}

#[test]
fn a_healed_snapshot_outlives_the_one_that_healed_it() {
    let usual = Usual::new();
    let mut chance = Chance::new(40);
    let content = chance.bytes(5000);
    tree::write(&usual.data.join("only"), &content);
    usual.source.must_back_up(&usual.data);
    let id = usual.reader.snapshot_ids().pop().unwrap();
    let (path, region) = data_archive(&usual);
    flip(&path, region.as_bytes().len() + 100);
    let lost = usual.reader.restore_path(&id, &usual.data, &usual.place.join("lost")).done();
    assert_eq!(lost.exit(), Some(13), "{}", lost.tell());
    usual.vault.run().arg("verify").done().code(13);

    // The source still has the chunk and sends it again, beside others.
    let text = std::fs::read_to_string(usual.vault.root.join("sink.key")).unwrap();
    let sink = shared::keyfile::read_signing_key(shared::keyfile::SINK_KEY, &text).unwrap().verify_key();
    let forger = Forger::from_keys(usual.source.keys(), &usual.owner.key);
    let more = (0..4).map(|_| vec![chance.bytes(5000)]);
    let healing = forger.archive(50, &std::iter::once(vec![content]).chain(more).collect::<Vec<_>>());
    let number = region.index.clone().verify(forger.card.verify_key()).unwrap().number;
    let left = BlockName { number, id: region.id(), block: 0 };
    let right = BlockName { number: healing.index.number, id: ArchiveId::new(*healing.id().as_bytes()), block: 0 };
    let pairs = List::new(vec![SubstitutePair { left, right: List::new(vec![right]).unwrap() }]).unwrap();
    let record = Substitute { source: forger.source, lineage: forger.lineage, pairs };
    let record = sign(record, &forger.signing).unwrap().as_bytes().to_vec();
    commit(&usual, &forger, &sink, &healing, Some(record));
    commit(&usual, &forger, &sink, &forger.junk(51, 5000), None);

    // The first is held; the healing one goes, at once and for good.
    let run = |words: &[&str]| usual.vault.run().args(words.iter().copied());
    run(&["observe"]).ok();
    run(&["hold", "web1", &id, "--reason", "the good one"]).ok();
    run(&["verify"]).ok();
    let size = || {
        let files = usual.vault.files("web1", "archives");
        let file = files.iter().find(|file| file.to_string_lossy().ends_with("-000000000032")).expect("archive 50");
        std::fs::metadata(file).unwrap().len()
    };
    let before = size();
    run(&["retention", "web1", "--keep-last", "1", "--max-remove", "100%"]).ok();
    run(&["prune", "--now"]).ok();
    run(&["prune", "--now"]).ok();
    assert_eq!(usual.vault.files("web1", "bodies").len(), 2, "the healing snapshot is gone");
    assert!(size() < before, "and the blocks that it alone named");
    run(&["verify"]).ok();
    usual.reader.restore_path(&id, &usual.data, &usual.place.join("out")).ok();
    tree::assert_same(&usual.data, &usual.place.join("out"));
}

/// A backed-up tree: small files in directories, all in one block, and `big` bytes in one file.
fn backed_up(big: usize) -> (Usual, String) {
    let usual = Usual::new();
    let mut chance = Chance::new(41);
    for at in 0..40 {
        tree::write(&usual.data.join(format!("dir{}/sub/{at}", at % 5)), &chance.bytes(3000));
    }
    tree::write(&usual.data.join("big"), &chance.bytes(big));
    usual.source.must_back_up(&usual.data);
    let id = usual.reader.snapshot_ids().pop().unwrap();
    (usual, id)
}

/// Rots the first block of each archive.
fn rot(usual: &Usual) -> usize {
    let all = [archives(usual, Kind::Data), archives(usual, Kind::Metadata)].concat();
    all.iter().for_each(|(path, region)| flip(path, region.as_bytes().len() + 100));
    all.len()
}

fn verified(usual: &Usual) -> serde_json::Value {
    let done = usual.vault.run().args(["verify", "web1", "--json"]).done();
    let found = done.json().into_iter().find(|value| value["message_type"] == "verified");
    found.unwrap_or_else(|| panic!("{}", done.tell()))
}

fn healing(done: &tests::run::Done) -> serde_json::Value {
    let found = done.json().into_iter().find(|value| value["message_type"] == "summary");
    found.unwrap_or_else(|| panic!("{}", done.tell()))["remotes"][0]["healing"].clone()
}

fn damaged_blocks(usual: &Usual) -> serde_json::Value {
    usual.vault.run().args(["status", "--json"]).done().json()[0]["damaged_blocks"].clone()
}

#[test]
fn what_rotted_is_healed_by_the_next_backup_and_stays_healed() {
    let (usual, old) = backed_up(3 << 20);
    let saved = usual.place.join("saved");
    tree::copy(&usual.data, &saved);
    let rotten = rot(&usual);
    let told = usual.vault.run().args(["verify"]).done().code(13);
    assert!(told.tell().contains("the source is told at its next backup"), "{}", told.tell());
    assert_eq!(damaged_blocks(&usual), rotten);
    // Before that: a reader who was not waited for.
    usual.reader.restore_path(&old, &usual.data, &usual.place.join("before")).done().code(13);
    usual.reader.owner_run(&["check", "--read-data"]).done().code(13);

    let done = usual.source.run().args(["backup", "--json"]).arg(&usual.data).ok();
    assert_eq!(healing(&done)["blocks_healed"], rotten, "{}", done.tell());
    assert_eq!(healing(&done)["blocks_not_healed"], 0);
    let found = verified(&usual);
    assert_eq!((&found["damaged"], &found["healed"], &found["damaged_blocks"]), (&0.into(), &rotten.into(), &0.into()));
    // The sink cannot know what is in there, and says so.
    let told = usual.vault.run().arg("verify").ok();
    assert!(told.tell().contains("by the source's word"), "{}", told.tell());
    assert_eq!(damaged_blocks(&usual), 0);
    usual.reader.restore_path(&old, &usual.data, &usual.place.join("after")).ok();
    usual.reader.owner_run(&["check", "--read-data", "--restore-test", "50"]).ok();
    tree::assert_same(&saved, &usual.place.join("after"));

    // A third snapshot names nothing of it, the healing one goes, and the old one keeps what it needs.
    std::fs::remove_dir_all(&usual.data).unwrap();
    tree::write(&usual.data.join("other"), b"something else");
    let before = usual.vault.files("web1", "bodies").len();
    usual.source.must_back_up(&usual.data);
    let run = |words: &[&str]| usual.vault.run().args(words.iter().copied());
    run(&["observe"]).ok();
    run(&["hold", "web1", &old, "--reason", "the good one"]).ok();
    run(&["retention", "web1", "--keep-last", "1", "--max-remove", "100%"]).ok();
    run(&["prune", "--now"]).ok();
    run(&["prune", "--now"]).ok();
    assert_eq!(usual.vault.files("web1", "bodies").len(), before, "the healing snapshot is gone");
    assert_eq!(verified(&usual)["damaged"], 0);
    let target = usual.place.join("last");
    usual.reader.restore_path(&old, &usual.data, &target).ok();
    tree::assert_same(&saved, &target);
}

#[test]
fn a_lost_archive_and_a_rotten_chunk_table_are_healed_too() {
    let (usual, old) = backed_up(3 << 20);
    let (table, _) = data_archive(&usual);
    flip(&table, std::fs::metadata(&table).unwrap().len() as usize - 100);
    let lost = archives(&usual, Kind::Metadata);
    assert_eq!(lost.len(), 1);
    std::fs::remove_file(&lost[0].0).unwrap();
    usual.vault.run().arg("verify").done().code(13);
    let done = usual.source.run().args(["backup", "--json"]).arg(&usual.data).ok();
    assert_eq!(healing(&done)["blocks_not_healed"], 0, "{}", done.tell());
    let found = verified(&usual);
    assert_eq!((&found["damaged"], &found["snapshots_damaged"]), (&0.into(), &0.into()), "{found}");
    assert!(found["healed"].as_u64().unwrap() > 0);
    usual.reader.restore_path(&old, &usual.data, &usual.place.join("out")).ok();
    tree::assert_same(&usual.data, &usual.place.join("out"));
    usual.must_restore("latest");
    usual.reader.owner_run(&["check", "--read-data"]).ok();
}

#[test]
fn an_archive_that_readers_refuse_is_no_healed_one() {
    let (usual, old) = backed_up(3 << 20);
    // The index stays right; the copy of the envelope, which readers check first of all, does not.
    let (path, region) = data_archive(&usual);
    let envelope = region.envelope.as_bytes();
    let at = region.as_bytes().windows(envelope.len()).position(|window| window == envelope).expect("it is in there");
    flip(&path, at + envelope.len() - 1);
    let told = usual.vault.run().args(["verify"]).done().code(13);
    assert!(told.tell().contains("the source is told at its next backup"), "{}", told.tell());
    let found = verified(&usual);
    assert_eq!((&found["damaged"], &found["healed"], &found["snapshots_damaged"]), (&1.into(), &0.into(), &1.into()));
    let blocks = found["damaged_blocks"].as_u64().unwrap();
    assert!(blocks > 1, "all blocks of it: {found}");
    usual.reader.restore_path(&old, &usual.data, &usual.place.join("before")).done().code(13);
    // A sample that may leave the archive out says no less.
    usual.vault.run().args(["verify", "web1", "--sample", "0.0001%"]).done().code(13);

    let done = usual.source.run().args(["backup", "--json"]).arg(&usual.data).ok();
    assert_eq!(healing(&done)["blocks_healed"], blocks, "{}", done.tell());
    let found = verified(&usual);
    assert_eq!((&found["damaged"], &found["healed"], &found["damaged_blocks"]), (&0.into(), &1.into(), &0.into()));
    usual.reader.restore_path(&old, &usual.data, &usual.place.join("after")).ok();
    tree::assert_same(&usual.data, &usual.place.join("after"));
}

#[test]
fn what_is_gone_from_the_source_is_said_and_nothing_else_suffers() {
    let (usual, old) = backed_up(0);
    rot(&usual);
    usual.vault.run().arg("verify").done().code(13);
    // Of the data block that rotted one small file is gone, so it cannot be made again as a whole.
    std::fs::remove_file(usual.data.join("dir0/sub/0")).unwrap();
    let done = usual.source.backup(&usual.data).ok();
    assert!(done.tell().contains("1 damaged block cannot be healed whole"), "{}", done.tell());
    usual.must_restore("new");
    let found = verified(&usual);
    assert_eq!((&found["damaged_blocks"], &found["snapshots_damaged"]), (&1.into(), &1.into()), "{found}");
    usual.reader.restore_path(&old, &usual.data, &usual.place.join("old")).done().code(13);
    // It is said in each run and costs nothing more.
    let before = usual.vault.files("web1", "archives");
    let done = usual.source.run().args(["backup", "--json"]).arg(&usual.data).ok();
    assert_eq!(healing(&done)["blocks_not_healed"], 1);
    assert_eq!(usual.vault.files("web1", "archives"), before);
}

#[test]
fn a_list_of_damage_that_cannot_be_read_stops_no_backup() {
    let (usual, _) = backed_up(0);
    let list = usual.vault.room("web1").join("damaged");
    std::fs::write(&list, b"not a list").unwrap();
    assert_eq!(damaged_blocks(&usual), serde_json::Value::Null);
    usual.source.must_back_up(&usual.data);
    // A list of another source is none either.
    rot(&usual);
    usual.vault.run().arg("verify").done().code(13);
    assert_ne!(damaged_blocks(&usual), serde_json::Value::Null, "verify writes it again");
    let mut other = std::fs::read(&list).unwrap();
    let id = usual.source.keys().card.source_id();
    let at = other.windows(32).position(|window| window == id.as_bytes()).expect("it names the source");
    other[at] ^= 1;
    std::fs::write(&list, other).unwrap();
    assert_eq!(damaged_blocks(&usual), serde_json::Value::Null);
    let done = usual.source.run().args(["backup", "--json"]).arg(&usual.data).ok();
    assert_eq!(healing(&done), serde_json::Value::Null);
}

/// The list is a hint: who changes it in the vault makes the source heal nothing, and nothing else.
#[test]
fn without_its_list_damage_is_damage_all_the_same() {
    let (usual, old) = backed_up(0);
    let rotten = rot(&usual);
    usual.vault.run().arg("verify").done().code(13);
    let list = usual.vault.room("web1").join("damaged");
    std::fs::remove_file(&list).unwrap();
    assert_eq!(damaged_blocks(&usual), 0);
    let done = usual.source.run().args(["backup", "--json"]).arg(&usual.data).ok();
    assert_eq!(healing(&done), serde_json::Value::Null, "nobody told the source");
    usual.reader.restore_path(&old, &usual.data, &usual.place.join("out")).done().code(13);
    let found = verified(&usual);
    assert_eq!((&found["damaged_blocks"], &found["healed"]), (&rotten.into(), &0.into()), "{found}");
    // What stops removing is the journal, not the list.
    std::fs::remove_file(&list).unwrap();
    let run = |words: &[&str]| usual.vault.run().args(words.iter().copied());
    run(&["retention", "web1", "--keep-last", "1"]).ok();
    run(&["prune", "web1"]).done().code(20).says("alarm scrub");
}

#[test]
fn of_two_remotes_only_the_damaged_one_is_sent_anything() {
    let usual = Usual::new();
    let second = tests::Vault::with(usual.place.path(), "second", None);
    let enrolled = second.enroll(&usual.source.card, "push", "backup@127.0.0.1:22", &[]);
    usual.source.add_path("second", &second, &enrolled);
    let mut chance = Chance::new(42);
    tree::write(&usual.data.join("a/b"), &chance.bytes(2 << 20));
    usual.source.must_back_up(&usual.data);
    let old = usual.reader.snapshot_ids().pop().unwrap();
    let rotten = rot(&usual);
    usual.vault.run().arg("verify").done().code(13);
    let (first, other) = (usual.vault.files("web1", "archives").len(), second.files("web1", "archives"));
    let done = usual.source.run().args(["backup", "--json"]).arg(&usual.data).ok();
    assert_eq!(healing(&done)["blocks_healed"], rotten, "{}", done.tell());
    assert!(usual.vault.files("web1", "archives").len() > first);
    assert_eq!(second.files("web1", "archives"), other, "the second has all of it");
    second.must_be_clean();
    assert_eq!(verified(&usual)["damaged"], 0);
    usual.reader.restore_path(&old, &usual.data, &usual.place.join("out")).ok();
    tree::assert_same(&usual.data, &usual.place.join("out"));
}

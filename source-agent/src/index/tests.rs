//! The index against naive copies.

use super::series::{DirRow, SeriesIndex, uses_of};
use super::uses::{self, Spot, Uses};
use super::*;
use proptest::prelude::*;
use shared::id::Series;
use std::collections::BTreeMap;

const SOURCE: SourceId = SourceId::new([1; 32]);
const LINEAGE: Lineage = Lineage::new([2; 16]);

fn table(seed: u8, blocks: usize) -> Vec<Vec<TableEntry>> {
    let entry = |block: usize, at: u8| {
        let id = Digest::of(&[seed, block as u8, at]);
        TableEntry { id: ChunkId::new(*id.as_bytes()), bytes: 100 + u32::from(at) }
    };
    (0..blocks).map(|block| (0..5).map(|at| entry(block, at)).collect()).collect()
}

fn facts(number: u64, table: &[Vec<TableEntry>]) -> ArchiveFacts<'_> {
    ArchiveFacts {
        number: ArchiveNumber::new(number).unwrap(),
        id: ArchiveId::new([number as u8; 32]),
        kind: Kind::Data,
        session: SessionId::new([4; 32]),
        bytes: 1000,
        table,
        heals: false,
    }
}

#[test]
fn acknowledged_chunks_are_found_and_presence_is_per_sink() {
    let dir = tempfile::tempdir().unwrap();
    let (index, new) = Index::open(dir.path(), &SOURCE, &LINEAGE).unwrap();
    assert!(new);
    let one = index.sink(&VerifyKey::new([7; 32])).unwrap();
    let two = index.sink(&VerifyKey::new([8; 32])).unwrap();
    let table = table(1, 3);
    index.acknowledge(&one, &facts(5, &table), true).unwrap();
    index.acknowledge(&two, &facts(5, &table), false).unwrap();
    index.drop_presence(&two, &[5]).unwrap();
    assert_eq!(index.present(&one).unwrap(), HashSet::from([5]));
    assert!(index.present(&two).unwrap().is_empty());
    let lookup = index.lookup().unwrap();
    let filter = index.filter().unwrap();
    for (block, entries) in table.iter().enumerate() {
        for entry in entries {
            let spot = Spot { archive: 5, block: block as u32 };
            assert_eq!(lookup.find(&entry.id).unwrap(), Some(spot));
            assert!(filter.maybe(&entry.id));
        }
    }
    assert_eq!(lookup.find(&ChunkId::new([0; 32])).unwrap(), None);
    assert_eq!(index.blocks(5).unwrap(), [(5, 510); 3]);
    assert_eq!(index.next_number().unwrap(), 6);
    index.forget_chunks(&[4, 6]).unwrap();
    assert!(lookup.find(&table[0][0].id).unwrap().is_some());
    index.forget_chunks(&[4, 5]).unwrap();
    assert_eq!(lookup.find(&table[0][0].id).unwrap(), None);
    assert_eq!(index.archive_id(5).unwrap(), Some(ArchiveId::new([5; 32])), "its number stays taken");
    drop((index, lookup));
    assert!(!Index::open(dir.path(), &SOURCE, &LINEAGE).unwrap().1);
}

#[test]
fn another_archive_of_a_number_takes_its_place_only_where_no_other_sink_holds_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let (index, _) = Index::open(dir.path(), &SOURCE, &LINEAGE).unwrap();
    let [one, two] = [7, 8].map(|key| index.sink(&VerifyKey::new([key; 32])).unwrap());
    let series = SeriesIndex::open(dir.path(), &SOURCE, &LINEAGE, &Series::new([9; 16])).unwrap().path().to_owned();
    let (first, second) = (table(1, 2), table(2, 2));
    let other = ArchiveFacts { id: ArchiveId::new([99; 32]), ..facts(5, &second) };
    index.acknowledge(&one, &facts(5, &first), true).unwrap();
    let lookup = index.lookup().unwrap();
    let found = |table: &[Vec<TableEntry>]| lookup.find(&table[0][0].id).unwrap().is_some();
    assert!(!index.take_over(&two, &other).unwrap());
    assert_eq!((found(&first), found(&second), series.exists()), (true, false, true));
    assert!(index.present(&two).unwrap().is_empty());
    index.drop_presence(&one, &[5]).unwrap();
    assert!(index.take_over(&two, &other).unwrap());
    assert_eq!((found(&first), found(&second), series.exists()), (false, true, false));
    assert_eq!(index.archive_id(5).unwrap(), Some(other.id));
    assert_eq!(index.present(&two).unwrap(), HashSet::from([5]));
}

#[test]
fn another_source_or_damage_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (index, _) = Index::open(dir.path(), &SOURCE, &LINEAGE).unwrap();
    let sink = index.sink(&VerifyKey::new([7; 32])).unwrap();
    index.acknowledge(&sink, &facts(5, &table(1, 1)), true).unwrap();
    drop(index);
    assert!(!Index::open(dir.path(), &SOURCE, &LINEAGE).unwrap().1);
    assert!(Index::open(dir.path(), &SOURCE, &Lineage::new([3; 16])).unwrap().1);
    std::fs::write(dir.path().join("index.sqlite"), vec![7; 50_000]).unwrap();
    assert!(Index::open(dir.path(), &SOURCE, &LINEAGE).unwrap().1);
    assert!(dir.path().join("index.damaged").exists());
}

#[test]
fn damage_behind_the_first_page_is_put_aside_too() {
    let dir = tempfile::tempdir().unwrap();
    let (index, _) = Index::open(dir.path(), &SOURCE, &LINEAGE).unwrap();
    let sink = index.sink(&VerifyKey::new([7; 32])).unwrap();
    index.acknowledge(&sink, &facts(5, &table(1, 1)), true).unwrap();
    drop(index);
    let path = dir.path().join("index.sqlite");
    let page: u64 = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'archives'", [], |row| row.get(0))
        .unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let page_bytes = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
    bytes[(page as usize - 1) * page_bytes..][..page_bytes].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    let (index, renewed) = Index::open(dir.path(), &SOURCE, &LINEAGE).unwrap();
    assert!(renewed && index.next_number().unwrap() == 0);
    assert!(dir.path().join("index.damaged").exists());
}

#[derive(Debug, Clone)]
enum Change {
    Put(u8, Vec<(u8, u8)>),
    Forget(u8),
}

const PATHS: [&str; 8] = ["", "/a", "/a/b", "/a/b/c", "/ab", "/a0", "/b", "/b/a"];

fn change() -> impl Strategy<Value = Change> {
    let spots = prop::collection::vec((0u8..6, 0u8..4), 0..8);
    prop_oneof![
        3 => (0u8..8, spots).prop_map(|(path, spots)| Change::Put(path, spots)),
        1 => (1u8..8).prop_map(Change::Forget),
    ]
}

fn spots(list: &[(u8, u8)]) -> Uses {
    uses::count(list.iter().map(|(a, b)| Spot { archive: (*a).into(), block: (*b).into() }).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Uses by difference are what a naive count of all rows gives; an aborted run changes nothing.
    #[test]
    fn uses_by_difference(runs in prop::collection::vec((prop::collection::vec(change(), 0..12), any::<bool>()), 1..6)) {
        let dir = tempfile::tempdir().unwrap();
        let mut naive: BTreeMap<String, Uses> = BTreeMap::new();
        for (changes, commits) in runs {
            let index = SeriesIndex::open(dir.path(), &SOURCE, &LINEAGE, &Series::new([5; 16])).unwrap();
            let mut reader = index.reader().unwrap();
            let mut writer = index.begin().unwrap();
            let before = naive.clone();
            for change in changes {
                match change {
                    Change::Put(path, list) => {
                        let path = PATHS[usize::from(path)];
                        let row = DirRow { top: vec![1], uses: uses::pack(&spots(&list)), records: vec![2] };
                        writer.put(path.as_bytes(), &row).unwrap();
                        naive.insert(path.into(), spots(&list));
                    }
                    Change::Forget(path) => {
                        let path = PATHS[usize::from(path)];
                        writer.forget(path.as_bytes()).unwrap();
                        let below = format!("{path}/");
                        naive.retain(|other, _| other != path && !other.starts_with(&below));
                    }
                }
            }
            for path in PATHS {
                prop_assert_eq!(reader.dir(path.as_bytes()).unwrap().is_some(), before.contains_key(path));
            }
            match commits {
                true => writer.commit().unwrap(),
                false => {
                    drop(writer);
                    naive = before;
                }
            }
            let sum = uses::merge(naive.values().flatten().copied().collect());
            prop_assert_eq!(uses_of(index.path()).unwrap(), sum.clone());
            let mut writer = index.begin().unwrap();
            writer.recount().unwrap();
            writer.commit().unwrap();
            prop_assert_eq!(uses_of(index.path()).unwrap(), sum);
        }
    }
}

#[test]
fn an_index_is_put_aside_before_its_log_and_a_log_alone_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Index::open(dir.path(), &SourceId::new([1; 32]), &Lineage::new([2; 16])).unwrap();
    let path = dir.path().join("index.sqlite");
    let (wal, shm) = (dir.path().join("index.sqlite-wal"), dir.path().join("index.sqlite-shm"));
    let (index, _) = open();
    let sink = index.sink(&VerifyKey::new([7; 32])).unwrap();
    index.add_presence(&sink, &[4]).unwrap();
    assert!(std::fs::metadata(&wal).unwrap().len() > 0, "all of it is in the log still");
    // A crash between the two steps: the log stays behind.
    let log = std::fs::read(&wal).unwrap();
    put_aside(&path).unwrap();
    assert!(path.with_extension("damaged").exists() && !path.exists() && !wal.exists() && !shm.exists());
    drop(index);
    std::fs::write(&wal, &log).unwrap();
    let (index, new) = open();
    let sink = index.sink(&VerifyKey::new([7; 32])).unwrap();
    assert!(new && index.present(&sink).unwrap().is_empty(), "nothing of the old log is in the new index");
}

#[test]
fn what_was_healed_is_remembered_and_leaves_the_places_of_chunks_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (index, _) = Index::open(dir.path(), &SourceId::new([1; 32]), &Lineage::new([2; 16])).unwrap();
    let sink = index.sink(&VerifyKey::new([7; 32])).unwrap();
    let id = |at: u8| ChunkId::new([at; 32]);
    let table = vec![vec![TableEntry { id: id(1), bytes: 10 }, TableEntry { id: id(2), bytes: 20 }]];
    index.acknowledge(&sink, &facts(5, &table), true).unwrap();
    index.acknowledge(&sink, &ArchiveFacts { heals: true, ..facts(9, &table) }, true).unwrap();
    let spot = |archive| Spot { archive, block: 0 };
    assert_eq!(index.lookup().unwrap().find(&id(1)).unwrap(), Some(spot(5)));
    let found = index.chunks_in([spot(5), spot(9)].into_iter()).unwrap();
    assert_eq!((found[&spot(5)].len(), found[&spot(9)].len()), (2, 0));
    assert!(index.present(&sink).unwrap().contains(&9));
    index.note_healed(&sink, [spot(5)].into_iter(), 40).unwrap();
    index.note_healed(&sink, [spot(5)].into_iter(), 50).unwrap();
    let healed = index.healed(&sink).unwrap();
    assert_eq!((healed.len(), healed[&spot(5)].at, healed[&spot(5)].times), (1, 50, 2));
    let other = index.sink(&VerifyKey::new([8; 32])).unwrap();
    assert!(index.healed(&other).unwrap().is_empty());
}

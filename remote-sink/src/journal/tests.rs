//! The journal on disk: chained, signed, whole after a crash.

use super::*;

fn moment(wall: i64) -> Moment {
    Moment { wall, boot: Blob::new(vec![1; 16]).unwrap(), up: 5 }
}

fn name() -> SourceName {
    "web1".parse().unwrap()
}

fn scrub(damaged: u64) -> Event {
    Event::Scrubbed(name(), damaged)
}

struct Place(tempfile::TempDir, Layout);

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().join("vault"));
    layout.create_vault_dirs().unwrap();
    Place(dir, layout)
}

#[test]
fn entries_come_back_and_the_key_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let Place(_dir, layout) = place();
    assert_eq!(Journal::look(&layout).unwrap().entries, 0);
    let mut journal = Journal::open(&layout).unwrap();
    for at in 0..5 {
        journal.append(&moment(at), scrub(at as u64)).unwrap();
    }
    let last = journal.memory.last;
    drop(journal);
    let memory = Journal::open(&layout).unwrap().memory;
    assert_eq!((memory.entries, memory.last), (5, last));
    assert_eq!(memory.source(&name()).unwrap().scrubbed, Some((4, 4, 4)));
    assert_eq!(std::fs::metadata(layout.journal_key()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn every_event_is_encoded_in_one_way_alone() {
    let (lineage, digest) = (Lineage::new([1; 16]), Digest::new([2; 32]));
    let words = || Words::new("why").unwrap();
    let heads = List::new(vec![NewHeads { lineage, first: 1, last: 2, newest: digest }]).unwrap();
    let seen = SourceSeen { name: name(), source: SourceId::new([3; 32]), heads, archives: 1, bytes: 2 };
    let removed = RemovedSnapshot { lineage, sequence: 1, head: digest, body: digest, why: words() };
    let number = ArchiveNumber::FIRST;
    let freed = FreedArchive { lineage, number, present: Blob::new(vec![5]).unwrap() };
    let Place(_dir, layout) = place();
    let mut journal = Journal::open(&layout).unwrap();
    let events = vec![
        Event::Observed(List::new(vec![seen]).unwrap()),
        Event::Policy(name(), words(), 7),
        Event::Removed(name(), List::new(vec![removed]).unwrap()),
        Event::Purged(name(), List::new(vec![digest]).unwrap()),
        Event::Condemned(name(), digest, 1),
        Event::Freed(name(), List::new(vec![freed]).unwrap()),
        Event::Held(name(), lineage, 1, words()),
        Event::Released(name(), lineage, 1, words()),
        Event::Undeleted(name(), digest),
        Event::Alarm(name(), words(), words()),
        Event::Accepted(name(), words(), words()),
        Event::Pruned(name(), 1, 2, 3),
        scrub(0),
    ];
    let count = events.len() as u64;
    for event in events {
        journal.append(&moment(9), event).unwrap();
    }
    assert_eq!(Journal::look(&layout).unwrap().entries, count);
}

/// Copies of cut entries.
fn cuts(layout: &Layout) -> Vec<Vec<u8>> {
    let names = std::fs::read_dir(layout.journal()).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.to_string_lossy().contains("log.cut-")).map(|path| std::fs::read(path).unwrap()).collect()
}

#[test]
fn a_cut_entry_is_kept_aside_and_anything_else_is_refused() {
    let Place(_dir, layout) = place();
    let mut journal = Journal::open(&layout).unwrap();
    journal.append(&moment(1), scrub(1)).unwrap();
    let one = std::fs::read(layout.journal_log()).unwrap();
    journal.append(&moment(2), scrub(2)).unwrap();
    let two = std::fs::read(layout.journal_log()).unwrap();
    drop(journal);
    let set = |bytes: &[u8]| std::fs::write(layout.journal_log(), bytes).unwrap();
    for cut in one.len()..two.len() {
        set(&two[..cut]);
        assert_eq!(Journal::look(&layout).unwrap().entries, 1);
    }
    for (nth, zeros) in [0, 0, 4096].into_iter().enumerate() {
        let cut = [&two[..two.len() - 40], &vec![0; zeros]].concat();
        set(&cut);
        let journal = Journal::open(&layout).unwrap();
        assert_eq!((journal.memory.entries, journal.cut.is_some()), (1, true));
        assert_eq!(std::fs::read(layout.journal_log()).unwrap(), one, "the cut entry is gone");
        assert!(cuts(&layout).contains(&cut[one.len()..].to_vec()) && cuts(&layout).len() == nth + 1);
    }
    let mut journal = Journal::open(&layout).unwrap();
    assert!(journal.cut.is_none());
    journal.append(&moment(3), scrub(3)).unwrap();
    for at in [0, 20, one.len() - 1] {
        let mut wrong = two.clone();
        wrong[at] ^= 1;
        set(&wrong);
        assert!(Journal::open(&layout).is_err(), "byte {at}");
    }
    set(&two[one.len()..]);
    assert!(Journal::open(&layout).is_err(), "the first entry is missing");
    std::fs::remove_file(layout.journal_key()).unwrap();
    assert!(matches!(Journal::open(&layout), Err(JournalError::NoKey { .. })));
}

#[test]
fn a_length_that_was_changed_hides_no_entry() {
    let Place(_dir, layout) = place();
    let mut journal = Journal::open(&layout).unwrap();
    let mut ends = vec![];
    for at in 1..5 {
        journal.append(&moment(at), scrub(9)).unwrap();
        ends.push(std::fs::metadata(layout.journal_log()).unwrap().len() as usize);
    }
    drop(journal);
    let whole = std::fs::read(layout.journal_log()).unwrap();
    // The entry seems to reach beyond the end of the file: what follows it, or it alone, would be cut off.
    for end in &ends[..3] {
        let mut wrong = whole.clone();
        wrong[end + 10] = 1;
        std::fs::write(layout.journal_log(), &wrong).unwrap();
        assert!(Journal::open(&layout).is_err() && Journal::look(&layout).is_err());
        assert_eq!(std::fs::read(layout.journal_log()).unwrap(), wrong);
    }
    assert!(cuts(&layout).is_empty());
}

#[test]
fn a_head_is_seen_between_two_observations() {
    let mut memory = Memory::default();
    let lineage = Lineage::new([1; 16]);
    let look = |wall, heads: Option<(u64, u64)>| {
        let heads = heads.map(|(first, last)| NewHeads { lineage, first, last, newest: Digest::new([9; 32]) });
        let heads = List::new(heads.into_iter().collect()).unwrap();
        let seen = SourceSeen { name: name(), source: SourceId::new([3; 32]), heads, archives: 0, bytes: 0 };
        let event = Event::Observed(List::new(vec![seen]).unwrap());
        Entry { number: 0, previous: None, at: moment(wall), event }
    };
    let rounds = [(100, Some((0, 0))), (200, None), (300, Some((1, 3)))];
    for (wall, heads) in rounds {
        memory.take(Digest::new([wall as u8; 32]), look(wall, heads));
    }
    let source = memory.source(&name()).unwrap();
    let window = |sequence| source.seen(&SnapshotId { lineage, sequence }).map(|seen| (seen.after, seen.by));
    assert_eq!([window(0), window(2), window(4)], [Some((None, 100)), Some((Some(200), 300)), None]);
}
use crate::retention::policy::SnapshotId;

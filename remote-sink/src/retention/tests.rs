//! Retention on vaults in temporary directories, with clocks that the tests set.

mod bulk;
mod heal;
mod packs;
mod recipients;

use super::*;
use crate::config::Config;
use crate::enrolment::{Enrolment, Reads};
use crate::journal::{Journal, Moment};
use crate::published::Published;
use crate::store::{Name, directory::Root, layout::source_room, put_bytes};
use crate::verify::{VerifyOptions, verify};
use shared::card::{SourceCard, SshKey};
use shared::codec::{Blob, List};
use shared::format::envelope::{Kem, RecipientWrap};
use shared::format::snapshot::SealedRoot;
use shared::format::{Body, Envelope, Head, Index, Kind, Page, PageEntry, Part, Receipt, Region};
use shared::id::{ArchiveId, ArchiveNumber, Lineage, Salt, Series, SessionId};
use shared::keyfile;
use shared::signature::{Plain, SigningKey, Verified, sign};
use shared::sys::{FixedClock, durable};
use shared::wire::Role;
use std::{cell::Cell, io, sync::Arc};

const DAY: i64 = 86_400;
/// 2026-01-01 00:00 UTC.
const START: i64 = 1_767_225_600;
const SERIES: Series = Series::new([5; 16]);

/// A vault with one source, both played by the test.
struct World {
    _dir: tempfile::TempDir,
    layout: Layout,
    config: Config,
    sink: SigningKey,
    key: SigningKey,
    card: SourceCard,
    lineage: Lineage,
    series: Series,
    envelope: Verified<Envelope>,
    now: i64,
    head: Option<(u64, Digest)>,
    receipt: Option<Digest>,
    next_archive: u64,
}

fn name() -> SourceName {
    "web1".parse().unwrap()
}

fn moment(wall: i64) -> Moment {
    Moment { wall, boot: Blob::new(vec![1; 16]).unwrap(), up: (wall - START + 1000) as u64 }
}

/// An archive as the source remembers it.
#[derive(Clone, Copy)]
struct Made {
    number: u64,
    id: ArchiveId,
}

impl World {
    fn new(rules: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("vault"));
        layout.create_vault_dirs().unwrap();
        layout.create_source_dirs(&name()).unwrap();
        let (sink, key) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        let text = keyfile::write(keyfile::SINK_KEY, &sink.seed());
        durable::create_new(&layout.sink_key(), text.as_bytes(), 0o600).unwrap();
        let card = SourceCard::new(name(), SshKey::from_ed25519(&[3; 32]), None, &key);
        let enrolment = Enrolment {
            card: card.clone(),
            role: Role::Push,
            quota: None,
            from: vec![],
            reads: Reads::SingleOwner,
            address: None,
            host_keys: vec![],
            enrolled: "2026-01-01T00:00:00Z".into(),
            revoked: false,
        };
        enrolment.write(&layout.enrolment(&name())).unwrap();
        let lineage = Lineage::new([7; 16]);
        let envelope = Self::envelope(&card, lineage, &key, 8);
        let config = Config::parse(&format!("config-version = 1\n[defaults.retention]\n{rules}\n")).unwrap();
        let world = Self {
            _dir: dir,
            layout,
            config,
            sink,
            key,
            card,
            lineage,
            series: SERIES,
            envelope,
            now: START,
            head: None,
            receipt: None,
            next_archive: 0,
        };
        let session = SessionId::new(*world.envelope.digest().as_bytes());
        world.put(Name::Envelope(session), world.envelope.as_bytes());
        world
    }

    fn envelope(card: &SourceCard, lineage: Lineage, key: &SigningKey, recipient: u8) -> Verified<Envelope> {
        let wrap = RecipientWrap {
            kem: Kem::X25519,
            recipient: Digest::new([recipient; 32]),
            enc: Blob::new(vec![1; 32]).unwrap(),
            sealed: Blob::new(vec![2; 80]).unwrap(),
        };
        let envelope = Envelope {
            source: card.source_id(),
            lineage,
            salt: Salt::new([4; 32]),
            commitment: Digest::new([5; 32]),
            recipients: List::new(vec![wrap]).unwrap(),
        };
        sign(envelope, key).unwrap()
    }

    fn put(&self, name_of: Name, bytes: &[u8]) {
        let root = Root::open(self.layout.root()).unwrap();
        let staging = Arc::new(root.open_dir(&format!("{}/staging", source_room(&name()))).unwrap());
        put_bytes(&root.writable_room(source_room(&name()), &staging), &name_of, bytes).unwrap();
    }

    /// An archive of so many blocks of 4096 bytes.
    fn archive(&mut self, blocks: u8) -> Made {
        let number = ArchiveNumber::new(self.next_archive).unwrap();
        self.next_archive += 1;
        let block = |at: u8| [&number.get().to_le_bytes()[..], &[at; 4088]].concat();
        let parts: Vec<Vec<u8>> = (0..=blocks).map(block).collect();
        let part = |bytes: &Vec<u8>| Part { bytes: 4096, hash: Digest::of(bytes), plain: Digest::new([0; 32]) };
        let index = Index {
            source: self.card.source_id(),
            lineage: self.lineage,
            session: SessionId::new(*self.envelope.digest().as_bytes()),
            number,
            salt: Salt::new([9; 32]),
            kind: Kind::Data,
            parts: List::new(parts.iter().map(part).collect()).unwrap(),
        };
        let region = Region::new(&sign(index, &self.key).unwrap(), &self.envelope).unwrap();
        let bytes = [region.as_bytes(), &parts.concat()].concat();
        self.put(Name::Archive(self.lineage, number), &bytes);
        Made { number: number.get(), id: region.id() }
    }

    fn body(&self, named: &[(Made, u8)]) -> Digest {
        let spans = named.chunk_by(|a, b| a.0.number / 1024 == b.0.number / 1024);
        self.body_of(&spans.map(<[_]>::to_vec).collect::<Vec<_>>())
    }

    /// A body of these pages.
    fn body_of(&self, spans: &[Vec<(Made, u8)>]) -> Digest {
        let mut pages = Vec::new();
        for span in spans {
            let entry = |(made, live): &(Made, u8)| PageEntry {
                number: ArchiveNumber::new(made.number).unwrap(),
                id: made.id,
                live: Blob::new(vec![*live]).unwrap(),
            };
            let archives = List::new(span.iter().map(entry).collect()).unwrap();
            let page = Plain::new(Page { source: self.card.source_id(), lineage: self.lineage, archives }).unwrap();
            self.put(Name::Page(page.digest()), page.as_bytes());
            pages.push(page.digest());
        }
        let (salt, plain) = (Salt::random(), Digest::new([1; 32]));
        let root = SealedRoot { salt, plain, sealed: Blob::new(vec![3; 4096]).unwrap() };
        let body = Plain::new(Body { pages: List::new(pages).unwrap(), root }).unwrap();
        self.put(Name::Body(body.digest()), body.as_bytes());
        body.digest()
    }

    /// Commits what the session would commit; the receipt is of the sink's clock.
    fn commit(&mut self, named: &[(Made, u8)], flags: u8, created: i64) -> SnapshotDone {
        self.commit_body(self.body(named), named.len() as u64, flags, created)
    }

    fn commit_body(&mut self, body: Digest, archives: u64, flags: u8, created: i64) -> SnapshotDone {
        let (sequence, previous) = self.head.map_or((0, None), |(sequence, digest)| (sequence + 1, Some(digest)));
        let head = Head {
            source: self.card.source_id(),
            lineage: self.lineage,
            sink: self.sink.verify_key(),
            sequence,
            previous,
            series: self.series,
            flags,
            created,
            session: SessionId::new(*self.envelope.digest().as_bytes()),
            body,
            remotes: List::empty(),
            reason: None,
        };
        let head = sign(head, &self.key).unwrap();
        self.put(Name::Head(self.lineage, sequence), head.as_bytes());
        let root = Root::open(self.layout.root()).unwrap();
        let note = Published::read(&root, &name(), self.card.source_id()).unwrap();
        let receipt = Receipt {
            source: head.source,
            lineage: self.lineage,
            sink: self.sink.verify_key(),
            sequence,
            head: head.digest(),
            received: self.now,
            previous: self.receipt,
            journal: note.journal,
            archives,
            keep_until: note.keep_until(self.now, head.is_checkpoint()),
        };
        let receipt = sign(receipt, &self.sink).unwrap();
        self.put(Name::Receipt(self.lineage, sequence), receipt.as_bytes());
        (self.head, self.receipt) = (Some((sequence, head.digest())), Some(receipt.digest()));
        SnapshotDone { sequence, received: self.now, body, id: head.digest().to_string() }
    }

    fn desk(&self) -> Desk<'_> {
        let root = Root::open(self.layout.root()).unwrap();
        let enrolment = Enrolment::read(&self.layout.enrolment(&name())).unwrap();
        let sources = vec![Source::new(&root, &name(), &enrolment)];
        let (journal, sink) = (Journal::open(&self.layout).unwrap(), self.sink.verify_key());
        Desk { layout: &self.layout, config: &self.config, root, sink, sources, journal, now: moment(self.now) }
    }

    fn observe(&self) {
        observe::observe(&mut self.desk()).unwrap();
    }

    fn prune(&self, options: &Options) -> Outcome {
        prune(&mut self.desk(), &name(), options).unwrap()
    }

    fn is_here(&self, snapshot: &SnapshotDone) -> bool {
        self.layout.object(&name(), &Name::Body(snapshot.body)).exists()
    }

    fn archive_bytes(&self, made: Made) -> Option<u64> {
        let number = ArchiveNumber::new(made.number).unwrap();
        std::fs::metadata(self.layout.object(&name(), &Name::Archive(self.lineage, number))).ok().map(|meta| meta.len())
    }

    /// Everything that a kept snapshot names is here and right.
    #[track_caller]
    fn is_whole(&self, when: &str) {
        let report = verify(self.layout.root(), &VerifyOptions::default(), &FixedClock::at(self.now)).unwrap();
        assert!(report.is_ok(), "{when}: {:?}", report.sources[0].damage);
        assert!(report.sources[0].snapshots_damaged.is_empty(), "{when}");
    }
}

#[derive(Debug, Clone)]
struct SnapshotDone {
    sequence: u64,
    received: i64,
    body: Digest,
    id: String,
}

fn all() -> Options {
    Options { accept: Brake::ALL.to_vec(), reason: "test".into(), ..Options::default() }
}

/// Three snapshots: the first is removed by `keep-last = 1`, and shares archives with the others.
struct Story {
    world: World,
    done: Vec<SnapshotDone>,
    archives: Vec<Made>,
}

fn story() -> Story {
    let mut world = World::new("keep-last = 1\ngrace = \"7d\"\nmax-remove = \"100%\"");
    world.observe();
    let archives: Vec<Made> = [4, 4, 2, 2].map(|blocks| world.archive(blocks)).to_vec();
    let [a, b, c, d] = archives[..] else { unreachable!() };
    world.now += DAY;
    let mut done = vec![world.commit(&[(a, 0b1111), (b, 0b1111), (c, 0b11)], 0, 0)];
    world.now += DAY;
    done.push(world.commit(&[(a, 0b0001), (b, 0b1110), (d, 0b11)], 0, 0));
    Story { world, done, archives }
}

#[test]
fn what_goes_is_trashed_then_condemned_then_freed() {
    let Story { mut world, done, archives } = story();
    let [a, b, c, d] = archives[..] else { unreachable!() };
    let dry = world.prune(&Options { dry_run: true, ..Options::default() });
    assert_eq!((dry.removed(), dry.alarms.len(), world.is_here(&done[0])), (1, 0, true));
    let sizes = |world: &World| [a, b, c, d].map(|made| world.archive_bytes(made));
    let before = sizes(&world);
    assert_eq!(world.prune(&Options::default()).removed(), 1);
    assert!(!world.is_here(&done[0]) && world.is_here(&done[1]));
    world.is_whole("in the trash");
    world.now += 6 * DAY;
    assert_eq!(world.prune(&Options::default()).given.purged, 0, "the grace is not over");
    world.now += 2 * DAY;
    let outcome = world.prune(&Options::default());
    assert_eq!((outcome.given.purged, outcome.given.condemned, sizes(&world)), (1, 3, before), "condemned, not freed");
    world.now += 2 * DAY;
    let outcome = world.prune(&Options::default());
    // a loses three of four blocks, b one of four (of five parts: not worth writing again), c goes.
    assert_eq!((outcome.given.archives_rewritten, outcome.given.archives_removed), (1, 1));
    let after = sizes(&world);
    assert_eq!((after[1], after[2], after[3]), (before[1], None, before[3]));
    // A generation has a header of 4096 bytes more, and three blocks less.
    assert_eq!(after[0], before[0].map(|bytes| bytes - 2 * 4096));
    world.is_whole("freed");
    let again = world.prune(&Options::default());
    assert_eq!((again.given.archives_rewritten, again.given.archives_removed, again.given.freed_bytes), (0, 0, 0));
    let root = Root::open(world.layout.root()).unwrap();
    let note = Published::read(&root, &name(), world.card.source_id()).unwrap();
    assert!(note.is_expired(&world.lineage, done[0].sequence) && !note.is_expired(&world.lineage, done[1].sequence));
}

#[test]
fn undelete_brings_back_a_whole_snapshot_until_the_grace_is_over() {
    let Story { mut world, done, .. } = story();
    world.prune(&Options::default());
    undelete(&mut world.desk(), &name(), &done[0].id[..8]).unwrap();
    assert!(world.is_here(&done[0]));
    world.is_whole("brought back");
    world.now += 30 * DAY;
    assert_eq!(world.prune(&Options::default()).removed(), 0, "it is held");
    hold(&mut world.desk(), &name(), &done[0].id[..8], false, "").unwrap();
    assert_eq!(world.prune(&Options::default()).removed(), 1);
    world.prune(&Options { now: true, ..Options::default() });
    let error = undelete(&mut world.desk(), &name(), &done[0].id[..8]).unwrap_err();
    assert!(matches!(error, RetentionError::NotInTrash(_)));
    world.is_whole("freed at once");
}

#[test]
fn what_is_held_is_never_purged_and_only_what_is_here_can_be_held() {
    let Story { mut world, done, .. } = story();
    let id = &done[0].id[..8];
    world.prune(&Options::default());
    let error = hold(&mut world.desk(), &name(), id, true, "").unwrap_err();
    assert!(matches!(error, RetentionError::InTrash(_)), "{error}");
    // A journal that has such a hold all the same.
    let (lineage, why) = (world.lineage, || Words::truncated("why"));
    let append = |world: &World, event| world.desk().journal.append(&moment(world.now), event).unwrap();
    append(&world, Event::Held(name(), lineage, done[0].sequence, why()));
    world.now += 30 * DAY;
    for now in [false, true] {
        assert_eq!(world.prune(&Options { now, ..all() }).given.purged, 0, "now: {now}");
    }
    assert!(world.layout.trashed(&name(), &done[0].body).exists());
    append(&world, Event::Released(name(), lineage, done[0].sequence, why()));
    assert_eq!(world.prune(&all()).given.purged, 1);
    let error = hold(&mut world.desk(), &name(), id, true, "").unwrap_err();
    assert!(matches!(error, RetentionError::Nowhere(_)), "{error}");
    hold(&mut world.desk(), &name(), &done[1].id[..8], true, "").unwrap();
}

#[test]
fn a_commit_rescues_what_was_condemned() {
    let Story { mut world, archives, .. } = story();
    let [a, _, c, _] = archives[..] else { unreachable!() };
    world.prune(&Options::default());
    world.now += 8 * DAY;
    assert_eq!(world.prune(&Options::default()).given.condemned, 3);
    // A session that began before names blocks that are condemned.
    let rescued = world.commit(&[(a, 0b0101), (c, 0b11)], 0, 0);
    world.now += 3 * DAY;
    let outcome = world.prune(&Options { max_remove_percent: Some(100), ..all() });
    assert!(world.is_here(&rescued) && world.archive_bytes(c).is_some());
    assert_eq!(outcome.given.archives_removed, 0);
    world.is_whole("rescued");
}

#[test]
fn nothing_is_touched_while_a_session_runs() {
    let Story { world, done, .. } = story();
    let session = lock(&world.layout, &name()).unwrap().unwrap();
    let outcome = world.prune(&Options::default());
    assert!(outcome.busy && world.is_here(&done[0]));
    drop(session);
    assert!(!world.prune(&Options::default()).busy && !world.is_here(&done[0]));
}

#[test]
fn a_source_that_is_always_busy_is_told_and_a_silent_session_gives_way() {
    let Story { mut world, done, .. } = story();
    world.config = Config::parse("config-version = 1\n[defaults.retention]\nkeep-last = 9").unwrap();
    world.prune(&Options::default());
    let session = lock(&world.layout, &name()).unwrap().unwrap();
    let rules = "config-version = 1\n[defaults.retention]\nkeep-last = 1\nmax-remove = '100%'";
    world.config = Config::parse(rules).unwrap();
    world.now += 2 * DAY;
    assert!(!world.prune(&Options::default()).is_stopped(), "a day or two is nothing");
    world.now += 2 * DAY;
    let outcome = world.prune(&Options::default());
    assert_eq!(outcome.alarms.iter().map(|alarm| alarm.brake).collect::<Vec<_>>(), [Brake::Busy]);
    assert!(!world.prune(&Options { accept: vec![Brake::Busy], ..Options::default() }).is_stopped());
    assert!(!world.prune(&Options::default()).is_stopped(), "it has its days again");
    world.now += 4 * DAY;
    // As a session does: silent, until it sees that somebody waits.
    let staging = File::open(world.layout.staging(&name())).unwrap();
    let gives_way = std::thread::spawn(move || {
        while flock(&staging, FlockOperation::NonBlockingLockExclusive).is_ok() {
            flock(&staging, FlockOperation::Unlock).unwrap();
            std::thread::yield_now();
        }
        drop(session);
    });
    let outcome = world.prune(&Options { wait: Duration::from_secs(600), ..Options::default() });
    gives_way.join().unwrap();
    assert!(!outcome.busy && !outcome.is_stopped() && !world.is_here(&done[0]));
}

#[test]
fn no_session_can_commit_between_the_look_and_what_follows_from_it() {
    let Story { world, done, .. } = story();
    let seen = Cell::new(0);
    let step = |what: &'static str| {
        seen.set(seen.get() + 1);
        assert!(lock(&world.layout, &name()).unwrap().is_none(), "a session could commit {what}");
        Ok(())
    };
    let outcome = prune_stepwise(&mut world.desk(), &name(), &Options::default(), &step).unwrap();
    assert_eq!((outcome.removed(), outcome.busy), (1, false));
    let pruned = seen.get();
    undelete_stepwise(&mut world.desk(), &name(), &done[0].id[..8], &step).unwrap();
    assert!(pruned > 1 && seen.get() > pruned + 1, "it was looked at in both");
}

#[test]
fn what_an_interrupted_run_pushed_waits_for_it() {
    let Story { mut world, .. } = story();
    let pushed = world.archive(3);
    let _higher = world.archive(1);
    world.prune(&Options::default());
    world.now += 3 * DAY;
    world.prune(&Options::default());
    assert!(world.archive_bytes(pushed).is_some(), "it may go on after days");
    world.now += 9 * DAY;
    world.prune(&Options::default());
    assert_eq!(world.archive_bytes(pushed), None);
    world.is_whole("the rest");
}

#[test]
fn blocks_that_no_body_ever_named_are_found_in_time() {
    for now in [true, false] {
        let Story { mut world, done: _, archives } = story();
        world.prune(&Options::default());
        // An interrupted run pushed it; the next one needed only its first block. No list knows of the others.
        let half = world.archive(4);
        world.commit(&[(archives[3], 0b11), (half, 0b0001)], 0, 0);
        let before = world.archive_bytes(half);
        // Each run looks at one of 32 parts of the vault, by chance.
        let freed = (0..600).any(|_| {
            world.now += 2 * DAY;
            world.prune(&Options { now, ..all() });
            world.archive_bytes(half) < before
        });
        assert!(freed && world.archive_bytes(half).is_some());
        world.is_whole("found");
    }
}

#[test]
fn what_did_not_fit_into_a_list_is_found_in_time_when_no_body_names_it_any_more() {
    let Story { mut world, archives, .. } = story();
    let [a, b, c, d] = archives[..] else { unreachable!() };
    world.prune(&Options::default());
    world.now += 9 * DAY;
    // The body that named more of them is purged by this run, and the list that tells of it is full: it was cut.
    world.prune(&Options::default());
    let cut = |world: &World| {
        let mut desk = world.desk();
        let source = desk.source(&name()).unwrap().clone();
        let list = condemned::read(&desk, &source).unwrap().unwrap();
        let (whole, parts): (Vec<_>, Vec<_>) = list.items.iter().cloned().partition(|item| item.blocks.is_empty());
        condemned::write(&mut desk, &source, whole, list.bodies.to_vec()).unwrap();
        parts.len()
    };
    assert!(cut(&world) >= 1 && std::fs::read_dir(world.layout.trash(&name())).unwrap().next().is_none());
    let before = world.archive_bytes(a).unwrap();
    // Each run looks at the indexes of one of 32 parts of the vault, by chance.
    let freed = (0..600).any(|_| {
        world.now += 2 * DAY;
        world.prune(&all());
        world.archive_bytes(a).unwrap() < before
    });
    assert!(
        freed && [b, d].iter().all(|made| world.archive_bytes(*made).is_some()) && world.archive_bytes(c).is_none()
    );
    world.is_whole("the rest");
}

/// Lets the `nth` step of a run fail, and everything after it, as a crash does.
fn crash_at(world: &World, nth: usize) -> bool {
    let count = Cell::new(0);
    let step = |what: &'static str| {
        count.set(count.get() + 1);
        if count.get() > nth { Err(io::Error::other(what)) } else { Ok(()) }
    };
    let options = Options { max_remove_percent: Some(100), ..Options::default() };
    prune_stepwise(&mut world.desk(), &name(), &options, &step).is_err()
}

#[test]
fn a_crash_at_any_step_loses_no_live_block() {
    let mut stops = 0;
    for (phase, days) in [("trash", vec![]), ("purge", vec![8]), ("free", vec![8, 2])] {
        for nth in 0.. {
            let Story { mut world, done, archives } = story();
            if phase != "trash" {
                world.prune(&Options::default());
            }
            for (at, more) in days.iter().enumerate() {
                world.now += more * DAY;
                if at + 1 < days.len() {
                    world.prune(&Options::default());
                }
            }
            let crashed = crash_at(&world, nth);
            world.is_whole(&format!("{phase}: crash at step {nth}"));
            assert!(world.is_here(&done[1]));
            if !crashed {
                break;
            }
            stops += 1;
            // What a later run makes of it.
            for _ in 0..4 {
                world.prune(&Options::default());
                world.is_whole(&format!("{phase}: after a crash at step {nth}"));
                world.now += 9 * DAY;
            }
            assert_eq!(world.archive_bytes(archives[2]), None, "{phase} {nth}: the dead archive is freed in the end");
            assert!(std::fs::read_dir(world.layout.staging(&name())).unwrap().next().is_none());
        }
    }
    assert!(stops >= 12, "{stops} steps were tried");
}

#[test]
fn a_list_that_somebody_changed_condemns_nothing() {
    let Story { mut world, archives, .. } = story();
    world.prune(&Options::default());
    world.now += 8 * DAY;
    world.prune(&Options::default());
    let path = world.layout.condemned(&name());
    let forged = condemned::Condemned {
        source: world.card.source_id(),
        items: List::new(
            archives
                .iter()
                .map(|made| condemned::Item {
                    lineage: world.lineage,
                    number: ArchiveNumber::new(made.number).unwrap(),
                    since: 0,
                    blocks: Blob::new(vec![255]).unwrap(),
                })
                .collect(),
        )
        .unwrap(),
        bodies: List::empty(),
    };
    std::fs::write(&path, Plain::new(forged).unwrap().as_bytes()).unwrap();
    world.now += 2 * DAY;
    let outcome = world.prune(&Options::default());
    assert_eq!((outcome.given.archives_removed, outcome.given.archives_rewritten), (0, 0));
    world.is_whole("forged list");
    world.now += 2 * DAY;
    assert_eq!(world.prune(&Options::default()).given.archives_removed, 1, "found again by itself");
    world.is_whole("found again");
}

#[test]
fn receipts_bind_the_journal_and_a_promise_that_prune_keeps() {
    let mut world = World::new("keep-within = \"30d\"\nmin-age = \"10d\"");
    world.observe();
    let a = world.archive(1);
    let first = world.commit(&[(a, 1)], 0, 0);
    world.now += 60;
    let second = world.commit(&[(a, 1)], 0, 0);
    world.observe();
    let desk = world.desk();
    let history = history::read(desk.view(), &desk.sources[0]).unwrap();
    assert_eq!(history.links[0].snapshot.promised, Some(first.received + 10 * DAY));
    assert!(history.links[0].journal.is_some_and(|digest| desk.journal.memory.digests.contains(&digest)));
    drop(desk);
    // The rules become stricter: what was promised holds.
    world.config =
        Config::parse("config-version = 1\n[defaults.retention]\nkeep-last = 1\nmax-remove = \"100%\"").unwrap();
    world.now += 9 * DAY;
    assert_eq!(world.prune(&Options::default()).removed(), 0);
    world.now += 2 * DAY;
    assert_eq!(world.prune(&Options::default()).removed(), 1);
    assert!(!world.is_here(&first) && world.is_here(&second));
}

#[test]
fn a_time_outside_two_observations_is_not_believed() {
    let mut world = World::new("keep-within = \"30d\"");
    world.observe();
    let a = world.archive(1);
    let honest = world.now + 5 * DAY;
    world.now = honest;
    world.observe();
    // A session that lies about the time: long ago, then far ahead.
    for lie in [START - 400 * DAY, START + 4000 * DAY] {
        world.now = lie;
        world.commit(&[(a, 1)], 0, 0);
    }
    world.now = honest + 3600;
    world.observe();
    let desk = world.desk();
    let history = history::read(desk.view(), &desk.sources[0]).unwrap();
    let received: Vec<i64> = history.links.iter().map(|link| link.snapshot.received).collect();
    assert_eq!(received, [honest + 1, honest + 3600]);
}

#[test]
fn brakes_stop_and_change_nothing_until_accepted() {
    // Four like days, then one of a kind.
    let calm = |rules: &str| {
        let mut world = World::new(rules);
        let a = world.archive(8);
        let mut made = vec![a];
        for _ in 0..3 {
            made.push(world.archive(8));
        }
        let named: Vec<(Made, u8)> = made.iter().map(|made| (*made, 255)).collect();
        for _ in 0..5 {
            world.now += DAY;
            world.commit(&named, 0, 0);
            world.observe();
        }
        (world, named)
    };
    let alarms = |world: &World| {
        let outcome = world.prune(&Options::default());
        outcome.alarms.iter().map(|alarm| alarm.brake).collect::<Vec<_>>()
    };
    let rules = "keep-last = 3\nmax-remove = \"100%\"";
    let (mut world, _) = calm(rules);
    assert_eq!(alarms(&world), []);
    // Nearly everything new, and to other recipients.
    let fresh: Vec<(Made, u8)> = (0..4).map(|_| (world.archive(8), 255)).collect();
    let envelope = World::envelope(&world.card, world.lineage, &world.key, 99);
    world.put(Name::Envelope(SessionId::new(*envelope.digest().as_bytes())), envelope.as_bytes());
    world.envelope = envelope;
    world.commit(&fresh, 0, 0);
    let before = world.prune(&Options { dry_run: true, ..Options::default() }).decisions.len();
    assert_eq!(alarms(&world), [Brake::New, Brake::Recipients]);
    assert_eq!(world.prune(&Options::default()).decisions.len(), before, "nothing was removed");
    let accept = Options { accept: vec![Brake::New, Brake::Recipients], reason: "moved".into(), ..Options::default() };
    assert!(!world.prune(&accept).is_stopped());
    assert_eq!(alarms(&world), []);

    // A month of it does not make it usual: everything since the last run is weighed.
    let (mut world, _) = calm(rules);
    assert_eq!(alarms(&world), []);
    let fresh: Vec<(Made, u8)> = (0..4).map(|_| (world.archive(8), 255)).collect();
    for _ in 0..30 {
        world.now += DAY;
        world.commit(&fresh, 0, 0);
    }
    assert_eq!(alarms(&world), [Brake::New]);

    let (mut world, named) = calm(rules);
    world.commit(&named[..1], 0, 0);
    assert_eq!(alarms(&world), [Brake::Shrink]);
    for _ in 0..9 {
        world.now += DAY;
        world.commit(&named[..1], 0, 0);
    }
    let outcome = world.prune(&Options::default());
    assert_eq!(outcome.alarms.len(), 1);
    assert!(outcome.alarms[0].message.contains("more like it"), "{}", outcome.alarms[0].message);

    let (mut world, named) = calm(rules);
    for _ in 0..40 {
        world.commit(&named, 0, 0);
    }
    assert_eq!(alarms(&world), [Brake::Burst]);

    let (mut world, _) = calm(rules);
    world.now -= DAY;
    assert_eq!(alarms(&world), [Brake::Clock]);
    world.now += DAY;
    assert!(alarms(&world).contains(&Brake::Clock), "an observation in between does not make it go away");

    let (world, _) = calm("keep-last = 1\nmax-remove = \"50%\"");
    assert_eq!(alarms(&world), [Brake::Share]);

    let (world, _) = calm(rules);
    world.desk().journal.append(&moment(world.now), Event::Scrubbed(name(), 3)).unwrap();
    assert_eq!(alarms(&world), [Brake::Scrub]);

    // Three times as many blocks: no limit is set, then one.
    for (limit, expected) in
        [("", vec![]), ("\n[alerts]\ngrow = \"400%\"", vec![]), ("\n[alerts]\ngrow = \"250%\"", vec![Brake::Grow])]
    {
        let (mut world, mut named) = calm(&format!("{rules}{limit}"));
        for _ in 0..8 {
            named.push((world.archive(8), 255));
        }
        world.commit(&named, 0, 0);
        assert_eq!(alarms(&world), expected, "{limit}");
        let accept = Options { accept: vec![Brake::Grow], reason: "a new disk".into(), ..Options::default() };
        assert!(!world.prune(&accept).is_stopped());
        assert_eq!(alarms(&world), [], "{limit}");
    }
}

/// Twelve days on which a source pushes some bytes each, an operator who prunes, then one day of its own.
fn flooded(usual: u64, last: u64) -> (Vec<Brake>, World) {
    let mut world = World::new("keep-last = 3\nmax-remove = \"100%\"");
    let push = |world: &mut World, bytes: u64| {
        world.now += DAY;
        let made = world.archive(1);
        let number = ArchiveNumber::new(made.number).unwrap();
        let path = world.layout.object(&name(), &Name::Archive(world.lineage, number));
        // Only its size counts, and holes cost nothing.
        let grown = path.with_extension("grown");
        std::fs::copy(&path, &grown).unwrap();
        std::fs::set_permissions(&grown, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::File::options().write(true).open(&grown).unwrap().set_len(bytes).unwrap();
        std::fs::rename(&grown, &path).unwrap();
        world.observe();
    };
    for _ in 0..12 {
        push(&mut world, usual);
    }
    assert!(!world.prune(&Options::default()).is_stopped(), "the usual is no flood");
    push(&mut world, last);
    let outcome = world.prune(&Options::default());
    (outcome.alarms.iter().map(|alarm| alarm.brake).collect(), world)
}

#[test]
fn a_flood_of_bytes_stops() {
    const MIB: u64 = 1 << 20;
    assert_eq!(flooded(10 * MIB, 1000 * MIB).0, [], "less than a GiB is no flood");
    assert_eq!(flooded(1000 * MIB, 7000 * MIB).0, [], "not eight times the usual");
    let (alarms, world) = flooded(10 * MIB, 1100 * MIB);
    assert_eq!(alarms, [Brake::Flood]);
    assert!(world.prune(&Options::default()).is_stopped(), "it does not go away by itself");
    let accept = Options { accept: vec![Brake::Flood], reason: "a new disk".into(), ..Options::default() };
    assert!(!world.prune(&accept).is_stopped());
    assert!(!world.prune(&Options::default()).is_stopped());
}

#[test]
fn a_rollback_of_heads_or_journal_stops() {
    let Story { mut world, done, archives } = story();
    world.prune(&Options::default());
    world.now += DAY;
    let before = std::fs::read(world.layout.journal_log()).unwrap();
    world.config = Config::parse("config-version = 1\n[defaults.retention]\nkeep-last = 9").unwrap();
    world.observe();
    world.now += 60;
    let last = world.commit(&[(archives[0], 1)], 0, 0);
    world.observe();
    assert!(!world.prune(&Options::default()).is_stopped());
    let whole = std::fs::read(world.layout.journal_log()).unwrap();
    std::fs::write(world.layout.journal_log(), &before).unwrap();
    let outcome = world.prune(&Options::default());
    assert_eq!(outcome.alarms.iter().map(|a| a.brake).collect::<Vec<_>>(), [Brake::Rollback]);
    std::fs::write(world.layout.journal_log(), whole).unwrap();
    assert!(!world.prune(&Options::default()).is_stopped());
    std::fs::remove_file(world.layout.object(&name(), &Name::Head(world.lineage, last.sequence))).unwrap();
    assert_eq!(world.prune(&Options::default()).alarms[0].brake, Brake::Rollback);
    assert!(world.is_here(&done[1]));
}

#[test]
fn a_head_that_cannot_be_read_hides_no_later_snapshot() {
    for tail in [false, true] {
        let Story { mut world, archives, .. } = story();
        world.prune(&Options::default());
        world.config = Config::parse("config-version = 1\n[defaults.retention]\nkeep-last = 9").unwrap();
        // One head rots before anything has looked at it; two more follow, or none.
        let mut named = vec![(archives[0], 1)];
        let rotten = world.commit(&named, 0, 0);
        let mut later = Vec::new();
        while !tail && later.len() < 2 {
            named.push((world.archive(1), 1));
            later.push(world.commit(&named, 0, 0));
        }
        let path = world.layout.object(&name(), &Name::Head(world.lineage, rotten.sequence));
        let whole = std::fs::read(&path).unwrap();
        durable::replace(&path, &[&whole[..90], &[0; 9], &whole[99..]].concat(), 0o440).unwrap();
        assert_eq!(world.prune(&Options::default()).alarms[0].brake, Brake::Rollback);
        // Time enough to forget every body without a head, and later than the rotten file by any clock.
        world.now = world.now.max(shared::sys::Clock::now(&shared::sys::SystemClock)) + DAY;
        let accept = Options { accept: Brake::ALL.to_vec(), reason: "the disk".into(), ..Options::default() };
        world.prune(&accept);
        for _ in 0..4 {
            world.now += 9 * DAY;
            let outcome = world.prune(&Options { now: true, ..Options::default() });
            assert!(!outcome.is_stopped(), "accepted once: {:?}", outcome.alarms);
            for one in later.iter().chain([&rotten]) {
                assert!(world.is_here(one), "{}", one.sequence);
            }
        }
        if !tail {
            // The later ones are under the rules like any other.
            world.config =
                Config::parse("config-version = 1\n[defaults.retention]\nkeep-last = 1\nmax-remove = '100%'").unwrap();
            world.prune(&Options::default());
            assert!(!world.is_here(&later[0]) && world.is_here(&later[1]) && world.is_here(&rotten));
        }
        // The head comes back, from another sink: it is a snapshot again.
        durable::replace(&path, &whole, 0o440).unwrap();
        world.now += DAY;
        world.observe();
        let desk = world.desk();
        let history = history::read(desk.view(), &desk.sources[0]).unwrap();
        assert!(history.is_whole() && history.links.iter().any(|link| link.body == rotten.body));
    }
}

#[test]
fn a_head_that_does_not_follow_stops() {
    let Story { mut world, archives, .. } = story();
    world.prune(&Options::default());
    world.head = world.head.map(|(sequence, _)| (sequence, Digest::of(b"another history")));
    let other = world.commit(&[(archives[0], 1)], 0, 0);
    assert_eq!(world.prune(&Options::default()).alarms[0].brake, Brake::Rollback);
    assert!(world.is_here(&other));
}

/// A year of an honest source that is taken over on some day, under an operator who accepts every alarm.
fn year(seed: u64) {
    let rules = "keep-within = \"30d\"\nmin-age = \"20d\"\nkeep-daily = 40\nkeep-monthly = 14\nmax-remove = \"100%\"";
    let mut world = World::new(rules);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = move |end: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % end
    };
    let takeover = 100 + below(200);
    let mut desk_now = world.now;
    let (mut honest, mut held): (Vec<SnapshotDone>, Vec<(Made, u8)>) = (Vec::new(), Vec::new());
    for day in 0..365u64 {
        desk_now += DAY;
        world.now = desk_now - DAY / 2;
        if day < takeover {
            let made = world.archive(2);
            held.push((made, 0b11));
            if held.len() > 6 {
                held.remove(below(6) as usize);
            }
            let (named, created) = (held.clone(), world.now);
            honest.push(world.commit(&named, 0, created));
        } else {
            match below(8) {
                0 => {}
                1 => {
                    for _ in 0..below(20) {
                        let junk = world.archive(1);
                        world.commit(&[(junk, 1)], below(3) as u8, below(1 << 40) as i64);
                    }
                }
                _ => {
                    let junk = world.archive(1);
                    let created = below(1 << 40) as i64 - (1 << 39);
                    world.commit(&[(junk, 1)], (below(4) == 0) as u8, created);
                }
            }
        }
        world.now = desk_now;
        if day % 15 != 14 {
            continue;
        }
        world.prune(&all());
        let month = |at: i64| jiff::Timestamp::from_second(at).unwrap().to_string()[..7].to_owned();
        for (at, one) in honest.iter().enumerate() {
            let young = world.now - one.received < 30 * DAY;
            let first_of_month = at == 0 || month(honest[at - 1].received) != month(one.received);
            assert!(
                world.is_here(one) || !(young || first_of_month),
                "seed {seed}, day {day}: {} is gone",
                one.sequence
            );
        }
    }
    assert!(honest.iter().any(|one| !world.is_here(one)), "something was removed at all");
    world.is_whole(&format!("seed {seed}"));
}

#[test]
fn a_year_with_a_takeover_loses_no_promised_snapshot() {
    for seed in 1..=3 {
        year(seed);
    }
}

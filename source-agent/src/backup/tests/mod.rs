//! The whole way against sinks in memory; what arrived is opened with an identity and compared with the files.

mod ahead;
mod attributes;
mod healing;
mod hostile;
mod laying;
mod linked;
mod memory_sink;
mod once;
mod opened;
mod trips;

use super::push::Dial;
use super::*;
use crate::config::{Age, Compression, OnUnreadable, SetOptions};
use crate::crypto::identity::Identity;
use crate::report::Exit;
use memory_sink::MemorySink;
use opened::{Found, open_newest};
use parking_lot::Mutex;
use shared::format::Kem;
use shared::sys::SystemClock;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub(super) struct World {
    pub dir: tempfile::TempDir,
    pub identity: Identity,
    pub sinks: Vec<Arc<MemorySink>>,
    force: bool,
    skip_if_unchanged: bool,
    checkpoint_bytes: u64,
    exclude: Vec<String>,
    on_unreadable: OnUnreadable,
    pub warnings: Arc<Mutex<Vec<String>>>,
}

pub(super) const LINEAGE: Lineage = Lineage::new([2; 16]);
pub(super) const SOURCE: SourceId = SourceId::new([1; 32]);

fn signing() -> SigningKey {
    SigningKey::from_seed(&[8; 32])
}

impl World {
    fn new(sinks: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["state", "cache", "data"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let sinks = (0..sinks).map(|at| Arc::new(MemorySink::new(at))).collect();
        Self {
            dir,
            identity: Identity::from_seed(&[5; 32]),
            sinks,
            force: false,
            skip_if_unchanged: false,
            checkpoint_bytes: u64::MAX,
            exclude: Vec::new(),
            on_unreadable: OnUnreadable::Warn,
            warnings: Arc::default(),
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.data().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn env(&self) -> Env {
        let warnings = Arc::clone(&self.warnings);
        let cache_dir = self.dir.path().join("cache");
        let (index, _) = Index::open(&cache_dir, &SOURCE, &LINEAGE).unwrap();
        let remotes = self.sinks.iter().map(|sink| RemotePlan {
            dial: Arc::clone(sink) as Arc<dyn Dial>,
            key: sink.key.verify_key(),
            limits: Vec::new(),
            progress: Progress::hidden(),
        });
        Env {
            source: SOURCE,
            lineage: LINEAGE,
            signing: Arc::new(signing()),
            secret: SourceSecret::from_bytes(&[3; 32]),
            recipients: vec![self.identity.recipient(Kem::X25519)],
            state_dir: self.dir.path().join("state"),
            cache_dir,
            index: Arc::new(index),
            remotes: remotes.collect(),
            heads: Vec::new(),
            retry: Retry { attempts: 2, max_wait: Age::from_secs(0) },
            read_concurrency: Some(3),
            host: "host".into(),
            clock: Arc::new(SystemClock),
            force: self.force,
            dry: false,
            skip_if_unchanged: self.skip_if_unchanged,
            archive_bytes: 1 << 20,
            budget_bytes: 0,
            checkpoint_every: Duration::from_secs(3600),
            checkpoint_bytes: self.checkpoint_bytes,
            heal_read_bytes: heal::READ_BYTES,
            progress: Box::new(|_| Progress::hidden()),
            told: Box::new(|_| {}),
            warned: Box::new(move |line| warnings.lock().push(line.to_owned())),
            on_exclude: None,
        }
    }

    fn set(&self) -> SetPlan {
        let options = SetOptions {
            exclude: self.exclude.clone(),
            exclude_file: Vec::new(),
            exclude_if_present: vec![".nobackup".into()],
            exclude_caches: true,
            exclude_larger_than: None,
            one_file_system: true,
            xattrs: true,
            compression: Compression::Fast,
            on_unreadable: self.on_unreadable,
            min_interval: None,
        };
        let input = Input::Paths(vec![self.data()]);
        SetPlan { name: "data".into(), series: "data".into(), input, tags: vec!["t".into()], options }
    }

    fn run(&self) -> Report {
        run(&mut self.env(), &[self.set()]).unwrap()
    }

    /// Runs, and checks on every sink that the newest snapshot is what the files are.
    fn run_and_check(&self) -> Report {
        let report = self.run();
        assert!(report.failure.is_none(), "{}", report.failure.unwrap());
        let wanted = self.wanted();
        for (at, _) in &report.sets[0].snapshots {
            let found = open_newest(&self.sinks[*at], &self.identity);
            let below = format!("{}/", self.data().display());
            let inside: BTreeMap<String, Found> = found
                .into_iter()
                .filter_map(|(path, found)| Some((path.strip_prefix(&below)?.to_owned(), found)))
                .collect();
            assert_eq!(inside.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "names at sink {at}");
            for (path, found) in &inside {
                assert!(*found == wanted[path], "{path} at sink {at}");
            }
        }
        report
    }

    fn wanted(&self) -> BTreeMap<String, Found> {
        let mut wanted = BTreeMap::new();
        collect(&self.data(), "", &mut wanted);
        wanted
    }

    fn lose_cache(&self) {
        std::fs::remove_dir_all(self.dir.path().join("cache")).unwrap();
        std::fs::create_dir(self.dir.path().join("cache")).unwrap();
    }
}

fn collect(dir: &Path, prefix: &str, into: &mut BTreeMap<String, Found>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            into.insert(name.clone(), Found::Directory);
            collect(&entry.path(), &format!("{name}/"), into);
        } else if kind.is_symlink() {
            let target = std::fs::read_link(entry.path()).unwrap();
            into.insert(name, Found::Link(target.to_string_lossy().into_owned()));
        } else {
            into.insert(name, Found::File(std::fs::read(entry.path()).unwrap()));
        }
    }
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        out.extend_from_slice(&(state >> 7).to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// What a run may send again grows with what the last snapshot held.
#[test]
fn the_size_of_a_snapshot_is_noted_for_repacking() {
    let world = World::new(1);
    world.write("big", &noise(3 << 20, 1));
    world.write("small", b"hello");
    world.run_and_check();
    let series = world.env().secret.series("data");
    let index = crate::index::series::SeriesIndex::open(&world.dir.path().join("cache"), &SOURCE, &LINEAGE, &series);
    assert_eq!(set::noted_number(&index.unwrap(), set::BYTES_NOTE).unwrap(), (3 << 20) + 5);
    assert_eq!([0, 1 << 40].map(repack::budget), [64 << 20, (1 << 40) / 20]);
}

#[test]
fn what_arrives_is_what_was_there() {
    let world = World::new(2);
    world.write("small", b"hello");
    world.write("empty", b"");
    world.write("big", &noise(5 << 20, 1));
    world.write("deep/er/file", &noise(100_000, 2));
    for at in 0..900 {
        world.write(&format!("many/{at:04}"), format!("file {at}").as_bytes());
    }
    std::os::unix::fs::symlink("no/where", world.data().join("link")).unwrap();
    std::fs::hard_link(world.data().join("big"), world.data().join("hard")).unwrap();
    let report = world.run_and_check();
    assert_eq!(report.sets[0].snapshots.len(), 2);
    // Nothing changed: nothing is read, laid or sent but the head and its body.
    age(&world);
    world.run_and_check();
    // A name beside the data changes the times of a directory on the way, and nothing else.
    std::fs::write(world.dir.path().join("beside"), b"x").unwrap();
    let archives = world.sinks[0].archives();
    let report = world.run_and_check();
    assert_eq!(report.sets[0].met.bytes_read.get(), 0);
    assert_eq!(report.sets[0].met.chunks_new.get(), 0);
    assert_eq!(world.sinks[0].archives(), archives);
}

/// Makes the files older than the moment in which times cannot be trusted.
fn age(world: &World) {
    std::thread::sleep(Duration::from_millis(2100));
    let _ = world;
}

#[test]
fn sparse_files_and_images_keep_their_holes() {
    let world = World::new(1);
    let mut file = std::fs::File::create(world.data().join("disk.img")).unwrap();
    use std::io::{Seek, SeekFrom, Write};
    file.set_len(9 << 20).unwrap();
    file.write_all(&noise(50_000, 3)).unwrap();
    file.seek(SeekFrom::Start(5 << 20)).unwrap();
    file.write_all(&noise(300_000, 4)).unwrap();
    drop(file);
    let mut plain = vec![0; 3 << 20];
    plain[2_000_000] = 7;
    world.write("zeros", &plain);
    let report = world.run_and_check();
    assert!(report.sets[0].met.bytes_new.get() < 3_600_000, "{}", report.sets[0].met.bytes_new.get());
}

#[test]
fn a_lost_index_is_made_again_and_nothing_is_sent_twice() {
    let world = World::new(1);
    world.write("a", &noise(3 << 20, 5));
    world.write("d/b", &noise(200_000, 6));
    world.run_and_check();
    world.lose_cache();
    let report = world.run_and_check();
    assert!(report.sets[0].met.bytes_read.get() > 3 << 20);
    assert!(report.sets[0].met.bytes_new.get() < 10_000, "{}", report.sets[0].met.bytes_new.get());
    // Damaged instead of lost.
    std::fs::write(world.dir.path().join("cache/index.sqlite"), noise(100_000, 7)).unwrap();
    let report = world.run_and_check();
    assert!(report.sets[0].met.bytes_new.get() < 10_000);
}

#[test]
fn a_remote_that_was_away_catches_up() {
    let world = World::new(2);
    world.write("a", &noise(2 << 20, 8));
    world.run_and_check();
    world.write("b", &noise(1 << 20, 9));
    world.sinks[1].set_down(true);
    let report = world.run_and_check();
    assert_eq!(report.sets[0].snapshots.len(), 1);
    assert_eq!(report.remotes[1].failure.as_ref().unwrap().exit, Exit::Unreachable);
    world.sinks[1].set_down(false);
    let report = world.run_and_check();
    assert_eq!(report.sets[0].snapshots.len(), 2);
    assert!(report.remotes.iter().all(|remote| remote.failure.is_none()));
}

#[test]
fn a_cut_line_is_joined_again() {
    let world = World::new(1);
    for at in 0..12 {
        world.write(&format!("f{at}"), &noise(900_000, 20 + at));
    }
    world.sinks[0].cut_after_archives(3);
    world.run_and_check();
    assert!(world.sinks[0].connections() >= 2);
    // And between head and receipt.
    world.write("more", b"more");
    world.sinks[0].cut_before_receipt();
    let report = world.run_and_check();
    assert!(report.remotes[0].failure.is_none());
}

#[test]
fn archives_that_a_sink_lost_are_sent_again() {
    let world = World::new(2);
    world.write("a", &noise(3 << 20, 40));
    world.write("b", &noise(100_000, 41));
    world.run_and_check();
    age(&world);
    world.run_and_check();
    // Lost without a word: neither list nor journal says so, the answer to the body does.
    world.sinks[1].lose_archive(0);
    let report = world.run_and_check();
    assert_eq!(report.sets[0].snapshots.len(), 2);
    // One sink has the tree of the first pass, the other that of the second: each is remembered for what it is.
    let (cache_dir, secret) = (world.dir.path().join("cache"), SourceSecret::from_bytes(&[3; 32]));
    let series = index::series::SeriesIndex::open(&cache_dir, &SOURCE, &LINEAGE, &secret.series("data")).unwrap();
    let note = |at: usize| series.note(&format!("committed-{}", world.sinks[at].key.verify_key())).unwrap().unwrap();
    assert_ne!(note(0), note(1));
    drop(series);
    let report = world.run_and_check();
    assert_eq!(report.sets[0].met.bytes_read.get(), 0);
}

#[test]
fn checkpoints_protect_a_long_run() {
    let mut world = World::new(1);
    world.checkpoint_bytes = 1 << 20;
    let mut set = world.set();
    let script = "for i in 1 2 3 4 5 6; do head -c 3000000 /dev/urandom; sleep 0.2; done";
    let from = stream::From::Command(["sh", "-c", script].map(str::to_owned).to_vec());
    set.input = Input::Stream { from, name: "long".into() };
    assert!(run(&mut world.env(), &[set]).unwrap().failure.is_none());
    assert!(world.sinks[0].checkpoints() >= 1);
    let found = open_newest(&world.sinks[0], &world.identity);
    assert!(matches!(&found["/long"], Found::File(bytes) if bytes.len() == 18_000_000));
}

#[test]
fn unreadable_and_excluded_are_outcomes() {
    let mut world = World::new(1);
    world.exclude = vec!["*.tmp".into()];
    world.write("keep", b"1");
    world.write("gone.tmp", b"2");
    world.write("cache/CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55\n");
    world.write("cache/x", b"3");
    world.write("marked/.nobackup", b"");
    world.write("marked/x", b"4");
    let report = world.run();
    let found = open_newest(&world.sinks[0], &world.identity);
    let below = format!("{}/", world.data().display());
    let names: Vec<&str> = found.keys().filter_map(|path| path.strip_prefix(&below)).collect();
    assert_eq!(names, ["cache", "cache/CACHEDIR.TAG", "keep", "marked", "marked/.nobackup"]);
    assert!(!report.sets[0].incomplete);
    if rustix::process::geteuid().is_root() {
        return;
    }
    let secret = world.data().join("keep");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o0)).unwrap();
    assert!(world.run().sets[0].incomplete);
    world.on_unreadable = OnUnreadable::Fail;
    assert_eq!(world.run().failure.unwrap().code, "unreadable");
}

#[test]
fn a_named_path_that_is_missing_is_told() {
    let world = World::new(1);
    world.write("a", b"1");
    let mut set = world.set();
    set.input = Input::Paths(vec![world.data().join("a"), world.data().join("missing")]);
    let report = run(&mut world.env(), &[set]).unwrap();
    assert!(report.sets[0].incomplete);
    assert_eq!(report.sets[0].met.unreadable.count(), 1);
    assert!(world.sinks[0].newest().unwrap().is_incomplete());
}

#[test]
fn an_unchanged_run_can_be_skipped() {
    let mut world = World::new(1);
    world.write("a", b"1");
    world.run_and_check();
    world.skip_if_unchanged = true;
    let heads = world.sinks[0].heads();
    assert!(world.run().sets[0].unchanged);
    assert_eq!(world.sinks[0].heads(), heads);
    world.write("a", b"2");
    assert!(!world.run().sets[0].unchanged);
    assert_eq!(world.sinks[0].heads(), heads + 1);
}

#[test]
fn a_command_that_fails_makes_no_snapshot() {
    let world = World::new(1);
    let mut set = world.set();
    let argv = |script: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
    let from = stream::From::Command(argv("echo half; exit 3"));
    set.input = Input::Stream { from, name: "all.sql".into() };
    let report = run(&mut world.env(), &[set.clone()]).unwrap();
    assert_eq!(report.failure.unwrap().code, "command");
    assert!(world.sinks[0].newest().is_none());
    let from = stream::From::Command(argv("echo whole"));
    set.input = Input::Stream { from, name: "all.sql".into() };
    assert!(run(&mut world.env(), &[set]).unwrap().failure.is_none());
    let found = open_newest(&world.sinks[0], &world.identity);
    assert_eq!(found, BTreeMap::from([("/all.sql".to_owned(), Found::File(b"whole\n".to_vec()))]));
}

#[test]
fn a_sink_set_back_is_an_alarm() {
    let world = World::new(1);
    world.write("a", b"1");
    world.run_and_check();
    world.write("b", b"2");
    let before = world.sinks[0].copy();
    world.run_and_check();
    world.sinks[0].set_back(before);
    let archives = world.sinks[0].archives();
    let report = world.run();
    assert_eq!(report.failure.unwrap().exit, Exit::Tampered);
    assert_eq!(world.sinks[0].archives(), archives, "nothing is sent after an alarm");
}

/// Random changes, remotes that come and go, caches that get lost: each time every sink has what the files are, and the
/// live blocks that the pages name are just those that the tree refers to.
#[test]
fn random_histories() {
    let world = World::new(2);
    let mut state = 12345u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    for step in 0..14u64 {
        for change in 0..6 {
            let name = format!("d{}/e{}/f{}", next(3), next(2), next(6));
            match next(6) {
                0 => drop(std::fs::remove_file(world.data().join(&name))),
                1 => drop(std::fs::remove_dir_all(world.data().join(format!("d{}", next(3))))),
                _ => {
                    // A name may be a directory's child one time and gone the next.
                    world.write(&name, &noise(next(400_000) as usize, step * 100 + change));
                }
            }
        }
        match next(5) {
            0 => world.lose_cache(),
            1 => world.sinks[1].set_down(true),
            _ => world.sinks[1].set_down(false),
        }
        if next(4) == 0 {
            world.sinks[0].cut_after_archives(1);
        }
        let report = world.run_and_check();
        assert!(!report.sets[0].snapshots.is_empty());
    }
}

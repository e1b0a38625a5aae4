//! Names of one file whose way through the readers is laid step by step: what each gets is what the file was.

use super::super::budget::Budget;
use super::super::chunk::Cutter;
use super::super::flights::Flights;
use super::super::lay::Layer;
use super::super::links::{Links, Turn};
use super::super::meta;
use super::super::numbers::Numbers;
use super::super::outcome::Met;
use super::super::read::{ReadShared, Reader};
use super::super::stop::Stop;
use super::super::store::{LoadedOnce, Shared, Store};
use super::super::tree::{Dir, Output, Own, TreeChange, release};
use super::super::users::Users;
use super::super::walk::ReadJob;
use super::*;
use crate::index::record;
use crate::tree::{Entry, Extent};
use crossbeam_channel::unbounded;
use rustix::fs::{AtFlags, Mode, OFlags, statat};
use std::collections::HashSet;

const OLD: &[u8] = b"what the file was at first";
const NEW: &[u8] = b"another file with the same number";

/// Content of each name that came out: the chunk's id and the bytes.
type Names = BTreeMap<String, (shared::id::ChunkId, u64)>;

/// A directory with the names `a`, `b` and `c` of one file, looked at. `steps` reads them; returns what each became.
fn read_names(steps: impl FnOnce(&World, &Links, &mut dyn FnMut(ReadJob), Vec<ReadJob>)) -> (Names, Arc<Met>) {
    let world = World::new(0);
    world.write("a", OLD);
    for name in ["b", "c"] {
        std::fs::hard_link(world.data().join("a"), world.data().join(name)).unwrap();
    }
    let env = world.env();
    let (budget, met) = (Budget::new(0), Arc::new(Met::default()));
    let stop = Arc::new(Stop::new(Arc::clone(&budget)));
    let (flights, (jobs, _to_seal)) = (Arc::new(Flights::default()), unbounded());
    let numbers = Arc::new(Mutex::new(Numbers::open(&env.state_dir, 0).unwrap()));
    let shared = Shared {
        index: &env.index,
        layer: Layer::new(numbers, Arc::clone(&flights), jobs, env.archive_bytes),
        flights,
        everywhere: Arc::default(),
        sparse: HashSet::new(),
        namer: env.secret.chunk_namer(&LINEAGE),
        budget,
        stop: Arc::clone(&stop),
        met: Arc::clone(&met),
        filter: LoadedOnce::default(),
    };
    let (changes, changed) = unbounded();
    let (output, links, users) = (Output::new(changes), Links::default(), Users::read());
    let (cutter, progress) = (Cutter::new(env.secret.gear(&LINEAGE)), Progress::hidden());
    let read = ReadShared {
        cutter: &cutter,
        links: &links,
        users: &users,
        output: &output,
        xattrs: true,
        progress: &progress,
    };
    let mut reader = Reader::new(&read, Store::new(&shared));

    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = Arc::new(rustix::fs::open(world.data(), flags, Mode::empty()).unwrap());
    let stat = meta::stat_key(&rustix::fs::fstat(&fd).unwrap());
    let own = Own { name: b"data".to_vec(), stat, trusted: true, kept: None, fresh: None };
    let dir = Dir::new(b"/data".to_vec(), None, own, None, vec![None, None, None], true);
    let look = |(slot, name): (usize, &str)| ReadJob {
        dir: Arc::clone(&dir),
        slot,
        fd: Arc::clone(&fd),
        name: name.into(),
        stat: statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW).unwrap(),
        file_system: 1,
        device: false,
        is_new: true,
    };
    let jobs = ["a", "b", "c"].into_iter().enumerate().map(look).collect();
    let mut run = |job: ReadJob| {
        let (sender, receiver) = unbounded();
        sender.send(job).unwrap();
        drop(sender);
        reader.run(&receiver);
    };
    steps(&world, &links, &mut run, jobs);
    stop.check().unwrap();
    release(&dir, &mut Store::new(&shared), &output).unwrap();
    let Ok(TreeChange::Put { row, .. }) = changed.try_recv() else { panic!("the directory is not whole") };
    let records = record::read_all(&row.records).unwrap();
    let names = records.iter().map(|record| {
        let entry: Entry = minicbor::decode(record.entry).unwrap();
        let Some(Extent::Chunk(chunk)) = entry.extents.as_ref().and_then(|all| all.first()) else {
            panic!("no content")
        };
        (String::from_utf8_lossy(record.name).into_owned(), (chunk.id, entry.size))
    });
    (names.collect(), met)
}

fn content(bytes: &[u8]) -> (shared::id::ChunkId, u64) {
    let namer = SourceSecret::from_bytes(&[3; 32]).chunk_namer(&LINEAGE);
    (namer.name(bytes), bytes.len() as u64)
}

fn wanted(names: &[(&str, &[u8])]) -> Names {
    names.iter().map(|(name, bytes)| ((*name).to_owned(), content(bytes))).collect()
}

/// Looks at a name once more.
fn again(job: &mut ReadJob) {
    job.stat = statat(&job.fd, &job.name[..], AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn names_of_one_file_take_what_the_first_brought() {
    let (names, met) = read_names(|_, _, run, jobs| jobs.into_iter().for_each(run));
    assert_eq!(names, wanted(&[("a", OLD), ("b", OLD), ("c", OLD)]));
    assert_eq!(met.bytes_read.get(), OLD.len() as u64);
}

#[test]
fn an_inode_number_that_is_used_again_is_another_file() {
    let (names, _) = read_names(|world, _, run, jobs| {
        let [a, mut b, mut c] = <[ReadJob; 3]>::try_from(jobs).ok().unwrap();
        run(a);
        // The same device and inode number, another content: as if the file had gone and a new one had got its number.
        world.write("b", NEW);
        again(&mut b);
        again(&mut c);
        run(b);
        run(c);
    });
    assert_eq!(names, wanted(&[("a", OLD), ("b", NEW), ("c", NEW)]));
}

#[test]
fn what_was_opened_in_place_of_a_name_is_for_that_name_alone() {
    let (names, _) = read_names(|world, _, run, jobs| {
        world.write("new", NEW);
        std::fs::rename(world.data().join("new"), world.data().join("a")).unwrap();
        jobs.into_iter().for_each(run);
    });
    assert_eq!(names, wanted(&[("a", NEW), ("b", OLD), ("c", OLD)]));
}

#[test]
fn a_name_that_vanishes_takes_no_other_with_it() {
    let (names, met) = read_names(|world, _, run, jobs| {
        std::fs::remove_file(world.data().join("a")).unwrap();
        jobs.into_iter().for_each(run);
    });
    assert_eq!(names, wanted(&[("b", OLD), ("c", OLD)]));
    assert_eq!((met.vanished.count(), met.unreadable.count()), (1, 0));
}

#[test]
fn names_that_wait_for_one_that_vanishes_are_read() {
    let (names, met) = read_names(|world, links, run, mut jobs| {
        let a = jobs.remove(0);
        let Turn::First(a) = links.turn(a) else { panic!("it is the first") };
        // Another thread has begun with `a`: the others wait, and come back when it turns out to be gone.
        jobs.into_iter().for_each(&mut *run);
        std::fs::remove_file(world.data().join("a")).unwrap();
        let waiting = links.done(&a, None);
        assert_eq!(waiting.len(), 2);
        waiting.into_iter().chain([a]).for_each(run);
    });
    assert_eq!(names, wanted(&[("b", OLD), ("c", OLD)]));
    assert_eq!((met.vanished.count(), met.unreadable.count()), (1, 0));
}

//! Inside: what must be refused, with which errors, and what must still work.

use crate::attacks::{self, Scene, everywhere, link, open, readable_outside};
use crate::raw::{call, text};
use crate::scene::{OTHER, OWN};
use remote_sink::confine::{self, Committer, Reach, Staging};
use remote_sink::serve::{self, Confinement, Limits, ServeOptions};
use remote_sink::store::{Directory, Name, Placed, Shelf, Staged, Store, StoreError, Stored, names, read_whole};
use rustix::process::Pid;
use shared::id::{Digest, Lineage};
use shared::sys::SystemClock;
use shared::wire::Role;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

const EPERM: &[i32] = &[libc::EPERM];
const EACCES: &[i32] = &[libc::EACCES];
/// By the filter, or by the rules.
const EITHER: &[i32] = &[libc::EPERM, libc::EACCES];
/// A link whose file would gain a right on its way, or leaves what may be reached.
const NO_LINK: &[i32] = &[libc::EACCES, libc::EXDEV];

/// Counts what was not as it must be.
#[derive(Default)]
struct Judge {
    wrong: AtomicUsize,
    done: AtomicUsize,
}

impl Judge {
    fn refused(&self, what: &str, answer: io::Result<i64>, errors: &[i32]) {
        self.done.fetch_add(1, Relaxed);
        let code = answer.as_ref().err().and_then(io::Error::raw_os_error);
        if !code.is_some_and(|code| errors.contains(&code)) {
            self.wrong.fetch_add(1, Relaxed);
            println!("  NOT refused: {what}: {answer:?}");
        }
    }
    fn works<T, E: std::fmt::Debug>(&self, what: &str, answer: Result<T, E>) -> Option<T> {
        self.done.fetch_add(1, Relaxed);
        answer
            .inspect_err(|error| {
                self.wrong.fetch_add(1, Relaxed);
                println!("  does not work: {what}: {error:?}");
            })
            .ok()
    }
    fn holds(&self, what: &str, is_so: bool) {
        self.works(what, is_so.then_some(()).ok_or("it is not so"));
    }
}

pub fn run(arguments: &[String]) -> ExitCode {
    let [case, dir, port] = arguments else { return ExitCode::FAILURE };
    let (dir, judge) = (Path::new(dir), Judge::default());
    let scene = Scene {
        vault: dir.join("vault"),
        own: dir.join("vault").join(OWN),
        other: dir.join("vault").join(OTHER),
        outside: dir.join("outside"),
        socket: dir.join("socket"),
        port: port.parse().unwrap_or(0),
        victim: rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get().into()),
    };
    match case.as_str() {
        "receiver" => receiver(&judge, &scene),
        "push" => push(&judge, &scene),
        "read" => read(&judge, &scene),
        "named" => named(&judge, &scene),
        "waived" => waived(&judge, &scene),
        "kernels" => kernels(&judge, &scene),
        other => println!("no such case: {other}"),
    }
    println!("  {case}: {} checks, {} wrong", judge.done.load(Relaxed), judge.wrong.load(Relaxed));
    if judge.wrong.load(Relaxed) == 0 && judge.done.load(Relaxed) > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// In the place of a session's receiver: it waits for its input to end.
fn helper(judge: &Judge) -> Option<(Child, Pid)> {
    let child = Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let child = judge.works("start the receiver", child)?;
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw)?;
    Some((child, id))
}

fn options(scene: &Scene, name: &str, role: Role) -> ServeOptions {
    let source = name.parse().expect("a name");
    ServeOptions { root: scene.vault.clone(), source, role, limits: Limits::default(), binding: Vec::new() }
}

/// What no process of a session can do.
fn no_way_out(judge: &Judge, scene: &Scene, opening: &[i32]) {
    for (what, attack) in everywhere(scene) {
        judge.refused(what, attack(), EPERM);
    }
    judge.refused("clone3", call(libc::SYS_clone3, [attacks::zeros(), 88]), &[libc::ENOSYS]);
    for path in readable_outside(scene) {
        judge.refused(&format!("read {}", path.display()), open(&path, libc::O_RDONLY), opening);
        judge.refused(&format!("write {}", path.display()), open(&path, libc::O_WRONLY), EPERM);
    }
    judge.refused("connect to a socket outside", connect(scene), EPERM);
    judge.refused("connect by TCP", io_of(std::net::TcpStream::connect(("127.0.0.1", scene.port))), EPERM);
    judge.refused("start a program", io_of(Command::new("/bin/true").status()), EITHER);
    let thread = std::thread::Builder::new().spawn(|| vec![1u8; 8 << 20].len());
    let thread = judge.works("start a thread", thread).and_then(|thread| thread.join().ok());
    judge.holds("a thread runs", thread == Some(8 << 20));
    judge.holds("random numbers", shared::sys::random::<32>() != [0; 32]);
}

fn io_of<T>(answer: io::Result<T>) -> io::Result<i64> {
    answer.map(|_| 0)
}

fn connect(scene: &Scene) -> io::Result<i64> {
    io_of(std::os::unix::net::UnixStream::connect(&scene.socket))
}

fn receiver(judge: &Judge, scene: &Scene) {
    // Outside these are possible, or their refusal would mean nothing.
    judge.works("connect, before", connect(scene));
    let held = judge.works("open, before", open(&scene.own, libc::O_RDONLY)).unwrap_or(-1);
    judge.works("session", confine::session());
    judge.works("confine", confine::receiver());
    no_way_out(judge, scene, EPERM);
    judge.refused("read an object", open(&scene.own, libc::O_RDONLY), EPERM);
    judge.refused(
        "a file without a name",
        open(scene.vault.join("sources/web1/staging"), libc::O_WRONLY | libc::O_TMPFILE),
        EPERM,
    );
    judge.refused("hard link", link(&scene.own, &scene.own.with_file_name("second"), libc::AT_SYMLINK_FOLLOW), EPERM);
    judge.refused("list", call(libc::SYS_getdents64, [held, attacks::zeros(), 0]), EPERM);
    judge.refused("flock", call(libc::SYS_flock, [held, libc::LOCK_SH.into()]), EPERM);
    judge.refused("sync", call(libc::SYS_fsync, [held]), EPERM);
    judge.refused("wait", call(libc::SYS_wait4, [-1, 0, 0, 0]), EPERM);
}

fn staging(scene: &Scene) -> PathBuf {
    scene.vault.join("sources/web1/staging")
}

fn push(judge: &Judge, scene: &Scene) {
    judge.works("session", confine::session());
    let Some((child, id)) = helper(judge) else { return };
    let options = options(scene, "web1", Role::Push);
    let started = serve::enter(&options, Arc::new(SystemClock), Confinement::Required, id);
    let Some(Some(start)) = judge.works("confine", started).map(|start| judge.works("open", start)) else { return };
    no_way_out(judge, scene, EACCES);
    only_adds(judge, scene);
    let store = start.access.sources.first().map(|source| source.store.clone());
    if let Some(store) = judge.works("own room", store.ok_or("none")) {
        judge.works("objects come into being", publish(judge, &store));
    }
    what_remains(judge, scene);
    kills_its_receiver_alone(judge, child, id);
}

/// Refused to the committer by one layer or the other.
fn only_adds(judge: &Judge, scene: &Scene) {
    let (own, shelf) = (&scene.own, scene.own.parent().expect("a shelf"));
    let remove = |path: &Path| {
        let path = text(path);
        call(libc::SYS_unlinkat, [libc::AT_FDCWD.into(), path.at(), 0])
    };
    judge.refused("unlink", remove(own), EITHER);
    judge.refused("unlink another's", remove(&scene.other), EITHER);
    judge.refused(
        "make an object to write",
        open(shelf.join("new"), libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL),
        EITHER,
    );
    judge.refused("a file without a name on a shelf", open(shelf, libc::O_WRONLY | libc::O_TMPFILE), EITHER);
    judge.refused("a file without a name elsewhere", open("/tmp", libc::O_WRONLY | libc::O_TMPFILE), EITHER);
    judge.refused(
        "a file to read and write without a name",
        open(staging(scene), libc::O_RDWR | libc::O_TMPFILE),
        EPERM,
    );
    let follow = libc::AT_SYMLINK_FOLLOW;
    judge.refused("link from outside", link(&scene.outside, &shelf.join("in"), follow), EITHER_LINK);
    judge.refused("link another's object in", link(&scene.other, &shelf.join("in"), follow), EITHER_LINK);
    judge.refused("link an object out", link(own, &scene.outside.with_file_name("out"), follow), EITHER_LINK);
    judge.refused("link an object where files are written", link(own, &staging(scene).join("in"), follow), EITHER_LINK);
    let held = judge.works("open to read", open(own, libc::O_RDONLY)).unwrap_or(-1);
    let again = PathBuf::from(format!("/proc/self/fd/{held}"));
    judge.refused("open again to write", open(&again, libc::O_WRONLY), EPERM);
    judge.refused("open again to read and write", open(&again, libc::O_RDWR), EPERM);
    judge.refused(
        "write through a descriptor to read",
        call(libc::SYS_write, [held, attacks::zeros(), 1]),
        &[libc::EBADF],
    );
    judge.refused("truncate through it", call(libc::SYS_ftruncate, [held, 0]), EPERM);
    judge.refused("punch through it", call(libc::SYS_fallocate, [held, 3, 0, 4096]), EPERM);
    judge.refused("chmod through it", call(libc::SYS_fchmod, [held, 0]), EPERM);
    judge.refused(
        "map it",
        call(libc::SYS_mmap, [0, 4096, libc::PROT_READ.into(), libc::MAP_PRIVATE.into(), held, 0]),
        EPERM,
    );
}

/// As [`NO_LINK`]; where links by path are not made at all, the filter says so.
const EITHER_LINK: &[i32] = &[libc::EACCES, libc::EXDEV, libc::EPERM];

/// The sequence of every object: stage, write, sync, link, sync the directory; then read, list.
fn publish(judge: &Judge, store: &Directory) -> Result<(), StoreError> {
    let name = Name::Page(Digest::new([9; 32]));
    for expected in [Placed::New, Placed::Existed] {
        let mut staged = store.stage()?;
        staged.append(&vec![5; 9 << 20])?;
        judge.holds("placed", store.put_new(&name, staged)? == expected);
    }
    let read = read_whole(store, &name, 16 << 20)?;
    judge.holds("read back", read.is_some_and(|bytes| bytes == vec![5; 9 << 20]));
    judge.holds("listed", names(store, Shelf::Pages)?.contains(&name));
    judge.holds("a missing one is missing", store.get(&Name::Head(Lineage::new([1; 16]), 5))?.is_none());
    judge.holds("appeared", store.get(&name)?.is_some_and(|stored| stored.appeared() > 0));
    judge.holds("room", store.free()?.bytes > 0);
    Ok(())
}

/// What the threat model says of code in the committer: if this becomes impossible, the document must say so.
fn what_remains(judge: &Judge, scene: &Scene) {
    let shelf = scene.own.parent().expect("a shelf");
    let fd = judge.works("stage", open(staging(scene), libc::O_WRONLY | libc::O_TMPFILE)).unwrap_or(-1);
    let from = PathBuf::from(format!("/proc/self/fd/{fd}"));
    let packs = shelf.with_file_name("packs");
    judge.refused("a pack", link(&from, &packs.join("heads-0000000000000000"), libc::AT_SYMLINK_FOLLOW), EITHER_LINK);
    judge.works("any name", link(&from, &shelf.join("junk"), libc::AT_SYMLINK_FOLLOW));
    judge.works("write on in an own upload", call(libc::SYS_write, [fd, attacks::zeros(), 8]));
    judge.works("a second name", link(&shelf.join("junk"), &shelf.join("second"), libc::AT_SYMLINK_FOLLOW));
    let records = judge.works("its own records", open_room(scene, "records")).unwrap_or(-1);
    judge.works("lock its own", flock(records, libc::LOCK_EX));
    judge.refused("does a path exist", open("/proc/no-such-file", libc::O_RDONLY), &[libc::ENOENT]);
}

fn kills_its_receiver_alone(judge: &Judge, mut child: Child, id: Pid) {
    let id = i64::from(id.as_raw_nonzero().get());
    judge.refused("another signal", call(libc::SYS_kill, [id, libc::SIGSTOP.into()]), EPERM);
    judge.refused("wait for any", call(libc::SYS_wait4, [-1, 0, 1, 0]), EPERM);
    judge.works("end the receiver", child.kill());
    judge.works("wait for it", child.wait());
}

fn read(judge: &Judge, scene: &Scene) {
    judge.works("session", confine::session());
    let Some((child, id)) = helper(judge) else { return };
    let options = options(scene, "laptop", Role::Read);
    let started = serve::enter(&options, Arc::new(SystemClock), Confinement::Required, id);
    let Some(Some(start)) = judge.works("confine", started).map(|start| judge.works("open", start)) else { return };
    no_way_out(judge, scene, EACCES);
    only_adds(judge, scene);
    judge.works("read an object", open(&scene.own, libc::O_RDONLY));
    let staging = scene.vault.join("sources/laptop/staging");
    let fd = judge.works("stage", open(staging, libc::O_WRONLY | libc::O_TMPFILE)).unwrap_or(-1);
    // Places of the sources that it reads: held, they would turn away every session of theirs.
    for taken in LOCKED {
        let held = judge.works("open what sessions lock", open_room(scene, taken)).unwrap_or(-1);
        for how in [libc::LOCK_EX, libc::LOCK_SH, libc::LOCK_UN] {
            judge.refused(taken, flock(held, how), EPERM);
        }
    }
    judge.refused("lock an upload", flock(fd, libc::LOCK_EX), EPERM);
    judge.holds("its own place is held since before", start.slot.is_some());
    let from = PathBuf::from(format!("/proc/self/fd/{fd}"));
    judge.refused("add to a source", link(&from, &scene.own.with_file_name("new"), libc::AT_SYMLINK_FOLLOW), NO_LINK);
    let owner = start.access.owners.values().next().cloned();
    if let Some(store) = judge.works("the owner's room", owner.ok_or("none")) {
        let add = store.stage().and_then(|staged| store.put_new(&Name::Voucher(Digest::new([4; 32])), staged));
        judge.holds("add for the owner", judge.works("put", add) == Some(Placed::New));
    }
    kills_its_receiver_alone(judge, child, id);
}

/// What sessions of a source lock, within its room, as far as a reader reaches it.
const LOCKED: [&str; 3] = ["archives/01", "archives/07", "records"];

fn open_room(scene: &Scene, place: &str) -> io::Result<i64> {
    open(scene.vault.join("sources/web1").join(place), libc::O_RDONLY | libc::O_DIRECTORY)
}

fn flock(fd: i64, how: i32) -> io::Result<i64> {
    call(libc::SYS_flock, [fd, i64::from(how | libc::LOCK_NB)])
}

fn dir(path: &Path) -> OwnedFd {
    std::fs::File::open(path).expect("a directory").into()
}

/// A file system without O_TMPFILE: weaker, and what is weaker is written down here.
fn named(judge: &Judge, scene: &Scene) {
    judge.works("session", confine::session());
    let Some((child, id)) = helper(judge) else { return };
    let shelf = scene.own.parent().expect("a shelf");
    let reach = Reach { staging: Some(Arc::new(dir(&staging(scene)))), takes: vec![dir(shelf)], reads: Vec::new() };
    judge.works(
        "confine",
        confine::committer(&reach, &Committer { staging: Staging::Named, receiver: id, role: Role::Push }),
    );
    no_way_out(judge, scene, EACCES);
    only_adds(judge, scene);
    let name = staging(scene).join("name");
    let fd = judge.works("stage", open(&name, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL)).unwrap_or(-1);
    judge.works("write", call(libc::SYS_write, [fd, attacks::zeros(), 8]));
    judge.works("sync", call(libc::SYS_fsync, [fd]));
    judge.works("link", link(&name, &shelf.join("placed"), 0));
    judge.refused("link again", link(&name, &scene.own, 0), &[libc::EEXIST]);
    let path = text(&name);
    judge.works("remove from staging", call(libc::SYS_unlinkat, [libc::AT_FDCWD.into(), path.at(), 0]));
    judge.works("an empty name stays on the shelf", open(shelf.join("new"), libc::O_RDONLY));
    kills_its_receiver_alone(judge, child, id);
}

/// Without confinement the same attacks succeed: the test can fail.
fn waived(judge: &Judge, scene: &Scene) {
    let Some((mut child, id)) = helper(judge) else { return };
    let options = options(scene, "web1", Role::Push);
    let started = serve::enter(&options, Arc::new(SystemClock), Confinement::Waived, id);
    let start = judge.works("confine", started).map(|start| judge.works("open", start));
    judge.works("connect", connect(scene));
    judge.works("read outside", open(&scene.outside, libc::O_RDONLY));
    judge.works("read another's", open(&scene.other, libc::O_RDONLY));
    judge.works("socket", call(libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_DGRAM.into(), 0]));
    for taken in LOCKED {
        let held = judge.works("open what sessions lock", open_room(scene, taken)).unwrap_or(-1);
        judge.works("lock it", flock(held, libc::LOCK_SH));
        judge.works("let it go", flock(held, libc::LOCK_UN));
    }
    judge.works("make executable memory", call(libc::SYS_mmap, [0, 4096, libc::PROT_EXEC.into(), 0x22, -1, 0]));
    let junk = scene.own.with_file_name("junk");
    judge.works("make a name", open(&junk, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL));
    judge.works("remove it", std::fs::remove_file(&junk));
    judge.works("start a program", Command::new("/bin/true").status());
    drop(start);
    judge.works("end", child.kill());
    judge.works("wait", child.wait());
}

/// Kernels that cannot confine, as far as a program sees: system calls that give such an answer.
fn kernels(judge: &Judge, scene: &Scene) {
    let (code, _) = serve_start(judge, scene);
    judge.holds("it starts on this kernel", code == Some(0));
    for (call, error) in [(libc::SYS_prctl, libc::EINVAL), (libc::SYS_seccomp, libc::EINVAL)] {
        let thread = std::thread::scope(|scope| scope.spawn(|| without(judge, scene, call, error)).join());
        judge.holds("a thread ends", thread.is_ok());
    }
    for error in [libc::ENOSYS, libc::EOPNOTSUPP] {
        let thread = std::thread::scope(|scope| {
            scope.spawn(|| without(judge, scene, libc::SYS_landlock_create_ruleset, error)).join()
        });
        judge.holds("a thread ends", thread.is_ok());
    }
    // In words, and only in these, it starts all the same.
    let config = scene.vault.join("vault.toml");
    let words = |text: &str| format!("config-version = 1\n[serve]\nunconfined = \"{text}\"\n");
    judge.works("other words", std::fs::write(&config, words("yes")));
    let (code, said) = serve_start(judge, scene);
    judge.holds("other words are refused", code == Some(1) && said.contains("word by word"));
    judge.works("the words", std::fs::write(&config, words(confine::WAIVER)));
    let waived = std::thread::scope(|scope| {
        let start = || {
            judge.works("filter", answer(libc::SYS_landlock_create_ruleset, libc::ENOSYS));
            serve_start(judge, scene).0
        };
        scope.spawn(start).join()
    });
    judge.holds("waived, it starts", matches!(waived, Ok(Some(0))));
}

/// `serve` must refuse to start where this call gives this error.
fn without(judge: &Judge, scene: &Scene, call: i64, error: i32) {
    judge.works("filter", answer(call, error));
    let (code, said) = serve_start(judge, scene);
    judge.holds(&format!("call {call} with error {error} is refused: {code:?} {said}"), code == Some(1));
    judge.holds("it says so", said.contains("error[unconfined]") && said.contains("vault.toml"));
}

/// Makes a call fail in this thread and what it starts.
fn answer(call: i64, error: i32) -> Result<(), seccompiler::Error> {
    use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};
    // Of prctl only PR_SET_NO_NEW_PRIVS.
    let privs = || SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, 38);
    let rules = if call == libc::SYS_prctl { vec![SeccompRule::new(vec![privs()?])?] } else { Vec::new() };
    let rules = [(call, rules)].into_iter().collect();
    let errno = SeccompAction::Errno(error.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, errno, std::env::consts::ARCH.try_into()?)?;
    seccompiler::apply_filter(&seccompiler::BpfProgram::try_from(filter)?)
}

/// Starts a session whose client says nothing; its exit code and what it said to standard error.
fn serve_start(judge: &Judge, scene: &Scene) -> (Option<i32>, String) {
    let test = judge.works("this program", std::env::current_exe()).unwrap_or_default();
    let mut command = Command::new(test.with_file_name("remote-sink"));
    command.args(["serve", "--source", "web1", "--role", "push", "--root"]).arg(&scene.vault);
    let done = judge.works("start serve", command.stdin(Stdio::null()).output());
    done.map_or((None, String::new()), |done| (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned()))
}

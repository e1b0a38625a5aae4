//! What injected code would try, one call each.

use crate::raw::{call, text};
use std::io;
use std::path::{Path, PathBuf};

const CWD: i64 = libc::AT_FDCWD as i64;
/// Of the structures that calls take: larger than any, all zero.
static ZEROS: [u64; 64] = [0; 64];

pub fn zeros() -> i64 {
    ZEROS.as_ptr() as i64
}

/// Where everything lies that is attacked.
pub struct Scene {
    pub vault: PathBuf,
    /// Objects that are published: of this source, and of another one.
    pub own: PathBuf,
    pub other: PathBuf,
    pub outside: PathBuf,
    pub socket: PathBuf,
    pub port: u16,
    /// The process outside that is attacked: the one that started this one.
    pub victim: i64,
}

pub type Attack<'a> = (&'static str, Box<dyn Fn() -> io::Result<i64> + 'a>);

pub fn open(path: impl AsRef<Path>, flags: i32) -> io::Result<i64> {
    let path = text(path);
    call(libc::SYS_openat, [CWD, path.at(), i64::from(flags | libc::O_CLOEXEC), 0o600])
}

pub fn link(from: &Path, to: &Path, flags: i32) -> io::Result<i64> {
    let (from, to) = (text(from), text(to));
    call(libc::SYS_linkat, [CWD, from.at(), CWD, to.at(), i64::from(flags)])
}

fn path_call(number: i64, path: &Path, rest: [i64; 3]) -> io::Result<i64> {
    let path = text(path);
    call(number, [CWD, path.at(), rest[0], rest[1], rest[2]])
}

macro_rules! attacks {
    ($($name:literal => $do:expr,)*) => { vec![$(($name, Box::new(move || $do) as Box<dyn Fn() -> io::Result<i64>>)),*] };
}

/// Refused by the filter of every process of a session, whatever the arguments: EPERM.
pub fn everywhere<'a>(scene: &'a Scene) -> Vec<Attack<'a>> {
    let mut all = on_names(scene);
    all.extend(on_processes(scene));
    all.extend(on_kernel());
    all
}

fn on_names(scene: &Scene) -> Vec<Attack<'_>> {
    let own = &scene.own;
    let beside = own.with_file_name("beside");
    let (b1, b2, b3, b4, b5, b6) =
        (beside.clone(), beside.clone(), beside.clone(), beside.clone(), beside.clone(), beside);
    attacks! {
        "remove the directory" => path_call(libc::SYS_unlinkat, own.parent().unwrap(), [libc::AT_REMOVEDIR.into(), 0, 0]),
        "rename" => { let (from, to) = (text(own), text(&b1)); call(libc::SYS_renameat2, [CWD, from.at(), CWD, to.at(), 0]) },
        "rename without replacing" => { let (from, to) = (text(own), text(&b2)); call(libc::SYS_renameat2, [CWD, from.at(), CWD, to.at(), 1]) },
        "exchange two names" => { let (from, to) = (text(own), text(&scene.other)); call(libc::SYS_renameat2, [CWD, from.at(), CWD, to.at(), 2]) },
        "rename over" => { let (from, to) = (text(&scene.outside), text(own)); call(libc::SYS_renameat2, [CWD, from.at(), CWD, to.at(), 0]) },
        "truncate" => { let path = text(own); call(libc::SYS_truncate, [path.at(), 0]) },
        "open to write" => open(own, libc::O_WRONLY),
        "open to read and write" => open(own, libc::O_RDWR),
        "open to append" => open(own, libc::O_WRONLY | libc::O_APPEND),
        "open to read, and truncate" => open(own, libc::O_RDONLY | libc::O_TRUNC),
        "make an empty object" => open(&b3, libc::O_RDONLY | libc::O_CREAT),
        "descriptor of a path outside" => open(&scene.outside, libc::O_PATH),
        "openat2" => { let path = text(own); call(libc::SYS_openat2, [CWD, path.at(), zeros(), 24]) },
        "open by handle" => call(libc::SYS_open_by_handle_at, [CWD, zeros(), 0]),
        "mkdir" => path_call(libc::SYS_mkdirat, &b4, [0o700, 0, 0]),
        "symlink" => { let (to, name) = (text(own), text(&b5)); call(libc::SYS_symlinkat, [to.at(), CWD, name.at()]) },
        "mkfifo" => path_call(libc::SYS_mknodat, &b6, [(libc::S_IFIFO | 0o600).into(), 0, 0]),
        "hard link by descriptor" => { let (empty, to) = (text(""), text(own.with_file_name("second"))); call(libc::SYS_linkat, [1, empty.at(), CWD, to.at(), libc::AT_EMPTY_PATH.into()]) },
        "chmod" => path_call(libc::SYS_fchmodat, own, [0, 0, 0]),
        "fchmod" => call(libc::SYS_fchmod, [1, 0]),
        "chown" => path_call(libc::SYS_fchownat, own, [1, 1, 0]),
        "fchown" => call(libc::SYS_fchown, [1, 1, 1]),
        "set times" => path_call(libc::SYS_utimensat, own, [zeros(), 0, 0]),
        "punch a hole" => call(libc::SYS_fallocate, [1, 3, 0, 4096]),
        "ftruncate" => call(libc::SYS_ftruncate, [1, 0]),
        "set an attribute" => { let (path, name) = (text(own), text("user.x")); call(libc::SYS_setxattr, [path.at(), name.at(), zeros(), 1, 0]) },
        "fsetxattr" => { let name = text("user.x"); call(libc::SYS_fsetxattr, [1, name.at(), zeros(), 1, 0]) },
        "ioctl" => call(libc::SYS_ioctl, [1, 0x4008_6602, zeros()]),
        "record lock" => call(libc::SYS_fcntl, [1, libc::F_SETLK.into(), zeros()]),
        "lease" => call(libc::SYS_fcntl, [1, 1024, libc::F_RDLCK.into()]),
        "stat outside" => path_call(libc::SYS_newfstatat, &scene.outside, [zeros(), 0, 0]),
        "statx outside" => path_call(libc::SYS_statx, &scene.outside, [0, 0x7ff, zeros()]),
        "access outside" => path_call(libc::SYS_faccessat, &scene.outside, [0, 0, 0]),
        "read a symlink" => path_call(libc::SYS_readlinkat, Path::new("/proc/self/exe"), [zeros(), 1, 0]),
        "chdir" => { let path = text("/"); call(libc::SYS_chdir, [path.at()]) },
        "chroot" => { let path = text("/"); call(libc::SYS_chroot, [path.at()]) },
        "mount" => call(libc::SYS_mount, [zeros(), zeros(), zeros(), 0, 0]),
        "open_tree" => path_call(libc::SYS_open_tree, own, [1, 0, 0]),
        "watch" => call(libc::SYS_inotify_init1, [0]),
    }
}

fn on_processes(scene: &Scene) -> Vec<Attack<'_>> {
    let victim = scene.victim;
    let shell = || text("/bin/sh");
    attacks! {
        "exec" => call(libc::SYS_execve, [shell().at(), zeros(), zeros()]),
        "execveat" => call(libc::SYS_execveat, [1, text("").at(), zeros(), zeros(), libc::AT_EMPTY_PATH.into()]),
        "memfd" => call(libc::SYS_memfd_create, [text("x").at(), 0]),
        "fork" => call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0, 0]),
        "new user namespace by clone" => call(libc::SYS_clone, [(libc::CLONE_NEWUSER | libc::SIGCHLD).into(), 0, 0, 0, 0]),
        "unshare" => call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into()]),
        "setns" => call(libc::SYS_setns, [1, 0]),
        "signal" => call(libc::SYS_kill, [victim, 0]),
        "signal everybody" => call(libc::SYS_kill, [-1, 0]),
        "signal a thread" => call(libc::SYS_tgkill, [victim, victim, 0]),
        "tkill" => call(libc::SYS_tkill, [victim, 0]),
        "queue a signal" => call(libc::SYS_rt_sigqueueinfo, [victim, 0, zeros()]),
        "pidfd" => call(libc::SYS_pidfd_open, [victim, 0]),
        "take a descriptor" => call(libc::SYS_pidfd_getfd, [1, 0, 0]),
        "ptrace" => call(libc::SYS_ptrace, [libc::PTRACE_ATTACH as i64, victim, 0, 0]),
        "read another's memory" => call(libc::SYS_process_vm_readv, [victim, zeros(), 1, zeros(), 1, 0]),
        "write another's memory" => call(libc::SYS_process_vm_writev, [victim, zeros(), 1, zeros(), 1, 0]),
        "limits of another" => call(libc::SYS_prlimit64, [victim, 0, zeros(), 0]),
        "scheduling of another" => call(libc::SYS_sched_setscheduler, [victim, 0, zeros()]),
        "tcp socket" => call(libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0]),
        "udp socket" => call(libc::SYS_socket, [libc::AF_INET6.into(), libc::SOCK_DGRAM.into(), 0]),
        "unix socket" => call(libc::SYS_socket, [libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0]),
        "netlink socket" => call(libc::SYS_socket, [libc::AF_NETLINK.into(), libc::SOCK_RAW.into(), 0]),
        "socket pair" => call(libc::SYS_socketpair, [libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0, zeros()]),
        "bind" => call(libc::SYS_bind, [0, zeros(), 16]),
        "listen" => call(libc::SYS_listen, [0, 1]),
        "connect" => call(libc::SYS_connect, [0, zeros(), 16]),
        "send to an address" => call(libc::SYS_sendto, [0, zeros(), 1, 0, zeros(), 16]),
        "hand on a descriptor" => call(libc::SYS_sendmsg, [0, zeros(), 0]),
        "take a descriptor from a socket" => call(libc::SYS_recvmsg, [0, zeros(), 0]),
    }
}

fn on_kernel() -> Vec<Attack<'static>> {
    let page = 4096;
    attacks! {
        "io_uring" => call(libc::SYS_io_uring_setup, [1, zeros()]),
        "bpf" => call(libc::SYS_bpf, [0, zeros(), 16]),
        "perf" => call(libc::SYS_perf_event_open, [zeros(), 0, -1, -1, 0]),
        "userfaultfd" => call(libc::SYS_userfaultfd, [0]),
        "keys" => call(libc::SYS_keyctl, [0, 0]),
        "executable memory" => call(libc::SYS_mmap, [0, page, (libc::PROT_READ | libc::PROT_EXEC).into(), (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).into(), -1, 0]),
        "memory of a file" => call(libc::SYS_mmap, [0, page, libc::PROT_READ.into(), libc::MAP_SHARED.into(), 1, 0]),
        "memory made executable" => call(libc::SYS_mprotect, [zeros() & !4095, page, (libc::PROT_READ | libc::PROT_EXEC).into()]),
        "memory made executable with a key" => call(libc::SYS_pkey_mprotect, [zeros() & !4095, page, libc::PROT_EXEC.into(), -1]),
        "setuid" => call(libc::SYS_setuid, [0]),
        "setresgid" => call(libc::SYS_setresgid, [0, 0, 0]),
        "capabilities" => call(libc::SYS_capset, [zeros(), zeros()]),
        "personality" => call(libc::SYS_personality, [0]),
        "prctl" => call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1]),
        "another filter" => call(libc::SYS_seccomp, [1, 0, zeros()]),
        "copy between files" => call(libc::SYS_copy_file_range, [0, 0, 1, 0, 1, 0]),
        "splice" => call(libc::SYS_splice, [0, 0, 1, 0, 1, 0]),
        "set the clock" => call(libc::SYS_clock_settime, [0, zeros()]),
        "reboot" => call(libc::SYS_reboot, [0, 0, 0]),
    }
}

/// Files that no session may open to read.
pub fn readable_outside(scene: &Scene) -> Vec<PathBuf> {
    let vault = &scene.vault;
    vec![
        scene.outside.clone(),
        scene.other.clone(),
        "/etc/passwd".into(),
        "/proc/self/mem".into(),
        "/proc/self/environ".into(),
        "/".into(),
        vault.clone(),
        vault.join("sink.key"),
        vault.join("sources"),
        vault.join("sources/web1"),
        vault.join("sources/web1/enrolment.toml"),
        vault.join("sources/web1/lock"),
        vault.join("sources/web1/trash"),
        vault.join("sources/web2/heads"),
        vault.join("owners"),
        vault.join("operator"),
        vault.join("operator/ledger"),
    ]
}

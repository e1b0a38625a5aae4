//! The filters of seccomp: every system call that a session uses, with the arguments that it uses. All others fail
//! with EPERM.

use super::ConfineError;
use rustix::process::{Pid, getpid};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};
use shared::wire::Role;
use std::collections::BTreeMap;

/// How objects come into being on the vault's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staging {
    /// Without a name, until they are linked (O_TMPFILE).
    Unnamed,
    /// The file system cannot do that: under a name in staging, which the session removes.
    Named,
}

/// What the committer's filter is made for.
#[derive(Debug, Clone, Copy)]
pub struct Committer {
    pub staging: Staging,
    /// The only process that may be waited for and ended.
    pub receiver: Pid,
    /// What it serves. Only who pushes takes locks of its own source; who reads could lock out sessions of others.
    pub role: Role,
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Flags of `openat` that make or change. O_PATH is among them: Landlock refuses nobody such a descriptor.
const OPEN_MASK: i32 = libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_EXCL
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_PATH
    // O_TMPFILE is two bits; the other one is O_DIRECTORY.
    | (libc::O_TMPFILE & !libc::O_DIRECTORY);
/// A thread as glibc makes it, and as musl makes it.
const THREAD: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;
const THREAD_MUSL: i32 = THREAD | libc::CLONE_DETACHED;

/// Calls without a condition: memory, waiting, time, and bytes through descriptors that are open.
const ALWAYS: &[i64] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_close,
    libc::SYS_shutdown,
    libc::SYS_fstat,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What the committer needs beyond it, on descriptors of files.
const ON_FILES: &[i64] = &[
    libc::SYS_pread64,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_fsync,
    libc::SYS_fadvise64,
    libc::SYS_fstatfs,
];

/// One argument has this value. Arguments that the kernel takes as `int` are compared in 32 bits, as it does.
fn int(argument: u8, value: i32) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(value as u32))
}

/// Of these bits of an argument, exactly those are set.
fn bits(argument: u8, mask: i32, value: i32) -> Result<SeccompCondition, BackendError> {
    let (mask, value) = (u64::from(mask as u32), u64::from(value as u32));
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
}

fn word(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
}

fn allow(
    rules: &mut Rules,
    call: i64,
    conditions: impl IntoIterator<Item = Result<SeccompCondition, BackendError>>,
) -> Result<(), BackendError> {
    let conditions = conditions.into_iter().collect::<Result<Vec<_>, _>>()?;
    rules.entry(call).or_default().push(SeccompRule::new(conditions)?);
    Ok(())
}

fn common() -> Result<Rules, BackendError> {
    let mut rules: Rules = ALWAYS.iter().map(|call| (*call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_poll, Vec::new());
    // Refused by the filter below it with another answer, see `install`.
    rules.insert(libc::SYS_clone3, Vec::new());
    let rules_mut = &mut rules;
    // Memory that is neither a file's nor a program's.
    let anonymous = bits(3, libc::MAP_ANONYMOUS, libc::MAP_ANONYMOUS);
    allow(rules_mut, libc::SYS_mmap, [bits(2, libc::PROT_EXEC, 0), anonymous])?;
    allow(rules_mut, libc::SYS_mprotect, [bits(2, libc::PROT_EXEC, 0)])?;
    rules_mut.insert(libc::SYS_mremap, Vec::new());
    for flags in [THREAD, THREAD_MUSL] {
        allow(rules_mut, libc::SYS_clone, [word(0, u64::from(flags as u32))])?;
    }
    allow(rules_mut, libc::SYS_prctl, [int(0, libc::PR_SET_NAME)])?;
    for command in [libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_GETFL] {
        allow(rules_mut, libc::SYS_fcntl, [int(1, command)])?;
    }
    // To whom the socket is connected, nobody else.
    allow(rules_mut, libc::SYS_sendto, [word(4, 0)])?;
    // abort(): a signal to itself.
    allow(rules_mut, libc::SYS_tgkill, [int(0, getpid().as_raw_nonzero().get())])?;
    Ok(rules)
}

fn install(rules: Rules) -> Result<(), ConfineError> {
    let arch = std::env::consts::ARCH;
    let arch: TargetArch = arch.try_into().map_err(|_| {
        ConfineError::Unsupported(format!("no seccomp filter can be made for a processor of type {arch}"))
    })?;
    // clone3 takes its flags from memory, where no filter can see them. With ENOSYS libraries go back to clone. Of two
    // filters the stricter answer counts.
    let enosys = SeccompAction::Errno(libc::ENOSYS as u32);
    let clone3 = [(libc::SYS_clone3, Vec::new())].into_iter().collect();
    let clone3 = SeccompFilter::new(clone3, SeccompAction::Allow, enosys, arch)?;
    let rest = SeccompFilter::new(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow, arch)?;
    let (clone3, rest): (BpfProgram, BpfProgram) = (clone3.try_into()?, rest.try_into()?);
    apply_filter(&clone3)?;
    apply_filter(&rest)?;
    Ok(())
}

pub fn receiver() -> Result<(), ConfineError> {
    install(common()?)
}

pub fn committer(session: &Committer) -> Result<(), ConfineError> {
    let mut all = common()?;
    let rules = &mut all;
    for call in ON_FILES {
        rules.insert(*call, Vec::new());
    }
    if session.role == Role::Push {
        rules.insert(libc::SYS_flock, Vec::new());
    }
    allow(rules, libc::SYS_openat, [bits(2, OPEN_MASK, libc::O_RDONLY)])?;
    match session.staging {
        Staging::Unnamed => {
            allow(rules, libc::SYS_openat, [bits(2, OPEN_MASK | libc::O_TMPFILE, libc::O_WRONLY | libc::O_TMPFILE)])?;
            allow(rules, libc::SYS_linkat, [int(4, libc::AT_SYMLINK_FOLLOW)])?;
        }
        Staging::Named => {
            allow(rules, libc::SYS_openat, [bits(2, OPEN_MASK, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL)])?;
            allow(rules, libc::SYS_linkat, [int(4, 0)])?;
            allow(rules, libc::SYS_unlinkat, [int(2, 0)])?;
        }
    }
    allow(rules, libc::SYS_setsockopt, [int(1, libc::SOL_SOCKET), int(2, libc::SO_SNDTIMEO)])?;
    let receiver = session.receiver.as_raw_nonzero().get();
    allow(rules, libc::SYS_wait4, [int(0, receiver)])?;
    allow(rules, libc::SYS_kill, [int(0, receiver), int(1, libc::SIGKILL)])?;
    install(all)
}

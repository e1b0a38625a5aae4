//! What this machine's kernel offers.

use super::{ABI_MIN, ConfineError};
use landlock::{ABI, LandlockStatus};
use rustix::fs::{CWD, Mode, OFlags};
use std::io;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    pub landlock_abi: u32,
}

fn abi(status: LandlockStatus) -> Result<u32, ConfineError> {
    let unsupported = |why: &str| ConfineError::Unsupported(why.into());
    match status {
        LandlockStatus::NotEnabled => Err(unsupported("Landlock is built in but not switched on (boot option lsm=)")),
        LandlockStatus::NotImplemented => match version() {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(ConfineError::Refused(error)),
            _ => Err(unsupported("it has no Landlock (Linux 5.19 or newer has what is needed)")),
        },
        LandlockStatus::Available { effective_abi: ABI::Unsupported, .. } => Err(unsupported("it has no Landlock")),
        LandlockStatus::Available { effective_abi, kernel_abi } => {
            Ok(kernel_abi.and_then(|abi| u32::try_from(abi).ok()).unwrap_or(effective_abi as u32))
        }
    }
}

/// Asks for the version of Landlock once more, for the error: `landlock` tells "forbidden" and "unknown" as one.
#[allow(unsafe_code, reason = "no safe crate tells the error")]
fn version() -> Result<(), io::Error> {
    /// Of the kernel's interface; libc does not have it.
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    let (none, size) = (std::ptr::null::<libc::c_void>(), 0usize);
    // SAFETY: without attributes and with this flag the call only returns a number.
    match unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, size, LANDLOCK_CREATE_RULESET_VERSION) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Is there enough of Landlock?
pub fn require(status: LandlockStatus) -> Result<(), ConfineError> {
    let abi = abi(status)?;
    if abi < ABI_MIN {
        return Err(ConfineError::Unsupported(format!("its Landlock has ABI {abi}, {ABI_MIN} is needed (Linux 5.19)")));
    }
    Ok(())
}

/// Confines a thread as a receiver is confined, and lets it try to open a file: found out by doing it.
pub fn probe() -> Result<Kernel, ConfineError> {
    let failed = |why: &str| ConfineError::Unsupported(why.into());
    let probe = || {
        let status = super::landlock::scopes()?;
        require(status)?;
        super::receiver()?;
        // Every account may read this on a machine without confinement.
        let open = rustix::fs::openat(CWD, "/proc/self/stat", OFlags::RDONLY, Mode::empty());
        if open.is_ok() {
            return Err(ConfineError::Unsupported("a confined thread could open a file".into()));
        }
        Ok(Kernel { landlock_abi: abi(status)? })
    };
    let thread = std::thread::Builder::new().spawn(probe).map_err(|e| failed(&e.to_string()))?;
    thread.join().map_err(|_| failed("a confined thread could not run"))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::unconfined_help;
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

    /// What a thread finds under a filter that answers this call with this error.
    fn found_without(call: i64, errno: i32) -> ConfineError {
        let arch: TargetArch = std::env::consts::ARCH.try_into().unwrap();
        let action = SeccompAction::Errno(errno as u32);
        let rules = [(call, Vec::new())].into_iter().collect();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch).unwrap();
        let filter: BpfProgram = filter.try_into().unwrap();
        let thread = std::thread::spawn(move || {
            apply_filter(&filter).unwrap();
            probe().unwrap_err()
        });
        thread.join().unwrap()
    }

    #[test]
    fn a_call_that_is_forbidden_is_no_kernel_that_is_too_old() {
        let error = found_without(libc::SYS_landlock_create_ruleset, libc::EPERM);
        assert!(error.is_refused() && unconfined_help(&error).contains("landlock_create_ruleset"), "{error}");
        for errno in [libc::ENOSYS, libc::EOPNOTSUPP] {
            let error = found_without(libc::SYS_landlock_create_ruleset, errno);
            assert!(!error.is_refused() && unconfined_help(&error).contains("5.19"), "{error}");
        }
        // The others are asked only where there is Landlock.
        if version().is_ok() {
            for call in [libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self, libc::SYS_seccomp] {
                let error = found_without(call, libc::EPERM);
                assert!(error.is_refused(), "{call}: {error}");
            }
        }
    }
}

//! What this machine's kernel offers.

use super::{ABI_MIN, ConfineError};
use landlock::{ABI, LandlockStatus};
use rustix::fs::{CWD, Mode, OFlags};

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    pub landlock_abi: u32,
}

fn abi(status: LandlockStatus) -> Result<u32, ConfineError> {
    let unsupported = |why: &str| ConfineError::Unsupported(why.into());
    match status {
        LandlockStatus::NotEnabled => Err(unsupported("Landlock is built in but not switched on (boot option lsm=)")),
        LandlockStatus::NotImplemented => {
            Err(unsupported("it has no Landlock (Linux 5.19 or newer has what is needed)"))
        }
        LandlockStatus::Available { effective_abi: ABI::Unsupported, .. } => Err(unsupported("it has no Landlock")),
        LandlockStatus::Available { effective_abi, kernel_abi } => {
            Ok(kernel_abi.and_then(|abi| u32::try_from(abi).ok()).unwrap_or(effective_abi as u32))
        }
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

//! The rule sets of Landlock: directories, and what may be done in them.

use super::{ConfineError, Staging};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope,
};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// The newest rights that this program knows; a kernel that knows fewer enforces those.
const NEWEST: ABI = ABI::V9;

/// Directories that a session may reach, by descriptor. No other path can be opened.
#[derive(Debug, Default)]
pub struct Reach {
    /// Where objects are staged.
    pub staging: Option<Arc<OwnedFd>>,
    /// Where new objects appear.
    pub takes: Vec<OwnedFd>,
    /// What is only read.
    pub reads: Vec<OwnedFd>,
}

/// Nothing outside the session can be signalled, nor its abstract sockets reached (from ABI 6).
pub fn scopes() -> Result<LandlockStatus, ConfineError> {
    let rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort).scope(Scope::from_all(NEWEST))?;
    // Every rule set that does not say otherwise forbids links from one directory into another, also below this one.
    let rules = rules.handle_access(AccessFs::Refer)?.create()?;
    let rules = rules.add_rule(PathBeneath::new(PathFd::new("/")?, AccessFs::Refer))?;
    Ok(rules.restrict_self()?.landlock)
}

/// Every right that the kernel knows is taken, those of `reach` are given back.
pub fn restrict(reach: &Reach, staging: Staging) -> Result<LandlockStatus, ConfineError> {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?;
    let mut rules = rules.create()?;
    // A file without a name needs no right to make or remove names in staging. Reading there gives nothing, but what
    // is linked from it must not gain a right on its way.
    let mut in_staging = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Refer;
    if staging == Staging::Named {
        in_staging |= AccessFs::MakeReg | AccessFs::RemoveFile;
    }
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let take = read | AccessFs::MakeReg | AccessFs::Refer;
    let all = reach.staging.iter().map(|fd| (fd.as_fd(), in_staging));
    let all = all.chain(reach.takes.iter().map(|fd| (fd.as_fd(), take)));
    let all = all.chain(reach.reads.iter().map(|fd| (fd.as_fd(), read)));
    for (dir, rights) in all {
        let rights: BitFlags<AccessFs> = rights;
        rules = rules.add_rule(PathBeneath::new(dir, rights))?;
    }
    Ok(rules.restrict_self()?.landlock)
}

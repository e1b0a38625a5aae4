//! Accounts: the one that runs the command, and the one that serves a vault.

use rustix::process::geteuid;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The account's line of /etc/passwd: name, password field, home, shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub home: PathBuf,
    pub shell: String,
}

fn parse(passwd: &str, uid: u32) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, number, _, _, home, shell] = fields[..] else { return None };
        (number.parse() == Ok(uid)).then(|| Account { name: name.into(), home: home.into(), shell: shell.into() })
    })
}

/// The running account, where /etc/passwd knows it.
pub fn account() -> Option<Account> {
    parse(&std::fs::read_to_string("/etc/passwd").ok()?, geteuid().as_raw())
}

/// The account that serves: where root runs a command, the owner of the vault.
pub fn serving(root: &Path) -> Option<Account> {
    let uid = served_by_another(root).unwrap_or_else(|| geteuid().as_raw());
    parse(&std::fs::read_to_string("/etc/passwd").ok()?, uid)
}

/// The user id of the vault's owner, where root works on the vault of another account.
pub fn served_by_another(root: &Path) -> Option<u32> {
    let owner = std::fs::metadata(root).ok()?.uid();
    (geteuid().is_root() && owner != 0).then_some(owner)
}

/// The account's name for sink cards.
pub fn name() -> Option<String> {
    account()
        .map(|account| account.name)
        .or_else(|| std::env::var("USER").ok())
        .filter(|name| shared::card::is_user(name))
}

/// `$HOME`, else what /etc/passwd says.
pub fn home() -> Option<PathBuf> {
    let set = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    set.or_else(|| account().map(|account| account.home))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_line_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbroken:1\nbackup:x:34:34:b:/var/backups:/usr/sbin/nologin\n";
        let found = parse(passwd, 34).unwrap();
        assert_eq!((found.name.as_str(), found.shell.as_str()), ("backup", "/usr/sbin/nologin"));
        assert_eq!(parse(passwd, 35), None);
    }
}

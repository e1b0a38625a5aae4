//! `remote-sink doctor`: what holds on this machine, and what does not.

use super::{Context, account};
use crate::authorized_keys::lint;
use crate::cli::vault::Vault;
use crate::confine::kernel;
use crate::report::{Failure, exit, unconfined_help};
use crate::serve::Confinement;
use crate::store::{Shelf, directory};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use shared::card::SshKey;
use shared::id::SourceName;
use shared::sys::{Clock, SystemClock, durable};
use shared::text::{hex, printable};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Check this machine, the vault and the doors to it
///
/// Changes nothing but a probe file that it removes again. Lines say ok, warn or FAIL.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 nothing failed (warnings may stand), 1 something failed.")]
pub struct DoctorArgs {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grade {
    Ok,
    Warn,
    Fail,
}

/// What was found about one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    grade: Grade,
    what: &'static str,
    said: String,
}

fn found(grade: Grade, what: &'static str, said: impl Into<String>) -> Finding {
    Finding { grade, what, said: said.into() }
}

pub fn run(_args: &DoctorArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    let vault = Vault::open(context.global.root.as_deref())?;
    let mut all = vec![this_kernel(), clock(), file_system(&vault)];
    all.extend(confinement(&vault));
    all.extend(permissions(&vault));
    all.extend(operator(&vault));
    all.extend(append_only(&vault));
    let (enrolled, broken) = vault.all()?;
    all.extend(broken.into_iter().map(|failure| found(Grade::Fail, "enrolment", failure.message)));
    all.push(vault_keys(&vault));
    let known: Vec<(SourceName, SshKey)> =
        enrolled.iter().map(|one| (one.name.clone(), one.enrolment.card.ssh().clone())).collect();
    all.extend(this_account(&vault));
    let home = match account::served_by_another(vault.layout.root()) {
        Some(_) => account::serving(vault.layout.root()).map(|account| account.home),
        None => context.home.clone(),
    };
    all.extend(authorized_keys(home.as_deref(), &vault, &known));
    all.extend(sshd());
    for finding in &all {
        tell(finding, context)?;
    }
    Ok(if all.iter().any(|finding| finding.grade == Grade::Fail) { exit::FAILED } else { exit::OK })
}

fn tell(finding: &Finding, context: &mut Context<'_>) -> Result<(), Failure> {
    let grade = match finding.grade {
        Grade::Ok => "ok",
        Grade::Warn => "warn",
        Grade::Fail => "FAIL",
    };
    let said = printable(finding.said.as_bytes(), 1000);
    if context.global.json {
        return context.json(&serde_json::json!({
            "message_type": "finding", "grade": grade.to_lowercase(), "what": finding.what, "message": said,
        }));
    }
    if context.global.quiet && finding.grade == Grade::Ok {
        return Ok(());
    }
    context.line(format!("{grade:<4}  {:<16}  {said}", finding.what))
}

fn this_kernel() -> Finding {
    let uname = rustix::system::uname();
    found(Grade::Ok, "kernel", format!("Linux {}", uname.release().to_string_lossy()))
}

/// Does the kernel hold sessions to append-only, and what is left to code that runs in one?
fn confinement(vault: &Vault) -> Vec<Finding> {
    let what = "confinement";
    let mut findings = Vec::new();
    let waived = vault.config.confinement() == Confinement::Waived;
    match kernel::probe() {
        Err(error) if waived => {
            let said = format!("{error}; waived in vault.toml: file permissions alone confine sessions");
            return vec![found(Grade::Warn, what, said)];
        }
        Err(error) => {
            let help = unconfined_help(&error);
            return vec![found(Grade::Fail, what, format!("{error}; {help}"))];
        }
        Ok(_) if waived => {
            let said = "waived in vault.toml, but this kernel can confine: remove `unconfined` from it";
            return vec![found(Grade::Warn, what, said)];
        }
        Ok(kernel) => findings.push(found(Grade::Ok, what, held(kernel.landlock_abi))),
    }
    if vault.layout.source_names().is_ok_and(|names| names.iter().any(|name| !stages_unnamed(vault, name))) {
        let said = "no O_TMPFILE here: code in a session could also remove what is being staged, and leave empty names";
        findings.push(found(Grade::Warn, what, said));
    }
    let said = "left to code in a session's committer: junk under new names, second names, and writing on in uploads of \
                the same session; nothing that another session stored";
    findings.push(found(Grade::Ok, what, said));
    findings
}

fn stages_unnamed(vault: &Vault, name: &SourceName) -> bool {
    let staging = File::open(vault.layout.staging(name));
    staging.is_ok_and(|staging| directory::has_unnamed_files(&staging.into()))
}

/// What older kernels leave to seccomp alone.
fn held(abi: u32) -> String {
    let later = [(3, "truncation"), (4, "TCP"), (6, "signals"), (9, "sockets in files")];
    let alone: Vec<_> = later.iter().filter(|(from, _)| abi < *from).map(|(_, what)| *what).collect();
    let by = if alone.is_empty() { String::new() } else { format!("; held by seccomp alone: {}", alone.join(", ")) };
    format!("Landlock ABI {abi} and seccomp hold every session to append-only{by}")
}

/// A clock that stands before this program was written is wrong.
fn clock() -> Finding {
    let now = SystemClock.now();
    let shown = super::table::local(now);
    if now < 1_767_225_600 {
        return found(Grade::Fail, "clock", format!("{shown}: wrong; times of receipt would be too"));
    }
    let synchronized = Path::new("/run/systemd/timesync/synchronized").exists();
    let note = if synchronized { "synchronized" } else { "whether it is synchronized cannot be seen from here" };
    found(Grade::Ok, "clock", format!("{shown} ({note})"))
}

/// Does this file system do what every accepted object needs? Fails with the step that does not.
///
/// open(O_TMPFILE) · write · fsync · linkat · linkat again (must be refused) · fsync(directory) · unlink
pub fn probe_file_system(dir: &Path) -> Result<(), Failure> {
    let name = dir.join(format!(".tmp-probe-{}", hex(&shared::sys::random::<8>())));
    let refused = |step: &str, e: io::Error| {
        Failure::new("file-system", format!("{}: {step}: {e}", dir.display()))
            .help("put the vault on ext4, xfs, btrfs or another local file system with O_TMPFILE and hard links")
    };
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    let file = rustix::fs::open(dir, flags, Mode::from_raw_mode(0o600)).map_err(|e| refused("O_TMPFILE", e.into()))?;
    let mut file = File::from(file);
    file.write_all(b"probe").and_then(|()| file.sync_all()).map_err(|e| refused("write and fsync", e))?;
    let from = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file.as_fd()));
    let link = || rustix::fs::linkat(CWD, &from, CWD, &name, AtFlags::SYMLINK_FOLLOW);
    link().map_err(|e| refused("linkat", e.into()))?;
    let again = link();
    let done = durable::sync_dir(dir);
    fs::remove_file(&name).map_err(|e| refused("unlink of the probe file", e))?;
    done.map_err(|e| refused("fsync of a directory", e))?;
    match again {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        _ => Err(refused("linkat", io::Error::other("it replaced an existing name"))),
    }
}

fn file_system(vault: &Vault) -> Finding {
    let root = vault.layout.root();
    if let Err(failure) = probe_file_system(root) {
        return found(Grade::Fail, "file system", failure.message);
    }
    let Ok(space) = rustix::fs::statvfs(root) else {
        return found(Grade::Warn, "file system", "its free space cannot be seen");
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let said = format!("O_TMPFILE, linkat and fsync work; {} free", crate::config::iec(free));
    if free < vault.config.min_free_bytes() {
        return found(Grade::Fail, "file system", format!("{said}: less than min-free, no archive is accepted"));
    }
    if space.f_favail > 0 && space.f_favail < 100_000 {
        return found(Grade::Warn, "file system", format!("{said}; only {} inodes free", space.f_favail));
    }
    found(Grade::Ok, "file system", said)
}

fn permissions(vault: &Vault) -> Vec<Finding> {
    let layout = &vault.layout;
    let me = rustix::process::geteuid().as_raw();
    let secret = [(layout.sink_key(), 0o077), (layout.listen_key(), 0o077)];
    let open = [
        (layout.root().to_owned(), 0o022),
        (layout.sources(), 0o022),
        (layout.operator(), 0o022),
        (layout.config(), 0o022),
    ];
    let mut findings = Vec::new();
    for (path, forbidden) in secret.into_iter().chain(open) {
        match fs::metadata(&path) {
            Err(e) => findings.push(found(Grade::Fail, "permissions", format!("{}: {e}", path.display()))),
            Ok(meta) if meta.permissions().mode() & forbidden != 0 => {
                let mode = meta.permissions().mode() & 0o7777;
                findings.push(found(
                    Grade::Fail,
                    "permissions",
                    format!("{} has mode {mode:o}: others could change or read it", path.display()),
                ));
            }
            Ok(meta) if meta.uid() != me && me != 0 => {
                findings.push(found(
                    Grade::Warn,
                    "permissions",
                    format!("{} belongs to user {}, not to this account", path.display(), meta.uid()),
                ));
            }
            Ok(_) => {}
        }
    }
    if findings.is_empty() {
        findings.push(found(Grade::Ok, "permissions", "keys are private, the vault is writable by its account alone"));
    }
    findings
}

/// The operator's own files may belong to another account than the one that serves, which must read the ledger then.
fn operator(vault: &Vault) -> Option<Finding> {
    let (root, operator) = (fs::metadata(vault.layout.root()).ok()?, fs::metadata(vault.layout.operator()).ok()?);
    if root.uid() == operator.uid() {
        return None;
    }
    let ledgers = fs::metadata(vault.layout.ledgers()).ok()?;
    if operator.mode() & 0o001 == 0 || ledgers.mode() & 0o005 != 0o005 {
        let said = "operator/ belongs to another account, and sessions cannot read the ledger in it: chmod 711 operator,                     chmod 755 operator/ledger";
        return Some(found(Grade::Fail, "operator", said));
    }
    let secret = fs::metadata(vault.layout.journal_key()).is_ok_and(|key| key.mode() & 0o077 != 0);
    if secret {
        return Some(found(Grade::Fail, "operator", "others can read operator/journal.key: chmod 600"));
    }
    Some(found(Grade::Ok, "operator", "the journal and its key belong to another account than the one that serves"))
}

/// Shelves where nothing may be removed, as the append-only attribute of a directory says it: all that snapshots need.
const APPEND_ONLY: [Shelf; 7] =
    [Shelf::Archives, Shelf::Heads, Shelf::Receipts, Shelf::Bodies, Shelf::Pages, Shelf::Envelopes, Shelf::Substitutes];

/// The second layer, for operators that have root: directories in which the file system itself refuses to remove.
fn append_only(vault: &Vault) -> Option<Finding> {
    let names = vault.layout.source_names().ok()?;
    let shelves = names.iter().flat_map(|name| APPEND_ONLY.map(|shelf| vault.layout.shelf(name, shelf)));
    let dirs = shelves.flat_map(|dir| {
        let below = fs::read_dir(&dir).into_iter().flatten().flatten();
        let below: Vec<_> = below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect();
        below.into_iter().chain([dir])
    });
    let has = |dir: &Path| {
        let flags = File::open(dir).ok().and_then(|dir| rustix::fs::ioctl_getflags(dir).ok())?;
        Some(flags.contains(rustix::fs::IFlags::APPEND))
    };
    shut(&dirs.filter_map(|dir| has(&dir)).collect::<Vec<_>>())
}

/// What it means that so many directories have the attribute.
fn shut(all: &[bool]) -> Option<Finding> {
    let set = all.iter().filter(|set| **set).count();
    let (grade, where_set) = match set {
        0 => return None,
        _ if set == all.len() => (Grade::Ok, "every directory".to_owned()),
        _ => (Grade::Warn, format!("{set} of {} directories", all.len())),
    };
    let said = format!(
        "set on {where_set} of archives, heads, receipts, bodies, pages, envelopes and substitutes: no name in these can \
         be removed or renamed (the account that owns the files can still write them over)"
    );
    Some(found(grade, "append-only", said))
}

fn vault_keys(vault: &Vault) -> Finding {
    match vault.sink().and_then(|sink| vault.listen_key().map(|_| sink)) {
        Ok(sink) => found(Grade::Ok, "keys", format!("sink key {}", shared::text::fingerprint_words(sink.as_bytes()))),
        Err(failure) => found(Grade::Fail, "keys", failure.message),
    }
}

/// The account that serves is the owner of the vault.
fn this_account(vault: &Vault) -> Vec<Finding> {
    let Some(account) = account::serving(vault.layout.root()) else {
        return vec![found(Grade::Warn, "account", "not in /etc/passwd: its shell cannot be seen")];
    };
    let mut findings = Vec::new();
    if rustix::process::geteuid().is_root() && account::served_by_another(vault.layout.root()).is_none() {
        findings.push(found(
            Grade::Warn,
            "account",
            "this is root: a session would run as root; serve from an account of its own",
        ));
    }
    let shell = account.shell.rsplit('/').next().unwrap_or_default();
    if ["nologin", "false"].contains(&shell) {
        findings.push(found(
            Grade::Fail,
            "account",
            format!(
                "the shell of {} is {}: sshd runs forced commands through it; use /bin/sh (`listen` does not need it)",
                account.name, account.shell
            ),
        ));
    }
    if let Some(why) = locked(&account.name) {
        findings.push(found(Grade::Warn, "account", why));
    }
    if findings.is_empty() {
        let shown = vault.layout.root().display();
        findings.push(found(
            Grade::Ok,
            "account",
            format!("{}, shell {}, serves {shown}", account.name, account.shell),
        ));
    }
    findings
}

/// Only root can see the password field.
fn locked(name: &str) -> Option<String> {
    let shadow = fs::read_to_string("/etc/shadow").ok()?;
    let field = shadow.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split(':').next())?;
    field.starts_with('!').then(|| {
        format!("the password of {name} is locked with '!': without PAM sshd then refuses keys too; set it to '*' (usermod -p '*' {name})")
    })
}

fn authorized_keys(home: Option<&Path>, vault: &Vault, known: &[(SourceName, SshKey)]) -> Vec<Finding> {
    let Some(path) = home.map(|home| home.join(".ssh/authorized_keys")) else { return Vec::new() };
    let text = match fs::read_to_string(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return vec![found(
                Grade::Ok,
                "authorized_keys",
                format!("{} does not exist: only `listen` lets sources in", path.display()),
            )];
        }
        Err(e) => return vec![found(Grade::Warn, "authorized_keys", format!("{}: {e}", path.display()))],
        Ok(text) => text,
    };
    let findings = lint(&text, vault.layout.root(), known);
    if findings.is_empty() {
        return vec![found(
            Grade::Ok,
            "authorized_keys",
            format!("{}: every line of a source has restrict and its command", path.display()),
        )];
    }
    let say = |finding: crate::authorized_keys::Finding| {
        found(Grade::Fail, "authorized_keys", format!("{} line {}: {}", path.display(), finding.line, finding.why))
    };
    findings.into_iter().map(say).collect()
}

/// What the main file says; included files and Match blocks need `sshd -T` as root.
fn sshd() -> Vec<Finding> {
    let Ok(text) = fs::read_to_string("/etc/ssh/sshd_config") else {
        return vec![found(Grade::Ok, "sshd", "its configuration cannot be seen from here")];
    };
    let value = |key: &str| {
        text.lines().map(str::trim).take_while(|line| !line.to_ascii_lowercase().starts_with("match ")).find_map(
            |line| {
                let (name, value) = line.split_once([' ', '\t', '='])?;
                name.eq_ignore_ascii_case(key).then(|| value.trim().to_ascii_lowercase())
            },
        )
    };
    let mut findings = Vec::new();
    if value("PubkeyAuthentication").as_deref() == Some("no") {
        findings.push(found(Grade::Fail, "sshd", "PubkeyAuthentication no: no source can come in by sshd"));
    }
    if value("StrictModes").as_deref() == Some("no") {
        findings.push(found(Grade::Warn, "sshd", "StrictModes no: sshd takes authorized_keys that others can write"));
    }
    if value("PermitUserEnvironment").is_some_and(|value| value != "no") {
        findings.push(found(
            Grade::Warn,
            "sshd",
            "PermitUserEnvironment is on: a line's environment= reaches the session",
        ));
    }
    if value("ClientAliveInterval").is_none_or(|value| value == "0") {
        findings.push(found(
            Grade::Ok,
            "sshd",
            "no ClientAliveInterval: dead connections stay until the session's own idle timeout",
        ));
    }
    if findings.is_empty() {
        findings.push(found(Grade::Ok, "sshd", "nothing against it in /etc/ssh/sshd_config"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_passes_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        probe_file_system(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(probe_file_system(&dir.path().join("missing")).unwrap_err().code, "file-system");
    }

    #[test]
    fn append_only_directories_keep_names_and_no_more_is_claimed() {
        let said = |all: &[bool]| shut(all).map(|finding| (finding.grade == Grade::Ok, finding.said));
        assert_eq!(said(&[false, false]), None);
        let (is_ok, whole) = said(&[true, true]).unwrap();
        assert!(is_ok && whole.contains("no name in these can be removed or renamed"), "{whole}");
        assert!(whole.contains("can still write them over"), "{whole}");
        let (is_ok, part) = said(&[true, false, true]).unwrap();
        assert!(!is_ok && part.starts_with("set on 2 of 3 directories"), "{part}");
        for needed in [Shelf::Pages, Shelf::Envelopes, Shelf::Substitutes] {
            assert!(APPEND_ONLY.contains(&needed));
        }
    }
}

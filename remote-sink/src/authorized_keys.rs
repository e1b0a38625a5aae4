//! Lines of OpenSSH's authorized_keys: made, found, added, removed and judged.
//!
//! A key line without our forced command is a free shell for its owner: a source could then delete everything. So a
//! line is added only when no other line of the same key stands in the file, and `doctor` judges all of them.

use rustix::fs::{FlockOperation, flock};
use shared::card::SshKey;
use shared::id::SourceName;
use shared::sys::durable;
use shared::text::printable;
use shared::wire::Role;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The largest file that is edited.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// What the comment of our lines begins with.
const COMMENT: &str = "remote-sink:";

/// A file that is left as it is, and why.
#[derive(Debug, thiserror::Error)]
pub enum AuthorizedKeysError {
    #[error("cannot {what} {path}: {source}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} {why}: sshd would ignore or misread it")]
    Unsafe { path: PathBuf, why: String },
    #[error("line {line} of {path} gives this SSH key {gives}")]
    OtherEntry { path: PathBuf, line: usize, gives: String },
    #[error("{what} cannot stand in a forced command: it has control characters, is not UTF-8 or not absolute")]
    Unquotable { what: &'static str },
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AuthorizedKeysError {
    let path = path.to_path_buf();
    move |source| AuthorizedKeysError::Io { what, path, source }
}

/// A source's way in: everything that its line fixes.
#[derive(Debug, Clone)]
pub struct Grant<'a> {
    pub program: &'a Path,
    pub root: &'a Path,
    pub source: &'a SourceName,
    pub role: Role,
    /// Networks from which the key is taken; all when empty.
    pub from: &'a [String],
    pub key: &'a SshKey,
}

impl Grant<'_> {
    /// The command that sshd runs for this key, whatever the client asks for.
    pub fn command(&self) -> Result<String, AuthorizedKeysError> {
        let program = shell_word(self.program, "the path of remote-sink")?;
        let root = shell_word(self.root, "the path of the vault")?;
        Ok(format!("{program} serve --root {root} --source {} --role {}", self.source, self.role))
    }

    /// The whole line, without a line end.
    pub fn line(&self) -> Result<String, AuthorizedKeysError> {
        let from = if self.from.is_empty() { String::new() } else { format!("from=\"{}\",", self.from.join(",")) };
        // sshd takes a backslash before a quote away, and no other.
        let command = self.command()?.replace('"', "\\\"");
        Ok(format!("restrict,{from}command=\"{command}\" {} {COMMENT}{}", self.key.openssh(), self.source))
    }
}

/// Characters that mean themselves to a POSIX shell.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/._-+@:=,".contains(c)
}

/// Is this what [`shell_word`] writes? Then no second command hides in it.
fn is_one_word(text: &str) -> bool {
    let quoted = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    text.chars().all(is_plain) || quoted.is_some_and(|inner| !inner.replace("'\\''", "").contains('\''))
}

/// A path as one word of a POSIX shell: sshd runs forced commands through the account's shell.
pub fn shell_word(path: &Path, what: &'static str) -> Result<String, AuthorizedKeysError> {
    let refused = AuthorizedKeysError::Unquotable { what };
    let Some(text) = path.to_str() else { return Err(refused) };
    if !path.is_absolute() || text.chars().any(char::is_control) {
        return Err(refused);
    }
    Ok(if text.chars().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) })
}

/// One key line, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Counted from 1.
    pub line: usize,
    pub options: Vec<(String, Option<String>)>,
    pub key_type: String,
    pub blob: Vec<u8>,
    pub comment: String,
}

impl Entry {
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|(name, _)| name.eq_ignore_ascii_case(option))
    }
    pub fn command(&self) -> Option<&str> {
        self.options.iter().find(|(name, _)| name.eq_ignore_ascii_case("command"))?.1.as_deref()
    }
    /// Is the forced command a session of this source in this vault?
    pub fn serves(&self, root: &Path, source: &SourceName) -> bool {
        let Ok(root) = shell_word(root, "") else { return false };
        let tail = format!(" serve --root {root} --source {source} --role ");
        self.command().and_then(|command| command.split_once(&tail)).is_some_and(|(program, role)| {
            program.starts_with(['/', '\'']) && is_one_word(program) && role.parse::<Role>().is_ok()
        })
    }
    /// What the owner of the key gets by this line, in words.
    pub fn gives(&self) -> String {
        match self.command() {
            None => "a free shell (no command=)".into(),
            Some(command) => format!("another command: {}", printable(command.as_bytes(), 200)),
        }
    }
    fn is(&self, key: &SshKey) -> bool {
        self.blob == key.blob()
    }
}

/// All key lines of a file; lines that are none are left out, as sshd does.
pub fn entries(text: &str) -> Vec<Entry> {
    text.lines().enumerate().filter_map(|(at, line)| entry(at + 1, line)).collect()
}

fn entry(line: usize, text: &str) -> Option<Entry> {
    let text = text.trim_start_matches([' ', '\t']);
    if text.is_empty() || text.starts_with('#') {
        return None;
    }
    let at =
        |options, rest| key_of(rest).map(|(key_type, blob, comment)| Entry { line, options, key_type, blob, comment });
    // As sshd: first as a line without options, then with.
    at(Vec::new(), text).or_else(|| {
        let (options, rest) = options(text)?;
        at(options, rest)
    })
}

/// `type base64 comment`
fn key_of(text: &str) -> Option<(String, Vec<u8>, String)> {
    let mut words = text.trim_start_matches([' ', '\t']).splitn(2, [' ', '\t']);
    let key_type = words.next()?;
    let mut words = words.next()?.trim_start_matches([' ', '\t']).splitn(2, [' ', '\t']);
    let blob = data_encoding::BASE64.decode(words.next()?.trim_end().as_bytes()).ok()?;
    // The blob repeats its type: a word that only looks like base64 is no key.
    let length = usize::try_from(u32::from_be_bytes(blob.get(..4)?.try_into().ok()?)).ok()?;
    let inner = blob.get(4..4usize.checked_add(length)?)?;
    (inner == key_type.as_bytes()).then(|| (key_type.to_owned(), blob, words.next().unwrap_or("").trim().to_owned()))
}

/// Options up to the first space outside quotes; returns them and the rest of the line.
#[expect(clippy::type_complexity, reason = "a list of options and the rest")]
fn options(text: &str) -> Option<(Vec<(String, Option<String>)>, &str)> {
    let mut found = Vec::new();
    let mut name = String::new();
    let mut value: Option<String> = None;
    let mut quoted = false;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if quoted && chars.peek().is_some_and(|(_, next)| *next == '"') => {
                chars.next();
                value.get_or_insert_default().push('"');
            }
            '"' => {
                quoted = !quoted;
                value.get_or_insert_default();
            }
            ' ' | '\t' if !quoted => {
                found.push((name, value));
                return Some((found, &text[at..]));
            }
            ',' if !quoted => found.push((std::mem::take(&mut name), value.take())),
            '=' if !quoted && value.is_none() => value = Some(String::new()),
            _ => match &mut value {
                Some(value) => value.push(c),
                None => name.push(c),
            },
        }
    }
    None
}

/// What `install` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installed {
    Added,
    /// A line of this key for the same source of the same vault stood there with other options.
    Replaced,
    AlreadyThere,
}

/// The file of one account, checked and locked.
#[derive(Debug)]
pub struct AccountKeys {
    path: PathBuf,
    text: String,
    /// Held until the edit is done, so that two commands do not lose each other's lines.
    _lock: File,
}

impl AccountKeys {
    /// Opens `HOME/.ssh/authorized_keys`; makes the directory (0700) if it is missing.
    pub fn open(home: &Path) -> Result<Self, AuthorizedKeysError> {
        let dir = home.join(".ssh");
        check(home, false)?;
        if !dir.exists() {
            durable::create_dir(&dir, 0o700).map_err(io_error("create", &dir))?;
        }
        check(&dir, false)?;
        let lock = File::open(&dir).map_err(io_error("open", &dir))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| io_error("lock", &dir)(e.into()))?;
        let path = resolve(dir.join("authorized_keys"))?;
        let text = read(&path)?;
        Ok(Self { path, text, _lock: lock })
    }

    /// The file that is edited: behind a symbolic link, its target.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn entries(&self) -> Vec<Entry> {
        entries(&self.text)
    }

    /// The lines of this key; refuses when one of them is of another kind than ours.
    pub fn check(&self, grant: &Grant<'_>) -> Result<Vec<Entry>, AuthorizedKeysError> {
        let same: Vec<Entry> = self.entries().into_iter().filter(|entry| entry.is(grant.key)).collect();
        match same.iter().find(|entry| !entry.serves(grant.root, grant.source)) {
            Some(other) => Err(self.other(other)),
            None => Ok(same),
        }
    }

    /// Adds the line of this grant; refuses when the same key has an entry of another kind.
    pub fn install(&mut self, grant: &Grant<'_>) -> Result<Installed, AuthorizedKeysError> {
        let line = grant.line()?;
        let same = self.check(grant)?;
        let lines: Vec<&str> = self.text.lines().collect();
        if let [only] = same.as_slice()
            && lines.get(only.line - 1) == Some(&line.as_str())
        {
            return Ok(Installed::AlreadyThere);
        }
        let drop: Vec<usize> = same.iter().map(|entry| entry.line).collect();
        let mut text = without(&self.text, &drop);
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&line);
        text.push('\n');
        self.write(text)?;
        Ok(if same.is_empty() { Installed::Added } else { Installed::Replaced })
    }

    /// Removes the lines of this key that serve this source; tells how many, and refuses to be silent about others.
    pub fn remove(&mut self, key: &SshKey, root: &Path, source: &SourceName) -> Result<usize, AuthorizedKeysError> {
        let same: Vec<Entry> = self.entries().into_iter().filter(|entry| entry.is(key)).collect();
        let (ours, others): (Vec<Entry>, Vec<Entry>) = same.into_iter().partition(|entry| entry.serves(root, source));
        if !ours.is_empty() {
            let drop: Vec<usize> = ours.iter().map(|entry| entry.line).collect();
            self.write(without(&self.text, &drop))?;
        }
        match others.first() {
            Some(other) => Err(self.other(other)),
            None => Ok(ours.len()),
        }
    }

    fn other(&self, entry: &Entry) -> AuthorizedKeysError {
        AuthorizedKeysError::OtherEntry { path: self.path.clone(), line: entry.line, gives: entry.gives() }
    }

    fn write(&mut self, text: String) -> Result<(), AuthorizedKeysError> {
        durable::replace(&self.path, text.as_bytes(), durable::PRIVATE).map_err(io_error("write", &self.path))?;
        self.text = text;
        Ok(())
    }
}

/// The text without these lines (counted from 1); every other byte stays.
fn without(text: &str, drop: &[usize]) -> String {
    text.split_inclusive('\n').enumerate().filter(|(at, _)| !drop.contains(&(at + 1))).map(|(_, line)| line).collect()
}

/// Ours, and writable by nobody else.
fn check(path: &Path, file: bool) -> Result<(), AuthorizedKeysError> {
    let meta = fs::metadata(path).map_err(io_error("look at", path))?;
    let wrong = |why: String| Err(AuthorizedKeysError::Unsafe { path: path.into(), why });
    if meta.is_dir() == file || (file && !meta.is_file()) {
        return wrong(if file { "is not a regular file".into() } else { "is not a directory".into() });
    }
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me {
        return wrong(format!("belongs to user {}, not to this account ({me})", meta.uid()));
    }
    if meta.permissions().mode() & 0o022 != 0 {
        return wrong("can be written by others (chmod go-w)".into());
    }
    Ok(())
}

/// Follows a symbolic link, so that the link stays and its target is edited.
fn resolve(path: PathBuf) -> Result<PathBuf, AuthorizedKeysError> {
    match fs::symlink_metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(path),
        Err(e) => Err(io_error("look at", &path)(e)),
        Ok(meta) => {
            let target = if meta.is_symlink() {
                fs::canonicalize(&path).map_err(io_error("follow the link", &path))?
            } else {
                path
            };
            check(&target, true)?;
            if meta.is_symlink()
                && let Some(dir) = target.parent()
            {
                check(dir, false)?;
            }
            Ok(target)
        }
    }
}

fn read(path: &Path) -> Result<String, AuthorizedKeysError> {
    let wrong = |why: &str| AuthorizedKeysError::Unsafe { path: path.into(), why: why.into() };
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(io_error("look at", path)(e)),
        Ok(meta) if meta.len() > FILE_BYTES_MAX => return Err(wrong("is larger than 4 MiB")),
        Ok(_) => {}
    }
    String::from_utf8(fs::read(path).map_err(io_error("read", path))?).map_err(|_| wrong("is not UTF-8"))
}

/// A line that `doctor` warns of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub line: usize,
    pub why: String,
}

/// Judges every line that concerns sources: known keys and lines with our comment or command.
pub fn lint(text: &str, root: &Path, known: &[(SourceName, SshKey)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for entry in entries(text) {
        let owner = known.iter().find(|(_, key)| entry.is(key));
        let ours = owner.is_some() || entry.comment.starts_with(COMMENT) || entry.command().is_some_and(is_serve);
        if !ours {
            continue;
        }
        let mut say = |why: String| findings.push(Finding { line: entry.line, why });
        match (entry.command(), owner) {
            (None, _) => say("no command=: whoever holds this key has a free shell".into()),
            (Some(_), Some((name, _))) if !entry.serves(root, name) => {
                say(format!("the key of {name} gets {}", entry.gives()))
            }
            _ => {}
        }
        if !entry.has("restrict") {
            say("no restrict: forwarding and terminals are open to this key".into());
        }
        for (name, _) in &entry.options {
            let lower = name.to_ascii_lowercase();
            if matches!(lower.as_str(), "pty" | "port-forwarding" | "agent-forwarding" | "x11-forwarding" | "user-rc")
                || matches!(lower.as_str(), "environment" | "permitopen" | "permitlisten" | "tunnel" | "cert-authority")
            {
                say(format!("the option {} opens what restrict closes", printable(name.as_bytes(), 40)));
            }
        }
    }
    findings
}

fn is_serve(command: &str) -> bool {
    command.contains("remote-sink") && command.contains(" serve ")
}

#[cfg(test)]
#[path = "authorized_keys_tests.rs"]
mod tests;

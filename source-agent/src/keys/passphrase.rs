//! Where passphrases come from: a file, a command, systemd's credentials, or the terminal; never argv, never the
//! value of a variable. Two sources at once are an error: a forgotten one must not win in silence.

use crate::keys::files;
use crate::paths::show;
use crate::report::{Exit, Failure, Outcome};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use zeroize::Zeroizing;

/// Most bytes of a passphrase.
const PASSPHRASE_BYTES_MAX: u64 = 4096;
/// The name of the passphrase among systemd's credentials.
const CREDENTIAL: &str = "passphrase";
/// Words of a passphrase made here: 88 bits.
const WORDS: usize = 8;

/// What the environment says.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub file: Option<OsString>,
    pub command: Option<OsString>,
    pub credentials: Option<OsString>,
    /// May the terminal be asked?
    pub terminal: bool,
}

/// The one place that was chosen.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    File(PathBuf),
    Command(OsString),
    Terminal,
}

impl Sources {
    /// Of this process. Programs that it starts do not need these variables, but they are only names of places.
    pub fn of_process() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            file: set("SOURCE_AGENT_PASSPHRASE_FILE"),
            command: set("SOURCE_AGENT_PASSPHRASE_COMMAND"),
            credentials: set("CREDENTIALS_DIRECTORY"),
            terminal: std::io::stdin().is_terminal(),
        }
    }

    fn choose(&self) -> Outcome<Source> {
        let credential = self.credentials.as_ref().map(|dir| Path::new(dir).join(CREDENTIAL)).filter(|p| p.exists());
        let mut found: Vec<(&str, Source)> = Vec::new();
        if let Some(file) = &self.file {
            found.push(("SOURCE_AGENT_PASSPHRASE_FILE", Source::File(file.into())));
        }
        if let Some(command) = &self.command {
            found.push(("SOURCE_AGENT_PASSPHRASE_COMMAND", Source::Command(command.clone())));
        }
        if let Some(path) = credential {
            found.push(("CREDENTIALS_DIRECTORY", Source::File(path)));
        }
        if found.len() > 1 {
            let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
            let message = format!("more than one source of the passphrase: {}", names.join(" and "));
            return Err(Failure::new("passphrase-sources", Exit::Usage, message).help("unset all but one"));
        }
        match found.pop() {
            Some((_, source)) => Ok(source),
            None if self.terminal => Ok(Source::Terminal),
            None => Err(Failure::new(
                "passphrase-missing",
                Exit::Identity,
                "a passphrase is needed and nobody can be asked",
            )
            .help(
                "set SOURCE_AGENT_PASSPHRASE_FILE or SOURCE_AGENT_PASSPHRASE_COMMAND, give systemd's credential \
                     'passphrase', or run it on a terminal",
            )),
        }
    }

    /// The passphrase of an existing file.
    pub fn existing(&self, file: &Path) -> Outcome<Zeroizing<String>> {
        match self.choose()? {
            Source::File(path) => from_file(&path),
            Source::Command(command) => from_command(&command),
            Source::Terminal => ask(&format!("Passphrase for {}: ", show(file))),
        }
    }

    /// A passphrase for a new file; made here when none is typed, and then shown on the terminal once.
    pub fn new_one(&self) -> Outcome<Zeroizing<String>> {
        let passphrase = match self.choose() {
            Ok(Source::File(path)) => from_file(&path)?,
            Ok(Source::Command(command)) => from_command(&command)?,
            Ok(Source::Terminal) => return ask_new(),
            Err(failure) if failure.code == "passphrase-missing" => {
                return Err(Failure { exit: Exit::Usage, help: None, ..failure }.help(
                    "set SOURCE_AGENT_PASSPHRASE_FILE or SOURCE_AGENT_PASSPHRASE_COMMAND, run it on a terminal, or \
                     say --no-passphrase",
                ));
            }
            Err(failure) => return Err(failure),
        };
        Ok(passphrase)
    }
}

/// The first line of a file.
pub fn from_file(path: &Path) -> Outcome<Zeroizing<String>> {
    let fail =
        |e: &std::io::Error| Failure { exit: Exit::Identity, ..Failure::io("read the passphrase from", path, e) };
    let text = files::read_secret_text(path, PASSPHRASE_BYTES_MAX).map_err(|e| fail(&e))?;
    first_line(&text, &show(path))
}

/// The first line of what a command prints. A shell runs it: the variable is the user's own.
fn from_command(command: &OsString) -> Outcome<Zeroizing<String>> {
    let fail = |why: String| {
        Failure::new("passphrase-command", Exit::Identity, format!("SOURCE_AGENT_PASSPHRASE_COMMAND {why}"))
    };
    let mut child = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| fail(format!("cannot be started: {e}")))?;
    let read = child.stdout.take().map(|out| files::read_bounded(out, PASSPHRASE_BYTES_MAX));
    let status = child.wait().map_err(|e| fail(format!("cannot be waited for: {e}")))?;
    if !status.success() {
        return Err(fail(format!("failed: {status}")));
    }
    let text = read.transpose().map_err(|e| fail(format!("printed something else: {e}")))?;
    first_line(text.as_deref().map_or("", |text| text), "the output of SOURCE_AGENT_PASSPHRASE_COMMAND")
}

fn first_line(text: &str, place: &str) -> Outcome<Zeroizing<String>> {
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Failure::new("passphrase-empty", Exit::Identity, format!("{place} holds no passphrase")));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

/// The terminal's settings while its echo is off, for the signal that ends the program meanwhile.
static ECHO_OFF: parking_lot::Mutex<Option<Termios>> = parking_lot::Mutex::new(None);

/// Puts the terminal's echo back if a prompt took it away.
pub fn restore_terminal() {
    if let Some(settings) = ECHO_OFF.lock().take() {
        // The program is about to end; there is nobody left to tell.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &settings);
    }
}

fn ask(prompt: &str) -> Outcome<Zeroizing<String>> {
    *ECHO_OFF.lock() = tcgetattr(std::io::stdin()).ok();
    let answer = rpassword::prompt_password(prompt).map(Zeroizing::new);
    *ECHO_OFF.lock() = None;
    answer.map_err(|e| match e.kind() {
        std::io::ErrorKind::Interrupted => Failure::new("interrupted", Exit::Interrupted, "interrupted"),
        _ => Failure::new("passphrase-missing", Exit::Identity, format!("no passphrase from the terminal: {e}")),
    })
}

fn ask_new() -> Outcome<Zeroizing<String>> {
    let first = ask("New passphrase (empty: I make one): ")?;
    if first.is_empty() {
        let made = random_passphrase();
        tell_terminal(&format!("Passphrase: {}        <- write this down", *made));
        return Ok(made);
    }
    if *first != *ask("The same again: ")? {
        return Err(Failure::new("passphrase-differs", Exit::Usage, "the two passphrases differ; nothing was written"));
    }
    Ok(first)
}

/// Shows a secret to the person at the terminal, whatever the output is sent to.
fn tell_terminal(line: &str) {
    use std::io::Write;
    let told = std::fs::OpenOptions::new().write(true).open("/dev/tty").and_then(|mut tty| writeln!(tty, "{line}"));
    if told.is_err() {
        eprintln!("{line}");
    }
}

/// A new passphrase of eight words of the BIP 39 list.
pub fn random_passphrase() -> Zeroizing<String> {
    let list = bip39::Language::English.word_list();
    let drawn = Zeroizing::new(shared::sys::random::<{ 2 * WORDS }>());
    let mut text = Zeroizing::new(String::with_capacity(WORDS * 10));
    for pair in drawn.as_chunks::<2>().0 {
        if !text.is_empty() {
            text.push('-');
        }
        // 2,048 words: eleven bits of each pair, evenly.
        text.push_str(list[usize::from(u16::from_le_bytes(*pair) & 0x7ff)]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir_with(name: &str, text: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), text).unwrap();
        dir
    }

    #[test]
    fn one_source_is_used() {
        let dir = dir_with("passphrase", "correct horse\r\nsecond line\n");
        let file = dir.path().join("passphrase");
        let sources = Sources { file: Some(file.into()), ..Sources::default() };
        assert_eq!(&**sources.existing(Path::new("x")).unwrap(), "correct horse");
        let sources = Sources { command: Some("echo battery staple; echo more".into()), ..Sources::default() };
        assert_eq!(&**sources.new_one().unwrap(), "battery staple");
        let sources = Sources { credentials: Some(dir.path().into()), ..Sources::default() };
        assert_eq!(&**sources.existing(Path::new("x")).unwrap(), "correct horse");
    }

    #[test]
    fn two_sources_are_an_error() {
        let dir = dir_with("passphrase", "a\n");
        let both = Sources { file: Some("/x".into()), command: Some("echo a".into()), ..Sources::default() };
        assert_eq!(both.existing(Path::new("x")).unwrap_err().code, "passphrase-sources");
        let with = Sources {
            file: Some("/x".into()),
            credentials: Some(dir.path().into()),
            terminal: true,
            ..Sources::default()
        };
        let failure = with.new_one().unwrap_err();
        assert_eq!((failure.code, failure.exit), ("passphrase-sources", Exit::Usage));
        // Credentials without a passphrase among them are no source.
        let other = dir_with("other", "a\n");
        let sources =
            Sources { command: Some("echo a".into()), credentials: Some(other.path().into()), ..Sources::default() };
        assert_eq!(&**sources.existing(Path::new("x")).unwrap(), "a");
    }

    #[test]
    fn nobody_is_asked_without_a_terminal() {
        let failure = Sources::default().existing(Path::new("x")).unwrap_err();
        assert_eq!((failure.code, failure.exit), ("passphrase-missing", Exit::Identity));
        let help = failure.help.unwrap();
        for way in ["SOURCE_AGENT_PASSPHRASE_FILE", "SOURCE_AGENT_PASSPHRASE_COMMAND", "terminal"] {
            assert!(help.contains(way), "{help}");
        }
        assert!(Sources::default().new_one().unwrap_err().help.unwrap().contains("--no-passphrase"));
    }

    #[test]
    fn bad_sources_fail_and_show_nothing() {
        for command in ["exit 3", "true", "printf '\\377'", "head -c 5000 /dev/zero | tr '\\0' y"] {
            let sources = Sources { command: Some(command.into()), ..Sources::default() };
            assert_eq!(sources.existing(Path::new("x")).unwrap_err().exit, Exit::Identity, "{command}");
        }
        let sources = Sources { file: Some("/nowhere/at/all".into()), ..Sources::default() };
        assert_eq!(sources.existing(Path::new("x")).unwrap_err().exit, Exit::Identity);
    }

    #[test]
    fn made_passphrases_are_eight_words() {
        let list = bip39::Language::English.word_list();
        let one = random_passphrase();
        assert_eq!(one.split('-').filter(|word| list.contains(word)).count(), 8);
        assert_ne!(*one, *random_passphrase());
    }
}

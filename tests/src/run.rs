//! Running programs: clean environment, all output kept, a generous end to every wait.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nothing in these tests takes so long; a hang ends here instead of never.
pub const LONGEST: Duration = Duration::from_secs(900);

/// An account other than ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

impl Account {
    /// Finds an account by name in /etc/passwd.
    pub fn find(name: &str) -> Option<Self> {
        let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
        let fields: Vec<&str> =
            passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name)?;
        let [_, _, uid, gid, _, home, _] = fields[..] else { return None };
        Some(Self { name: name.into(), uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.into() })
    }
}

/// A program to run.
#[derive(Debug)]
pub struct Run {
    command: Command,
    shown: String,
    input: Vec<u8>,
}

impl Run {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(&program);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("LANG", "C.UTF-8").env("TZ", "UTC").env("RUST_BACKTRACE", "1");
        command.current_dir("/");
        let shown = Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { command, shown, input: Vec::new() }
    }
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.shown.push(' ');
        self.shown.push_str(&arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }
    pub fn args<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().fold(self, |run, arg| run.arg(arg))
    }
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }
    /// As another account; needs root.
    pub fn account(mut self, account: Option<&Account>) -> Self {
        if let Some(account) = account {
            self.command.uid(account.uid).gid(account.gid).env("HOME", &account.home).env("USER", &account.name);
        }
        self
    }

    /// Starts it with pipes on all three streams.
    pub fn start(mut self) -> Child {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.command.spawn().unwrap_or_else(|e| panic!("cannot start {}: {e}", self.shown))
    }

    /// Starts it and goes on; [`Running::end`] waits for it.
    pub fn begin(self) -> Running {
        let shown = self.shown.clone();
        let input = self.input.clone();
        let mut child = self.start();
        let mut stdin = child.stdin.take().expect("stdin");
        let writer = std::thread::spawn(move || {
            // A program that does not want its input may close it.
            let _ = stdin.write_all(&input);
        });
        let stdout = drain(child.stdout.take().expect("stdout"));
        let stderr = drain(child.stderr.take().expect("stderr"));
        Running { child, shown, writer, stdout, stderr }
    }

    /// Runs it to its end.
    pub fn done(self) -> Done {
        self.begin().end()
    }

    /// Runs it; it must end with 0.
    #[track_caller]
    pub fn ok(self) -> Done {
        self.done().code(0)
    }
}

fn drain(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        // A stream that breaks has ended.
        let _ = from.read_to_end(&mut all);
        all
    })
}

/// A program on its way.
#[derive(Debug)]
pub struct Running {
    child: Child,
    shown: String,
    writer: JoinHandle<()>,
    stdout: JoinHandle<Vec<u8>>,
    stderr: JoinHandle<Vec<u8>>,
}

impl Running {
    pub fn id(&self) -> u32 {
        self.child.id()
    }
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_some()
    }
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
    }
    /// Sends a signal by number.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("signal");
    }
    pub fn end(mut self) -> Done {
        let status = wait_for(&mut self.child, &self.shown);
        let _ = self.writer.join();
        Done {
            shown: self.shown,
            status,
            stdout: self.stdout.join().expect("stdout"),
            stderr: self.stderr.join().expect("stderr"),
        }
    }
}

/// Waits for a child, kills it at [`LONGEST`].
pub fn wait_for(child: &mut Child, shown: &str) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status;
        }
        if start.elapsed() > LONGEST {
            let _ = child.kill();
            panic!("{shown} did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `what` holds; panics when it never does.
pub fn until(what: &str, longest: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < longest, "{what}: not within {longest:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How a program ended, and all it said.
#[derive(Debug)]
pub struct Done {
    pub shown: String,
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Done {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
    pub fn exit(&self) -> Option<i32> {
        self.status.code()
    }
    pub fn killed(&self) -> bool {
        self.status.signal().is_some()
    }
    /// What to show when it went wrong.
    pub fn tell(&self) -> String {
        format!("$ {}\n-> {}\n--- stdout\n{}\n--- stderr\n{}", self.shown, self.status, self.out(), self.err())
    }
    /// It must have ended with this code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.exit(), Some(code), "expected exit code {code}\n{}", self.tell());
        self
    }
    /// It must have ended with one of these codes.
    #[track_caller]
    pub fn code_in(self, codes: &[i32]) -> Self {
        let found = self.exit();
        assert!(found.is_some_and(|code| codes.contains(&code)), "expected one of {codes:?}\n{}", self.tell());
        self
    }
    /// Its standard output must hold this text.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.out().contains(text), "standard output lacks {text:?}\n{}", self.tell());
        self
    }
    /// Its standard error must hold this text.
    #[track_caller]
    pub fn complains(self, text: &str) -> Self {
        assert!(self.err().contains(text), "standard error lacks {text:?}\n{}", self.tell());
        self
    }
    /// A failure with a `help:` line.
    #[track_caller]
    pub fn helps(self) -> Self {
        self.complains("help:")
    }
    /// The one line of standard output that begins so.
    #[track_caller]
    pub fn line(&self, prefix: &str) -> String {
        let out = self.out();
        let mut lines = out.lines().map(str::trim).filter(|line| line.starts_with(prefix));
        let line = lines.next().unwrap_or_else(|| panic!("no line begins with {prefix:?}\n{}", self.tell()));
        assert!(lines.next().is_none(), "several lines begin with {prefix:?}\n{}", self.tell());
        line.to_owned()
    }
    /// Its standard output as JSON lines.
    #[track_caller]
    pub fn json(&self) -> Vec<serde_json::Value> {
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}\n{}", self.tell()))
        };
        self.out().lines().filter(|line| !line.trim().is_empty()).map(parse).collect()
    }
}

/// Arguments of mixed kinds.
pub fn args(items: &[&dyn AsRef<OsStr>]) -> Vec<OsString> {
    items.iter().map(|item| item.as_ref().to_owned()).collect()
}

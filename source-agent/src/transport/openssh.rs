//! The system's `ssh`, for those who need its configuration, agents, jump hosts, certificates or hardware keys.

use crate::config::{Loaded, Remote};
use crate::report::{Exit, Failure, Outcome};
use crate::transport::{COMMAND, Names, Pipe, child, pins};
use shared::sys::durable;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A `Host` of ssh_config, and what we add to it.
#[derive(Debug)]
pub struct Target {
    pub host: String,
    /// Host keys of the configuration, in a file of our own: only these count then.
    pub known_hosts: Option<(PathBuf, String)>,
    pub identity_file: Option<PathBuf>,
    pub names: Names,
}

impl Target {
    pub fn new(loaded: &Loaded, remote: &Remote, host: String, names: Names) -> Outcome<Self> {
        if host.is_empty() || host.starts_with('-') || host.chars().any(|c| c.is_control() || c.is_whitespace()) {
            let shown = shared::text::printable(host.as_bytes(), 100);
            return Err(Failure::new("config", Exit::Usage, format!("'{shown}' is not a host name for ssh")));
        }
        let identity_file = remote.identity_file.as_ref().map(|path| loaded.resolve(path));
        let known_hosts = match pins(&remote.host_key) {
            pins if pins.is_empty() => None,
            pins => {
                // An alias of our own: ssh compares with these keys whatever the host's name resolves to.
                let alias = format!("pawl-{}", remote.name);
                let lines: String = pins.iter().map(|pin| format!("{alias} {}\n", pin.key.openssh())).collect();
                let dir = &loaded.paths.state_dir;
                let path = dir.join(format!("known_hosts-{}", remote.name));
                durable::create_dir(dir, 0o700).map_err(|e| Failure::io("make directory", dir, &e))?;
                if std::fs::read(&path).ok().as_deref() != Some(lines.as_bytes()) {
                    durable::replace(&path, lines.as_bytes(), durable::PRIVATE)
                        .map_err(|e| Failure::io("write", &path, &e))?;
                }
                Some((path, alias))
            }
        };
        Ok(Self { host, known_hosts, identity_file, names })
    }

    /// The command; nothing of it comes from the other side.
    pub fn command(&self, timeout: Duration) -> Command {
        let mut command = Command::new("ssh");
        command.arg("-T");
        for option in [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=4",
            "ClearAllForwardings=yes",
            "ForwardAgent=no",
            "ForwardX11=no",
            "RequestTTY=no",
            "EscapeChar=none",
        ] {
            command.args(["-o", option]);
        }
        command.arg("-o").arg(format!("ConnectTimeout={}", timeout.as_secs().clamp(1, 30)));
        if let Some((path, alias)) = &self.known_hosts {
            let mut file = std::ffi::OsString::from("UserKnownHostsFile=");
            file.push(quoted(path));
            command.arg("-o").arg(file).arg("-o").arg(format!("HostKeyAlias={alias}"));
            command.args(["-o", "GlobalKnownHostsFile=/dev/null", "-o", "CheckHostIP=no", "-o", "UpdateHostKeys=no"]);
        }
        if let Some(identity) = &self.identity_file {
            command.args(["-o", "IdentitiesOnly=yes"]).arg("-i").arg(identity);
        }
        command.arg("--").arg(&self.host).arg(COMMAND);
        command
    }
}

/// ssh splits the values of its options at blanks, and expands `%`.
fn quoted(path: &std::path::Path) -> std::ffi::OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let escape = |byte: &u8| match byte {
        b'%' => b"%%".to_vec(),
        b'"' | b'\\' => vec![b'\\', *byte],
        _ => vec![*byte],
    };
    let escaped: Vec<u8> = path.as_os_str().as_bytes().iter().flat_map(escape).collect();
    std::ffi::OsString::from_vec([b"\"", &escaped[..], b"\""].concat())
}

pub fn open(target: Target, timeout: Duration) -> Outcome<Pipe> {
    let command = target.command(timeout);
    // Without keys of the configuration, those that ssh knows by itself decide.
    let host = target.known_hosts.is_none().then_some(target.host);
    let classify = move |status: Option<u32>, stderr: &[u8]| classify(status, stderr, &target.names, host.as_deref());
    child::spawn(command, timeout, Box::new(classify))
        .map_err(|failure| failure.help("install the OpenSSH client, or use url = \"ssh://…\" in place of ssh-host"))
}

/// What to do about a host key that ssh itself refused, without a pinned one: message and help.
fn unknown_key(text: &str, host: &str) -> (&'static str, String) {
    if !text.contains("HAS CHANGED") {
        let help = format!("log in once by hand, and compare the key with the operator's: ssh {host}");
        return ("ssh knows no host key of it", help);
    }
    // ssh says it itself, with the file and the name that stand there.
    let own = text.lines().map(str::trim).find(|line| line.starts_with("ssh-keygen "));
    let remove =
        own.map_or_else(|| format!("ssh-keygen -R {host}"), |line| shared::text::printable(line.as_bytes(), 300));
    let help = format!("ask the operator for the new key; if it is that one: {remove}, then log in once: ssh {host}");
    ("the host key is not the one that ssh knows", help)
}

/// ssh's own errors: exit code 255 and a text (in the program's one language). `host`: no key is pinned here, so that
/// what ssh knows of this host decides.
pub fn classify(
    status: Option<u32>,
    stderr: &[u8],
    names: &Names,
    host: Option<&str>,
) -> Option<(&'static str, String, Option<String>)> {
    if status != Some(255) {
        return None;
    }
    let text = String::from_utf8_lossy(stderr);
    let (key, repin) = match host {
        Some(host) => unknown_key(&text, host),
        None => ("the host key is not the pinned one", names.repin()),
    };
    let known: [(&str, &'static str, &str, &str); 9] = [
        ("Host key verification failed", "ssh-hostkey", key, &repin),
        (
            "Permission denied",
            "ssh-login",
            "the login was refused",
            "give the source card to the operator: remote-sink enroll 'source-card:1,...' --install",
        ),
        ("Too many authentication failures", "ssh-login", "the login was refused", "set identity-file for this remote"),
        (
            "Could not resolve hostname",
            "ssh-dns",
            "the host's name cannot be resolved",
            "look at HostName in ~/.ssh/config",
        ),
        (
            "Connection refused",
            "ssh-refused",
            "the host refuses connections",
            "is an SSH server running there, on that port?",
        ),
        (
            "timed out",
            "ssh-timeout",
            "the host does not answer in time",
            "is the machine up, and does a firewall let you through?",
        ),
        ("not responding", "ssh-timeout", "the host stopped answering", "is the machine up, and is the line stable?"),
        ("No route to host", "ssh-unreachable", "the host cannot be reached", "is this machine's network up?"),
        ("Network is unreachable", "ssh-unreachable", "the host cannot be reached", "is this machine's network up?"),
    ];
    let found = known.iter().find(|(needle, ..)| text.contains(needle));
    Some(match found {
        Some((_, code, message, help)) => (code, (*message).to_owned(), Some((*help).to_owned())),
        None => ("ssh", "ssh could not connect".to_owned(), Some("try the same by hand: ssh -v HOST".to_owned())),
    })
}

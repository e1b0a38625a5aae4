//! `source-agent enroll`: with an ordinary login on the sink, one command exchanges both cards.

use crate::cli::Context;
use crate::cli::output::to_stderr;
use crate::cli::remote::add_card;
use crate::cli::remote::edit::Way;
use crate::config::{self, Loaded};
use crate::keys;
use crate::progress::{notice, size};
use crate::report::{Exit, Failure, Outcome};
use shared::card::{SinkCard, SourceCard, is_host, is_user};
use shared::text::printable;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long the end of what ssh says is waited for when it has ended.
const TOLD_LONGEST: Duration = Duration::from_secs(2);
/// Most bytes that are read of the other side's answer.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Runs `ssh HOST remote-sink enroll - --install --json` with your own keys and
agent, sends this machine's source card and takes the sink card into the
configuration. The vault must be there: remote-sink init.

Examples:
  source-agent enroll pawl@sink.example
  source-agent enroll pawl@sink.example:2222 --name far --root /srv/vault")]
pub struct EnrollArgs {
    /// The sink, as you would give it to ssh
    #[arg(value_name = "[USER@]HOST[:PORT]", value_parser = parse_login)]
    pub login: Login,
    /// What this machine calls the remote
    #[arg(long, default_value = "offsite")]
    pub name: String,
    /// The vault there [default: as remote-sink finds it]
    #[arg(long, value_name = "DIR")]
    pub root: Option<String>,
}

/// `[USER@]HOST[:PORT]`; IPv6 addresses in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub user: Option<String>,
    pub host: String,
    pub port: Option<u16>,
}

fn parse_login(text: &str) -> Result<Login, String> {
    let (user, address) = match text.rsplit_once('@') {
        Some((user, address)) if is_user(user) => (Some(user.to_owned()), address),
        Some(_) => return Err("its user has characters that no user name has".into()),
        None => (None, text),
    };
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        // What stands behind the bracket is a port or a mistake, which is no number.
        Some((host, rest)) => (host, (!rest.is_empty()).then(|| rest.strip_prefix(':').unwrap_or("?"))),
        None => match address.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') => (host, Some(port)),
            _ => (address, None),
        },
    };
    if !is_host(host) {
        return Err("it has no host, or one with characters that no host name has".into());
    }
    let port = match port {
        None => None,
        Some(port) => Some(port.parse().ok().filter(|port| *port > 0).ok_or("its port is not a number")?),
    };
    Ok(Login { user, host: host.to_owned(), port })
}

pub fn run(args: &EnrollArgs, context: &Context) -> Outcome<Exit> {
    let loaded = config::load(context)?;
    if loaded.config.remotes.iter().any(|remote| remote.name == args.name) {
        let message = format!("there is a remote '{}' already", printable(args.name.as_bytes(), 64));
        return Err(Failure::new("remote-exists", Exit::Usage, message).help("choose another name with --name"));
    }
    let card = keys::load_card(&loaded)?;
    let resolved = resolve(&args.login)?;
    let answer = ask(args, &command(args, &loaded, &resolved), &card)?;
    let sink = answered(&answer, &card)?;
    notice(context, &format!("Enrolled there as {}; this machine's words: {}", sink.name, card.fingerprint()));
    add_card(context, &args.name, &sink, &Way::Card)
}

/// What ssh's own configuration makes of a host: the address that the card shall hold.
#[derive(Debug, PartialEq, Eq)]
struct Resolved {
    user: String,
    host: String,
    port: u16,
}

fn ssh(login: &Login) -> Command {
    let mut command = Command::new("ssh");
    if let Some(port) = login.port {
        command.arg("-p").arg(port.to_string());
    }
    if let Some(user) = &login.user {
        command.arg("-l").arg(user);
    }
    command
}

fn no_ssh(e: &io::Error) -> Failure {
    Failure::new("no-ssh", Exit::Failed, format!("cannot start ssh: {e}"))
        .help("install the OpenSSH client, or exchange the cards by hand: source-agent config show")
}

/// `ssh -G`: no connection is made.
fn resolve(login: &Login) -> Outcome<Resolved> {
    let mut command = ssh(login);
    let output = command.arg("-G").arg("--").arg(&login.host).stdin(Stdio::null()).output().map_err(|e| no_ssh(&e))?;
    if !output.status.success() {
        let why = printable(output.stderr.trim_ascii(), 300);
        return Err(Failure::new(
            "ssh",
            Exit::Unreachable,
            format!("ssh does not understand its configuration: {why}"),
        ));
    }
    resolved(&String::from_utf8_lossy(&output.stdout))
}

fn resolved(settings: &str) -> Outcome<Resolved> {
    let get = |name: &str| {
        let line = settings.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(str::trim).filter(|value| !value.is_empty() && *value != "none")
    };
    if get("proxyjump").is_some() || get("proxycommand").is_some() {
        let message = "this host is reached through another one, which the agent's own SSH does not do";
        return Err(Failure::new("ssh-proxy", Exit::Failed, message)
            .help("exchange the cards by hand and use: source-agent remote add NAME SINK-CARD --ssh-host HOST"));
    }
    let wrong = |what: &str| Failure::new("ssh", Exit::Failed, format!("ssh names no {what} for this host"));
    let user = get("user").filter(|user| is_user(user)).ok_or_else(|| wrong("user"))?.to_owned();
    let host = get("hostname").filter(|host| is_host(host)).ok_or_else(|| wrong("address"))?.to_owned();
    let port = get("port").and_then(|port| port.parse().ok()).ok_or_else(|| wrong("port"))?;
    Ok(Resolved { user, host, port })
}

/// One word for a POSIX shell.
fn word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The command for the other side's shell.
fn command(args: &EnrollArgs, loaded: &Loaded, resolved: &Resolved) -> String {
    let host = if resolved.host.contains(':') { format!("[{}]", resolved.host) } else { resolved.host.clone() };
    let address = word(&format!("{}@{host}:{}", resolved.user, resolved.port));
    let mut command = format!("remote-sink enroll - --install --json --address {address}");
    if loaded.config.source.recipients.is_empty() {
        command += " --role read";
    }
    if let Some(root) = &args.root {
        command += &format!(" --root {}", word(root));
    }
    command
}

/// Runs it over a plain ssh: its questions go to the terminal, and so does what it says, but for the error that it ends
/// with.
fn ask(args: &EnrollArgs, remote_command: &str, card: &SourceCard) -> Outcome<Vec<u8>> {
    let mut command = ssh(&args.login);
    command.arg("-T").arg("--").arg(&args.login.host).arg(remote_command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| no_ssh(&e))?;
    if let Some(mut to) = child.stdin.take() {
        // A login that failed reads nothing; the exit code says so.
        let _ = to.write_all(format!("{card}\n").as_bytes());
    }
    let (said, told) = std::sync::mpsc::channel();
    if let Some(from) = child.stderr.take() {
        std::thread::spawn(move || said.send(tell(from, &mut |line| to_stderr(line))));
    }
    let mut answer = Vec::new();
    let from = child.stdout.take();
    let read = from.map_or(Ok(0), |from| from.take(ANSWER_BYTES_MAX).read_to_end(&mut answer));
    let status = child.wait().map_err(|e| no_ssh(&e))?;
    // An ssh that stays for later connections may hold the stream open.
    let error = told.recv_timeout(TOLD_LONGEST).ok().flatten();
    read.map_err(|e| no_ssh(&e))?;
    let failed = |code, exit, message: &str, help: &str| Err(Failure::new(code, exit, message).help(help));
    match status.code() {
        Some(0) => Ok(answer),
        Some(127) => failed(
            "not-installed",
            Exit::Unreachable,
            "remote-sink is not installed there, or not on the PATH of a plain ssh command",
            "install it there; or run remote-sink enroll by hand and paste the cards",
        ),
        Some(255) => Err(login_failed(&args.login)),
        _ => Err(refused(error)),
    }
}

/// What remote-sink there ended with: its message and help.
type Told = (String, Option<String>);

/// Passes on what the other side says, line by line and printable, until it ends or an error as JSON came, which is
/// the last that remote-sink says.
fn tell(told: impl Read, say: &mut dyn FnMut(&str)) -> Option<Told> {
    let mut told = BufReader::new(told);
    loop {
        let mut line = Vec::new();
        match told.by_ref().take(ANSWER_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
        let json = serde_json::from_slice::<serde_json::Value>(&line).ok();
        match json.filter(|value| value["message_type"] == "exit_error") {
            Some(value) => {
                let text = |key: &str| value[key].as_str().map(|text| printable(text.as_bytes(), 1000));
                return text("message").map(|message| (message, text("help")));
            }
            None => say(&printable(line.trim_ascii_end(), 1000)),
        }
    }
}

fn refused(error: Option<Told>) -> Failure {
    let refused = "remote-sink there refused to enroll this machine";
    let (message, help) = match error {
        Some((message, help)) => (format!("{refused}: {message}"), help.map(|help| format!("there: {help}"))),
        None => (format!("{refused}; its message stands above"), None),
    };
    let help = help.unwrap_or_else(|| "is there a vault? on the sink: remote-sink init --root DIR".to_owned());
    Failure::new("enroll", Exit::Failed, message).help(help)
}

/// The command that a person would write for this login.
fn by_hand(login: &Login) -> String {
    let user = login.user.as_ref().map_or_else(String::new, |user| format!("{user}@"));
    let port = login.port.map_or_else(String::new, |port| format!("-p {port} "));
    format!("ssh {port}{user}{}", login.host)
}

fn login_failed(login: &Login) -> Failure {
    Failure::new("ssh", Exit::Unreachable, format!("ssh could not connect to {}; its message stands above", login.host))
        .help(format!("try the login by hand first: {}", by_hand(login)))
}

/// The sink card of the answer; the answer must be about our card.
fn answered(answer: &[u8], card: &SourceCard) -> Outcome<SinkCard> {
    let wrong = |why: String| {
        Failure::new("enroll", Exit::Failed, format!("the answer of remote-sink enroll cannot be used: {why}"))
            .detail(format!("it said ({}): {}", size(answer.len() as u64), printable(answer, 200)))
            .help("run remote-sink enroll by hand and paste its sink card: source-agent remote add NAME SINK-CARD")
    };
    let text = String::from_utf8_lossy(answer);
    // Start-up files of a shell may print lines of their own.
    let json = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let enrolled = json.into_iter().find(|value| value["message_type"] == "enrolled");
    let enrolled = enrolled.ok_or_else(|| wrong("it holds no line about an enrolment".into()))?;
    if enrolled["source_id"].as_str() != Some(&card.source_id().to_string()) {
        return Err(wrong("it is about another source card".into()));
    }
    let sink = enrolled["sink_card"].as_str().ok_or_else(|| wrong("it holds no sink card".into()))?;
    sink.parse().map_err(|e: shared::card::CardError| wrong(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::card::SshKey;
    use shared::id::VerifyKey;
    use shared::signature::SigningKey;

    #[test]
    fn logins_are_read_as_ssh_reads_them() {
        let login =
            |user: Option<&str>, host: &str, port| Login { user: user.map(str::to_owned), host: host.into(), port };
        for (text, expected) in [
            ("sink.example", login(None, "sink.example", None)),
            ("backup@sink.example:2222", login(Some("backup"), "sink.example", Some(2222))),
            ("backup@[::1]:22", login(Some("backup"), "::1", Some(22))),
            ("[::1]", login(None, "::1", None)),
            ("::1", login(None, "::1", None)),
        ] {
            assert_eq!(parse_login(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "-oProxyCommand=x", "a@-x", "a b@c", "h:0", "h:x", "h:99999", "[::1]x", "a@h;id", "-l@h"] {
            assert!(parse_login(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_login_to_try_by_hand_is_the_one_that_failed() {
        let help = |text: &str| login_failed(&parse_login(text).unwrap()).help.unwrap();
        assert!(help("backup@127.0.0.1:2222").ends_with("ssh -p 2222 backup@127.0.0.1"));
        assert!(help("sink.example").ends_with("ssh sink.example"));
    }

    #[test]
    fn ssh_says_where_an_alias_leads() {
        let settings = "host sink\nuser backup\nhostname sink.example\nport 2222\nproxycommand none\n";
        let expected = Resolved { user: "backup".into(), host: "sink.example".into(), port: 2222 };
        assert_eq!(resolved(settings).unwrap(), expected);
        assert_eq!(resolved(&format!("{settings}proxyjump bastion\n")).unwrap_err().code, "ssh-proxy");
        assert!(resolved("user x\n").is_err());
    }

    #[test]
    fn only_an_answer_about_our_card_counts() {
        let key = SigningKey::from_seed(&[1; 32]);
        let card = SourceCard::new("web1".parse().unwrap(), SshKey::from_ed25519(&[2; 32]), None, &key);
        let sink = SinkCard {
            name: "web1".parse().unwrap(),
            user: "backup".into(),
            host: "sink.example".into(),
            port: 22,
            host_keys: vec![SshKey::from_ed25519(&[4; 32])],
            sink: VerifyKey::new([6; 32]),
        };
        let line = |id: &str, sink: &str| {
            serde_json::json!({"message_type": "enrolled", "source_id": id, "sink_card": sink}).to_string()
        };
        let id = card.source_id().to_string();
        let good = format!("Welcome to Debian\n{}\n", line(&id, &sink.to_string()));
        assert_eq!(answered(good.as_bytes(), &card).unwrap(), sink);
        for bad in [
            String::new(),
            "\x1b[2Jhello".to_owned(),
            line(&"0".repeat(64), &sink.to_string()),
            line(&id, "sink-card:1,name=x"),
            line(&id, &sink.to_string()[..100]),
        ] {
            let failure = answered(bad.as_bytes(), &card).unwrap_err();
            assert!(!failure.to_string().contains('\x1b'), "{failure}");
        }
    }

    #[test]
    fn what_the_other_side_ends_with_is_text() {
        let json = r#"{"code":1,"error":"no-vault","help":"make one: remote-sink init","message":"/v is \u001b no vault","message_type":"exit_error"}"#;
        let mut said = Vec::new();
        let error = tell(format!("Welcome\x1b[2J\n{json}\n").as_bytes(), &mut |line| said.push(line.to_owned()));
        assert!(said.len() == 1 && said[0].starts_with("Welcome") && !said[0].contains('\x1b'), "{said:?}");
        let failure = refused(error).to_string();
        assert!(failure.contains("/v is") && failure.contains("help: there: make one: remote-sink init"), "{failure}");
        assert!(!failure.contains("{\"") && !failure.contains('\x1b'), "{failure}");
        let none = refused(tell(&b"plain\n"[..], &mut |_| {}));
        assert!(none.message.contains("stands above") && none.help.is_some());
    }

    #[test]
    fn words_for_the_other_shell_are_quoted() {
        assert_eq!(word("a'b; id"), "'a'\\''b; id'");
    }
}

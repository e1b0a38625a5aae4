//! What must hold in a configuration beyond its grammar.

use crate::config::{BackupSet, Config, Notify, NotifyKind, Place, Rate, Remote};
use shared::card::{SshKey, is_host, is_user};
use shared::id::SourceName;
use shared::text::printable;
use std::collections::BTreeSet;
use std::path::Path;

/// Everything that is wrong, one line each.
pub fn faults(config: &Config) -> Vec<String> {
    let mut faults = Vec::new();
    names("backup.set", config.backup.sets.iter().map(|set| set.name.as_str()), &mut faults);
    names("remote", config.remotes.iter().map(|remote| remote.name.as_str()), &mut faults);
    for set in &config.backup.sets {
        faults.extend(
            set_fault(set).map(|why| format!("[[backup.set]] '{}': {why}", printable(set.name.as_bytes(), 64))),
        );
    }
    for remote in &config.remotes {
        let place = place(remote, &config.source.name, Path::new("/"));
        faults.extend(place.err().map(|why| format!("[[remote]] '{}': {why}", printable(remote.name.as_bytes(), 64))));
    }
    let hooks = &config.hooks;
    for (name, list) in [
        ("before", &hooks.before),
        ("after-success", &hooks.after_success),
        ("after-failure", &hooks.after_failure),
        ("finally", &hooks.finally),
    ] {
        if list.iter().any(|argv| argv.first().is_none_or(String::is_empty)) {
            faults.push(format!("[hooks] {name}: an empty command; each is a list of program and arguments"));
        }
    }
    faults.extend(config.notify.iter().filter_map(notify_fault).map(|why| format!("[[notify]] {why}")));
    if config.limits.read_concurrency == Some(0) {
        faults.push("[limits] read-concurrency: at least 1".into());
    }
    if config.limits.nice.is_some_and(|nice| !(0..=19).contains(&nice)) {
        faults.push("[limits] nice: 0 to 19".into());
    }
    if config.limits.retry.attempts == 0 {
        faults.push("[limits] retry.attempts: at least 1".into());
    }
    for (what, timeout) in [("limits", config.limits.timeout), ("hooks", config.hooks.timeout)] {
        if timeout.is_some_and(|timeout| timeout.seconds() == 0) {
            faults.push(format!("[{what}] timeout: at least 1s"));
        }
    }
    if is_zero(config.limits.limit_upload) {
        faults.push(format!("[limits] limit-upload: {NO_LIMIT}"));
    }
    faults
}

/// What a limit of nothing is answered with.
const NO_LIMIT: &str = "more than 0B a second; leave it out for no limit";

fn is_zero(rate: Option<Rate>) -> bool {
    rate.is_some_and(|rate| rate.bytes() == 0)
}

/// A rate on the command line: not nothing.
pub fn rate(text: &str) -> Result<Rate, String> {
    let rate = text.parse()?;
    if is_zero(Some(rate)) { Err(NO_LIMIT.to_owned()) } else { Ok(rate) }
}

fn names<'a>(what: &str, names: impl Iterator<Item = &'a str>, faults: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for name in names {
        let shown = printable(name.as_bytes(), 64);
        if name.parse::<SourceName>().is_err() {
            faults.push(format!("[[{what}]] name '{shown}': 1 to 64 letters, digits, '.', '_' or '-'"));
        }
        if !seen.insert(name) {
            faults.push(format!("[[{what}]] '{shown}' stands twice"));
        }
    }
}

fn set_fault(set: &BackupSet) -> Option<String> {
    match (set.paths.is_empty(), set.command.is_empty()) {
        (true, true) => return Some("it needs 'paths' or 'command'".into()),
        (false, false) => return Some("it has 'paths' and 'command'; make two sets".into()),
        (false, true) if set.stdin_name.is_some() => return Some("'stdin-name' belongs to 'command'".into()),
        (true, false) if set.stdin_name.is_none() => {
            return Some("'command' needs 'stdin-name': the name of the file that its output becomes".into());
        }
        _ => {}
    }
    if set.command.first().is_some_and(String::is_empty) {
        return Some("the first word of 'command' is empty".into());
    }
    if let Some(name) = &set.stdin_name
        && !is_file_name(name)
    {
        return Some("'stdin-name' must be a file name without '/'".into());
    }
    if let Some(path) = set.paths.iter().find(|path| !path.is_absolute()) {
        return Some(format!("the path '{}' is not absolute", crate::paths::show(path)));
    }
    set.tags.iter().find(|tag| !is_tag(tag)).map(|tag| {
        format!(
            "the tag '{}' is empty, longer than 64 bytes, or has a comma or a control character",
            printable(tag.as_bytes(), 64)
        )
    })
}

/// Can a file be called so?
pub fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= shared::limits::NAME_BYTES_MAX
        && !matches!(name, "." | "..")
        && !name.contains(['/', '\0'])
}

/// Can a tag be called so? Commas separate tags on the command line.
pub fn is_tag(tag: &str) -> bool {
    !tag.is_empty() && tag.len() <= 64 && !tag.contains(|c: char| c == ',' || c.is_control())
}

fn notify_fault(notify: &Notify) -> Option<&'static str> {
    match notify.kind {
        NotifyKind::Healthchecks if notify.url_file.is_none() => {
            Some("healthchecks: needs url-file (the URL is a secret)")
        }
        NotifyKind::Healthchecks if notify.url.is_some() => Some("healthchecks: the URL is a secret: use url-file"),
        NotifyKind::Ntfy if notify.url.is_none() == notify.url_file.is_none() => Some("ntfy: needs url or url-file"),
        NotifyKind::Ntfy if notify.topic_file.is_none() => Some("ntfy: needs topic-file (the topic is a secret)"),
        _ => None,
    }
}

/// Could the kernel have an algorithm of this name? It keeps 15 bytes.
fn is_congestion_control(name: &str) -> bool {
    (1..16).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Where a remote is; relative files start at `base`.
pub fn place(remote: &Remote, own: &SourceName, base: &Path) -> Result<Place, String> {
    let source = || remote.source.clone().unwrap_or_else(|| own.clone());
    if is_zero(remote.limit_upload) {
        return Err(format!("'limit-upload': {NO_LIMIT}"));
    }
    if let Some(name) = &remote.tcp_congestion {
        if remote.url.is_none() {
            return Err("'tcp-congestion' belongs to 'url'".into());
        }
        if !is_congestion_control(name) {
            return Err("'tcp-congestion' is a name such as \"bbr\"".into());
        }
    }
    match (&remote.url, &remote.ssh_host, &remote.path) {
        (Some(url), None, None) => ssh_place(remote, url, base),
        (None, Some(host), None) => {
            if remote.host_key.iter().any(|line| SshKey::from_openssh(line).is_none()) {
                return Err(HOST_KEY_LINE.into());
            }
            if host.starts_with('-') || host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control())
            {
                return Err("'ssh-host' is not a host name".into());
            }
            Ok(Place::SshHost { host: host.clone(), source: source() })
        }
        (None, None, Some(path)) => {
            if !remote.host_key.is_empty() || remote.identity_file.is_some() {
                return Err("'host-key' and 'identity-file' belong to 'url' and 'ssh-host'".into());
            }
            Ok(Place::Path { path: base.join(path), source: source() })
        }
        (None, None, None) => Err("it needs one of 'url', 'ssh-host', 'path'".into()),
        _ => Err("it has more than one of 'url', 'ssh-host', 'path'".into()),
    }
}

const HOST_KEY_LINE: &str = "'host-key' holds a line that is not 'ssh-ed25519 AAAA…'";

fn ssh_place(remote: &Remote, url: &str, base: &Path) -> Result<Place, String> {
    if remote.source.is_some() {
        return Err("'source' stands at the end of 'url'".into());
    }
    let (user, host, port, source) = parse_url(url)?;
    let host_keys: Option<Vec<SshKey>> = remote.host_key.iter().map(|line| SshKey::from_openssh(line)).collect();
    let host_keys = host_keys.ok_or(HOST_KEY_LINE)?;
    if host_keys.is_empty() {
        return Err("'host-key' is missing: the host key stands on the sink's card".into());
    }
    let file = remote.identity_file.clone().unwrap_or_else(|| crate::keys::SSH_KEY_FILE.into());
    Ok(Place::Ssh { user, host, port, source, host_keys, identity_file: base.join(file) })
}

/// `ssh://user@host:port/source`; an IPv6 address stands in brackets.
pub fn parse_url(url: &str) -> Result<(String, String, u16, SourceName), String> {
    let err = |why: &str| format!("'url' {why}; it looks like ssh://pawl@sink.example:22/web1");
    let rest = url.strip_prefix("ssh://").ok_or_else(|| err("does not begin with ssh://"))?;
    let (address, source) = rest.split_once('/').ok_or_else(|| err("has no source name"))?;
    let (user, address) = address.rsplit_once('@').ok_or_else(|| err("has no user"))?;
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(|| err("has a wrong port"))?)),
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let port = match port {
        None => 22,
        Some(port) => port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| err("has a wrong port"))?,
    };
    if !is_user(user) {
        return Err(err("has a wrong user"));
    }
    if !is_host(host) {
        return Err(err("has a wrong host"));
    }
    let source = source.parse().map_err(|e: shared::id::NameError| err(&format!("ends with {e}")))?;
    Ok((user.to_owned(), host.to_owned(), port, source))
}

//! Configurations good and bad.

use super::*;
use shared::card::SinkCard;

/// A configuration with every key of the documentation.
const WHOLE: &str = r#"
config-version = 1

[source]
name = "web1"
signing-key = "signing.key"
recipients = ["owner.pub", "office.pub"]
state-dir = "/var/lib/source-agent"

[backup]
exclude = ["/**/node_modules/", "*.tmp", "!keep.tmp"]
exclude-if-present = [".nobackup"]
exclude-caches = true
exclude-larger-than = "20GiB"
one-file-system = true
xattrs = true
compression = "auto"
on-unreadable = "warn"
min-interval = "20h"

[[backup.set]]
name = "system"
paths = ["/etc", "/root"]
exclude = ["/var/cache/"]
exclude-file = ["more"]
one-file-system = false
tags = ["daily"]

[[backup.set]]
name = "postgres"
command = ["runuser", "-u", "postgres", "--", "pg_dumpall"]
stdin-name = "all.sql"

[[remote]]
name = "offsite"
url = "ssh://backup@sink.example:2222/web1"
host-key = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMYTR3wvCj/aB9+eGswW1mKRO8U6n3GU5uDmHiC9IqxM"]
identity-file = "ssh_offsite"
sink = "NnFB_gMrKn8bIBZRrWqcXvKwvy86xbri01-DXbWGd7A"

[[remote]]
name = "friend"
ssh-host = "friend-backup"
source = "web9"
required = false
limit-upload = "1MiB"

[[remote]]
name = "disk"
path = "vault"

[limits]
limit-upload = "8MiB"
read-concurrency = 2
nice = 19
io-class = "idle"
retry = { attempts = 5, max-wait = "15min" }
timeout = "2min"

[check]
max-age = "36h"
restore-test-every = "90d"

[hooks]
before = [["/etc/source-agent/before.sh"]]
after-success = []
after-failure = [["/usr/local/bin/page-me", "now"]]
finally = []
timeout = "10min"

[[notify]]
type = "healthchecks"
url-file = "hc-url"
[[notify]]
type = "ntfy"
url = "https://ntfy.sh"
topic-file = "ntfy-topic"
states = ["fail"]

[metrics]
textfile = "/var/lib/prometheus/node-exporter/source-agent.prom"

[log]
level = "info"
format = "auto"
"#;

fn loaded(text: &str) -> Loaded {
    let paths = Paths {
        config: "/c/config.toml".into(),
        config_dir: "/c".into(),
        state_dir: "/c/state".into(),
        cache_dir: "/c/cache".into(),
    };
    Loaded { config: parse(text, Path::new("/c/config.toml")).unwrap(), paths, text: text.into() }
}

fn refused(text: &str) -> String {
    let failure = parse(text, Path::new("/c/config.toml")).unwrap_err();
    assert_eq!(failure.exit, Exit::Failed);
    assert!(failure.help.is_some());
    failure.to_string()
}

/// `WHOLE` with one text in place of another must be refused and say this.
fn changed(from: &str, to: &str, says: &str) {
    assert!(WHOLE.contains(from), "{from}");
    let message = refused(&WHOLE.replacen(from, to, 1));
    assert!(message.contains(says), "{message}");
}

fn context(remotes: &[&str]) -> Context {
    use clap::Parser;
    let mut arguments = vec!["source-agent", "doctor"];
    for name in remotes {
        arguments.extend(["--remote", name]);
    }
    crate::cli::Cli::try_parse_from(arguments).unwrap().context
}

#[test]
fn the_whole_configuration_is_understood() {
    let loaded = loaded(WHOLE);
    let config = &loaded.config;
    assert_eq!(config.source.name.as_str(), "web1");
    assert_eq!(config.check.max_age.unwrap().seconds(), 36 * 3600);
    assert_eq!(config.check.restore_test_every.unwrap().seconds(), 90 * 86_400);
    assert_eq!(config.limits.limit_upload.unwrap().bytes(), 8 << 20);
    assert_eq!(config.limits.retry.max_wait.seconds(), 900);
    assert_eq!(config.limits.timeout().as_secs(), 120);
    assert_eq!(config.hooks.after_failure, [["/usr/local/bin/page-me", "now"]]);
    assert_eq!(config.notify.len(), 2);
    let names: Vec<&str> = config.remotes.iter().map(|remote| remote.name.as_str()).collect();
    assert_eq!(names, ["offsite", "friend", "disk"]);
}

#[test]
fn a_set_adds_to_the_defaults_and_overrides_them() {
    let loaded = loaded(WHOLE);
    let options = loaded.options(Some(loaded.set("system").unwrap()));
    assert_eq!(options.exclude, ["/**/node_modules/", "*.tmp", "!keep.tmp", "/var/cache/"]);
    assert_eq!(options.exclude_file, [PathBuf::from("/c/more")]);
    assert!(!options.one_file_system);
    assert_eq!(options.exclude_larger_than, Some(20 << 30));
    assert_eq!(options.min_interval.unwrap().as_secs(), 20 * 3600);
    let plain = loaded.options(None);
    assert!(plain.one_file_system);
    assert_eq!(plain.exclude.len(), 3);
    let failure = loaded.set("nothing").unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
    assert!(failure.to_string().contains("there are: system, postgres"));
}

#[test]
fn remotes_are_chosen_and_placed() {
    let loaded = loaded(WHOLE);
    assert_eq!(loaded.remotes(&context(&[])).unwrap().len(), 3);
    let chosen = loaded.remotes(&context(&["disk", "friend"])).unwrap();
    assert_eq!(chosen.iter().map(|remote| remote.name.as_str()).collect::<Vec<_>>(), ["friend", "disk"]);
    let failure = loaded.remotes(&context(&["offsit"])).unwrap_err();
    assert_eq!((failure.code, failure.exit), ("remote-unknown", Exit::Usage));

    let all = &loaded.config.remotes;
    let Place::Ssh { user, host, port, source, host_keys, identity_file } = loaded.place(&all[0]).unwrap() else {
        panic!("not ssh")
    };
    assert_eq!((user.as_str(), host.as_str(), port, source.as_str()), ("backup", "sink.example", 2222, "web1"));
    assert_eq!((host_keys.len(), identity_file), (1, PathBuf::from("/c/ssh_offsite")));
    assert!(all[0].sink_key().is_ok());
    let web9 = Place::SshHost { host: "friend-backup".into(), source: "web9".parse().unwrap() };
    assert_eq!(loaded.place(&all[1]).unwrap(), web9);
    let disk = Place::Path { path: "/c/vault".into(), source: "web1".parse().unwrap() };
    assert_eq!(loaded.place(&all[2]).unwrap(), disk);
    let failure = all[2].sink_key().unwrap_err();
    assert_eq!((failure.code, failure.remote.as_deref()), ("sink-unpinned", Some("disk")));
}

#[test]
fn unknown_keys_are_shown_with_what_is_known() {
    let message = refused(&WHOLE.replace("exclude-caches", "exclude-cache"));
    assert!(message.contains("exclude-cache = true"), "{message}");
    assert!(message.contains("^^^^^^^^^^^^^"), "{message}");
    assert!(message.contains("line 13, column 1"), "{message}");
    assert!(message.contains("expected one of `exclude`, `exclude-file`"), "{message}");
    for (from, to) in [
        ("name = \"web1\"", "nam = \"web1\""),
        ("stdin-name", "stdin_name"),
        ("ssh-host =", "sshhost ="),
        ("max-age", "maximum-age"),
        ("[metrics]", "[metric]"),
        ("finally", "final"),
        ("attempts", "tries"),
        ("topic-file", "topic"),
        ("[log]", "[[retention]]\n[log]"),
    ] {
        changed(from, to, "unknown field");
    }
}

#[test]
fn units_must_say_which() {
    changed("\"20GiB\"", "\"20G\"", "does not say which G: write 20GiB or 20GB");
    changed("\"20GiB\"", "\"20\"", "has no unit");
    changed("\"20GiB\"", "20", "invalid type");
    changed("\"36h\"", "\"36m\"", "minutes or months");
    changed("\"36h\"", "\"36\"", "has no unit");
    changed("\"36h\"", "\"1y\"", "not a span of time");
    changed("\"2min\"", "\"2m\"", "line 58, column 11");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    changed("config-version = 1", "config-version = 2", "this program reads 1");
    changed("config-version = 1", "", "config-version = 1");
    changed("name = \"friend\"", "name = \"offsite\"", "stands twice");
    changed("name = \"postgres\"", "name = \"../x\"", "letters, digits");
    changed("paths = [\"/etc\", \"/root\"]", "paths = [\"etc\"]", "not absolute");
    changed("paths = [\"/etc\", \"/root\"]", "", "needs 'paths' or 'command'");
    changed("stdin-name = \"all.sql\"", "", "needs 'stdin-name'");
    changed("\"all.sql\"", "\"../all.sql\"", "without '/'");
    changed("\"all.sql\"", "\"..\"", "without '/'");
    changed("[\"daily\"]", "[\"a,b\"]", "comma");
    changed("path = \"vault\"", "path = \"vault\"\nssh-host = \"x\"", "more than one of");
    changed("path = \"vault\"", "", "one of 'url'");
    changed("path = \"vault\"", "path = \"vault\"\ntcp-congestion = \"bbr\"", "belongs to 'url'");
    changed("\"ssh_offsite\"", "\"ssh_offsite\"\ntcp-congestion = \"b/r\"", "a name such as");
    changed("ssh-host = \"friend-backup\"", "ssh-host = \"-oProxyCommand=x\"", "not a host name");
    changed("host-key = [", "# [", "'host-key' is missing");
    changed("ssh-ed25519 AAAA", "ssh-rsa AAAA", "ssh-ed25519");
    changed("sink = \"NnF", "sink = \"Nn", "not a sink key");
    changed("[[\"/etc/source-agent/before.sh\"]]", "[[]]", "empty command");
    changed("nice = 19", "nice = -5", "0 to 19");
    changed("attempts = 5", "attempts = 0", "at least 1");
    changed("url-file = \"hc-url\"", "url = \"https://hc/secret\"", "needs url-file");
    changed("topic-file = \"ntfy-topic\"", "", "needs topic-file");
}

#[test]
fn urls_are_read_strictly() {
    let good = check::parse_url("ssh://backup@[::1]:22/web1").unwrap();
    assert_eq!((good.1.as_str(), good.2), ("::1", 22));
    assert_eq!(check::parse_url("ssh://b@h/web1").unwrap().2, 22);
    for bad in [
        "http://b@h/web1",
        "ssh://h/web1",
        "ssh://b@h",
        "ssh://b@h/",
        "ssh://b@h/a/b",
        "ssh://b@h:0/a",
        "ssh://b@h:70000/a",
        "ssh://b@h:x/a",
        "ssh://-b@h/a",
        "ssh://b@-h/a",
        "ssh://b@[::1/a",
        "ssh://b@[::1]x/a",
        "ssh://b@h;x/a",
        "ssh://b@/a",
        "ssh://a:b@h/../x",
    ] {
        assert!(check::parse_url(bad).is_err(), "{bad}");
    }
}

#[test]
fn every_configuration_written_here_is_read_here() {
    parse(&template::example(), Path::new("x")).unwrap();
    // Every line that is commented out must be right once the comment sign goes.
    let open: Vec<String> = template::example()
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = ") || rest.starts_with('[') => rest.to_owned(),
            _ => line.to_owned(),
        })
        .collect();
    let open = open
        .join("\n")
        .replace(
            "\"ssh-ed25519 AAAAC3Nz...\"",
            "\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMYTR3wvCj/aB9+eGswW1mKRO8U6n3GU5uDmHiC9IqxM\"",
        )
        .replace("Jzg2a4Yd...", "NnFB_gMrKn8bIBZRrWqcXvKwvy86xbri01-DXbWGd7A");
    let config = parse(&open, Path::new("x")).unwrap();
    assert_eq!((config.remotes.len(), config.backup.sets.len(), config.notify.len()), (3, 2, 2));
    assert!(config.limits.limit_upload.is_some() && config.metrics.textfile.is_some());
    assert!(config.source.mixed_recipients && config.reader.is_some());
}

#[test]
fn a_sink_card_becomes_a_remote() {
    let card = SinkCard {
        name: "web1".parse().unwrap(),
        user: "backup".into(),
        host: "::1".into(),
        port: 2022,
        host_keys: vec![SshKey::from_ed25519(&[4; 32]), SshKey::from_ed25519(&[5; 32])],
        sink: VerifyKey::new([6; 32]),
    };
    let text = format!("{WHOLE}{}", edit::remote_block("third", &card));
    let loaded = loaded(&text);
    let remote = &loaded.config.remotes[3];
    assert_eq!(remote.sink_key().unwrap(), card.sink);
    let Place::Ssh { host, port, host_keys, .. } = loaded.place(remote).unwrap() else { panic!("not ssh") };
    assert_eq!((host.as_str(), port, host_keys), ("::1", 2022, card.host_keys));
}

#[test]
fn a_missing_file_names_the_way_on() {
    use clap::Parser;
    let arguments = ["source-agent", "-c", "/nowhere/at/all/config.toml", "doctor"];
    let context = crate::cli::Cli::try_parse_from(arguments).unwrap().context;
    let failure = load(&context).unwrap_err();
    assert_eq!(failure.code, "config-missing");
    assert!(failure.help.unwrap().contains("source-agent init"));
}

#[test]
fn sizes_and_ages() {
    for (text, bytes) in [
        ("0B", 0),
        ("1KiB", 1024),
        ("1.5MiB", 3 << 19),
        ("500MB", 500_000_000),
        ("8 GiB", 8 << 30),
        ("1MiB/s", 1 << 20),
    ] {
        assert_eq!(text.parse::<Size>().unwrap().bytes(), bytes, "{text}");
    }
    for text in ["", "GiB", "1", "-1GiB", "1.GiB", ".5GiB", "1e3B", "1 G", "17000000TiB", "1GiBs", "1mb"] {
        assert!(text.parse::<Size>().is_err(), "{text}");
    }
    for (text, seconds) in
        [("90d", 90 * 86_400), ("2w", 14 * 86_400), ("1d12h", 129_600), ("1h 30min", 5400), ("30s", 30)]
    {
        assert_eq!(text.parse::<Age>().unwrap().seconds(), seconds, "{text}");
    }
    for text in ["", "h", "1", "6m", "1mo", "1.5h", "-1h", "99999999999999999999h", "1h3", "1 h"] {
        assert!(text.parse::<Age>().is_err(), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_breaks_the_parsers(text in ".{0,60}") {
        let _ = text.parse::<Size>();
        let _ = text.parse::<Age>();
        let _ = check::parse_url(&text);
        let _ = parse(&text, Path::new("x"));
    }
}

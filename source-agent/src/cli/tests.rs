//! Commands through their arguments, in temporary directories; the help texts as they are.

use super::*;
use crate::crypto::identity::Identity;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Commands whose help is pinned here. Every visible command belongs in it once its flags are settled.
const PINNED: [&str; 6] = ["keygen", "key", "init", "doctor", "config", "completions"];

fn agent(arguments: &[&str]) -> Outcome<Exit> {
    let arguments = ["source-agent", "-q"].iter().chain(arguments);
    let cli = Cli::try_parse_from(arguments).map_err(|e| Failure::new("usage", Exit::Usage, e.render().to_string()))?;
    cli.command.run(&cli.context)
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }
    fn mode(&self, name: &str) -> u32 {
        std::fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }
    fn names(&self, below: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path(below))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
    /// An identity `a.key` with `a.pub`.
    fn with_key() -> Self {
        let dir = Self::new();
        agent(&["keygen", "-o", &dir.path("a.key"), "--no-passphrase"]).unwrap();
        dir
    }
}

fn help(path: &[&str]) -> String {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut at = &mut command;
    for name in path {
        at = at.find_subcommand_mut(name).unwrap();
    }
    at.clone().term_width(100).render_help().to_string()
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn help_texts() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../testdata/help");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        insta::assert_snapshot!("source-agent", help(&[]));
        for name in PINNED {
            insta::assert_snapshot!(name, help(&[name]));
        }
        for (above, below) in
            [("key", "recipient"), ("key", "passphrase"), ("key", "paper"), ("key", "recover"), ("config", "check")]
        {
            insta::assert_snapshot!(format!("{above}-{below}"), help(&[above, below]));
        }
    });
}

#[test]
fn every_help_has_an_example() {
    for name in PINNED {
        let command = Cli::command();
        let command = command.find_subcommand(name).unwrap();
        let mut leaves: Vec<&clap::Command> = command.get_subcommands().collect();
        if leaves.is_empty() {
            leaves.push(command);
        }
        for leaf in leaves {
            let after = leaf.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("Example") && after.contains("  source-agent "), "{name} {}", leaf.get_name());
        }
    }
}

#[test]
fn help_fits_a_terminal_of_eighty_columns_and_names_every_argument() {
    fn walk(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let wide: Vec<&str> = after.lines().filter(|line| line.chars().count() > 78).collect();
        assert!(wide.is_empty(), "{path}: {wide:?}");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{path}: {} has no help", argument.get_id());
        }
        command.get_subcommands().for_each(|below| walk(below, &path));
    }
    walk(&Cli::command(), "");
}

#[test]
fn no_flag_takes_a_secret() {
    fn walk(command: &clap::Command) {
        for argument in command.get_arguments() {
            let takes = argument.get_action().takes_values();
            let name = argument.get_long().unwrap_or_default();
            let secret = ["passphrase", "password", "seed", "words"].iter().any(|word| name.contains(word));
            assert!(!(takes && secret) || name.ends_with("-file"), "{} --{name}", command.get_name());
        }
        command.get_subcommands().for_each(walk);
    }
    walk(&Cli::command());
}

#[test]
fn keygen_writes_three_files_once() {
    let dir = Dir::new();
    let (key, paper) = (dir.path("a.key"), dir.path("a.html"));
    agent(&["keygen", "-o", &key, "--no-passphrase", "--paper", &paper]).unwrap();
    assert_eq!((dir.mode("a.key"), dir.mode("a.html"), dir.mode("a.pub")), (0o600, 0o600, 0o644));
    let identity = Identity::from_file(&dir.read("a.key"), None).unwrap();
    let recipient = identity.recipient(shared::format::Kem::XWing).to_string();
    assert_eq!(dir.read("a.pub").trim(), recipient);
    let before = dir.read("a.key");
    assert_eq!(agent(&["keygen", "-o", &key, "--no-passphrase"]).unwrap_err().code, "exists");
    // Not even the public file is written over, and then no private one is made.
    assert_eq!(agent(&["keygen", "-o", &dir.path("a.other"), "--no-passphrase"]).unwrap_err().code, "exists");
    assert_eq!(agent(&["keygen", "-o", &dir.path("b.pub"), "--no-passphrase"]).unwrap_err().code, "key-name");
    assert_eq!(dir.read("a.key"), before);
    assert_eq!(dir.names("."), ["a.html", "a.key", "a.pub"]);
}

#[test]
fn keygen_makes_short_recipients_on_request() {
    let dir = Dir::new();
    agent(&["keygen", "-o", &dir.path("s.key"), "--no-passphrase", "--x25519"]).unwrap();
    assert!(dir.read("s.pub").len() < 300);
}

#[test]
fn the_sheet_brings_the_key_back() {
    let dir = Dir::with_key();
    let (key, public, sheet) = (dir.path("a.key"), dir.path("a.pub"), dir.path("sheet.html"));
    agent(&["key", "paper", "-i", &key, "-o", &sheet]).unwrap();
    assert_eq!(dir.mode("sheet.html"), 0o600);
    assert_eq!(agent(&["key", "paper", "-i", &key, "-o", &sheet]).unwrap_err().code, "exists");
    agent(&["key", "recover", "--check", &public, &sheet]).unwrap();
    agent(&["key", "recover", "-o", &dir.path("b.key"), "--no-passphrase", &sheet]).unwrap();
    assert_eq!(dir.read("a.key"), dir.read("b.key"));
    assert_eq!(dir.read("a.pub"), dir.read("b.pub"));
    agent(&["keygen", "-o", &dir.path("c.key"), "--no-passphrase"]).unwrap();
    let other = agent(&["key", "recover", "--check", &dir.path("c.pub"), &sheet]).unwrap_err();
    assert_eq!((other.code, other.exit), ("sheet-other", Exit::Identity));
    assert_eq!(agent(&["key", "recover", &sheet]).unwrap_err().exit, Exit::Usage);
}

#[test]
fn a_passphrase_is_set_and_taken_away() {
    let dir = Dir::with_key();
    let key = dir.path("a.key");
    let before = dir.read("a.key");
    std::fs::write(dir.path("new"), "correct horse\n").unwrap();
    agent(&["key", "passphrase", "-i", &key, "--new-passphrase-file", &dir.path("new")]).unwrap();
    assert!(Identity::needs_passphrase(&dir.read("a.key")).unwrap());
    assert!(Identity::from_file(&dir.read("a.key"), Some("correct horse")).is_ok());
    assert_eq!(dir.mode("a.key"), 0o600);
    assert_eq!(dir.names("."), ["a.key", "a.pub", "new"]);
    std::fs::write(&key, &before).unwrap();
    std::fs::write(dir.path("empty"), "\n").unwrap();
    let failure = agent(&["key", "passphrase", "-i", &key, "--new-passphrase-file", &dir.path("empty")]);
    assert_eq!(failure.unwrap_err().code, "passphrase-empty");
    assert_eq!(dir.read("a.key"), before);
}

#[test]
fn key_recipient_writes_a_file() {
    let dir = Dir::with_key();
    agent(&["key", "recipient", "-i", &dir.path("a.key"), "-o", &dir.path("again.pub")]).unwrap();
    assert_eq!(dir.read("again.pub"), dir.read("a.pub"));
    assert_eq!(dir.mode("again.pub"), 0o644);
}

#[test]
fn init_makes_a_source_once() {
    let dir = Dir::with_key();
    let config = dir.path("agent/config.toml");
    let init = ["-c", &config, "init", "--recipient", &dir.path("a.pub"), "--name", "web1"];
    agent(&init).unwrap();
    assert_eq!(
        dir.names("agent"),
        ["a.pub", "cache", "config.toml", "signing.key", "ssh_ed25519", "ssh_ed25519.pub", "state"]
    );
    assert_eq!(dir.names("agent/state"), ["lineage", "source.card", "source.secret"]);
    for secret in ["agent/signing.key", "agent/ssh_ed25519", "agent/state/source.secret", "agent/state/lineage"] {
        assert_eq!(dir.mode(secret), 0o600, "{secret}");
    }
    assert_eq!((dir.mode("agent/state"), dir.mode("agent/config.toml")), (0o700, 0o644));
    let card: shared::card::SourceCard = dir.read("agent/state/source.card").parse().unwrap();
    let owner = Identity::from_file(&dir.read("a.key"), None).unwrap().owner_key().verify_key();
    assert_eq!((card.name().as_str(), card.owner()), ("web1", Some(&owner)));
    assert_eq!(agent(&["-c", &config, "config", "check"]).unwrap(), Exit::Done);
    assert_eq!(agent(&["-c", &config, "doctor"]).unwrap(), Exit::Done);
    // The configuration holds no secret.
    let text = dir.read("agent/config.toml");
    for secret in ["agent/signing.key", "agent/state/source.secret"] {
        assert!(!text.contains(dir.read(secret).lines().nth(1).unwrap()));
    }
    let before = (text, dir.read("agent/signing.key"));
    assert_eq!(agent(&init).unwrap_err().code, "exists");
    // Keys that stayed behind are not written over either.
    std::fs::remove_file(&config).unwrap();
    assert_eq!(agent(&init).unwrap_err().code, "exists");
    assert_eq!(dir.read("agent/signing.key"), before.1);
    assert!(!Path::new(&config).exists());
}

#[test]
fn init_takes_recipients_in_every_form() {
    let dir = Dir::with_key();
    agent(&["keygen", "-o", &dir.path("s.key"), "--no-passphrase", "--x25519"]).unwrap();
    agent(&["keygen", "-o", &dir.path("b.key"), "--no-passphrase"]).unwrap();
    std::fs::write(dir.path("many"), format!("# both\n{}{}", dir.read("a.pub"), dir.read("b.pub"))).unwrap();
    let (long, short) = (dir.read("a.pub"), dir.read("s.pub"));

    agent(&["-c", &dir.path("1/config.toml"), "init", "--recipient", short.trim()]).unwrap();
    assert!(dir.read("1/config.toml").contains(short.trim()));
    agent(&["-c", &dir.path("2/config.toml"), "init", "--recipient", long.trim()]).unwrap();
    assert_eq!(dir.read("2/recipient.pub"), long);
    agent(&["-c", &dir.path("3/config.toml"), "init", "--recipients-file", &dir.path("many")]).unwrap();
    assert_eq!(dir.read("3/many.pub"), format!("{}{}", dir.read("a.pub"), dir.read("b.pub")));
    agent(&["-c", &dir.path("4/config.toml"), "init", "--new-key", &dir.path("n.key"), "--no-passphrase"]).unwrap();
    assert_eq!(dir.read("4/owner.pub"), dir.read("n.pub"));
    for at in ["1", "2", "3", "4"] {
        assert_eq!(agent(&["-c", &dir.path(&format!("{at}/config.toml")), "config", "check"]).unwrap(), Exit::Done);
    }
    let mixed = ["-c", &dir.path("5/config.toml"), "init", "--recipient", short.trim(), "--recipient", long.trim()];
    assert_eq!(agent(&mixed).unwrap_err().code, "recipients");
    assert!(!Path::new(&dir.path("5/config.toml")).exists());
    agent(&[&mixed[..], &["--mixed-recipients"]].concat()).unwrap();
    assert_eq!(agent(&["-c", &dir.path("5/config.toml"), "config", "check"]).unwrap(), Exit::Done);
}

#[test]
fn a_recipient_beside_the_configuration_stays_there() {
    let dir = Dir::with_key();
    agent(&["-c", &dir.path("config.toml"), "init", "--recipient", &dir.path("a.pub")]).unwrap();
    assert!(dir.read("config.toml").contains("recipients = [\"a.pub\"]"));
}

#[test]
fn init_refuses_and_leaves_nothing() {
    let dir = Dir::with_key();
    let config = dir.path("x/config.toml");
    let public = dir.path("a.pub");
    for (arguments, code) in [
        (vec!["init"], "no-recipients"),
        (vec!["init", "--recipient", &dir.path("a.key")], "recipient"),
        (vec!["init", "--recipient", "/nowhere"], "io"),
        (vec!["init", "--recipient", &public, "--recipient", &public], "recipients"),
        (vec!["init", "--recipient", &public, "--name", "a/b"], "name"),
        (vec!["init", "--recipient", &public, "sink-card:1,x"], "card"),
        (vec!["init", "--reader", "--new-key", "k"], "usage"),
        (vec!["init", "--recipient", &public, "-i", "k"], "usage"),
        (vec!["init", "--recipient", &public, "--new-key", &dir.path("a.key"), "--no-passphrase"], "exists"),
    ] {
        let arguments: Vec<&str> = ["-c", &config].into_iter().chain(arguments).collect();
        assert_eq!(agent(&arguments).unwrap_err().code, code, "{arguments:?}");
        assert!(!Path::new(&dir.path("x")).exists(), "{arguments:?}");
    }
}

#[test]
fn init_with_a_sink_card_adds_the_remote() {
    let dir = Dir::with_key();
    let card = shared::card::SinkCard {
        name: "web7".parse().unwrap(),
        user: "backup".into(),
        host: "sink.example".into(),
        port: 2022,
        host_keys: vec![shared::card::SshKey::from_ed25519(&[4; 32])],
        sink: shared::id::VerifyKey::new([6; 32]),
    };
    let config = dir.path("x/config.toml");
    agent(&["-c", &config, "init", "--recipient", &dir.path("a.pub"), &card.to_string()]).unwrap();
    let cli = Cli::try_parse_from(["source-agent", "-c", &config, "doctor"]).unwrap();
    let loaded = crate::config::load(&cli.context).unwrap();
    assert_eq!(loaded.config.remotes[0].sink, Some(card.sink));
    assert!(matches!(loaded.place(&loaded.config.remotes[0]).unwrap(), crate::config::Place::Ssh { port: 2022, .. }));
}

#[test]
fn a_reader_has_no_source_keys() {
    let dir = Dir::with_key();
    let config = dir.path("r/config.toml");
    agent(&["-c", &config, "init", "--reader", "-i", &dir.path("a.key"), "--name", "laptop"]).unwrap();
    assert_eq!(dir.names("r/state"), ["source.card"]);
    let card: shared::card::SourceCard = dir.read("r/state/source.card").parse().unwrap();
    let identity = Identity::from_file(&dir.read("a.key"), None).unwrap();
    assert_eq!(card.owner(), Some(&identity.owner_key().verify_key()));
    let cli = Cli::try_parse_from(["source-agent", "-q", "-c", &config, "doctor"]).unwrap();
    let loaded = crate::config::load(&cli.context).unwrap();
    assert_eq!(crate::keys::load_source(&loaded).err().unwrap().code, "no-recipients");
    assert!(crate::keys::load_identity(None, &cli.context).is_ok());
    assert_eq!(agent(&["-c", &config, "config", "check"]).unwrap(), Exit::Done);
    // It has no snapshots of its own; what it can tell of are restore tests.
    assert_eq!(agent(&["-c", &config, "status"]).unwrap(), Exit::Incomplete);
    crate::restore::check::note_restore_test(&loaded.paths.state_dir, 1_700_000_000).unwrap();
    let metrics = dir.path("r/status.prom");
    assert_eq!(agent(&["-c", &config, "status", "--prometheus", &metrics]).unwrap(), Exit::Done);
    assert!(dir.read("r/status.prom").contains("last_restore_test_timestamp_seconds 1700000000\n"));
}

#[test]
fn config_check_names_what_is_missing() {
    let dir = Dir::with_key();
    let config = dir.path("x/config.toml");
    agent(&["-c", &config, "init", "--recipient", &dir.path("a.pub")]).unwrap();
    std::fs::remove_file(dir.path("x/state/source.secret")).unwrap();
    assert_eq!(agent(&["-c", &config, "config", "check"]).unwrap(), Exit::Failed);
    assert_eq!(agent(&["-c", &config, "doctor"]).unwrap(), Exit::Failed);
    std::fs::write(&config, "config-version = 9\n").unwrap();
    assert_eq!(agent(&["-c", &config, "config", "check"]).unwrap_err().code, "config-version");
    assert_eq!(agent(&["-c", &config, "doctor"]).unwrap(), Exit::Failed);
}

#[test]
fn config_check_says_what_cannot_run() {
    let dir = Dir::with_key();
    let config = dir.path("x/config.toml");
    agent(&["-c", &config, "init", "--recipient", &dir.path("a.pub")]).unwrap();
    let good = dir.read("x/config.toml");
    let check = |text: &str| {
        std::fs::write(&config, text).unwrap();
        agent(&["-c", &config, "config", "check"])
    };
    let line = |begin: &str| good.lines().find(|line| line.starts_with(begin)).unwrap().to_owned();
    let (paths, recipients) = (line("paths = "), line("recipients = "));
    assert_eq!(check(&good.replace(&recipients, "recipients = []")).unwrap(), Exit::Failed);
    let gone = good.replace(&paths, "paths = [\"/nowhere/a\", \"/nowhere/b\"]");
    assert_eq!(check(&gone).unwrap(), Exit::Failed);
    // Another set is there: the run is incomplete.
    let other = "[[backup.set]]\nname = \"other\"\npaths = [\"/\"]\n";
    assert_eq!(check(&format!("{gone}\n{other}")).unwrap(), Exit::Done);
    let limits = line("[limits]");
    for key in ["timeout = \"0s\"", "limit-upload = \"0B\""] {
        let name = key.split(' ').next().unwrap();
        let old = good.lines().find(|line| line.starts_with(name)).map(|line| format!("{line}\n")).unwrap_or_default();
        let text = good.replace(&old, "").replace(&limits, &format!("{limits}\n{key}"));
        let failure = check(&text).unwrap_err();
        assert!(failure.code == "config" && failure.to_string().contains(name), "{failure}");
    }
    let remote = "[[remote]]\nname = \"r\"\npath = \"/v\"\nlimit-upload = \"0B\"\n";
    assert_eq!(check(&format!("{good}\n{remote}")).unwrap_err().code, "config");
    let zero = agent(&["-c", &config, "backup", "--limit-upload", "0B"]).unwrap_err();
    assert!(zero.exit == Exit::Usage && zero.message.contains("leave it out"), "{zero}");
}

#[test]
fn a_lost_state_says_what_is_lost_and_the_way_on() {
    let dir = Dir::with_key();
    let config = dir.path("x/config.toml");
    agent(&["-c", &config, "init", "--recipient", &dir.path("a.pub")]).unwrap();
    for name in ["source.secret", "lineage", "source.card"] {
        let path = dir.path(&format!("x/state/{name}"));
        let kept = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let failure = agent(&["-c", &config, "backup", "/etc"]).unwrap_err();
        assert_eq!((failure.code, failure.exit), ("state-lost", Exit::Tampered), "{name}: {failure}");
        let text = failure.to_string();
        assert!(text.contains(name) && text.contains("A lost source machine"), "{failure}");
        std::fs::write(&path, kept).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    agent(&["-c", &dir.path("r/config.toml"), "init", "--reader", "-i", &dir.path("a.key")]).unwrap();
    std::fs::remove_file(dir.path("r/state/source.card")).unwrap();
    let failure = agent(&["-c", &dir.path("r/config.toml"), "enroll", "sink.example"]).unwrap_err();
    assert!(failure.code == "state-lost" && failure.to_string().contains("--reader"), "{failure}");
}

#[test]
fn saving_keeps_comments_and_refuses_nonsense() {
    let dir = Dir::with_key();
    let config = dir.path("x/config.toml");
    agent(&["-c", &config, "init", "--recipient", &dir.path("a.pub")]).unwrap();
    let cli = Cli::try_parse_from(["source-agent", "-c", &config, "doctor"]).unwrap();
    let loaded = crate::config::load(&cli.context).unwrap();
    let broken = format!("{}\n[[remote]]\nname = \"x\"\n", loaded.text);
    assert!(crate::config::edit::save(&loaded, &broken).is_err());
    assert_eq!(dir.read("x/config.toml"), loaded.text);
    let good = format!("{}\n[[remote]]\nname = \"x\"\npath = \"/v\"\n", loaded.text);
    crate::config::edit::save(&loaded, &good).unwrap();
    assert_eq!(dir.read("x/config.toml"), good);
}

#[test]
fn scripts_and_pages_are_written() {
    let dir = Dir::new();
    agent(&["man", &dir.path("man")]).unwrap();
    let names = dir.names("man");
    assert!(names.contains(&"source-agent.1".to_owned()) && names.contains(&"source-agent-restore.1".to_owned()));
    let mut script = Vec::new();
    clap_complete::generate(clap_complete::Shell::Bash, &mut Cli::command(), "source-agent", &mut script);
    assert!(String::from_utf8(script).unwrap().contains("keygen"));
}

#[test]
fn a_configuration_that_anybody_writes_is_refused() {
    let dir = Dir::with_key();
    let config = dir.path("x/config.toml");
    agent(&["-c", &config, "init", "--recipient", &dir.path("a.pub")]).unwrap();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(agent(&["-c", &config, "config", "check"]).unwrap_err().code, "config-mode");
    assert_eq!(agent(&["-c", &config, "doctor"]).unwrap(), Exit::Failed);
}

#[test]
fn saving_keeps_the_mode_and_others_changes() {
    let dir = Dir::with_key();
    let config = dir.path("x/config.toml");
    agent(&["-c", &config, "init", "--recipient", &dir.path("a.pub")]).unwrap();
    let cli = Cli::try_parse_from(["source-agent", "-c", &config, "doctor"]).unwrap();
    let loaded = crate::config::load(&cli.context).unwrap();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o640)).unwrap();
    let text = format!("{}\n# one\n", loaded.text);
    crate::config::edit::save(&loaded, &text).unwrap();
    assert_eq!(dir.mode("x/config.toml"), 0o640);
    // The text that was loaded is not the file's any more.
    assert_eq!(crate::config::edit::save(&loaded, &loaded.text).unwrap_err().code, "config-changed");
    assert_eq!(dir.read("x/config.toml"), text);
}

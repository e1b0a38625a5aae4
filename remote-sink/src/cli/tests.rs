//! The commands, run as from a command line, on vaults in temporary directories.

use super::*;
use crate::enrolment::{Enrolment, Reads};
use crate::store::layout::Layout;
use clap::CommandFactory;
use shared::card::{SinkCard, SourceCard, SshKey};
use shared::id::VerifyKey;
use shared::signature::SigningKey;
use std::fs;
use std::path::Path;

/// A vault and an account, both in one temporary directory.
pub(crate) struct Desk {
    dir: tempfile::TempDir,
}

pub(crate) fn card(name: &str, seed: u8, owner: Option<u8>) -> SourceCard {
    let key = SigningKey::from_seed(&[seed; 32]);
    let ssh = SigningKey::from_seed(&[seed ^ 0x80; 32]).verify_key();
    let owner = owner.map(|byte| VerifyKey::new([byte; 32]));
    SourceCard::new(name.parse().unwrap(), SshKey::from_ed25519(ssh.as_bytes()), owner, &key)
}

impl Desk {
    pub(crate) fn new() -> Self {
        let desk = Self { dir: tempfile::tempdir().unwrap() };
        desk.run(&["init"], "").unwrap();
        desk
    }
    pub(crate) fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("vault")
    }
    fn keys(&self) -> String {
        fs::read_to_string(self.dir.path().join(".ssh/authorized_keys")).unwrap_or_default()
    }
    fn enrolment(&self, name: &str) -> Enrolment {
        Enrolment::read(&Layout::new(self.root()).enrolment(&name.parse().unwrap())).unwrap()
    }
    pub(crate) fn run(&self, args: &[&str], input: &str) -> Result<String, Failure> {
        let (code, out) = self.run_code(args, input);
        code.map(|_| out)
    }
    fn run_code(&self, args: &[&str], input: &str) -> (Result<ExitCode, Failure>, String) {
        let root = self.root();
        let line = ["remote-sink", "--root", root.to_str().unwrap()].into_iter().chain(args.iter().copied());
        let cli = Cli::try_parse_from(line).unwrap();
        let (mut out, mut bytes) = (Vec::new(), input.as_bytes());
        let home = Some(self.dir.path().to_owned());
        let code = super::run(cli.command, &mut Context { global: cli.global, out: &mut out, input: &mut bytes, home });
        (code, String::from_utf8(out).unwrap())
    }
    fn enroll(&self, card: &SourceCard, args: &[&str]) -> Result<String, Failure> {
        let text = card.to_string();
        self.run(&[&["enroll", &text], args].concat(), "")
    }
    fn refused(&self, card: &SourceCard, args: &[&str]) -> Failure {
        self.enroll(card, args).unwrap_err()
    }
}

fn code_of(result: Result<ExitCode, Failure>) -> String {
    format!("{:?}", result.unwrap())
}

#[test]
fn init_makes_a_whole_vault_once() {
    let desk = Desk::new();
    let layout = Layout::new(desk.root());
    for path in
        [layout.config(), layout.sink_key(), layout.listen_key(), layout.sources(), layout.owners(), layout.ledgers()]
    {
        assert!(path.exists(), "{path:?}");
    }
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode(&layout.sink_key()), mode(&layout.listen_key()), mode(layout.root())], [0o600, 0o600, 0o700]);
    let before = fs::read(layout.sink_key()).unwrap();
    assert_eq!(desk.run(&["init"], "").unwrap_err().code, "vault-exists");
    assert_eq!(fs::read(layout.sink_key()).unwrap(), before);
}

#[test]
fn an_interrupted_init_goes_on_and_keeps_its_keys() {
    let desk = Desk::new();
    let layout = Layout::new(desk.root());
    let before = fs::read(layout.sink_key()).unwrap();
    fs::remove_file(layout.config()).unwrap();
    fs::remove_file(layout.listen_key()).unwrap();
    desk.run(&["init"], "").unwrap();
    assert_eq!(fs::read(layout.sink_key()).unwrap(), before);
    assert!(layout.listen_key().exists());
}

#[test]
fn init_leaves_a_directory_with_other_things_alone() {
    let desk = Desk { dir: tempfile::tempdir().unwrap() };
    fs::create_dir(desk.root()).unwrap();
    fs::write(desk.root().join("photo.jpg"), "x").unwrap();
    assert_eq!(desk.run(&["init"], "").unwrap_err().code, "not-empty");
    assert_eq!(fs::read_dir(desk.root()).unwrap().count(), 1);
}

#[test]
fn a_vault_whose_configuration_is_lost_is_not_made_anew() {
    let desk = Desk::new();
    desk.enroll(&card("web1", 1, None), &[]).unwrap();
    fs::remove_file(Layout::new(desk.root()).config()).unwrap();
    assert_eq!(desk.run(&["init"], "").unwrap_err().code, "vault-exists");
}

#[test]
fn init_prints_crontab_lines_only_for_commands_that_exist() {
    let desk = Desk { dir: tempfile::tempdir().unwrap() };
    let out = desk.run(&["init"], "").unwrap();
    let lines: Vec<&str> = out.lines().filter(|line| line.contains(" * * ")).collect();
    assert_eq!(lines.len(), 4, "{out}");
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().skip(5).collect();
        Cli::try_parse_from(words).unwrap();
    }
}

#[test]
fn enroll_prints_the_line_and_the_card_on_lines_of_their_own() {
    let desk = Desk::new();
    let card = card("web1", 1, Some(7));
    let out = desk.enroll(&card, &["--address", "backup@sink.example:2222", "--quota", "500GiB"]).unwrap();
    let line = out.lines().find(|line| line.starts_with("restrict,command=\"")).unwrap();
    assert!(line.contains(&format!("serve --root {} --source web1 --role push\" ssh-ed25519 ", desk.root().display())));
    let sink: SinkCard = out.lines().find(|line| line.starts_with("sink-card:1,")).unwrap().parse().unwrap();
    assert_eq!((sink.user.as_str(), sink.host.as_str(), sink.port), ("backup", "sink.example", 2222));
    let listen = crate::listen::public_key(&Layout::new(desk.root())).unwrap();
    assert!(sink.host_keys.contains(&listen), "the card pins the key of listen");
    assert!(out.contains(&card.fingerprint()));
    assert_eq!(desk.keys(), "", "nothing is installed without --install");
    assert_eq!(desk.enrolment("web1").quota, Some(500 << 30));
    let owner = Layout::new(desk.root()).owner(&VerifyKey::new([7; 32]));
    assert!(owner.join("records").is_dir());
    assert!(desk.run(&["card", "web1"], "").unwrap().lines().any(|line| line == sink.to_string()));
}

#[test]
fn enroll_reads_a_card_from_standard_input_and_answers_in_json() {
    let desk = Desk::new();
    let card = card("web1", 1, None);
    let input = format!("Source card (public):\n{card}        fingerprint  {}\n", card.fingerprint());
    let out = desk.run(&["enroll", "-", "--json", "--install", "--address", "a@b"], &input).unwrap();
    let json: serde_json::Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!(json["name"], "web1");
    assert!(json["sink_card"].as_str().unwrap().parse::<SinkCard>().is_ok());
    assert!(desk.keys().contains("remote-sink:web1"));
    assert_eq!(desk.run(&["enroll", "-"], "no card here").unwrap_err().code, "card");
    let two = format!("{card} {}", super::tests::card("db", 2, None));
    assert_eq!(desk.run(&["enroll", "-"], &two).unwrap_err().code, "card");
}

#[test]
fn enrolling_the_same_card_again_changes_only_what_is_said() {
    let desk = Desk::new();
    let card = card("web1", 1, None);
    desk.enroll(&card, &["--quota", "1GiB", "--install", "--from", "192.0.2.0/24"]).unwrap();
    let (before, keys) = (desk.enrolment("web1"), desk.keys());
    assert!(desk.enroll(&card, &["--install"]).unwrap().contains("Enrolled already"));
    assert_eq!((desk.enrolment("web1"), desk.keys()), (before.clone(), keys));
    desk.enroll(&card, &["--quota", "2GiB"]).unwrap();
    assert_eq!(desk.enrolment("web1"), Enrolment { quota: Some(2 << 30), ..before });
}

#[test]
fn enroll_refuses_doubles_and_nonsense() {
    let desk = Desk::new();
    let web1 = card("web1", 1, None);
    desk.enroll(&web1, &[]).unwrap();
    assert_eq!(desk.refused(&card("web1", 2, None), &[]).code, "name-taken");
    assert_eq!(desk.refused(&web1, &["--name", "other"]).code, "key-taken");
    assert_eq!(desk.refused(&web1, &["--name", "other", "--role", "read"]).code, "key-taken");
    assert_eq!(desk.refused(&web1, &["--role", "read"]).code, "role");
    let new = card("new", 3, None);
    let mirror = desk.refused(&new, &["--role", "mirror"]);
    assert_eq!((mirror.code, mirror.exit), ("role", exit::USAGE));
    for args in [&["--of", "web1"][..], &["--role", "read", "--quota", "1GiB"], &["--address", "a b"]] {
        assert_eq!(desk.refused(&new, args).exit, exit::USAGE, "{args:?}");
    }
    assert_eq!(desk.refused(&new, &["--role", "read", "--of", "nobody"]).exit, exit::NO_SUCH);
    assert_eq!(desk.refused(&new, &["--host-key", "/nowhere.pub"]).code, "io");
    assert!(!Layout::new(desk.root()).source(&"new".parse().unwrap()).exists(), "a refusal leaves nothing");
    let text = new.to_string();
    for bad in [&text[..text.len() - 2], &text.replace("name=new", "name=evil"), "source-card:1,", ""] {
        assert_eq!(desk.run(&["enroll", bad], "").unwrap_err().code, "card", "{bad}");
    }
}

#[test]
fn a_key_that_already_has_a_shell_is_not_enrolled() {
    let desk = Desk::new();
    let card = card("web1", 1, None);
    let ssh = desk.dir.path().join(".ssh");
    shared::sys::durable::create_dir(&ssh, 0o700).unwrap();
    let shell = format!("{} web1's admin\n", card.ssh().openssh());
    shared::sys::durable::replace(&ssh.join("authorized_keys"), shell.as_bytes(), 0o600).unwrap();
    let failure = desk.refused(&card, &["--install"]);
    assert_eq!(failure.code, "authorized-keys");
    assert!(failure.message.contains("free shell"), "{}", failure.message);
    assert_eq!(desk.keys(), shell);
    assert!(!Layout::new(desk.root()).source(&"web1".parse().unwrap()).exists());
    let (code, out) = desk.run_code(&["doctor"], "");
    assert_eq!(code_of(code), code_of(Ok(ExitCode::SUCCESS)), "not enrolled, not ours: {out}");
    desk.enroll(&card, &[]).unwrap();
    let (code, out) = desk.run_code(&["doctor"], "");
    assert!(out.contains("free shell"), "{out}");
    assert_eq!(code_of(code), code_of(Ok(ExitCode::FAILURE)));
}

#[test]
fn readers_see_what_their_card_or_the_operator_says() {
    let desk = Desk::new();
    let (laptop, phone, plain) = (card("laptop", 11, Some(7)), card("phone", 12, None), card("plain", 13, None));
    desk.enroll(&card("web1", 1, Some(7)), &[]).unwrap();
    desk.enroll(&laptop, &["--role", "read"]).unwrap();
    assert_eq!(desk.enrolment("laptop").reads, Reads::Owner(VerifyKey::new([7; 32])));
    desk.enroll(&phone, &["--role", "audit"]).unwrap();
    assert_eq!(desk.enrolment("phone").reads, Reads::SingleOwner);
    desk.enroll(&card("other", 2, Some(8)), &[]).unwrap();
    assert_eq!(desk.refused(&plain, &["--role", "read"]).code, "owners");
    desk.enroll(&plain, &["--role", "read", "--of", "other", "--of", "web1", "--of", "web1"]).unwrap();
    let names = ["other", "web1"].map(|name| name.parse().unwrap()).to_vec();
    assert_eq!(desk.enrolment("plain").reads, Reads::Sources(names));
    assert_eq!(desk.refused(&card("x", 14, None), &["--role", "read", "--of", "laptop"]).exit, exit::NO_SUCH);
}

#[test]
fn revoke_shuts_out_and_enroll_lets_in_again() {
    let desk = Desk::new();
    let card = card("web1", 1, None);
    desk.enroll(&card, &["--install"]).unwrap();
    desk.run(&["revoke", "web1"], "").unwrap();
    assert!(desk.enrolment("web1").revoked);
    assert_eq!(desk.keys(), "");
    desk.run(&["revoke", "web1"], "").unwrap();
    assert!(desk.run(&["sources"], "").unwrap().contains("revoked"));
    assert!(desk.enroll(&card, &["--install"]).unwrap().contains("Enrolled again"));
    assert!(!desk.enrolment("web1").revoked && desk.keys().contains("remote-sink:web1"));
    assert_eq!(desk.run(&["revoke", "nobody"], "").unwrap_err().exit, exit::NO_SUCH);
    assert_eq!(desk.run(&["revoke", "../../etc"], "").unwrap_err().exit, exit::NO_SUCH);
}

#[test]
fn status_says_unknown_until_something_came() {
    let desk = Desk::new();
    assert_eq!(code_of(desk.run_code(&["status"], "").0), code_of(Ok(ExitCode::SUCCESS)));
    desk.enroll(&card("web1", 1, None), &[]).unwrap();
    let metrics = desk.dir.path().join("sink.prom");
    let (code, out) = desk.run_code(&["status", "--max-age", "36h", "--prometheus", metrics.to_str().unwrap()], "");
    assert_eq!(code_of(code), code_of(Ok(ExitCode::from(exit::UNKNOWN))));
    assert!(out.contains("never"), "{out}");
    assert!(fs::read_to_string(metrics).unwrap().contains("remote_sink_snapshots{source=\"web1\"} 0"));
    assert!(desk.run(&["snapshots", "web1"], "").unwrap().contains("No snapshots yet"));
    assert_eq!(desk.run(&["snapshots", "nobody"], "").unwrap_err().exit, exit::NO_SUCH);
}

#[test]
fn a_broken_enrolment_is_named_and_others_are_still_listed() {
    let desk = Desk::new();
    desk.enroll(&card("web1", 1, None), &[]).unwrap();
    desk.enroll(&card("web2", 2, None), &[]).unwrap();
    fs::write(Layout::new(desk.root()).enrolment(&"web2".parse().unwrap()), "nonsense").unwrap();
    let (code, out) = desk.run_code(&["sources"], "");
    assert_eq!(code.unwrap_err().code, "enrolment");
    assert!(out.contains("web1"), "{out}");
}

#[test]
fn commands_need_a_vault() {
    let desk = Desk { dir: tempfile::tempdir().unwrap() };
    for args in [&["sources"][..], &["status"], &["doctor"], &["verify"], &["enroll", "x"], &["listen"]] {
        let failure = desk.run(args, &card("a", 1, None).to_string()).unwrap_err();
        assert!(["no-vault", "card"].contains(&failure.code), "{args:?}: {failure:?}");
    }
}

#[test]
fn rules_are_set_shown_and_noted_and_a_bare_m_is_refused() {
    let desk = Desk::new();
    desk.enroll(&card("web1", 1, None), &[]).unwrap();
    assert!(desk.run(&["retention"], "").unwrap().contains("web1: keeps everything"));
    assert!(desk.run(&["prune"], "").unwrap().contains("web1: keep 0, removed 0 (no rule is set)"));
    let set = ["retention", "web1", "--keep-within", "30d", "-w", "8", "--keep-monthly", "12", "--min-age", "20d"];
    let rules = "keep-weekly 8 keep-monthly 12 keep-within 30d min-age 20d grace 7d max-remove 50%";
    assert!(desk.run(&set, "").unwrap().contains(rules));
    assert!(desk.run(&["report", "web1"], "").unwrap().contains(rules), "the journal knows");
    let layout = Layout::new(desk.root());
    assert!(layout.published(&"web1".parse().unwrap()).exists());
    let root = desk.root();
    for bad in [
        ["--keep-within", "6m"],
        ["--min-age", "30"],
        ["--grace", "1M"],
        ["--max-remove", "50"],
        ["--max-remove", "101%"],
    ] {
        let line = ["remote-sink", "--root", root.to_str().unwrap(), "retention", "web1", bad[0], bad[1]];
        assert!(Cli::try_parse_from(line).is_err(), "{bad:?}");
    }
    let line = ["remote-sink", "prune", "web1", "--accept", "burst"];
    assert!(Cli::try_parse_from(line).is_err(), "a reason is needed");
    assert_eq!(desk.run(&["prune", "--accept", "burst", "--reason", "x"], "").unwrap_err().exit, exit::USAGE);
    assert_eq!(desk.run(&["undelete", "web1", "abcd1234"], "").unwrap_err().exit, exit::NO_SUCH);
    assert_eq!(desk.run(&["retention", "--keep-daily", "3"], "").unwrap_err().exit, exit::USAGE);
    assert_eq!(desk.run(&["retention", "nobody", "-d", "3"], "").unwrap_err().exit, exit::NO_SUCH);
    assert!(desk.run(&["observe", "--json"], "").unwrap().contains("\"sources\":1"));
}

#[test]
fn what_is_wrong_with_one_source_keeps_no_other_from_its_room() {
    let desk = Desk::new();
    for (name, seed) in [("web1", 1), ("web2", 2), ("web3", 3)] {
        desk.enroll(&card(name, seed, None), &[]).unwrap();
    }
    let layout = Layout::new(desk.root());
    fs::remove_dir(layout.shelf(&"web1".parse().unwrap(), crate::store::Shelf::Heads)).unwrap();
    fs::write(layout.enrolment(&"web2".parse().unwrap()), "no = [").unwrap();
    let (code, out) = desk.run_code(&["prune"], "");
    assert_eq!(code_of(code), code_of(Ok(ExitCode::from(exit::FAILED))));
    assert!(out.contains("web3: keep 0") && !out.contains("web1: keep") && !out.contains("web2: keep"), "{out}");
    assert_eq!(code_of(desk.run_code(&["observe"], "").0), code_of(Ok(ExitCode::from(exit::FAILED))));
    let memory = crate::journal::Journal::look(&layout).unwrap();
    assert!(memory.source(&"web3".parse().unwrap()).unwrap().pruned.is_some());
}

#[test]
fn a_stopped_prune_calls_the_hook_and_has_its_own_exit_code() {
    let desk = Desk::new();
    desk.enroll(&card("web1", 1, None), &[]).unwrap();
    let layout = Layout::new(desk.root());
    let (said, name) = (desk.dir.path().join("said"), "web1".parse().unwrap());
    let script = format!("printf '%s %s' \"$ALERT\" \"$SOURCE\" > {}", said.display());
    let hook = format!("\n[hooks]\non-alert = [[\"/bin/sh\", \"-c\", {}]]\n", toml::Value::String(script));
    let config = fs::read_to_string(layout.config()).unwrap() + &hook;
    fs::write(layout.config(), config).unwrap();
    let mut journal = crate::journal::Journal::open(&layout).unwrap();
    let event = crate::journal::Event::Scrubbed(name, 2);
    journal.append(&crate::journal::Moment::now(), event).unwrap();
    drop(journal);
    let (code, out) = desk.run_code(&["prune"], "");
    assert_eq!(code_of(code), code_of(Ok(ExitCode::from(exit::STOPPED))));
    assert!(out.contains("STOPPED, nothing changed") && out.contains("--accept scrub"), "{out}");
    assert_eq!(fs::read_to_string(said).unwrap(), "scrub web1");
    desk.run(&["prune", "web1", "--accept", "scrub", "--reason", "healed"], "").unwrap();
    assert_eq!(code_of(desk.run_code(&["prune"], "").0), code_of(Ok(ExitCode::SUCCESS)));
}

#[test]
fn a_sample_that_finds_nothing_ends_no_alarm_of_damage() {
    let desk = Desk::new();
    desk.enroll(&card("web1", 1, None), &[]).unwrap();
    let damage = |objects| {
        let mut journal = crate::journal::Journal::open(&Layout::new(desk.root())).unwrap();
        let event = crate::journal::Event::Scrubbed("web1".parse().unwrap(), objects);
        journal.append(&crate::journal::Moment::now(), event).unwrap();
    };
    let is_stopped = || code_of(desk.run_code(&["prune"], "").0) == code_of(Ok(ExitCode::from(exit::STOPPED)));
    damage(2);
    desk.run(&["verify", "--sample", "10%"], "").unwrap();
    assert!(is_stopped(), "it may have left out what is damaged");
    desk.run(&["verify"], "").unwrap();
    assert!(!is_stopped(), "everything was read");
    damage(2);
    desk.run(&["prune", "web1", "--accept", "scrub", "--reason", "known"], "").unwrap();
    desk.run(&["verify", "--sample", "10%"], "").unwrap();
    assert!(!is_stopped());
    let memory = crate::journal::Journal::look(&Layout::new(desk.root())).unwrap();
    let scrubbed = memory.source(&"web1".parse().unwrap()).unwrap().scrubbed.unwrap();
    assert_eq!(scrubbed.1, 0, "what was accepted is no damage that stands");
}

#[test]
fn a_source_that_falls_silent_is_told_of_once() {
    let desk = Desk::new();
    desk.enroll(&card("web1", 1, None), &[]).unwrap();
    desk.enroll(&card("fresh", 2, None), &[]).unwrap();
    let layout = Layout::new(desk.root());
    let said = desk.dir.path().join("said");
    let script = format!("printf '%s %s\\n' \"$ALERT\" \"$SOURCE\" >> {}", said.display());
    let hook = format!("\n[hooks]\non-alert = [[\"/bin/sh\", \"-c\", {}]]\n", toml::Value::String(script));
    let config = fs::read_to_string(layout.config()).unwrap();
    fs::write(layout.config(), format!("{config}\n[alerts]\nmax-age = \"36h\"\n{hook}")).unwrap();
    let enrolment = layout.enrolment(&"web1".parse().unwrap());
    let text = fs::read_to_string(&enrolment).unwrap();
    let line = text.lines().find(|line| line.starts_with("enrolled")).unwrap();
    fs::write(&enrolment, text.replace(line, "enrolled = \"2026-01-01T00:00:00Z\"")).unwrap();
    desk.run(&["observe"], "").unwrap();
    desk.run(&["observe"], "").unwrap();
    assert_eq!(fs::read_to_string(&said).unwrap(), "silent web1\n");
    assert!(desk.run(&["report", "web1"], "").unwrap().contains("silent: enrolled, and no snapshot since"));
    let (_, out) = desk.run_code(&["status", "web1", "--json"], "");
    let status: serde_json::Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!(
        (&status["alarms"], &status["held"], &status["growth_7_days"]),
        (&serde_json::json!(["silent"]), &0.into(), &0.into())
    );
    // It came back.
    store_snapshot(&desk, 1, 1_790_000_000);
    desk.run(&["observe"], "").unwrap();
    assert_eq!(fs::read_to_string(&said).unwrap(), "silent web1\n", "it was seen now");
}

#[test]
fn a_silence_is_told_once_whatever_the_clock_did_and_however_many_other_alarms_there_were() {
    use crate::journal::{Event, Journal, Moment, NewHeads, SILENT, SourceSeen, Words};
    use shared::codec::{Blob, List};
    use shared::id::{Digest, Lineage};
    let desk = Desk::new();
    let layout = Layout::new(desk.root());
    let said = desk.dir.path().join("said");
    let names = ["alarm-ahead", "head-ahead", "many-alarms", "speaks"];
    for (seed, name) in (1..).zip(names) {
        desk.enroll(&card(name, seed, None), &[]).unwrap();
    }
    let script = format!("printf '%s %s\\n' \"$ALERT\" \"$SOURCE\" >> {}", said.display());
    let hook = format!("\n[hooks]\non-alert = [[\"/bin/sh\", \"-c\", {}]]\n", toml::Value::String(script));
    let config = fs::read_to_string(layout.config()).unwrap();
    fs::write(layout.config(), format!("{config}\n[alerts]\nmax-age = \"36h\"\n{hook}")).unwrap();
    let (past, ahead) = (1_767_225_600, 7_258_118_400);
    let mut journal = Journal::open(&layout).unwrap();
    let mut note = |wall: i64, event: Event| {
        journal.append(&Moment { wall, boot: Blob::new(vec![]).unwrap(), up: 5 }, event).unwrap();
    };
    let words = |text: &str| Words::new(text).unwrap();
    let alarm = |name: &str, what: &str| Event::Alarm(name.parse().unwrap(), words(what), words("so"));
    let seen = |name: &str| {
        let heads = NewHeads { lineage: Lineage::new([1; 16]), first: 0, last: 0, newest: Digest::new([2; 32]) };
        let source = desk.enrolment(name).card.source_id();
        let heads = List::new(vec![heads]).unwrap();
        let seen = SourceSeen { name: name.parse().unwrap(), source, heads, archives: 0, bytes: 0 };
        Event::Observed(List::new(vec![seen]).unwrap())
    };
    // The clock ran ahead while one silence was told and another source's head was seen. Then it was set right.
    note(ahead, alarm("alarm-ahead", SILENT));
    note(ahead, seen("head-ahead"));
    note(past, seen("alarm-ahead"));
    // Told once, and a hundred other things since.
    note(past, seen("many-alarms"));
    note(past, alarm("many-alarms", SILENT));
    (0..150).for_each(|_| note(past, alarm("many-alarms", "burst")));
    // Told, and back since.
    note(past, alarm("speaks", SILENT));
    note(crate::journal::Moment::now().wall, seen("speaks"));
    drop(journal);
    for _ in 0..2 {
        desk.run(&["observe"], "").unwrap();
        assert_eq!(fs::read_to_string(&said).unwrap(), "silent alarm-ahead\nsilent head-ahead\n");
    }
}

#[test]
fn completions_and_man_pages_come_from_the_same_definitions() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish"] {
        let out = desk.run(&["completions", shell], "").unwrap();
        assert!(out.contains("enroll") && out.contains("install"), "{shell}");
    }
    let dir = desk.dir.path().join("man");
    desk.run(&["man", dir.to_str().unwrap()], "").unwrap();
    let page = fs::read_to_string(dir.join("remote-sink-enroll.1")).unwrap();
    assert!(page.contains("remote\\-sink enroll"), "{page}");
    assert!(!dir.join("remote-sink-serve.1").exists());
}

#[test]
fn help_texts_are_pinned() {
    Cli::command().debug_assert();
    let mut command = Cli::command().term_width(100);
    command.build();
    insta::assert_snapshot!("help", command.render_long_help());
    for name in ["retention", "prune", "undelete", "hold", "release", "observe", "report"] {
        let sub = command.find_subcommand_mut(name).unwrap();
        insta::assert_snapshot!(format!("help_{name}"), sub.render_long_help());
    }
    for name in ["init", "enroll", "card", "revoke", "snapshots", "verify", "status", "rebuild", "doctor", "listen"] {
        let sub = command.find_subcommand_mut(name).unwrap();
        insta::assert_snapshot!(format!("help_{name}"), sub.render_long_help());
    }
}

/// Stores a snapshot as a session would: page, body, head, receipt. Its archive is not there.
fn store_snapshot(desk: &Desk, seed: u8, received: i64) -> String {
    use crate::store::{Name, layout::object_dir};
    use shared::codec::{Blob, List};
    use shared::format::receipt::Receipt;
    use shared::format::snapshot::{Body, FLAG_INCOMPLETE, Head, Page, PageEntry, SealedRoot};
    use shared::id::{ArchiveId, ArchiveNumber, Digest, Lineage, Salt, Series, SessionId};
    use shared::signature::{Plain, sign};

    let name: shared::id::SourceName = "web1".parse().unwrap();
    let layout = Layout::new(desk.root());
    let card = desk.enrolment("web1").card;
    let (source, lineage) = (card.source_id(), Lineage::new([4; 16]));
    let text = fs::read_to_string(layout.sink_key()).unwrap();
    let sink = shared::keyfile::read_signing_key(shared::keyfile::SINK_KEY, &text).unwrap();
    let entry =
        PageEntry { number: ArchiveNumber::FIRST, id: ArchiveId::new([9; 32]), live: Blob::new(vec![1]).unwrap() };
    let page = Plain::new(Page { source, lineage, archives: List::new(vec![entry]).unwrap() }).unwrap();
    let sealed = Blob::new(vec![0; 4096]).unwrap();
    let root = SealedRoot { salt: Salt::new([1; 32]), plain: Digest::new([2; 32]), sealed };
    let body = Plain::new(Body { pages: List::new(vec![page.digest()]).unwrap(), root }).unwrap();
    let head = Head {
        source,
        lineage,
        sink: sink.verify_key(),
        sequence: 0,
        previous: None,
        series: Series::new([0xab; 16]),
        flags: FLAG_INCOMPLETE,
        created: received - 86_400,
        session: SessionId::new([3; 32]),
        body: body.digest(),
        remotes: List::empty(),
        reason: None,
    };
    let head = sign(head, &SigningKey::from_seed(&[seed; 32])).unwrap();
    let receipt = Receipt {
        source,
        lineage,
        sink: sink.verify_key(),
        sequence: 0,
        head: head.digest(),
        received,
        previous: None,
        journal: None,
        archives: 1,
        keep_until: None,
    };
    let receipt = sign(receipt, &sink).unwrap();
    for (object, bytes) in [
        (Name::Page(page.digest()), page.as_bytes()),
        (Name::Body(body.digest()), body.as_bytes()),
        (Name::Head(lineage, 0), head.as_bytes()),
        (Name::Receipt(lineage, 0), receipt.as_bytes()),
    ] {
        assert!(layout.source(&name).join(object_dir(&object)).is_dir(), "enroll made the directory");
        fs::write(layout.object(&name, &object), bytes).unwrap();
    }
    head.digest().short()
}

#[test]
fn snapshots_and_status_show_what_was_accepted() {
    let desk = Desk::new();
    desk.enroll(&card("web1", 1, None), &[]).unwrap();
    let day_ago = jiff::Timestamp::now().as_second() - 86_400;
    let id = store_snapshot(&desk, 1, day_ago);
    let out = desk.run(&["snapshots"], "").unwrap();
    let line = out.lines().find(|line| line.starts_with(&id)).unwrap();
    assert!(line.contains("incomplete") && line.contains("abababab") && line.ends_with("web1 ok"), "{out}");
    let json: serde_json::Value = serde_json::from_str(desk.run(&["snapshots", "--json"], "").unwrap().trim()).unwrap();
    assert_eq!((&json["short_id"], &json["pages"], &json["archives"]), (&id.as_str().into(), &1.into(), &1.into()));
    for (max_age, code) in [("36h", exit::OK), ("12h", exit::FAILED)] {
        let (result, out) = desk.run_code(&["status", "--max-age", max_age], "");
        assert_eq!(code_of(result), code_of(Ok(ExitCode::from(code))), "{max_age}: {out}");
    }
    let json: serde_json::Value = serde_json::from_str(desk.run(&["status", "--json"], "").unwrap().trim()).unwrap();
    assert_eq!((&json["objects"], &json["snapshots"]), (&4.into(), &1.into()));
    assert!(json["bytes"].as_u64().unwrap() >= 4 * 4096, "small objects are charged 4 KiB: {json}");
    assert!(json["head"].as_str().unwrap().starts_with(&id) && json["next_removal"].is_null(), "{json}");
    desk.run(&["observe"], "").unwrap();
    desk.run(&["retention", "web1", "--keep-within", "30d", "--keep-weekly", "2"], "").unwrap();
    desk.run(&["hold", "web1", &id, "--reason", "audit"], "").unwrap();
    let (_, out) = desk.run_code(&["status", "--json"], "");
    let json: serde_json::Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!((&json["held"], &json["alarms"]), (&1.into(), &serde_json::json!([])));
    let out = desk.run_code(&["status"], "").1;
    assert!(out.contains("Next removal") && out.contains(&id), "{out}");
    assert!(desk.run(&["rebuild"], "").unwrap().contains("4 objects"));
}

#[test]
fn damage_is_shown_and_changes_the_exit_code() {
    let desk = Desk::new();
    desk.enroll(&card("web1", 1, None), &[]).unwrap();
    assert_eq!(code_of(desk.run_code(&["verify"], "").0), code_of(Ok(ExitCode::SUCCESS)));
    // The archive that the snapshot names is not there.
    let id = store_snapshot(&desk, 1, 1_790_000_000);
    for command in ["verify", "scrub"] {
        let (code, out) = desk.run_code(&[command, "-q"], "");
        assert_eq!(code_of(code), code_of(Ok(ExitCode::from(exit::DAMAGE))), "{out}");
        assert!(out.starts_with("web1  1 snapshot: signatures 1 ok"), "{out}");
    }
    let heads = Layout::new(desk.root()).shelf(&"web1".parse().unwrap(), crate::store::Shelf::Heads);
    let head = fs::read_dir(heads).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&head).unwrap();
    bytes[40] ^= 1;
    fs::write(&head, bytes).unwrap();
    let out = desk.run(&["snapshots"], "").unwrap();
    assert!(out.contains("DAMAGED") && !out.contains(&id), "{out}");
    assert_eq!(code_of(desk.run_code(&["status"], "").0), code_of(Ok(ExitCode::from(exit::UNKNOWN))));
    // A head that another key signed is no head of this source.
    store_snapshot(&desk, 2, 1_790_000_000);
    assert!(desk.run(&["snapshots"], "").unwrap().contains("DAMAGED"));
    assert_eq!(desk.run(&["verify", "nobody"], "").unwrap_err().exit, exit::NO_SUCH);
}

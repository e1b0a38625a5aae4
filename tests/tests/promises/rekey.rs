//! A recipient that comes later: what it reads before and after the owner has sealed to it what was there.

use std::fs;
use std::path::PathBuf;
use tests::agent::Usual;
use tests::{Agent, Owner};

/// The usual set with an office that reads with an identity of its own.
struct Office {
    usual: Usual,
    owner: Owner,
    reader: Agent,
    restored: usize,
}

impl Office {
    fn new() -> Self {
        let usual = Usual::new();
        let owner = Owner::new(&usual.place.dir("office"));
        let reader = Agent::reader(usual.place.path(), "desk", &owner);
        let enrolled = usual.vault.enroll(&reader.card, "read", "backup@127.0.0.1:22", &["--of", "web1"]);
        reader.add_path("local", &usual.vault, &enrolled);
        reader.run().args(["trust", "add", &usual.source.card]).ok();
        Self { usual, owner, reader, restored: 0 }
    }

    fn recipient(&self) -> &str {
        self.owner.recipient.to_str().unwrap()
    }

    /// From now on the source seals to the office too.
    fn configure(&self) {
        let config = self.usual.source.config();
        let text = fs::read_to_string(&config).unwrap();
        let line = text.lines().find(|line| line.starts_with("recipients = ")).unwrap();
        let more = line.replace(']', &format!(", \"{}\"]", self.recipient()));
        fs::write(&config, text.replace(line, &more)).unwrap();
    }

    fn restore(&mut self, snapshot: &str) -> (Option<i32>, PathBuf) {
        self.restored += 1;
        let target = self.usual.place.join(format!("restored-{}", self.restored));
        (self.reader.restore_path(snapshot, &self.usual.data, &target).done().exit(), target)
    }
}

#[test]
fn a_recipient_that_comes_later_reads_all_after_rekey() {
    let mut office = Office::new();
    let (source, data) = (office.usual.source.clone(), office.usual.data.clone());
    fs::write(data.join("old"), vec![1; 300_000]).unwrap();
    source.must_back_up(&data);
    let first = office.usual.reader.snapshot_ids()[0].clone();
    tests::tree::copy(&data, &office.usual.place.join("first"));
    assert_eq!(office.restore(&first).0, Some(12), "not sealed to it");

    office.configure();
    fs::write(data.join("new"), vec![2; 300_000]).unwrap();
    source.backup(&data).ok().complains("came after this history began").complains("rekey");
    let again = source.backup(&data).ok();
    assert!(!again.err().contains("came after"), "once is enough\n{}", again.tell());
    source.run().arg("doctor").done().says("which came later (rekey, for what was there before)");
    assert_eq!(office.restore("latest").0, Some(13), "old data is sealed to the first one alone");

    let rekey = ["rekey", "--recipient", office.recipient()].map(str::to_owned);
    let rekey: Vec<&str> = rekey.iter().map(String::as_str).collect();
    let dry: Vec<&str> = rekey.iter().copied().chain(["-n"]).collect();
    let reader = &office.usual.reader;
    reader.owner_run(&dry).ok().says("would be sealed");
    let before = office.usual.vault.accepted("web1");
    reader.owner_run(&rekey).ok().says("web1 at local: 1 session sealed to more recipients");
    assert_eq!(office.usual.vault.accepted("web1"), before, "nothing of the source is touched");
    reader.owner_run(&rekey).ok().says("0 sessions sealed");

    let (exit, restored) = office.restore(&first);
    assert_eq!(exit, Some(0));
    tests::tree::assert_same(&office.usual.place.join("first"), &restored);
    let (exit, restored) = office.restore("latest");
    assert_eq!(exit, Some(0));
    tests::tree::assert_same(&data, &restored);
    office.reader.owner_run(&["check", "--read-data"]).ok();
    office.usual.vault.must_be_clean();
}

/// A reader that is no owner passes nothing on, whatever it can read.
#[test]
fn only_the_owner_rekeys() {
    let office = Office::new();
    fs::write(office.usual.data.join("file"), "secret").unwrap();
    office.configure();
    office.usual.source.must_back_up(&office.usual.data);
    let stranger = Owner::new(&office.usual.place.dir("stranger"));
    let words = ["rekey", "--recipient", stranger.recipient.to_str().unwrap()];
    office.reader.owner_run(&words).done().code(12).complains("belongs to another owner").helps();
    office.usual.reader.owner_run(&["rekey"]).done().code(2);
    let json = office.usual.reader.owner_run(&["--json", words[0], words[1], words[2]]).ok().json();
    let line = json.iter().find(|line| line["message_type"] == "rekeyed").expect("a line for the chain");
    assert_eq!((&line["sessions_sealed"], &line["source"]), (&1.into(), &"web1".into()));
}

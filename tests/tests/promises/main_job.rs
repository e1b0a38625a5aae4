//! The main job, end to end, through every door: back up, change, back up again, list, restore, check, verify.

use tests::agent::Owner;
use tests::server::{Listen, Sshd, account, ssh_config};
use tests::vault::Enrolled;
use tests::{Agent, Chance, Place, Vault, tree};

/// A source and a reader, enrolled and with their remote in place.
struct Pair {
    source: Agent,
    reader: Agent,
}

/// Enrols a source and a reader; `join` adds the remote to each.
fn pair(place: &Place, vault: &Vault, address: &str, more: &[&str], join: impl Fn(&Agent, &Enrolled)) -> Pair {
    let owner = Owner::new(place.path());
    let source = Agent::source(place.path(), "web1", &owner);
    let enrolled = vault.enroll(&source.card, "push", address, more);
    assert_eq!(enrolled.card.name.as_str(), "web1");
    assert!(enrolled.line.contains("--role push"), "{}", enrolled.line);
    join(&source, &enrolled);
    let reader = Agent::reader(place.path(), "laptop", &owner);
    let enrolled = vault.enroll(&reader.card, "read", address, more);
    assert!(enrolled.line.contains("--role read"), "{}", enrolled.line);
    join(&reader, &enrolled);
    reader.trust(&source);
    Pair { source, reader }
}

fn the_main_job(place: &Place, vault: &Vault, pair: &Pair) {
    let Pair { source, reader } = pair;
    let data = place.join("data");
    tree::sample(&data, &mut Chance::new(1), 60);
    std::os::unix::fs::symlink("d0", data.join("link")).unwrap();
    tree::age(&data);
    let first = tree::read(&data);
    source.must_back_up(&data);

    tree::write(&data.join("d1/new"), &Chance::new(2).bytes(300_000));
    tree::write(&data.join("file-0"), b"changed");
    std::fs::remove_file(data.join("link")).unwrap();
    let second = tree::read(&data);
    source.must_back_up(&data);

    let ids = reader.snapshot_ids();
    assert_eq!(ids.len(), 2, "{ids:?}");
    let shown = reader.owner_run(&["snapshots"]).ok();
    assert!(shown.out().contains("web1"), "{}", shown.tell());

    let target = place.join("restored-latest");
    reader.restore_path("latest", &data, &target).ok();
    tree::assert_tree(&second, &target);
    let target = place.join("restored-first");
    reader.restore_path("latest~1", &data, &target).ok();
    tree::assert_tree(&first, &target);
    // By id, as a whole: absolute paths below the target.
    let target = place.join("restored-whole");
    reader.restore(&ids[1], &target).arg("--verify").ok();
    let below = target.join(data.strip_prefix("/").unwrap());
    assert!(
        tree::read(&below) == second || tree::read(&below) == first,
        "the whole snapshot is one of the two states of the data"
    );

    let listed = reader.owner_run(&["ls", &format!("latest:{}", data.display())]).ok();
    assert!(listed.out().contains("file-0"), "{}", listed.tell());
    reader.owner_run(&["check"]).ok();
    reader.owner_run(&["check", "--read-data"]).ok();
    source.run().args(["check"]).ok();
    // The set that init wrote was not backed up.
    source.run().args(["status"]).done().code(3);
    vault.must_be_clean();
    let shown = vault.run().args(["snapshots", "web1"]).ok();
    assert!(shown.out().contains("web1") || shown.out().lines().count() >= 2, "{}", shown.tell());
}

#[test]
fn through_pipes() {
    let place = Place::on_disk();
    let vault = Vault::new(place.path());
    let pair = pair(&place, &vault, "backup@127.0.0.1:22", &[], |agent, enrolled| {
        agent.add_path("local", &vault, enrolled);
    });
    the_main_job(&place, &vault, &pair);
}

#[test]
fn through_listen() {
    let place = Place::new();
    let vault = Vault::new(place.path());
    let listen = Listen::start(&vault);
    let pair = pair(&place, &vault, &listen.address(), &[], |agent, enrolled| agent.add_remote("offsite", enrolled));
    the_main_job(&place, &vault, &pair);
}

/// An sshd, its vault owned by its account, and a pair joined by russh.
fn through(place: &Place, join: impl Fn(&Agent, &Enrolled, &Sshd)) {
    let Some(account) = account() else { return };
    let vault = Vault::with(place.path(), "vault", Some(account.clone()));
    let sshd = Sshd::start(place.path(), account);
    let host_key = sshd.host_key_file();
    let pair = pair(place, &vault, &sshd.address(), &["--host-key", &host_key.to_string_lossy()], |agent, enrolled| {
        assert!(enrolled.line.starts_with("restrict,command=\"/"), "{}", enrolled.line);
        sshd.authorize(&enrolled.line);
        join(agent, enrolled, &sshd);
    });
    the_main_job(place, &vault, &pair);
}

#[test]
fn through_sshd_as_another_account() {
    through(&Place::new(), |agent, enrolled, _| agent.add_remote("offsite", enrolled));
}

#[test]
fn through_the_systems_ssh() {
    let place = Place::new();
    through(&place, |agent, enrolled, sshd| {
        agent.add_remote("offsite", enrolled);
        let key = agent.ssh_key();
        let keys: Vec<String> = enrolled.card.host_keys.iter().map(|key| key.openssh()).collect();
        ssh_config(&agent.dir, "sink", &sshd.address(), &key, &keys);
        use_ssh_host(agent, &enrolled.card.sink);
    });
}

/// Replaces the remote that `remote add` wrote by one over the system's ssh.
fn use_ssh_host(agent: &Agent, sink: &shared::id::VerifyKey) {
    let text = std::fs::read_to_string(agent.config()).unwrap();
    let begin = text.find("\n[[remote]]").expect("a remote") + 1;
    let end = text[begin + 1..].find("\n[").map_or(text.len(), |at| begin + 1 + at);
    let remote = format!(
        "[[remote]]\nname = \"offsite\"\nssh-host = \"sink\"\nsource = \"{}\"\nsink = \"{}\"\n",
        agent.name,
        shared::text::base64(sink.as_bytes())
    );
    std::fs::write(agent.config(), format!("{}{remote}{}", &text[..begin], &text[end..])).unwrap();
}

#[test]
fn a_stream_on_standard_input() {
    let usual = tests::agent::Usual::new();
    let dump = Chance::new(3).text(3_000_000);
    usual.source.run().args(["backup", "--stdin", "all.sql"]).input(dump.clone()).ok();
    let target = usual.place.join("out");
    usual.reader.restore("latest", &target).ok();
    assert!(std::fs::read(target.join("all.sql")).unwrap() == dump);
    usual.vault.must_be_clean();
}

#[test]
fn two_remotes_in_one_run_and_one_that_is_down() {
    let usual = tests::agent::Usual::new();
    let other = Vault::with(usual.place.path(), "other", None);
    let enrolled = other.enroll(&usual.source.card, "push", "backup@127.0.0.1:22", &[]);
    usual.source.add_path("second", &other, &enrolled);
    tree::sample(&usual.data, &mut Chance::new(4), 30);
    usual.source.must_back_up(&usual.data);
    usual.must_restore("both");

    // The first is away: the second gets its snapshot, and the exit code says that one is missing.
    let away = usual.vault.root.with_extension("away");
    std::fs::rename(&usual.vault.root, &away).unwrap();
    tree::write(&usual.data.join("later"), b"later");
    usual.source.backup(&usual.data).done().code_in(&[1, 4]);
    std::fs::rename(&away, &usual.vault.root).unwrap();
    // It catches up.
    tree::write(&usual.data.join("latest"), b"latest");
    usual.source.must_back_up(&usual.data);
    usual.must_restore("caught-up");
    usual.vault.must_be_clean();
    other.must_be_clean();
}

#[test]
fn the_identity_and_a_sink_card_are_enough_after_a_total_loss() {
    let usual = tests::agent::Usual::new();
    tree::sample(&usual.data, &mut Chance::new(5), 20);
    usual.source.must_back_up(&usual.data);
    // A new laptop: nobody tells it which source cards to trust; the owner record on the sink does.
    let fresh = Agent::reader(usual.place.path(), "new-laptop", &usual.owner);
    let enrolled = usual.vault.enroll(&fresh.card, "read", "backup@127.0.0.1:22", &[]);
    fresh.add_path("local", &usual.vault, &enrolled);
    let target = usual.place.join("after-loss");
    fresh.restore_path("latest", &usual.data, &target).ok();
    tree::assert_same(&usual.data, &target);
}

#[test]
fn the_index_is_a_cache() {
    let usual = tests::agent::Usual::new();
    tree::sample(&usual.data, &mut Chance::new(6), 40);
    tree::age(&usual.data);
    usual.source.must_back_up(&usual.data);
    let before = usual.vault.files("web1", "archives");
    let sent =
        |files: &[std::path::PathBuf]| -> u64 { files.iter().map(|file| std::fs::metadata(file).unwrap().len()).sum() };
    let first = sent(&before);
    let old_cache = usual.place.join("old-cache");
    tree::copy(&usual.source.cache(), &old_cache);
    tree::write(&usual.data.join("more"), &Chance::new(7).bytes(2_000_000));
    usual.source.must_back_up(&usual.data);
    let second = sent(&usual.vault.files("web1", "archives"));

    // Lost: it is rebuilt from the sink, and nothing that the sink holds is sent again.
    std::fs::remove_dir_all(usual.source.cache()).unwrap();
    usual.source.must_back_up(&usual.data);
    let third = sent(&usual.vault.files("web1", "archives"));
    assert!(third - second < first / 4, "content was sent again: {first} {second} {third}");
    usual.must_restore("lost");

    // From an older day.
    std::fs::remove_dir_all(usual.source.cache()).unwrap();
    tree::copy(&old_cache, &usual.source.cache());
    usual.source.must_back_up(&usual.data);
    usual.must_restore("old");

    // Garbage.
    for entry in std::fs::read_dir(usual.source.cache()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::write(&path, Chance::new(8).bytes(50_000)).unwrap();
        }
    }
    usual.source.must_back_up(&usual.data);
    usual.must_restore("garbage");
    usual.vault.must_be_clean();
}

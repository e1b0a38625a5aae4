//! Attack 3: root on the sink. One bit altered, something dropped, an old state, another chain, another key, an
//! invented snapshot: each is noticed by who reads, with exit 13; no wrong byte is ever restored.

use std::path::{Path, PathBuf};
use tests::agent::Usual;
use tests::craft::Forger;
use tests::{Agent, Chance, Place, Vault, tree};

/// Two snapshots of a small tree, and everything as it was then.
struct Scene {
    usual: Usual,
    /// The vault as it was after the first snapshot.
    old: PathBuf,
    expected: tree::Tree,
}

impl Scene {
    fn new() -> Self {
        let usual = Usual::new();
        tree::sample(&usual.data, &mut Chance::new(1), 25);
        tree::write(&usual.data.join("dir/known"), &Chance::new(2).bytes(700_000));
        tree::age(&usual.data);
        usual.source.must_back_up(&usual.data);
        let old = usual.place.join("old-vault");
        tree::copy(&usual.vault.root, &old);
        tree::write(&usual.data.join("second"), &Chance::new(3).bytes(100_000));
        usual.source.must_back_up(&usual.data);
        // The reader has seen the newest.
        usual.reader.owner_run(&["snapshots"]).ok();
        let expected = tree::read(&usual.data);
        Self { usual, old, expected }
    }

    fn vault(&self) -> &Vault {
        &self.usual.vault
    }

    /// Keeps the vault, lets `tamper` work on it, `judge` look at it, and puts it back.
    fn tampered(&self, what: &str, tamper: impl FnOnce(), judge: impl FnOnce()) {
        let kept = self.usual.place.join("kept-vault");
        tree::copy(&self.vault().root, &kept);
        tamper();
        eprintln!("tampered: {what}");
        judge();
        std::fs::remove_dir_all(&self.vault().root).unwrap();
        std::fs::rename(&kept, &self.vault().root).unwrap();
    }

    /// A fresh agent directory each time: what one reading learned must not help the next.
    fn reader(&self, name: &str) -> Agent {
        let dir = self.usual.place.join(format!("reader-{name}"));
        if dir.exists() {
            std::fs::remove_dir_all(&dir).unwrap();
        }
        self.usual.reader.clone_to(&dir)
    }

    /// A restore must fail with exit 13 (or miss something: 10, 14), and restore nothing wrong.
    fn restore_must_fail(&self, what: &str, codes: &[i32]) -> tests::Done {
        let target = self.usual.place.join("target");
        if target.exists() {
            std::fs::remove_dir_all(&target).unwrap();
        }
        let done = self.reader("restore").restore_path("latest", &self.usual.data, &target).done();
        assert!(
            done.exit().is_some_and(|code| codes.contains(&code)),
            "{what}: expected one of {codes:?}\n{}",
            done.tell()
        );
        tree::assert_nothing_wrong(&self.expected, &target);
        done
    }
}

fn flip(path: &Path, at: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = (at as usize).min(bytes.len() - 1);
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn one_flipped_bit_in_any_object_is_noticed() {
    let scene = Scene::new();
    for shelf in ["archives", "pages", "bodies", "heads", "receipts", "envelopes"] {
        for file in scene.vault().files("web1", shelf) {
            let length = std::fs::metadata(&file).unwrap().len();
            let places: &[u64] = match shelf {
                "archives" => &[4, 200, length / 2, length - 100],
                _ => &[4, length / 2, length - 1],
            };
            for at in places {
                let what = format!("bit in {shelf} at {at} of {length} in {}", file.display());
                scene.tampered(
                    &what,
                    || flip(&file, *at),
                    || {
                        let done = scene.vault().verify();
                        assert_ne!(done.exit(), Some(0), "{what}: the operator's verify saw nothing\n{}", done.tell());
                        let target = scene.usual.place.join("target");
                        if target.exists() {
                            std::fs::remove_dir_all(&target).unwrap();
                        }
                        let done = scene.reader("flip").restore_path("latest", &scene.usual.data, &target).done();
                        tree::assert_nothing_wrong(&scene.expected, &target);
                        if done.exit() == Some(0) {
                            // It may lie in what the newest snapshot does not need; then nothing may be missing either.
                            tree::assert_tree(&scene.expected, &target);
                        } else {
                            assert_eq!(done.exit(), Some(13), "{what}\n{}", done.tell());
                        }
                    },
                );
            }
        }
    }
}

/// A receipt is the sink's promise, not a part of the history: it is missed, and nothing with it.
#[test]
fn a_rotten_receipt_takes_nothing_with_it() {
    let scene = Scene::new();
    let mut receipts = scene.vault().files("web1", "receipts");
    receipts.sort();
    let restores = |name: &str, expected: &tree::Tree| {
        let target = scene.usual.place.join(format!("target-{name}"));
        scene.reader(name).restore_path("latest", &scene.usual.data, &target).ok();
        tree::assert_tree(expected, &target);
    };
    for (at, file) in receipts.iter().enumerate() {
        scene.tampered(
            &format!("receipt {at}"),
            || flip(file, 200),
            || {
                restores(&format!("receipt-{at}"), &scene.expected);
                scene.reader("check").owner_run(&["check"]).done().code(13).complains("receipt");
            },
        );
    }
    // An older one hinders no backup.
    flip(&receipts[0], 200);
    tree::write(&scene.usual.data.join("third"), b"third");
    scene.usual.source.must_back_up(&scene.usual.data);
    restores("older", &tree::read(&scene.usual.data));
    // The newest does: its successor has to name it. Moved away it is made anew, which the source takes by a word.
    let mut receipts = scene.vault().files("web1", "receipts");
    receipts.sort();
    let newest = receipts.last().unwrap();
    flip(newest, 200);
    tree::write(&scene.usual.data.join("fourth"), b"fourth");
    let refused = scene.usual.source.backup(&scene.usual.data).done();
    assert_ne!(refused.exit(), Some(0));
    // Within the same second it would be the same again, to the byte.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    std::fs::remove_file(newest).unwrap();
    scene.usual.source.backup(&scene.usual.data).done().code(13).complains("receipt-chain");
    scene.usual.source.run().args(["remote", "accept", "local", "--reason", "a receipt had rotted"]).ok();
    scene.usual.source.must_back_up(&scene.usual.data);
    restores("newest", &tree::read(&scene.usual.data));
}

#[test]
fn what_is_damaged_is_named_and_the_rest_is_restored() {
    let scene = Scene::new();
    let largest = |scene: &Scene| {
        let files = scene.vault().files("web1", "archives");
        files.into_iter().max_by_key(|file| std::fs::metadata(file).unwrap().len()).unwrap()
    };
    let file = largest(&scene);
    let length = std::fs::metadata(&file).unwrap().len();
    scene.tampered(
        "a block",
        || flip(&file, length / 2),
        || {
            let done = scene.restore_must_fail("a block", &[13]);
            let lost = tree::assert_nothing_wrong(&scene.expected, &scene.usual.place.join("target"));
            assert!(lost > 0 && lost < scene.expected.len(), "some files are lost and others are not: {lost}");
            assert!(done.err().contains("archive"), "the object is named\n{}", done.tell());
            // Check finds it as well.
            scene.reader("check").owner_run(&["check", "--read-data"]).done().code(13);
        },
    );
}

#[test]
fn what_is_removed_is_missed() {
    let scene = Scene::new();
    for shelf in ["archives", "pages", "bodies", "heads", "envelopes"] {
        let newest = scene.vault().files("web1", shelf).pop().unwrap();
        let what = format!("removed {}", newest.display());
        scene.tampered(
            &what,
            || std::fs::remove_file(&newest).unwrap(),
            || {
                let done = scene.vault().verify();
                assert_ne!(done.exit(), Some(0), "{what}: the operator's verify saw nothing\n{}", done.tell());
                let done = scene.reader("missing").owner_run(&["check", "--read-data"]).done();
                assert_ne!(done.exit(), Some(0), "{what}: check saw nothing\n{}", done.tell());
                assert!(done.exit() == Some(13) || shelf != "heads", "{what}\n{}", done.tell());
            },
        );
    }
    // A receipt that is gone takes nothing away, but verify says so.
    let receipt = scene.vault().files("web1", "receipts").remove(0);
    scene.tampered(
        "removed a receipt",
        || std::fs::remove_file(&receipt).unwrap(),
        || {
            assert_ne!(scene.vault().verify().exit(), Some(0));
        },
    );
    // A truncated archive.
    let archive = scene.vault().files("web1", "archives").remove(0);
    scene.tampered(
        "truncated",
        || {
            let bytes = std::fs::read(&archive).unwrap();
            std::fs::write(&archive, &bytes[..bytes.len() - 4096]).unwrap();
        },
        || {
            assert_ne!(scene.vault().verify().exit(), Some(0));
            scene.restore_must_fail("truncated", &[13]);
        },
    );
}

#[test]
fn an_old_state_served_as_the_newest_is_a_roll_back() {
    let scene = Scene::new();
    let root = scene.vault().root.clone();
    scene.tampered(
        "an old state",
        || {
            std::fs::remove_dir_all(&root).unwrap();
            tree::copy(&scene.old, &root);
        },
        || {
            // It is a consistent vault: only memory tells.
            scene.vault().must_be_clean();
            scene.reader("old").owner_run(&["snapshots"]).done().code(13).helps();
            scene.restore_must_fail("roll-back", &[13]);
            let source = scene.usual.source.clone_to(&scene.usual.place.join("source-copy"));
            source.backup(&scene.usual.data).done().code(13).helps();
            // The deliberate way on.
            source
                .run()
                .args(["remote", "accept", "local", "--reason", "restored from our own copy after a fire"])
                .ok();
            source.must_back_up(&scene.usual.data);
        },
    );
}

#[test]
fn another_history_beside_the_remembered_one_is_noticed() {
    // Two vaults with the same sink key, both grown from one state: what the sink shows to one, it denies to the other.
    let scene = Scene::new();
    let root = scene.vault().root.clone();
    let source = scene.usual.source.clone();
    scene.tampered(
        "another history",
        || {
            std::fs::remove_dir_all(&root).unwrap();
            tree::copy(&scene.old, &root);
            // The same source's keys write another second snapshot (a clone of the machine, or its thief).
            let thief = Forger::from_keys(source.keys(), &scene.usual.owner.key);
            let files = scene.vault().files("web1", "heads");
            let first =
                shared::signature::Signed::<shared::format::Head>::parse(&std::fs::read(&files[0]).unwrap()).unwrap();
            let digest = first.digest();
            let mut client = thief.connect(scene.vault(), &sink_key(scene.vault()));
            thief.push_snapshot(&mut client, sink_key(scene.vault()), 500, 1, Some(digest));
        },
        || {
            scene.vault().must_be_clean();
            scene.reader("beside").owner_run(&["snapshots"]).done().code(13).helps();
            scene.restore_must_fail("another history", &[13]);
            let source = scene.usual.source.clone_to(&scene.usual.place.join("source-copy"));
            source.backup(&scene.usual.data).done().code(13).helps();
        },
    );
}

fn sink_key(vault: &Vault) -> shared::id::VerifyKey {
    let text = std::fs::read_to_string(vault.root.join("sink.key")).unwrap();
    shared::keyfile::read_signing_key(shared::keyfile::SINK_KEY, &text).unwrap().verify_key()
}

#[test]
fn another_sink_key_or_chain_is_refused() {
    let scene = Scene::new();
    let root = scene.vault().root.clone();
    let other = Vault::with(scene.usual.place.path(), "other", None);
    scene.tampered(
        "a swapped sink key",
        || {
            std::fs::copy(other.root.join("sink.key"), root.join("sink.key")).unwrap();
        },
        || {
            scene.reader("key").owner_run(&["snapshots"]).done().code(13).helps();
            let source = scene.usual.source.clone_to(&scene.usual.place.join("source-copy"));
            source.backup(&scene.usual.data).done().code(13).helps();
            assert_ne!(scene.vault().verify().exit(), Some(0), "heads name another sink");
        },
    );
    // Another source's chain under this source's name.
    let second = Agent::source(scene.usual.place.path(), "web2", &scene.usual.owner);
    let enrolled = scene.vault().enroll(&second.card, "push", "backup@127.0.0.1:22", &[]);
    second.add_path("local", scene.vault(), &enrolled);
    second.must_back_up(&scene.usual.data);
    scene.tampered(
        "chains exchanged",
        || {
            let (one, two) = (scene.vault().room("web1"), scene.vault().room("web2"));
            for shelf in ["heads", "receipts", "bodies", "pages", "archives", "envelopes"] {
                let spare = one.join("spare");
                std::fs::rename(one.join(shelf), &spare).unwrap();
                std::fs::rename(two.join(shelf), one.join(shelf)).unwrap();
                std::fs::rename(&spare, two.join(shelf)).unwrap();
            }
        },
        || {
            assert_ne!(scene.vault().verify().exit(), Some(0));
            let done =
                scene.reader("chains").restore_path("latest", &scene.usual.data, &scene.usual.place.join("x")).done();
            assert_ne!(done.exit(), Some(0), "{}", done.tell());
        },
    );
}

#[test]
fn an_invented_snapshot_is_of_an_unknown_signer() {
    // Anyone can seal to the owner's public key; only a source that the owner trusts counts.
    let scene = Scene::new();
    let text = std::fs::read_to_string(&scene.usual.owner.key).unwrap();
    let owner = source_agent::crypto::identity::Identity::from_file(&text, None).unwrap();
    let inventor = Forger::with_owner("web9", owner);
    scene.tampered(
        "an invented source",
        || {
            let sink = inventor.enroll(scene.vault()).card.sink;
            let mut client = inventor.connect(scene.vault(), &sink);
            inventor.push_snapshot(&mut client, sink, 0, 0, None);
        },
        || {
            let shown = scene.reader("invented").owner_run(&["snapshots"]).done();
            let line = shown.out().lines().find(|line| line.contains("web9")).map(str::to_owned);
            if let Some(line) = line {
                assert!(!line.contains("(trusted)"), "{}", shown.tell());
            }
            let target = scene.usual.place.join("invented");
            let done = scene.reader("invented").restore("latest", &target).args(["--source", "web9"]).done();
            assert_ne!(done.exit(), Some(0), "{}", done.tell());
            assert!(!target.exists() || std::fs::read_dir(&target).unwrap().next().is_none());
            // `latest` without a source is still the trusted one.
            scene.reader("trusted").restore_path("latest", &scene.usual.data, &scene.usual.place.join("good")).ok();
            tree::assert_tree(&scene.expected, &scene.usual.place.join("good"));
        },
    );
}

#[test]
fn an_untrusted_source_is_exit_13() {
    let place = Place::new();
    let owner = tests::Owner::new(place.path());
    let vault = Vault::new(place.path());
    let source = Agent::source(place.path(), "web1", &owner);
    let enrolled = vault.enroll(&source.card, "push", "backup@127.0.0.1:22", &[]);
    source.add_path("local", &vault, &enrolled);
    let data = place.join("data");
    tree::write(&data.join("file"), b"content");
    source.must_back_up(&data);
    let reader = Agent::reader(place.path(), "laptop", &owner);
    let enrolled = vault.enroll(&reader.card, "read", "backup@127.0.0.1:22", &[]);
    reader.add_path("local", &vault, &enrolled);
    // Nobody said `trust add`.
    reader.restore_path("latest", &data, &place.join("out")).done().code(13).helps();
    assert!(!place.join("out/file").exists());
    reader.trust(&source);
    reader.restore_path("latest", &data, &place.join("out2")).ok();
}

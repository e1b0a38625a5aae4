//! Sessions that break while something large is read: the rest comes over another one, and what cannot be had for now
//! is never called damaged.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command};
use tests::agent::Usual;

/// More than the windows, pipes and caches on the way take in.
const BYTES: usize = 256 << 20;
const RETRY: &str = "\n[limits]\nretry = { attempts = 4, max-wait = \"2s\" }\n";

/// A vault with one large file, and a `dump` of it that waits for who reads it.
fn half_dumped() -> (Usual, Vec<u8>, Child) {
    let usual = Usual::on_disk();
    let content = tests::Chance::new(77).bytes(BYTES);
    fs::write(usual.data.join("large"), &content).unwrap();
    usual.source.must_back_up(&usual.data);
    usual.reader.append(RETRY);
    let what = format!("latest:{}/large", usual.data.display());
    let mut dump = usual.reader.owner_run(&["dump", &what]).start();
    drop(dump.stdin.take());
    let mut first = vec![0; 1 << 20];
    dump.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert!(first == content[..first.len()]);
    (usual, content, dump)
}

/// Kills the sink's processes of this vault.
fn kill_sessions(root: &Path) {
    let killed = Command::new("pkill").args(["-KILL", "-f"]).arg(format!("serve --root {}", root.display())).status();
    assert!(killed.unwrap().success(), "no session to kill");
}

fn rest(dump: &mut Child) -> Vec<u8> {
    let mut rest = Vec::new();
    dump.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
    rest
}

fn complaint(dump: &mut Child) -> String {
    let mut text = String::new();
    dump.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_dump_goes_on_over_another_session() {
    let (usual, content, mut dump) = half_dumped();
    kill_sessions(&usual.vault.root);
    let rest = rest(&mut dump);
    let text = complaint(&mut dump);
    assert_eq!(dump.wait().unwrap().code(), Some(0), "{text}");
    assert!(rest == content[1 << 20..], "{text}");
}

#[test]
fn a_vault_that_is_away_for_a_moment_costs_a_moment() {
    let (usual, content, mut dump) = half_dumped();
    let (root, away) = (usual.vault.root.clone(), usual.place.join("away"));
    fs::rename(&root, &away).unwrap();
    kill_sessions(&root);
    let back = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(1));
        fs::rename(away, root).unwrap();
    });
    let rest = rest(&mut dump);
    back.join().unwrap();
    let text = complaint(&mut dump);
    assert_eq!(dump.wait().unwrap().code(), Some(0), "{text}");
    assert!(rest == content[1 << 20..], "{text}");
    assert!(text.contains("trying again"), "{text}");
}

#[test]
fn a_vault_that_stays_away_is_not_called_damaged() {
    let (usual, content, mut dump) = half_dumped();
    fs::rename(&usual.vault.root, usual.place.join("away")).unwrap();
    kill_sessions(&usual.vault.root);
    let rest = rest(&mut dump);
    let text = complaint(&mut dump);
    let code = dump.wait().unwrap().code();
    assert!(rest.len() < content.len() - (1 << 20) && content[1 << 20..].starts_with(&rest), "what came is right");
    assert_eq!(code, Some(14), "{text}");
    assert!(!text.contains("damaged"), "{text}");
}

/// Files are read while a backup connects. There is nothing to tidy up yet, so it does not wait for who is silent.
#[test]
fn a_signal_ends_a_run_that_still_connects() {
    let usual = Usual::new();
    fs::write(usual.data.join("file"), vec![1; 100_000]).unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let config = fs::read_to_string(usual.source.config()).unwrap();
    let (before, remote) = config.split_once("\n[[remote]]").unwrap();
    let sink = remote.lines().find(|line| line.starts_with("sink = ")).unwrap();
    let key = fs::read_to_string(usual.source.dir.join("ssh_ed25519.pub")).unwrap();
    let host = key.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let remote = format!(
        "\n[[remote]]\nname = \"silent\"\nurl = \"ssh://backup@127.0.0.1:{port}/web1\"\nhost-key = [\"{host}\"]\n\
         identity-file = \"ssh_ed25519\"\n{sink}\n"
    );
    fs::write(usual.source.config(), before.to_owned() + &remote).unwrap();
    let numbers = usual.source.state().join("next-archive");
    let end_by = |signal, code| {
        let running = usual.source.backup(&usual.data).begin();
        tests::run::until("files are read", std::time::Duration::from_secs(60), || numbers.exists());
        running.signal(signal);
        running.end().code(code);
        fs::remove_file(&numbers).unwrap();
    };
    end_by(rustix::process::Signal::TERM, 143);
    end_by(rustix::process::Signal::HUP, 129);
    // What a hook began ends with its hook, whatever ends the run.
    let log = usual.source.dir.join("hooks");
    let hook = |name: &str| format!("{name} = [[\"sh\", \"-c\", \"echo {name} >> {}\"]]\n", log.display());
    let hooks = ["before", "after-success", "after-failure", "finally"].map(hook).concat();
    let config = fs::read_to_string(usual.source.config()).unwrap();
    fs::write(usual.source.config(), config.replacen("timeout = \"10min\"", &format!("{hooks}timeout = \"10min\""), 1))
        .unwrap();
    end_by(rustix::process::Signal::INT, 130);
    assert_eq!(fs::read_to_string(&log).unwrap(), "before\nafter-failure\nfinally\n");
    drop(silent);
}

//! What `deploy/` holds is right: units, accounts, sshd's example.

use std::path::{Path, PathBuf};
use tests::programs::{has_tool, tool};
use tests::{Place, Run};

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy").join(name)
}

const UNITS: [&str; 8] = [
    "systemd/source-agent-backup.service",
    "systemd/source-agent-backup.timer",
    "systemd/remote-sink-verify.service",
    "systemd/remote-sink-verify.timer",
    "systemd/remote-sink-prune.service",
    "systemd/remote-sink-prune.timer",
    "systemd/remote-sink-observe.service",
    "systemd/remote-sink-observe.timer",
];

#[test]
fn units_are_right() {
    if !has_tool("systemd-analyze") {
        eprintln!("systemd-analyze is not installed: the units were not judged");
        return;
    }
    // The programs are not installed here: the copies name something that is.
    let place = Place::new();
    for unit in UNITS {
        let text = std::fs::read_to_string(deploy(unit)).unwrap();
        let text = text.replace("/usr/bin/source-agent", "/bin/true").replace("/usr/bin/remote-sink", "/bin/true");
        let text = text.lines().filter(|line| !line.starts_with("Documentation=man:")).collect::<Vec<_>>().join("\n");
        std::fs::write(place.join(Path::new(unit).file_name().unwrap()), text + "\n").unwrap();
    }
    for unit in UNITS {
        let path = place.join(Path::new(unit).file_name().unwrap());
        let done = Run::new(tool("systemd-analyze")).arg("verify").arg(&path).done();
        let ours: Vec<String> = done
            .err()
            .lines()
            .filter(|line| line.contains("source-agent") || line.contains("remote-sink"))
            // An account that the package makes.
            .filter(|line| !line.contains("Failed to resolve user") && !line.contains("Unknown user"))
            .map(str::to_owned)
            .collect();
        assert!(ours.is_empty(), "{unit}: {ours:?}");
    }
    for unit in UNITS.iter().filter(|unit| unit.ends_with(".service")) {
        let path = place.join(Path::new(unit).file_name().unwrap());
        let done = Run::new(tool("systemd-analyze"))
            .args(["security", "--offline=true", "--threshold=30", "--no-pager"])
            .arg(&path)
            .done();
        assert_eq!(done.exit(), Some(0), "{unit} is too exposed\n{}", done.tell());
    }
}

#[test]
fn the_account_is_made_right() {
    if !has_tool("systemd-sysusers") {
        eprintln!("systemd-sysusers is not installed: the account was not judged");
        return;
    }
    Run::new(tool("systemd-sysusers")).arg("--dry-run").arg(deploy("sysusers.d/remote-sink.conf")).ok();
}

#[test]
fn the_sshd_example_confines_the_account() {
    let place = Place::new();
    let key = place.join("host_key");
    Run::new(tool("ssh-keygen")).args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).ok();
    let config = place.join("sshd_config");
    let example = std::fs::read_to_string(deploy("sshd_config.d/remote-sink.conf")).unwrap();
    std::fs::write(&config, format!("HostKey {}\n{example}", key.display())).unwrap();
    if rustix::process::geteuid().is_root() {
        std::fs::create_dir_all("/run/sshd").unwrap();
    }
    let done = Run::new(tool("sshd"))
        .args(["-T", "-C", "user=remote-sink,host=h,addr=192.0.2.1,laddr=192.0.2.2,lport=22", "-f"])
        .arg(&config)
        .ok();
    let settings = done.out().to_lowercase();
    for setting in [
        "disableforwarding yes",
        "permittty no",
        "permituserrc no",
        "maxsessions 1",
        "passwordauthentication no",
        "x11forwarding no",
        "permittunnel no",
        "allowagentforwarding no",
    ] {
        let is_forwarding = ["x11forwarding no", "permittunnel no", "allowagentforwarding no"].contains(&setting);
        // DisableForwarding overrides these, and sshd prints them as they were.
        assert!(settings.contains(setting) || is_forwarding, "{setting} is missing\n{}", done.tell());
    }
    assert!(settings.contains("clientaliveinterval") && !settings.contains("clientaliveinterval 0"), "{settings}");
    assert!(!settings.contains("acceptenv lc_"), "{settings}");
}

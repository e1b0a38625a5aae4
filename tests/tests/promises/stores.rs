//! Vaults that older versions wrote are verified and restored.

use std::path::Path;
use tests::run::Run;
use tests::{Place, programs, tree};

/// Unpacks a store; returns the reader's configuration.
fn unpack(place: &Place, name: &str) -> std::path::PathBuf {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("stores").join(name);
    Run::new(programs::tool("tar")).args(["-x", "-z", "-p", "--same-owner", "-f"]).arg(archive).dir(place.path()).ok();
    let config = place.join("laptop/config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("@VAULT@", &place.join("vault").to_string_lossy())).unwrap();
    config
}

#[test]
fn format_1_is_read() {
    let place = Place::on_disk();
    let config = unpack(&place, "format-1.tar.gz");
    let vault = place.join("vault");
    let verified = Run::new(programs::remote_sink()).arg("--root").arg(&vault).arg("verify").ok();
    assert!(verified.out().contains("2 snapshots: signatures 2 ok, chain unbroken"), "{}", verified.tell());
    let agent = || Run::new(programs::source_agent()).arg("-c").arg(&config);
    let target = place.join("out");
    let identity = place.join("owner.key");
    let words = ["restore", "latest:/tmp/st/data", "--verify", "-i"];
    agent().args(words).arg(&identity).arg("-t").arg(&target).ok();
    tree::assert_same(&place.join("expected"), &target);
    agent().args(["check", "--read-data", "-i"]).arg(&identity).ok();
}

//! The programs under test. `cargo test --workspace` alone does not build them: this does, once, and says so.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Directory that holds `source-agent` and `remote-sink`: `$PAWL_BIN_DIR`, or the target directory of this test.
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        if let Some(dir) = std::env::var_os("PAWL_BIN_DIR") {
            return PathBuf::from(dir);
        }
        let test = std::env::current_exe().expect("the path of this test");
        let dir = test.parent().and_then(Path::parent).expect("target directory").to_owned();
        build(&dir);
        for program in ["source-agent", "remote-sink"] {
            let path = dir.join(program);
            assert!(path.exists(), "{} is missing: run `cargo build --workspace` first", path.display());
        }
        dir
    })
}

fn build(dir: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("workspace");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--workspace", "--bins", "--quiet"]).current_dir(root);
    if dir.ends_with("release") {
        command.arg("--release");
    }
    match command.status() {
        Ok(status) if status.success() => {}
        other => panic!("cannot build the programs under test ({other:?}): run `cargo build --workspace`"),
    }
}

pub fn source_agent() -> PathBuf {
    directory().join("source-agent")
}

pub fn remote_sink() -> PathBuf {
    directory().join("remote-sink")
}

/// The sink's program where another account can reach it: hard-linked, else copied, into `dir`.
pub fn remote_sink_in(dir: &Path) -> PathBuf {
    place_program(&remote_sink(), dir)
}

/// The agent, hard-linked or copied into `dir`, so that it finds whatever `remote-sink` lies beside it.
pub fn source_agent_in(dir: &Path) -> PathBuf {
    place_program(&source_agent(), dir)
}

fn place_program(program: &Path, dir: &Path) -> PathBuf {
    let to = dir.join(program.file_name().expect("a program's name"));
    if !to.exists() && std::fs::hard_link(program, &to).is_err() {
        // Another process copies: a child that another test forks in between would keep our writable descriptor, and
        // starting the copy would fail with "text file busy".
        crate::run::Run::new(tool("cp")).arg("--").arg(program).arg(&to).ok();
    }
    to
}

/// Writes a shell script that can be run at once, whatever other tests fork meanwhile.
pub fn script(at: &Path, text: &str) {
    // What was there may be a link to something else.
    let _ = std::fs::remove_file(at);
    crate::run::Run::new(tool("tee")).arg("--").arg(at).input(text).ok();
    crate::tree::set_mode(at, 0o755);
}

/// A tool of the system that a test cannot do without.
pub fn tool(name: &str) -> PathBuf {
    for dir in ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"] {
        let path = Path::new(dir).join(name);
        if path.exists() {
            return path;
        }
    }
    panic!("{name} is not installed: run deploy/setup");
}

/// Is this tool here? For tests of things that are only there with it.
pub fn has_tool(name: &str) -> bool {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().any(|dir| Path::new(dir).join(name).exists())
}

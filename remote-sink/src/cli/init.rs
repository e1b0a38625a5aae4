//! `remote-sink init`: makes a vault.

use super::{Context, DONE};
use crate::authorized_keys::shell_word;
use crate::cli::vault;
use crate::listen::HOST_KEY_KIND;
use crate::report::Failure;
use crate::store::layout::Layout;
use shared::keyfile;
use shared::signature::SigningKey;
use shared::sys::durable;
use shared::text::fingerprint_words;
use std::fs;
use std::io;
use std::path::Path;

/// Make a vault: its directories, keys and configuration
///
/// Needs a directory that is empty or does not exist; an existing vault is never touched. Keeps everything it is sent
/// until rules of retention are set.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  remote-sink init --root /srv/backups")]
pub struct InitArgs {}

const VAULT_TOML: &str = r#"# Configuration of this vault. `remote-sink doctor` checks it.
config-version = 1

[store]
min-free = "1GiB"             # archives stop here, other objects at half of it: commits and the operator have room

[serve]
idle-timeout = "5min"         # a silent session ends, and its lock with it

# [defaults]
# quota = "1TiB"              # for sources without one of their own
# [source.web1]
# quota = "500GiB"
# [defaults.retention]        # nothing is removed until a rule is set: remote-sink retention web1 --keep-within 30d
# keep-within = "30d"         # by time of receipt on this host
# keep-weekly = 8             # the oldest of each week
# min-age = "30d"             # never remove anything received more recently
# grace = "7d"                # in the trash before the space is freed
# [alerts]
# max-age = "36h"             # `status` fails beyond this
# shrink = "50%"              # `prune` stops when a snapshot is smaller than this share of the median of the last 7
# grow = "300%"               # the same for one that is larger; without it none is
# [hooks]
# on-alert = [["/usr/local/bin/page-me"]]    # ALERT, SOURCE and MESSAGE stand in its environment
"#;

pub fn run(_args: &InitArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    let root = vault::root(context.global.root.as_deref())?;
    let layout = Layout::new(&root);
    refuse_what_is_there(&layout)?;
    layout.create_vault_dirs().map_err(|e| Failure::io("make", &root, &e))?;
    super::doctor::probe_file_system(&root)?;
    let sink = key(&layout.sink_key(), keyfile::SINK_KEY)?;
    key(&layout.listen_key(), HOST_KEY_KIND)?;
    // Last: a directory with this file is a whole vault.
    let config = layout.config();
    durable::create_new_as(&config, VAULT_TOML.as_bytes(), durable::PRIVATE, durable::Owner::Directory)
        .map_err(|e| Failure::io("write", &config, &e))?;
    say(&root, &sink, context)
}

/// A key file, made or left from an `init` that was interrupted.
fn key(path: &Path, kind: &'static str) -> Result<SigningKey, Failure> {
    let fresh = SigningKey::random();
    match durable::create_new_as(
        path,
        keyfile::write(kind, &fresh.seed()).as_bytes(),
        durable::PRIVATE,
        durable::Owner::Directory,
    ) {
        Ok(()) => Ok(fresh),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let text = fs::read_to_string(path).map_err(|e| Failure::io("read", path, &e))?;
            let text = zeroize::Zeroizing::new(text);
            keyfile::read_signing_key(kind, &text).map_err(|e| Failure::new("key", format!("{}: {e}", path.display())))
        }
        Err(e) => Err(Failure::io("write", path, &e)),
    }
}

/// Goes on only in an empty directory, or where an earlier `init` was interrupted before anything was enrolled.
fn refuse_what_is_there(layout: &Layout) -> Result<(), Failure> {
    let root = layout.root();
    if layout.config().symlink_metadata().is_ok() {
        return Err(Failure::new("vault-exists", format!("{} is a vault already", root.display()))
            .help("nothing was changed; see it with: remote-sink status, or choose another --root"));
    }
    let entries = match fs::read_dir(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Failure::io("open", root, &e)),
        Ok(entries) => entries,
    };
    for entry in entries {
        let name = entry.map_err(|e| Failure::io("list", root, &e))?.file_name();
        let name = name.to_string_lossy();
        let ours = ["sources", "owners", "operator", "sink.key", "listen.key", "lost+found"].contains(&&*name);
        if !ours && !name.starts_with(".tmp-") {
            return Err(Failure::new("not-empty", format!("{} holds something else ({name})", root.display()))
                .help("choose a directory that is empty or does not exist"));
        }
    }
    match layout.source_names() {
        Ok(names) if !names.is_empty() => {
            Err(Failure::new("vault-exists", format!("{} has sources but no vault.toml", root.display()))
                .help("restore vault.toml from a copy; a file with the one line `config-version = 1` will do"))
        }
        _ => Ok(()),
    }
}

fn say(root: &Path, sink: &SigningKey, context: &mut Context<'_>) -> Result<u8, Failure> {
    let sink = sink.verify_key();
    if context.global.json {
        context.json(&serde_json::json!({
            "message_type": "initialized", "root": root, "sink": sink.to_string(),
        }))?;
        return DONE;
    }
    let program = std::env::current_exe().map_err(|e| Failure::io("find", Path::new("remote-sink"), &e))?;
    let shown = root.display();
    // cron gives `%` a meaning of its own.
    let word = |path: &Path| shell_word(path, "a path").map(|word| word.replace('%', "\\%"));
    let (program, quoted) = (word(&program)?, word(root)?);
    context.line(format!("Made a vault in {shown}   sink key {}", fingerprint_words(sink.as_bytes())))?;
    context.remark("It keeps everything that it is sent. Copy sink.key and listen.key to a safe place.")?;
    context.remark("Next:  remote-sink enroll 'source-card:1,...' --address USER@HOST --install")?;
    context
        .remark("For `crontab -e`: note what is new, prune by the rules (none yet), read everything again once a")?;
    context.remark("week, and complain when a source falls silent:")?;
    context.remark(format!("*/10 * * * *  {program} observe --root {quoted} --quiet"))?;
    context.remark(format!("27 4 * * *  {program} prune --root {quoted} --quiet"))?;
    context.remark(format!("17 3 * * 0  {program} verify --root {quoted} --quiet"))?;
    context.remark(format!("47 7 * * *  {program} status --root {quoted} --max-age 36h --quiet"))?;
    DONE
}

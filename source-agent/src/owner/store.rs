//! The trust store of this machine: one small file for each trusted source (`state/trust/SOURCE-ID.toml`).

use crate::owner::{Origin, TrustedSource};
use crate::report::{Exit, Failure, Outcome};
use serde::{Deserialize, Serialize};
use shared::id::SourceId;
use shared::sys::durable;
use std::path::{Path, PathBuf};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct TrustFile {
    card: String,
    #[serde(default)]
    lineages: Vec<String>,
    since: i64,
}

fn dir(state_dir: &Path) -> PathBuf {
    state_dir.join("trust")
}

/// All sources that this machine trusts.
pub fn load(state_dir: &Path) -> Outcome<Vec<TrustedSource>> {
    let dir = dir(state_dir);
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Failure::io("read", &dir, &e)),
    };
    let mut sources = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Failure::io("read", &dir, &e))?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            sources.push(read(&path)?);
        }
    }
    sources.sort_by(|a, b| (a.name(), a.id()).cmp(&(b.name(), b.id())));
    Ok(sources)
}

fn read(path: &Path) -> Outcome<TrustedSource> {
    let wrong = |why: String| {
        Failure::new("trust", Exit::Failed, format!("{}: {why}", path.display()))
            .help("remove the file and add the card again: source-agent trust add 'source-card:1,...'")
    };
    let text = std::fs::read_to_string(path).map_err(|e| Failure::io("read", path, &e))?;
    let file: TrustFile = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let card: shared::card::SourceCard =
        file.card.parse().map_err(|e: shared::card::CardError| wrong(e.to_string()))?;
    let lineages: Result<Vec<_>, _> = file.lineages.iter().map(|text| text.parse()).collect();
    let lineages = lineages.map_err(|e: shared::id::NameError| wrong(e.to_string()))?;
    Ok(TrustedSource { card, lineages, since: file.since, frozen: Vec::new(), origin: Origin::Local })
}

/// Trusts a source, or replaces what was noted about it.
pub fn save(state_dir: &Path, source: &TrustedSource) -> Outcome<()> {
    let dir = dir(state_dir);
    let path = dir.join(format!("{}.toml", source.id()));
    let file = TrustFile {
        card: source.card.to_string(),
        lineages: source.lineages.iter().map(ToString::to_string).collect(),
        since: source.since,
    };
    let text = toml::to_string(&file).map_err(|e| Failure::new("trust", Exit::Failed, e.to_string()))?;
    durable::create_dir(&dir, 0o700).map_err(|e| Failure::io("create", &dir, &e))?;
    durable::replace(&path, text.as_bytes(), durable::PRIVATE).map_err(|e| Failure::io("write", &path, &e))
}

/// Ends the trust of this machine; says whether there was one.
pub fn remove(state_dir: &Path, id: &SourceId) -> Outcome<bool> {
    let path = dir(state_dir).join(format!("{id}.toml"));
    if !path.exists() {
        return Ok(false);
    }
    durable::remove(&path).map_err(|e| Failure::io("remove", &path, &e))?;
    Ok(true)
}

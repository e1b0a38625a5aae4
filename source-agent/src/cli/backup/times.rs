//! When each configured set was last saved whole, by remote, in the state directory (`set-times`): for `status`, to
//! which a fresh remote does not say whose snapshot made it fresh.

use crate::config::{BackupSet, Loaded};
use crate::crypto::secret::SourceSecret;
use crate::keys::files::read_text;
use crate::report::{Exit, Failure, Outcome};
use shared::id::{Series, VerifyKey};
use shared::sys::durable;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Most bytes of the file: a line for each set and remote.
const BYTES_MAX: u64 = 4 << 20;

/// What the series of a configured set is derived from.
pub fn series_name(set: &BackupSet) -> String {
    format!("set\0{}", set.name)
}

/// Seconds by series and sink.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Times(BTreeMap<(String, String), i64>);

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("set-times")
}

impl Times {
    /// What was noted; nothing where no run was.
    pub fn read(state_dir: &Path) -> Outcome<Self> {
        let path = path(state_dir);
        let text = match read_text(&path, BYTES_MAX) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Failure::io("read", &path, &e)),
        };
        let line = |line: &str| {
            let mut words = line.split(' ');
            let (series, sink, time) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
            words.next().is_none().then(|| ((series.to_owned(), sink.to_owned()), time))
        };
        text.lines().map(line).collect::<Option<_>>().map(Self).ok_or_else(|| {
            Failure::new("state", Exit::Failed, format!("{} does not hold times of sets", crate::paths::show(&path)))
                .help("remove it: the next backup of each set notes its time anew")
        })
    }

    pub fn get(&self, series: &Series, sink: &VerifyKey) -> Option<i64> {
        self.0.get(&(series.to_string(), sink.to_string())).copied()
    }

    fn write(&self, state_dir: &Path) -> Outcome<()> {
        let mut text = String::new();
        for ((series, sink), time) in &self.0 {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{series} {sink} {time}");
        }
        let path = path(state_dir);
        durable::replace(&path, text.as_bytes(), durable::PRIVATE).map_err(|e| Failure::io("write", &path, &e))
    }
}

/// Notes that these series were saved whole now. Only sets and remotes of the configuration stay.
pub fn note(loaded: &Loaded, secret: &SourceSecret, saved: &[(Series, VerifyKey)], now: i64) -> Outcome<()> {
    let state_dir = &loaded.paths.state_dir;
    let sets: Vec<String> =
        loaded.config.backup.sets.iter().map(|set| secret.series(&series_name(set)).to_string()).collect();
    let sinks: Vec<String> = loaded.config.remotes.iter().filter_map(|remote| Some(remote.sink?.to_string())).collect();
    // One that is damaged is made anew.
    let before = Times::read(state_dir).unwrap_or_default();
    let mut times = Times(before.0.clone());
    times.0.extend(saved.iter().map(|(series, sink)| ((series.to_string(), sink.to_string()), now)));
    times.0.retain(|(series, sink), _| sets.contains(series) && sinks.contains(sink));
    if times == before { Ok(()) } else { times.write(state_dir) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_and_nonsense_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Times::read(dir.path()).unwrap(), Times::default());
        let (series, sink) = (Series::new([1; 16]), VerifyKey::new([2; 32]));
        let mut times = Times::default();
        times.0.insert((series.to_string(), sink.to_string()), 77);
        times.write(dir.path()).unwrap();
        let read = Times::read(dir.path()).unwrap();
        assert_eq!((read.get(&series, &sink), read.get(&Series::new([3; 16]), &sink)), (Some(77), None));
        for bad in ["x", "a b c", "a b 1 d", "a b"] {
            std::fs::write(path(dir.path()), bad).unwrap();
            assert!(Times::read(dir.path()).is_err(), "{bad}");
        }
    }
}

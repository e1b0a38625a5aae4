//! When a sink last denied archives that it had acknowledged and that a snapshot needs.

use super::{Corrupt, Index, SinkFacts, series, sqlite};
use crate::report::Outcome;
use rusqlite::{OptionalExtension, params};
use std::collections::HashSet;

impl Index {
    /// This machine's clock when the sink last did so, in seconds since 1970.
    pub fn denied_at(&self, sink: &SinkFacts) -> Outcome<Option<i64>> {
        let connection = self.writer.lock();
        let found: Option<Vec<u8>> = connection
            .query_row("SELECT value FROM meta WHERE key = ?1", [key(sink)], |row| row.get(0))
            .optional()
            .map_err(sqlite)?;
        found.map(|bytes| Ok(i64::from_le_bytes(bytes.try_into().map_err(|_| Corrupt)?))).transpose()
    }

    pub fn note_denied(&self, sink: &SinkFacts, at: i64) -> Outcome<()> {
        let sql = "INSERT OR REPLACE INTO meta VALUES (?1, ?2)";
        self.writer.lock().execute(sql, params![key(sink), at.to_le_bytes()]).map(|_| ()).map_err(sqlite)
    }

    /// How many of these archives the last snapshots of this machine refer to.
    pub fn needed(&self, archives: &HashSet<u64>) -> Outcome<usize> {
        let mut needed = HashSet::new();
        if archives.is_empty() {
            return Ok(0);
        }
        for path in self.path.parent().map(series::all).unwrap_or_default() {
            let referred = series::for_each_use(&path, |spot, _| {
                if archives.contains(&spot.archive) {
                    needed.insert(spot.archive);
                }
                Ok(())
            });
            match referred {
                // Its run will make it anew.
                Err(failure) if failure.code == super::DAMAGED => {}
                other => other?,
            }
        }
        Ok(needed.len())
    }
}

fn key(sink: &SinkFacts) -> String {
    format!("denied-{}", sink.row)
}

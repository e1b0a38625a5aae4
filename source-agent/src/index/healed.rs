//! What the index adds to healing: the chunks of blocks that a sink lost, and what was healed there already.

use super::uses::Spot;
use super::{Corrupt, Index, SinkFacts, from_column, sqlite};
use crate::report::Outcome;
use rusqlite::{OptionalExtension, params};
use shared::format::Kind;
use shared::id::{ArchiveId, ChunkId};
use std::collections::HashMap;

/// When a block was last healed at a sink, by the sink's clock, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealedAt {
    pub at: i64,
    pub times: u32,
}

impl Index {
    /// Id and kind of an archive.
    pub fn archive_kind(&self, number: u64) -> Outcome<Option<(ArchiveId, Kind)>> {
        let connection = self.writer.lock();
        let mut find = connection.prepare_cached("SELECT id, kind FROM archives WHERE number = ?1").map_err(sqlite)?;
        let found: Option<(Vec<u8>, bool)> =
            find.query_row([number], |row| Ok((row.get(0)?, row.get(1)?))).optional().map_err(sqlite)?;
        let Some((id, metadata)) = found else { return Ok(None) };
        Ok(Some((ArchiveId::new(from_column(id)?), if metadata { Kind::Metadata } else { Kind::Data })))
    }

    /// Chunks that lie in these blocks, as far as the index says so of these and not of others.
    pub fn chunks_in(&self, spots: impl Iterator<Item = Spot>) -> Outcome<HashMap<Spot, Vec<(ChunkId, u32)>>> {
        let mut connection = self.writer.lock();
        // Chunks are sorted by id: one pass over them for all blocks together.
        let transaction = connection.transaction().map_err(sqlite)?;
        let begin = "CREATE TEMP TABLE IF NOT EXISTS sick (archive INTEGER, block INTEGER, PRIMARY KEY (archive, block)) \
             WITHOUT ROWID; DELETE FROM temp.sick;";
        transaction.execute_batch(begin).map_err(sqlite)?;
        let mut found: HashMap<Spot, Vec<(ChunkId, u32)>> = HashMap::new();
        {
            let mut name =
                transaction.prepare_cached("INSERT OR IGNORE INTO temp.sick VALUES (?1, ?2)").map_err(sqlite)?;
            for spot in spots {
                name.execute(params![spot.archive, spot.block]).map_err(sqlite)?;
                found.insert(spot, Vec::new());
            }
            let sql = "SELECT c.id, c.archive, c.block, c.bytes FROM main.chunks c \
                 WHERE EXISTS (SELECT 1 FROM temp.sick s WHERE s.archive = c.archive AND s.block = c.block)";
            let mut list = transaction.prepare(sql).map_err(sqlite)?;
            let mut rows = list.query([]).map_err(sqlite)?;
            while let Some(row) = rows.next().map_err(sqlite)? {
                let id = row.get_ref(0).map_err(sqlite)?.as_blob().map_err(|_| Corrupt)?;
                let id = ChunkId::from_slice(id).map_err(|_| Corrupt)?;
                let spot = Spot { archive: row.get(1).map_err(sqlite)?, block: row.get(2).map_err(sqlite)? };
                found.entry(spot).or_default().push((id, row.get(3).map_err(sqlite)?));
            }
        }
        transaction.execute_batch("DELETE FROM temp.sick").map_err(sqlite)?;
        transaction.commit().map_err(sqlite)?;
        Ok(found)
    }

    /// Blocks that were healed at this sink.
    pub fn healed(&self, sink: &SinkFacts) -> Outcome<HashMap<Spot, HealedAt>> {
        let connection = self.writer.lock();
        let sql = "SELECT archive, block, at, times FROM healed WHERE sink = ?1";
        let mut list = connection.prepare_cached(sql).map_err(sqlite)?;
        let rows = list.query_map([sink.row], |row| {
            let spot = Spot { archive: row.get(0)?, block: row.get(1)? };
            Ok((spot, HealedAt { at: row.get(2)?, times: row.get(3)? }))
        });
        rows.map_err(sqlite)?.collect::<rusqlite::Result<_>>().map_err(sqlite)
    }

    /// Notes that these blocks were healed at this sink, at a time of its clock.
    pub fn note_healed(&self, sink: &SinkFacts, spots: impl Iterator<Item = Spot>, at: i64) -> Outcome<()> {
        let mut connection = self.writer.lock();
        let transaction = connection.transaction().map_err(sqlite)?;
        {
            let sql = "INSERT INTO healed VALUES (?1, ?2, ?3, ?4, 1) \
                 ON CONFLICT DO UPDATE SET at = excluded.at, times = min(times + 1, 1000)";
            let mut note = transaction.prepare_cached(sql).map_err(sqlite)?;
            for spot in spots {
                note.execute(params![sink.row, spot.archive, spot.block, at]).map_err(sqlite)?;
            }
        }
        transaction.commit().map_err(sqlite)
    }
}

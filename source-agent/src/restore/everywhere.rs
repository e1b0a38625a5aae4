//! Where every chunk of a snapshot's archives lies: the slow way, for stale hints, damage and checks. A temporary
//! SQLite database, which goes to a file of its own when it grows.

use crate::report::{Exit, Failure, Outcome};
use crate::tree::ChunkTable;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, params};
use shared::id::{ArchiveNumber, ChunkId};

pub struct Everywhere {
    db: Connection,
}

pub fn sql(error: rusqlite::Error) -> Failure {
    let full = matches!(&error, rusqlite::Error::SqliteFailure(e, _) if e.code == rusqlite::ErrorCode::DiskFull);
    let exit = if full { Exit::Full } else { Exit::Failed };
    Failure::new("temporary", exit, format!("the temporary database: {error}"))
        .help("it lies where SQLITE_TMPDIR or TMPDIR say; it needs about 100 bytes for each chunk of the snapshot")
}

/// A private temporary database: pages are kept in memory up to the cache's size, then in an unlinked file.
pub fn temporary(cache_kib: u32) -> Outcome<Connection> {
    let db = Connection::open("").map_err(sql)?;
    db.execute_batch(&format!(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -{cache_kib}; PRAGMA temp_store = FILE;"
    ))
    .map_err(sql)?;
    // Otherwise a query that is asked again with other values may be planned again.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(sql)?;
    Ok(db)
}

impl Everywhere {
    pub fn new() -> Outcome<Self> {
        let db = temporary(64 << 10)?;
        db.execute_batch(
            "CREATE TABLE chunks(id BLOB NOT NULL, named INTEGER NOT NULL, archive INTEGER NOT NULL, block INTEGER NOT NULL); BEGIN;",
        )
        .map_err(sql)?;
        Ok(Self { db })
    }

    /// Notes all chunks of an archive. `named`: by the snapshot's own pages, not only by a substitute.
    pub fn add(&mut self, number: ArchiveNumber, table: &ChunkTable, named: bool) -> Outcome<()> {
        let mut insert = self.db.prepare_cached("INSERT INTO chunks VALUES (?, ?, ?, ?)").map_err(sql)?;
        for (block, chunks) in table.blocks.iter().enumerate() {
            for chunk in chunks.iter() {
                let place = params![&chunk.id.as_bytes()[..], named, number.get() as i64, block as i64];
                insert.execute(place).map_err(sql)?;
            }
        }
        Ok(())
    }

    /// To be called once, when all archives are noted.
    pub fn finish(&mut self) -> Outcome<()> {
        self.db.execute_batch("CREATE INDEX chunks_id ON chunks(id); COMMIT;").map_err(sql)
    }

    /// Places of a chunk, those that the snapshot names first, then the newest archive; at most 64.
    pub fn find(&self, id: &ChunkId) -> Outcome<Vec<(u64, u32)>> {
        let query = "SELECT archive, block FROM chunks WHERE id = ? ORDER BY named DESC, archive DESC, block LIMIT 64";
        let mut select = self.db.prepare_cached(query).map_err(sql)?;
        let rows = select.query_map([&id.as_bytes()[..]], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(1)?)));
        let rows: Result<Vec<_>, _> = rows.map_err(sql)?.collect();
        Ok(rows.map_err(sql)?.into_iter().map(|(archive, block)| (archive as u64, block)).collect())
    }
}

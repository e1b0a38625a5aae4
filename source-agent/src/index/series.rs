//! The last snapshot of one series: its directories with stat data, and how often it refers to each block.
//!
//! A run changes it in one transaction: ended in the middle, the last whole run stands. Uses are kept up to date by
//! difference; both the rows and their sum are written by the same statements, and [`SeriesWriter::recount`] adds up
//! the rows again where there is doubt.

use super::packing::{RowOpener, RowPacker};
use super::uses::{self, Spot, Uses};
use super::{Corrupt, open_or_renew, owner, reader, sqlite};
use crate::report::Outcome;
use rusqlite::{Connection, OptionalExtension, params};
use shared::id::{Lineage, Series, SourceId};
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS dirs (path BLOB PRIMARY KEY, top BLOB NOT NULL, uses BLOB NOT NULL,
        records BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS uses (archive INTEGER NOT NULL, block INTEGER NOT NULL, count INTEGER NOT NULL,
        PRIMARY KEY (archive, block)) WITHOUT ROWID;
";

/// Blocks whose changes are kept in memory before they are added to the table.
const CHANGES_MAX: usize = 1 << 15;

/// A directory of the last snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirRow {
    /// The reference to its node, encoded.
    pub top: Vec<u8>,
    /// Uses of its own content and nodes, packed; those below are in their own rows.
    pub uses: Vec<u8>,
    /// Records of all names, ascending; packed in the database.
    pub records: Vec<u8>,
}

/// The database of one series.
pub struct SeriesIndex {
    path: PathBuf,
    connection: Connection,
    new: bool,
}

/// The rows as they were when the run began; for one thread.
pub struct SeriesReader {
    connection: Connection,
    opener: RowOpener,
}

/// The one transaction of a run.
pub struct SeriesWriter {
    connection: Connection,
    packer: RowPacker,
    changes: HashMap<Spot, i64>,
    /// A row was not readable: the sums are made again.
    doubt: bool,
}

/// Name of a series' database.
fn file_name(series: &Series) -> String {
    format!("series-{series}.sqlite")
}

/// All databases of series in the cache directory.
pub fn all(cache_dir: &Path) -> Vec<PathBuf> {
    let Ok(names) = std::fs::read_dir(cache_dir) else { return Vec::new() };
    let is_series = |name: &str| name.starts_with("series-") && name.ends_with(".sqlite");
    let mut all: Vec<PathBuf> = names
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_series))
        .map(|entry| entry.path())
        .collect();
    all.sort();
    all
}

/// Puts aside what refers to archives at or above `next`, a number that will be given out: it is of a time that the
/// numbers have forgotten, and would mean other archives from then on.
pub fn put_aside_from(cache_dir: &Path, next: u64) -> Outcome<()> {
    all(cache_dir).iter().try_for_each(|path| if refers_from(path, next)? { super::put_aside(path) } else { Ok(()) })
}

/// Is there a series that [`put_aside_from`] would put aside?
pub fn any_refers_from(cache_dir: &Path, next: u64) -> Outcome<bool> {
    for path in all(cache_dir) {
        if refers_from(&path, next)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Does it refer to such an archive? A damaged one may.
fn refers_from(path: &Path, next: u64) -> Outcome<bool> {
    let sql = "SELECT 1 FROM uses WHERE archive >= ?1 LIMIT 1";
    let found = reader(path).and_then(|reader| reader.query_row(sql, [next], |_| Ok(())).optional().map_err(sqlite));
    match found {
        Err(failure) if failure.code == super::DAMAGED => Ok(true),
        found => Ok(found?.is_some()),
    }
}

/// Calls `each` with every block that a series' last snapshot refers to, ascending.
pub fn for_each_use(path: &Path, each: impl FnMut(Spot, u64) -> Outcome<()>) -> Outcome<()> {
    UsesReader::open(path)?.each(0..u64::MAX, each)
}

/// Reads how often a series' last snapshot refers to each block.
pub struct UsesReader {
    connection: Connection,
}

impl UsesReader {
    pub fn open(path: &Path) -> Outcome<Self> {
        Ok(Self { connection: reader(path)? })
    }

    /// The lowest archive at or above `from` that is referred to.
    pub fn next(&self, from: u64) -> Outcome<Option<u64>> {
        let mut find =
            self.connection.prepare_cached("SELECT min(archive) FROM uses WHERE archive >= ?1").map_err(sqlite)?;
        find.query_row([from], |row| row.get(0)).map_err(sqlite)
    }

    /// Is this block referred to?
    pub fn has(&self, spot: Spot) -> Outcome<bool> {
        let sql = "SELECT 1 FROM uses WHERE archive = ?1 AND block = ?2";
        let mut find = self.connection.prepare_cached(sql).map_err(sqlite)?;
        find.exists(params![spot.archive, spot.block]).map_err(sqlite)
    }

    /// Calls `each` with the blocks of these archives, ascending.
    pub fn each(&self, archives: Range<u64>, mut each: impl FnMut(Spot, u64) -> Outcome<()>) -> Outcome<()> {
        let sql = "SELECT archive, block, count FROM uses WHERE archive >= ?1 AND archive < ?2 ORDER BY archive, block";
        let mut list = self.connection.prepare_cached(sql).map_err(sqlite)?;
        // What SQLite cannot count no archive's number reaches.
        let end = archives.end.min(i64::MAX as u64);
        let mut rows = list.query([archives.start, end]).map_err(sqlite)?;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let spot = Spot { archive: row.get(0).map_err(sqlite)?, block: row.get(1).map_err(sqlite)? };
            each(spot, row.get(2).map_err(sqlite)?)?;
        }
        Ok(())
    }
}

/// Calls `each` with path and row of every directory of a series' last snapshot that refers to one of these blocks.
pub fn for_each_row(
    path: &Path,
    refers: impl Fn(Spot) -> bool,
    mut each: impl FnMut(&[u8], DirRow) -> Outcome<()>,
) -> Outcome<()> {
    let mut any = false;
    for_each_use(path, |spot, _| {
        any |= refers(spot);
        Ok(())
    })?;
    if !any {
        return Ok(());
    }
    let (connection, mut opener) = (reader(path)?, RowOpener::new()?);
    let mut list = connection.prepare("SELECT path, top, uses, records FROM dirs ORDER BY path").map_err(sqlite)?;
    let mut rows = list.query([]).map_err(sqlite)?;
    while let Some(row) = rows.next().map_err(sqlite)? {
        let uses = row.get_ref(2).map_err(sqlite)?.as_blob().map_err(|_| Corrupt)?;
        if !uses::unpack(uses)?.iter().any(|(spot, _)| refers(*spot)) {
            continue;
        }
        let records = opener.open(row.get_ref(3).map_err(sqlite)?.as_blob().map_err(|_| Corrupt)?)?;
        let found = DirRow { top: row.get(1).map_err(sqlite)?, uses: uses.to_vec(), records };
        let path: Vec<u8> = row.get(0).map_err(sqlite)?;
        each(&path, found)?;
    }
    Ok(())
}

impl SeriesIndex {
    pub fn open(cache_dir: &Path, source: &SourceId, lineage: &Lineage, series: &Series) -> Outcome<Self> {
        let path = cache_dir.join(file_name(series));
        let owner = [owner(source, lineage), series.as_bytes().to_vec()].concat();
        let (connection, _) = open_or_renew(&path, TABLES, &owner)?;
        let new =
            connection.query_row("SELECT 1 FROM dirs LIMIT 1", [], |_| Ok(())).optional().map_err(sqlite)?.is_none();
        Ok(Self { path, connection, new })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
    /// No snapshot of this series is remembered.
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// A note of the series.
    pub fn note(&self, key: &str) -> Outcome<Option<Vec<u8>>> {
        let sql = "SELECT value FROM meta WHERE key = ?1";
        self.connection.query_row(sql, [key], |row| row.get(0)).optional().map_err(sqlite)
    }
    pub fn set_note(&self, key: &str, value: &[u8]) -> Outcome<()> {
        let sql = "INSERT OR REPLACE INTO meta VALUES (?1, ?2)";
        self.connection.execute(sql, params![key, value]).map(|_| ()).map_err(sqlite)
    }

    /// The rows as they are now, whatever is written later.
    pub fn reader(&self) -> Outcome<SeriesReader> {
        let connection = reader(&self.path)?;
        connection.execute_batch("BEGIN").map_err(sqlite)?;
        // A deferred transaction begins with its first read.
        connection.query_row("SELECT count(*) FROM meta", [], |_| Ok(())).map_err(sqlite)?;
        Ok(SeriesReader { connection, opener: RowOpener::new()? })
    }

    /// Begins the transaction of a run.
    pub fn begin(&self) -> Outcome<SeriesWriter> {
        let connection = Connection::open(&self.path).map_err(sqlite)?;
        super::configure(&connection).map_err(sqlite)?;
        connection.execute_batch("BEGIN IMMEDIATE").map_err(sqlite)?;
        Ok(SeriesWriter { connection, packer: RowPacker::new()?, changes: HashMap::new(), doubt: false })
    }
}

impl SeriesReader {
    pub fn dir(&mut self, path: &[u8]) -> Outcome<Option<DirRow>> {
        let sql = "SELECT top, uses, records FROM dirs WHERE path = ?1";
        let mut find = self.connection.prepare_cached(sql).map_err(sqlite)?;
        let mut rows = find.query([path]).map_err(sqlite)?;
        let Some(row) = rows.next().map_err(sqlite)? else { return Ok(None) };
        let records = self.opener.open(row.get_ref(2).map_err(sqlite)?.as_blob().map_err(|_| Corrupt)?)?;
        Ok(Some(DirRow { top: row.get(0).map_err(sqlite)?, uses: row.get(1).map_err(sqlite)?, records }))
    }
}

impl SeriesWriter {
    /// Sets the row of a directory.
    pub fn put(&mut self, path: &[u8], row: &DirRow) -> Outcome<()> {
        let sql = "SELECT uses FROM dirs WHERE path = ?1";
        let old: Option<Vec<u8>> = {
            let mut find = self.connection.prepare_cached(sql).map_err(sqlite)?;
            find.query_row([path], |row| row.get(0)).optional().map_err(sqlite)?
        };
        if let Some(old) = old {
            self.change(&old, -1)?;
        }
        self.change(&row.uses, 1)?;
        let sql = "INSERT OR REPLACE INTO dirs VALUES (?1, ?2, ?3, ?4)";
        let mut put = self.connection.prepare_cached(sql).map_err(sqlite)?;
        put.execute(params![path, row.top, row.uses, self.packer.pack(&row.records)?]).map(|_| ()).map_err(sqlite)
    }

    /// Removes a directory and all below it.
    pub fn forget(&mut self, path: &[u8]) -> Outcome<()> {
        let (low, high) = ([path, b"/"].concat(), [path, b"0"].concat());
        let gone = {
            let sql = "SELECT uses FROM dirs WHERE path = ?1 OR (path > ?2 AND path < ?3)";
            let mut list = self.connection.prepare_cached(sql).map_err(sqlite)?;
            let rows = list.query_map(params![path, low, high], |row| row.get(0)).map_err(sqlite)?;
            rows.collect::<rusqlite::Result<Vec<Vec<u8>>>>().map_err(sqlite)?
        };
        for uses in gone {
            self.change(&uses, -1)?;
        }
        let sql = "DELETE FROM dirs WHERE path = ?1 OR (path > ?2 AND path < ?3)";
        self.connection.execute(sql, params![path, low, high]).map(|_| ()).map_err(sqlite)
    }

    /// A note that stands or falls with the rows.
    pub fn set_note(&mut self, key: &str, value: &[u8]) -> Outcome<()> {
        let sql = "INSERT OR REPLACE INTO meta VALUES (?1, ?2)";
        self.connection.execute(sql, params![key, value]).map(|_| ()).map_err(sqlite)
    }

    fn change(&mut self, packed: &[u8], sign: i64) -> Outcome<()> {
        let Ok(list) = uses::unpack(packed) else {
            self.doubt = true;
            return Ok(());
        };
        for (spot, count) in list {
            *self.changes.entry(spot).or_default() += sign * i64::from(count);
        }
        if self.changes.len() >= CHANGES_MAX { self.write_changes() } else { Ok(()) }
    }

    fn write_changes(&mut self) -> Outcome<()> {
        let sql = "INSERT INTO uses VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET count = count + excluded.count";
        let mut add = self.connection.prepare_cached(sql).map_err(sqlite)?;
        for (spot, count) in self.changes.drain().filter(|(_, count)| *count != 0) {
            add.execute(params![spot.archive, spot.block, count]).map_err(sqlite)?;
        }
        Ok(())
    }

    /// Adds up all rows again.
    pub fn recount(&mut self) -> Outcome<()> {
        self.changes.clear();
        self.doubt = false;
        self.connection.execute_batch("DELETE FROM uses").map_err(sqlite)?;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let batch: Vec<(Vec<u8>, Vec<u8>)> = {
                let sql = "SELECT path, uses FROM dirs WHERE ?1 IS NULL OR path > ?1 ORDER BY path LIMIT 4096";
                let mut list = self.connection.prepare_cached(sql).map_err(sqlite)?;
                let rows = list.query_map([&after], |row| Ok((row.get(0)?, row.get(1)?))).map_err(sqlite)?;
                rows.collect::<rusqlite::Result<_>>().map_err(sqlite)?
            };
            for (_, packed) in &batch {
                self.change(packed, 1)?;
            }
            match batch.into_iter().next_back() {
                Some((path, _)) => after = Some(path),
                None => break,
            }
        }
        if self.doubt {
            return Err(Corrupt.into());
        }
        self.write_changes()
    }

    /// Ends the transaction: the new snapshot is the last one from now on.
    pub fn commit(mut self) -> Outcome<()> {
        self.write_changes()?;
        self.connection.execute_batch("DELETE FROM uses WHERE count = 0").map_err(sqlite)?;
        let negative = self.connection.query_row("SELECT 1 FROM uses WHERE count < 0 LIMIT 1", [], |_| Ok(()));
        if self.doubt || negative.optional().map_err(sqlite)?.is_some() {
            self.recount()?;
        }
        self.connection.execute_batch("COMMIT").map_err(sqlite)
    }
}

/// All uses of a series, for tests and comparisons.
pub fn uses_of(path: &Path) -> Outcome<Uses> {
    let mut all = Vec::new();
    for_each_use(path, |spot, count| {
        all.push((spot, u32::try_from(count).map_err(|_| Corrupt)?));
        Ok(())
    })?;
    Ok(all)
}

//! The local index: which chunk lies where, which remote holds which archive, what the last snapshots looked like.
//!
//! All of it is a cache. Lost, it is made again from the sinks (`rebuild`); damaged, it is put aside; older than the
//! sink, it is brought up to date at the start of a session. Whoever can change it can make a run send too much, or
//! make a snapshot refer to a block that lacks a chunk, which `check` shows; he cannot read or sign anything.

mod denied;
pub mod filter;
mod healed;
mod packing;
pub mod rebuild;
pub mod record;
pub mod series;
pub mod uses;

#[cfg(test)]
mod tests;

use crate::report::{Exit, Failure, Outcome};
use crate::tree::table::TableEntry;
use filter::Filter;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use shared::format::Kind;
use shared::id::{ArchiveId, ArchiveNumber, ChunkId, Digest, Lineage, SessionId, SourceId, VerifyKey};
use shared::sys::durable;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use uses::Spot;

/// Bytes of the cache that are not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the local index is damaged")]
pub struct Corrupt;

/// The code of failures after which the index is put aside and made again.
pub const DAMAGED: &str = "index";

impl From<Corrupt> for Failure {
    fn from(error: Corrupt) -> Self {
        damaged(&error.to_string())
    }
}

fn damaged(why: &str) -> Failure {
    Failure::new(DAMAGED, Exit::Failed, why)
        .help("run the same command again: a damaged index is put aside and made again from the remotes")
}

/// A failure of SQLite: full disk, or damage.
fn sqlite(error: rusqlite::Error) -> Failure {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => {
            Failure::new("cache-full", Exit::Full, "the disk of the cache directory is full").help("free space there")
        }
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
            Failure::new("index-busy", Exit::Busy, "another program uses the local index")
                .help("wait for the other source-agent to end")
        }
        _ => damaged(&format!("the local index cannot be used: {error}")),
    }
}

/// The shape of the tables; another one is put aside.
const VERSION: i64 = 2;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS chunks (id BLOB PRIMARY KEY, archive INTEGER NOT NULL, block INTEGER NOT NULL,
        bytes INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS archives (number INTEGER PRIMARY KEY, id BLOB NOT NULL, kind INTEGER NOT NULL,
        session BLOB NOT NULL, bytes INTEGER NOT NULL, blocks BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS sinks (number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, next INTEGER NOT NULL,
        journal BLOB, lists INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS presence (sink INTEGER NOT NULL, archive INTEGER NOT NULL,
        PRIMARY KEY (sink, archive)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS healed (sink INTEGER NOT NULL, archive INTEGER NOT NULL, block INTEGER NOT NULL,
        at INTEGER NOT NULL, times INTEGER NOT NULL, PRIMARY KEY (sink, archive, block)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS pages (sink INTEGER NOT NULL, digest BLOB NOT NULL,
        PRIMARY KEY (sink, digest)) WITHOUT ROWID;
";

/// An archive as the index remembers it.
pub struct ArchiveFacts<'a> {
    pub number: ArchiveNumber,
    pub id: ArchiveId,
    pub kind: Kind,
    pub session: SessionId,
    /// As stored at a sink.
    pub bytes: u64,
    pub table: &'a [Vec<TableEntry>],
    /// It repeats blocks that one sink lost: where its chunks lie elsewhere stays true.
    pub heals: bool,
}

/// What the index knows of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkFacts {
    row: i64,
    /// The sink's next archive number when all its archives were last accounted for.
    pub next: u64,
    /// Digest of its removal journal then.
    pub journal: Option<Digest>,
    /// Sessions since its whole list was read.
    pub lists: u64,
}

/// Chunks and archives of one source and lineage.
pub struct Index {
    path: PathBuf,
    writer: Mutex<Connection>,
}

/// Settings of every connection.
fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -8192; PRAGMA foreign_keys = OFF;",
    )
}

/// A second connection that only reads.
fn reader(path: &Path) -> Outcome<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    connection.busy_timeout(std::time::Duration::from_secs(10)).map_err(sqlite)?;
    connection.execute_batch("PRAGMA cache_size = -2048;").map_err(sqlite)?;
    Ok(connection)
}

/// Moves a database out of the way; it is kept once, for those who want to know why.
pub fn put_aside(path: &Path) -> Outcome<()> {
    let aside = path.with_extension("damaged");
    // The database first: without its log it would be an older one, that looks whole. A crash behind this leaves a log
    // without a database, which the next opening removes.
    match std::fs::rename(path, &aside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Failure::io("put aside", path, &e)),
        _ => {}
    }
    if let Some(dir) = path.parent() {
        durable::sync_dir(dir).map_err(|e| Failure::io("sync", dir, &e))?;
    }
    remove_logs(path)
}

/// Removes what a database of this path left beside itself.
fn remove_logs(path: &Path) -> Outcome<()> {
    ["-wal", "-shm"].into_iter().try_for_each(|ending| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        remove(Path::new(&name))
    })
}

fn remove(path: &Path) -> Outcome<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::io("remove", path, &e)),
        _ => Ok(()),
    }
}

/// Opens a database with these tables and this owner; another one, or damage, is put aside first.
fn open_or_renew(path: &Path, tables: &str, owner: &[u8]) -> Outcome<(Connection, bool)> {
    if !path.exists() {
        // The log of another database is none of the new one's.
        remove_logs(path)?;
    }
    match open_owned(path, tables, owner) {
        Ok(Some(connection)) => return Ok((connection, false)),
        Err(failure) if failure.code != DAMAGED => return Err(failure),
        _ => put_aside(path)?,
    }
    match open_owned(path, tables, owner)? {
        Some(connection) => Ok((connection, true)),
        None => Err(damaged("a new index is not usable")),
    }
}

/// `None`: the database belongs to another source, lineage or version.
fn open_owned(path: &Path, tables: &str, owner: &[u8]) -> Outcome<Option<Connection>> {
    let connection = Connection::open(path).map_err(sqlite)?;
    let owned = || -> rusqlite::Result<bool> {
        configure(&connection)?;
        connection.execute_batch(tables)?;
        let known: Option<Vec<u8>> =
            connection.query_row("SELECT value FROM meta WHERE key = 'owner'", [], |row| row.get(0)).optional()?;
        let version: Option<i64> =
            connection.query_row("SELECT value FROM meta WHERE key = 'version'", [], |row| row.get(0)).optional()?;
        match (known, version) {
            (Some(known), Some(VERSION)) => Ok(known == owner),
            (None, None) => {
                connection
                    .execute("INSERT INTO meta VALUES ('owner', ?1), ('version', ?2)", params![owner, VERSION])?;
                Ok(true)
            }
            _ => Ok(false),
        }
    };
    owned().map(|owned| owned.then_some(connection)).map_err(sqlite_or_owner)
}

fn sqlite_or_owner(error: rusqlite::Error) -> Failure {
    match error {
        // A column of another type: another program's, or damage.
        rusqlite::Error::InvalidColumnType(..) => damaged("the local index is not one of this version"),
        other => sqlite(other),
    }
}

/// The name of whom a database belongs to.
fn owner(source: &SourceId, lineage: &Lineage) -> Vec<u8> {
    [&source.as_bytes()[..], lineage.as_bytes()].concat()
}

fn from_column<const N: usize>(bytes: Vec<u8>) -> Outcome<[u8; N]> {
    bytes.try_into().map_err(|_| Corrupt.into())
}

fn next_number(connection: &Connection) -> Outcome<u64> {
    let sql = "SELECT coalesce(max(number) + 1, 0) FROM archives";
    connection.query_row(sql, [], |row| row.get(0)).map_err(sqlite)
}

impl Index {
    /// Opens the index of this source in the cache directory, or begins one. True if it is new.
    pub fn open(cache_dir: &Path, source: &SourceId, lineage: &Lineage) -> Outcome<(Self, bool)> {
        let path = cache_dir.join("index.sqlite");
        let owner = owner(source, lineage);
        let (mut connection, mut renewed) = open_or_renew(&path, TABLES, &owner)?;
        let next = match next_number(&connection) {
            // What `open_or_renew` looks at is only the first page.
            Err(failure) if failure.code == DAMAGED => {
                drop(connection);
                put_aside(&path)?;
                (connection, renewed) = open_or_renew(&path, TABLES, &owner)?;
                next_number(&connection)?
            }
            next => next?,
        };
        Ok((Self { path, writer: Mutex::new(connection) }, renewed || next == 0))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A connection of its own for one thread.
    pub fn lookup(&self) -> Outcome<Lookup> {
        Ok(Lookup { connection: reader(&self.path)? })
    }

    /// A filter over all ids.
    pub fn filter(&self) -> Outcome<Filter> {
        let connection = reader(&self.path)?;
        let count: u64 = connection.query_row("SELECT count(*) FROM chunks", [], |row| row.get(0)).map_err(sqlite)?;
        let filter = Filter::new(count + (1 << 17));
        let mut ids = connection.prepare("SELECT id FROM chunks").map_err(sqlite)?;
        let mut rows = ids.query([]).map_err(sqlite)?;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let id = row.get_ref(0).map_err(sqlite)?.as_blob().map_err(|_| Corrupt)?;
            filter.add(&ChunkId::from_slice(id).map_err(|_| Corrupt)?);
        }
        Ok(filter)
    }

    /// One more than the highest archive number known.
    pub fn next_number(&self) -> Outcome<u64> {
        next_number(&self.writer.lock())
    }

    /// The id of an archive.
    pub fn archive_id(&self, number: u64) -> Outcome<Option<ArchiveId>> {
        let connection = self.writer.lock();
        let mut find = connection.prepare_cached("SELECT id FROM archives WHERE number = ?1").map_err(sqlite)?;
        let id: Option<Vec<u8>> = find.query_row([number], |row| row.get(0)).optional().map_err(sqlite)?;
        id.map(|id| from_column(id).map(ArchiveId::new)).transpose()
    }

    /// Chunks and plaintext bytes of each block of an archive.
    pub fn blocks(&self, number: u64) -> Outcome<Vec<(u64, u64)>> {
        let connection = self.writer.lock();
        let mut find = connection.prepare_cached("SELECT blocks FROM archives WHERE number = ?1").map_err(sqlite)?;
        let packed: Option<Vec<u8>> = find.query_row([number], |row| row.get(0)).optional().map_err(sqlite)?;
        let mut from = packed.as_deref().unwrap_or(&[]);
        let mut blocks = Vec::new();
        while !from.is_empty() {
            blocks.push((uses::take_number(&mut from)?, uses::take_number(&mut from)?));
        }
        Ok(blocks)
    }

    /// What is known of this sink; a new one is noted.
    pub fn sink(&self, key: &VerifyKey) -> Outcome<SinkFacts> {
        let connection = self.writer.lock();
        connection
            .execute("INSERT OR IGNORE INTO sinks (key, next, lists) VALUES (?1, 0, 0)", [key.as_bytes()])
            .map_err(sqlite)?;
        let sql = "SELECT number, next, journal, lists FROM sinks WHERE key = ?1";
        let (row, next, journal, lists): (i64, u64, Option<Vec<u8>>, u64) = connection
            .query_row(sql, [key.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
            .map_err(sqlite)?;
        let journal = journal.map(|digest| from_column(digest).map(Digest::new)).transpose()?;
        Ok(SinkFacts { row, next, journal, lists })
    }

    /// A session begins: all archives of this sink below `next` are accounted for, by its whole list or by what came
    /// since.
    pub fn account(&self, sink: &SinkFacts, next: u64, journal: Option<Digest>, whole_list: bool) -> Outcome<()> {
        self.advance(sink, next, journal)?;
        let sql = "UPDATE sinks SET lists = CASE WHEN ?2 THEN 0 ELSE lists + 1 END WHERE number = ?1";
        self.writer.lock().execute(sql, params![sink.row, whole_list]).map_err(sqlite)?;
        Ok(())
    }

    /// A session ends: what was pushed in it is accounted for too.
    pub fn advance(&self, sink: &SinkFacts, next: u64, journal: Option<Digest>) -> Outcome<()> {
        let journal = journal.map(|digest| digest.as_bytes().to_vec());
        let sql = "UPDATE sinks SET next = ?2, journal = ?3 WHERE number = ?1";
        self.writer.lock().execute(sql, params![sink.row, next, journal]).map_err(sqlite)?;
        Ok(())
    }

    /// Archives that this sink is known to hold.
    pub fn present(&self, sink: &SinkFacts) -> Outcome<HashSet<u64>> {
        let connection = self.writer.lock();
        let mut list = connection.prepare_cached("SELECT archive FROM presence WHERE sink = ?1").map_err(sqlite)?;
        let rows = list.query_map([sink.row], |row| row.get(0)).map_err(sqlite)?;
        rows.collect::<rusqlite::Result<_>>().map_err(sqlite)
    }

    /// A sink acknowledged an archive. Its chunks become known with the first acknowledgement of any sink, in the same
    /// transaction: so what the index knows is durable somewhere.
    pub fn acknowledge(&self, sink: &SinkFacts, archive: &ArchiveFacts, first: bool) -> Outcome<()> {
        let mut connection = self.writer.lock();
        let transaction = connection.transaction().map_err(sqlite)?;
        if first {
            insert_archive(&transaction, archive).map_err(sqlite)?;
        }
        transaction
            .execute("INSERT OR IGNORE INTO presence VALUES (?1, ?2)", params![sink.row, archive.number.get()])
            .map_err(sqlite)?;
        transaction.commit().map_err(sqlite)
    }

    /// Notes that a sink holds these archives.
    pub fn add_presence(&self, sink: &SinkFacts, archives: &[u64]) -> Outcome<()> {
        self.each(sink, archives, "INSERT OR IGNORE INTO presence VALUES (?1, ?2)")
    }

    /// Notes that a sink does not hold these archives.
    pub fn drop_presence(&self, sink: &SinkFacts, archives: &[u64]) -> Outcome<()> {
        self.each(sink, archives, "DELETE FROM presence WHERE sink = ?1 AND archive = ?2")
    }

    /// Forgets where the chunks of these archives lie: they are laid again where they are needed.
    pub fn forget_chunks(&self, archives: &[u64]) -> Outcome<()> {
        let mut connection = self.writer.lock();
        let transaction = connection.transaction().map_err(sqlite)?;
        // Chunks are sorted by id: one pass over them for all archives together.
        let begin = "CREATE TEMP TABLE IF NOT EXISTS lacking (archive INTEGER PRIMARY KEY); DELETE FROM temp.lacking;";
        transaction.execute_batch(begin).map_err(sqlite)?;
        {
            let mut name =
                transaction.prepare_cached("INSERT OR IGNORE INTO temp.lacking VALUES (?1)").map_err(sqlite)?;
            for archive in archives {
                name.execute([archive]).map_err(sqlite)?;
            }
        }
        let sql = "DELETE FROM chunks WHERE archive IN (SELECT archive FROM temp.lacking); DELETE FROM temp.lacking;";
        transaction.execute_batch(sql).map_err(sqlite)?;
        transaction.commit().map_err(sqlite)
    }

    fn each(&self, sink: &SinkFacts, archives: &[u64], sql: &str) -> Outcome<()> {
        let mut connection = self.writer.lock();
        let transaction = connection.transaction().map_err(sqlite)?;
        {
            let mut change = transaction.prepare_cached(sql).map_err(sqlite)?;
            for archive in archives {
                change.execute(params![sink.row, archive]).map_err(sqlite)?;
            }
        }
        transaction.commit().map_err(sqlite)
    }

    /// Ref pages that this sink is known to hold.
    pub fn pages(&self, sink: &SinkFacts) -> Outcome<HashSet<Digest>> {
        let connection = self.writer.lock();
        let mut list = connection.prepare_cached("SELECT digest FROM pages WHERE sink = ?1").map_err(sqlite)?;
        let mut rows = list.query([sink.row]).map_err(sqlite)?;
        let mut pages = HashSet::new();
        while let Some(row) = rows.next().map_err(sqlite)? {
            let digest = row.get_ref(0).map_err(sqlite)?.as_blob().map_err(|_| Corrupt)?;
            pages.insert(Digest::from_slice(digest).map_err(|_| Corrupt)?);
        }
        Ok(pages)
    }

    /// Notes pages that this sink holds, or (`held` false) that it lacks.
    pub fn note_pages(&self, sink: &SinkFacts, pages: &[Digest], held: bool) -> Outcome<()> {
        let sql = if held {
            "INSERT OR IGNORE INTO pages VALUES (?1, ?2)"
        } else {
            "DELETE FROM pages WHERE sink = ?1 AND digest = ?2"
        };
        let mut connection = self.writer.lock();
        let transaction = connection.transaction().map_err(sqlite)?;
        for page in pages {
            transaction.execute(sql, params![sink.row, page.as_bytes()]).map_err(sqlite)?;
        }
        transaction.commit().map_err(sqlite)
    }
}

fn insert_archive(connection: &Connection, archive: &ArchiveFacts) -> rusqlite::Result<()> {
    let mut blocks = Vec::new();
    for block in archive.table {
        uses::put_number(&mut blocks, block.len() as u64);
        uses::put_number(&mut blocks, block.iter().map(|entry| u64::from(entry.bytes)).sum());
    }
    connection.execute(
        "INSERT OR REPLACE INTO archives VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            archive.number.get(),
            archive.id.as_bytes(),
            archive.kind == Kind::Metadata,
            archive.session.as_bytes(),
            archive.bytes,
            blocks
        ],
    )?;
    // Sorted keys go into the tree twice as fast.
    let mut chunks: Vec<(&ChunkId, u32, u32)> = Vec::new();
    for (block, entries) in archive.table.iter().enumerate() {
        chunks.extend(entries.iter().map(|entry| (&entry.id, block as u32, entry.bytes)));
    }
    chunks.sort_unstable_by_key(|(id, ..)| *id);
    let sql = match archive.heals {
        true => "INSERT OR IGNORE INTO chunks VALUES (?1, ?2, ?3, ?4)",
        false => "INSERT OR REPLACE INTO chunks VALUES (?1, ?2, ?3, ?4)",
    };
    let mut insert = connection.prepare_cached(sql)?;
    for (id, block, bytes) in chunks {
        insert.execute(params![id.as_bytes(), archive.number.get(), block, bytes])?;
    }
    Ok(())
}

/// Finds chunks; one for each thread.
pub struct Lookup {
    connection: Connection,
}

impl Lookup {
    /// Where a chunk lies, as far as any sink has acknowledged it.
    pub fn find(&self, id: &ChunkId) -> Outcome<Option<Spot>> {
        let mut find =
            self.connection.prepare_cached("SELECT archive, block FROM chunks WHERE id = ?1").map_err(sqlite)?;
        find.query_row([id.as_bytes()], |row| Ok(Spot { archive: row.get(0)?, block: row.get(1)? }))
            .optional()
            .map_err(sqlite)
    }
}

//! The plan of a restore: what is to be made, and which chunk goes where, in a temporary database, so that memory does
//! not grow with the snapshot.

use crate::report::{Failure, Outcome};
use crate::restore::everywhere::{sql, temporary};
use crate::tree::{ChunkRef, Entry};
use rusqlite::{Connection, OptionalExtension, params};
use shared::codec;
use shared::id::{ArchiveNumber, ChunkId};

/// Memory for the plan's pages before they go to a file.
const CACHE_KIB: u32 = 64 << 10;

/// Wants that are taken from the plan at once.
pub const WANTS_AT_ONCE: u32 = 4096;

/// A directory of the plan; the target itself is number 0.
pub type DirId = i64;
/// A file of the plan.
pub type FileId = i64;

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its content is to be written, then it gets its metadata and name.
    Pending = 0,
    /// The one that is there has the content already: metadata alone.
    Unchanged = 1,
    /// It cannot be restored.
    Lost = 2,
    /// It is whole and has its name.
    Done = 3,
}

/// A chunk's way into a file.
#[derive(Debug, Clone)]
pub struct Want {
    pub row: i64,
    pub chunk: ChunkId,
    pub bytes: u32,
    pub file: FileId,
    pub dir: DirId,
    pub offset: u64,
    pub file_bytes: u64,
    /// The file's entry, encoded, where nothing else of its content is left to write.
    pub last: Option<Vec<u8>>,
}

impl Want {
    /// Is this chunk all of the file?
    pub fn is_whole(&self) -> bool {
        self.offset == 0 && u64::from(self.bytes) == self.file_bytes
    }
}

/// A want that was not fulfilled where it was sought.
#[derive(Debug, Clone)]
pub struct FailedWant {
    pub row: i64,
    /// With the place of its hint.
    pub chunk: ChunkRef,
    /// Where it was sought last.
    pub tried: (u64, u32),
    pub file: FileId,
}

/// A directory as made.
#[derive(Debug, Clone)]
pub struct DirRow {
    pub id: DirId,
    pub parent: DirId,
    pub name: Vec<u8>,
    /// Device and inode, so that another directory in its place is noticed.
    pub identity: (u64, u64),
    /// Metadata to set at the end; absent for directories that were there before and are not in the snapshot's part.
    pub entry: Option<Entry>,
}

/// A file as planned.
#[derive(Debug, Clone)]
pub struct FileRow {
    pub id: FileId,
    pub dir: DirId,
    pub entry: Entry,
    pub state: State,
    /// Chunks of it that are not written yet.
    pub unwritten: u64,
}

/// A further name of a file or other entry.
#[derive(Debug, Clone)]
pub struct LinkRow {
    pub dir: DirId,
    pub name: Vec<u8>,
    pub first_dir: DirId,
    pub first_name: Vec<u8>,
    /// The file that must not be lost; `None` for entries made at once.
    pub file: Option<FileId>,
}

/// The first entry of a hard link group: directory, name, and the file if it is one.
pub type FirstLink = (DirId, Vec<u8>, Option<FileId>);

pub struct Plan {
    db: Connection,
    next_dir: DirId,
    next_file: FileId,
}

const SCHEMA: &str = "
CREATE TABLE dirs(id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name BLOB NOT NULL, dev INTEGER NOT NULL, ino INTEGER NOT NULL, entry BLOB);
CREATE TABLE files(id INTEGER PRIMARY KEY, dir INTEGER NOT NULL, bytes INTEGER NOT NULL, state INTEGER NOT NULL, unwritten INTEGER NOT NULL, entry BLOB NOT NULL);
CREATE TABLE wants(id INTEGER PRIMARY KEY, archive INTEGER NOT NULL, block INTEGER NOT NULL, chunk BLOB NOT NULL, bytes INTEGER NOT NULL, file INTEGER NOT NULL, offset INTEGER NOT NULL, round INTEGER NOT NULL);
CREATE TABLE moved(want INTEGER PRIMARY KEY, archive INTEGER NOT NULL, block INTEGER NOT NULL);
CREATE TABLE links(fs INTEGER NOT NULL, inode INTEGER NOT NULL, content BLOB NOT NULL, dir INTEGER NOT NULL, name BLOB NOT NULL, file INTEGER, PRIMARY KEY(fs, inode, content)) WITHOUT ROWID;
CREATE TABLE later(dir INTEGER NOT NULL, name BLOB NOT NULL, first_dir INTEGER NOT NULL, first_name BLOB NOT NULL, file INTEGER);
CREATE TABLE kept(dir INTEGER NOT NULL, name BLOB NOT NULL, PRIMARY KEY(dir, name)) WITHOUT ROWID;
CREATE TABLE closed(dir INTEGER PRIMARY KEY);
CREATE TABLE failed(want INTEGER NOT NULL);
CREATE TABLE tried(chunk BLOB NOT NULL, archive INTEGER NOT NULL, block INTEGER NOT NULL, PRIMARY KEY(chunk, archive, block)) WITHOUT ROWID;
BEGIN;
";

fn number(value: u64) -> Outcome<i64> {
    i64::try_from(value).map_err(|_| crate::restore::objects::tampered("plan", format!("{value} is no size of a file")))
}

/// An entry of the plan.
pub fn entry_of(bytes: &[u8]) -> Outcome<Entry> {
    // It was encoded here a moment ago: only the file system of the temporary database can have changed it.
    codec::decode(bytes, bytes.len(), "entry")
        .map_err(|e| Failure::new("temporary", crate::report::Exit::Failed, format!("the temporary database: {e}")))
}

/// A query for at most [`WANTS_AT_ONCE`] rows.
fn limited(query: &str) -> String {
    format!("{query} LIMIT {WANTS_AT_ONCE}")
}

/// The entry without its content: what metadata needs.
fn bare(entry: &Entry) -> Vec<u8> {
    let mut bare = entry.clone();
    bare.extents = None;
    bare.list = None;
    bare.node = None;
    codec::encode(&bare)
}

impl Plan {
    pub fn new() -> Outcome<Self> {
        let db = temporary(CACHE_KIB)?;
        db.execute_batch(SCHEMA).map_err(sql)?;
        Ok(Self { db, next_dir: 0, next_file: 0 })
    }

    pub fn add_dir(
        &mut self,
        parent: DirId,
        name: &[u8],
        identity: (u64, u64),
        entry: Option<&Entry>,
    ) -> Outcome<DirId> {
        let id = self.next_dir;
        self.next_dir += 1;
        let mut insert = self.db.prepare_cached("INSERT INTO dirs VALUES (?, ?, ?, ?, ?, ?)").map_err(sql)?;
        let row = params![id, parent, name, identity.0 as i64, identity.1 as i64, entry.map(bare)];
        insert.execute(row).map_err(sql)?;
        Ok(id)
    }

    pub fn dir(&self, id: DirId) -> Outcome<Option<DirRow>> {
        let mut select =
            self.db.prepare_cached("SELECT parent, name, dev, ino, entry FROM dirs WHERE id = ?").map_err(sql)?;
        let row = select
            .query_row([id], |row| {
                let identity = (row.get::<_, i64>(2)? as u64, row.get::<_, i64>(3)? as u64);
                Ok((row.get(0)?, row.get(1)?, identity, row.get::<_, Option<Vec<u8>>>(4)?))
            })
            .optional()
            .map_err(sql)?;
        let Some((parent, name, identity, entry)) = row else { return Ok(None) };
        let entry = entry.map(|bytes| entry_of(&bytes)).transpose()?;
        Ok(Some(DirRow { id, parent, name, identity, entry }))
    }

    /// How many directories there are; their numbers count from 0, children behind parents.
    pub fn dirs(&self) -> DirId {
        self.next_dir
    }

    /// The path of a directory below the target, for messages.
    pub fn path(&self, dir: DirId) -> Outcome<Vec<u8>> {
        let mut names = Vec::new();
        let mut at = dir;
        while at != 0 {
            let Some(row) = self.dir(at)? else { break };
            names.push(row.name);
            at = row.parent;
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    /// The number of a file that is added when it is known how many chunks it has.
    pub fn next_file(&mut self) -> FileId {
        let id = self.next_file;
        self.next_file += 1;
        id
    }

    pub fn add_file(&mut self, id: FileId, dir: DirId, entry: &Entry, state: State, wants: u64) -> Outcome<()> {
        let bytes = number(entry.size)?;
        let mut insert = self.db.prepare_cached("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)").map_err(sql)?;
        insert.execute(params![id, dir, bytes, state as i64, number(wants)?, bare(entry)]).map_err(sql)?;
        Ok(())
    }

    /// A chunk of the file is written. Says whether it was the last one of a file that is not lost.
    pub fn wrote(&self, file: FileId) -> Outcome<bool> {
        let query = "UPDATE files SET unwritten = unwritten - 1 WHERE id = ? AND state = 0 RETURNING unwritten";
        let mut update = self.db.prepare_cached(query).map_err(sql)?;
        let left: Option<i64> = update.query_row([file], |row| row.get(0)).optional().map_err(sql)?;
        Ok(left == Some(0))
    }

    /// These files are whole and have their names.
    pub fn done(&self, files: &[FileId]) -> Outcome<()> {
        let mut update =
            self.db.prepare_cached("UPDATE files SET state = 3, unwritten = 0 WHERE id = ?").map_err(sql)?;
        for file in files {
            update.execute([file]).map_err(sql)?;
        }
        Ok(())
    }

    pub fn set_lost(&mut self, file: FileId) -> Outcome<bool> {
        let mut update =
            self.db.prepare_cached("UPDATE files SET state = 2 WHERE id = ? AND state <> 2").map_err(sql)?;
        Ok(update.execute([file]).map_err(sql)? > 0)
    }

    pub fn file(&self, id: FileId) -> Outcome<Option<FileRow>> {
        let query = "SELECT id, dir, state, unwritten, entry FROM files WHERE id = ?";
        self.file_row(query, id)
    }

    /// The first file from this number on that is not done.
    pub fn unfinished(&self, from: FileId) -> Outcome<Option<FileRow>> {
        let query =
            "SELECT id, dir, state, unwritten, entry FROM files WHERE id >= ? AND state <> 3 ORDER BY id LIMIT 1";
        self.file_row(query, from)
    }

    fn file_row(&self, query: &str, id: FileId) -> Outcome<Option<FileRow>> {
        let mut select = self.db.prepare_cached(query).map_err(sql)?;
        let row = select
            .query_row([id], |row| {
                let unwritten = row.get::<_, i64>(3)? as u64;
                Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?, unwritten, row.get::<_, Vec<u8>>(4)?))
            })
            .optional()
            .map_err(sql)?;
        let Some((id, dir, state, unwritten, entry)) = row else { return Ok(None) };
        let state = match state {
            0 => State::Pending,
            1 => State::Unchanged,
            2 => State::Lost,
            _ => State::Done,
        };
        Ok(Some(FileRow { id, dir, entry: entry_of(&entry)?, state, unwritten }))
    }

    pub fn add_want(&mut self, file: FileId, offset: u64, chunk: &ChunkRef) -> Outcome<()> {
        let mut insert = self
            .db
            .prepare_cached(
                "INSERT INTO wants(archive, block, chunk, bytes, file, offset, round) VALUES (?, ?, ?, ?, ?, ?, 0)",
            )
            .map_err(sql)?;
        let archive = chunk.archive.get() as i64;
        let row = params![archive, chunk.block, &chunk.id.as_bytes()[..], chunk.bytes, file, number(offset)?];
        insert.execute(row).map_err(sql)?;
        Ok(())
    }

    /// To be called once between planning and writing.
    pub fn ready(&mut self) -> Outcome<()> {
        self.db.execute_batch("CREATE INDEX wants_place ON wants(round, archive, block);").map_err(sql)
    }

    /// The next archive of this round at or behind `from`.
    pub fn next_archive(&self, round: u32, from: u64) -> Outcome<Option<ArchiveNumber>> {
        let mut select = self
            .db
            .prepare_cached("SELECT archive FROM wants WHERE round = ? AND archive >= ? ORDER BY archive LIMIT 1")
            .map_err(sql)?;
        let found: Option<i64> =
            select.query_row(params![round, from as i64], |row| row.get(0)).optional().map_err(sql)?;
        Ok(found.and_then(|number| ArchiveNumber::new(number as u64).ok()))
    }

    /// The blocks wanted of an archive, ascending.
    pub fn blocks(&self, round: u32, archive: ArchiveNumber) -> Outcome<Vec<u32>> {
        let query = "SELECT DISTINCT block FROM wants WHERE round = ? AND archive = ? ORDER BY block";
        let mut select = self.db.prepare_cached(query).map_err(sql)?;
        let rows = select.query_map(params![round, archive.get() as i64], |row| row.get(0)).map_err(sql)?;
        rows.collect::<Result<_, _>>().map_err(sql)
    }

    /// Wants of a block behind row `after`, of files that are not lost, at most [`WANTS_AT_ONCE`].
    pub fn wants(&self, round: u32, place: (ArchiveNumber, u32), after: i64) -> Outcome<Vec<Want>> {
        let query = limited(
            "SELECT w.id, w.chunk, w.bytes, w.file, f.dir, w.offset, f.bytes, CASE WHEN f.unwritten = 1 THEN f.entry END
            FROM wants w JOIN files f ON f.id = w.file
            WHERE w.round = ? AND w.archive = ? AND w.block = ? AND w.id > ? AND f.state = 0 ORDER BY w.id",
        );
        let mut select = self.db.prepare_cached(&query).map_err(sql)?;
        let parameters = params![round, place.0.get() as i64, place.1, after];
        self.want_rows(&mut select, parameters)
    }

    fn want_rows(
        &self,
        select: &mut rusqlite::CachedStatement<'_>,
        values: impl rusqlite::Params,
    ) -> Outcome<Vec<Want>> {
        let rows = select.query_map(values, |row| {
            let id: [u8; 32] = row.get(1)?;
            Ok(Want {
                row: row.get(0)?,
                chunk: ChunkId::new(id),
                bytes: row.get(2)?,
                file: row.get(3)?,
                dir: row.get(4)?,
                offset: row.get::<_, i64>(5)? as u64,
                file_bytes: row.get::<_, i64>(6)? as u64,
                last: row.get(7)?,
            })
        });
        rows.map_err(sql)?.collect::<Result<_, _>>().map_err(sql)
    }

    /// Wants of files that are written, in the order of files and offsets, for the check afterwards.
    pub fn wants_of(&self, file: FileId, after: u64) -> Outcome<Vec<Want>> {
        let query = limited(
            "SELECT w.id, w.chunk, w.bytes, w.file, f.dir, w.offset, f.bytes, NULL FROM wants w JOIN files f ON f.id = w.file
            WHERE w.file = ? AND w.offset >= ? ORDER BY w.offset",
        );
        let mut select = self.db.prepare_cached(&query).map_err(sql)?;
        self.want_rows(&mut select, params![file, after as i64])
    }

    /// Needed once before [`Plan::wants_of`].
    pub fn ready_by_file(&mut self) -> Outcome<()> {
        self.db.execute_batch("CREATE INDEX wants_file ON wants(file, offset);").map_err(sql)
    }

    pub fn fail(&self, wants: &[i64]) -> Outcome<()> {
        let mut insert = self.db.prepare_cached("INSERT INTO failed VALUES (?)").map_err(sql)?;
        for want in wants {
            insert.execute([want]).map_err(sql)?;
        }
        Ok(())
    }

    /// Takes failed wants, at most [`WANTS_AT_ONCE`].
    pub fn take_failed(&mut self) -> Outcome<Vec<FailedWant>> {
        let query = limited(
            "SELECT f.rowid, w.id, w.chunk, w.bytes, ifnull(m.archive, w.archive), ifnull(m.block, w.block), w.file, w.archive, w.block \
             FROM failed f JOIN wants w ON w.id = f.want LEFT JOIN moved m ON m.want = w.id ORDER BY f.rowid",
        );
        let mut select = self.db.prepare_cached(&query).map_err(sql)?;
        let rows = select.query_map([], |row| {
            let id: [u8; 32] = row.get(2)?;
            let archive = ArchiveNumber::new(row.get::<_, i64>(4)? as u64).unwrap_or(ArchiveNumber::FIRST);
            let chunk = ChunkRef { id: ChunkId::new(id), bytes: row.get(3)?, archive, block: row.get(5)? };
            let tried = (row.get::<_, i64>(7)? as u64, row.get(8)?);
            Ok((row.get::<_, i64>(0)?, FailedWant { row: row.get(1)?, chunk, tried, file: row.get(6)? }))
        });
        let rows: Vec<_> = rows.map_err(sql)?.collect::<Result<_, _>>().map_err(sql)?;
        if let Some((last, ..)) = rows.last() {
            self.db.prepare_cached("DELETE FROM failed WHERE rowid <= ?").map_err(sql)?.execute([last]).map_err(sql)?;
        }
        Ok(rows.into_iter().map(|(_, want)| want).collect())
    }

    /// Notes that this place was tried for this chunk; says whether it was new.
    pub fn try_once(&mut self, chunk: &ChunkId, place: (u64, u32)) -> Outcome<()> {
        let mut insert = self.db.prepare_cached("INSERT OR IGNORE INTO tried VALUES (?, ?, ?)").map_err(sql)?;
        insert.execute(params![&chunk.as_bytes()[..], place.0 as i64, place.1]).map_err(sql)?;
        Ok(())
    }

    pub fn was_tried(&self, chunk: &ChunkId, place: (u64, u32)) -> Outcome<bool> {
        let query = "SELECT 1 FROM tried WHERE chunk = ? AND archive = ? AND block = ?";
        let mut select = self.db.prepare_cached(query).map_err(sql)?;
        select.exists(params![&chunk.as_bytes()[..], place.0 as i64, place.1]).map_err(sql)
    }

    /// Moves a want to another place, for the next round; its first place is remembered.
    pub fn move_want(&mut self, want: i64, place: (u64, u32), round: u32) -> Outcome<()> {
        let sql_first = "INSERT OR IGNORE INTO moved SELECT id, archive, block FROM wants WHERE id = ?";
        self.db.prepare_cached(sql_first).map_err(sql)?.execute([want]).map_err(sql)?;
        let mut update =
            self.db.prepare_cached("UPDATE wants SET archive = ?, block = ?, round = ? WHERE id = ?").map_err(sql)?;
        update.execute(params![place.0 as i64, place.1, round, want]).map_err(sql)?;
        Ok(())
    }

    /// The first entry of a hard link group with this content, if one was noted.
    pub fn first_link(&self, fs: u32, inode: u64, content: &[u8]) -> Outcome<Option<FirstLink>> {
        let mut select = self
            .db
            .prepare_cached("SELECT dir, name, file FROM links WHERE fs = ? AND inode = ? AND content = ?")
            .map_err(sql)?;
        select
            .query_row(params![fs, inode as i64, content], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()
            .map_err(sql)
    }

    pub fn note_link(
        &mut self,
        group: (u32, u64),
        content: &[u8],
        dir: DirId,
        name: &[u8],
        file: Option<FileId>,
    ) -> Outcome<()> {
        let mut insert =
            self.db.prepare_cached("INSERT OR IGNORE INTO links VALUES (?, ?, ?, ?, ?, ?)").map_err(sql)?;
        insert.execute(params![group.0, group.1 as i64, content, dir, name, file]).map_err(sql)?;
        Ok(())
    }

    pub fn add_later_link(&mut self, link: &LinkRow) -> Outcome<()> {
        let mut insert = self.db.prepare_cached("INSERT INTO later VALUES (?, ?, ?, ?, ?)").map_err(sql)?;
        insert.execute(params![link.dir, link.name, link.first_dir, link.first_name, link.file]).map_err(sql)?;
        Ok(())
    }

    /// Later links behind this row.
    pub fn later_links(&self, after: i64) -> Outcome<Vec<(i64, LinkRow)>> {
        let query =
            limited("SELECT rowid, dir, name, first_dir, first_name, file FROM later WHERE rowid > ? ORDER BY rowid");
        let mut select = self.db.prepare_cached(&query).map_err(sql)?;
        let rows = select.query_map([after], |row| {
            let link = LinkRow {
                dir: row.get(1)?,
                name: row.get(2)?,
                first_dir: row.get(3)?,
                first_name: row.get(4)?,
                file: row.get(5)?,
            };
            Ok((row.get(0)?, link))
        });
        rows.map_err(sql)?.collect::<Result<_, _>>().map_err(sql)
    }

    /// Notes a name of the snapshot, for `--delete`.
    pub fn keep(&mut self, dir: DirId, name: &[u8]) -> Outcome<()> {
        let mut insert = self.db.prepare_cached("INSERT OR IGNORE INTO kept VALUES (?, ?)").map_err(sql)?;
        insert.execute(params![dir, name]).map_err(sql)?;
        Ok(())
    }

    pub fn is_kept(&self, dir: DirId, name: &[u8]) -> Outcome<bool> {
        let mut select = self.db.prepare_cached("SELECT 1 FROM kept WHERE dir = ? AND name = ?").map_err(sql)?;
        select.exists(params![dir, name]).map_err(sql)
    }

    /// Notes that all names of a directory are known, for `--delete`.
    pub fn close(&mut self, dir: DirId) -> Outcome<()> {
        self.db.prepare_cached("INSERT OR IGNORE INTO closed VALUES (?)").map_err(sql)?.execute([dir]).map_err(sql)?;
        Ok(())
    }

    pub fn is_closed(&self, dir: DirId) -> Outcome<bool> {
        self.db.prepare_cached("SELECT 1 FROM closed WHERE dir = ?").map_err(sql)?.exists([dir]).map_err(sql)
    }
}

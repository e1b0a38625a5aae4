//! The ledger: a cache over one source's objects, so that a session need not look at each of them. The operator's
//! commands alone write it; a session reads it, and works without it. Whoever can change it can make the sink refuse
//! or take too much, and nothing else.

use crate::serve::limits::charge;
use crate::store::directory::Root;
use crate::store::layout::{Layout, object_file, parse_file, source_room};
use crate::store::{Name, Shelf, Store, StoreError, Stored, names, read_whole};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use rustix::fs::{FlockOperation, flock};
use shared::format::{Head, SessionRecord};
use shared::id::{ArchiveNumber, Lineage, Series, SourceName, VerifyKey};
use shared::limits::{HEAD_BYTES_MAX, RECORD_BYTES_MAX};
use shared::signature::{Signed, Verified};
use shared::sys::durable;
use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// A ledger of another version is made again.
const VERSION: i64 = 1;

const SCHEMA: &str = "
    create table if not exists archives (
        lineage blob not null, number integer not null, bytes integer not null,
        primary key (lineage, number)) without rowid;
    create table if not exists heads (
        lineage blob not null, sequence integer not null, series blob not null,
        primary key (lineage, sequence)) without rowid;
    create table if not exists records (name text primary key) without rowid;
    create table if not exists others (one integer primary key check (one = 1), objects integer not null, bytes integer not null);
    create table if not exists verified (
        lineage blob not null, number integer not null, at integer not null,
        primary key (lineage, number)) without rowid;
    insert or ignore into others values (1, 0, 0);
";

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("ledger: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot open the ledger: {0}")]
    Io(#[from] std::io::Error),
    #[error("a session of {0} runs: try again when it has ended")]
    Busy(SourceName),
    #[error("the ledger has version {0}; run: remote-sink rebuild")]
    Version(i64),
}

/// What a source uses, as charged against its quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub archives: u64,
    pub objects: u64,
    pub bytes: u64,
}

/// What [`fold`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folded {
    pub records: u64,
    /// Records that could not be used, by path: damaged or not signed by this sink.
    pub refused: Vec<String>,
}

pub struct Ledger(Connection);

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A head's series, from a head whose signature fits.
pub fn series_of<S: Store>(store: &S, name: &Name, key: &VerifyKey) -> Result<Option<Series>, StoreError> {
    let Some(bytes) = read_whole(store, name, HEAD_BYTES_MAX)? else { return Ok(None) };
    Ok(Signed::<Head>::parse(&bytes).ok().and_then(|head| head.verify(key).ok()).map(|head| head.series))
}

impl Ledger {
    fn prepare(connection: Connection) -> Result<Self, LedgerError> {
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.execute_batch("pragma cache_size = -1024; pragma trusted_schema = off;")?;
        Ok(Self(connection))
    }

    /// For a session: reads only, never makes one.
    pub fn open_read(path: &Path) -> Result<Option<Self>, LedgerError> {
        if !path.try_exists()? {
            return Ok(None);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let ledger = Self::prepare(Connection::open_with_flags(path, flags)?)?;
        ledger.check_version()?;
        Ok(Some(ledger))
    }

    /// For the operator's commands.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let is_new = !path.try_exists()?;
        let ledger = Self::prepare(Connection::open(path)?)?;
        if is_new {
            // Sessions read it, and may run as another account than the operator.
            let file = std::fs::File::open(path)?;
            file.set_permissions(std::fs::Permissions::from_mode(durable::PUBLIC))?;
            durable::give(&file, path.parent().unwrap_or(path), durable::Owner::Directory)?;
        }
        let version: i64 = ledger.0.query_row("pragma user_version", [], |row| row.get(0))?;
        if version == 0 {
            // No write-ahead log: a session that may not write beside the ledger could not read one.
            ledger.0.execute_batch(&format!(
                "pragma journal_mode = delete; begin; {SCHEMA} pragma user_version = {VERSION}; commit;"
            ))?;
        }
        ledger.check_version()?;
        Ok(ledger)
    }

    fn check_version(&self) -> Result<(), LedgerError> {
        let version: i64 = self.0.query_row("pragma user_version", [], |row| row.get(0))?;
        if version == VERSION { Ok(()) } else { Err(LedgerError::Version(version)) }
    }

    pub fn totals(&self) -> Result<Totals, LedgerError> {
        let (archives, bytes): (i64, i64) =
            self.0.query_row("select count(*), ifnull(sum(bytes), 0) from archives", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let others: (i64, i64) =
            self.0.query_row("select objects, bytes from others", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Totals {
            archives: count(archives),
            objects: count(archives.saturating_add(others.0)),
            bytes: count(bytes.saturating_add(others.1)),
        })
    }

    /// Does the ledger know this archive?
    pub fn has_archive(&self, lineage: &Lineage, archive: ArchiveNumber) -> Result<bool, LedgerError> {
        let mut query = self.0.prepare_cached("select 1 from archives where lineage = ? and number = ?")?;
        Ok(query.exists(params![lineage.as_bytes(), number(archive.get())])?)
    }

    /// Everything that a session asks, at one moment; `None` if that were too much to hold.
    fn known(&self) -> Result<Option<Known>, LedgerError> {
        let transaction = self.0.unchecked_transaction()?;
        let mut known = Known { totals: self.totals()?, series: self.series()?, ..Known::default() };
        let mut query = transaction.prepare("select lineage, number from archives order by lineage, number")?;
        let whole = known.archives.load(query.query([])?)?;
        let mut query = transaction.prepare("select lineage, sequence from heads order by lineage, sequence")?;
        let whole = whole && known.heads.load(query.query([])?)?;
        let mut query = transaction.prepare("select name from records order by name")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let name = row.get_ref(0)?.as_str().ok().and_then(|name| parse_file(Shelf::Records, name));
            known.records.extend(name.as_ref().and_then(record_key));
            if !whole || known.records.len() > KNOWN_MAX {
                return Ok(None);
            }
        }
        known.records.sort_unstable();
        Ok(whole.then_some(known))
    }

    /// All series that the ledger knows.
    pub fn series(&self) -> Result<Vec<Series>, LedgerError> {
        let mut query = self.0.prepare_cached("select distinct series from heads")?;
        let rows = query.query_map([], |row| row.get::<_, Vec<u8>>(0))?.collect::<Result<Vec<_>, _>>()?;
        Ok(rows.iter().filter_map(|bytes| Series::from_slice(bytes).ok()).collect())
    }

    pub fn has_record(&self, record: &Name) -> Result<bool, LedgerError> {
        let mut query = self.0.prepare_cached("select 1 from records where name = ?")?;
        Ok(query.exists(params![object_file(record)])?)
    }

    /// When all parts of an archive were last read and found right.
    pub fn verified_at(&self, lineage: &Lineage, archive: ArchiveNumber) -> Result<Option<i64>, LedgerError> {
        let mut query = self.0.prepare_cached("select at from verified where lineage = ? and number = ?")?;
        Ok(query.query_row(params![lineage.as_bytes(), number(archive.get())], |row| row.get(0)).optional()?)
    }

    /// Notes what `verify` found right.
    pub fn mark_verified(&mut self, archives: &[(Lineage, ArchiveNumber)], at: i64) -> Result<(), LedgerError> {
        let transaction = self.0.transaction()?;
        {
            let mut insert = transaction.prepare_cached("insert or replace into verified values (?, ?, ?)")?;
            for (lineage, archive) in archives {
                insert.execute(params![lineage.as_bytes(), number(archive.get()), at])?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// Forgets when these were found right.
    pub fn unmark_verified(&mut self, archives: &[(Lineage, ArchiveNumber)]) -> Result<(), LedgerError> {
        let transaction = self.0.transaction()?;
        {
            let mut delete = transaction.prepare_cached("delete from verified where lineage = ? and number = ?")?;
            for (lineage, archive) in archives {
                delete.execute(params![lineage.as_bytes(), number(archive.get())])?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn fold_record(
        &mut self,
        name: &Name,
        record: &SessionRecord,
        series: &[(u64, Series)],
    ) -> Result<(), LedgerError> {
        let transaction = self.0.transaction()?;
        let archives: u64 = record.archives.iter().map(|archive| charge(archive.bytes)).fold(0, u64::saturating_add);
        if let Some(lineage) = record.lineage {
            let mut insert = transaction.prepare_cached("insert or ignore into archives values (?, ?, ?)")?;
            for archive in record.archives.iter() {
                insert.execute(params![
                    lineage.as_bytes(),
                    number(archive.number.get()),
                    number(charge(archive.bytes))
                ])?;
            }
            let mut insert = transaction.prepare_cached("insert or ignore into heads values (?, ?, ?)")?;
            for (sequence, series) in series {
                insert.execute(params![lineage.as_bytes(), number(*sequence), series.as_bytes()])?;
            }
        }
        let objects = record.objects.saturating_sub(record.archives.len() as u64);
        let bytes = record.bytes.saturating_sub(archives);
        transaction.execute(
            "update others set objects = objects + ?, bytes = bytes + ?",
            params![number(objects), number(bytes)],
        )?;
        transaction.execute("insert into records values (?)", params![object_file(name)])?;
        Ok(transaction.commit()?)
    }
}

/// Rows of numbers, and records, that a session holds in memory: 16 MiB of each.
const KNOWN_MAX: usize = 1 << 20;

fn record_key(name: &Name) -> Option<(u64, [u8; 8])> {
    match name {
        Name::Record { started, random } => Some((*started, *random)),
        _ => None,
    }
}

/// What a ledger knows, read at one moment: a confined session opens no ledger.
#[derive(Debug, Default)]
pub struct Known {
    pub totals: Totals,
    pub series: Vec<Series>,
    archives: Numbers,
    heads: Numbers,
    records: Vec<(u64, [u8; 8])>,
}

impl Known {
    /// For a session: reads only, never makes a ledger. `None`: there is none, or it would take too much memory.
    pub fn read(path: &Path) -> Result<Option<Self>, LedgerError> {
        Ok(Ledger::open_read(path)?.map(|ledger| ledger.known()).transpose()?.flatten())
    }
    pub fn has_archive(&self, lineage: &Lineage, archive: ArchiveNumber) -> bool {
        self.archives.contains(lineage, archive.get())
    }
    pub fn has_head(&self, lineage: &Lineage, sequence: u64) -> bool {
        self.heads.contains(lineage, sequence)
    }
    pub fn has_record(&self, record: &Name) -> bool {
        record_key(record).is_some_and(|key| self.records.binary_search(&key).is_ok())
    }
}

/// Numbers of each lineage as rising rows `first..=last`: they have few gaps.
#[derive(Debug, Default)]
struct Numbers(HashMap<Lineage, Vec<(u64, u64)>>);

impl Numbers {
    /// Rows come in rising order. `false`: they have so many gaps that they would take too much memory.
    fn load(&mut self, mut rows: rusqlite::Rows<'_>) -> Result<bool, LedgerError> {
        let mut count_of_runs = 0;
        while let Some(row) = rows.next()? {
            let lineage = row.get_ref(0)?.as_blob().ok().and_then(|bytes| Lineage::from_slice(bytes).ok());
            let Some(lineage) = lineage else { continue };
            let value = count(row.get(1)?);
            let runs = self.0.entry(lineage).or_default();
            match runs.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(value) => *last = value,
                _ => {
                    runs.push((value, value));
                    count_of_runs += 1;
                }
            }
            if count_of_runs > KNOWN_MAX {
                return Ok(false);
            }
        }
        Ok(true)
    }
    fn contains(&self, lineage: &Lineage, value: u64) -> bool {
        let Some(runs) = self.0.get(lineage) else { return false };
        let after = runs.partition_point(|(first, _)| *first <= value);
        after.checked_sub(1).is_some_and(|at| value <= runs[at].1)
    }
}

/// Reads a session record that this sink signed; `None` if it is not one.
pub fn read_record<S: Store>(
    store: &S,
    name: &Name,
    sink: &VerifyKey,
) -> Result<Option<Verified<SessionRecord>>, StoreError> {
    let Some(bytes) = read_whole(store, name, RECORD_BYTES_MAX)? else { return Ok(None) };
    Ok(Signed::<SessionRecord>::parse(&bytes).ok().and_then(|record| record.verify(sink).ok()))
}

/// Takes what sessions added since the last time into the ledger. The operator's commands call this first.
pub fn fold(root: &Path, name: &SourceName, source: &VerifyKey, sink: &VerifyKey) -> Result<Folded, LedgerError> {
    let mut ledger = Ledger::open(&Layout::new(root).ledger(name))?;
    let store = Root::open(root)?.room(source_room(name));
    let mut folded = Folded::default();
    for record in names(&store, Shelf::Records)? {
        if ledger.has_record(&record)? {
            continue;
        }
        let read = match read_record(&store, &record, sink) {
            Err(e) if !e.is_damage() => return Err(e.into()),
            read => read.ok().flatten(),
        };
        let Some(content) = read else {
            folded.refused.push(crate::store::layout::object_path(&record));
            continue;
        };
        let mut series = Vec::new();
        for sequence in content.heads.iter() {
            let Some(lineage) = content.lineage else { break };
            if let Some(found) = series_of(&store, &Name::Head(lineage, *sequence), source)? {
                series.push((*sequence, found));
            }
        }
        ledger.fold_record(&record, &content, &series)?;
        folded.records += 1;
    }
    Ok(folded)
}

/// Takes records out that were removed after they had been folded. Rows that a crash leaves here do no harm.
pub fn forget_records(root: &Path, name: &SourceName, records: &[Name]) -> Result<(), LedgerError> {
    let mut ledger = Ledger::open(&Layout::new(root).ledger(name))?;
    let transaction = ledger.0.transaction()?;
    for record in records {
        transaction.prepare_cached("delete from records where name = ?")?.execute(params![object_file(record)])?;
    }
    Ok(transaction.commit()?)
}

/// Makes a source's ledger again from its objects. No session of it may run meanwhile.
pub fn rebuild(root: &Path, name: &SourceName, source: &VerifyKey) -> Result<Totals, LedgerError> {
    let layout = Layout::new(root);
    let lock = std::fs::File::open(layout.lock(name))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(LedgerError::Busy(name.clone()));
    }
    rebuild_held(root, name, source)
}

/// The same, for a caller that holds the source's lock.
pub fn rebuild_held(root: &Path, name: &SourceName, source: &VerifyKey) -> Result<Totals, LedgerError> {
    let layout = Layout::new(root);
    let path = layout.ledger(name);
    let mut ledger = match Ledger::open(&path) {
        Ok(ledger) => ledger,
        Err(LedgerError::Sqlite(_) | LedgerError::Version(_)) => {
            durable::remove(&path)?;
            Ledger::open(&path)?
        }
        Err(e) => return Err(e),
    };
    let store = Root::open(root)?.room(source_room(name));
    let transaction = ledger.0.transaction()?;
    transaction.execute_batch(
        "delete from archives; delete from heads; delete from records; update others set objects = 0, bytes = 0;",
    )?;
    fill(&transaction, &store, source)?;
    transaction.commit()?;
    ledger.totals()
}

fn fill<S: Store>(transaction: &Connection, store: &S, source: &VerifyKey) -> Result<(), LedgerError> {
    for shelf in Shelf::OF_SOURCE {
        for name in names(store, shelf)? {
            let Some(bytes) = store.get(&name)?.map(|stored| stored.bytes()) else { continue };
            match name {
                Name::Archive(lineage, archive) => {
                    let mut insert = transaction.prepare_cached("insert into archives values (?, ?, ?)")?;
                    insert.execute(params![lineage.as_bytes(), number(archive.get()), number(charge(bytes))])?;
                    continue;
                }
                Name::Record { .. } => {
                    let mut insert = transaction.prepare_cached("insert into records values (?)")?;
                    insert.execute(params![object_file(&name)])?;
                    continue;
                }
                Name::Head(lineage, sequence) => {
                    if let Some(series) = series_of(store, &name, source)? {
                        let mut insert = transaction.prepare_cached("insert into heads values (?, ?, ?)")?;
                        insert.execute(params![lineage.as_bytes(), number(sequence), series.as_bytes()])?;
                    }
                }
                _ => {}
            }
            let mut update =
                transaction.prepare_cached("update others set objects = objects + 1, bytes = bytes + ?")?;
            update.execute(params![number(charge(bytes))])?;
        }
    }
    Ok(())
}

/// What a source uses, as far as the ledger knows.
pub fn totals(root: &Path, name: &SourceName) -> Result<Option<Totals>, LedgerError> {
    Ledger::open_read(&Layout::new(root).ledger(name))?.map(|ledger| ledger.totals()).transpose()
}

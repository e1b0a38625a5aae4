//! Learning of archives from a sink: its signed regions and sealed chunk tables (docs/format.md, section "Chunk table").
//!
//! Only archives with this source's own signature, source id and lineage are taken, and only chunk tables open here,
//! under the index secret; no block could.

use super::{ArchiveFacts, Index, SinkFacts, series, sqlite};
use crate::crypto::open::open;
use crate::crypto::part::Place;
use crate::crypto::secret::IndexSecret;
use crate::report::{Exit, Failure, Outcome};
use crate::tree::ChunkTable;
use crate::tree::table::TableEntry;
use rusqlite::{OptionalExtension, params};
use shared::format::archive::Region;
use shared::id::{ArchiveId, ArchiveNumber, Digest, Lineage, SourceId, VerifyKey};
use shared::signature::Verified;
use std::path::Path;

/// What own archives must fit.
pub struct Own<'a> {
    pub source: SourceId,
    pub lineage: Lineage,
    pub key: VerifyKey,
    pub index_secret: &'a IndexSecret,
}

fn refused(number: ArchiveNumber, why: &str) -> Failure {
    Failure::new("foreign-archive", Exit::Tampered, format!("archive {number} is not what this source pushed: {why}"))
        .help("the sink is damaged or lies; ask its operator to run: remote-sink verify")
}

/// Checks an archive's region and chunk table, and opens it: the chunks of each block.
pub fn chunks_of(
    own: &Own,
    number: ArchiveNumber,
    id: &ArchiveId,
    region: &Region,
    table: Vec<u8>,
) -> Outcome<(Verified<shared::format::Index>, Vec<Vec<TableEntry>>)> {
    if region.id() != *id {
        return Err(refused(number, "its id is another"));
    }
    let signed = region.index.clone().verify(&own.key).map_err(|e| refused(number, &e.to_string()))?;
    if (signed.source, signed.lineage, signed.number) != (own.source, own.lineage, number) {
        return Err(refused(number, "it belongs elsewhere"));
    }
    let (Some(part), blocks) = (signed.parts.last(), signed.blocks()) else {
        return Err(refused(number, "it has no chunk table"));
    };
    if table.len() != part.bytes as usize || Digest::of(&table) != part.hash {
        return Err(refused(number, "its chunk table has another hash"));
    }
    let place =
        Place::Part { source: own.source, lineage: own.lineage, salt: signed.salt, archive: number, part: blocks };
    let opened = open(own.index_secret.as_bytes(), &place, &part.plain, table)
        .map_err(|e| refused(number, &format!("its chunk table: {e}")))?;
    let table = ChunkTable::decode(&opened).map_err(|e| refused(number, &format!("its chunk table: {e}")))?;
    let table: Vec<Vec<_>> = table.blocks.into_vec().into_iter().map(|block| block.into_vec()).collect();
    if table.len() != blocks as usize {
        return Err(refused(number, "its chunk table lists another number of blocks"));
    }
    Ok((signed, table))
}

/// Checks an archive and adds its chunks; notes that the sink holds it. Nothing of the index changes for what does not
/// check.
pub fn learn(
    index: &Index,
    sink: &SinkFacts,
    own: &Own,
    number: ArchiveNumber,
    id: &ArchiveId,
    region: &Region,
    table: Vec<u8>,
) -> Outcome<()> {
    let region_bytes = region.as_bytes().len() as u64;
    let (signed, table) = chunks_of(own, number, id, region, table)?;
    let bytes = region_bytes + signed.parts_bytes();
    let facts = ArchiveFacts {
        number,
        id: *id,
        kind: signed.kind,
        session: signed.session,
        bytes,
        table: &table,
        heals: false,
    };
    if index.take_over(sink, &facts)? {
        return Ok(());
    }
    let message = format!("another remote holds another archive {number} of this source");
    Err(Failure::new("other-archive", Exit::Tampered, message))
}

impl Index {
    /// Takes over an archive that was checked. Where its number names another archive here, that one goes, but only if
    /// no other sink holds it; false if one does: then this one is not used.
    pub(super) fn take_over(&self, sink: &SinkFacts, archive: &ArchiveFacts) -> Outcome<bool> {
        let mut connection = self.writer.lock();
        let transaction = connection.transaction().map_err(sqlite)?;
        let number = archive.number.get();
        let sql = "SELECT id FROM archives WHERE number = ?1";
        let known: Option<Vec<u8>> =
            transaction.query_row(sql, [number], |row| row.get(0)).optional().map_err(sqlite)?;
        let replaced = known.as_ref().is_some_and(|id| id[..] != archive.id.as_bytes()[..]);
        if replaced {
            let sql = "SELECT 1 FROM presence WHERE archive = ?1 AND sink <> ?2 LIMIT 1";
            let held = transaction.query_row(sql, params![number, sink.row], |_| Ok(())).optional().map_err(sqlite)?;
            if held.is_some() {
                return Ok(false);
            }
            // What was built on the other one is forgotten first: a crash in between costs no more than reading again.
            let cache_dir = self.path.parent().unwrap_or(Path::new("."));
            series::all(cache_dir).iter().try_for_each(|path| super::put_aside(path))?;
            for sql in [
                "DELETE FROM chunks WHERE archive = ?1",
                "DELETE FROM archives WHERE number = ?1",
                "DELETE FROM presence WHERE archive = ?1",
            ] {
                transaction.execute(sql, [number]).map_err(sqlite)?;
            }
        }
        if replaced || known.is_none() {
            super::insert_archive(&transaction, archive).map_err(sqlite)?;
        }
        let sql = "INSERT OR IGNORE INTO presence VALUES (?1, ?2)";
        transaction.execute(sql, params![sink.row, number]).map_err(sqlite)?;
        transaction.commit().map_err(sqlite)?;
        Ok(true)
    }
}

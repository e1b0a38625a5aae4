//! Learning of archives from a sink: its signed regions and sealed chunk tables (docs/format.md, section "Chunk table").
//!
//! Only archives with this source's own signature, source id and lineage are taken, and only chunk tables open here,
//! under the index secret; no block could.

use super::{ArchiveFacts, Index, SinkFacts, sqlite};
use crate::crypto::open::open;
use crate::crypto::part::Place;
use crate::crypto::secret::IndexSecret;
use crate::report::{Exit, Failure, Outcome};
use crate::tree::ChunkTable;
use shared::format::archive::Region;
use shared::id::{ArchiveId, ArchiveNumber, Digest, Lineage, SourceId, VerifyKey};

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

/// Checks an archive's region and table and adds its chunks; notes that the sink holds it.
pub fn learn(
    index: &Index,
    sink: &SinkFacts,
    own: &Own,
    number: ArchiveNumber,
    id: &ArchiveId,
    region: &Region,
    table: Vec<u8>,
) -> Outcome<()> {
    if region.id() != *id {
        return Err(refused(number, "its id is another"));
    }
    let region_bytes = region.as_bytes().len() as u64;
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
    let bytes = region_bytes + signed.parts_bytes();
    let facts = ArchiveFacts { number, id: *id, kind: signed.kind, session: signed.session, bytes, table: &table };
    index.acknowledge(sink, &facts, true)
}

impl Index {
    /// Forgets an archive and its chunks; used where a number turns out to name another archive.
    pub fn forget_archive(&self, number: u64) -> Outcome<()> {
        let mut connection = self.writer.lock();
        let transaction = connection.transaction().map_err(sqlite)?;
        for sql in [
            "DELETE FROM chunks WHERE archive = ?1",
            "DELETE FROM archives WHERE number = ?1",
            "DELETE FROM presence WHERE archive = ?1",
        ] {
            transaction.execute(sql, [number]).map_err(sqlite)?;
        }
        transaction.commit().map_err(sqlite)
    }
}

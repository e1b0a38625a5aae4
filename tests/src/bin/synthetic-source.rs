//! Makes a real source large, for measurements (`benches/growth.py`): archives whose blocks are holes, with signed
//! indexes and sealed chunk tables, in the vault; the same in the source's local index, and uses of all their blocks in
//! its last snapshot, so that the next one names them. The source must have made a snapshot of DATA before.
//!
//!     synthetic-source AGENT_DIR VAULT NAME DATA ARCHIVES BLOCKS CHUNKS
//!
//! BLOCKS of an archive, CHUNKS of a block. Prints how long each tenth took to be noted in the local index.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use remote_sink::store::Name;
use remote_sink::store::layout::Layout;
use shared::codec::List;
use shared::format::{Index as ArchiveIndex, Kem, Kind, Part, Region};
use shared::id::{ArchiveNumber, ChunkId, Digest, Salt, SessionId, SourceName};
use shared::keyfile;
use shared::signature::sign;
use source_agent::crypto::identity::Identity;
use source_agent::crypto::part::Place;
use source_agent::crypto::seal::seal_small;
use source_agent::crypto::wrap::new_session;
use source_agent::index::series::{DirRow, SeriesIndex};
use source_agent::index::uses::{self, Spot};
use source_agent::index::{ArchiveFacts, Index};
use source_agent::tree::table::{ChunkTable, TableEntry};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;
use tests::agent::Keys;

const CHUNK_BYTES: u32 = 256 << 10;
/// Of a sealed block; a multiple of 4096.
const BLOCK_BYTES: u32 = 1 << 20;
/// Archives that one row of the last snapshot's directories refers to.
const ROW_ARCHIVES: u64 = 64;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [dir, vault, name, data, numbers @ ..] = &words[..] else { panic!("see the head of this file") };
    let numbers: Vec<u64> = numbers.iter().map(|word| word.parse().unwrap()).collect();
    let [archives, blocks, chunks] = numbers[..] else { panic!("ARCHIVES BLOCKS CHUNKS") };
    let (dir, layout) = (Path::new(dir), Layout::new(vault));
    let name: SourceName = name.parse().unwrap();
    let keys = Keys::read(dir);
    let (source, lineage) = (keys.card.source_id(), keys.lineage);
    let (index, _) = Index::open(&dir.join("cache"), &source, &lineage).unwrap();
    let text = fs::read_to_string(layout.sink_key()).unwrap();
    let sink = shared::signature::SigningKey::from_seed(&keyfile::read(keyfile::SINK_KEY, &text).unwrap());
    let facts = index.sink(&sink.verify_key()).unwrap();
    let recipients = [Identity::random().recipient(Kem::XWing)];
    let (_, envelope) = new_session(source, lineage, &keys.secret, &recipients, &keys.signing).unwrap();
    let session = SessionId::new(*envelope.digest().as_bytes());
    fs::write(layout.object(&name, &Name::Envelope(session)), envelope.as_bytes()).unwrap();
    let (secret, hole) = (keys.secret.index_secret(&lineage), Digest::of(&vec![0; BLOCK_BYTES as usize]));
    let first = index.next_number().unwrap();
    let mut began = Instant::now();
    for at in 0..archives {
        let number = ArchiveNumber::new(first + at).unwrap();
        let salt = Salt::random();
        let table = table(blocks, chunks);
        let encoded = ChunkTable::new(table.clone()).unwrap().encode();
        let place = Place::Part { source, lineage, salt, archive: number, part: blocks as u32 };
        let sealed = seal_small(secret.as_bytes(), &place, &encoded).unwrap();
        let mut parts = vec![Part { bytes: BLOCK_BYTES, hash: hole, plain: Digest::new([0; 32]) }; blocks as usize];
        parts.push(Part { bytes: sealed.bytes.len() as u32, hash: sealed.hash, plain: sealed.plain });
        let parts = List::new(parts).unwrap();
        let signed = ArchiveIndex { source, lineage, session, number, salt, kind: Kind::Data, parts };
        let signed = sign(signed, &keys.signing).unwrap();
        let region = Region::new(&signed, &envelope).unwrap();
        let bytes = region.as_bytes().len() as u64 + signed.parts_bytes();
        let file = fs::File::create_new(layout.object(&name, &Name::Archive(lineage, number))).unwrap();
        file.write_all_at(region.as_bytes(), 0).unwrap();
        file.write_all_at(&sealed.bytes, bytes - sealed.bytes.len() as u64).unwrap();
        let known =
            ArchiveFacts { number, id: region.id(), kind: Kind::Data, session, bytes, table: &table, heals: false };
        index.acknowledge(&facts, &known, true).unwrap();
        if (at + 1) % (archives.div_ceil(10)) == 0 {
            println!("{} ids: {:.1} s", (at + 1) * blocks * chunks, began.elapsed().as_secs_f64());
            began = Instant::now();
        }
    }
    index.advance(&facts, first + archives, facts.journal).unwrap();
    let series = keys.secret.series(&format!("paths\0{data}"));
    let series = SeriesIndex::open(&dir.join("cache"), &source, &lineage, &series).unwrap();
    assert!(!series.is_new(), "make a snapshot of {data} first");
    let mut writer = series.begin().unwrap();
    for begin in (first..first + archives).step_by(ROW_ARCHIVES as usize) {
        let end = (begin + ROW_ARCHIVES).min(first + archives);
        let spots =
            (begin..end).flat_map(|archive| (0..blocks).map(move |block| Spot { archive, block: block as u32 }));
        let list = spots.map(|spot| (spot, chunks as u32)).collect();
        let row = DirRow { top: Vec::new(), uses: uses::pack(&list), records: Vec::new() };
        // No walk comes by a name that does not exist, so the row stays.
        writer.put(format!("{data}/synthetic/{begin:012}").as_bytes(), &row).unwrap();
    }
    writer.commit().unwrap();
}

fn table(blocks: u64, chunks: u64) -> Vec<Vec<TableEntry>> {
    let entry = |_| TableEntry { id: ChunkId::new(shared::sys::random()), bytes: CHUNK_BYTES };
    (0..blocks).map(|_| (0..chunks).map(entry).collect()).collect()
}

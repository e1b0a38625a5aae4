//! One stage at a time, on one thread: cut, name, compress, seal, open, sign, wrap, look up, note.
//!
//!     cargo bench --package benches            all of them
//!     cargo bench --package benches -- seal    those with `seal` in their names
#![allow(clippy::unwrap_used)]

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shared::format::{Envelope, Kem, Kind};
use shared::id::{ArchiveId, ArchiveNumber, ChunkId, Lineage, Salt, SessionId, SourceId, VerifyKey};
use shared::signature::{Signed, SigningKey};
use source_agent::backup::chunk::Cutter;
use source_agent::backup::compress::Packer;
use source_agent::config::Compression;
use source_agent::crypto::identity::Identity;
use source_agent::crypto::part::Place;

use source_agent::crypto::seal::{Method, begin_payload, seal};
use source_agent::crypto::secret::SourceSecret;
use source_agent::crypto::wrap::{new_session, open_session};
use source_agent::index::{ArchiveFacts, Index};
use source_agent::tree::table::TableEntry;
use std::hint::black_box;
use tests::Chance;

const MIB: usize = 1 << 20;

/// Bytes that do not compress.
fn noise(bytes: usize) -> Vec<u8> {
    Chance::new(1).bytes(bytes)
}

/// Lines of a log: words from a stock of 2,000, times. Compresses to about a third.
fn text(bytes: usize) -> Vec<u8> {
    let mut chance = Chance::new(2);
    let stock: Vec<String> = (0..2000).map(|_| format!("{:x}", chance.below(1 << 28))).collect();
    let mut all = String::with_capacity(bytes + 200);
    while all.len() < bytes {
        all += &format!("2026-11-{:02} {:05} ", chance.below(30) + 1, chance.below(1 << 16));
        for _ in 0..12 {
            all += chance.pick::<String>(&stock);
            all.push(' ');
        }
        all.push('\n');
    }
    all.truncate(bytes);
    all.into_bytes()
}

const SOURCE: SourceId = SourceId::new([1; 32]);
const LINEAGE: Lineage = Lineage::new([2; 16]);

fn secret() -> SourceSecret {
    SourceSecret::from_bytes(&[3; 32])
}

fn place() -> Place {
    let archive = ArchiveNumber::new(7).unwrap();
    Place::Part { source: SOURCE, lineage: LINEAGE, salt: Salt::random(), archive, part: 0 }
}

fn data(c: &mut Criterion) {
    let mut group = c.benchmark_group("data");
    let cutter = Cutter::new(secret().gear(&LINEAGE));
    let large = noise(16 * MIB);
    group.throughput(Throughput::Bytes(large.len() as u64));
    group.bench_function("cut", |b| {
        b.iter(|| {
            let mut at = 0;
            while at < large.len() {
                at += cutter.cut(&large[at..large.len().min(at + MIB)]);
            }
            at
        });
    });
    let namer = secret().chunk_namer(&LINEAGE);
    for bytes in [1 << 10, 4 << 10, 256 << 10] {
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_with_input(BenchmarkId::new("name a chunk", bytes), &bytes, |b, bytes| {
            b.iter(|| namer.name(black_box(&large[..*bytes])));
        });
    }
    group.throughput(Throughput::Bytes(MIB as u64));
    for (name, block) in [("text", text(MIB)), ("noise", noise(MIB))] {
        for (level, compression) in
            [("auto", Compression::Auto), ("fast", Compression::Fast), ("max", Compression::Max)]
        {
            let mut packer = Packer::new(compression).unwrap();
            group.bench_function(format!("compress {name}, {level}"), |b| {
                b.iter(|| packer.pack(black_box(&block)).unwrap().map(<[u8]>::len));
            });
        }
    }
    group.finish();
}

fn sealing(c: &mut Criterion) {
    let mut group = c.benchmark_group("sealing");
    let key = [5; 32];
    let block = noise(MIB);
    let payload = || {
        let mut buffer = begin_payload(block.len());
        buffer.extend_from_slice(&block);
        buffer
    };
    group.throughput(Throughput::Bytes(MIB as u64));
    let place = place();
    group.bench_function("seal", |b| {
        b.iter_batched(payload, |buffer| seal(&key, &place, Method::Stored, buffer).unwrap(), BatchSize::LargeInput);
    });
    let sealed = seal(&key, &place, Method::Stored, payload()).unwrap();
    group.bench_function("open", |b| {
        b.iter_batched(
            || sealed.bytes.clone(),
            |bytes| source_agent::crypto::open::open(&key, &place, &sealed.plain, bytes).unwrap(),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn keys(c: &mut Criterion) {
    let mut group = c.benchmark_group("keys");
    let signing = SigningKey::from_seed(&[1; 32]);
    for (name, kem) in [("X25519", Kem::X25519), ("X-Wing", Kem::XWing)] {
        let identity = Identity::from_seed(&[7; 32]);
        let recipients = [identity.recipient(kem)];
        let session = || new_session(SOURCE, LINEAGE, &secret(), &recipients, &signing).unwrap();
        group.bench_function(format!("begin a session, {name}"), |b| b.iter(session));
        let (_, envelope) = session();
        group.bench_function(format!("open a session, {name}"), |b| {
            b.iter(|| open_session(&envelope, &identity).unwrap())
        });
        let key = signing.verify_key();
        let signed = Signed::<Envelope>::parse(envelope.as_bytes()).unwrap();
        group.bench_function(format!("verify an envelope, {name}"), |b| {
            b.iter_batched(|| signed.clone(), |signed| signed.verify(&key).unwrap(), BatchSize::SmallInput);
        });
    }
    group.finish();
}

/// An archive's table: 16 blocks of 64 chunks.
fn table(chance: &mut Chance) -> Vec<Vec<TableEntry>> {
    let mut id = || ChunkId::new(std::array::from_fn(|_| chance.below(256) as u8));
    (0..16).map(|_| (0..64).map(|_| TableEntry { id: id(), bytes: 16_384 }).collect()).collect()
}

fn facts(number: u64, table: &[Vec<TableEntry>]) -> ArchiveFacts<'_> {
    let (id, session) = (ArchiveId::new([4; 32]), SessionId::new([5; 32]));
    let number = ArchiveNumber::new(number).unwrap();
    ArchiveFacts { number, id, kind: Kind::Data, session, bytes: 16 << 20, table, heals: false }
}

fn index(c: &mut Criterion) {
    let mut group = c.benchmark_group("index");
    let dir = tempfile::tempdir().unwrap();
    let (index, _) = Index::open(dir.path(), &SOURCE, &LINEAGE).unwrap();
    let sink = index.sink(&VerifyKey::new([7; 32])).unwrap();
    let mut chance = Chance::new(9);
    let mut known = Vec::new();
    for number in 0..256 {
        let table = table(&mut chance);
        known.extend(table.iter().flatten().map(|entry| entry.id));
        index.acknowledge(&sink, &facts(number, &table), true).unwrap();
    }
    let filter = index.filter().unwrap();
    let lookup = index.lookup().unwrap();
    let mut at = 0;
    let mut next = || {
        at = (at + 7919) % known.len();
        known[at]
    };
    group.throughput(Throughput::Elements(1));
    group.bench_function("ask the filter", |b| b.iter(|| filter.maybe(&next())));
    group.bench_function("look up one of 262,144 ids", |b| b.iter(|| lookup.find(&next()).unwrap()));
    group.bench_function("load the filter of 262,144 ids", |b| b.iter(|| index.filter().unwrap()));
    let mut number = 1000;
    group.throughput(Throughput::Elements(1024));
    group.bench_function("note an archive of 1,024 chunks", |b| {
        b.iter_batched(
            || table(&mut chance),
            |table| {
                number += 1;
                index.acknowledge(&sink, &facts(number, &table), true).unwrap();
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(stages, data, sealing, keys, index);
criterion_main!(stages);

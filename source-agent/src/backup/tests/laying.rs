//! Laying and assembling under the smallest budget, with random sizes: everything comes out, once, in place.

use super::super::assemble::{SealJob, Sealer};
use super::super::budget::Budget;
use super::super::compress::Packer;
use super::super::lay::{Laid, Lane, Layer};
use super::super::numbers::Numbers;
use super::super::stop::Stop;
use super::*;
use crate::crypto::secret::ChunkNamer;
use crate::crypto::wrap::new_session;
use crate::index::uses::Spot;
use crossbeam_channel::unbounded;
use proptest::prelude::*;
use shared::id::ChunkId;
use shared::limits::ARCHIVE_CHUNKS_MAX;
use std::collections::HashMap;

fn sealer() -> Sealer {
    let identity = Identity::from_seed(&[5; 32]);
    let secret = SourceSecret::from_bytes(&[3; 32]);
    let recipients = [identity.recipient(Kem::X25519)];
    let (session, envelope) = new_session(SOURCE, LINEAGE, &secret, &recipients, &signing()).unwrap();
    Sealer {
        source: SOURCE,
        lineage: LINEAGE,
        secret: Arc::new(session),
        index_secret: secret.index_secret(&LINEAGE),
        envelope: Arc::new(envelope),
        signing: Arc::new(signing()),
        flights: Arc::default(),
        everywhere: Arc::default(),
    }
}

/// Lays chunks of these sizes from several threads; returns where each was laid, and what the archives say.
fn lay_all(sizes: &[(u8, u32)], archive_bytes: u64) -> (HashMap<ChunkId, Spot>, HashMap<ChunkId, Spot>) {
    let dir = tempfile::tempdir().unwrap();
    let budget = Budget::new(0);
    let stop = Stop::new(Arc::clone(&budget));
    let sealer = sealer();
    let numbers = Arc::new(Mutex::new(Numbers::open(dir.path(), 0).unwrap()));
    let (jobs, to_seal) = unbounded();
    let layer = Layer::new(numbers, Arc::clone(&sealer.flights), jobs, archive_bytes);
    let namer: ChunkNamer = SourceSecret::from_bytes(&[3; 32]).chunk_namer(&LINEAGE);
    let told = Mutex::new(HashMap::new());
    let arrived = Mutex::new(HashMap::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut packer = Packer::new(Compression::Off).unwrap();
            for job in &to_seal {
                let complete = match job {
                    SealJob::End => return,
                    SealJob::Finish(assembly) => Some(assembly),
                    SealJob::Block { assembly, block, plain, entries, permit } => {
                        let last = sealer.seal_block(&mut packer, &assembly, block, plain, entries, permit).unwrap();
                        last.then_some(assembly)
                    }
                };
                let Some(assembly) = complete else { continue };
                let ready = sealer.finish(&assembly).unwrap();
                assert!(ready.table.iter().map(Vec::len).sum::<usize>() <= ARCHIVE_CHUNKS_MAX);
                for (block, entries) in ready.table.iter().enumerate() {
                    for entry in entries {
                        let spot = Spot { archive: ready.number.get(), block: block as u32 };
                        assert!(arrived.lock().insert(entry.id, spot).is_none(), "a chunk came twice");
                    }
                }
                layer.archive_finished(ready.number.get());
            }
        });
        let threads: Vec<_> = (0..3)
            .map(|thread| {
                let (layer, budget, namer, told) = (&layer, &budget, &namer, &told);
                scope.spawn(move || {
                    for (at, (lane, bytes)) in sizes.iter().enumerate().filter(|(at, _)| at % 3 == thread) {
                        let chunk = noise(*bytes as usize + 1, at as u64);
                        let id = namer.name(&chunk);
                        let lane = [Lane::Files, Lane::Images, Lane::Metadata][usize::from(lane % 3)];
                        let permit = budget.acquire(chunk.len() as u64).unwrap();
                        let (Laid::New(spot) | Laid::Known(spot)) = layer.lay(lane, id, &chunk, permit).unwrap();
                        told.lock().insert(id, spot);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        layer.settle(&stop).unwrap();
        layer.end(1);
    });
    assert_eq!(budget.free(), budget::BUDGET_BYTES_MIN, "all permits came back");
    (told.into_inner(), arrived.into_inner())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn every_chunk_lies_where_it_was_told(
        sizes in prop::collection::vec((any::<u8>(), prop_oneof![4 => 0u32..20_000, 1 => 0u32..1 << 20]), 1..200),
        archive_bytes in prop_oneof![Just(1u64 << 20), Just(u64::MAX)],
    ) {
        let (told, arrived) = lay_all(&sizes, archive_bytes);
        prop_assert_eq!(told, arrived);
    }
}

#[test]
fn more_than_the_budget_goes_through() {
    let sizes: Vec<(u8, u32)> = (0..150).map(|at| (at as u8, 1_000_000)).collect();
    let (told, arrived) = lay_all(&sizes, u64::MAX);
    assert_eq!(told.len(), 150);
    assert_eq!(told, arrived);
}

//! Receipts that rot, or are gone.

use crate::serve::tests::{Archive, Client, Source, World};
use crate::store::Name;
use shared::format::Head;
use shared::signature::Verified;
use shared::wire::{PushRequest, RefusalCode, Reply};
use std::path::PathBuf;

/// A source with some snapshots of one archive.
struct Stage {
    world: World,
    source: Source,
    one: Archive,
    heads: Vec<Verified<Head>>,
}

fn stage(snapshots: usize) -> Stage {
    let world = World::new();
    let source = world.source("web1", 1);
    let mut client = world.push(&source);
    client.put_envelope(&source);
    let one = source.archive(0, &[1, 1]);
    client.put_archive(&one);
    let mut heads: Vec<Verified<Head>> = Vec::new();
    for _ in 0..snapshots {
        heads.push(client.commit(&source, &[&one], heads.last()));
    }
    client.close();
    Stage { world, source, one, heads }
}

impl Stage {
    fn receipt(&self, sequence: u64) -> PathBuf {
        self.world.object(&self.source, &Name::Receipt(self.source.lineage, sequence))
    }

    fn rot(&self, sequence: u64) {
        let path = self.receipt(sequence);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[60] ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn commit(&mut self, client: &mut Client) {
        let head = client.commit(&self.source, &[&self.one], self.heads.last());
        self.heads.push(head);
    }

    /// Sends the next head, which must be refused.
    fn refused(&self, client: &mut Client, code: RefusalCode) -> String {
        let page = self.source.page(vec![self.one.entry(&[0])]);
        let body = self.source.body(&[&page], 99);
        assert!(client.put_body(&body).is_empty());
        let head = self.source.head(self.heads.last(), &body);
        client.send(&PushRequest::PutHead(head.as_bytes().to_vec()));
        client.refused(code)
    }
}

#[test]
fn a_rotten_receipt_behind_the_newest_counts_as_one_of_today_and_stops_no_commit() {
    let mut stage = stage(3);
    stage.rot(1);
    stage.world.limits.heads_per_day = 4;
    let mut client = stage.world.push(&stage.source);
    stage.commit(&mut client);
    stage.refused(&mut client, RefusalCode::Cap);
    client.close();
    let mut client = stage.world.push(&stage.source);
    let message = stage.refused(&mut client, RefusalCode::Cap);
    assert!(message.starts_with("4 snapshots within a day"), "the walk went on behind it: {message}");
    client.close();
}

#[test]
fn a_rotten_newest_receipt_is_named_and_made_again_when_its_file_is_gone() {
    let mut stage = stage(2);
    stage.rot(1);
    let mut client = stage.world.push(&stage.source);
    let message = stage.refused(&mut client, RefusalCode::Damaged);
    let path = stage.receipt(1);
    let below = path.strip_prefix(stage.world.layout.root()).unwrap().display().to_string();
    assert!(message.contains(&below) && message.contains("remote accept"), "{message}");
    let again = stage.heads[1].as_bytes().to_vec();
    client.send(&PushRequest::PutHead(again));
    assert_eq!(client.refused(RefusalCode::Damaged), message, "the head itself sent again");
    client.close();
    assert_eq!(stage.world.count(&stage.source, crate::store::Shelf::Heads), 2, "no head without a receipt was left");

    // As the operator is told to.
    std::fs::remove_file(&path).unwrap();
    let mut client = stage.world.push(&stage.source);
    assert!(path.exists(), "made at the start of the session");
    stage.commit(&mut client);
    client.close();
    stage.world.assert_whole();
}

#[test]
fn receipts_that_are_gone_are_made_again_oldest_first() {
    // As a sink left it that stored a head before it looked at the receipt before it.
    for first in [0, 2] {
        let mut stage = stage(4);
        for sequence in first..4 {
            std::fs::remove_file(stage.receipt(sequence)).unwrap();
        }
        let mut client = stage.world.push(&stage.source);
        client.send(&PushRequest::PutHead(stage.heads[3].as_bytes().to_vec()));
        assert!(matches!(client.reply(), Some(Reply::Receipt(_))));
        stage.commit(&mut client);
        client.close();
        stage.world.assert_whole();
        assert_eq!(stage.world.verify().sources[0].without_receipt, 0);
    }
}

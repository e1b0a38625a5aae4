//! Makes a vault of many snapshots over many archives, for measurements (`benches/retention.py`): signed heads,
//! receipts, bodies, pages and archive indexes as a source and a sink would leave them; the blocks are holes.
//!
//!     synthetic-vault ROOT ARCHIVES SNAPSHOTS
#![allow(clippy::unwrap_used, clippy::expect_used)]

use remote_sink::enrolment::{Enrolment, Reads};
use remote_sink::store::Name;
use remote_sink::store::layout::Layout;
use shared::card::{SourceCard, SshKey};
use shared::codec::{Blob, List};
use shared::format::envelope::{Kem, RecipientWrap};
use shared::format::snapshot::SealedRoot;
use shared::format::{Body, Envelope, Head, Index, Kind, Page, PageEntry, Part, Receipt, Region};
use shared::id::{ArchiveId, ArchiveNumber, Digest, Lineage, Salt, Series, SessionId, SourceId, SourceName};
use shared::keyfile;
use shared::limits::PAGE_ARCHIVES;
use shared::signature::{Plain, SigningKey, Verified, sign};
use shared::sys::{Clock, SystemClock, durable};
use shared::wire::Role;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;

/// Blocks of an archive, each of so many bytes.
const BLOCKS: u32 = 24;
const BLOCK_BYTES: u32 = 1 << 20;

struct Maker {
    layout: Layout,
    name: SourceName,
    key: SigningKey,
    sink: SigningKey,
    source: SourceId,
    lineage: Lineage,
    empty: Digest,
    table: Digest,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [root, archives, snapshots] = &words[..] else { panic!("synthetic-vault ROOT ARCHIVES SNAPSHOTS") };
    let maker = Maker::begin(root);
    let (archives, snapshots): (u64, u64) = (archives.parse().unwrap(), snapshots.parse().unwrap());
    let mut ids = Vec::with_capacity(archives as usize);
    let mut head: Option<(Digest, Digest)> = None;
    let mut pages: HashMap<u64, Digest> = HashMap::new();
    let (now, each) = (SystemClock.now(), archives.div_ceil(snapshots));
    for sequence in 0..snapshots {
        let envelope = maker.envelope(sequence);
        while (ids.len() as u64) < archives.min((sequence + 1) * each) {
            ids.push(maker.archive(ids.len() as u64, &envelope));
        }
        let body = maker.body(sequence, each, &ids, &mut pages);
        let received = now - (snapshots - sequence) as i64 * 3600;
        head = Some(maker.commit(sequence, head, &envelope, body, received, ids.len() as u64));
    }
}

/// Is a block live in the snapshot? One archive of each run dies with the run after it, and of every archive one block
/// dies every so often.
fn lives(number: u64, block: u32, sequence: u64, each: u64) -> bool {
    let born = number / each;
    if number.is_multiple_of(each) && sequence > born {
        return false;
    }
    let dies = born + 50 + number % 400 + u64::from(block) * 40;
    sequence < dies
}

impl Maker {
    fn begin(root: &str) -> Self {
        let layout = Layout::new(root);
        layout.create_vault_dirs().unwrap();
        let (key, sink) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        let text = keyfile::write(keyfile::SINK_KEY, &sink.seed());
        durable::create_new(&layout.sink_key(), text.as_bytes(), durable::PRIVATE).unwrap();
        let config = "config-version = 1\n[defaults.retention]\nkeep-last = 999\n";
        durable::create_new(&layout.config(), config.as_bytes(), durable::PRIVATE).unwrap();
        let name: SourceName = "web1".parse().unwrap();
        layout.create_source_dirs(&name).unwrap();
        let card = SourceCard::new(name.clone(), SshKey::from_ed25519(&[3; 32]), None, &key);
        let source = card.source_id();
        let enrolment = Enrolment {
            card,
            role: Role::Push,
            quota: None,
            from: Vec::new(),
            reads: Reads::SingleOwner,
            address: None,
            host_keys: Vec::new(),
            enrolled: "2026-01-01T00:00:00Z".into(),
            revoked: false,
        };
        enrolment.write(&layout.enrolment(&name)).unwrap();
        let zeros = |bytes: u32| Digest::of(&vec![0; bytes as usize]);
        let lineage = Lineage::new([7; 16]);
        Self { layout, name, key, sink, source, lineage, empty: zeros(BLOCK_BYTES), table: zeros(8192) }
    }

    /// A measurement needs no fsync.
    fn put(&self, name: Name, bytes: &[u8]) {
        fs::write(self.layout.object(&self.name, &name), bytes).unwrap();
    }

    fn envelope(&self, sequence: u64) -> Verified<Envelope> {
        let mut salt = [0; 32];
        salt[..8].copy_from_slice(&sequence.to_le_bytes());
        let wrap = RecipientWrap {
            kem: Kem::XWing,
            recipient: Digest::new([8; 32]),
            enc: Blob::new(vec![1; 1120]).unwrap(),
            sealed: Blob::new(vec![2; 80]).unwrap(),
        };
        let envelope = Envelope {
            source: self.source,
            lineage: self.lineage,
            salt: Salt::new(salt),
            commitment: Digest::new([5; 32]),
            recipients: List::new(vec![wrap]).unwrap(),
        };
        let envelope = sign(envelope, &self.key).unwrap();
        self.put(Name::Envelope(SessionId::new(*envelope.digest().as_bytes())), envelope.as_bytes());
        envelope
    }

    fn archive(&self, number: u64, envelope: &Verified<Envelope>) -> ArchiveId {
        let part = |bytes, hash| Part { bytes, hash, plain: Digest::new([0; 32]) };
        let mut parts = vec![part(BLOCK_BYTES, self.empty); BLOCKS as usize];
        parts.push(part(8192, self.table));
        let index = Index {
            source: self.source,
            lineage: self.lineage,
            session: SessionId::new(*envelope.digest().as_bytes()),
            number: ArchiveNumber::new(number).unwrap(),
            salt: Salt::new([9; 32]),
            kind: Kind::Data,
            parts: List::new(parts).unwrap(),
        };
        let index = sign(index, &self.key).unwrap();
        let region = Region::new(&index, envelope).unwrap();
        let path = self.layout.object(&self.name, &Name::Archive(self.lineage, index.number));
        let file = fs::File::create_new(path).unwrap();
        file.write_all_at(region.as_bytes(), 0).unwrap();
        file.set_len(region.as_bytes().len() as u64 + index.parts_bytes()).unwrap();
        region.id()
    }

    fn body(&self, sequence: u64, each: u64, ids: &[ArchiveId], pages: &mut HashMap<u64, Digest>) -> Digest {
        for (span, archives) in ids.chunks(PAGE_ARCHIVES as usize).enumerate() {
            let entry = |(at, id): (usize, &ArchiveId)| {
                let number = span as u64 * PAGE_ARCHIVES + at as u64;
                let mut live = vec![0u8; BLOCKS.div_ceil(8) as usize];
                (0..BLOCKS).filter(|block| lives(number, *block, sequence, each)).for_each(|block| {
                    live[block as usize / 8] |= 1 << (block % 8);
                });
                while live.last() == Some(&0) {
                    live.pop();
                }
                let live = Blob::new(live).unwrap();
                (!live.is_empty()).then_some(PageEntry { number: ArchiveNumber::new(number).unwrap(), id: *id, live })
            };
            // An old page changes now and then only: it may name more than lives.
            let is_new = sequence == 0 || (span as u64 + 1) * PAGE_ARCHIVES > sequence * each;
            if !is_new && !(sequence + span as u64).is_multiple_of(40) {
                continue;
            }
            let entries: Vec<PageEntry> = archives.iter().enumerate().filter_map(entry).collect();
            if entries.is_empty() {
                pages.remove(&(span as u64));
                continue;
            }
            let archives = List::new(entries).unwrap();
            let page = Plain::new(Page { source: self.source, lineage: self.lineage, archives }).unwrap();
            self.put(Name::Page(page.digest()), page.as_bytes());
            pages.insert(span as u64, page.digest());
        }
        let mut spans: Vec<_> = pages.iter().collect();
        spans.sort_unstable();
        let sealed = Blob::new(vec![3; 4096]).unwrap();
        let mut salt = [1; 32];
        salt[..8].copy_from_slice(&sequence.to_le_bytes());
        let root = SealedRoot { salt: Salt::new(salt), plain: Digest::new([1; 32]), sealed };
        let pages = List::new(spans.into_iter().map(|(_, digest)| *digest).collect()).unwrap();
        let body = Plain::new(Body { pages, root }).unwrap();
        self.put(Name::Body(body.digest()), body.as_bytes());
        body.digest()
    }

    /// Digests of the head and its receipt.
    fn commit(
        &self,
        sequence: u64,
        before: Option<(Digest, Digest)>,
        envelope: &Verified<Envelope>,
        body: Digest,
        received: i64,
        archives: u64,
    ) -> (Digest, Digest) {
        let head = Head {
            source: self.source,
            lineage: self.lineage,
            sink: self.sink.verify_key(),
            sequence,
            previous: before.map(|(head, _)| head),
            series: Series::new([5; 16]),
            flags: 0,
            created: received,
            session: SessionId::new(*envelope.digest().as_bytes()),
            body,
            remotes: List::empty(),
            reason: None,
        };
        let head = sign(head, &self.key).unwrap();
        self.put(Name::Head(self.lineage, sequence), head.as_bytes());
        let receipt = Receipt {
            source: self.source,
            lineage: self.lineage,
            sink: self.sink.verify_key(),
            sequence,
            head: head.digest(),
            received,
            previous: before.map(|(_, receipt)| receipt),
            journal: None,
            archives,
            keep_until: None,
        };
        let receipt = sign(receipt, &self.sink).unwrap();
        self.put(Name::Receipt(self.lineage, sequence), receipt.as_bytes());
        (head.digest(), receipt.digest())
    }
}

//! A vault in memory and a small writer of snapshots, honest or hostile, for tests.

use crate::crypto::identity::Identity;
use crate::crypto::part::Place;
use crate::crypto::seal::{self, Sealed};
use crate::crypto::secret::{ChunkNamer, SessionSecret, SourceSecret};
use crate::crypto::wrap::new_session;
use crate::owner::{Origin, TrustedSource};
use crate::report::{Exit, Failure, Outcome};
use crate::restore::objects::{ArchiveName, Each, Got, Objects, PartsWanted};
use crate::restore::verify::Archive;
use crate::tree::node::NodeTop;
use crate::tree::table::TableEntry;
use crate::tree::{ChunkRef, ChunkTable, Counts, Entry, EntryKind, Extent, Node, Owner, Root, Time};
use shared::card::{SourceCard, SshKey};
use shared::codec::{Blob, List, Text};
use shared::format::snapshot::{RemoteHead, SealedRoot};
use shared::format::{
    Body, Envelope, Head, Index, Kem, Kind, OwnerRecord, Page, PageEntry, Part, Receipt, Region, Voucher, Wrap,
};
use shared::id::{ArchiveId, ArchiveNumber, Digest, Lineage, Salt, Series, SessionId, SourceId, VerifyKey};
use shared::signature::{Plain, SigningKey, Verified, sign};
use shared::wire::{Damage, HeadItem, SourceItem};
use std::collections::{BTreeMap, HashMap};

/// Head, receipt, and what the sink says of the content.
pub type StoredHead = (Vec<u8>, Option<Vec<u8>>, Option<Damage>);

/// What a sink holds; tests change it as a hostile one would.
#[derive(Default, Clone)]
pub struct Store {
    pub heads: Vec<StoredHead>,
    pub envelopes: HashMap<SessionId, Vec<u8>>,
    pub bodies: HashMap<Digest, Vec<u8>>,
    pub pages: HashMap<Digest, Vec<u8>>,
    pub regions: BTreeMap<u64, Vec<u8>>,
    pub parts: BTreeMap<(u64, u32), Vec<u8>>,
    pub owner_records: Vec<Vec<u8>>,
    pub substitutes: Vec<Vec<u8>>,
    pub vouchers: Vec<Vec<u8>>,
    pub wraps: Vec<Vec<u8>>,
    /// How often each part was given.
    pub fetched: HashMap<(u64, u32), u32>,
    /// Refuse a request of several parts as soon as one is missing.
    pub lineages: Vec<Lineage>,
}

/// A source, its owner and a sink.
pub struct Vault {
    pub name: String,
    pub sink_key: SigningKey,
    pub signing: SigningKey,
    pub identity: Identity,
    pub card: SourceCard,
    pub lineage: Lineage,
    pub secret: SourceSecret,
    pub session: SessionSecret,
    pub envelope: Verified<Envelope>,
    pub store: Store,
    pub next_number: u64,
    pub previous: Option<(u64, Digest, Option<Digest>)>,
    pub page_entries: Vec<PageEntry>,
    pub remotes: Vec<RemoteHead>,
    /// Why the next head goes on after an alarm.
    pub reason: Option<&'static str>,
    pub block_bytes: usize,
    pub created: i64,
    /// What receipts promise.
    pub keep_until: Option<i64>,
    pub counts: Option<Counts>,
    /// The source is listed.
    pub is_listed: bool,
    /// Heads are refused after so many answers.
    pub heads_answers: usize,
    /// How wraps are refused, if they are.
    pub refuse_wraps: Option<fn() -> Failure>,
}

pub fn fixed_lineage() -> Lineage {
    Lineage::new([2; 16])
}

impl Default for Vault {
    fn default() -> Self {
        Self::new()
    }
}

impl Vault {
    pub fn new() -> Self {
        Self::with(Identity::from_seed(&[7; 32]), "web1", fixed_lineage())
    }

    pub fn with(identity: Identity, name: &str, lineage: Lineage) -> Self {
        let signing = SigningKey::from_seed(&[1; 32]);
        let owner = identity.owner_key().verify_key();
        let card = SourceCard::new(name.parse().unwrap(), SshKey::from_ed25519(&[2; 32]), Some(owner), &signing);
        let secret = SourceSecret::from_bytes(&[3; 32]);
        let recipients = [identity.recipient(Kem::X25519)];
        let (session, envelope) = new_session(card.source_id(), lineage, &secret, &recipients, &signing).unwrap();
        let mut vault = Self {
            name: "offsite".into(),
            sink_key: SigningKey::from_seed(&[4; 32]),
            signing,
            identity,
            card,
            lineage,
            secret,
            session,
            envelope,
            store: Store::default(),
            next_number: 0,
            previous: None,
            page_entries: Vec::new(),
            remotes: Vec::new(),
            reason: None,
            block_bytes: 64 << 10,
            created: 1_000_000,
            keep_until: None,
            counts: None,
            is_listed: true,
            heads_answers: usize::MAX,
            refuse_wraps: None,
        };
        vault.store.envelopes.insert(vault.session_id(), vault.envelope.as_bytes().to_vec());
        vault.store.lineages.push(lineage);
        vault
    }

    pub fn trusted(&self) -> TrustedSource {
        TrustedSource {
            card: self.card.clone(),
            lineages: vec![self.lineage],
            since: 0,
            frozen: Vec::new(),
            origin: Origin::Local,
        }
    }
    pub fn source(&self) -> SourceId {
        self.card.source_id()
    }
    /// From now on archives and heads are of another session; returns the one before.
    pub fn next_session(&mut self) -> (SessionSecret, Verified<Envelope>) {
        let recipients = [self.identity.recipient(Kem::X25519)];
        let next = new_session(self.source(), self.lineage, &self.secret, &recipients, &self.signing).unwrap();
        let before = (std::mem::replace(&mut self.session, next.0), std::mem::replace(&mut self.envelope, next.1));
        self.store.envelopes.insert(self.session_id(), self.envelope.as_bytes().to_vec());
        before
    }
    pub fn session_id(&self) -> SessionId {
        SessionId::new(*self.envelope.digest().as_bytes())
    }
    pub fn namer(&self) -> ChunkNamer {
        self.secret.chunk_namer(&self.lineage)
    }
    fn number(&self) -> ArchiveNumber {
        ArchiveNumber::new(self.next_number).unwrap()
    }

    fn place(&self, salt: Salt, archive: ArchiveNumber, part: u32) -> Place {
        Place::Part { source: self.source(), lineage: self.lineage, salt, archive, part }
    }

    /// Puts chunks into an archive of one block each `block_bytes`, and returns references to them.
    pub fn archive(&mut self, kind: Kind, chunks: &[Vec<u8>]) -> Vec<ChunkRef> {
        let namer = self.namer();
        let named: Vec<_> = chunks.iter().map(|chunk| (namer.name(chunk), chunk.clone())).collect();
        self.archive_named(kind, &named)
    }

    /// The same with chunk ids as given: a poisoning source.
    pub fn archive_named(&mut self, kind: Kind, chunks: &[(shared::id::ChunkId, Vec<u8>)]) -> Vec<ChunkRef> {
        let number = self.number();
        let salt = Salt::random();
        let mut blocks: Vec<Vec<(shared::id::ChunkId, Vec<u8>)>> = Vec::new();
        for (id, chunk) in chunks {
            let fits = blocks.last().is_some_and(|block| {
                block.iter().map(|(_, c)| c.len()).sum::<usize>() + chunk.len() <= self.block_bytes
            });
            if !fits {
                blocks.push(Vec::new());
            }
            blocks.last_mut().unwrap().push((*id, chunk.clone()));
        }
        let mut refs = Vec::new();
        let mut sealed: Vec<Sealed> = Vec::new();
        for (at, block) in blocks.iter().enumerate() {
            let content: Vec<u8> = block.iter().flat_map(|(_, chunk)| chunk.clone()).collect();
            sealed.push(
                seal::seal_small(self.session.as_bytes(), &self.place(salt, number, at as u32), &content).unwrap(),
            );
            for (id, chunk) in block {
                refs.push(ChunkRef { id: *id, bytes: chunk.len() as u32, archive: number, block: at as u32 });
            }
        }
        let entries = |block: &Vec<(shared::id::ChunkId, Vec<u8>)>| {
            block.iter().map(|(id, chunk)| TableEntry { id: *id, bytes: chunk.len() as u32 }).collect()
        };
        let table = ChunkTable::new(blocks.iter().map(entries).collect()).unwrap();
        let index_secret = self.secret.index_secret(&self.lineage);
        let place = self.place(salt, number, blocks.len() as u32);
        sealed.push(seal::seal_small(index_secret.as_bytes(), &place, &table.encode()).unwrap());
        let parts = sealed.iter().map(|s| Part { bytes: s.bytes.len() as u32, hash: s.hash, plain: s.plain }).collect();
        let index = Index {
            source: self.source(),
            lineage: self.lineage,
            session: self.session_id(),
            number,
            salt,
            kind,
            parts: List::new(parts).unwrap(),
        };
        let index = sign(index, &self.signing).unwrap();
        let region = Region::new(&index, &self.envelope).unwrap();
        self.store.regions.insert(number.get(), region.as_bytes().to_vec());
        for (at, sealed) in sealed.into_iter().enumerate() {
            self.store.parts.insert((number.get(), at as u32), sealed.bytes);
        }
        self.page_entries.push(PageEntry { number, id: region.id(), live: Blob::new(all_live(blocks.len())).unwrap() });
        self.next_number += 1;
        refs
    }

    pub fn chunk(&mut self, content: &[u8]) -> ChunkRef {
        self.archive(Kind::Data, &[content.to_vec()])[0]
    }

    /// A file whose chunks are these.
    pub fn file(&mut self, name: &str, chunks: &[&[u8]]) -> Entry {
        let chunks: Vec<Vec<u8>> = chunks.iter().map(|chunk| chunk.to_vec()).collect();
        let refs = if chunks.is_empty() { Vec::new() } else { self.archive(Kind::Data, &chunks) };
        file_of(name, &refs)
    }

    /// A directory node, or a tree of nodes if there are many entries.
    pub fn node(&mut self, mut entries: Vec<Entry>, per_leaf: usize) -> NodeTop {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        self.node_as_given(entries, per_leaf)
    }

    pub fn node_as_given(&mut self, entries: Vec<Entry>, per_leaf: usize) -> NodeTop {
        if entries.len() <= per_leaf {
            let content = Node::leaf(entries).unwrap().encode();
            return NodeTop { chunk: self.archive(Kind::Metadata, &[content])[0], level: 0 };
        }
        let leaves: Vec<Vec<Entry>> = entries.chunks(per_leaf).map(<[Entry]>::to_vec).collect();
        let contents: Vec<Vec<u8>> = leaves.iter().map(|leaf| Node::leaf(leaf.clone()).unwrap().encode()).collect();
        let refs = self.archive(Kind::Metadata, &contents);
        let nodes =
            leaves.iter().zip(refs).map(|(leaf, chunk)| crate::tree::NodeRef { first: leaf[0].name.clone(), chunk });
        let content = Node::inner(1, nodes.collect()).unwrap().encode();
        NodeTop { chunk: self.archive(Kind::Metadata, &[content])[0], level: 1 }
    }

    /// A directory entry with this content.
    pub fn directory(&mut self, name: &str, entries: Vec<Entry>) -> Entry {
        let top = self.node(entries, 1000);
        Entry { node: Some(top), ..entry(name, EntryKind::Directory, 0o755) }
    }

    /// Commits a snapshot of these entries of `/`.
    pub fn snapshot(&mut self, entries: Vec<Entry>) -> Digest {
        let top = self.node(entries, 1000);
        self.snapshot_of(top, 0)
    }

    pub fn root(&self, top: NodeTop) -> Root {
        let counts = Counts { files: 100, directories: 100, others: 100, bytes: 1 << 30, ..Counts::default() };
        Root {
            top,
            host: Text::new("web1.example").unwrap(),
            set: Text::new("system").unwrap(),
            paths: List::new(vec![Blob::new(b"/".to_vec()).unwrap()]).unwrap(),
            tags: List::empty(),
            counts: self.counts.unwrap_or(counts),
            started: self.created,
            finished: self.created,
            program: Text::new("test").unwrap(),
            entry: None,
        }
    }

    pub fn snapshot_of(&mut self, top: NodeTop, flags: u8) -> Digest {
        let root = self.root(top);
        self.commit(&root, flags)
    }

    pub fn commit(&mut self, root: &Root, flags: u8) -> Digest {
        let salt = Salt::random();
        let place = Place::Root { source: self.source(), lineage: self.lineage, salt, session: self.session_id() };
        let sealed = seal::seal_small(self.session.as_bytes(), &place, &root.encode()).unwrap();
        let mut pages = Vec::new();
        for span in self.page_entries.chunk_by(|a, b| a.number.get() / 1024 == b.number.get() / 1024) {
            let archives = List::new(span.to_vec()).unwrap();
            let page = Plain::new(Page { source: self.source(), lineage: self.lineage, archives }).unwrap();
            pages.push(page.digest());
            self.store.pages.insert(page.digest(), page.as_bytes().to_vec());
        }
        let body = Body {
            pages: List::new(pages).unwrap(),
            root: SealedRoot { salt, plain: sealed.plain, sealed: Blob::new(sealed.bytes).unwrap() },
        };
        let body = Plain::new(body).unwrap();
        self.store.bodies.insert(body.digest(), body.as_bytes().to_vec());
        self.push_head(body.digest(), flags)
    }

    pub fn push_head(&mut self, body: Digest, flags: u8) -> Digest {
        let (sequence, previous, receipt_before) = match self.previous {
            None => (0, None, None),
            Some((sequence, digest, receipt)) => (sequence + 1, Some(digest), receipt),
        };
        self.created += 60;
        let head = Head {
            source: self.source(),
            lineage: self.lineage,
            sink: self.sink_key.verify_key(),
            sequence,
            previous,
            series: Series::new([5; 16]),
            flags,
            created: self.created,
            session: self.session_id(),
            body,
            remotes: List::new(self.remotes.clone()).unwrap(),
            reason: self.reason.take().map(Text::truncated),
        };
        let head = sign(head, &self.signing).unwrap();
        let receipt = Receipt {
            source: self.source(),
            lineage: self.lineage,
            sink: self.sink_key.verify_key(),
            sequence,
            head: head.digest(),
            received: self.created + 1,
            previous: receipt_before,
            journal: None,
            archives: self.page_entries.len() as u64,
            keep_until: self.keep_until,
        };
        let receipt = sign(receipt, &self.sink_key).unwrap();
        self.store.heads.push((head.as_bytes().to_vec(), Some(receipt.as_bytes().to_vec()), None));
        self.previous = Some((sequence, head.digest(), Some(receipt.digest())));
        head.digest()
    }

    /// The head of this snapshot, verified.
    pub fn head(&self, digest: &Digest) -> Verified<Head> {
        self.verified_heads().into_iter().find(|head| head.digest() == *digest).unwrap()
    }
    pub fn verified_heads(&self) -> Vec<Verified<Head>> {
        let verified = |head: &Vec<u8>| crate::restore::verify::head(head, &self.signing.verify_key()).unwrap();
        self.store.heads.iter().map(|(head, ..)| verified(head)).collect()
    }

    /// Another lineage of the same source begins (the store keeps the old one's objects only by number: use a fresh
    /// vault for both).
    pub fn is_ours(&self, source: &SourceId, lineage: &Lineage) -> bool {
        *source == self.source() && *lineage == self.lineage
    }
}

fn all_live(blocks: usize) -> Vec<u8> {
    let mut bits = vec![0u8; blocks.div_ceil(8)];
    for block in 0..blocks {
        bits[block / 8] |= 1 << (block % 8);
    }
    bits
}

/// An entry with nothing special.
pub fn entry(name: &str, kind: EntryKind, mode: u32) -> Entry {
    let owner = |id| Owner { id, name: None };
    Entry {
        name: Blob::new(name.as_bytes().to_vec()).unwrap(),
        kind,
        mode,
        user: owner(rustix::process::getuid().as_raw()),
        group: owner(rustix::process::getgid().as_raw()),
        modified: Time { seconds: 1_600_000_000, nanoseconds: 123_456_789 },
        changed: Time { seconds: 1_600_000_000, nanoseconds: 0 },
        inode: 1,
        size: 0,
        hard_link: None,
        extents: None,
        list: None,
        node: None,
        target: None,
        device: None,
        xattrs: None,
    }
}

/// A file of these chunks.
pub fn file_of(name: &str, refs: &[ChunkRef]) -> Entry {
    let size = refs.iter().map(|chunk| u64::from(chunk.bytes)).sum();
    let extents = refs.iter().map(|chunk| Extent::Chunk(*chunk)).collect();
    Entry { size, extents: Some(List::new(extents).unwrap()), ..entry(name, EntryKind::File, 0o644) }
}

pub fn symlink(name: &str, target: &str) -> Entry {
    let target = Some(Blob::new(target.as_bytes().to_vec()).unwrap());
    Entry { target, ..entry(name, EntryKind::Symlink, 0o777) }
}

fn not_found(what: &str) -> Failure {
    Failure::new("not-found", Exit::NotFound, format!("{what} is not there")).remote("offsite")
}

impl Objects for Vault {
    fn remote(&self) -> &str {
        &self.name
    }
    fn sink(&self) -> VerifyKey {
        self.sink_key.verify_key()
    }
    fn clock(&self) -> i64 {
        self.created + 100
    }
    fn sources(&mut self) -> Outcome<Vec<SourceItem>> {
        if !self.is_listed {
            return Ok(Vec::new());
        }
        Ok(vec![SourceItem {
            name: self.card.name().clone(),
            source: self.source(),
            card: Text::new(self.card.to_string()).unwrap(),
            lineages: List::new(self.store.lineages.clone()).unwrap(),
        }])
    }
    fn heads(&mut self, source: &SourceId, lineage: &Lineage, from: u64) -> Outcome<Vec<HeadItem>> {
        self.heads_answers = self.heads_answers.checked_sub(1).ok_or_else(|| not_found("a source"))?;
        if !self.is_ours(source, lineage) {
            return Ok(Vec::new());
        }
        let item = |(head, receipt, content): &StoredHead| HeadItem {
            head: Blob::new(head.clone()).unwrap(),
            receipt: receipt.clone().map(|receipt| Blob::new(receipt).unwrap()),
            content: content.unwrap_or(Damage::Present),
        };
        Ok(self.store.heads.iter().skip(from as usize).map(item).collect())
    }
    fn envelope(&mut self, _: &SourceId, session: &SessionId) -> Outcome<Vec<u8>> {
        self.store.envelopes.get(session).cloned().ok_or_else(|| not_found("an envelope"))
    }
    fn body(&mut self, _: &SourceId, digest: &Digest) -> Outcome<Vec<u8>> {
        self.store.bodies.get(digest).cloned().ok_or_else(|| not_found("a body"))
    }
    fn page(&mut self, _: &SourceId, digest: &Digest) -> Outcome<Vec<u8>> {
        self.store.pages.get(digest).cloned().ok_or_else(|| not_found("a page"))
    }
    fn region(&mut self, name: &ArchiveName, _: &ArchiveId) -> Outcome<Vec<u8>> {
        self.store.regions.get(&name.number.get()).cloned().ok_or_else(|| not_found("an archive"))
    }
    fn table(&mut self, archive: &Archive) -> Outcome<Vec<u8>> {
        let key = (archive.name.number.get(), archive.index.blocks());
        self.store.parts.get(&key).cloned().ok_or_else(|| not_found("a chunk table"))
    }
    fn parts(&mut self, wanted: &[PartsWanted], each: Each<'_>) -> Outcome<()> {
        for (at, wanted) in wanted.iter().enumerate() {
            let number = wanted.archive.name.number.get();
            if wanted.parts.iter().any(|part| !self.store.parts.contains_key(&(number, *part))) {
                each(at, Got::Ended(not_found("a part")))?;
                continue;
            }
            for part in &wanted.parts {
                *self.store.fetched.entry((number, *part)).or_default() += 1;
                let bytes = self.store.parts[&(number, *part)].clone();
                each(at, Got::Part(*part, bytes))?;
            }
        }
        Ok(())
    }
    fn owner_records(&mut self, _: &VerifyKey, from: u64) -> Outcome<Vec<Vec<u8>>> {
        Ok(self.store.owner_records.iter().skip(from as usize).cloned().collect())
    }
    fn substitutes(&mut self, _: &SourceId, _: &Lineage) -> Outcome<Vec<Vec<u8>>> {
        Ok(self.store.substitutes.clone())
    }
    fn vouchers(&mut self, _: &SourceId, _: &Lineage) -> Outcome<Vec<Vec<u8>>> {
        Ok(self.store.vouchers.clone())
    }
    fn wraps(&mut self, _: &SourceId, _: &Lineage) -> Outcome<Vec<Vec<u8>>> {
        Ok(self.store.wraps.clone())
    }
    fn put_owner_record(&mut self, record: &Verified<OwnerRecord>) -> Outcome<()> {
        self.store.owner_records.push(record.as_bytes().to_vec());
        Ok(())
    }
    fn put_voucher(&mut self, voucher: &Verified<Voucher>) -> Outcome<()> {
        self.store.vouchers.push(voucher.as_bytes().to_vec());
        Ok(())
    }
    fn put_wrap(&mut self, wrap: &Verified<Wrap>) -> Outcome<()> {
        if let Some(refuse) = self.refuse_wraps {
            return Err(refuse());
        }
        self.store.wraps.push(wrap.as_bytes().to_vec());
        Ok(())
    }
}

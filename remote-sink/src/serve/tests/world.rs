//! A vault, sources that may push to it, and objects as a source makes them. Sealed content is random: nobody here
//! could read it anyway.

use crate::enrolment::{Enrolment, Reads};
use crate::serve::limits::Limits;
use crate::serve::tests::Client;
use crate::serve::{ServeOptions, channel, committer, open, receiver};
use crate::store::layout::{Layout, object_path};
use crate::store::{Name, Shelf};
use crate::verify::{Report, VerifyOptions, verify};
use shared::card::{SourceCard, SshKey};
use shared::codec::{Blob, List};
use shared::format::archive::{Kind, Part};
use shared::format::owner::{BlockName, SubstitutePair};
use shared::format::snapshot::SealedRoot;
use shared::format::{Body, Envelope, Head, Index, Kem, Page, PageEntry, RecipientWrap, Region, Substitute};
use shared::id::{ArchiveId, ArchiveNumber, Digest, Lineage, Salt, Series, SessionId, SourceId, SourceName, VerifyKey};
use shared::keyfile;
use shared::signature::{Plain, SigningKey, Verified, sign};
use shared::sys::{FixedClock, durable};
use shared::wire::Role;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

pub const NOW: i64 = 1_800_000_000;

pub struct World {
    _dir: TempDir,
    pub layout: Layout,
    pub sink: VerifyKey,
    pub clock: Arc<FixedClock>,
    pub limits: Limits,
}

/// A source, with its key.
pub struct Source {
    pub name: SourceName,
    pub key: SigningKey,
    pub card: SourceCard,
    pub lineage: Lineage,
    pub sink: VerifyKey,
    pub envelope: Verified<Envelope>,
}

/// A signed archive and its parts.
#[derive(Clone)]
pub struct Archive {
    pub region: Vec<u8>,
    pub parts: Vec<Vec<u8>>,
    pub number: ArchiveNumber,
    pub id: ArchiveId,
}

impl Archive {
    pub fn data(&self) -> Vec<u8> {
        self.parts.concat()
    }
    /// The page entry that names these blocks.
    pub fn entry(&self, live: &[u32]) -> PageEntry {
        let mut bits = vec![0u8; live.iter().max().map_or(0, |last| *last as usize / 8 + 1)];
        live.iter().for_each(|block| bits[*block as usize / 8] |= 1 << (block % 8));
        PageEntry { number: self.number, id: self.id, live: Blob::new(bits).unwrap() }
    }
}

pub fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

impl World {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("vault"));
        layout.create_vault_dirs().unwrap();
        let key = SigningKey::from_seed(&[42; 32]);
        let text = keyfile::write(keyfile::SINK_KEY, &key.seed());
        durable::create_new(&layout.sink_key(), text.as_bytes(), durable::PRIVATE).unwrap();
        let limits = Limits { min_free: 0, ..Limits::default() };
        let clock = Arc::new(FixedClock::at(NOW));
        Self { _dir: dir, layout, sink: key.verify_key(), clock, limits }
    }

    pub fn enroll(&self, name: &str, role: Role, seed: u8, owner: Option<VerifyKey>, reads: Reads) -> Source {
        let name: SourceName = name.parse().unwrap();
        let key = SigningKey::from_seed(&[seed; 32]);
        let card = SourceCard::new(name.clone(), SshKey::from_ed25519(&[seed; 32]), owner, &key);
        self.layout.create_source_dirs(&name).unwrap();
        if let Some(owner) = &owner {
            self.layout.create_owner_dirs(owner).unwrap();
        }
        let enrolment = Enrolment {
            card: card.clone(),
            role,
            quota: None,
            from: Vec::new(),
            reads,
            address: None,
            host_keys: Vec::new(),
            enrolled: "2026-11-21T23:40:00Z".into(),
            revoked: false,
        };
        enrolment.write(&self.layout.enrolment(&name)).unwrap();
        Source::new(name, key, card, Lineage::new([seed; 16]), self.sink)
    }

    /// A pushing source that names no owner.
    pub fn source(&self, name: &str, seed: u8) -> Source {
        self.enroll(name, Role::Push, seed, None, Reads::SingleOwner)
    }

    pub fn options(&self, name: &SourceName, role: Role) -> ServeOptions {
        let (root, limits) = (self.layout.root().to_owned(), self.limits.clone());
        ServeOptions { root, source: name.clone(), role, limits, binding: b"ssh".to_vec() }
    }

    /// Starts a session and gives the client's end of the network.
    pub fn connect(&self, name: &SourceName, role: Role) -> Client {
        let (client, network) = UnixStream::pair().unwrap();
        let (channel, other) = channel::pair().unwrap();
        let (options, clock) = (self.options(name, role), Arc::clone(&self.clock));
        std::thread::spawn(move || receiver::receive(other));
        std::thread::spawn(move || {
            let start = open(&options, clock);
            channel::send_network(&channel, network.as_fd(), network.as_fd()).unwrap();
            drop(network);
            committer::commit(channel, options.role, start, &options.limits)
        });
        Client::new(client)
    }

    /// The committer alone, as a receiver that an attacker took over would see it.
    pub fn committer(&self, name: &SourceName, role: Role) -> UnixStream {
        let (channel, other) = channel::pair().unwrap();
        let (options, clock) = (self.options(name, role), Arc::clone(&self.clock));
        std::thread::spawn(move || {
            let start = open(&options, clock);
            committer::commit(channel, options.role, start, &options.limits)
        });
        other
    }

    /// A session of a source, greeted.
    pub fn push(&self, source: &Source) -> Client {
        let mut client = self.connect(&source.name, Role::Push);
        client.banner();
        client.greet(source);
        client
    }

    pub fn verify(&self) -> Report {
        verify(self.layout.root(), &VerifyOptions::default(), &*self.clock).unwrap()
    }

    pub fn assert_whole(&self) {
        let report = self.verify();
        assert!(report.is_ok(), "{report:#?}");
        assert_eq!(report.sources.iter().map(|source| source.unknown_total).sum::<u64>(), 0, "{report:#?}");
    }

    pub fn object(&self, source: &Source, name: &Name) -> PathBuf {
        self.layout.source(&source.name).join(object_path(name))
    }

    /// Files on a shelf.
    pub fn count(&self, source: &Source, shelf: Shelf) -> usize {
        files(&self.layout.shelf(&source.name, shelf)).len()
    }
}

/// All files below a directory.
pub fn files(dir: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

impl Source {
    pub fn new(name: SourceName, key: SigningKey, card: SourceCard, lineage: Lineage, sink: VerifyKey) -> Self {
        let envelope = envelope(&key, card.source_id(), lineage, 1);
        Self { name, key, card, lineage, sink, envelope }
    }

    pub fn id(&self) -> SourceId {
        self.card.source_id()
    }

    pub fn session(&self) -> SessionId {
        SessionId::new(*self.envelope.digest().as_bytes())
    }

    /// The same source in another lineage.
    pub fn in_lineage(&self, byte: u8) -> Self {
        let key = SigningKey::from_seed(&self.key.seed());
        Self::new(self.name.clone(), key, self.card.clone(), Lineage::new([byte; 16]), self.sink)
    }

    /// An archive with parts of so many pages of 4096 bytes; the last one is the chunk table.
    pub fn archive(&self, number: u64, pages: &[usize]) -> Archive {
        let parts = pages.iter().enumerate();
        let parts = parts.map(|(at, pages)| random_bytes(number * 1000 + at as u64, pages * 4096)).collect();
        self.archive_of(number, parts)
    }

    pub fn archive_of(&self, number: u64, parts: Vec<Vec<u8>>) -> Archive {
        let index = self.index(number, &parts);
        let index = sign(index, &self.key).unwrap();
        let region = Region::new(&index, &self.envelope).unwrap();
        Archive {
            id: region.id(),
            region: region.as_bytes().to_vec(),
            parts,
            number: ArchiveNumber::new(number).unwrap(),
        }
    }

    pub fn index(&self, number: u64, parts: &[Vec<u8>]) -> Index {
        let part =
            |bytes: &Vec<u8>| Part { bytes: bytes.len() as u32, hash: Digest::of(bytes), plain: Digest::new([9; 32]) };
        Index {
            source: self.id(),
            lineage: self.lineage,
            session: self.session(),
            number: ArchiveNumber::new(number).unwrap(),
            salt: Salt::new([number as u8; 32]),
            kind: Kind::Data,
            parts: List::new(parts.iter().map(part).collect()).unwrap(),
        }
    }

    pub fn page(&self, entries: Vec<PageEntry>) -> Plain<Page> {
        Plain::new(Page { source: self.id(), lineage: self.lineage, archives: List::new(entries).unwrap() }).unwrap()
    }

    /// "Block 0 of the one archive is also in block 0 of the other."
    pub fn substitute(&self, left: &Archive, right: &Archive) -> Verified<Substitute> {
        let name = |archive: &Archive| BlockName { number: archive.number, id: archive.id, block: 0 };
        let pair = SubstitutePair { left: name(left), right: List::new(vec![name(right)]).unwrap() };
        let pairs = List::new(vec![pair]).unwrap();
        sign(Substitute { source: self.id(), lineage: self.lineage, pairs }, &self.key).unwrap()
    }

    pub fn body(&self, pages: &[&Plain<Page>], seed: u64) -> Plain<Body> {
        let sealed = Blob::new(random_bytes(seed, 4096)).unwrap();
        let root = SealedRoot { salt: Salt::new([1; 32]), plain: Digest::new([2; 32]), sealed };
        let pages = List::new(pages.iter().map(|page| page.digest()).collect()).unwrap();
        Plain::new(Body { pages, root }).unwrap()
    }

    pub fn head_value(&self, before: Option<&Verified<Head>>, body: &Plain<Body>) -> Head {
        Head {
            source: self.id(),
            lineage: self.lineage,
            sink: self.sink,
            sequence: before.map_or(0, |head| head.sequence + 1),
            previous: before.map(Verified::digest),
            series: Series::new([5; 16]),
            flags: 0,
            created: NOW - 60,
            session: self.session(),
            body: body.digest(),
            remotes: List::empty(),
            reason: None,
        }
    }

    pub fn head(&self, before: Option<&Verified<Head>>, body: &Plain<Body>) -> Verified<Head> {
        sign(self.head_value(before, body), &self.key).unwrap()
    }
}

pub fn envelope(key: &SigningKey, source: SourceId, lineage: Lineage, salt: u8) -> Verified<Envelope> {
    let wrap = RecipientWrap {
        kem: Kem::X25519,
        recipient: Digest::new([3; 32]),
        enc: Blob::new(vec![4; 32]).unwrap(),
        sealed: Blob::new(vec![5; 80]).unwrap(),
    };
    let recipients = List::new(vec![wrap]).unwrap();
    let envelope =
        Envelope { source, lineage, salt: Salt::new([salt; 32]), commitment: Digest::new([6; 32]), recipients };
    sign(envelope, key).unwrap()
}

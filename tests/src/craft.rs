//! Objects by hand, signed with a source's own keys: right ones, and ones that lie.

use crate::agent::Keys;
use crate::vault::{Enrolled, Vault};
use crate::wire::{Client, receipt, stored};
use shared::card::{SourceCard, SshKey};
use shared::codec::{Blob, List};
use shared::format::snapshot::SealedRoot;
use shared::format::{Body, Envelope, Head, Index, Kind, Page, PageEntry, Part, Region};
use shared::id::{ArchiveId, ArchiveNumber, Digest, Lineage, Salt, Series, SessionId, SourceId, VerifyKey};
use shared::signature::{Plain, SigningKey, Verified, sign};
use shared::wire::{PushRequest, Reply};
use source_agent::crypto::identity::Identity;
use source_agent::crypto::part::Place as Seal;
use source_agent::crypto::seal::{self, Sealed};
use source_agent::crypto::secret::{SessionSecret, SourceSecret};
use source_agent::crypto::wrap;
use source_agent::tree::table::{ChunkTable, TableEntry};
use std::path::{Path, PathBuf};

/// Whoever holds a source's keys, with one session open.
pub struct Forger {
    pub name: String,
    pub card: SourceCard,
    pub signing: SigningKey,
    pub source: SourceId,
    pub lineage: Lineage,
    pub secret: SourceSecret,
    pub session_secret: SessionSecret,
    pub envelope: Verified<Envelope>,
    pub owner: Identity,
}

impl Forger {
    /// A source of its own.
    pub fn new(name: &str) -> Self {
        let owner = Identity::random();
        Self::with_owner(name, owner)
    }

    /// A source that seals to this owner.
    pub fn with_owner(name: &str, owner: Identity) -> Self {
        let signing = SigningKey::random();
        let ssh = SshKey::from_ed25519(SigningKey::random().verify_key().as_bytes());
        let card = SourceCard::new(name.parse().unwrap(), ssh, Some(owner.owner_key().verify_key()), &signing);
        Self::from_parts(card, signing, SourceSecret::random(), Lineage::random(), owner)
    }

    /// A source of its own that can come in by SSH: also the file of its key, in `dir`.
    pub fn with_ssh_key(name: &str, dir: &Path) -> (Self, PathBuf) {
        let owner = Identity::random();
        let signing = SigningKey::random();
        let (text, ssh) = source_agent::keys::new_ssh_key(name).expect("an SSH key");
        let file = dir.join(format!("{name}-ssh.key"));
        std::fs::write(&file, &*text).unwrap();
        crate::tree::set_mode(&file, 0o600);
        let card = SourceCard::new(name.parse().unwrap(), ssh, Some(owner.owner_key().verify_key()), &signing);
        (Self::from_parts(card, signing, SourceSecret::random(), Lineage::random(), owner), file)
    }

    /// With the keys found on a source.
    pub fn from_keys(keys: Keys, owner_file: &Path) -> Self {
        let text = std::fs::read_to_string(owner_file).unwrap();
        let owner = Identity::from_file(&text, None).expect("an identity without a passphrase");
        Self::from_parts(keys.card, keys.signing, keys.secret, keys.lineage, owner)
    }

    fn from_parts(
        card: SourceCard,
        signing: SigningKey,
        secret: SourceSecret,
        lineage: Lineage,
        owner: Identity,
    ) -> Self {
        let source = card.source_id();
        let recipients = [owner.recipient(shared::format::Kem::XWing)];
        let (session_secret, envelope) = wrap::new_session(source, lineage, &secret, &recipients, &signing).unwrap();
        let name = card.name().to_string();
        Self { name, card, signing, source, lineage, secret, session_secret, envelope, owner }
    }

    pub fn enroll(&self, vault: &Vault) -> Enrolled {
        vault.enroll(&self.card.to_string(), "push", "backup@127.0.0.1:22", &[])
    }

    /// A push session over pipes.
    pub fn connect(&self, vault: &Vault, sink: &VerifyKey) -> Client {
        Client::push(vault.serve(&self.name, "push"), self.source, self.lineage, sink)
    }

    pub fn session(&self) -> SessionId {
        SessionId::new(*self.envelope.digest().as_bytes())
    }

    /// An archive of blocks, each of chunks.
    pub fn archive(&self, number: u64, blocks: &[Vec<Vec<u8>>]) -> Crafted {
        let namer = self.secret.chunk_namer(&self.lineage);
        let names = blocks
            .iter()
            .map(|block| {
                block.iter().map(|chunk| TableEntry { id: namer.name(chunk), bytes: chunk.len() as u32 }).collect()
            })
            .collect();
        self.archive_claiming(number, blocks, names)
    }

    /// An archive whose table says what it likes.
    pub fn archive_claiming(&self, number: u64, blocks: &[Vec<Vec<u8>>], names: Vec<Vec<TableEntry>>) -> Crafted {
        let number = ArchiveNumber::new(number).unwrap();
        let salt = Salt::random();
        let place = |part: usize| Seal::Part {
            source: self.source,
            lineage: self.lineage,
            salt,
            archive: number,
            part: part as u32,
        };
        let session = self.session_secret.as_bytes();
        let mut sealed: Vec<Sealed> = blocks
            .iter()
            .enumerate()
            .map(|(at, block)| seal::seal_small(session, &place(at), &block.concat()).unwrap())
            .collect();
        let table = ChunkTable::new(names).unwrap().encode();
        let index_secret = self.secret.index_secret(&self.lineage);
        sealed.push(seal::seal_small(index_secret.as_bytes(), &place(blocks.len()), &table).unwrap());
        self.archive_of(number, salt, &sealed)
    }

    /// An archive of sealed parts.
    pub fn archive_of(&self, number: ArchiveNumber, salt: Salt, sealed: &[Sealed]) -> Crafted {
        let parts = sealed
            .iter()
            .map(|part| Part { bytes: part.bytes.len() as u32, hash: part.hash, plain: part.plain })
            .collect();
        let index = Index {
            source: self.source,
            lineage: self.lineage,
            session: self.session(),
            number,
            salt,
            kind: Kind::Data,
            parts: List::new(parts).unwrap(),
        };
        let index = sign(index, &self.signing).unwrap();
        let region = Region::new(&index, &self.envelope).unwrap();
        Crafted { index, region, parts: sealed.iter().flat_map(|part| part.bytes.clone()).collect() }
    }

    /// An archive of one block of junk.
    pub fn junk(&self, number: u64, bytes: usize) -> Crafted {
        self.archive(number, &[vec![crate::Chance::new(number ^ 77).bytes(bytes)]])
    }

    /// A page that names the first `blocks` of each archive.
    pub fn page(&self, archives: &[(&Crafted, u32)]) -> Plain<Page> {
        let entries = archives
            .iter()
            .map(|(archive, blocks)| PageEntry {
                number: archive.index.number,
                id: ArchiveId::new(*archive.index.digest().as_bytes()),
                live: bitmap(*blocks),
            })
            .collect();
        Plain::new(Page { source: self.source, lineage: self.lineage, archives: List::new(entries).unwrap() }).unwrap()
    }

    /// A body over pages; its sealed root is junk that only has the right shape.
    pub fn body(&self, pages: &[&Plain<Page>]) -> Plain<Body> {
        let salt = Salt::random();
        let place = Seal::Root { source: self.source, lineage: self.lineage, salt, session: self.session() };
        let sealed = seal::seal_small(self.session_secret.as_bytes(), &place, b"not a root").unwrap();
        let root = SealedRoot { salt, plain: sealed.plain, sealed: Blob::new(sealed.bytes).unwrap() };
        let pages = List::new(pages.iter().map(|page| page.digest()).collect()).unwrap();
        Plain::new(Body { pages, root }).unwrap()
    }

    /// The fields of a head, to be changed and signed.
    pub fn head(&self, sink: VerifyKey, sequence: u64, previous: Option<Digest>, body: Digest) -> Head {
        Head {
            source: self.source,
            lineage: self.lineage,
            sink,
            sequence,
            previous,
            series: Series::new([7; 16]),
            flags: 0,
            created: 1_790_000_000,
            session: self.session(),
            body,
            remotes: List::empty(),
            reason: None,
        }
    }

    pub fn sign(&self, head: Head) -> Verified<Head> {
        sign(head, &self.signing).unwrap()
    }

    /// Pushes envelope, one archive, page and body; all must be taken. Returns the body's digest.
    #[track_caller]
    pub fn push_content(&self, client: &mut Client, archive: &Crafted) -> Digest {
        stored(client.ask(&PushRequest::PutEnvelope(self.envelope.as_bytes().to_vec())));
        stored(client.put_archive(&archive.region, &archive.parts));
        let page = self.page(&[(archive, archive.index.blocks())]);
        stored(client.ask(&PushRequest::PutPage(page.as_bytes().to_vec())));
        let body = self.body(&[&page]);
        match client.ask(&PushRequest::PutBody(body.as_bytes().to_vec())) {
            Reply::Missing(missing) => assert!(missing.is_empty(), "{missing:?}"),
            other => panic!("body: {other:?}"),
        }
        body.digest()
    }

    /// A whole snapshot, receipted.
    #[track_caller]
    pub fn push_snapshot(
        &self,
        client: &mut Client,
        sink: VerifyKey,
        number: u64,
        sequence: u64,
        previous: Option<Digest>,
    ) -> Verified<Head> {
        let archive = self.junk(number, 20_000);
        let body = self.push_content(client, &archive);
        let head = self.sign(self.head(sink, sequence, previous, body));
        receipt(client.ask(&PushRequest::PutHead(head.as_bytes().to_vec())), &head, &sink);
        head
    }
}

/// An archive ready to be sent.
pub struct Crafted {
    pub index: Verified<Index>,
    pub region: Region,
    pub parts: Vec<u8>,
}

impl Crafted {
    pub fn id(&self) -> ArchiveId {
        self.region.id()
    }
}

/// A bitmap with the first `blocks` bits set.
pub fn bitmap<const MAX: usize>(blocks: u32) -> Blob<MAX> {
    let mut bytes = vec![0u8; (blocks as usize).div_ceil(8)];
    for block in 0..blocks as usize {
        bytes[block / 8] |= 1 << (block % 8);
    }
    Blob::new(bytes).unwrap()
}

/// Signs bytes as an object of some kind without any check, as only an attacker would.
pub fn sign_raw(kind: u8, body: &[u8], key: &SigningKey) -> Vec<u8> {
    let mut bytes = b"pawl".to_vec();
    bytes.extend_from_slice(&[kind, shared::limits::FORMAT, shared::limits::SUITE, 0]);
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(body);
    let signature = key.sign_labelled(shared::signature::SIGN_LABEL, &bytes);
    bytes.extend_from_slice(&signature);
    bytes
}

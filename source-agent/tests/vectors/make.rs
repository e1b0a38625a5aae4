//! Makes the vectors: for each MUST a right input where that says something, and the wrong ones, named for the wrong.

use crate::Vector;
use minicbor::Encode;
use shared::card::{SinkCard, SourceCard, SshKey};
use shared::codec::{self, Blob, List, Text};
use shared::format::archive::align;
use shared::format::owner::{BlockName, SubstitutePair};
use shared::format::snapshot::{FLAG_INCOMPLETE, SealedRoot};
use shared::format::{
    Body, Envelope, Generation, Head, Index, Kem, Kind, OwnerRecord, Page, PageEntry, Part, Receipt, Region, Release,
    SessionRecord, Substitute, Voucher, Wrap,
};
use shared::id::{ArchiveId, ArchiveNumber, ChunkId, Digest, Lineage, Salt, Series, SessionId, SourceId, VerifyKey};
use shared::signature::{HEADER_BYTES, Object, Plain, SIGN_LABEL, SigningKey, Verified, sign};
use source_agent::crypto::identity::Identity;
use source_agent::crypto::part::Place;
use source_agent::crypto::seal::{self, Method, Sealed};
use source_agent::crypto::secret::{SessionSecret, SourceSecret, commitment};
use source_agent::crypto::wrap;
use source_agent::tree::node::{Device, HardLink, ListRef, NodeTop};
use source_agent::tree::{
    ChunkRef, ChunkTable, Counts, Entry, EntryKind, Extent, ListNode, Node, NodeRef, Owner, Root, Time, Xattr,
    table::TableEntry,
};
use std::collections::BTreeMap;

const SOURCE: SourceId = SourceId::new([0x11; 32]);
const LINEAGE: Lineage = Lineage::new([0x22; 16]);
const SALT: Salt = Salt::new([0x33; 32]);
const IDENTITY: [u8; 32] = [0x44; 32];
const SOURCE_SECRET: [u8; 32] = [0x55; 32];
const SESSION_SECRET: [u8; 32] = [0x66; 32];

fn key() -> SigningKey {
    SigningKey::from_seed(&[0x77; 32])
}
fn sink_key() -> SigningKey {
    SigningKey::from_seed(&[0x88; 32])
}
fn owner_key() -> SigningKey {
    Identity::from_seed(&IDENTITY).owner_key()
}
fn number(n: u64) -> ArchiveNumber {
    ArchiveNumber::new(n).unwrap()
}

/// Collects vectors.
#[derive(Default)]
struct Maker(Vec<Vector>);

type Field = (&'static str, Vec<u8>);

impl Maker {
    fn add(&mut self, must: &'static str, name: &str, object: &'static str, accept: bool, fields: Vec<Field>) {
        let fields: BTreeMap<_, _> = fields.into_iter().collect();
        self.0.push(Vector { must, name: name.into(), object, accept, fields });
    }
    fn good(&mut self, must: &'static str, name: &str, object: &'static str, fields: Vec<Field>) {
        self.add(must, name, object, true, fields);
    }
    fn bad(&mut self, must: &'static str, name: &str, object: &'static str, fields: Vec<Field>) {
        self.add(must, name, object, false, fields);
    }
}

fn with_key(bytes: &[u8], key: &SigningKey) -> Vec<Field> {
    vec![("key", key.verify_key().as_bytes().to_vec()), ("bytes", bytes.to_vec())]
}

/// Header and body of any kind, whatever its rules say.
fn raw_object(kind: u8, body: &[u8]) -> Vec<u8> {
    [b"pawl", &[kind, 1, 1, 0][..], &(body.len() as u32).to_le_bytes(), body].concat()
}

/// Signs header and body as they are.
fn raw_sign(kind: u8, body: &[u8], key: &SigningKey) -> Vec<u8> {
    let mut bytes = raw_object(kind, body);
    let signature = key.sign_labelled(SIGN_LABEL, &bytes);
    bytes.extend_from_slice(&signature);
    bytes
}

/// Signs a value that breaks a rule of its kind.
fn forge<T: Object + Encode<()>>(value: &T, key: &SigningKey) -> Vec<u8> {
    raw_sign(T::KIND, &codec::encode(value), key)
}

fn head(sequence: u64, previous: Option<Digest>) -> Head {
    Head {
        source: SOURCE,
        lineage: LINEAGE,
        sink: sink_key().verify_key(),
        sequence,
        previous,
        series: Series::new([1; 16]),
        flags: FLAG_INCOMPLETE,
        created: 1_790_000_000,
        session: SessionId::new([2; 32]),
        body: Digest::new([3; 32]),
        remotes: List::empty(),
        reason: None,
    }
}

fn chunk_ref(n: u8) -> ChunkRef {
    ChunkRef { id: ChunkId::new([n; 32]), bytes: 1000, archive: number(7), block: 1 }
}

fn encoding(make: &mut Maker) {
    // A `Part` is an array of a number and two digests.
    let part = Part { bytes: 4096, hash: Digest::new([1; 32]), plain: Digest::new([2; 32]) };
    let good = codec::encode(&part);
    make.good("F-1", "array", "cbor", vec![("bytes", good.clone())]);
    make.bad("F-1", "byte-behind", "cbor", vec![("bytes", [&good[..], &[0]].concat())]);
    let mut longer = good.clone();
    longer[0] = 0x84;
    longer.push(0);
    make.bad("F-1", "element-too-many", "cbor", vec![("bytes", longer)]);
    let mut shorter = good[..good.len() - 34].to_vec();
    shorter[0] = 0x82;
    make.bad("F-1", "element-missing", "cbor", vec![("bytes", shorter)]);
    make.bad("F-1", "cut", "cbor", vec![("bytes", good[..good.len() - 1].to_vec())]);
    let long_number = [&[0x83, 0x1a, 0, 0, 0x10, 0][..], &good[4..]].concat();
    make.bad("F-2", "number-not-shortest", "cbor", vec![("bytes", long_number)]);
    let indefinite = [&[0x9f][..], &good[1..], &[0xff]].concat();
    make.bad("F-2", "indefinite-array", "cbor", vec![("bytes", indefinite)]);
    let float = [&[0x83, 0xfa, 0x45, 0x80, 0, 0][..], &good[4..]].concat();
    make.bad("F-2", "float-for-number", "cbor", vec![("bytes", float)]);

    let body = codec::encode(&head(0, None));
    make.good("F-1", "head", "head", with_key(&raw_sign(b'H', &body, &key()), &key()));
    // The series (key 5) before the sequence (key 3): swap two whole pairs.
    let reordered = {
        let mut pairs = split_map(&body);
        pairs.swap(3, 4);
        [&body[..1], &pairs.concat()].concat()
    };
    make.bad("F-1", "keys-out-of-order", "head", with_key(&raw_sign(b'H', &reordered, &key()), &key()));
    let doubled = {
        let pairs = split_map(&body);
        let mut bytes = [&[body[0] + 1][..], &pairs.concat()].concat();
        let at = 1 + pairs[0].len();
        bytes.splice(at..at, pairs[0].clone());
        bytes
    };
    make.bad("F-1", "key-twice", "head", with_key(&raw_sign(b'H', &doubled, &key()), &key()));
    let missing = {
        let pairs = split_map(&body);
        [&[body[0] - 1][..], &pairs[1..].concat()].concat()
    };
    make.bad("F-1", "key-missing", "head", with_key(&raw_sign(b'H', &missing, &key()), &key()));
    let mut unknown = body.clone();
    unknown[0] += 1;
    unknown.extend([0x17, 0]);
    make.bad("F-1", "unknown-key", "head", with_key(&raw_sign(b'H', &unknown, &key()), &key()));
    let mut null = body.clone();
    null[0] += 1;
    null.extend([0x0b, 0xf6]);
    make.bad("F-3", "null-for-absent", "head", with_key(&raw_sign(b'H', &null, &key()), &key()));
    let owner = Owner { id: 5, name: None };
    assert_eq!(codec::encode(&owner), [0x81, 5]);
    let text = Text::<1024>::truncated(&"x".repeat(1024));
    let reason = Head { reason: Some(text), ..head(0, None) };
    let long = codec::encode(&reason);
    make.good("F-4", "reason-of-1024-bytes", "head", with_key(&raw_sign(b'H', &long, &key()), &key()));
    let mut longer = long.clone();
    let at = longer.len() - 1024 - 2;
    longer[at..at + 2].copy_from_slice(&1025u16.to_be_bytes());
    longer.push(b'x');
    make.bad("F-4", "reason-of-1025-bytes", "head", with_key(&raw_sign(b'H', &longer, &key()), &key()));
    let huge = [&body[..1], &[0, 0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]].concat();
    make.bad("F-4", "length-beyond-memory", "head", with_key(&raw_sign(b'H', &huge, &key()), &key()));
}

/// The pairs of a CBOR map with fewer than 24 keys, each as its bytes.
fn split_map(map: &[u8]) -> Vec<Vec<u8>> {
    let mut decoder = minicbor::Decoder::new(map);
    let count = decoder.map().unwrap().unwrap();
    let pair = |_| {
        let start = decoder.position();
        decoder.skip().unwrap();
        decoder.skip().unwrap();
        map[start..decoder.position()].to_vec()
    };
    (0..count).map(pair).collect()
}

fn names(make: &mut Maker) {
    make.good("F-5", "name", "name", vec![("bytes", b"web-1.example_org".to_vec())]);
    for (name, text) in
        [("empty", ""), ("dot", "."), ("dots", ".."), ("slash", "a/b"), ("leading-dash", "-a"), ("space", "a b")]
    {
        make.bad("F-5", name, "name", vec![("bytes", text.into())]);
    }
    make.bad("F-5", "65-characters", "name", vec![("bytes", vec![b'a'; 65])]);
}

fn objects(make: &mut Maker) {
    let good = sign(head(0, None), &key()).unwrap().as_bytes().to_vec();
    make.good("F-7", "signature", "head", with_key(&good, &key()));
    make.bad("F-7", "other-key", "head", with_key(&good, &SigningKey::from_seed(&[9; 32])));
    let flip = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    make.bad("F-7", "changed-field", "head", with_key(&flip(40), &key()));
    make.bad("F-7", "changed-signature", "head", with_key(&flip(good.len() - 60), &key()));
    // s + L is another encoding of the same signature for a lax verifier.
    let mut malleable = good.clone();
    add_group_order(&mut malleable);
    make.bad("F-6", "malleable-signature", "head", with_key(&malleable, &key()));
    let small: [u8; 32] = {
        let mut point = [0; 32];
        point[0] = 1;
        point
    };
    // The identity point as key: with R = identity and s = 0 a lax verifier accepts any message.
    let mut universal = good.clone();
    let at = universal.len() - 64;
    universal[at..].fill(0);
    universal[at] = 1;
    make.bad("F-6", "small-order-key", "head", vec![("key", small.to_vec()), ("bytes", universal)]);
    // The signature is right for the changed header: only the rule for the header refuses it.
    for (name, at) in [("magic", 0), ("kind", 4), ("format", 5), ("suite", 6), ("zero-byte", 7), ("length", 8)] {
        let mut bytes = flip(at);
        bytes.truncate(good.len() - 64);
        let signature = key().sign_labelled(SIGN_LABEL, &bytes);
        bytes.extend_from_slice(&signature);
        make.bad("F-8", name, "head", with_key(&bytes, &key()));
    }
    make.bad("F-8", "byte-behind", "head", with_key(&[&good[..], &[0]].concat(), &key()));
    make.bad("F-8", "cut", "head", with_key(&good[..good.len() - 1], &key()));
    make.bad("F-8", "header-alone", "head", with_key(&good[..HEADER_BYTES], &key()));
    let body = vec![0; 17_000];
    make.bad("F-9", "head-above-its-limit", "head", with_key(&raw_sign(b'H', &body, &key()), &key()));
    let voucher = Voucher {
        owner: owner_key().verify_key(),
        source: SOURCE,
        lineage: LINEAGE,
        sink: sink_key().verify_key(),
        sequence: 3,
        head: Digest::new([4; 32]),
        checked: 1_790_000_000,
    };
    let voucher = sign(voucher, &owner_key()).unwrap();
    make.good("F-7", "voucher", "voucher", with_key(voucher.as_bytes(), &owner_key()));
    make.bad("F-8", "voucher-as-release", "release", with_key(voucher.as_bytes(), &owner_key()));
    let release = Release {
        owner: owner_key().verify_key(),
        source: SOURCE,
        lineage: LINEAGE,
        sink: sink_key().verify_key(),
        sequence: 3,
        head: Digest::new([4; 32]),
        reason: Text::truncated("moved"),
    };
    make.good("F-7", "release", "release", with_key(sign(release, &owner_key()).unwrap().as_bytes(), &owner_key()));
    let record = SessionRecord {
        source: SOURCE,
        lineage: Some(LINEAGE),
        started: 1,
        ended: 2,
        archives: List::empty(),
        heads: List::new(vec![0, 1]).unwrap(),
        objects: 5,
        bytes: 20_480,
    };
    make.good("F-7", "session-record", "record", with_key(sign(record, &sink_key()).unwrap().as_bytes(), &sink_key()));
}

/// Adds the order of the Ed25519 group to the scalar of the signature that ends `bytes`.
fn add_group_order(bytes: &mut [u8]) {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let at = bytes.len() - 32;
    let mut carry = 0u16;
    for (byte, order) in bytes[at..].iter_mut().zip(ORDER) {
        carry += u16::from(*byte) + u16::from(order);
        *byte = carry as u8;
        carry >>= 8;
    }
}

fn envelope() -> Verified<Envelope> {
    let (session, source) = (SessionSecret::from_bytes(&SESSION_SECRET), SourceSecret::from_bytes(&SOURCE_SECRET));
    let commitment = commitment(&SOURCE, &LINEAGE, &SALT, &session, &source);
    let identity = Identity::from_seed(&IDENTITY);
    let wraps = [Kem::XWing, Kem::X25519].map(|kem| {
        wrap::wrap_for(&identity.recipient(kem), &SOURCE, &LINEAGE, &commitment, &session, &source).unwrap()
    });
    let envelope = Envelope {
        source: SOURCE,
        lineage: LINEAGE,
        salt: SALT,
        commitment,
        recipients: List::new(wraps.to_vec()).unwrap(),
    };
    sign(envelope, &key()).unwrap()
}

fn secrets() -> Vec<u8> {
    [SESSION_SECRET, SOURCE_SECRET].concat()
}

fn envelopes(make: &mut Maker) {
    let good = envelope();
    let fields = |bytes: &[u8]| {
        [with_key(bytes, &key()), vec![("identity", IDENTITY.to_vec()), ("content", secrets())]].concat()
    };
    make.good("F-10", "envelope", "session", fields(good.as_bytes()));
    let classical = Envelope { recipients: List::new(vec![good.recipients[1].clone()]).unwrap(), ..(*good).clone() };
    make.good("F-10", "x25519", "session", fields(sign(classical, &key()).unwrap().as_bytes()));
    let with = |recipients| Envelope { recipients: List::new(recipients).unwrap(), ..(*good).clone() };
    make.bad("F-10", "no-recipient", "session", fields(&forge(&with(vec![]), &key())));
    let one = good.recipients[0].clone();
    make.bad("F-10", "recipient-twice", "session", fields(&forge(&with(vec![one.clone(), one.clone()]), &key())));
    let mut short = one.clone();
    short.enc = Blob::new(one.enc[..1119].to_vec()).unwrap();
    make.bad("F-10", "enc-of-another-length", "session", fields(&forge(&with(vec![short]), &key())));
    let mut kem = one.clone();
    kem.kem = Kem::X25519;
    make.bad("F-10", "enc-of-another-kem", "session", fields(&forge(&with(vec![kem]), &key())));
    let mut short = one.clone();
    short.sealed = Blob::new(one.sealed[..79].to_vec()).unwrap();
    make.bad("F-10", "sealed-of-another-length", "session", fields(&forge(&with(vec![short]), &key())));

    // A commitment to other secrets, with wraps that bind this commitment and open.
    let (session, source) = (SessionSecret::from_bytes(&SESSION_SECRET), SourceSecret::from_bytes(&SOURCE_SECRET));
    let lie = Digest::new([0xee; 32]);
    let recipient = Identity::from_seed(&IDENTITY).recipient(Kem::X25519);
    let lying = wrap::wrap_for(&recipient, &SOURCE, &LINEAGE, &lie, &session, &source).unwrap();
    let lying = Envelope { commitment: lie, recipients: List::new(vec![lying]).unwrap(), ..(*good).clone() };
    make.bad("F-11", "commitment-to-other-secrets", "session", fields(sign(lying, &key()).unwrap().as_bytes()));
    let moved = Envelope { lineage: Lineage::new([0x23; 16]), ..(*good).clone() };
    make.bad("F-11", "wraps-of-another-lineage", "session", fields(sign(moved, &key()).unwrap().as_bytes()));

    // The envelope is for somebody else alone; a wrap of the owner adds the identity.
    let other = Identity::from_seed(&[0x45; 32]).recipient(Kem::X25519);
    let other = wrap::wrap_for(&other, &SOURCE, &LINEAGE, &good.commitment, &session, &source).unwrap();
    let foreign = sign(with(vec![other]), &key()).unwrap();
    let wrap_object = |commitment| Wrap {
        source: SOURCE,
        lineage: LINEAGE,
        session: SessionId::new(*foreign.digest().as_bytes()),
        commitment,
        recipients: List::new(vec![good.recipients[0].clone()]).unwrap(),
    };
    let with_wrap = |wrap: Wrap| {
        let wrap = sign(wrap, &owner_key()).unwrap();
        let owner = owner_key().verify_key().as_bytes().to_vec();
        [fields(foreign.as_bytes()), vec![("wrap", wrap.as_bytes().to_vec()), ("owner", owner)]].concat()
    };
    make.good("F-12", "wrap-added-later", "session", with_wrap(wrap_object(good.commitment)));
    make.bad("F-12", "wrap-of-another-commitment", "session", with_wrap(wrap_object(lie)));
    let elsewhere = Wrap { session: SessionId::new([1; 32]), ..wrap_object(good.commitment) };
    make.bad("F-12", "wrap-of-another-session", "session", with_wrap(elsewhere));
    make.bad("F-12", "not-a-recipient", "session", fields(foreign.as_bytes()));
}

fn place(part: u32) -> Place {
    Place::Part { source: SOURCE, lineage: LINEAGE, salt: SALT, archive: number(7), part }
}

fn place_fields(part: u32) -> Vec<Field> {
    vec![
        ("source", SOURCE.as_bytes().to_vec()),
        ("lineage", LINEAGE.as_bytes().to_vec()),
        ("salt", SALT.as_bytes().to_vec()),
        ("number", 7u64.to_le_bytes().to_vec()),
        ("part", part.to_le_bytes().to_vec()),
        ("secret", SESSION_SECRET.to_vec()),
    ]
}

fn part_fields(sealed: &Sealed, bytes: &[u8], content: &[u8]) -> Vec<Field> {
    let more: Vec<Field> = vec![
        ("bytes", bytes.to_vec()),
        ("hash", Digest::of(bytes).as_bytes().to_vec()),
        ("plain", sealed.plain.as_bytes().to_vec()),
        ("content", content.to_vec()),
    ];
    [place_fields(3), more].concat()
}

/// Seals a padded plaintext as it is.
fn seal_padded(padded: &[u8]) -> Sealed {
    second_writing::seal_padded(&SESSION_SECRET, &place(3), padded)
}

/// What the product's own `seal` would never write.
mod second_writing {
    use super::*;
    use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Nonce};

    /// The seal of docs/format.md section 7, written out a second time.
    pub fn seal_padded(secret: &[u8; 32], place: &Place, padded: &[u8]) -> Sealed {
        seal_with_digest(secret, place, padded, None)
    }

    /// The same with a plain digest that may be a lie.
    pub fn seal_with_digest(secret: &[u8; 32], place: &Place, padded: &[u8], lie: Option<[u8; 32]>) -> Sealed {
        let Place::Part { source, lineage, salt, archive, part } = place else { unreachable!() };
        let derive = |label: &[u8], context: &[u8]| {
            let mut key = [0; 32];
            let info = [label, &[0], context].concat();
            hkdf::Hkdf::<sha2::Sha256>::new(Some(salt.as_bytes()), secret).expand(&info, &mut key).unwrap();
            key
        };
        let plain = lie.unwrap_or(*blake3::keyed_hash(&derive(b"pawl.v1 part-digest", &[]), padded).as_bytes());
        let number = archive.get().to_le_bytes();
        let part = part.to_le_bytes();
        let key = derive(b"pawl.v1 part-key", &[&number[..], &part, &plain].concat());
        let aad = [&b"pawl.v1 part"[..], &[0, 1], source.as_bytes(), lineage.as_bytes(), &number, &part].concat();
        let mut bytes = padded.to_vec();
        let cipher = Aes256Gcm::new_from_slice(&key).unwrap();
        let tag = cipher.encrypt_inout_detached(&Nonce::default(), &aad, bytes.as_mut_slice().into()).unwrap();
        bytes.extend_from_slice(&tag);
        Sealed { hash: Digest::of(&bytes), plain: Digest::new(plain), bytes }
    }
}

/// A padded plaintext of one 4,096-byte part.
fn padded(method: u8, length: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&[method][..], &length.to_le_bytes(), payload].concat();
    let total = align(bytes.len() + 16) - 16;
    bytes.resize(total, 0);
    bytes
}

fn parts(make: &mut Maker) {
    let content = b"The catch lets the ratchet turn one way only.".to_vec();
    let mut buffer = seal::begin_payload(content.len());
    buffer.extend_from_slice(&content);
    let stored = seal::seal(&SESSION_SECRET, &place(3), Method::Stored, buffer).unwrap();
    make.good("F-16", "stored", "part", part_fields(&stored, &stored.bytes, &content));
    let again = seal_padded(&padded(0, content.len() as u32, &content));
    assert_eq!(again.bytes, stored.bytes, "the format written out a second time");
    let text = content.repeat(100);
    let zstd = seal::seal_small(&SESSION_SECRET, &place(3), &text).unwrap();
    make.good("F-16", "zstd", "part", part_fields(&zstd, &zstd.bytes, &text));
    let empty = seal_padded(&padded(0, 0, &[]));
    make.good("F-16", "empty", "part", part_fields(&empty, &empty.bytes, &[]));

    let mut flipped = stored.bytes.clone();
    flipped[100] ^= 0x10;
    let mut fields = part_fields(&stored, &flipped, &content);
    fields.retain(|(name, _)| *name != "hash");
    fields.push(("hash", stored.hash.as_bytes().to_vec()));
    make.bad("F-14", "bit-flipped", "part", fields);
    make.bad("F-15", "hash-of-changed-bytes", "part", part_fields(&stored, &flipped, &content));
    let mut other = part_fields(&stored, &stored.bytes, &content);
    other.retain(|(name, _)| *name != "plain");
    other.push(("plain", vec![1; 32]));
    make.bad("F-15", "other-plain-digest", "part", other);
    let mut moved = part_fields(&stored, &stored.bytes, &content);
    moved.retain(|(name, _)| *name != "part");
    moved.push(("part", 4u32.to_le_bytes().to_vec()));
    make.bad("F-15", "moved-to-another-part", "part", moved);

    let lie = second_writing::seal_with_digest(&SESSION_SECRET, &place(3), &padded(0, 3, b"abc"), Some([7; 32]));
    make.bad("F-15", "digest-of-other-plaintext", "part", part_fields(&lie, &lie.bytes, b"abc"));

    let frame = zstd_frame(&text);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("unknown-method", padded(2, frame.len() as u32, &frame)),
        ("padding-a-page-too-long", {
            let mut bytes = padded(0, 3, b"abc");
            bytes.resize(bytes.len() + 4096, 0);
            bytes
        }),
        ("false-content-size", {
            let mut frame = zstd_frame(&text[..200]);
            // Single segment, one byte of content size behind the descriptor.
            assert_eq!(frame[5], 200);
            frame[5] = 201;
            padded(1, frame.len() as u32, &frame)
        }),
        ("skippable-frame", {
            let frame = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9][..], &frame].concat();
            padded(1, frame.len() as u32, &frame)
        }),
        ("length-beyond-the-part", padded(0, 5000, b"abc")),
        ("padding-not-zero", {
            let mut bytes = padded(0, 3, b"abc");
            bytes[200] = 1;
            bytes
        }),
        ("not-a-zstd-frame", padded(1, 3, b"abc")),
        ("frame-cut", padded(1, frame.len() as u32 - 1, &frame[..frame.len() - 1])),
        ("two-frames", padded(1, 2 * frame.len() as u32, &[&frame[..], &frame].concat())),
        ("byte-behind-the-frame", padded(1, frame.len() as u32 + 1, &[&frame[..], &[0]].concat())),
        ("frame-without-content-size", {
            let frame = streamed_frame(&text);
            padded(1, frame.len() as u32, &frame)
        }),
        ("decompression-bomb", {
            let frame = zstd_frame(&vec![0; (8 << 20) + 1]);
            padded(1, frame.len() as u32, &frame)
        }),
    ];
    for (name, padded) in cases {
        let sealed = seal_padded(&padded);
        make.bad("F-16", name, "part", part_fields(&sealed, &sealed.bytes, &[]));
    }
}

fn zstd_frame(content: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(content, 3).unwrap()
}

fn streamed_frame(content: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    std::io::Write::write_all(&mut encoder, content).unwrap();
    encoder.finish().unwrap()
}

struct Archive {
    index: Index,
    sealed: Vec<Sealed>,
}

fn archive() -> Archive {
    let envelope = envelope();
    let content: Vec<Vec<u8>> = vec![b"first block".to_vec(), b"second block".to_vec()];
    let mut sealed = Vec::new();
    let mut blocks = Vec::new();
    for (at, content) in content.iter().enumerate() {
        sealed.push(seal::seal_small(&SESSION_SECRET, &place(at as u32), content).unwrap());
        let id = SourceSecret::from_bytes(&SOURCE_SECRET).chunk_namer(&LINEAGE).name(content);
        blocks.push(vec![TableEntry { id, bytes: content.len() as u32 }]);
    }
    let table = ChunkTable::new(blocks).unwrap().encode();
    let secret = SourceSecret::from_bytes(&SOURCE_SECRET).index_secret(&LINEAGE);
    sealed.push(seal::seal_small(secret.as_bytes(), &place(2), &table).unwrap());
    let parts = sealed.iter().map(|s| Part { bytes: s.bytes.len() as u32, hash: s.hash, plain: s.plain }).collect();
    let index = Index {
        source: SOURCE,
        lineage: LINEAGE,
        session: SessionId::new(*envelope.digest().as_bytes()),
        number: number(7),
        salt: SALT,
        kind: Kind::Data,
        parts: List::new(parts).unwrap(),
    };
    Archive { index, sealed }
}

/// Region bytes from an index and an envelope as they are.
fn join(index: &[u8], envelope: &[u8]) -> Vec<u8> {
    let mut bytes = [index, envelope].concat();
    bytes.resize(align(bytes.len()), 0);
    bytes
}

fn archives(make: &mut Maker) {
    let Archive { index, sealed } = archive();
    let envelope = envelope();
    let with_session =
        |index: &Index| Index { session: SessionId::new(*envelope.digest().as_bytes()), ..index.clone() };
    let index = with_session(&index);
    let region = Region::new(&sign(index.clone(), &key()).unwrap(), &envelope).unwrap();
    make.good("F-17", "region", "region", with_key(region.as_bytes(), &key()));
    let whole: Vec<u8> =
        [region.as_bytes()].into_iter().chain(sealed.iter().map(|s| &s.bytes[..])).collect::<Vec<_>>().concat();
    make.good("F-17", "archive", "archive", with_key(&whole, &key()));
    make.bad("F-17", "archive-cut", "archive", with_key(&whole[..whole.len() - 1], &key()));

    let stranger = SigningKey::from_seed(&[9; 32]);
    let other_session = Index { session: SessionId::new([1; 32]), ..index.clone() };
    make.bad(
        "F-17",
        "other-session",
        "region",
        with_key(&join(&forge(&other_session, &key()), envelope.as_bytes()), &key()),
    );
    let other_lineage = Index { lineage: Lineage::new([0x23; 16]), ..index.clone() };
    make.bad(
        "F-17",
        "other-lineage",
        "region",
        with_key(&join(&forge(&other_lineage, &key()), envelope.as_bytes()), &key()),
    );
    let foreign = forge(&(*envelope).clone(), &stranger);
    make.bad("F-17", "envelope-by-a-stranger", "region", with_key(&join(&forge(&index, &key()), &foreign), &key()));
    make.bad(
        "F-17",
        "index-by-a-stranger",
        "region",
        with_key(&join(&forge(&index, &stranger), envelope.as_bytes()), &key()),
    );
    let mut dirty = region.as_bytes().to_vec();
    *dirty.last_mut().unwrap() = 1;
    make.bad("F-18", "padding-not-zero", "region", with_key(&dirty, &key()));
    let mut longer = region.as_bytes().to_vec();
    longer.resize(longer.len() + 4096, 0);
    make.bad("F-18", "padding-too-long", "region", with_key(&longer, &key()));
    make.bad("F-18", "padding-missing", "region", with_key(&region.as_bytes()[..region.as_bytes().len() - 1], &key()));

    let with_parts = |parts: Vec<Part>| Index { parts: List::new(parts).unwrap(), ..index.clone() };
    let part = |bytes| Part { bytes, hash: Digest::new([1; 32]), plain: Digest::new([2; 32]) };
    let mut wrong = |must, name: &str, parts| {
        let bytes = join(&forge(&with_parts(parts), &key()), envelope.as_bytes());
        make.bad(must, name, "region", with_key(&bytes, &key()));
    };
    wrong("F-13", "part-not-aligned", vec![part(4096), part(4095)]);
    wrong("F-13", "part-of-no-bytes", vec![part(0), part(4096)]);
    wrong("F-13", "part-too-long", vec![part(8_396_800), part(4096)]);
    wrong("F-19", "no-parts", vec![]);
    wrong("F-19", "chunk-table-alone", vec![part(4096)]);
    wrong("F-20", "archive-too-long", vec![part(8_392_704); 10]);

    // Generations: without block 0, and with a bit for a part that is not there.
    let generation = |present: &[u8], blocks: &[usize]| {
        let header = Plain::new(Generation { present: Blob::new(present.to_vec()).unwrap() }).unwrap();
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(4096, 0);
        bytes.extend_from_slice(region.as_bytes());
        for block in blocks {
            bytes.extend_from_slice(&sealed[*block].bytes);
        }
        bytes
    };
    make.good("F-23", "generation-without-block-0", "archive", with_key(&generation(&[0b110], &[1, 2]), &key()));
    make.bad("F-23", "bitmap-too-long", "archive", with_key(&generation(&[0b111, 0], &[0, 1, 2]), &key()));
    make.bad("F-23", "bitmap-with-spare-bit", "archive", with_key(&generation(&[0b1110], &[1, 2]), &key()));
    make.bad("F-23", "chunk-table-absent", "archive", with_key(&generation(&[0b011], &[0, 1]), &key()));
    make.bad("F-17", "byte-behind-the-archive", "archive", with_key(&[&whole[..], &[0]].concat(), &key()));
    make.good("F-23", "generation-with-all", "archive", with_key(&generation(&[0b111], &[0, 1, 2]), &key()));
    make.bad("F-23", "generation-with-another-block", "archive", with_key(&generation(&[0b110], &[0, 2]), &key()));
    make.bad("F-23", "generation-lacks-what-it-claims", "archive", with_key(&generation(&[0b111], &[1, 2]), &key()));
    let mut dirty = generation(&[0b110], &[1, 2]);
    dirty[4000] = 1;
    make.bad("F-23", "generation-padding-not-zero", "archive", with_key(&dirty, &key()));
}

fn tables(make: &mut Maker) {
    let entry = |bytes| TableEntry { id: ChunkId::new([1; 32]), bytes };
    let encode = |blocks: Vec<Vec<TableEntry>>| {
        let lists: Vec<List<TableEntry, 65_536>> = blocks.into_iter().map(|block| List::new(block).unwrap()).collect();
        codec::encode(&List::<_, 4096>::new(lists).unwrap())
    };
    let fields = |bytes: Vec<u8>, blocks: u32| vec![("bytes", bytes), ("blocks", blocks.to_le_bytes().to_vec())];
    make.good("F-21", "table", "table", fields(encode(vec![vec![entry(5), entry(6)], vec![entry(7)]]), 2));
    make.bad("F-21", "block-missing", "table", fields(encode(vec![vec![entry(5)]]), 2));
    make.bad("F-21", "block-without-chunks", "table", fields(encode(vec![vec![entry(5)], vec![]]), 2));
    make.bad("F-21", "chunk-of-no-bytes", "table", fields(encode(vec![vec![entry(0)]]), 1));
    make.bad("F-21", "chunk-too-long", "table", fields(encode(vec![vec![entry((4 << 20) + 1)]]), 1));
    make.bad("F-21", "block-too-long", "table", fields(encode(vec![vec![entry(4 << 20); 3]]), 1));

    let content = b"a chunk".to_vec();
    let id = SourceSecret::from_bytes(&SOURCE_SECRET).chunk_namer(&LINEAGE).name(&content);
    let fields = |bytes: &[u8], lineage: Lineage| -> Vec<Field> {
        vec![
            ("secret", SOURCE_SECRET.to_vec()),
            ("lineage", lineage.as_bytes().to_vec()),
            ("id", id.as_bytes().to_vec()),
            ("bytes", bytes.to_vec()),
        ]
    };
    make.good("F-22", "chunk", "chunk", fields(&content, LINEAGE));
    make.bad("F-22", "poisoned", "chunk", fields(b"a chunk?", LINEAGE));
    make.bad("F-22", "other-lineage", "chunk", fields(&content, Lineage::new([0x23; 16])));
    let table = SourceSecret::from_bytes(&SOURCE_SECRET).gear(&LINEAGE);
    let gear: Vec<u8> = table.iter().flat_map(|number| number.to_le_bytes()).collect();
    let fields: Vec<Field> =
        vec![("secret", SOURCE_SECRET.to_vec()), ("lineage", LINEAGE.as_bytes().to_vec()), ("content", gear)];
    make.good("F-22", "gear-table", "gear", fields);
}

fn heads(make: &mut Maker) {
    let first = sign(head(0, None), &key()).unwrap();
    let second = sign(head(1, Some(first.digest())), &key()).unwrap();
    let third = sign(head(2, Some(second.digest())), &key()).unwrap();
    let chain = |heads: &[&[u8]]| with_key(&heads.concat(), &key());
    make.good("F-24", "chain", "chain", chain(&[first.as_bytes(), second.as_bytes(), third.as_bytes()]));
    make.bad("F-24", "first-with-predecessor", "chain", chain(&[&forge(&head(0, Some(Digest::new([1; 32]))), &key())]));
    make.bad("F-24", "second-without-predecessor", "chain", chain(&[first.as_bytes(), &forge(&head(1, None), &key())]));
    let orphan = sign(head(1, Some(Digest::new([1; 32]))), &key()).unwrap();
    make.bad("F-24", "other-predecessor", "chain", chain(&[first.as_bytes(), orphan.as_bytes()]));
    let elsewhere = Head { sink: VerifyKey::new([1; 32]), ..head(1, Some(first.digest())) };
    make.bad("F-24", "other-chain", "chain", chain(&[first.as_bytes(), sign(elsewhere, &key()).unwrap().as_bytes()]));
    let unknown = Head { flags: 4, ..head(0, None) };
    make.bad("F-25", "unknown-flag", "head", with_key(&forge(&unknown, &key()), &key()));
    make.bad("F-26", "head-missing", "chain", chain(&[first.as_bytes(), third.as_bytes()]));
    make.bad("F-26", "first-missing", "chain", chain(&[second.as_bytes(), third.as_bytes()]));
    let other = Head { created: 1, ..head(1, Some(first.digest())) };
    let other = sign(other, &key()).unwrap();
    make.bad("F-27", "two-histories", "chain", chain(&[first.as_bytes(), second.as_bytes(), other.as_bytes()]));
    make.bad("F-27", "goes-on-beside", "chain", chain(&[first.as_bytes(), other.as_bytes(), third.as_bytes()]));
    receipts(make, &first, &second);
}

fn receipts(make: &mut Maker, first: &Verified<Head>, second: &Verified<Head>) {
    let receipt = Receipt {
        source: SOURCE,
        lineage: LINEAGE,
        sink: sink_key().verify_key(),
        sequence: 0,
        head: first.digest(),
        received: 1_790_000_001,
        previous: None,
        journal: None,
        archives: 2,
        keep_until: None,
    };
    let fields = |receipt: &Receipt, signer: &SigningKey, head: &Verified<Head>| {
        let bytes = forge(receipt, signer);
        let source = key().verify_key().as_bytes().to_vec();
        [with_key(&bytes, signer), vec![("head", head.as_bytes().to_vec()), ("source", source)]].concat()
    };
    make.good("F-35", "receipt", "receipt", fields(&receipt, &sink_key(), first));
    make.bad("F-35", "receipt-of-another-head", "receipt", fields(&receipt, &sink_key(), second));
    let renumbered = Receipt { sequence: 1, ..receipt.clone() };
    make.bad("F-35", "receipt-of-another-sequence", "receipt", fields(&renumbered, &sink_key(), first));
    make.bad("F-35", "receipt-by-another-sink", "receipt", fields(&receipt, &SigningKey::from_seed(&[9; 32]), first));
    let elsewhere = Receipt { lineage: Lineage::new([0x23; 16]), ..receipt };
    make.bad("F-35", "receipt-of-another-lineage", "receipt", fields(&elsewhere, &sink_key(), first));
}

fn page(numbers: &[u64], live: &[u8]) -> Page {
    let entry = |n: &u64| PageEntry {
        number: ArchiveNumber::new(*n).unwrap(),
        id: ArchiveId::new([*n as u8; 32]),
        live: Blob::new(live.to_vec()).unwrap(),
    };
    Page { source: SOURCE, lineage: LINEAGE, archives: List::new(numbers.iter().map(entry).collect()).unwrap() }
}

fn pages(make: &mut Maker) {
    let raw = |page: &Page| raw_object(b'P', &codec::encode(page));
    let alone = |page: &Page| vec![("bytes", raw(page))];
    make.good("F-29", "page", "page", alone(&page(&[1024, 1030, 2047], &[0b101])));
    make.bad("F-29", "empty-page", "page", alone(&page(&[], &[1])));
    make.bad("F-29", "two-spans", "page", alone(&page(&[1023, 1024], &[1])));
    make.bad("F-29", "not-ascending", "page", alone(&page(&[5, 4], &[1])));
    make.bad("F-29", "archive-twice", "page", alone(&page(&[5, 5], &[1])));
    make.bad("F-29", "no-live-block", "page", alone(&page(&[5], &[])));
    make.bad("F-29", "bitmap-ends-with-zero", "page", alone(&page(&[5], &[1, 0])));

    let root = SealedRoot { salt: SALT, plain: Digest::new([1; 32]), sealed: Blob::new(vec![0; 4096]).unwrap() };
    let with_pages = |pages: &[Vec<u8>], digests: &[Digest]| -> Vec<Field> {
        let body = Body { pages: List::new(digests.to_vec()).unwrap(), root: root.clone() };
        let bytes = [raw_object(b'B', &codec::encode(&body)), pages.concat()].concat();
        vec![("bytes", bytes), ("source", SOURCE.as_bytes().to_vec()), ("lineage", LINEAGE.as_bytes().to_vec())]
    };
    let in_order = |pages: &[Page]| {
        let pages: Vec<_> = pages.iter().map(raw).collect();
        let digests: Vec<_> = pages.iter().map(|bytes| Digest::of(bytes)).collect();
        with_pages(&pages, &digests)
    };
    make.good("F-28", "body", "body", in_order(&[page(&[1, 2], &[1]), page(&[1024], &[1])]));
    make.good("F-28", "body-of-nothing", "body", in_order(&[]));
    make.bad("F-28", "pages-not-in-order", "body", in_order(&[page(&[1024], &[1]), page(&[1, 2], &[1])]));
    make.bad("F-28", "archive-in-two-pages", "body", in_order(&[page(&[1, 2], &[1]), page(&[2], &[1])]));
    make.bad("F-28", "another-page", "body", with_pages(&[raw(&page(&[1], &[1]))], &[Digest::new([1; 32])]));
    make.bad("F-28", "page-missing", "body", with_pages(&[], &[Digest::new([1; 32])]));
    let foreign = Page { lineage: Lineage::new([0x23; 16]), ..page(&[1], &[1]) };
    make.bad("F-30", "page-of-another-lineage", "body", in_order(&[foreign]));
    let foreign = Page { source: SourceId::new([0x12; 32]), ..page(&[1], &[1]) };
    make.bad("F-30", "page-of-another-source", "body", in_order(&[foreign]));
    let unaligned =
        Body { pages: List::empty(), root: SealedRoot { sealed: Blob::new(vec![0; 4095]).unwrap(), ..root.clone() } };
    let mut fields = with_pages(&[], &[]);
    fields[0].1 = raw_object(b'B', &codec::encode(&unaligned));
    make.bad("F-13", "root-not-aligned", "body", fields);
}

fn entry(name: &[u8]) -> Entry {
    Entry {
        name: Blob::new(name.to_vec()).unwrap(),
        kind: EntryKind::File,
        mode: 0o644,
        user: Owner { id: 0, name: Some(Text::truncated("root")) },
        group: Owner { id: 12345, name: None },
        modified: Time { seconds: -1, nanoseconds: 999_999_999 },
        changed: Time { seconds: 1_790_000_000, nanoseconds: 0 },
        inode: 42,
        size: 1500,
        hard_link: None,
        extents: Some(List::new(vec![Extent::Chunk(chunk_ref(1)), Extent::Hole(500)]).unwrap()),
        list: None,
        node: None,
        target: None,
        device: None,
        xattrs: None,
    }
}

fn node_fields(entries: Vec<Entry>) -> Vec<Field> {
    let node = Node { level: 0, entries: Some(List::new(entries).unwrap()), nodes: None };
    vec![("bytes", node.encode()), ("level", vec![0])]
}

fn nodes(make: &mut Maker) {
    let empty = |name: &[u8], kind| Entry { kind, size: 0, extents: None, ..entry(name) };
    let top = NodeTop { chunk: chunk_ref(2), level: 0 };
    let every_kind = vec![
        Entry { node: Some(top), mode: 0o1777, ..empty(b"dir", EntryKind::Directory) },
        empty(b"fifo", EntryKind::Fifo),
        Entry { hard_link: Some(HardLink { file_system: 0, inode: 42 }), ..entry(b"file") },
        Entry { target: Some(Blob::new(b"../x\xff".to_vec()).unwrap()), ..empty(b"link", EntryKind::Symlink) },
        Entry { device: Some(Device { major: 1, minor: 3 }), ..empty(b"null", EntryKind::CharDevice) },
        Entry {
            xattrs: Some(
                List::new(vec![Xattr {
                    name: Blob::new(b"user.a".to_vec()).unwrap(),
                    value: Blob::new(b"b".to_vec()).unwrap(),
                }])
                .unwrap(),
            ),
            ..entry(b"with\xffxattr")
        },
    ];
    make.good("F-31", "every-kind", "node", node_fields(every_kind));
    for (name, bytes) in [
        ("empty-name", &b""[..]),
        ("dot", b"."),
        ("dots", b".."),
        ("slash", b"a/b"),
        ("absolute", b"/etc"),
        ("zero-byte", b"a\0b"),
    ] {
        make.bad("F-31", name, "node", node_fields(vec![entry(bytes)]));
    }
    make.bad("F-31", "not-ascending", "node", node_fields(vec![entry(b"b"), entry(b"a")]));
    make.bad("F-31", "name-twice", "node", node_fields(vec![entry(b"a"), entry(b"a")]));

    let inner = |level: u8, names: &[&[u8]]| {
        let node_ref = |name: &&[u8]| NodeRef { first: Blob::new(name.to_vec()).unwrap(), chunk: chunk_ref(3) };
        Node { level, entries: None, nodes: Some(List::new(names.iter().map(node_ref).collect()).unwrap()) }.encode()
    };
    let with_level = |bytes: Vec<u8>, level: u8| vec![("bytes", bytes), ("level", vec![level])];
    make.good("F-32", "inner-node", "node", with_level(inner(1, &[b"a", b"b"]), 1));
    make.bad("F-32", "inner-node-of-nothing", "node", with_level(inner(1, &[]), 1));
    make.bad("F-32", "inner-node-not-ascending", "node", with_level(inner(1, &[b"b", b"a"]), 1));
    make.bad("F-32", "other-level", "node", with_level(inner(2, &[b"a"]), 1));
    make.bad("F-32", "too-many-levels", "node", with_level(inner(5, &[b"a"]), 5));
    make.bad("F-32", "nodes-on-level-0", "node", with_level(inner(0, &[b"a"]), 0));

    let with = |change: &dyn Fn(&mut Entry)| {
        let mut entry = entry(b"a");
        change(&mut entry);
        node_fields(vec![entry])
    };
    make.bad("F-33", "size-beside-its-extents", "node", with(&|e| e.size = 1501));
    make.bad(
        "F-33",
        "hole-of-no-bytes",
        "node",
        with(&|e| e.extents = Some(List::new(vec![Extent::Hole(0), Extent::Hole(1500)]).unwrap())),
    );
    make.bad(
        "F-33",
        "sum-beyond-any-file",
        "node",
        with(&|e| e.extents = Some(List::new(vec![Extent::Hole(u64::MAX), Extent::Hole(1501)]).unwrap())),
    );
    make.bad(
        "F-33",
        "chunk-too-long",
        "node",
        with(&|e| {
            let chunk = ChunkRef { bytes: (4 << 20) + 1, ..chunk_ref(1) };
            e.size = u64::from(chunk.bytes);
            e.extents = Some(List::new(vec![Extent::Chunk(chunk)]).unwrap());
        }),
    );
    make.bad("F-33", "content-missing", "node", with(&|e| e.extents = None));
    make.bad("F-34", "mode-too-large", "node", with(&|e| e.mode = 0o10000));
    make.bad("F-34", "nanoseconds-too-many", "node", with(&|e| e.modified.nanoseconds = 1_000_000_000));
    make.bad("F-34", "directory-with-content", "node", with(&|e| e.kind = EntryKind::Directory));
    make.bad("F-34", "file-with-node", "node", with(&|e| e.node = Some(top)));
    make.bad("F-34", "file-with-target", "node", with(&|e| e.target = Some(Blob::new(b"x".to_vec()).unwrap())));
    make.bad("F-34", "fifo-with-size", "node", node_fields(vec![Entry { size: 1, ..empty(b"a", EntryKind::Fifo) }]));
    let list = ListRef { chunk: chunk_ref(1), level: 0, bytes: 1500 };
    make.bad("F-34", "extents-and-list", "node", with(&|e| e.list = Some(list)));
    let xattr =
        |name: &[u8]| Xattr { name: Blob::new(name.to_vec()).unwrap(), value: Blob::new(b"v".to_vec()).unwrap() };
    for (name, xattrs) in [
        ("xattr-twice", vec![xattr(b"user.a"), xattr(b"user.a")]),
        ("xattr-without-name", vec![xattr(b"")]),
        ("xattr-with-zero-byte", vec![xattr(b"user.\0a")]),
    ] {
        let xattrs = List::new(xattrs).unwrap();
        make.bad("F-34", name, "node", with(&|e| e.xattrs = Some(xattrs.clone())));
    }
    make.bad("F-34", "link-without-target", "node", node_fields(vec![empty(b"a", EntryKind::Symlink)]));
    make.bad("F-34", "device-without-number", "node", node_fields(vec![empty(b"a", EntryKind::BlockDevice)]));
    let target = Entry { target: Some(Blob::new(b"a\0b".to_vec()).unwrap()), ..empty(b"a", EntryKind::Symlink) };
    make.bad("F-34", "target-with-zero-byte", "node", node_fields(vec![target]));
    let linked = Entry { hard_link: Some(HardLink { file_system: 0, inode: 42 }), ..empty(b"a", EntryKind::Directory) };
    make.bad("F-34", "directory-with-hard-link", "node", node_fields(vec![linked]));
}

fn lists(make: &mut Maker) {
    let fields = |node: &ListNode, level: u8, file: u64| {
        vec![("bytes", node.encode()), ("level", vec![level]), ("file", file.to_le_bytes().to_vec())]
    };
    let extents = List::new(vec![Extent::Chunk(chunk_ref(1)), Extent::Hole(24)]).unwrap();
    let leaf = ListNode { level: 0, extents: Some(extents), lists: None };
    make.good("F-33", "list-node", "list", fields(&leaf, 0, 1024));
    make.bad("F-33", "list-node-of-another-size", "list", fields(&leaf, 0, 1025));
    let lists = List::new(vec![(chunk_ref(1), 5), (chunk_ref(2), 6)]).unwrap();
    let inner = ListNode { level: 1, extents: None, lists: Some(lists) };
    make.good("F-33", "inner-list-node", "list", fields(&inner, 1, 11));
    make.bad("F-33", "inner-list-node-of-another-size", "list", fields(&inner, 1, 12));
    make.bad("F-32", "list-of-another-level", "list", fields(&inner, 2, 11));
    let nothing = ListNode { level: 1, extents: None, lists: Some(List::empty()) };
    make.bad("F-32", "inner-list-of-nothing", "list", fields(&nothing, 1, 0));
    let both = ListNode { level: 0, extents: Some(List::empty()), lists: Some(List::empty()) };
    make.bad("F-32", "extents-and-lists", "list", fields(&both, 0, 0));

    let root = Root {
        top: NodeTop { chunk: chunk_ref(1), level: 0 },
        host: Text::truncated("web1"),
        set: Text::truncated("system"),
        paths: List::new(vec![Blob::new(b"/etc".to_vec()).unwrap()]).unwrap(),
        tags: List::new(vec![Text::truncated("daily")]).unwrap(),
        counts: Counts { files: 3, directories: 2, others: 1, bytes: 4500, unreadable: 0, changed_while_read: 0 },
        started: 1_790_000_000,
        finished: 1_790_000_060,
        program: Text::truncated("source-agent 0.1.0"),
        entry: None,
    };
    make.good("F-34", "root", "root", vec![("bytes", root.encode())]);
    let file = Root { entry: Some(entry(b"x")), ..root.clone() };
    make.bad("F-34", "root-entry-is-a-file", "root", vec![("bytes", file.encode())]);
}

/// A sealed root, and what must not open it.
fn roots(make: &mut Maker) {
    let session = SessionId::new([2; 32]);
    let place = Place::Root { source: SOURCE, lineage: LINEAGE, salt: SALT, session };
    let sealed = seal::seal_small(&SESSION_SECRET, &place, b"root").unwrap();
    let fields = |session: SessionId| -> Vec<Field> {
        vec![
            ("source", SOURCE.as_bytes().to_vec()),
            ("lineage", LINEAGE.as_bytes().to_vec()),
            ("salt", SALT.as_bytes().to_vec()),
            ("session", session.as_bytes().to_vec()),
            ("secret", SESSION_SECRET.to_vec()),
            ("hash", sealed.hash.as_bytes().to_vec()),
            ("plain", sealed.plain.as_bytes().to_vec()),
            ("bytes", sealed.bytes.clone()),
            ("content", b"root".to_vec()),
        ]
    };
    make.good("F-15", "sealed-root", "part", fields(session));
    make.bad("F-15", "sealed-root-of-another-session", "part", fields(SessionId::new([3; 32])));
}

fn owners(make: &mut Maker) {
    let identity = Identity::from_seed(&IDENTITY);
    let record = |number: u64, previous: Option<Digest>| OwnerRecord {
        owner: identity.owner_key().verify_key(),
        number,
        previous,
        kem: Kem::X25519,
        enc: Blob::new(vec![1; 32]).unwrap(),
        sealed: Blob::new(vec![2; 100]).unwrap(),
    };
    let owner = owner_key();
    let first = sign(record(0, None), &owner).unwrap();
    let second = sign(record(1, Some(first.digest())), &owner).unwrap();
    let row = |records: &[&[u8]]| with_key(&records.concat(), &owner);
    make.good("F-36", "owner-records", "owner-records", row(&[first.as_bytes(), second.as_bytes()]));
    make.bad("F-36", "first-missing", "owner-records", row(&[second.as_bytes()]));
    make.bad(
        "F-36",
        "first-with-predecessor",
        "owner-records",
        row(&[&forge(&record(0, Some(first.digest())), &owner)]),
    );
    let orphan = sign(record(1, Some(Digest::new([1; 32]))), &owner).unwrap();
    make.bad("F-36", "other-predecessor", "owner-records", row(&[first.as_bytes(), orphan.as_bytes()]));
    make.bad(
        "F-36",
        "number-skipped",
        "owner-records",
        row(&[first.as_bytes(), &forge(&record(2, Some(first.digest())), &owner)]),
    );
    let stranger = SigningKey::from_seed(&[9; 32]);
    make.bad("F-36", "signed-by-a-stranger", "owner-records", with_key(&forge(&record(0, None), &stranger), &stranger));
    let kem = OwnerRecord { kem: Kem::XWing, ..record(0, None) };
    make.bad("F-10", "owner-record-of-another-kem", "owner-records", row(&[&forge(&kem, &owner)]));

    let block = |n, block| BlockName { number: number(n), id: ArchiveId::new([n as u8; 32]), block };
    let pair = |left, right: Vec<BlockName>| SubstitutePair { left, right: List::new(right).unwrap() };
    let fields = |pairs: Vec<SubstitutePair>| {
        let substitute = Substitute { source: SOURCE, lineage: LINEAGE, pairs: List::new(pairs).unwrap() };
        with_key(&forge(&substitute, &key()), &key())
    };
    make.good("F-37", "substitute", "substitute", fields(vec![pair(block(1, 0), vec![block(9, 2), block(9, 3)])]));
    make.bad("F-37", "no-pairs", "substitute", fields(vec![]));
    make.bad("F-37", "no-rights", "substitute", fields(vec![pair(block(1, 0), vec![])]));
    make.bad("F-37", "itself", "substitute", fields(vec![pair(block(1, 0), vec![block(1, 0)])]));
    let of_substitute = vec![pair(block(1, 0), vec![block(2, 0)]), pair(block(2, 0), vec![block(3, 0)])];
    make.bad("F-37", "substitute-of-a-substitute", "substitute", fields(of_substitute));
    make.bad("F-37", "block-beyond-any-archive", "substitute", fields(vec![pair(block(1, 5000), vec![block(2, 0)])]));
}

fn cards(make: &mut Maker) {
    let ssh = SshKey::from_ed25519(&[5; 32]);
    let source =
        SourceCard::new("web1".parse().unwrap(), ssh.clone(), Some(owner_key().verify_key()), &key()).to_string();
    let text = |text: &str| vec![("bytes", text.as_bytes().to_vec())];
    make.good("F-38", "source-card", "source-card", text(&source));
    let reader = SourceCard::new("laptop".parse().unwrap(), ssh.clone(), None, &key()).to_string();
    make.good("F-38", "source-card-without-owner", "source-card", text(&reader));
    make.bad("F-38", "source-card-renamed", "source-card", text(&source.replace("web1", "web2")));
    make.bad("F-38", "source-card-cut", "source-card", text(&source[..source.len() - 1]));
    make.bad("F-38", "source-card-without-its-owner", "source-card", text(&reader.replace("laptop", "web1")));
    make.bad("F-38", "source-card-field-behind", "source-card", text(&format!("{source},x=y")));
    make.bad("F-38", "source-card-version-2", "source-card", text(&source.replace("card:1", "card:2")));
    let sink = SinkCard {
        name: "web1".parse().unwrap(),
        user: "backup".into(),
        host: "sink.example".into(),
        port: 22,
        host_keys: vec![ssh.clone(), SshKey::from_ed25519(&[6; 32])],
        sink: sink_key().verify_key(),
    };
    let sink = sink.to_string();
    make.good("F-38", "sink-card", "sink-card", text(&sink));
    make.bad("F-38", "sink-card-other-port", "sink-card", text(&sink.replace("port=22", "port=2222")));
    make.bad(
        "F-38",
        "sink-card-fields-swapped",
        "sink-card",
        text(&sink.replace("name=web1,user=backup", "user=backup,name=web1")),
    );
    make.bad("F-38", "sink-card-with-a-space", "sink-card", text(&sink.replace("backup", "back up")));

    let identity = Identity::from_seed(&IDENTITY);
    let recipient = identity.recipient(Kem::X25519).to_string();
    make.good("F-38", "recipient", "recipient", text(&recipient));
    make.good("F-38", "recipient-x-wing", "recipient", text(&identity.recipient(Kem::XWing).to_string()));
    let other = Identity::from_seed(&[0x45; 32]).recipient(Kem::X25519).to_string();
    let owner = |line: &str| line.split(',').nth(3).unwrap().to_owned();
    make.bad(
        "F-38",
        "recipient-of-another-owner",
        "recipient",
        text(&recipient.replace(&owner(&recipient), &owner(&other))),
    );
    let file = |passphrase: Option<&str>, given: &str| -> Vec<Field> {
        vec![
            ("bytes", identity.to_file(passphrase).unwrap().as_bytes().to_vec()),
            ("passphrase", given.into()),
            ("content", identity.owner_key().verify_key().as_bytes().to_vec()),
        ]
    };
    make.good("F-38", "identity-without-passphrase", "identity", file(None, ""));
    make.good("F-38", "identity-with-passphrase", "identity", file(Some("hip-roast-boring"), "hip-roast-boring"));
    make.bad("F-38", "identity-wrong-passphrase", "identity", file(Some("hip-roast-boring"), "hip-roast"));
    let mut weaker = file(Some("x"), "x");
    weaker[0].1 = String::from_utf8(weaker[0].1.clone()).unwrap().replace("t=3", "t=1").into_bytes();
    make.bad("F-38", "identity-parameters-changed", "identity", weaker);
}

fn frames(make: &mut Maker) {
    use shared::wire::reply::{DamagedItem, DamagedList};
    use shared::wire::request::{GetParts, ListHeads};
    use shared::wire::{AuditRequest, PushRequest, Query, ReadRequest, Reply, Request, write_frame};
    let bytes = |frame: shared::wire::Frame| {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, frame.tag, &frame.payload).unwrap();
        bytes
    };
    let fields = |role: &str, bytes: Vec<u8>| vec![("role", role.as_bytes().to_vec()), ("bytes", bytes)];
    let heads = Query::ListHeads(ListHeads { source: SOURCE, lineage: LINEAGE, from: 0, limit: 100 });
    make.good("P-1", "list-heads", "request", fields("audit", bytes(AuditRequest::Query(heads).frame())));
    make.bad("P-1", "frame-of-no-bytes", "request", fields("push", vec![0, 0, 0, 0]));
    make.bad("P-1", "frame-above-the-limit", "request", fields("push", vec![0xff, 0xff, 0xff, 0xff, 66]));
    make.bad("P-1", "frame-cut", "request", fields("push", vec![9, 0, 0, 0, 66, 1, 2]));
    make.bad("P-2", "unknown-request", "request", fields("push", vec![1, 0, 0, 0, 127]));
    make.bad("P-2", "reply-as-request", "request", fields("push", vec![1, 0, 0, 0, 140]));
    make.bad("P-2", "request-as-reply", "request", fields("reply", vec![1, 0, 0, 0, 2]));
    let parts = GetParts { source: SOURCE, lineage: LINEAGE, number: number(7), parts: List::new(vec![0, 2]).unwrap() };
    let parts = bytes(ReadRequest::GetParts(parts).frame());
    make.good("P-6", "parts-by-a-reader", "request", fields("read", parts.clone()));
    make.bad("P-6", "parts-by-a-source", "request", fields("push", parts.clone()));
    make.bad("P-6", "parts-by-an-auditor", "request", fields("audit", parts));
    for (name, request) in [
        ("envelope", PushRequest::PutEnvelope(vec![1])),
        ("archive", PushRequest::PutArchive(vec![1])),
        ("data", PushRequest::Data(vec![1])),
        ("page", PushRequest::PutPage(vec![1])),
        ("body", PushRequest::PutBody(vec![1])),
        ("head", PushRequest::PutHead(vec![1])),
        ("substitute", PushRequest::PutSubstitute(vec![1])),
        ("damage", PushRequest::GetDamaged),
    ] {
        let bytes = bytes(request.frame());
        make.good("P-6", &format!("{name}-by-a-source"), "request", fields("push", bytes.clone()));
        make.bad("P-6", &format!("{name}-by-a-reader"), "request", fields("read", bytes.clone()));
        make.bad("P-6", &format!("{name}-by-an-auditor"), "request", fields("audit", bytes));
    }
    let item = |at: u64, blocks: &[u8]| DamagedItem {
        number: number(at),
        id: ArchiveId::new([0x31; 32]),
        blocks: Blob::new(blocks.to_vec()).unwrap(),
    };
    let list = |items: Vec<DamagedItem>| {
        let list = DamagedList { checked: 1_790_000_000, items: List::new(items).unwrap() };
        fields("reply", bytes(Reply::Damaged(list).frame()))
    };
    make.good("P-13", "damage", "request", list(vec![item(3, &[1]), item(9, &[0, 128])]));
    make.bad("P-13", "damage-not-ascending", "request", list(vec![item(9, &[1]), item(3, &[1])]));
    make.bad("P-13", "damage-twice", "request", list(vec![item(3, &[1]), item(3, &[2])]));
    make.bad("P-13", "damage-of-no-block", "request", list(vec![item(3, &[])]));
    make.bad("P-13", "damage-with-a-byte-of-zeros", "request", list(vec![item(3, &[1, 0])]));
    let unordered =
        GetParts { source: SOURCE, lineage: LINEAGE, number: number(7), parts: List::new(vec![2, 0]).unwrap() };
    make.bad("P-6", "parts-not-ascending", "request", fields("read", bytes(ReadRequest::GetParts(unordered).frame())));
}

/// A pack of envelopes with these keys, each of an object of as many bytes, in this order.
fn pack(keys: &[(u8, u32)], letter: u8) -> Vec<u8> {
    let objects: u32 = keys.iter().map(|(_, bytes)| bytes).sum();
    let (mut bytes, mut index, mut at) = (vec![7; objects as usize], Vec::new(), 0u64);
    for (key, length) in keys {
        index.extend([*key; 32]);
        index.extend(at.to_le_bytes());
        index.extend(length.to_le_bytes());
        index.extend(0i64.to_le_bytes());
        at += u64::from(*length);
    }
    let mut footer = b"pawlpack".to_vec();
    footer.extend([1, letter, 0, 0, 0, 0, 0, 0]);
    footer.extend((keys.len() as u64).to_le_bytes());
    footer.extend(u64::from(objects).to_le_bytes());
    footer.extend(blake3::hash(&index).as_bytes());
    let sum = blake3::hash(&footer);
    footer.extend(sum.as_bytes());
    bytes.extend(index);
    bytes.extend(footer);
    bytes
}

fn packs(make: &mut Maker) {
    let fields = |bytes: Vec<u8>| vec![("shelf", b"E".to_vec()), ("bytes", bytes)];
    let right = pack(&[(1, 100), (2, 60)], b'E');
    make.good("F-39", "pack", "pack", fields(right.clone()));
    make.good("F-39", "pack-of-nothing", "pack", fields(pack(&[], b'E')));
    make.bad("F-39", "keys-not-rising", "pack", fields(pack(&[(2, 100), (1, 60)], b'E')));
    make.bad("F-39", "key-twice", "pack", fields(pack(&[(1, 100), (1, 60)], b'E')));
    make.bad("F-39", "pack-of-another-shelf", "pack", fields(pack(&[(1, 100), (2, 60)], b'H')));
    make.bad("F-39", "pack-cut", "pack", fields(right[..right.len() - 1].to_vec()));
    make.bad("F-39", "byte-behind-the-pack", "pack", fields([&right[..], &[0]].concat()));
    let changed = |from_end: usize| {
        let mut bytes = right.clone();
        let at = bytes.len() - from_end;
        bytes[at] ^= 1;
        bytes
    };
    make.bad("F-39", "index-changed", "pack", fields(changed(96 + 1)));
    make.bad("F-39", "footer-changed", "pack", fields(changed(96 - 9)));
    make.bad("F-39", "footers-digest-changed", "pack", fields(changed(1)));
    let mut beyond = pack(&[(1, 100), (2, 60)], b'E');
    beyond.drain(..1);
    make.bad("F-39", "object-missing", "pack", fields(beyond));
}

pub fn all() -> Vec<Vector> {
    let mut make = Maker::default();
    for step in [
        encoding, names, objects, envelopes, parts, archives, tables, heads, pages, nodes, lists, roots, owners, cards,
        frames, packs,
    ] {
        step(&mut make);
    }
    make.0
}

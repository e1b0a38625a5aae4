//! Right objects, from which mutations begin.

use crate::objects::key;
use shared::codec::{Blob, List, Text};
use shared::format::envelope::WRAPPED_BYTES;
use shared::format::owner::{BlockName, SubstitutePair};
use shared::format::receipt::RecordArchive;
use shared::format::snapshot::{RemoteHead, SealedRoot};
use shared::format::{
    Body, Envelope, Generation, Head, Index, Kem, Kind, OwnerRecord, Page, PageEntry, Part, Receipt, RecipientWrap,
    Region, Release, SessionRecord, Substitute, Voucher, Wrap,
};
use shared::id::{ArchiveId, ArchiveNumber, Digest, Lineage, Salt, Series, SessionId, SourceId, VerifyKey};
use shared::signature::{Object, Plain, Verified, sign};
use shared::wire::hello::NewestHead;
use shared::wire::{Role, Welcome};

pub(crate) const SOURCE: SourceId = SourceId::new([1; 32]);
pub(crate) const LINEAGE: Lineage = Lineage::new([2; 16]);
pub(crate) const SINK: VerifyKey = VerifyKey::new([3; 32]);
pub(crate) const DIGEST: Digest = Digest::new([4; 32]);
const SALT: Salt = Salt::new([5; 32]);
const SESSION: SessionId = SessionId::new([6; 32]);

pub(crate) fn number(number: u64) -> ArchiveNumber {
    ArchiveNumber::new(number).unwrap()
}

fn bytes<T: Object>(value: T) -> Vec<u8> {
    sign(value, &key()).unwrap().as_bytes().to_vec()
}

fn recipients() -> Vec<RecipientWrap> {
    let wrap = |kem: Kem, name: u8| RecipientWrap {
        kem,
        recipient: Digest::new([name; 32]),
        enc: Blob::new(vec![8; kem.enc_bytes()]).unwrap(),
        sealed: Blob::new(vec![9; WRAPPED_BYTES + 16]).unwrap(),
    };
    vec![wrap(Kem::XWing, 1), wrap(Kem::X25519, 2)]
}

fn envelope(recipients: Vec<RecipientWrap>) -> Verified<Envelope> {
    let recipients = List::new(recipients).unwrap();
    sign(Envelope { source: SOURCE, lineage: LINEAGE, salt: SALT, commitment: DIGEST, recipients }, &key()).unwrap()
}

fn index(parts: u32) -> Verified<Index> {
    let part = |at: u32| Part { bytes: 4096 * (1 + at % 3), hash: DIGEST, plain: DIGEST };
    let index = Index {
        source: SOURCE,
        lineage: LINEAGE,
        session: SESSION,
        number: number(1000),
        salt: SALT,
        kind: Kind::Metadata,
        parts: List::new((0..parts).map(part).collect()).unwrap(),
    };
    sign(index, &key()).unwrap()
}

pub(crate) fn indexes() -> Vec<Vec<u8>> {
    [2, 40].map(|parts| index(parts).as_bytes().to_vec()).to_vec()
}

pub(crate) fn envelopes() -> Vec<Vec<u8>> {
    vec![envelope(recipients()).as_bytes().to_vec(), envelope(recipients().split_off(1)).as_bytes().to_vec()]
}

pub(crate) fn wraps() -> Vec<Vec<u8>> {
    let recipients = List::new(recipients()).unwrap();
    vec![bytes(Wrap { source: SOURCE, lineage: LINEAGE, session: SESSION, commitment: DIGEST, recipients })]
}

pub(crate) fn heads() -> Vec<Vec<u8>> {
    let head = Head {
        source: SOURCE,
        lineage: LINEAGE,
        sink: SINK,
        sequence: 0,
        previous: None,
        series: Series::new([7; 16]),
        flags: 0,
        created: -1,
        session: SESSION,
        body: DIGEST,
        remotes: List::empty(),
        reason: None,
    };
    let long = Head {
        sequence: 70_000,
        previous: Some(DIGEST),
        flags: 3,
        remotes: List::new(vec![RemoteHead { sink: SINK, sequence: 5, digest: DIGEST }]).unwrap(),
        reason: Some(Text::new("the disk was replaced").unwrap()),
        ..head.clone()
    };
    vec![bytes(head), bytes(long)]
}

pub(crate) fn receipts() -> Vec<Vec<u8>> {
    let receipt = Receipt {
        source: SOURCE,
        lineage: LINEAGE,
        sink: SINK,
        sequence: 1,
        head: DIGEST,
        received: 1_790_000_000,
        previous: Some(DIGEST),
        journal: None,
        archives: 3,
        keep_until: Some(1_800_000_000),
    };
    vec![bytes(receipt)]
}

pub(crate) fn records() -> Vec<Vec<u8>> {
    let archive = RecordArchive { number: number(3), id: ArchiveId::new([1; 32]), bytes: 8192 };
    let record = SessionRecord {
        source: SOURCE,
        lineage: Some(LINEAGE),
        started: 5,
        ended: 6,
        archives: List::new(vec![archive.clone(), archive]).unwrap(),
        heads: List::new(vec![0, 1, 300]).unwrap(),
        objects: 7,
        bytes: 1 << 33,
    };
    vec![bytes(record)]
}

pub(crate) fn owner_records() -> Vec<Vec<u8>> {
    let record = OwnerRecord {
        owner: key().verify_key(),
        number: 1,
        previous: Some(DIGEST),
        kem: Kem::XWing,
        enc: Blob::new(vec![1; 1120]).unwrap(),
        sealed: Blob::new(vec![2; 500]).unwrap(),
    };
    let first = OwnerRecord {
        number: 0,
        previous: None,
        kem: Kem::X25519,
        enc: Blob::new(vec![1; 32]).unwrap(),
        ..record.clone()
    };
    vec![bytes(record), bytes(first)]
}

pub(crate) fn vouchers() -> Vec<Vec<u8>> {
    let owner = key().verify_key();
    let (source, lineage, sink) = (SOURCE, LINEAGE, SINK);
    vec![bytes(Voucher { owner, source, lineage, sink, sequence: 9, head: DIGEST, checked: 1 })]
}

pub(crate) fn releases() -> Vec<Vec<u8>> {
    let owner = key().verify_key();
    let (source, lineage, sink) = (SOURCE, LINEAGE, SINK);
    let reason = Text::new("no longer needed").unwrap();
    vec![bytes(Release { owner, source, lineage, sink, sequence: 9, head: DIGEST, reason })]
}

pub(crate) fn substitutes() -> Vec<Vec<u8>> {
    let block = |at: u64, block: u32| BlockName { number: number(at), id: ArchiveId::new([1; 32]), block };
    let pairs = vec![
        SubstitutePair { left: block(1, 0), right: List::new(vec![block(5, 0), block(5, 1)]).unwrap() },
        SubstitutePair { left: block(1, 2), right: List::new(vec![block(6, 4000)]).unwrap() },
    ];
    vec![bytes(Substitute { source: SOURCE, lineage: LINEAGE, pairs: List::new(pairs).unwrap() })]
}

pub(crate) fn welcomes() -> Vec<Vec<u8>> {
    let welcome = Welcome {
        version: 1,
        nonce: SALT,
        sink: SINK,
        role: Role::Push,
        name: "web1".parse().unwrap(),
        program: Text::new("remote-sink 0.1.0").unwrap(),
        clock: 1_790_000_000,
        quota_left: Some(5),
        free: 1 << 40,
        journal: None,
        source: Some(SOURCE),
        lineage: Some(LINEAGE),
        newest: Some(NewestHead { sequence: 3, digest: DIGEST }),
        next_number: Some(number(12)),
        binding: Blob::new(vec![1; 32]).unwrap(),
        quota: Some(10),
        used: Some(5),
        damaged: Some(1),
    };
    vec![bytes(welcome)]
}

pub(crate) fn bodies() -> Vec<Vec<u8>> {
    let body = |pages: usize| Body {
        pages: List::new(vec![DIGEST; pages]).unwrap(),
        root: SealedRoot { salt: SALT, plain: DIGEST, sealed: Blob::new(vec![1; 4096]).unwrap() },
    };
    [0, 1, 30].map(|pages| Plain::new(body(pages)).unwrap().as_bytes().to_vec()).to_vec()
}

pub(crate) fn pages() -> Vec<Vec<u8>> {
    let entry = |at: u64| PageEntry {
        number: number(at),
        id: ArchiveId::new([1; 32]),
        live: Blob::new(vec![0, 255, 1]).unwrap(),
    };
    let page = |numbers: &[u64]| Page {
        source: SOURCE,
        lineage: LINEAGE,
        archives: List::new(numbers.iter().map(|at| entry(*at)).collect()).unwrap(),
    };
    [&[0][..], &[1024, 1025, 2047]].map(|numbers| Plain::new(page(numbers)).unwrap().as_bytes().to_vec()).to_vec()
}

fn generation() -> Vec<u8> {
    let generation = Generation { present: Blob::new(vec![0b1011]).unwrap() };
    Plain::new(generation).unwrap().as_bytes().to_vec()
}

pub(crate) fn generations() -> Vec<Vec<u8>> {
    vec![generation()]
}

pub(crate) fn regions() -> Vec<Vec<u8>> {
    let envelope = envelope(recipients());
    [2, 40].map(|parts| Region::new(&index(parts), &envelope).unwrap().as_bytes().to_vec()).to_vec()
}

pub(crate) fn layouts() -> Vec<Vec<u8>> {
    let mut held = generation();
    held.resize(4096, 0);
    let region = regions().remove(0);
    vec![region.clone(), [held, region].concat()]
}

//! Seal and open, wrap and unwrap: they come back, and nothing changed does.

use super::part::Place;
use super::seal::{Method, Sealed};
use super::{CryptoError, identity::Identity, open, seal, secret::SourceSecret, wrap};
use shared::format::Kem;
use shared::id::{ArchiveNumber, Lineage, Salt, SourceId};
use shared::signature::SigningKey;

const SECRET: [u8; 32] = [9; 32];

fn place(part: u32) -> Place {
    Place::Part {
        source: SourceId::new([1; 32]),
        lineage: Lineage::new([2; 16]),
        salt: Salt::new([3; 32]),
        archive: ArchiveNumber::new(4).unwrap(),
        part,
    }
}

fn sealed(payload: &[u8]) -> Sealed {
    seal::seal_small(&SECRET, &place(0), payload).unwrap()
}

#[test]
fn a_part_comes_back() {
    for payload in [vec![], vec![7; 100_000], shared::sys::random::<5000>().to_vec()] {
        let sealed = sealed(&payload);
        assert_eq!(sealed.bytes.len() % 4096, 0);
        assert_eq!(open::open(&SECRET, &place(0), &sealed.plain, sealed.bytes).unwrap(), payload);
    }
}

#[test]
fn no_other_place_secret_or_byte_opens() {
    let part = sealed(b"hello");
    assert!(open::open(&SECRET, &place(1), &part.plain, part.bytes.clone()).is_err());
    assert!(open::open(&[8; 32], &place(0), &part.plain, part.bytes.clone()).is_err());
    for at in [0, 5, 2000, part.bytes.len() - 1] {
        let mut bytes = part.bytes.clone();
        bytes[at] ^= 1;
        assert!(open::open(&SECRET, &place(0), &part.plain, bytes).is_err(), "byte {at}");
    }
}

#[test]
fn a_resumed_machine_reuses_no_key() {
    // The same place sealed twice with other content, as after a snapshot of the machine was resumed.
    let (one, two) = (sealed(b"hello"), sealed(b"world"));
    assert_ne!(place(0).key(&SECRET, &one.plain), place(0).key(&SECRET, &two.plain));
    assert_eq!(place(0).key(&SECRET, &one.plain), place(0).key(&SECRET, &sealed(b"hello").plain));
}

#[test]
fn a_decompression_bomb_is_refused() {
    let bomb = zstd::bulk::compress(&vec![0; shared::limits::BLOCK_BYTES_MAX + 1], 3).unwrap();
    let mut buffer = seal::begin_payload(bomb.len());
    buffer.extend_from_slice(&bomb);
    let bomb = seal::seal(&SECRET, &place(0), Method::Zstd, buffer).unwrap();
    assert_eq!(open::open(&SECRET, &place(0), &bomb.plain, bomb.bytes), Err(CryptoError::Open("part")));
}

#[test]
fn a_session_opens_for_its_recipients_alone() {
    let (ann, bob, eve) = (Identity::random(), Identity::random(), Identity::random());
    let recipients = [ann.recipient(Kem::XWing), bob.recipient(Kem::X25519)];
    let source_secret = SourceSecret::random();
    let key = SigningKey::random();
    let (source, lineage) = (SourceId::new([1; 32]), Lineage::new([2; 16]));
    let (secret, envelope) = wrap::new_session(source, lineage, &source_secret, &recipients, &key).unwrap();
    for identity in [&ann, &bob] {
        let (session, source) = wrap::open_session(&envelope, identity).unwrap();
        assert_eq!((session.as_bytes(), source.as_bytes()), (secret.as_bytes(), source_secret.as_bytes()));
    }
    assert!(matches!(wrap::open_session(&envelope, &eve), Err(CryptoError::NoRecipient)));
    let mut moved = (*envelope).clone();
    moved.lineage = Lineage::new([3; 16]);
    assert!(wrap::open_session(&moved, &ann).is_err());
}

#[test]
fn identity_files_and_words_come_back() {
    let identity = Identity::from_seed(&[5; 32]);
    let owner = identity.owner_key().verify_key();
    let plain = identity.to_file(None).unwrap();
    assert_eq!(Identity::from_file(&plain, None).unwrap().owner_key().verify_key(), owner);
    assert_eq!(Identity::from_words(&identity.words().to_uppercase()).unwrap().owner_key().verify_key(), owner);
    let sealed = identity.to_file(Some("correct")).unwrap();
    assert!(Identity::needs_passphrase(&sealed).unwrap());
    assert_eq!(Identity::from_file(&sealed, Some("correct")).unwrap().owner_key().verify_key(), owner);
    assert!(matches!(Identity::from_file(&sealed, Some("wrong")), Err(CryptoError::Passphrase)));
    let recipient = identity.recipient(Kem::XWing);
    assert_eq!(recipient.to_string().parse::<super::recipient::Recipient>().unwrap(), recipient);
}

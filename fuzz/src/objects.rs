//! Objects at rest. Behind a signature only the source's (or the sink's) own bytes are read: targets named `…_signed`
//! sign the fuzzer's bytes first, as an attacker with the keys would.

use crate::{Target, samples};
use shared::format::archive::ArchiveLayout;
use shared::format::{
    Body, Envelope, Generation, Head, Index, OwnerRecord, Page, Receipt, Region, Release, SessionRecord, Substitute,
    Voucher, Wrap,
};
use shared::limits::{FORMAT, SUITE};
use shared::signature::{HEADER_BYTES, Object, Plain, SIGN_LABEL, SIGNATURE_BYTES, Signed, SigningKey, sign};
use shared::wire::Welcome;

/// The key that signs in all targets.
pub(crate) fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

/// Takes bytes as a whole signed object.
fn whole<T: Object>(bytes: &[u8]) -> bool {
    let Ok(signed) = Signed::<T>::parse(bytes) else { return false };
    assert_eq!(signed.as_bytes(), bytes);
    let digest = signed.digest();
    let Ok(verified) = signed.verify(&key().verify_key()) else { return false };
    assert_eq!(verified.digest(), digest);
    again(verified.into_value(), bytes)
}

/// Signs bytes as the body of an object, then takes it.
fn body<T: Object>(bytes: &[u8]) -> bool {
    let mut object = b"pawl".to_vec();
    object.extend_from_slice(&[T::KIND, FORMAT, SUITE, 0]);
    object.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    object.extend_from_slice(bytes);
    let signature = key().sign_labelled(SIGN_LABEL, &object);
    object.extend_from_slice(&signature);
    whole::<T>(&object)
}

/// What was accepted, written again, must be the same bytes: one value has one spelling.
fn again<T: Object>(value: T, bytes: &[u8]) -> bool {
    assert_eq!(sign(value, &key()).expect("an accepted object").as_bytes(), bytes, "another spelling was accepted");
    true
}

fn plain<T: Object>(bytes: &[u8]) -> bool {
    let Ok(plain) = Plain::<T>::parse(bytes) else { return false };
    assert_eq!(plain.as_bytes(), bytes);
    let digest = plain.digest();
    assert_eq!(Plain::new(plain.into_value()).expect("an accepted object").digest(), digest);
    true
}

fn region(bytes: &[u8]) -> bool {
    // The length is asked for as bytes arrive: it must never contradict the whole.
    let length = Region::length(bytes);
    let Ok((region, rest)) = Region::parse_prefix(bytes) else { return false };
    assert_eq!(region.as_bytes().len() + rest.len(), bytes.len());
    assert_eq!(length.ok().flatten(), Some(region.as_bytes().len()));
    let verify_key = key().verify_key();
    let (Ok(index), Ok(envelope)) =
        (region.index.clone().verify(&verify_key), region.envelope.clone().verify(&verify_key))
    else {
        return false;
    };
    assert_eq!(Region::new(&index, &envelope).expect("an accepted region").as_bytes(), region.as_bytes());
    true
}

fn layout(bytes: &[u8]) -> bool {
    let Ok(layout) = ArchiveLayout::parse(bytes) else { return false };
    let Ok(index) = layout.region.index.clone().verify(&key().verify_key()) else { return false };
    let parts = layout.parts(&index);
    assert_eq!(parts.len(), index.parts.len());
    let end = parts.iter().flatten().map(|(offset, bytes)| offset + u64::from(*bytes)).max();
    assert!(end.is_none_or(|end| end <= layout.file_bytes(&index)));
    true
}

/// The body of a signed sample.
fn bodies(objects: fn() -> Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    objects().into_iter().map(|object| object[HEADER_BYTES..object.len() - SIGNATURE_BYTES].to_vec()).collect()
}

macro_rules! signed {
    ($($name:literal, $body:literal, $kind:ty, $samples:path;)*) => {
        vec![$(
            Target { name: $name, run: whole::<$kind>, samples: $samples },
            Target { name: $body, run: body::<$kind>, samples: || bodies($samples) },
        )*]
    };
}

pub(crate) fn targets() -> Vec<Target> {
    let mut targets = signed! {
        "index", "index_signed", Index, samples::indexes;
        "envelope", "envelope_signed", Envelope, samples::envelopes;
        "wrap", "wrap_signed", Wrap, samples::wraps;
        "head", "head_signed", Head, samples::heads;
        "receipt", "receipt_signed", Receipt, samples::receipts;
        "record", "record_signed", SessionRecord, samples::records;
        "owner_record", "owner_record_signed", OwnerRecord, samples::owner_records;
        "voucher", "voucher_signed", Voucher, samples::vouchers;
        "release", "release_signed", Release, samples::releases;
        "substitute", "substitute_signed", Substitute, samples::substitutes;
        "welcome", "welcome_signed", Welcome, samples::welcomes;
    };
    targets.extend([
        Target { name: "body", run: plain::<Body>, samples: samples::bodies },
        Target { name: "page", run: plain::<Page>, samples: samples::pages },
        Target { name: "generation", run: plain::<Generation>, samples: samples::generations },
        Target { name: "region", run: region, samples: samples::regions },
        Target { name: "layout", run: layout, samples: samples::layouts },
    ]);
    targets
}

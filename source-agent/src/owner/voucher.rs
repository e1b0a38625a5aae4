//! Vouchers: the owner's word that a head was checked whole (docs/format.md, section 14).

use crate::crypto::identity::Identity;
use crate::report::{Exit, Failure, Outcome};
use shared::format::Voucher;
use shared::id::{Chain, Digest, VerifyKey};
use shared::signature::{Signed, Verified, sign};

/// Signs a voucher for a head.
pub fn write(chain: &Chain, sequence: u64, head: Digest, now: i64, identity: &Identity) -> Outcome<Verified<Voucher>> {
    let key = identity.owner_key();
    let voucher = Voucher {
        owner: key.verify_key(),
        source: chain.source,
        lineage: chain.lineage,
        sink: chain.sink,
        sequence,
        head,
        checked: now,
    };
    sign(voucher, &key).map_err(|e| Failure::new("voucher", Exit::Failed, e.to_string()))
}

/// The vouchers among these bytes that the owner signed; others are nobody's word and are left out.
pub fn read(bytes: &[Vec<u8>], owner: &VerifyKey) -> Vec<Voucher> {
    let read = |bytes: &Vec<u8>| Some(Signed::<Voucher>::parse(bytes).ok()?.verify(owner).ok()?.into_value());
    bytes.iter().filter_map(read).filter(|voucher| voucher.owner == *owner).collect()
}

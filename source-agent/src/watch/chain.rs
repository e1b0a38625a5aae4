//! Heads and receipts checked link by link (docs/format.md, sections "Snapshot", "Receipt").

use crate::report::{Exit, Failure, Outcome};
use crate::watch::state::ChainState;
use shared::format::receipt::Receipt;
use shared::format::snapshot::Head;
use shared::id::{Chain, Digest, VerifyKey};
use shared::signature::{Signed, Verified};
use shared::wire::{Damage, HeadItem};

/// A head whose signature, chain and predecessor fit, with its receipt if the sink gave one that is for it.
#[derive(Debug, Clone)]
pub struct CheckedHead {
    pub head: Verified<Head>,
    pub receipt: Option<Verified<Receipt>>,
    /// What is wrong with the receipt: it does not check, or does not follow the one before. The snapshot is what its
    /// source signed all the same: a receipt that rotted must not take the history with it.
    pub fault: Option<Failure>,
    /// The sink's word about the content.
    pub content: Damage,
}

pub(super) fn alarm(code: &'static str, message: impl Into<String>) -> Failure {
    Failure::new(code, Exit::Tampered, message)
}

/// Checks heads that a sink listed from sequence `from` on: each is signed by one of `keys`, of this chain, numbered
/// without a gap and names its predecessor. A receipt that is not the sink's for just this head counts as none, and is a
/// fault, as is one that does not name the receipt before. `previous` is the digest of head `from - 1`, where it is known.
pub fn verify_chain(
    items: Vec<HeadItem>,
    keys: &[VerifyKey],
    chain: &Chain,
    from: u64,
    previous: Option<Digest>,
) -> Outcome<Vec<CheckedHead>> {
    let mut checked: Vec<CheckedHead> = Vec::new();
    for item in items {
        let sequence = from + checked.len() as u64;
        let before = checked.last().map(|last| last.head.digest()).or(previous);
        let head = head(&item.head, keys, chain, sequence, before)?;
        let (receipt, mut fault) = match &item.receipt {
            Some(bytes) => match receipt(bytes, chain, sequence, &head.digest()) {
                Ok(receipt) => (Some(receipt), None),
                Err(failure) => (None, Some(failure)),
            },
            None => (None, None),
        };
        let receipt_before = checked.last().and_then(|last| last.receipt.as_ref());
        if let (Some(receipt), Some(before)) = (&receipt, receipt_before)
            && receipt.previous != Some(before.digest())
        {
            let message = format!("receipt {sequence} does not follow receipt {}", sequence - 1);
            fault = Some(alarm("receipt-chain", message));
        }
        checked.push(CheckedHead { head, receipt, fault, content: item.content });
    }
    Ok(checked)
}

fn head(
    bytes: &[u8],
    keys: &[VerifyKey],
    chain: &Chain,
    sequence: u64,
    previous: Option<Digest>,
) -> Outcome<Verified<Head>> {
    let signed = Signed::<Head>::parse(bytes).map_err(|e| alarm("head", format!("head {sequence}: {e}")))?;
    let verified = keys.iter().find_map(|key| signed.clone().verify(key).ok());
    let head = verified.ok_or_else(|| {
        alarm("unknown-signer", format!("head {sequence} is not signed by a trusted key of this source"))
    })?;
    if head.chain() != *chain {
        return Err(alarm("other-chain", format!("head {sequence} belongs to another chain")));
    }
    if head.sequence != sequence {
        return Err(alarm("missing-head", format!("head {sequence} is missing: the sink gave head {}", head.sequence)));
    }
    if previous.is_some() && head.previous != previous {
        return Err(alarm("broken-chain", format!("head {sequence} does not follow the head before it")));
    }
    Ok(head)
}

fn receipt(bytes: &[u8], chain: &Chain, sequence: u64, head: &Digest) -> Outcome<Verified<Receipt>> {
    let wrong = |why: String| alarm("receipt", format!("the receipt of head {sequence}: {why}"));
    let signed = Signed::<Receipt>::parse(bytes).map_err(|e| wrong(e.to_string()))?;
    let receipt = signed.verify(&chain.sink).map_err(|e| wrong(e.to_string()))?;
    let named = Chain { source: receipt.source, lineage: receipt.lineage, sink: receipt.sink };
    if named != *chain || receipt.sequence != sequence || receipt.head != *head {
        return Err(wrong("it is for another head".into()));
    }
    Ok(receipt)
}

/// Checks a receipt for a head of ours against what is remembered: chain, sequence, digest, and the receipt before.
pub fn check_receipt(state: &ChainState, sequence: u64, head: &Digest, receipt: &Verified<Receipt>) -> Outcome<()> {
    let named = Chain { source: receipt.source, lineage: receipt.lineage, sink: receipt.sink };
    if named != state.chain() || *receipt.key() != named.sink {
        return Err(alarm("receipt", "the receipt is for another chain, or not signed by the sink"));
    }
    if receipt.sequence != sequence || receipt.head != *head {
        return Err(alarm("receipt", format!("the receipt is not for head {sequence}")));
    }
    let before = state.last_receipt()?.map(|receipt| receipt.digest());
    if receipt.previous != before {
        let message = format!("the receipt of head {sequence} does not follow the one that this machine remembers");
        return Err(alarm("receipt-chain", message).help(
            "the sink gave receipts for another history, or one of its receipts was damaged and made anew: ask its \
             operator; the deliberate way on is: source-agent remote accept NAME --reason TEXT",
        ));
    }
    Ok(())
}

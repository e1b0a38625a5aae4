//! The checks of every object that arrives, without a file or a key that signs. Receiver and committer make the same
//! ones: the committer trusts nothing that the receiver says.

use crate::serve::channel::Identity;
use shared::codec::FormatError;
use shared::format::{Body, Envelope, Head, Index, OwnerRecord, Page, Region, Release, Substitute, Voucher, Wrap};
use shared::id::{Digest, Lineage, SourceId, VerifyKey};
use shared::signature::{Object, Plain, SignatureError, Signed, Verified};
use shared::wire::{RefusalCode, Refused, RequestError};

/// Whose objects a pushing session may bring.
#[derive(Debug, Clone)]
pub struct Pinned {
    pub identity: Identity,
    pub lineage: Lineage,
}

/// An archive whose index, envelope and ownership were checked.
#[derive(Debug, Clone)]
pub struct CheckedRegion {
    pub index: Verified<Index>,
    pub region: Region,
}

pub fn malformed(what: &str, error: impl std::fmt::Display) -> Refused {
    Refused::new(RefusalCode::Malformed, format!("{what}: {error}"))
}

/// A frame that is no request of this role.
pub fn request_refusal(error: RequestError) -> Refused {
    let code = match error {
        RequestError::NotInRole { .. } => RefusalCode::NotAllowed,
        RequestError::Format { .. } => RefusalCode::Malformed,
    };
    Refused::new(code, error.to_string())
}

fn unfit(error: SignatureError) -> Refused {
    match error {
        SignatureError::Format(error) => malformed("signed object", error),
        error => Refused::new(RefusalCode::Signature, error.to_string()),
    }
}

fn parse<T: Object>(bytes: &[u8]) -> Result<Signed<T>, Refused> {
    Signed::parse(bytes).map_err(|e: FormatError| malformed(T::NAME, e))
}

/// Checks against any of these keys; the first that fits counts.
pub fn verify_any<T: Object>(bytes: &[u8], keys: &[VerifyKey]) -> Result<Verified<T>, Refused> {
    parse::<T>(bytes)?;
    for key in keys {
        match parse::<T>(bytes)?.verify(key) {
            Err(SignatureError::Wrong(_) | SignatureError::Key) => {}
            other => return other.map_err(unfit),
        }
    }
    Err(Refused::new(RefusalCode::Signature, format!("this {} is signed by no key that is known here", T::NAME)))
}

impl Pinned {
    fn owns(&self, what: &str, source: &SourceId, lineage: &Lineage) -> Result<(), Refused> {
        if *source != self.identity.source {
            return Err(Refused::new(RefusalCode::NotAllowed, format!("this {what} is of another source")));
        }
        if *lineage != self.lineage {
            return Err(Refused::new(RefusalCode::NotAllowed, format!("this {what} is of another lineage")));
        }
        Ok(())
    }

    pub fn envelope(&self, bytes: &[u8]) -> Result<Verified<Envelope>, Refused> {
        let envelope = parse::<Envelope>(bytes)?.verify(&self.identity.key).map_err(unfit)?;
        self.owns(Envelope::NAME, &envelope.source, &envelope.lineage)?;
        Ok(envelope)
    }

    pub fn region(&self, bytes: &[u8]) -> Result<CheckedRegion, Refused> {
        let region = Region::parse(bytes).map_err(|e| malformed("archive", e))?;
        let index = region.index.clone().verify(&self.identity.key).map_err(unfit)?;
        self.owns(Index::NAME, &index.source, &index.lineage)?;
        let envelope = region.envelope.clone().verify(&self.identity.key).map_err(unfit)?;
        self.owns(Envelope::NAME, &envelope.source, &envelope.lineage)?;
        if index.session != region.session() {
            return Err(malformed("archive", "its envelope is not the one of its session"));
        }
        Ok(CheckedRegion { index, region })
    }

    pub fn page(&self, bytes: &[u8]) -> Result<Plain<Page>, Refused> {
        let page = Plain::<Page>::parse(bytes).map_err(|e| malformed(Page::NAME, e))?;
        self.owns(Page::NAME, &page.source, &page.lineage)?;
        Ok(page)
    }

    pub fn body(&self, bytes: &[u8]) -> Result<Plain<Body>, Refused> {
        Plain::<Body>::parse(bytes).map_err(|e| malformed(Body::NAME, e))
    }

    pub fn head(&self, bytes: &[u8]) -> Result<Verified<Head>, Refused> {
        let head = parse::<Head>(bytes)?.verify(&self.identity.key).map_err(unfit)?;
        self.owns(Head::NAME, &head.source, &head.lineage)?;
        if head.sink != self.identity.sink {
            return Err(Refused::new(RefusalCode::Chain, "this head is of a chain at another sink"));
        }
        Ok(head)
    }

    /// Signed by the source (healing) or an owner (resealing).
    pub fn substitute(&self, bytes: &[u8]) -> Result<Verified<Substitute>, Refused> {
        let mut keys = vec![self.identity.key];
        keys.extend(self.identity.owners.iter());
        let substitute = verify_any::<Substitute>(bytes, &keys)?;
        self.owns(Substitute::NAME, &substitute.source, &substitute.lineage)?;
        Ok(substitute)
    }
}

/// An object signed by the owner that it names.
fn owned<T: Object>(
    bytes: &[u8],
    owners: &[VerifyKey],
    named: impl Fn(&T) -> VerifyKey,
) -> Result<Verified<T>, Refused> {
    let object = verify_any::<T>(bytes, owners)?;
    if named(&object) != *object.key() {
        let text = format!("this {} names another owner than the one who signed it", T::NAME);
        return Err(Refused::new(RefusalCode::Signature, text));
    }
    Ok(object)
}

pub fn owner_record(bytes: &[u8], owners: &[VerifyKey]) -> Result<Verified<OwnerRecord>, Refused> {
    owned(bytes, owners, |record: &OwnerRecord| record.owner)
}

pub fn voucher(bytes: &[u8], identity: &Identity) -> Result<Verified<Voucher>, Refused> {
    let voucher = owned(bytes, &identity.owners, |voucher: &Voucher| voucher.owner)?;
    of_this_sink(Voucher::NAME, &voucher.sink, identity)?;
    Ok(voucher)
}

pub fn release(bytes: &[u8], identity: &Identity) -> Result<Verified<Release>, Refused> {
    let release = owned(bytes, &identity.owners, |release: &Release| release.owner)?;
    of_this_sink(Release::NAME, &release.sink, identity)?;
    Ok(release)
}

pub fn wrap(bytes: &[u8], owners: &[VerifyKey]) -> Result<Verified<Wrap>, Refused> {
    verify_any::<Wrap>(bytes, owners)
}

fn of_this_sink(what: &str, sink: &VerifyKey, identity: &Identity) -> Result<(), Refused> {
    if *sink == identity.sink {
        return Ok(());
    }
    Err(Refused::new(RefusalCode::Chain, format!("this {what} is of a chain at another sink")))
}

/// The parts of an archive as their bytes arrive, in any pieces.
#[derive(Debug)]
pub struct PartsCheck {
    /// Bytes left and wanted hash of each part, the next one last.
    parts: Vec<(usize, Digest)>,
    hasher: blake3::Hasher,
    part: u32,
}

impl PartsCheck {
    pub fn new(index: &Index) -> Self {
        let parts = index.parts.iter().rev().map(|part| (part.bytes as usize, part.hash)).collect();
        Self { parts, hasher: blake3::Hasher::new(), part: 0 }
    }

    pub fn is_done(&self) -> bool {
        self.parts.is_empty()
    }

    /// Bytes until the part under way ends; 0 when all have come.
    pub fn part_left(&self) -> usize {
        self.parts.last().map_or(0, |(left, _)| *left)
    }

    /// Takes bytes of the part under way, at most [`Self::part_left`]; says whether they end it, with the right hash.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<bool, Refused> {
        let Some((left, hash)) = self.parts.last_mut() else {
            return Err(malformed("archive", "more data than its index says"));
        };
        *left = left.checked_sub(bytes.len()).ok_or_else(|| malformed("archive", "a piece crosses a part's end"))?;
        self.hasher.update(bytes);
        if *left > 0 {
            return Ok(false);
        }
        if self.hasher.finalize().as_bytes() != hash.as_bytes() {
            let text = format!("part {} of the archive is not what its index says", self.part);
            return Err(Refused::new(RefusalCode::Signature, text));
        }
        self.hasher.reset();
        self.parts.pop();
        self.part += 1;
        Ok(true)
    }
}

/// Does the session end with this refusal?
pub const fn ends_session(code: RefusalCode) -> bool {
    matches!(
        code,
        RefusalCode::Malformed
            | RefusalCode::NotAllowed
            | RefusalCode::Signature
            | RefusalCode::Internal
            | RefusalCode::Timeout
            | RefusalCode::Version
            | RefusalCode::Busy
    )
}

//! Checks of what a sink gives, before anything is decrypted (docs/format.md, sections 8 and 11). Each returns a value that
//! only the check can make.

use crate::report::Outcome;
use crate::restore::objects::{ArchiveName, tampered};
use shared::format::{Body, Envelope, Head, Index, Page, Region, Substitute};
use shared::id::{ArchiveId, Digest, Lineage, SessionId, SourceId, VerifyKey};
use shared::signature::{Plain, Signed, Verified};

/// An archive's signed index and envelope; both fit the trusted key, and the index the id that a page names.
#[derive(Debug)]
pub struct Archive {
    pub name: ArchiveName,
    pub index: Verified<Index>,
    pub envelope: Verified<Envelope>,
}

/// A sealed part whose hash is the one of the signed index.
#[derive(Debug)]
pub struct CheckedPart {
    pub(super) number: u32,
    pub(super) sealed: Vec<u8>,
}

/// F-17: region of the wanted archive with the wanted id, signed by the trusted key.
pub fn region(bytes: &[u8], name: &ArchiveName, id: &ArchiveId, key: &VerifyKey) -> Outcome<Archive> {
    let wrong = |why: String| tampered("archive", format!("archive {}: {why}", name.number));
    let region = Region::parse(bytes).map_err(|e| wrong(e.to_string()))?;
    if region.id() != *id {
        return Err(wrong("its index is not the one that the snapshot names".into()));
    }
    let session = region.session();
    let Region { index, envelope, .. } = region;
    let index = index.verify(key).map_err(|e| wrong(e.to_string()))?;
    if (index.source, index.lineage, index.number) != (name.source, name.lineage, name.number) {
        return Err(wrong("its index belongs to another source, lineage or number".into()));
    }
    if index.session != session {
        return Err(wrong("its envelope is not the one of its session".into()));
    }
    let envelope = signed_envelope(envelope, &session, &name.source, &name.lineage, key)?;
    Ok(Archive { name: *name, index, envelope })
}

/// The envelope of this session.
pub fn envelope(
    bytes: &[u8],
    session: &SessionId,
    source: &SourceId,
    lineage: &Lineage,
    key: &VerifyKey,
) -> Outcome<Verified<Envelope>> {
    let signed = Signed::<Envelope>::parse(bytes)
        .map_err(|e| tampered("envelope", format!("envelope {}: {e}", session.short())))?;
    signed_envelope(signed, session, source, lineage, key)
}

fn signed_envelope(
    envelope: Signed<Envelope>,
    session: &SessionId,
    source: &SourceId,
    lineage: &Lineage,
    key: &VerifyKey,
) -> Outcome<Verified<Envelope>> {
    let wrong = |why: String| tampered("envelope", format!("envelope {}: {why}", session.short()));
    if envelope.digest().as_bytes() != session.as_bytes() {
        return Err(wrong("its digest is not the session's id".into()));
    }
    let envelope = envelope.verify(key).map_err(|e| wrong(e.to_string()))?;
    if (envelope.source, envelope.lineage) != (*source, *lineage) {
        return Err(wrong("it belongs to another source or lineage".into()));
    }
    Ok(envelope)
}

/// F-28, first half: the body that the head names.
pub fn body(bytes: &[u8], digest: &Digest) -> Outcome<Plain<Body>> {
    let wrong = |why: String| tampered("body", format!("body {}: {why}", digest.short()));
    let body = Plain::<Body>::parse(bytes).map_err(|e| wrong(e.to_string()))?;
    if body.digest() == *digest { Ok(body) } else { Err(wrong("its content is not what the head names".into())) }
}

/// F-29: a ref page that a body names, of the head's source and lineage.
pub fn page(bytes: &[u8], digest: &Digest, source: &SourceId, lineage: &Lineage) -> Outcome<Plain<Page>> {
    let wrong = |why: String| tampered("page", format!("ref page {}: {why}", digest.short()));
    let page = Plain::<Page>::parse(bytes).map_err(|e| wrong(e.to_string()))?;
    if page.digest() != *digest {
        return Err(wrong("its content is not what the body names".into()));
    }
    if (page.source, page.lineage) != (*source, *lineage) {
        return Err(wrong("it belongs to another source or lineage".into()));
    }
    Ok(page)
}

/// F-14: a part has the length and hash that the signed index states.
pub fn part(archive: &Archive, number: u32, sealed: Vec<u8>) -> Outcome<CheckedPart> {
    let wrong = |why: &str| tampered("part", format!("archive {}, part {number}: {why}", archive.name.number));
    let stated = archive.index.parts.get(number as usize).ok_or_else(|| wrong("the archive has no such part"))?;
    if sealed.len() != stated.bytes as usize {
        return Err(wrong("its length is not the signed one"));
    }
    if Digest::of(&sealed) != stated.hash {
        return Err(wrong("its bytes do not fit the signed hash"));
    }
    Ok(CheckedPart { number, sealed })
}

/// A head, signed by the trusted key.
pub fn head(bytes: &[u8], key: &VerifyKey) -> Outcome<Verified<Head>> {
    let wrong = |why: String| tampered("head", format!("a head: {why}"));
    Signed::<Head>::parse(bytes).map_err(|e| wrong(e.to_string()))?.verify(key).map_err(|e| wrong(e.to_string()))
}

/// A substitute record of this source and lineage, signed by the source or its owner.
pub fn substitute(bytes: &[u8], name: (&SourceId, &Lineage), keys: &[VerifyKey]) -> Outcome<Verified<Substitute>> {
    let wrong = |why: String| tampered("substitute", format!("a substitute record: {why}"));
    let signed = Signed::<Substitute>::parse(bytes).map_err(|e| wrong(e.to_string()))?;
    let fits = keys.iter().find_map(|key| signed.clone().verify(key).ok());
    let record = fits.ok_or_else(|| wrong("neither the source nor its owner signed it".into()))?;
    if (&record.source, &record.lineage) != name {
        return Err(wrong("it belongs to another source or lineage".into()));
    }
    Ok(record)
}

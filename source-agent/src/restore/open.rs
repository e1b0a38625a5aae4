//! Opening of what was checked: the only user of `crypto::open` for blocks (docs/format.md, sections 6, 7 and 11).

use crate::crypto::identity::Identity;
use crate::crypto::part::Place;
use crate::crypto::secret::{ChunkNamer, IndexSecret, SessionSecret, SourceSecret};
use crate::crypto::{CryptoError, open, wrap};
use crate::report::{Exit, Failure, Outcome};
use crate::restore::objects::tampered;
use crate::restore::verify::{Archive, CheckedPart};
use crate::tree::{ChunkTable, Root};
use shared::format::{Body, Envelope, Head, Wrap};
use shared::id::{ChunkId, SessionId};
use shared::signature::Verified;

/// The secrets of a session, from the wraps of its envelope.
pub fn session(envelope: &Envelope, id: &SessionId, identity: &Identity) -> Outcome<(SessionSecret, SourceSecret)> {
    wrap::open_session(envelope, identity).map_err(|e| match e {
        CryptoError::NoRecipient => {
            let message = format!("session {} is not sealed to this identity", id.short());
            Failure::new("identity", Exit::Identity, message)
                .help("name the identity of one of the recipients with -i FILE; who came later reads it when its owner has run: source-agent rekey")
        }
        other => tampered("envelope", format!("session {}: {other}", id.short())),
    })
}

/// The same from a wrap that the owner added later; `None` if it does not fit this envelope or identity.
pub fn session_by_wrap(
    envelope: &Verified<Envelope>,
    wrap: &Wrap,
    identity: &Identity,
) -> Option<(SessionSecret, SourceSecret)> {
    wrap::open_wrap_object(envelope, wrap, identity).ok()
}

fn place(archive: &Archive, part: u32) -> Place {
    Place::Part {
        source: archive.name.source,
        lineage: archive.name.lineage,
        salt: archive.index.salt,
        archive: archive.name.number,
        part,
    }
}

/// Opens a part of the archive; the plain digest comes from the signed index.
fn part(archive: &Archive, secret: &[u8; 32], part: CheckedPart) -> Outcome<Vec<u8>> {
    let wrong = |why: String| tampered("part", format!("archive {}, part {}: {why}", archive.name.number, part.number));
    let stated = archive.index.parts.get(part.number as usize).ok_or_else(|| wrong("no such part".into()))?;
    open::open(secret, &place(archive, part.number), &stated.plain, part.sealed).map_err(|e| wrong(e.to_string()))
}

/// The content of a block: chunks, one after another.
pub fn block(archive: &Archive, secret: &SessionSecret, sealed: CheckedPart) -> Outcome<Vec<u8>> {
    part(archive, secret.as_bytes(), sealed)
}

/// The chunk table; F-21, first half.
pub fn table(archive: &Archive, secret: &IndexSecret, sealed: CheckedPart) -> Outcome<ChunkTable> {
    let wrong = |why: String| tampered("chunk-table", format!("archive {}, chunk table: {why}", archive.name.number));
    let content = part(archive, secret.as_bytes(), sealed)?;
    let table = ChunkTable::decode(&content).map_err(|e| wrong(e.to_string()))?;
    table.fits(archive.index.blocks()).map_err(|e| wrong(e.to_string()))?;
    Ok(table)
}

/// The sealed root of a snapshot.
pub fn root(head: &Verified<Head>, body: &Body, secret: &SessionSecret) -> Outcome<Root> {
    let wrong = |why: String| tampered("root", format!("snapshot {}, root: {why}", head.digest().short()));
    let salt = body.root.salt;
    let place = Place::Root { source: head.source, lineage: head.lineage, salt, session: head.session };
    let content = open::open(secret.as_bytes(), &place, &body.root.plain, body.root.sealed.to_vec())
        .map_err(|e| wrong(e.to_string()))?;
    Root::decode(&content).map_err(|e| wrong(e.to_string()))
}

/// F-22: is this the content of the chunk of that name?
pub fn is_chunk(namer: &ChunkNamer, id: &ChunkId, content: &[u8]) -> bool {
    namer.name(content) == *id
}

/// Where each chunk of a block lies; F-21, second half: lengths add up to the block's content.
pub fn offsets(table: &ChunkTable, block: u32, content: usize) -> Option<Vec<(ChunkId, usize, usize)>> {
    let entries = table.blocks.get(block as usize)?;
    let mut at = 0usize;
    let mut all = Vec::with_capacity(entries.len());
    for entry in entries.iter() {
        all.push((entry.id, at, entry.bytes as usize));
        at = at.checked_add(entry.bytes as usize)?;
    }
    (at == content).then_some(all)
}

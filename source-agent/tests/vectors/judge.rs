//! Judges a vector with the product's own code.

use shared::card::{SinkCard, SourceCard};
use shared::codec;
use shared::format::{
    ArchiveLayout, Body, Envelope, Head, OwnerRecord, Page, Receipt, Region, Release, SessionRecord, Substitute,
    Voucher, Wrap,
};
use shared::id::{ArchiveNumber, ChunkId, Digest, Lineage, Salt, SessionId, SourceId, VerifyKey};
use shared::signature::{Object, Plain, Signed};
use shared::wire::{AuditRequest, PushRequest, ReadRequest, Reply, Request, Welcome, read_frame};
use source_agent::crypto::identity::Identity;
use source_agent::crypto::part::Place;
use source_agent::crypto::recipient::Recipient;
use source_agent::crypto::{open, secret::SourceSecret, wrap};
use source_agent::tree::{ChunkTable, ListNode, Node, Root};
use std::collections::BTreeMap;
use std::fmt::Display;

type Judged = Result<(), String>;

struct Fields<'a>(&'a BTreeMap<String, Vec<u8>>);

impl Fields<'_> {
    fn get(&self, name: &str) -> &[u8] {
        self.0.get(name).unwrap_or_else(|| panic!("the vector has no field {name}"))
    }
    fn text(&self, name: &str) -> Result<&str, String> {
        std::str::from_utf8(self.get(name)).map_err(|e| e.to_string())
    }
    fn fixed<const N: usize>(&self, name: &str) -> [u8; N] {
        self.get(name).try_into().unwrap_or_else(|_| panic!("the vector's field {name} has the wrong length"))
    }
    fn u64(&self, name: &str) -> u64 {
        u64::from_le_bytes(self.fixed(name))
    }
    fn key(&self) -> VerifyKey {
        VerifyKey::new(self.fixed("key"))
    }
    fn level(&self) -> u8 {
        self.fixed::<1>("level")[0]
    }
    fn content_is(&self, found: &[u8]) -> Judged {
        match self.0.get("content") {
            Some(expected) if expected != found => Err("other content than the vector says".into()),
            _ => Ok(()),
        }
    }
}

fn text<E: Display>(error: E) -> String {
    error.to_string()
}

fn signed<T: Object>(fields: &Fields<'_>) -> Result<shared::signature::Verified<T>, String> {
    let object = Signed::<T>::parse(fields.get("bytes")).map_err(text)?;
    object.verify(&fields.key()).map_err(text)
}

fn plain<T: Object>(fields: &Fields<'_>) -> Judged {
    Plain::<T>::parse(fields.get("bytes")).map(drop).map_err(text)
}

fn place(fields: &Fields<'_>) -> Result<Place, String> {
    let (source, lineage) = (SourceId::new(fields.fixed("source")), Lineage::new(fields.fixed("lineage")));
    let salt = Salt::new(fields.fixed("salt"));
    if fields.0.contains_key("session") {
        return Ok(Place::Root { source, lineage, salt, session: SessionId::new(fields.fixed("session")) });
    }
    let archive = ArchiveNumber::new(fields.u64("number")).map_err(text)?;
    Ok(Place::Part { source, lineage, salt, archive, part: u32::from_le_bytes(fields.fixed("part")) })
}

fn part(fields: &Fields<'_>) -> Judged {
    let sealed = fields.get("bytes");
    if Digest::of(sealed) != Digest::new(fields.fixed("hash")) {
        return Err("the hash does not fit".into());
    }
    let plain = Digest::new(fields.fixed("plain"));
    let payload = open::open(&fields.fixed("secret"), &place(fields)?, &plain, sealed.to_vec()).map_err(text)?;
    fields.content_is(&payload)
}

fn region(fields: &Fields<'_>) -> Judged {
    Region::parse(fields.get("bytes")).map_err(text)?.verify(&fields.key()).map(drop).map_err(text)
}

fn generation(fields: &Fields<'_>) -> Judged {
    let bytes = fields.get("bytes");
    let layout = ArchiveLayout::parse(bytes).map_err(text)?;
    let (index, _) = layout.region.clone().verify(&fields.key()).map_err(text)?;
    layout.fits(&index).map_err(text)?;
    if layout.file_bytes(&index) != bytes.len() as u64 {
        return Err("the file is longer or shorter than its parts".into());
    }
    for (at, place) in layout.parts(&index).into_iter().enumerate() {
        let Some((offset, length)) = place else { continue };
        let part = &bytes[offset as usize..offset as usize + length as usize];
        if Digest::of(part) != index.parts[at].hash {
            return Err(format!("part {at} is damaged"));
        }
    }
    Ok(())
}

fn session(fields: &Fields<'_>) -> Judged {
    let envelope = signed::<Envelope>(fields)?;
    let identity = Identity::from_seed(&fields.fixed("identity"));
    let (session, source) = match fields.0.get("wrap") {
        None => wrap::open_session(&envelope, &identity).map_err(text)?,
        Some(bytes) => {
            let object = Signed::<Wrap>::parse(bytes).map_err(text)?;
            let object = object.verify(&VerifyKey::new(fields.fixed("owner"))).map_err(text)?;
            wrap::open_wrap_object(&envelope, &object, &identity).map_err(text)?
        }
    };
    fields.content_is(&[session.as_bytes().as_slice(), source.as_bytes()].concat())
}

fn chunk(fields: &Fields<'_>) -> Judged {
    let secret = SourceSecret::from_bytes(&fields.fixed("secret"));
    let found = secret.chunk_namer(&Lineage::new(fields.fixed("lineage"))).name(fields.get("bytes"));
    if found == ChunkId::new(fields.fixed("id")) { Ok(()) } else { Err("poisoned".into()) }
}

fn gear(fields: &Fields<'_>) -> Judged {
    let secret = SourceSecret::from_bytes(&fields.fixed("secret"));
    let table = secret.gear(&Lineage::new(fields.fixed("lineage")));
    fields.content_is(&table.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>())
}

fn table(fields: &Fields<'_>) -> Judged {
    let table = ChunkTable::decode(fields.get("bytes")).map_err(text)?;
    table.fits(u32::from_le_bytes(fields.fixed("blocks"))).map_err(text)
}

fn request(fields: &Fields<'_>) -> Judged {
    let mut input = fields.get("bytes");
    let frame = read_frame(&mut input).map_err(text)?.ok_or("no frame")?;
    match fields.text("role")? {
        "push" => PushRequest::parse(frame).map(drop).map_err(text),
        "read" => ReadRequest::parse(frame).map(drop).map_err(text),
        "audit" => AuditRequest::parse(frame).map(drop).map_err(text),
        "reply" => Reply::parse(frame).map(drop).map_err(text),
        other => panic!("role {other}"),
    }
}

fn receipt(fields: &Fields<'_>) -> Judged {
    let receipt = signed::<Receipt>(fields)?;
    let Some(head) = fields.0.get("head") else { return Ok(()) };
    let head =
        Signed::<Head>::parse(head).map_err(text)?.verify(&VerifyKey::new(fields.fixed("source"))).map_err(text)?;
    receipt.attests(&head).map_err(text)
}

/// Heads one after another, from sequence 0.
fn chain(fields: &Fields<'_>) -> Judged {
    let mut rest = fields.get("bytes");
    let mut heads = Vec::new();
    while !rest.is_empty() {
        let (head, tail) = Signed::<Head>::parse_prefix(rest).map_err(text)?;
        heads.push(head.verify(&fields.key()).map_err(text)?);
        rest = tail;
    }
    let mut links = shared::format::snapshot::ChainLinks::default();
    heads.iter().try_for_each(|head| links.follow(head)).map_err(text)
}

/// A body and its pages, one after another.
fn body(fields: &Fields<'_>) -> Judged {
    let (body, mut rest) = Plain::<Body>::parse_prefix(fields.get("bytes")).map_err(text)?;
    let mut pages = Vec::new();
    while !rest.is_empty() {
        let (page, tail) = Plain::<Page>::parse_prefix(rest).map_err(text)?;
        pages.push(page);
        rest = tail;
    }
    let (source, lineage) = (SourceId::new(fields.fixed("source")), Lineage::new(fields.fixed("lineage")));
    let mut order = shared::format::snapshot::PageOrder::new(source, lineage);
    if pages.len() != body.pages.len() {
        return Err("a page is missing".into());
    }
    for (digest, page) in body.pages.iter().zip(&pages) {
        order.follow(digest, page).map_err(text)?;
    }
    Ok(())
}

fn owner_records(fields: &Fields<'_>) -> Judged {
    let mut rest = fields.get("bytes");
    let mut previous: Option<shared::signature::Verified<OwnerRecord>> = None;
    while !rest.is_empty() {
        let (record, tail) = Signed::<OwnerRecord>::parse_prefix(rest).map_err(text)?;
        let record = record.verify(&fields.key()).map_err(text)?;
        record.follows(previous.as_ref()).map_err(text)?;
        (previous, rest) = (Some(record), tail);
    }
    Ok(())
}

/// A pack (docs/format.md, section "Packs"). Only a sink reads them; its own reader is judged in `remote-sink`.
fn pack(fields: &Fields<'_>) -> Judged {
    let (bytes, shelf) = (fields.get("bytes"), fields.get("shelf"));
    let end = bytes.len().checked_sub(96).ok_or("too short")?;
    let (before, footer) = bytes.split_at(end);
    let number = |at: usize| u64::from_le_bytes(footer[at..at + 8].try_into().unwrap());
    let (count, index_at) = (number(16), number(24));
    let head = [&b"pawlpack"[..], &[1], shelf, &[0; 6]].concat();
    let length = count.checked_mul(52).and_then(|bytes| bytes.checked_add(index_at));
    if length != Some(end as u64) || footer[..16] != head {
        return Err("not a pack of this kind, or of another length".into());
    }
    let index = &before[index_at as usize..];
    if footer[32..64] != *blake3::hash(index).as_bytes() || footer[64..] != *blake3::hash(&footer[..64]).as_bytes() {
        return Err("a digest does not fit".into());
    }
    let entries: Vec<_> = index.chunks(52).collect();
    if entries.windows(2).any(|two| two[0][..32] >= two[1][..32]) {
        return Err("the keys do not rise".into());
    }
    let ends_at = |entry: &[u8]| {
        let offset = u64::from_le_bytes(entry[32..40].try_into().unwrap());
        offset.checked_add(u64::from(u32::from_le_bytes(entry[40..44].try_into().unwrap())))
    };
    let inside = entries.iter().all(|entry| ends_at(entry).is_some_and(|end| end <= index_at));
    if inside { Ok(()) } else { Err("an object reaches into the index".into()) }
}

pub fn judge(object: &str, fields: &BTreeMap<String, Vec<u8>>) -> Judged {
    let fields = &Fields(fields);
    match object {
        "head" => signed::<Head>(fields).map(drop),
        "envelope" => signed::<Envelope>(fields).map(drop),
        "voucher" => signed::<Voucher>(fields).map(drop),
        "release" => signed::<Release>(fields).map(drop),
        "substitute" => signed::<Substitute>(fields).map(drop),
        "record" => signed::<SessionRecord>(fields).map(drop),
        "welcome" => signed::<Welcome>(fields).map(drop),
        "receipt" => receipt(fields),
        "page" => plain::<Page>(fields),
        "body" => body(fields),
        "chain" => chain(fields),
        "owner-records" => owner_records(fields),
        "region" => region(fields),
        "archive" => generation(fields),
        "part" => part(fields),
        "session" => session(fields),
        "chunk" => chunk(fields),
        "gear" => gear(fields),
        "table" => table(fields),
        "node" => Node::decode(fields.get("bytes"), fields.level()).map(drop).map_err(text),
        "list" => ListNode::decode(fields.get("bytes"), fields.level(), fields.u64("file")).map(drop).map_err(text),
        "root" => Root::decode(fields.get("bytes")).map(drop).map_err(text),
        "source-card" => fields.text("bytes")?.parse::<SourceCard>().map(drop).map_err(text),
        "sink-card" => fields.text("bytes")?.parse::<SinkCard>().map(drop).map_err(text),
        "recipient" => fields.text("bytes")?.parse::<Recipient>().map(drop).map_err(text),
        "identity" => {
            let identity =
                Identity::from_file(fields.text("bytes")?, Some(fields.text("passphrase")?)).map_err(text)?;
            fields.content_is(identity.owner_key().verify_key().as_bytes())
        }
        "request" => request(fields),
        "pack" => pack(fields),
        "name" => fields.text("bytes")?.parse::<shared::id::SourceName>().map(drop).map_err(text),
        "cbor" => codec::decode::<shared::format::Part>(fields.get("bytes"), 1 << 20, "part").map(drop).map_err(text),
        other => panic!("no judge for {other}"),
    }
}

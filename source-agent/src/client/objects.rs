//! Single objects: what comes back must have the digest that was asked for.

use super::Client;
use crate::report::Outcome;
use shared::format::archive::{Part, Region};
use shared::format::envelope::{Envelope, Wrap};
use shared::format::owner::{OwnerRecord, Release, Voucher};
use shared::format::receipt::Receipt;
use shared::format::snapshot::{Body, Head, Page};
use shared::id::{ArchiveId, ArchiveNumber, Digest, Lineage, SessionId, SourceId, VerifyKey};
use shared::limits::REGION_BYTES_MAX;
use shared::signature::{Plain, Signed, Verified};
use shared::wire::request::{GetArchive, GetObject, GetSession, PushRequest, Query};
use shared::wire::{Reply, Request, Stored};

impl Client {
    /// The envelope of this session; its signature is the caller's to check.
    pub fn envelope(&mut self, source: &SourceId, session: &SessionId) -> Outcome<Signed<Envelope>> {
        let bytes = self.object(&Query::GetEnvelope(GetSession { source: *source, session: *session }))?;
        let envelope = Signed::<Envelope>::parse(&bytes).map_err(|e| self.lie(format!("an envelope: {e}")))?;
        if envelope.digest().as_bytes() != session.as_bytes() {
            return Err(self.lie("an envelope that is not the one asked for"));
        }
        Ok(envelope)
    }

    /// The body with this digest.
    pub fn body(&mut self, source: &SourceId, digest: &Digest) -> Outcome<Plain<Body>> {
        let bytes = self.object(&Query::GetBody(GetObject { source: *source, digest: *digest }))?;
        let body = Plain::<Body>::parse(&bytes).map_err(|e| self.lie(format!("a body: {e}")))?;
        if body.digest() != *digest {
            return Err(self.lie("a body that is not the one asked for"));
        }
        Ok(body)
    }

    /// The ref page with this digest, of this source.
    pub fn page(&mut self, source: &SourceId, digest: &Digest) -> Outcome<Plain<Page>> {
        let bytes = self.object(&Query::GetPage(GetObject { source: *source, digest: *digest }))?;
        let page = Plain::<Page>::parse(&bytes).map_err(|e| self.lie(format!("a ref page: {e}")))?;
        if page.digest() != *digest || page.source != *source {
            return Err(self.lie("a ref page that is not the one asked for"));
        }
        Ok(page)
    }

    /// The header region of an archive with this id; the signatures in it are the caller's to check.
    pub fn region(
        &mut self,
        source: &SourceId,
        lineage: &Lineage,
        number: ArchiveNumber,
        id: &ArchiveId,
    ) -> Outcome<Region> {
        let query = GetArchive { source: *source, lineage: *lineage, number };
        let bytes = self.object(&Query::GetRegion(query))?;
        if bytes.len() > REGION_BYTES_MAX {
            return Err(self.lie(format!("a header region of {} bytes", bytes.len())));
        }
        let region = Region::parse(&bytes).map_err(|e| self.lie(format!("a header region: {e}")))?;
        if region.id() != *id {
            return Err(self.lie(format!("archive {number} is not the one asked for")));
        }
        Ok(region)
    }

    /// The sealed chunk table of an archive, whose signed index says `part` of it: the last part.
    pub fn table(
        &mut self,
        source: &SourceId,
        lineage: &Lineage,
        number: ArchiveNumber,
        part: &Part,
    ) -> Outcome<Vec<u8>> {
        let query = GetArchive { source: *source, lineage: *lineage, number };
        let first = self.ask(&Query::GetTable(query))?;
        let sealed = self.pieces(first, part.bytes as usize)?;
        if Digest::of(&sealed) != part.hash {
            return Err(self.damaged(number, &[part_name("the chunk table", &sealed, part)]));
        }
        Ok(sealed)
    }

    /// Sends an owner record; refused as a conflict if another came first.
    pub fn put_owner_record(&mut self, record: &Verified<OwnerRecord>) -> Outcome<Stored> {
        self.put(&Query::PutOwnerRecord(record.as_bytes().to_vec()), record.digest())
    }
    pub fn put_voucher(&mut self, voucher: &Verified<Voucher>) -> Outcome<Stored> {
        self.put(&Query::PutVoucher(voucher.as_bytes().to_vec()), voucher.digest())
    }
    pub fn put_wrap(&mut self, wrap: &Verified<Wrap>) -> Outcome<Stored> {
        self.put(&Query::PutWrap(wrap.as_bytes().to_vec()), wrap.digest())
    }
    pub fn put_release(&mut self, release: &Verified<Release>) -> Outcome<Stored> {
        self.put(&Query::PutRelease(release.as_bytes().to_vec()), release.digest())
    }

    /// A head that the sink has already, to get its receipt once more.
    pub fn put_head(&mut self, head: &Verified<Head>) -> Outcome<Verified<Receipt>> {
        let sink = *self.sink();
        self.send(&PushRequest::PutHead(head.as_bytes().to_vec()).frame())?;
        let bytes = match self.reply()? {
            Reply::Receipt(bytes) => bytes,
            other => return Err(self.unexpected(&other)),
        };
        check_receipt(&bytes, &sink, head.sequence, &head.digest()).map_err(|why| self.lie(why))
    }

    fn put(&mut self, query: &Query, digest: Digest) -> Outcome<Stored> {
        match self.ask(query)? {
            Reply::Stored(stored) if stored.digest == digest => Ok(stored),
            Reply::Stored(_) => Err(self.lie("it stored something other than what was sent")),
            other => Err(self.unexpected(&other)),
        }
    }

    fn object(&mut self, query: &Query) -> Outcome<Vec<u8>> {
        match self.ask(query)? {
            Reply::Object(bytes) => Ok(bytes),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Joins pieces and the object that ends them: exactly `bytes` in all.
    pub(super) fn pieces(&mut self, first: Reply, bytes: usize) -> Outcome<Vec<u8>> {
        let mut joined = Vec::new();
        let mut reply = first;
        loop {
            let (piece, last) = match reply {
                Reply::Piece(piece) => (piece, false),
                Reply::Object(piece) => (piece, true),
                other => return Err(self.unexpected(&other)),
            };
            if joined.len() + piece.len() > bytes || (piece.is_empty() && !last) {
                return Err(self.lie(format!("a part longer than the {bytes} bytes that its index says")));
            }
            joined.extend_from_slice(&piece);
            if last && joined.len() != bytes {
                return Err(self.lie(format!("a part of {} bytes where its index says {bytes}", joined.len())));
            }
            if last {
                return Ok(joined);
            }
            reply = self.reply()?;
        }
    }
}

/// A receipt signed by the sink for just this head.
pub(super) fn check_receipt(
    bytes: &[u8],
    sink: &VerifyKey,
    sequence: u64,
    head: &Digest,
) -> Result<Verified<Receipt>, String> {
    let signed = Signed::<Receipt>::parse(bytes).map_err(|e| format!("a receipt: {e}"))?;
    let receipt = signed.verify(sink).map_err(|e| format!("a receipt: {e}"))?;
    if receipt.sink != *sink || receipt.sequence != sequence || receipt.head != *head {
        return Err("a receipt for another head".into());
    }
    Ok(receipt)
}

/// How a damaged part is named in messages.
pub(super) fn part_name(what: &str, sealed: &[u8], part: &Part) -> String {
    format!("{what}: BLAKE3 {} instead of {}", Digest::of(sealed).short(), part.hash.short())
}

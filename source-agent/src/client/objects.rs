//! Single objects: what comes back must have the digest that was asked for.

use super::Client;
use crate::report::{Exit, Failure, Outcome};
use shared::format::archive::{Part, Region};
use shared::format::envelope::{Envelope, Wrap};
use shared::format::owner::{OwnerRecord, Release, Voucher};
use shared::format::receipt::Receipt;
use shared::format::snapshot::{Body, Head, Page};
use shared::id::{ArchiveId, ArchiveNumber, Digest, Lineage, SessionId, SourceId, VerifyKey};
use shared::limits::{REGION_BYTES_MAX, SEALED_BYTES_MAX};
use shared::signature::{Plain, Signed, Verified};
use shared::wire::request::{GetArchive, GetObject, GetSession, PushRequest, Query};
use shared::wire::{Reply, Request, Stored};

/// Objects, or archives with region and table, that may be asked for ahead: requests so small that they fit the buffers
/// of any transport.
pub const OBJECTS_AHEAD_MAX: usize = 64;

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
        self.check_region(&bytes, number, id)
    }

    fn check_region(&mut self, bytes: &[u8], number: ArchiveNumber, id: &ArchiveId) -> Outcome<Region> {
        if bytes.len() > REGION_BYTES_MAX {
            return Err(self.lie(format!("a header region of {} bytes", bytes.len())));
        }
        let region = Region::parse(bytes).map_err(|e| self.lie(format!("a header region: {e}")))?;
        if region.id() != *id {
            return Err(self.lie(format!("archive {number} is not the one asked for")));
        }
        Ok(region)
    }

    /// Asks for the header region and the sealed chunk table of an archive without waiting; [`Client::take_archive`]
    /// takes the answers, in the same order. At most [`OBJECTS_AHEAD_MAX`] may be open.
    pub fn ask_archive(&mut self, source: &SourceId, lineage: &Lineage, number: ArchiveNumber) -> Outcome<()> {
        self.may_ask_ahead(&format!("archive {number}"))?;
        let query = GetArchive { source: *source, lineage: *lineage, number };
        self.send_unchecked(&Query::GetRegion(query.clone()).frame())?;
        self.send_unchecked(&Query::GetTable(query).frame())?;
        self.objects_ahead.push_back(Some(number));
        Ok(())
    }

    fn may_ask_ahead(&mut self, what: &str) -> Outcome<()> {
        if self.broken || self.objects_ahead.len() >= OBJECTS_AHEAD_MAX || !self.ahead.is_empty() {
            return Err(self.out_of_step(what));
        }
        Ok(())
    }

    /// Asks for a single object without waiting; [`Client::take_object`] takes the answer, in the same order. At most
    /// [`OBJECTS_AHEAD_MAX`] may be open.
    pub fn ask_object(&mut self, query: &Query) -> Outcome<()> {
        self.may_ask_ahead("an object")?;
        self.send_unchecked(&query.frame())?;
        self.objects_ahead.push_back(None);
        Ok(())
    }

    /// Takes the answer to the oldest [`Client::ask_object`]; whether it is what was asked for is the caller's to check.
    /// After a failure the session is in step, unless [`Client::is_over`].
    pub fn take_object(&mut self) -> Outcome<Vec<u8>> {
        if self.broken || self.objects_ahead.pop_front() != Some(None) {
            return Err(self.out_of_step("an object"));
        }
        match self.reply_or_refusal()? {
            Ok(Reply::Object(bytes)) => Ok(bytes),
            Ok(other) => Err(self.unexpected(&other)),
            Err(refusal) => Err(refusal.failure),
        }
    }

    /// Takes the answer to the oldest [`Client::ask_archive`], which must be of this archive. `check` looks at the
    /// region and says what its signed index tells of the chunk table. After a failure the session is in step, unless
    /// the sink lied or the line broke.
    pub fn take_archive(
        &mut self,
        number: ArchiveNumber,
        id: &ArchiveId,
        check: impl FnOnce(&Region) -> Outcome<Part>,
    ) -> Outcome<(Region, Vec<u8>)> {
        if self.broken || self.objects_ahead.pop_front() != Some(Some(number)) {
            return Err(self.out_of_step(&format!("archive {number}")));
        }
        let region = match self.reply_or_refusal()? {
            Ok(Reply::Object(bytes)) => self.check_region(&bytes, number, id).and_then(|region| {
                let part = check(&region)?;
                Ok((region, part))
            }),
            Ok(other) => return Err(self.unexpected(&other)),
            Err(refusal) => Err(refusal.failure),
        };
        if self.broken {
            return region.and_then(|_| Err(self.out_of_step(&format!("archive {number}"))));
        }
        let first = self.reply_or_refusal()?;
        match (region, first) {
            (Ok((region, part)), Ok(first)) => Ok((region, self.whole_table(number, &part, first)?)),
            (Err(failure), Ok(first)) => self.pass_over(first).and(Err(failure)),
            (Err(failure), Err(_)) => Err(failure),
            (Ok(_), Err(refusal)) => Err(refusal.failure),
        }
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
        self.whole_table(number, part, first)
    }

    fn whole_table(&mut self, number: ArchiveNumber, part: &Part, first: Reply) -> Outcome<Vec<u8>> {
        let sealed = self.pieces(first, part.bytes as usize)?;
        if Digest::of(&sealed) != part.hash {
            return Err(self.damaged(number, &[part_name("the chunk table", &sealed, part)]));
        }
        Ok(sealed)
    }

    /// Reads a table that is of no use, to stay in step.
    fn pass_over(&mut self, first: Reply) -> Outcome<()> {
        let (mut reply, mut bytes) = (first, 0);
        loop {
            let (piece, last) = match reply {
                Reply::Piece(piece) => (piece, false),
                Reply::Object(piece) => (piece, true),
                other => return Err(self.unexpected(&other)),
            };
            bytes += piece.len();
            if bytes > SEALED_BYTES_MAX || (piece.is_empty() && !last) {
                return Err(self.lie("a chunk table longer than any may be"));
            }
            if last {
                return Ok(());
            }
            reply = self.reply()?;
        }
    }

    fn out_of_step(&mut self, what: &str) -> Failure {
        self.broken = true;
        Failure::new("out-of-step", Exit::Failed, format!("{what} cannot be asked for on this connection"))
            .remote(self.remote_name())
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

//! Heads, bodies and ref pages (docs/format.md, section "Snapshot").

use crate::bits;
use crate::codec::{Blob, FormatError, List, Text};
use crate::id::{ArchiveId, ArchiveNumber, Chain, Digest, Lineage, Salt, Series, SessionId, SourceId, VerifyKey};
use crate::limits::{
    ARCHIVE_PARTS_MAX, BODY_BYTES_MAX, BODY_PAGES_MAX, HEAD_BYTES_MAX, HEAD_REMOTES_MAX, PAGE_ARCHIVES, PAGE_BYTES_MAX,
    REASON_BYTES_MAX, ROOT_BYTES_MAX,
};
use crate::signature::{Object, Plain, Verified};
use minicbor::{Decode, Encode};

/// Head flag: protects a long run, holds no retention slot, goes when its run commits.
pub const FLAG_CHECKPOINT: u8 = 1;
/// Head flag: some files could not be read, or a named path was missing.
pub const FLAG_INCOMPLETE: u8 = 2;

/// The newest head of another remote that the source holds a receipt for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct RemoteHead {
    #[n(0)]
    pub sink: VerifyKey,
    #[n(1)]
    pub sequence: u64,
    #[n(2)]
    pub digest: Digest,
}

/// A link of the chain. Signed by the source.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Head {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub lineage: Lineage,
    #[n(2)]
    pub sink: VerifyKey,
    /// Counts from 0 without a gap.
    #[n(3)]
    pub sequence: u64,
    /// Digest of the head before; absent for sequence 0 alone.
    #[n(4)]
    pub previous: Option<Digest>,
    #[n(5)]
    pub series: Series,
    #[n(6)]
    pub flags: u8,
    /// The source's clock, seconds since 1970 UTC. Shown, never trusted.
    #[n(7)]
    pub created: i64,
    #[n(8)]
    pub session: SessionId,
    #[n(9)]
    pub body: Digest,
    #[n(10)]
    pub remotes: List<RemoteHead, HEAD_REMOTES_MAX>,
    /// Set when going on after an alarm.
    #[n(11)]
    pub reason: Option<Text<REASON_BYTES_MAX>>,
}

impl Head {
    pub fn chain(&self) -> Chain {
        Chain { source: self.source, lineage: self.lineage, sink: self.sink }
    }
    pub fn is_checkpoint(&self) -> bool {
        self.flags & FLAG_CHECKPOINT != 0
    }
    pub fn is_incomplete(&self) -> bool {
        self.flags & FLAG_INCOMPLETE != 0
    }
}

impl Object for Head {
    const KIND: u8 = b'H';
    const BYTES_MAX: usize = HEAD_BYTES_MAX;
    const NAME: &'static str = "head";
    fn check(&self) -> Result<(), FormatError> {
        if (self.sequence == 0) != self.previous.is_none() {
            return Err(FormatError::Rule("only the first head of a chain has no predecessor"));
        }
        if self.flags & !(FLAG_CHECKPOINT | FLAG_INCOMPLETE) != 0 {
            return Err(FormatError::Rule("unknown head flag"));
        }
        Ok(())
    }
}

/// A sealed root: what a snapshot holds, readable by recipients alone.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SealedRoot {
    #[n(0)]
    pub salt: Salt,
    /// Keyed digest of the padded plaintext.
    #[n(1)]
    pub plain: Digest,
    #[n(2)]
    pub sealed: Blob<ROOT_BYTES_MAX>,
}

/// What a head points to. Not signed: the head names its digest.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Body {
    /// Digests of ref pages, in the order of the archives they name.
    #[n(0)]
    pub pages: List<Digest, BODY_PAGES_MAX>,
    #[n(1)]
    pub root: SealedRoot,
}

impl Object for Body {
    const KIND: u8 = b'B';
    const BYTES_MAX: usize = BODY_BYTES_MAX;
    const NAME: &'static str = "body";
    fn check(&self) -> Result<(), FormatError> {
        if self.root.sealed.is_empty() || !self.root.sealed.len().is_multiple_of(crate::limits::ALIGN) {
            return Err(FormatError::Rule("a sealed root's length is not a multiple of 4096"));
        }
        Ok(())
    }
}

/// One archive and its live blocks.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct PageEntry {
    #[n(0)]
    pub number: ArchiveNumber,
    #[n(1)]
    pub id: ArchiveId,
    /// One bit per block, lowest bit first, no zero byte at the end.
    #[n(2)]
    pub live: Blob<{ ARCHIVE_PARTS_MAX / 8 }>,
}

impl PageEntry {
    pub fn is_live(&self, block: u32) -> bool {
        bits::is_set(&self.live, block as usize)
    }
    /// One more than the highest live block.
    pub fn blocks_named(&self) -> u32 {
        match self.live.last() {
            None => 0,
            Some(last) => (self.live.len() as u32 - 1) * 8 + (8 - last.leading_zeros()),
        }
    }
}

/// Up to 1,024 consecutive archive numbers: those that hold something of the snapshot. Named by its digest, shared
/// between bodies.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Page {
    #[n(0)]
    pub source: SourceId,
    #[n(1)]
    pub lineage: Lineage,
    /// Ascending numbers, all within the same span of 1,024.
    #[n(2)]
    pub archives: List<PageEntry, { PAGE_ARCHIVES as usize }>,
}

impl Object for Page {
    const KIND: u8 = b'P';
    const BYTES_MAX: usize = PAGE_BYTES_MAX;
    const NAME: &'static str = "ref page";
    fn check(&self) -> Result<(), FormatError> {
        let Some(first) = self.archives.first() else {
            return Err(FormatError::Rule("an empty ref page"));
        };
        let span = first.number.get() / PAGE_ARCHIVES;
        if self.archives.iter().any(|entry| entry.number.get() / PAGE_ARCHIVES != span) {
            return Err(FormatError::Rule("a ref page names archives of two spans"));
        }
        if self.archives.windows(2).any(|pair| pair[0].number >= pair[1].number) {
            return Err(FormatError::Rule("the archives of a ref page are not ascending"));
        }
        if self.archives.iter().any(|entry| entry.live.last().copied().unwrap_or(0) == 0) {
            return Err(FormatError::Rule("a ref page names an archive without a live block"));
        }
        Ok(())
    }
}

/// Checks that heads follow one another (F-24, F-26, F-27); give it all heads of one chain, from sequence 0.
#[derive(Debug, Default)]
pub struct ChainLinks {
    last: Option<(Chain, u64, Digest)>,
}

impl ChainLinks {
    /// Goes on behind a head that was checked before.
    pub fn after(chain: Chain, sequence: u64, digest: Digest) -> Self {
        Self { last: Some((chain, sequence, digest)) }
    }

    /// Takes the next head of the chain.
    pub fn follow(&mut self, head: &Verified<Head>) -> Result<(), FormatError> {
        let (sequence, previous) = match self.last {
            None => (0, None),
            Some((chain, _, _)) if chain != head.chain() => {
                return Err(FormatError::Rule("a head of another chain"));
            }
            Some((_, sequence, digest)) => (sequence + 1, Some(digest)),
        };
        if head.sequence != sequence {
            return Err(FormatError::Rule("a head is missing, or there are two of one sequence"));
        }
        if head.previous != previous {
            return Err(FormatError::Rule("a head does not name the head before it: two histories"));
        }
        self.last = Some((head.chain(), head.sequence, head.digest()));
        Ok(())
    }
}

/// Checks the pages of a body in their order (F-28, F-29).
#[derive(Debug)]
pub struct PageOrder {
    source: SourceId,
    lineage: Lineage,
    next: u64,
}

impl PageOrder {
    pub fn new(source: SourceId, lineage: Lineage) -> Self {
        Self { source, lineage, next: 0 }
    }

    /// Takes the next page; `digest` is what the body says.
    pub fn follow(&mut self, digest: &Digest, page: &Plain<Page>) -> Result<(), FormatError> {
        if page.digest() != *digest {
            return Err(FormatError::Rule("a ref page is not the one that the body names"));
        }
        if page.source != self.source || page.lineage != self.lineage {
            return Err(FormatError::Rule("a ref page of another source or lineage"));
        }
        for entry in page.archives.iter() {
            if entry.number.get() < self.next {
                return Err(FormatError::Rule("the ref pages of a body are not in order, or name an archive twice"));
            }
            self.next = entry.number.get() + 1;
        }
        Ok(())
    }
}

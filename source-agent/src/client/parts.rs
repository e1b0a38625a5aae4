//! Sealed parts of archives, several requests ahead of the answers; each part is checked against the signed index.

use super::Client;
use super::objects::part_name;
use crate::report::{Exit, Failure, Outcome};
use shared::codec::List;
use shared::format::archive::Index;
use shared::id::ArchiveNumber;
use shared::signature::Verified;
use shared::wire::Request;
use shared::wire::request::{GetParts, ReadRequest};

/// Requests that may be on their way at once: small enough that they fit the buffers of any transport.
pub const AHEAD_MAX: usize = 8;

impl Client {
    /// Fetches parts of one archive, ascending, and hands each to `each` when its hash fits the index. A part that
    /// does not fit is left out; the others come, and the failure at the end names it. Role read.
    pub fn parts(
        &mut self,
        index: &Verified<Index>,
        parts: &[u32],
        each: &mut dyn FnMut(u32, Vec<u8>) -> Outcome<()>,
    ) -> Outcome<()> {
        self.ask_parts(index, parts)?;
        self.take_parts(index, each)
    }

    /// Asks without waiting; answers are taken in the same order with [`Client::take_parts`]. At most
    /// [`AHEAD_MAX`] may be open.
    pub fn ask_parts(&mut self, index: &Verified<Index>, parts: &[u32]) -> Outcome<()> {
        let wrong =
            |why: &str| Failure::new("parts", Exit::Failed, format!("parts of archive {}: {why}", index.number));
        let ascending = parts.windows(2).all(|pair| pair[0] < pair[1]);
        let last = parts.last().ok_or_else(|| wrong("none asked for"))?;
        if !ascending || *last as usize >= index.parts.len() {
            return Err(wrong("not ascending, or beyond its index"));
        }
        if self.broken || self.ahead.len() >= AHEAD_MAX {
            return Err(wrong("the connection cannot be asked more").remote(&self.remote));
        }
        let list = List::new(parts.to_vec()).map_err(|e| wrong(&e.to_string()))?;
        let query = GetParts { source: index.source, lineage: index.lineage, number: index.number, parts: list };
        self.send_unchecked(&ReadRequest::GetParts(query).frame())?;
        self.ahead.push_back((index.number, parts.to_vec()));
        Ok(())
    }

    /// Takes the answer to the oldest [`Client::ask_parts`], which must be of this archive.
    pub fn take_parts(
        &mut self,
        index: &Verified<Index>,
        each: &mut dyn FnMut(u32, Vec<u8>) -> Outcome<()>,
    ) -> Outcome<()> {
        let (number, parts) = match self.ahead.pop_front() {
            Some(asked) if asked.0 == index.number && !self.broken => asked,
            _ => return Err(self.lie_of_ours(index.number)),
        };
        let mut damaged = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            let expected = index.parts.get(*part as usize).cloned().ok_or_else(|| self.lie_of_ours(number))?;
            let first = match self.reply_or_refusal()? {
                Ok(reply) => reply,
                // One refusal stands for all parts; behind the first part there is none.
                Err(refusal) if at == 0 => return Err(refusal.failure),
                Err(_) => return Err(self.lie("a refusal in the middle of an archive's parts")),
            };
            let sealed = self.pieces(first, expected.bytes as usize)?;
            if shared::id::Digest::of(&sealed) != expected.hash {
                damaged.push(part_name(&format!("part {part}"), &sealed, &expected));
                continue;
            }
            if let Err(failure) = each(*part, sealed) {
                // The rest of the answer is not read: the session is of no more use.
                self.broken = true;
                return Err(failure);
            }
        }
        if damaged.is_empty() { Ok(()) } else { Err(self.damaged(number, &damaged)) }
    }

    /// A damaged archive at the sink. The session stays in step.
    pub(super) fn damaged(&self, number: ArchiveNumber, parts: &[String]) -> Failure {
        let message = format!("archive {number} is damaged at the sink or was altered");
        let failure = Failure::new("damaged", Exit::Tampered, message)
            .remote(&self.remote)
            .help("another remote may hold it; the source's next backup heals it");
        parts.iter().take(8).fold(failure, |failure, part| failure.detail(part.clone()))
    }

    /// A mistake of the caller, not of the sink.
    fn lie_of_ours(&mut self, number: ArchiveNumber) -> Failure {
        self.broken = true;
        Failure::new("out-of-step", Exit::Failed, format!("archive {number} was not the one asked for"))
            .remote(&self.remote)
    }
}

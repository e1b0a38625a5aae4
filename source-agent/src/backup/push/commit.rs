//! The commit of a snapshot on one remote: pages, body, what the sink lacks, head, receipt.

use super::{CommitJob, Committed, Pusher};
use crate::client::Answer;
use crate::report::{Exit, Failure, Outcome};
use shared::codec::List;
use shared::format::snapshot::{FLAG_CHECKPOINT, RemoteHead};
use shared::format::{Head, Page};
use shared::id::{Digest, SessionId};
use shared::limits::HEAD_REMOTES_MAX;
use shared::signature::{Plain, Verified, sign};
use shared::wire::Missing;
use std::collections::HashSet;

/// The code of a remote that lacks archives and cannot be given them.
const MISSING: &str = "missing-archives";

impl Pusher {
    pub(super) fn commit_until_done(&mut self, job: &CommitJob) -> Outcome<Committed> {
        loop {
            match self.commit(job) {
                Err(failure) => self.lost(failure)?,
                done => return done,
            }
        }
    }

    /// Body first, and the sink pins its refs or says what it lacks; only then is the head signed, made durable here,
    /// and sent as the same bytes until receipted.
    ///
    /// A crash before `begin` leaves an unreferenced body at the sink; after it, a pending head that the next run sends
    /// again; after the receipt came and before it is remembered, a pending head that the next run finds at the sink.
    fn commit(&mut self, job: &CommitJob) -> Outcome<Committed> {
        self.wait_for_archives()?;
        if let Some(digest) = self.receipted(job) {
            return Ok(Committed::Done(digest));
        }
        self.send_envelope()?;
        let mut missing = self.send_body(job, None)?;
        if missing.archives.is_empty() && !missing.pages.is_empty() {
            let lacking = missing.pages.to_vec();
            self.session.index.note_pages(&self.remote.facts, &lacking, false)?;
            missing = self.send_body(job, Some(&lacking))?;
        }
        if !missing.is_empty() {
            return self.missing(job, &missing);
        }
        let head = self.head(job)?;
        let digest = head.digest();
        self.send_head(&head)?;
        self.lacking.committed();
        Ok(Committed::Done(digest))
    }

    /// The pending head of this very job was receipted while the line was joined again.
    fn receipted(&self, job: &CommitJob) -> Option<Digest> {
        let last = self.remote.state.remembered.as_ref()?;
        self.remote.state.pending.is_none().then_some(())?;
        (self.sent_head.as_ref()? == &(job.body.digest(), last.head)).then_some(last.head)
    }

    fn missing(&mut self, job: &CommitJob, missing: &Missing) -> Outcome<Committed> {
        let index = &self.session.index;
        index.note_pages(&self.remote.facts, &missing.pages, false)?;
        let archives: Vec<u64> = missing.archives.iter().map(|number| number.get()).collect();
        let named: HashSet<u64> =
            job.pages.iter().flat_map(|page| page.archives.iter()).map(|entry| entry.number.get()).collect();
        if archives.is_empty() || !archives.iter().all(|number| named.contains(number)) {
            let message = "the sink says that it lacks what this snapshot does not name";
            return Err(Failure::new("sink-lies", Exit::Tampered, message).remote(self.remote.dial.name()));
        }
        index.drop_presence(&self.remote.facts, &archives)?;
        // An archive that was written again without its dead blocks is still listed with its number and id: its presence
        // comes back, and its chunks must not.
        index.forget_chunks(&archives)?;
        let failed = |message: String| Failure::new(MISSING, Exit::Failed, message).remote(self.remote.dial.name());
        if !job.again {
            let message = format!(
                "the sink lacks {} archives that this snapshot refers to, and standard input cannot be read twice",
                archives.len()
            );
            return Err(failed(message).help("run the same command again: what is lacking is sent then"));
        }
        // The snapshot behind a checkpoint may name the same ones: it was begun before.
        if job.flags & FLAG_CHECKPOINT == 0 {
            let taken = self.lacking.take(&archives);
            taken.map_err(|why| failed(why.into()).help("ask its operator to run: remote-sink verify"))?;
        }
        Ok(Committed::Missing(archives))
    }

    /// Pages and body in one go: the sink answers each in turn, and pins nothing for a body whose pages it lacks.
    fn send_body(&mut self, job: &CommitJob, only: Option<&[Digest]>) -> Outcome<Missing> {
        let known = self.session.index.pages(&self.remote.facts)?;
        let wanted = |page: &&Plain<Page>| match only {
            Some(only) => only.contains(&page.digest()),
            None => !known.contains(&page.digest()),
        };
        let pages: Vec<&Plain<Page>> = job.pages.iter().filter(wanted).collect();
        for page in &pages {
            self.send(|sender| sender.page(page))?;
        }
        self.send(|sender| sender.body(&job.body))?;
        for _ in &pages {
            match self.answer()? {
                Answer::Stored { .. } => {}
                other => return Err(self.unexpected(other)),
            }
        }
        let digests: Vec<Digest> = pages.iter().map(|page| page.digest()).collect();
        self.session.index.note_pages(&self.remote.facts, &digests, true)?;
        match self.answer()? {
            Answer::Missing(missing) => Ok(missing),
            other => Err(self.unexpected(other)),
        }
    }

    /// The head of this job: the pending one if it is that already, else a new one, durable before it is sent.
    fn head(&mut self, job: &CommitJob) -> Outcome<Verified<Head>> {
        let key = self.session.signing.verify_key();
        if let Some((head, body)) = self.remote.state.pending(&key)? {
            if body.digest() == job.body.digest() {
                return Ok(head);
            }
            let message = "another snapshot still waits for its receipt";
            return Err(Failure::new("pending", Exit::Failed, message)
                .remote(self.remote.dial.name())
                .help("run the same command again: it is sent first"));
        }
        let state = &self.remote.state;
        let last = state.remembered.as_ref();
        let chain = state.chain();
        let others: Vec<RemoteHead> = self.remote.others.iter().take(HEAD_REMOTES_MAX).cloned().collect();
        let failed = |e: shared::codec::FormatError| Failure::new("head", Exit::Failed, e.to_string());
        let head = Head {
            source: chain.source,
            lineage: chain.lineage,
            sink: chain.sink,
            sequence: last.map_or(0, |last| last.sequence + 1),
            previous: last.map(|last| last.head),
            series: job.series,
            flags: job.flags,
            created: job.created,
            session: SessionId::new(*self.session.envelope.digest().as_bytes()),
            body: job.body.digest(),
            remotes: List::new(others).map_err(failed)?,
            reason: state.resume_reason.clone(),
        };
        let head = sign(head, &self.session.signing).map_err(failed)?;
        self.remote.state.begin(&self.session.state_dir, &head, &job.body)?;
        Ok(head)
    }

    pub(super) fn send_head(&mut self, head: &Verified<Head>) -> Outcome<()> {
        self.sent_head = Some((head.body, head.digest()));
        self.send(|sender| sender.head(head))?;
        match self.answer()? {
            Answer::Receipt(receipt) => self
                .remote
                .state
                .acknowledge(&self.session.state_dir, &receipt)
                .map_err(|failure| failure.remote(self.remote.dial.name())),
            other => Err(self.unexpected(other)),
        }
    }
}

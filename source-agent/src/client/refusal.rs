//! The sink's "no", and its lies, as failures (docs/protocol.md, section "Refusals").

use crate::report::{Exit, Failure};
use shared::wire::{RefusalCode, Refused, Reply};

/// A refusal with its code, for callers that go on.
#[derive(Debug)]
pub struct Refusal {
    pub code: RefusalCode,
    pub failure: Failure,
}

/// Does the sink end the session after this refusal?
pub fn ends_session(code: RefusalCode) -> bool {
    use RefusalCode as C;
    matches!(code, C::Malformed | C::NotAllowed | C::Signature | C::Internal | C::Timeout | C::Version | C::Busy)
}

fn class(code: RefusalCode) -> (&'static str, Exit, Option<&'static str>) {
    use RefusalCode as C;
    match code {
        C::Malformed => {
            ("malformed", Exit::Failed, Some("the two programs disagree about the protocol: compare their versions"))
        }
        C::NotAllowed => (
            "not-allowed",
            Exit::NotFound,
            Some("ask the operator what this key is enrolled for (remote-sink sources)"),
        ),
        C::Signature => (
            "refused-signature",
            Exit::Tampered,
            Some("the sink found a signature or hash that does not fit; run: source-agent doctor"),
        ),
        C::Quota => (
            "quota",
            Exit::Full,
            Some("ask the operator for a larger quota, or for retention (remote-sink retention, prune)"),
        ),
        C::Full => ("sink-full", Exit::Full, Some("the operator must free space there (remote-sink prune)")),
        C::Conflict => (
            "conflict",
            Exit::Tampered,
            Some("another machine writes under this source; see: source-agent remote test"),
        ),
        C::Chain => (
            "chain",
            Exit::Tampered,
            Some("this machine and the sink disagree about the newest snapshot; see: source-agent remote test"),
        ),
        C::NotFound => ("not-found", Exit::NotFound, None),
        C::Busy => {
            ("busy", Exit::Busy, Some("wait for the other session of this source to end; a silent one is taken over"))
        }
        C::Internal => {
            ("sink-failed", Exit::Failed, Some("the operator finds more in the sink's log (remote-sink doctor)"))
        }
        C::Version => ("version", Exit::Unreachable, None),
        C::Cap => ("cap", Exit::Full, Some("it is a limit of the sink for this source: ask its operator")),
        C::Timeout => ("sink-timeout", Exit::Unreachable, Some("the sink ended a silent or slow session; try again")),
        C::Expired => {
            ("expired", Exit::NotFound, Some("it was removed by the operator's retention; see: source-agent snapshots"))
        }
        C::Damaged => {
            ("damaged", Exit::Tampered, Some("another remote may hold it; the source's next backup heals it"))
        }
    }
}

impl Refusal {
    pub fn new(refused: &Refused, remote: &str) -> Self {
        let (code, exit, help) = class(refused.code);
        // `Refused` displays its message printable and bounded.
        let failure = Failure::new(code, exit, format!("the sink refused: {refused}")).remote(remote);
        let failure = match help {
            Some(help) => failure.help(help),
            None => failure,
        };
        Self { code: refused.code, failure }
    }
}

/// What a sink sent that no honest one would.
pub(super) fn lie(message: impl Into<String>) -> Failure {
    Failure::new("sink-lies", Exit::Tampered, message)
        .help("do not trust this sink's answers; compare with its operator, and check your other remotes")
}

pub(super) fn unexpected(reply: &Reply) -> Failure {
    let name = match reply {
        Reply::Welcome(_) => "welcome",
        Reply::Pong => "pong",
        Reply::Stored(_) => "stored",
        Reply::Refused(_) => "refused",
        Reply::Missing(_) => "missing",
        Reply::Receipt(_) => "receipt",
        Reply::Object(_) => "object",
        Reply::Piece(_) => "piece",
        Reply::End => "end",
        Reply::Sources(_) => "sources",
        Reply::Heads(_) => "heads",
        Reply::Archives(_) => "archives",
        Reply::Damaged(_) => "damaged",
    };
    lie(format!("the sink answered '{name}' to something else"))
}

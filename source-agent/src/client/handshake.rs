//! Banner, Hello, Welcome (docs/protocol.md, section "Handshake").

use super::refusal::{self, Refusal};
use super::{Client, Reading, next_reply};
use crate::report::{Exit, Failure, Outcome};
use crate::transport::{Guard, Pipe};
use shared::codec::Text;
use shared::id::{Lineage, Salt, SourceId, VerifyKey};
use shared::signature::{Signed, Verified};
use shared::text::printable;
use shared::wire::request::hello_frame;
use shared::wire::{BANNER, Hello, Reply, Role, VERSION, Welcome, write_frame};
use std::collections::VecDeque;
use std::io::{BufReader, BufWriter, Read, Write};

/// Bytes of a foreign greeting that are shown.
const SHOWN_BYTES_MAX: u64 = 200;

/// Who we say we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// A source that pushes, and its lineage.
    Push { source: SourceId, lineage: Lineage },
    /// A reader or auditor.
    Other,
}

/// Greets the sink behind a pipe; on return it has proved the pinned key and answered our nonce.
pub fn greet(pipe: Pipe, remote: &str, sink: &VerifyKey, greeting: Greeting) -> Outcome<Client> {
    let Pipe { reader, writer, guard } = pipe;
    let mut reader: Reading = BufReader::with_capacity(64 << 10, reader);
    let mut writer = BufWriter::with_capacity(64 << 10, writer);
    let nonce = Salt::random();
    let hello = hello(nonce, greeting);
    // Sent before the banner is read: one round trip. A sink that is none cannot use it for anything.
    let sent = write_frame(&mut writer, hello.tag, &hello.payload)
        .map_err(|e| e.to_string())
        .and_then(|()| writer.flush().map_err(|e| e.to_string()));
    banner(&mut reader, &guard).map_err(|failure| failure.remote(remote))?;
    sent.map_err(|e| guard.explain(&e).remote(remote))?;
    let signed = match next_reply(&mut reader, &guard, remote)? {
        Reply::Welcome(signed) => signed,
        Reply::Refused(refused) => return Err(version_named(Refusal::new(&refused, remote))),
        other => return Err(refusal::unexpected(&other).remote(remote)),
    };
    let welcome = check(&signed, sink, &nonce, greeting).map_err(|failure| failure.remote(remote))?;
    let (remote, ahead, objects_ahead) = (remote.to_owned(), VecDeque::new(), VecDeque::new());
    Ok(Client { remote, reader, writer, guard, welcome, ahead, objects_ahead, broken: false })
}

fn hello(nonce: Salt, greeting: Greeting) -> shared::wire::Frame {
    let (source, lineage) = match greeting {
        Greeting::Push { source, lineage } => (Some(source), Some(lineage)),
        Greeting::Other => (None, None),
    };
    hello_frame(&Hello {
        version_min: VERSION,
        version_max: VERSION,
        nonce,
        program: Text::truncated(&program()),
        source,
        lineage,
    })
}

/// This program and its version, for messages.
pub fn program() -> String {
    concat!("source-agent ", env!("CARGO_PKG_VERSION")).to_owned()
}

/// Reads the banner; text of something else is shown.
fn banner(reader: &mut Reading, guard: &Guard) -> Outcome<()> {
    let mut got = Vec::new();
    let read = reader.by_ref().take(BANNER.len() as u64).read_to_end(&mut got);
    if got == BANNER {
        return Ok(());
    }
    if got.is_empty() {
        let cause = read.err().map_or_else(|| "nothing came from the sink".to_owned(), |e| e.to_string());
        return Err(guard.explain(&cause));
    }
    if got.starts_with(b"pawl-sink wire") {
        let shown = printable(got.trim_ascii_end(), 40);
        let message = format!("the sink speaks '{shown}', {} speaks wire {VERSION}", program());
        return Err(Failure::new("version", Exit::Unreachable, message).help("update the older of the two programs"));
    }
    // What follows usually comes in the same write; its end or the stream's timeout ends the wait.
    if read.is_ok() {
        let _ = reader.take(SHOWN_BYTES_MAX - got.len() as u64).read_to_end(&mut got);
    }
    Err(foreign(&got, guard))
}

fn foreign(got: &[u8], guard: &Guard) -> Failure {
    let ending = guard.ending();
    if ending.status == Some(127) {
        return guard.explain("no sink answered");
    }
    let shown = printable(got.trim_ascii(), SHOWN_BYTES_MAX as usize);
    let failure = Failure::new("not-a-sink", Exit::Unreachable, "what answers there is not a sink")
        .detail(format!("it said: {shown}"));
    let failure = match ending.status {
        Some(status) => failure.detail(format!("and ended with exit code {status}")),
        None => failure,
    };
    failure.help("the account there needs /bin/sh as shell, start-up files that print nothing, and the forced command of: remote-sink enroll")
}

/// A version refusal names both versions.
fn version_named(refusal: Refusal) -> Failure {
    if refusal.code != shared::wire::RefusalCode::Version {
        return refusal.failure;
    }
    refusal
        .failure
        .detail(format!("{} speaks protocol version {VERSION}", program()))
        .help("update the older of the two programs")
}

fn check(signed: &[u8], sink: &VerifyKey, nonce: &Salt, greeting: Greeting) -> Outcome<Verified<Welcome>> {
    let wrong = |why: String| {
        Failure::new("sink-key", Exit::Tampered, why)
            .detail(format!("pinned sink key  {}", shared::text::base64(sink.as_bytes())))
            .help("another sink answers at this address; ask its operator for a new card and compare its words, then: source-agent remote repin")
    };
    let signed = Signed::<Welcome>::parse(signed).map_err(|e| refusal::lie(format!("a welcome: {e}")))?;
    let welcome = signed.verify(sink).map_err(|_| wrong("the sink does not prove the pinned sink key".into()))?;
    if welcome.sink != *sink {
        return Err(wrong("the sink names another key than it signs with".into()));
    }
    if welcome.nonce != *nonce {
        return Err(refusal::lie("the welcome answers another nonce: an old session was replayed"));
    }
    if welcome.version != VERSION {
        let message = format!(
            "{} chose protocol version {}, {} speaks {VERSION}",
            shown_program(&welcome),
            welcome.version,
            program()
        );
        return Err(Failure::new("version", Exit::Unreachable, message).help("update the older of the two programs"));
    }
    check_role(&welcome, greeting)?;
    Ok(welcome)
}

/// The sink's program, safe to show.
pub fn shown_program(welcome: &Welcome) -> String {
    printable(welcome.program.as_bytes(), 60)
}

fn check_role(welcome: &Welcome, greeting: Greeting) -> Outcome<()> {
    let Greeting::Push { source, lineage } = greeting else { return Ok(()) };
    if welcome.role != Role::Push {
        let message = format!("this key is enrolled there with role {}, not push", welcome.role);
        return Err(
            Failure::new("role", Exit::NotFound, message).help("ask the operator: remote-sink enroll --role push")
        );
    }
    if welcome.source != Some(source) || welcome.lineage != Some(lineage) {
        return Err(refusal::lie("the sink's welcome is for another source or lineage"));
    }
    Ok(())
}

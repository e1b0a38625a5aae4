//! Reading the journal's file (docs/format.md, section "Operator's journal"), and telling an entry that a crash cut from
//! one that somebody changed.

use super::{Entry, JournalError, Memory, io_error};
use shared::id::VerifyKey;
use shared::signature::{self, HEADER_BYTES, Object, SIGNATURE_BYTES, Signed, Verified};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// Longest end of the file that a single cut entry can leave.
const TAIL_BYTES_MAX: usize = 2 * Entry::BYTES_MAX;
/// So many zeros at the end are what a file system leaves where it had not written yet; no signature ends like that.
const ZEROS_MIN: usize = 32;

/// What the file holds.
#[derive(Default)]
pub struct Log {
    pub memory: Memory,
    /// Where the last whole entry ends.
    pub whole: u64,
    /// What lies behind it: an entry that a crash cut.
    pub tail: Vec<u8>,
}

/// Why the file cannot be read on.
enum Stop {
    Io(io::Error),
    /// The next bytes are no entry that follows.
    Wrong(String),
}

/// All whole entries, and what a crash left of the last one.
pub fn read(path: &Path, key: &VerifyKey) -> Result<Log, JournalError> {
    let mut log = Log::default();
    let mut file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(log),
        file => BufReader::with_capacity(1 << 16, file.map_err(io_error("open", path))?),
    };
    loop {
        match next(&mut file, &log.memory, key) {
            Ok(Some(entry)) => {
                log.whole += entry.as_bytes().len() as u64;
                log.memory.take(entry.digest(), entry.into_value());
            }
            Ok(None) => return Ok(log),
            Err(Stop::Io(error)) => return Err(io_error("read", path)(error)),
            Err(Stop::Wrong(why)) => {
                log.tail = read_tail(&mut file, log.whole).map_err(io_error("read", path))?;
                let number = log.memory.entries;
                return if is_cut(&log.tail, key) { Ok(log) } else { Err(JournalError::Entry { number, why }) };
            }
        }
    }
}

/// The next entry; `None` at the end of the file.
fn next(file: &mut impl Read, memory: &Memory, key: &VerifyKey) -> Result<Option<Verified<Entry>>, Stop> {
    let wrong = |why: String| Stop::Wrong(why);
    let mut bytes = Vec::with_capacity(512);
    let got = file.take(HEADER_BYTES as u64).read_to_end(&mut bytes).map_err(Stop::Io)?;
    if got == 0 {
        return Ok(None);
    }
    let length = match signature::peek(&bytes) {
        Some((kind, length)) if kind == Entry::KIND && length <= Entry::BYTES_MAX => length + SIGNATURE_BYTES,
        _ => return Err(wrong("it does not begin like one".into())),
    };
    if file.take(length as u64).read_to_end(&mut bytes).map_err(Stop::Io)? < length {
        return Err(wrong("the file ends within it".into()));
    }
    let entry = Signed::<Entry>::parse(&bytes).map_err(|e| wrong(e.to_string()))?;
    let entry = entry.verify(key).map_err(|e| wrong(e.to_string()))?;
    if (entry.number, entry.previous) != (memory.entries, memory.last) {
        return Err(wrong("it does not follow the one before it".into()));
    }
    Ok(Some(entry))
}

/// The end of the file, or more of it than a crash can leave.
fn read_tail(file: &mut (impl Read + Seek), from: u64) -> io::Result<Vec<u8>> {
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.take(TAIL_BYTES_MAX as u64 + 1).read_to_end(&mut tail)?;
    Ok(tail)
}

/// Did a crash within an append leave this? Then it is the beginning of one entry, zeros may follow, and nothing in it
/// was ever signed as a whole.
fn is_cut(tail: &[u8], key: &VerifyKey) -> bool {
    let written = tail.len() - tail.iter().rev().take_while(|byte| **byte == 0).count();
    let data = if tail.len() - written >= ZEROS_MIN { &tail[..written] } else { tail };
    let ends_early = match signature::peek(data) {
        None => data.len() < HEADER_BYTES,
        Some((kind, length)) => {
            kind == Entry::KIND && length <= Entry::BYTES_MAX && data.len() < HEADER_BYTES + length + SIGNATURE_BYTES
        }
    };
    ends_early && tail.len() <= TAIL_BYTES_MAX && !holds_entry(tail, key)
}

/// Is there an entry somewhere in it, signed with our key? Then not a crash but a changed length hides it.
fn holds_entry(tail: &[u8], key: &VerifyKey) -> bool {
    let is_entry = |bytes: &[u8]| {
        let entry = Signed::<Entry>::parse_prefix(bytes).ok();
        entry.is_some_and(|(entry, _)| entry.verify(key).is_ok())
    };
    let mut corrected = tail.to_vec();
    let length = tail.len().checked_sub(HEADER_BYTES + SIGNATURE_BYTES).and_then(|length| u32::try_from(length).ok());
    if let (Some(length), Some(place)) = (length, corrected.get_mut(8..HEADER_BYTES)) {
        place.copy_from_slice(&length.to_le_bytes());
    }
    is_entry(&corrected) || (0..tail.len()).any(|at| signature::peek(&tail[at..]).is_some() && is_entry(&tail[at..]))
}

//! A tree as a tar stream (POSIX pax format), for `dump`.

use crate::report::Outcome;
use crate::restore::objects::is_lost;
use crate::restore::ordered::{self, failed};
use crate::restore::reader::Reader;
use crate::restore::walk::Extents;
use crate::tree::{Entry, EntryKind, Extent};
use std::io::{self, Write};

const BLOCK: usize = 512;

/// A pax record: its length in decimal counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn octal(field: &mut [u8], number: u64) {
    let digits = field.len() - 1;
    let text = format!("{number:0digits$o}");
    // What does not fit stands in the pax records.
    let text = if text.len() > digits { "7".repeat(digits) } else { text };
    field[..digits].copy_from_slice(text.as_bytes());
}

fn header(name: &[u8], entry: &Entry, kind: u8, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let short = &name[..name.len().min(100)];
    block[..short.len()].copy_from_slice(short);
    octal(&mut block[100..108], u64::from(entry.mode));
    octal(&mut block[108..116], u64::from(entry.user.id));
    octal(&mut block[116..124], u64::from(entry.group.id));
    octal(&mut block[124..136], size);
    octal(&mut block[136..148], u64::try_from(entry.modified.seconds).unwrap_or(0));
    block[148..156].fill(b' ');
    block[156] = kind;
    if let Some(target) = &entry.target {
        let short = &target[..target.len().min(100)];
        block[157..157 + short.len()].copy_from_slice(short);
    }
    block[257..265].copy_from_slice(b"ustar\x0000");
    for (field, owner) in [(265, &entry.user), (297, &entry.group)] {
        let name = owner.name.as_ref().map_or(&b""[..], |name| name.as_bytes());
        let short = &name[..name.len().min(31)];
        block[field..field + short.len()].copy_from_slice(short);
    }
    if let Some(device) = entry.device {
        octal(&mut block[329..337], u64::from(device.major));
        octal(&mut block[337..345], u64::from(device.minor));
    }
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    block[155] = b' ';
    block
}

fn padding(out: &mut dyn Write, bytes: u64) -> io::Result<()> {
    let over = (bytes % BLOCK as u64) as usize;
    if over == 0 { Ok(()) } else { out.write_all(&[0; BLOCK][over..]) }
}

/// Writes one member. `path` has no slash at the beginning. Says `false` if its content could not be had at all; content
/// that breaks off in the middle ends the stream with a failure.
pub fn member(reader: &mut Reader<'_>, path: &[u8], entry: &Entry, out: &mut (dyn Write + Send)) -> Outcome<bool> {
    let mut name = path.to_vec();
    if entry.kind == EntryKind::Directory {
        name.push(b'/');
    }
    let kind = match entry.kind {
        EntryKind::File => b'0',
        EntryKind::Symlink => b'2',
        EntryKind::CharDevice => b'3',
        EntryKind::BlockDevice => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    };
    let size = if entry.kind == EntryKind::File { entry.size } else { 0 };
    let mut pax = Vec::new();
    record(&mut pax, b"path", &name);
    record(&mut pax, b"mtime", format!("{}.{:09}", entry.modified.seconds, entry.modified.nanoseconds).as_bytes());
    record(&mut pax, b"size", size.to_string().as_bytes());
    record(&mut pax, b"uid", entry.user.id.to_string().as_bytes());
    record(&mut pax, b"gid", entry.group.id.to_string().as_bytes());
    if let Some(target) = &entry.target {
        record(&mut pax, b"linkpath", target);
    }
    for xattr in entry.xattrs.iter().flat_map(|xattrs| xattrs.iter()).filter(|xattr| !xattr.name.contains(&b'=')) {
        record(&mut pax, &[b"SCHILY.xattr.", &xattr.name[..]].concat(), &xattr.value);
    }
    // The first chunk is read before anything is promised, so that a lost file is left out as a whole.
    let mut extents = Extents::new(entry);
    match extents.next(reader) {
        Ok(Some((_, Extent::Chunk(chunk)))) => match reader.chunk(&chunk) {
            Err(failure) if is_lost(&failure) => return Ok(false),
            other => drop(other?),
        },
        Err(failure) if is_lost(&failure) => return Ok(false),
        other => drop(other?),
    }
    let write = |out: &mut dyn Write| -> io::Result<()> {
        out.write_all(&header(b"pax", entry, b'x', pax.len() as u64))?;
        out.write_all(&pax)?;
        padding(out, pax.len() as u64)?;
        out.write_all(&header(&name, entry, kind, size))
    };
    write(out).map_err(failed)?;
    ordered::content(reader, entry, out)?;
    padding(out, size).map_err(failed)?;
    Ok(true)
}

/// Ends the stream.
pub fn end(out: &mut dyn Write) -> Outcome<()> {
    out.write_all(&[0; 2 * BLOCK]).and_then(|()| out.flush()).map_err(failed)
}

//! Reading content: holes are skipped, the rest is cut, and each chunk goes to who keeps it.

use super::chunk::{CHUNK_BYTES_MOST, Cut, Cutter, IMAGE_CHUNK_BYTES, is_image, is_zero};
use super::lay::Lane;
use super::list::{Content, ListBuilder};
use super::meta;
use super::outcome::Met;
use super::stop::{Stop, stopped};
use super::store::Keep;
use crate::index::uses::Uses;
use crate::progress::Progress;
use crate::report::Outcome;
use rustix::fs::{Advice, SeekFrom, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes that a thread reads ahead of cutting: two of the largest chunks. More would move less and take more memory.
const BUFFER_BYTES: usize = 2 * CHUNK_BYTES_MOST;
/// A file that claims to be empty may be made by the kernel or by a driver; so much of it is read.
const UNSIZED_BYTES_MAX: u64 = 16 << 20;

/// Why a file is not in the snapshot.
pub enum Issue {
    Gone,
    Unreadable(io::Error),
    /// The run cannot go on.
    Fatal(crate::report::Failure),
}

impl From<Errno> for Issue {
    fn from(e: Errno) -> Self {
        match e {
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR => Self::Gone,
            e if meta::is_exhausted(e) => Self::Fatal(meta::exhausted(e)),
            e => Self::Unreadable(e.into()),
        }
    }
}
impl From<io::Error> for Issue {
    fn from(e: io::Error) -> Self {
        Self::Unreadable(e)
    }
}
impl From<crate::report::Failure> for Issue {
    fn from(failure: crate::report::Failure) -> Self {
        Self::Fatal(failure)
    }
}

/// What is known of a file before it is read.
#[derive(Clone, Copy)]
pub struct Of<'a> {
    pub name: &'a [u8],
    pub stat: &'a Stat,
    pub size: u64,
    /// A block device.
    pub device: bool,
}

/// One thread's way to read content.
pub struct Contents<'a> {
    cutter: &'a Cutter,
    progress: &'a Progress,
    met: Arc<Met>,
    stop: Arc<Stop>,
    buffer: Vec<u8>,
}

impl<'a> Contents<'a> {
    pub fn new(cutter: &'a Cutter, progress: &'a Progress, met: Arc<Met>, stop: Arc<Stop>) -> Self {
        // Untouched pages of a zeroed buffer take no memory.
        Self { cutter, progress, met, stop, buffer: vec![0; BUFFER_BYTES] }
    }

    /// Reads, cuts and stores what is not a hole.
    pub fn read(&mut self, file: &File, of: &Of, keep: &mut dyn Keep) -> Result<(Content, u64, Uses), Issue> {
        let Of { name, stat, size, device } = *of;
        let mut list = ListBuilder::default();
        let mut begin = [0; 4096];
        let image = !device && size >= (1 << 20) && {
            let bytes = file.read_at(&mut begin, 0)?;
            is_image(name, size, &begin[..bytes])
        };
        let cut = if device || image { Cut::Fixed } else { Cut::Content };
        if size > BUFFER_BYTES as u64 {
            // Advice may be ignored.
            let _ = rustix::fs::fadvise(file, 0, None, Advice::Sequential);
        }
        let end = if size == 0 { UNSIZED_BYTES_MAX } else { size };
        let sparse = !device && (stat.st_blocks as u64).saturating_mul(512) < size;
        let mut at = 0;
        while at < end {
            let (data, stop) = match (sparse, cut) {
                (false, _) => (at, end),
                (true, Cut::Content) => next_data(file, at, end),
                (true, Cut::Fixed) => aligned(next_data(file, at, end), at, end),
            };
            list.hole(data - at, keep)?;
            at = data;
            if data < stop {
                let read = self.stretch(file, (data, stop), cut, &mut list, keep)?;
                at += read;
                if at < stop {
                    // Shorter than it was: its end.
                    break;
                }
            }
        }
        Ok(list.finish(keep)?)
    }

    /// Reads from `begin` to `end`, or to the end of the file; returns the bytes read.
    fn stretch(
        &mut self,
        file: &File,
        (begin, end): (u64, u64),
        cut: Cut,
        list: &mut ListBuilder,
        keep: &mut dyn Keep,
    ) -> Result<u64, Issue> {
        let mut at = begin;
        let read = |buffer: &mut [u8]| {
            let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let bytes = if wanted == 0 { 0 } else { file.read_at(&mut buffer[..wanted], at)? };
            at += bytes as u64;
            Ok((bytes, at >= end))
        };
        self.pump(read, cut, list, keep)?;
        Ok(at - begin)
    }

    /// Fills the buffer, cuts, stores, until there is no more. `read` returns bytes and whether these were the last.
    fn pump(
        &mut self,
        mut read: impl FnMut(&mut [u8]) -> io::Result<(usize, bool)>,
        cut: Cut,
        list: &mut ListBuilder,
        keep: &mut dyn Keep,
    ) -> Result<(), Issue> {
        let (mut low, mut high, mut ended) = (0, 0, false);
        loop {
            while !ended && high < BUFFER_BYTES {
                match read(&mut self.buffer[high..]) {
                    Ok((0, _)) => ended = true,
                    Ok((bytes, last)) => {
                        high += bytes;
                        ended = last;
                        self.met.bytes_read.add(bytes as u64);
                        self.progress.add(bytes as u64);
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    // A run that is to end has its reason already.
                    Err(_) if self.stop.is_set() => return Err(stopped().into()),
                    Err(e) => return Err(e.into()),
                }
            }
            while high > low && (ended || high - low >= CHUNK_BYTES_MOST) {
                low += store_next(&self.buffer[low..high], cut, self.cutter, keep, list)?;
            }
            if ended {
                return Ok(());
            }
            if self.stop.is_set() {
                return Err(stopped().into());
            }
            self.buffer.copy_within(low..high, 0);
            (low, high) = (0, high - low);
        }
    }

    /// A stream of unknown length.
    pub fn stream(&mut self, from: &mut dyn Read, keep: &mut dyn Keep) -> Result<(Content, u64, Uses), Issue> {
        let mut list = ListBuilder::default();
        self.pump(|buffer| Ok((from.read(buffer)?, false)), Cut::Content, &mut list, keep)?;
        Ok(list.finish(keep)?)
    }
}

/// Stores the chunk that `data` begins with; returns its length.
fn store_next(data: &[u8], cut: Cut, cutter: &Cutter, keep: &mut dyn Keep, list: &mut ListBuilder) -> Outcome<usize> {
    match cut {
        Cut::Content => {
            let length = cutter.cut(&data[..data.len().min(CHUNK_BYTES_MOST)]);
            let chunk = keep.put(Lane::Files, &data[..length])?;
            list.chunk(chunk, keep)?;
            Ok(length)
        }
        Cut::Fixed => {
            let length = data.len().min(IMAGE_CHUNK_BYTES);
            if is_zero(&data[..length]) {
                list.hole(length as u64, keep)?;
            } else {
                let chunk = keep.put(Lane::Images, &data[..length])?;
                list.chunk(chunk, keep)?;
            }
            Ok(length)
        }
    }
}

pub fn device_bytes(device: &File) -> io::Result<u64> {
    Ok(rustix::fs::seek(device, SeekFrom::End(0))?)
}

/// The same stretch on the grid of fixed chunks, so that a hole that is filled moves no chunk beside it.
fn aligned((data, stop): (u64, u64), at: u64, end: u64) -> (u64, u64) {
    let step = IMAGE_CHUNK_BYTES as u64;
    ((data / step * step).max(at), stop.div_ceil(step).saturating_mul(step).min(end))
}

/// The next stretch of data at or behind `at`: its begin and its end.
fn next_data(file: &File, at: u64, end: u64) -> (u64, u64) {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) if data < end => {
            let hole = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap_or(end);
            (data, hole.clamp(data + 1, end))
        }
        // Nothing but a hole up to the end.
        Ok(_) | Err(Errno::NXIO) => (end, end),
        // No such knowledge: all of it is data.
        Err(_) => (at, end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_lost_mount_hides_did_not_vanish() {
        assert!(matches!(Issue::from(Errno::NOENT), Issue::Gone));
        assert!(matches!(Issue::from(Errno::STALE), Issue::Unreadable(_)));
    }
}

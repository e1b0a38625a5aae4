//! Frames (docs/protocol.md, section "Frames"): length (u32, little endian), tag, payload. The length counts tag and payload.

use crate::limits::FRAME_BYTES_MAX;
use std::io::{self, IoSlice, Read, Write};

/// One message, not yet understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub tag: u8,
    pub payload: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes where {FRAME_BYTES_MAX} are allowed")]
    TooLarge(usize),
    #[error("an empty frame")]
    Empty,
    #[error("the connection ended in the middle of a frame")]
    Cut,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a frame begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    pub tag: u8,
    /// Bytes of the payload that follows.
    pub bytes: usize,
}

/// Reads a frame's head; `None` at a clean end of input.
pub fn read_frame_head(from: &mut impl Read) -> Result<Option<FrameHead>, FrameError> {
    let mut head = [0; 5];
    let mut got = 0;
    while got < head.len() {
        match from.read(&mut head[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(FrameError::Cut),
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if length == 0 {
        return Err(FrameError::Empty);
    }
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge(length));
    }
    Ok(Some(FrameHead { tag: head[4], bytes: length - 1 }))
}

/// Reads what follows a head. Memory grows with what arrives, not with what is announced.
pub fn read_frame_rest(from: &mut impl Read, head: FrameHead) -> Result<Frame, FrameError> {
    let mut payload = Vec::with_capacity(head.bytes.min(256 << 10));
    let read = from.take(head.bytes as u64).read_to_end(&mut payload)?;
    if read != head.bytes {
        return Err(FrameError::Cut);
    }
    Ok(Frame { tag: head.tag, payload })
}

/// Reads one frame; `None` at a clean end of input.
pub fn read_frame(from: &mut impl Read) -> Result<Option<Frame>, FrameError> {
    read_frame_head(from)?.map(|head| read_frame_rest(from, head)).transpose()
}

/// Writes one frame without flushing, in a single call where the other side takes as much.
pub fn write_frame(to: &mut impl Write, tag: u8, payload: &[u8]) -> Result<(), FrameError> {
    let length = payload.len() + 1;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge(length));
    }
    let mut head = [0; 5];
    head[..4].copy_from_slice(&(length as u32).to_le_bytes());
    head[4] = tag;
    let written = loop {
        match to.write_vectored(&[IoSlice::new(&head), IoSlice::new(payload)]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            written => break written?,
        }
    };
    to.write_all(head.get(written..).unwrap_or_default())?;
    to.write_all(payload.get(written.saturating_sub(head.len())..).unwrap_or_default())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_wrong_ones_are_refused() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, 7, b"abc").unwrap();
        let mut from = &bytes[..];
        assert_eq!(read_frame(&mut from).unwrap(), Some(Frame { tag: 7, payload: b"abc".to_vec() }));
        assert!(read_frame(&mut from).unwrap().is_none());
        for cut in 1..bytes.len() {
            assert!(matches!(read_frame(&mut &bytes[..cut]), Err(FrameError::Cut)), "cut at {cut}");
        }
        assert!(matches!(read_frame(&mut &[0, 0, 0, 0, 1][..]), Err(FrameError::Empty)));
        assert!(matches!(read_frame(&mut &[0xff, 0xff, 0xff, 0xff, 1][..]), Err(FrameError::TooLarge(_))));
    }

    /// Takes a few bytes at a time.
    struct Slow(Vec<u8>, usize);

    impl Write for Slow {
        fn write(&mut self, from: &[u8]) -> io::Result<usize> {
            let bytes = from.len().min(self.1);
            self.0.extend_from_slice(&from[..bytes]);
            Ok(bytes)
        }
        fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
            let bytes: Vec<u8> = from.iter().flat_map(|slice| slice.iter().copied()).take(self.1).collect();
            self.0.extend_from_slice(&bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_frame_is_written_whole_however_little_is_taken_at_a_time() {
        let whole = [&[8, 0, 0, 0, 9][..], b"payload"].concat();
        for at_a_time in 1..=whole.len() + 1 {
            let mut slow = Slow(Vec::new(), at_a_time);
            write_frame(&mut slow, 9, b"payload").unwrap();
            assert_eq!(slow.0, whole, "{at_a_time} at a time");
        }
    }
}

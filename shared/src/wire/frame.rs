//! Frames (docs/protocol.md, section "Frames"): length (u32, little endian), tag, payload. The length counts tag and payload.

use crate::limits::FRAME_BYTES_MAX;
use std::io::{self, Read, Write};

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

/// Reads one frame; `None` at a clean end of input. Memory grows with what arrives, not with what is announced.
pub fn read_frame(from: &mut impl Read) -> Result<Option<Frame>, FrameError> {
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
    let mut payload = Vec::with_capacity((length - 1).min(256 << 10));
    let read = from.take(length as u64 - 1).read_to_end(&mut payload)?;
    if read != length - 1 {
        return Err(FrameError::Cut);
    }
    Ok(Some(Frame { tag: head[4], payload }))
}

/// Writes one frame without flushing.
pub fn write_frame(to: &mut impl Write, tag: u8, payload: &[u8]) -> Result<(), FrameError> {
    let length = payload.len() + 1;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge(length));
    }
    let mut head = [0; 5];
    head[..4].copy_from_slice(&(length as u32).to_le_bytes());
    head[4] = tag;
    to.write_all(&head)?;
    to.write_all(payload)?;
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
}

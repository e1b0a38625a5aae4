//! Compression of whole blocks: one zstd frame, or the plain bytes where compression would not help.

use crate::config::Compression;
use crate::report::{Exit, Failure, Outcome};
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

/// Bytes of each of the four probes.
const PROBE_BYTES: usize = 8 << 10;
/// The level of probes: about twice as fast as level 3, and close enough to tell noise.
const PROBE_LEVEL: i32 = -3;
/// Base 2 logarithm of the entries in level 3's table of short matches, for any block (zstd's own choice is 16). What both
/// tables take then stays beside the block in the second cache of a processor: a tenth faster, for 1 % of room at most.
const SHORT_TABLE_LOG: u32 = 13;
/// A block whose probes stay above this share of their size is stored as it is.
const PROBE_PERCENT: usize = 98;

/// Compresses blocks one after another with the same contexts.
pub struct Packer {
    level: Option<i32>,
    compressor: Compressor<'static>,
    probe: Compressor<'static>,
    out: Vec<u8>,
}

impl Packer {
    pub fn new(compression: Compression) -> Outcome<Self> {
        let level = match compression {
            Compression::Auto => Some(3),
            Compression::Off => None,
            Compression::Fast => Some(1),
            Compression::Max => Some(12),
        };
        let new = |level| Compressor::new(level).map_err(|e| failed(&e));
        let mut compressor = new(level.unwrap_or(1))?;
        if compression == Compression::Auto {
            compressor.set_parameter(CParameter::ChainLog(SHORT_TABLE_LOG)).map_err(|e| failed(&e))?;
        }
        Ok(Self { level, compressor, probe: new(PROBE_LEVEL)?, out: Vec::new() })
    }

    /// The block as one zstd frame, valid until the next call; `None` if it is better stored as it is.
    pub fn pack(&mut self, block: &[u8]) -> Outcome<Option<&[u8]>> {
        let Some(_) = self.level else { return Ok(None) };
        if block.len() >= 8 * PROBE_BYTES && !self.is_compressible(block)? {
            return Ok(None);
        }
        self.out.resize(zstd::zstd_safe::compress_bound(block.len()), 0);
        let bytes = self.compressor.compress_to_buffer(block, &mut self.out[..]).map_err(|e| failed(&e))?;
        Ok((bytes < block.len()).then_some(&self.out[..bytes]))
    }

    /// Four probes over the block: do any of them shrink?
    fn is_compressible(&mut self, block: &[u8]) -> Outcome<bool> {
        let step = (block.len() - PROBE_BYTES) / 3;
        let mut packed = 0;
        self.out.resize(zstd::zstd_safe::compress_bound(PROBE_BYTES).max(self.out.len()), 0);
        for at in 0..4 {
            let piece = &block[at * step..at * step + PROBE_BYTES];
            packed += self.probe.compress_to_buffer(piece, &mut self.out[..]).map_err(|e| failed(&e))?;
        }
        Ok(packed * 100 < 4 * PROBE_BYTES * PROBE_PERCENT)
    }
}

fn failed(error: &std::io::Error) -> Failure {
    Failure::new("compress", Exit::Failed, format!("zstd cannot compress a block: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_stored_text_is_not() {
        let mut packer = Packer::new(Compression::Auto).unwrap();
        let noise: Vec<u8> = (0..40).flat_map(|_| shared::sys::random::<8192>()).collect();
        assert_eq!(packer.pack(&noise).unwrap(), None);
        let text = b"the same words again and again ".repeat(20_000);
        let packed = packer.pack(&text).unwrap().expect("text shrinks");
        assert_eq!(zstd::bulk::decompress(packed, text.len()).unwrap(), text);
        let half = [&noise[..100_000], &text[..100_000]].concat();
        assert!(packer.pack(&half).unwrap().is_some());
        assert_eq!(packer.pack(b"x").unwrap(), None);
        let mut off = Packer::new(Compression::Off).unwrap();
        assert_eq!(off.pack(&text).unwrap(), None);
    }
}

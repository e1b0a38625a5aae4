//! Records of directories as they lie in the local index: one zstd frame a directory, about a third of their size.

use super::Corrupt;
use crate::report::{Exit, Failure, Outcome};
use std::io;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{compress_bound, get_frame_content_size};

/// The quickest of the usual levels: what the others would save more are ids and times, which do not shrink.
const LEVEL: i32 = 1;
/// What a byte of a frame may stand for at most: a block of zstd has three bytes or more, and holds up to 128 KiB.
const RATIO_MAX: usize = 1 << 16;

/// Packs rows one after another with the same context.
pub struct RowPacker {
    compressor: Compressor<'static>,
    out: Vec<u8>,
}

/// Opens rows one after another with the same context.
pub struct RowOpener {
    decompressor: Decompressor<'static>,
}

impl RowPacker {
    pub fn new() -> Outcome<Self> {
        let mut compressor = Compressor::new(LEVEL).map_err(failed)?;
        // SQLite has no sums of its own, and what is read here goes unread into the next snapshot.
        compressor.include_checksum(true).map_err(failed)?;
        Ok(Self { compressor, out: Vec::new() })
    }

    /// The packed row, valid until the next call.
    pub fn pack(&mut self, row: &[u8]) -> Outcome<&[u8]> {
        self.out.clear();
        self.out.reserve(compress_bound(row.len()));
        self.compressor.compress_to_buffer(row, &mut self.out).map_err(failed)?;
        Ok(&self.out)
    }
}

impl RowOpener {
    pub fn new() -> Outcome<Self> {
        Ok(Self { decompressor: Decompressor::new().map_err(failed)? })
    }

    /// The row as it was packed. Fails on anything else, without taking more memory than a packed row of this size can
    /// stand for.
    pub fn open(&mut self, packed: &[u8]) -> Outcome<Vec<u8>> {
        let bytes = get_frame_content_size(packed).ok().flatten().ok_or(Corrupt)?;
        let bytes = usize::try_from(bytes).map_err(|_| Corrupt)?;
        if bytes / RATIO_MAX > packed.len() {
            return Err(Corrupt.into());
        }
        let mut row = Vec::new();
        row.try_reserve_exact(bytes).map_err(|_| Corrupt)?;
        self.decompressor.decompress_to_buffer(packed, &mut row).map_err(|_| Corrupt)?;
        if row.len() == bytes { Ok(row) } else { Err(Corrupt.into()) }
    }
}

fn failed(error: io::Error) -> Failure {
    Failure::new("compress", Exit::Failed, format!("zstd cannot pack a row of the local index: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_that_claims_too_much_takes_no_memory() {
        // Magic number, single segment with a content size of 8 bytes, 2^40 bytes, and no block.
        let lie = [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &(1u64 << 40).to_le_bytes()].concat();
        assert_eq!(get_frame_content_size(&lie).unwrap(), Some(1 << 40));
        assert_eq!(RowOpener::new().unwrap().open(&lie).unwrap_err().code, super::super::DAMAGED);
    }

    #[test]
    fn zeros_pack_as_far_as_a_row_may() {
        let row = vec![0; 64 << 20];
        let mut packer = RowPacker::new().unwrap();
        assert_eq!(RowOpener::new().unwrap().open(packer.pack(&row).unwrap()).unwrap(), row);
    }

    #[test]
    fn a_bit_that_flipped_is_noticed() {
        let row: Vec<u8> = (0..500_u32).flat_map(|i| (i * i).to_le_bytes()).collect();
        let packed = RowPacker::new().unwrap().pack(&row).unwrap().to_vec();
        let mut opener = RowOpener::new().unwrap();
        for bit in 0..packed.len() * 8 {
            let mut rotten = packed.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            // A bit of the frame's head may mean nothing.
            assert!(opener.open(&rotten).map_or(true, |opened| opened == row), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn rows_come_back(rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 1..4)) {
            let (mut packer, mut opener) = (RowPacker::new().unwrap(), RowOpener::new().unwrap());
            for row in &rows {
                prop_assert_eq!(&opener.open(packer.pack(row).unwrap()).unwrap(), row);
            }
        }

        #[test]
        fn any_bytes_are_opened_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = RowOpener::new().unwrap().open(&bytes);
        }
    }
}

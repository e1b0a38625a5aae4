//! Cutting (docs/format.md, section "Chunks"): content-defined with the source's secret gear table, or in fixed steps.

use fastcdc::v2020::{Normalization, cut_gear, select_masks};

/// Smallest chunk of a file that has more than one.
pub const CHUNK_BYTES_MIN: usize = 64 << 10;
/// The point around which cuts gather; the mean comes out about 1.36 times as large.
pub const CHUNK_BYTES_MIDDLE: usize = 192 << 10;
/// Largest chunk of a file.
pub const CHUNK_BYTES_MOST: usize = 1 << 20;
/// Chunks of images and block devices: small, as their blocks change in place.
pub const IMAGE_CHUNK_BYTES: usize = 16 << 10;

/// Finds the end of the next chunk.
pub struct Cutter {
    gear: Box<[u64; 256]>,
    gear_shifted: Box<[u64; 256]>,
    strict: u64,
    relaxed: u64,
}

impl Cutter {
    /// `gear` comes from the source secret and the lineage: cut points tell nothing without it.
    pub fn new(gear: Box<[u64; 256]>) -> Self {
        let mut gear_shifted = gear.clone();
        for value in gear_shifted.iter_mut() {
            *value <<= 1;
        }
        // 2^18 = 256 KiB: strict before the middle, relaxed behind it.
        let (strict, relaxed) = select_masks(256 << 10, Normalization::Level1);
        Self { gear, gear_shifted, strict, relaxed }
    }

    /// Length of the chunk that `data` begins with. `data` must hold [`CHUNK_BYTES_MOST`] bytes or the rest of the file.
    pub fn cut(&self, data: &[u8]) -> usize {
        let (_, length) = cut_gear(
            data,
            CHUNK_BYTES_MIN,
            CHUNK_BYTES_MIDDLE,
            CHUNK_BYTES_MOST,
            self.strict,
            self.relaxed,
            self.strict << 1,
            self.relaxed << 1,
            &*self.gear,
            &*self.gear_shifted,
        );
        length.max(1).min(data.len())
    }
}

/// How a file is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// By content.
    Content,
    /// In steps of [`IMAGE_CHUNK_BYTES`]; chunks of zeros become holes.
    Fixed,
}

/// Names of files that hold a disk.
const IMAGE_ENDINGS: [&[u8]; 9] =
    [b".img", b".raw", b".qcow2", b".qcow", b".vmdk", b".vdi", b".vhd", b".vhdx", b".image"];
/// Below this, cutting by content is as good.
const IMAGE_BYTES_MIN: u64 = 8 << 20;

/// Is this file the image of a disk or a file system? By name, or by what it begins with.
pub fn is_image(name: &[u8], bytes: u64, begin: &[u8]) -> bool {
    if bytes < IMAGE_BYTES_MIN || !bytes.is_multiple_of(512) {
        return false;
    }
    let magic = |at: usize, magic: &[u8]| begin.get(at..at + magic.len()) == Some(magic);
    let lower = name.to_ascii_lowercase();
    IMAGE_ENDINGS.iter().any(|ending| lower.ends_with(ending))
        || magic(0, b"QFI\xfb")
        || magic(0, b"KDMV")
        || magic(0, b"XFSB")
        || magic(1080, &[0x53, 0xef])
        || (magic(510, &[0x55, 0xaa]) && magic(512, b"EFI PART"))
}

/// All zeros?
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<32>();
    words.iter().all(|word| *word == [0; 32]) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::secret::SourceSecret;
    use shared::id::Lineage;

    fn cutter(secret: u8) -> Cutter {
        Cutter::new(SourceSecret::from_bytes(&[secret; 32]).gear(&Lineage::new([1; 16])))
    }

    fn noise(bytes: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8
        };
        (0..bytes).map(|_| next()).collect()
    }

    fn cuts(cutter: &Cutter, data: &[u8]) -> Vec<usize> {
        let mut at = 0;
        let mut ends = Vec::new();
        while at < data.len() {
            at += cutter.cut(&data[at..data.len().min(at + CHUNK_BYTES_MOST)]);
            ends.push(at);
        }
        ends
    }

    #[test]
    fn cuts_are_stable_within_bounds_and_hang_on_the_secret() {
        let data = noise(16 << 20, 7);
        let ends = cuts(&cutter(1), &data);
        assert_eq!(ends, cuts(&cutter(1), &data));
        assert_ne!(ends, cuts(&cutter(2), &data));
        let mut begin = 0;
        for end in &ends[..ends.len() - 1] {
            assert!((CHUNK_BYTES_MIN..=CHUNK_BYTES_MOST).contains(&(end - begin)), "{begin}..{end}");
            begin = *end;
        }
        let mean = data.len() / ends.len();
        assert!(((160 << 10)..(400 << 10)).contains(&mean), "mean {mean}");
    }

    #[test]
    fn an_insertion_moves_few_cuts() {
        let data = noise(16 << 20, 9);
        let mut longer = data[..5_000_000].to_vec();
        longer.extend_from_slice(b"inserted");
        longer.extend_from_slice(&data[5_000_000..]);
        let before: std::collections::HashSet<_> = cuts(&cutter(1), &data).into_iter().collect();
        let after = cuts(&cutter(1), &longer);
        let moved = after.iter().filter(|end| !before.contains(*end) && !before.contains(&end.wrapping_sub(8)));
        assert!(moved.count() <= 6);
    }

    #[test]
    fn images_are_known_by_name_or_magic() {
        let big = 64 << 20;
        assert!(is_image(b"disk.IMG", big, &[]));
        assert!(!is_image(b"disk.img", big + 1, &[]));
        assert!(!is_image(b"disk.img", 1 << 20, &[]));
        assert!(!is_image(b"x", big, &[0; 4096]));
        let mut ext = vec![0; 4096];
        ext[1080..1082].copy_from_slice(&[0x53, 0xef]);
        assert!(is_image(b"x", big, &ext));
    }

    #[test]
    fn zeros() {
        assert!(is_zero(&[0; 100]));
        let mut bytes = vec![0; 100];
        bytes[99] = 1;
        assert!(!is_zero(&bytes));
    }
}

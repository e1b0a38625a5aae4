//! Seeded random numbers: the same seed gives the same test.

/// SplitMix64: small, good enough for test data, the same everywhere.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; `end` must not be 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.draw().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }

    /// Words that compress well.
    pub fn text(&mut self, count: usize) -> Vec<u8> {
        const WORDS: [&str; 12] = [
            "append ",
            "only ",
            "backup ",
            "ratchet ",
            "pawl ",
            "one ",
            "way ",
            "history\n",
            "block ",
            "sealed ",
            "head ",
            "receipt\n",
        ];
        let mut text = Vec::with_capacity(count + 16);
        while text.len() < count {
            text.extend_from_slice(self.pick(&WORDS).as_bytes());
        }
        text.truncate(count);
        text
    }
}

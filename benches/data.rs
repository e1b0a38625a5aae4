//! Bytes to measure with: the same on every machine and in every run.

/// Numbers that do not repeat (SplitMix64).
#[derive(Debug)]
pub struct Numbers(u64);

impl Numbers {
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
}

/// Bytes that do not compress.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(1);
    let mut all: Vec<u8> =
        std::iter::repeat_with(|| numbers.draw().to_le_bytes()).take(bytes / 8 + 1).flatten().collect();
    all.truncate(bytes);
    all
}

/// Lines of a log: words from a small stock, times, addresses. Compresses to about a third.
pub fn text(bytes: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(2);
    let stock: Vec<String> = (0..2000).map(|_| format!("{:x}", numbers.draw() & 0xfff_ffff)).collect();
    let mut all = Vec::with_capacity(bytes + 200);
    while all.len() < bytes {
        let line = numbers.draw();
        all.extend_from_slice(format!("2026-11-{:02} {:05} ", line % 30 + 1, line >> 8 & 0xffff).as_bytes());
        for _ in 0..12 {
            all.extend_from_slice(stock[numbers.draw() as usize % stock.len()].as_bytes());
            all.push(b' ');
        }
        all.push(b'\n');
    }
    all.truncate(bytes);
    all
}

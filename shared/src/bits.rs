//! Rows of bits, lowest first, as formats and protocol have them: live blocks, parts of a generation, damage.

/// Is this bit set? Those beyond the end are not.
pub fn is_set(bits: &[u8], at: usize) -> bool {
    bits.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1)
}

/// Sets a bit; the row grows as far as that needs. What bounds `at` bounds its length.
pub fn set(bits: &mut Vec<u8>, at: usize) {
    if bits.len() <= at / 8 {
        bits.resize(at / 8 + 1, 0);
    }
    bits[at / 8] |= 1 << (at % 8);
}

/// Numbers of the bits that are set, ascending.
pub fn numbers(bits: &[u8]) -> impl Iterator<Item = u32> {
    (0..bits.len() as u32 * 8).filter(|at| is_set(bits, *at as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_found() {
        let mut bits = Vec::new();
        for at in [0, 7, 8, 20] {
            set(&mut bits, at);
        }
        assert_eq!(bits, [0x81, 0x01, 0x10]);
        assert_eq!(numbers(&bits).collect::<Vec<_>>(), [0, 7, 8, 20]);
        assert!(!is_set(&bits, 1) && !is_set(&bits, 24) && !is_set(&[], 0));
    }
}

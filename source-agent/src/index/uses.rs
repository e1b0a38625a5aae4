//! How often the blocks of archives are referred to: sorted lists, packed as variable-length numbers.

use super::Corrupt;

/// A block of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    pub archive: u64,
    pub block: u32,
}

/// Blocks with counts, ascending, each once, no count zero.
pub type Uses = Vec<(Spot, u32)>;

/// Counts references.
pub fn count(mut spots: Vec<Spot>) -> Uses {
    spots.sort_unstable();
    let mut uses: Uses = Vec::new();
    for spot in spots {
        match uses.last_mut() {
            Some((last, count)) if *last == spot => *count += 1,
            _ => uses.push((spot, 1)),
        }
    }
    uses
}

/// Adds up several lists, in any order.
pub fn merge(mut all: Uses) -> Uses {
    all.sort_unstable_by_key(|(spot, _)| *spot);
    let mut uses: Uses = Vec::with_capacity(all.len());
    for (spot, count) in all {
        match uses.last_mut() {
            Some((last, sum)) if *last == spot => *sum = sum.saturating_add(count),
            _ => uses.push((spot, count)),
        }
    }
    uses
}

pub(super) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn take_number(from: &mut &[u8]) -> Result<u64, Corrupt> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first().ok_or(Corrupt)?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Corrupt)
}

/// Packs a list.
pub fn pack(uses: &Uses) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + uses.len() * 4);
    put_number(&mut out, uses.len() as u64);
    let mut before = 0;
    for (spot, count) in uses {
        put_number(&mut out, spot.archive - before);
        put_number(&mut out, u64::from(spot.block));
        put_number(&mut out, u64::from(*count));
        before = spot.archive;
    }
    out
}

/// Reads [`pack`] from the front of `from`.
pub fn take(from: &mut &[u8]) -> Result<Uses, Corrupt> {
    let count = take_number(from)?;
    // Each takes three bytes at least.
    if count > from.len() as u64 / 3 {
        return Err(Corrupt);
    }
    let mut uses = Vec::with_capacity(count as usize);
    let mut archive = 0u64;
    for _ in 0..count {
        archive = archive.checked_add(take_number(from)?).ok_or(Corrupt)?;
        let block = u32::try_from(take_number(from)?).map_err(|_| Corrupt)?;
        let count = u32::try_from(take_number(from)?).map_err(|_| Corrupt)?;
        uses.push((Spot { archive, block }, count));
    }
    Ok(uses)
}

/// Reads [`pack`] that must be all of `bytes`.
pub fn unpack(mut bytes: &[u8]) -> Result<Uses, Corrupt> {
    let uses = take(&mut bytes)?;
    if bytes.is_empty() { Ok(uses) } else { Err(Corrupt) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lists_come_back(spots in prop::collection::vec((0u64..1 << 48, 0u32..5000), 0..50)) {
            let spots: Vec<Spot> = spots.into_iter().map(|(archive, block)| Spot { archive, block }).collect();
            let uses = count(spots);
            prop_assert_eq!(unpack(&pack(&uses)).unwrap(), uses.clone());
            let mut cut = pack(&uses);
            cut.pop();
            prop_assert!(unpack(&cut).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = unpack(&bytes);
        }
    }

    #[test]
    fn counts_and_merges() {
        let spot = |archive, block| Spot { archive, block };
        assert_eq!(count(vec![spot(2, 1), spot(1, 0), spot(2, 1)]), [(spot(1, 0), 1), (spot(2, 1), 2)]);
        assert_eq!(merge(vec![(spot(2, 1), 3), (spot(1, 1), 1), (spot(2, 1), 1)]), [(spot(1, 1), 1), (spot(2, 1), 4)]);
    }
}

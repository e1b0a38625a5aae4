//! A short run of every target on the stable toolchain: right samples are accepted, thousands of wrong ones do no harm.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use fuzz::Target;
use std::panic::catch_unwind;

/// Mutations of each target, over all its samples.
const ROUNDS: u64 = 3000;

/// SplitMix64: the same mutations in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end.max(1) as u64) as usize
    }
}

/// Numbers at which parsers go wrong: CBOR heads of lengths and types, extremes.
const TELLING: [u8; 16] =
    [0x00, 0x01, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x3b, 0x5b, 0x7f, 0x80, 0x9b, 0x9f, 0xbf, 0xf6, 0xff];

fn mutate(sample: &[u8], other: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len());
        match chance.below(9) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << chance.below(8),
            1 if !bytes.is_empty() => bytes[at] = TELLING[chance.below(TELLING.len())],
            2 if !bytes.is_empty() => bytes[at] = chance.below(256) as u8,
            3 => bytes.truncate(at),
            4 => bytes.insert(at, TELLING[chance.below(TELLING.len())]),
            5 if !bytes.is_empty() => {
                bytes.remove(at);
            }
            6 => {
                // A head that announces eight bytes of length.
                let huge = [0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
                let end = (at + huge.len()).min(bytes.len());
                bytes.splice(at..end, huge);
            }
            7 => {
                let end = (at + chance.below(40)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let from = chance.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes
}

fn smoke(target: &Target) -> Result<u64, String> {
    let samples = (target.samples)();
    for (at, sample) in samples.iter().enumerate() {
        if !(target.run)(sample) {
            return Err(format!("{}: sample {at} is not accepted", target.name));
        }
    }
    let name = target.name.bytes().fold(0u64, |all, byte| all.wrapping_mul(131).wrapping_add(u64::from(byte)));
    let mut chance = Chance(name);
    let mut accepted = 0;
    for round in 0..ROUNDS {
        let sample = &samples[chance.below(samples.len())];
        let other = &samples[chance.below(samples.len())];
        let bytes = mutate(sample, other, &mut chance);
        match catch_unwind(|| (target.run)(&bytes)) {
            Ok(ok) => accepted += u64::from(ok),
            Err(_) => return Err(format!("{}: round {round} panicked on {}", target.name, shared::text::hex(&bytes))),
        }
    }
    Ok(accepted)
}

#[test]
fn every_target() {
    let targets = fuzz::targets();
    assert!(targets.len() >= 40, "{} targets", targets.len());
    let mut failed = Vec::new();
    for target in &targets {
        match smoke(target) {
            Ok(accepted) => println!("{}: {accepted} of {ROUNDS} mutations were accepted", target.name),
            Err(why) => failed.push(why),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Behind a signature nothing changed may pass: no mutation of a signed object verifies, unless it is the object itself.
#[test]
fn no_signed_object_survives_a_change() {
    let mut chance = Chance(5);
    let signed =
        ["index", "envelope", "wrap", "head", "receipt", "record", "voucher", "release", "substitute", "welcome"];
    for target in fuzz::targets().iter().filter(|target| signed.contains(&target.name)) {
        for sample in (target.samples)() {
            for _ in 0..300 {
                let bytes = mutate(&sample, &sample, &mut chance);
                let same = (target.samples)().contains(&bytes);
                assert!(same || !(target.run)(&bytes), "{}: a changed object was accepted", target.name);
            }
        }
    }
}

/// Parsers of a few bytes: every input of one byte, many of two.
#[test]
fn every_short_input() {
    for target in fuzz::targets() {
        (target.run)(&[]);
        for one in 0..=255u8 {
            (target.run)(&[one]);
            if one % 32 == 0 {
                for two in 0..=255u8 {
                    (target.run)(&[one, two]);
                }
            }
        }
    }
}

/// Each target has a libFuzzer binary, and each binary a target.
#[test]
fn libfuzzer_has_the_same_targets() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/libfuzzer/Cargo.toml");
    let manifest = std::fs::read_to_string(manifest).unwrap();
    let mut binaries: Vec<&str> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
        .filter(|name| *name != "pawl-libfuzzer")
        .collect();
    let mut targets: Vec<&str> = fuzz::targets().iter().map(|target| target.name).collect();
    binaries.sort_unstable();
    targets.sort_unstable();
    assert_eq!(binaries, targets);
}

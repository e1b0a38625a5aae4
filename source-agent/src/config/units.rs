//! Sizes and ages as the configuration and flags write them: always with a unit that says which.

use serde::{Deserialize, Deserializer};
use std::str::FromStr;
use std::time::Duration;

/// Bytes: `20GiB`, `500MB`, `0B`. Bare `K M G T` are refused, since programs disagree on what they mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

/// Bytes per second, written as a [`Size`], with or without `/s`.
pub type Rate = Size;

/// A span of time: `36h`, `15min`, `90d`, `2w`, `30s`. Bare `m` is refused: minutes here, months elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age(Duration);

impl Size {
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl Age {
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
    pub const fn duration(self) -> Duration {
        self.0
    }
    pub const fn seconds(self) -> u64 {
        self.0.as_secs()
    }
}

/// Splits `12.5GiB` into number and unit.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..at], text[at..].trim())
}

/// The whole and, for sizes, the decimal part of a number times a unit; `None` when it does not fit.
fn times(number: &str, unit: u64) -> Option<u64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || part.is_empty() || part.len() > 9 {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(part.len()).ok()?);
    let value = u128::from(whole.parse::<u64>().ok()?) * scale + u128::from(part.parse::<u64>().ok()?);
    u64::try_from(value.checked_mul(u128::from(unit))? / scale).ok()
}

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        let unit = unit.strip_suffix("/s").unwrap_or(unit);
        let factor = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "K" | "M" | "G" | "T" | "k" => {
                let big = unit.to_ascii_uppercase();
                return Err(format!("'{text}' does not say which {unit}: write {number}{big}iB or {number}{big}B"));
            }
            "" => return Err(format!("'{text}' has no unit: write {text}B, {text}KiB, {text}MiB, {text}GiB …")),
            _ => return Err(format!("'{text}' is not a size: a number and B, KiB, MiB, GiB, TiB, KB, MB, GB or TB")),
        };
        times(number, factor).map(Self).ok_or_else(|| format!("'{text}' is not a size, or too large"))
    }
}

impl FromStr for Age {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut rest = text.trim();
        let mut total = 0u64;
        let bad = || format!("'{text}' is not a span of time: a number and w, d, h, min or s, such as 36h or 1d12h");
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let seconds = match unit {
                "s" => 1,
                "min" => 60,
                "h" => 3600,
                "d" => 86_400,
                "w" => 7 * 86_400,
                "m" => {
                    return Err(format!("'{text}': 'm' may mean minutes or months: write {number}min or days, as 30d"));
                }
                "" if !number.is_empty() => {
                    return Err(format!("'{text}' has no unit: write {text}h, {text}d, {text}min or {text}s"));
                }
                _ => return Err(bad()),
            };
            let value = number.parse::<u64>().ok().and_then(|n| n.checked_mul(seconds));
            total = value.and_then(|value| total.checked_add(value)).ok_or_else(bad)?;
            rest = tail.trim_start();
        }
        Ok(Self::from_secs(total))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Age {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

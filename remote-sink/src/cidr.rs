//! Networks as `from="…"` of authorized_keys takes them: `192.0.2.0/24`, `2001:db8::/32`, or one address.

use shared::text::printable;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A text that is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a network: {why}; write for example 192.0.2.0/24 or 2001:db8::/32")]
pub struct CidrError {
    text: String,
    why: &'static str,
}

/// A network: an address and the number of leading bits that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

/// The address as 128 bits at the top, and how many of them it has.
fn raised(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

fn mask(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

impl Cidr {
    /// Is this address in the network? An IPv4 address mapped into IPv6 counts as itself.
    pub fn contains(&self, address: IpAddr) -> bool {
        let ((own, size), (other, other_size)) = (raised(self.address), raised(address.to_canonical()));
        size == other_size && (own ^ other) & mask(self.bits) == 0
    }
}

impl FromStr for Cidr {
    type Err = CidrError;
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let wrong = |why| CidrError { text: printable(text.as_bytes(), 60), why };
        let (address, bits) = match text.split_once('/') {
            None => (text, None),
            Some((address, bits)) => (address, Some(bits)),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong("its address is none"))?;
        let (value, size) = raised(address);
        let bits = match bits {
            None => size,
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) => {
                bits.parse().ok().filter(|bits| *bits <= size).ok_or_else(|| wrong("its length is out of range"))?
            }
            Some(_) => return Err(wrong("its length is not a number")),
        };
        if value & !mask(bits) != 0 {
            return Err(wrong("bits are set behind its length, which sshd refuses"));
        }
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_its_addresses_alone() {
        let has = |net: &str, address: &str| net.parse::<Cidr>().unwrap().contains(address.parse().unwrap());
        assert!(has("192.0.2.0/24", "192.0.2.255") && !has("192.0.2.0/24", "192.0.3.0"));
        assert!(has("192.0.2.7", "192.0.2.7") && !has("192.0.2.7", "192.0.2.6"));
        assert!(has("0.0.0.0/0", "203.0.113.9") && !has("0.0.0.0/0", "2001:db8::1"));
        assert!(has("::/0", "2001:db8::1") && !has("::/0", "192.0.2.1"));
        assert!(has("2001:db8::/33", "2001:db8:7fff::1") && !has("2001:db8::/33", "2001:db8:8000::1"));
        assert!(has("127.0.0.0/8", "::ffff:127.0.0.1"));
    }

    #[test]
    fn refuses_what_sshd_refuses() {
        for bad in [
            "",
            "192.0.2.1/24",
            "192.0.2.0/33",
            "::/129",
            "192.0.2.0/-1",
            "192.0.2.0/+8",
            "host",
            "1.2.3/8",
            "1.2.3.4,5.6.7.8",
            "!1.2.3.4",
            "\"x",
        ] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}

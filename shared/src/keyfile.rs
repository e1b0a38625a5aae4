//! Files that hold one Ed25519 seed: a source's signing key, the sink key (docs/format.md, section "Key files").

use crate::signature::SigningKey;
use crate::text;
use zeroize::Zeroizing;

/// A key file that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {expected} file: {why}")]
pub struct KeyFileError {
    pub expected: &'static str,
    pub why: &'static str,
}

/// What the first line of each kind of file says.
pub const SOURCE_SIGNING_KEY: &str = "pawl-source-signing-key:1";
pub const SINK_KEY: &str = "pawl-sink-key:1";
pub const SOURCE_SECRET: &str = "pawl-source-secret:1";

/// The text of a file that holds 32 secret bytes: first line the kind, second line base64url.
pub fn write(kind: &str, secret: &[u8; 32]) -> Zeroizing<String> {
    let encoded = Zeroizing::new(text::base64(secret));
    Zeroizing::new(format!("{kind}\n{}\n", *encoded))
}

/// Reads what [`write`] wrote.
pub fn read(expected: &'static str, file: &str) -> Result<Zeroizing<[u8; 32]>, KeyFileError> {
    let err = |why| KeyFileError { expected, why };
    let mut lines = file.lines();
    if lines.next() != Some(expected) {
        return Err(err("its first line says something else"));
    }
    let line = lines.next().ok_or_else(|| err("its second line is missing"))?;
    let bytes = Zeroizing::new(text::from_base64(line).ok_or_else(|| err("its second line is not base64url"))?);
    if lines.next().is_some() {
        return Err(err("it has more than two lines"));
    }
    let fixed: [u8; 32] = bytes.as_slice().try_into().map_err(|_| err("its second line is not 32 bytes"))?;
    Ok(Zeroizing::new(fixed))
}

/// Reads a signing key of this kind.
pub fn read_signing_key(expected: &'static str, file: &str) -> Result<SigningKey, KeyFileError> {
    Ok(SigningKey::from_seed(&*read(expected, file)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_and_refuses_others() {
        let text = write(SINK_KEY, &[7; 32]);
        assert_eq!(*read(SINK_KEY, &text).unwrap(), [7; 32]);
        assert!(read(SOURCE_SECRET, &text).is_err());
        assert!(read(SINK_KEY, &text[..text.len() - 3]).is_err());
        assert!(read(SINK_KEY, "").is_err());
    }
}

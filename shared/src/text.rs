//! Text forms: base64url without padding, hex, fingerprint words, and cleaning of untrusted text.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};

/// Writes bytes in the one alphabet of keys and cards.
pub fn base64(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

/// Reads [`base64`]; `None` if a character or the length is wrong.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(text.as_bytes()).ok()
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// Reads [`hex`] of exactly `N` bytes.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// Six words of the BIP 39 English list: 66 bits of the digest, for people to compare.
pub fn fingerprint_words(digest: &[u8; 32]) -> String {
    let list = bip39::Language::English.word_list();
    let bits = digest.iter().take(9).fold(0u128, |all, byte| (all << 8) | u128::from(*byte));
    let words: Vec<&str> =
        (0..6).map(|at| list[usize::try_from((bits >> (72 - 11 * (at + 1))) & 0x7ff).unwrap_or(0)]).collect();
    words.join("-")
}

/// Makes text from the other side safe for a terminal: control characters, bidirectional overrides and
/// bytes that are not UTF-8 become escapes; the length is bounded to `chars_max`.
pub fn printable(bytes: &[u8], chars_max: usize) -> String {
    let mut out = String::new();
    let mut count = 0usize;
    for piece in bytes.utf8_chunks() {
        for c in piece.valid().chars() {
            if count >= chars_max {
                out.push('…');
                return out;
            }
            count += 1;
            if c.is_control() || is_format_control(c) || c == '\\' {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for byte in piece.invalid() {
            if count >= chars_max {
                out.push('…');
                return out;
            }
            count += 1;
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// Characters that change how a terminal shows its neighbours without being control characters.
fn is_format_control(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// What a command line's parser says of a usage error, without the usage itself: the sentence, and what it is about.
pub fn usage_error(text: &str) -> (String, Vec<&str>) {
    let lines = text.lines().map(str::trim);
    let about = lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let mut about = about.filter(|line| !line.is_empty());
    let first = about.next().unwrap_or_default().replace("error: ", "");
    let rest: Vec<&str> = about.collect();
    let message = if first.ends_with(':') { format!("{first} {}", rest.join(", ")) } else { first };
    (message, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_never_reach_a_terminal() {
        assert_eq!(printable(b"a\x1b[31mb\nc\xff", 100), "a\\u{1b}[31mb\\nc\\xff");
        assert_eq!(printable("a\u{202e}b".as_bytes(), 100), "a\\u{202e}b");
        assert_eq!(printable(b"abcdef", 3), "abc…");
    }

    #[test]
    fn fingerprint_is_six_words() {
        assert_eq!(fingerprint_words(&[0; 32]), "abandon-abandon-abandon-abandon-abandon-abandon");
        assert_eq!(fingerprint_words(&[0xff; 32]), "zoo-zoo-zoo-zoo-zoo-zoo");
    }
}

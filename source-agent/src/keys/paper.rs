//! The recovery sheet: the identity as 24 words, printable, in one HTML file that loads nothing from elsewhere.

use crate::crypto::identity::Identity;
use crate::crypto::recipient::Recipient;
use crate::report::{Exit, Failure, Outcome};
use std::fmt::Write;
use zeroize::Zeroizing;

const LIST_START: &str = "<ol class=\"words\">";
const LIST_END: &str = "</ol>";

/// The sheet. `made` is the day, as text.
pub fn sheet(identity: &Identity, recipient: &Recipient, made: &str) -> Zeroizing<String> {
    // Room for all of it, so that the buffer never moves and leaves a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(16 << 10));
    text.push_str(HEAD);
    text.push_str(LIST_START);
    let words = identity.words();
    for word in words.split(' ') {
        let _ = write!(*text, "\n<li>{word}</li>");
    }
    let _ = write!(*text, "\n{LIST_END}\n");
    let _ = write!(*text, "<p>Recipient <b>{}</b><br>made on {made}</p>\n{FOOT}", recipient.fingerprint());
    text
}

/// The words of a sheet, or of what somebody typed: numbers, dots and commas between words do not matter.
pub fn words(text: &str) -> Zeroizing<String> {
    let list = text.split_once(LIST_START).and_then(|(_, rest)| rest.split_once(LIST_END)).map(|(list, _)| list);
    let mut words = Zeroizing::new(String::with_capacity(text.len()));
    let mut in_tag = false;
    for c in list.unwrap_or(text).chars() {
        match c {
            '<' if list.is_some() => in_tag = true,
            '>' if list.is_some() => in_tag = false,
            c if !in_tag && c.is_alphabetic() => words.push(c),
            _ if !words.ends_with(' ') && !words.is_empty() => words.push(' '),
            _ => {}
        }
    }
    words
}

/// The identity of a sheet or of typed words.
pub fn read(text: &str) -> Outcome<Identity> {
    let words = words(text);
    Identity::from_words(&words).map_err(|e| {
        Failure::new("sheet", Exit::Identity, format!("these are not the words of a sheet: {e}")).help(
            "24 words in the order of the sheet; each begins with four letters that no other word of the list begins with",
        )
    })
}

const HEAD: &str = "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">
<title>Recovery sheet</title>
<style>
body { font: 12pt/1.4 sans-serif; max-width: 17cm; margin: 1cm auto; color: #000; background: #fff }
h1 { font-size: 18pt }
ol.words { columns: 3; font: 14pt/1.9 monospace; border: 1px solid #000; padding: .5cm .5cm .5cm 1.6cm }
code { font-size: 11pt }
@page { margin: 1.5cm }
</style>
</head>
<body>
<h1>Recovery sheet of a backup key</h1>
<p>These 24 words are the whole key, <b>without any passphrase</b>: whoever reads them can read every backup that
was sealed to it. Print this page, delete the file, and keep the paper where you keep deeds. Keep a second one in
another house.</p>
";

const FOOT: &str = "<h2>When the key file or its passphrase is lost</h2>
<p>On a machine that you trust, with the program <code>source-agent</code> installed:</p>
<pre>source-agent key recover -o backup.key      (type the words)
source-agent init --reader                  (its card goes to the operator of the backup server)
source-agent snapshots -i backup.key
source-agent restore latest -t ./out -i backup.key</pre>
<h2>Is this sheet good?</h2>
<p>Once now, and once a year, type the words from the paper, not from the screen:</p>
<pre>source-agent key recover --check backup.pub</pre>
<p>The words are a BIP 39 list of 256 bits (English). They are not a wallet.</p>
</body>
</html>
";

#[cfg(test)]
mod tests {
    use super::*;
    use shared::format::Kem;

    fn identity() -> Identity {
        Identity::from_seed(&[5; 32])
    }

    #[test]
    fn a_sheet_reads_back() {
        let sheet = sheet(&identity(), &identity().recipient(Kem::XWing), "2026-11-22");
        let back = read(&sheet).unwrap();
        assert_eq!(back.owner_key().verify_key(), identity().owner_key().verify_key());
        assert_eq!(sheet.matches("<li>").count(), 24);
        for outside in ["http:", "https:", "src=", "href=", "url(", "<script", "@import"] {
            assert!(!sheet.contains(outside), "{outside}");
        }
        assert!(sheet.len() < 16 << 10);
    }

    #[test]
    fn typed_words_read_back() {
        let words = identity().words();
        let numbered: String =
            words.split(' ').enumerate().map(|(at, word)| format!("{}. {}\n", at + 1, word.to_uppercase())).collect();
        assert_eq!(read(&numbered).unwrap().owner_key().verify_key(), identity().owner_key().verify_key());
    }

    #[test]
    fn wrong_words_are_refused_and_not_shown() {
        let words = identity().words();
        let mut list: Vec<&str> = words.split(' ').collect();
        list.swap(0, 23);
        for bad in [list.join(" "), words.replace(list[5], "secretword"), "abandon".into(), String::new()] {
            let failure = read(&bad).err().unwrap();
            assert_eq!(failure.exit, Exit::Identity);
            assert!(!failure.to_string().contains("secretword"), "{failure}");
        }
    }
}

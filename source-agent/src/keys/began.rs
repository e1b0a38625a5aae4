//! Whom a lineage was sealed to when it began: what was sent before a recipient came is not sealed to it.

use crate::crypto::recipient::Recipient;
use crate::keys::files::{KEY_FILE_BYTES_MAX, read_text};
use crate::keys::recipient_label;
use crate::report::{Failure, Outcome};
use shared::id::Lineage;
use shared::sys::durable;
use std::path::Path;

/// In the state directory: the lineage, then the digests of its recipients, one a line; behind those that came after
/// it began, [`LATER`].
const FILE: &str = "recipients";
const LATER: &str = " later";

/// The file's lines, if it is of this lineage.
fn noted(state_dir: &Path, lineage: &Lineage) -> Option<Vec<String>> {
    let text = read_text(&state_dir.join(FILE), KEY_FILE_BYTES_MAX).ok()?;
    let mut lines = text.lines().map(str::to_owned);
    (lines.next()? == lineage.to_string()).then(|| lines.collect())
}

/// Those of the recipients that came after this lineage began, as far as it is known.
pub fn later<'a>(state_dir: &Path, lineage: &Lineage, recipients: &'a [Recipient]) -> Vec<&'a Recipient> {
    let lines = noted(state_dir, lineage).unwrap_or_default();
    recipients.iter().filter(|recipient| lines.contains(&(recipient.digest().to_string() + LATER))).collect()
}

/// Notes the recipients of a run, and returns those that the lineage had not before. `sent` says whether anything was
/// sent in it: until then, and where nothing was noted, it begins with those that it has.
pub fn note<'a>(
    state_dir: &Path,
    lineage: &Lineage,
    recipients: &'a [Recipient],
    sent: bool,
) -> Outcome<Vec<&'a Recipient>> {
    let before = noted(state_dir, lineage).filter(|_| sent);
    let is_new = |recipient: &&Recipient| {
        let digest = recipient.digest().to_string();
        before.as_ref().is_some_and(|lines| !lines.iter().any(|line| line.starts_with(&digest)))
    };
    let new: Vec<&Recipient> = recipients.iter().filter(is_new).collect();
    let digests = || recipients.iter().map(|recipient| recipient.digest().to_string());
    let mut lines: Vec<String> = match &before {
        // Who is left out and comes back has missed something.
        Some(lines) => lines.iter().filter(|line| digests().any(|one| line.starts_with(&one))).cloned().collect(),
        None => digests().collect(),
    };
    lines.extend(new.iter().map(|recipient| recipient.digest().to_string() + LATER));
    if before.as_ref() == Some(&lines) {
        return Ok(new);
    }
    let text = format!("{lineage}\n{}\n", lines.join("\n"));
    let path = state_dir.join(FILE);
    durable::replace(&path, text.as_bytes(), durable::PRIVATE).map_err(|e| Failure::io("write", &path, &e))?;
    Ok(new)
}

/// What to say of a recipient that came later.
pub fn warning(recipient: &Recipient) -> String {
    format!(
        "the recipient {} came after this history began: unless the owner seals what is there to it as well \
         (source-agent rekey), it restores new snapshots only in part",
        recipient_label(recipient)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::identity::Identity;
    use shared::format::Kem;

    #[test]
    fn who_came_later_is_told_once_and_known_until_a_new_lineage_begins() {
        let dir = tempfile::tempdir().unwrap();
        let all: Vec<Recipient> = (1..=3).map(|n| Identity::from_seed(&[n; 32]).recipient(Kem::X25519)).collect();
        let (first, second) = (Lineage::new([1; 16]), Lineage::new([2; 16]));
        let told = |lineage, count: usize, sent| note(dir.path(), lineage, &all[..count], sent).unwrap().len();
        let known = |lineage| later(dir.path(), lineage, &all).len();
        assert_eq!((told(&first, 1, true), known(&first)), (0, 0), "of what was sent before, nothing is known");
        assert_eq!((told(&first, 2, false), known(&first)), (0, 0), "nothing was sealed to one of them alone");
        assert_eq!((told(&first, 3, true), known(&first)), (1, 1));
        assert_eq!((told(&first, 3, true), known(&first)), (0, 1));
        assert_eq!((told(&first, 1, true), told(&first, 2, true), known(&first)), (0, 1, 1), "it was away for a run");
        assert_eq!((told(&second, 3, true), known(&second)), (0, 0));
    }
}

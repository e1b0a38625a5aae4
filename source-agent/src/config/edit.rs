//! Changes to the configuration by commands: the text is kept as it stands, with its comments and order.

use crate::config::{Loaded, parse};
use crate::report::{Failure, Outcome};
use shared::card::SinkCard;
use std::path::Path;

/// A text as a TOML string.
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The `[[remote]]` block of a sink card, to be appended to a configuration.
pub fn remote_block(name: &str, card: &SinkCard) -> String {
    let host = if card.host.contains(':') { format!("[{}]", card.host) } else { card.host.clone() };
    let url = format!("ssh://{}@{host}:{}/{}", card.user, card.port, card.name);
    let keys: Vec<String> = card.host_keys.iter().map(|key| quoted(&key.openssh())).collect();
    format!(
        "\n[[remote]]\nname = {}\nurl = {}\nhost-key = [{}]\nidentity-file = {}\nsink = {}\nrequired = true\n",
        quoted(name),
        quoted(&url),
        keys.join(", "),
        quoted(crate::keys::SSH_KEY_FILE),
        quoted(&shared::text::base64(card.sink.as_bytes())),
    )
}

/// Checks a changed text as a whole, then replaces the file in one step.
pub fn save(loaded: &Loaded, text: &str) -> Outcome<()> {
    let path: &Path = &loaded.paths.config;
    parse(text, path)?;
    // A link (to a file under version control, say) stays a link.
    let target = std::fs::canonicalize(path).map_err(|e| Failure::io("find", path, &e))?;
    shared::sys::durable::replace(&target, text.as_bytes(), shared::sys::durable::PUBLIC)
        .map_err(|e| Failure::io("write", path, &e))
}

//! Changes to the configuration by commands: the text is kept as it stands, with its comments and order.

use crate::config::{CONFIG_BYTES_MAX, Loaded, parse};
use crate::report::{Exit, Failure, Outcome};
use shared::card::SinkCard;
use std::os::unix::fs::MetadataExt;
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

/// Checks a changed text as a whole, then replaces the file in one step. Refuses when somebody else changed it
/// since it was loaded.
pub fn save(loaded: &Loaded, text: &str) -> Outcome<()> {
    let path: &Path = &loaded.paths.config;
    parse(text, path)?;
    let fail = |what: &'static str| move |e: std::io::Error| Failure::io(what, path, &e);
    // A link (to a file under version control, say) stays a link.
    let target = std::fs::canonicalize(path).map_err(fail("find"))?;
    let now = crate::keys::files::read_text(&target, CONFIG_BYTES_MAX).map_err(fail("read"))?;
    if now != loaded.text {
        let message =
            format!("{} was changed by somebody else meanwhile; nothing was written", crate::paths::show(path));
        return Err(Failure::new("config-changed", Exit::Failed, message).help("run the command again"));
    }
    let mode = std::fs::metadata(&target).map_err(fail("look at"))?.mode() & 0o777;
    shared::sys::durable::replace(&target, text.as_bytes(), mode).map_err(fail("write"))
}

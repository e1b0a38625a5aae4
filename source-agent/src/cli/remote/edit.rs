//! `[[remote]]` tables of the configuration, changed in place: comments and order stay.

use crate::config::edit::quoted;
use crate::config::{Loaded, Remote};
use crate::keys::SSH_KEY_FILE;
use crate::report::{Exit, Failure, Outcome};
use crate::transport::PINNED;
use shared::card::SinkCard;
use std::path::PathBuf;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, value};

/// How a sink is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// As its card says.
    Card,
    /// By the system's ssh.
    SshHost(String),
    /// On this machine.
    Path(PathBuf),
}

fn wrong(why: impl Into<String>) -> Failure {
    Failure::new("remote-config", Exit::Failed, why)
}

fn url(card: &SinkCard) -> String {
    let host = if card.host.contains(':') { format!("[{}]", card.host) } else { card.host.clone() };
    format!("ssh://{}@{host}:{}/{}", card.user, card.port, card.name)
}

/// Host keys as lines, with the day on which they were pinned.
fn host_keys(card: &SinkCard) -> Outcome<Vec<String>> {
    if card.host_keys.is_empty() {
        return Err(wrong("the card holds no host key, so nobody could be recognised at that address")
            .help("ask the operator for a card with one: remote-sink enroll … --host-key FILE; or use --ssh-host"));
    }
    let today = jiff::Zoned::now().date();
    Ok(card.host_keys.iter().map(|key| format!("{} {PINNED}{today}", key.openssh())).collect())
}

fn sink(card: &SinkCard) -> String {
    shared::text::base64(card.sink.as_bytes())
}

/// The configuration with one more remote at its end.
pub fn add(loaded: &Loaded, name: &str, card: &SinkCard, way: &Way) -> Outcome<String> {
    let mut block = format!("\n[[remote]]\nname = {}\n", quoted(name));
    match way {
        Way::Card => {
            let keys: Vec<String> = host_keys(card)?.iter().map(|key| quoted(key)).collect();
            block += &format!("url = {}\nhost-key = [{}]\n", quoted(&url(card)), keys.join(", "));
            block += &format!("identity-file = {}\n", quoted(SSH_KEY_FILE));
        }
        Way::SshHost(host) => {
            block += &format!("ssh-host = {}\nsource = {}\n", quoted(host), quoted(card.name.as_str()))
        }
        Way::Path(path) => {
            let path = path
                .to_str()
                .ok_or_else(|| wrong("the vault's path is not UTF-8: the configuration cannot hold it"))?;
            block += &format!("path = {}\nsource = {}\n", quoted(path), quoted(card.name.as_str()));
        }
    }
    block += &format!("sink = {}\nrequired = true\n", quoted(&sink(card)));
    let end = if loaded.text.is_empty() || loaded.text.ends_with('\n') { "" } else { "\n" };
    Ok(format!("{}{end}{block}", loaded.text))
}

/// The configuration with the card's address and keys in this remote; how it is reached stays.
pub fn repin(loaded: &Loaded, remote: &Remote, card: &SinkCard) -> Outcome<String> {
    change(loaded, &remote.name, |remotes, at| {
        let table = remotes.get_mut(at).ok_or_else(|| wrong("no such remote"))?;
        if remote.url.is_some() {
            set(table, "url", value(url(card)));
            set(table, "host-key", value(host_keys(card)?.into_iter().collect::<Array>()));
        } else {
            set(table, "source", value(card.name.as_str()));
        }
        set(table, "sink", value(sink(card)));
        Ok(())
    })
}

/// Replaces a value and keeps the comment behind it.
fn set(table: &mut Table, key: &str, mut new: Item) {
    if let (Some(old), Some(new)) = (table.get(key).and_then(Item::as_value), new.as_value_mut()) {
        *new.decor_mut() = old.decor().clone();
    }
    table.insert(key, new);
}

/// The configuration without this remote.
pub fn remove(loaded: &Loaded, name: &str) -> Outcome<String> {
    change(loaded, name, |remotes, at| {
        remotes.remove(at);
        Ok(())
    })
}

fn change(
    loaded: &Loaded,
    name: &str,
    change: impl FnOnce(&mut ArrayOfTables, usize) -> Outcome<()>,
) -> Outcome<String> {
    let mut document: DocumentMut =
        loaded.text.parse().map_err(|e: toml_edit::TomlError| wrong(format!("cannot read the configuration: {e}")))?;
    let remotes = document.get_mut("remote").and_then(Item::as_array_of_tables_mut);
    let remotes = remotes.ok_or_else(|| {
        wrong("the remotes are not written as [[remote]] tables").help("change this one by hand in the configuration")
    })?;
    let is_it = |table: &Table| table.get("name").and_then(Item::as_str) == Some(name);
    let at = remotes.iter().position(is_it).ok_or_else(|| wrong("no such remote"))?;
    change(remotes, at)?;
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::paths::Paths;
    use shared::card::SshKey;
    use shared::id::VerifyKey;
    use std::path::Path;

    const START: &str = "# mine\nconfig-version = 1\n\n[source] # who\nname = \"web1\"\n\n# the friend's\n[[remote]]\nname = \"friend\"\nssh-host = \"friend\" # see ~/.ssh/config\nsource = \"web1\"\nsink = \"BgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgYGBgY\"\n\n[limits]\nnice = 19 # slow";

    fn loaded(text: &str) -> Loaded {
        let dir = PathBuf::from("/etc/x");
        let paths =
            Paths { config: dir.join("config.toml"), config_dir: dir.clone(), state_dir: dir.clone(), cache_dir: dir };
        Loaded { config: parse(text, Path::new("config.toml")).unwrap(), paths, text: text.to_owned() }
    }

    fn card() -> SinkCard {
        SinkCard {
            name: "web1".parse().unwrap(),
            user: "backup".into(),
            host: "::1".into(),
            port: 2222,
            host_keys: vec![SshKey::from_ed25519(&[4; 32])],
            sink: VerifyKey::new([5; 32]),
        }
    }

    #[test]
    fn remotes_come_change_and_go_and_the_rest_stays() {
        let start = loaded(START);
        let two = loaded(&add(&start, "offsite", &card(), &Way::Card).unwrap());
        assert!(two.text.starts_with(START));
        let offsite = &two.config.remotes[1];
        assert_eq!((offsite.name.as_str(), offsite.sink), ("offsite", Some(VerifyKey::new([5; 32]))));
        assert_eq!(offsite.url.as_deref(), Some("ssh://backup@[::1]:2222/web1"));
        let pins = crate::transport::pins(&offsite.host_key);
        assert!(pins[0].key == SshKey::from_ed25519(&[4; 32]) && pins[0].since.is_some());

        let other = SinkCard { port: 22, sink: VerifyKey::new([7; 32]), ..card() };
        let repinned = loaded(&repin(&two, offsite, &other).unwrap());
        assert_eq!(repinned.config.remotes[1].url.as_deref(), Some("ssh://backup@[::1]:22/web1"));
        assert_eq!(repinned.config.remotes[1].sink, Some(other.sink));
        // A remote by another way keeps it: only the key changes.
        let friend = loaded(&repin(&repinned, &repinned.config.remotes[0], &other).unwrap());
        assert_eq!(friend.config.remotes[0].ssh_host.as_deref(), Some("friend"));
        assert_eq!(friend.config.remotes[0].sink, Some(other.sink));
        for kept in
            ["# mine\n", "[source] # who", "# the friend's\n[[remote]]", "# see ~/.ssh/config", "nice = 19 # slow"]
        {
            assert!(friend.text.contains(kept), "{kept}\n{}", friend.text);
        }
        let removed = loaded(&remove(&friend, "offsite").unwrap());
        assert_eq!(removed.config.remotes.len(), 1);
        assert!(removed.text.contains("nice = 19 # slow") && !removed.text.contains("offsite"));
    }

    #[test]
    fn other_ways_keep_the_cards_sink_key() {
        let start = loaded(START);
        let way = Way::Path(PathBuf::from("/mnt/a \"b\"/vault"));
        let local = loaded(&add(&start, "disk", &card(), &way).unwrap());
        assert_eq!(local.config.remotes[1].path.as_deref(), Some(Path::new("/mnt/a \"b\"/vault")));
        let ssh = loaded(&add(&start, "two", &card(), &Way::SshHost("alias".into())).unwrap());
        assert_eq!(ssh.config.remotes[1].sink, Some(card().sink));
    }

    #[test]
    fn no_host_key_means_no_remote() {
        let bare = SinkCard { host_keys: Vec::new(), ..card() };
        assert!(add(&loaded(START), "x", &bare, &Way::Card).is_err());
        assert!(add(&loaded(START), "x", &bare, &Way::Path(PathBuf::from("/v"))).is_ok());
    }
}

//! Text that travels between people or lies in files: cards, key files, recipients, identities, configurations, names.

use crate::Target;
use crate::objects::key;
use remote_sink::config as sink_config;
use remote_sink::enrolment::Enrolment;
use shared::card::{SinkCard, SourceCard, SshKey};
use shared::id::SourceName;
use shared::keyfile;
use source_agent::crypto::identity::Identity;
use source_agent::crypto::recipient::Recipient;
use std::path::Path;

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn source_card(bytes: &[u8]) -> bool {
    let Some(text) = text(bytes) else { return false };
    let Ok(card) = text.parse::<SourceCard>() else { return false };
    assert_eq!(card.to_string(), text.trim(), "a card with another spelling was accepted");
    true
}

fn sink_card(bytes: &[u8]) -> bool {
    let Some(text) = text(bytes) else { return false };
    let Ok(card) = text.parse::<SinkCard>() else { return false };
    assert_eq!(card.to_string(), text.trim());
    // Goes into a command line and a configuration.
    assert!(!card.host.starts_with('-') && !card.user.starts_with('-'));
    true
}

fn source_name(bytes: &[u8]) -> bool {
    let Some(name) = text(bytes).and_then(|text| text.parse::<SourceName>().ok()) else { return false };
    // Goes into paths, authorized_keys lines and URLs.
    assert!(!name.as_str().starts_with(['.', '-']) && !name.as_str().contains(['/', '"', '\\', ' ', '\n', '\0']));
    true
}

fn ssh_key(bytes: &[u8]) -> bool {
    let Some(key) = text(bytes).and_then(SshKey::from_openssh) else { return false };
    assert_eq!(SshKey::from_blob(key.blob()), Some(key.clone()));
    assert_eq!(SshKey::from_openssh(&key.openssh()), Some(key));
    true
}

fn key_file(bytes: &[u8]) -> bool {
    let Some(text) = text(bytes) else { return false };
    let kinds = [keyfile::SOURCE_SIGNING_KEY, keyfile::SINK_KEY, keyfile::SOURCE_SECRET];
    kinds.iter().any(|kind| keyfile::read(kind, text).is_ok())
}

fn recipient(bytes: &[u8]) -> bool {
    let Some(text) = text(bytes) else { return false };
    let Ok(recipient) = text.parse::<Recipient>() else { return false };
    assert_eq!(recipient.to_string(), text.trim());
    true
}

fn identity(bytes: &[u8]) -> bool {
    let Some(text) = text(bytes) else { return false };
    match Identity::needs_passphrase(text) {
        // Opening a sealed one costs what its parameters say, on purpose: parsing is what is tried here.
        Ok(true) => true,
        Ok(false) => Identity::from_file(text, None).is_ok(),
        Err(_) => false,
    }
}

fn words(bytes: &[u8]) -> bool {
    text(bytes).is_some_and(|text| Identity::from_words(text).is_ok())
}

fn agent_config(bytes: &[u8]) -> bool {
    text(bytes).is_some_and(|text| source_agent::config::parse(text, Path::new("config.toml")).is_ok())
}

fn sink_configuration(bytes: &[u8]) -> bool {
    text(bytes).is_some_and(|text| sink_config::Config::parse(text).is_ok())
}

fn enrolment(bytes: &[u8]) -> bool {
    let Ok(enrolment) = Enrolment::from_bytes(bytes) else { return false };
    let again = enrolment.to_text().expect("an accepted enrolment");
    assert_eq!(Enrolment::parse(&again).expect("what was written"), enrolment);
    true
}

/// Whatever comes in, no control character comes out.
fn printable(bytes: &[u8]) -> bool {
    let shown = shared::text::printable(bytes, 1000);
    assert!(shown.chars().all(|c| !c.is_control()), "{shown:?}");
    assert!(shown.chars().count() <= 1000 * 12);
    true
}

fn a_source_card() -> SourceCard {
    SourceCard::new("web1".parse().unwrap(), SshKey::from_ed25519(&[2; 32]), Some(key().verify_key()), &key())
}

fn source_cards() -> Vec<Vec<u8>> {
    let reader = SourceCard::new("l".parse().unwrap(), SshKey::from_ed25519(&[2; 32]), None, &key());
    [a_source_card(), reader].map(|card| card.to_string().into_bytes()).to_vec()
}

fn sink_cards() -> Vec<Vec<u8>> {
    let card = SinkCard {
        name: "web1".parse().unwrap(),
        user: "backup".into(),
        host: "::1".into(),
        port: 22,
        host_keys: vec![SshKey::from_ed25519(&[4; 32]), SshKey::from_ed25519(&[5; 32])],
        sink: key().verify_key(),
    };
    vec![card.to_string().into_bytes()]
}

fn key_files() -> Vec<Vec<u8>> {
    vec![keyfile::write(keyfile::SINK_KEY, &[1; 32]).as_bytes().to_vec()]
}

fn recipients() -> Vec<Vec<u8>> {
    let identity = Identity::from_seed(&[5; 32]);
    [shared::format::Kem::XWing, shared::format::Kem::X25519]
        .map(|kem| identity.recipient(kem).to_string().into_bytes())
        .to_vec()
}

fn identities() -> Vec<Vec<u8>> {
    let plain = Identity::from_seed(&[5; 32]).to_file(None).unwrap().as_bytes().to_vec();
    let (salt, sealed) = (shared::text::base64(&[1; 16]), shared::text::base64(&[2; 48]));
    vec![plain, format!("pawl-identity:1,kdf=argon2id,m=65536,t=3,p=1,salt={salt},sealed={sealed}\n").into_bytes()]
}

fn agent_configs() -> Vec<Vec<u8>> {
    let key = SshKey::from_ed25519(&[4; 32]).openssh();
    let sink = shared::text::base64(&[3; 32]);
    let text = format!(
        "config-version = 1\n[source]\nname = \"web1\"\nrecipients = [\"owner.pub\"]\n[backup]\nexclude = [\"*.tmp\"]\n\
         exclude-larger-than = \"20GiB\"\nmin-interval = \"20h\"\n[[backup.set]]\nname = \"system\"\npaths = [\"/etc\"]\n\
         [[remote]]\nname = \"offsite\"\nurl = \"ssh://backup@sink.example:22/web1\"\nhost-key = [\"{key}\"]\n\
         sink = \"{sink}\"\nidentity-file = \"ssh_offsite\"\nlimit-upload = \"1MiB\"\n"
    );
    vec![text.into_bytes()]
}

fn sink_configs() -> Vec<Vec<u8>> {
    let text = "config-version = 1\n[store]\nmin-free = \"20GiB\"\n[serve]\nidle-timeout = \"5min\"\n[defaults]\n\
                quota = \"1TiB\"\n[defaults.retention]\nkeep-within = \"30d\"\nkeep-daily = 14\nmax-remove = \"50%\"\n\
                [source.web1]\nquota = \"500GiB\"\n";
    vec![text.as_bytes().to_vec()]
}

fn enrolments() -> Vec<Vec<u8>> {
    let card = a_source_card();
    let text = format!(
        "config-version = 1\ncard = \"{card}\"\nrole = \"read\"\nquota = 500\nfrom = [\"192.0.2.0/24\"]\n\
         enrolled = \"2026-11-21T23:40:00Z\"\nrevoked = false\n[reads]\nsources = [\"web1\", \"db\"]\n"
    );
    vec![text.into_bytes()]
}

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target { name: "source_card", run: source_card, samples: source_cards },
        Target { name: "sink_card", run: sink_card, samples: sink_cards },
        Target { name: "source_name", run: source_name, samples: || vec![b"web1.example_x-y".to_vec()] },
        Target {
            name: "ssh_key",
            run: ssh_key,
            samples: || vec![SshKey::from_ed25519(&[4; 32]).openssh().into_bytes()],
        },
        Target { name: "key_file", run: key_file, samples: key_files },
        Target { name: "recipient", run: recipient, samples: recipients },
        Target { name: "identity", run: identity, samples: identities },
        Target {
            name: "words",
            run: words,
            samples: || vec![Identity::from_seed(&[5; 32]).words().as_bytes().to_vec()],
        },
        Target { name: "agent_config", run: agent_config, samples: agent_configs },
        Target { name: "sink_config", run: sink_configuration, samples: sink_configs },
        Target { name: "enrolment", run: enrolment, samples: enrolments },
        Target { name: "printable", run: printable, samples: || vec![b"a\x1b[31m\xff\xc3\xa9 \\".to_vec()] },
    ]
}

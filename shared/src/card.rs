//! Cards: one line of public text that travels between people (docs/format.md, section "Cards").

use crate::id::{Digest, SourceId, SourceName, VerifyKey};
use crate::limits::CARD_BYTES_MAX;
use crate::signature::{CARD_LABEL, SIGNATURE_BYTES, SigningKey};
use crate::text::{base64, fingerprint_words, from_base64};
use std::fmt;
use std::str::FromStr;

/// A card that was cut, changed, or is another kind of text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind} card: {why}")]
pub struct CardError {
    pub kind: &'static str,
    pub why: String,
}

/// An SSH public key of type ssh-ed25519, as the 51-byte blob of RFC 8709.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SshKey([u8; 51]);

const SSH_PREFIX: &[u8; 19] = b"\0\0\0\x0bssh-ed25519\0\0\0\x20";

impl SshKey {
    pub fn from_ed25519(public: &[u8; 32]) -> Self {
        let mut blob = [0; 51];
        blob[..19].copy_from_slice(SSH_PREFIX);
        blob[19..].copy_from_slice(public);
        Self(blob)
    }
    pub fn from_blob(blob: &[u8]) -> Option<Self> {
        let blob: [u8; 51] = blob.try_into().ok()?;
        (&blob[..19] == SSH_PREFIX).then_some(Self(blob))
    }
    /// Reads an OpenSSH public key line: `ssh-ed25519 AAAA… [comment]`.
    pub fn from_openssh(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        if words.next()? != "ssh-ed25519" {
            return None;
        }
        Self::from_blob(&data_encoding::BASE64.decode(words.next()?.as_bytes()).ok()?)
    }
    pub fn blob(&self) -> &[u8] {
        &self.0
    }
    pub fn public(&self) -> [u8; 32] {
        let mut key = [0; 32];
        key.copy_from_slice(&self.0[19..]);
        key
    }
    /// `ssh-ed25519 AAAA…`, without a comment.
    pub fn openssh(&self) -> String {
        format!("ssh-ed25519 {}", data_encoding::BASE64.encode(&self.0))
    }
}

/// What a source (or a reader) shows to a sink's operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceCard {
    name: SourceName,
    ssh: SshKey,
    sign: VerifyKey,
    owner: Option<VerifyKey>,
    signature: [u8; SIGNATURE_BYTES],
}

impl SourceCard {
    /// Makes and signs a card.
    pub fn new(name: SourceName, ssh: SshKey, owner: Option<VerifyKey>, key: &SigningKey) -> Self {
        let mut card = Self { name, ssh, sign: key.verify_key(), owner, signature: [0; SIGNATURE_BYTES] };
        card.signature = key.sign_labelled(CARD_LABEL, card.unsigned().as_bytes());
        card
    }
    fn unsigned(&self) -> String {
        let owner = self.owner.map(|key| format!(",owner={}", base64(key.as_bytes()))).unwrap_or_default();
        format!(
            "source-card:1,name={},ssh={},sign={}{owner}",
            self.name,
            base64(self.ssh.blob()),
            base64(self.sign.as_bytes())
        )
    }
    pub fn name(&self) -> &SourceName {
        &self.name
    }
    pub fn ssh(&self) -> &SshKey {
        &self.ssh
    }
    pub fn verify_key(&self) -> &VerifyKey {
        &self.sign
    }
    /// The owner that this source seals to; absent on a reader's card made without one.
    pub fn owner(&self) -> Option<&VerifyKey> {
        self.owner.as_ref()
    }
    /// The name for ever of the source whose first card this is.
    pub fn source_id(&self) -> SourceId {
        SourceId::new(*Digest::of(self.unsigned().as_bytes()).as_bytes())
    }
    /// Words for people to compare; they cover the whole card.
    pub fn fingerprint(&self) -> String {
        fingerprint_words(self.source_id().as_bytes())
    }
}

impl fmt::Display for SourceCard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},sig={}", self.unsigned(), base64(&self.signature))
    }
}

/// `name=value` pairs behind the kind; refuses an unknown kind or anything without `=`.
fn fields<'a>(text: &'a str, kind: &'static str) -> Result<Vec<(&'a str, &'a str)>, CardError> {
    let err = |why: &str| CardError { kind, why: why.into() };
    if text.len() > CARD_BYTES_MAX {
        return Err(err("too long"));
    }
    let rest = text
        .strip_prefix(kind)
        .and_then(|rest| rest.strip_prefix("-card:"))
        .ok_or_else(|| CardError { kind, why: format!("it does not begin with '{kind}-card:'") })?;
    let rest = rest.strip_prefix("1,").ok_or_else(|| err("its version is not 1"))?;
    rest.split(',').map(|pair| pair.split_once('=').ok_or_else(|| err("a field without '='"))).collect()
}

/// Takes the fields in their one order; each may be asked for once.
struct Fields<'a> {
    kind: &'static str,
    rest: std::iter::Peekable<std::vec::IntoIter<(&'a str, &'a str)>>,
}

impl<'a> Fields<'a> {
    fn new(text: &'a str, kind: &'static str) -> Result<Self, CardError> {
        Ok(Self { kind, rest: fields(text, kind)?.into_iter().peekable() })
    }
    fn err(&self, why: String) -> CardError {
        CardError { kind: self.kind, why }
    }
    fn optional(&mut self, name: &str) -> Option<&'a str> {
        self.rest.next_if(|(found, _)| *found == name).map(|(_, value)| value)
    }
    fn text(&mut self, name: &str) -> Result<&'a str, CardError> {
        self.optional(name).ok_or_else(|| self.err(format!("the field '{name}' is missing or out of order")))
    }
    fn bytes(&mut self, name: &str) -> Result<Vec<u8>, CardError> {
        let value = self.text(name)?;
        from_base64(value).ok_or_else(|| self.err(format!("the field '{name}' was cut or changed")))
    }
    fn name(&mut self) -> Result<SourceName, CardError> {
        self.text("name")?.parse().map_err(|e: crate::id::NameError| self.err(e.to_string()))
    }
    fn key(&mut self, name: &str) -> Result<VerifyKey, CardError> {
        VerifyKey::from_slice(&self.bytes(name)?).map_err(|e| self.err(format!("the field '{name}': {e}")))
    }
    fn end(mut self) -> Result<(), CardError> {
        match self.rest.next() {
            None => Ok(()),
            Some((name, _)) => {
                Err(self.err(format!("a field too many: '{}'", crate::text::printable(name.as_bytes(), 40))))
            }
        }
    }
}

impl FromStr for SourceCard {
    type Err = CardError;
    fn from_str(text: &str) -> Result<Self, CardError> {
        let mut fields = Fields::new(text.trim(), "source")?;
        let name = fields.name()?;
        let ssh = fields.bytes("ssh")?;
        let ssh = SshKey::from_blob(&ssh).ok_or_else(|| fields.err("its SSH key is not of type ssh-ed25519".into()))?;
        let sign = fields.key("sign")?;
        let owner = match fields.rest.peek() {
            Some(("owner", _)) => Some(fields.key("owner")?),
            _ => None,
        };
        let signature = fields.bytes("sig")?;
        let signature = signature.try_into().map_err(|_| fields.err("the field 'sig' was cut or changed".into()))?;
        fields.end()?;
        let card = Self { name, ssh, sign, owner, signature };
        if !card.sign.verify_labelled(CARD_LABEL, card.unsigned().as_bytes(), &card.signature) {
            return Err(CardError { kind: "source", why: "its signature does not fit: it was cut or changed".into() });
        }
        Ok(card)
    }
}

/// What a sink's operator shows to a source or a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkCard {
    pub name: SourceName,
    pub user: String,
    pub host: String,
    pub port: u16,
    /// Any of these may be the host key.
    pub host_keys: Vec<SshKey>,
    pub sink: VerifyKey,
}

impl SinkCard {
    fn unsummed(&self) -> String {
        let keys: String = self.host_keys.iter().map(|key| format!(",hostkey={}", base64(key.blob()))).collect();
        format!(
            "sink-card:1,name={},user={},host={},port={}{keys},sink={}",
            self.name,
            self.user,
            self.host,
            self.port,
            base64(self.sink.as_bytes())
        )
    }
    fn sum(&self) -> String {
        Digest::of(self.unsummed().as_bytes()).short()
    }
    /// Words for people to compare: they cover address, host keys and sink key.
    pub fn fingerprint(&self) -> String {
        fingerprint_words(Digest::of(self.unsummed().as_bytes()).as_bytes())
    }
}

/// Is this a user name for a card?
pub fn is_user(user: &str) -> bool {
    !user.is_empty()
        && user.len() <= 64
        && !user.starts_with('-')
        && user.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// Is this a host name or address for a card? IPv6 addresses stand without brackets.
pub fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && !host.starts_with('-')
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':'))
}

impl fmt::Display for SinkCard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},sum={}", self.unsummed(), self.sum())
    }
}

impl FromStr for SinkCard {
    type Err = CardError;
    fn from_str(text: &str) -> Result<Self, CardError> {
        let mut fields = Fields::new(text.trim(), "sink")?;
        let name = fields.name()?;
        let user = fields.text("user")?.to_owned();
        let host = fields.text("host")?.to_owned();
        if !is_user(&user) || !is_host(&host) {
            return Err(fields.err("its user or host has characters that no card holds".into()));
        }
        let port = fields.text("port")?.parse().map_err(|_| fields.err("its port is not a number".into()))?;
        let mut host_keys = Vec::new();
        while matches!(fields.rest.peek(), Some(("hostkey", _))) {
            let blob = fields.bytes("hostkey")?;
            host_keys.push(
                SshKey::from_blob(&blob).ok_or_else(|| fields.err("a host key is not of type ssh-ed25519".into()))?,
            );
        }
        let sink = fields.key("sink")?;
        let sum = fields.text("sum")?;
        fields.end()?;
        let card = Self { name, user, host, port, host_keys, sink };
        if card.to_string() != text.trim() || card.sum() != sum {
            return Err(CardError { kind: "sink", why: "its sum does not fit: it was cut or changed".into() });
        }
        Ok(card)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source_card() -> SourceCard {
        let key = SigningKey::from_seed(&[1; 32]);
        SourceCard::new("web1".parse().unwrap(), SshKey::from_ed25519(&[2; 32]), Some(VerifyKey::new([3; 32])), &key)
    }

    #[test]
    fn source_card_comes_back_and_refuses_changes() {
        let card = source_card();
        let text = card.to_string();
        assert_eq!(text.parse::<SourceCard>().unwrap(), card);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=:,.@".contains(&b)));
        for at in 0..text.len() {
            assert!(text[..at].parse::<SourceCard>().is_err(), "cut at {at}");
        }
        assert!(text.replace("web1", "web2").parse::<SourceCard>().is_err());
        assert!(format!("{text},x=y").parse::<SourceCard>().is_err());
    }

    #[test]
    fn sink_card_comes_back_and_refuses_changes() {
        let card = SinkCard {
            name: "web1".parse().unwrap(),
            user: "backup".into(),
            host: "::1".into(),
            port: 22,
            host_keys: vec![SshKey::from_ed25519(&[4; 32]), SshKey::from_ed25519(&[5; 32])],
            sink: VerifyKey::new([6; 32]),
        };
        let text = card.to_string();
        assert_eq!(text.parse::<SinkCard>().unwrap(), card);
        for at in 0..text.len() {
            assert!(text[..at].parse::<SinkCard>().is_err(), "cut at {at}");
        }
        assert!(text.replace("port=22", "port=23").parse::<SinkCard>().is_err());
    }
}

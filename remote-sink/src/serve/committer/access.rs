//! What a connection may see: decided once, from the operator's files, before anything is read from the client.

use crate::damaged::Damaged;
use crate::enrolment::{Enrolment, Reads};
use crate::published::Published;
use crate::serve::channel::{Identity, OWNERS_MAX};
use crate::store::directory::{Directory, Root};
use crate::store::layout::{owner_room, source_room};
use crate::store::{Store, StoreError};
use rustix::fs::Dir;
use shared::codec::List;
use shared::id::{SourceId, SourceName, VerifyKey};
use shared::keyfile::{SINK_KEY, read_signing_key};
use shared::signature::SigningKey;
use shared::wire::{RefusalCode, Refused, Role};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Larger files are none of ours.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A pushing source, with its objects.
#[derive(Debug, Clone)]
pub struct Source<S> {
    pub name: SourceName,
    pub id: SourceId,
    pub key: VerifyKey,
    pub owner: Option<VerifyKey>,
    pub card: String,
    /// What the operator's commands say of it.
    pub published: Arc<Published>,
    /// What they found damaged: told to the source itself.
    pub damaged: Arc<Damaged>,
    pub store: S,
}

/// Everything that this connection may reach.
pub struct Access<S> {
    pub name: SourceName,
    pub role: Role,
    pub identity: Identity,
    pub quota: Option<u64>,
    pub sources: Vec<Source<S>>,
    /// Rooms of the owners pinned for those sources.
    pub owners: BTreeMap<VerifyKey, S>,
}

impl<S> Access<S> {
    /// A source that this connection may ask about.
    pub fn source(&self, id: &SourceId) -> Result<&Source<S>, Refused> {
        let not_here = || Refused::new(RefusalCode::NotAllowed, "this connection may not ask about that source");
        self.sources.iter().find(|source| source.id == *id).ok_or_else(not_here)
    }
}

/// What the vault holds for one session.
pub struct Vault {
    pub root: Root,
    pub staging: Arc<OwnedFd>,
    pub key: SigningKey,
    pub access: Access<Directory>,
}

fn not_allowed(text: impl AsRef<str>) -> Refused {
    Refused::new(RefusalCode::NotAllowed, text)
}

fn internal(error: impl std::fmt::Display) -> Refused {
    Refused::new(RefusalCode::Internal, format!("the vault cannot be opened: {error}"))
}

fn read_file(root: &Root, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(file) = root.open_file(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| StoreError {
        action: "read",
        path: path.into(),
        error,
    })?;
    Ok(Some(bytes))
}

fn read_enrolment(root: &Root, name: &SourceName) -> Result<Option<Enrolment>, Refused> {
    let path = format!("{}/enrolment.toml", source_room(name));
    let Some(bytes) = read_file(root, &path).map_err(internal)? else { return Ok(None) };
    Enrolment::from_bytes(&bytes).map(Some).map_err(|why| internal(format!("{path}: {why}")))
}

/// Opens what this session will need.
pub fn open(root: &std::path::Path, name: &SourceName, role: Role) -> Result<Vault, Refused> {
    let root = Root::open(root).map_err(internal)?;
    let file = read_file(&root, "sink.key").map_err(internal)?.ok_or_else(|| internal("it has no sink.key"))?;
    let text = zeroize_text(file)?;
    let key = read_signing_key(SINK_KEY, &text).map_err(internal)?;
    drop(text);
    let enrolment =
        read_enrolment(&root, name)?.ok_or_else(|| not_allowed(format!("{name} is not enrolled at this sink")))?;
    if enrolment.revoked {
        return Err(not_allowed(format!("{name} was revoked by the sink's operator")));
    }
    if enrolment.role != role || role == Role::Mirror {
        return Err(not_allowed(format!("{name} is enrolled with role {}, not {role}", enrolment.role)));
    }
    let staging = Arc::new(root.open_dir(&format!("{}/staging", source_room(name))).map_err(internal)?);
    let sources = visible(&root, name, &enrolment, &staging)?;
    let mut owners = BTreeMap::new();
    for owner in sources.iter().filter_map(|source| source.owner) {
        owners.entry(owner).or_insert_with(|| root.writable_room(owner_room(&owner), &staging));
    }
    let identity = Identity {
        source: enrolment.card.source_id(),
        key: *enrolment.card.verify_key(),
        sink: key.verify_key(),
        owners: List::new(owners.keys().copied().collect())
            .map_err(|_| internal(format!("{name} would see sources of more than {OWNERS_MAX} owners")))?,
    };
    let access = Access { name: name.clone(), role, identity, quota: enrolment.quota, sources, owners };
    Ok(Vault { root, staging, key, access })
}

fn zeroize_text(bytes: Vec<u8>) -> Result<zeroize::Zeroizing<String>, Refused> {
    String::from_utf8(bytes).map(zeroize::Zeroizing::new).map_err(|_| internal("sink.key is not text"))
}

fn source(root: &Root, name: SourceName, enrolment: &Enrolment) -> Result<Source<Directory>, Refused> {
    let id = enrolment.card.source_id();
    let published = Arc::new(Published::read(root, &name, id).map_err(internal)?);
    // It helps healing and nothing else: no session fails for it.
    let damaged = Damaged::read(root, &name, id).unwrap_or_else(|e| {
        eprintln!("remote-sink: {e}");
        Damaged::nothing(id)
    });
    Ok(Source {
        id,
        published,
        damaged: Arc::new(damaged),
        key: *enrolment.card.verify_key(),
        owner: enrolment.card.owner().copied(),
        card: enrolment.card.to_string(),
        store: root.room(source_room(&name)),
        name,
    })
}

/// A pushing source sees itself; a reader what its enrolment says.
fn visible(
    root: &Root,
    name: &SourceName,
    enrolment: &Enrolment,
    staging: &Arc<OwnedFd>,
) -> Result<Vec<Source<Directory>>, Refused> {
    if enrolment.role == Role::Push {
        let own = source(root, name.clone(), enrolment)?;
        return Ok(vec![Source { store: root.writable_room(source_room(name), staging), ..own }]);
    }
    let mut all = Vec::new();
    for other in source_names(root).map_err(internal)? {
        // A source that was revoked pushes no more; what it left can still be read.
        if let Some(found) = read_enrolment(root, &other)?
            && found.role == Role::Push
        {
            all.push(source(root, other, &found)?);
        }
    }
    let owner = match (&enrolment.reads, enrolment.card.owner()) {
        (Reads::Sources(names), _) => {
            all.retain(|source| names.contains(&source.name));
            return Ok(all);
        }
        (Reads::Owner(owner), _) | (Reads::SingleOwner, Some(owner)) => *owner,
        (Reads::SingleOwner, None) => {
            let Some(first) = all.first() else { return Ok(all) };
            if all.iter().any(|source| source.owner != first.owner) || first.owner.is_none() {
                let text = format!(
                    "the sources of this sink have several owners: its operator must say which ones {name} may read \
                     (remote-sink enroll --of)"
                );
                return Err(not_allowed(text));
            }
            return Ok(all);
        }
    };
    all.retain(|source| source.owner == Some(owner));
    Ok(all)
}

fn source_names(root: &Root) -> Result<Vec<SourceName>, StoreError> {
    let err = |error: rustix::io::Errno| StoreError { action: "list", path: "sources".into(), error: error.into() };
    let mut names = Vec::new();
    for entry in Dir::new(root.open_dir("sources")?).map_err(err)? {
        if let Ok(name) = entry.map_err(err)?.file_name().to_string_lossy().parse() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Can this store take what its owner brings? Rooms are made at enrolment.
pub fn owner_room_of<'a, S: Store>(access: &'a Access<S>, owner: &VerifyKey) -> Result<&'a S, Refused> {
    access.owners.get(owner).ok_or_else(|| not_allowed("that owner owns no source that this connection may see"))
}

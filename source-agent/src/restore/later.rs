//! Wraps that an owner added later: secrets of old sessions, sealed to further recipients (docs/format.md, section 6).

use crate::crypto::identity::Identity;
use crate::owner::TrustedSource;
use crate::report::Outcome;
use crate::restore::objects::Objects;
use parking_lot::Mutex;
use shared::format::Wrap;
use shared::id::{Lineage, SessionId, SourceId, VerifyKey};
use shared::signature::{Signed, Verified};
use std::collections::HashMap;
use std::sync::Arc;

/// Wraps of a lineage, by session.
pub type Wraps = HashMap<SessionId, Vec<Verified<Wrap>>>;

/// By sink, source and lineage.
type Shown = HashMap<(VerifyKey, SourceId, Lineage), Arc<Wraps>>;

/// What the sinks showed, asked for once and shared by all readers of a command.
#[derive(Clone, Default)]
pub struct Later(Arc<Mutex<Shown>>);

impl Later {
    /// Those of a lineage at a sink that the source's owner, or the owner of this identity, signed.
    pub fn of(
        &self,
        sink: &mut dyn Objects,
        source: &TrustedSource,
        lineage: &Lineage,
        identity: &Identity,
    ) -> Outcome<Arc<Wraps>> {
        let id = source.id();
        let name = (sink.sink(), id, *lineage);
        if let Some(known) = self.0.lock().get(&name) {
            return Ok(Arc::clone(known));
        }
        let owners = [Some(identity.owner_key().verify_key()), source.card.owner().copied()];
        let mut wraps = Wraps::new();
        for bytes in sink.wraps(&id, lineage)? {
            let Ok(signed) = Signed::<Wrap>::parse(&bytes) else { continue };
            if let Some(wrap) = owners.iter().flatten().find_map(|key| signed.clone().verify(key).ok()) {
                wraps.entry(wrap.session).or_default().push(wrap);
            }
        }
        let wraps = Arc::new(wraps);
        self.0.lock().insert(name, Arc::clone(&wraps));
        Ok(wraps)
    }
}

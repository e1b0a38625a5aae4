//! Which blocks are named: by bodies on the shelf and in the trash, and through substitutes. Conservative in every
//! doubt: what cannot be read frees nothing.

use crate::retention::vault::{RetentionError, Source};
use crate::store::{Name, Shelf, names, read_whole};
use shared::bits;
use shared::format::{Body, Page, Substitute};
use shared::id::{ArchiveNumber, Digest, Lineage};
use shared::limits::{BODY_BYTES_MAX, PAGE_BYTES_MAX, SUBSTITUTE_BYTES_MAX};
use shared::signature::{Plain, Signed};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// An archive's name within its source.
pub type Place = (Lineage, ArchiveNumber);

/// Bits of an archive's parts, lowest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bits(Vec<u8>);

impl Bits {
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
    pub fn has(&self, at: usize) -> bool {
        bits::is_set(&self.0, at)
    }
    pub fn set(&mut self, at: usize) {
        bits::set(&mut self.0, at);
    }
    pub fn add(&mut self, other: &[u8]) {
        if self.0.len() < other.len() {
            self.0.resize(other.len(), 0);
        }
        self.0.iter_mut().zip(other).for_each(|(mine, theirs)| *mine |= theirs);
    }
    /// Without those of `other`.
    pub fn without(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine &= !theirs);
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }
    pub fn count(&self) -> u64 {
        self.0.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }
}

/// Named blocks of each archive.
pub type Named = BTreeMap<Place, Bits>;

/// Everything that some bodies name.
#[derive(Debug, Clone, Default)]
pub struct Reachable {
    pub blocks: Named,
    pub pages: HashSet<Digest>,
}

/// Adds what a ref page names.
pub fn add_page(named: &mut Named, page: &Page) {
    for entry in page.archives.iter() {
        named.entry((page.lineage, entry.number)).or_default().add(&entry.live);
    }
}

/// Adds to `more` the right blocks of a substitute whose left block is among `named`, as far as their archives are
/// here. Depth one: `named` is what bodies name directly, so what a right block is the left of adds nothing further.
fn add_substitute(named: &Named, here: &BTreeSet<Place>, substitute: &Substitute, more: &mut Named) {
    for pair in substitute.pairs.iter() {
        let left = named.get(&(substitute.lineage, pair.left.number));
        if left.is_some_and(|bits| bits.has(pair.left.block as usize)) {
            let rights = pair.right.iter().map(|right| ((substitute.lineage, right.number), right.block as usize));
            for (place, block) in rights.filter(|(place, _)| here.contains(place)) {
                more.entry(place).or_default().set(block);
            }
        }
    }
}

fn damaged(source: &Source, path: String) -> RetentionError {
    RetentionError::Damaged { source_name: source.name.clone(), path }
}

/// A ref page.
pub fn read_page(source: &Source, digest: &Digest) -> Result<Plain<Page>, RetentionError> {
    let name = Name::Page(*digest);
    let bytes = match read_whole(&source.store, &name, PAGE_BYTES_MAX) {
        Err(e) if e.is_damage() => None,
        bytes => bytes?,
    };
    let page = bytes.and_then(|bytes| Plain::<Page>::parse(&bytes).ok()).filter(|page| page.digest() == *digest);
    page.ok_or_else(|| damaged(source, crate::store::layout::object_path(&name)))
}

/// A body from its bytes; `where_from` is for the message.
pub fn parse_body(
    source: &Source,
    digest: &Digest,
    bytes: Option<&[u8]>,
    path: &str,
) -> Result<Plain<Body>, RetentionError> {
    let body = bytes.and_then(|bytes| Plain::<Body>::parse(bytes).ok()).filter(|body| body.digest() == *digest);
    body.ok_or_else(|| damaged(source, path.to_owned()))
}

/// A body on the shelf.
pub fn read_body(source: &Source, digest: &Digest) -> Result<Plain<Body>, RetentionError> {
    let name = Name::Body(*digest);
    let bytes = match read_whole(&source.store, &name, BODY_BYTES_MAX) {
        Err(e) if e.is_damage() => None,
        bytes => bytes?,
    };
    parse_body(source, digest, bytes.as_deref(), &crate::store::layout::object_path(&name))
}

/// All that these bodies name, substitutes by what is `here` included. Each page is read once.
pub fn reach(
    source: &Source,
    here: &BTreeSet<Place>,
    bodies: impl Iterator<Item = Result<Plain<Body>, RetentionError>>,
) -> Result<Reachable, RetentionError> {
    let mut reachable = Reachable::default();
    for body in bodies {
        for digest in body?.pages.iter() {
            if reachable.pages.insert(*digest) {
                add_page(&mut reachable.blocks, &*read_page(source, digest)?);
            }
        }
    }
    let mut more = Named::new();
    for name in names(&source.store, Shelf::Substitutes)? {
        if let Some(substitute) = read_substitute(source, &name)? {
            add_substitute(&reachable.blocks, here, &substitute, &mut more);
        }
    }
    for (place, bits) in more {
        reachable.blocks.entry(place).or_default().add(bits.as_bytes());
    }
    Ok(reachable)
}

/// A substitute record that the source or its owner signed. One that is damaged may hide what must live.
fn read_substitute(source: &Source, name: &Name) -> Result<Option<Substitute>, RetentionError> {
    let bytes = match read_whole(&source.store, name, SUBSTITUTE_BYTES_MAX) {
        Err(e) if e.is_damage() => None,
        bytes => bytes?,
    };
    let signed = bytes.and_then(|bytes| Signed::<Substitute>::parse(&bytes).ok());
    let mut keys = source.owner.iter().chain([&source.key]);
    let verified = signed.and_then(|signed| keys.find_map(|key| signed.clone().verify(key).ok()));
    let verified = verified.ok_or_else(|| damaged(source, crate::store::layout::object_path(name)))?;
    Ok((verified.source == source.id).then(|| verified.into_value()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::codec::List;
    use shared::format::owner::{BlockName, SubstitutePair};
    use shared::id::{ArchiveId, SourceId};

    #[test]
    fn a_substitute_lives_as_long_as_what_it_heals() {
        let lineage = Lineage::new([1; 16]);
        let place = |number| (lineage, ArchiveNumber::new(number).unwrap());
        let block = |number, block| BlockName { number: place(number).1, id: ArchiveId::new([0; 32]), block };
        let record = |pairs: Vec<SubstitutePair>| {
            let pairs = List::new(pairs).unwrap();
            Substitute { source: SourceId::new([2; 32]), lineage, pairs }
        };
        let pair = |left, right| SubstitutePair { left, right: List::new(right).unwrap() };
        let heals = record(vec![pair(block(1, 3), vec![block(7, 0), block(8, 20), block(9, 1)])]);
        let deeper = record(vec![pair(block(7, 0), vec![block(8, 1)])]);
        let here = BTreeSet::from([place(1), place(7), place(8)]);
        let rights = |named: &Named| {
            let mut more = Named::new();
            [&heals, &deeper].into_iter().for_each(|record| add_substitute(named, &here, record, &mut more));
            more
        };
        let mut named = Named::new();
        named.entry(place(1)).or_default().set(2);
        assert!(rights(&named).is_empty(), "the left block is not named");
        named.entry(place(1)).or_default().set(3);
        let more = rights(&named);
        assert_eq!(more.keys().copied().collect::<Vec<_>>(), [place(7), place(8)], "only what is here");
        assert!(more[&place(7)].has(0) && more[&place(8)].has(20));
        assert_eq!(more[&place(8)].count(), 1, "no substitute of a substitute");
    }

    #[test]
    fn bits_add_and_take_away() {
        let mut bits = Bits::default();
        [0, 9, 17].into_iter().for_each(|at| bits.set(at));
        assert_eq!((bits.count(), bits.has(9), bits.has(8), bits.has(400)), (3, true, false, false));
        let left = bits.clone().without(&Bits::from_bytes(&[1, 0, 2, 255]));
        assert_eq!(left.as_bytes(), [0, 2]);
        assert!(left.clone().without(&bits).is_empty());
    }
}

//! Reading a stored archive or generation (docs/format.md, section "Archive"): its header region first, never more
//! than a region may be.

use crate::store::{Name, Store, StoreError, Stored};
use shared::codec::FormatError;
use shared::format::{ArchiveLayout, Generation, Index, Region};
use shared::id::VerifyKey;
use shared::limits::{ALIGN, REGION_BYTES_MAX};
use shared::signature::{self, Object, SignatureError, Verified};

/// Most regions are shorter than this.
const FIRST_READ: usize = 32 << 10;

/// An archive that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("its header region: {0}")]
    Format(#[from] FormatError),
    #[error("its index: {0}")]
    Signature(#[from] SignatureError),
    #[error("{bytes} bytes long where its index says {wanted}")]
    Length { bytes: u64, wanted: u64 },
    #[error("its index is of another archive: number {0}")]
    Other(u64),
}

impl ArchiveError {
    /// Is the object to blame, not the machine?
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Store(e) if !e.is_damage())
    }
}

/// An archive whose region could be read; nothing of it is checked yet.
#[derive(Debug)]
pub struct Opened<O> {
    pub layout: ArchiveLayout,
    pub stored: O,
}

/// An archive whose index fits its key, its name and the length of its file.
#[derive(Debug)]
pub struct Checked<O> {
    pub layout: ArchiveLayout,
    pub index: Verified<Index>,
    pub stored: O,
}

fn read_prefix(stored: &impl Stored, buffer: &mut Vec<u8>, wanted: usize) -> Result<(), StoreError> {
    let have = buffer.len();
    buffer.resize(wanted, 0);
    stored.read_at(&mut buffer[have..], have as u64)
}

/// Opens an archive and reads its region.
pub fn open<S: Store>(store: &S, name: &Name) -> Result<Option<Opened<S::Stored>>, ArchiveError> {
    let Some(stored) = store.get(name)? else { return Ok(None) };
    let whole = usize::try_from(stored.bytes()).unwrap_or(usize::MAX).min(REGION_BYTES_MAX + ALIGN);
    let mut prefix = Vec::new();
    read_prefix(&stored, &mut prefix, whole.min(FIRST_READ))?;
    let is_generation = signature::peek(&prefix).is_some_and(|(kind, _)| kind == Generation::KIND);
    let offset = if is_generation { ALIGN } else { 0 };
    let end = loop {
        match Region::length(prefix.get(offset..).ok_or(FormatError::Length)?)? {
            Some(length) if offset + length <= whole => break offset + length,
            None if prefix.len() < whole => {
                let wanted = (prefix.len() * 4).min(whole);
                read_prefix(&stored, &mut prefix, wanted)?;
            }
            _ => return Err(FormatError::Length.into()),
        }
    };
    if prefix.len() < end {
        read_prefix(&stored, &mut prefix, end)?;
    }
    Ok(Some(Opened { layout: ArchiveLayout::parse(&prefix[..end])?, stored }))
}

/// Opens an archive and checks all that its region can prove.
pub fn open_checked<S: Store>(
    store: &S,
    name: &Name,
    key: &VerifyKey,
) -> Result<Option<Checked<S::Stored>>, ArchiveError> {
    let Some(Opened { layout, stored }) = open(store, name)? else { return Ok(None) };
    let index = layout.region.index.clone().verify(key)?;
    if *name != Name::Archive(index.lineage, index.number) {
        return Err(ArchiveError::Other(index.number.get()));
    }
    layout.fits(&index)?;
    let wanted = layout.file_bytes(&index);
    if stored.bytes() != wanted {
        return Err(ArchiveError::Length { bytes: stored.bytes(), wanted });
    }
    Ok(Some(Checked { layout, index, stored }))
}

//! The only file that removes or replaces what was published. It does what a plan says, which the journal has already,
//! under the source's lock: no pushing session runs meanwhile. What a crash leaves stands at each step.

use crate::retention::reach::{Bits, Place};
use crate::retention::vault::{RetentionError, Source, io_error};
use crate::store::archive::{self, Checked};
use crate::store::layout::{Layout, pack_file};
use crate::store::pack::{self, Pack};
use crate::store::{Name, Shelf, Stored};
use rustix::fs::{IFlags, Mode, OFlags};
use shared::codec::{Blob, FormatError};
use shared::format::{ArchiveLayout, Generation};
use shared::id::Digest;
use shared::limits::ALIGN;
use shared::signature::Plain;
use shared::sys::durable::{self, sync_dir};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Mode of objects: nobody writes to them again.
const OBJECT_MODE: u32 = 0o440;
/// Archives written again lie here under this ending until they are whole.
const ENDING: &str = ".rewrite";
const PIECE_BYTES: usize = 1 << 20;

/// What an archive came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// Bytes that the file system has back.
    Freed(u64),
    /// It is damaged: left as it is, for `verify` to name.
    Damaged,
}

/// Asked before and after every change; a test lets it fail.
pub type Step<'a> = &'a dyn Fn(&'static str) -> io::Result<()>;

/// The remover of one source.
pub struct Sweeper<'a> {
    pub layout: &'a Layout,
    pub source: &'a Source,
    pub step: Step<'a>,
}

impl Sweeper<'_> {
    fn step(&self, what: &'static str) -> Result<(), RetentionError> {
        (self.step)(what).map_err(io_error(what, self.layout.root()))
    }

    /// rename · fsync(both directories). A crash leaves the body in one place or the other: both keep its blocks.
    fn move_body(&self, from: &Path, to: &Path) -> Result<(), RetentionError> {
        self.step("before moving a body")?;
        match std::fs::rename(from, to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(io_error("move", from))?,
        }
        self.step("after moving a body")?;
        for dir in [to, from].into_iter().filter_map(Path::parent) {
            sync_dir(dir).map_err(io_error("sync", dir))?;
        }
        self.step("after syncing a moved body")
    }

    /// A removed snapshot's body goes to the trash.
    pub fn to_trash(&self, body: &Digest) -> Result<(), RetentionError> {
        let from = self.layout.object(&self.source.name, &Name::Body(*body));
        self.move_body(&from, &self.layout.trashed(&self.source.name, body))
    }

    /// It comes back.
    pub fn bring_back(&self, body: &Digest) -> Result<(), RetentionError> {
        let to = self.layout.object(&self.source.name, &Name::Body(*body));
        self.move_body(&self.layout.trashed(&self.source.name, body), &to)
    }

    /// unlink · fsync(directory). A crash leaves the file or not; the next run asks again.
    fn remove(&self, path: &Path) -> Result<(), RetentionError> {
        self.step("before removing")?;
        durable::remove(path).map_err(io_error("remove", path))?;
        self.step("after removing")
    }

    /// A body whose grace is over leaves the trash. Its blocks are dead from here on, and freed by a later run.
    pub fn purge(&self, body: &Digest) -> Result<(), RetentionError> {
        self.remove(&self.layout.trashed(&self.source.name, body))
    }

    /// A page or body that nothing names. A source that wants it again sends it again.
    pub fn remove_unnamed(&self, name: &Name) -> Result<u64, RetentionError> {
        debug_assert!(matches!(name, Name::Page(_) | Name::Body(_)));
        let path = self.layout.object(&self.source.name, name);
        let bytes = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        self.remove(&path)?;
        Ok(bytes)
    }

    /// An archive that nothing names.
    pub fn remove_archive(&self, place: &Place) -> Result<Swept, RetentionError> {
        let path = self.layout.object(&self.source.name, &Name::Archive(place.0, place.1));
        let bytes = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        self.remove(&path)?;
        Ok(Swept::Freed(bytes))
    }

    /// What a crash left of an archive that was being written again.
    pub fn clear_leftovers(&self) -> Result<(), RetentionError> {
        let dir = self.layout.staging(&self.source.name);
        for entry in std::fs::read_dir(&dir).map_err(io_error("list", &dir))? {
            let entry = entry.map_err(io_error("list", &dir))?;
            if entry.file_name().to_string_lossy().ends_with(ENDING) {
                self.remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Does the file system refuse to remove anything from this shelf (`chattr +a`)?
    pub fn is_append_only(&self, shelf: Shelf) -> Result<bool, RetentionError> {
        let path = self.layout.shelf(&self.source.name, shelf);
        let dir = File::open(&path).map_err(io_error("open", &path))?;
        Ok(rustix::fs::ioctl_getflags(dir).is_ok_and(|flags| flags.contains(IFlags::APPEND)))
    }

    /// Begins a pack; it has no name that anybody reads until it is whole.
    pub fn begin_pack(&self, shelf: Shelf, number: u64) -> Result<PackWriter, RetentionError> {
        self.step("before writing a pack")?;
        let path = self.layout.staging(&self.source.name).join(format!("{}{ENDING}", pack_file(shelf, number)));
        let file = create(&path).map_err(io_error("create", &path))?;
        let file = BufWriter::with_capacity(PIECE_BYTES, file);
        Ok(PackWriter { shelf, number, path, file, at: 0, places: Vec::new() })
    }

    /// write(index) · fsync · rename(into packs/) · fsync(packs/). A crash before the rename leaves a file that the next
    /// run clears; after it, a pack of objects that are elsewhere too.
    pub fn finish_pack(&self, writer: PackWriter) -> Result<(), RetentionError> {
        let dir = self.layout.packs(&self.source.name);
        if !dir.is_dir() {
            // Made by `enroll` since packs are written; a vault of an earlier day gets it here.
            durable::create_dir_as(&dir, 0o700, durable::Owner::Directory).map_err(io_error("make", &dir))?;
            let source = self.layout.source(&self.source.name);
            sync_dir(&source).map_err(io_error("sync", &source))?;
        }
        let (shelf, number, temporary) = (writer.shelf, writer.number, writer.path.clone());
        let expected = writer.finish()?;
        let file = File::open(&temporary).map_err(io_error("open", &temporary))?;
        let pack = Pack::open(file, shelf, number).map_err(io_error("read", &temporary))?;
        if pack.count() != expected {
            return Err(io_error("write", &temporary)(io::ErrorKind::InvalidData.into()));
        }
        let path = self.layout.pack(&self.source.name, shelf, number);
        self.step("before naming a pack")?;
        std::fs::rename(&temporary, &path).map_err(io_error("name", &path))?;
        self.step("after naming a pack")?;
        sync_dir(&dir).map_err(io_error("sync", &dir))?;
        self.step("after syncing a pack")
    }

    /// A pack that would be empty: what looked like objects is none.
    pub fn abandon_pack(&self, writer: PackWriter) -> Result<(), RetentionError> {
        self.remove(&writer.path)
    }

    /// Loose files of objects that are packed: unlink each · fsync(directory). A crash leaves some of them.
    pub fn remove_loose(&self, shelf: Shelf, names: &[Name]) -> Result<(), RetentionError> {
        debug_assert!(names.iter().all(|name| crate::store::pack::key(name).is_some()));
        self.remove_all(shelf, names)
    }

    fn remove_all(&self, shelf: Shelf, names: &[Name]) -> Result<(), RetentionError> {
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            let path = self.layout.object(&self.source.name, name);
            self.step("before removing one file of many")?;
            std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        let dir = self.layout.shelf(&self.source.name, shelf);
        self.step("before syncing a shelf")?;
        sync_dir(&dir).map_err(io_error("sync", &dir))
    }

    /// A pack whose objects lie in a later one.
    pub fn remove_pack(&self, path: &Path) -> Result<(), RetentionError> {
        self.remove(path)
    }

    /// A damaged pack, made again from what could be read of it.
    pub fn set_pack_aside(&self, path: &Path) -> Result<(), RetentionError> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".damaged");
        std::fs::rename(path, &aside).map_err(io_error("rename", path))?;
        let dir = path.parent().unwrap_or(Path::new("."));
        sync_dir(dir).map_err(io_error("sync", dir))
    }

    /// Sessions' records whose content is in the ledger, and long past: unlink each · fsync(directory). A crash leaves some.
    pub fn remove_records(&self, names: &[Name]) -> Result<(), RetentionError> {
        self.remove_all(Shelf::Records, names)
    }

    /// Writes an archive again as a generation with these parts alone, each checked against its signed hash on the way.
    ///
    /// create(staging) · copy · fsync — a crash leaves the archive as it was, and a file that the next run clears.
    /// rename over the archive — the one place that replaces: before it all parts are there, after it all that live.
    /// fsync(directory) — until then a crash may bring the old file back: it holds more, never less.
    pub fn rewrite(&self, place: &Place, present: &Bits) -> Result<Swept, RetentionError> {
        let name = Name::Archive(place.0, place.1);
        let path = self.layout.object(&self.source.name, &name);
        let found = match archive::open_checked(&self.source.store, &name, &self.source.key) {
            Ok(Some(found)) => found,
            Err(archive::ArchiveError::Store(e)) if !e.is_damage() => return Err(e.into()),
            Ok(None) | Err(_) => return Ok(Swept::Damaged),
        };
        let temporary = self
            .layout
            .staging(&self.source.name)
            .join(format!("{}{ENDING}", crate::store::layout::object_file(&name)));
        self.step("before writing a generation")?;
        let Some(bytes) = self.write_generation(&found, present, &temporary)? else {
            durable::remove(&temporary).map_err(io_error("remove", &temporary))?;
            return Ok(Swept::Damaged);
        };
        self.step("before replacing an archive")?;
        std::fs::rename(&temporary, &path).map_err(io_error("replace", &path))?;
        self.step("after replacing an archive")?;
        let dir = path.parent().map_or_else(PathBuf::new, Path::to_owned);
        sync_dir(&dir).map_err(io_error("sync", &dir))?;
        self.step("after syncing a replaced archive")?;
        Ok(Swept::Freed(found.stored.bytes().saturating_sub(bytes)))
    }

    /// The generation's length; `None` if a part that must stay is not what was signed.
    fn write_generation<O: Stored>(
        &self,
        found: &Checked<O>,
        present: &Bits,
        temporary: &Path,
    ) -> Result<Option<u64>, RetentionError> {
        let io = |error| io_error("write", temporary)(error);
        let head = generation_header(present)?;
        let mut file = create(temporary).map_err(io)?;
        file.write_all(&head).map_err(io)?;
        file.write_all(found.layout.region.as_bytes()).map_err(io)?;
        for (at, place) in found.layout.parts(&found.index).into_iter().enumerate() {
            let Some((offset, bytes)) = place.filter(|_| present.has(at)) else { continue };
            let wanted = found.index.parts.get(at).ok_or(FormatError::Length)?.hash;
            if !copy_part(&found.stored, offset, bytes, &wanted, &mut file).map_err(io)? {
                return Ok(None);
            }
        }
        file.sync_all().map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let layout = ArchiveLayout::parse(&[head.as_slice(), found.layout.region.as_bytes()].concat())?;
        let whole = (0..found.index.parts.len()).all(|part| !present.has(part) || layout.holds(part));
        let fits = layout.fits(&found.index).is_ok() && layout.file_bytes(&found.index) == length;
        Ok((whole && fits).then_some(length))
    }
}

fn create(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(OBJECT_MODE))?);
    durable::give(&file, path.parent().unwrap_or(path), durable::Owner::Directory)?;
    Ok(file)
}

/// A pack on its way: objects one behind the other; their index comes at the end.
pub struct PackWriter {
    shelf: Shelf,
    number: u64,
    path: PathBuf,
    file: BufWriter<File>,
    at: u64,
    places: Vec<pack::Place>,
}

impl PackWriter {
    pub fn add(&mut self, key: pack::Key, bytes: &[u8], appeared: i64) -> Result<(), RetentionError> {
        let length = u32::try_from(bytes.len()).map_err(|_| FormatError::Length)?;
        self.file.write_all(bytes).map_err(io_error("write", &self.path))?;
        self.places.push(pack::Place { key, offset: self.at, bytes: length, appeared });
        self.at += u64::from(length);
        Ok(())
    }

    /// The number of its objects.
    fn finish(mut self) -> Result<u64, RetentionError> {
        let places = crate::retention::packing::index(self.places);
        let mut hasher = blake3::Hasher::new();
        for place in &places {
            let bytes = place.encode();
            hasher.update(&bytes);
            self.file.write_all(&bytes).map_err(io_error("write", &self.path))?;
        }
        let count = places.len() as u64;
        let footer = pack::footer(self.shelf, count, self.at, &hasher.finalize());
        let done = self.file.write_all(&footer).and_then(|()| self.file.flush());
        done.and_then(|()| self.file.get_ref().sync_all()).map_err(io_error("write", &self.path))?;
        Ok(count)
    }
}

/// Header of a generation, padded.
fn generation_header(present: &Bits) -> Result<Vec<u8>, FormatError> {
    let generation = Plain::new(Generation { present: Blob::new(present.as_bytes().to_vec())? })?;
    let mut bytes = generation.as_bytes().to_vec();
    bytes.resize(ALIGN, 0);
    Ok(bytes)
}

/// Copies a part; `false` if its bytes are not those that were signed.
fn copy_part(stored: &impl Stored, offset: u64, bytes: u32, wanted: &Digest, to: &mut File) -> io::Result<bool> {
    let mut hasher = blake3::Hasher::new();
    let (mut at, mut left) = (offset, bytes as usize);
    let mut piece = vec![0; PIECE_BYTES.min(left)];
    while left > 0 {
        let length = piece.len().min(left);
        stored.read_at(&mut piece[..length], at).map_err(|e| e.error)?;
        hasher.update(&piece[..length]);
        to.write_all(&piece[..length])?;
        at += length as u64;
        left -= length;
    }
    Ok(hasher.finalize().as_bytes() == wanted.as_bytes())
}

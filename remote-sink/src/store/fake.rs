//! A store for tests, stricter than the real one: whoever breaks a rule of [`Store`] panics or fails.

use crate::store::{Entry, Free, Name, Placed, Shelf, Staged, Store, StoreError, Stored, layout};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Where a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing happened, and an error came back.
    Before,
    /// It happened, and an error came back all the same.
    After,
}

#[derive(Debug, Default)]
struct Inner {
    objects: HashMap<Name, Arc<Vec<u8>>>,
    fault: Option<(u64, Fault, io::ErrorKind)>,
    puts: u64,
    free: u64,
}

/// Objects in memory.
#[derive(Debug, Clone)]
pub struct Fake(Arc<Mutex<Inner>>);

impl Default for Fake {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner { free: 1 << 40, ..Inner::default() })))
    }
}

impl Fake {
    /// Lets the `nth` put from now on fail.
    pub fn fail_put(&self, nth: u64, fault: Fault, kind: io::ErrorKind) {
        let mut inner = self.lock();
        inner.fault = Some((inner.puts + nth, fault, kind));
    }
    pub fn set_free(&self, free: u64) {
        self.lock().free = free;
    }
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub struct FakeStaged(Vec<u8>);

impl Staged for FakeStaged {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

#[derive(Debug)]
pub struct FakeStored(Arc<Vec<u8>>);

impl Stored for FakeStored {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }
    fn appeared(&self) -> i64 {
        i64::MAX
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let from = start.checked_add(buffer.len()).and_then(|end| self.0.get(start..end)).ok_or(StoreError {
            action: "read",
            path: String::new(),
            error: io::ErrorKind::UnexpectedEof.into(),
        })?;
        buffer.copy_from_slice(from);
        Ok(())
    }
}

impl Store for Fake {
    type Staged = FakeStaged;
    type Stored = FakeStored;

    fn stage(&self) -> Result<FakeStaged, StoreError> {
        Ok(FakeStaged(Vec::new()))
    }

    fn put_new(&self, name: &Name, staged: FakeStaged) -> Result<Placed, StoreError> {
        assert!(!staged.0.is_empty(), "an empty object {name:?}");
        let mut inner = self.lock();
        inner.puts += 1;
        let strikes = inner.fault.filter(|(at, ..)| *at == inner.puts);
        let err =
            |kind: io::ErrorKind| StoreError { action: "put", path: layout::object_path(name), error: kind.into() };
        if let Some((_, Fault::Before, kind)) = strikes {
            return Err(err(kind));
        }
        let placed = if inner.objects.contains_key(name) {
            Placed::Existed
        } else {
            inner.objects.insert(*name, Arc::new(staged.0));
            Placed::New
        };
        match strikes {
            Some((_, Fault::After, kind)) => Err(err(kind)),
            _ => Ok(placed),
        }
    }

    fn get(&self, name: &Name) -> Result<Option<FakeStored>, StoreError> {
        Ok(self.lock().objects.get(name).cloned().map(FakeStored))
    }

    fn list(&self, shelf: Shelf, visit: &mut dyn FnMut(Entry)) -> Result<(), StoreError> {
        let names: Vec<_> = self.lock().objects.keys().filter(|name| name.shelf() == shelf).copied().collect();
        names.into_iter().for_each(|name| visit(Entry::Object(name)));
        Ok(())
    }

    fn bytes_of(&self, shelf: Shelf, wanted: &dyn Fn(&Name) -> bool) -> Result<u64, StoreError> {
        let inner = self.lock();
        let objects = inner.objects.iter().filter(|(name, _)| name.shelf() == shelf && wanted(name));
        Ok(objects.map(|(_, bytes)| bytes.len() as u64).sum())
    }

    fn free(&self) -> Result<Free, StoreError> {
        Ok(Free { bytes: self.lock().free, objects: u64::MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::directory::Root;
    use crate::store::{PutBytes, layout::Layout, names, put_bytes, read_whole};
    use shared::id::{ArchiveNumber, Digest, Lineage};

    fn name(number: u64) -> Name {
        Name::Archive(Lineage::new([1; 16]), ArchiveNumber::new(number).unwrap())
    }

    /// The rules that both stores keep.
    fn behaves(store: &impl Store) {
        assert_eq!(put_bytes(store, &name(1), b"one").unwrap(), PutBytes::New);
        assert_eq!(put_bytes(store, &name(1), b"one").unwrap(), PutBytes::Same);
        assert_eq!(put_bytes(store, &name(1), b"two").unwrap(), PutBytes::Other);
        assert_eq!(put_bytes(store, &name(1), b"longer").unwrap(), PutBytes::Other);
        assert_eq!(read_whole(store, &name(1), 100).unwrap().unwrap(), b"one", "nothing was replaced");
        assert!(read_whole(store, &name(1), 2).unwrap_err().is_damage());
        assert!(read_whole(store, &name(2), 2).unwrap().is_none());
        let stored = store.get(&name(1)).unwrap().unwrap();
        let mut byte = [0; 2];
        stored.read_at(&mut byte, 1).unwrap();
        assert_eq!((&byte, stored.bytes()), (b"ne", 3));
        assert!(stored.read_at(&mut byte, 2).unwrap_err().is_damage());
        drop(store.stage().unwrap());
        assert_eq!(put_bytes(store, &Name::Page(Digest::of(b"x")), b"x").unwrap(), PutBytes::New);
        assert_eq!(names(store, Shelf::Archives).unwrap(), vec![name(1)]);
        assert_eq!(store.bytes_of(Shelf::Archives, &|_| true).unwrap(), 3);
        assert_eq!(store.bytes_of(Shelf::Archives, &|found| *found != name(1)).unwrap(), 0);
        assert_eq!(names(store, Shelf::Heads).unwrap(), vec![]);
        assert!(store.free().unwrap().bytes > 0);
    }

    #[test]
    fn the_fake_keeps_the_rules() {
        behaves(&Fake::default());
    }

    #[test]
    fn the_directory_keeps_the_rules_and_lists_foreign_files() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let web1 = "web1".parse().unwrap();
        layout.create_vault_dirs().unwrap();
        layout.create_source_dirs(&web1).unwrap();
        layout.create_source_dirs(&web1).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let staging = Arc::new(root.open_dir("sources/web1/staging").unwrap());
        let store = root.writable_room(layout::source_room(&web1), &staging);
        behaves(&store);
        assert!(root.room(layout::source_room(&web1)).stage().is_err(), "a room that is only read takes nothing");

        let archives = layout.shelf(&web1, Shelf::Archives);
        std::fs::write(archives.join("00/junk"), b"").unwrap();
        std::fs::rename(layout.object(&web1, &name(1)), archives.join("02").join(layout::object_file(&name(1))))
            .unwrap();
        std::fs::write(archives.join("other"), b"").unwrap();
        let mut foreign = Vec::new();
        store.list(Shelf::Archives, &mut |entry| foreign.push(entry)).unwrap();
        foreign.sort_by_key(|entry| format!("{entry:?}"));
        let misplaced = format!("archives/02/{}", layout::object_file(&name(1)));
        let wanted = ["archives/00/junk".to_owned(), misplaced, "archives/other".to_owned()];
        assert_eq!(foreign, wanted.map(Entry::Foreign));
        std::os::unix::fs::symlink("/etc/passwd", layout.object(&web1, &name(9))).unwrap();
        assert!(store.get(&name(9)).unwrap_err().is_damage(), "a symbolic link is not followed");
    }
}

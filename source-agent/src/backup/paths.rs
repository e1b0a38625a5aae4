//! The named paths as a tree: the way to each is stored too, with its real metadata.

use crate::report::{Exit, Failure, Outcome};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// A directory on the way, or a named path.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Way {
    /// Stored with all below it.
    pub named: bool,
    pub children: BTreeMap<Vec<u8>, Way>,
}

/// Absolute, without `.` and `..`; symbolic links stay as they are written.
pub fn absolute(path: &Path) -> Outcome<PathBuf> {
    let whole = std::path::absolute(path).map_err(|e| Failure::io("find", path, &e))?;
    let mut plain = PathBuf::from("/");
    for component in whole.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            _ => {}
        }
    }
    if plain.as_os_str().len() > shared::limits::PATH_BYTES_MAX {
        let message = format!("the path is longer than {} bytes", shared::limits::PATH_BYTES_MAX);
        return Err(Failure::new("path", Exit::Usage, message));
    }
    Ok(plain)
}

impl Way {
    /// Joins absolute paths; what lies below another named path needs no mention.
    pub fn new(paths: &[PathBuf]) -> Self {
        let mut top = Self::default();
        for path in paths {
            top.add(path);
        }
        top
    }

    fn add(&mut self, path: &Path) {
        let mut at = self;
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            if at.named {
                return;
            }
            at = at.children.entry(name.as_bytes().to_vec()).or_default();
        }
        at.named = true;
        at.children.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_paths_are_joined() {
        let way = Way::new(&["/a/b".into(), "/a".into(), "/c/d".into(), "/c/d/e".into()]);
        assert!(way.children[&b"a"[..]].named && way.children[&b"a"[..]].children.is_empty());
        assert!(!way.children[&b"c"[..]].named);
        assert!(way.children[&b"c"[..]].children[&b"d"[..]].named);
        assert!(Way::new(&["/".into(), "/x".into()]).named);
    }

    #[test]
    fn paths_become_absolute() {
        assert_eq!(absolute(Path::new("/a/./b/../c")).unwrap(), Path::new("/a/c"));
        assert_eq!(absolute(Path::new("/../..")).unwrap(), Path::new("/"));
        assert!(absolute(Path::new("x")).unwrap().is_absolute());
    }
}

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

/// Paths that are named in the failure of [`look`].
const NAMED_MAX: usize = 20;

/// Fails where none of a set's named paths can be looked at: its snapshot would be empty, and the newest. `told` hears
/// of each of them then.
pub fn look(set: &str, paths: &[PathBuf], told: &mut dyn FnMut(&Path, &std::io::Error)) -> Outcome<()> {
    let mut closed = Vec::new();
    for path in paths {
        match opened(path) {
            Ok(()) => return Ok(()),
            Err(e) => closed.push((path, e)),
        }
    }
    if closed.is_empty() {
        return Ok(());
    }
    closed.iter().for_each(|(path, e)| told(path, e));
    let set = shared::text::printable(set.as_bytes(), 200);
    let message = format!("{set}: none of its paths can be looked at, so no snapshot is made of it");
    let failure = Failure::new("paths-missing", Exit::Failed, message);
    let failure = closed.iter().take(NAMED_MAX).fold(failure, |failure, (path, e)| {
        failure.detail(format!("{}: {e}", super::outcome::shown(path.as_os_str().as_bytes())))
    });
    Err(failure
        .help("are the paths written right, and is everything mounted? source-agent backup -n shows what is found"))
}

/// A line for each named path that is a symbolic link: its name is easily taken for what it leads to.
pub fn links(paths: &[PathBuf]) -> impl Iterator<Item = String> {
    paths.iter().filter_map(|path| {
        path.read_link().ok()?;
        let shown = super::outcome::shown(path.as_os_str().as_bytes());
        let target = path.canonicalize().ok().map(|to| super::outcome::shown(to.as_os_str().as_bytes()));
        let way_on = target.map(|to| format!("; to save what it leads to, name {to}")).unwrap_or_default();
        Some(format!("{shown} is a symbolic link, and saved as such{way_on}"))
    })
}

/// Opens what would be read: a directory or a file. Anything else only has to be there.
fn opened(path: &Path) -> std::io::Result<()> {
    let kind = path.symlink_metadata()?.file_type();
    match kind {
        _ if kind.is_dir() => std::fs::read_dir(path).map(|_| ()),
        _ if kind.is_file() => std::fs::File::open(path).map(|_| ()),
        _ => Ok(()),
    }
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
    fn a_set_of_which_nothing_is_there_fails() {
        let dir = tempfile::tempdir().unwrap();
        let gone = [dir.path().join("a"), dir.path().join("b/c")];
        let mut told = 0;
        let failure = look("system", &gone, &mut |_, _| told += 1).unwrap_err();
        assert_eq!(told, 2);
        assert_eq!((failure.exit, failure.details.len()), (Exit::Failed, 2));
        assert!(failure.message.contains("system") && failure.details[1].contains("b/c"), "{failure}");
        std::fs::write(&gone[0], "here").unwrap();
        assert!(look("system", &gone, &mut |_, _| unreachable!()).is_ok());
    }

    #[test]
    fn a_named_link_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("data")).unwrap();
        std::os::unix::fs::symlink("data", real.join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", real.join("dangling")).unwrap();
        let told: Vec<String> = links(&["data", "link", "dangling", "none"].map(|name| real.join(name))).collect();
        let real = real.display();
        let link =
            format!("{real}/link is a symbolic link, and saved as such; to save what it leads to, name {real}/data");
        assert_eq!(told, [link, format!("{real}/dangling is a symbolic link, and saved as such")]);
    }

    #[test]
    fn paths_become_absolute() {
        assert_eq!(absolute(Path::new("/a/./b/../c")).unwrap(), Path::new("/a/c"));
        assert_eq!(absolute(Path::new("/../..")).unwrap(), Path::new("/"));
        assert!(absolute(Path::new("x")).unwrap().is_absolute());
    }
}

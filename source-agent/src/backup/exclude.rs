//! What is left out, and which rule says so: gitignore lines rooted at `/`, marked directories, caches, large files,
//! the agent's own state and cache.

use crate::report::{Exit, Failure, Outcome};
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The name and the first bytes of a cache directory's tag (bford.info/cachedir).
pub const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";
pub const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// The rules of one set.
pub struct Excludes {
    patterns: Option<Gitignore>,
    /// A directory that holds one of these names is kept, its content is not.
    pub if_present: Vec<Vec<u8>>,
    pub caches: bool,
    pub larger_than: Option<u64>,
    /// Absolute paths that are never stored.
    never: Vec<PathBuf>,
}

impl Excludes {
    /// `lines` in the order of the configuration; `files` hold further lines, after them.
    pub fn new(lines: &[String], files: &[PathBuf]) -> Outcome<Self> {
        let mut builder = GitignoreBuilder::new("/");
        for line in lines {
            let wrong = |e: ignore::Error| {
                Failure::new("exclude", Exit::Usage, format!("the exclude pattern '{line}' cannot be read: {e}"))
                    .help("patterns are those of .gitignore files, rooted at /")
            };
            builder.add_line(None, line).map_err(wrong)?;
        }
        for file in files {
            if let Some(e) = builder.add(file) {
                let message = format!("the exclude file {} cannot be used: {e}", file.display());
                return Err(Failure::new("exclude-file", Exit::Usage, message));
            }
        }
        let patterns =
            builder.build().map_err(|e| Failure::new("exclude", Exit::Usage, format!("the exclude patterns: {e}")))?;
        let patterns = (!patterns.is_empty()).then_some(patterns);
        Ok(Self { patterns, if_present: Vec::new(), caches: false, larger_than: None, never: Vec::new() })
    }

    /// Never stores what lies at this path. A path that does not exist is nothing to leave out.
    pub fn never(&mut self, path: &Path) {
        if let Ok(path) = path.canonicalize() {
            self.never.push(path);
        }
    }

    /// Why this path is left out, if it is. Parents were asked before: what lies in an excluded directory is never
    /// reached, so it cannot be taken back in.
    pub fn why(&self, path: &[u8], is_directory: bool) -> Option<String> {
        let path = Path::new(OsStr::from_bytes(path));
        if self.never.iter().any(|never| never == path) {
            return Some("the agent's own state".into());
        }
        match self.patterns.as_ref()?.matched(path, is_directory) {
            Match::Ignore(glob) => Some(match glob.from() {
                Some(file) => format!("pattern '{}' of {}", glob.original(), file.display()),
                None => format!("pattern '{}'", glob.original()),
            }),
            _ => None,
        }
    }

    /// Why a directory with these names (sorted) keeps only its marker.
    pub fn marker<'a>(&self, names: &'a [Vec<u8>], is_cache: impl FnOnce() -> bool) -> Option<(&'a [u8], String)> {
        let find = |name: &[u8]| names.binary_search_by(|other| other.as_slice().cmp(name)).ok();
        for name in &self.if_present {
            if let Some(at) = find(name) {
                let shown = shared::text::printable(name, 255);
                return Some((&names[at], format!("the directory holds '{shown}'")));
            }
        }
        match find(CACHE_TAG) {
            Some(at) if self.caches && is_cache() => Some((&names[at], "a cache directory (CACHEDIR.TAG)".into())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excludes(lines: &[&str]) -> Excludes {
        Excludes::new(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(), &[]).unwrap()
    }

    #[test]
    fn patterns_are_rooted_and_say_which() {
        let rules =
            excludes(&["/**/node_modules/", "*.tmp", "!keep.tmp", "/srv/*", "!/srv/www/", "/var/cache/", r"\#x"]);
        for (path, directory, out) in [
            ("/home/a/node_modules", true, true),
            ("/home/a/node_modules", false, false),
            ("/home/a/x.tmp", false, true),
            ("/home/a/keep.tmp", false, false),
            ("/srv/ftp", true, true),
            ("/srv/www", true, false),
            ("/srv/www/index", false, false),
            ("/var/cache", true, true),
            ("/home/var/cache", true, false),
            ("/a/#x", false, true),
        ] {
            assert_eq!(rules.why(path.as_bytes(), directory).is_some(), out, "{path}");
        }
        assert_eq!(rules.why(b"/a/x.tmp", false).unwrap(), "pattern '*.tmp'");
        assert!(excludes(&[]).why(b"/x", false).is_none());
    }

    #[test]
    fn a_pattern_that_cannot_be_read_is_refused() {
        assert!(Excludes::new(&["{a".into()], &[]).is_err());
        assert!(Excludes::new(&[], &["/no/such/file".into()]).is_err());
    }

    #[test]
    fn markers_and_caches() {
        let mut rules = excludes(&[]);
        let names = vec![b".nobackup".to_vec(), CACHE_TAG.to_vec()];
        assert!(rules.marker(&names, || true).is_none());
        rules.caches = true;
        assert!(rules.marker(&names, || false).is_none());
        assert_eq!(rules.marker(&names, || true).unwrap().0, CACHE_TAG);
        rules.if_present = vec![b".nobackup".to_vec()];
        assert_eq!(rules.marker(&names, || true).unwrap().0, b".nobackup");
    }
}

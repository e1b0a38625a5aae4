//! Which entries are wanted: `--include` and `--exclude` patterns in gitignore syntax, rooted at the snapshot's `/`.

use crate::report::{Exit, Failure, Outcome};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub struct Select {
    include: Option<Gitignore>,
    exclude: Option<Gitignore>,
}

fn build(patterns: &[String], what: &str) -> Outcome<Option<Gitignore>> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let wrong = |e: ignore::Error| Failure::new("usage", Exit::Usage, format!("{what}: {e}"));
    let mut builder = GitignoreBuilder::new("/");
    for pattern in patterns {
        builder.add_line(None, pattern).map_err(wrong)?;
    }
    builder.build().map(Some).map_err(wrong)
}

impl Select {
    pub fn new(include: &[String], exclude: &[String]) -> Outcome<Self> {
        Ok(Self { include: build(include, "--include")?, exclude: build(exclude, "--exclude")? })
    }
    /// Everything.
    pub fn all() -> Self {
        Self { include: None, exclude: None }
    }
    pub fn has_include(&self) -> bool {
        self.include.is_some()
    }
    /// Left out, with all below it.
    pub fn is_excluded(&self, path: &[u8], directory: bool) -> bool {
        let path = Path::new(OsStr::from_bytes(path));
        self.exclude.as_ref().is_some_and(|patterns| patterns.matched(path, directory).is_ignore())
    }
    /// Is this very entry named by an include pattern?
    pub fn names(&self, path: &[u8], directory: bool) -> bool {
        let path = Path::new(OsStr::from_bytes(path));
        self.include.as_ref().is_some_and(|patterns| patterns.matched(path, directory).is_ignore())
    }
    /// Asked for, by itself or with a directory above it. A directory that is not may still hold something that is.
    pub fn is_included(&self, path: &[u8], directory: bool) -> bool {
        let path = Path::new(OsStr::from_bytes(path));
        self.include.as_ref().is_none_or(|patterns| patterns.matched_path_or_any_parents(path, directory).is_ignore())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_rooted_and_take_what_lies_below() {
        let select = Select::new(&["/etc/nginx".into(), "*.conf".into()], &["/etc/nginx/cache/".into()]).unwrap();
        assert!(select.is_included(b"/etc/nginx", true));
        assert!(select.is_included(b"/etc/nginx/a/b", false));
        assert!(select.is_included(b"/srv/x.conf", false));
        assert!(!select.is_included(b"/etc", true));
        assert!(!select.is_included(b"/srv/etc/nginx", true));
        assert!(select.is_excluded(b"/etc/nginx/cache", true));
        assert!(!select.is_excluded(b"/etc/nginx/cache", false));
        assert!(select.is_included(b"/etc/nginx/\xff", false));
    }
}

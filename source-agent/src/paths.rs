//! Where configuration, state and cache are.

use crate::cli::Context;
use crate::report::{Exit, Failure, Outcome};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The places of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The configuration file.
    pub config: PathBuf,
    /// Its directory: relative paths in it start here; keys made by `init` lie here.
    pub config_dir: PathBuf,
    /// What must not be lost: source secret, lineage, remembered heads. Mode 0700.
    pub state_dir: PathBuf,
    /// What can be made again.
    pub cache_dir: PathBuf,
}

/// What of the environment decides the usual places.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    pub root: bool,
    pub home: Option<OsString>,
    pub config_home: Option<OsString>,
    pub state_home: Option<OsString>,
    pub cache_home: Option<OsString>,
}

impl Surroundings {
    /// Of this process.
    pub fn of_process() -> Self {
        Self {
            root: rustix::process::geteuid().is_root(),
            home: std::env::var_os("HOME"),
            config_home: std::env::var_os("XDG_CONFIG_HOME"),
            state_home: std::env::var_os("XDG_STATE_HOME"),
            cache_home: std::env::var_os("XDG_CACHE_HOME"),
        }
    }

    /// An XDG directory: only an absolute value counts, as the specification says.
    fn xdg(&self, value: &Option<OsString>, below_home: &str) -> Outcome<PathBuf> {
        let absolute = |value: &Option<OsString>| value.as_ref().map(PathBuf::from).filter(|path| path.is_absolute());
        absolute(value).or_else(|| absolute(&self.home).map(|home| home.join(below_home))).ok_or_else(|| {
            Failure::new("home", Exit::Failed, "HOME is not set, so there is no usual place for the configuration")
                .help("name the configuration: source-agent -c DIR/config.toml …")
        })
    }

    /// The places without `--config`.
    fn usual(&self) -> Outcome<Paths> {
        let (config_dir, state_dir, cache_dir) = if self.root {
            ("/etc/source-agent".into(), "/var/lib/source-agent".into(), "/var/cache/source-agent".into())
        } else {
            (
                self.xdg(&self.config_home, ".config")?.join("source-agent"),
                self.xdg(&self.state_home, ".local/state")?.join("source-agent"),
                self.xdg(&self.cache_home, ".cache")?.join("source-agent"),
            )
        };
        Ok(Paths { config: config_dir.join("config.toml"), config_dir, state_dir, cache_dir })
    }
}

impl Paths {
    /// The places before the configuration is read: `--config`, else root's, else the user's.
    pub fn find(context: &Context) -> Outcome<Self> {
        Self::find_in(context.config.as_deref(), &Surroundings::of_process())
    }

    /// [`Paths::find`] with the environment given.
    pub fn find_in(config: Option<&Path>, surroundings: &Surroundings) -> Outcome<Self> {
        let Some(named) = config else { return surroundings.usual() };
        let config = std::path::absolute(named).map_err(|e| Failure::io("resolve", named, &e))?;
        let (Some(dir), Some(_)) = (config.parent(), config.file_name()) else {
            return Err(Failure::new(
                "config-path",
                Exit::Usage,
                "the configuration must be a file: -c DIR/config.toml",
            ));
        };
        if config.is_dir() {
            let shown = show(&config);
            return Err(Failure::new("config-path", Exit::Usage, format!("{shown} is a directory"))
                .help(format!("name the file: -c {shown}/config.toml")));
        }
        // A unit file may name the usual place in words; its state must not move for that.
        if let Ok(usual) = surroundings.usual()
            && usual.config == config
        {
            return Ok(usual);
        }
        let config_dir = dir.to_path_buf();
        Ok(Self { state_dir: config_dir.join("state"), cache_dir: config_dir.join("cache"), config_dir, config })
    }

    /// With the directories that the configuration names; relative ones start at its own.
    pub fn overridden(mut self, state_dir: Option<&Path>, cache_dir: Option<&Path>) -> Self {
        if let Some(dir) = state_dir {
            self.state_dir = self.config_dir.join(dir);
        }
        if let Some(dir) = cache_dir {
            self.cache_dir = self.config_dir.join(dir);
        }
        self
    }
}

/// A path made safe for a terminal.
pub fn show(path: &Path) -> String {
    shared::text::printable(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()), 4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> Surroundings {
        Surroundings { home: Some("/home/ann".into()), ..Surroundings::default() }
    }

    #[test]
    fn the_usual_places() {
        let root = Surroundings { root: true, ..user() };
        let paths = Paths::find_in(None, &root).unwrap();
        assert_eq!(paths.config, Path::new("/etc/source-agent/config.toml"));
        assert_eq!(paths.state_dir, Path::new("/var/lib/source-agent"));
        assert_eq!(paths.cache_dir, Path::new("/var/cache/source-agent"));
        let paths = Paths::find_in(None, &user()).unwrap();
        assert_eq!(paths.config, Path::new("/home/ann/.config/source-agent/config.toml"));
        assert_eq!(paths.state_dir, Path::new("/home/ann/.local/state/source-agent"));
        let xdg = Surroundings { cache_home: Some("/c".into()), state_home: Some("relative".into()), ..user() };
        let paths = Paths::find_in(None, &xdg).unwrap();
        assert_eq!(paths.cache_dir, Path::new("/c/source-agent"));
        assert_eq!(paths.state_dir, Path::new("/home/ann/.local/state/source-agent"));
        assert!(Paths::find_in(None, &Surroundings::default()).is_err());
    }

    #[test]
    fn a_named_configuration_keeps_everything_beside_it() {
        let paths = Paths::find_in(Some(Path::new("/x/y/config.toml")), &user()).unwrap();
        assert_eq!(paths.config_dir, Path::new("/x/y"));
        assert_eq!(paths.state_dir, Path::new("/x/y/state"));
        assert_eq!(paths.cache_dir, Path::new("/x/y/cache"));
        let moved = paths.overridden(Some(Path::new("s")), Some(Path::new("/c")));
        assert_eq!((moved.state_dir, moved.cache_dir), (PathBuf::from("/x/y/s"), PathBuf::from("/c")));
    }

    #[test]
    fn the_usual_place_in_words_is_the_usual_place() {
        let root = Surroundings { root: true, ..user() };
        let named = Paths::find_in(Some(Path::new("/etc/source-agent/config.toml")), &root).unwrap();
        assert_eq!(named, Paths::find_in(None, &root).unwrap());
    }

    #[test]
    fn a_directory_is_no_configuration() {
        let failure = Paths::find_in(Some(Path::new("/")), &user()).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(Paths::find_in(Some(Path::new("/etc")), &user()).unwrap_err().exit, Exit::Usage);
    }
}

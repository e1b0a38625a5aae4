//! The configuration that `init` writes and that `config example` shows: every key, with its meaning.

use crate::config::edit::quoted;
use std::fmt::Write;
use std::path::PathBuf;

/// What differs from machine to machine.
pub struct Facts {
    pub name: String,
    pub recipients: Vec<String>,
    pub mixed_recipients: bool,
    /// `None` on a machine that only reads.
    pub paths: Option<Vec<PathBuf>>,
    pub exclude: Vec<String>,
    pub reader: bool,
    pub identity: Option<PathBuf>,
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| quoted(&item)).collect();
    format!("[{}]", items.join(", "))
}

/// The text for a machine.
pub fn render(facts: &Facts) -> String {
    let mut text = String::from(HEAD);
    let _ = write!(text, "name = {}\n{SIGNING}", quoted(&facts.name));
    if facts.recipients.is_empty() {
        text.push_str(
            "# recipients = [\"owner.pub\"]      # whom backups are sealed to; none here: this machine reads\n",
        );
    } else {
        let _ = writeln!(text, "recipients = {}  # whom backups are sealed to", list(facts.recipients.clone()));
    }
    let comment = if facts.mixed_recipients { "" } else { "# " };
    let _ =
        writeln!(text, "{comment}mixed-recipients = true            # an X25519 recipient beside X-Wing ones is meant");
    text.push_str(PLACES);
    if facts.reader {
        text.push_str("\n[reader]\n");
        match &facts.identity {
            Some(path) => {
                let _ = writeln!(text, "identity = {}", quoted(&path.to_string_lossy()));
            }
            None => text.push_str("# identity = \"/home/ann/backup.key\"   # used without -i\n"),
        }
    } else {
        text.push_str(READER);
    }
    if let Some(paths) = &facts.paths {
        text.push_str(BACKUP);
        let paths = list(paths.iter().map(|path| path.to_string_lossy().into_owned()));
        let _ = write!(text, "{SET}paths = {paths}\nexclude = {}\n{SECOND_SET}", list(facts.exclude.clone()));
    }
    text.push_str(REMOTES);
    if facts.paths.is_some() {
        text.push_str(REST);
    }
    text
}

/// What `config example` prints.
pub fn example() -> String {
    render(&Facts {
        name: "web1".into(),
        recipients: vec!["owner.pub".into(), "office.pub".into()],
        mixed_recipients: false,
        paths: Some(["/etc", "/home", "/root", "/srv", "/var"].map(PathBuf::from).into()),
        exclude: ROOT_EXCLUDES.map(str::to_owned).into(),
        reader: false,
        identity: None,
    })
}

/// What root's first set leaves out.
pub const ROOT_EXCLUDES: [&str; 3] = ["/var/cache/", "/var/tmp/", "/var/lib/docker/overlay2/"];

const HEAD: &str = "\
# Configuration of source-agent. It holds no secret, only names of files with secrets.
# Check it with: source-agent config check.  Sizes need a unit (20GiB, 500MB), spans of time too (36h, 30d, 15min).

config-version = 1

[source]
";

const SIGNING: &str =
    "signing-key = \"signing.key\"        # made by init; relative names start at this file's directory\n";

const PLACES: &str = "\
# state-dir = \"/var/lib/source-agent\"   # source secret, remembered heads: not to be lost
# cache-dir = \"/var/cache/source-agent\" # may be lost at any time
";

const READER: &str = "
# [reader]                          # on a machine that restores (init --reader)
# identity = \"/home/ann/backup.key\"   # used without -i
";

const BACKUP: &str = "
[backup]                            # for every set; a set may say otherwise
exclude = []                        # gitignore lines rooted at /: \"/**/node_modules/\", \"*.tmp\", \"!keep.tmp\"
                                    # what lies below an excluded directory cannot come back: exclude /srv/ex/*, not /srv/ex/
# exclude-file = [\"excludes\"]       # files of such lines
# exclude-if-present = [\".nobackup\"]
exclude-caches = true               # directories marked with CACHEDIR.TAG
# exclude-larger-than = \"20GiB\"
one-file-system = true              # mount points below a path are left out, and said so
xattrs = true
compression = \"auto\"                # auto | off | fast | max
on-unreadable = \"warn\"              # warn (exit 3) | ignore | fail
# min-interval = \"20h\"              # backup --if-due does nothing before
";

const SET: &str = "
[[backup.set]]
name = \"system\"
";

const SECOND_SET: &str = "# tags = [\"daily\"]

# [[backup.set]]                    # the output of a command; no snapshot if it fails
# name = \"postgres\"
# command = [\"runuser\", \"-u\", \"postgres\", \"--\", \"pg_dumpall\"]   # program and arguments, no shell
# stdin-name = \"all.sql\"            # its path is /all.sql: dump latest:/all.sql --path /all.sql
";

const REMOTES: &str = "
# Remotes are added by: source-agent remote add NAME SINK-CARD
# [[remote]]
# name = \"offsite\"
# url = \"ssh://pawl@sink.example:22/web1\"
# host-key = [\"ssh-ed25519 AAAAC3Nz...\"]
# identity-file = \"ssh_ed25519\"     # made by init
# sink = \"Jzg2a4Yd...\"              # the sink's key, from its card
# required = true                   # its failure is exit 1; that of others exit 4
# limit-upload = \"1MiB\"             # per second
# tcp-congestion = \"bbr\"            # for lines that lose packets; without it the system's
#
# [[remote]]                        # through the system's ssh and ~/.ssh/config
# name = \"friend\"
# ssh-host = \"friend-backup\"
# source = \"web1\"
# sink = \"Jzg2a4Yd...\"
# required = false
#
# [[remote]]                        # a vault on this machine or a mounted disk
# name = \"disk\"
# path = \"/mnt/disk/vault\"
# sink = \"Jzg2a4Yd...\"
";

const REST: &str = "
[limits]
# limit-upload = \"8MiB\"             # per second, all remotes together
# read-concurrency = 2
# nice = 19
# io-class = \"idle\"                 # idle | best-effort
retry = { attempts = 5, max-wait = \"15min\" }
timeout = \"2min\"                    # a remote silent for so long has failed

[check]
max-age = \"36h\"                     # status fails beyond this
restore-test-every = \"90d\"          # status warns beyond this

[hooks]                             # programs with arguments, no shell
# before = [[\"/etc/source-agent/before.sh\"]]     # failure: no backup
# after-success = []
# after-failure = [[\"/usr/local/bin/page-me\"]]
# finally = []
timeout = \"10min\"

# [[notify]]
# type = \"healthchecks\"
# url-file = \"hc-url\"               # the URL is a secret, so it has a file of its own
# [[notify]]
# type = \"ntfy\"
# url = \"https://ntfy.sh\"
# topic-file = \"ntfy-topic\"
# states = [\"fail\"]                 # start | success | fail

[metrics]
# or status --prometheus, not both
# textfile = \"/var/lib/prometheus/node-exporter/source-agent.prom\"

[log]
level = \"info\"                      # error | warn | info | debug
format = \"auto\"                     # auto | text | json | journald
";

//! The command line: one file a command.

pub mod backup;
pub mod check;
pub mod completions;
pub mod config;
pub mod diff;
pub mod doctor;
pub mod dump;
pub mod enroll;
pub mod find;
pub mod init;
pub mod key;
pub mod keygen;
pub mod ls;
pub mod man;
pub mod rekey;
pub mod remote;
pub mod restore;
pub mod snapshots;
pub mod stats;
pub mod status;
pub mod trust;
pub mod vouch;

mod output;
pub(crate) mod signals;

#[cfg(test)]
mod tests;

use crate::progress::warn;
use crate::report::{Exit, Failure, Outcome};
use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use output::{STDOUT_CLOSED, eprint_failure, failure_json, to_stderr};
pub use output::{coloured, print_json, print_line, print_text, put_name};
pub use signals::{check_interrupted, interrupted};

/// Append-only offsite backup: the source's and the owner's program.
#[derive(Debug, Parser)]
#[command(name = "source-agent", version, arg_required_else_help = true, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub context: Context,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failed, or a required remote did, 2 usage, 3 snapshot
made but files unreadable or a named path missing, 4 on some remotes but not
on all (none of those is required), 10 not found, 11 another session runs, 12
wrong passphrase or identity, 13 signature, hash or rollback failure, 14
remote unreachable, 15 quota or disk full, 130 and 143 signals. Other codes
mean failure too.

Examples:
  source-agent keygen -o backup.key                 on a trusted machine
  source-agent init --recipient backup.pub          on the machine to back up
  source-agent remote add offsite sink-card:1,...   with the operator's card
  source-agent backup
  source-agent restore latest:/etc -t ./out -i backup.key";

/// When to show progress, or colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    Auto,
    Always,
    Never,
}

/// What every command knows.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Context {
    /// Configuration file
    #[arg(short, long, global = true, value_name = "FILE", env = "SOURCE_AGENT_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Only this remote (repeatable)
    #[arg(
        short,
        long = "remote",
        global = true,
        value_name = "NAME",
        env = "SOURCE_AGENT_REMOTE",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub remotes: Vec<String>,
    /// JSON lines on standard output; errors as JSON on standard error
    #[arg(long, global = true)]
    pub json: bool,
    /// More detail (repeatable)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Only errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Show progress: auto, always, never
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    pub progress: When,
    /// Use colours: auto, always, never
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    pub color: When,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an identity: the private key that restores
    Keygen(keygen::KeygenArgs),
    /// Show the recipient of an identity, change its passphrase, print or read its recovery sheet
    Key(key::KeyArgs),
    /// Write the configuration and keys of this source (or reader) and print its card
    Init(init::InitArgs),
    /// Enrol this source on a sink over an ordinary login
    Enroll(enroll::EnrollArgs),
    /// Add, list, test, repin or remove remotes
    Remote(remote::RemoteArgs),
    /// Trust a source's card, list trusted ones, or end a trust
    Trust(trust::TrustArgs),
    /// Sign that a snapshot was seen whole
    Vouch(vouch::VouchArgs),
    /// Let further recipients read what is there already
    Rekey(rekey::RekeyArgs),
    /// Back up the configured sets, or the given paths
    Backup(backup::BackupArgs),
    /// List snapshots
    #[command(visible_alias = "list")]
    Snapshots(snapshots::SnapshotsArgs),
    /// List the content of a snapshot
    Ls(ls::LsArgs),
    /// Find names in snapshots
    Find(find::FindArgs),
    /// Show what changed between two snapshots
    Diff(diff::DiffArgs),
    /// Write one file, or a tree as tar, to standard output
    Dump(dump::DumpArgs),
    /// Show sizes of snapshots
    Stats(stats::StatsArgs),
    /// Restore a snapshot, or a path of it, into a directory
    Restore(restore::RestoreArgs),
    /// Check what the remotes hold
    Check(check::CheckArgs),
    /// Show when each remote was last backed up to; fails if too long ago
    Status(status::StatusArgs),
    /// Look for what is wrong with this installation
    Doctor(doctor::DoctorArgs),
    /// Show, check, or print an example of the configuration
    Config(config::ConfigArgs),
    /// Print a shell's completion script
    Completions(completions::CompletionsArgs),
    /// Write the manual pages
    #[command(hide = true)]
    Man(man::ManArgs),
}

impl Command {
    fn run(&self, context: &Context) -> Outcome<Exit> {
        match self {
            Self::Keygen(args) => keygen::run(args, context),
            Self::Key(args) => key::run(args, context),
            Self::Init(args) => init::run(args, context),
            Self::Enroll(args) => enroll::run(args, context),
            Self::Remote(args) => remote::run(args, context),
            Self::Trust(args) => trust::run(args, context),
            Self::Vouch(args) => vouch::run(args, context),
            Self::Rekey(args) => rekey::run(args, context),
            Self::Backup(args) => backup::run(args, context),
            Self::Snapshots(args) => snapshots::run(args, context),
            Self::Ls(args) => ls::run(args, context),
            Self::Find(args) => find::run(args, context),
            Self::Diff(args) => diff::run(args, context),
            Self::Dump(args) => dump::run(args, context),
            Self::Stats(args) => stats::run(args, context),
            Self::Restore(args) => restore::run(args, context),
            Self::Check(args) => check::run(args, context),
            Self::Status(args) => status::run(args, context),
            Self::Doctor(args) => doctor::run(args, context),
            Self::Config(args) => config::run(args, context),
            Self::Completions(args) => completions::run(args, context),
            Self::Man(args) => man::run(args, context),
        }
    }
}

/// Parses the arguments, runs the command, prints a failure, returns the exit code.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let cli = match parse(&arguments) {
        Ok(cli) => cli,
        Err(error) => return unparsed(&error, &arguments),
    };
    no_core_dumps();
    // Before there are threads. What restores gets its blocks from the heap: that is faster, and takes little.
    if matches!(cli.command, Command::Backup(_)) {
        crate::memory::give_back_large_buffers();
    }
    if let Err(e) = signals::watch() {
        warn(&cli.context, &format!("signals end this run at once: {e}"));
    }
    match cli.command.run(&cli.context) {
        Ok(exit) => ExitCode::from(exit as u8),
        // As a program that the closed pipe ended: 128 + SIGPIPE.
        Err(failure) if failure.code == STDOUT_CLOSED => ExitCode::from(141),
        Err(failure) => {
            eprint_failure(&failure, &cli.context);
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// Parses the arguments; a variable of the environment that is empty counts as one that is not set.
fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    for (argument, name) in [("config", "SOURCE_AGENT_CONFIG"), ("remotes", "SOURCE_AGENT_REMOTE")] {
        if std::env::var_os(name).is_some_and(|value| value.is_empty()) {
            command = command.mut_arg(argument, |argument| argument.env(Resettable::Reset));
        }
    }
    Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

/// Help, version and usage errors.
fn unparsed(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let json = arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    if error.use_stderr() && json {
        to_stderr(&failure_json(&usage_failure(&error.render().to_string())).to_string());
    } else {
        // A closed standard output or error: nobody reads it.
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8))
}

/// A usage error from its text: the sentence, then what it is about, one a line.
fn usage_failure(text: &str) -> Failure {
    let (message, rest) = shared::text::usage_error(text);
    let failure = Failure::new("usage", Exit::Usage, message).help("source-agent --help");
    rest.into_iter().fold(failure, Failure::detail)
}

/// Keys in memory must not reach a disk by way of a core dump.
fn no_core_dumps() {
    let now = rustix::process::getrlimit(rustix::process::Resource::Core);
    let none = rustix::process::Rlimit { current: Some(0), maximum: now.maximum };
    // Where this is not possible nothing else is either; it is a second line of defence.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
}

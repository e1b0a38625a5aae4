//! The operator's commands: one file each. `docs/` and the help texts are the contract.

mod account;
mod card;
mod doctor;
mod enroll;
mod generate;
mod hold;
mod hooks;
mod init;
mod journal;
mod listen;
mod prune;
mod rebuild;
mod retention;
mod revoke;
mod serve;
mod snapshots;
mod sources;
mod status;
mod table;
mod vault;
mod verify;

use crate::report::{Failure, exit};
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER: &str = "\
First steps:
  remote-sink init --root /srv/backups
  remote-sink enroll 'source-card:1,name=web1,...' --address pawl@sink.example --install

Exit codes: 0 done, 1 failed, 2 usage, 10 no such source or snapshot, 11 a session of the
source runs, 13 damage or a wrong signature, 15 disk or quota full, 20 `prune` was stopped by an
alarm; `status`: 0 fresh, 1 too old, 3 unknown. Other codes mean failure; codes get added.";
/// The flags of every command stand together in help texts.
const EVERYWHERE: &str = "Everywhere";

/// Append-only offsite backup: the sink. Accepts only new, correctly signed objects; nothing that a source sends can
/// delete, overwrite or read back.
#[derive(Debug, Parser)]
#[command(name = "remote-sink", version, after_help = AFTER, disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// The vault's directory [else: [store] root in the configuration file]
    #[arg(long, value_name = "DIR", env = "REMOTE_SINK_ROOT", hide_env_values = true, global = true, help_heading = EVERYWHERE)]
    pub root: Option<PathBuf>,
    /// Results and errors as JSON lines
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub json: bool,
    /// Say more
    #[arg(short, long, global = true, help_heading = EVERYWHERE)]
    pub verbose: bool,
    /// Say only what is wrong
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = EVERYWHERE)]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Init(init::InitArgs),
    Enroll(enroll::EnrollArgs),
    Sources(sources::SourcesArgs),
    Card(card::CardArgs),
    Revoke(revoke::RevokeArgs),
    Snapshots(snapshots::SnapshotsArgs),
    Retention(retention::RetentionArgs),
    Prune(prune::PruneArgs),
    Undelete(hold::UndeleteArgs),
    Hold(hold::HoldArgs),
    Release(hold::ReleaseArgs),
    Observe(journal::ObserveArgs),
    Report(journal::ReportArgs),
    #[command(visible_alias = "scrub")]
    Verify(verify::VerifyArgs),
    Status(status::StatusArgs),
    Rebuild(rebuild::RebuildArgs),
    Doctor(doctor::DoctorArgs),
    Listen(listen::ListenArgs),
    Completions(generate::CompletionsArgs),
    #[command(hide = true)]
    Man(generate::ManArgs),
    #[command(hide = true)]
    Serve(serve::ServeArgs),
    #[command(hide = true, name = crate::serve::RECEIVER_COMMAND)]
    ServeReceiver(serve::ReceiverArgs),
}

/// What a command may use: the global flags, where results go, and where the account's files are.
pub struct Context<'a> {
    pub global: Global,
    pub out: &'a mut dyn Write,
    pub input: &'a mut dyn io::Read,
    /// Home of the running account: `.ssh/authorized_keys` below it is edited.
    pub home: Option<PathBuf>,
}

impl Context<'_> {
    /// One line of result.
    pub fn line(&mut self, text: impl std::fmt::Display) -> Result<(), Failure> {
        writeln!(self.out, "{text}").map_err(output_failed)
    }
    /// A line that `--quiet` and `--json` leave out.
    pub fn remark(&mut self, text: impl std::fmt::Display) -> Result<(), Failure> {
        if self.global.quiet || self.global.json { Ok(()) } else { self.line(text) }
    }
    /// Something that the operator should know and that fails nothing.
    pub fn warn(&self, text: impl std::fmt::Display) {
        let text = shared::text::printable(text.to_string().as_bytes(), 1000);
        let line = if self.global.json {
            serde_json::json!({"message_type": "error", "error": {"message": text}, "during": "", "item": ""})
                .to_string()
        } else {
            format!("warning: {text}")
        };
        // Standard error is gone: nobody to warn.
        let _ = writeln!(io::stderr(), "{line}");
    }
    /// Something failed, and the command goes on with the rest; its exit code tells.
    pub fn failed(&self, failure: &Failure) -> u8 {
        // Standard error is gone: the exit code still tells.
        let _ = failure.print(&mut io::stderr(), self.global.json);
        failure.exit
    }
    /// One JSON line.
    pub fn json(&mut self, value: &serde_json::Value) -> Result<(), Failure> {
        self.line(value)
    }
}

fn output_failed(error: io::Error) -> Failure {
    Failure::new("output", format!("cannot write the result: {error}"))
}

/// Runs one command line; the exit code is the command's or the failure's.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return unparsed(&error, &arguments),
    };
    let json = cli.global.json;
    let (mut out, mut input) = (io::stdout(), io::stdin());
    let home = account::home();
    let mut context = Context { global: cli.global, out: &mut out, input: &mut input, home };
    let done = run(cli.command, &mut context).and_then(|code| out.flush().map_err(output_failed).map(|()| code));
    done.unwrap_or_else(|failure| {
        // Standard error is gone: the exit code still tells.
        let _ = failure.print(&mut io::stderr(), json);
        ExitCode::from(failure.exit)
    })
}

/// Help, version and usage errors; these are JSON too where that is asked for.
fn unparsed(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let json = arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    // A closed standard output or error: nobody reads it.
    if error.use_stderr() && json {
        let text = error.render().to_string();
        let (message, _) = shared::text::usage_error(&text);
        let failure = Failure::new("usage", message).help("remote-sink --help").exit(exit::USAGE);
        let _ = failure.print(&mut io::stderr(), true);
    } else {
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE))
}

/// Runs one command.
pub fn run(command: Command, context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let code = match command {
        Command::Serve(args) => return serve::run(args, context),
        Command::ServeReceiver(args) => return serve::run_receiver(&args),
        Command::Init(args) => init::run(&args, context),
        Command::Enroll(args) => enroll::run(&args, context),
        Command::Sources(args) => sources::run(&args, context),
        Command::Card(args) => card::run(&args, context),
        Command::Revoke(args) => revoke::run(&args, context),
        Command::Snapshots(args) => snapshots::run(&args, context),
        Command::Retention(args) => retention::run(&args, context),
        Command::Prune(args) => prune::run(&args, context),
        Command::Undelete(args) => hold::undelete(&args, context),
        Command::Hold(args) => hold::hold(&args, context),
        Command::Release(args) => hold::release(&args, context),
        Command::Observe(args) => journal::observe(&args, context),
        Command::Report(args) => journal::report(&args, context),
        Command::Verify(args) => verify::run(&args, context),
        Command::Status(args) => status::run(&args, context),
        Command::Rebuild(args) => rebuild::run(&args, context),
        Command::Doctor(args) => doctor::run(&args, context),
        Command::Listen(args) => listen::run(&args, context),
        Command::Completions(args) => generate::completions(&args, context),
        Command::Man(args) => generate::man(&args),
    };
    code.map(ExitCode::from)
}

/// A command that ends well.
const DONE: Result<u8, Failure> = Ok(exit::OK);

#[cfg(test)]
mod tests;

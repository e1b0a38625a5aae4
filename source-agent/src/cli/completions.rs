//! `source-agent completions`.

use crate::cli::{Cli, Context, print_text};
use crate::report::{Exit, Failure, Outcome};
use clap::CommandFactory;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  source-agent completions bash > /etc/bash_completion.d/source-agent
  source-agent completions zsh > ~/.zfunc/_source-agent")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

pub fn run(args: &CompletionsArgs, _context: &Context) -> Outcome<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "source-agent", &mut script);
    let script = String::from_utf8(script)
        .map_err(|_| Failure::new("completions", Exit::Failed, "the completion script is not text"))?;
    print_text(&script)?;
    Ok(Exit::Done)
}

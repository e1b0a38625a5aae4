//! `completions` and `man`: made from the same definitions as the help texts.

use super::{Cli, Context, DONE};
use crate::report::Failure;
use clap::CommandFactory;
use shared::sys::durable;
use std::path::{Path, PathBuf};

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  remote-sink completions bash > /etc/bash_completion.d/remote-sink")]
pub struct CompletionsArgs {
    pub shell: clap_complete::Shell,
}

/// Write man pages into a directory
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    pub dir: PathBuf,
}

pub fn completions(args: &CompletionsArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    // Into memory first: the generator panics when its output fails.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "remote-sink", &mut text);
    context.out.write_all(&text).map_err(super::output_failed)?;
    DONE
}

pub fn man(args: &ManArgs) -> Result<u8, Failure> {
    durable::create_dir(&args.dir, 0o755).map_err(|e| Failure::io("make", &args.dir, &e))?;
    let command = Cli::command();
    page(&command, "remote-sink", &args.dir)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        page(sub, &format!("remote-sink-{}", sub.get_name()), &args.dir)?;
    }
    DONE
}

fn page(command: &clap::Command, name: &str, dir: &Path) -> Result<(), Failure> {
    let path = dir.join(format!("{name}.1"));
    let mut text = Vec::new();
    let command = command.clone().display_name(name).bin_name(name.replacen("remote-sink-", "remote-sink ", 1));
    clap_mangen::Man::new(command).render(&mut text).map_err(|e| Failure::io("write", &path, &e))?;
    durable::replace(&path, &text, durable::PUBLIC).map_err(|e| Failure::io("write", &path, &e))
}

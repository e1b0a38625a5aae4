//! `source-agent config`: show, check, example.

use crate::cli::{Context, doctor, print_json, print_line, print_text};
use crate::config::{self, Loaded, template};
use crate::keys;
use crate::paths::show;
use crate::report::{Exit, Failure, Outcome};

#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

#[derive(Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Print the configuration, where it is, and this machine's source card
    #[command(after_help = "Example:\n  source-agent config show")]
    Show,
    /// Check the configuration and the files that it names
    #[command(after_help = "\
Exit code 0 when a backup could start, 1 otherwise. Remotes are not called:
see source-agent remote test.

Example:
  source-agent config check")]
    Check,
    /// Print an example with every key
    #[command(after_help = "Example:\n  source-agent config example | less")]
    Example,
}

pub fn run(args: &ConfigArgs, context: &Context) -> Outcome<Exit> {
    match args.command {
        ConfigCommand::Show => show_config(context),
        ConfigCommand::Check => check(context),
        ConfigCommand::Example => print_text(&template::example()).map(|()| Exit::Done),
    }
}

fn show_config(context: &Context) -> Outcome<Exit> {
    let loaded = config::load(context)?;
    // A card that cannot be read is for `check` to complain about.
    let card = keys::load_card(&loaded).ok();
    if context.json {
        let table: toml::Value = toml::from_str(&loaded.text)
            .map_err(|e| Failure::new("config", Exit::Failed, format!("cannot show the configuration: {e}")))?;
        print_json(&serde_json::json!({
            "message_type": "config",
            "config_file": show(&loaded.paths.config),
            "state_dir": show(&loaded.paths.state_dir),
            "cache_dir": show(&loaded.paths.cache_dir),
            "source_card": card.as_ref().map(ToString::to_string),
            "fingerprint": card.as_ref().map(|card| card.fingerprint()),
            "config": table,
        }))?;
        return Ok(Exit::Done);
    }
    print_line(&format!("# file   {}", show(&loaded.paths.config)))?;
    print_line(&format!("# state  {}", show(&loaded.paths.state_dir)))?;
    print_line(&format!("# cache  {}", show(&loaded.paths.cache_dir)))?;
    if let Some(card) = card {
        print_line(&format!("# card   {card}"))?;
        print_line(&format!("#        fingerprint  {}", card.fingerprint()))?;
    }
    print_text(&format!("\n{}", loaded.text))?;
    Ok(Exit::Done)
}

fn check(context: &Context) -> Outcome<Exit> {
    let loaded = config::load(context)?;
    let findings = doctor::of_configuration(&loaded);
    doctor::tell(&findings, context)?;
    if !context.json && findings.iter().all(|finding| finding.level == doctor::Level::Fine) {
        print_line(&format!("{}: {}", show(&loaded.paths.config), summary(&loaded)))?;
    }
    Ok(doctor::exit(&findings))
}

fn summary(loaded: &Loaded) -> String {
    let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    format!(
        "good: {}, {}, {}",
        plural(loaded.config.backup.sets.len(), "set"),
        plural(loaded.config.remotes.len(), "remote"),
        plural(loaded.config.source.recipients.len(), "recipient entry").replace("entrys", "entries"),
    )
}

//! `remote-sink retention`: shows the rules, or writes a source's own into `vault.toml`.

use super::{Context, DONE};
use crate::cli::vault::Vault;
use crate::config::{Age, Config, Share};
use crate::report::{Failure, exit};
use crate::retention::observe;
use crate::retention::rules::InForce;
use shared::id::SourceName;
use shared::sys::durable;
use shared::wire::Role;

/// Show or set which snapshots stay
///
/// Times are those of receipt, slots those of UTC, and the oldest snapshot of a slot holds it. Nothing is removed until
/// a rule is set, and then only by `prune`. Keys that are not set come from [defaults.retention] in vault.toml.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  remote-sink retention web1 --keep-within 30d --keep-weekly 8 --keep-monthly 12 --min-age 30d\n\n\
                        Ages say their unit: 30d, 2w, 6mo, 1y, 36h, 90min. A bare m is refused."
)]
pub struct RetentionArgs {
    /// The source; needed to set rules [default: show all]
    pub source: Option<String>,
    /// Keep everything received within this time
    #[arg(long, value_name = "AGE")]
    pub keep_within: Option<Age>,
    /// Keep the newest N snapshots of each series (a flood of new ones pushes older ones out)
    #[arg(short = 'l', long, value_name = "N")]
    pub keep_last: Option<u32>,
    /// Keep the oldest snapshot of each of the newest N hours that have one
    #[arg(short = 'H', long, value_name = "N")]
    pub keep_hourly: Option<u32>,
    /// The same for days
    #[arg(short = 'd', long, value_name = "N")]
    pub keep_daily: Option<u32>,
    /// The same for weeks, from Monday
    #[arg(short = 'w', long, value_name = "N")]
    pub keep_weekly: Option<u32>,
    /// The same for months
    #[arg(short = 'm', long, value_name = "N")]
    pub keep_monthly: Option<u32>,
    /// The same for years
    #[arg(short = 'y', long, value_name = "N")]
    pub keep_yearly: Option<u32>,
    /// Never remove anything received more recently
    #[arg(long, value_name = "AGE")]
    pub min_age: Option<Age>,
    /// `prune` stops when a larger share would go
    #[arg(long, value_name = "SHARE")]
    pub max_remove: Option<Share>,
    /// How long removed snapshots stay in the trash
    #[arg(long, value_name = "AGE")]
    pub grace: Option<Age>,
}

impl RetentionArgs {
    /// Keys and values as TOML, of the flags that were given.
    fn pairs(&self) -> Vec<(&'static str, String)> {
        let ages = [("keep-within", self.keep_within), ("min-age", self.min_age), ("grace", self.grace)];
        let counts = [
            ("keep-last", self.keep_last),
            ("keep-hourly", self.keep_hourly),
            ("keep-daily", self.keep_daily),
            ("keep-weekly", self.keep_weekly),
            ("keep-monthly", self.keep_monthly),
            ("keep-yearly", self.keep_yearly),
        ];
        let ages = ages.into_iter().filter_map(|(key, age)| Some((key, format!("\"{}\"", age?))));
        let counts = counts.into_iter().filter_map(|(key, count)| Some((key, count?.to_string())));
        ages.chain(counts).chain(self.max_remove.map(|share| ("max-remove", format!("\"{share}\"")))).collect()
    }
}

pub fn run(args: &RetentionArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    let pairs = args.pairs();
    if pairs.is_empty() {
        let vault = Vault::open(context.global.root.as_deref())?;
        let names: Vec<String> = args.source.iter().cloned().collect();
        for one in vault.choose(&names)?.iter().filter(|one| one.enrolment.role == Role::Push) {
            show(&one.name, &vault.config, context)?;
        }
        return DONE;
    }
    let vault = Vault::open_to_change(context.global.root.as_deref())?;
    let Some(source) = &args.source else {
        return Err(Failure::new("usage", "rules are set for one source: name it")
            .help("for all sources, edit [defaults.retention] in vault.toml")
            .exit(exit::USAGE));
    };
    let name = vault.get(source)?.name;
    let path = vault.layout.config();
    let text = std::fs::read_to_string(&path).map_err(|e| Failure::io("read", &path, &e))?;
    let changed = set(&text, &name, &pairs).map_err(|why| {
        Failure::new("config", format!("{}: {why}", path.display()))
            .help(format!("edit [source.{name}.retention] in that file by hand; nothing was changed"))
    })?;
    durable::replace_as(&path, changed.as_bytes(), durable::PRIVATE, durable::Owner::Directory)
        .map_err(|e| Failure::io("write", &path, &e))?;
    drop(vault);
    // Open again: what is observed and promised from here on goes by the new rules.
    let vault = Vault::open_to_change(context.global.root.as_deref())?;
    observe::observe(&mut vault.desk()?)?.of(&name)?;
    show(&name, &vault.config, context)?;
    DONE
}

fn show(name: &SourceName, config: &Config, context: &mut Context<'_>) -> Result<(), Failure> {
    let rules = InForce::of(config, name);
    if context.global.json {
        return context.json(&serde_json::json!({
            "message_type": "retention", "source": name.as_str(), "set": rules.rules.is_set(),
            "rules": rules.describe(), "promise_seconds": rules.rules.promise_seconds(),
        }));
    }
    context.line(format!("{name}: {}", rules.describe()))
}

/// The text with these keys in the table `[source.NAME.retention]`: every other line stays as it is. The result must
/// mean what was asked for, and nothing else may mean something else.
fn set(text: &str, name: &SourceName, pairs: &[(&'static str, String)]) -> Result<String, String> {
    let quoted = format!("[source.\"{name}\".retention]");
    let is_header = |line: &str| {
        let line = line.split('#').next().unwrap_or("").trim();
        line == quoted || line == format!("[source.{name}.retention]")
    };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let header = lines.iter().position(|line| is_header(line)).unwrap_or_else(|| {
        lines.push(String::new());
        lines.push(quoted.clone());
        lines.len() - 1
    });
    let end = lines.iter().skip(header + 1).position(|line| line.trim_start().starts_with('['));
    let end = end.map_or(lines.len(), |end| header + 1 + end);
    let is_set = |line: &String| {
        let key = line.split('=').next().unwrap_or("").trim();
        pairs.iter().any(|(set, _)| *set == key)
    };
    let own: Vec<String> = lines[header + 1..end].iter().filter(|line| !is_set(line)).cloned().collect();
    let new = pairs.iter().map(|(key, value)| format!("{key} = {value}"));
    let table: Vec<String> = new.chain(own).collect();
    lines.splice(header + 1..end, table);
    let changed = lines.join("\n") + "\n";
    let (before, after) = (Config::parse(text)?, Config::parse(&changed)?);
    let mut expected = before;
    let own = after.source.get(name).and_then(|rules| rules.retention.clone());
    expected.source.entry(name.clone()).or_default().retention = own;
    if expected == after { Ok(changed) } else { Err("it is written in a way that this command cannot change".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_made_and_changed_and_the_rest_stays() {
        let name: SourceName = "web.1".parse().unwrap();
        let text = "# mine\nconfig-version = 1\n\n[store]\nmin-free = \"1GiB\" # room\n";
        let once = set(text, &name, &[("keep-within", "\"30d\"".into())]).unwrap();
        assert!(once.starts_with(text), "{once}");
        let more = format!("{once}\n[alerts]\nmax-age = \"36h\"\n");
        let twice = set(&more, &name, &[("keep-within", "\"90d\"".into()), ("keep-daily", "7".into())]).unwrap();
        let rules = InForce::of(&Config::parse(&twice).unwrap(), &name);
        assert_eq!(rules.describe(), "keep-daily 7 keep-within 90d grace 7d max-remove 50%");
        assert!(twice.ends_with("[alerts]\nmax-age = \"36h\"\n") && twice.matches("keep-within").count() == 1);
        let inline = "config-version = 1\n[source]\n\"web.1\" = { quota = \"1GiB\" }\n";
        assert!(set(inline, &name, &[("keep-daily", "7".into())]).is_err());
    }
}

//! The rules in force for a source: its own in `vault.toml`, key by key before the defaults.

use crate::config::{Age, Config, Retention, Share};
use crate::retention::policy::Rules;
use shared::id::SourceName;

/// Days in the trash when nothing else is configured.
const GRACE: &str = "7d";
/// Share of a source's snapshots that one run may remove when nothing else is configured.
const MAX_REMOVE_PERCENT: u32 = 50;

/// What holds for one source.
#[derive(Debug, Clone, PartialEq)]
pub struct InForce {
    pub rules: Rules,
    pub max_remove_percent: u32,
    /// How long a removed snapshot can be brought back.
    pub grace: Option<Age>,
}

fn merged(own: &Retention, defaults: &Retention) -> Retention {
    Retention {
        keep_within: own.keep_within.or(defaults.keep_within),
        keep_last: own.keep_last.or(defaults.keep_last),
        keep_hourly: own.keep_hourly.or(defaults.keep_hourly),
        keep_daily: own.keep_daily.or(defaults.keep_daily),
        keep_weekly: own.keep_weekly.or(defaults.keep_weekly),
        keep_monthly: own.keep_monthly.or(defaults.keep_monthly),
        keep_yearly: own.keep_yearly.or(defaults.keep_yearly),
        min_age: own.min_age.or(defaults.min_age),
        max_remove: own.max_remove.or(defaults.max_remove),
        grace: own.grace.or(defaults.grace),
    }
}

impl InForce {
    pub fn of(config: &Config, source: &SourceName) -> Self {
        let empty = Retention::default();
        let own = config.source.get(source).and_then(|rules| rules.retention.as_ref()).unwrap_or(&empty);
        let all = merged(own, config.defaults.retention.as_ref().unwrap_or(&empty));
        let count = |count: Option<u32>| count.unwrap_or(0);
        Self {
            rules: Rules {
                keep_within: all.keep_within,
                last: count(all.keep_last),
                hourly: count(all.keep_hourly),
                daily: count(all.keep_daily),
                weekly: count(all.keep_weekly),
                monthly: count(all.keep_monthly),
                yearly: count(all.keep_yearly),
                min_age: all.min_age,
            },
            max_remove_percent: all.max_remove.map_or(MAX_REMOVE_PERCENT, Share::get),
            grace: all.grace.or_else(|| GRACE.parse().ok()),
        }
    }

    /// One line for people and for the journal.
    pub fn describe(&self) -> String {
        let rules = &self.rules;
        if !rules.is_set() {
            return "keeps everything: no rule is set".into();
        }
        let ages = [("keep-within", rules.keep_within), ("min-age", rules.min_age), ("grace", self.grace)];
        let counts = [
            ("keep-last", rules.last),
            ("keep-hourly", rules.hourly),
            ("keep-daily", rules.daily),
            ("keep-weekly", rules.weekly),
            ("keep-monthly", rules.monthly),
            ("keep-yearly", rules.yearly),
        ];
        let ages = ages.into_iter().filter_map(|(name, age)| Some(format!("{name} {}", age?)));
        let counts = counts.into_iter().filter(|(_, count)| *count > 0).map(|(name, n)| format!("{name} {n}"));
        let parts: Vec<_> = counts.chain(ages).collect();
        format!("{} max-remove {}%", parts.join(" "), self.max_remove_percent)
    }

    /// Can what was removed at `at` not be brought back any more?
    pub fn grace_is_over(&self, at: i64, now: i64) -> bool {
        let (Some(grace), Ok(at), Ok(now)) =
            (self.grace, jiff::Timestamp::from_second(at), jiff::Timestamp::from_second(now))
        else {
            return false;
        };
        grace.after(at) <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_changes_single_keys_of_the_defaults() {
        let text = "config-version = 1\n[defaults.retention]\nkeep-within = \"30d\"\nkeep-daily = 14\n\
                    [source.web1.retention]\nkeep-within = \"90d\"\nkeep-weekly = 4\n";
        let config = Config::parse(text).unwrap();
        let own = InForce::of(&config, &"web1".parse().unwrap());
        assert_eq!(own.describe(), "keep-daily 14 keep-weekly 4 keep-within 90d grace 7d max-remove 50%");
        let other = InForce::of(&config, &"web2".parse().unwrap());
        assert_eq!(other.describe(), "keep-daily 14 keep-within 30d grace 7d max-remove 50%");
        assert!(!InForce::of(&Config::empty(), &"web1".parse().unwrap()).rules.is_set());
        assert!(Config::parse("config-version = 1\n[defaults.retention]\nkeep-within = \"6m\"\n").is_err());
    }
}

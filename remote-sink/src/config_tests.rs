use super::*;

const EXAMPLE: &str = r#"
config-version = 1
[store]
root = "/srv/backups"
min-free = "20GiB"
[serve]
idle-timeout = "5min"
[defaults]
quota = "1TiB"
[defaults.retention]
keep-within = "30d"
keep-daily = 14
keep-weekly = 8
keep-monthly = 12
min-age = "30d"
max-remove = "50%"
grace = "7d"
[source.web1]
quota = "500GiB"
[source.web1.retention]
keep-within = "90d"
[verify]
reverify-after = "30d"
limit-read = "40MiB"
[alerts]
max-age = "36h"
shrink = "50%"
grow = "300%"
[hooks]
on-alert = [["/usr/local/bin/page-me"]]
[metrics]
textfile = "/var/lib/prometheus/node-exporter/remote-sink.prom"
"#;

#[test]
fn the_manuals_example_is_read() {
    let config = Config::parse(EXAMPLE).unwrap();
    assert_eq!(config.min_free_bytes(), 20 << 30);
    assert_eq!(config.idle_timeout_seconds(), 300);
    let web1 = "web1".parse().unwrap();
    let other = "other".parse().unwrap();
    assert_eq!(config.quota(&web1), Some(500 << 30));
    assert_eq!(config.quota(&other), Some(1 << 40));
    assert_eq!(config.defaults.retention.unwrap().keep_daily, Some(14));
    assert_eq!(config.alerts.grow.unwrap().get(), 300);
}

#[test]
fn an_empty_file_but_for_the_version_has_the_defaults() {
    let config = Config::parse("config-version = 1").unwrap();
    assert_eq!(config, Config::empty());
    assert_eq!(config.quota(&"web1".parse().unwrap()), None);
    assert_eq!(config.idle_timeout_seconds(), IDLE_TIMEOUT_SECONDS);
}

#[test]
fn wrong_files_are_refused_and_the_message_names_the_key() {
    for (text, said) in [
        ("", "config-version"),
        ("config-version = 2", "this version of remote-sink knows 1"),
        ("config-version = 1\nroot = '/'", "unknown field `root`"),
        ("config-version = 1\n[store]\nmin_free = '1GiB'", "expected `root` or `min-free`"),
        ("config-version = 1\n[defaults.retention]\nkeep-within = '6m'", "6mo for months or 6min for minutes"),
        ("config-version = 1\n[defaults]\nquota = '500G'", "GiB (powers of 1024) or GB (of 1000)"),
        ("config-version = 1\n[defaults]\nquota = 500", "invalid type: integer"),
        ("config-version = 1\n[defaults]\nquota = '500'", "has no unit"),
        ("config-version = 1\n[source.'../x']\nquota = '1GiB'", "not a source name"),
        ("config-version = 1\n[alerts]\nshrink = '50'", "is not a share"),
        ("config-version = 1\n[serve]\nidle-timeout = '300'", "has no unit"),
    ] {
        let error = Config::parse(text).unwrap_err();
        assert!(error.contains(said), "{text:?} gave: {error}");
    }
}

#[test]
fn sizes() {
    for (text, bytes) in [
        ("0B", 0),
        ("12 B", 12),
        ("1KiB", 1024),
        ("1kB", 1000),
        ("1.5GiB", 3 << 29),
        ("500GB", 500_000_000_000),
        ("0.000001MB", 1),
    ] {
        assert_eq!(text.parse::<Size>().map(Size::bytes), Ok(bytes), "{text}");
    }
    for bad in [
        "",
        "B",
        "1",
        "1K",
        "1M",
        "1m",
        "1G",
        "1T",
        "-1B",
        "1.GiB",
        ".5GiB",
        "1.2.3B",
        "1 GiB x",
        "1gib",
        "99999PiB",
        "1.1234567B",
    ] {
        assert!(bad.parse::<Size>().is_err(), "{bad}");
    }
}

#[test]
fn sizes_are_shown_in_iec() {
    for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.50 KiB"), (500 << 30, "500 GiB")] {
        assert_eq!(iec(bytes), text);
    }
    assert_eq!(iec(u64::MAX), "16 EiB");
    assert_eq!(iec((1 << 20) - 1), "1 MiB");
}

#[test]
fn ages() {
    let seconds = |text: &str| text.parse::<Age>().map(Age::seconds);
    assert_eq!(seconds("30d"), Ok(30 * 86_400));
    assert_eq!(seconds("36h"), Ok(36 * 3600));
    assert_eq!(seconds("5min"), Ok(300));
    assert_eq!(seconds("1y6mo"), Ok((365 + 180) * 86_400));
    assert_eq!(seconds("2 weeks 1 day"), Ok(15 * 86_400));
    for bad in ["", "6m", "6M", "30", "d", "1d1d", "-3d", "1.5d", "3 fortnights", "99999999999d", "30000000y", "2h 6m"]
    {
        assert!(bad.parse::<Age>().is_err(), "{bad}");
    }
}

#[test]
fn a_month_is_the_calendars() {
    let now: Timestamp = "2026-03-31T00:00:00Z".parse().unwrap();
    assert_eq!("1mo".parse::<Age>().unwrap().before(now), "2026-02-28T00:00:00Z".parse().unwrap());
    assert_eq!("9000y".parse::<Age>().unwrap().before(now).as_second().signum(), -1);
}

#[test]
fn confinement_is_waived_in_these_words_alone() {
    use crate::serve::Confinement;
    let parse = |words: &str| {
        let text = format!("config-version = 1\n[serve]\nunconfined = {words}\n");
        toml::from_str::<Config>(&text).map(|config| config.confinement())
    };
    let waiver = crate::confine::WAIVER;
    assert_eq!(parse(&format!("\"{waiver}\"")).unwrap(), Confinement::Waived);
    for other in ["true", "\"\"", "\"yes\"", &format!("\"{waiver}.\""), &format!("\"{}\"", waiver.to_lowercase())] {
        assert!(parse(other).is_err(), "{other}");
    }
    assert_eq!(toml::from_str::<Config>("config-version = 1").unwrap().confinement(), Confinement::Required);
}

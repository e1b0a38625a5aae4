//! The sink at a time of our choice, for simulations (`benches/year.py`): sessions and pruning by the library of
//! `remote-sink`, with the clock that the file `$SINK_TIME` holds (seconds since 1970). Not confined.
//!
//!     sink-at serve --root DIR --source NAME --role push
//!     sink-at prune DIR NAME
//!
//! `prune` prints one line of JSON: the sequences that are on the shelf afterwards and in the trash, and what was given back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use remote_sink::config::Config;
use remote_sink::enrolment::Enrolment;
use remote_sink::journal::{Journal, Moment};
use remote_sink::retention::history::Place;
use remote_sink::retention::vault::{Desk, Source};
use remote_sink::retention::{Options, history, prune};
use remote_sink::serve::{Limits, ServeOptions, channel, committer, open, receiver};
use remote_sink::store::directory::Root;
use remote_sink::store::layout::Layout;
use shared::codec::Blob;
use shared::id::SourceName;
use shared::keyfile;
use shared::signature::SigningKey;
use shared::sys::FixedClock;
use shared::wire::Role;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", "--root", root, "--source", source, "--role", "push"] => serve(root, source),
        ["prune", root, source] => pruned(root, source),
        _ => panic!("see the head of this file"),
    }
}

fn now() -> i64 {
    let path = std::env::var("SINK_TIME").expect("SINK_TIME");
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

fn serve(root: &str, source: &str) {
    let limits = Limits { min_free: 16 << 20, ..Limits::default() };
    let (root, source) = (PathBuf::from(root), source.parse().unwrap());
    let options = ServeOptions { root, source, role: Role::Push, limits, binding: Vec::new() };
    let start = open(&options, Arc::new(FixedClock::at(now())));
    let (channel, other) = channel::pair().unwrap();
    let receiving = std::thread::spawn(move || receiver::receive(other));
    channel::send_network(&channel, std::io::stdin().as_fd(), std::io::stdout().as_fd()).unwrap();
    committer::commit(channel, options.role, start, &options.limits).unwrap();
    receiving.join().unwrap().unwrap();
}

fn pruned(root: &str, source: &str) {
    let (layout, name) = (Layout::new(root), source.parse::<SourceName>().unwrap());
    let config = Config::of_vault(layout.root()).unwrap();
    let root = Root::open(layout.root()).unwrap();
    let enrolment = Enrolment::read(&layout.enrolment(&name)).unwrap();
    let text = std::fs::read_to_string(layout.sink_key()).unwrap();
    let sink = SigningKey::from_seed(&keyfile::read(keyfile::SINK_KEY, &text).unwrap()).verify_key();
    let sources = vec![Source::new(&root, &name, &enrolment)];
    // A machine that has been up since long before.
    let now = Moment { wall: now(), boot: Blob::new(vec![1; 16]).unwrap(), up: u64::try_from(now()).unwrap() };
    let journal = Journal::open(&layout).unwrap();
    let mut desk = Desk { layout: &layout, config: &config, root, sink, sources, journal, now };
    let outcome = prune(&mut desk, &name, &Options::default()).unwrap();
    let alarms: Vec<String> =
        outcome.alarms.iter().map(|alarm| format!("{}: {}", alarm.brake.as_str(), alarm.message)).collect();
    let source = desk.source(&name).unwrap().clone();
    let after = history::read(desk.view(), &source).unwrap();
    let at = |place: Place| -> Vec<u64> {
        after.links.iter().filter(|link| link.place == place).map(|link| link.snapshot.id.sequence).collect()
    };
    let line = serde_json::json!({
        "kept": at(Place::Here), "trash": at(Place::Trash), "alarms": alarms, "freed": outcome.given.freed_bytes,
        "removed": outcome.given.archives_removed, "rewritten": outcome.given.archives_rewritten,
        "damaged": outcome.damage().collect::<Vec<_>>(),
    });
    println!("{line}");
}

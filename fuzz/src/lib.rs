//! One target for each parser of untrusted bytes, for cargo-fuzz (`libfuzzer/`) and for the smoke run of the tests.
//!
//! A target takes any bytes and says whether the parser accepted them. It panics where a promise is broken: a parser
//! panics, or accepts bytes that it would write differently.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

mod objects;
mod samples;
mod text;
mod tree;
mod wire;

/// A parser under attack.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Does the parser accept these bytes?
    pub run: fn(&[u8]) -> bool,
    /// Bytes that it must accept; mutations begin here.
    pub samples: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub fn targets() -> Vec<Target> {
    [objects::targets(), wire::targets(), text::targets(), tree::targets()].concat()
}

/// Runs the target of this name: the door for libFuzzer.
pub fn run(name: &str, bytes: &[u8]) {
    let target = targets().into_iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("no target {name}")).run)(bytes);
}

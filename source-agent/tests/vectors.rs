//! The test vectors of docs/format.md and docs/protocol.md: each says which MUST it tests, what is expected, and the bytes.
//!
//! `PAWL_WRITE_VECTORS=1 cargo test --workspace --test vectors` writes them again (HPKE draws new randomness); without
//! it they are read from `shared/testdata/vectors/` and judged by the product's own code.

#![allow(clippy::unwrap_used)]

mod vectors {
    pub mod judge;
    pub mod make;
}

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use vectors::{judge, make};

/// One case: a file of the same name.
pub struct Vector {
    pub must: &'static str,
    pub name: String,
    /// Which judge.
    pub object: &'static str,
    pub accept: bool,
    /// Byte strings by name; every judge wants `bytes`.
    pub fields: BTreeMap<&'static str, Vec<u8>>,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/testdata/vectors")
}

fn write(vectors: &[Vector]) {
    let directory = directory();
    if directory.exists() {
        std::fs::remove_dir_all(&directory).unwrap();
    }
    std::fs::create_dir_all(&directory).unwrap();
    for vector in vectors {
        let expect = if vector.accept { "accept" } else { "refuse" };
        let mut map = Map::new();
        map.insert("must".into(), vector.must.into());
        map.insert("object".into(), vector.object.into());
        map.insert("expect".into(), expect.into());
        for (name, bytes) in &vector.fields {
            map.insert((*name).into(), shared::text::base64(bytes).into());
        }
        let path = directory.join(format!("{}-{}.json", vector.must, vector.name));
        assert!(!path.exists(), "two vectors of one name: {}", path.display());
        std::fs::write(path, format!("{:#}\n", Value::Object(map))).unwrap();
    }
}

/// MUSTs of a document, as `**F-12**` or `**P-7**`.
fn musts(document: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(document)).unwrap();
    let tags = text.split("**").filter(|piece| {
        piece.split_once('-').is_some_and(|(kind, number)| {
            matches!(kind, "F" | "P") && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
        })
    });
    tags.map(str::to_owned).collect()
}

#[test]
fn every_vector_is_judged_as_it_says() {
    if std::env::var_os("PAWL_WRITE_VECTORS").is_some() {
        write(&make::all());
    }
    let (mut seen, mut accepted, mut refused) = (BTreeSet::new(), 0, 0);
    for file in std::fs::read_dir(directory()).unwrap() {
        let path = file.unwrap().path();
        let value: Map<String, Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let text = |name: &str| value[name].as_str().unwrap().to_owned();
        let fields: BTreeMap<String, Vec<u8>> = value
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "must" | "object" | "expect"))
            .map(|(name, value)| (name.clone(), shared::text::from_base64(value.as_str().unwrap()).unwrap()))
            .collect();
        let judged = judge::judge(&text("object"), &fields);
        match text("expect").as_str() {
            "accept" => {
                accepted += 1;
                assert_eq!(judged, Ok(()), "{} should be accepted", path.display());
            }
            "refuse" => {
                refused += 1;
                assert!(judged.is_err(), "{} should be refused", path.display());
            }
            other => panic!("{}: expect is {other}", path.display()),
        }
        seen.insert(text("must"));
    }
    assert!(refused > accepted, "most vectors are wrong inputs: {refused} of {}", refused + accepted);
    let missing: Vec<_> = musts("format.md").difference(&seen).cloned().collect();
    assert!(missing.is_empty(), "MUSTs of docs/format.md without a vector: {missing:?}");
}

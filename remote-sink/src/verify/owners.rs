//! Owners' objects: signatures, names, and the chain of owner records.

use crate::serve::check::verify_any;
use crate::store::directory::Root;
use crate::store::layout::{Layout, object_path, owner_room};
use crate::store::{Directory, Entry, Name, Shelf, Store, read_whole};
use crate::verify::{Finding, OwnerReport, VerifyError};
use shared::format::{OwnerRecord, Release, Voucher, Wrap};
use shared::id::{Digest, VerifyKey};
use shared::limits::OWNER_BYTES_MAX;
use std::collections::BTreeMap;

/// Judges every owner of a vault.
pub fn judge(layout: &Layout, vault: &Root) -> Result<Vec<OwnerReport>, VerifyError> {
    let io = |error| VerifyError::Io { path: "owners".into(), error };
    let mut reports = Vec::new();
    for entry in std::fs::read_dir(layout.owners()).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let Some(owner) = name.to_str().and_then(|name| name.parse::<VerifyKey>().ok()) else { continue };
        let store = vault.room(owner_room(&owner));
        let mut report = OwnerReport { owner, objects: 0, damage: Vec::new() };
        let mut records = BTreeMap::new();
        for shelf in Shelf::OF_OWNER {
            let mut entries = Vec::new();
            store.list(shelf, &mut |entry| entries.push(entry))?;
            for entry in entries {
                judge_entry(&store, entry, &mut report, &mut records);
            }
        }
        judge_chain(&records, &mut report);
        reports.push(report);
    }
    reports.sort_by_key(|report| report.owner);
    Ok(reports)
}

fn finding(object: Option<Name>, path: String, what: impl Into<String>) -> Finding {
    Finding { object, path, snapshots: Vec::new(), what: what.into() }
}

type Records = BTreeMap<u64, (Option<Digest>, Digest)>;

fn judge_entry(store: &Directory, entry: Entry, report: &mut OwnerReport, records: &mut Records) {
    match entry {
        Entry::Foreign(path) => report.damage.push(finding(None, path, "it is no object")),
        Entry::Object(name) => {
            report.objects += 1;
            let found = read_whole(store, &name, OWNER_BYTES_MAX).map_err(|e| e.to_string());
            let found = found.and_then(|bytes| bytes.ok_or_else(|| "it is missing".to_owned()));
            if let Err(what) = found.and_then(|bytes| is_right(&name, &bytes, report.owner, records)) {
                report.damage.push(finding(Some(name), object_path(&name), what));
            }
        }
    }
}

fn is_right(name: &Name, bytes: &[u8], owner: VerifyKey, records: &mut Records) -> Result<(), String> {
    let keys = [owner];
    let right = match name {
        Name::Voucher(digest) => verify_any::<Voucher>(bytes, &keys).map(|object| object.digest() == *digest),
        Name::Wrap(digest) => verify_any::<Wrap>(bytes, &keys).map(|object| object.digest() == *digest),
        Name::Release(digest) => verify_any::<Release>(bytes, &keys).map(|object| object.digest() == *digest),
        Name::OwnerRecord(number) => verify_any::<OwnerRecord>(bytes, &keys).map(|record| {
            records.insert(*number, (record.previous, record.digest()));
            record.number == *number
        }),
        _ => Ok(false),
    };
    match right {
        Ok(true) => Ok(()),
        Ok(false) => Err("its name does not fit its content".into()),
        Err(refused) => Err(refused.to_string()),
    }
}

fn judge_chain(records: &Records, report: &mut OwnerReport) {
    let mut before = None;
    for (expected, (number, (previous, digest))) in (0u64..).zip(records) {
        if *number != expected || *previous != before {
            let name = Name::OwnerRecord(*number);
            report.damage.push(finding(Some(name), object_path(&name), "it does not follow the record before it"));
            return;
        }
        before = Some(*digest);
    }
}

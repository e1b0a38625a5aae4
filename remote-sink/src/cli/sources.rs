//! `remote-sink sources`: who is enrolled.

use super::{Context, table};
use crate::cli::vault::{Enrolled, Vault};
use crate::config::iec;
use crate::enrolment::Reads;
use crate::report::{Failure, exit};
use shared::wire::Role;

/// List who is enrolled, with role, state and quota
#[derive(Debug, clap::Args)]
pub struct SourcesArgs {}

pub fn run(_args: &SourcesArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    let vault = Vault::open(context.global.root.as_deref())?;
    let (all, broken) = vault.all()?;
    if context.global.json {
        for one in &all {
            context.json(&json(one, &vault))?;
        }
    } else if all.is_empty() && broken.is_empty() {
        context
            .remark("Nobody is enrolled yet:  remote-sink enroll 'source-card:1,...' --address USER@HOST --install")?;
    } else {
        let head =
            ["Name", "Role", "State", "Quota", "Sees", "From", "Enrolled", "Fingerprint"].map(str::to_owned).to_vec();
        let rows: Vec<Vec<String>> = [head].into_iter().chain(all.iter().map(|one| row(one, &vault))).collect();
        for line in table::columns(&rows) {
            context.line(line)?;
        }
    }
    match broken.into_iter().next() {
        Some(failure) => Err(failure),
        None => Ok(exit::OK),
    }
}

/// The quota that holds: the enrolment's, else the configuration's.
pub fn quota(one: &Enrolled, vault: &Vault) -> Option<u64> {
    one.enrolment.quota.or_else(|| vault.config.quota(&one.name))
}

fn sees(one: &Enrolled) -> String {
    match (&one.enrolment.role, &one.enrolment.reads) {
        (Role::Push, _) => "-".into(),
        (_, Reads::Sources(names)) => names.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        (_, Reads::Owner(key)) => format!("owner {}", key.short()),
        (_, Reads::SingleOwner) => "all (one owner)".into(),
    }
}

fn row(one: &Enrolled, vault: &Vault) -> Vec<String> {
    let enrolment = &one.enrolment;
    let state = if enrolment.revoked { "revoked" } else { "active" };
    let quota = match enrolment.role {
        Role::Push => quota(one, vault).map_or_else(|| "none".into(), iec),
        _ => "-".into(),
    };
    let from = if enrolment.from.is_empty() { "anywhere".into() } else { enrolment.from.join(",") };
    let enrolled = shared::text::printable(enrolment.enrolled.as_bytes(), 40);
    let role = enrolment.role.to_string();
    vec![one.name.to_string(), role, state.into(), quota, sees(one), from, enrolled, enrolment.card.fingerprint()]
}

fn json(one: &Enrolled, vault: &Vault) -> serde_json::Value {
    let enrolment = &one.enrolment;
    serde_json::json!({
        "message_type": "source",
        "name": one.name.as_str(),
        "role": enrolment.role.as_str(),
        "revoked": enrolment.revoked,
        "quota": quota(one, vault),
        "sees": sees(one),
        "from": enrolment.from,
        "enrolled": enrolment.enrolled,
        "source_id": enrolment.card.source_id().to_string(),
        "owner": enrolment.card.owner().map(ToString::to_string),
        "fingerprint": enrolment.card.fingerprint(),
    })
}

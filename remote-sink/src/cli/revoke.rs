//! `remote-sink revoke`: shuts a source or reader out; its data stays.

use super::{Context, DONE, table};
use crate::authorized_keys::AccountKeys;
use crate::cli::vault::Vault;
use crate::report::Failure;

/// Shut a source or reader out; what it stored stays
///
/// Marks the enrolment as revoked, so that no new session starts by any door, and removes its line from this account's
/// authorized_keys. Enrolling the same card again lets it in again.
#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// The enrolled name
    pub name: String,
}

pub fn run(args: &RevokeArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    let vault = Vault::open_to_change(context.global.root.as_deref())?;
    vault.observe(context);
    let mut one = vault.get(&args.name)?;
    let already = one.enrolment.revoked;
    // First the mark: from here on no door lets it in, whatever happens to the file of keys.
    one.enrolment.revoked = true;
    one.enrolment.write(&vault.layout.enrolment(&one.name))?;
    let removed = remove_line(&vault, &one, context);
    if context.global.json {
        context.json(&serde_json::json!({
            "message_type": "revoked", "name": one.name.as_str(), "already": already,
            "authorized_keys_lines_removed": removed.as_ref().copied().unwrap_or(0),
        }))?;
    } else {
        let state = if already { "was revoked already" } else { "revoked; its data stays" };
        context.line(format!("{} {state}", one.name))?;
        match removed {
            Ok(0) => context.remark("No line of it stood in this account's authorized_keys.")?,
            Ok(count) => {
                let lines = table::counted(count as u64, "line");
                context.remark(format!("Removed {lines} from this account's authorized_keys."))?;
            }
            Err(_) => {}
        }
    }
    removed?;
    DONE
}

fn remove_line(vault: &Vault, one: &crate::cli::vault::Enrolled, context: &Context<'_>) -> Result<usize, Failure> {
    let Some(home) = context.home.as_deref().filter(|home| home.join(".ssh/authorized_keys").exists()) else {
        return Ok(0);
    };
    let mut keys = AccountKeys::open(home)?;
    Ok(keys.remove(one.enrolment.card.ssh(), vault.layout.root(), &one.name)?)
}

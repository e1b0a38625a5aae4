//! Keys, seals and wraps (docs/format.md, section "Keys"). `backup` uses [`seal`]; only `restore` and the owner's
//! commands use [`open`] and [`identity`].

pub mod derive;
pub mod identity;
pub mod open;
pub mod part;
pub mod recipient;
pub mod seal;
pub mod secret;
pub mod wrap;

#[cfg(test)]
mod tests;

/// A cryptographic step that failed. Never says more than which one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    #[error("the {0} does not open: wrong key, or changed bytes")]
    Open(&'static str),
    #[error("the {0} cannot be sealed")]
    Seal(&'static str),
    #[error("no recipient of this session fits the identity")]
    NoRecipient,
    #[error("the secrets in the envelope do not fit its commitment")]
    Commitment,
    #[error("wrong passphrase")]
    Passphrase,
    #[error("this is no {what}: {why}")]
    File { what: &'static str, why: String },
    #[error(transparent)]
    Format(#[from] shared::codec::FormatError),
}

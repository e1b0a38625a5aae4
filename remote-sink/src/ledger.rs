//! The ledger: a cache over a source's objects.

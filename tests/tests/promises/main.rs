//! The promises, one file each. All run the real programs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

//! Fuzz targets for what people write: pools files, `IP_LIST`, annotations.
//!
//! `cargo test` runs each for a few seconds, from random bytes, or for as long as one
//! likes (see README.md of this crate). A run that finds something prints the seed that finds it
//! again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where it cannot go on, helpers of tests included"
)]

mod annotations;
mod ip_list;
mod mutation;
mod pools_file;

use std::{net::IpAddr, time::Duration};

/// For each target, unless `BOLERO_RANDOM_TEST_TIME_MS` says otherwise.
const TEST_TIME: Duration = Duration::from_secs(3);
/// Enough for a dozen changes to an example, and for a small file.
const MAX_LEN: usize = 512;

/// An error and its causes, as it is told.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

fn is_canonical(address: IpAddr) -> bool {
    address == address.to_canonical()
}

//! Everything as a user has it: clusters of kind, the images, the chart and the
//! manifests, and Pods that answer on the addresses that their Services got.
//!
//! Clusters go with the test, unless `KIND_KEEP` is set.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where it cannot go on, helpers of tests included"
)]

mod happenings;
mod hello;
mod manifests;
mod pair;
mod pipeline;
mod two_clusters;

/// One test at a time: a node that starts again gets its address back only where no
/// other one starts meanwhile.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

//! The chart, and the manifests made from it, on a real API server: Helm and
//! kubectl as people run them. No node is there, so no Pod starts; the real
//! lb-allocator and lb-watcher are run with what the chart gives their Pods.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where it cannot go on, helpers of tests included"
)]

mod cert_manager;
mod commands;
mod conventions;
mod dry_run;
mod helm_test;
mod install;
mod readme;
mod rights;
mod schema;

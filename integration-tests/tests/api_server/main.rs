//! The real lb-watcher and lb-allocator on a real Kubernetes API server: Services
//! in; status, conditions and Events out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where it cannot go on, helpers of tests included"
)]

mod aliases;
mod alive_or_gone;
mod allocator_away;
mod allocator_refuses;
mod api_server_away;
mod api_server_restored;
mod assignment;
mod classes;
mod configuration;
mod conflicts;
mod crashes;
mod events;
mod families;
mod keeping;
mod monitoring;
mod oldest;
mod plan;
mod pool_requests;
mod pool_rules;
mod reaching_the_api_server;
mod readme;
mod refusals;
mod refused_writes;
mod reload;
mod replicas;
mod requests;
mod reservations;
mod scope;
mod sharing;
mod status;
mod tls;
mod traces;
mod watcher_away;
mod watcher_process;

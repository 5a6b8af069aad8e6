//! The allocator: owns the pools, decides which Service holds which address, and
//! answers nothing that is not durable.
//!
//! ```text
//!            gRPC                                                 SQLite
//!  watcher ───────► service ──Command──► writer ──[Change]──► store
//!  grpcurl ◄─────── (tonic) ◄──Reply──── (one task) ─plan─► engine (pure)
//!                      │                    │ after the commit
//!                      └──── reads ───── published ───► routes file, /metrics, Watch
//! ```
//!
//! Who calls is what [`tls`] and the certificate say; [`auth`] decides what the
//! caller may do, and [`denials`] keeps what it may not.
//!
//! Start reading at [`engine`], which decides, then [`writer`], which makes the
//! decisions durable. `run` puts the parts together.

mod admin;
pub mod args;
mod auth;
mod backup;
mod budget;
pub mod cat;
mod certs;
pub mod clock;
pub mod config;
mod connections;
mod contacts;
pub mod decision_log;
pub mod denials;
pub mod engine;
mod listen;
mod log;
pub mod mark;
pub mod metrics;
mod published;
mod reload;
mod routes;
pub mod run;
pub mod service;
mod signals;
mod silence;
pub mod store;
mod streams;
mod tls;
pub mod writer;

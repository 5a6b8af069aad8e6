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

pub mod admin;
pub mod args;
pub mod auth;
pub mod backup;
pub mod budget;
pub mod cat;
pub mod certs;
pub mod config;
pub mod connections;
pub mod contacts;
pub mod decision_log;
pub mod denials;
pub mod engine;
pub mod listen;
pub mod log;
pub mod mark;
pub mod metrics;
pub mod published;
pub mod routes;
pub mod run;
pub mod service;
pub mod signals;
pub mod silence;
pub mod store;
pub mod streams;
pub mod tls;
pub mod writer;

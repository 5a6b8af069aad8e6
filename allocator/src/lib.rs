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
//! Start reading at [`engine`], which decides, then [`writer`], which makes the
//! decisions durable. `run` puts the parts together.

pub mod admin;
pub mod args;
pub mod config;
pub mod decision_log;
pub mod engine;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod published;
pub mod routes;
pub mod run;
pub mod service;
pub mod silence;
pub mod store;
pub mod streams;
pub mod writer;

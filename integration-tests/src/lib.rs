//! Runs the real binaries against a real Kubernetes API server and watches them
//! from outside: status, conditions, Events, metrics and RPC answers.
//!
//! ```text
//!             Site: what most tests start
//!   ┌────────────────────┴───────────────────┐
//!   ControlPlane ◀──── Watcher ────▶ Allocator
//!   etcd + kube-apiserver   lb-watcher   lb-allocator
//!         ▲                                ▲
//!     Namespace                       gRPC, metrics
//!   create, gets, is_pending
//! ```
//!
//! Start reading at [`site`]; what a test looks like is in `tests/`. Every
//! process started here ends with the process that started it, however that
//! ends, and leaves its log behind (see [`logs`]).

pub mod account;
pub mod admin;
pub mod allocator;
pub mod binaries;
pub mod certificates;
pub mod commands;
pub mod control_plane;
pub mod eventually;
pub mod images;
pub mod kind;
pub mod kubeconfig;
pub mod logs;
pub mod namespace;
pub mod policy;
pub mod ports;
pub mod process;
pub mod readme;
pub mod relay;
pub mod rpc;
pub mod scratch;
pub mod secret;
pub mod service;
pub mod settings;
pub mod site;
pub mod small_disk;
pub mod status_writes;
pub mod unfinished;
pub mod watcher;

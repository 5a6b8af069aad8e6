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

pub mod commands;
pub mod eventually;
pub mod readme;
pub mod scratch;

/// Places where several of the others are together.
mod clusters {
    pub mod images;
    pub mod kind;
    pub mod site;
}

/// What is between processes: certificates, ports, wires, calls.
mod net {
    pub mod certificates;
    pub mod ports;
    pub mod relay;
    pub mod rpc;
    pub mod secret;
    pub mod unfinished;
}

/// What is in an API server.
mod objects {
    pub mod account;
    pub mod namespace;
    pub mod policy;
    pub mod service;
    pub mod status_writes;
}

/// Processes, and what they need to run.
mod servers {
    pub mod admin;
    pub mod allocator;
    pub mod binaries;
    pub mod control_plane;
    pub mod kubeconfig;
    pub mod logs;
    pub mod process;
    pub mod settings;
    pub mod small_disk;
    pub mod watcher;
}

pub use clusters::{images, kind, site};
pub use net::{certificates, ports, relay, rpc, secret, unfinished};
pub use objects::{account, namespace, policy, service, status_writes};
pub use servers::{
    admin, allocator, binaries, control_plane, kubeconfig, logs, process, settings, small_disk,
    watcher,
};

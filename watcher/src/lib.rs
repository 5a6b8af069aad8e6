//! lb-watcher gives the Services of one cluster the addresses that lb-allocator
//! grants. It decides nothing and keeps nothing that a restart could lose.
//!
//! ```text
//!   kube-apiserver                                    lb-allocator
//!     │ watch                                           │ Watch    ▲ Sync, Acquire,
//!     ▼                                                 ▼          │ Release
//!  informer: Services, namespaces ◄─ all of them ─── session ──► allocator
//!     │ keys that changed                               │ keys     ▲
//!     ▼                                                 ▼          │
//!  queue: each key once, with its back-off ◄────────────┘          │
//!     │ one Service at a time                                      │
//!     ▼                                                            │
//!  reconcile ── request: what the Service asks for, in full ───────┘
//!     │ ▲────── status::grant, denial: the answer
//!     │ status: what the object should say
//!     ▼
//!  reconcile::writer: one PATCH or none ──► reconcile::notifier: log line and Event
//! ```
//!
//! `session` opens the Watch stream. The allocator says on it whether this replica acts, and
//! an acting replica sends a Sync of the whole cluster (`session::cluster_sync`) before its
//! first Acquire.
//! `request` and `status` are pure. `ledger` is what this process remembers between two
//! looks at a Service; `kube` is how it speaks with the API server. Start reading at
//! `reconcile`; `tasks` puts the parts together, `run` makes a process of them.

mod admin;
pub mod allocator;
pub mod args;
pub mod decision_log;
pub mod denial;
mod excerpt;
mod informer;
pub mod kube;
mod ledger;
mod logging;
pub mod metrics;
mod observed;
mod queue;
mod reconcile;
pub mod request;
pub mod run;
mod session;
mod status;
pub mod tasks;

//! lb-watcher gives the Services of one cluster the addresses that lb-allocator
//! grants. It decides nothing and keeps nothing that a restart could lose.
//!
//! ```text
//!   API server                                             lb-allocator
//!       │ watch                                  Watch stream │   ▲ Acquire
//!       ▼                                                     ▼   │ Release
//! service_watch ──► service_store                   session       │
//!       │ keys           │                            │ keys      │
//!       ▼                ▼                            ▼           │
//!     queue ─────────► sync, one Service at a time ◄─ queue       │
//!                        │  wish: what it asks for ─► allocator ──┤ Sync
//!                        │  status: what it should say            │
//!                        └─► status_writer: one write, or none    │
//!                              └─► news: the Event and the        │
//!                                  log line, once                 │
//! cluster_sync: all that the cluster has, after each list ────────┘
//! ```
//!
//! Nobody asks before [`cluster_sync`] has told the allocator what the cluster has.
//!
//! Before the first list of Services, [`namespace_watch`] reads the labels of all
//! namespaces, which are part of each wish; when they change, the namespace's
//! Services are queued.
//!
//! Of several replicas only one acts: the allocator says on the [`session`] which, and
//! [`session::role`] sees to it that queue and workers rest elsewhere.
//!
//! Start reading at [`sync`]; [`wish`] (with [`annotations`] and [`sharing`]),
//! [`grant`], [`view`] and [`status`] are its pure parts. [`queue`] says who is looked
//! at when, [`ledger`] what this process remembers meanwhile, [`reason`] what each
//! refusal leads to, [`scope`] which Services are ours. [`tasks`] puts the tasks
//! together, [`run`] makes a process of them.

pub mod admin;
pub mod allocator;
pub mod annotations;
pub mod args;
pub mod bearer;
pub mod claim;
pub mod cluster_sync;
pub mod decision_log;
pub mod events;
pub mod excerpt;
pub mod grant;
pub mod history;
pub mod key;
pub mod kube;
pub mod kube_client;
pub mod ledger;
pub mod logging;
pub mod metrics;
pub mod names;
pub mod namespace_store;
pub mod namespace_watch;
pub mod news;
pub mod observed;
pub mod proxy;
pub mod queue;
pub mod reason;
pub mod run;
pub mod scope;
pub mod service_api;
pub mod service_store;
pub mod service_watch;
pub mod session;
pub mod sharing;
pub mod status;
pub mod status_writer;
pub mod sync;
pub mod tasks;
pub mod view;
pub mod wish;

//! lb-watcher gives the Services of one cluster the addresses that lb-allocator
//! grants. It decides nothing and keeps nothing that a restart could lose.
//!
//! ```text
//!   API server                                             lb-allocator
//!       │ watch                                  Watch stream │   ▲ Acquire
//!       ▼                                                     ▼   │ Release
//! service_watch ──► service_store                announcements    │
//!       │ keys           │                            │ keys      │
//!       ▼                ▼                            ▼           │
//!     queue ─────────► sync, one Service at a time ◄─ queue       │
//!       ▲                │  wish: what it asks for ─► allocator ──┘
//!       │ keys           │  status: what it should say
//!    orphans             └─► status_writer: one write, or none
//!  after each list             └─► news: the Event and the log line, once
//! ```
//!
//! Before the first list of Services, [`namespace_watch`] reads the labels of all
//! namespaces, which are part of each wish; when they change, the namespace's
//! Services are queued.
//!
//! Start reading at [`sync`]; [`wish`] (with [`annotations`] and [`sharing`]),
//! [`grant`], [`view`] and [`status`] are its pure parts. [`queue`] says who is looked at when, [`ledger`] what this process
//! remembers meanwhile, [`reason`] what each refusal leads to, [`scope`] which
//! Services are ours. [`tasks`] puts the tasks together, [`run`] makes a process of them.

pub mod admin;
pub mod allocator;
pub mod annotations;
pub mod announcements;
pub mod args;
pub mod decision_log;
pub mod events;
pub mod grant;
pub mod key;
pub mod ledger;
pub mod logging;
pub mod metrics;
pub mod namespace_store;
pub mod namespace_watch;
pub mod news;
pub mod orphans;
pub mod queue;
pub mod rank;
pub mod reason;
pub mod run;
pub mod scope;
pub mod service_api;
pub mod service_store;
pub mod service_watch;
pub mod sharing;
pub mod status;
pub mod status_writer;
pub mod sync;
pub mod tasks;
pub mod view;
pub mod wish;

//! Traces of lb-allocator and lb-watcher, sent by OTLP over gRPC, and how they go
//! from one to the other: as W3C `traceparent` in the metadata of an RPC.
//!
//! ```text
//!   lb-watcher                          lb-allocator
//!   sync of one Service
//!    └─ Acquire, client ──traceparent──► Acquire, server ◄─link─► commit
//!              │                                │                    │
//!              └──── bounded queue ─────────────┴─► collector ◄──────┘
//! ```
//!
//! What is traced are spans of the two programs at level DEBUG and above. Without
//! [`export`], nobody takes those of DEBUG, and all that is left of one is to compare
//! a number.
//!
//! The OpenTelemetry SDK reads variables of the environment by itself: `OTEL_*`.

pub mod context;
pub mod export;
mod queue;

//! What the cluster has, kept up to date by watches: its Services, and the labels of its
//! namespaces. What changed is queued.

pub mod namespace_store;
pub mod namespace_watch;
pub mod service_store;
pub mod service_watch;

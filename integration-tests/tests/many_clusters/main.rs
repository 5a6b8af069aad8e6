//! Several clusters and one allocator, all of them real: an API server and an etcd
//! for each cluster, watchers and the allocator as processes, certificates between
//! them. The same address never goes to two.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where it cannot go on, helpers of tests included"
)]

mod authority;
mod fleet;
mod handover;
mod identity;
mod lost_database;
mod new_cluster;
mod old_backup;
mod one_pool;
mod record;
mod shown_by_others;

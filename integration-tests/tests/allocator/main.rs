//! The real lb-allocator, by itself: what it answers, what it keeps, what it
//! prints, and what it does when something is wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where it cannot go on, helpers of tests included"
)]

mod acquire_and_release;
mod alive_or_gone;
mod backup;
mod broken_requests;
mod certs;
mod command_line;
mod database;
mod deadlines;
mod full_disk;
mod identity;
mod ip_list;
mod overload;
mod planning;
mod pools_file;
mod reading;
mod reflection;
mod refusals;
mod routes;
mod shutdown;
mod slow_sync;
mod sync;
mod tls;
mod tls_files;
mod watch;
mod write_lock;

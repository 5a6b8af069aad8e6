//! What the API server sends and takes.

pub mod service;
pub mod watch;

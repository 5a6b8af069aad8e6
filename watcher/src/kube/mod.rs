//! What the API server sends and takes.

pub mod annotations;
pub mod api;
pub mod bearer;
pub mod connect;
pub mod history;
pub mod key;
pub mod proxy;
pub mod service;
pub mod watch;

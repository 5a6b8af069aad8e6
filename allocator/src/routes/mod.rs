//! The routes table of the original controller: which address goes where. The
//! same table is a file, rewritten after every change, and the output of
//! `lb-allocator routes`.

mod client;
mod file;
mod table;

pub use self::{client::fetch, file::RoutesFile};

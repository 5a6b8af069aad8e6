//! What lb-allocator and lb-watcher do alike as processes.
//!
//! - [`tasks`]: a process whose any part has ended ends. It never looks healthy and
//!   does nothing.
//! - [`settled`]: a file that is read again and again counts once it has been read
//!   twice alike.
//! - [`print()`]: text for somebody who may have stopped to read.
//! - [`in_one_line`]: an error and its causes.

mod error;
pub mod print;
pub mod settled;
pub mod tasks;

pub use error::in_one_line;
pub use print::{print, print_error};

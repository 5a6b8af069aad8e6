//! What lb-allocator and lb-watcher do alike as processes.
//!
//! - [`tasks`]: a process whose any part has ended ends. It never looks healthy and
//!   does nothing.
//! - [`settled`]: a file that is read again and again counts once it has been read
//!   twice alike.
//! - [`print()`]: text for somebody who may have stopped to read.

pub mod print;
pub mod settled;
pub mod tasks;

pub use print::{print, print_error};

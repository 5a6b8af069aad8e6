//! Output of a command. `print!` panics when the reader of a pipe has gone, as in
//! `lb-allocator check-config pools.yaml | head -1`.

use std::io::{self, ErrorKind, Write};

/// Writes to standard output.
///
/// # Errors
/// If it cannot be written. A reader that has gone has read enough: no error.
pub fn print(text: &str) -> io::Result<()> {
    write_to(&mut io::stdout().lock(), text)
}

/// As [`print`], to standard error.
///
/// # Errors
/// As [`print`].
pub fn print_error(text: &str) -> io::Result<()> {
    write_to(&mut io::stderr().lock(), text)
}

fn write_to(out: &mut impl Write, text: &str) -> io::Result<()> {
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

//! `cat FILE…`, which this program is where it is called so: `kubectl exec … -- cat
//! /routes` works in an image that has no shell and no system.

use std::{
    env,
    ffi::OsStr,
    fs::File,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

/// Whether the first argument of this process says that it is cat.
#[must_use]
pub fn is_called() -> bool {
    let name = env::args_os().next();
    name.is_some_and(|name| Path::new(&name).file_name() == Some(OsStr::new("cat")))
}

/// Shows the files of the command line, or standard input.
#[must_use]
pub fn run() -> ExitCode {
    let mut files: Vec<_> = env::args_os().skip(1).collect();
    if files.is_empty() {
        files.push("-".into());
    }
    let mut code = ExitCode::SUCCESS;
    for file in &files {
        if let Err(error) = show(file, &mut io::stdout().lock()) {
            eprintln!("cat: {}: {error}", Path::new(file).display());
            code = ExitCode::FAILURE;
        }
    }
    code
}

fn show(file: &OsStr, out: &mut impl Write) -> io::Result<()> {
    if file == "-" {
        io::copy(&mut io::stdin().lock(), out)?;
    } else {
        io::copy(&mut File::open(file)?, out)?;
    }
    out.flush()
}

//! One process for one database: two writers with each its own state in memory
//! would give addresses twice.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Why the database is not ours.
#[derive(Debug, Error)]
pub enum LockError {
    #[error(
        "the database {} is in use by another lb-allocator; stop that one, or give this one \
         a database of its own",
        path.display()
    )]
    InUse { path: PathBuf },
    #[error("cannot lock {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Held for as long as it lives; the kernel lets go when the process ends,
/// however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Locks `PATH.lock`, not the database: SQLite has locks of its own on that
    /// file, and loses them when any other descriptor of it is closed.
    pub fn take(database: &Path) -> Result<Self, LockError> {
        // Two names of one file must meet in one lock.
        let database = database
            .canonicalize()
            .unwrap_or_else(|_| database.to_owned());
        let mut name = OsString::from(&database);
        name.push(".lock");
        let path = PathBuf::from(name);
        let io = |source| LockError::Io {
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::InUse { path: database }),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }
}

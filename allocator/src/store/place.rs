//! Whether the database is still where it was opened. A file that is deleted or replaced
//! stays writable for whoever has it open, and nothing that is written to it is
//! there after a restart: SQLite does not notice, so we look.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::StoreError;

/// Which files a path and its write-ahead log were when the database was opened.
#[derive(Debug)]
pub(super) struct Place {
    files: Vec<(PathBuf, Identity)>,
}

/// What tells a file from another one of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Place {
    /// To be called when the database is open and was read: its log exists then.
    pub fn of(database: &Path) -> io::Result<Self> {
        let log = log_of(database);
        let mut files = vec![(database.to_owned(), identity(database)?)];
        match identity(&log) {
            Ok(found) => files.push((log, found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Self { files })
    }

    /// # Errors
    /// Names the file that is not there, or is another one.
    pub fn check(&self) -> Result<(), StoreError> {
        for (path, opened) in &self.files {
            let path = path.clone();
            match identity(&path) {
                Ok(found) if found == *opened => {}
                Ok(_) => return Err(StoreError::Replaced { path }),
                Err(source) => return Err(StoreError::Gone { path, source }),
            }
        }
        Ok(())
    }
}

/// The write-ahead log of a database.
pub(super) fn log_of(database: &Path) -> PathBuf {
    let mut name = OsString::from(database);
    name.push("-wal");
    PathBuf::from(name)
}

fn identity(path: &Path) -> io::Result<Identity> {
    let found = fs::metadata(path)?;
    Ok(Identity {
        device: found.dev(),
        inode: found.ino(),
    })
}

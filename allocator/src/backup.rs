//! The command `backup`: a copy of the database of an allocator that may be at work.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;
use thiserror::Error;

use crate::store::{self, Copied, CopyError};

/// Standard output, where a file is asked for.
const STANDARD_OUTPUT: &str = "-";

/// Why there is no backup. Nothing of the name that was asked for exists then, or
/// it is what it was.
#[derive(Debug, Error)]
pub enum BackupError {
    #[error("{} exists, and is not overwritten", path.display())]
    Exists { path: PathBuf },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Copy(#[from] CopyError),
}

/// Whether the backup goes to standard output, and words about it elsewhere.
pub fn is_standard_output(file: &Path) -> bool {
    file == Path::new(STANDARD_OUTPUT)
}

/// Copies the database at `url` to `file`, or to standard output if that is `-`,
/// and returns what to tell about it. The copy has its name once it is whole,
/// checked and durable.
///
/// # Errors
/// If the file exists, the database cannot be read, or the copy cannot be written.
pub async fn run(url: &str, file: &Path) -> Result<String, BackupError> {
    if is_standard_output(file) {
        return to_standard_output(url).await;
    }
    let write = |source| BackupError::Write {
        path: file.to_owned(),
        source,
    };
    let exists = || BackupError::Exists {
        path: file.to_owned(),
    };
    if file.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let folder = folder_of(file);
    let temporary =
        NamedTempFile::with_prefix_in(".lb-allocator-backup-", folder).map_err(write)?;
    let copied = store::copy(url, temporary.path()).await?;
    let bytes = durable(temporary.as_file()).map_err(write)?;
    temporary.persist_noclobber(file).map_err(|error| {
        if error.error.kind() == io::ErrorKind::AlreadyExists {
            exists()
        } else {
            write(error.error)
        }
    })?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(write)?;
    Ok(told(&file.display().to_string(), copied, bytes))
}

/// Where a container keeps nothing, and nobody could remove a file from.
async fn to_standard_output(url: &str) -> Result<String, BackupError> {
    let database = store::file_of(url).map_err(CopyError::from)?;
    let folder = folder_of(&database);
    let write = |path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::Write { path, source }
    };
    let temporary =
        NamedTempFile::with_prefix_in(".lb-allocator-backup-", folder).map_err(write(folder))?;
    let copied = store::copy(url, temporary.path()).await?;
    let bytes = File::open(temporary.path())
        .and_then(|mut copy| io::copy(&mut copy, &mut io::stdout().lock()))
        .map_err(write(Path::new("standard output")))?;
    Ok(told("standard output", copied, bytes))
}

/// The folder of a file, also of one that is named without it.
fn folder_of(file: &Path) -> &Path {
    file.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."))
}

/// How long the file is, once it is on the disk.
fn durable(file: &File) -> io::Result<u64> {
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

fn told(to: &str, copied: Copied, bytes: u64) -> String {
    let Copied {
        revision,
        allocations,
    } = copied;
    format!("{to}: revision {revision}, {allocations} allocations, {bytes} bytes\n")
}

//! A copy of the database, made beside the process that has it.

use std::{
    io,
    path::{Path, PathBuf},
};

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use thiserror::Error;

use super::{BUSY_TIMEOUT, StoreError, file_of};

/// Why there is no copy.
#[derive(Debug, Error)]
pub enum CopyError {
    #[error(transparent)]
    Url(#[from] StoreError),
    #[error("cannot read the database {}", path.display())]
    Read { path: PathBuf, source: sqlx::Error },
    #[error("cannot copy the database {} to {}", path.display(), to.display())]
    Copy {
        path: PathBuf,
        to: PathBuf,
        source: sqlx::Error,
    },
    #[error("the copy of the database {} is damaged: {found}", path.display())]
    Unsound { path: PathBuf, found: String },
}

/// What is in a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The last change that it has.
    pub revision: i64,
    /// How many addresses are held in it, counted once for each Service.
    pub allocations: i64,
}

/// Copies the database at `url` as it is after one of its changes, whole, into
/// the file `to`, which is empty, and checks the copy. It takes no lock that the process
/// that has the database could wait for: it reads, and in WAL mode readers and
/// the writer do not meet. What the WAL has is in the copy, which has no WAL.
///
/// # Errors
/// If there is no database of ours, or no room; what is in `to` is of no use then.
pub async fn copy(url: &str, to: &Path) -> Result<Copied, CopyError> {
    let path = file_of(url)?;
    let read = |source| CopyError::Read {
        path: path.clone(),
        source,
    };
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .read_only(true)
        .busy_timeout(BUSY_TIMEOUT);
    let mut database = SqliteConnection::connect_with(&options)
        .await
        .map_err(read)?;
    // Before anything is written: is it one of ours?
    state(&mut database).await.map_err(read)?;
    let name = to.to_str().ok_or_else(|| CopyError::Copy {
        path: path.clone(),
        to: to.to_owned(),
        source: sqlx::Error::Io(io::Error::other("its name is not UTF-8")),
    })?;
    let copied = sqlx::query("VACUUM INTO ?1")
        .bind(name)
        .execute(&mut database)
        .await;
    copied.map_err(|source| CopyError::Copy {
        path: path.clone(),
        to: to.to_owned(),
        source,
    })?;
    // It only read: how it closes says nothing about the copy.
    let _ = database.close().await;
    check(&path, to).await
}

/// What SQLite finds wrong in the copy, and what the copy has.
async fn check(path: &Path, copy: &Path) -> Result<Copied, CopyError> {
    let read = |source| CopyError::Read {
        path: copy.to_owned(),
        source,
    };
    let options = SqliteConnectOptions::new().filename(copy).read_only(true);
    let mut database = SqliteConnection::connect_with(&options)
        .await
        .map_err(read)?;
    let found: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check")
        .fetch_all(&mut database)
        .await
        .map_err(read)?;
    if found != ["ok"] {
        return Err(CopyError::Unsound {
            path: path.to_owned(),
            found: found.join("; "),
        });
    }
    let copied = state(&mut database).await.map_err(read)?;
    database.close().await.map_err(read)?;
    Ok(copied)
}

async fn state(database: &mut SqliteConnection) -> Result<Copied, sqlx::Error> {
    let (revision, allocations) = sqlx::query_as(
        "SELECT (SELECT coalesce(max(revision), 0) FROM history),
                (SELECT count(*) FROM allocations)",
    )
    .fetch_one(database)
    .await?;
    Ok(Copied {
        revision,
        allocations,
    })
}

//! The only SQL: one SQLite file, in WAL mode with synchronous=FULL, so that what
//! was committed survives a crash of the process and of the machine.
//!
//! A batch of changes is ONE statement: rows inserted into `history`, whose triggers (see
//! `migrations/`) keep the other tables. It is its own transaction, takes the write lock at
//! its start as `BEGIN IMMEDIATE` would, and costs one hand-over to sqlx's thread however
//! many rows it has.

mod allocations;
mod backup;
mod denials;
mod details;
mod load;
mod lock;
mod place;
mod prune;
mod row;
mod upgrade;
mod url;

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, Connection, Row, SqliteConnection, SqlitePool,
    migrate::MigrateError,
    sqlite::{
        SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
    },
};
use thiserror::Error;

pub use self::{
    backup::{Copied, CopyError, copy},
    denials::{DenialPlace, DenialRow, DenialWriter},
    lock::LockError,
    prune::Pruned,
    url::file_of,
};
use self::{load::Corrupt, lock::Lock, place::Place, row::HistoryInsert};
use crate::{
    engine::{Change, Engine, Inconsistent, Pools, Retention, Revision, Timestamp},
    mark::DatabaseIdentity,
};

/// Changes in one statement at most: 14 variables each, of the 32,766 that SQLite
/// allows.
const MAX_CHANGES: usize = 1024;
const COLUMNS: usize = 14;
/// Bytes of a page of a new database. A change touches a page of each index, wherever
/// its key is, and the WAL takes whole pages: small ones make a commit smaller.
const PAGE_SIZE: u32 = 2048;
/// What a probe writes: more than most batches, which would be refused again one by
/// one where there is room for a page and not for them.
const PROBE_BYTES: i64 = 65_536;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What went wrong with the database. Every message names the file.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error(
        "{url:?} is not a database URL: {why}; write sqlite:///absolute/path or \
         sqlite://relative/path"
    )]
    Url { url: String, why: &'static str },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("cannot open the database {}", path.display())]
    Open { path: PathBuf, source: sqlx::Error },
    #[error(
        "the database {} was written by a newer lb-allocator (it has migration {version}, \
         this one knows none above {known}); start that version, or restore a backup",
        path.display()
    )]
    Newer {
        path: PathBuf,
        version: i64,
        known: i64,
    },
    #[error(
        "cannot copy the database {} to {} before its tables are migrated, so they are left as \
         they are; make room for the copy, and start again",
        path.display(),
        to.display()
    )]
    CopyBeforeMigration {
        path: PathBuf,
        to: PathBuf,
        source: sqlx::Error,
    },
    #[error("cannot migrate the database {} to this version", path.display())]
    Migrate {
        path: PathBuf,
        source: Box<MigrateError>,
    },
    #[error("cannot read the database {}", path.display())]
    Read { path: PathBuf, source: sqlx::Error },
    #[error(
        "the database {} contains invalid data; restore a backup",
        path.display()
    )]
    Corrupt { path: PathBuf, source: Corrupt },
    #[error("the database {} contradicts itself; restore a backup", path.display())]
    Inconsistent { path: PathBuf, source: Inconsistent },
    #[error("cannot write to the database {}", path.display())]
    Write { path: PathBuf, source: sqlx::Error },
    #[error("a constraint of the database {} forbids a change", path.display())]
    Forbidden { path: PathBuf, source: sqlx::Error },
    #[error(
        "the file {} of the open database cannot be found; move it back, or restore a backup and restart",
        path.display()
    )]
    Gone { path: PathBuf, source: io::Error },
    #[error(
        "the file {} of the open database was replaced by another one; move the old one back, \
         or restart to use the new one",
        path.display()
    )]
    Replaced { path: PathBuf },
}

impl StoreError {
    /// Whether the database works, and what it was to make durable is at fault.
    pub const fn is_of_the_change(&self) -> bool {
        matches!(self, Self::Forbidden { .. })
    }
}

/// The database, open and ours alone.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    place: Place,
    writer: SqliteConnection,
    identity: DatabaseIdentity,
    _lock: Lock,
}

/// Reads that never wait for the writer.
#[derive(Clone, Debug)]
pub struct HistoryReader {
    path: PathBuf,
    pool: SqlitePool,
}

/// What history to read; every filter that is set must match.
#[derive(Clone, Debug, Default)]
pub struct HistoryFilter {
    pub address: Option<String>,
    pub cluster: Option<String>,
    pub namespace: Option<String>,
    pub name: Option<String>,
}

/// What a row of history tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryKind {
    Allocated,
    Released,
    Updated,
    Reserved,
    Unreserved,
    Conflicted,
    ConflictEnded,
    Cluster,
    Opened,
}

/// One row of history as text, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    pub revision: i64,
    pub at_millis: i64,
    pub kind: HistoryKind,
    pub address: String,
    pub pool: String,
    pub cluster: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl Store {
    /// Opens `sqlite://PATH`, makes it if it is missing, and brings its tables to
    /// this version.
    ///
    /// # Errors
    /// If another process has it, or it cannot be opened, understood or migrated.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let path = file_of(url)?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .page_size(PAGE_SIZE)
            .busy_timeout(BUSY_TIMEOUT);
        let lock = Lock::take(&path)?;
        let open = |source| StoreError::Open {
            path: path.clone(),
            source,
        };
        let mut writer = SqliteConnection::connect_with(&options)
            .await
            .map_err(open)?;
        upgrade::upgrade(&mut writer, &path).await?;
        let identity = sqlx::query_as("SELECT name, secret FROM database")
            .fetch_one(&mut writer)
            .await;
        let (id, secret) = identity.map_err(|source| StoreError::Read {
            path: path.clone(),
            source,
        })?;
        let place = Place::of(&path).map_err(|error| open(sqlx::Error::Io(error)))?;
        Ok(Self {
            path,
            place,
            writer,
            identity: DatabaseIdentity { id, secret },
            _lock: lock,
        })
    }

    /// What this database and its copies are known by.
    pub const fn identity(&self) -> &DatabaseIdentity {
        &self.identity
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A reader of the same file.
    pub fn history_reader(&self) -> HistoryReader {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .read_only(true)
            .busy_timeout(BUSY_TIMEOUT);
        HistoryReader {
            path: self.path.clone(),
            pool: SqlitePoolOptions::new()
                .max_connections(2)
                .acquire_timeout(BUSY_TIMEOUT)
                .connect_lazy_with(options),
        }
    }

    /// The engine as it was after the last commit, under these pools.
    ///
    /// # Errors
    /// If the file cannot be read, or contains invalid data.
    pub async fn load(&mut self, pools: Arc<Pools>) -> Result<Engine, StoreError> {
        load::engine(&mut self.writer, &self.path, pools).await
    }

    /// Makes changes durable, all or none.
    ///
    /// # Errors
    /// The changes may be durable or not; [`Store::load`] tells.
    pub async fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.check()?;
        let result = if changes.len() <= MAX_CHANGES {
            insert(&mut self.writer, changes).await
        } else {
            self.commit_in_parts(changes).await
        };
        result.map_err(|source| self.write_error(source))
    }

    /// A transaction of several statements, for what a whole cluster told.
    async fn commit_in_parts(&mut self, changes: &[Change]) -> Result<(), sqlx::Error> {
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        for part in changes.chunks(MAX_CHANGES) {
            insert(&mut transaction, part).await?;
        }
        transaction.commit().await
    }

    /// Records that pools are in force from a revision on, as JSON, unless the
    /// last record says so already.
    ///
    /// # Errors
    /// If it cannot be written; the allocator works all the same.
    pub async fn record_pools(
        &mut self,
        revision: Revision,
        at: Timestamp,
        pools: &str,
    ) -> Result<(), StoreError> {
        let result = sqlx::query(
            "INSERT INTO configurations (revision, at, pools)
             SELECT ?1, ?2, ?3
             WHERE ?3 IS NOT (SELECT pools FROM configurations ORDER BY id DESC LIMIT 1)",
        )
        .bind(revision.0)
        .bind(at.0)
        .bind(pools)
        .execute(&mut self.writer)
        .await;
        result.map(drop).map_err(|source| self.write_error(source))
    }

    /// Whether the database can be written to, found out by a change that is
    /// not kept.
    ///
    /// # Errors
    /// Why not.
    pub async fn probe(&mut self) -> Result<(), StoreError> {
        self.check()?;
        // A value that differs each time, so that pages are really written.
        let result = sqlx::query(
            "INSERT INTO probe (id, writes, room) VALUES (1, 1, zeroblob(?1))
             ON CONFLICT (id) DO UPDATE SET writes = writes + 1, room = zeroblob(?1)",
        )
        .bind(PROBE_BYTES)
        .execute(&mut self.writer)
        .await;
        result.map(drop).map_err(|source| self.write_error(source))
    }

    /// Whether what is written is still written where a restart reads it.
    ///
    /// # Errors
    /// Names the file that was deleted or replaced.
    pub fn check(&self) -> Result<(), StoreError> {
        self.place.check()
    }

    /// Notes what time it is, so that the next start knows.
    ///
    /// # Errors
    /// If it cannot be written; nothing is lost then.
    pub async fn note_time(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let result =
            sqlx::query("INSERT INTO clock VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET at = ?1")
                .bind(now.0)
                .execute(&mut self.writer)
                .await;
        result.map(drop).map_err(|source| self.write_error(source))
    }

    /// The latest time that is noted anywhere; `None` in a new database.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn last_time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        let last = sqlx::query_scalar(
            "SELECT max(at) FROM (
                 SELECT at FROM clock
                 UNION ALL SELECT * FROM (SELECT at FROM history ORDER BY revision DESC LIMIT 1)
             )",
        )
        .fetch_one(&mut self.writer)
        .await;
        let last: Option<i64> = last.map_err(|source| StoreError::Read {
            path: self.path.clone(),
            source,
        })?;
        Ok(last.map(Timestamp))
    }

    /// Removes some of the history that is too old, or too much, by one small step.
    ///
    /// # Errors
    /// If it cannot be written; the step removed nothing then.
    pub async fn prune(
        &mut self,
        after: Revision,
        now: Timestamp,
        retention: &Retention,
    ) -> Result<Pruned, StoreError> {
        let result = prune::step(&mut self.writer, after, now, retention).await;
        result.map_err(|source| self.write_error(source))
    }

    /// Moves what is in the WAL to the database file and closes it.
    ///
    /// # Errors
    /// Nothing is lost then: the WAL stays, and the next start reads it.
    pub async fn close(self) -> Result<(), StoreError> {
        let path = self.path;
        let result = self.writer.close().await;
        result.map_err(|source| StoreError::Write { path, source })
    }

    fn write_error(&self, source: sqlx::Error) -> StoreError {
        let path = self.path.clone();
        if is_of_the_change(&source) {
            StoreError::Forbidden { path, source }
        } else {
            StoreError::Write { path, source }
        }
    }
}

impl HistoryReader {
    /// The newest revision before this one of which history still has a row.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn before(&self, revision: Revision) -> Result<Option<Revision>, StoreError> {
        let found = sqlx::query_scalar("SELECT max(revision) FROM history WHERE revision < ?1")
            .bind(revision.0)
            .fetch_one(&self.pool)
            .await;
        let found: Option<i64> = found.map_err(|source| StoreError::Read {
            path: self.path.clone(),
            source,
        })?;
        Ok(found.map(Revision))
    }

    /// Rows of revisions from `newest` down to `oldest`, the newest first, at
    /// most `limit`. Scans every revision between the two: the caller bounds it.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn rows(
        &self,
        filter: &HistoryFilter,
        newest: Revision,
        oldest: Revision,
        limit: usize,
    ) -> Result<Vec<HistoryRow>, StoreError> {
        let read = |source| StoreError::Read {
            path: self.path.clone(),
            source,
        };
        let rows = sqlx::query(
            "SELECT revision, at, kind, address, pool, cluster, namespace, name,
                    coalesce(uid, '') AS uid
             FROM history
             WHERE revision BETWEEN ?1 AND ?2
               AND address = coalesce(?3, address) AND cluster = coalesce(?4, cluster)
               AND namespace = coalesce(?5, namespace) AND name = coalesce(?6, name)
             ORDER BY revision DESC LIMIT ?7",
        )
        .bind(oldest.0)
        .bind(newest.0)
        .bind(filter.address.clone())
        .bind(filter.cluster.clone())
        .bind(filter.namespace.clone())
        .bind(filter.name.clone())
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await
        .map_err(read)?;
        rows.iter()
            .map(|row| history_row(row).map_err(read))
            .collect()
    }
}

/// Whether a constraint or a trigger refused it, or it cannot be written as a row.
fn is_of_the_change(error: &sqlx::Error) -> bool {
    const CONSTRAINT: i32 = 19;
    const TOO_BIG: i32 = 18;
    let code = error.as_database_error().and_then(|error| error.code());
    let code = code.and_then(|code| code.parse::<i32>().ok());
    matches!(error, sqlx::Error::Encode(_))
        // The lowest byte of an extended code is its kind.
        || code.is_some_and(|code| [CONSTRAINT, TOO_BIG].contains(&(code & 0xff)))
}

/// One statement, which is a transaction by itself unless it is in one.
async fn insert(writer: &mut SqliteConnection, changes: &[Change]) -> Result<(), sqlx::Error> {
    // Rows of NULL fill up to a power of two, so that there are few different
    // statements and sqlx finds each of them prepared.
    let rows = changes.len().next_power_of_two();
    let mut query = sqlx::query(AssertSqlSafe(insert_history(rows)));
    for change in changes {
        let row = HistoryInsert::of(change).map_err(|error| sqlx::Error::Encode(error.into()))?;
        query = query
            .bind(change.revision.0)
            .bind(change.at.0)
            .bind(row.kind)
            .bind(row.address)
            .bind(row.family)
            .bind(row.pool)
            .bind(row.cluster)
            .bind(row.namespace)
            .bind(row.name)
            .bind(row.uid)
            .bind(row.replaced_uid)
            .bind(row.cluster_ip)
            .bind(row.sharing_key)
            .bind(row.details);
    }
    for _ in 0..(rows - changes.len()) * COLUMNS {
        query = query.bind(None::<i64>);
    }
    query.execute(writer).await.map(drop)
}

fn history_row(row: &SqliteRow) -> Result<HistoryRow, sqlx::Error> {
    let cluster: String = row.try_get("cluster")?;
    Ok(HistoryRow {
        revision: row.try_get("revision")?,
        at_millis: row.try_get("at")?,
        kind: match row.try_get("kind")? {
            "ALLOCATED" => HistoryKind::Allocated,
            "RELEASED" => HistoryKind::Released,
            "UPDATED" => HistoryKind::Updated,
            "RESERVED" => HistoryKind::Reserved,
            "UNRESERVED" => HistoryKind::Unreserved,
            "CONFLICTED" => HistoryKind::Conflicted,
            "CONFLICT_ENDED" => HistoryKind::ConflictEnded,
            "CLUSTER" if cluster.is_empty() => HistoryKind::Opened,
            "CLUSTER" => HistoryKind::Cluster,
            other => {
                let text = format!("unknown kind {other:?}");
                return Err(sqlx::Error::Decode(text.into()));
            }
        },
        address: row.try_get("address")?,
        pool: row.try_get("pool")?,
        cluster,
        namespace: row.try_get("namespace")?,
        name: row.try_get("name")?,
        uid: row.try_get("uid")?,
    })
}

fn insert_history(rows: usize) -> String {
    let mut sql = String::from("INSERT INTO history SELECT * FROM (VALUES ");
    for row in 0..rows {
        let separator = if row == 0 { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(sql, "{separator}(?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
    }
    sql + ") WHERE column1 IS NOT NULL"
}

#[cfg(test)]
mod tests;

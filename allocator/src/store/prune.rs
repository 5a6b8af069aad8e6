//! Removing history that is older than anybody wants, a few rows at a time, so that
//! the writer is never held up. The rows' pages are used again; the file does not
//! become smaller.

use sqlx::{Connection, Row, SqliteConnection};

use crate::engine::{Retention, Revision, Timestamp};

/// Rows that one step looks at: some milliseconds of work.
const STEP: i64 = 512;

/// How far a walk over history has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Where the next step goes on; `None`: all that was to go is gone.
    pub next: Option<Revision>,
    /// How many rows this step removed.
    pub rows: u64,
}

/// One step, which begins behind `after`. The last change of everything that is held
/// stays, and so does the newest row.
pub(super) async fn step(
    connection: &mut SqliteConnection,
    after: Revision,
    now: Timestamp,
    retention: &Retention,
) -> Result<Pruned, sqlx::Error> {
    let oldest = now.before(retention.keep_for);
    let rows = i64::try_from(retention.keep_rows).unwrap_or(i64::MAX);
    // Time never goes back in history, so what is to go comes first.
    let found = sqlx::query(
        "SELECT max(revision) FROM (
             SELECT revision, at FROM history
             WHERE revision > ?1 AND revision < (SELECT max(revision) FROM history)
             ORDER BY revision LIMIT ?2
         ) WHERE at < ?3 OR revision <= (SELECT max(revision) FROM history) - ?4",
    )
    .bind(after.0)
    .bind(STEP)
    .bind(oldest.0)
    .bind(rows)
    .fetch_one(&mut *connection)
    .await?;
    let Some(end) = found.try_get::<Option<i64>, _>(0)? else {
        return Ok(Pruned::default());
    };
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("UPDATE history_floor SET revision = max(revision, ?1)")
        .bind(end)
        .execute(&mut *transaction)
        .await?;
    let removed = sqlx::query(
        "DELETE FROM history WHERE revision > ?1 AND revision <= ?2 AND NOT EXISTS (
             SELECT 1 FROM allocations AS held
             WHERE held.cluster = history.cluster AND held.namespace = history.namespace
               AND held.name = history.name AND held.family = history.family
               AND held.revision = history.revision
         )",
    )
    .bind(after.0)
    .bind(end)
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "DELETE FROM configurations
         WHERE at < ?1 AND id < (SELECT max(id) FROM configurations)",
    )
    .bind(oldest.0)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Pruned {
        next: Some(Revision(end)),
        rows: removed.rows_affected(),
    })
}

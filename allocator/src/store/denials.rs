//! The table of denials. It is written beside the writer's connection, so that
//! who is refused costs nobody else time: without a sync of its own, since a
//! denial that a power cut takes with it is no loss.

use std::path::PathBuf;

use serde::Serialize;
use sqlx::{
    Connection, Row, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteRow, SqliteSynchronous},
};

use super::{BUSY_TIMEOUT, HistoryReader, Store, StoreError};

/// Rows that are kept; the oldest go.
const MAX_ROWS: i64 = 10_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DenialRow {
    #[serde(skip)]
    pub id: i64,
    pub first_at: i64,
    pub last_at: i64,
    pub count: i64,
    pub caller: String,
    pub role: String,
    pub method: String,
    pub cluster: String,
    pub why: String,
}

/// A place in the list of denials, the newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenialPlace {
    pub last_at: i64,
    pub id: i64,
}

#[derive(Clone, Debug)]
pub struct DenialWriter {
    path: PathBuf,
}

impl Store {
    /// A writer of denials to the same file.
    pub fn denial_writer(&self) -> DenialWriter {
        DenialWriter {
            path: self.path.clone(),
        }
    }
}

impl DenialWriter {
    /// Adds to what is recorded already, all or nothing.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn record(&self, rows: &[DenialRow]) -> Result<(), StoreError> {
        let write = |source| StoreError::Write {
            path: self.path.clone(),
            source,
        };
        let json = serde_json::to_string(rows);
        let json = json.map_err(|error| write(sqlx::Error::Encode(error.into())))?;
        // Opened for this: there are seldom any denials.
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT);
        let mut connection = SqliteConnection::connect_with(&options)
            .await
            .map_err(write)?;
        let recorded = insert(&mut connection, &json).await;
        let closed = connection.close().await;
        recorded.and(closed).map_err(write)
    }
}

async fn insert(connection: &mut SqliteConnection, json: &str) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query(
        "INSERT INTO denials (first_at, last_at, count, caller, role, method, cluster, why)
         SELECT value ->> 'first_at', value ->> 'last_at', value ->> 'count',
                value ->> 'caller', value ->> 'role', value ->> 'method',
                value ->> 'cluster', value ->> 'why'
         FROM json_each(?1) WHERE true
         ON CONFLICT (caller, role, method, cluster, why) DO UPDATE
         SET last_at = excluded.last_at, count = count + excluded.count",
    )
    .bind(json)
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "DELETE FROM denials WHERE id IN
         (SELECT id FROM denials ORDER BY last_at DESC, id DESC LIMIT -1 OFFSET ?1)",
    )
    .bind(MAX_ROWS)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

impl HistoryReader {
    /// Denials, the newest first, from a place on.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn denials(
        &self,
        start: Option<DenialPlace>,
        limit: usize,
    ) -> Result<Vec<DenialRow>, StoreError> {
        let read = |source| StoreError::Read {
            path: self.path.clone(),
            source,
        };
        let start = start.unwrap_or(DenialPlace {
            last_at: i64::MAX,
            id: i64::MAX,
        });
        let rows = sqlx::query(
            "SELECT id, first_at, last_at, count, caller, role, method, cluster, why
             FROM denials WHERE (last_at, id) <= (?1, ?2)
             ORDER BY last_at DESC, id DESC LIMIT ?3",
        )
        .bind(start.last_at)
        .bind(start.id)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await
        .map_err(read)?;
        rows.iter()
            .map(|row| denial_row(row).map_err(read))
            .collect()
    }
}

fn denial_row(row: &SqliteRow) -> Result<DenialRow, sqlx::Error> {
    Ok(DenialRow {
        id: row.try_get("id")?,
        first_at: row.try_get("first_at")?,
        last_at: row.try_get("last_at")?,
        count: row.try_get("count")?,
        caller: row.try_get("caller")?,
        role: row.try_get("role")?,
        method: row.try_get("method")?,
        cluster: row.try_get("cluster")?,
        why: row.try_get("why")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(caller: &str, at: i64, count: i64) -> DenialRow {
        DenialRow {
            id: 0,
            first_at: at,
            last_at: at,
            count,
            caller: caller.to_owned(),
            role: "watcher".to_owned(),
            method: "Acquire".to_owned(),
            cluster: "other".to_owned(),
            why: "OTHER_CLUSTER".to_owned(),
        }
    }

    #[tokio::test]
    async fn equal_denials_share_a_row_and_the_newest_come_first() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("lb.db").display());
        let store = Store::open(&url).await.unwrap();
        let (writer, reader) = (store.denial_writer(), store.history_reader());
        writer
            .record(&[row("a", 1, 2), row("b", 2, 1)])
            .await
            .unwrap();
        writer.record(&[row("a", 5, 3)]).await.unwrap();
        let rows = reader.denials(None, 10).await.unwrap();
        let seen: Vec<_> = rows
            .iter()
            .map(|row| (row.caller.as_str(), row.first_at, row.last_at, row.count))
            .collect();
        assert_eq!(seen, [("a", 1, 5, 5), ("b", 2, 2, 1)]);
        let place = DenialPlace {
            last_at: 2,
            id: rows[1].id,
        };
        assert_eq!(reader.denials(Some(place), 10).await.unwrap(), rows[1..]);
    }

    #[tokio::test]
    async fn the_table_does_not_grow_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("lb.db").display());
        let store = Store::open(&url).await.unwrap();
        let writer = store.denial_writer();
        let rows: Vec<_> = (0..MAX_ROWS + 10)
            .map(|number| row(&number.to_string(), number, 1))
            .collect();
        writer.record(&rows).await.unwrap();
        let reader = store.history_reader();
        let kept = reader.denials(None, 20_000).await.unwrap();
        assert_eq!(kept.len(), 10_000);
        assert_eq!(kept.last().unwrap().last_at, 10, "the oldest went");
    }
}

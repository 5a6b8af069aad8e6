//! The naive design, for comparison: a row for each address of the pool, a
//! transaction for each request, and whatever sqlx does when it is told nothing.

use anyhow::Result;
use lb_proto::v1::AcquireRequest;
use sqlx::{SqlitePool, sqlite::SqliteConnectOptions};
use tonic::Status;

use crate::stand_in::Answer;

/// A /16.
const ADDRESSES: i64 = 65_536;

#[derive(Clone)]
pub struct Naive {
    pool: SqlitePool,
}

impl Naive {
    /// With all addresses free, in a new database.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn open(database: &str) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(database)
            .create_if_missing(true);
        let pool = SqlitePool::connect_with(options).await?;
        sqlx::query("CREATE TABLE addresses (address TEXT PRIMARY KEY, service TEXT)")
            .execute(&pool)
            .await?;
        sqlx::query(
            "WITH RECURSIVE numbers (n) AS (
                 SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?1 - 1
             )
             INSERT INTO addresses (address)
             SELECT format('10.0.%d.%d', n >> 8, n & 255) FROM numbers",
        )
        .bind(ADDRESSES)
        .execute(&pool)
        .await?;
        Ok(Self { pool })
    }

    async fn try_acquire(&self, service: &str) -> Result<String, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        let address: String =
            sqlx::query_scalar("SELECT address FROM addresses WHERE service IS NULL LIMIT 1")
                .fetch_one(&mut *transaction)
                .await?;
        sqlx::query("UPDATE addresses SET service = ?1 WHERE address = ?2")
            .bind(service)
            .bind(&address)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(address)
    }
}

impl Answer for Naive {
    async fn acquire(&self, request: AcquireRequest) -> Result<String, Status> {
        let key = request.service.unwrap_or_default();
        let service = format!("{}/{}/{}", key.cluster, key.namespace, key.name);
        loop {
            match self.try_acquire(&service).await {
                Ok(address) => return Ok(address),
                // Another transaction wrote since this one began to read: SQLITE_BUSY,
                // however long one waits.
                Err(sqlx::Error::Database(error)) if error.message().contains("locked") => {}
                Err(error) => return Err(Status::internal(error.to_string())),
            }
        }
    }
}

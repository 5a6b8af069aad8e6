//! Makes commits wait, as a slow disk would: holds SQLite's write lock.

use std::path::Path;

use sqlx::{Connection, SqliteConnection};

pub struct WriteLock(SqliteConnection);

impl WriteLock {
    pub async fn take(database: &Path) -> Self {
        let url = format!("sqlite://{}", database.display());
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut connection)
            .await
            .unwrap();
        Self(connection)
    }

    pub async fn give_back(mut self) {
        sqlx::query("ROLLBACK").execute(&mut self.0).await.unwrap();
        self.0.close().await.unwrap();
    }
}

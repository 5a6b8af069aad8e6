//! Bringing the tables to this version, after a copy of them as they are was put beside
//! the database: a migration has no way back, a copy has.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use sqlx::{
    SqliteConnection,
    migrate::{Migrate, MigrateError, Migrator},
};
use tempfile::NamedTempFile;

use super::StoreError;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// # Errors
/// If the tables are of a newer version, there is no room for the copy, or a migration
/// fails. The database is as it was then.
pub(super) async fn upgrade(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<(), StoreError> {
    let known = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0);
    let failed = |error| {
        let path = path.to_owned();
        if let MigrateError::VersionMissing(version) = error {
            return StoreError::Newer {
                path,
                version,
                known,
            };
        }
        let source = Box::new(error);
        StoreError::Migrate { path, source }
    };
    if let Some(version) = version(connection).await.map_err(failed)?
        && version < known
    {
        let to = copy_of(path, version);
        keep(connection, &to)
            .await
            .map_err(|source| StoreError::CopyBeforeMigration {
                path: path.to_owned(),
                to: to.clone(),
                source,
            })?;
        tracing::info!(
            database = %path.display(),
            copy = %to.display(),
            from = version,
            to = known,
            "the database was copied before its tables are migrated"
        );
    }
    MIGRATIONS.run(connection).await.map_err(failed)
}

/// The last migration that the tables have; `None` where there are no tables.
async fn version(connection: &mut SqliteConnection) -> Result<Option<i64>, MigrateError> {
    connection
        .ensure_migrations_table("_sqlx_migrations")
        .await?;
    let applied = connection
        .list_applied_migrations("_sqlx_migrations")
        .await?;
    Ok(applied.into_iter().map(|migration| migration.version).max())
}

/// Where the copy goes, named by the version of its tables.
fn copy_of(database: &Path, version: i64) -> PathBuf {
    let mut name = OsString::from(database);
    name.push(format!(".schema-{version:04}"));
    PathBuf::from(name)
}

/// Takes the place of an older copy of that version once it is whole and durable: what
/// counts is how the database was before the migration that is about to be made.
async fn keep(connection: &mut SqliteConnection, to: &Path) -> Result<(), sqlx::Error> {
    let folder = to
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let temporary = NamedTempFile::with_prefix_in(".lb-allocator-upgrade-", folder)?;
    let name = temporary
        .path()
        .to_str()
        .ok_or_else(|| io::Error::other("its name is not UTF-8"))?;
    sqlx::query("VACUUM INTO ?1")
        .bind(name)
        .execute(connection)
        .await?;
    temporary.as_file().sync_all()?;
    temporary.persist(to).map_err(|error| error.error)?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(())
}

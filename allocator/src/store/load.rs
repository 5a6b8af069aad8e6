//! From rows to an engine.

use std::{net::IpAddr, path::Path, sync::Arc};

use serde::de::DeserializeOwned;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use thiserror::Error;

use super::{
    StoreError, allocations,
    details::{ClusterDetails, ConflictDetails, HolderDetails, KeyDetails, ReservationDetails},
};
use crate::engine::{
    ClusterName, ClusterRecord, Conflict, Engine, Holder, Inconsistent, InvalidName, LastHeld,
    Pools, Reservation, Restoring, Revision, ServiceKey, SharingKey, Snapshot, Timestamp, Uid,
};

/// A value that does not parse.
#[derive(Debug, Error)]
pub enum Corrupt {
    #[error("{text:?} is not an address")]
    Address { text: String },
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error("row {text:?} does not have the columns that were selected")]
    Row { text: String },
    #[error("details {text:?} cannot be parsed")]
    Details {
        text: String,
        source: serde_json::Error,
    },
}

pub(super) enum RowError {
    Sql(sqlx::Error),
    Corrupt(Corrupt),
    Inconsistent(Inconsistent),
}

impl From<sqlx::Error> for RowError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Inconsistent> for RowError {
    fn from(error: Inconsistent) -> Self {
        Self::Inconsistent(error)
    }
}

impl From<Corrupt> for RowError {
    fn from(error: Corrupt) -> Self {
        Self::Corrupt(error)
    }
}

impl From<InvalidName> for RowError {
    fn from(error: InvalidName) -> Self {
        Self::Corrupt(error.into())
    }
}

pub(super) async fn engine(
    connection: &mut SqliteConnection,
    path: &Path,
    pools: Arc<Pools>,
) -> Result<Engine, StoreError> {
    let read = |error: RowError| match error {
        RowError::Sql(source) => StoreError::Read {
            path: path.to_owned(),
            source,
        },
        RowError::Corrupt(source) => StoreError::Corrupt {
            path: path.to_owned(),
            source,
        },
        RowError::Inconsistent(source) => StoreError::Inconsistent {
            path: path.to_owned(),
            source,
        },
    };
    restore(connection, pools).await.map_err(read)
}

async fn restore(connection: &mut SqliteConnection, pools: Arc<Pools>) -> Result<Engine, RowError> {
    let mut restoring = Restoring::new(pools);
    allocations::restore(connection, &mut restoring).await?;
    Ok(restoring.finish(rest(connection).await?)?)
}

/// All but the allocations.
async fn rest(connection: &mut SqliteConnection) -> Result<Snapshot, RowError> {
    let mut snapshot = Snapshot::default();
    // History may have been pruned, but a revision is never given twice.
    let last = sqlx::query(
        "SELECT max(revision), max(at) FROM (
             SELECT * FROM (SELECT revision, at FROM history ORDER BY revision DESC LIMIT 1)
             UNION ALL SELECT revision, 0 FROM history_floor WHERE revision > 0
         ) HAVING count(*) > 0",
    )
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(row) = last {
        snapshot.revision = Revision(row.try_get(0)?);
        snapshot.last_change_at = Timestamp(row.try_get(1)?);
    }
    let last_held =
        sqlx::query("SELECT cluster, namespace, name, address, released_at FROM last_held")
            .fetch_all(&mut *connection)
            .await?;
    snapshot.last_held = last_held
        .iter()
        .map(last_held_row)
        .collect::<Result<_, _>>()?;
    let reservations =
        sqlx::query("SELECT cluster, namespace, name, address, details FROM reservations")
            .fetch_all(&mut *connection)
            .await?;
    snapshot.reservations = reservations
        .iter()
        .map(reservation)
        .collect::<Result<_, _>>()?;
    let conflicts = sqlx::query(
        "SELECT cluster, namespace, name, address, ifnull(uid, '') AS uid,
                ifnull(replaced_uid, '') AS replaced_uid, ifnull(cluster_ip, '') AS cluster_ip,
                ifnull(sharing_key, '') AS sharing_key, ifnull(details, '') AS details, since
         FROM conflicts",
    )
    .fetch_all(&mut *connection)
    .await?;
    snapshot.conflicts = conflicts.iter().map(conflict).collect::<Result<_, _>>()?;
    let clusters = sqlx::query("SELECT name, details FROM clusters")
        .fetch_all(&mut *connection)
        .await?;
    snapshot.clusters = clusters.iter().map(cluster).collect::<Result<_, _>>()?;
    snapshot.is_new = sqlx::query_scalar("SELECT NOT opened FROM database")
        .fetch_one(&mut *connection)
        .await?;
    Ok(snapshot)
}

fn conflict(row: &SqliteRow) -> Result<Arc<Conflict>, RowError> {
    let text: &str = row.try_get("details")?;
    let details: Option<ConflictDetails> = Some(text)
        .filter(|text| !text.is_empty())
        .map(parsed)
        .transpose()?;
    Ok(Arc::new(Conflict {
        key: key(row)?,
        address: address(row.try_get("address")?)?,
        holder: holder([
            row.try_get("uid")?,
            row.try_get("replaced_uid")?,
            row.try_get("cluster_ip")?,
            row.try_get("sharing_key")?,
            text,
        ])?,
        since: Timestamp(row.try_get("since")?),
        kind: details.unwrap_or_default().kind(),
    }))
}

/// `texts`: uid, the uid before it, cluster IP, sharing key, details; each is empty
/// where it is NULL in the database.
pub(super) fn holder(texts: [&str; 5]) -> Result<Holder, RowError> {
    let [uid, replaced_uid, cluster_ip, sharing_key, details] =
        texts.map(|text| Some(text).filter(|text| !text.is_empty()));
    let sharing_key = sharing_key.map(SharingKey::parse).transpose()?;
    let details: Option<HolderDetails> = details.map(parsed).transpose()?;
    let replaced_uid = replaced_uid.map(Uid::parse).transpose()?;
    let details = details.unwrap_or_default();
    Ok(Holder {
        uid: uid.map(Uid::parse).transpose()?,
        cluster_ip: cluster_ip.map(address).transpose()?,
        ..details.into_holder(sharing_key, replaced_uid)?
    })
}

fn cluster(row: &SqliteRow) -> Result<Arc<ClusterRecord>, RowError> {
    let details: ClusterDetails = parsed(row.try_get("details")?)?;
    let name = ClusterName::parse(row.try_get("name")?)?;
    Ok(Arc::new(details.into_record(name)?))
}

fn reservation(row: &SqliteRow) -> Result<Arc<Reservation>, RowError> {
    let details: Option<ReservationDetails> = details(row)?;
    let ReservationDetails {
        expires,
        comment,
        from,
    } = details.unwrap_or_default();
    let cluster: &str = row.try_get("cluster")?;
    Ok(Arc::new(Reservation {
        address: address(row.try_get("address")?)?,
        key: (!cluster.is_empty()).then(|| key(row)).transpose()?,
        expires: expires.map(Timestamp),
        comment,
        from: from.as_ref().map(KeyDetails::parse).transpose()?,
    }))
}

fn details<T: DeserializeOwned>(row: &SqliteRow) -> Result<Option<T>, RowError> {
    let text: Option<&str> = row.try_get("details")?;
    text.map(parsed).transpose()
}

fn parsed<T: DeserializeOwned>(text: &str) -> Result<T, RowError> {
    serde_json::from_str(text).map_err(|source| {
        RowError::Corrupt(Corrupt::Details {
            text: text.to_owned(),
            source,
        })
    })
}

fn last_held_row(row: &SqliteRow) -> Result<LastHeld, RowError> {
    Ok(LastHeld {
        key: key(row)?,
        address: address(row.try_get("address")?)?,
        released_at: Timestamp(row.try_get("released_at")?),
    })
}

fn key(row: &SqliteRow) -> Result<Arc<ServiceKey>, RowError> {
    let key = ServiceKey::parse(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)?;
    Ok(Arc::new(key))
}

pub(super) fn address(text: &str) -> Result<IpAddr, RowError> {
    text.parse().map_err(|_| {
        RowError::Corrupt(Corrupt::Address {
            text: text.to_owned(),
        })
    })
}

//! From rows to a snapshot.

use std::{net::IpAddr, path::Path, sync::Arc};

use serde::de::DeserializeOwned;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use thiserror::Error;

use super::{
    StoreError,
    details::{ClusterDetails, HolderDetails, KeyDetails, ReservationDetails},
};
use crate::engine::{
    Allocation, ClusterName, ClusterRecord, Conflict, Holder, InvalidName, LastHeld, PoolName,
    Reservation, Revision, ServiceKey, SharingKey, Snapshot, Timestamp, Uid,
};

/// A value that does not parse.
#[derive(Debug, Error)]
pub enum Corrupt {
    #[error("{text:?} is not an address")]
    Address { text: String },
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error("details {text:?} are not what this program writes")]
    Details {
        text: String,
        source: serde_json::Error,
    },
}

enum RowError {
    Sql(sqlx::Error),
    Corrupt(Corrupt),
}

impl From<sqlx::Error> for RowError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<InvalidName> for RowError {
    fn from(error: InvalidName) -> Self {
        Self::Corrupt(error.into())
    }
}

pub(super) async fn snapshot(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<Snapshot, StoreError> {
    let read = |error: RowError| match error {
        RowError::Sql(source) => StoreError::Read {
            path: path.to_owned(),
            source,
        },
        RowError::Corrupt(source) => StoreError::Corrupt {
            path: path.to_owned(),
            source,
        },
    };
    rows(connection).await.map_err(read)
}

async fn rows(connection: &mut SqliteConnection) -> Result<Snapshot, RowError> {
    let mut snapshot = Snapshot::default();
    let last = sqlx::query("SELECT revision, at FROM history ORDER BY revision DESC LIMIT 1")
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(row) = last {
        snapshot.revision = Revision(row.try_get(0)?);
        snapshot.last_change_at = Timestamp(row.try_get(1)?);
    }
    let allocations = sqlx::query(
        "SELECT cluster, namespace, name, address, pool, uid, replaced_uid, cluster_ip,
                sharing_key, details, since, revision
         FROM allocations",
    )
    .fetch_all(&mut *connection)
    .await?;
    snapshot.allocations = allocations
        .iter()
        .map(allocation)
        .collect::<Result<_, _>>()?;
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
        "SELECT cluster, namespace, name, address, uid, replaced_uid, cluster_ip, sharing_key,
                details, since
         FROM conflicts",
    )
    .fetch_all(&mut *connection)
    .await?;
    snapshot.conflicts = conflicts.iter().map(conflict).collect::<Result<_, _>>()?;
    let clusters = sqlx::query("SELECT name, details FROM clusters")
        .fetch_all(&mut *connection)
        .await?;
    snapshot.clusters = clusters.iter().map(cluster).collect::<Result<_, _>>()?;
    Ok(snapshot)
}

fn allocation(row: &SqliteRow) -> Result<Arc<Allocation>, RowError> {
    Ok(Arc::new(Allocation {
        key: key(row)?,
        address: address(row.try_get("address")?)?,
        pool: PoolName::parse(row.try_get("pool")?)?,
        holder: holder(row)?,
        since: Timestamp(row.try_get("since")?),
        revision: Revision(row.try_get("revision")?),
    }))
}

fn conflict(row: &SqliteRow) -> Result<Arc<Conflict>, RowError> {
    Ok(Arc::new(Conflict {
        key: key(row)?,
        address: address(row.try_get("address")?)?,
        holder: holder(row)?,
        since: Timestamp(row.try_get("since")?),
    }))
}

fn holder(row: &SqliteRow) -> Result<Arc<Holder>, RowError> {
    let uid = |column: &str| -> Result<Option<Uid>, RowError> {
        let text: Option<&str> = row.try_get(column)?;
        Ok(text.map(Uid::parse).transpose()?)
    };
    let cluster_ip: Option<&str> = row.try_get("cluster_ip")?;
    let sharing_key: Option<&str> = row.try_get("sharing_key")?;
    let sharing_key = sharing_key.map(SharingKey::parse).transpose()?;
    let details: Option<HolderDetails> = details(row)?;
    Ok(Arc::new(Holder {
        uid: uid("uid")?,
        replaced_uid: uid("replaced_uid")?,
        cluster_ip: cluster_ip.map(address).transpose()?,
        ..details.unwrap_or_default().into_holder(sharing_key)?
    }))
}

fn cluster(row: &SqliteRow) -> Result<Arc<ClusterRecord>, RowError> {
    let details: ClusterDetails = parsed(row.try_get("details")?)?;
    Ok(Arc::new(ClusterRecord {
        name: ClusterName::parse(row.try_get("name")?)?,
        state: details.into(),
    }))
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

fn address(text: &str) -> Result<IpAddr, RowError> {
    text.parse().map_err(|_| {
        RowError::Corrupt(Corrupt::Address {
            text: text.to_owned(),
        })
    })
}

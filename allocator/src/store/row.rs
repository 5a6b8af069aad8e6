//! From a change to a row of history.

use std::net::IpAddr;

use super::details::{ClusterDetails, ConflictDetails, HolderDetails, ReservationDetails};
use crate::engine::{
    Allocation, Change, ChangeKind, ClusterRecord, Conflict, Family, Holder, Reservation,
    ServiceKey,
};

/// A row of history, without its revision and time.
#[derive(Debug, Default)]
pub struct HistoryInsert {
    pub kind: &'static str,
    pub address: String,
    pub family: i64,
    pub pool: String,
    pub cluster: String,
    pub namespace: String,
    pub name: String,
    pub uid: Option<String>,
    pub replaced_uid: Option<String>,
    pub cluster_ip: Option<String>,
    pub sharing_key: Option<String>,
    pub details: Option<String>,
}

impl HistoryInsert {
    /// # Errors
    /// If the details cannot be written as JSON, which no label can cause.
    pub fn of(change: &Change) -> Result<Self, serde_json::Error> {
        match &change.kind {
            ChangeKind::Allocated(allocation) => Self::of_allocation("ALLOCATED", allocation),
            ChangeKind::Released(allocation) => {
                Self::of_allocation("RELEASED", allocation).map(Self::without_details)
            }
            ChangeKind::Updated(allocation) => Self::of_allocation("UPDATED", allocation),
            ChangeKind::Reserved(reservation) => Self::of_reservation("RESERVED", reservation),
            ChangeKind::Unreserved(reservation) => Self::of_reservation("UNRESERVED", reservation),
            ChangeKind::Conflicted(conflict) => Self::of_conflict("CONFLICTED", conflict),
            ChangeKind::ConflictEnded(conflict) => {
                Self::of_conflict("CONFLICT_ENDED", conflict).map(Self::without_details)
            }
            ChangeKind::Cluster(record) => Self::of_cluster(record),
            // Of no cluster: of the database.
            ChangeKind::Opened => Ok(Self {
                kind: "CLUSTER",
                ..Self::default()
            }),
        }
    }

    /// Nobody reads them of what is no more.
    fn without_details(self) -> Self {
        Self {
            details: None,
            ..self
        }
    }

    fn of_allocation(
        kind: &'static str,
        allocation: &Allocation,
    ) -> Result<Self, serde_json::Error> {
        Ok(Self {
            pool: allocation.pool.to_string(),
            ..Self::of_holder(
                kind,
                allocation.address,
                &allocation.key,
                &allocation.holder,
            )?
        })
    }

    fn of_conflict(kind: &'static str, conflict: &Conflict) -> Result<Self, serde_json::Error> {
        let Conflict {
            address,
            key,
            holder,
            since: _,
            kind: conflict_kind,
        } = conflict;
        let details = ConflictDetails::of(holder, *conflict_kind);
        Ok(Self {
            details: Some(serde_json::to_string(&details)?),
            ..Self::of_holder(kind, *address, key, holder)?
        })
    }

    fn of_holder(
        kind: &'static str,
        address: IpAddr,
        key: &ServiceKey,
        holder: &Holder,
    ) -> Result<Self, serde_json::Error> {
        let details = HolderDetails::of(holder);
        let details = details.map(|details| serde_json::to_string(&details));
        Ok(Self {
            kind,
            address: address.to_string(),
            family: family_number(Family::of(address)),
            pool: String::new(),
            cluster: key.cluster.to_string(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            uid: holder.uid.as_ref().map(ToString::to_string),
            replaced_uid: holder.transition.replaced_uid().map(ToString::to_string),
            cluster_ip: holder.cluster_ip.map(|address| address.to_string()),
            sharing_key: holder.sharing.as_ref().map(|terms| terms.key.to_string()),
            details: details.transpose()?,
        })
    }

    fn of_cluster(record: &ClusterRecord) -> Result<Self, serde_json::Error> {
        Ok(Self {
            kind: "CLUSTER",
            cluster: record.name.to_string(),
            details: Some(serde_json::to_string(&ClusterDetails::of(record))?),
            ..Self::default()
        })
    }

    fn of_reservation(
        kind: &'static str,
        reservation: &Reservation,
    ) -> Result<Self, serde_json::Error> {
        let details = serde_json::to_string(&ReservationDetails::of(reservation))?;
        let mut row = Self {
            kind,
            address: reservation.address.to_string(),
            family: family_number(Family::of(reservation.address)),
            details: Some(details),
            ..Self::default()
        };
        if let Some(key) = &reservation.key {
            row.cluster = key.cluster.to_string();
            row.namespace = key.namespace.to_string();
            row.name = key.name.to_string();
        }
        Ok(row)
    }
}

const fn family_number(family: Family) -> i64 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

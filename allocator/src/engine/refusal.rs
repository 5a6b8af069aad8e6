//! Why something cannot be granted. Knows nothing of gRPC.

use std::{net::IpAddr, sync::Arc};

use thiserror::Error;

use super::{
    address::Family,
    change::Timestamp,
    identity::Identity,
    key::{ClusterName, Namespace, PoolName, ServiceKey, Uid},
    quota::Reached,
    sharing::Port,
};

/// A reason, and what a person needs to act on it. Holders of another cluster
/// are not named.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    #[error(
        "no free {family} address in {}; release a Service or add addresses",
        pool_list(pools)
    )]
    PoolExhausted {
        pools: Vec<PoolName>,
        family: Family,
    },
    #[error(
        "the free {family} addresses of {} were held until lately and cool down; the first is free at {until}",
        pool_list(pools)
    )]
    PoolCoolingDown {
        pools: Vec<PoolName>,
        family: Family,
        until: Timestamp,
    },
    #[error(
        "{} of pool {pool} is {}, and {} are held; release a Service or raise it",
        reached.scope.key(), reached.limit, reached.used
    )]
    QuotaExceeded { pool: PoolName, reached: Reached },
    #[error(
        "no pool has {family} addresses for namespace {namespace}; add one to a pool that serves it, or ask for a pool by name"
    )]
    NoPool {
        namespace: Namespace,
        family: Family,
    },
    #[error("pool {pool} does not exist")]
    PoolNotFound { pool: PoolName },
    #[error(
        "pool {pool} does not serve this Service of namespace {namespace}: its selectors leave it out, or a fenced pool keeps the namespace to itself"
    )]
    PoolNotAllowed {
        pool: PoolName,
        namespace: Namespace,
    },
    #[error("pool {pool} is disabled")]
    PoolDisabled { pool: PoolName },
    #[error("address {address} of pool {pool} is held by {}", holder_text(holder.as_deref()))]
    AddressInUse {
        address: IpAddr,
        pool: PoolName,
        holder: Option<Arc<ServiceKey>>,
    },
    #[error("address {address} of pool {pool} is reserved")]
    AddressReserved { address: IpAddr, pool: PoolName },
    #[error(
        "address {address} of pool {pool} is still in the status of {}; it is free when no \
         status shows it, or when an administrator ends the conflict",
        holder_text(by.as_deref())
    )]
    AddressShown {
        address: IpAddr,
        pool: PoolName,
        /// Named only within one cluster.
        by: Option<Arc<ServiceKey>>,
    },
    #[error("address {address} is not in {}", wanted_pool(pool.as_ref()))]
    AddressNotInPool {
        address: IpAddr,
        /// The pool that was asked for together with the address.
        pool: Option<PoolName>,
    },
    #[error("pool {pool} excludes address {address}, by exclude or avoidBuggyIPs")]
    AddressExcluded { address: IpAddr, pool: PoolName },
    #[error("port {port} of shared address {address} is taken by Service {}/{}", holder.namespace, holder.name)]
    SharingPortClash {
        address: IpAddr,
        port: Port,
        holder: Arc<ServiceKey>,
    },
    #[error("address {address} is held with another sharing key, or with none")]
    SharingKeyMismatch { address: IpAddr },
    #[error(
        "address {address} cannot be shared: namespaces that do not permit each other, or other external traffic policies or selectors"
    )]
    SharingNotPermitted { address: IpAddr },
    #[error(
        "address {address}, which this Service shows, is not its own: {}; it keeps the address \
         until that changes or an administrator decides",
        conflict_text(holder.as_deref(), *is_held)
    )]
    AddressConflict {
        address: IpAddr,
        /// Named only within one cluster.
        holder: Option<Arc<ServiceKey>>,
        is_held: bool,
    },
    #[error("{key} does not hold address {address}")]
    NotTheHolder {
        address: IpAddr,
        key: Arc<ServiceKey>,
    },
    #[error("no Service {key} is in conflict about address {address}")]
    NoConflict {
        address: IpAddr,
        key: Arc<ServiceKey>,
    },
    #[error(
        "the database is new or restored, and not every cluster has told what it has: waiting \
         for {}",
        awaited_list(clusters, *until)
    )]
    AwaitingSync {
        clusters: Vec<ClusterName>,
        /// Until when a database that knows nothing waits for clusters that it does not
        /// know.
        until: Option<Timestamp>,
    },
    #[error(
        "the name {cluster} belongs to the cluster of uid {} since {}; give one of the two another \
         name, or let the cluster of uid {uid} take over by ReplaceCluster",
        owner.uid, owner.since
    )]
    ClusterNameInUse {
        cluster: ClusterName,
        /// Of the one that is refused.
        uid: Uid,
        owner: Identity,
    },
    #[error(
        "the cluster of uid {} has the name {known_as} since {}; use that name, or take it out of \
         service by DecommissionCluster first",
        owner.uid, owner.since
    )]
    ClusterHasOtherName {
        /// The name that is refused.
        cluster: ClusterName,
        known_as: ClusterName,
        owner: Identity,
    },
    #[error("no cluster {cluster} is known")]
    NoCluster { cluster: ClusterName },
    #[error("cluster {cluster} is decommissioned")]
    ClusterDecommissioned { cluster: ClusterName },
}

impl Refusal {
    /// The machine-readable reason, a part of the contract.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::PoolExhausted { .. } => "POOL_EXHAUSTED",
            Self::PoolCoolingDown { .. } => "POOL_COOLING_DOWN",
            Self::QuotaExceeded { .. } => "QUOTA_EXCEEDED",
            Self::NoPool { .. } => "NO_POOL",
            Self::PoolNotFound { .. } => "POOL_NOT_FOUND",
            Self::PoolNotAllowed { .. } => "POOL_NOT_ALLOWED",
            Self::PoolDisabled { .. } => "POOL_DISABLED",
            Self::AddressInUse { .. }
            | Self::AddressReserved { .. }
            | Self::AddressShown { .. } => "ADDRESS_IN_USE",
            Self::AddressNotInPool { .. } => "ADDRESS_NOT_IN_POOL",
            Self::AddressExcluded { .. } => "ADDRESS_EXCLUDED",
            Self::SharingPortClash { .. } => "SHARING_PORT_CLASH",
            Self::SharingKeyMismatch { .. } => "SHARING_KEY_MISMATCH",
            Self::SharingNotPermitted { .. } => "SHARING_NOT_PERMITTED",
            Self::AddressConflict { .. } => "ADDRESS_CONFLICT",
            Self::NotTheHolder { .. } => "ALLOCATION_NOT_FOUND",
            Self::NoConflict { .. } => "CONFLICT_NOT_FOUND",
            Self::AwaitingSync { .. } => "AWAITING_SYNC",
            Self::ClusterNameInUse { .. } => "CLUSTER_NAME_IN_USE",
            Self::ClusterHasOtherName { .. } => "CLUSTER_HAS_OTHER_NAME",
            Self::NoCluster { .. } => "CLUSTER_NOT_FOUND",
            Self::ClusterDecommissioned { .. } => "PERMISSION_DENIED",
        }
    }
}

fn pool_list(pools: &[PoolName]) -> String {
    let names: Vec<_> = pools.iter().map(PoolName::as_str).collect();
    match names.as_slice() {
        [one] => format!("pool {one}"),
        many => format!("pools {}", many.join(", ")),
    }
}

fn awaited_list(clusters: &[ClusterName], until: Option<Timestamp>) -> String {
    let names: Vec<_> = clusters.iter().map(ClusterName::as_str).collect();
    let names = names.join(", ");
    match until {
        None => names,
        Some(until) if clusters.is_empty() => format!("whoever comes until {until}"),
        Some(until) => format!("{names}, and whoever comes until {until}"),
    }
}

fn holder_text(holder: Option<&ServiceKey>) -> String {
    holder.map_or_else(
        || "a Service of another cluster".to_owned(),
        |key| format!("Service {}/{}", key.namespace, key.name),
    )
}

fn conflict_text(holder: Option<&ServiceKey>, is_held: bool) -> String {
    if is_held {
        format!("it is held by {}", holder_text(holder))
    } else {
        "it is kept for others, or beyond the quotas of the pool".to_owned()
    }
}

fn wanted_pool(pool: Option<&PoolName>) -> String {
    pool.map_or_else(|| "any pool".to_owned(), |pool| format!("pool {pool}"))
}

//! Why a wish cannot be granted. Knows nothing of gRPC.

use std::net::IpAddr;

use thiserror::Error;

use super::{
    address::Family,
    key::{Namespace, PoolName, ServiceKey},
};

/// A reason, and what a person needs to act on it.
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
        "no pool has {family} addresses for namespace {namespace}; add one to a pool of this namespace"
    )]
    NoPool {
        namespace: Namespace,
        family: Family,
    },
    #[error("pool {pool} does not exist")]
    PoolNotFound { pool: PoolName },
    #[error("pool {pool} does not serve namespace {namespace}")]
    PoolNotAllowed {
        pool: PoolName,
        namespace: Namespace,
    },
    #[error("address {address} of pool {pool} is held by {}", holder_text(holder.as_ref()))]
    AddressInUse {
        address: IpAddr,
        pool: PoolName,
        /// Told only to callers of the same cluster.
        holder: Option<ServiceKey>,
    },
    #[error("address {address} is not in {}", wanted_pool(pool.as_ref()))]
    AddressNotInPool {
        address: IpAddr,
        /// The pool that was asked for together with the address.
        pool: Option<PoolName>,
    },
    #[error("pool {pool} excludes address {address}")]
    AddressExcluded { address: IpAddr, pool: PoolName },
}

impl Refusal {
    /// The machine-readable reason, a part of the contract.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::PoolExhausted { .. } => "POOL_EXHAUSTED",
            Self::NoPool { .. } => "NO_POOL",
            Self::PoolNotFound { .. } => "POOL_NOT_FOUND",
            Self::PoolNotAllowed { .. } => "POOL_NOT_ALLOWED",
            Self::AddressInUse { .. } => "ADDRESS_IN_USE",
            Self::AddressNotInPool { .. } => "ADDRESS_NOT_IN_POOL",
            Self::AddressExcluded { .. } => "ADDRESS_EXCLUDED",
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

fn holder_text(holder: Option<&ServiceKey>) -> String {
    holder.map_or_else(
        || "a Service of another cluster".to_owned(),
        |key| format!("Service {}/{}", key.namespace, key.name),
    )
}

fn wanted_pool(pool: Option<&PoolName>) -> String {
    pool.map_or_else(|| "any pool".to_owned(), |pool| format!("pool {pool}"))
}

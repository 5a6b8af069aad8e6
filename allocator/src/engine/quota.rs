//! How many addresses namespaces and clusters hold of pools that limit it. An
//! address that Services share counts once for each of their namespaces, and once
//! for their cluster. O(1) for each change; pools without limits cost nothing.

use hashbrown::HashMap;

use super::{
    key::{ClusterName, Namespace, ServiceKey},
    pools::{PoolIndex, PoolSpec, Pools},
    sharing::Holders,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespace,
    Cluster,
}

impl Scope {
    /// The key of the pools file that sets it.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Namespace => "maxPerNamespace",
            Self::Cluster => "maxPerCluster",
        }
    }
}

/// A limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    pub scope: Scope,
    pub limit: u64,
    pub used: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Quotas {
    namespaces: HashMap<(PoolIndex, ClusterName, Namespace), u64>,
    clusters: HashMap<(PoolIndex, ClusterName), u64>,
}

/// How much an address counts for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    pub namespace: u64,
    pub cluster: u64,
}

impl Weight {
    /// An address that nobody else holds.
    pub const ONE: Self = Self {
        namespace: 1,
        cluster: 1,
    };

    pub const fn plus(self, other: Self) -> Self {
        Self {
            namespace: self.namespace + other.namespace,
            cluster: self.cluster + other.cluster,
        }
    }

    /// What one more holder of an address adds, given who holds it already.
    pub fn of_joining(key: &ServiceKey, others: Option<Holders<'_>>) -> Self {
        let news =
            others.is_none_or(|holders| !holders.has_namespace(&key.cluster, &key.namespace));
        Self {
            namespace: u64::from(news),
            cluster: u64::from(others.is_none()),
        }
    }

    /// What goes when one of the holders of an address lets go.
    pub fn of_leaving(key: &ServiceKey, holders: Holders<'_>) -> Self {
        let (namespace, cluster) = holders.emptied_by(key);
        Self {
            namespace: u64::from(namespace),
            cluster: u64::from(cluster),
        }
    }
}

impl Quotas {
    pub fn add(&mut self, pools: &Pools, pool: PoolIndex, key: &ServiceKey, weight: Weight) {
        let spec = pools.spec(pool);
        if spec.max_per_namespace.is_some() {
            let of = (pool, key.cluster.clone(), key.namespace.clone());
            *self.namespaces.entry(of).or_default() += weight.namespace;
        }
        if spec.max_per_cluster.is_some() {
            *self
                .clusters
                .entry((pool, key.cluster.clone()))
                .or_default() += weight.cluster;
        }
    }

    pub fn remove(&mut self, pools: &Pools, pool: PoolIndex, key: &ServiceKey, weight: Weight) {
        let spec = pools.spec(pool);
        if spec.max_per_namespace.is_some() {
            let of = (pool, key.cluster.clone(), key.namespace.clone());
            if let Some(count) = self.namespaces.get_mut(&of) {
                *count -= weight.namespace;
                if *count == 0 {
                    self.namespaces.remove(&of);
                }
            }
        }
        if spec.max_per_cluster.is_some() {
            let of = (pool, key.cluster.clone());
            if let Some(count) = self.clusters.get_mut(&of) {
                *count -= weight.cluster;
                if *count == 0 {
                    self.clusters.remove(&of);
                }
            }
        }
    }

    /// How many a Service's namespace and cluster have of a pool, as far as it limits them.
    pub fn used(&self, pool: PoolIndex, key: &ServiceKey) -> Weight {
        let namespace = (pool, key.cluster.clone(), key.namespace.clone());
        let cluster = (pool, key.cluster.clone());
        Weight {
            namespace: self.namespaces.get(&namespace).copied().unwrap_or_default(),
            cluster: self.clusters.get(&cluster).copied().unwrap_or_default(),
        }
    }

    /// The limit that `joining` would break, on top of what the same request
    /// takes elsewhere and gives back.
    pub fn reached(
        &self,
        spec: &PoolSpec,
        pool: PoolIndex,
        key: &ServiceKey,
        joining: Weight,
        (taken, given_back): (Weight, Weight),
    ) -> Option<Reached> {
        let check = |scope, limit: u64, used: u64, amount: fn(Weight) -> u64| {
            let more = amount(joining);
            let used = (used + amount(taken)).saturating_sub(amount(given_back));
            (more > 0 && used + more > limit).then_some(Reached { scope, limit, used })
        };
        let namespace = spec.max_per_namespace.and_then(|limit| {
            let of = (pool, key.cluster.clone(), key.namespace.clone());
            let used = self.namespaces.get(&of).copied().unwrap_or_default();
            check(Scope::Namespace, limit, used, |weight| weight.namespace)
        });
        namespace.or_else(|| {
            let limit = spec.max_per_cluster?;
            let of = (pool, key.cluster.clone());
            let used = self.clusters.get(&of).copied().unwrap_or_default();
            check(Scope::Cluster, limit, used, |weight| weight.cluster)
        })
    }
}

//! Who may use which pool, who may share an address, and what limits count.

use std::{cmp::Reverse, net::IpAddr};

use lb_allocator::engine::{
    Allocation, Backend, Family, LabelMap, Labels, Namespace, Permitted, PoolName, PoolSpec, Port,
    Reached, Refusal, Requirement, Scope, Selector, ServiceKey, Terms,
};

use crate::book::{Book, Held};

fn selects(selector: &Selector, labels: &LabelMap) -> bool {
    selector.0.iter().all(|requirement| match requirement {
        Requirement::In(name, values) => labels.get(name).is_some_and(|v| values.contains(v)),
        Requirement::NotIn(name, values) => !labels.get(name).is_some_and(|v| values.contains(v)),
        Requirement::Exists(name) => labels.get(name).is_some(),
        Requirement::DoesNotExist(name) => labels.get(name).is_none(),
    })
}

fn serves_namespace(pool: &PoolSpec, key: &ServiceKey, labels: &Labels) -> bool {
    let mut serves = true;
    if let Some(namespaces) = &pool.namespaces {
        serves &= namespaces.contains(&key.namespace);
    }
    if let Some(clusters) = &pool.clusters {
        serves &= clusters.contains(&key.cluster);
    }
    if let Some(selector) = &pool.namespace_selector {
        serves &= selects(selector, &labels.namespace);
    }
    serves
}

impl Book {
    pub fn pool(&self, name: &PoolName) -> Option<&PoolSpec> {
        self.pools.iter().find(|pool| pool.name == *name)
    }

    /// Every selector that is set must match, and a fenced namespace stays inside.
    pub fn serves(&self, pool: &PoolSpec, key: &ServiceKey, labels: &Labels) -> bool {
        let of_service = pool.service_selector.as_ref();
        let is_fenced = self
            .pools
            .iter()
            .any(|other| other.fenced && serves_namespace(other, key, labels));
        serves_namespace(pool, key, labels)
            && of_service.is_none_or(|selector| selects(selector, &labels.service))
            && (pool.fenced || !is_fenced)
    }

    /// Only labels that some selector names are kept.
    pub fn seen_by_selectors(&self, labels: &Labels) -> Labels {
        let seen = |selectors: Vec<&Selector>, labels: &LabelMap| -> LabelMap {
            let requirements: Vec<_> = selectors.iter().flat_map(|s| &s.0).collect();
            let is_seen = |label: &String| {
                requirements.iter().any(|requirement| match requirement {
                    Requirement::In(name, _)
                    | Requirement::NotIn(name, _)
                    | Requirement::Exists(name)
                    | Requirement::DoesNotExist(name) => name == label,
                })
            };
            let pairs = labels.iter().filter(|(label, _)| is_seen(label));
            pairs.map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        let pools = || self.pools.iter();
        Labels {
            service: seen(
                pools()
                    .filter_map(|p| p.service_selector.as_ref())
                    .collect(),
                &labels.service,
            ),
            namespace: seen(
                pools()
                    .filter_map(|p| p.namespace_selector.as_ref())
                    .collect(),
                &labels.namespace,
            ),
        }
    }

    /// Bound pools before open ones, then by priority, then by name.
    pub fn serving(&self, key: &ServiceKey, labels: &Labels) -> Vec<&PoolSpec> {
        let mut serving: Vec<_> = self
            .pools
            .iter()
            .filter(|pool| self.serves(pool, key, labels))
            .collect();
        serving.sort_by_key(|pool| {
            let is_bound = pool.namespaces.is_some()
                || pool.clusters.is_some()
                || pool.namespace_selector.is_some()
                || pool.service_selector.is_some();
            let is_ranked = pool.priority.is_some();
            (Reverse(is_bound), Reverse(is_ranked), pool.priority)
        });
        serving
    }

    /// Why a Service may not hold an address on these terms, beside its holders.
    pub fn may_hold(
        &self,
        key: &ServiceKey,
        terms: Option<&Terms>,
        address: IpAddr,
    ) -> Result<(), Refusal> {
        let mut others = self.holders(address);
        others.retain(|held| held.key != *key);
        let Some(first) = others.first() else {
            return Ok(());
        };
        let Some(mine) = terms else {
            let pool = self.pool_of(address).map(|pool| pool.name.clone());
            return Err(Refusal::AddressInUse {
                address,
                pool: pool.unwrap_or_else(|| first.pool.clone()),
                holder: (first.key.cluster == key.cluster).then(|| first.key.clone().into()),
            });
        };
        let theirs: Vec<(&Held, &Terms)> = others
            .iter()
            .filter_map(|held| Some((*held, held.holder.sharing.as_deref()?)))
            .collect();
        if theirs.len() < others.len() || theirs.iter().any(|(_, terms)| terms.key != mine.key) {
            return Err(Refusal::SharingKeyMismatch { address });
        }
        if !theirs.iter().all(|(held, terms)| {
            held.key.cluster == key.cluster
                && same_backend(mine, terms)
                && permit_each_other((&key.namespace, mine), (&held.key.namespace, terms))
        }) {
            return Err(Refusal::SharingNotPermitted { address });
        }
        let clash = |port: &Port| {
            let holder = theirs.iter().find(|(_, terms)| terms.ports.contains(port));
            holder.map(|(held, _)| (*port, held.key.clone().into()))
        };
        match mine.ports.iter().find_map(clash) {
            None => Ok(()),
            Some((port, holder)) => Err(Refusal::SharingPortClash {
                address,
                port,
                holder,
            }),
        }
    }

    /// The limit of a pool that a Service breaks by `joining` (`None`: an address
    /// that nobody holds), after it let go of `leaving` and took `taken`.
    pub fn limit(
        &self,
        pool: &PoolSpec,
        key: &ServiceKey,
        leaving: &[IpAddr],
        taken: &[IpAddr],
        joining: Option<IpAddr>,
    ) -> Option<Refusal> {
        let mut holding: Vec<(IpAddr, &ServiceKey)> = self
            .held
            .iter()
            .filter(|held| held.key != *key || !leaving.contains(&held.address))
            .map(|held| (held.address, &held.key))
            .collect();
        holding.extend(taken.iter().map(|address| (*address, key)));
        let counted = |holding: &[(IpAddr, &ServiceKey)], scope: Scope| {
            let mut addresses: Vec<_> = holding
                .iter()
                .filter(|(_, other)| {
                    other.cluster == key.cluster
                        && (scope == Scope::Cluster || other.namespace == key.namespace)
                })
                .map(|(address, _)| *address)
                .filter(|address| self.pool_of(*address).is_some_and(|p| p.name == pool.name))
                .collect();
            addresses.sort();
            addresses.dedup();
            addresses.len() as u64
        };
        let mut after = holding.clone();
        after.extend(joining.map(|joining| (joining, key)));
        let limits = [
            (Scope::Namespace, pool.max_per_namespace),
            (Scope::Cluster, pool.max_per_cluster),
        ];
        limits.into_iter().find_map(|(scope, limit)| {
            let limit = limit?;
            let used = counted(&holding, scope);
            let more = counted(&after, scope) + u64::from(joining.is_none());
            (more > used && more > limit).then(|| Refusal::QuotaExceeded {
                pool: pool.name.clone(),
                reached: Reached { scope, limit, used },
            })
        })
    }

    /// Addresses of one sharing key, the lowest first.
    pub fn of_group(&self, key: &ServiceKey, terms: &Terms, family: Family) -> Vec<IpAddr> {
        let mut addresses: Vec<_> = self
            .held
            .iter()
            .filter(|held| {
                let sharing = held.holder.sharing.as_ref();
                held.key.cluster == key.cluster && sharing.is_some_and(|s| s.key == terms.key)
            })
            .map(|held| held.address)
            .filter(|address| Family::of(*address) == family)
            .collect();
        addresses.sort();
        addresses.dedup();
        addresses
    }
}

fn same_backend(one: &Terms, other: &Terms) -> bool {
    match (&one.backend, &other.backend) {
        (Backend::Cluster, Backend::Cluster) => true,
        (Backend::Local(one), Backend::Local(other)) => !one.is_empty() && one == other,
        (Backend::Cluster, Backend::Local(_)) | (Backend::Local(_), Backend::Cluster) => false,
    }
}

fn permit_each_other(one: (&Namespace, &Terms), other: (&Namespace, &Terms)) -> bool {
    let permits = |terms: &Terms, namespace: &Namespace| match &terms.permitted {
        Permitted::All => true,
        Permitted::Only(namespaces) => namespaces.contains(namespace),
    };
    one.0 == other.0 || (permits(one.1, other.0) && permits(other.1, one.0))
}

/// Whether two holders may have one address.
pub fn may_share(one: &Allocation, other: &Allocation) -> bool {
    let (Some(mine), Some(theirs)) = (&one.holder.sharing, &other.holder.sharing) else {
        return false;
    };
    mine.key == theirs.key
        && one.key.cluster == other.key.cluster
        && same_backend(mine, theirs)
        && permit_each_other((&one.key.namespace, mine), (&other.key.namespace, theirs))
        && mine.ports.is_disjoint(&theirs.ports)
}

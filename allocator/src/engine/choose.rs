//! What one family of a wish may have, looked at alone.

use std::{net::IpAddr, sync::Arc};

use super::{
    Engine,
    acquire::Acquire,
    address::Family,
    change::Allocation,
    free::Availability,
    key::{PoolName, ServiceKey},
    pools::{Located, PoolIndex},
    refusal::Refusal,
    sharing::Clash,
};

/// What one family shall get.
#[derive(Clone, Debug)]
pub(super) enum Choice {
    Keep(Arc<Allocation>),
    Take {
        address: IpAddr,
        pool: PoolIndex,
    },
    /// Any address of these pools, or else one that it has something to do with.
    Open(Result<Vec<PoolIndex>, Refusal>),
    Refused(Refusal),
}

pub(super) type Choices = [(Family, Choice)];

impl Engine {
    pub(super) fn choose(&self, acquire: &Acquire, family: Family) -> Choice {
        let Acquire { key, wish, .. } = acquire;
        let held = self.held_by(key, family);
        let stays = held.filter(|held| self.may_not_stay(held, acquire).is_none());
        if let Some(address) = self.handed_over(key, family)
            && wish
                .requested
                .get(family)
                .is_none_or(|requested| requested == address)
            && let Ok(pool) = self.requested(acquire, address)
        {
            return Choice::Take { address, pool };
        }
        if let Some(address) = *wish.requested.get(family) {
            return match stays {
                Some(held) if held.address == address => Choice::Keep(Arc::clone(held)),
                Some(_) | None => self
                    .requested(acquire, address)
                    .map_or_else(Choice::Refused, |pool| Choice::Take { address, pool }),
            };
        }
        let stays = stays.filter(|held| match &wish.pool {
            None => true,
            Some(name) => {
                let pool = self.pools.by_name(name.as_str());
                pool.is_some_and(|pool| self.pools.locate(held.address) == Located::In(pool))
            }
        });
        if let Some(held) = stays {
            return Choice::Keep(Arc::clone(held));
        }
        Choice::Open(self.candidates(acquire, family))
    }

    /// Pools that this Service may get an address of a family from.
    pub(super) fn candidates(
        &self,
        acquire: &Acquire,
        family: Family,
    ) -> Result<Vec<PoolIndex>, Refusal> {
        match &acquire.wish.pool {
            None => self.auto_pools(acquire, family),
            Some(name) => self
                .wished_pool(acquire, name, family)
                .map(|pool| vec![pool]),
        }
    }

    /// Pools that give addresses of a family to this Service unasked.
    fn auto_pools(&self, acquire: &Acquire, family: Family) -> Result<Vec<PoolIndex>, Refusal> {
        let Acquire { key, wish, .. } = acquire;
        let mut pools = self.pools.serving(key, &wish.labels);
        pools.retain(|pool| {
            self.pools.spec(*pool).auto_assign && !self.pools.usable(*pool).get(family).is_empty()
        });
        let disabled = pools
            .iter()
            .find(|pool| self.pools.spec(**pool).disabled)
            .copied();
        pools.retain(|pool| !self.pools.spec(*pool).disabled);
        match (pools.is_empty(), disabled) {
            (false, _) => Ok(pools),
            (true, Some(pool)) => Err(Refusal::PoolDisabled {
                pool: self.pools.spec(pool).name.clone(),
            }),
            (true, None) => Err(Refusal::NoPool {
                namespace: key.namespace.clone(),
                family,
            }),
        }
    }

    /// The pool asked for by name, if it gives addresses of a family to this
    /// Service.
    fn wished_pool(
        &self,
        acquire: &Acquire,
        name: &PoolName,
        family: Family,
    ) -> Result<PoolIndex, Refusal> {
        let pool = self.known_pool(name)?;
        self.allowed(acquire, pool)?;
        if self.pools.usable(pool).get(family).is_empty() {
            return Err(Refusal::NoPool {
                namespace: acquire.key.namespace.clone(),
                family,
            });
        }
        Ok(pool)
    }

    fn known_pool(&self, name: &PoolName) -> Result<PoolIndex, Refusal> {
        self.pools
            .by_name(name.as_str())
            .ok_or_else(|| Refusal::PoolNotFound { pool: name.clone() })
    }

    fn allowed(&self, acquire: &Acquire, pool: PoolIndex) -> Result<(), Refusal> {
        let spec = self.pools.spec(pool);
        if !self.pools.serves(pool, &acquire.key, &acquire.wish.labels) {
            return Err(Refusal::PoolNotAllowed {
                pool: spec.name.clone(),
                namespace: acquire.key.namespace.clone(),
            });
        }
        if spec.disabled {
            return Err(Refusal::PoolDisabled {
                pool: spec.name.clone(),
            });
        }
        Ok(())
    }

    /// Addresses that this Service has something to do with and may have, limits of
    /// pools aside: what is kept for it, then what its sharing key has, its status
    /// shows, it held last.
    pub(super) fn familiar<'a>(
        &'a self,
        acquire: &'a Acquire,
        family: Family,
        candidates: &'a [PoolIndex],
    ) -> impl Iterator<Item = (IpAddr, PoolIndex)> + 'a {
        let Acquire { key, wish, .. } = acquire;
        let reserved = self.reservations.of(key, family);
        let reserved =
            reserved.filter_map(|address| Some((address, self.requested(acquire, address).ok()?)));
        let group = wish
            .sharing
            .iter()
            .flat_map(move |terms| self.held.of_group(&key.cluster, &terms.key, family));
        let shown = wish.current.iter().copied();
        let shown = shown
            .filter(move |shown| Family::of(*shown) == family && self.held.get(*shown).is_none());
        let last = self.free.last_held(key, family);
        let usable = move |address| match self.pools.locate(address) {
            Located::In(pool) if candidates.contains(&pool) => {
                let grantable = self.grantable(acquire, address, pool);
                grantable.is_ok().then_some((address, pool))
            }
            Located::In(_) | Located::Excluded(_) | Located::Nowhere => None,
        };
        reserved.chain(group.chain(shown).chain(last).filter_map(usable))
    }

    /// The pool of a requested address, if the key may have that.
    fn requested(&self, acquire: &Acquire, address: IpAddr) -> Result<PoolIndex, Refusal> {
        let pool = self.requested_pool(acquire, address)?;
        self.grantable(acquire, address, pool)?;
        Ok(pool)
    }

    /// The pool of a requested address, if the key may use it.
    fn requested_pool(&self, acquire: &Acquire, address: IpAddr) -> Result<PoolIndex, Refusal> {
        let wished = match &acquire.wish.pool {
            None => None,
            Some(name) => {
                let pool = self.known_pool(name)?;
                self.allowed(acquire, pool)?;
                Some(pool)
            }
        };
        let elsewhere = || Refusal::AddressNotInPool {
            address,
            pool: acquire.wish.pool.clone(),
        };
        let (pool, excluded) = match self.pools.locate(address) {
            Located::In(pool) => (pool, false),
            Located::Excluded(pool) => (pool, true),
            Located::Nowhere => return Err(elsewhere()),
        };
        if wished.is_some_and(|wished| wished != pool) {
            return Err(elsewhere());
        }
        self.allowed(acquire, pool)?;
        if excluded {
            return Err(Refusal::AddressExcluded {
                address,
                pool: self.pools.spec(pool).name.clone(),
            });
        }
        Ok(pool)
    }

    /// Whether the key may have an address of a pool that it may use, limits aside.
    fn grantable(
        &self,
        acquire: &Acquire,
        address: IpAddr,
        pool: PoolIndex,
    ) -> Result<(), Refusal> {
        let Acquire { key, wish, .. } = acquire;
        let name = || self.pools.spec(pool).name.clone();
        let reservation = self.reservations.get(address);
        if reservation.is_some_and(|reserved| reserved.key.as_ref() != Some(key)) {
            return Err(Refusal::AddressReserved {
                address,
                pool: name(),
            });
        }
        if let Some(other) = self.kept_from(key, address) {
            return Err(Refusal::AddressShown {
                address,
                pool: name(),
                by: Some(Arc::clone(&other.key)).filter(|other| other.cluster == key.cluster),
            });
        }
        let shown = self.conflicts.get(key, address);
        let is_kept = shown.is_some_and(|shown| shown.keeps_away());
        let cools = self.free.cooling_until(address, self.now);
        let cools = cools.filter(|(last, _)| *last != &**key);
        match self.held.get(address) {
            Some(holders) => holders
                .admit(key, wish.sharing.as_deref())
                .map_err(|clash| self.clash(clash, key, address, pool)),
            None if reservation.is_some() => Ok(()),
            None if is_kept => match cools {
                None => Ok(()),
                Some((_, until)) => Err(Refusal::PoolCoolingDown {
                    pools: vec![name()],
                    family: Family::of(address),
                    until,
                }),
            },
            None => match self.free.availability(pool, address, key) {
                Availability::Free => Ok(()),
                Availability::Cooling(until) => Err(Refusal::PoolCoolingDown {
                    pools: vec![name()],
                    family: Family::of(address),
                    until,
                }),
                Availability::Taken => Err(Refusal::AddressInUse {
                    address,
                    pool: name(),
                    holder: None,
                }),
            },
        }
    }

    /// Why a Service that asks to share cannot join those of its sharing key.
    pub(super) fn why_not_shared(
        &self,
        acquire: &Acquire,
        family: Family,
        pools: &[PoolIndex],
    ) -> Option<Refusal> {
        let Acquire { key, wish, .. } = acquire;
        let terms = wish.sharing.as_deref()?;
        let mut group = self.held.of_group(&key.cluster, &terms.key, family);
        group.find_map(|address| {
            let Located::In(pool) = self.pools.locate(address) else {
                return None;
            };
            let clash = self.held.get(address)?.admit(key, Some(terms)).err()?;
            let is_of_these = pools.contains(&pool);
            is_of_these.then(|| self.clash(clash, key, address, pool))
        })
    }

    fn clash(&self, clash: Clash, key: &ServiceKey, address: IpAddr, pool: PoolIndex) -> Refusal {
        match clash {
            Clash::NotShared => {
                let holders = self.held.get(address);
                let first =
                    holders.and_then(|holders| holders.iter().find(|held| *held.key != *key));
                Refusal::AddressInUse {
                    address,
                    pool: self.pools.spec(pool).name.clone(),
                    holder: first
                        .map(|held| Arc::clone(&held.key))
                        .filter(|holder| holder.cluster == key.cluster),
                }
            }
            Clash::Key => Refusal::SharingKeyMismatch { address },
            Clash::Port { port, holder } => Refusal::SharingPortClash {
                address,
                port,
                holder,
            },
            Clash::NotPermitted => Refusal::SharingNotPermitted { address },
        }
    }
}

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
    quota::Weight,
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
        /// Pools to look in, should this one not be possible after all; none
        /// where just this address was asked for.
        or: Vec<PoolIndex>,
    },
    AnyOf(Vec<PoolIndex>),
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
            && let taken @ Choice::Take { .. } = self.requested(acquire, address)
        {
            return taken;
        }
        if let Some(address) = *wish.requested.get(family) {
            return match stays {
                Some(held) if held.address == address => Choice::Keep(Arc::clone(held)),
                Some(_) | None => self.requested(acquire, address),
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
        if let Some(reserved) = self.reserved(acquire, family) {
            return reserved;
        }
        let candidates = self.candidates(acquire, family);
        match candidates {
            Err(refusal) => Choice::Refused(refusal),
            Ok(candidates) => self
                .familiar(acquire, family, &candidates)
                .unwrap_or(Choice::AnyOf(candidates)),
        }
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

    /// An address that is kept for this Service.
    fn reserved(&self, acquire: &Acquire, family: Family) -> Option<Choice> {
        let mut addresses = self.reservations.of(&acquire.key, family);
        addresses.find_map(|address| match self.requested(acquire, address) {
            Choice::Take { address, pool, .. } => Some(Choice::Take {
                address,
                pool,
                or: self.candidates(acquire, family).unwrap_or_default(),
            }),
            Choice::Keep(_) | Choice::AnyOf(_) | Choice::Refused(_) => None,
        })
    }

    /// An address that this Service has something to do with.
    fn familiar(
        &self,
        acquire: &Acquire,
        family: Family,
        candidates: &[PoolIndex],
    ) -> Option<Choice> {
        let Acquire { key, wish, .. } = acquire;
        let usable = |address: &IpAddr| match self.pools.locate(*address) {
            Located::In(pool) if candidates.contains(&pool) => {
                let grantable = self.grantable(acquire, *address, pool).is_ok();
                grantable.then_some(Choice::Take {
                    address: *address,
                    pool,
                    or: candidates.to_vec(),
                })
            }
            Located::In(_) | Located::Excluded(_) | Located::Nowhere => None,
        };
        let group = wish
            .sharing
            .iter()
            .flat_map(|terms| self.held.of_group(&key.cluster, &terms.key, family));
        let shown = wish
            .current
            .iter()
            .copied()
            .filter(|shown| Family::of(*shown) == family && self.held.get(*shown).is_none());
        let last = self.free.last_held(key, family);
        let mut all = group.chain(shown).chain(last);
        all.find_map(|address| usable(&address))
    }

    fn requested(&self, acquire: &Acquire, address: IpAddr) -> Choice {
        let granted = self
            .requested_pool(acquire, address)
            .and_then(|pool| self.grantable(acquire, address, pool).map(|()| pool));
        match granted {
            Ok(pool) => Choice::Take {
                address,
                pool,
                or: Vec::new(),
            },
            Err(refusal) => Choice::Refused(refusal),
        }
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

    /// Whether the key may have an address of a pool that it may use, if it takes
    /// nothing else.
    pub(super) fn grantable(
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
        let holders = self.held.get(address);
        match holders {
            Some(holders) => holders
                .admit(key, wish.sharing.as_deref())
                .map_err(|clash| self.clash(clash, key, address, pool))?,
            None if reservation.is_some() => {}
            None => match self.free.availability(pool, address, key) {
                Availability::Free => {}
                Availability::Cooling(until) => {
                    return Err(Refusal::PoolCoolingDown {
                        pools: vec![name()],
                        family: Family::of(address),
                        until,
                    });
                }
                Availability::Taken => {
                    return Err(Refusal::AddressInUse {
                        address,
                        pool: name(),
                        holder: None,
                    });
                }
            },
        }
        let joining = Weight::of_joining(key, holders);
        let family = Family::of(address);
        self.within_quota(acquire, &[family], pool, joining, Weight::default())
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

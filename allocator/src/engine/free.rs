//! Which addresses are free, and who held them last.
//!
//! What each index pays for:
//! - `fresh`: the lowest address that is nobody's, O(log holes);
//! - `sticky`: the lowest address that is kept for whoever held it last,
//!   O(log free ones of that kind);
//! - `by_key`: the address that a Service held last, O(1);
//! - `by_address`: whose mark has to go when an address is taken, O(1);
//! - `expiry`: which marks stop to protect their address by now, so that no
//!   request ever scans for them, O(log marks) each.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{
    address::{Family, PerFamily},
    change::{LastHeld, Timestamp},
    key::ServiceKey,
    pools::{Located, PoolIndex, Pools},
    ranges::RangeSet,
};

/// The free addresses of one pool.
#[derive(Clone, Debug, Default)]
struct PoolFree {
    fresh: PerFamily<RangeSet>,
    sticky: PerFamily<BTreeSet<u128>>,
}

#[derive(Clone, Debug)]
struct Mark {
    address: IpAddr,
    /// `None`: in no pool, so that there is nothing to protect.
    protected_until: Option<Timestamp>,
}

/// Free addresses of all pools, in the order of [`Pools::indexes`].
#[derive(Clone, Debug, Default)]
pub struct Free {
    pools: Vec<PoolFree>,
    by_key: HashMap<Arc<ServiceKey>, PerFamily<Option<Mark>>>,
    by_address: HashMap<IpAddr, Arc<ServiceKey>>,
    expiry: BTreeSet<(Timestamp, IpAddr)>,
}

impl Free {
    /// Everything usable is free.
    pub fn new(pools: &Pools) -> Self {
        Self {
            pools: pools
                .indexes()
                .map(|index| PoolFree {
                    fresh: pools.usable(index).clone(),
                    sticky: PerFamily::default(),
                })
                .collect(),
            ..Self::default()
        }
    }

    pub fn is_free(&self, pool: PoolIndex, address: IpAddr) -> bool {
        let (family, number) = (Family::of(address), Family::number(address));
        self.pool(pool).is_some_and(|free| {
            free.fresh.get(family).contains(number) || free.sticky.get(family).contains(&number)
        })
    }

    /// The lowest address that nobody has a claim to.
    pub fn lowest_fresh(&self, pool: PoolIndex, family: Family) -> Option<IpAddr> {
        let number = self.pool(pool)?.fresh.get(family).first()?;
        Some(family.address(number))
    }

    /// The lowest free address that is kept for whoever held it last.
    pub fn lowest_sticky(&self, pool: PoolIndex, family: Family) -> Option<IpAddr> {
        let number = self.pool(pool)?.sticky.get(family).first()?;
        Some(family.address(*number))
    }

    /// The address that `key` held last, if nobody took it since.
    pub fn last_held(&self, key: &ServiceKey, family: Family) -> Option<IpAddr> {
        let mark = self.by_key.get(key)?.get(family).as_ref()?;
        Some(mark.address)
    }

    /// The address is held from now on, and whoever held it last has lost the
    /// claim to it.
    pub fn take(&mut self, pools: &Pools, address: IpAddr) {
        if let Some(key) = self.by_address.get(&address).cloned() {
            self.forget(&key, Family::of(address));
        }
        let (family, number) = (Family::of(address), Family::number(address));
        if let Some(free) = self.pool_of(pools, address) {
            free.fresh.get_mut(family).remove(number);
            free.sticky.get_mut(family).remove(&number);
        }
    }

    /// The address is free from now on, and `key` may claim it back. What `key`
    /// could claim before is anybody's.
    pub fn give(&mut self, pools: &Pools, last: LastHeld, now: Timestamp) {
        let LastHeld {
            address,
            key,
            released_at,
        } = last;
        let (family, number) = (Family::of(address), Family::number(address));
        if let Some(older) = self.last_held(&key, family) {
            self.forget(&key, family);
            if let Some(free) = self.pool_of(pools, older) {
                let number = Family::number(older);
                if free.sticky.get_mut(family).remove(&number) {
                    free.fresh.get_mut(family).insert(number);
                }
            }
        }
        let protected_until = match pools.locate(address) {
            Located::In(pool) => Some(released_at.after(pools.spec(pool).sticky_for)),
            Located::Excluded(_) | Located::Nowhere => None,
        };
        if let Some(free) = self.pool_of(pools, address) {
            if protected_until.is_some_and(|until| until > now) {
                free.fresh.get_mut(family).remove(number);
                free.sticky.get_mut(family).insert(number);
            } else {
                free.fresh.get_mut(family).insert(number);
            }
        }
        if let Some(until) = protected_until {
            self.expiry.insert((until, address));
        }
        self.by_address.insert(address, Arc::clone(&key));
        *self.by_key.entry(key).or_default().get_mut(family) = Some(Mark {
            address,
            protected_until,
        });
    }

    /// Ends the protection of marks whose time has come. The claim of the last
    /// holder stays until somebody takes the address.
    pub fn expire(&mut self, pools: &Pools, now: Timestamp) {
        while let Some((until, address)) = self.expiry.first().copied()
            && until <= now
        {
            self.expiry.pop_first();
            let (family, number) = (Family::of(address), Family::number(address));
            if let Some(free) = self.pool_of(pools, address)
                && free.sticky.get_mut(family).remove(&number)
            {
                free.fresh.get_mut(family).insert(number);
            }
        }
    }

    fn forget(&mut self, key: &ServiceKey, family: Family) {
        let Some(marks) = self.by_key.get_mut(key) else {
            return;
        };
        if let Some(mark) = marks.get_mut(family).take() {
            self.by_address.remove(&mark.address);
            if let Some(until) = mark.protected_until {
                self.expiry.remove(&(until, mark.address));
            }
        }
        if marks.iter().all(|(_, mark)| mark.is_none()) {
            self.by_key.remove(key);
        }
    }

    fn pool(&self, pool: PoolIndex) -> Option<&PoolFree> {
        self.pools.get(pool.position())
    }

    fn pool_of(&mut self, pools: &Pools, address: IpAddr) -> Option<&mut PoolFree> {
        match pools.locate(address) {
            Located::In(pool) => self.pools.get_mut(pool.position()),
            Located::Excluded(_) | Located::Nowhere => None,
        }
    }
}

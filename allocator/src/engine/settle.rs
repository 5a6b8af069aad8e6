//! The families of a wish together: limits of pools that both count for, one pool
//! for both, and which address each gets.

use std::net::IpAddr;

use super::{
    Engine, Free,
    acquire::Acquire,
    address::Family,
    choose::{Choice, Choices},
    key::ServiceKey,
    pools::{Located, PoolIndex},
    quota::Weight,
    refusal::Refusal,
};

impl Engine {
    /// Whether `joining` keeps the limits of a pool, together with what the
    /// request takes from it already, and gives back to it in `moving` families.
    pub(super) fn within_quota(
        &self,
        acquire: &Acquire,
        moving: &[Family],
        pool: PoolIndex,
        joining: Weight,
        taken: Weight,
    ) -> Result<(), Refusal> {
        let key = &acquire.key;
        let given_back = moving
            .iter()
            .filter_map(|family| self.held_by(key, *family))
            .filter(|held| self.pools.locate(held.address) == Located::In(pool))
            .filter_map(|held| self.held.get(held.address))
            .map(|holders| Weight::of_leaving(key, holders))
            .fold(Weight::default(), Weight::plus);
        let spec = self.pools.spec(pool);
        match self
            .quotas
            .reached(spec, pool, key, joining, (taken, given_back))
        {
            None => Ok(()),
            Some(reached) => Err(Refusal::QuotaExceeded {
                pool: spec.name.clone(),
                reached,
            }),
        }
    }

    /// What choices take from a pool.
    fn taken_from(&self, key: &ServiceKey, pool: PoolIndex, choices: &Choices) -> Weight {
        let taken = choices.iter().filter_map(|(_, choice)| match choice {
            Choice::Take {
                address,
                pool: from,
                ..
            } if *from == pool => Some(Weight::of_joining(key, self.held.get(*address))),
            Choice::Take { .. } | Choice::Keep(_) | Choice::AnyOf(_) | Choice::Refused(_) => None,
        });
        taken.fold(Weight::default(), Weight::plus)
    }

    /// Refuses addresses that are fine each alone, but together break a limit.
    fn check_together(&self, acquire: &Acquire, choices: &mut Choices) {
        let moving = moving(choices);
        for index in 0..choices.len() {
            let (before, rest) = choices.split_at_mut(index);
            if let Some((_, choice)) = rest.first_mut()
                && let Choice::Take { address, pool, or } = choice
            {
                let (address, pool) = (*address, *pool);
                let joining = Weight::of_joining(&acquire.key, self.held.get(address));
                let taken = self.taken_from(&acquire.key, pool, before);
                if let Err(refusal) = self.within_quota(acquire, &moving, pool, joining, taken) {
                    *choice = match or.as_slice() {
                        [] => Choice::Refused(refusal),
                        pools => Choice::AnyOf(pools.to_vec()),
                    };
                }
            }
        }
    }

    /// Turns every [`Choice::AnyOf`] into an address or a refusal.
    pub(super) fn settle(&self, acquire: &Acquire, choices: &mut Choices) {
        self.check_together(acquire, choices);
        let preferred = self.common_pool(acquire, choices);
        let open: Vec<_> = choices
            .iter()
            .enumerate()
            .filter_map(|(index, (family, choice))| match choice {
                Choice::AnyOf(pools) => Some((index, *family, pools.clone())),
                Choice::Keep(_) | Choice::Take { .. } | Choice::Refused(_) => None,
            })
            .collect();
        // Twice: a refusal is told as it is when the other family has its
        // address, so that asking again gives the same reason.
        for _ in 0..2 {
            for (index, family, pools) in &open {
                if let Some((_, choice)) = choices.get(*index)
                    && !matches!(choice, Choice::Take { .. })
                {
                    let settled = self.any_of(acquire, *family, pools, preferred, choices);
                    if let Some((_, choice)) = choices.get_mut(*index) {
                        *choice = settled;
                    }
                }
            }
        }
    }

    /// The pool from which all families can be served.
    fn common_pool(&self, acquire: &Acquire, choices: &Choices) -> Option<PoolIndex> {
        let settled = choices.iter().find_map(|(_, choice)| match choice {
            Choice::Keep(held) => match self.pools.locate(held.address) {
                Located::In(pool) => Some(pool),
                Located::Excluded(_) | Located::Nowhere => None,
            },
            Choice::Take { pool, .. } => Some(*pool),
            Choice::AnyOf(_) | Choice::Refused(_) => None,
        });
        if settled.is_some() {
            return settled;
        }
        let [(one, Choice::AnyOf(pools)), (other, Choice::AnyOf(others))] = choices else {
            return None;
        };
        let moving = [*one, *other];
        let fits = |pool| self.within_quota(acquire, &moving, pool, Weight::ONE, Weight::ONE);
        pools.iter().copied().find(|pool| {
            others.contains(pool)
                && self.free.lowest_fresh(*pool, *one).is_some()
                && self.free.lowest_fresh(*pool, *other).is_some()
                && fits(*pool).is_ok()
        })
    }

    fn any_of(
        &self,
        acquire: &Acquire,
        family: Family,
        pools: &[PoolIndex],
        preferred: Option<PoolIndex>,
        choices: &Choices,
    ) -> Choice {
        let moving = moving(choices);
        let mut over_quota = None;
        let mut in_order = pools.to_vec();
        in_order.retain(|pool| {
            let taken = self.taken_from(&acquire.key, *pool, choices);
            match self.within_quota(acquire, &moving, *pool, Weight::ONE, taken) {
                Ok(()) => true,
                Err(refusal) => {
                    let has_free = self.free.lowest_fresh(*pool, family).is_some()
                        || self.free.lowest_sticky(*pool, family).is_some();
                    if has_free {
                        over_quota.get_or_insert(refusal);
                    }
                    false
                }
            }
        });
        in_order.sort_by_key(|pool| Some(*pool) != preferred);
        let lowest = |of: fn(&Free, PoolIndex, Family) -> Option<IpAddr>| {
            in_order.iter().find_map(|pool| {
                let address = of(&self.free, *pool, family)?;
                Some(Choice::Take {
                    address,
                    pool: *pool,
                    or: Vec::new(),
                })
            })
        };
        lowest(Free::lowest_fresh)
            .or_else(|| lowest(Free::lowest_sticky))
            .unwrap_or_else(|| {
                Choice::Refused(self.nothing_free(family, pools, &in_order, over_quota))
            })
    }

    /// Why no pool gives an address: what ends by itself is said first.
    fn nothing_free(
        &self,
        family: Family,
        pools: &[PoolIndex],
        within_quota: &[PoolIndex],
        over_quota: Option<Refusal>,
    ) -> Refusal {
        let names = |pools: &[PoolIndex]| {
            let names = pools.iter().map(|pool| self.pools.spec(*pool).name.clone());
            names.collect::<Vec<_>>()
        };
        let cooled = |pool: &PoolIndex| {
            let until = self.free.first_cooled(*pool, family)?;
            Some((until, *pool))
        };
        if let Some((until, _)) = within_quota.iter().filter_map(cooled).min() {
            let cooling: Vec<_> = pools
                .iter()
                .filter(|pool| within_quota.contains(pool) && cooled(pool).is_some())
                .copied()
                .collect();
            return Refusal::PoolCoolingDown {
                pools: names(&cooling),
                family,
                until,
            };
        }
        over_quota.unwrap_or_else(|| Refusal::PoolExhausted {
            pools: names(pools),
            family,
        })
    }
}

/// Families whose address changes, so that what they hold is given back.
fn moving(choices: &Choices) -> Vec<Family> {
    let moving = choices.iter().filter_map(|(family, choice)| match choice {
        Choice::Take { .. } | Choice::AnyOf(_) => Some(*family),
        Choice::Keep(_) | Choice::Refused(_) => None,
    });
    moving.collect()
}

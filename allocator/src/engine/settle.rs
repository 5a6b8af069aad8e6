//! The families of a wish together: limits of pools that both count for, one pool
//! for both, and which address each gets.
//!
//! Addresses that were asked for count first, then the primary family chooses. Only
//! where the second one then gets nothing, and both would the other way round,
//! the second chooses first.

use std::net::IpAddr;

use super::{
    Engine, Free,
    acquire::Acquire,
    address::Family,
    choose::{Choice, Choices},
    limits::Beside,
    pools::{Located, PoolIndex},
    quota::Weight,
    refusal::Refusal,
};

/// The lowest address of a pool that is in some stage.
type Lowest = fn(&Free, PoolIndex, Family) -> Option<IpAddr>;

impl Engine {
    /// Turns every [`Choice::Open`] into an address or a refusal, and refuses what
    /// breaks a limit.
    pub(super) fn settle(&self, acquire: &Acquire, choices: &mut Vec<(Family, Choice)>) {
        self.limit_requested(acquire, choices);
        let filled = self.fill(acquire, choices, [0, 1]);
        let are_open = choices
            .iter()
            .all(|(_, choice)| matches!(choice, Choice::Open(_)));
        if choices.len() > 1 && are_open && is_refused(&filled) {
            let other_way = self.fill(acquire, choices, [1, 0]);
            *choices = if is_refused(&other_way) {
                filled
            } else {
                other_way
            };
        } else {
            *choices = filled;
        }
    }

    /// Refuses addresses that were asked for and break a limit. Where both families keep it
    /// only without the other one, the primary family gets its address.
    fn limit_requested(&self, acquire: &Acquire, choices: &mut Choices) {
        let is_taken = |(_, choice): &(Family, Choice)| matches!(choice, Choice::Take { .. });
        if !choices.iter().any(is_taken) {
            return;
        }
        let asked = choices.to_vec();
        let mut refusals = vec![None; asked.len()];
        for granted in [[true, true], [true, false], [false, true], [false, false]] {
            let mut trial = asked.clone();
            for ((_, choice), (refusal, is_granted)) in
                trial.iter_mut().zip(refusals.iter().zip(granted))
            {
                if let (Choice::Take { .. }, Some(refusal), false) = (&*choice, refusal, is_granted)
                {
                    *choice = Choice::Refused(Refusal::clone(refusal));
                }
            }
            let over: Vec<_> = trial
                .iter()
                .map(|(family, choice)| self.over_limit(acquire, &trial, *family, choice))
                .collect();
            if over.iter().all(Option::is_none) {
                choices.clone_from_slice(&trial);
                return;
            }
            for (known, over) in refusals.iter_mut().zip(over) {
                *known = over.or(known.take());
            }
        }
    }

    /// The limit that an address for a family breaks, next to what the other one gets.
    fn over_limit(
        &self,
        acquire: &Acquire,
        choices: &Choices,
        family: Family,
        choice: &Choice,
    ) -> Option<Refusal> {
        let Choice::Take { address, pool } = choice else {
            return None;
        };
        let mut beside = self.beside(acquire, choices, family);
        beside.taken.retain(|(taken, _)| taken != address);
        self.fits(acquire, &beside, *address, *pool).err()
    }

    fn fill(
        &self,
        acquire: &Acquire,
        choices: &Choices,
        order: [usize; 2],
    ) -> Vec<(Family, Choice)> {
        let mut filled = choices.to_vec();
        // Twice: a refusal is told as it is when the other family has its
        // address, so that asking again gives the same reason.
        for index in order.into_iter().chain(order) {
            if let Some((family, Choice::Open(pools))) = choices.get(index)
                && let Some((_, Choice::Open(_) | Choice::Refused(_))) = filled.get(index)
            {
                let picked = self.pick(acquire, *family, pools, &filled);
                if let Some((_, choice)) = filled.get_mut(index) {
                    *choice = picked;
                }
            }
        }
        filled
    }

    /// The best address for one family, next to what the other one gets.
    fn pick(
        &self,
        acquire: &Acquire,
        family: Family,
        pools: &Result<Vec<PoolIndex>, Refusal>,
        choices: &Choices,
    ) -> Choice {
        if let Some((address, pool)) = self.best_familiar(acquire, family, pools, choices) {
            return Choice::Take { address, pool };
        }
        match pools {
            Err(refusal) => Choice::Refused(refusal.clone()),
            Ok(pools) => {
                let preferred = self.preferred_pool(acquire, family, pools, choices);
                let beside = self.beside(acquire, choices, family);
                self.any_of(acquire, family, pools, preferred, &beside)
            }
        }
    }

    fn best_familiar(
        &self,
        acquire: &Acquire,
        family: Family,
        pools: &Result<Vec<PoolIndex>, Refusal>,
        choices: &Choices,
    ) -> Option<(IpAddr, PoolIndex)> {
        let beside = self.beside(acquire, choices, family);
        let pools = pools.as_deref().unwrap_or_default();
        self.familiar(acquire, family, pools)
            .find(|(address, pool)| self.fits(acquire, &beside, *address, *pool).is_ok())
    }

    /// The pool of the other family's address, or one that has addresses for both.
    fn preferred_pool(
        &self,
        acquire: &Acquire,
        family: Family,
        pools: &[PoolIndex],
        choices: &Choices,
    ) -> Option<PoolIndex> {
        let (other, choice) = choices.iter().find(|(other, _)| *other != family)?;
        match choice {
            Choice::Keep(held) => match self.pools.locate(held.address) {
                Located::In(pool) => Some(pool),
                Located::Excluded(_) | Located::Nowhere => None,
            },
            Choice::Take { pool, .. } => Some(*pool),
            Choice::Open(others) => self
                .best_familiar(acquire, *other, others, choices)
                .map(|(_, pool)| pool)
                .or_else(|| {
                    let others = others.as_deref().ok()?;
                    self.common_pool(acquire, (family, pools), (*other, others), choices)
                }),
            Choice::Refused(_) => None,
        }
    }

    /// The first pool that gives each family as good an address as any pool does.
    fn common_pool(
        &self,
        acquire: &Acquire,
        (one, pools): (Family, &[PoolIndex]),
        (other, others): (Family, &[PoolIndex]),
        choices: &Choices,
    ) -> Option<PoolIndex> {
        let beside = self.beside(acquire, choices, one);
        let within = |count: Weight, pool: PoolIndex| {
            self.within_quota(acquire, &beside, pool, count).is_ok()
        };
        let best_stage = |family, pools: &[PoolIndex]| {
            let gives = |lowest: &Lowest| {
                pools.iter().any(|pool| {
                    lowest(&self.free, *pool, family).is_some() && within(Weight::ONE, *pool)
                })
            };
            [Free::lowest_fresh as Lowest, Free::lowest_sticky]
                .into_iter()
                .find(gives)
        };
        let (lowest, other_lowest) = (best_stage(one, pools)?, best_stage(other, others)?);
        pools.iter().copied().find(|pool| {
            others.contains(pool)
                && lowest(&self.free, *pool, one).is_some()
                && other_lowest(&self.free, *pool, other).is_some()
                && within(Weight::ONE.plus(Weight::ONE), *pool)
        })
    }

    /// An address that nobody has a claim to, or else one that is kept for its last
    /// holder.
    fn any_of(
        &self,
        acquire: &Acquire,
        family: Family,
        pools: &[PoolIndex],
        preferred: Option<PoolIndex>,
        beside: &Beside,
    ) -> Choice {
        let mut over_quota = None;
        let mut in_order = pools.to_vec();
        in_order.retain(
            |pool| match self.within_quota(acquire, beside, *pool, Weight::ONE) {
                Ok(()) => true,
                Err(refusal) => {
                    let has_free = self.free.lowest_fresh(*pool, family).is_some()
                        || self.free.lowest_sticky(*pool, family).is_some();
                    if has_free {
                        over_quota.get_or_insert(refusal);
                    }
                    false
                }
            },
        );
        in_order.sort_by_key(|pool| Some(*pool) != preferred);
        let lowest = |of: Lowest| {
            in_order.iter().find_map(|pool| {
                let address = of(&self.free, *pool, family)?;
                Some(Choice::Take {
                    address,
                    pool: *pool,
                })
            })
        };
        lowest(Free::lowest_fresh)
            .or_else(|| lowest(Free::lowest_sticky))
            .unwrap_or_else(|| {
                Choice::Refused(self.nothing_free(acquire, family, pools, (&in_order, over_quota)))
            })
    }

    /// Why no pool gives an address: what ends by itself is said first, then what keeps
    /// the Service from sharing one.
    fn nothing_free(
        &self,
        acquire: &Acquire,
        family: Family,
        pools: &[PoolIndex],
        (within_quota, over_quota): (&[PoolIndex], Option<Refusal>),
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
        self.why_not_shared(acquire, family, pools)
            .or(over_quota)
            .unwrap_or_else(|| Refusal::PoolExhausted {
                pools: names(pools),
                family,
            })
    }
}

fn is_refused(choices: &Choices) -> bool {
    choices
        .iter()
        .any(|(_, choice)| matches!(choice, Choice::Refused(_)))
}

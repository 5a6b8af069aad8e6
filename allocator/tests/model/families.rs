//! The families of a wish together.

use std::net::IpAddr;

use lb_allocator::engine::{Acquire, Family, PoolName, Refusal};

use crate::{
    acquire::{Choice, Choices},
    book::{Book, Stage},
};

impl Book {
    /// What all families get.
    pub fn choices(&self, acquire: &Acquire) -> Choices {
        let families = acquire.wish.families.iter();
        let mut choices: Choices = families
            .map(|family| (*family, self.choose(acquire, *family)))
            .collect();
        // What was asked for counts first: both, or the first that keeps limits.
        let asked = choices.clone();
        let mut known: Vec<Option<Refusal>> = vec![None; asked.len()];
        for without in [&[][..], &[1], &[0], &[0, 1]] {
            choices = asked.clone();
            for index in without.iter().filter(|index| **index < asked.len()) {
                if let (Choice::Take(_), Some(refusal)) = (&asked[*index].1, &known[*index]) {
                    choices[*index].1 = Choice::Refused(refusal.clone());
                }
            }
            let over: Vec<_> = choices
                .iter()
                .map(|(family, choice)| {
                    let Choice::Take(address) = *choice else {
                        return None;
                    };
                    let mut others = taken(&choices);
                    others.retain(|other| *other != address);
                    self.is_over(acquire, &choices, *family, &others, address)
                })
                .collect();
            if over.iter().all(Option::is_none) {
                break;
            }
            known = over.into_iter().zip(known).map(|(o, k)| o.or(k)).collect();
        }
        // Then the primary family, and the other one only if that gives both.
        let primary_first = self.fill(acquire, &choices, &[0, 1]);
        let are_open = choices
            .iter()
            .all(|(_, choice)| matches!(choice, Choice::Open(_)));
        if choices.len() == 2 && are_open && has_refusal(&primary_first) {
            let other_first = self.fill(acquire, &choices, &[1, 0]);
            if !has_refusal(&other_first) {
                return other_first;
            }
        }
        primary_first
    }

    fn fill(&self, acquire: &Acquire, choices: &Choices, order: &[usize]) -> Choices {
        let mut filled = choices.clone();
        // A second time for the reasons, which are those of when the rest is done.
        for index in order.iter().chain(order) {
            if let Some((family, Choice::Open(pools))) = choices.get(*index)
                && !matches!(filled[*index].1, Choice::Take(_))
            {
                filled[*index].1 = self.pick(acquire, *family, pools, &filled);
            }
        }
        filled
    }

    fn pick(
        &self,
        acquire: &Acquire,
        family: Family,
        pools: &Result<Vec<PoolName>, Refusal>,
        choices: &Choices,
    ) -> Choice {
        if let Some(address) = self.best_familiar(acquire, family, pools, choices) {
            return Choice::Take(address);
        }
        match pools {
            Ok(pools) => self.any_of(acquire, family, pools, choices),
            Err(refusal) => Choice::Refused(refusal.clone()),
        }
    }

    fn best_familiar(
        &self,
        acquire: &Acquire,
        family: Family,
        pools: &Result<Vec<PoolName>, Refusal>,
        choices: &Choices,
    ) -> Option<IpAddr> {
        let pools = pools.clone().unwrap_or_default();
        let familiar = self.familiar(acquire, family, &pools);
        let taken = taken(choices);
        familiar.into_iter().find(|address| {
            let over = self.is_over(acquire, choices, family, &taken, *address);
            over.is_none()
        })
    }

    /// The limit that an address for a family breaks, next to what else is taken.
    fn is_over(
        &self,
        acquire: &Acquire,
        choices: &Choices,
        family: Family,
        taken: &[IpAddr],
        address: IpAddr,
    ) -> Option<Refusal> {
        let pool = self.pool_of(address).expect("it is in a pool");
        let leaving = self.leaving(acquire, choices, family);
        self.limit(pool, &acquire.key, &leaving, taken, Some(address))
    }

    /// What the Service lets go when a family gets another address: that one's, what
    /// it wishes no more or may not share any more, and where the other moves.
    fn leaving(&self, acquire: &Acquire, choices: &Choices, family: Family) -> Vec<IpAddr> {
        let mut holding = self.holding(&acquire.key);
        holding.retain(|held| {
            let of = Family::of(held.address);
            let choice = choices.iter().find(|(other, _)| *other == of);
            let moves = choice.is_none_or(|(_, choice)| match choice {
                Choice::Take(_) | Choice::Open(_) => true,
                Choice::Keep(_) | Choice::Refused(_) => false,
            });
            of == family || moves || !self.may_stay(held, acquire)
        });
        holding.iter().map(|held| held.address).collect()
    }

    /// The pool that a family should come from, so that both are from one.
    fn preferred_pool(
        &self,
        acquire: &Acquire,
        family: Family,
        pools: &[PoolName],
        choices: &Choices,
    ) -> Option<PoolName> {
        let (other, choice) = choices.iter().find(|(other, _)| *other != family)?;
        let others = match choice {
            Choice::Keep(address) | Choice::Take(address) => {
                return self.pool_of(*address).map(|pool| pool.name.clone());
            }
            Choice::Refused(_) => return None,
            Choice::Open(others) => others,
        };
        if let Some(address) = self.best_familiar(acquire, *other, others, choices) {
            return self.pool_of(address).map(|pool| pool.name.clone());
        }
        let others = others.as_ref().ok()?;
        let leaving = self.leaving(acquire, choices, family);
        let limit = |pool, taken: &[IpAddr], joining| {
            self.limit(pool, &acquire.key, &leaving, taken, joining)
        };
        // As good an address as any pool would give, of each family.
        let best = |family, pools: &[PoolName]| {
            [Stage::Fresh, Stage::Sticky].into_iter().find(|stage| {
                pools.iter().any(|name| {
                    let pool = self.pool(name).expect("known");
                    self.lowest(pool, family, *stage).is_some() && limit(pool, &[], None).is_none()
                })
            })
        };
        let (stage, other_stage) = (best(family, pools)?, best(*other, others)?);
        let common = pools.iter().find(|name| {
            let pool = self.pool(name).expect("known");
            let first = self.lowest(pool, family, stage);
            let second = self.lowest(pool, *other, other_stage);
            let (Some(first), Some(second)) = (first, second) else {
                return false;
            };
            others.contains(name) && limit(pool, &[first], Some(second)).is_none()
        });
        common.cloned()
    }

    /// The lowest address that nobody has a claim to, and only when there is none,
    /// the lowest that is kept for its last holder.
    fn any_of(
        &self,
        acquire: &Acquire,
        family: Family,
        pools: &[PoolName],
        choices: &Choices,
    ) -> Choice {
        let preferred = self.preferred_pool(acquire, family, pools, choices);
        let leaving = self.leaving(acquire, choices, family);
        let taken = taken(choices);
        let mut in_order: Vec<_> = pools.iter().map(|n| self.pool(n).expect("known")).collect();
        in_order.sort_by_key(|pool| Some(&pool.name) != preferred.as_ref());
        let limit = |pool| self.limit(pool, &acquire.key, &leaving, &taken, None);
        let within: Vec<_> = in_order
            .iter()
            .copied()
            .filter(|pool| limit(pool).is_none())
            .collect();
        for stage in [Stage::Fresh, Stage::Sticky] {
            for pool in &within {
                if let Some(address) = self.lowest(pool, family, stage) {
                    return Choice::Take(address);
                }
            }
        }

        let cooled = |pool: &PoolName| {
            let pool = self.pool(pool).expect("known");
            let addresses = self.addresses(pool, family).into_iter();
            let times = addresses.filter_map(|address| match self.stage(address) {
                Stage::Cooling(until) => Some(until),
                Stage::Held | Stage::Reserved | Stage::Sticky | Stage::Fresh => None,
            });
            let is_within = within.iter().any(|other| other.name == pool.name);
            times.min().filter(|_| is_within)
        };
        if let Some(until) = pools.iter().filter_map(cooled).min() {
            let cooling = pools.iter().filter(|pool| cooled(pool).is_some());
            return Choice::Refused(Refusal::PoolCoolingDown {
                pools: cooling.cloned().collect(),
                family,
                until,
            });
        }
        let over_limit = pools.iter().find_map(|name| {
            let pool = self.pool(name).expect("known");
            let has_free = self.lowest(pool, family, Stage::Fresh).is_some()
                || self.lowest(pool, family, Stage::Sticky).is_some();
            limit(pool).filter(|_| has_free)
        });
        let group = acquire.wish.sharing.as_ref().map(|terms| {
            let group = self.of_group(&acquire.key, terms, family).into_iter();
            let clash = |address: IpAddr| {
                let name = &self.pool_of(address)?.name;
                let joins = self.may_hold(&acquire.key, Some(terms), address);
                joins.err().filter(|_| pools.contains(name))
            };
            group.filter_map(clash).next()
        });
        let refusal = group.flatten().or(over_limit);
        Choice::Refused(refusal.unwrap_or_else(|| Refusal::PoolExhausted {
            pools: pools.to_vec(),
            family,
        }))
    }
}

fn taken(choices: &[(Family, Choice)]) -> Vec<IpAddr> {
    let taken = choices.iter().filter_map(|(_, choice)| match choice {
        Choice::Take(address) => Some(*address),
        Choice::Keep(_) | Choice::Open(_) | Choice::Refused(_) => None,
    });
    taken.collect()
}

fn has_refusal(choices: &Choices) -> bool {
    choices
        .iter()
        .any(|(_, choice)| matches!(choice, Choice::Refused(_)))
}

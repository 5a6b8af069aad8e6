//! Acquire, said once more: what each family may have, then all of them together.

use std::net::IpAddr;

use lb_allocator::engine::{
    Acquire, Acquired, Change, Family, Holder, Policy, PoolName, Refusal, Reply, Unmet,
};

use crate::book::{Book, Held, Place, Stage};

/// What one family gets.
#[derive(Clone, Debug)]
enum Choice {
    Keep(IpAddr),
    Take {
        address: IpAddr,
        /// Pools to look in, if this address breaks a limit after all.
        or: Vec<PoolName>,
    },
    AnyOf(Vec<PoolName>),
    Refused(Refusal),
}

type Choices = Vec<(Family, Choice)>;

impl Book {
    pub fn acquire(&mut self, acquire: &Acquire) -> (Reply, Vec<Change>) {
        let (key, wish) = (&acquire.key, &acquire.wish);
        let holding = self.holding(key);
        let uid = acquire.uid.as_ref();
        let is_late = holding
            .iter()
            .any(|held| uid.is_some() && held.holder.replaced_uid.as_ref() == uid);
        if is_late {
            return (self.acquired(acquire, Vec::new(), true), Vec::new());
        }
        let holder = next_holder(&holding, acquire);
        let choices = self.choices(acquire);
        let unmet: Vec<_> = choices
            .iter()
            .filter_map(|(family, choice)| match choice {
                Choice::Refused(refusal) => Some(Unmet {
                    family: *family,
                    refusal: refusal.clone(),
                }),
                Choice::Keep(_) | Choice::Take { .. } | Choice::AnyOf(_) => None,
            })
            .collect();
        let satisfied = match wish.policy {
            Policy::All => unmet.is_empty(),
            Policy::Any => {
                unmet.len() < wish.families.len()
                    && !unmet
                        .iter()
                        .any(|unmet| wish.requested.get(unmet.family).is_some())
            }
        };

        let mut changes = Vec::new();
        if satisfied {
            for held in &holding {
                if !wish.families.contains(&Family::of(held.address)) {
                    changes.push(self.release(held));
                }
            }
        }
        for held in self.holding(key) {
            if !self.may_stay(&held, acquire) {
                changes.push(self.release(&held));
            }
        }
        for (family, choice) in &choices {
            if let Choice::Take { address, .. } = choice
                && satisfied
            {
                if let Some(held) = self.held_by(key, *family).cloned() {
                    changes.push(self.release(&held));
                }
                changes.push(self.allocate(*address, key, &holder));
            }
        }
        for held in self.holding(key) {
            if held.holder != holder {
                changes.push(self.update(&held, &holder));
            }
        }
        let reply = match unmet.first() {
            Some(first) if !satisfied && self.holding(key).is_empty() => {
                Reply::Refused(first.refusal.clone())
            }
            Some(_) | None => self.acquired(acquire, unmet, satisfied),
        };
        (reply, changes)
    }

    fn acquired(&self, acquire: &Acquire, unmet: Vec<Unmet>, satisfied: bool) -> Reply {
        let families = acquire.wish.families.iter();
        Reply::Acquired(Acquired {
            addresses: families
                .filter_map(|family| self.held_by(&acquire.key, *family))
                .map(|held| self.shown(held))
                .collect(),
            unmet,
            satisfied,
        })
    }

    fn may_stay(&self, held: &Held, acquire: &Acquire) -> bool {
        let terms = acquire.wish.sharing.as_deref();
        self.may_hold(&acquire.key, terms, held.address).is_ok()
    }

    /// What each family may have, looked at alone.
    fn choose(&self, acquire: &Acquire, family: Family) -> Choice {
        let (key, wish) = (&acquire.key, &acquire.wish);
        let held = self
            .held_by(key, family)
            .filter(|held| self.may_stay(held, acquire))
            .map(|held| held.address);
        if let Some(address) = *wish.requested.get(family) {
            if held == Some(address) {
                return Choice::Keep(address);
            }
            return match self.may_get(acquire, address) {
                Ok(()) => Choice::Take {
                    address,
                    or: Vec::new(),
                },
                Err(refusal) => Choice::Refused(refusal),
            };
        }
        if let Some(address) = held {
            let pool = self.pool_of(address).map(|pool| &pool.name);
            if wish.pool.is_none() || pool == wish.pool.as_ref() {
                return Choice::Keep(address);
            }
        }
        let pools = self.candidates(acquire, family);
        let mut reserved: Vec<_> = self
            .kept
            .iter()
            .filter(|kept| kept.key.as_ref() == Some(&**key))
            .map(|kept| kept.address)
            .filter(|address| Family::of(*address) == family)
            .collect();
        reserved.sort();
        for address in reserved {
            if self.may_get(acquire, address).is_ok() {
                let or = pools.unwrap_or_default();
                return Choice::Take { address, or };
            }
        }
        let pools = match pools {
            Ok(pools) => pools,
            Err(refusal) => return Choice::Refused(refusal),
        };
        for address in self.familiar(acquire, family) {
            let pool = self.pool_of(address).map(|pool| &pool.name);
            if pool.is_some_and(|pool| pools.contains(pool))
                && self.is_grantable(acquire, address).is_ok()
            {
                return Choice::Take { address, or: pools };
            }
        }
        Choice::AnyOf(pools)
    }

    /// Addresses that a Service has something to do with, the best first: of its
    /// sharing key, shown in its status, held last.
    fn familiar(&self, acquire: &Acquire, family: Family) -> Vec<IpAddr> {
        let mut familiar = Vec::new();
        if let Some(terms) = &acquire.wish.sharing {
            familiar.extend(self.of_group(&acquire.key, terms, family));
        }
        let shown =
            acquire.wish.current.iter().filter(|shown| {
                Family::of(**shown) == family && self.stage(**shown) != Stage::Held
            });
        familiar.extend(shown);
        familiar.extend(self.last_held(&acquire.key, family));
        familiar
    }

    /// Pools that may give a Service any address of a family.
    fn candidates(&self, acquire: &Acquire, family: Family) -> Result<Vec<PoolName>, Refusal> {
        let (key, wish) = (&acquire.key, &acquire.wish);
        let no_pool = Refusal::NoPool {
            namespace: key.namespace.clone(),
            family,
        };
        if let Some(name) = &wish.pool {
            self.may_use(acquire, name)?;
            let pool = self.pool(name).expect("it may be used");
            if self.addresses(pool, family).is_empty() {
                return Err(no_pool);
            }
            return Ok(vec![name.clone()]);
        }
        let mut serving = self.serving(key, &wish.labels);
        serving.retain(|pool| pool.auto_assign && !self.addresses(pool, family).is_empty());
        let enabled: Vec<_> = serving
            .iter()
            .filter(|pool| !pool.disabled)
            .map(|pool| pool.name.clone())
            .collect();
        match serving.first() {
            None => Err(no_pool),
            Some(first) if enabled.is_empty() => Err(Refusal::PoolDisabled {
                pool: first.name.clone(),
            }),
            Some(_) => Ok(enabled),
        }
    }

    fn may_use(&self, acquire: &Acquire, name: &PoolName) -> Result<(), Refusal> {
        let Some(pool) = self.pool(name) else {
            return Err(Refusal::PoolNotFound { pool: name.clone() });
        };
        if !self.serves(pool, &acquire.key, &acquire.wish.labels) {
            return Err(Refusal::PoolNotAllowed {
                pool: name.clone(),
                namespace: acquire.key.namespace.clone(),
            });
        }
        if pool.disabled {
            return Err(Refusal::PoolDisabled { pool: name.clone() });
        }
        Ok(())
    }

    /// Whether a Service may have an address that it asked for.
    fn may_get(&self, acquire: &Acquire, address: IpAddr) -> Result<(), Refusal> {
        let wished = acquire.wish.pool.as_ref();
        if let Some(name) = wished {
            self.may_use(acquire, name)?;
        }
        let elsewhere = Refusal::AddressNotInPool {
            address,
            pool: wished.cloned(),
        };
        let (pool, is_excluded) = match self.place(address) {
            Place::Usable(pool) => (pool.name.clone(), false),
            Place::Excluded(pool) => (pool.name.clone(), true),
            Place::Nowhere => return Err(elsewhere),
        };
        if wished.is_some_and(|wished| *wished != pool) {
            return Err(elsewhere);
        }
        self.may_use(acquire, &pool)?;
        if is_excluded {
            return Err(Refusal::AddressExcluded { address, pool });
        }
        self.is_grantable(acquire, address)
    }

    /// Whether a Service may have an address of a pool that it may use.
    fn is_grantable(&self, acquire: &Acquire, address: IpAddr) -> Result<(), Refusal> {
        let (key, wish) = (&acquire.key, &acquire.wish);
        let family = Family::of(address);
        let pool = self.pool_of(address).expect("it is in a pool");
        let reserved = self.reservation(address);
        if reserved.is_some_and(|kept| kept.key.as_ref() != Some(&**key)) {
            return Err(Refusal::AddressReserved {
                address,
                pool: pool.name.clone(),
            });
        }
        match self.stage(address) {
            Stage::Held => self.may_hold(key, wish.sharing.as_deref(), address)?,
            Stage::Cooling(until) => {
                if self
                    .last_holder(address)
                    .is_some_and(|last| last.key != **key)
                {
                    return Err(Refusal::PoolCoolingDown {
                        pools: vec![pool.name.clone()],
                        family,
                        until,
                    });
                }
            }
            Stage::Reserved | Stage::Sticky | Stage::Fresh => {}
        }
        let leaving = self.held_of(acquire, &[family]);
        match self.limit(pool, key, &leaving, &[], Some(address)) {
            None => Ok(()),
            Some(refusal) => Err(refusal),
        }
    }

    fn held_of(&self, acquire: &Acquire, families: &[Family]) -> Vec<IpAddr> {
        let holding = self.holding(&acquire.key).into_iter();
        let addresses = holding.map(|held| held.address);
        addresses
            .filter(|address| families.contains(&Family::of(*address)))
            .collect()
    }

    /// What the Service lets go where all goes as chosen.
    fn leaving(&self, acquire: &Acquire, choices: &[(Family, Choice)]) -> Vec<IpAddr> {
        let moving: Vec<_> = choices
            .iter()
            .filter(|(_, choice)| matches!(choice, Choice::Take { .. } | Choice::AnyOf(_)))
            .map(|(family, _)| *family)
            .collect();
        self.held_of(acquire, &moving)
    }

    /// What all families get.
    fn choices(&self, acquire: &Acquire) -> Choices {
        let mut choices: Choices = acquire
            .wish
            .families
            .iter()
            .map(|family| (*family, self.choose(acquire, *family)))
            .collect();

        // What is fine alone may break a limit together with what comes first.
        let leaving = self.leaving(acquire, &choices);
        for index in 0..choices.len() {
            if let Choice::Take { address, or } = choices[index].1.clone() {
                let taken = taken(&choices[..index]);
                let pool = self.pool_of(address).expect("it is in a pool");
                let limit = self.limit(pool, &acquire.key, &leaving, &taken, Some(address));
                if let Some(refusal) = limit {
                    choices[index].1 = if or.is_empty() {
                        Choice::Refused(refusal)
                    } else {
                        Choice::AnyOf(or)
                    };
                }
            }
        }

        let preferred = self.common_pool(acquire, &choices);
        let open: Vec<_> = choices
            .iter()
            .map(|(_, choice)| match choice {
                Choice::AnyOf(pools) => Some(pools.clone()),
                Choice::Keep(_) | Choice::Take { .. } | Choice::Refused(_) => None,
            })
            .collect();
        // Once more for the reasons: the first family was looked at before the
        // second had an address.
        for index in [0, 1, 0, 1] {
            if let Some(Some(pools)) = open.get(index)
                && !matches!(choices[index].1, Choice::Take { .. })
            {
                let family = choices[index].0;
                choices[index].1 =
                    self.any_of(acquire, family, pools, preferred.as_ref(), &choices);
            }
        }
        choices
    }

    /// The pool that both families should come from.
    fn common_pool(&self, acquire: &Acquire, choices: &Choices) -> Option<PoolName> {
        let settled = choices.iter().find_map(|(_, choice)| match choice {
            Choice::Keep(address) | Choice::Take { address, .. } => self.pool_of(*address),
            Choice::AnyOf(_) | Choice::Refused(_) => None,
        });
        if let Some(pool) = settled {
            return Some(pool.name.clone());
        }
        let [(one, Choice::AnyOf(pools)), (other, Choice::AnyOf(others))] = &choices[..] else {
            return None;
        };
        let leaving = self.leaving(acquire, choices);
        pools
            .iter()
            .find(|name| {
                let pool = self.pool(name).expect("a candidate");
                let first = self.lowest(pool, *one, Stage::Fresh);
                let second = self.lowest(pool, *other, Stage::Fresh);
                let (Some(first), Some(second)) = (first, second) else {
                    return false;
                };
                others.contains(name)
                    && self
                        .limit(pool, &acquire.key, &leaving, &[first], Some(second))
                        .is_none()
            })
            .cloned()
    }

    /// The lowest address that nobody has a claim to, and only when there is none,
    /// the lowest that is kept for its last holder.
    fn any_of(
        &self,
        acquire: &Acquire,
        family: Family,
        pools: &[PoolName],
        preferred: Option<&PoolName>,
        choices: &Choices,
    ) -> Choice {
        let leaving = self.leaving(acquire, choices);
        let taken = taken(choices);
        let mut in_order: Vec<_> = pools.iter().map(|n| self.pool(n).expect("known")).collect();
        in_order.sort_by_key(|pool| Some(&pool.name) != preferred);
        let limit = |pool| self.limit(pool, &acquire.key, &leaving, &taken, None);
        let within: Vec<_> = in_order
            .iter()
            .copied()
            .filter(|pool| limit(pool).is_none())
            .collect();
        for stage in [Stage::Fresh, Stage::Sticky] {
            for pool in &within {
                if let Some(address) = self.lowest(pool, family, stage) {
                    let or = Vec::new();
                    return Choice::Take { address, or };
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
        Choice::Refused(over_limit.unwrap_or_else(|| Refusal::PoolExhausted {
            pools: pools.to_vec(),
            family,
        }))
    }
}

fn taken(choices: &[(Family, Choice)]) -> Vec<IpAddr> {
    let taken = choices.iter().filter_map(|(_, choice)| match choice {
        Choice::Take { address, .. } => Some(*address),
        Choice::Keep(_) | Choice::AnyOf(_) | Choice::Refused(_) => None,
    });
    taken.collect()
}

/// Who asks without a uid or a cluster IP does not erase what is known of it.
fn next_holder(holding: &[Held], acquire: &Acquire) -> Holder {
    let known = holding.first().map(|held| held.holder.clone());
    let known = known.unwrap_or_default();
    let uid = acquire.uid.clone().or_else(|| known.uid.clone());
    let is_new = known.uid.is_some() && known.uid != uid;
    let labels = &acquire.wish.labels;
    Holder {
        replaced_uid: if is_new {
            known.uid
        } else {
            known.replaced_uid
        },
        uid,
        cluster_ip: acquire.cluster_ip.or(known.cluster_ip),
        labels: (!labels.is_empty()).then(|| labels.clone()),
        sharing: acquire.wish.sharing.clone(),
    }
}

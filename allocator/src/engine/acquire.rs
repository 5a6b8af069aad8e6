//! Acquire: from a wish to addresses.
//!
//! 1. What the key holds is kept, as long as the wish asks for nothing else and
//!    whoever shares it still may.
//! 2. Every family that needs an address gets a [`Choice`]: an address it asked
//!    for, one reserved for it, one of its sharing key, the one its status shows,
//!    the one it held last, or any of the pools that serve it.
//! 3. The families that may get any address are served from one pool if one can
//!    give all, else each from the first that can: the lowest address nobody has
//!    a claim to, and only when there is none, the lowest that is kept for its
//!    last holder.
//! 4. All that the policy demands is granted, or nothing changes; only an address
//!    that may not be shared any more is lost in any case.

use std::{net::IpAddr, sync::Arc};

use super::{
    Engine, Outcome, Reply,
    address::{Family, PerFamily},
    change::{Allocation, ChangeKind, Holder},
    free::Availability,
    key::{PoolName, ServiceKey, Uid},
    labels::Labels,
    pools::{Located, PoolIndex},
    quota::Weight,
    refusal::Refusal,
    sharing::{Clash, Terms},
};

/// As in `spec.ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Every family of the wish, or nothing: one family, or a required second.
    All,
    /// As many families as can be had, at least one.
    Any,
}

/// What a Service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// One or two different families, the primary one first.
    pub families: Vec<Family>,
    pub policy: Policy,
    pub requested: PerFamily<Option<IpAddr>>,
    pub pool: Option<PoolName>,
    /// `None`: it shares with nobody.
    pub sharing: Option<Arc<Terms>>,
    /// Addresses that its status shows.
    pub current: Vec<IpAddr>,
    pub labels: Arc<Labels>,
}

/// Give `key` what it wishes for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquire {
    pub key: Arc<ServiceKey>,
    pub uid: Option<Uid>,
    pub cluster_ip: Option<IpAddr>,
    pub wish: Wish,
}

/// A part of a wish that was not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    pub family: Family,
    pub refusal: Refusal,
}

/// What a key holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquired {
    /// In the order of the wish's families.
    pub addresses: Vec<Arc<Allocation>>,
    /// In the order of the wish's families.
    pub unmet: Vec<Unmet>,
    /// Whether the wish is granted as far as its policy demands.
    pub satisfied: bool,
}

/// What one family shall get.
#[derive(Clone, Debug)]
enum Choice {
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

type Choices = [(Family, Choice)];

/// What a wish comes to, before anything is changed.
struct Decision {
    choices: Vec<(Family, Choice)>,
    refused: Vec<Unmet>,
    /// Everything that the policy demands is granted.
    satisfied: bool,
}

impl Engine {
    pub(super) fn acquire(&mut self, acquire: &Acquire, outcome: &mut Outcome) -> Reply {
        let Acquire { key, wish, .. } = acquire;
        let Some(decision) = self.decide(acquire) else {
            return self.unchanged(acquire);
        };
        let Decision {
            choices,
            refused,
            satisfied,
        } = decision;
        if satisfied {
            self.release_other_families(key, wish, outcome);
        }
        self.release_what_may_not_stay(acquire, outcome);
        if satisfied {
            for (_, choice) in choices {
                if let Choice::Take { address, pool, .. } = choice {
                    self.move_to(acquire, address, pool, outcome);
                }
            }
        }
        self.update_holder(acquire, outcome);
        self.answer(key, wish, refused, satisfied)
    }

    /// The reply to a wish that changes nothing; `None` if it would.
    pub(super) fn acquire_without_change(&self, acquire: &Acquire) -> Option<Reply> {
        let Acquire { key, wish, .. } = acquire;
        let Some(decision) = self.decide(acquire) else {
            return Some(self.unchanged(acquire));
        };
        let Decision {
            choices,
            refused,
            satisfied,
        } = decision;
        let moves = choices
            .iter()
            .any(|(_, choice)| matches!(choice, Choice::Take { .. }));
        let holder = self.next_holder(acquire);
        let stays = self.holding(key).all(|held| {
            held.holder == holder
                && self.may_not_stay(held, acquire).is_none()
                && (!satisfied || wish.families.contains(&held.family()))
        });
        (stays && !(satisfied && moves)).then(|| self.answer(key, wish, refused, satisfied))
    }

    /// `None` for a request that comes too late to matter.
    fn decide(&self, acquire: &Acquire) -> Option<Decision> {
        let wish = &acquire.wish;
        if self.is_late(acquire) {
            return None;
        }
        let mut choices: Vec<(Family, Choice)> = wish
            .families
            .iter()
            .map(|family| (*family, self.choose(acquire, *family)))
            .collect();
        self.settle(acquire, &mut choices);
        let refused = refusals(&choices);
        let satisfied = match wish.policy {
            Policy::All => refused.is_empty(),
            // A family may go without an address, a request may not.
            Policy::Any => {
                refused.len() < choices.len()
                    && refused
                        .iter()
                        .all(|unmet| wish.requested.get(unmet.family).is_none())
            }
        };
        Some(Decision {
            choices,
            refused,
            satisfied,
        })
    }

    fn answer(&self, key: &ServiceKey, wish: &Wish, refused: Vec<Unmet>, satisfied: bool) -> Reply {
        match refused.first() {
            Some(first) if !satisfied && self.holding(key).next().is_none() => {
                Reply::Refused(first.refusal.clone())
            }
            Some(_) | None => self.acquired(key, wish, refused, satisfied),
        }
    }

    /// The answer to a Service that is gone: what the new one of its name holds.
    /// It cannot do harm, because whoever asks guards its writes with the old uid.
    fn unchanged(&self, acquire: &Acquire) -> Reply {
        self.acquired(&acquire.key, &acquire.wish, Vec::new(), true)
    }

    /// A request of a Service that was deleted, and whose key a new one has
    /// taken over since.
    fn is_late(&self, acquire: &Acquire) -> bool {
        acquire.uid.is_some()
            && self
                .holding(&acquire.key)
                .any(|held| held.holder.replaced_uid == acquire.uid)
    }

    /// Why the key may not go on holding an address on the terms of this wish.
    fn may_not_stay(&self, held: &Allocation, acquire: &Acquire) -> Option<Clash> {
        let holders = self.held.get(held.address)?;
        holders
            .admit(&acquire.key, acquire.wish.sharing.as_deref())
            .err()
    }

    fn choose(&self, acquire: &Acquire, family: Family) -> Choice {
        let Acquire { key, wish, .. } = acquire;
        let held = self.held_by(key, family);
        let stays = held.filter(|held| self.may_not_stay(held, acquire).is_none());
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
    fn candidates(&self, acquire: &Acquire, family: Family) -> Result<Vec<PoolIndex>, Refusal> {
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

    /// Whether `joining` keeps the limits of a pool, together with what the
    /// request takes from it already, and gives back to it in `moving` families.
    fn within_quota(
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
    fn settle(&self, acquire: &Acquire, choices: &mut Choices) {
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
        let lowest = |of: fn(&super::Free, PoolIndex, Family) -> Option<IpAddr>| {
            in_order.iter().find_map(|pool| {
                let address = of(&self.free, *pool, family)?;
                Some(Choice::Take {
                    address,
                    pool: *pool,
                    or: Vec::new(),
                })
            })
        };
        lowest(super::Free::lowest_fresh)
            .or_else(|| lowest(super::Free::lowest_sticky))
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

    fn release_other_families(&mut self, key: &ServiceKey, wish: &Wish, outcome: &mut Outcome) {
        let gone: Vec<_> = self
            .holding(key)
            .filter(|held| !wish.families.contains(&held.family()))
            .cloned()
            .collect();
        for allocation in gone {
            self.commit(ChangeKind::Released(allocation), outcome);
        }
    }

    /// An address is never held on terms that those who share it did not agree to.
    fn release_what_may_not_stay(&mut self, acquire: &Acquire, outcome: &mut Outcome) {
        let gone: Vec<_> = self
            .holding(&acquire.key)
            .filter(|held| self.may_not_stay(held, acquire).is_some())
            .cloned()
            .collect();
        for allocation in gone {
            self.commit(ChangeKind::Released(allocation), outcome);
        }
    }

    fn move_to(
        &mut self,
        acquire: &Acquire,
        address: IpAddr,
        pool: PoolIndex,
        outcome: &mut Outcome,
    ) {
        let holder = self.next_holder(acquire);
        if let Some(held) = self.held_by(&acquire.key, Family::of(address)).cloned() {
            self.commit(ChangeKind::Released(held), outcome);
        }
        let allocation = Arc::new(Allocation {
            address,
            pool: self.pools.spec(pool).name.clone(),
            key: Arc::clone(&acquire.key),
            holder,
            since: self.now,
            revision: self.revision.next(),
        });
        self.commit(ChangeKind::Allocated(allocation), outcome);
    }

    /// Tells every address that the key keeps of what is new about the holder.
    fn update_holder(&mut self, acquire: &Acquire, outcome: &mut Outcome) {
        let holder = self.next_holder(acquire);
        let stale: Vec<_> = self
            .holding(&acquire.key)
            .filter(|held| held.holder != holder)
            .cloned()
            .collect();
        for held in stale {
            let updated = Arc::new(Allocation {
                holder: Arc::clone(&holder),
                revision: self.revision.next(),
                ..(*held).clone()
            });
            self.commit(ChangeKind::Updated(updated), outcome);
        }
    }

    /// The holder after this request: whoever asks without a uid or a cluster
    /// IP does not erase what is known of it.
    fn next_holder(&self, acquire: &Acquire) -> Arc<Holder> {
        let known = self
            .holding(&acquire.key)
            .max_by_key(|held| held.revision)
            .map(|held| Holder::clone(&held.holder))
            .unwrap_or_default();
        let uid = acquire.uid.clone().or_else(|| known.uid.clone());
        let replaced_uid = if known.uid.is_some() && known.uid != uid {
            known.uid
        } else {
            known.replaced_uid
        };
        let Wish {
            labels, sharing, ..
        } = &acquire.wish;
        Arc::new(Holder {
            uid,
            replaced_uid,
            cluster_ip: acquire.cluster_ip.or(known.cluster_ip),
            labels: Some(Arc::clone(labels)).filter(|labels| !labels.is_empty()),
            sharing: sharing.clone(),
        })
    }

    fn acquired(&self, key: &ServiceKey, wish: &Wish, unmet: Vec<Unmet>, satisfied: bool) -> Reply {
        Reply::Acquired(Acquired {
            addresses: wish
                .families
                .iter()
                .filter_map(|family| self.held_by(key, *family).cloned())
                .collect(),
            unmet,
            satisfied,
        })
    }
}

fn refusals(choices: &Choices) -> Vec<Unmet> {
    let refused = choices.iter().filter_map(|(family, choice)| match choice {
        Choice::Refused(refusal) => Some(Unmet {
            family: *family,
            refusal: refusal.clone(),
        }),
        Choice::Keep(_) | Choice::Take { .. } | Choice::AnyOf(_) => None,
    });
    refused.collect()
}

/// Families whose address changes, so that what they hold is given back.
fn moving(choices: &Choices) -> Vec<Family> {
    let moving = choices.iter().filter_map(|(family, choice)| match choice {
        Choice::Take { .. } | Choice::AnyOf(_) => Some(*family),
        Choice::Keep(_) | Choice::Refused(_) => None,
    });
    moving.collect()
}

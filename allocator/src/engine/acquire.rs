//! Acquire: from a wish to addresses.
//!
//! 1. What the key holds is kept, as long as the wish asks for nothing else.
//! 2. Every family that needs an address gets a [`Choice`]: an address it asked
//!    for, the one its status shows, the one it held last, or any of the pools
//!    that serve it.
//! 3. The families that may get any address are served from one pool if one can
//!    give all, else each from the first that can: the lowest address nobody has
//!    a claim to, and only when there is none, the lowest that is kept for its
//!    last holder.
//! 4. All that the policy demands is granted, or nothing changes.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use super::{
    Engine, Plan, Reply,
    address::{Family, PerFamily},
    change::{Allocation, Change, ChangeKind, Holder},
    key::{PoolName, ServiceKey, Uid},
    pools::{Located, PoolIndex},
    refusal::Refusal,
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
    /// Addresses that its status shows.
    pub current: Vec<IpAddr>,
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
    Take { address: IpAddr, pool: PoolIndex },
    AnyOf(Vec<PoolIndex>),
    Refused(Refusal),
}

/// What a wish comes to, before anything is changed.
struct Decision {
    choices: Vec<(Family, Choice)>,
    refused: Vec<Unmet>,
    /// Everything that the policy demands is granted.
    satisfied: bool,
}

impl Engine {
    pub(super) fn acquire(&mut self, acquire: &Acquire) -> Plan {
        let Acquire { key, wish, .. } = acquire;
        let mut changes = Vec::new();
        let reply = match self.decide(acquire) {
            None => self.unchanged(acquire),
            Some(Decision {
                choices,
                refused,
                satisfied,
            }) => {
                if satisfied {
                    self.release_other_families(key, wish, &mut changes);
                    for (_, choice) in choices {
                        if let Choice::Take { address, pool } = choice {
                            self.move_to(acquire, address, pool, &mut changes);
                        }
                    }
                }
                self.update_holder(acquire, &mut changes);
                self.answer(key, wish, refused, satisfied)
            }
        };
        Plan { reply, changes }
    }

    /// The reply to a wish that changes nothing.
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
            held.holder == holder && (!satisfied || wish.families.contains(&held.family()))
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
        self.settle(&mut choices);
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

    fn choose(&self, acquire: &Acquire, family: Family) -> Choice {
        let Acquire { key, wish, .. } = acquire;
        let held = self.held(key, family);
        if let Some(address) = *wish.requested.get(family) {
            return match held {
                Some(held) if held.address == address => Choice::Keep(Arc::clone(held)),
                Some(_) | None => self.requested(key, wish, address),
            };
        }
        let candidates: Vec<PoolIndex> = match &wish.pool {
            None => match held {
                Some(held) => return Choice::Keep(Arc::clone(held)),
                None => self.pools.serving(&key.namespace).collect(),
            },
            Some(name) => match self.wished_pool(key, name) {
                Err(refusal) => return Choice::Refused(refusal),
                Ok(pool) => match held {
                    Some(held) if self.pools.locate(held.address) == Located::In(pool) => {
                        return Choice::Keep(Arc::clone(held));
                    }
                    Some(_) | None => vec![pool],
                },
            },
        };
        let candidates: Vec<_> = candidates
            .into_iter()
            .filter(|pool| !self.pools.usable(*pool).get(family).is_empty())
            .collect();
        if candidates.is_empty() {
            return Choice::Refused(Refusal::NoPool {
                namespace: key.namespace.clone(),
                family,
            });
        }
        let shown = wish.current.iter().copied();
        let familiar = shown
            .filter(|address| Family::of(*address) == family)
            .chain(self.free.last_held(key, family));
        for address in familiar {
            if let Located::In(pool) = self.pools.locate(address)
                && candidates.contains(&pool)
                && self.free.is_free(pool, address)
            {
                return Choice::Take { address, pool };
            }
        }
        Choice::AnyOf(candidates)
    }

    fn requested(&self, key: &ServiceKey, wish: &Wish, address: IpAddr) -> Choice {
        match self.requested_pool(key, wish, address) {
            Err(refusal) => Choice::Refused(refusal),
            Ok(pool) => match self.by_address.get(&address) {
                None => Choice::Take { address, pool },
                Some(holder) => Choice::Refused(Refusal::AddressInUse {
                    address,
                    pool: self.pools.spec(pool).name.clone(),
                    holder: (holder.cluster == key.cluster).then(|| (**holder).clone()),
                }),
            },
        }
    }

    /// The pool of a requested address, if the key may use it.
    fn requested_pool(
        &self,
        key: &ServiceKey,
        wish: &Wish,
        address: IpAddr,
    ) -> Result<PoolIndex, Refusal> {
        let wished = match &wish.pool {
            None => None,
            Some(name) => Some(self.wished_pool(key, name)?),
        };
        let pool = match self.pools.locate(address) {
            Located::In(pool) | Located::Excluded(pool)
                if wished.is_some_and(|wished| wished != pool) =>
            {
                return Err(Refusal::AddressNotInPool {
                    address,
                    pool: wish.pool.clone(),
                });
            }
            Located::In(pool) => pool,
            Located::Excluded(pool) => {
                return Err(Refusal::AddressExcluded {
                    address,
                    pool: self.pools.spec(pool).name.clone(),
                });
            }
            Located::Nowhere => {
                return Err(Refusal::AddressNotInPool {
                    address,
                    pool: wish.pool.clone(),
                });
            }
        };
        self.allowed(key, pool)
    }

    fn wished_pool(&self, key: &ServiceKey, name: &PoolName) -> Result<PoolIndex, Refusal> {
        let pool = self
            .pools
            .by_name(name.as_str())
            .ok_or_else(|| Refusal::PoolNotFound { pool: name.clone() })?;
        self.allowed(key, pool)
    }

    fn allowed(&self, key: &ServiceKey, pool: PoolIndex) -> Result<PoolIndex, Refusal> {
        let spec = self.pools.spec(pool);
        if spec.allows(&key.namespace) {
            return Ok(pool);
        }
        Err(Refusal::PoolNotAllowed {
            pool: spec.name.clone(),
            namespace: key.namespace.clone(),
        })
    }

    /// Turns every [`Choice::AnyOf`] into an address or a refusal.
    fn settle(&self, choices: &mut [(Family, Choice)]) {
        let preferred = self.common_pool(choices);
        for (family, choice) in choices {
            if let Choice::AnyOf(pools) = choice {
                *choice = self.any_of(*family, pools, preferred);
            }
        }
    }

    /// The pool from which all families can be served.
    fn common_pool(&self, choices: &[(Family, Choice)]) -> Option<PoolIndex> {
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
        let others: BTreeSet<_> = others.iter().collect();
        pools.iter().copied().find(|pool| {
            others.contains(pool)
                && self.free.lowest_fresh(*pool, *one).is_some()
                && self.free.lowest_fresh(*pool, *other).is_some()
        })
    }

    fn any_of(&self, family: Family, pools: &[PoolIndex], preferred: Option<PoolIndex>) -> Choice {
        let in_order = || {
            preferred
                .filter(|pool| pools.contains(pool))
                .into_iter()
                .chain(pools.iter().copied())
        };
        let lowest = |of: fn(&super::Free, PoolIndex, Family) -> Option<IpAddr>| {
            in_order().find_map(|pool| {
                of(&self.free, pool, family).map(|address| Choice::Take { address, pool })
            })
        };
        lowest(super::Free::lowest_fresh)
            .or_else(|| lowest(super::Free::lowest_sticky))
            .unwrap_or_else(|| {
                Choice::Refused(Refusal::PoolExhausted {
                    pools: pools
                        .iter()
                        .map(|pool| self.pools.spec(*pool).name.clone())
                        .collect(),
                    family,
                })
            })
    }

    fn release_other_families(&mut self, key: &ServiceKey, wish: &Wish, changes: &mut Vec<Change>) {
        let gone: Vec<_> = self
            .holding(key)
            .filter(|held| !wish.families.contains(&held.family()))
            .cloned()
            .collect();
        for allocation in gone {
            changes.push(self.commit(ChangeKind::Released, allocation));
        }
    }

    fn move_to(
        &mut self,
        acquire: &Acquire,
        address: IpAddr,
        pool: PoolIndex,
        changes: &mut Vec<Change>,
    ) {
        let holder = self.next_holder(acquire);
        if let Some(held) = self.held(&acquire.key, Family::of(address)).cloned() {
            changes.push(self.commit(ChangeKind::Released, held));
        }
        let allocation = Arc::new(Allocation {
            address,
            pool: self.pools.spec(pool).name.clone(),
            key: Arc::clone(&acquire.key),
            holder,
            since: self.now,
            revision: self.revision.next(),
        });
        changes.push(self.commit(ChangeKind::Allocated, allocation));
    }

    /// Tells every address that the key keeps of a new uid or cluster IP.
    fn update_holder(&mut self, acquire: &Acquire, changes: &mut Vec<Change>) {
        let holder = self.next_holder(acquire);
        let stale: Vec<_> = self
            .holding(&acquire.key)
            .filter(|held| held.holder != holder)
            .cloned()
            .collect();
        for held in stale {
            let updated = Allocation {
                holder: holder.clone(),
                revision: self.revision.next(),
                ..(*held).clone()
            };
            changes.push(self.commit(ChangeKind::Updated, Arc::new(updated)));
        }
    }

    /// The holder after this request: whoever asks without a uid or a cluster
    /// IP does not erase what is known of it.
    fn next_holder(&self, acquire: &Acquire) -> Holder {
        let known = self
            .holding(&acquire.key)
            .max_by_key(|held| held.revision)
            .map(|held| held.holder.clone())
            .unwrap_or_default();
        let uid = acquire.uid.clone().or_else(|| known.uid.clone());
        let replaced_uid = if known.uid.is_some() && known.uid != uid {
            known.uid
        } else {
            known.replaced_uid
        };
        Holder {
            uid,
            replaced_uid,
            cluster_ip: acquire.cluster_ip.or(known.cluster_ip),
        }
    }

    fn acquired(&self, key: &ServiceKey, wish: &Wish, unmet: Vec<Unmet>, satisfied: bool) -> Reply {
        Reply::Acquired(Acquired {
            addresses: wish
                .families
                .iter()
                .filter_map(|family| self.held(key, *family).cloned())
                .collect(),
            unmet,
            satisfied,
        })
    }
}

fn refusals(choices: &[(Family, Choice)]) -> Vec<Unmet> {
    let refused = choices.iter().filter_map(|(family, choice)| match choice {
        Choice::Refused(refusal) => Some(Unmet {
            family: *family,
            refusal: refusal.clone(),
        }),
        Choice::Keep(_) | Choice::Take { .. } | Choice::AnyOf(_) => None,
    });
    refused.collect()
}

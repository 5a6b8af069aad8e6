//! Acquire, said once more, and what each family may have, looked at alone.

use std::{net::IpAddr, sync::Arc};

use lb_allocator::engine::{
    Acquire, Acquired, Change, Family, Holder, Policy, PoolName, Refusal, Reply, Transition, Unmet,
};

use crate::book::{Book, Held, Kept, Place, Stage};

/// What one family gets.
#[derive(Clone, Debug)]
pub enum Choice {
    Keep(IpAddr),
    Take(IpAddr),
    /// Something of these pools, or else an address that it has to do with.
    Open(Result<Vec<PoolName>, Refusal>),
    Refused(Refusal),
}

pub type Choices = Vec<(Family, Choice)>;

impl Book {
    pub fn acquire(&mut self, acquire: &Acquire) -> (Reply, Vec<Change>) {
        let (key, wish) = (&acquire.key, &acquire.wish);
        let holding = self.holding(key);
        let uid = acquire.uid.as_ref();
        let is_late = holding
            .iter()
            .any(|held| uid.is_some() && held.holder.transition.replaced_uid() == uid);
        if is_late {
            return (self.acquired(acquire, Vec::new(), true), Vec::new());
        }
        let mut changes = Vec::new();
        let holder = next_holder(self, &holding, acquire);
        for held in &holding {
            if !wish.families.contains(&Family::of(held.address)) {
                self.give_up(held, acquire, &mut changes);
            }
        }
        for moved in self.past_moves(acquire) {
            changes.extend(self.unreserve(moved.address));
        }
        let choices = self.choices(acquire);
        let unmet: Vec<_> = choices
            .iter()
            .filter_map(|(family, choice)| match choice {
                Choice::Refused(refusal) => Some(Unmet {
                    family: *family,
                    refusal: refusal.clone(),
                }),
                Choice::Keep(_) | Choice::Take(_) | Choice::Open(_) => None,
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

        for held in self.holding(key) {
            if !self.may_stay(&held, acquire) {
                self.give_up(&held, acquire, &mut changes);
            }
        }
        for (family, choice) in &choices {
            if let Choice::Take(address) = choice
                && satisfied
            {
                if let Some(held) = self.held_by(key, *family).cloned() {
                    self.give_up(&held, acquire, &mut changes);
                }
                changes.push(self.allocate(*address, key, &holder));
                // It took back what it gave up before.
                let mut came_back = self.moves(key).into_iter();
                let came_back = came_back.find(|moved| moved.address == *address);
                changes.extend(came_back.and_then(|moved| self.unreserve(moved.address)));
            }
        }
        for held in self.holding(key) {
            if held.holder != holder {
                changes.push(self.update(&held, &holder));
            }
        }
        if !self.past_moves(acquire).is_empty() {
            let (reply, more) = self.acquire(acquire);
            changes.extend(more);
            return (reply, changes);
        }
        let reply = match unmet.first() {
            Some(first) if !satisfied && self.holding(key).is_empty() => {
                Reply::Refused(first.refusal.clone())
            }
            Some(_) | None => self.acquired(acquire, unmet, satisfied),
        };
        (reply, changes)
    }

    /// Who shows all that it goes on to hold, and not what it gave up, was told of the move.
    fn past_moves(&self, acquire: &Acquire) -> Vec<Kept> {
        let shows = |address| acquire.wish.current.contains(&address);
        let mut stays = self.holding(&acquire.key);
        stays.retain(|held| self.may_stay(held, acquire));
        if !stays.iter().all(|held| shows(held.address)) {
            return Vec::new();
        }
        let mut moves = self.moves(&acquire.key);
        moves.retain(|moved| !shows(moved.address));
        moves
    }

    /// What it still shows is kept for it until it does not.
    fn give_up(&mut self, held: &Held, acquire: &Acquire, changes: &mut Vec<Change>) {
        let address = held.address;
        if acquire.wish.current.contains(&address) && self.reservation(address).is_none() {
            changes.push(self.reserve(Kept {
                address,
                key: Some(held.key.clone()),
                expires: None,
                comment: "given up, and still in the status of the Service".to_owned(),
                is_moved: true,
            }));
        }
        changes.push(self.release(held));
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

    pub fn may_stay(&self, held: &Held, acquire: &Acquire) -> bool {
        let terms = acquire.wish.sharing.as_deref();
        self.may_hold(&acquire.key, terms, held.address).is_ok()
    }

    /// What each family may have, looked at alone.
    pub fn choose(&self, acquire: &Acquire, family: Family) -> Choice {
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
                Ok(()) => Choice::Take(address),
                Err(refusal) => Choice::Refused(refusal),
            };
        }
        if let Some(address) = held {
            let pool = self.pool_of(address).map(|pool| &pool.name);
            if wish.pool.is_none() || pool == wish.pool.as_ref() {
                return Choice::Keep(address);
            }
        }
        Choice::Open(self.candidates(acquire, family))
    }

    /// Addresses that a Service has something to do with and may have, the best
    /// first: reserved for it, of its sharing key, shown in its status, held last.
    pub fn familiar(&self, acquire: &Acquire, family: Family, pools: &[PoolName]) -> Vec<IpAddr> {
        let key = &acquire.key;
        let mut reserved: Vec<_> = self
            .kept
            .iter()
            .filter(|kept| kept.key.as_ref() == Some(&**key))
            .map(|kept| kept.address)
            .filter(|address| Family::of(*address) == family)
            .filter(|address| self.may_get(acquire, *address).is_ok())
            .collect();
        reserved.sort();
        let mut familiar = Vec::new();
        if let Some(terms) = &acquire.wish.sharing {
            familiar.extend(self.of_group(key, terms, family));
        }
        let shown = acquire
            .wish
            .current
            .iter()
            .filter(|shown| Family::of(**shown) == family && self.holders(**shown).is_empty());
        familiar.extend(shown);
        familiar.extend(self.last_held(key, family));
        familiar.retain(|address| {
            let pool = self.pool_of(*address).map(|pool| &pool.name);
            pool.is_some_and(|pool| pools.contains(pool))
                && self.is_grantable(acquire, *address).is_ok()
        });
        reserved.extend(familiar);
        reserved
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

    /// Whether a Service may have an address of a pool that it may use, limits aside.
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
        Ok(())
    }
}

/// Who asks without a uid or a cluster IP does not erase what is known of it.
fn next_holder(book: &Book, holding: &[Held], acquire: &Acquire) -> Holder {
    let known = holding.first().map(|held| held.holder.clone());
    let known = known.unwrap_or_default();
    let uid = acquire.uid.clone().or_else(|| known.uid.clone());
    let is_new = known.uid.is_some() && known.uid != uid;
    let labels = book.seen_by_selectors(&acquire.wish.labels);
    let replaced_uid = if is_new {
        known.uid
    } else {
        known.transition.replaced_uid().cloned()
    };
    Holder {
        created: None,
        uid,
        cluster_ip: acquire.cluster_ip.or(known.cluster_ip),
        labels: (!labels.is_empty()).then(|| Arc::new(labels)),
        sharing: acquire.wish.sharing.clone(),
        transition: Transition::new(replaced_uid, None),
    }
}

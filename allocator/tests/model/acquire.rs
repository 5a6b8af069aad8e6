//! Acquire, said once more, and what each family may have, looked at alone.

use std::{net::IpAddr, sync::Arc};

use lb_allocator::engine::{
    Acquire, Acquired, Change, Family, Holder, Policy, PoolName, Refusal, Reply, ServiceKey,
    Timestamp, Transition, Unmet,
};

use crate::book::{Book, Held, Place, Shown, Stage};

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
            let promised = self.reservation(held.address);
            if promised.is_some_and(|kept| kept.from.as_ref() == Some(&**key)) {
                self.give_up(held, (&acquire.wish.current, &holder), &mut changes);
            }
        }
        for held in self.holding(key) {
            if !wish.families.contains(&Family::of(held.address)) {
                self.give_up(&held, (&acquire.wish.current, &holder), &mut changes);
            }
        }
        for shown in self.shown_no_more(acquire) {
            changes.push(self.shows_no_more(&shown));
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
                self.give_up(&held, (&acquire.wish.current, &holder), &mut changes);
            }
        }
        for (family, choice) in &choices {
            if let Choice::Take(address) = choice
                && satisfied
            {
                if let Some(held) = self.held_by(key, *family).cloned() {
                    self.give_up(&held, (&acquire.wish.current, &holder), &mut changes);
                }
                changes.push(self.allocate(*address, key, &holder));
                let arrived = self.reservation(*address);
                if arrived.is_some_and(|kept| kept.from.is_some()) {
                    changes.extend(self.unreserve(*address));
                }
                // It shows what it holds now.
                let mut shown = self.shown_by(key).into_iter();
                if let Some(shown) = shown.find(|shown| shown.address == *address) {
                    changes.push(self.shows_no_more(&shown));
                }
            }
        }
        for held in self.holding(key) {
            if held.holder != holder {
                changes.push(self.update(&held, &holder));
            }
        }
        let mut in_vain = wish.current.clone();
        in_vain.sort();
        in_vain.dedup();
        // Found before any is noted.
        in_vain.retain(|address| self.shows_in_vain(acquire, *address));
        let has_news = !in_vain.is_empty();
        for address in in_vain {
            // Later than all others.
            let last = self.showing(address).last().map(|last| last.since.0 + 1);
            let since = last.map_or(self.now, |last| self.now.max(Timestamp(last)));
            self.keep_shown(key, address, (&holder, since), &mut changes);
        }
        if has_news || !self.shown_no_more(acquire).is_empty() {
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

    /// Who shows all that it goes on to hold was asked after it got that.
    fn shown_no_more(&self, acquire: &Acquire) -> Vec<Shown> {
        let shows = |address| acquire.wish.current.contains(&address);
        let mut stays = self.holding(&acquire.key);
        stays.retain(|held| self.may_stay(held, acquire));
        if !stays.iter().all(|held| shows(held.address)) {
            return Vec::new();
        }
        let mut shown = self.shown_by(&acquire.key);
        shown.retain(|shown| !shows(shown.address));
        shown
    }

    /// What it still shows is kept from others until it does not.
    pub fn give_up(
        &mut self,
        held: &Held,
        (shown, holder): (&[IpAddr], &Holder),
        changes: &mut Vec<Change>,
    ) {
        if shown.contains(&held.address) {
            // Earlier than all others.
            let first = self
                .showing(held.address)
                .first()
                .map(|first| first.since.0 - 1);
            let since = first.map_or(held.since, |first| held.since.min(Timestamp(first)));
            self.keep_shown(&held.key, held.address, (holder, since), changes);
        }
        changes.push(self.release(held));
    }

    fn keep_shown(
        &mut self,
        key: &ServiceKey,
        address: IpAddr,
        (holder, since): (&Holder, Timestamp),
        changes: &mut Vec<Change>,
    ) {
        if self.may_keep_away(key, address) {
            let shown = Shown {
                address,
                key: key.clone(),
                holder: holder.clone(),
                since,
            };
            changes.push(self.shows(shown));
        }
    }

    /// Whether a Service shows an address of its cluster's pools that it does not hold, and
    /// that is news.
    fn shows_in_vain(&self, acquire: &Acquire, address: IpAddr) -> bool {
        let key = &acquire.key;
        let is_known = self.shown_by(key).iter().any(|s| s.address == address);
        let holds = self.holding(key).iter().any(|h| h.address == address);
        let is_of_pool = self.pool_of(address).is_some_and(|pool| {
            let clusters = pool.clusters.as_ref();
            clusters.is_none_or(|clusters| clusters.contains(&key.cluster))
        });
        !is_known && !holds && is_of_pool && self.may_keep_away(key, address)
    }

    /// As many as it could hold, and one more in exchange for each that is held.
    fn may_keep_away(&self, key: &ServiceKey, address: IpAddr) -> bool {
        let Some(pool) = self.pool_of(address) else {
            return true;
        };
        let is_of_pool = |address: IpAddr| {
            let of = self.pool_of(address);
            of.is_some_and(|of| of.name == pool.name)
        };
        let has_room = |limit: Option<u64>, counts: &dyn Fn(&ServiceKey) -> bool| {
            let held = self.held.iter().filter(|held| counts(&held.key));
            let mut held: Vec<_> = held.map(|held| held.address).collect();
            held.retain(|address| is_of_pool(*address));
            held.sort();
            held.dedup();
            let shown = self.shown.iter().filter(|shown| counts(&shown.key));
            let shown = shown.filter(|shown| is_of_pool(shown.address)).count();
            limit.is_none_or(|limit| (shown as u64) < limit + held.len() as u64)
        };
        let of_cluster = |other: &ServiceKey| other.cluster == key.cluster;
        let of_namespace =
            |other: &ServiceKey| of_cluster(other) && other.namespace == key.namespace;
        has_room(pool.max_per_cluster, &of_cluster)
            && has_room(pool.max_per_namespace, &of_namespace)
    }

    /// Who shows an address so that a Service does not get it: another one of its cluster,
    /// or, where nobody holds it, of any; but not one that came later than itself, unless
    /// that is of its cluster.
    fn kept_from(&self, key: &ServiceKey, address: IpAddr) -> Option<&Shown> {
        let showing = self.showing(address);
        let own = showing.iter().position(|shown| shown.key == *key);
        let is_held = !self.holders(address).is_empty();
        let mut others = showing.into_iter().enumerate();
        let other = others.find(|(position, shown)| {
            let is_of_one = shown.key.cluster == key.cluster;
            let is_before = own.is_none_or(|own| *position < own);
            shown.key != *key && (is_of_one || (is_before && !is_held))
        });
        other.map(|(_, shown)| shown)
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
        let mut handed_over: Vec<_> = self.kept.clone();
        handed_over.retain(|kept| {
            kept.from.is_some()
                && kept.key.as_ref() == Some(&**key)
                && Family::of(kept.address) == family
                && self.holders(kept.address).is_empty()
        });
        handed_over.sort_by_key(|kept| kept.address);
        if let Some(kept) = handed_over.first() {
            let requested = *wish.requested.get(family);
            if requested.is_none_or(|requested| requested == kept.address)
                && self.may_get(acquire, kept.address).is_ok()
            {
                return Choice::Take(kept.address);
            }
        }
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
        if let Some(other) = self.kept_from(key, address) {
            let by = Some(other.key.clone()).filter(|other| other.cluster == key.cluster);
            return Err(Refusal::AddressShown {
                address,
                pool: pool.name.clone(),
                by: by.map(Into::into),
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
            Stage::Reserved if reserved.is_none() => {
                let last = self.last_holder(address);
                if let Some(last) = last.filter(|last| last.key != **key)
                    && self.now < last.at.after(pool.cooldown)
                {
                    return Err(Refusal::PoolCoolingDown {
                        pools: vec![pool.name.clone()],
                        family,
                        until: last.at.after(pool.cooldown),
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

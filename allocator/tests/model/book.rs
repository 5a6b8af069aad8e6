//! What the model knows: plain lists, looked through from end to end for every
//! question.

use std::{net::IpAddr, sync::Arc};

use lb_allocator::engine::{
    Allocation, Change, ChangeKind, Conflict, ConflictKind, Family, Holder, PoolName, PoolSpec,
    Reservation, Revision, ServiceKey, Timestamp,
};

/// One address that one Service holds.
#[derive(Clone, Debug)]
pub struct Held {
    pub address: IpAddr,
    /// As the pool was called when this was last written down.
    pub pool: PoolName,
    pub key: ServiceKey,
    pub holder: Holder,
    pub since: Timestamp,
    pub revision: Revision,
}

/// Who held an address last that nobody holds now.
#[derive(Clone, Debug)]
pub struct Last {
    pub address: IpAddr,
    pub key: ServiceKey,
    pub at: Timestamp,
}

#[derive(Clone, Debug)]
pub struct Kept {
    pub address: IpAddr,
    pub key: Option<ServiceKey>,
    pub expires: Option<Timestamp>,
    pub comment: String,
    /// Of a handover: who held it, or holds it still.
    pub from: Option<ServiceKey>,
}

/// An address that a Service shows and does not hold.
#[derive(Clone, Debug)]
pub struct Shown {
    pub address: IpAddr,
    pub key: ServiceKey,
    pub holder: Holder,
    pub since: Timestamp,
}

/// Where an address is.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    Usable(&'a PoolSpec),
    Excluded(&'a PoolSpec),
    Nowhere,
}

/// What a usable address is; it is always exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Held,
    /// Or shown by somebody.
    Reserved,
    /// Only its last holder gets it before this time.
    Cooling(Timestamp),
    /// Others than its last holder get it when nothing else is free.
    Sticky,
    Fresh,
}

#[derive(Clone, Debug)]
pub struct Book {
    /// In the order of names.
    pub pools: Vec<PoolSpec>,
    pub revision: Revision,
    pub last_change_at: Timestamp,
    pub now: Timestamp,
    pub held: Vec<Held>,
    pub last: Vec<Last>,
    pub kept: Vec<Kept>,
    pub shown: Vec<Shown>,
}

impl Book {
    pub fn new(mut pools: Vec<PoolSpec>) -> Self {
        pools.sort_by(|one, other| one.name.cmp(&other.name));
        Self {
            pools,
            revision: Revision::default(),
            last_change_at: Timestamp::default(),
            now: Timestamp::default(),
            held: Vec::new(),
            last: Vec::new(),
            kept: Vec::new(),
            shown: Vec::new(),
        }
    }

    /// Other pools are in force: nobody loses anything.
    pub fn configure(&mut self, mut pools: Vec<PoolSpec>) {
        pools.sort_by(|one, other| one.name.cmp(&other.name));
        self.pools = pools;
    }

    /// All that a process does not write down is the time it saw.
    pub fn restart(&mut self) {
        self.now = self.last_change_at;
    }

    /// Time never goes back; what has its end by now ends.
    pub fn pass(&mut self, now: Timestamp) -> Vec<Change> {
        self.now = self.now.max(now);
        let mut ended: Vec<_> = self
            .kept
            .iter()
            .filter_map(|kept| Some((kept.expires?, kept.address)))
            .filter(|(expires, _)| *expires <= self.now)
            .collect();
        ended.sort();
        ended
            .into_iter()
            .filter_map(|(_, address)| self.unreserve(address))
            .collect()
    }

    pub fn place(&self, address: IpAddr) -> Place<'_> {
        let within = |ranges: &[lb_allocator::engine::AddressRange]| {
            ranges
                .iter()
                .any(|range| range.first() <= address && address <= range.last())
        };
        let Some(pool) = self.pools.iter().find(|pool| within(&pool.addresses)) else {
            return Place::Nowhere;
        };
        if within(&pool.exclude) || (pool.avoid_buggy_ips && is_buggy(address)) {
            Place::Excluded(pool)
        } else {
            Place::Usable(pool)
        }
    }

    /// The pool that an address can be given from.
    pub fn pool_of(&self, address: IpAddr) -> Option<&PoolSpec> {
        match self.place(address) {
            Place::Usable(pool) => Some(pool),
            Place::Excluded(_) | Place::Nowhere => None,
        }
    }

    /// Usable addresses of a pool, the lowest first.
    pub fn addresses(&self, pool: &PoolSpec, family: Family) -> Vec<IpAddr> {
        let mut all = Vec::new();
        for range in &pool.addresses {
            let mut number = Family::number(range.first());
            while range.family() == family && number <= Family::number(range.last()) {
                all.push(family.address(number));
                number += 1;
            }
        }
        all.retain(|address| self.pool_of(*address).is_some());
        all.sort();
        all
    }

    pub fn holders(&self, address: IpAddr) -> Vec<&Held> {
        let mut holders: Vec<_> = self.held.iter().filter(|h| h.address == address).collect();
        holders.sort_by(|one, other| one.key.cmp(&other.key));
        holders
    }

    /// What a Service holds, IPv4 first.
    pub fn holding(&self, key: &ServiceKey) -> Vec<Held> {
        let mut holding: Vec<_> = self.held.iter().filter(|h| h.key == *key).collect();
        holding.sort_by_key(|held| held.address);
        holding.into_iter().cloned().collect()
    }

    pub fn held_by(&self, key: &ServiceKey, family: Family) -> Option<&Held> {
        self.held
            .iter()
            .find(|h| h.key == *key && Family::of(h.address) == family)
    }

    pub fn reservation(&self, address: IpAddr) -> Option<&Kept> {
        self.kept.iter().find(|kept| kept.address == address)
    }

    /// What a Service shows and does not hold, the lowest address first.
    pub fn shown_by(&self, key: &ServiceKey) -> Vec<Shown> {
        let mut shown: Vec<_> = self.shown.clone();
        shown.retain(|shown| shown.key == *key);
        shown.sort_by_key(|shown| shown.address);
        shown
    }

    /// Who shows an address without holding it, the longest first.
    pub fn showing(&self, address: IpAddr) -> Vec<&Shown> {
        let mut showing: Vec<_> = self.shown.iter().filter(|s| s.address == address).collect();
        showing.sort_by_key(|shown| (shown.since, &shown.key));
        showing
    }

    pub fn last_holder(&self, address: IpAddr) -> Option<&Last> {
        self.last.iter().find(|last| last.address == address)
    }

    /// What a Service held and nobody took since, the last one first.
    pub fn last_held(&self, key: &ServiceKey, family: Family) -> Vec<IpAddr> {
        let mut last: Vec<_> = self
            .last
            .iter()
            .filter(|last| last.key == *key && Family::of(last.address) == family)
            .map(|last| (last.at, last.address))
            .collect();
        last.sort_by(|one, other| other.cmp(one));
        last.into_iter().map(|(_, address)| address).collect()
    }

    pub fn stage(&self, address: IpAddr) -> Stage {
        if !self.holders(address).is_empty() {
            return Stage::Held;
        }
        if self.reservation(address).is_some() || !self.showing(address).is_empty() {
            return Stage::Reserved;
        }
        let (Some(last), Some(pool)) = (self.last_holder(address), self.pool_of(address)) else {
            return Stage::Fresh;
        };
        let cooled = last.at.after(pool.cooldown);
        if self.now < cooled {
            Stage::Cooling(cooled)
        } else if self.now < last.at.after(pool.sticky_for) {
            Stage::Sticky
        } else {
            Stage::Fresh
        }
    }

    /// The lowest address of a pool in a stage.
    pub fn lowest(&self, pool: &PoolSpec, family: Family, stage: Stage) -> Option<IpAddr> {
        let addresses = self.addresses(pool, family);
        addresses.into_iter().find(|a| self.stage(*a) == stage)
    }

    /// As it is told: a pool may have got another name meanwhile.
    pub fn shown(&self, held: &Held) -> Arc<Allocation> {
        let pool = self.pool_of(held.address).map(|pool| pool.name.clone());
        Arc::new(Allocation {
            address: held.address,
            pool: pool.unwrap_or_else(|| held.pool.clone()),
            key: Arc::new(held.key.clone()),
            holder: held.holder.clone(),
            since: held.since,
            revision: held.revision,
        })
    }

    pub fn allocate(&mut self, address: IpAddr, key: &ServiceKey, holder: &Holder) -> Change {
        let pool = self.pool_of(address).expect("given from a pool");
        let held = Held {
            address,
            pool: pool.name.clone(),
            key: key.clone(),
            holder: holder.clone(),
            since: self.now,
            revision: self.revision.next(),
        };
        let shown = self.shown(&held);
        self.held.push(held);
        self.last.retain(|last| last.address != address);
        self.write(ChangeKind::Allocated(shown))
    }

    pub fn release(&mut self, held: &Held) -> Change {
        self.held
            .retain(|h| h.address != held.address || h.key != held.key);
        if self.holders(held.address).is_empty() {
            self.last.push(Last {
                address: held.address,
                key: held.key.clone(),
                at: self.now,
            });
        }
        self.write(ChangeKind::Released(self.shown(held)))
    }

    pub fn update(&mut self, held: &Held, holder: &Holder) -> Change {
        let updated = Held {
            pool: self.shown(held).pool.clone(),
            holder: holder.clone(),
            revision: self.revision.next(),
            ..held.clone()
        };
        self.held
            .retain(|h| h.address != held.address || h.key != held.key);
        self.held.push(updated.clone());
        self.write(ChangeKind::Updated(self.shown(&updated)))
    }

    pub fn reserve(&mut self, kept: Kept) -> Change {
        self.kept.retain(|other| other.address != kept.address);
        self.kept.push(kept.clone());
        self.write(ChangeKind::Reserved(kept.shown()))
    }

    pub fn unreserve(&mut self, address: IpAddr) -> Option<Change> {
        let kept = self.reservation(address).cloned()?;
        self.kept.retain(|other| other.address != address);
        Some(self.write(ChangeKind::Unreserved(kept.shown())))
    }

    pub fn shows(&mut self, shown: Shown) -> Change {
        self.shown.push(shown.clone());
        self.write(ChangeKind::Conflicted(shown.told()))
    }

    pub fn shows_no_more(&mut self, shown: &Shown) -> Change {
        self.shown
            .retain(|other| other.address != shown.address || other.key != shown.key);
        self.write(ChangeKind::ConflictEnded(shown.told()))
    }

    fn write(&mut self, kind: ChangeKind) -> Change {
        self.revision = self.revision.next();
        self.last_change_at = self.now;
        Change {
            revision: self.revision,
            at: self.now,
            kind,
        }
    }
}

impl Kept {
    pub fn shown(&self) -> Arc<Reservation> {
        Arc::new(Reservation {
            address: self.address,
            key: self.key.clone().map(Arc::new),
            expires: self.expires,
            comment: self.comment.clone(),
            from: self.from.clone().map(Arc::new),
        })
    }
}

impl Shown {
    pub fn told(&self) -> Arc<Conflict> {
        Arc::new(Conflict {
            address: self.address,
            key: Arc::new(self.key.clone()),
            holder: self.holder.clone(),
            since: self.since,
            kind: ConflictKind::Shown,
        })
    }
}

fn is_buggy(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => [0, 255].contains(&v4.octets()[3]),
        IpAddr::V6(_) => false,
    }
}

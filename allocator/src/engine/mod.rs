//! The allocation engine: a pure, synchronous state machine. It has no clock, no
//! I/O, no randomness and no async; time is an argument. The same snapshot, the
//! same commands and the same times give the same replies and changes.
//!
//! ```text
//!   Command ─► Engine::plan ─► Reply + Outcome       (the state has moved on)
//!   time    ─► Engine::pass ─► Outcome               (what ended by itself)
//!   Snapshot + Pools ─► Engine::restore              (what a database holds)
//! ```
//!
//! No request costs more than O(log n) in the size of a pool, the number of
//! allocations, marks of former holders, or reservations. What pays for that is
//! said where it is:
//! - `holdings` finds what a Service holds, O(1);
//! - [`sharing::Held`] finds who holds an address, and who may join them;
//! - [`free::Free`] finds the address to give, and what cools down until when;
//! - [`reservations::Reservations`] finds what is kept for whom;
//! - [`quota::Quotas`] counts what limits look at;
//! - [`pools::Pools`] finds the pools of a Service, and the pool of an address.
//!
//! Read [`acquire`] first.

pub mod acquire;
pub mod address;
pub mod change;
mod choose;
pub mod free;
pub mod key;
pub mod labels;
pub mod pools;
pub mod quota;
pub mod ranges;
pub mod refusal;
pub mod reservations;
mod settle;
pub mod sharing;

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use thiserror::Error;

pub use self::{
    acquire::{Acquire, Acquired, Policy, Unmet, Wish},
    address::{AddressRange, Family, PerFamily},
    change::{
        Allocation, Change, ChangeKind, Holder, LastHeld, Reservation, Revision, Snapshot,
        Timestamp,
    },
    key::{
        ClusterName, InvalidName, Namespace, PoolName, ServiceKey, ServiceName, SharingKey, Uid,
    },
    labels::{LabelMap, Labels, Requirement, Selector},
    pools::{Located, PoolConflict, PoolIndex, PoolSpec, Pools, STICKY_FOR},
    refusal::Refusal,
    sharing::{Backend, Permitted, Port, Protocol, Terms},
};
use free::Free;
use quota::{Quotas, Weight};
use reservations::Reservations;
use sharing::Held;

/// What is asked of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Acquire(Acquire),
    Release(Release),
    Reserve(Reserve),
    /// Ends the reservation of an address.
    Unreserve(IpAddr),
}

/// Take back what `key` holds; with a uid, only if the holder has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    pub key: ServiceKey,
    pub uid: Option<Uid>,
}

/// Keep an address from everybody, or from all but `key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    pub address: IpAddr,
    pub key: Option<Arc<ServiceKey>>,
    /// `None`: until it is ended.
    pub expires: Option<Timestamp>,
    pub comment: String,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Acquired(Acquired),
    Refused(Refusal),
    /// What was held until now.
    Released(Vec<Arc<Allocation>>),
    Reserved(Arc<Reservation>),
    /// The reservation that was ended, if there was one.
    Unreserved(Option<Arc<Reservation>>),
}

/// What a step did: what has to be made durable before it is told, and of which
/// pools others may get something now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub changes: Vec<Change>,
    pub freed: Vec<Freed>,
}

/// Something that Services may wait for: an address is free, or those who share
/// one changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freed {
    pub pool: PoolName,
    pub family: Family,
}

/// Why a snapshot cannot be what this engine wrote.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Inconsistent {
    #[error("address {address} is held by {second} and others that do not share it with that")]
    TwoHolders {
        address: IpAddr,
        second: Arc<ServiceKey>,
    },
    #[error("{key} holds two {family} addresses, {first} and {second}")]
    TwoAddresses {
        key: Arc<ServiceKey>,
        family: Family,
        first: IpAddr,
        second: IpAddr,
    },
}

type Holding = PerFamily<Option<Arc<Allocation>>>;

/// See the module.
#[derive(Clone, Debug)]
pub struct Engine {
    pools: Arc<Pools>,
    revision: Revision,
    /// When the last change was made.
    last_change_at: Timestamp,
    /// Time as decisions see it: it never goes back, not even over a restart, so
    /// that what has ended stays ended.
    now: Timestamp,
    holdings: HashMap<Arc<ServiceKey>, Holding>,
    held: Held,
    free: Free,
    quotas: Quotas,
    reservations: Reservations,
}

impl Engine {
    /// # Errors
    /// If the snapshot breaks a rule that this engine keeps.
    pub fn restore(pools: Arc<Pools>, snapshot: Snapshot) -> Result<Self, Inconsistent> {
        let Snapshot {
            revision,
            last_change_at,
            allocations,
            last_held,
            reservations,
        } = snapshot;
        let mut engine = Self {
            free: Free::new(&pools),
            pools,
            revision,
            last_change_at,
            now: last_change_at,
            holdings: HashMap::new(),
            held: Held::default(),
            quotas: Quotas::default(),
            reservations: Reservations::default(),
        };
        for allocation in allocations {
            engine.check(&allocation)?;
            let allocation = engine.in_todays_pool(allocation);
            engine.count_in(&allocation);
            engine.hold(allocation);
        }
        for reservation in reservations {
            engine.keep(reservation);
        }
        for last in last_held {
            engine.free.give_back(&engine.pools, last, engine.now);
        }
        Ok(engine)
    }

    /// What a database would hold.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            revision: self.revision,
            last_change_at: self.last_change_at,
            allocations: self.allocations().cloned().collect(),
            last_held: self.free.marks().collect(),
            reservations: self.reservations.iter().cloned().collect(),
        }
    }

    /// The same state under other pools. Nobody loses an address by it.
    ///
    /// # Errors
    /// Never, for a state that the engine came to by itself.
    pub fn with_pools(&self, pools: Arc<Pools>) -> Result<Self, Inconsistent> {
        let mut engine = Self::restore(pools, self.snapshot())?;
        engine.now = self.now;
        Ok(engine)
    }

    pub const fn pools(&self) -> &Arc<Pools> {
        &self.pools
    }

    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Everything that is held, in no order.
    pub fn allocations(&self) -> impl Iterator<Item = &Arc<Allocation>> {
        let holdings = self.holdings.values();
        holdings.flat_map(|holding| holding.iter().filter_map(|(_, held)| held.as_ref()))
    }

    /// Everything that is reserved, in no order.
    pub fn reservations(&self) -> impl Iterator<Item = &Arc<Reservation>> {
        self.reservations.iter()
    }

    /// Decides, and moves the state on as if the changes were durable already.
    /// Where they cannot be made so, the engine has to be restored.
    pub fn plan(&mut self, command: &Command, now: Timestamp) -> (Reply, Outcome) {
        let mut outcome = self.pass(now);
        let reply = match command {
            Command::Acquire(acquire) => self.acquire(acquire, &mut outcome),
            Command::Release(release) => self.release(release, &mut outcome),
            Command::Reserve(reserve) => self.reserve(reserve, &mut outcome),
            Command::Unreserve(address) => self.unreserve(*address, &mut outcome),
        };
        (reply, outcome)
    }

    /// When [`Engine::pass`] has something to do.
    pub fn next_end(&self) -> Option<Timestamp> {
        let ends = [self.free.next_end(), self.reservations.next_expiry()];
        ends.into_iter().flatten().min()
    }

    /// Ends what has its end by `now`: cooldowns, protection of former holders,
    /// reservations.
    pub fn pass(&mut self, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::default();
        self.now = self.now.max(now);
        for (pool, family) in self.free.end_stages(self.now) {
            outcome.freed.push(Freed {
                pool: self.pools.spec(pool).name.clone(),
                family,
            });
        }
        while let Some(expired) = self.reservations.expired(self.now) {
            self.commit(ChangeKind::Unreserved(expired), &mut outcome);
        }
        outcome
    }

    /// The reply to a command that changes nothing; `None` if it would.
    pub fn reply_without_change(&self, command: &Command) -> Option<Reply> {
        match command {
            Command::Acquire(acquire) => self.acquire_without_change(acquire),
            Command::Release(release) => {
                let nothing = self.to_release(release).next().is_none();
                nothing.then(|| Reply::Released(Vec::new()))
            }
            Command::Reserve(reserve) => match self.reservation(reserve) {
                Err(refusal) => Some(Reply::Refused(refusal)),
                Ok(reservation) => (self.reservations.get(reserve.address) == Some(&reservation))
                    .then_some(Reply::Reserved(reservation)),
            },
            Command::Unreserve(address) => {
                let nothing = self.reservations.get(*address).is_none();
                nothing.then_some(Reply::Unreserved(None))
            }
        }
    }

    fn release(&mut self, release: &Release, outcome: &mut Outcome) -> Reply {
        let held: Vec<_> = self.to_release(release).cloned().collect();
        for allocation in &held {
            self.commit(ChangeKind::Released(Arc::clone(allocation)), outcome);
        }
        Reply::Released(held)
    }

    fn reserve(&mut self, reserve: &Reserve, outcome: &mut Outcome) -> Reply {
        match self.reservation(reserve) {
            Err(refusal) => Reply::Refused(refusal),
            Ok(reservation) => {
                if self.reservations.get(reserve.address) != Some(&reservation) {
                    self.commit(ChangeKind::Reserved(Arc::clone(&reservation)), outcome);
                }
                Reply::Reserved(reservation)
            }
        }
    }

    /// The reservation to be, if the address can be reserved.
    fn reservation(&self, reserve: &Reserve) -> Result<Arc<Reservation>, Refusal> {
        let Reserve {
            address,
            key,
            expires,
            comment,
        } = reserve;
        let address = *address;
        let pool = match self.pools.locate(address) {
            Located::In(pool) => self.pools.spec(pool).name.clone(),
            Located::Excluded(pool) => {
                let pool = self.pools.spec(pool).name.clone();
                return Err(Refusal::AddressExcluded { address, pool });
            }
            Located::Nowhere => {
                return Err(Refusal::AddressNotInPool {
                    address,
                    pool: None,
                });
            }
        };
        let holders = self.held.get(address);
        let other = holders.and_then(|holders| {
            let mut others = holders
                .iter()
                .filter(|held| Some(&held.key) != key.as_ref());
            others.next()
        });
        if let Some(other) = other {
            return Err(Refusal::AddressInUse {
                address,
                pool,
                holder: Some(Arc::clone(&other.key)),
            });
        }
        Ok(Arc::new(Reservation {
            address,
            key: key.clone(),
            expires: *expires,
            comment: comment.clone(),
        }))
    }

    fn unreserve(&mut self, address: IpAddr, outcome: &mut Outcome) -> Reply {
        let reserved = self.reservations.get(address).cloned();
        if let Some(reserved) = &reserved {
            self.commit(ChangeKind::Unreserved(Arc::clone(reserved)), outcome);
        }
        Reply::Unreserved(reserved)
    }

    fn to_release(&self, release: &Release) -> impl Iterator<Item = &Arc<Allocation>> {
        self.holding(&release.key)
            .filter(|held| match (&release.uid, &held.holder.uid) {
                (Some(asked), Some(holder)) => asked == holder,
                (None, _) | (_, None) => true,
            })
    }

    /// What a key holds, IPv4 first.
    fn holding(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<Allocation>> {
        self.holdings
            .get(key)
            .into_iter()
            .flat_map(|holding| holding.iter().filter_map(|(_, held)| held.as_ref()))
    }

    fn held_by(&self, key: &ServiceKey, family: Family) -> Option<&Arc<Allocation>> {
        self.holdings.get(key)?.get(family).as_ref()
    }

    fn check(&self, allocation: &Arc<Allocation>) -> Result<(), Inconsistent> {
        let key = Arc::clone(&allocation.key);
        let family = allocation.family();
        if let Some(first) = self.held_by(&key, family) {
            return Err(Inconsistent::TwoAddresses {
                first: first.address,
                second: allocation.address,
                key,
                family,
            });
        }
        let admitted = self.held.get(allocation.address).is_none_or(|holders| {
            holders
                .admit(&key, allocation.holder.sharing.as_deref())
                .is_ok()
        });
        if !admitted {
            return Err(Inconsistent::TwoHolders {
                address: allocation.address,
                second: key,
            });
        }
        Ok(())
    }

    /// A pool may have been renamed or split while its addresses were held.
    fn in_todays_pool(&self, allocation: Arc<Allocation>) -> Arc<Allocation> {
        match self.pools.locate(allocation.address) {
            Located::In(pool) if self.pools.spec(pool).name != allocation.pool => {
                Arc::new(Allocation {
                    pool: self.pools.spec(pool).name.clone(),
                    ..(*allocation).clone()
                })
            }
            Located::In(_) | Located::Excluded(_) | Located::Nowhere => allocation,
        }
    }

    /// Gives a change its revision, and moves the state on by it.
    fn commit(&mut self, kind: ChangeKind, outcome: &mut Outcome) {
        self.revision = self.revision.next();
        self.last_change_at = self.now;
        match &kind {
            ChangeKind::Allocated(allocation) => {
                self.count_in(allocation);
                self.hold(Arc::clone(allocation));
            }
            ChangeKind::Updated(allocation) => {
                self.hold(Arc::clone(allocation));
                if allocation.holder.sharing.is_some() {
                    self.tell_freed(allocation.address, outcome);
                }
            }
            ChangeKind::Released(allocation) => self.let_go(allocation, outcome),
            ChangeKind::Reserved(reservation) => self.keep(Arc::clone(reservation)),
            ChangeKind::Unreserved(reservation) => {
                let address = reservation.address;
                self.reservations.remove(address);
                if self.held.get(address).is_none() {
                    self.free.give(&self.pools, address);
                    self.tell_freed(address, outcome);
                }
            }
        }
        outcome.changes.push(Change {
            revision: self.revision,
            at: self.now,
            kind,
        });
    }

    fn hold(&mut self, allocation: Arc<Allocation>) {
        self.free.take(&self.pools, allocation.address);
        self.held.add(Arc::clone(&allocation));
        let key = Arc::clone(&allocation.key);
        let family = allocation.family();
        *self.holdings.entry(key).or_default().get_mut(family) = Some(allocation);
    }

    fn keep(&mut self, reservation: Arc<Reservation>) {
        self.free.take(&self.pools, reservation.address);
        self.reservations.add(reservation);
    }

    fn let_go(&mut self, allocation: &Allocation, outcome: &mut Outcome) {
        let address = allocation.address;
        if let Some(holding) = self.holdings.get_mut(&allocation.key) {
            *holding.get_mut(allocation.family()) = None;
            if holding.iter().all(|(_, held)| held.is_none()) {
                self.holdings.remove(&allocation.key);
            }
        }
        self.count_out(allocation);
        let nobody_is_left = self.held.remove(allocation);
        if nobody_is_left && self.reservations.get(address).is_none() {
            let last = LastHeld {
                address,
                key: Arc::clone(&allocation.key),
                released_at: self.now,
            };
            self.free.give_back(&self.pools, last, self.now);
        }
        // Also of an address that cools down: who waits learns until when.
        self.tell_freed(address, outcome);
        self.tell_room_in_quota(address, outcome);
    }

    fn tell_freed(&self, address: IpAddr, outcome: &mut Outcome) {
        if let Located::In(pool) = self.pools.locate(address) {
            outcome.freed.push(Freed {
                pool: self.pools.spec(pool).name.clone(),
                family: Family::of(address),
            });
        }
    }

    /// A quota counts both families, so that one that leaves makes room for one of
    /// the other.
    fn tell_room_in_quota(&self, address: IpAddr, outcome: &mut Outcome) {
        let Located::In(pool) = self.pools.locate(address) else {
            return;
        };
        let spec = self.pools.spec(pool);
        if spec.max_per_namespace.is_none() && spec.max_per_cluster.is_none() {
            return;
        }
        let others = self.pools.usable(pool).iter();
        let others =
            others.filter(|(family, usable)| *family != Family::of(address) && !usable.is_empty());
        outcome.freed.extend(others.map(|(family, _)| Freed {
            pool: spec.name.clone(),
            family,
        }));
    }

    fn count_in(&mut self, allocation: &Allocation) {
        if let Located::In(pool) = self.pools.locate(allocation.address) {
            let weight = Weight::of_joining(&allocation.key, self.held.get(allocation.address));
            self.quotas.add(&self.pools, pool, &allocation.key, weight);
        }
    }

    fn count_out(&mut self, allocation: &Allocation) {
        if let Located::In(pool) = self.pools.locate(allocation.address)
            && let Some(holders) = self.held.get(allocation.address)
        {
            let weight = Weight::of_leaving(&allocation.key, holders);
            self.quotas
                .remove(&self.pools, pool, &allocation.key, weight);
        }
    }
}

/// Whether an address is held that its holder would not get today: it is in no
/// pool, excluded, or its pool is disabled or serves others.
pub fn is_stranded(pools: &Pools, allocation: &Allocation) -> bool {
    let Located::In(pool) = pools.locate(allocation.address) else {
        return true;
    };
    let none = Labels::default();
    let labels = allocation.holder.labels.as_deref().unwrap_or(&none);
    pools.spec(pool).disabled || !pools.serves(pool, &allocation.key, labels)
}

#[cfg(test)]
mod tests;

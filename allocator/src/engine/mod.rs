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
//! - `holdings` finds what a Service, or a whole cluster, holds, O(1) for each;
//! - [`sharing::Held`] finds who holds an address, and who may join them;
//! - [`free::Free`] finds the address to give, and what cools down until when;
//! - [`reservations::Reservations`] finds what is kept for whom;
//! - [`quota::Quotas`] counts what limits look at;
//! - `leaving` finds whose grace ends next;
//! - [`conflicts::Conflicts`] and [`clusters::Clusters`] find what holds a Service
//!   or a cluster up;
//! - [`pools::Pools`] finds the pools of a Service, and the pool of an address.
//!
//! Read [`acquire`] first. `tests/model` says the same rules once more, slowly, and
//! holds the engine to them.

pub mod acquire;
pub mod address;
pub mod change;
mod choose;
pub mod clusters;
pub mod conflicts;
mod decommission;
pub mod free;
mod handover;
pub mod key;
pub mod labels;
mod limits;
pub mod pools;
pub mod quota;
pub mod ranges;
pub mod refusal;
pub mod reservations;
mod settle;
pub mod sharing;
pub mod sync;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use thiserror::Error;

pub use self::{
    acquire::{Acquire, Acquired, Policy, Unmet, Wish},
    address::{AddressRange, Family, PerFamily},
    change::{
        Allocation, Change, ChangeKind, Conflict, Holder, LastHeld, Reservation, Revision,
        Snapshot, Timestamp,
    },
    clusters::{ClusterRecord, ClusterState},
    decommission::Decommission,
    handover::{Handover, Resolve, Winner},
    key::{
        ClusterName, InvalidName, Namespace, PoolName, ServiceKey, ServiceName, SharingKey, Uid,
    },
    labels::{LabelMap, Labels, Requirement, Selector},
    pools::{Located, PoolConflict, PoolIndex, PoolSpec, Pools, STICKY_FOR, Settings},
    refusal::Refusal,
    sharing::{Backend, Permitted, Port, Protocol, Terms},
    sync::{Sync, Synced, Verdict},
};
use clusters::Clusters;
use conflicts::Conflicts;
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
    Sync(Sync),
    Handover(Handover),
    Resolve(Resolve),
    Decommission(Decommission),
    /// Takes a cluster back into service.
    Recommission(ClusterName),
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
    /// Every Service of the cluster, in the order of keys.
    Synced(Vec<Synced>),
    /// The conflict that was decided.
    Resolved(Arc<Conflict>),
    Decommissioned(ClusterState),
    Recommissioned,
}

/// What a step did: what has to be made durable before it is told, and of which
/// pools others may get something now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub changes: Vec<Change>,
    pub freed: Vec<Freed>,
    /// Services that will get another answer now, though nothing was freed.
    pub ask_again: Vec<Arc<ServiceKey>>,
    /// Clusters that told what they have before the database turned out to be an old
    /// one, and have to tell it again.
    pub tell_again: Vec<ClusterName>,
    /// Nobody is awaited any more.
    pub all_may_ask: bool,
}

impl Outcome {
    /// Adds what another step did.
    pub fn extend(&mut self, other: &Self) {
        let Self {
            changes,
            freed,
            ask_again,
            tell_again,
            all_may_ask,
        } = other;
        self.changes.extend_from_slice(changes);
        self.freed.extend_from_slice(freed);
        self.ask_again.extend_from_slice(ask_again);
        self.tell_again.extend_from_slice(tell_again);
        self.all_may_ask |= all_may_ask;
    }
}

/// Something that Services may wait for: an address is free or kept for one of
/// them, there is room under a limit, or those who share an address changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freed {
    pub pool: PoolName,
    pub family: Family,
    pub address: IpAddr,
    /// Whose limits have room now.
    pub by: Option<ClusterName>,
    /// It is still held: who shares it.
    pub shared: Option<(ClusterName, SharingKey)>,
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
    holdings: HashMap<ClusterName, HashMap<Arc<ServiceKey>, Holding>>,
    leaving: BTreeSet<(Timestamp, Arc<ServiceKey>)>,
    held: Held,
    free: Free,
    quotas: Quotas,
    reservations: Reservations,
    conflicts: Conflicts,
    clusters: Clusters,
    /// What a database calls the pool of an address, where that has another name
    /// by now.
    recorded: HashMap<(IpAddr, Arc<ServiceKey>), PoolName>,
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
            conflicts,
            clusters,
        } = snapshot;
        let mut engine = Self {
            free: Free::new(&pools),
            pools,
            revision,
            last_change_at,
            now: last_change_at,
            holdings: HashMap::new(),
            leaving: BTreeSet::new(),
            held: Held::default(),
            quotas: Quotas::default(),
            reservations: Reservations::default(),
            conflicts: Conflicts::default(),
            clusters: Clusters::default(),
            recorded: HashMap::new(),
        };
        for conflict in conflicts {
            engine.conflicts.add(conflict);
        }
        for record in clusters {
            engine.clusters.set(record);
        }
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
            engine.remember(last);
        }
        Ok(engine)
    }

    /// What a database would hold.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            revision: self.revision,
            last_change_at: self.last_change_at,
            allocations: self.allocations().map(|a| self.as_recorded(a)).collect(),
            last_held: self.free.marks().collect(),
            reservations: self.reservations.iter().cloned().collect(),
            conflicts: self.conflicts.iter().cloned().collect(),
            clusters: self.clusters.iter().cloned().collect(),
        }
    }

    /// The same state under other pools. Nobody loses an address by it.
    ///
    /// # Errors
    /// Never, for a state that the engine came to by itself.
    pub fn with_pools(&self, pools: Arc<Pools>) -> Result<Self, Inconsistent> {
        let mut engine = Self::restore(pools, self.snapshot())?;
        engine.now = self.now;
        engine.free.end_stages(self.now);
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
        let holdings = self.holdings.values().flat_map(HashMap::values);
        holdings.flat_map(|holding| holding.iter().filter_map(|(_, held)| held.as_ref()))
    }

    /// Everything that is reserved, in no order.
    pub fn reservations(&self) -> impl Iterator<Item = &Arc<Reservation>> {
        self.reservations.iter()
    }

    /// Services that show addresses which others hold, in the order of addresses.
    pub fn conflicts(&self) -> impl Iterator<Item = &Arc<Conflict>> {
        self.conflicts.iter()
    }

    /// What is known of clusters, in the order of names.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<ClusterRecord>> {
        self.clusters.iter()
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
            Command::Sync(sync) => self.sync(sync, &mut outcome),
            Command::Handover(handover) => self.hand_over(handover, &mut outcome),
            Command::Resolve(resolve) => self.resolve(resolve, &mut outcome),
            Command::Decommission(decommission) => self.decommission(decommission, &mut outcome),
            Command::Recommission(cluster) => self.recommission(cluster, &mut outcome),
        };
        self.settle_conflicts(&mut outcome);
        (reply, outcome)
    }

    /// When [`Engine::pass`] has something to do.
    pub fn next_end(&self) -> Option<Timestamp> {
        let ends = [
            self.free.next_end(),
            self.reservations.next_expiry(),
            self.leaving.first().map(|(end, _)| *end),
            self.clusters.next_end(),
        ];
        ends.into_iter().flatten().min()
    }

    /// Ends what has its end by `now`: cooldowns, protection of former holders,
    /// reservations, the grace of Services and clusters that are gone.
    pub fn pass(&mut self, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::default();
        self.now = self.now.max(now);
        for address in self.free.end_stages(self.now) {
            self.tell_freed(address, None, &mut outcome);
        }
        while let Some(expired) = self.reservations.expired(self.now) {
            self.commit(ChangeKind::Unreserved(expired), &mut outcome);
        }
        while let Some((end, key)) = self.leaving.first().cloned()
            && end <= self.now
        {
            let gone = self
                .holding(&key)
                .filter(|held| held.holder.release_at == Some(end));
            for allocation in gone.cloned().collect::<Vec<_>>() {
                self.commit(ChangeKind::Released(allocation), &mut outcome);
            }
        }
        self.end_decommissions(&mut outcome);
        self.settle_conflicts(&mut outcome);
        outcome
    }

    /// The reply to a command that changes nothing; `None` if it would.
    pub fn reply_without_change(&self, command: &Command) -> Option<Reply> {
        match command {
            Command::Acquire(acquire) => self.acquire_without_change(acquire),
            Command::Release(release) => {
                let nothing = self.to_release(release).next().is_none()
                    && self.conflicts_to_release(release).is_empty();
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
            // Rare, and repeated soon: not worth the thought.
            Command::Sync(_)
            | Command::Handover(_)
            | Command::Resolve(_)
            | Command::Decommission(_)
            | Command::Recommission(_) => None,
        }
    }

    fn release(&mut self, release: &Release, outcome: &mut Outcome) -> Reply {
        let held: Vec<_> = self.to_release(release).cloned().collect();
        for allocation in &held {
            self.commit(ChangeKind::Released(Arc::clone(allocation)), outcome);
        }
        for conflict in self.conflicts_to_release(release) {
            self.commit(ChangeKind::ConflictEnded(conflict), outcome);
        }
        Reply::Released(held)
    }

    /// A Service that is gone shows nothing any more.
    fn conflicts_to_release(&self, release: &Release) -> Vec<Arc<Conflict>> {
        self.conflicts
            .of(&release.key)
            .filter(|conflict| is_same_uid(release.uid.as_ref(), conflict.holder.uid.as_ref()))
            .cloned()
            .collect()
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
            from: None,
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
            .filter(|held| is_same_uid(release.uid.as_ref(), held.holder.uid.as_ref()))
    }

    /// What a key holds, IPv4 first.
    fn holding(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<Allocation>> {
        self.holdings
            .get(&key.cluster)
            .and_then(|cluster| cluster.get(key))
            .into_iter()
            .flat_map(|holding| holding.iter().filter_map(|(_, held)| held.as_ref()))
    }

    fn held_by(&self, key: &ServiceKey, family: Family) -> Option<&Arc<Allocation>> {
        self.holdings
            .get(&key.cluster)?
            .get(key)?
            .get(family)
            .as_ref()
    }

    /// What a cluster holds, in the order of keys, IPv4 first.
    fn of_cluster(&self, cluster: &ClusterName) -> Vec<Arc<Allocation>> {
        let holdings = self.holdings.get(cluster).into_iter();
        let holdings = holdings.flat_map(HashMap::values);
        let mut held: Vec<_> = holdings
            .flat_map(|holding| holding.iter().filter_map(|(_, held)| held.clone()))
            .collect();
        held.sort_by(|a, b| (&a.key, a.address).cmp(&(&b.key, b.address)));
        held
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
    fn in_todays_pool(&mut self, allocation: Arc<Allocation>) -> Arc<Allocation> {
        match self.pools.locate(allocation.address) {
            Located::In(pool) if self.pools.spec(pool).name != allocation.pool => {
                let of = (allocation.address, Arc::clone(&allocation.key));
                self.recorded.insert(of, allocation.pool.clone());
                Arc::new(Allocation {
                    pool: self.pools.spec(pool).name.clone(),
                    ..(*allocation).clone()
                })
            }
            Located::In(_) | Located::Excluded(_) | Located::Nowhere => allocation,
        }
    }

    fn as_recorded(&self, allocation: &Arc<Allocation>) -> Arc<Allocation> {
        let of = (allocation.address, Arc::clone(&allocation.key));
        match self.recorded.get(&of) {
            None => Arc::clone(allocation),
            Some(pool) => Arc::new(Allocation {
                pool: pool.clone(),
                ..(**allocation).clone()
            }),
        }
    }

    fn is_recorded(&mut self, allocation: &Allocation) {
        let of = (allocation.address, Arc::clone(&allocation.key));
        self.recorded.remove(&of);
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
                self.is_recorded(allocation);
                self.hold(Arc::clone(allocation));
                if allocation.holder.sharing.is_some() {
                    self.tell_freed(allocation.address, None, outcome);
                }
            }
            ChangeKind::Released(allocation) => self.let_go(allocation, outcome),
            ChangeKind::Reserved(reservation) => {
                self.keep(Arc::clone(reservation));
                if self.held.get(reservation.address).is_none() {
                    outcome.ask_again.extend(reservation.key.clone());
                }
            }
            ChangeKind::Unreserved(reservation) => {
                let address = reservation.address;
                self.reservations.remove(address);
                if self.held.get(address).is_none() {
                    self.free.give(&self.pools, address, self.now);
                    self.tell_freed(address, None, outcome);
                }
            }
            ChangeKind::Conflicted(conflict) => self.conflicts.add(Arc::clone(conflict)),
            ChangeKind::ConflictEnded(conflict) => self.conflicts.remove(conflict),
            ChangeKind::Cluster(record) => self.clusters.set(Arc::clone(record)),
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
        if let Some(end) = allocation.holder.release_at {
            self.leaving.insert((end, Arc::clone(&key)));
        }
        let cluster = self.holdings.entry(key.cluster.clone()).or_default();
        let holding = cluster.entry(Arc::clone(&key)).or_default();
        let before = holding.get_mut(family).replace(allocation);
        if let Some(before) = before {
            self.leaves_no_more(&before);
        }
    }

    /// To be called when the state has moved on from `before`.
    fn leaves_no_more(&mut self, before: &Allocation) {
        if let Some(end) = before.holder.release_at {
            let still = self
                .holding(&before.key)
                .any(|held| held.holder.release_at == Some(end));
            if !still {
                self.leaving.remove(&(end, Arc::clone(&before.key)));
            }
        }
    }

    fn keep(&mut self, reservation: Arc<Reservation>) {
        self.free.withhold(&self.pools, reservation.address);
        self.reservations.add(reservation);
    }

    fn remember(&mut self, last: LastHeld) {
        let address = last.address;
        self.free.mark(&self.pools, last);
        if self.reservations.get(address).is_none() {
            self.free.give(&self.pools, address, self.now);
        }
    }

    fn let_go(&mut self, allocation: &Allocation, outcome: &mut Outcome) {
        let address = allocation.address;
        self.is_recorded(allocation);
        let cluster = &allocation.key.cluster;
        if let Some(keys) = self.holdings.get_mut(cluster)
            && let Some(holding) = keys.get_mut(&allocation.key)
        {
            *holding.get_mut(allocation.family()) = None;
            if holding.iter().all(|(_, held)| held.is_none()) {
                keys.remove(&allocation.key);
            }
            if keys.is_empty() {
                self.holdings.remove(cluster);
            }
        }
        self.leaves_no_more(allocation);
        self.count_out(allocation);
        let nobody_is_left = self.held.remove(allocation);
        if nobody_is_left {
            if let Some(reserved) = self.reservations.get(address) {
                outcome.ask_again.extend(reserved.key.clone());
            }
            self.remember(LastHeld {
                address,
                key: Arc::clone(&allocation.key),
                released_at: self.now,
            });
        }
        // Also of an address that cools down: who waits learns until when.
        self.tell_freed(address, Some(&allocation.key.cluster), outcome);
    }

    fn tell_freed(&self, address: IpAddr, by: Option<&ClusterName>, outcome: &mut Outcome) {
        if let Located::In(pool) = self.pools.locate(address) {
            outcome.freed.push(Freed {
                pool: self.pools.spec(pool).name.clone(),
                family: Family::of(address),
                address,
                by: by.cloned(),
                shared: self.held.get(address).and_then(sharing::Holders::group),
            });
        }
    }

    /// Whether a pool has an address that is free for anybody whom it serves.
    pub fn has_free(&self, pool: &PoolName, family: Family) -> bool {
        let pool = self.pools.by_name(pool.as_str());
        pool.is_some_and(|pool| {
            self.free.lowest_fresh(pool, family).is_some()
                || self.free.lowest_sticky(pool, family).is_some()
        })
    }

    /// The pools that a wish could be served from if they had room.
    pub fn pools_for(&self, acquire: &Acquire, family: Family) -> Vec<PoolName> {
        let pools = self.candidates(acquire, family).unwrap_or_default();
        let names = pools.into_iter().map(|pool| &self.pools.spec(pool).name);
        names.cloned().collect()
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

/// Whether a request is meant for a holder: whoever does not say or is not known
/// is not told apart.
fn is_same_uid(asked: Option<&Uid>, holder: Option<&Uid>) -> bool {
    match (asked, holder) {
        (Some(asked), Some(holder)) => asked == holder,
        (None, _) | (_, None) => true,
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

//! What everybody may read: the state as of the last committed revision. Only
//! the writer changes it, after a commit; nobody who reads it waits for one.

mod by_address;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Bound,
    pin::pin,
    sync::Arc,
};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::{Notify, watch};

use self::by_address::ByAddress;
pub use self::by_address::Place;
use crate::{
    auth::Decommissioned,
    contacts::Contacts,
    engine::{
        Allocation, Change, ChangeKind, ClusterName, ClusterRecord, ClusterState, Conflict, Engine,
        Family, Holdings, Identity, Located, PerFamily, PoolIndex, PoolName, Pools, Reservation,
        Revision, ServiceKey, Timestamp, is_stranded,
    },
    streams::Streams,
};

/// See the module.
#[derive(Debug)]
pub struct Published {
    state: RwLock<State>,
    revisions: watch::Sender<Revision>,
    /// for the many who wait for a revision: unlike the channel it wakes them in order
    revised: Notify,
    streams: Arc<Streams>,
    decommissioned: Decommissioned,
    contacts: Contacts,
    began: Timestamp,
}

/// The state at one revision.
#[derive(Debug)]
pub struct State {
    pools: Arc<Pools>,
    revision: Revision,
    by_address: ByAddress,
    by_key: Holdings,
    reservations: BTreeMap<IpAddr, Arc<Reservation>>,
    /// held, reserved or shown addresses of each pool, in the order of [`Pools::indexes`]
    used: Vec<PerFamily<u64>>,
    /// stranded addresses by the pool that they came from
    stranded: BTreeMap<PoolName, u64>,
    /// addresses that each cluster holds
    clusters: BTreeMap<ClusterName, u64>,
    records: BTreeMap<ClusterName, Arc<ClusterRecord>>,
    conflicts: BTreeMap<Place, Arc<Conflict>>,
}

impl Published {
    pub fn new(engine: &Engine, now: Timestamp) -> Self {
        let state = State::of(engine);
        let decommissioned = Decommissioned::default();
        decommissioned.replace(state.decommissioned());
        Self {
            state: RwLock::new(state),
            revisions: watch::Sender::new(engine.revision()),
            revised: Notify::new(),
            streams: Arc::new(Streams::default()),
            decommissioned,
            contacts: Contacts::default(),
            began: now,
        }
    }

    /// The state. The writer waits while it is held: never across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    /// The revision, and word of every new one.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revisions.subscribe()
    }

    /// The revision, as soon as it is another one than this.
    pub async fn revision_other_than(&self, known: Revision) -> Revision {
        loop {
            let mut revised = pin!(self.revised.notified());
            revised.as_mut().enable();
            let revision = *self.revisions.borrow();
            if revision != known {
                return revision;
            }
            revised.await;
        }
    }

    /// Where those who wait are told.
    pub const fn streams(&self) -> &Arc<Streams> {
        &self.streams
    }

    /// Clusters whose requests are refused, as they are at any time.
    pub const fn decommissioned(&self) -> &Decommissioned {
        &self.decommissioned
    }

    /// What was heard of clusters since the start of this process.
    pub const fn contacts(&self) -> &Contacts {
        &self.contacts
    }

    /// When a cluster last told what it has, since the start of this process.
    pub fn last_sync(&self, cluster: &ClusterName) -> Option<Timestamp> {
        self.contacts.of(cluster).synced_at
    }

    /// Whether a cluster that should say something has not done so for too long.
    pub fn is_silent(&self, cluster: &ClusterName, now: Timestamp) -> bool {
        let last = self.last_sync(cluster).unwrap_or(self.began);
        let silence = self.read().pools.settings().cluster_silence;
        !self.decommissioned.contains(cluster) && now >= last.after(silence)
    }

    /// Every cluster that holds something, that something is known of, or whose
    /// watcher listens, in the order of names.
    pub fn clusters(&self) -> Vec<(ClusterName, Option<ClusterState>, u64)> {
        let mut clusters = self.read().clusters();
        for name in self.streams.clusters() {
            let place = clusters.binary_search_by(|(known, _, _)| known.cmp(&name));
            if let Err(place) = place {
                clusters.insert(place, (name, None, 0));
            }
        }
        clusters
    }

    /// Shows what was committed, in its order.
    pub fn apply(&self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let revision = {
            let mut state = self.state.write();
            for change in changes {
                state.apply(change);
            }
            if changes.iter().any(Change::is_of_a_cluster) {
                self.decommissioned.replace(state.decommissioned());
            }
            state.revision
        };
        self.revise(revision);
    }

    /// Shows a state that was made anew, from the database or under other pools.
    pub fn replace(&self, engine: &Engine) {
        let state = State::of(engine);
        self.decommissioned.replace(state.decommissioned());
        *self.state.write() = state;
        self.revise(engine.revision());
    }

    fn revise(&self, revision: Revision) {
        self.revisions.send_replace(revision);
        self.revised.notify_waiters();
    }
}

impl State {
    fn of(engine: &Engine) -> Self {
        let pools = engine.pools();
        let mut state = Self {
            used: pools.indexes().map(|_| PerFamily::default()).collect(),
            pools: Arc::clone(pools),
            revision: engine.revision(),
            by_address: ByAddress::default(),
            by_key: Holdings::default(),
            reservations: BTreeMap::new(),
            stranded: BTreeMap::new(),
            clusters: BTreeMap::new(),
            records: BTreeMap::new(),
            conflicts: BTreeMap::new(),
        };
        for record in engine.clusters() {
            state
                .records
                .insert(record.name.clone(), Arc::clone(record));
        }
        state.add_all(engine);
        for conflict in engine.conflicts() {
            state.add_conflict(conflict);
        }
        for reservation in engine.reservations() {
            state.reserve(reservation);
        }
        state
    }

    pub const fn pools(&self) -> &Arc<Pools> {
        &self.pools
    }

    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// How many held addresses there are whose holders would not get them today, by
    /// the pool that they came from, which may be gone.
    pub const fn stranded(&self) -> &BTreeMap<PoolName, u64> {
        &self.stranded
    }

    /// In the order of addresses, IPv4 first, and of holders, from `start` on.
    pub fn allocations_from(&self, start: Option<Place>) -> impl Iterator<Item = &Arc<Allocation>> {
        self.by_address.from(start)
    }

    /// Everybody who holds an address, in the order of keys.
    pub fn by_address(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Allocation>> {
        let from = self.by_address.from(Some((address, None)));
        from.take_while(move |allocation| allocation.address == address)
    }

    /// Whether a Service that does not hold an address may go on showing it: nobody else
    /// holds it or is to get it, and the Service did not give it up.
    pub fn may_show(&self, key: &Arc<ServiceKey>, address: IpAddr) -> bool {
        let gave_up = self.conflicts.get(&(address, Some(Arc::clone(key))));
        let reserved = self.reservations.get(&address);
        self.by_address(address).all(|held| held.key == *key)
            && reserved.is_none_or(|reserved| reserved.key.as_ref() == Some(key))
            && gave_up.is_none_or(|conflict| conflict.is_claim())
    }

    /// IPv4 first.
    pub fn by_key(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<Allocation>> {
        self.by_key.of(key)
    }

    /// In the order of addresses, IPv4 first, from `start` on.
    pub fn reservations_from(
        &self,
        start: Option<IpAddr>,
    ) -> impl Iterator<Item = &Arc<Reservation>> {
        let start = start.map_or(Bound::Unbounded, Bound::Included);
        let range = self.reservations.range((start, Bound::Unbounded));
        range.map(|(_, reservation)| reservation)
    }

    pub fn used(&self, pool: PoolIndex, family: Family) -> u64 {
        let pool = self.used.get(pool.position());
        pool.map_or(0, |used| *used.get(family))
    }

    /// Whether Services of more than one cluster hold addresses.
    pub fn has_several_clusters(&self) -> bool {
        self.clusters.len() > 1
    }

    fn clusters(&self) -> Vec<(ClusterName, Option<ClusterState>, u64)> {
        let names: BTreeSet<_> = self.clusters.keys().chain(self.records.keys()).collect();
        let known = names.into_iter().map(|name| {
            let state = self.records.get(name).map(|record| record.state);
            let held = self.clusters.get(name).copied().unwrap_or_default();
            (name.clone(), state, held)
        });
        known.collect()
    }

    /// Whose name it is.
    pub fn identity(&self, cluster: &ClusterName) -> Option<&Identity> {
        self.records.get(cluster)?.identity.as_ref()
    }

    fn decommissioned(&self) -> BTreeSet<ClusterName> {
        let records = self.records.values();
        let gone =
            records.filter(|record| matches!(record.state, ClusterState::Decommissioned { .. }));
        gone.map(|record| record.name.clone()).collect()
    }

    /// In the order of addresses, IPv4 first, and of Services.
    pub fn conflicts(&self) -> impl ExactSizeIterator<Item = &Arc<Conflict>> {
        self.conflicts.values()
    }

    fn apply(&mut self, change: &Change) {
        self.revision = change.revision;
        match &change.kind {
            ChangeKind::Allocated(allocation) => self.add(allocation),
            ChangeKind::Released(allocation) => self.remove(allocation),
            ChangeKind::Updated(allocation) => {
                let before = self.by_key.get(&allocation.key, allocation.family());
                if let Some(before) = before.cloned() {
                    self.remove(&before);
                }
                self.add(allocation);
            }
            ChangeKind::Reserved(reservation) => self.reserve(reservation),
            ChangeKind::Unreserved(reservation) => {
                let address = reservation.address;
                if self.reservations.remove(&address).is_some() && !self.is_used(address) {
                    self.count(address, |used| *used -= 1);
                }
            }
            ChangeKind::Conflicted(conflict) => {
                self.remove_conflict(conflict);
                self.add_conflict(conflict);
            }
            ChangeKind::ConflictEnded(conflict) => self.remove_conflict(conflict),
            ChangeKind::Cluster(record) => {
                self.records.insert(record.name.clone(), Arc::clone(record));
            }
            ChangeKind::Opened => {}
        }
    }

    fn reserve(&mut self, reservation: &Arc<Reservation>) {
        let address = reservation.address;
        if !self.is_used(address) {
            self.count(address, |used| *used += 1);
        }
        self.reservations.insert(address, Arc::clone(reservation));
    }

    fn add_conflict(&mut self, conflict: &Arc<Conflict>) {
        let address = conflict.address;
        if conflict.keeps_away() && !self.is_used(address) {
            self.count(address, |used| *used += 1);
        }
        self.conflicts.insert(place(conflict), Arc::clone(conflict));
    }

    fn remove_conflict(&mut self, conflict: &Conflict) {
        let address = conflict.address;
        let gone = self.conflicts.remove(&place(conflict));
        if gone.is_some_and(|gone| gone.keeps_away()) && !self.is_used(address) {
            self.count(address, |used| *used -= 1);
        }
    }

    /// Adds everything that is held, to a state that has none of it: in the order of
    /// addresses, in which a tree is built without looking for places.
    fn add_all(&mut self, engine: &Engine) {
        let mut sorted = Vec::with_capacity(engine.holdings().count());
        sorted.extend(engine.allocations().map(|held| (held.address, held)));
        sorted.sort_unstable_by(|(a, one), (b, other)| {
            a.cmp(b).then_with(|| one.key.cmp(&other.key))
        });
        let mut last = None;
        for (address, allocation) in &sorted {
            self.count_holder(allocation);
            if last.replace(*address) != Some(*address) {
                self.count(*address, |used| *used += 1);
            }
        }
        let held = sorted.into_iter().map(|(_, held)| Arc::clone(held));
        self.by_address = held.collect();
        // Last, so that it gets the memory of what was sorted.
        self.by_key = engine.holdings().clone();
    }

    fn add(&mut self, allocation: &Arc<Allocation>) {
        self.count_holder(allocation);
        let address = allocation.address;
        if !self.is_used(address) {
            self.count(address, |used| *used += 1);
        }
        self.by_address.insert(Arc::clone(allocation));
        self.by_key.insert(Arc::clone(allocation));
    }

    fn count_holder(&mut self, allocation: &Allocation) {
        match self.clusters.get_mut(&allocation.key.cluster) {
            Some(count) => *count += 1,
            None => {
                self.clusters.insert(allocation.key.cluster.clone(), 1);
            }
        }
        if is_stranded(&self.pools, allocation) {
            *self.stranded.entry(allocation.pool.clone()).or_default() += 1;
        }
    }

    fn remove(&mut self, allocation: &Arc<Allocation>) {
        let key = &allocation.key;
        let address = allocation.address;
        if let Some(count) = self.clusters.get_mut(&key.cluster) {
            *count -= 1;
            if *count == 0 {
                self.clusters.remove(&key.cluster);
            }
        }
        if is_stranded(&self.pools, allocation)
            && let Some(count) = self.stranded.get_mut(&allocation.pool)
        {
            *count -= 1;
            if *count == 0 {
                self.stranded.remove(&allocation.pool);
            }
        }
        self.by_address.remove(allocation);
        if !self.is_used(address) {
            self.count(address, |used| *used -= 1);
        }
        self.by_key.remove(key, allocation.family());
    }

    fn is_used(&self, address: IpAddr) -> bool {
        let of_address = (address, None)..;
        let about = self.conflicts.range(of_address);
        self.reservations.contains_key(&address)
            || self.by_address(address).next().is_some()
            || about
                .take_while(|((other, _), _)| *other == address)
                .any(|(_, conflict)| conflict.keeps_away())
    }

    fn count(&mut self, address: IpAddr, change: impl FnOnce(&mut u64)) {
        if let Located::In(pool) = self.pools.locate(address)
            && let Some(used) = self.used.get_mut(pool.position())
        {
            change(used.get_mut(Family::of(address)));
        }
    }
}

fn place(conflict: &Conflict) -> Place {
    (conflict.address, Some(Arc::clone(&conflict.key)))
}

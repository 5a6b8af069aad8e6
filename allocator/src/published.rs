//! What everybody may read: the state as of the last committed revision. Only
//! the writer changes it, after a commit; nobody who reads it waits for one.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    ops::Bound,
    sync::Arc,
};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::{broadcast, watch};

use crate::engine::{
    Allocation, Change, ChangeKind, ClusterName, Engine, Family, Freed, Located, Outcome,
    PerFamily, PoolIndex, Pools, Reservation, Revision, ServiceKey, is_stranded,
};

/// Events that a slow reader may be behind, before it loses some.
const EVENT_BUFFER: usize = 4096;

/// Something that may let a waiting Service be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Freed {
        freed: Freed,
        revision: Revision,
    },
    PoolsChanged {
        revision: Revision,
    },
    /// Changes can be made again after they could not: ask again.
    Reloaded {
        revision: Revision,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Published {
    state: RwLock<State>,
    revisions: watch::Sender<Revision>,
    events: broadcast::Sender<Event>,
}

/// An address and one of its holders; an address alone sorts before all of them.
pub type Place = (IpAddr, Option<Arc<ServiceKey>>);

/// The state at one revision.
#[derive(Debug)]
pub struct State {
    pools: Arc<Pools>,
    revision: Revision,
    by_address: BTreeMap<Place, Arc<Allocation>>,
    by_key: HashMap<Arc<ServiceKey>, PerFamily<Option<Arc<Allocation>>>>,
    reservations: BTreeMap<IpAddr, Arc<Reservation>>,
    /// held or reserved addresses of each pool, in the order of [`Pools::indexes`]
    used: Vec<PerFamily<u64>>,
    stranded: u64,
    clusters: BTreeMap<ClusterName, usize>,
}

impl Published {
    pub fn new(engine: &Engine) -> Self {
        Self {
            state: RwLock::new(State::of(engine)),
            revisions: watch::Sender::new(engine.revision()),
            events: broadcast::Sender::new(EVENT_BUFFER),
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

    /// Events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Shows what was committed, in its order, and tells what was freed.
    pub fn apply(&self, outcome: &Outcome) {
        let Outcome { changes, freed } = outcome;
        let revision = {
            let mut state = self.state.write();
            for change in changes {
                state.apply(change);
            }
            state.revision
        };
        if !changes.is_empty() {
            self.revisions.send_replace(revision);
        }
        for freed in freed {
            self.tell(Event::Freed {
                freed: freed.clone(),
                revision,
            });
        }
    }

    /// Shows a state that was made anew, from the database or under other pools.
    pub fn replace(&self, engine: &Engine) {
        let state = State::of(engine);
        *self.state.write() = state;
        self.revisions.send_replace(engine.revision());
    }

    /// Tells whoever listens.
    pub fn tell(&self, event: Event) {
        // Fails when nobody listens, and then nobody has to know.
        let _ = self.events.send(event);
    }
}

impl State {
    fn of(engine: &Engine) -> Self {
        let pools = engine.pools();
        let mut state = Self {
            used: pools.indexes().map(|_| PerFamily::default()).collect(),
            pools: Arc::clone(pools),
            revision: engine.revision(),
            by_address: BTreeMap::new(),
            by_key: HashMap::new(),
            reservations: BTreeMap::new(),
            stranded: 0,
            clusters: BTreeMap::new(),
        };
        for allocation in engine.allocations() {
            state.add(allocation);
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

    /// Held addresses whose holders would not get them today.
    pub const fn stranded(&self) -> u64 {
        self.stranded
    }

    /// In the order of addresses, IPv4 first, and of holders, from `start` on.
    pub fn allocations_from(&self, start: Option<Place>) -> impl Iterator<Item = &Arc<Allocation>> {
        let start = start.map_or(Bound::Unbounded, Bound::Included);
        let range = self.by_address.range((start, Bound::Unbounded));
        range.map(|(_, allocation)| allocation)
    }

    /// Everybody who holds an address, in the order of keys.
    pub fn by_address(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Allocation>> {
        let from = self.by_address.range((address, None)..);
        from.map(|(_, allocation)| allocation)
            .take_while(move |allocation| allocation.address == address)
    }

    /// IPv4 first.
    pub fn by_key(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<Allocation>> {
        let holding = self.by_key.get(key).into_iter();
        holding.flat_map(|holding| holding.iter().filter_map(|(_, held)| held.as_ref()))
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

    fn apply(&mut self, change: &Change) {
        self.revision = change.revision;
        match &change.kind {
            ChangeKind::Allocated(allocation) => self.add(allocation),
            ChangeKind::Released(allocation) => self.remove(allocation),
            ChangeKind::Updated(allocation) => {
                let before = self.by_key.get(&allocation.key);
                let before = before.and_then(|holding| holding.get(allocation.family()).clone());
                if let Some(before) = before {
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
        }
    }

    fn reserve(&mut self, reservation: &Arc<Reservation>) {
        let address = reservation.address;
        if !self.is_used(address) {
            self.count(address, |used| *used += 1);
        }
        self.reservations.insert(address, Arc::clone(reservation));
    }

    fn add(&mut self, allocation: &Arc<Allocation>) {
        let key = Arc::clone(&allocation.key);
        let address = allocation.address;
        *self.clusters.entry(key.cluster.clone()).or_default() += 1;
        self.stranded += u64::from(is_stranded(&self.pools, allocation));
        if !self.is_used(address) {
            self.count(address, |used| *used += 1);
        }
        let place = (address, Some(Arc::clone(&key)));
        self.by_address.insert(place, Arc::clone(allocation));
        let holding = self.by_key.entry(key).or_default();
        *holding.get_mut(allocation.family()) = Some(Arc::clone(allocation));
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
        self.stranded -= u64::from(is_stranded(&self.pools, allocation));
        self.by_address.remove(&(address, Some(Arc::clone(key))));
        if !self.is_used(address) {
            self.count(address, |used| *used -= 1);
        }
        if let Some(holding) = self.by_key.get_mut(key) {
            *holding.get_mut(allocation.family()) = None;
            if holding.iter().all(|(_, held)| held.is_none()) {
                self.by_key.remove(key);
            }
        }
    }

    fn is_used(&self, address: IpAddr) -> bool {
        self.reservations.contains_key(&address) || self.by_address(address).next().is_some()
    }

    fn count(&mut self, address: IpAddr, change: impl FnOnce(&mut u64)) {
        if let Located::In(pool) = self.pools.locate(address)
            && let Some(used) = self.used.get_mut(pool.position())
        {
            change(used.get_mut(Family::of(address)));
        }
    }
}

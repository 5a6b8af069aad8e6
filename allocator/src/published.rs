//! What everybody may read: the state as of the last committed revision. Only
//! the writer changes it, after a commit; nobody who reads it waits for one.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::{broadcast, watch};

use crate::engine::{
    Allocation, Change, ChangeKind, ClusterName, Engine, Family, Located, PerFamily, PoolIndex,
    PoolName, Pools, Revision, ServiceKey,
};

/// Events that a slow reader may be behind, before it loses some.
const EVENT_BUFFER: usize = 4096;

/// Something that may let a waiting Service be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An address of this pool and family became free.
    Freed {
        pool: PoolName,
        family: Family,
        revision: Revision,
    },
    /// Changes can be made again after they could not: ask again.
    Reloaded { revision: Revision },
}

/// See the module.
#[derive(Debug)]
pub struct Published {
    state: RwLock<State>,
    revisions: watch::Sender<Revision>,
    events: broadcast::Sender<Event>,
}

/// The state at one revision.
#[derive(Debug)]
pub struct State {
    pools: Arc<Pools>,
    revision: Revision,
    by_address: BTreeMap<IpAddr, Arc<Allocation>>,
    by_key: HashMap<Arc<ServiceKey>, PerFamily<Option<Arc<Allocation>>>>,
    /// held addresses of each pool, in the order of [`Pools::indexes`]
    used: Vec<PerFamily<u64>>,
    clusters: BTreeMap<ClusterName, usize>,
}

impl Published {
    pub fn new(pools: &Arc<Pools>, engine: &Engine) -> Self {
        Self {
            state: RwLock::new(State::of(pools, engine)),
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

    /// Shows committed changes, in their order.
    pub fn apply(&self, changes: &[Change]) {
        let Some(last) = changes.last() else { return };
        {
            let mut state = self.state.write();
            for change in changes {
                state.apply(change);
            }
        }
        self.revisions.send_replace(last.revision);
        for change in changes {
            if change.kind == ChangeKind::Released {
                // Fails when nobody listens, and then nobody has to know.
                let _ = self.events.send(Event::Freed {
                    pool: change.allocation.pool.clone(),
                    family: change.allocation.family(),
                    revision: change.revision,
                });
            }
        }
    }

    /// Shows a state that was read anew from the database.
    pub fn replace(&self, pools: &Arc<Pools>, engine: &Engine) {
        let state = State::of(pools, engine);
        *self.state.write() = state;
        self.revisions.send_replace(engine.revision());
    }

    /// Tells that whoever waits should ask again, whatever for.
    pub fn tell_reloaded(&self) {
        let revision = self.read().revision();
        let _ = self.events.send(Event::Reloaded { revision });
    }
}

impl State {
    fn of(pools: &Arc<Pools>, engine: &Engine) -> Self {
        let mut state = Self {
            used: pools.indexes().map(|_| PerFamily::default()).collect(),
            pools: Arc::clone(pools),
            revision: engine.revision(),
            by_address: BTreeMap::new(),
            by_key: HashMap::new(),
            clusters: BTreeMap::new(),
        };
        for allocation in engine.allocations() {
            state.add(allocation);
        }
        state
    }

    pub const fn pools(&self) -> &Arc<Pools> {
        &self.pools
    }

    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// In the order of addresses, IPv4 first, from `start` on.
    pub fn allocations_from(
        &self,
        start: Option<IpAddr>,
    ) -> impl Iterator<Item = &Arc<Allocation>> {
        let range = match start {
            Some(start) => self.by_address.range(start..),
            None => self.by_address.range::<IpAddr, _>(..),
        };
        range.map(|(_, allocation)| allocation)
    }

    pub fn by_address(&self, address: IpAddr) -> Option<&Arc<Allocation>> {
        self.by_address.get(&address)
    }

    /// IPv4 first.
    pub fn by_key(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<Allocation>> {
        let holding = self.by_key.get(key).into_iter();
        holding.flat_map(|holding| holding.iter().filter_map(|(_, held)| held.as_ref()))
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
        let allocation = &change.allocation;
        self.revision = change.revision;
        match change.kind {
            ChangeKind::Allocated => self.add(allocation),
            ChangeKind::Released => self.remove(allocation),
            ChangeKind::Updated => {
                self.remove(allocation);
                self.add(allocation);
            }
        }
    }

    fn add(&mut self, allocation: &Arc<Allocation>) {
        let key = Arc::clone(&allocation.key);
        *self.clusters.entry(key.cluster.clone()).or_default() += 1;
        if let Some(used) = self.used_by(allocation) {
            *used += 1;
        }
        self.by_address
            .insert(allocation.address, Arc::clone(allocation));
        let holding = self.by_key.entry(key).or_default();
        *holding.get_mut(allocation.family()) = Some(Arc::clone(allocation));
    }

    fn remove(&mut self, allocation: &Arc<Allocation>) {
        let key = &allocation.key;
        if let Some(count) = self.clusters.get_mut(&key.cluster) {
            *count -= 1;
            if *count == 0 {
                self.clusters.remove(&key.cluster);
            }
        }
        if let Some(used) = self.used_by(allocation) {
            *used -= 1;
        }
        self.by_address.remove(&allocation.address);
        if let Some(holding) = self.by_key.get_mut(key) {
            *holding.get_mut(allocation.family()) = None;
            if holding.iter().all(|(_, held)| held.is_none()) {
                self.by_key.remove(key);
            }
        }
    }

    fn used_by(&mut self, allocation: &Allocation) -> Option<&mut u64> {
        match self.pools.locate(allocation.address) {
            Located::In(pool) => {
                let used = self.used.get_mut(pool.position())?;
                Some(used.get_mut(allocation.family()))
            }
            Located::Excluded(_) | Located::Nowhere => None,
        }
    }
}

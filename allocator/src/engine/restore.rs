//! From a snapshot of a database to an engine, and back.

use std::{collections::BTreeSet, sync::Arc};

use hashbrown::HashMap;

use super::{
    Engine, Inconsistent,
    change::{Allocation, Revision, Snapshot, Timestamp},
    clusters::Clusters,
    conflicts::Conflicts,
    free::Free,
    holdings::Holdings,
    opening::Opening,
    pools::{Located, Pools},
    quota::Quotas,
    reservations::Reservations,
    sharing::Held,
};

/// An engine while what a database holds is read: a million allocations come in
/// pages, and the next one is read while the last one is taken in.
#[derive(Debug)]
pub struct Restoring(Engine);

impl Restoring {
    /// Its tables grow as they are filled: with room made for a million before, a start
    /// takes as long, and 20 bytes more of memory for each.
    pub fn new(pools: Arc<Pools>) -> Self {
        Self(Engine {
            free: Free::new(&pools),
            pools,
            revision: Revision::default(),
            last_change_at: Timestamp::default(),
            now: Timestamp::default(),
            holdings: Holdings::default(),
            leaving: BTreeSet::new(),
            held: Held::default(),
            quotas: Quotas::default(),
            reservations: Reservations::default(),
            conflicts: Conflicts::default(),
            kept_away: Quotas::default(),
            clusters: Clusters::default(),
            opening: None,
            recorded: HashMap::new(),
        })
    }

    /// Each table is looked up once, to fill it and to see what was there.
    ///
    /// # Errors
    /// If it breaks a rule that the engine keeps; this is of no use any more then.
    pub fn hold(&mut self, allocation: Arc<Allocation>) -> Result<(), Inconsistent> {
        let Self(engine) = self;
        let allocation = engine.in_todays_pool(allocation);
        let key = &allocation.key;
        if let Some(first) = engine.holdings.insert(Arc::clone(&allocation)) {
            return Err(Inconsistent::TwoAddresses {
                key: Arc::clone(key),
                family: first.family(),
                first: first.address,
                second: allocation.address,
            });
        }
        let holders = engine.held.get(allocation.address);
        let terms = allocation.holder.sharing.as_deref();
        if holders.is_some_and(|holders| holders.admit(key, terms).is_err()) {
            return Err(Inconsistent::TwoHolders {
                address: allocation.address,
                second: Arc::clone(key),
            });
        }
        engine.count_in(&allocation);
        engine.occupy(allocation);
        Ok(())
    }

    /// Takes the rest.
    ///
    /// # Errors
    /// If it breaks a rule that the engine keeps.
    pub fn finish(mut self, rest: Snapshot) -> Result<Engine, Inconsistent> {
        let Snapshot {
            revision,
            last_change_at,
            allocations,
            last_held,
            reservations,
            conflicts,
            clusters,
            is_new,
        } = rest;
        for allocation in allocations {
            self.hold(allocation)?;
        }
        let Self(mut engine) = self;
        engine.revision = revision;
        engine.last_change_at = last_change_at;
        engine.now = last_change_at;
        let opens_at_once = engine.pools.settings().adoption_window.is_zero();
        engine.opening = (is_new && !opens_at_once).then(Opening::default);
        for conflict in conflicts {
            engine.note_conflict(conflict);
        }
        for record in clusters {
            engine.clusters.set(record);
        }
        for reservation in reservations {
            engine.keep(reservation);
        }
        for last in last_held {
            engine.remember(last);
        }
        Ok(engine)
    }
}

impl Engine {
    /// # Errors
    /// If the snapshot breaks a rule that this engine keeps.
    pub fn restore(pools: Arc<Pools>, snapshot: Snapshot) -> Result<Self, Inconsistent> {
        Restoring::new(pools).finish(snapshot)
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
            is_new: self.opening.is_some(),
        }
    }

    /// The same state under other pools. Nobody loses an address by it.
    ///
    /// # Errors
    /// Never, for a state that the engine came to by itself.
    pub fn with_pools(&self, pools: Arc<Pools>) -> Result<Self, Inconsistent> {
        let mut engine = Self::restore(pools, self.snapshot())?;
        engine.now = self.now;
        engine.opening.clone_from(&self.opening);
        engine.free.end_stages(self.now);
        Ok(engine)
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

    pub(super) fn is_recorded(&mut self, allocation: &Allocation) {
        let of = (allocation.address, Arc::clone(&allocation.key));
        self.recorded.remove(&of);
    }
}

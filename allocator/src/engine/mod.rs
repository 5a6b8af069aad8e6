//! The allocation engine: a pure, synchronous state machine. It has no clock, no
//! I/O, no randomness and no async; time is an argument. The same snapshot, the
//! same commands and the same times give the same replies and changes.
//!
//! ```text
//!   Command ─► Engine::plan ─► Reply + [Change]      (the state has moved on)
//!   Snapshot ─► Engine::restore                      (what a database holds)
//! ```
//!
//! No request costs more than O(log n) in the size of a pool, the number of
//! allocations, or the number of marks of former holders:
//! - `holdings` finds what a Service holds, O(1);
//! - `by_address` finds who holds an address, O(1);
//! - [`free::Free`] finds the address to give, and says what its indexes cost;
//! - [`pools::Pools`] finds the pools of a namespace, O(1), and the pool of an
//!   address, O(log ranges).
//!
//! Read [`acquire`] first.

pub mod acquire;
pub mod address;
pub mod change;
pub mod free;
pub mod key;
pub mod pools;
pub mod ranges;
pub mod refusal;

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use thiserror::Error;

pub use self::{
    acquire::{Acquire, Acquired, Policy, Unmet, Wish},
    address::{AddressRange, Family, PerFamily},
    change::{Allocation, Change, ChangeKind, Holder, LastHeld, Revision, Snapshot, Timestamp},
    key::{ClusterName, InvalidName, Namespace, PoolName, ServiceKey, ServiceName, Uid},
    pools::{Located, PoolConflict, PoolIndex, PoolSpec, Pools},
    refusal::Refusal,
};
use free::Free;

/// What is asked of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Acquire(Acquire),
    Release(Release),
}

/// Take back what `key` holds; with a uid, only if the holder has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    pub key: ServiceKey,
    pub uid: Option<Uid>,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Acquired(Acquired),
    Refused(Refusal),
    /// What was held until now.
    Released(Vec<Arc<Allocation>>),
}

/// The answer to a command, and what has to be made durable before it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub reply: Reply,
    pub changes: Vec<Change>,
}

/// Why a snapshot cannot be what this engine wrote.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Inconsistent {
    #[error("address {address} has two holders, {first} and {second}")]
    TwoHolders {
        address: IpAddr,
        first: Arc<ServiceKey>,
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
    /// Time as decisions see it: it never goes back, not even over a restart, so
    /// that what has expired stays expired.
    now: Timestamp,
    holdings: HashMap<Arc<ServiceKey>, Holding>,
    by_address: HashMap<IpAddr, Arc<ServiceKey>>,
    free: Free,
}

impl Engine {
    /// # Errors
    /// If the snapshot breaks a rule that this engine keeps.
    pub fn restore(pools: Arc<Pools>, snapshot: Snapshot) -> Result<Self, Inconsistent> {
        let mut engine = Self {
            free: Free::new(&pools),
            pools,
            revision: snapshot.revision,
            now: snapshot.last_change_at,
            holdings: HashMap::new(),
            by_address: HashMap::new(),
        };
        for allocation in snapshot.allocations {
            let key = Arc::clone(&allocation.key);
            if let Some(first) = engine.by_address.get(&allocation.address) {
                return Err(Inconsistent::TwoHolders {
                    address: allocation.address,
                    first: Arc::clone(first),
                    second: key,
                });
            }
            let family = allocation.family();
            if let Some(first) = engine.held(&key, family) {
                return Err(Inconsistent::TwoAddresses {
                    first: first.address,
                    second: allocation.address,
                    key,
                    family,
                });
            }
            let allocation = engine.in_todays_pool(allocation);
            engine.hold(allocation);
        }
        for last in snapshot.last_held {
            engine.free.give(&engine.pools, last, engine.now);
        }
        Ok(engine)
    }

    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Everything that is held, in no order.
    pub fn allocations(&self) -> impl Iterator<Item = &Arc<Allocation>> {
        let holdings = self.holdings.values();
        holdings.flat_map(|holding| holding.iter().filter_map(|(_, held)| held.as_ref()))
    }

    /// Decides, and moves the state on as if the changes were durable already.
    /// Where they cannot be made so, the engine has to be restored.
    pub fn plan(&mut self, command: &Command, now: Timestamp) -> Plan {
        self.now = self.now.max(now);
        self.free.expire(&self.pools, self.now);
        match command {
            Command::Acquire(acquire) => self.acquire(acquire),
            Command::Release(release) => self.release(release),
        }
    }

    /// The reply to a command that changes nothing; `None` if it would.
    pub fn reply_without_change(&self, command: &Command) -> Option<Reply> {
        match command {
            Command::Acquire(acquire) => self.acquire_without_change(acquire),
            Command::Release(release) => {
                let nothing = self.to_release(release).next().is_none();
                nothing.then(|| Reply::Released(Vec::new()))
            }
        }
    }

    fn release(&mut self, release: &Release) -> Plan {
        let held: Vec<_> = self.to_release(release).cloned().collect();
        let changes = held
            .iter()
            .map(|allocation| self.commit(ChangeKind::Released, Arc::clone(allocation)))
            .collect();
        Plan {
            reply: Reply::Released(held),
            changes,
        }
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

    fn held(&self, key: &ServiceKey, family: Family) -> Option<&Arc<Allocation>> {
        self.holdings.get(key)?.get(family).as_ref()
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
    fn commit(&mut self, kind: ChangeKind, allocation: Arc<Allocation>) -> Change {
        self.revision = self.revision.next();
        match kind {
            ChangeKind::Allocated | ChangeKind::Updated => self.hold(Arc::clone(&allocation)),
            ChangeKind::Released => self.let_go(&allocation),
        }
        Change {
            revision: self.revision,
            at: self.now,
            kind,
            allocation,
        }
    }

    fn hold(&mut self, allocation: Arc<Allocation>) {
        let key = Arc::clone(&allocation.key);
        self.free.take(&self.pools, allocation.address);
        self.by_address.insert(allocation.address, Arc::clone(&key));
        let family = allocation.family();
        *self.holdings.entry(key).or_default().get_mut(family) = Some(allocation);
    }

    fn let_go(&mut self, allocation: &Allocation) {
        self.by_address.remove(&allocation.address);
        if let Some(holding) = self.holdings.get_mut(&allocation.key) {
            *holding.get_mut(allocation.family()) = None;
            if holding.iter().all(|(_, held)| held.is_none()) {
                self.holdings.remove(&allocation.key);
            }
        }
        let last = LastHeld {
            address: allocation.address,
            key: Arc::clone(&allocation.key),
            released_at: self.now,
        };
        self.free.give(&self.pools, last, self.now);
    }
}

#[cfg(test)]
mod tests;

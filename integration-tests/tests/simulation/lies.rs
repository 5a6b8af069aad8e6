//! What somebody who lies may get, seen from outside: what it asks for or says that it
//! shows, of pools that its cluster may use, and no more than its quotas. Before a new
//! database knows what is there, and where one was restored, nobody can tell how much
//! was in force.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use lb_allocator::engine::{Allocation, Change, ChangeKind, ClusterState, Conflict, ServiceKey};
use tokio::time::Instant;

use crate::{liar::LIAR, pools::Pool, showing::Place};

/// What the liar has of one database.
#[derive(Debug, Default)]
pub struct Lies {
    held: BTreeSet<(IpAddr, Place)>,
    /// What is kept from others because it says that it shows it.
    kept: BTreeSet<(IpAddr, Place)>,
    /// What it ever said that it shows.
    told: BTreeSet<(IpAddr, Place)>,
    is_open: bool,
    is_restored: bool,
    is_awaited: bool,
    /// The pools, and those that were in force shortly before.
    pools: Vec<(Instant, Vec<Pool>)>,
}

impl Lies {
    /// The database is a new one, or a copy of an older one.
    pub fn forget(&mut self, is_restored: bool) {
        let Self { told, pools, .. } = std::mem::take(self);
        *self = Self {
            told,
            pools,
            is_restored,
            ..Self::default()
        };
    }

    /// These pools are in force from now on. What is durable within `delay` may have been
    /// decided before.
    pub fn configure(&mut self, pools: &[Pool], delay: Duration) {
        let now = Instant::now();
        if let Some((until, _)) = self.pools.last_mut() {
            *until = now + delay;
        }
        self.pools.retain(|(until, _)| *until > now);
        self.pools.push((now, pools.to_vec()));
    }

    /// It says that a Service shows these addresses.
    pub fn says(&mut self, of: &Place, addresses: &BTreeSet<IpAddr>) {
        let told = addresses.iter().map(|address| (*address, of.clone()));
        self.told.extend(told);
    }

    /// A change is durable. Says what it should not have brought.
    pub fn committed(&mut self, change: &Change) -> Option<String> {
        match &change.kind {
            ChangeKind::Allocated(allocation) if is_of_liar(&allocation.key) => {
                return self.is_given(allocation);
            }
            ChangeKind::Released(allocation) => {
                self.held
                    .remove(&(allocation.address, place(&allocation.key)));
            }
            ChangeKind::Conflicted(conflict) if is_of_liar(&conflict.key) => {
                return self.is_kept(conflict);
            }
            ChangeKind::ConflictEnded(conflict) => {
                self.kept.remove(&(conflict.address, place(&conflict.key)));
            }
            ChangeKind::Cluster(record) if record.name.as_str() == LIAR => {
                self.is_awaited = record.state == ClusterState::Awaited;
            }
            ChangeKind::Opened => self.is_open = true,
            _ => {}
        }
        None
    }

    fn is_given(&mut self, allocation: &Allocation) -> Option<String> {
        let (address, by) = (allocation.address, place(&allocation.key));
        let is_too_much = self.is_more_than(address, |lies, pool| count(&lies.held, pool));
        self.held.insert((address, by.clone()));
        if !self.is_served(address) {
            return Some(format!("{by:?} is given {address}, of a pool for others"));
        }
        is_too_much.then(|| format!("{by:?} is given {address}, which is more than its quota"))
    }

    fn is_kept(&mut self, conflict: &Conflict) -> Option<String> {
        let (address, by) = (conflict.address, place(&conflict.key));
        let at = (address, by);
        if !conflict.keeps_away() {
            self.kept.remove(&at);
            return None;
        }
        // Beside what it may hold, and what it held a moment ago.
        let is_too_much = !self.held.contains(&at)
            && self.is_more_than(address, |lies, pool| count(&lies.kept, pool));
        if !self.kept.insert(at.clone()) {
            return None;
        }
        let by = &at.1;
        if !self.told.contains(&at) {
            return Some(format!(
                "{address} is kept for {by:?}, which does not show it"
            ));
        }
        if !self.is_served(address) {
            return Some(format!("{address} of a pool for others is kept for {by:?}"));
        }
        is_too_much.then(|| format!("{address} is kept for {by:?}, which is more than its quota"))
    }

    fn is_served(&self, address: IpAddr) -> bool {
        let in_force = self.pools.last().map(|(_, pools)| pools);
        let mut pools = in_force.into_iter().flatten();
        let pool = pools.find(|pool| pool.addresses.contains(&address));
        pool.is_none_or(|pool| pool.clusters.is_empty() || pool.clusters.contains(&LIAR))
    }

    /// Whether it has as many as the quota of this address' pool allows, whichever pools
    /// were in force when one more was decided.
    fn is_more_than(&self, address: IpAddr, has: fn(&Self, &Pool) -> usize) -> bool {
        let is_waived = !self.is_open || self.is_restored || self.is_awaited;
        let now = Instant::now();
        let last = self.pools.len().saturating_sub(1);
        let in_force = self.pools.iter().enumerate();
        let mut in_force = in_force.filter(|(at, (until, _))| *at == last || *until > now);
        let exceeds = |pools: &[Pool]| {
            let mut pools = pools.iter();
            let pool = pools.find(|pool| pool.addresses.contains(&address));
            pool.is_some_and(|pool| {
                let quota = pool.quota.map(usize::from);
                quota.is_some_and(|quota| has(self, pool) >= quota)
            })
        };
        !is_waived && in_force.all(|(_, (_, pools))| exceeds(pools))
    }
}

/// How many addresses of a pool are among these. One that is excluded counts nowhere.
fn count(of: &BTreeSet<(IpAddr, Place)>, pool: &Pool) -> usize {
    let usable = pool.addresses.iter();
    let usable = usable.filter(|address| !pool.excluded.contains(address));
    usable
        .filter(|address| of.iter().any(|(held, _)| held == *address))
        .count()
}

fn is_of_liar(key: &ServiceKey) -> bool {
    key.cluster.as_str() == LIAR
}

fn place(key: &ServiceKey) -> Place {
    (
        key.cluster.to_string(),
        key.namespace.to_string(),
        key.name.to_string(),
    )
}

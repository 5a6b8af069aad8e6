//! How much clusters may have of each pool, seen from outside: nothing of pools for others,
//! no more than their quotas, and of what a liar says that it shows as much is kept from
//! others at most, beside one address in exchange for each that it holds. Before a new database knows what is there, and for clusters
//! that are to tell what they have first, nobody knows how much was in force: no quota
//! counts then.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use lb_allocator::engine::{Allocation, Change, ChangeKind, ClusterState, Conflict, ServiceKey};
use tokio::time::Instant;

use crate::{liar::LIAR, pools::Pool, showing::Place};

/// Addresses, and who has them.
pub type Addresses = BTreeSet<(IpAddr, Place)>;

/// What clusters have by one database. A clone is of a copy of the database.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    held: Addresses,
    /// What is kept from others because the liar says that it shows it.
    kept: Addresses,
    is_open: bool,
    awaited: BTreeSet<String>,
    /// What the liar ever said that it shows.
    said: Addresses,
    /// The pools, each until when changes may be decided by them.
    pools: Vec<(Instant, Vec<Pool>)>,
}

impl Limits {
    /// The database is another one from now on.
    pub fn replace(&mut self, by: Self) {
        let Self { said, pools, .. } = std::mem::replace(self, by);
        self.said = said;
        self.pools = pools;
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

    /// The liar says that a Service shows these addresses.
    pub fn says(&mut self, of: &Place, addresses: &BTreeSet<IpAddr>) {
        let said = addresses.iter().map(|address| (*address, of.clone()));
        self.said.extend(said);
    }

    /// A change is durable. Says what it should not have brought.
    pub fn committed(&mut self, change: &Change) -> Option<String> {
        match &change.kind {
            ChangeKind::Allocated(allocation) => return self.is_given(allocation),
            ChangeKind::Released(allocation) => {
                self.held
                    .remove(&(allocation.address, place(&allocation.key)));
            }
            ChangeKind::Conflicted(conflict) if conflict.key.cluster.as_str() == LIAR => {
                return self.is_kept(conflict);
            }
            ChangeKind::ConflictEnded(conflict) => {
                self.kept.remove(&(conflict.address, place(&conflict.key)));
            }
            ChangeKind::Cluster(record) => {
                let name = record.name.to_string();
                if record.state == ClusterState::Awaited {
                    self.awaited.insert(name);
                } else {
                    self.awaited.remove(&name);
                }
            }
            ChangeKind::Opened => self.is_open = true,
            _ => {}
        }
        None
    }

    fn is_given(&mut self, allocation: &Allocation) -> Option<String> {
        let (address, by) = (allocation.address, place(&allocation.key));
        let is_too_much = self.is_too_much((&self.held, &Addresses::new()), address, &by);
        let is_served = self.is_served(address, &by.0);
        self.held.insert((address, by.clone()));
        if !is_served {
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
        let by = &at.1;
        // Beside what it held until now.
        let is_too_much =
            !self.held.contains(&at) && self.is_too_much((&self.kept, &self.held), address, by);
        let problem = if self.kept.contains(&at) {
            None
        } else if !self.said.contains(&at) {
            Some("which does not show it")
        } else if !self.is_served(address, LIAR) {
            Some("though it is of a pool for others")
        } else {
            is_too_much.then_some("which is more than its quota")
        };
        let problem = problem.map(|what| format!("{address} is kept for {by:?}, {what}"));
        self.kept.insert(at);
        problem
    }

    fn is_served(&self, address: IpAddr, cluster: &str) -> bool {
        let in_force = self.pools.last().map(|(_, pools)| pools);
        let mut pools = in_force.into_iter().flatten();
        let pool = pools.find(|pool| pool.addresses.contains(&address));
        pool.is_none_or(|pool| pool.clusters.is_empty() || pool.clusters.contains(&cluster))
    }

    /// Whether one more is too much beside these, whichever pools were in force when it was
    /// decided.
    fn is_too_much(
        &self,
        (beside, given): (&Addresses, &Addresses),
        address: IpAddr,
        by: &Place,
    ) -> bool {
        let is_waived = !self.is_open || self.awaited.contains(&by.0);
        let now = Instant::now();
        let last = self.pools.len().saturating_sub(1);
        let in_force = self.pools.iter().enumerate();
        let mut in_force = in_force.filter(|(at, (until, _))| *at == last || *until > now);
        let exceeds = |pools: &[Pool]| {
            let mut pools = pools.iter();
            let pool = pools.find(|pool| pool.addresses.contains(&address));
            pool.is_some_and(|pool| room_in_exchange(pool, beside, given, address, by) == 0)
        };
        !is_waived && in_force.all(|(_, (_, pools))| exceeds(pools))
    }
}

/// How many more addresses of a pool a Service may have, this one among them, beside what
/// its cluster and namespace have.
pub fn room(pool: &Pool, beside: &Addresses, address: IpAddr, by: &Place) -> usize {
    room_in_exchange(pool, beside, &Addresses::new(), address, by)
}

/// One more than quotas allow for each that is given in exchange. What they have already is
/// nothing more, and one that is excluded counts nowhere.
fn room_in_exchange(
    pool: &Pool,
    beside: &Addresses,
    given: &Addresses,
    address: IpAddr,
    (cluster, namespace, _): &Place,
) -> usize {
    let count = |of: &Addresses, is_narrow: bool| {
        let all = of.iter().filter(|(other, (holder, within, _))| {
            holder == cluster
                && (within == namespace || !is_narrow)
                && pool.addresses.contains(other)
                && !pool.excluded.contains(other)
                && *other != address
        });
        let all = all.map(|(other, _)| *other);
        all.collect::<BTreeSet<_>>().len()
    };
    let limits = [(pool.quota, false), (pool.namespace_quota, true)];
    let left = limits.into_iter().filter_map(|(quota, is_narrow)| {
        let quota = usize::from(quota?) + count(given, is_narrow);
        Some(quota.saturating_sub(count(beside, is_narrow)))
    });
    left.min().unwrap_or(usize::MAX)
}

fn place(key: &ServiceKey) -> Place {
    (
        key.cluster.to_string(),
        key.namespace.to_string(),
        key.name.to_string(),
    )
}

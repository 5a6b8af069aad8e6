//! What one database says, as far as that is seen from outside, and how much clusters may
//! have of each pool by it: nothing of pools for others, no more than their quotas, and of
//! what a liar says that it shows as much is kept from others at most, beside one address in
//! exchange for each that it holds. Before a new database knows what is there, and for
//! clusters that are to tell what they have first, nobody knows how much was in force: no
//! quota counts then.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use lb_allocator::engine::{Allocation, Change, ChangeKind, ClusterState, Conflict};
use tokio::time::Instant;

use crate::{
    liar::LIAR,
    pools::Pool,
    showing::{Place, place},
};

/// Addresses, and who has them.
pub type Addresses = BTreeSet<(IpAddr, Place)>;

/// What clusters have by one database. A clone is of a copy of the database.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    held: Addresses,
    /// Under which key a Service was last given an address.
    shared: BTreeMap<(IpAddr, Place), Option<String>>,
    /// What the last changes gave to those who were said to show it, while nothing else was
    /// given.
    adopted: Addresses,
    /// What the liar has or claims, and since which commit.
    lied_since: BTreeMap<(IpAddr, Place), u64>,
    commits: u64,
    /// What is kept from others because the liar says that it shows it.
    kept: Addresses,
    is_open: bool,
    awaited: BTreeSet<String>,
    /// Clusters that an administrator said are gone.
    decommissioned: BTreeSet<String>,
    /// What Services were ever said to show.
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

    /// Somebody says that a Service shows these addresses.
    pub fn says(&mut self, of: &Place, addresses: &BTreeSet<IpAddr>) {
        let said = addresses.iter().map(|address| (*address, of.clone()));
        self.said.extend(said);
    }

    /// Whether the last changes gave a Service what it was said to show, while nothing else
    /// was given.
    pub fn is_adoption(&self, address: IpAddr, by: &Place) -> bool {
        self.adopted.contains(&(address, by.clone()))
    }

    /// Whether an administrator said that a cluster is gone.
    pub fn is_decommissioned(&self, cluster: &str) -> bool {
        self.decommissioned.contains(cluster)
    }

    /// Whether two Services were given an address under one key.
    pub fn agreed(&self, address: IpAddr, one: &Place, other: &Place) -> bool {
        let key = |of: &Place| self.shared.get(&(address, of.clone()))?.as_ref();
        one.0 == other.0 && key(one).is_some() && key(one) == key(other)
    }

    /// How many changes were durable before.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// Whether the liar had, or claimed, an address before this commit.
    pub fn lied_before(&self, address: IpAddr, commit: u64) -> bool {
        let since = since(&self.lied_since, address);
        since.is_some_and(|since| since < commit)
    }

    /// What the liar has and claims now.
    pub fn note_lies(&mut self, changes: &[Change]) {
        let before = self.lied_since.clone();
        for change in changes {
            let (address, key, has) = match &change.kind {
                ChangeKind::Allocated(of) => (of.address, &of.key, true),
                ChangeKind::Conflicted(of) => (of.address, &of.key, true),
                ChangeKind::Released(of) => (of.address, &of.key, false),
                ChangeKind::ConflictEnded(of) => (of.address, &of.key, false),
                _ => continue,
            };
            if key.cluster.as_str() != LIAR {
                continue;
            }
            let of = (address, place(key));
            if has {
                let known = since(&before, address).or(since(&self.lied_since, address));
                self.lied_since.insert(of, known.unwrap_or(self.commits));
            } else {
                self.lied_since.remove(&of);
            }
        }
        self.commits += 1;
    }

    fn take(&mut self, allocation: &Allocation) {
        let terms = allocation.holder.sharing.as_ref();
        let key = terms.map(|terms| terms.key.to_string());
        let of = (allocation.address, place(&allocation.key));
        self.shared.insert(of, key);
    }

    /// Changes are durable, all at once. Says what they should not have brought. `is_waited_for`
    /// is true of a cluster whose Sync has not been carried out since a loss.
    pub fn committed(
        &mut self,
        changes: &[Change],
        is_waited_for: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let before = self.held.clone();
        let mut limited = Addresses::new();
        self.adopted.clear();
        let mut problems = Vec::new();
        for change in changes {
            match &change.kind {
                ChangeKind::Allocated(allocation) => {
                    let (address, by) = (allocation.address, place(&allocation.key));
                    if !self.is_served(address, &by.0) {
                        problems.push(format!("{by:?} is given {address}, of a pool for others"));
                    }
                    let is_waived = self.awaited.contains(&by.0) || is_waited_for(&by.0);
                    if self.is_open && !is_waived {
                        limited.insert((address, by.clone()));
                    }
                    let gives_new = self.is_open && self.awaited.is_empty();
                    if !gives_new && self.said.contains(&(address, by.clone())) {
                        self.adopted.insert((address, by.clone()));
                    }
                    self.held.insert((address, by));
                    self.take(allocation);
                }
                ChangeKind::Updated(allocation) => self.take(allocation),
                ChangeKind::Released(allocation) => {
                    self.held
                        .remove(&(allocation.address, place(&allocation.key)));
                }
                ChangeKind::Conflicted(conflict) if conflict.key.cluster.as_str() == LIAR => {
                    problems.extend(self.is_kept(conflict));
                }
                ChangeKind::ConflictEnded(conflict) => {
                    self.kept.remove(&(conflict.address, place(&conflict.key)));
                }
                ChangeKind::Cluster(record) => {
                    let name = record.name.to_string();
                    self.awaited.remove(&name);
                    self.decommissioned.remove(&name);
                    match record.state {
                        ClusterState::Awaited => self.awaited.insert(name),
                        ClusterState::Decommissioned { .. } => self.decommissioned.insert(name),
                        ClusterState::Unsynced | ClusterState::Synced => false,
                    };
                }
                ChangeKind::Opened => self.is_open = true,
                _ => {}
            }
        }
        let too_much = limited.iter().filter(|(address, by)| {
            self.exceeds(|pool| exceeds_after(pool, (&before, &self.held), *address, by))
        });
        problems.extend(too_much.map(|(address, by)| {
            format!("{by:?} is given {address}, which is more than its quota")
        }));
        problems
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
        let is_too_much = self.is_open
            && !self.awaited.contains(&by.0)
            && !self.held.contains(&at)
            && self
                .exceeds(|pool| room_in_exchange(pool, &self.kept, &self.held, address, by) == 0);
        let problem = if self.kept.contains(&at) {
            None
        } else if !self.said.contains(&at) && !self.held.contains(&at) {
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

    /// Whether it is too much by whichever pools were in force when it was decided.
    fn exceeds(&self, exceeds: impl Fn(&Pool) -> bool) -> bool {
        let now = Instant::now();
        let last = self.pools.len().saturating_sub(1);
        let in_force = self.pools.iter().enumerate();
        let mut in_force = in_force.filter(|(at, (until, _))| *at == last || *until > now);
        in_force.all(|(_, (_, pools))| pools.iter().any(&exceeds))
    }
}

fn since(lied: &BTreeMap<(IpAddr, Place), u64>, address: IpAddr) -> Option<u64> {
    let about = lied.iter().filter(|((lied, _), _)| *lied == address);
    about.map(|(_, since)| *since).min()
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
    by: &Place,
) -> usize {
    if !pool.addresses.contains(&address) {
        return usize::MAX;
    }
    let others = |(other, _): &&(IpAddr, Place)| *other != address;
    let left = limits(pool).filter_map(|(quota, is_narrow)| {
        let given = count(pool, given.iter(), by, is_narrow);
        let beside = count(pool, beside.iter().filter(others), by, is_narrow);
        Some((quota? + given).saturating_sub(beside))
    });
    left.min().unwrap_or(usize::MAX)
}

/// Whether a cluster or namespace has more of a pool than its quota, and than before.
fn exceeds_after(
    pool: &Pool,
    (before, after): (&Addresses, &Addresses),
    address: IpAddr,
    by: &Place,
) -> bool {
    let has = |of: &Addresses, is_narrow| count(pool, of.iter(), by, is_narrow);
    pool.addresses.contains(&address)
        && limits(pool).any(|(quota, is_narrow)| {
            quota.is_some_and(|quota| has(after, is_narrow) > quota.max(has(before, is_narrow)))
        })
}

/// The quotas of a pool, and whether each is of a namespace.
fn limits(pool: &Pool) -> impl Iterator<Item = (Option<usize>, bool)> {
    let limits = [(pool.quota, false), (pool.namespace_quota, true)];
    let limits = limits.into_iter();
    limits.map(|(quota, is_narrow)| (quota.map(usize::from), is_narrow))
}

fn count<'a>(
    pool: &Pool,
    of: impl Iterator<Item = &'a (IpAddr, Place)>,
    (cluster, namespace, _): &Place,
    is_narrow: bool,
) -> usize {
    let all = of.filter(|(address, (holder, within, _))| {
        holder == cluster
            && (within == namespace || !is_narrow)
            && pool.addresses.contains(address)
            && !pool.excluded.contains(address)
    });
    all.map(|(address, _)| *address)
        .collect::<BTreeSet<_>>()
        .len()
}

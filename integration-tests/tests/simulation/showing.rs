//! Which Services of all clusters show which addresses at the moment, beside what the
//! allocator commits. This is known from outside: from the API servers and the rows
//! of the database, not from the engine.
//!
//! - No two Services show one address, not even while one of them moves.
//! - No address is given to a Service while the status of another one shows it, unless
//!   both share it. What a watcher wrote counts at once; what somebody else wrote
//!   counts from when the allocator was told.
//! - What cools down goes to nobody else before that is over.
//! - Nobody gets more than `limits` tells.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use lb_allocator::engine::{Allocation, Change, ChangeKind, ServiceKey};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    api_server::objects::{Objects, WATCHER, shown},
    liar::LIAR,
    limits::Limits,
    pools::Pool,
    workload::asks_to_share,
};

/// So long after it was decided a change may be durable.
const COMMIT: Duration = Duration::from_secs(9);

/// Cluster, namespace and name.
pub type Place = (String, String, String);

/// A clone is of the same clusters.
#[derive(Clone, Debug, Default)]
pub struct Showing(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    services: BTreeMap<Place, Shown>,
    held: BTreeMap<IpAddr, BTreeSet<Place>>,
    released: BTreeMap<IpAddr, Released>,
    promised: BTreeMap<IpAddr, Place>,
    pools: Vec<Pool>,
    /// A database was lost or restored.
    forgot: bool,
    /// Clusters that ever told the allocator what they have.
    known: BTreeSet<String>,
    /// Clusters that told the allocator what they have since it forgot; `None`: all.
    heard: Option<BTreeSet<String>>,
    /// What Services show as far as the allocator knows, and since which commit.
    known_since: BTreeMap<(IpAddr, Place), u64>,
    /// Those that told this database, or the one that it is a copy of until then.
    told: BTreeSet<String>,
    limits: Limits,
}

#[derive(Debug, Default)]
struct Shown {
    uid: String,
    addresses: BTreeSet<IpAddr>,
    by_watcher: bool,
    /// Those that the allocator knows of.
    known: BTreeSet<IpAddr>,
}

#[derive(Debug)]
struct Released {
    by: Place,
    at: Instant,
    cooldown: Duration,
}

pub fn place(key: &ServiceKey) -> Place {
    (
        key.cluster.to_string(),
        key.namespace.to_string(),
        key.name.to_string(),
    )
}

impl Showing {
    /// These pools are in force.
    pub fn configure(&self, pools: &[Pool]) {
        let mut state = self.0.lock();
        state.pools = pools.to_vec();
        state.limits.configure(pools, COMMIT);
    }

    /// As far as the database knows.
    pub fn limits(&self) -> Limits {
        self.0.lock().limits.clone()
    }

    /// Another process decides: what cools down is as its wall clock says.
    pub fn restarted(&self) {
        self.0.lock().released.clear();
    }

    /// The database is another one, new or restored. One that knows whom to wait for gives
    /// nothing that is shown; another one learns it first.
    pub fn allocator_forgot(&self, waits: bool, limits: Limits) {
        let mut state = self.0.lock();
        state.forgot = true;
        state.told.clear();
        state.known_since.clear();
        state.limits.replace(limits);
        state.held.clear();
        state.released.clear();
        state.promised.clear();
        if !waits {
            state.heard = Some(BTreeSet::new());
            for shown in state.services.values_mut() {
                shown.known.clear();
            }
        }
    }

    /// The allocator waits until it is told all that is there now.
    pub fn all_is_known(&self) {
        let mut state = self.0.lock();
        let State {
            services, pools, ..
        } = &mut *state;
        for ((cluster, _, _), shown) in services {
            let claimable = shown.addresses.iter();
            let claimable = claimable.filter(|address| is_claimable(pools, cluster, **address));
            shown.known = claimable.copied().collect();
        }
    }

    /// The allocator was told all that this cluster has.
    pub fn heard(&self, cluster: &str) {
        let mut state = self.0.lock();
        state.known.insert(cluster.to_owned());
        state.told.insert(cluster.to_owned());
        if let Some(heard) = &mut state.heard {
            heard.insert(cluster.to_owned());
        }
    }

    /// Somebody asks, and says that a Service shows these addresses.
    pub fn is_said(&self, of: &Place, addresses: &BTreeSet<IpAddr>) {
        self.0.lock().limits.says(of, addresses);
    }

    pub fn is_known_cluster(&self, cluster: &str) -> bool {
        let state = self.0.lock();
        state.known.contains(cluster) && !state.forgot
    }

    /// The allocator was told that a Service shows these addresses.
    pub fn told(&self, of: &Place, uid: &str, addresses: &BTreeSet<IpAddr>) {
        let mut state = self.0.lock();
        let State {
            services, pools, ..
        } = &mut *state;
        let Some(shown) = services.get_mut(of).filter(|shown| shown.uid == uid) else {
            return;
        };
        let told = shown.addresses.intersection(addresses).copied();
        let told: Vec<IpAddr> = told
            .filter(|address| is_claimable(pools, &of.0, *address))
            .collect();
        shown.known.extend(told);
    }

    /// Whether an administrator gave a Service one of these addresses.
    pub fn is_handed_to<'a>(
        &self,
        of: &Place,
        mut addresses: impl Iterator<Item = &'a IpAddr>,
    ) -> bool {
        let state = self.0.lock();
        addresses.any(|address| state.promised.get(address) == Some(of))
    }

    /// Looks at a cluster after a change. Says what two Services show since then.
    pub fn look(&self, cluster: &str, objects: &Objects) -> Vec<String> {
        let mut state = self.0.lock();
        let State {
            services,
            forgot,
            heard,
            limits,
            ..
        } = &mut *state;
        let is_heard = heard.as_ref().is_none_or(|heard| heard.contains(cluster));
        let mut problems = Vec::new();
        let mut after = BTreeMap::new();
        for ((namespace, name), stored) in &objects.services {
            let key = (cluster.to_owned(), namespace.clone(), name.clone());
            let addresses = shown(&stored.object);
            let uid = stored.object["metadata"]["uid"].as_str();
            let uid = uid.unwrap_or_default().to_owned();
            let before = services.get(&key).filter(|before| before.uid == uid);
            let by_watcher = stored.owners.contains(WATCHER);
            let mut known: BTreeSet<IpAddr> = before
                .map(|before| before.known.intersection(&addresses).copied().collect())
                .unwrap_or_default();
            for address in addresses
                .iter()
                .filter(|it| before.is_none_or(|b| !b.addresses.contains(it)))
            {
                if by_watcher && is_heard {
                    known.insert(*address);
                }
                let mut others = services.iter().filter(|(other, _)| **other != key);
                let other = others.find(|(other, shown)| {
                    shown.addresses.contains(address)
                        && shown.by_watcher
                        && !share(&stored.object, cluster, other)
                        && !limits.agreed(*address, &key, other)
                });
                if let Some((other, _)) = other.filter(|_| by_watcher && !*forgot) {
                    problems.push(format!("{key:?} shows {address}, which {other:?} shows"));
                }
            }
            let shown = Shown {
                uid,
                addresses,
                by_watcher,
                known,
            };
            after.insert(key, shown);
        }
        services.retain(|(of, _, _), _| of != cluster);
        services.extend(after);
        problems
    }

    /// The allocator made this durable. Says what it should not have done.
    pub fn committed(&self, changes: &[Change]) -> Vec<String> {
        let mut state = self.0.lock();
        state.note_known();
        let State {
            limits,
            told,
            forgot,
            ..
        } = &mut *state;
        let is_waited_for = |cluster: &str| *forgot && !told.contains(cluster);
        let mut problems = limits.committed(changes, is_waited_for);
        for change in changes {
            match &change.kind {
                ChangeKind::Allocated(allocation) => {
                    problems.extend(state.check(allocation));
                    state.take(allocation);
                }
                ChangeKind::Updated(allocation) => state.take(allocation),
                ChangeKind::Released(allocation) => state.leave(allocation),
                ChangeKind::Reserved(reservation) => {
                    if let Some(key) = &reservation.key {
                        state.promised.insert(reservation.address, place(key));
                    }
                }
                _ => {}
            }
        }
        state.limits.note_lies(changes);
        problems
    }
}

impl State {
    /// Which addresses the allocator knows to be shown, and since which commit.
    fn note_known(&mut self) {
        let commit = self.limits.commits();
        let told = self.services.iter();
        let told = told.filter(|(of, _)| self.told.contains(&of.0));
        let known = told.flat_map(|(of, shown)| shown.known.iter().map(|it| (*it, of.clone())));
        let known: BTreeSet<_> = known.collect();
        self.known_since.retain(|of, _| known.contains(of));
        for of in known {
            self.known_since.entry(of).or_insert(commit);
        }
    }

    fn take(&mut self, allocation: &Allocation) {
        let (address, by) = (allocation.address, place(&allocation.key));
        self.held.entry(address).or_default().insert(by);
    }

    fn leave(&mut self, allocation: &Allocation) {
        let (address, by) = (allocation.address, place(&allocation.key));
        if let Some(holders) = self.held.get_mut(&address) {
            holders.remove(&by);
        }
        let cooldown = self.cooldown(address);
        let at = Instant::now();
        self.released.insert(address, Released { by, at, cooldown });
    }

    fn pool(&self, address: IpAddr) -> Option<&Pool> {
        let mut pools = self.pools.iter();
        pools.find(|pool| pool.addresses.contains(&address))
    }

    fn cooldown(&self, address: IpAddr) -> Duration {
        let seconds = self.pool(address).map_or(0, |pool| pool.cooldown);
        Duration::from_secs(seconds.into())
    }

    fn check(&self, allocation: &Allocation) -> Vec<String> {
        let (address, by) = (allocation.address, place(&allocation.key));
        let lies = by.0 == LIAR;
        let mut problems = Vec::new();
        let mut problem = |what: &str| problems.push(format!("{by:?} is given {address}, {what}"));
        // What it shows itself is told: who shows it first keeps it.
        let own = self.services.get(&by);
        let shows = own.is_some_and(|shown| shown.addresses.contains(&address));
        let key = allocation.holder.sharing.as_ref();
        let key = key.map(|terms| terms.key.to_string());
        let agreed = |other: &Place| self.limits.agreed(address, &by, other);
        let mut others = self.services.iter().filter(|(other, _)| **other != by);
        let other = others.find(|(other, shown)| shown.known.contains(&address) && !agreed(other));
        // Before its cluster has told it nobody can tell who lies about what is shown.
        let is_told = |other: &Place| {
            let since = self.known_since.get(&(address, other.clone()));
            let is_known = since.is_some_and(|since| !self.limits.lied_before(address, *since));
            (!lies || is_known) && !self.limits.is_decommissioned(&other.0)
        };
        let is_adopted = self.limits.is_adoption(address, &by);
        if let Some((other, _)) = other.filter(|(other, _)| !shows && !is_adopted && is_told(other))
        {
            problem(&format!("which {other:?} shows"));
        }
        let is_promised = self.promised.get(&address) == Some(&by);
        let released = self.released.get(&address).filter(|it| it.by != by);
        if let Some(released) =
            released.filter(|_| !(shows || lies || is_promised) && key.is_none())
        {
            let cooldown = released.cooldown.min(self.cooldown(address));
            if released.at.elapsed() + COMMIT < cooldown {
                problem(&format!("which cools down after {:?}", released.by));
            }
        }
        problems
    }
}

/// Whether a Service may share its address with this other one.
fn share(service: &Value, cluster: &str, other: &Place) -> bool {
    asks_to_share(service).is_some() && other.0 == cluster
}

/// Whether an address is of a pool that this cluster may use.
fn is_claimable(pools: &[Pool], cluster: &str, address: IpAddr) -> bool {
    pools.iter().any(|pool| {
        let has = pool.addresses.contains(&address) && !pool.excluded.contains(&address);
        has && (pool.clusters.is_empty() || pool.clusters.contains(&cluster))
    })
}

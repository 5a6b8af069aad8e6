//! Live Services whose status shows an address that they do not hold. Found by address,
//! O(log n), when that may be given to somebody, and by Service and cluster, when one
//! of these tells what it shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use hashbrown::HashMap;

use super::{
    change::{Conflict, Timestamp},
    key::{ClusterName, ServiceKey},
};

type BySince = BTreeMap<(Timestamp, Arc<ServiceKey>), Arc<Conflict>>;
type ByService = BTreeMap<Arc<ServiceKey>, BTreeMap<IpAddr, Arc<Conflict>>>;

#[derive(Clone, Debug, Default)]
pub struct Conflicts {
    /// the longest conflict about an address first
    by_address: BTreeMap<IpAddr, BySince>,
    by_cluster: HashMap<ClusterName, ByService>,
    /// those of Services that their clusters do not have any more
    ends: BTreeSet<(Timestamp, IpAddr, Arc<ServiceKey>)>,
    /// when addresses have cooled down that only Services that show them may get then
    cooled: BTreeSet<(Timestamp, IpAddr)>,
}

impl Conflicts {
    /// In the order of addresses, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Conflict>> {
        self.by_address.values().flat_map(BTreeMap::values)
    }

    /// Everybody who shows an address without holding it, the longest first.
    pub fn about(&self, address: IpAddr) -> impl DoubleEndedIterator<Item = &Arc<Conflict>> {
        let about = self.by_address.get(&address);
        about.into_iter().flat_map(BTreeMap::values)
    }

    /// The conflicts of a Service, IPv4 first.
    pub fn of(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<Conflict>> {
        let services = self.by_cluster.get(&key.cluster);
        let of_key = services.and_then(|services| services.get(key));
        of_key.into_iter().flat_map(BTreeMap::values)
    }

    pub fn get(&self, key: &ServiceKey, address: IpAddr) -> Option<&Arc<Conflict>> {
        let services = self.by_cluster.get(&key.cluster)?;
        services.get(key)?.get(&address)
    }

    /// The conflicts of a cluster, in the order of Services, IPv4 first.
    pub fn of_cluster(&self, cluster: &ClusterName) -> impl Iterator<Item = &Arc<Conflict>> {
        let services = self.by_cluster.get(cluster).into_iter();
        services
            .flat_map(BTreeMap::values)
            .flat_map(BTreeMap::values)
    }

    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }

    /// When the next conflict ends by itself, or an address has cooled down.
    pub fn next_end(&self) -> Option<Timestamp> {
        let end = self.ends.first().map(|(end, _, _)| *end);
        let cooled = self.cooled.first().map(|(cooled, _)| *cooled);
        end.into_iter().chain(cooled).min()
    }

    pub fn cools_until(&mut self, address: IpAddr, until: Timestamp) {
        self.cooled.insert((until, address));
    }

    /// Services that show an address that has cooled down by `now`.
    pub fn next_cooled(&mut self, now: Timestamp) -> Option<Vec<Arc<ServiceKey>>> {
        let (until, address) = self.cooled.first().copied()?;
        if until > now {
            return None;
        }
        self.cooled.pop_first();
        let about = self.about(address);
        Some(about.map(|conflict| Arc::clone(&conflict.key)).collect())
    }

    /// A conflict that ends by `now`.
    pub fn ended(&self, now: Timestamp) -> Option<Arc<Conflict>> {
        let (end, address, key) = self.ends.first()?;
        (*end <= now)
            .then(|| self.get(key, *address).cloned())
            .flatten()
    }

    /// Adds a conflict; returns what it replaces, of the same Service and address.
    pub fn add(&mut self, conflict: Arc<Conflict>) -> Option<Arc<Conflict>> {
        let older = self.remove(&conflict.key, conflict.address);
        let (address, key) = (conflict.address, Arc::clone(&conflict.key));
        if let Some(end) = conflict.release_at() {
            self.ends.insert((end, address, Arc::clone(&key)));
        }
        let about = self.by_address.entry(address).or_default();
        about.insert((conflict.since, Arc::clone(&key)), Arc::clone(&conflict));
        let services = self.by_cluster.entry(key.cluster.clone()).or_default();
        services.entry(key).or_default().insert(address, conflict);
        older
    }

    pub fn remove(&mut self, key: &ServiceKey, address: IpAddr) -> Option<Arc<Conflict>> {
        let services = self.by_cluster.get_mut(&key.cluster)?;
        let of_key = services.get_mut(key)?;
        let gone = of_key.remove(&address)?;
        if of_key.is_empty() {
            services.remove(key);
        }
        if services.is_empty() {
            self.by_cluster.remove(&key.cluster);
        }
        if let Some(end) = gone.release_at() {
            self.ends.remove(&(end, address, Arc::clone(&gone.key)));
        }
        if let Some(about) = self.by_address.get_mut(&address) {
            about.remove(&(gone.since, Arc::clone(&gone.key)));
            if about.is_empty() {
                self.by_address.remove(&address);
            }
        }
        Some(gone)
    }
}

//! What each Service holds: found in O(1), for one pointer of memory each, because
//! the key is the allocation's own.

use std::{hash::BuildHasher, sync::Arc};

use hashbrown::{DefaultHashBuilder, HashMap, HashTable, hash_table::Entry};

use super::{
    address::Family,
    change::Allocation,
    key::{ClusterName, ServiceKey},
};

/// See the module. One table a cluster, so that a whole cluster is found as fast.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    clusters: HashMap<ClusterName, Table>,
}

#[derive(Clone, Debug, Default)]
struct Table {
    table: HashTable<Arc<Allocation>>,
    hasher: DefaultHashBuilder,
}

impl Holdings {
    pub fn count(&self) -> usize {
        self.clusters.values().map(|held| held.table.len()).sum()
    }

    /// In no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Allocation>> {
        self.clusters.values().flat_map(|held| held.table.iter())
    }

    /// What a cluster holds, in no order.
    pub fn of_cluster(&self, cluster: &ClusterName) -> impl Iterator<Item = &Arc<Allocation>> {
        let held = self.clusters.get(cluster).into_iter();
        held.flat_map(|held| held.table.iter())
    }

    pub fn get(&self, key: &ServiceKey, family: Family) -> Option<&Arc<Allocation>> {
        let Table { table, hasher } = self.clusters.get(&key.cluster)?;
        let hash = hash_of(hasher, key, family);
        table.find(hash, |held| is_it(held, key, family))
    }

    /// IPv4 first.
    pub fn of(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<Allocation>> {
        let families = Family::ALL.into_iter();
        families.filter_map(|family| self.get(key, family))
    }

    /// Adds an allocation; returns what it replaces.
    pub fn insert(&mut self, allocation: Arc<Allocation>) -> Option<Arc<Allocation>> {
        let cluster = allocation.key.cluster.clone();
        let Table { table, hasher } = self.clusters.entry(cluster).or_default();
        let hash = |held: &Arc<Allocation>| hash_of(hasher, &held.key, held.family());
        let (key, family) = (&*allocation.key, allocation.family());
        let is_same = |held: &Arc<Allocation>| is_it(held, key, family);
        match table.entry(hash(&allocation), is_same, hash) {
            Entry::Occupied(mut entry) => {
                Some(std::mem::replace(entry.get_mut(), Arc::clone(&allocation)))
            }
            Entry::Vacant(entry) => {
                entry.insert(Arc::clone(&allocation));
                None
            }
        }
    }

    pub fn remove(&mut self, key: &ServiceKey, family: Family) {
        let Some(Table { table, hasher }) = self.clusters.get_mut(&key.cluster) else {
            return;
        };
        let hash = hash_of(hasher, key, family);
        if let Ok(entry) = table.find_entry(hash, |held| is_it(held, key, family)) {
            entry.remove();
        }
        if table.is_empty() {
            self.clusters.remove(&key.cluster);
        }
    }
}

/// Of what differs within a cluster.
fn hash_of(hasher: &DefaultHashBuilder, key: &ServiceKey, family: Family) -> u64 {
    hasher.hash_one((&key.namespace, &key.name, family))
}

fn is_it(held: &Allocation, key: &ServiceKey, family: Family) -> bool {
    held.family() == family && *held.key == *key
}

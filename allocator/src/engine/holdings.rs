//! What each Service holds: found in O(1), for one pointer of memory each, because
//! the key is the allocation's own.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use hashbrown::{HashTable, hash_table::Entry};

use super::{address::Family, change::Allocation, key::ServiceKey};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    table: HashTable<Arc<Allocation>>,
    hasher: RandomState,
}

impl Holdings {
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// In no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Allocation>> {
        self.table.iter()
    }

    pub fn get(&self, key: &ServiceKey, family: Family) -> Option<&Arc<Allocation>> {
        let hash = self.hasher.hash_one((key, family));
        self.table.find(hash, |held| is_it(held, key, family))
    }

    /// IPv4 first.
    pub fn of(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<Allocation>> {
        let families = Family::ALL.into_iter();
        families.filter_map(|family| self.get(key, family))
    }

    /// Adds an allocation; returns what it replaces.
    pub fn insert(&mut self, allocation: Arc<Allocation>) -> Option<Arc<Allocation>> {
        let Self { table, hasher } = self;
        let hash_of = |held: &Arc<Allocation>| hasher.hash_one((&*held.key, held.family()));
        let (key, family) = (&*allocation.key, allocation.family());
        let is_same = |held: &Arc<Allocation>| is_it(held, key, family);
        match table.entry(hash_of(&allocation), is_same, hash_of) {
            Entry::Occupied(mut entry) => {
                Some(std::mem::replace(entry.get_mut(), Arc::clone(&allocation)))
            }
            Entry::Vacant(entry) => {
                entry.insert(Arc::clone(&allocation));
                None
            }
        }
    }

    pub fn remove(&mut self, key: &ServiceKey, family: Family) -> Option<Arc<Allocation>> {
        let hash = self.hasher.hash_one((key, family));
        let entry = self.table.find_entry(hash, |held| is_it(held, key, family));
        entry.ok().map(|entry| entry.remove().0)
    }
}

fn is_it(held: &Allocation, key: &ServiceKey, family: Family) -> bool {
    held.family() == family && *held.key == *key
}

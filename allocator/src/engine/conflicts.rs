//! Services that show addresses which others hold. Found by address, O(log n),
//! when its holders let go, and by Service, O(1), when that asks or is gone.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use hashbrown::HashMap;

use super::{
    address::{Family, PerFamily},
    change::Conflict,
    key::ServiceKey,
};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Conflicts {
    /// the longest conflict about an address first
    by_address: BTreeMap<IpAddr, Vec<Arc<Conflict>>>,
    by_key: HashMap<Arc<ServiceKey>, PerFamily<Option<Arc<Conflict>>>>,
}

impl Conflicts {
    /// In the order of addresses, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Conflict>> {
        self.by_address.values().flatten()
    }

    /// Everybody who shows an address without holding it, the longest first.
    pub fn about(&self, address: IpAddr) -> &[Arc<Conflict>] {
        self.by_address.get(&address).map_or(&[], Vec::as_slice)
    }

    /// The conflicts of a Service, IPv4 first.
    pub fn of(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<Conflict>> {
        self.by_key.get(key).into_iter().flat_map(|families| {
            families
                .iter()
                .filter_map(|(_, conflict)| conflict.as_ref())
        })
    }

    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }

    /// Adds a conflict, in place of one of the same Service and family.
    pub fn add(&mut self, conflict: Arc<Conflict>) {
        let family = Family::of(conflict.address);
        let older = self
            .by_key
            .get(&conflict.key)
            .and_then(|families| families.get(family).clone());
        if let Some(older) = older {
            self.remove(&older);
        }
        let families = self.by_key.entry(Arc::clone(&conflict.key)).or_default();
        *families.get_mut(family) = Some(Arc::clone(&conflict));
        let about = self.by_address.entry(conflict.address).or_default();
        let place = about
            .partition_point(|other| (other.since, &other.key) <= (conflict.since, &conflict.key));
        about.insert(place, conflict);
    }

    pub fn remove(&mut self, conflict: &Conflict) {
        let Conflict { address, key, .. } = conflict;
        if let Some(about) = self.by_address.get_mut(address) {
            about.retain(|other| other.key != *key);
            if about.is_empty() {
                self.by_address.remove(address);
            }
        }
        if let Some(families) = self.by_key.get_mut(key) {
            *families.get_mut(Family::of(*address)) = None;
            if families.iter().all(|(_, conflict)| conflict.is_none()) {
                self.by_key.remove(key);
            }
        }
    }
}

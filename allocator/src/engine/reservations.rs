//! Addresses that are kept from everybody, or from all but one Service. Every
//! look-up is O(1), every change and every expiry O(log n).

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use hashbrown::HashMap;

use super::{
    address::Family,
    change::{Reservation, Timestamp},
    key::ServiceKey,
};

#[derive(Clone, Debug, Default)]
pub struct Reservations {
    by_address: HashMap<IpAddr, Arc<Reservation>>,
    by_key: HashMap<Arc<ServiceKey>, BTreeSet<IpAddr>>,
    expiry: BTreeSet<(Timestamp, IpAddr)>,
}

impl Reservations {
    pub fn get(&self, address: IpAddr) -> Option<&Arc<Reservation>> {
        self.by_address.get(&address)
    }

    /// In no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Reservation>> {
        self.by_address.values()
    }

    /// Addresses of one family that only `key` gets, the lowest first.
    pub fn of(&self, key: &ServiceKey, family: Family) -> impl Iterator<Item = IpAddr> + '_ {
        let addresses = self.by_key.get(key).into_iter().flatten().copied();
        addresses.filter(move |address| Family::of(*address) == family)
    }

    /// The next reservation to expire, if it does by `now`.
    pub fn expired(&self, now: Timestamp) -> Option<Arc<Reservation>> {
        let (at, address) = self.expiry.first()?;
        (*at <= now)
            .then(|| self.by_address.get(address).cloned())
            .flatten()
    }

    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.expiry.first().map(|(at, _)| *at)
    }

    /// Adds a reservation, in place of one of the same address.
    pub fn add(&mut self, reservation: Arc<Reservation>) {
        let address = reservation.address;
        self.remove(address);
        if let Some(key) = &reservation.key {
            self.by_key
                .entry(Arc::clone(key))
                .or_default()
                .insert(address);
        }
        if let Some(at) = reservation.expires {
            self.expiry.insert((at, address));
        }
        self.by_address.insert(address, reservation);
    }

    pub fn remove(&mut self, address: IpAddr) {
        let Some(gone) = self.by_address.remove(&address) else {
            return;
        };
        if let Some(key) = &gone.key
            && let Some(addresses) = self.by_key.get_mut(key)
        {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.by_key.remove(key);
            }
        }
        if let Some(at) = gone.expires {
            self.expiry.remove(&(at, address));
        }
    }
}

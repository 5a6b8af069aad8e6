//! Allocations in the order of addresses, for one pointer of memory each, because
//! what they are ordered by is their own.

use std::{
    borrow::Borrow, cmp::Ordering, collections::BTreeSet, net::IpAddr, ops::Bound, sync::Arc,
};

use crate::engine::{Allocation, ServiceKey};

/// An address and one of its holders; an address alone sorts before all of them.
pub type Place = (IpAddr, Option<Arc<ServiceKey>>);

#[derive(Debug, Default)]
pub struct ByAddress(BTreeSet<Entry>);

impl ByAddress {
    /// From `start` on.
    pub fn from(&self, start: Option<Place>) -> impl Iterator<Item = &Arc<Allocation>> {
        let start = start.as_ref().map_or(Bound::Unbounded, |place| {
            Bound::Included(place as &dyn Placed)
        });
        let entries = self.0.range::<dyn Placed, _>((start, Bound::Unbounded));
        entries.map(|Entry(allocation)| allocation)
    }

    /// Adds an allocation, in place of what the same Service held of the address.
    pub fn insert(&mut self, allocation: Arc<Allocation>) {
        self.0.replace(Entry(allocation));
    }

    pub fn remove(&mut self, allocation: &Allocation) {
        self.0.remove(allocation as &dyn Placed);
    }
}

impl FromIterator<Arc<Allocation>> for ByAddress {
    fn from_iter<I: IntoIterator<Item = Arc<Allocation>>>(allocations: I) -> Self {
        Self(allocations.into_iter().map(Entry).collect())
    }
}

#[derive(Debug)]
struct Entry(Arc<Allocation>);

/// What has a place in the order: an entry, and that from which a search starts,
/// which need not be held.
trait Placed {
    fn place(&self) -> (IpAddr, Option<&ServiceKey>);
}

impl Placed for Place {
    fn place(&self) -> (IpAddr, Option<&ServiceKey>) {
        (self.0, self.1.as_deref())
    }
}

impl Placed for Allocation {
    fn place(&self) -> (IpAddr, Option<&ServiceKey>) {
        (self.address, Some(&self.key))
    }
}

impl<'a> Borrow<dyn Placed + 'a> for Entry {
    fn borrow(&self) -> &(dyn Placed + 'a) {
        &*self.0
    }
}

impl Ord for dyn Placed + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl PartialOrd for dyn Placed + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Eq for dyn Placed + '_ {}

impl PartialEq for dyn Placed + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.place().cmp(&other.0.place())
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Eq for Entry {}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

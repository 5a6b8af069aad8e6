//! The pools as configured: who may use which, and which pool an address is in.
//! Nothing here changes while the engine runs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use thiserror::Error;

use super::{
    address::{AddressRange, Family, PerFamily},
    key::{Namespace, PoolName},
    ranges::RangeSet,
};

/// A pool as its owner wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    pub name: PoolName,
    pub addresses: Vec<AddressRange>,
    pub exclude: Vec<AddressRange>,
    /// `None`: every namespace.
    pub namespaces: Option<BTreeSet<Namespace>>,
    /// For how long after its release others get an address only when nothing
    /// else is free.
    pub sticky_for: Duration,
}

impl PoolSpec {
    pub fn allows(&self, namespace: &Namespace) -> bool {
        self.namespaces
            .as_ref()
            .is_none_or(|set| set.contains(namespace))
    }
}

/// Why pools cannot be used together.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PoolConflict {
    #[error("two pools have the name {name}")]
    DuplicateName { name: PoolName },
    #[error("pool {pool} has {first} and {second}, which overlap")]
    OverlapInside {
        pool: PoolName,
        first: AddressRange,
        second: AddressRange,
    },
    #[error(
        "pools {first_pool} and {second_pool} overlap: {first_pool} has {first}, \
         {second_pool} has {second}"
    )]
    OverlapBetween {
        first_pool: PoolName,
        first: AddressRange,
        second_pool: PoolName,
        second: AddressRange,
    },
}

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Located {
    In(PoolIndex),
    Excluded(PoolIndex),
    Nowhere,
}

/// A pool's place in the order of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolIndex(usize);

impl PoolIndex {
    pub const fn position(self) -> usize {
        self.0
    }
}

/// Pools that do not overlap.
#[derive(Clone, Debug, Default)]
pub struct Pools {
    pools: Vec<Pool>,
    /// first address of a range -> its last one and its pool: one look-up finds
    /// the pool of an address, however many ranges there are
    ranges: BTreeMap<IpAddr, (IpAddr, PoolIndex)>,
    /// namespace -> the pools bound to it, in the order in which they are tried
    bound: HashMap<Namespace, Vec<PoolIndex>>,
    /// pools for every namespace, tried after the bound ones
    open: Vec<PoolIndex>,
}

#[derive(Clone, Debug)]
struct Pool {
    spec: PoolSpec,
    usable: PerFamily<RangeSet>,
}

impl Pools {
    /// # Errors
    /// Names the first conflict, in the order of pool names and addresses.
    pub fn new(mut specs: Vec<PoolSpec>) -> Result<Self, PoolConflict> {
        specs.sort_by(|a, b| a.name.cmp(&b.name));
        let mut pools = Self::default();
        let mut ranges: Vec<(AddressRange, PoolIndex)> = Vec::new();
        for (index, spec) in specs.into_iter().enumerate() {
            let index = PoolIndex(index);
            if pools.pools.last().is_some_and(|p| p.spec.name == spec.name) {
                return Err(PoolConflict::DuplicateName { name: spec.name });
            }
            ranges.extend(spec.addresses.iter().map(|range| (*range, index)));
            match &spec.namespaces {
                None => pools.open.push(index),
                Some(namespaces) => {
                    for namespace in namespaces {
                        pools
                            .bound
                            .entry(namespace.clone())
                            .or_default()
                            .push(index);
                    }
                }
            }
            let usable = usable(&spec);
            pools.pools.push(Pool { spec, usable });
        }
        ranges.sort();
        // Sorted by first address, two ranges that overlap are neighbours.
        for pair in ranges.windows(2) {
            if let [(first, i), (second, j)] = pair
                && first.overlaps(second)
            {
                return Err(pools.conflict((*first, *i), (*second, *j)));
            }
        }
        pools.ranges = ranges
            .into_iter()
            .map(|(range, index)| (range.first(), (range.last(), index)))
            .collect();
        Ok(pools)
    }

    fn conflict(
        &self,
        (first, i): (AddressRange, PoolIndex),
        (second, j): (AddressRange, PoolIndex),
    ) -> PoolConflict {
        if i == j {
            return PoolConflict::OverlapInside {
                pool: self.spec(i).name.clone(),
                first,
                second,
            };
        }
        PoolConflict::OverlapBetween {
            first_pool: self.spec(i).name.clone(),
            first,
            second_pool: self.spec(j).name.clone(),
            second,
        }
    }

    pub fn spec(&self, index: PoolIndex) -> &PoolSpec {
        &self.pools[index.0].spec
    }

    /// Addresses of the pool without excluded ones.
    pub fn usable(&self, index: PoolIndex) -> &PerFamily<RangeSet> {
        &self.pools[index.0].usable
    }

    /// The same as ranges, IPv4 first.
    pub fn ranges(&self, index: PoolIndex) -> impl Iterator<Item = AddressRange> + '_ {
        self.usable(index).iter().flat_map(|(family, set)| {
            let address = move |number| family.address(number);
            set.iter()
                .filter_map(move |(first, last)| AddressRange::new(address(first), address(last)))
        })
    }

    /// Every pool, in the order of names.
    pub fn indexes(&self) -> impl Iterator<Item = PoolIndex> + use<> {
        (0..self.pools.len()).map(PoolIndex)
    }

    pub fn by_name(&self, name: &str) -> Option<PoolIndex> {
        self.pools
            .binary_search_by(|pool| pool.spec.name.as_str().cmp(name))
            .ok()
            .map(PoolIndex)
    }

    /// The pools that serve a namespace, in the order in which they are tried:
    /// bound ones before open ones, then by name.
    pub fn serving(&self, namespace: &Namespace) -> impl Iterator<Item = PoolIndex> + '_ {
        let bound = self.bound.get(namespace).map_or(&[][..], Vec::as_slice);
        bound.iter().chain(&self.open).copied()
    }

    pub fn locate(&self, address: IpAddr) -> Located {
        let Some((_, (last, index))) = self.ranges.range(..=address).next_back() else {
            return Located::Nowhere;
        };
        if *last < address || Family::of(*last) != Family::of(address) {
            return Located::Nowhere;
        }
        let usable = self.usable(*index).get(Family::of(address));
        if usable.contains(Family::number(address)) {
            Located::In(*index)
        } else {
            Located::Excluded(*index)
        }
    }
}

fn usable(spec: &PoolSpec) -> PerFamily<RangeSet> {
    let mut usable = PerFamily::<RangeSet>::default();
    for range in &spec.addresses {
        usable
            .get_mut(range.family())
            .insert_range(Family::number(range.first()), Family::number(range.last()));
    }
    for range in &spec.exclude {
        usable
            .get_mut(range.family())
            .remove_range(Family::number(range.first()), Family::number(range.last()));
    }
    usable
}

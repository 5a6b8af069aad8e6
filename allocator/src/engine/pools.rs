//! The pools as configured: who may use which, and which pool an address is in.
//! Nothing here changes while the engine runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use hashbrown::HashMap;
use thiserror::Error;

use super::{
    address::{AddressRange, Family, PerFamily},
    key::{ClusterName, Namespace, PoolName, ServiceKey},
    labels::{LabelKeys, Labels, Selector},
    ranges::RangeSet,
};

/// A pool as its owner wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    pub name: PoolName,
    pub addresses: Vec<AddressRange>,
    pub exclude: Vec<AddressRange>,
    /// Who may use it; every one of these that is set must match.
    pub namespaces: Option<BTreeSet<Namespace>>,
    pub namespace_selector: Option<Selector>,
    pub service_selector: Option<Selector>,
    pub clusters: Option<BTreeSet<ClusterName>>,
    /// Lower is tried first; `None` last.
    pub priority: Option<i64>,
    /// Whether it gives addresses to those who do not ask for it.
    pub auto_assign: bool,
    /// IPv4 addresses that end in .0 or .255 are never given.
    pub avoid_buggy_ips: bool,
    /// Namespaces that it serves may use no pool that is not fenced.
    pub fenced: bool,
    /// For how long after its release others do not get an address.
    pub cooldown: Duration,
    /// For how long after its release others get an address only when nothing
    /// else is free.
    pub sticky_for: Duration,
    /// Addresses that the Services of one namespace of one cluster may hold.
    pub max_per_namespace: Option<u64>,
    /// Addresses that the Services of one cluster may hold.
    pub max_per_cluster: Option<u64>,
    /// Nothing is given any more; what is held stays.
    pub disabled: bool,
}

/// For how long others get a released address only when nothing else is free,
/// unless the pool says otherwise.
pub const STICKY_FOR: Duration = Duration::from_secs(24 * 60 * 60);

impl PoolSpec {
    /// A pool for everybody, with every rule at its default.
    pub const fn new(name: PoolName, addresses: Vec<AddressRange>) -> Self {
        Self {
            name,
            addresses,
            exclude: Vec::new(),
            namespaces: None,
            namespace_selector: None,
            service_selector: None,
            clusters: None,
            priority: None,
            auto_assign: true,
            avoid_buggy_ips: false,
            fenced: false,
            cooldown: Duration::ZERO,
            sticky_for: STICKY_FOR,
            max_per_namespace: None,
            max_per_cluster: None,
            disabled: false,
        }
    }

    /// Whether it is counted who holds how much of it.
    pub const fn has_limits(&self) -> bool {
        self.max_per_namespace.is_some() || self.max_per_cluster.is_some()
    }

    /// Whether it serves only some: it is tried before those that serve all.
    const fn is_bound(&self) -> bool {
        self.namespaces.is_some()
            || self.namespace_selector.is_some()
            || self.service_selector.is_some()
            || self.clusters.is_some()
    }

    /// Whether it serves the namespace and the cluster by their names.
    fn names(&self, key: &ServiceKey) -> bool {
        let (namespaces, clusters) = (self.namespaces.as_ref(), self.clusters.as_ref());
        namespaces.is_none_or(|set| set.contains(&key.namespace))
            && clusters.is_none_or(|set| set.contains(&key.cluster))
    }

    fn serves_namespace(&self, key: &ServiceKey, labels: &Labels) -> bool {
        self.names(key)
            && self
                .namespace_selector
                .as_ref()
                .is_none_or(|selector| selector.matches(&labels.namespace))
    }

    fn serves(&self, key: &ServiceKey, labels: &Labels) -> bool {
        self.serves_namespace(key, labels)
            && self
                .service_selector
                .as_ref()
                .is_none_or(|selector| selector.matches(&labels.service))
    }
}

/// What holds for the whole configuration, besides its pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Clusters that have to tell what they have before a new database gives
    /// anything to anybody new.
    pub clusters: BTreeSet<ClusterName>,
    /// Those of them that are made anew all the time: a new uid takes over by itself.
    pub ephemeral: BTreeSet<ClusterName>,
    /// How long a database that knows nothing waits for clusters to tell what they have.
    pub adoption_window: Duration,
    /// How long an address is kept for a Service that its cluster does not have any
    /// more.
    pub orphan_grace: Duration,
    /// After how long without a word a cluster is reported.
    pub cluster_silence: Duration,
    pub history: Retention,
}

/// What of history is kept, besides the last change of everything that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Older changes are removed.
    pub keep_for: Duration,
    /// Of more changes than this the oldest are removed.
    pub keep_rows: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            keep_for: Duration::from_secs(365 * 24 * 60 * 60),
            keep_rows: 10_000_000,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            clusters: BTreeSet::new(),
            ephemeral: BTreeSet::new(),
            adoption_window: Duration::from_secs(2),
            orphan_grace: Duration::from_secs(2 * 60),
            cluster_silence: Duration::from_secs(15 * 60),
            history: Retention::default(),
        }
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
    settings: Settings,
    pools: Vec<Pool>,
    /// first address of a range -> its last one and its pool: one look-up finds
    /// the pool of an address, however many ranges there are
    ranges: BTreeMap<IpAddr, (IpAddr, PoolIndex)>,
    /// namespace -> the pools that name it: however many namespaces have pools of
    /// their own, a request looks only at those of its own
    named: HashMap<Namespace, Vec<PoolIndex>>,
    /// pools that name no namespaces
    unnamed: Vec<PoolIndex>,
    fenced: Vec<PoolIndex>,
    /// labels that selectors look at: all others are nobody's business
    label_keys: LabelKeys,
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
                None => pools.unnamed.push(index),
                Some(namespaces) => {
                    for namespace in namespaces {
                        pools
                            .named
                            .entry(namespace.clone())
                            .or_default()
                            .push(index);
                    }
                }
            }
            if spec.fenced {
                pools.fenced.push(index);
            }
            pools.label_keys.add(&spec);
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

    #[must_use]
    pub fn with_settings(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    pub const fn settings(&self) -> &Settings {
        &self.settings
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

    /// The pools that serve a Service, disabled ones too, in the order in which
    /// they are tried: bound ones before open ones, then by priority, then by name.
    pub fn serving(&self, key: &ServiceKey, labels: &Labels) -> Vec<PoolIndex> {
        let named = self
            .named
            .get(&key.namespace)
            .map_or(&[][..], Vec::as_slice);
        let mut serving: Vec<_> = named
            .iter()
            .chain(&self.unnamed)
            .copied()
            .filter(|index| self.serves(*index, key, labels))
            .collect();
        serving.sort_by_key(|index| {
            let spec = self.spec(*index);
            let priority = spec
                .priority
                .map_or((true, 0), |priority| (false, priority));
            (!spec.is_bound(), priority, *index)
        });
        serving
    }

    /// Whether a pool serves a Service: its selectors match, and no fence keeps
    /// the Service's namespace to other pools.
    pub fn serves(&self, index: PoolIndex, key: &ServiceKey, labels: &Labels) -> bool {
        let spec = self.spec(index);
        if !spec.serves(key, labels) {
            return false;
        }
        spec.fenced
            || !self
                .fenced
                .iter()
                .any(|fenced| self.spec(*fenced).serves_namespace(key, labels))
    }

    /// What of these labels any selector looks at; `None` where that is nothing.
    pub fn relevant(&self, labels: &Arc<Labels>) -> Option<Arc<Labels>> {
        self.label_keys.only(labels)
    }

    /// Whether a pool may serve a Service whose labels are not known.
    pub fn may_serve(&self, index: PoolIndex, key: &ServiceKey) -> bool {
        let spec = self.spec(index);
        let is_fenced_off = self.fenced.iter().any(|fenced| {
            let fenced = self.spec(*fenced);
            fenced.namespace_selector.is_none() && fenced.names(key)
        });
        spec.names(key) && (spec.fenced || !is_fenced_off)
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
    if spec.avoid_buggy_ips {
        remove_buggy(usable.get_mut(Family::V4));
    }
    usable
}

/// Some routers and clients take .0 and .255 for a network's or a broadcast
/// address, whatever the netmask.
fn remove_buggy(usable: &mut RangeSet) {
    let ranges: Vec<_> = usable.iter().collect();
    for (first, last) in ranges {
        for block in (first >> 8)..=(last >> 8) {
            usable.remove(block << 8);
            usable.remove((block << 8) | 0xff);
        }
    }
}

//! When several Services may hold one address.
//!
//! All of them have the same sharing key and cluster, no port in common, the same
//! `externalTrafficPolicy` (with `Local` also the same, non-empty selector), and
//! are in one namespace or allow each other's.
//!
//! Whether one more may join costs O(log) for each of its ports and a look at each
//! different pair of namespace and permission at the address: not one at each
//! Service that is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::BuildHasher,
    net::IpAddr,
    sync::Arc,
};

use hashbrown::{DefaultHashBuilder, HashMap, HashTable, hash_table::Entry};

use super::{
    address::{Family, PerFamily},
    change::Allocation,
    key::{ClusterName, Namespace, ServiceKey, SharingKey},
    labels::LabelMap,
};

/// Addresses of one sharing key, and of those that it held last, that a Service is tried
/// on before it gets another: it bounds what a sharing key costs whose Services all want
/// the same port, and a Service that held many.
pub const TRIED: usize = 64;

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// A port of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    pub protocol: Protocol,
    pub number: u16,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol.as_str(), self.number)
    }
}

/// Where the traffic of a Service goes, as far as it decides over sharing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// `externalTrafficPolicy: Cluster`: every node answers for any Service.
    Cluster,
    /// `Local`: only nodes with a Pod of this selector answer.
    Local(LabelMap),
}

/// Namespaces that a Service allows to share its address with it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Permitted {
    All,
    Only(BTreeSet<Namespace>),
}

impl Permitted {
    fn includes(&self, namespace: &Namespace) -> bool {
        match self {
            Self::All => true,
            Self::Only(namespaces) => namespaces.contains(namespace),
        }
    }
}

/// On which terms a Service shares an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    pub key: SharingKey,
    pub permitted: Permitted,
    pub ports: BTreeSet<Port>,
    pub backend: Backend,
}

/// Why a Service may not share an address with those who hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clash {
    /// It does not share, and neither do they.
    NotShared,
    /// One of them does not share, or has another sharing key.
    Key,
    Port {
        port: Port,
        holder: Arc<ServiceKey>,
    },
    /// Another cluster, a namespace that is not permitted, other backends.
    NotPermitted,
}

/// Who holds an address.
#[derive(Clone, Copy, Debug)]
pub enum Holders<'a> {
    /// One Service, which shares with nobody.
    One(&'a Arc<Allocation>),
    /// Services of one sharing key.
    Sharing(&'a Shared),
}

/// Services that hold one address together.
#[derive(Clone, Debug)]
pub struct Shared {
    key: SharingKey,
    cluster: ClusterName,
    backend: Backend,
    ports: BTreeMap<Port, Arc<ServiceKey>>,
    permissions: BTreeMap<(Namespace, Permitted), usize>,
    namespaces: BTreeMap<Namespace, usize>,
    members: BTreeMap<Arc<ServiceKey>, Arc<Allocation>>,
}

impl<'a> Holders<'a> {
    /// The holder or holders, in the order of keys.
    pub fn iter(self) -> Box<dyn Iterator<Item = &'a Arc<Allocation>> + 'a> {
        match self {
            Self::One(allocation) => Box::new(std::iter::once(allocation)),
            Self::Sharing(shared) => Box::new(shared.members.values()),
        }
    }

    /// Under which key of which cluster it is shared.
    pub fn group(self) -> Option<(ClusterName, SharingKey)> {
        match self {
            Self::One(_) => None,
            Self::Sharing(shared) => Some(shared.group()),
        }
    }

    /// Whether a Service of this namespace is among them.
    pub fn has_namespace(self, cluster: &ClusterName, namespace: &Namespace) -> bool {
        match self {
            Self::One(allocation) => {
                allocation.key.cluster == *cluster && allocation.key.namespace == *namespace
            }
            Self::Sharing(shared) => {
                shared.cluster == *cluster && shared.namespaces.contains_key(namespace)
            }
        }
    }

    /// Whether, when `key` lets go, none of its namespace and none of its cluster
    /// hold the address any more.
    pub fn emptied_by(self, key: &ServiceKey) -> (bool, bool) {
        match self {
            Self::One(_) => (true, true),
            Self::Sharing(shared) => (
                shared.namespaces.get(&key.namespace) == Some(&1),
                shared.members.len() == 1,
            ),
        }
    }

    /// Whether `key` may hold the address on these terms, together with whoever
    /// else does.
    pub fn admit(self, key: &ServiceKey, terms: Option<&Terms>) -> Result<(), Clash> {
        match self {
            Self::One(allocation) if *allocation.key == *key => Ok(()),
            Self::One(_) if terms.is_none() => Err(Clash::NotShared),
            Self::One(_) => Err(Clash::Key),
            Self::Sharing(shared) => shared.admit(key, terms),
        }
    }
}

impl Shared {
    fn new(first: &Allocation, terms: &Terms) -> Self {
        Self {
            key: terms.key.clone(),
            cluster: first.key.cluster.clone(),
            backend: terms.backend.clone(),
            ports: BTreeMap::new(),
            permissions: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            members: BTreeMap::new(),
        }
    }

    fn group(&self) -> (ClusterName, SharingKey) {
        (self.cluster.clone(), self.key.clone())
    }

    fn admit(&self, key: &ServiceKey, terms: Option<&Terms>) -> Result<(), Clash> {
        let own = self
            .members
            .get(key)
            .and_then(|held| held.holder.sharing.as_ref());
        if own.is_some() && self.members.len() == 1 {
            return Ok(());
        }
        let Some(terms) = terms else {
            return Err(Clash::NotShared);
        };
        if terms.key != self.key {
            return Err(Clash::Key);
        }
        let mine = (key.namespace.clone(), own.map(|own| own.permitted.clone()));
        let others = self
            .permissions
            .iter()
            .filter(|((namespace, permitted), count)| {
                **count > 1 || *namespace != mine.0 || Some(permitted) != mine.1.as_ref()
            });
        let all_agree = others.into_iter().all(|((namespace, permitted), _)| {
            *namespace == key.namespace
                || (permitted.includes(&key.namespace) && terms.permitted.includes(namespace))
        });
        let no_backend = matches!(&terms.backend, Backend::Local(selector) if selector.is_empty());
        if key.cluster != self.cluster || !all_agree || terms.backend != self.backend || no_backend
        {
            return Err(Clash::NotPermitted);
        }
        for port in &terms.ports {
            if let Some(holder) = self.ports.get(port)
                && **holder != *key
            {
                return Err(Clash::Port {
                    port: *port,
                    holder: Arc::clone(holder),
                });
            }
        }
        Ok(())
    }

    fn add(&mut self, allocation: Arc<Allocation>, terms: &Terms) {
        let key = &allocation.key;
        for port in &terms.ports {
            self.ports.insert(*port, Arc::clone(key));
        }
        let permission = (key.namespace.clone(), terms.permitted.clone());
        *self.permissions.entry(permission).or_default() += 1;
        *self.namespaces.entry(key.namespace.clone()).or_default() += 1;
        // Of a single member the terms may have changed.
        self.key = terms.key.clone();
        self.backend = terms.backend.clone();
        self.members.insert(Arc::clone(key), allocation);
    }

    fn remove(&mut self, key: &ServiceKey) {
        let Some(gone) = self.members.remove(key) else {
            return;
        };
        if let Some(terms) = &gone.holder.sharing {
            for port in &terms.ports {
                self.ports.remove(port);
            }
            let permission = (key.namespace.clone(), terms.permitted.clone());
            decrement(&mut self.permissions, &permission);
        }
        decrement(&mut self.namespaces, &key.namespace);
    }
}

fn decrement<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Who holds which address, and which addresses a sharing key has.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// What is not shared. The address is the allocation's own: a pointer each.
    alone: HashTable<Arc<Allocation>>,
    hasher: DefaultHashBuilder,
    shared: HashMap<IpAddr, Shared>,
    groups: HashMap<(ClusterName, SharingKey), PerFamily<BTreeSet<IpAddr>>>,
}

impl Held {
    pub fn get(&self, address: IpAddr) -> Option<Holders<'_>> {
        let hash = self.hasher.hash_one(address);
        let alone = self.alone.find(hash, |held| held.address == address);
        let shared = || self.shared.get(&address).map(Holders::Sharing);
        alone.map(Holders::One).or_else(shared)
    }

    /// Addresses that Services of this cluster and key hold, the lowest first.
    pub fn of_group(
        &self,
        cluster: &ClusterName,
        key: &SharingKey,
        family: Family,
    ) -> impl Iterator<Item = IpAddr> + '_ {
        let group = self.groups.get(&(cluster.clone(), key.clone()));
        group
            .into_iter()
            .flat_map(move |group| group.get(family).iter().copied())
            .take(TRIED)
    }

    /// Adds a holder, or replaces what is known of it. It must have been admitted.
    pub fn add(&mut self, allocation: Arc<Allocation>) {
        let Some(terms) = allocation.holder.sharing.clone() else {
            self.leave_shared(&allocation);
            self.add_alone(allocation);
            return;
        };
        self.remove(&allocation);
        let address = allocation.address;
        let group = (allocation.key.cluster.clone(), terms.key.clone());
        let group = self.groups.entry(group).or_default();
        group.get_mut(allocation.family()).insert(address);
        let shared = self.shared.entry(address);
        let shared = shared.or_insert_with(|| Shared::new(&allocation, &terms));
        shared.add(allocation, &terms);
    }

    /// Whether nobody holds the address any more.
    pub fn remove(&mut self, allocation: &Allocation) -> bool {
        let address = allocation.address;
        let hash = self.hasher.hash_one(address);
        let alone = self.alone.find_entry(hash, |held| held.address == address);
        if let Ok(alone) = alone {
            alone.remove();
        }
        self.leave_shared(allocation)
    }

    fn add_alone(&mut self, allocation: Arc<Allocation>) {
        let Self { alone, hasher, .. } = self;
        let address = allocation.address;
        let hash_of = |held: &Arc<Allocation>| hasher.hash_one(held.address);
        let is_it = |held: &Arc<Allocation>| held.address == address;
        match alone.entry(hash_of(&allocation), is_it, hash_of) {
            Entry::Occupied(mut entry) => *entry.get_mut() = allocation,
            Entry::Vacant(entry) => {
                entry.insert(allocation);
            }
        }
    }

    /// Whether nobody shares the address any more.
    fn leave_shared(&mut self, allocation: &Allocation) -> bool {
        let address = allocation.address;
        let Some(shared) = self.shared.get_mut(&address) else {
            return true;
        };
        shared.remove(&allocation.key);
        if !shared.members.is_empty() {
            return false;
        }
        let group = shared.group();
        self.shared.remove(&address);
        self.leave_group(&group, address);
        true
    }

    fn leave_group(&mut self, key: &(ClusterName, SharingKey), address: IpAddr) {
        if let Some(group) = self.groups.get_mut(key) {
            group.get_mut(Family::of(address)).remove(&address);
            if group.iter().all(|(_, addresses)| addresses.is_empty()) {
                self.groups.remove(key);
            }
        }
    }
}

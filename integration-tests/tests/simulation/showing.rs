//! Which Services of all clusters show which addresses at the moment: never two of
//! them the same, not even while one of them moves.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::Mutex;

use crate::api_server::objects::{Objects, shown};

/// A clone is of the same clusters.
#[derive(Clone, Debug, Default)]
pub struct Showing(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// By cluster, namespace and name.
    services: BTreeMap<(String, String, String), BTreeSet<IpAddr>>,
    /// An allocator that forgot who holds what gives some of it again, until it is told.
    forgot: bool,
}

impl Showing {
    pub fn allocator_forgot(&self) {
        self.0.lock().forgot = true;
    }

    /// Looks at a cluster after a change. Says what two Services show since then.
    pub fn look(&self, cluster: &str, objects: &Objects) -> Vec<String> {
        let mut state = self.0.lock();
        let State { services, forgot } = &mut *state;
        let mut problems = Vec::new();
        let mut after = BTreeMap::new();
        for ((namespace, name), stored) in &objects.services {
            let key = (cluster.to_owned(), namespace.clone(), name.clone());
            let shown = shown(&stored.object);
            let before = services.get(&key);
            for address in shown
                .iter()
                .filter(|it| before.is_none_or(|b| !b.contains(it)))
            {
                let mut others = services.iter().filter(|(other, _)| **other != key);
                let other = others.find(|(_, shown)| shown.contains(address));
                if let Some((other, _)) = other.filter(|_| !*forgot) {
                    problems.push(format!("{key:?} shows {address}, which {other:?} shows"));
                }
            }
            after.insert(key, shown);
        }
        services.retain(|(of, _, _), _| of != cluster);
        services.extend(after);
        problems
    }
}

//! The Services as the API server last told: those of type LoadBalancer, and those
//! that carry our condition. The rest of a cluster's Services costs no memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::ResourceExt;
use parking_lot::Mutex;

use crate::{
    kube::{
        key::Key,
        service::{Service, created},
    },
    request::scope::{ClassRule, Scope},
    status,
};

/// Shared by the watch, which fills it, and the workers.
#[derive(Debug)]
pub struct ServiceStore {
    rule: ClassRule,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    services: BTreeMap<Key, Arc<Service>>,
    /// While a list is read: what it named, what of it was news, and what was written
    /// meanwhile.
    listed: BTreeSet<Key>,
    changed: BTreeSet<Key>,
    written: BTreeSet<Key>,
}

impl ServiceStore {
    /// An empty store.
    pub fn new(rule: ClassRule) -> Self {
        Self {
            rule,
            state: Mutex::default(),
        }
    }

    /// Which Services are ours.
    pub fn rule(&self) -> &ClassRule {
        &self.rule
    }

    /// The Service as last told.
    pub fn get(&self, key: &Key) -> Option<Arc<Service>> {
        self.state.lock().services.get(key).cloned()
    }

    /// Which Services are looked at first: those that are no longer ours, since others may
    /// wait for what they give back; then those without an address, in the order in which
    /// they were created.
    pub fn turn(&self, key: &Key) -> i64 {
        match self.get(key) {
            Some(service) if self.rule.scope(&service) == Scope::Ours => {
                if status::shown(&service).is_empty() {
                    created(&service)
                } else {
                    i64::MAX
                }
            }
            Some(_) | None => i64::MIN,
        }
    }

    /// The keys of the Services of ours in one namespace.
    pub fn ours_in(&self, namespace: &str) -> Vec<Key> {
        let first = Key {
            namespace: namespace.to_owned(),
            name: String::new(),
        };
        let state = self.state.lock();
        let from_there = state.services.range(first..);
        from_there
            .take_while(|(key, _)| key.namespace == namespace)
            .filter(|(_, service)| self.rule.scope(service) == Scope::Ours)
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// The Services that want an address, of whatever class, in the order of keys.
    pub fn wanting(&self) -> Vec<Arc<Service>> {
        let state = self.state.lock();
        let wants = |s: &&Arc<Service>| self.rule.scope(s) != Scope::OtherType;
        state.services.values().filter(wants).cloned().collect()
    }

    /// All that are kept, also those of which only our condition is to be removed.
    pub fn all(&self) -> Vec<Arc<Service>> {
        self.state.lock().services.values().cloned().collect()
    }

    /// A watch event. Says whether it is news: the answer to our own write comes
    /// back as an event too.
    pub fn apply(&self, service: Service) -> bool {
        self.state.lock().put(&self.rule, service)
    }

    /// A watch event: the Service is gone.
    pub fn delete(&self, key: &Key) {
        self.state.lock().services.remove(key);
    }

    /// The answer to our own write. The watch may have told something newer, or
    /// that the Service is gone.
    pub fn written(&self, service: Service) {
        let key = Key::of(&service);
        let mut state = self.state.lock();
        let known = state.services.get(&key);
        if known.is_some_and(|known| known.uid() == service.uid()) {
            state.put(&self.rule, service);
            state.written.insert(key);
        }
    }

    /// A list begins. What was news in one that broke off before is news still: this
    /// one brings the same again.
    pub fn list_begins(&self) {
        let mut state = self.state.lock();
        state.listed.clear();
        state.written.clear();
    }

    /// One Service of a list. It counts also with a lower version: an API server that was
    /// restored from a backup counts on from there. What we wrote since the list began may
    /// be newer than the list.
    pub fn listed(&self, service: Service) {
        let key = Key::of(&service);
        let mut state = self.state.lock();
        if !state.written.contains(&key) {
            let known = state.services.get(&key);
            let other = |known: &Arc<Service>| {
                known.uid() != service.uid()
                    || known.resource_version() != service.resource_version()
            };
            if known.is_some_and(other) {
                state.services.remove(&key);
                state.changed.insert(key.clone());
            }
        }
        if state.put(&self.rule, service) {
            state.changed.insert(key.clone());
        }
        state.listed.insert(key);
    }

    /// The list was complete: what it did not name is gone.
    pub fn list_ends(&self) -> ListNews {
        let mut state = self.state.lock();
        let listed = std::mem::take(&mut state.listed);
        state.written.clear();
        let changed = std::mem::take(&mut state.changed);
        let gone = state
            .services
            .extract_if(.., |key, _| !listed.contains(key));
        let gone = gone.map(|(_, service)| service).collect();
        ListNews { changed, gone }
    }
}

/// What a complete list told that was not known.
#[derive(Debug)]
pub struct ListNews {
    /// Services that are new or changed.
    pub changed: BTreeSet<Key>,
    /// Services that vanished.
    pub gone: Vec<Arc<Service>>,
}

impl State {
    fn put(&mut self, rule: &ClassRule, service: Service) -> bool {
        let key = Key::of(&service);
        let known = self.services.get(&key);
        if known.is_some_and(|known| !is_newer(&service, known)) {
            return false;
        }
        let matters =
            rule.scope(&service) != Scope::OtherType || status::condition(&service).is_some();
        if matters {
            self.services.insert(key, Arc::new(service));
        } else {
            return self.services.remove(&key).is_some();
        }
        true
    }
}

/// Versions of one object are numbers that grow. A version that is no number, or
/// another uid, counts as newer.
fn is_newer(service: &Service, known: &Service) -> bool {
    let version = |s: &Service| s.resource_version()?.parse::<u64>().ok();
    match (version(service), version(known)) {
        (Some(new), Some(old)) if service.uid() == known.uid() => new > old,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(name: &str, uid: &str, version: u32, type_: &str) -> Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": name, "uid": uid,
                         "resourceVersion": version.to_string()},
            "spec": {"type": type_},
        }))
        .unwrap()
    }

    fn lb(name: &str, uid: &str, version: u32) -> Service {
        service(name, uid, version, "LoadBalancer")
    }

    fn key(name: &str) -> Key {
        Key {
            namespace: "ns".into(),
            name: name.into(),
        }
    }

    fn store() -> ServiceStore {
        ServiceStore::new(ClassRule::new(None, false))
    }

    #[test]
    fn an_event_that_the_store_has_seen_already_is_no_news() {
        let store = store();
        assert!(store.apply(lb("a", "u1", 5)));
        assert!(!store.apply(lb("a", "u1", 5)));
        assert!(!store.apply(lb("a", "u1", 4)));
        assert!(store.apply(lb("a", "u1", 6)));
        assert!(store.apply(lb("a", "u2", 3)), "created again");
    }

    #[test]
    fn our_own_write_neither_revives_a_service_nor_overtakes_a_newer_event() {
        let store = store();
        store.written(lb("a", "u1", 5));
        assert_eq!(store.get(&key("a")), None);
        store.apply(lb("a", "u1", 7));
        store.written(lb("a", "u1", 6));
        store.written(lb("a", "u0", 9));
        assert_eq!(
            store.get(&key("a")).unwrap().resource_version().unwrap(),
            "7"
        );
        store.written(lb("a", "u1", 8));
        assert!(!store.apply(lb("a", "u1", 8)), "its echo");
    }

    #[test]
    fn services_that_never_concern_us_are_not_kept_and_ones_that_leave_are_news() {
        let store = store();
        assert!(!store.apply(service("a", "u1", 1, "ClusterIP")));
        assert!(store.apply(lb("a", "u1", 2)));
        assert!(store.apply(service("a", "u1", 3, "ClusterIP")));
        assert_eq!(store.get(&key("a")), None);
    }

    #[test]
    fn a_list_tells_what_changed_and_what_vanished() {
        let store = store();
        for name in ["same", "edited", "gone"] {
            store.apply(lb(name, "u", 1));
        }
        store.list_begins();
        store.listed(lb("same", "u", 1));
        store.listed(lb("edited", "u", 2));
        store.listed(lb("new", "u", 3));
        let ListNews { changed, gone } = store.list_ends();
        let mut changed: Vec<_> = changed.into_iter().map(|key| key.name).collect();
        changed.sort();
        assert_eq!(changed, ["edited", "new"]);
        let gone: Vec<_> = gone.iter().map(|service| Key::of(service).name).collect();
        assert_eq!(gone, ["gone"]);
        assert_eq!(store.wanting().len(), 3);
    }

    #[test]
    fn a_list_of_an_api_server_that_was_restored_from_a_backup_counts_though_it_is_older() {
        let store = store();
        for name in ["kept", "changed", "later"] {
            store.apply(lb(name, "u", 429));
        }
        store.apply(lb("old", "u", 100));
        assert!(!store.apply(lb("changed", "u", 238)), "a late event");
        store.list_begins();
        store.listed(lb("old", "u", 100));
        store.listed(lb("kept", "u", 230));
        store.listed(service("changed", "u", 238, "ClusterIP"));
        let ListNews { changed, gone } = store.list_ends();
        assert_eq!(changed, BTreeSet::from([key("changed"), key("kept")]));
        assert_eq!(gone.len(), 1, "{gone:?}");
        assert_eq!(store.get(&key("changed")), None);
        assert!(store.apply(lb("kept", "u", 240)), "it counts on from there");
    }

    #[test]
    fn what_was_written_while_a_list_was_read_is_not_undone_by_it() {
        let store = store();
        store.apply(lb("a", "u", 5));
        store.list_begins();
        store.written(lb("a", "u", 7));
        store.listed(lb("a", "u", 5));
        assert!(store.list_ends().changed.is_empty());
        assert_eq!(
            store.get(&key("a")).unwrap().resource_version().unwrap(),
            "7"
        );
    }

    #[test]
    fn who_gives_something_back_comes_first_and_who_has_an_address_last() {
        let store = store();
        let created = |name: &str, second: u32, address: Option<&str>| {
            let mut service: Service = lb(name, "u", 1);
            let status = address.map(|ip| json!({"loadBalancer": {"ingress": [{"ip": ip}]}}));
            service.status = status.map(|status| serde_json::from_value(status).unwrap());
            let at = format!("2026-01-01T00:00:{second:02}Z");
            service.metadata.creation_timestamp = serde_json::from_value(json!(at)).unwrap();
            store.apply(service);
        };
        created("has", 1, Some("192.0.2.1"));
        created("new", 3, None);
        created("old", 2, None);
        let mut names = ["has", "new", "gone", "old"];
        names.sort_by_key(|name| store.turn(&key(name)));
        assert_eq!(names, ["gone", "old", "new", "has"]);
    }

    #[test]
    fn a_namespace_has_its_own_services_and_no_others() {
        let store = store();
        let of = |namespace: &str, name: &str, type_: &str| {
            let mut service = service(name, "u", 1, type_);
            service.metadata.namespace = Some(namespace.into());
            store.apply(service);
        };
        of("a", "z", "LoadBalancer");
        of("ns", "a", "LoadBalancer");
        of("ns", "b", "ClusterIP");
        of("ns", "c", "LoadBalancer");
        of("ns-2", "a", "LoadBalancer");
        assert_eq!(store.ours_in("ns"), [key("a"), key("c")]);
        assert!(store.ours_in("nothing").is_empty());
    }

    #[test]
    fn a_list_that_broke_off_removes_nothing_and_what_it_brought_is_told_with_the_next() {
        let store = store();
        store.apply(lb("a", "u", 1));
        store.list_begins();
        store.listed(lb("b", "u", 2));
        store.list_begins();
        store.listed(lb("a", "u", 1));
        store.listed(lb("b", "u", 2));
        let ListNews { changed, gone } = store.list_ends();
        assert_eq!(changed, BTreeSet::from([key("b")]));
        assert!(gone.is_empty());
    }
}

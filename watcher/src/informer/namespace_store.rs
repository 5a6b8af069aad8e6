//! The labels of the cluster's namespaces, as the API server last told.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::request::Labels;

/// Shared by the watch, which fills it, and the workers.
#[derive(Debug, Default)]
pub struct NamespaceStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    namespaces: HashMap<String, Labels>,
    /// While a list is read: what it named, and what of it was news.
    listed: HashSet<String>,
    changed: HashSet<String>,
}

impl NamespaceStore {
    /// The labels of a namespace; nothing where it is not known, which is another
    /// thing than one without labels.
    pub fn labels(&self, namespace: &str) -> Option<Labels> {
        self.state.lock().namespaces.get(namespace).cloned()
    }

    /// A watch event. Says whether the labels are news.
    pub fn apply(&self, namespace: String, labels: BTreeMap<String, String>) -> bool {
        self.state.lock().put(namespace, labels)
    }

    /// A watch event: the namespace is gone.
    pub fn delete(&self, namespace: &str) {
        self.state.lock().namespaces.remove(namespace);
    }

    /// A list begins. What was news in one that broke off before is news still.
    pub fn list_begins(&self) {
        self.state.lock().listed.clear();
    }

    /// One namespace of a list.
    pub fn listed(&self, namespace: String, labels: BTreeMap<String, String>) {
        let mut state = self.state.lock();
        if state.put(namespace.clone(), labels) {
            state.changed.insert(namespace.clone());
        }
        state.listed.insert(namespace);
    }

    /// The list was complete: what it did not name is gone. Returns the namespaces
    /// whose labels are news.
    pub fn list_ends(&self) -> HashSet<String> {
        let mut state = self.state.lock();
        let listed = std::mem::take(&mut state.listed);
        state.namespaces.retain(|name, _| listed.contains(name));
        std::mem::take(&mut state.changed)
    }
}

impl State {
    fn put(&mut self, namespace: String, labels: BTreeMap<String, String>) -> bool {
        if self
            .namespaces
            .get(&namespace)
            .is_some_and(|known| **known == labels)
        {
            return false;
        }
        self.namespaces.insert(namespace, Arc::new(labels));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(team: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("team".to_owned(), team.to_owned())])
    }

    #[test]
    fn only_other_labels_are_news_and_an_unknown_namespace_is_not_one_without_labels() {
        let store = NamespaceStore::default();
        assert_eq!(store.labels("a"), None);
        assert!(store.apply("a".into(), BTreeMap::new()));
        assert_eq!(store.labels("a"), Some(Labels::default()));
        assert!(!store.apply("a".into(), BTreeMap::new()));
        assert!(store.apply("a".into(), labels("red")));
        assert!(!store.apply("a".into(), labels("red")));
        store.delete("a");
        assert_eq!(store.labels("a"), None);
    }

    #[test]
    fn a_list_tells_whose_labels_changed_and_drops_what_vanished() {
        let store = NamespaceStore::default();
        for name in ["same", "edited", "gone"] {
            store.apply(name.into(), labels("red"));
        }
        store.list_begins();
        store.listed("edited".into(), labels("blue"));
        store.list_begins();
        store.listed("same".into(), labels("red"));
        store.listed("edited".into(), labels("green"));
        store.listed("new".into(), labels("red"));
        let changed = store.list_ends();
        assert_eq!(changed, HashSet::from(["edited".into(), "new".into()]));
        assert_eq!(store.labels("gone"), None);
        assert_eq!(store.labels("edited").as_deref(), Some(&labels("green")));
    }
}

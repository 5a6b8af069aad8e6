//! Labels and selectors, as Kubernetes means them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::pools::PoolSpec;

/// Labels of one object.
pub type LabelMap = BTreeMap<String, String>;

/// Labels of a Service and of the namespace it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels {
    pub service: LabelMap,
    pub namespace: LabelMap,
}

impl Labels {
    pub fn is_empty(&self) -> bool {
        self.service.is_empty() && self.namespace.is_empty()
    }
}

/// A `LabelSelector` of `meta/v1`: every requirement must hold; none at all
/// selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(pub Vec<Requirement>);

/// What one label must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    In(String, BTreeSet<String>),
    /// Also holds where the label is missing.
    NotIn(String, BTreeSet<String>),
    Exists(String),
    DoesNotExist(String),
}

/// The keys of labels that selectors of pools name. Labels are a tenant's to write, as many
/// and as often as it likes: what no selector looks at is not kept.
#[derive(Clone, Debug, Default)]
pub struct LabelKeys {
    service: BTreeSet<String>,
    namespace: BTreeSet<String>,
}

impl LabelKeys {
    pub fn add(&mut self, spec: &PoolSpec) {
        let keys = |selector: &Option<Selector>| {
            let requirements = selector.iter().flat_map(|selector| &selector.0);
            requirements
                .map(|requirement| requirement.key().to_owned())
                .collect::<Vec<_>>()
        };
        self.service.extend(keys(&spec.service_selector));
        self.namespace.extend(keys(&spec.namespace_selector));
    }

    /// `None` where nothing is left.
    pub fn only(&self, labels: &Arc<Labels>) -> Option<Arc<Labels>> {
        let named = Labels {
            service: named(&self.service, &labels.service),
            namespace: named(&self.namespace, &labels.namespace),
        };
        if named.is_empty() {
            None
        } else if named == **labels {
            Some(Arc::clone(labels))
        } else {
            Some(Arc::new(named))
        }
    }
}

fn named(keys: &BTreeSet<String>, labels: &LabelMap) -> LabelMap {
    let pairs = keys.iter().filter_map(|key| labels.get_key_value(key));
    pairs
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

impl Requirement {
    fn key(&self) -> &str {
        match self {
            Self::In(key, _)
            | Self::NotIn(key, _)
            | Self::Exists(key)
            | Self::DoesNotExist(key) => key,
        }
    }
}

impl Selector {
    pub fn matches(&self, labels: &LabelMap) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => {
                labels.get(key).is_some_and(|value| values.contains(value))
            }
            Requirement::NotIn(key, values) => {
                labels.get(key).is_none_or(|value| !values.contains(value))
            }
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::DoesNotExist(key) => !labels.contains_key(key),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_hold_as_kubernetes_says() {
        let labels = LabelMap::from([("tier".to_owned(), "web".to_owned())]);
        let values = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let key = |text: &str| text.to_owned();
        for (requirement, holds) in [
            (Requirement::In(key("tier"), values(&["web", "db"])), true),
            (Requirement::In(key("tier"), values(&["db"])), false),
            (Requirement::In(key("other"), values(&["web"])), false),
            (Requirement::NotIn(key("tier"), values(&["web"])), false),
            (Requirement::NotIn(key("tier"), values(&["db"])), true),
            (Requirement::NotIn(key("other"), values(&["web"])), true),
            (Requirement::Exists(key("tier")), true),
            (Requirement::Exists(key("other")), false),
            (Requirement::DoesNotExist(key("tier")), false),
            (Requirement::DoesNotExist(key("other")), true),
        ] {
            assert_eq!(
                Selector(vec![requirement.clone()]).matches(&labels),
                holds,
                "{requirement:?}"
            );
        }
        assert!(Selector::default().matches(&labels));
    }
}

//! Which Services are ours.

use crate::kube::service::Service;

/// Which load balancer classes this watcher serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassRule {
    class: Option<String>,
    unclassed: bool,
}

/// Whose a Service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Of type LoadBalancer and of a class that we serve.
    Ours,
    /// Of type LoadBalancer, and another implementation's.
    OtherClass,
    /// Of another type.
    OtherType,
}

impl ClassRule {
    /// Without a class, exactly the Services that name none. With one, those that
    /// name it, and the ones that name none if `handle_unclassed` says so.
    pub fn new(class: Option<String>, handle_unclassed: bool) -> Self {
        let unclassed = class.is_none() || handle_unclassed;
        Self { class, unclassed }
    }

    /// In words. Watchers of a cluster that serve the same are replicas of each other.
    pub fn serves(&self) -> String {
        match (&self.class, self.unclassed) {
            (None, _) => "no class".to_owned(),
            (Some(class), false) => format!("class {class}"),
            (Some(class), true) => format!("class {class}, no class"),
        }
    }

    /// Whose this Service is.
    pub fn scope(&self, service: &Service) -> Scope {
        let spec = service.spec.as_ref();
        if spec.and_then(|s| s.type_.as_deref()) != Some("LoadBalancer") {
            return Scope::OtherType;
        }
        let ours = match spec.and_then(|s| s.load_balancer_class.as_deref()) {
            None => self.unclassed,
            class => class == self.class.as_deref(),
        };
        if ours { Scope::Ours } else { Scope::OtherClass }
    }

    /// Whether the Service names our class, so that no other implementation can
    /// claim it.
    pub fn names_us(&self, service: &Service) -> bool {
        let class = service
            .spec
            .as_ref()
            .and_then(|s| s.load_balancer_class.as_deref());
        class.is_some() && class == self.class.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(type_: &str, class: Option<&str>) -> Service {
        serde_json::from_value(json!({"spec": {"type": type_, "loadBalancerClass": class}}))
            .unwrap()
    }

    #[test]
    fn the_class_rule_decides_whose_a_service_is() {
        use Scope::{OtherClass, OtherType, Ours};
        let none = ClassRule::new(None, false);
        let own = ClassRule::new(Some("example.org/a".into()), false);
        let both = ClassRule::new(Some("example.org/a".into()), true);
        for (class, by_none, by_own, by_both) in [
            (None, Ours, OtherClass, Ours),
            (Some("example.org/a"), OtherClass, Ours, Ours),
            (Some("example.org/b"), OtherClass, OtherClass, OtherClass),
        ] {
            let lb = service("LoadBalancer", class);
            assert_eq!(none.scope(&lb), by_none, "no class set, {class:?}");
            assert_eq!(own.scope(&lb), by_own, "class set, {class:?}");
            assert_eq!(both.scope(&lb), by_both, "class and unclassed, {class:?}");
            assert_eq!(both.scope(&service("ClusterIP", class)), OtherType);
        }
        assert_eq!(none.scope(&Service::default()), OtherType);
    }

    #[test]
    fn only_a_service_that_names_our_class_is_ours_beyond_doubt() {
        let rule = ClassRule::new(Some("example.org/a".into()), true);
        assert!(rule.names_us(&service("LoadBalancer", Some("example.org/a"))));
        assert!(!rule.names_us(&service("LoadBalancer", None)));
        assert!(!ClassRule::new(None, false).names_us(&service("LoadBalancer", None)));
    }
}

//! A Service as it is seen in its cluster.

use std::{collections::BTreeSet, fmt, net::IpAddr, time::Duration};

use integration_tests::namespace::{addresses, condition};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use lb_proto::v1::ServiceKey;

/// When a user asked for its creation, in milliseconds since the soak began.
pub const CREATED: &str = "soak.lb-allocator.io/created";
/// How often users changed it.
pub const EDITS: &str = "soak.lb-allocator.io/edits";
pub const IPS: &str = "lb-allocator.io/ips";
pub const SHARING_KEY: &str = "lb-allocator.io/sharing-key";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub cluster: String,
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn of(cluster: &str, service: &Service) -> Self {
        Self {
            cluster: cluster.to_owned(),
            namespace: service.namespace().unwrap_or_default(),
            name: service.name_any(),
        }
    }
}

impl From<ServiceKey> for Key {
    fn from(key: ServiceKey) -> Self {
        let ServiceKey {
            cluster,
            namespace,
            name,
        } = key;
        Self {
            cluster,
            namespace,
            name,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.cluster, self.namespace, self.name)
    }
}

#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub uid: String,
    /// Whether it wants addresses.
    pub balanced: bool,
    pub shown: BTreeSet<IpAddr>,
    pub created: Duration,
    /// Whether a user changed it or asked for an address: it may move.
    pub may_move: bool,
    pub asked: Option<IpAddr>,
    pub sharing_key: Option<String>,
    pub ports: BTreeSet<i32>,
    /// Whether it wants IPv4, for each address that it wants.
    pub families: Vec<bool>,
    pub needs_all_families: bool,
    /// What it was told, if anything.
    pub told: Option<String>,
}

impl Seen {
    pub fn of(service: &Service) -> Self {
        let spec = service.spec.clone().unwrap_or_default();
        let annotation = |name| service.annotations().get(name).cloned();
        let shown = addresses(service);
        let families = spec.ip_families.unwrap_or_default();
        let created = annotation(CREATED).and_then(|millis| millis.parse().ok());
        let ports = spec.ports.unwrap_or_default();
        let asked = annotation(IPS);
        Self {
            uid: service.uid().unwrap_or_default(),
            balanced: spec.type_.as_deref() == Some("LoadBalancer"),
            shown: shown.iter().filter_map(|ip| ip.parse().ok()).collect(),
            created: Duration::from_millis(created.unwrap_or_default()),
            may_move: asked.is_some() || annotation(EDITS).is_some(),
            asked: asked.and_then(|address| address.parse().ok()),
            sharing_key: annotation(SHARING_KEY),
            ports: ports.into_iter().map(|port| port.port).collect(),
            families: families.iter().map(|family| family == "IPv4").collect(),
            needs_all_families: spec.ip_family_policy.as_deref() == Some("RequireDualStack"),
            told: condition(service).map(|it| format!("{}: {}", it.reason, it.message)),
        }
    }

    /// Whether it asked to share addresses with another one of its cluster.
    pub fn shares_with(&self, other: &Self) -> bool {
        self.sharing_key.is_some() && self.sharing_key == other.sharing_key
    }

    /// Whether it has everything that it may ever wait for.
    pub fn is_served(&self) -> bool {
        self.shown.len() == self.families.len()
    }
}

//! Service objects, built up from what a test cares about.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use kube::core::ObjectMeta;

/// A Service under construction.
#[derive(Debug, Clone)]
pub struct ServiceBuilder(Service);

/// A `type: LoadBalancer` Service with one port.
#[must_use]
pub fn service(name: &str) -> ServiceBuilder {
    let port = ServicePort {
        port: 80,
        ..Default::default()
    };
    let spec = ServiceSpec {
        type_: Some("LoadBalancer".to_owned()),
        ports: Some(vec![port]),
        // Thousands of Services would run out of node ports, and no test needs one.
        allocate_load_balancer_node_ports: Some(false),
        ..Default::default()
    };
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        ..Default::default()
    };
    ServiceBuilder(Service {
        metadata,
        spec: Some(spec),
        status: None,
    })
}

impl ServiceBuilder {
    fn spec(mut self, change: impl FnOnce(&mut ServiceSpec)) -> Self {
        change(self.0.spec.get_or_insert_default());
        self
    }

    /// `spec.type`. What only a LoadBalancer may have goes with it.
    #[must_use]
    pub fn kind(self, kind: &str) -> Self {
        self.spec(|spec| {
            spec.type_ = Some(kind.to_owned());
            if kind != "LoadBalancer" {
                spec.allocate_load_balancer_node_ports = None;
            }
        })
    }

    /// The one port it has.
    #[must_use]
    pub fn port(self, port: i32) -> Self {
        self.spec(|spec| {
            let port = ServicePort {
                port,
                ..Default::default()
            };
            spec.ports = Some(vec![port]);
        })
    }

    /// Its ports: protocol and number.
    #[must_use]
    pub fn ports(self, ports: &[(&str, i32)]) -> Self {
        let port = |(protocol, port): &(&str, i32)| ServicePort {
            name: Some(format!("{}-{port}", protocol.to_lowercase())),
            protocol: Some((*protocol).to_owned()),
            port: *port,
            ..Default::default()
        };
        self.spec(|spec| spec.ports = Some(ports.iter().map(port).collect()))
    }

    /// `spec.externalTrafficPolicy`.
    #[must_use]
    pub fn traffic_policy(self, policy: &str) -> Self {
        self.spec(|spec| spec.external_traffic_policy = Some(policy.to_owned()))
    }

    /// `spec.selector`, one label of it.
    #[must_use]
    pub fn selector(self, name: &str, value: &str) -> Self {
        self.spec(|spec| {
            let selector = spec.selector.get_or_insert_default();
            selector.insert(name.to_owned(), value.to_owned());
        })
    }

    /// A label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        let labels = self.0.metadata.labels.get_or_insert_default();
        labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// `spec.loadBalancerClass`.
    #[must_use]
    pub fn class(self, class: &str) -> Self {
        self.spec(|spec| spec.load_balancer_class = Some(class.to_owned()))
    }

    /// `spec.loadBalancerIP`.
    #[must_use]
    pub fn load_balancer_ip(self, ip: &str) -> Self {
        self.spec(|spec| spec.load_balancer_ip = Some(ip.to_owned()))
    }

    /// `spec.ipFamilyPolicy` and `spec.ipFamilies`.
    #[must_use]
    pub fn families(self, policy: &str, families: &[&str]) -> Self {
        self.spec(|spec| {
            spec.ip_family_policy = Some(policy.to_owned());
            spec.ip_families = Some(families.iter().map(|family| (*family).to_owned()).collect());
        })
    }

    /// An annotation.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.0
            .metadata
            .annotations
            .get_or_insert_default()
            .insert(name.to_owned(), value.to_owned());
        self
    }

    /// The annotation `lb-allocator.io/ips`.
    #[must_use]
    pub fn ips(self, ips: &str) -> Self {
        self.annotation("lb-allocator.io/ips", ips)
    }

    #[must_use]
    pub fn build(self) -> Service {
        self.0
    }
}

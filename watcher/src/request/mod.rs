//! What a Service asks for: read once from the object, validated, in the words of
//! the contract. Pure.

pub mod claim;
pub mod names;
pub mod scope;
pub mod sharing;
mod size;

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use kube::ResourceExt;
use lb_proto::v1;

use self::{names::is_subdomain, sharing::Sharing};
use crate::{
    denial::{Denial, Reason},
    excerpt,
    kube::{
        annotations::{IPS, POOL, Peer, Said, said},
        service::{Service, ServicePort, ServiceSpec},
    },
};

/// Labels of one namespace.
pub type Labels = Arc<BTreeMap<String, String>>;

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address in canonical form.
    pub fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "IPv4" => Some(Self::V4),
            "IPv6" => Some(Self::V6),
            _ => None,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl From<Family> for v1::IpFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::Ipv4,
            Family::V6 => Self::Ipv6,
        }
    }
}

/// What a Service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRequest {
    /// One address each, in this order.
    pub families: Vec<Family>,
    policy: v1::IpFamilyPolicy,
    /// In the order of `families`.
    addresses: Vec<IpAddr>,
    pool: Option<String>,
    cluster_ip: Option<IpAddr>,
    ports: Vec<(v1::Protocol, u32)>,
    traffic_policy: v1::ExternalTrafficPolicy,
    selector: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    namespace_labels: Labels,
    sharing: Option<Sharing>,
}

/// A Service as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedRequest {
    /// What it asks for, without what cannot be granted as it is written.
    pub request: AddressRequest,
    /// What cannot.
    pub denial: Option<Denial>,
    /// Whether it may be asked for where the Service holds something. Without
    /// the terms on which it shares an address, it would lose it.
    pub askable: bool,
}

impl AddressRequest {
    /// Without all that can be long.
    fn keep_the_least(&mut self) {
        self.ports.clear();
        self.selector.clear();
        self.labels.clear();
        self.namespace_labels = Labels::default();
        self.sharing = None;
    }

    /// The same for exactly these addresses, from whatever pool; nothing where they are
    /// not at most one of each of its families.
    pub fn claim(&self, addresses: &[IpAddr]) -> Option<Self> {
        let families: Vec<_> = addresses.iter().map(Family::of).collect();
        let policy = match families.as_slice() {
            [_] => v1::IpFamilyPolicy::SingleStack,
            [one, other] if one != other => v1::IpFamilyPolicy::RequireDualStack,
            _ => return None,
        };
        let known = families.iter().all(|family| self.families.contains(family));
        known.then(|| Self {
            families,
            policy,
            addresses: addresses.to_vec(),
            pool: None,
            ..self.clone()
        })
    }

    /// In the words of the contract, with the addresses that the status shows.
    pub fn message(&self, shown: &[IpAddr]) -> v1::Wish {
        v1::Wish {
            families: self
                .families
                .iter()
                .map(|family| v1::IpFamily::from(*family).into())
                .collect(),
            ip_family_policy: self.policy.into(),
            addresses: self.addresses.iter().map(IpAddr::to_string).collect(),
            pool: self.pool.clone().unwrap_or_default(),
            current_addresses: current_addresses(shown),
            cluster_ip: self.cluster_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            ports: self
                .ports
                .iter()
                .map(|(protocol, port)| v1::ServicePort {
                    protocol: (*protocol).into(),
                    port: *port,
                })
                .collect(),
            external_traffic_policy: self.traffic_policy.into(),
            selector: self.selector.clone().into_iter().collect(),
            service_labels: self.labels.clone().into_iter().collect(),
            namespace_labels: self.namespace_labels.as_ref().clone().into_iter().collect(),
            sharing: self.sharing.as_ref().map(Sharing::message),
        }
    }
}

/// Reads a Service of ours, in a namespace of these labels. The annotations of
/// `peers` count where our own are missing.
pub fn read(service: &Service, peers: &[Peer], namespace_labels: &Labels) -> ParsedRequest {
    let default = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&default);
    let families = families(spec);
    let addresses = requested(service, peers, spec, &families);
    let pool = said(service.annotations(), peers, &POOL, pool);
    let sharing = sharing::read(service, peers);
    let too_large = size::check(service, namespace_labels).err();
    let askable = sharing.is_ok() && too_large.is_none();
    let denials = [
        too_large.as_ref(),
        addresses.as_ref().err(),
        pool.as_ref().err(),
        sharing.as_ref().err(),
    ];
    let denial = denials.into_iter().flatten().next().cloned();
    let mut request = AddressRequest {
        policy: policy(spec),
        addresses: addresses.unwrap_or_default(),
        pool: pool.ok().flatten().map(|said| said.value),
        cluster_ip: spec.cluster_ip.as_deref().and_then(parse_address),
        ports: spec.ports.iter().flatten().map(port).collect(),
        traffic_policy: traffic_policy(spec),
        selector: spec.selector.clone().unwrap_or_default(),
        labels: service.labels().clone(),
        namespace_labels: namespace_labels.clone(),
        sharing: sharing.ok().flatten(),
        families,
    };
    if too_large.is_some() {
        request.keep_the_least();
    }
    ParsedRequest {
        request,
        denial,
        askable,
    }
}

/// The addresses that a status shows, in the form of the contract.
pub fn current_addresses(shown: &[IpAddr]) -> Vec<String> {
    /// As many as the contract takes.
    const LIMIT: usize = 16;
    let shown = shown.iter().take(LIMIT);
    shown.map(IpAddr::to_string).collect()
}

/// An address in canonical form, or nothing.
pub fn parse_address(text: &str) -> Option<IpAddr> {
    text.trim()
        .parse::<IpAddr>()
        .ok()
        .map(|ip| ip.to_canonical())
}

/// `spec.ipFamilies`, or what the cluster IPs say where an old API server left it
/// out.
fn families(spec: &ServiceSpec) -> Vec<Family> {
    let named: Vec<Family> = spec
        .ip_families
        .iter()
        .flatten()
        .filter_map(|family| Family::parse(family))
        .collect();
    if !named.is_empty() {
        return named;
    }
    let listed = spec.cluster_ips.iter().flatten();
    let ips: Vec<&String> = match &spec.cluster_ips {
        Some(ips) if !ips.is_empty() => listed.collect(),
        _ => spec.cluster_ip.iter().collect(),
    };
    ips.into_iter()
        .filter_map(|ip| parse_address(ip))
        .map(|ip| Family::of(&ip))
        .collect()
}

fn policy(spec: &ServiceSpec) -> v1::IpFamilyPolicy {
    match spec.ip_family_policy.as_deref() {
        Some("PreferDualStack") => v1::IpFamilyPolicy::PreferDualStack,
        Some("RequireDualStack") => v1::IpFamilyPolicy::RequireDualStack,
        _ => v1::IpFamilyPolicy::SingleStack,
    }
}

fn traffic_policy(spec: &ServiceSpec) -> v1::ExternalTrafficPolicy {
    match spec.external_traffic_policy.as_deref() {
        Some("Local") => v1::ExternalTrafficPolicy::Local,
        _ => v1::ExternalTrafficPolicy::Cluster,
    }
}

fn port(port: &ServicePort) -> (v1::Protocol, u32) {
    let protocol = match port.protocol.as_deref() {
        Some("UDP") => v1::Protocol::Udp,
        Some("SCTP") => v1::Protocol::Sctp,
        _ => v1::Protocol::Tcp,
    };
    (protocol, u32::try_from(port.port).unwrap_or_default())
}

/// The addresses asked for, in the order of the families.
fn requested(
    service: &Service,
    peers: &[Peer],
    spec: &ServiceSpec,
    families: &[Family],
) -> Result<Vec<IpAddr>, Denial> {
    let invalid = |message: String| Denial::new(Reason::InvalidRequest, message);
    if families.is_empty() {
        return Err(invalid("the Service has no IP family yet".into()));
    }
    let listed = said(service.annotations(), peers, &IPS, parse_list)?;
    let field = spec.load_balancer_ip.as_deref().map(str::trim);
    let field = match field.filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(parse_address(text).ok_or_else(|| {
            invalid(format!(
                "spec.loadBalancerIP: {} is not an IP address",
                excerpt::quote(text)
            ))
        })?),
    };
    let addresses = match (listed, field) {
        (None, field) => field.into_iter().collect(),
        (Some(Said { by, value }), Some(field)) if !value.contains(&field) => {
            return Err(Denial::new(
                Reason::ConflictingRequest,
                format_args!(
                    "spec.loadBalancerIP asks for {field}, and the annotation {by} for {}",
                    join(&value)
                ),
            ));
        }
        (Some(Said { value, .. }), _) => value,
    };
    if let Some(address) = addresses
        .iter()
        .find(|address| !families.contains(&Family::of(address)))
    {
        return Err(invalid(format!(
            "it asks for {address}, but spec.ipFamilies has no {}",
            Family::of(address)
        )));
    }
    Ok(families
        .iter()
        .filter_map(|family| addresses.iter().find(|ip| Family::of(ip) == *family))
        .copied()
        .collect())
}

/// The name of a pool.
fn pool(annotation: &'static str, name: &str) -> Result<String, Denial> {
    if is_subdomain(name) {
        return Ok(name.to_owned());
    }
    Err(Denial::new(
        Reason::InvalidRequest,
        format_args!(
            "annotation {annotation}: {} is not the name of a pool: lower case letters, digits, \
             '-' and '.', at most 253 characters, each part beginning and ending with a letter or \
             digit",
            excerpt::quote(name)
        ),
    ))
}

/// The addresses of an annotation, in the order of their families: how they were
/// ordered means nothing.
fn parse_list(name: &'static str, list: &str) -> Result<Vec<IpAddr>, Denial> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for item in list.split(',').map(str::trim) {
        let refuse = |what: &str| {
            Denial::new(
                Reason::InvalidRequest,
                format_args!("annotation {name}: {what}"),
            )
        };
        let address = parse_address(item)
            .ok_or_else(|| refuse(&format!("{} is not an IP address", excerpt::quote(item))))?;
        let family = Family::of(&address);
        if addresses.iter().any(|other| Family::of(other) == family) {
            return Err(refuse(&format!("more than one {family} address")));
        }
        addresses.push(address);
    }
    addresses.sort();
    Ok(addresses)
}

/// Addresses as a comma list.
pub fn join(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value, annotations: Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "svc", "namespace": "ns", "annotations": annotations},
            "spec": spec,
        }))
        .unwrap()
    }

    fn read_own(service: &Service) -> ParsedRequest {
        read(service, &[], &Labels::default())
    }

    fn request(families: &[&str], ips: Option<&str>, field: Option<&str>) -> ParsedRequest {
        read_own(&service(
            json!({"type": "LoadBalancer", "ipFamilies": families, "loadBalancerIP": field}),
            ips.map_or(json!({}), |ips| json!({IPS.own: ips})),
        ))
    }

    #[test]
    fn requested_addresses_are_read_from_annotation_and_field() {
        let both = ["IPv4", "IPv6"];
        for (families, ips, field, expected) in [
            (&both[..1], None, None, vec![]),
            (&both[..1], Some(" "), Some(""), vec![]),
            (&both[..1], Some("192.0.2.1"), None, vec!["192.0.2.1"]),
            (&both[..1], None, Some("192.0.2.1"), vec!["192.0.2.1"]),
            (
                &both[..1],
                Some("192.0.2.1"),
                Some("192.0.2.1"),
                vec!["192.0.2.1"],
            ),
            (
                &both[..1],
                Some("::ffff:192.0.2.1"),
                None,
                vec!["192.0.2.1"],
            ),
            (
                &both,
                Some("2001:DB8::0:1 , 192.0.2.1"),
                None,
                vec!["192.0.2.1", "2001:db8::1"],
            ),
            (&both, Some("2001:db8::1"), None, vec!["2001:db8::1"]),
            (
                &both,
                Some("2001:db8::1,192.0.2.1"),
                Some("192.0.2.1"),
                vec!["192.0.2.1", "2001:db8::1"],
            ),
        ] {
            let reading = request(families, ips, field);
            assert_eq!(reading.denial, None, "{ips:?} {field:?}");
            assert_eq!(
                reading.request.message(&[]).addresses,
                expected,
                "{ips:?} {field:?}"
            );
        }
    }

    #[test]
    fn a_request_that_cannot_be_read_is_refused_and_left_out_of_the_request() {
        let both = ["IPv4", "IPv6"];
        for (families, ips, field, reason, words) in [
            (
                &both[..1],
                Some("nonsense"),
                None,
                Reason::InvalidRequest,
                "\"nonsense\"",
            ),
            (
                &both[..1],
                Some("192.0.2.1,"),
                None,
                Reason::InvalidRequest,
                "\"\"",
            ),
            (
                &both[..1],
                Some("192.0.2.01"),
                None,
                Reason::InvalidRequest,
                "192.0.2.01",
            ),
            (
                &both[..1],
                Some("192.0.2.0/24"),
                None,
                Reason::InvalidRequest,
                "192.0.2.0/24",
            ),
            (
                &both,
                Some("192.0.2.1,192.0.2.2"),
                None,
                Reason::InvalidRequest,
                "more than one IPv4",
            ),
            (
                &both[..1],
                Some("2001:db8::1"),
                None,
                Reason::InvalidRequest,
                "has no IPv6",
            ),
            (
                &both[..1],
                None,
                Some("nonsense"),
                Reason::InvalidRequest,
                "spec.loadBalancerIP",
            ),
            (
                &both[..1],
                Some("192.0.2.1"),
                Some("192.0.2.2"),
                Reason::ConflictingRequest,
                "192.0.2.2",
            ),
            (&[], None, None, Reason::InvalidRequest, "no IP family"),
        ] {
            let reading = request(families, ips, field);
            let denial = reading.denial.unwrap();
            assert_eq!(denial.reason, reason.as_str(), "{ips:?} {field:?}");
            assert!(denial.message.contains(words), "{}", denial.message);
            assert!(reading.request.message(&[]).addresses.is_empty());
        }
    }

    #[test]
    fn a_request_of_200_kilobytes_is_refused_in_few_words() {
        let long = "x".repeat(200_000);
        for (annotation, text) in [
            (IPS.own, long.clone()),
            (IPS.own, vec!["192.0.2.1"; 20_000].join(",")),
            (POOL.own, long.clone()),
            ("lb-allocator.io/sharing-key", long.clone()),
            ("lb-allocator.io/sharing-namespaces", long.clone()),
        ] {
            let spec = json!({"ipFamilies": ["IPv4"]});
            let service = service(
                spec,
                json!({annotation: text, "lb-allocator.io/sharing-key": "k"}),
            );
            let mut service = service;
            service.annotations_mut().insert(annotation.into(), text);
            let denial = read_own(&service).denial.unwrap();
            assert_eq!(denial.reason, "INVALID_REQUEST");
            let words = &denial.message;
            assert!(words.len() < 400 && words.contains(annotation), "{words}");
        }
    }

    #[test]
    fn a_name_that_no_pool_can_have_is_refused_by_the_name_of_its_annotation() {
        for name in ["My_Pool", "-a", "a..b", "Über", &"a".repeat(254)] {
            let reading = read_own(&service(
                json!({"ipFamilies": ["IPv4"]}),
                json!({POOL.own: name}),
            ));
            let denial = reading.denial.unwrap();
            assert_eq!(denial.reason, "INVALID_REQUEST", "{name}");
            let message = denial.message;
            assert!(
                message.starts_with("annotation lb-allocator.io/pool: \""),
                "{message}"
            );
            assert!(reading.askable);
            assert_eq!(reading.request.message(&[]).pool, "");
        }
    }

    #[test]
    fn a_claim_is_for_exactly_the_addresses_that_are_shown_from_whatever_pool() {
        let spec = json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "PreferDualStack"});
        let asks = json!({IPS.own: "192.0.2.9", POOL.own: "p"});
        let asked = read_own(&service(spec, asks)).request;
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (four, six) = (ip("192.0.2.1"), ip("2001:db8::1"));
        let claim = asked.claim(&[four]).unwrap().message(&[]);
        assert_eq!(claim.addresses, ["192.0.2.1"]);
        assert_eq!(claim.pool, "");
        assert_eq!(claim.families, [i32::from(v1::IpFamily::Ipv4)]);
        let both = asked.claim(&[six, four]).unwrap();
        assert_eq!(both.families, [Family::V6, Family::V4]);
        for shown in [
            &[][..],
            &[four, ip("192.0.2.2")],
            &[four, six, ip("192.0.2.3")],
        ] {
            assert_eq!(asked.claim(shown), None, "{shown:?}");
        }
        let single = read_own(&service(json!({"ipFamilies": ["IPv4"]}), json!({}))).request;
        assert_eq!(single.claim(&[six]), None);
    }

    #[test]
    fn families_come_from_the_spec_or_from_the_cluster_ips() {
        use Family::{V4, V6};
        for (spec, expected) in [
            (json!({"ipFamilies": ["IPv6", "IPv4"]}), vec![V6, V4]),
            (json!({"clusterIPs": ["10.0.0.1", "fd00::1"]}), vec![V4, V6]),
            (json!({"clusterIP": "fd00::1"}), vec![V6]),
            (json!({"clusterIP": "None"}), vec![]),
        ] {
            assert_eq!(
                read_own(&service(spec, json!({}))).request.families,
                expected
            );
        }
    }

    #[test]
    fn the_message_says_all_that_rules_may_look_at() {
        let service = service(
            json!({
                "type": "LoadBalancer", "clusterIP": "10.0.0.1",
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "PreferDualStack",
                "externalTrafficPolicy": "Local", "selector": {"app": "web"},
                "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}],
            }),
            json!({POOL.own: " red ", "lb-allocator.io/sharing-key": "web",
                   "lb-allocator.io/sharing-namespaces": "b, a"}),
        );
        let labels = BTreeMap::from([("team".to_owned(), "red".to_owned())]);
        let asked = read(&service, &[], &Labels::new(labels)).request;
        let message = asked.message(&["192.0.2.7".parse().unwrap()]);
        assert_eq!(message.namespace_labels["team"], "red");
        let sharing = message.sharing.clone().unwrap();
        assert_eq!(
            (sharing.key.as_str(), sharing.namespaces.join(",").as_str()),
            ("web", "a,b")
        );
        assert_eq!(message.families, [i32::from(v1::IpFamily::Ipv4)]);
        assert_eq!(
            message.ip_family_policy(),
            v1::IpFamilyPolicy::PreferDualStack
        );
        assert_eq!(message.pool, "red");
        assert_eq!(message.current_addresses, ["192.0.2.7"]);
        assert_eq!(message.cluster_ip, "10.0.0.1");
        assert_eq!(
            message.external_traffic_policy(),
            v1::ExternalTrafficPolicy::Local
        );
        assert_eq!(message.selector["app"], "web");
        let ports: Vec<_> = message
            .ports
            .iter()
            .map(|p| (p.protocol(), p.port))
            .collect();
        assert_eq!(ports, [(v1::Protocol::Tcp, 80), (v1::Protocol::Udp, 53)]);
    }

    #[test]
    fn the_labels_of_the_namespace_are_part_of_the_request() {
        let service = service(json!({"ipFamilies": ["IPv4"]}), json!({}));
        let labels = BTreeMap::from([("team".to_owned(), "red".to_owned())]);
        let red = read(&service, &[], &Labels::new(labels)).request;
        assert_eq!(red.message(&[]).namespace_labels["team"], "red");
    }

    #[test]
    fn annotations_of_peers_are_read_where_they_were_asked_for_and_must_not_contradict() {
        const PEERS: &[Peer] = &[Peer::Metallb, Peer::Cilium, Peer::Purelb, Peer::KubeVip];
        let spec = json!({"ipFamilies": ["IPv4", "IPv6"], "loadBalancerIP": "192.0.2.1"});
        let reading = |annotations: Value, peers| {
            read(
                &service(spec.clone(), annotations),
                peers,
                &Labels::default(),
            )
        };
        let said = json!({
            "metallb.io/loadBalancerIPs": "192.0.2.1,2001:db8::1",
            "lbipam.cilium.io/ips": "2001:DB8::1, 192.0.2.1",
            "kube-vip.io/loadbalancerIPs": "0.0.0.0",
            "purelb.io/service-group": "red",
            "purelb.io/allow-shared-ip": "web",
            "lbipam.cilium.io/sharing-cross-namespace": "*",
        });
        let message = reading(said.clone(), PEERS).request.message(&[]);
        assert_eq!(message.addresses, ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(message.pool, "red");
        let sharing = message.sharing.unwrap();
        assert_eq!(
            (sharing.key.as_str(), &*sharing.namespaces),
            ("web", &["*".to_owned()][..])
        );
        let message = reading(said, &[]).request.message(&[]);
        assert_eq!(
            (message.addresses.len(), &*message.pool, message.sharing),
            (1, "", None)
        );

        for (annotations, reason, words, askable) in [
            (
                json!({"metallb.io/loadBalancerIPs": "192.0.2.1", "purelb.io/addresses": "192.0.2.2"}),
                "CONFLICTING_REQUEST",
                ["metallb.io/loadBalancerIPs", "purelb.io/addresses"],
                true,
            ),
            (
                json!({"purelb.io/addresses": "192.0.2.2"}),
                "CONFLICTING_REQUEST",
                ["spec.loadBalancerIP", "purelb.io/addresses"],
                true,
            ),
            (
                json!({"metallb.universe.tf/address-pool": "a", "purelb.io/service-group": "b"}),
                "CONFLICTING_REQUEST",
                [
                    "metallb.universe.tf/address-pool",
                    "purelb.io/service-group",
                ],
                true,
            ),
            (
                json!({"metallb.io/allow-shared-ip": "a", "lbipam.cilium.io/sharing-key": "b"}),
                "CONFLICTING_REQUEST",
                ["metallb.io/allow-shared-ip", "lbipam.cilium.io/sharing-key"],
                false,
            ),
            (
                json!({"lbipam.cilium.io/ips": "nonsense"}),
                "INVALID_REQUEST",
                ["lbipam.cilium.io/ips", "\"nonsense\""],
                true,
            ),
            (
                json!({"lbipam.cilium.io/sharing-cross-namespace": "*"}),
                "INVALID_REQUEST",
                [
                    "lbipam.cilium.io/sharing-cross-namespace",
                    "lb-allocator.io/sharing-key",
                ],
                false,
            ),
        ] {
            let reading = reading(annotations.clone(), PEERS);
            let denial = reading.denial.unwrap();
            assert_eq!(
                (&*denial.reason, reading.askable),
                (reason, askable),
                "{annotations}"
            );
            assert!(
                words.iter().all(|word| denial.message.contains(word)),
                "{}",
                denial.message
            );
        }
    }
}

//! From messages to commands: everything is checked here, once.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use lb_proto::v1;
use tonic::Status;

use super::fault::{conflicting, invalid, invalid_name};
use crate::{
    config::file::MAX_DURATION,
    engine::{
        Acquire, Backend, Claim, ClusterName, Command, Family, Handover, LabelMap, Labels,
        Namespace, PerFamily, Permitted, Policy, PoolName, Port, Protocol, Release, ReplaceCluster,
        Reserve, Resolve, ServiceKey, ServiceName, SharingKey, Terms, Timestamp, Uid, Winner, Wish,
    },
    streams::Replica,
};

/// Media servers have thousands.
const MAX_PORTS: usize = 10_000;
const MAX_LABELS: usize = 1000;
const MAX_CURRENT: usize = 16;
const MAX_COMMENT: usize = 1000;
const MAX_REPLICA: usize = 128;
const MAX_SERVES: usize = 512;
/// How long a handover may take.
const HANDOVER: Duration = Duration::from_secs(10 * 60);
/// How long what a decommissioned cluster holds is kept.
const DECOMMISSION: Duration = Duration::from_secs(60 * 60);
/// A label's key is a DNS subdomain, '/' and a name.
const MAX_LABEL_KEY: usize = 317;
const MAX_LABEL_VALUE: usize = 63;

/// Who says that a request is its own; `None` where nobody does.
pub fn claim(cluster: &ClusterName, uid: &str) -> Result<Option<Claim>, Status> {
    let uid = optional("cluster_uid", uid, |field, text| {
        Uid::parse(text).map_err(invalid_name(field))
    })?;
    Ok(uid.map(|uid| Claim {
        cluster: cluster.clone(),
        uid,
    }))
}

/// `None` where the caller only listens.
pub fn replica(name: String, serves: String) -> Result<Option<Replica>, Status> {
    printable("replica", &name, MAX_REPLICA)?;
    printable("serves", &serves, MAX_SERVES)?;
    Ok((!name.is_empty()).then_some(Replica { name, serves }))
}

fn printable(field: &str, text: &str, max: usize) -> Result<(), Status> {
    let is_printable = |c: char| c.is_ascii_graphic() || c == ' ';
    if text.len() > max || !text.chars().all(is_printable) {
        let what = format!("has to be at most {max} printable ASCII characters");
        return Err(invalid(field, what));
    }
    Ok(())
}

pub fn replace_cluster(request: &v1::ReplaceClusterRequest) -> Result<Command, Status> {
    let v1::ReplaceClusterRequest {
        cluster: name,
        cluster_uid,
    } = request;
    Ok(Command::ReplaceCluster(ReplaceCluster {
        cluster: cluster("cluster", name)?,
        uid: Uid::parse(cluster_uid).map_err(invalid_name("cluster_uid"))?,
    }))
}

pub fn acquire(request: v1::AcquireRequest) -> Result<Acquire, Status> {
    let v1::AcquireRequest {
        service,
        uid,
        wish,
        created_at,
        cluster_uid: _,
        was_allocated,
        shown_by_others,
        resource_version: _,
    } = request;
    let key = service_key("service", service)?;
    let raw = wish.ok_or_else(|| invalid("wish", "is missing"))?;
    let cluster_ip = optional("wish.cluster_ip", &raw.cluster_ip, address)?;
    Ok(Acquire {
        key: Arc::new(key),
        uid: optional_uid(&uid)?,
        created: created_at.map(|at| millis("created_at", at)).transpose()?,
        cluster_ip,
        was_allocated,
        shown_by_others,
        wish: self::wish(raw)?,
    })
}

/// A Service that is there. What cannot be read of its wish is not asked for: one
/// Service must not keep a cluster from telling what it has, and what it shows does not
/// depend on what it asks for.
pub fn present(request: v1::AcquireRequest) -> Result<Acquire, Status> {
    let shown = request.wish.iter().flat_map(|wish| &wish.current_addresses);
    let shown = shown.filter_map(|text| address("wish.current_addresses", text).ok());
    let presence = Acquire {
        key: Arc::new(service_key("service", request.service.clone())?),
        uid: optional_uid(&request.uid)?,
        created: request
            .created_at
            .and_then(|at| millis("created_at", at).ok()),
        cluster_ip: None,
        was_allocated: request.was_allocated,
        shown_by_others: request.shown_by_others,
        wish: Wish {
            families: Vec::new(),
            policy: Policy::All,
            requested: PerFamily::default(),
            pool: None,
            sharing: None,
            current: shown.take(MAX_CURRENT).collect(),
            labels: Arc::default(),
        },
    };
    Ok(acquire(request).unwrap_or(presence))
}

pub fn release(request: v1::ReleaseRequest) -> Result<Release, Status> {
    let v1::ReleaseRequest {
        service,
        uid,
        cluster_uid: _,
        current_addresses,
    } = request;
    Ok(Release {
        key: service_key("service", service)?,
        uid: optional_uid(&uid)?,
        current: current("current_addresses", &current_addresses)?,
    })
}

pub fn reserve(request: v1::ReserveRequest, now: Timestamp) -> Result<Command, Status> {
    let v1::ReserveRequest {
        address: text,
        service,
        expires_at,
        comment,
    } = request;
    at_most("comment", comment.chars().count(), MAX_COMMENT)?;
    let key = service.map(|key| service_key("service", Some(key)));
    let expires = expires_at
        .map(|at| future("expires_at", at, now))
        .transpose()?;
    Ok(Command::Reserve(Reserve {
        address: address("address", &text)?,
        key: key.transpose()?.map(Arc::new),
        expires,
        comment,
    }))
}

pub fn unreserve(request: &v1::UnreserveRequest) -> Result<Command, Status> {
    address("address", &request.address).map(Command::Unreserve)
}

pub fn handover(request: v1::HandoverRequest, now: Timestamp) -> Result<Command, Status> {
    let v1::HandoverRequest {
        address: text,
        from,
        to,
        expires_at,
        comment,
    } = request;
    at_most("comment", comment.chars().count(), MAX_COMMENT)?;
    let from = service_key("from", from)?;
    let to = service_key("to", to)?;
    if from == to {
        return Err(invalid("to", "is the same as from"));
    }
    let expires = expires_at
        .map(|at| future("expires_at", at, now))
        .transpose()?;
    Ok(Command::Handover(Handover {
        address: address("address", &text)?,
        from: Arc::new(from),
        to: Arc::new(to),
        expires: expires.unwrap_or_else(|| now.after(HANDOVER)),
        comment,
    }))
}

pub fn resolve(request: v1::ResolveConflictRequest, now: Timestamp) -> Result<Command, Status> {
    let v1::ResolveConflictRequest {
        address: text,
        service,
        winner,
    } = request;
    let winner = match v1::ConflictWinner::try_from(winner) {
        Ok(v1::ConflictWinner::Holder) => Winner::Holder,
        Ok(v1::ConflictWinner::Shower) => Winner::Shower {
            expires: now.after(HANDOVER),
        },
        Ok(v1::ConflictWinner::Nobody) => Winner::Nobody,
        Ok(v1::ConflictWinner::Unspecified) => return Err(invalid("winner", "is missing")),
        Err(error) => return Err(invalid("winner", error)),
    };
    Ok(Command::Resolve(Resolve {
        address: address("address", &text)?,
        key: Arc::new(service_key("service", service)?),
        winner,
    }))
}

/// When a cluster's addresses are taken back.
pub fn grace_end(
    grace: Option<prost_types::Duration>,
    now: Timestamp,
) -> Result<Timestamp, Status> {
    let Some(grace) = grace else {
        return Ok(now.after(DECOMMISSION));
    };
    let grace = Duration::try_from(grace).map_err(|_| invalid("grace", "is negative"))?;
    if grace > MAX_DURATION {
        return Err(invalid("grace", "is more than ten years"));
    }
    Ok(now.after(grace))
}

fn future(field: &str, at: prost_types::Timestamp, now: Timestamp) -> Result<Timestamp, Status> {
    let at = millis(field, at)?;
    if at <= now {
        let message = format!("is in the past: the allocator's time is {now}");
        return Err(invalid(field, message));
    }
    Ok(at)
}

fn millis(field: &str, at: prost_types::Timestamp) -> Result<Timestamp, Status> {
    let millis = i128::from(at.seconds) * 1000 + i128::from(at.nanos) / 1_000_000;
    let millis = i64::try_from(millis).map_err(|error| invalid(field, error))?;
    Ok(Timestamp(millis))
}

pub fn cluster(field: &str, text: &str) -> Result<ClusterName, Status> {
    ClusterName::parse(text).map_err(invalid_name(field))
}

pub fn service_key(field: &str, key: Option<v1::ServiceKey>) -> Result<ServiceKey, Status> {
    let key = key.ok_or_else(|| invalid(field, "is missing"))?;
    let of = |part: &str| format!("{field}.{part}");
    Ok(ServiceKey {
        cluster: cluster(&of("cluster"), &key.cluster)?,
        namespace: Namespace::parse(&key.namespace).map_err(invalid_name(&of("namespace")))?,
        name: ServiceName::parse(&key.name).map_err(invalid_name(&of("name")))?,
    })
}

pub fn address(field: &str, text: &str) -> Result<IpAddr, Status> {
    let parsed = text.parse::<IpAddr>();
    let parsed = parsed.map_err(|_| invalid(field, format!("{text:?} is not an IP address")))?;
    Ok(parsed.to_canonical())
}

/// `None` where the text is empty.
pub fn optional<T>(
    field: &str,
    text: &str,
    parse: impl FnOnce(&str, &str) -> Result<T, Status>,
) -> Result<Option<T>, Status> {
    (!text.is_empty()).then(|| parse(field, text)).transpose()
}

fn optional_uid(text: &str) -> Result<Option<Uid>, Status> {
    optional("uid", text, |field, text| {
        Uid::parse(text).map_err(invalid_name(field))
    })
}

/// What a status shows.
fn current(field: &str, texts: &[String]) -> Result<Vec<IpAddr>, Status> {
    at_most(field, texts.len(), MAX_CURRENT)?;
    texts.iter().map(|text| address(field, text)).collect()
}

fn wish(raw: v1::Wish) -> Result<Wish, Status> {
    let families = families(&raw.families)?;
    let policy = policy(raw.ip_family_policy, &families)?;
    let requested = requested(&raw.addresses, &families)?;
    let pool = optional("wish.pool", &raw.pool, |field, text| {
        PoolName::parse(text).map_err(invalid_name(field))
    })?;
    let current = current("wish.current_addresses", &raw.current_addresses)?;
    let ports = ports(&raw.ports)?;
    let backend = backend(raw.external_traffic_policy, raw.selector)?;
    let labels = Labels {
        service: labels("wish.service_labels", raw.service_labels)?,
        namespace: labels("wish.namespace_labels", raw.namespace_labels)?,
    };
    let sharing = raw.sharing.map(|sharing| terms(sharing, ports, backend));
    Ok(Wish {
        families,
        policy,
        requested,
        pool,
        sharing: sharing.transpose()?.map(Arc::new),
        current,
        labels: Arc::new(labels),
    })
}

fn backend(policy: i32, selector: HashMap<String, String>) -> Result<Backend, Status> {
    let policy = v1::ExternalTrafficPolicy::try_from(policy)
        .map_err(|error| invalid("wish.external_traffic_policy", error))?;
    let selector = labels("wish.selector", selector)?;
    Ok(match policy {
        v1::ExternalTrafficPolicy::Unspecified | v1::ExternalTrafficPolicy::Cluster => {
            Backend::Cluster
        }
        v1::ExternalTrafficPolicy::Local => Backend::Local(selector),
    })
}

fn terms(raw: v1::Sharing, ports: BTreeSet<Port>, backend: Backend) -> Result<Terms, Status> {
    let field = "wish.sharing.namespaces";
    at_most(field, raw.namespaces.len(), MAX_LABELS)?;
    let permitted = if raw.namespaces == ["*"] {
        Permitted::All
    } else {
        let parsed = raw.namespaces.iter();
        let parsed = parsed.map(|text| Namespace::parse(text).map_err(invalid_name(field)));
        Permitted::Only(parsed.collect::<Result<_, _>>()?)
    };
    Ok(Terms {
        key: SharingKey::parse(&raw.key).map_err(invalid_name("wish.sharing.key"))?,
        permitted,
        ports,
        backend,
    })
}

fn families(raw: &[i32]) -> Result<Vec<Family>, Status> {
    let field = "wish.families";
    let parsed = raw
        .iter()
        .map(|number| match v1::IpFamily::try_from(*number) {
            Ok(v1::IpFamily::Ipv4) => Ok(Family::V4),
            Ok(v1::IpFamily::Ipv6) => Ok(Family::V6),
            Ok(v1::IpFamily::Unspecified) => Err(invalid(field, "has an unspecified family")),
            Err(error) => Err(invalid(field, error)),
        });
    let families = parsed.collect::<Result<Vec<_>, _>>()?;
    match families.as_slice() {
        [] => Err(invalid(field, "is missing")),
        [_] => Ok(families),
        [one, other] if one != other => Ok(families),
        _ => Err(invalid(field, "has a family twice")),
    }
}

fn policy(raw: i32, families: &[Family]) -> Result<Policy, Status> {
    let field = "wish.ip_family_policy";
    let policy = v1::IpFamilyPolicy::try_from(raw).map_err(|error| invalid(field, error))?;
    match policy {
        v1::IpFamilyPolicy::Unspecified | v1::IpFamilyPolicy::SingleStack => {
            if families.len() > 1 {
                let message = "SINGLE_STACK contradicts two families";
                return Err(conflicting(field, message));
            }
            Ok(Policy::All)
        }
        v1::IpFamilyPolicy::PreferDualStack => Ok(Policy::Any),
        v1::IpFamilyPolicy::RequireDualStack => {
            if families.len() < 2 {
                let message = "REQUIRE_DUAL_STACK contradicts a single family";
                return Err(conflicting(field, message));
            }
            Ok(Policy::All)
        }
    }
}

fn requested(raw: &[String], families: &[Family]) -> Result<PerFamily<Option<IpAddr>>, Status> {
    let field = "wish.addresses";
    let mut requested = PerFamily::<Option<IpAddr>>::default();
    for text in raw {
        let address = address(field, text)?;
        let family = Family::of(address);
        if !families.contains(&family) {
            let message = format!("{address} is {family}, which the Service does not have");
            return Err(invalid(field, message));
        }
        if let Some(other) = requested.get_mut(family).replace(address) {
            let message = format!("{other} and {address} are both {family}; ask for one");
            return Err(invalid(field, message));
        }
    }
    Ok(requested)
}

fn ports(raw: &[v1::ServicePort]) -> Result<BTreeSet<Port>, Status> {
    let field = "wish.ports";
    at_most(field, raw.len(), MAX_PORTS)?;
    let parsed = raw.iter().map(|port| {
        let protocol = v1::Protocol::try_from(port.protocol).map_err(|e| invalid(field, e))?;
        let not_a_port = || invalid(field, format!("{} is not a port", port.port));
        Ok(Port {
            protocol: match protocol {
                v1::Protocol::Unspecified | v1::Protocol::Tcp => Protocol::Tcp,
                v1::Protocol::Udp => Protocol::Udp,
                v1::Protocol::Sctp => Protocol::Sctp,
            },
            number: u16::try_from(port.port)
                .ok()
                .filter(|number| *number > 0)
                .ok_or_else(not_a_port)?,
        })
    });
    parsed.collect()
}

fn labels(field: &str, raw: HashMap<String, String>) -> Result<LabelMap, Status> {
    at_most(field, raw.len(), MAX_LABELS)?;
    for (key, value) in &raw {
        if key.is_empty() || key.len() > MAX_LABEL_KEY || value.len() > MAX_LABEL_VALUE {
            let message = format!(
                "a key has 1 to {MAX_LABEL_KEY} characters and a value at most {MAX_LABEL_VALUE}"
            );
            return Err(invalid(field, message));
        }
    }
    Ok(raw.into_iter().collect())
}

pub fn at_most(field: &str, count: usize, limit: usize) -> Result<(), Status> {
    if count > limit {
        return Err(invalid(
            field,
            format!("has {count} entries, at most {limit} are allowed"),
        ));
    }
    Ok(())
}

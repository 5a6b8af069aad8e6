//! Requests as a watcher sends them, and refusals as it reads them.

use std::{collections::HashMap, iter};

use lb_proto::v1::{
    AcquireRequest, AcquireResponse, IpFamily, IpFamilyPolicy, ReleaseRequest, ServiceKey,
    SyncRequest, Wish,
    sync_request::{self, Part},
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::site::CLUSTER;

/// A Service of the cluster that tests call by default.
#[must_use]
pub fn key(namespace: &str, name: &str) -> ServiceKey {
    ServiceKey {
        cluster: CLUSTER.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// A wish for any IPv4 address. The uid follows from the name.
#[must_use]
pub fn acquire(namespace: &str, name: &str) -> AcquireRequest {
    let wish = Wish {
        families: vec![IpFamily::Ipv4.into()],
        ..Wish::default()
    };
    AcquireRequest {
        created_at: None,
        service: Some(key(namespace, name)),
        uid: format!("uid-of-{name}"),
        wish: Some(wish),
        ..AcquireRequest::default()
    }
}

/// The same request for a Service of another cluster.
#[must_use]
pub fn of_cluster(cluster: &str, mut request: AcquireRequest) -> AcquireRequest {
    let key = request.service.get_or_insert_default();
    cluster.clone_into(&mut key.cluster);
    request
}

/// Services of one message: within the 256 KiB that lb-allocator takes.
const SERVICES: usize = 500;

/// The stream of a Sync, from begin to end.
#[must_use]
pub fn sync_of(cluster: &str, services: Vec<AcquireRequest>) -> Vec<SyncRequest> {
    let begin = Part::Begin(sync_request::Begin {
        cluster: cluster.to_owned(),
        seen_revision: 0,
        ..sync_request::Begin::default()
    });
    let end = Part::End(sync_request::End {
        count: i64::try_from(services.len()).unwrap_or(i64::MAX),
    });
    let mut pages: Vec<_> = services.chunks(SERVICES).map(<[_]>::to_vec).collect();
    if pages.is_empty() {
        pages.push(Vec::new());
    }
    let pages = pages
        .into_iter()
        .map(|services| Part::Services(sync_request::Services { services }));
    let parts = iter::once(begin).chain(pages).chain(iter::once(end));
    parts.map(|part| SyncRequest { part: Some(part) }).collect()
}

/// The release of what [`acquire`] got.
#[must_use]
pub fn release(namespace: &str, name: &str) -> ReleaseRequest {
    release_of(namespace, name, &format!("uid-of-{name}"))
}

/// The release of the Service with this uid; without one, of whoever holds it.
#[must_use]
pub fn release_of(namespace: &str, name: &str, uid: &str) -> ReleaseRequest {
    ReleaseRequest {
        service: Some(key(namespace, name)),
        uid: uid.to_owned(),
        ..ReleaseRequest::default()
    }
}

/// Changes to a request, one after the other.
pub trait Asking: Sized {
    /// With these addresses asked for.
    #[must_use]
    fn addresses(self, addresses: &[&str]) -> Self;
    /// With these families, under this policy.
    #[must_use]
    fn families(self, policy: IpFamilyPolicy, families: &[IpFamily]) -> Self;
    /// With a change of the wish.
    #[must_use]
    fn wishing(self, change: impl FnOnce(&mut Wish)) -> Self;
    /// With another uid.
    #[must_use]
    fn uid(self, uid: &str) -> Self;
    /// With this address in its status.
    #[must_use]
    fn showing(self, address: &str) -> Self {
        self.wishing(|wish| wish.current_addresses.push(address.to_owned()))
    }
}

impl Asking for AcquireRequest {
    fn addresses(self, addresses: &[&str]) -> Self {
        self.wishing(|wish| wish.addresses = addresses.iter().map(|a| (*a).to_owned()).collect())
    }

    fn families(self, policy: IpFamilyPolicy, families: &[IpFamily]) -> Self {
        self.wishing(|wish| {
            wish.ip_family_policy = policy.into();
            wish.families = families.iter().map(|family| (*family).into()).collect();
        })
    }

    fn wishing(mut self, change: impl FnOnce(&mut Wish)) -> Self {
        change(self.wish.get_or_insert_default());
        self
    }

    fn uid(mut self, uid: &str) -> Self {
        uid.clone_into(&mut self.uid);
        self
    }
}

/// The addresses of an answer, in its order.
#[must_use]
pub fn held(answer: &AcquireResponse) -> Vec<&str> {
    answer
        .addresses
        .iter()
        .map(|held| held.address.as_str())
        .collect()
}

/// The machine-readable part of a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC code.
    pub code: Code,
    /// `google.rpc.ErrorInfo.reason`.
    pub reason: String,
    /// `google.rpc.ErrorInfo.metadata`.
    pub metadata: HashMap<String, String>,
}

/// Reads a refusal.
///
/// # Panics
/// When it carries no `ErrorInfo` of lb-allocator.
#[must_use]
pub fn refusal(status: &Status) -> Refusal {
    match status.get_details_error_info() {
        Some(info) if info.domain == lb_proto::ERROR_DOMAIN => Refusal {
            code: status.code(),
            reason: info.reason,
            metadata: info.metadata,
        },
        info => panic!("{status} carries no ErrorInfo of lb-allocator but {info:?}"),
    }
}

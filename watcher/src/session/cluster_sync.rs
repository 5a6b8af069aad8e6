//! Telling the allocator all that this cluster has: after each complete list, every
//! few minutes, and whenever the allocator may have missed something. It learns from
//! that what it forgot, and takes back what nobody here has any more.

use std::{net::IpAddr, sync::Arc, time::Duration};

use lb_proto::v1::{self, SyncOutcome, sync_request::Part};
use prost::Message;
use tracing::{info, warn};

use crate::{
    allocator::Allocator,
    denial::Denial,
    informer::{namespace_store::NamespaceStore, service_store::ServiceStore},
    kube::{annotations::Peer, key::Key, service::Service},
    ledger::Ledger,
    reconcile::view::View,
    request::{
        claim::{self, MESSAGE_BYTES},
        parse_address,
        scope::Scope,
    },
};

/// How often it is told even when nothing happened.
pub const EVERY: Duration = Duration::from_secs(5 * 60);

/// What it takes to tell.
#[derive(Clone)]
pub struct ClusterSync {
    /// Whom to tell.
    pub allocator: Allocator,
    /// What there is.
    pub store: Arc<ServiceStore>,
    /// The labels of their namespaces.
    pub namespaces: Arc<NamespaceStore>,
    /// Whose annotations are read besides our own.
    pub peers: Vec<Peer>,
    /// What was granted.
    pub ledger: Arc<Ledger>,
}

impl ClusterSync {
    /// Tells all. To be called only when the list of Services is complete. Returns the
    /// Services that hold something else than they were granted last.
    pub async fn tell(&self) -> Result<Vec<Key>, Denial> {
        // Before the Services are looked at: what is granted later is not judged.
        let begin = self.allocator.begin(self.allocator.seen());
        let services = self.services();
        let count = services.len();
        let synced = self.allocator.sync(messages(begin, services)).await?;
        self.report(count, &synced);
        Ok(self.ledger.differ(synced.iter().filter_map(held)))
    }

    fn services(&self) -> Vec<v1::AcquireRequest> {
        let services = self.store.wanting();
        let services = services.iter();
        services.map(|service| self.present(service)).collect()
    }

    /// A Service that is there, and what it has. One that has nothing asks for nothing
    /// here: its own Acquire does.
    fn present(&self, service: &Service) -> v1::AcquireRequest {
        let key = Key::of(service);
        // Another watcher of this cluster may serve another class: that the Service is
        // there is all that we can say of it.
        let wish = match self.store.rule().scope(service) {
            Scope::Ours => self.claim(&key, service),
            Scope::OtherClass | Scope::OtherType => None,
        };
        self.allocator.acquire_request(&key, service, wish)
    }

    /// What a Service has is its own, however little of the rest can be read or told.
    fn claim(&self, key: &Key, service: &Service) -> Option<v1::Wish> {
        let record = self.ledger.get(key);
        let labels = self.namespaces.labels(&key.namespace);
        let known = labels.clone().unwrap_or_default();
        let view = View::new(key, service, record.as_ref(), &self.peers, &known);
        let has = view.may_show();
        if has.is_empty() {
            return None;
        }
        let mut wish = view.reading.request.message(&has);
        if labels.is_none() {
            // They are not known, which is another thing than none.
            claim::without_labels(&mut wish);
        }
        claim::fit(&mut wish, &has);
        Some(wish)
    }

    fn report(&self, count: usize, synced: &[v1::SyncedService]) {
        let of = |outcome: SyncOutcome| {
            let services = synced.iter().filter(move |one| one.outcome() == outcome);
            services.filter_map(|one| Some((one, one.service.as_ref()?)))
        };
        for (_, key) in of(SyncOutcome::Adopted) {
            info!(
                namespace = key.namespace,
                service = key.name,
                "the allocator learned which address it has"
            );
        }
        for (one, key) in of(SyncOutcome::ReleasedAfterGrace) {
            let addresses: Vec<_> = one.addresses.iter().map(|held| &*held.address).collect();
            info!(
                namespace = key.namespace,
                service = key.name,
                addresses = addresses.join(","),
                "an address without its Service: the allocator takes it back after its grace"
            );
        }
        for (_, key) in of(SyncOutcome::Conflict) {
            warn!(
                namespace = key.namespace,
                service = key.name,
                "another Service holds the address that it shows: an administrator has to decide"
            );
        }
        info!(
            services = count,
            "the allocator knows what this cluster has"
        );
    }
}

/// What the allocator says that a Service holds.
fn held(synced: &v1::SyncedService) -> Option<(Key, Vec<IpAddr>)> {
    if synced.outcome() == SyncOutcome::ReleasedAfterGrace {
        return None;
    }
    let key = Key::from(synced.service.clone()?);
    let addresses = synced.addresses.iter();
    let addresses = addresses.filter_map(|held| parse_address(&held.address));
    Some((key, addresses.collect()))
}

fn messages(
    begin: v1::sync_request::Begin,
    services: Vec<v1::AcquireRequest>,
) -> Vec<v1::SyncRequest> {
    let message = |part| v1::SyncRequest { part: Some(part) };
    let count = i64::try_from(services.len()).unwrap_or(i64::MAX);
    let mut messages = vec![message(Part::Begin(begin))];
    let mut page = Vec::new();
    let mut bytes = 0;
    for service in services {
        bytes += service.encoded_len();
        if bytes > MESSAGE_BYTES {
            let services = std::mem::take(&mut page);
            messages.push(message(Part::Services(v1::sync_request::Services {
                services,
            })));
            bytes = service.encoded_len();
        }
        page.push(service);
    }
    let services = page;
    messages.push(message(Part::Services(v1::sync_request::Services {
        services,
    })));
    messages.push(message(Part::End(v1::sync_request::End { count })));
    messages
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tonic::transport::Endpoint;

    use super::*;
    use crate::{metrics::Metrics, request::scope::ClassRule};

    fn cluster_sync() -> ClusterSync {
        let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        let (metrics, _) = Metrics::new();
        ClusterSync {
            allocator: Allocator::over(channel, "a".into(), metrics),
            store: Arc::new(ServiceStore::new(ClassRule::new(None, false))),
            namespaces: Arc::default(),
            peers: Vec::new(),
            ledger: Arc::default(),
        }
    }

    /// What is told of a Service in namespace `ns` with this status.
    fn present(sync: &ClusterSync, class: Option<&str>, status: Value) -> v1::AcquireRequest {
        let service = serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "svc", "uid": "u",
                         "labels": {"app": "web"}},
            "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"], "loadBalancerClass": class},
            "status": status,
        }));
        sync.present(&service.unwrap())
    }

    fn shows() -> Value {
        json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}})
    }

    #[tokio::test]
    async fn what_a_service_shows_is_told_whoever_wrote_it_and_what_has_nothing_is_there() {
        let sync = cluster_sync();
        sync.namespaces
            .apply("ns".into(), [("team".into(), "red".into())].into());
        let told = present(&sync, None, shows());
        let wish = told.wish.unwrap();
        assert_eq!(wish.current_addresses, ["192.0.2.1"]);
        assert_eq!(wish.namespace_labels["team"], "red");
        assert!(!told.was_allocated);
        for (class, status) in [(None, json!({})), (Some("example.org/other"), shows())] {
            let told = present(&sync, class, status);
            assert_eq!((told.wish, &*told.uid), (None, "u"), "{class:?}");
        }
    }

    #[tokio::test]
    async fn what_a_service_shows_is_told_before_the_labels_of_its_namespace_are_known() {
        let sync = cluster_sync();
        let wish = present(&sync, None, shows()).wish.unwrap();
        assert_eq!(wish.current_addresses, ["192.0.2.1"]);
        assert!(wish.service_labels.is_empty() && wish.namespace_labels.is_empty());
    }
}

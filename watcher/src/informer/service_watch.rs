//! The watch on all Services of the cluster: keeps the store, and queues what
//! changed.

use std::sync::Arc;

use kube::{
    Client, ResourceExt,
    runtime::watcher::{Error, Event},
};
use tokio::sync::watch::Receiver;
use tracing::{info, warn};

use crate::{
    admin::Health,
    informer::service_store::ServiceStore,
    kube::{api::chain, history::History, key::Key, service::Service, watch},
    ledger::Ledger,
    metrics::Metrics,
    observed::Observed,
    queue::Queue,
    request::scope::Scope,
    status,
};

/// The task's parts.
pub struct ServiceWatch {
    /// The Services, as the API server listed and watched them last.
    pub store: Arc<ServiceStore>,
    /// To know what a Service that is gone may hold.
    pub ledger: Arc<Ledger>,
    /// The keys of what changed go there.
    pub queue: Arc<Queue>,
    /// Counts the complete lists.
    pub lists: Arc<Observed<u64>>,
    /// Tells when all has to be listed anew.
    pub history: Arc<History>,
    /// What readiness looks at.
    pub health: Arc<Health>,
    /// Counts.
    pub metrics: Metrics,
}

impl ServiceWatch {
    /// Watches for ever, once the namespaces are known: what holds an address must be
    /// asked for before what waits, and for either the labels must be there.
    pub async fn run(self, client: Client, mut namespaces_listed: Receiver<bool>) {
        if namespaces_listed.wait_for(|listed| *listed).await.is_err() {
            // Whoever lists them has ended, and it is told of that.
            return std::future::pending().await;
        }
        // Without a field selector: one that leaves the type still has our condition.
        let broke = |error: &Error, first| {
            self.metrics.stream_error("services");
            if first {
                warn!(
                    "cannot watch Services, trying again with back-off: {}",
                    chain(error)
                );
            }
        };
        watch::follow(client, &self.history, |event| self.event(event), broke).await;
    }

    fn event(&self, event: Event<Service>) {
        match event {
            Event::Apply(service) => {
                self.history.saw(service.resource_version());
                let key = Key::of(&service);
                if self.store.apply(service) {
                    self.push(key);
                }
            }
            Event::Delete(service) => {
                self.history.saw(service.resource_version());
                self.store.delete(&Key::of(&service));
                self.gone(&service);
            }
            Event::Init => self.store.list_begins(),
            Event::InitApply(service) => self.store.listed(service),
            Event::InitDone => self.list_done(),
        }
    }

    fn push(&self, key: Key) {
        let concerns = self.store.get(&key).is_some() || self.ledger.knows(&key);
        if concerns {
            self.queue.push(key);
        }
    }

    /// It may hold an address even if this process never asked for one.
    fn gone(&self, service: &Service) {
        let key = Key::of(service);
        let ours = self.store.rule().scope(service) == Scope::Ours;
        let uid = service.uid().unwrap_or_default();
        let may_hold = ours || status::condition(service).is_some();
        if self.queue.stands_by() {
            // Who leads may not live to see to it.
            if may_hold {
                self.ledger.departed_meanwhile(&key, &uid);
            }
            return;
        }
        if may_hold {
            self.ledger.departed(&key, &uid);
        }
        self.push(key);
    }

    fn list_done(&self) {
        let diff = self.store.list_ends();
        for service in &diff.gone {
            self.gone(service);
        }
        info!(
            changed = diff.changed.len(),
            gone = diff.gone.len(),
            "Services listed"
        );
        self.queue.push_all(diff.changed);
        self.health.services_listed();
        self.lists.update(|lists| *lists += 1);
    }
}

//! The watch on the cluster's namespaces, of which only the labels are kept: rules
//! of pools may look at them. What changes is queued.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Client, ResourceExt,
    core::PartialObjectMeta,
    runtime::watcher::{Error, Event},
};
use tokio::sync::watch::Sender;
use tracing::{error, info, warn};

use crate::{
    admin::Health,
    allocator::Allocator,
    informer::{namespace_store::NamespaceStore, service_store::ServiceStore},
    kube::{api::chain, history::History, watch},
    metrics::Metrics,
    queue::Queue,
};

type Meta = PartialObjectMeta<Namespace>;

/// The namespace whose uid tells this cluster from every other one.
const IDENTITY: &str = "kube-system";

/// The task's parts.
pub struct NamespaceWatch {
    /// The namespaces, as the API server listed and watched them last.
    pub namespaces: Arc<NamespaceStore>,
    /// The Services whose requests change with the labels.
    pub services: Arc<ServiceStore>,
    /// The keys of what changed go there.
    pub queue: Arc<Queue>,
    /// Becomes true with the first complete list.
    pub listed: Sender<bool>,
    /// Learns which cluster this is.
    pub allocator: Allocator,
    /// Tells when all has to be listed anew.
    pub history: Arc<History>,
    /// What readiness looks at.
    pub health: Arc<Health>,
    /// Counts.
    pub metrics: Metrics,
}

impl NamespaceWatch {
    /// Watches for ever.
    pub async fn run(self, client: Client) {
        let broke = |error: &Error, first| {
            self.metrics.stream_error("namespaces");
            self.health.namespaces_broken(words(error));
            if first {
                self.tell(error);
            }
        };
        watch::follow(client, &self.history, |event| self.event(event), broke).await;
    }

    fn event(&self, event: Event<Meta>) {
        match event {
            Event::Apply(mut meta) => {
                self.identify(&meta);
                let name = meta.name_any();
                let labels = std::mem::take(meta.labels_mut());
                if self.namespaces.apply(name.clone(), labels) {
                    self.push(&HashSet::from([name]));
                }
            }
            Event::Delete(meta) => self.namespaces.delete(&meta.name_any()),
            Event::Init => self.namespaces.list_begins(),
            Event::InitApply(mut meta) => {
                self.identify(&meta);
                let labels = std::mem::take(meta.labels_mut());
                self.namespaces.listed(meta.name_any(), labels);
            }
            Event::InitDone => {
                let changed = self.namespaces.list_ends();
                info!(changed = changed.len(), "namespaces listed");
                self.push(&changed);
                self.health.namespaces_listed();
                self.listed.send_replace(true);
            }
        }
    }

    fn identify(&self, meta: &Meta) {
        if meta.name_any() == IDENTITY {
            self.allocator.is_of(meta.uid().unwrap_or_default());
        }
    }

    /// The labels are part of the request of every Service there.
    fn push(&self, namespaces: &HashSet<String>) {
        // In their order, so that a simulated run goes the same way each time.
        let namespaces: BTreeSet<_> = namespaces.iter().collect();
        let keys = namespaces
            .into_iter()
            .flat_map(|namespace| self.services.ours_in(namespace));
        self.queue.push_all(keys);
    }

    fn tell(&self, error: &Error) {
        let listed = *self.listed.borrow();
        match (is_forbidden(error), listed) {
            (true, false) => error!(
                "no Service is served: {}: the service account of lb-watcher needs the verbs \
                 list and watch on namespaces",
                words(error)
            ),
            (_, false) => error!("no Service is served: {}", words(error)),
            (_, true) => warn!("{}, trying again with back-off", words(error)),
        }
    }
}

fn words(error: &Error) -> String {
    format!("cannot watch Namespaces: {}", chain(error))
}

fn is_forbidden(error: &Error) -> bool {
    let (Error::InitialListFailed(cause) | Error::WatchStartFailed(cause)) = error else {
        return false;
    };
    matches!(cause, kube::Error::Api(status) if status.is_forbidden())
}

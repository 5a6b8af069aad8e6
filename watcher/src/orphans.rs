//! Addresses whose Service went while nobody looked. After each complete list,
//! what the allocator has for this cluster is compared with the Services. What a
//! Service of ours does not account for is checked once more at the API server,
//! and given back only when that proves that nobody here holds it.

use std::sync::Arc;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use lb_proto::v1::Allocation;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    allocator::Allocator,
    key::Key,
    ledger::Ledger,
    queue::{Queue, Rank},
    scope::{ClassRule, Scope},
    service_api::ServiceApi,
    service_store::ServiceStore,
    wish::parse_address,
};

/// How many Services are checked at the API server at a time.
const CHECKS: usize = 8;

const BACKOFF: ExponentialBuilder = ExponentialBuilder::new().with_jitter().without_max_times();

/// The task's parts.
#[derive(Clone)]
pub struct Orphans {
    /// Who knows what this cluster holds.
    pub allocator: Allocator,
    /// Who knows which Services there are.
    pub api: ServiceApi,
    /// Which Services there were a moment ago.
    pub store: Arc<ServiceStore>,
    /// Where orphans are noted.
    pub ledger: Arc<Ledger>,
    /// Where they go to be released.
    pub queue: Arc<Queue>,
}

/// What is to be done about an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// A Service accounts for it.
    Keep,
    /// No Service holds it any more, or one that takes it over.
    Orphan,
}

impl Orphans {
    /// Looks for orphans after each list.
    pub async fn run(self, mut lists: watch::Receiver<u64>) {
        while lists.changed().await.is_ok() {
            let mut backoff = BACKOFF.build();
            while let Err(error) = self.look().await {
                warn!("cannot look for addresses without a Service: {error}");
                if let Some(delay) = backoff.next() {
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    async fn look(&self) -> Result<(), String> {
        let mut page = String::new();
        loop {
            let (allocations, next) = self
                .allocator
                .allocations(&page)
                .await
                .map_err(|refusal| refusal.message)?;
            stream::iter(allocations)
                .map(Ok)
                .try_for_each_concurrent(CHECKS, |allocation| self.check(allocation))
                .await?;
            if next.is_empty() {
                return Ok(());
            }
            page = next;
        }
    }

    async fn check(&self, allocation: Allocation) -> Result<(), String> {
        // One without a uid was made by a person, for a Service that may be yet to
        // come.
        let (Some(service), Some(address)) =
            (allocation.service, parse_address(&allocation.address))
        else {
            return Ok(());
        };
        if allocation.uid.is_empty() {
            return Ok(());
        }
        let key = Key {
            namespace: service.namespace,
            name: service.name,
        };
        let rule = self.store.rule();
        let mut seen = self.store.get(&key);
        if judge(rule, seen.as_deref(), &allocation.uid) == Verdict::Orphan {
            let live = self.api.get(&key).await;
            seen = live.map_err(|error| error.to_string())?.map(Arc::new);
        }
        if judge(rule, seen.as_deref(), &allocation.uid) == Verdict::Orphan {
            info!(%key, %address, uid = allocation.uid, "an address without its Service");
            self.ledger.learn(&key, &allocation.uid, address);
            self.queue.push(key, Rank::Holder);
        }
        Ok(())
    }
}

/// A Service of another class keeps its address: another watcher of this cluster
/// may serve that class.
fn judge(rule: &ClassRule, service: Option<&Service>, uid: &str) -> Verdict {
    match service {
        Some(service) if service.uid().as_deref() == Some(uid) => match rule.scope(service) {
            Scope::Ours | Scope::OtherClass => Verdict::Keep,
            Scope::OtherType => Verdict::Orphan,
        },
        Some(_) | None => Verdict::Orphan,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_is_an_orphan_when_the_very_service_that_got_it_has_no_claim_any_more() {
        let rule = ClassRule::new(None, false);
        let service = |type_: &str, class: Option<&str>| -> Service {
            serde_json::from_value(json!({
                "metadata": {"name": "a", "namespace": "ns", "uid": "u1"},
                "spec": {"type": type_, "loadBalancerClass": class},
            }))
            .unwrap()
        };
        for (service, uid, verdict) in [
            (None, "u1", Verdict::Orphan),
            (Some(service("LoadBalancer", None)), "u1", Verdict::Keep),
            (Some(service("LoadBalancer", None)), "u0", Verdict::Orphan),
            (
                Some(service("LoadBalancer", Some("x"))),
                "u1",
                Verdict::Keep,
            ),
            (
                Some(service("LoadBalancer", Some("x"))),
                "u0",
                Verdict::Orphan,
            ),
            (Some(service("ClusterIP", None)), "u1", Verdict::Orphan),
        ] {
            assert_eq!(
                judge(&rule, service.as_ref(), uid),
                verdict,
                "{service:?} {uid}"
            );
        }
    }
}

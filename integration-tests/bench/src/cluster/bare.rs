//! A bare client: it creates, writes and deletes, and does nothing else.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use integration_tests::{namespace::Namespace, service::service};
use k8s_openapi::{api::core::v1::Service, jiff::Timestamp};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

/// How a status is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Merge,
    Strategic,
    Apply,
}

/// Services of one namespace and class.
#[derive(Clone)]
pub struct Bare {
    services: Api<Service>,
    class: Arc<str>,
}

/// One that was created.
#[derive(Clone, Debug)]
pub struct Created {
    pub name: String,
    pub uid: String,
    /// When the API server had answered.
    pub at: Instant,
}

impl Bare {
    pub fn new(namespace: &Namespace, class: &str) -> Self {
        Self {
            services: namespace.services(),
            class: class.into(),
        }
    }

    /// Creates as many.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn create(
        &self,
        prefix: &str,
        count: usize,
        in_flight: usize,
    ) -> Result<(Vec<Created>, Duration)> {
        let prefix: Arc<str> = prefix.into();
        each(count, in_flight, |number| {
            let Self { services, class } = self.clone();
            let name = format!("{prefix}-{number}");
            async move {
                let service = service(&name).class(&class).build();
                let created = services.create(&PostParams::default(), &service).await?;
                Ok(Created {
                    uid: created.uid().unwrap_or_default(),
                    name,
                    at: Instant::now(),
                })
            }
        })
        .await
    }

    /// Writes an address and a condition, as lb-watcher does, to each. Another `turn`
    /// is another address.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn write(
        &self,
        created: &[Created],
        kind: Kind,
        turn: u8,
        in_flight: usize,
    ) -> Result<Duration> {
        let created: Arc<[Created]> = created.into();
        let written = each(created.len(), in_flight, |number| {
            let services = self.services.clone();
            let created = created.clone();
            async move {
                let Created { name, uid, .. } = &created[number];
                let status = status(turn, number);
                match kind {
                    Kind::Merge => {
                        let patch = Patch::Merge(json!({"status": status}));
                        let params = PatchParams::default();
                        services.patch_status(name, &params, &patch).await?;
                    }
                    Kind::Strategic => {
                        let patch = Patch::Strategic(json!({"status": status}));
                        let params = PatchParams::default();
                        services.patch_status(name, &params, &patch).await?;
                    }
                    Kind::Apply => {
                        let patch = Patch::Apply(json!({
                            "apiVersion": "v1", "kind": "Service",
                            "metadata": {"name": name, "uid": uid},
                            "status": status,
                        }));
                        let params = PatchParams::apply("lb-bench").force();
                        services.patch_status(name, &params, &patch).await?;
                    }
                }
                Ok(())
            }
        });
        Ok(written.await?.1)
    }

    /// Deletes them.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn delete(&self, names: &[String], in_flight: usize) -> Result<Duration> {
        let names: Arc<[String]> = names.into();
        let deleted = each(names.len(), in_flight, |number| {
            let services = self.services.clone();
            let names = names.clone();
            async move {
                let params = DeleteParams::default();
                services.delete(&names[number], &params).await?;
                Ok(())
            }
        });
        Ok(deleted.await?.1)
    }
}

fn status(turn: u8, number: usize) -> Value {
    let address = format!("10.{turn}.{}.{}", number / 256, number % 256);
    json!({
        "loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]},
        "conditions": [{
            "type": "lb-allocator.io/AddressAllocated", "status": "True",
            "reason": "Satisfied", "message": format!("{address} from pool bench"),
            "lastTransitionTime": Timestamp::now(),
        }],
    })
}

/// Does something with each number, so many at a time, and returns what came of it
/// and how long it took.
async fn each<T, F>(
    count: usize,
    in_flight: usize,
    work: impl Fn(usize) -> F + Clone + Send + Sync,
) -> Result<(Vec<T>, Duration)>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    let caller = async || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return anyhow::Ok(done);
            }
            // On the runtime's threads: one alone would be the limit.
            done.push(tokio::spawn(work(number)).await??);
        }
    };
    let callers = futures::future::try_join_all((0..in_flight).map(|_| caller()));
    let done: Vec<Vec<T>> = callers.await?;
    Ok((done.into_iter().flatten().collect(), begun.elapsed()))
}

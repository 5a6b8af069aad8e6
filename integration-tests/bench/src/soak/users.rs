//! The users of a cluster: they create, edit and delete Services at random.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use integration_tests::{namespace::random_name, service::service};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{
    pools::{ROOMY, SCARCE, any_address},
    seen::{CREATED, EDITS, IPS, SHARING_KEY},
};

/// Between two operations, on average.
const PAUSE: Duration = Duration::from_millis(140);
/// More than so many Services of a cluster are not there at a time.
const MOST: usize = 60;
/// Users do not wait for longer.
const DEADLINE: Duration = Duration::from_secs(5);

/// How often something was asked for.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Count {
    pub done: u32,
    /// No answer, or a refusal: it may have been done.
    pub unanswered: u32,
}

pub type Operations = BTreeMap<&'static str, Count>;

/// A Service that may be there.
struct Known {
    namespace: &'static str,
    name: String,
    balanced: bool,
    asks: bool,
    dual: bool,
    edits: u32,
}

pub struct Users {
    client: Client,
    rng: fastrand::Rng,
    begun: Instant,
    known: Vec<Known>,
    /// Names that were given up.
    former: Vec<(&'static str, String)>,
    done: Operations,
}

impl Users {
    pub fn new(client: Client, rng: fastrand::Rng, begun: Instant) -> Self {
        Self {
            client,
            rng,
            begun,
            known: Vec::new(),
            former: Vec::new(),
            done: Operations::new(),
        }
    }

    /// Until it is told to stop; what was done.
    pub async fn work(mut self, stop: Arc<AtomicBool>) -> Operations {
        while !stop.load(Ordering::Relaxed) {
            // As long as between any two of many who do not know of each other.
            let pause = PAUSE.mul_f64(-(1.0 - self.rng.f64()).ln());
            sleep(pause.min(PAUSE * 8)).await;
            let wanted = self.rng.usize(..MOST);
            if wanted >= self.known.len() {
                self.create().await;
            } else if self.rng.u8(..10) < 4 {
                self.edit(wanted).await;
            } else {
                self.delete(wanted).await;
            }
        }
        self.done
    }

    async fn create(&mut self) {
        let again = self.rng.u8(..3) == 0;
        let former = again.then(|| self.former.pop()).flatten();
        let (namespace, name) = former.unwrap_or_else(|| {
            let namespaces = [SCARCE[0], SCARCE[0], SCARCE[1], ROOMY];
            (namespaces[self.rng.usize(..4)], random_name("s"))
        });
        let millis = self.begun.elapsed().as_millis().to_string();
        let mut wish = service(&name)
            .port(self.rng.i32(1..=20))
            .annotation(CREATED, &millis);
        let mut known = Known {
            namespace,
            name,
            balanced: true,
            asks: false,
            dual: false,
            edits: 0,
        };
        if namespace != ROOMY {
            match self.rng.u8(..10) {
                0 | 1 => {
                    let key = format!("k{}", self.rng.u8(..3));
                    wish = wish.annotation(SHARING_KEY, &key);
                }
                2 => {
                    known.dual = true;
                    wish = wish.families("RequireDualStack", &["IPv4", "IPv6"]);
                }
                3 => {
                    known.dual = true;
                    wish = wish.families("PreferDualStack", &["IPv6", "IPv4"]);
                }
                4 => {
                    if let Some(address) = any_address(namespace, &mut self.rng) {
                        known.asks = true;
                        wish = wish.ips(&address.to_string());
                    }
                }
                _ => {}
            }
        }
        let services = self.services(known.namespace);
        let (wish, params) = (wish.build(), PostParams::default());
        let created = timeout(DEADLINE, services.create(&params, &wish));
        let done = matches!(created.await, Ok(Ok(_)));
        self.known.push(known);
        self.count("create", done);
    }

    async fn delete(&mut self, at: usize) {
        let Known {
            namespace, name, ..
        } = self.known.swap_remove(at);
        let services = self.services(namespace);
        let params = DeleteParams::default();
        let deleted = timeout(DEADLINE, services.delete(&name, &params));
        let done = matches!(deleted.await, Ok(Ok(_)));
        self.count("delete", done);
        if done {
            self.former.push((namespace, name));
        }
    }

    async fn edit(&mut self, at: usize) {
        let (kind, mut patch) = self.any_edit(at);
        let known = &mut self.known[at];
        known.edits += 1;
        patch["metadata"]["annotations"][EDITS] = json!(known.edits.to_string());
        let (namespace, name) = (known.namespace, known.name.clone());
        let services = self.services(namespace);
        let params = PatchParams::default();
        let patch = Patch::Merge(patch);
        let edited = timeout(DEADLINE, services.patch(&name, &params, &patch));
        let done = match edited.await {
            Ok(Ok(_)) => true,
            // Its creation failed.
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => {
                self.known.swap_remove(at);
                false
            }
            Ok(Err(_)) | Err(_) => false,
        };
        self.count(kind, done);
    }

    fn any_edit(&mut self, at: usize) -> (&'static str, Value) {
        let known = &mut self.known[at];
        if !known.balanced {
            known.balanced = true;
            let spec = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false});
            return ("back to type LoadBalancer", json!({"spec": spec}));
        }
        match self.rng.u8(..4) {
            0 => {
                known.balanced = false;
                let spec = json!({"type": "ClusterIP", "allocateLoadBalancerNodePorts": null});
                ("to type ClusterIP", json!({"spec": spec}))
            }
            1 if known.asks => {
                known.asks = false;
                let annotations = json!({IPS: null});
                let patch = json!({"metadata": {"annotations": annotations}});
                ("ask for no address", patch)
            }
            1 | 2 if !known.dual => {
                known.asks = true;
                let asked = any_address(known.namespace, &mut self.rng);
                let asked = asked.map(|address| address.to_string());
                let patch = json!({"metadata": {"annotations": {IPS: asked}}});
                ("ask for an address", patch)
            }
            _ => {
                let port = self.rng.i32(1..=20);
                let ports = json!([{"port": port, "protocol": "TCP"}]);
                ("change ports", json!({"spec": {"ports": ports}}))
            }
        }
    }

    fn services(&self, namespace: &str) -> Api<Service> {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn count(&mut self, kind: &'static str, done: bool) {
        let count = self.done.entry(kind).or_default();
        if done {
            count.done += 1;
        } else {
            count.unanswered += 1;
        }
    }
}

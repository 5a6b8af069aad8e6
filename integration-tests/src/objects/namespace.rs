//! A namespace of the API server: creates and edits Services, and waits for
//! what becomes of them. Everything here panics where a test cannot go on.

use std::{
    fmt::{self, Debug, Display},
    path::PathBuf,
    time::Duration,
};

use k8s_openapi::{
    api::{core::v1::Service, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    eventually::{DEADLINE, eventually},
    service::ServiceBuilder,
    status_writes::{AuditLog, Write},
};

/// The type of the condition that lb-watcher keeps.
pub const CONDITION: &str = "lb-allocator.io/AddressAllocated";

/// One namespace, seen by the administrator.
pub struct Namespace {
    client: Client,
    name: String,
    audit_log: AuditLog,
}

/// An Event about a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// `AddressAssigned` and the like.
    pub reason: String,
    /// The words.
    pub note: String,
    /// How often it was repeated.
    pub count: i32,
    /// `Normal` or `Warning`.
    pub kind: String,
}

impl Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A name that nobody has.
#[must_use]
pub fn random_name(prefix: &str) -> String {
    format!("{prefix}-{:012x}", fastrand::u64(..1 << 48))
}

fn must<T, E: Debug>(result: Result<T, E>, what: impl Display) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error:?}"),
    }
}

impl Namespace {
    pub(crate) fn new(client: Client, name: String, audit_log: PathBuf) -> Self {
        let audit_log = AuditLog::of_new(&name, audit_log);
        Self {
            client,
            name,
            audit_log,
        }
    }

    /// Sets a label of the Namespace object.
    pub async fn label(&self, name: &str, value: &str) {
        let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client.clone());
        let patch = serde_json::json!({"metadata": {"labels": {name: value}}});
        let patched = api
            .patch(&self.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        must(patched, format_args!("cannot label {}", self.name));
    }

    /// The Services of the namespace.
    #[must_use]
    pub fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Creates a Service.
    pub async fn create(&self, service: ServiceBuilder) -> Service {
        let service = service.build();
        let created = self
            .services()
            .create(&PostParams::default(), &service)
            .await;
        must(
            created,
            format_args!("cannot create {}/{}", self.name, service.name_any()),
        )
    }

    /// Deletes a Service.
    pub async fn delete(&self, name: &str) {
        let deleted = self.services().delete(name, &DeleteParams::default()).await;
        must(deleted, format_args!("cannot delete {}/{name}", self.name));
    }

    /// The Service as it is now.
    pub async fn get(&self, name: &str) -> Service {
        must(
            self.services().get(name).await,
            format_args!("cannot get {}/{name}", self.name),
        )
    }

    /// Changes a Service by a JSON merge patch.
    pub async fn edit(&self, name: &str, patch: Value) -> Service {
        let edited = self
            .services()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        must(edited, format_args!("cannot edit {}/{name}", self.name))
    }

    /// Sets or, without a value, removes an annotation.
    pub async fn annotate(&self, name: &str, annotation: &str, value: Option<&str>) {
        self.edit(
            name,
            json!({"metadata": {"annotations": {annotation: value}}}),
        )
        .await;
    }

    /// Changes a Service's status by a JSON merge patch, as a person with
    /// `kubectl edit --subresource status` would.
    pub async fn edit_status(&self, name: &str, status: Value) -> Service {
        let params = PatchParams {
            field_manager: Some("kubectl-edit".to_owned()),
            ..Default::default()
        };
        let patch = Patch::Merge(json!({"status": status}));
        let edited = self.services().patch_status(name, &params, &patch).await;
        must(
            edited,
            format_args!("cannot edit the status of {}/{name}", self.name),
        )
    }

    /// Applies a status as another controller would, under its own field manager.
    pub async fn apply_status(&self, name: &str, manager: &str, status: Value) -> Service {
        let patch = Patch::Apply(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": self.name},
            "status": status,
        }));
        let applied = self
            .services()
            .patch_status(name, &PatchParams::apply(manager), &patch)
            .await;
        must(
            applied,
            format_args!("{manager} cannot apply the status of {}/{name}", self.name),
        )
    }

    /// Waits until the Service shows exactly these addresses.
    pub async fn gets<const N: usize>(&self, name: &str, expected: [&str; N]) -> Service {
        self.sees(
            format_args!("{}/{name} gets {expected:?}", self.name),
            name,
            |service| addresses(service) == expected,
        )
        .await
    }

    /// Waits until the Service shows some address, and returns the first.
    pub async fn gets_any(&self, name: &str) -> String {
        let what = format!("{}/{name} gets an address", self.name);
        let service = self
            .sees(what, name, |service| !addresses(service).is_empty())
            .await;
        addresses(&service).remove(0)
    }

    /// Waits until the Service has no address and its condition gives the reason.
    pub async fn is_pending(&self, name: &str, reason: &str) -> Condition {
        let what = format!("{}/{name} is pending with {reason}", self.name);
        let service = self.sees(what, name, |service| {
            addresses(service).is_empty() && has_condition(service, "False", reason)
        });
        must(
            condition(&service.await).ok_or(()),
            "the condition has gone",
        )
    }

    /// Waits until the Service's condition has this status and reason.
    pub async fn has_condition(&self, name: &str, status: &str, reason: &str) -> Service {
        let what = format!("the condition of {}/{name} is {status}/{reason}", self.name);
        self.sees(what, name, |service| has_condition(service, status, reason))
            .await
    }

    /// Waits until the Service is as `expected` says.
    pub async fn sees(
        &self,
        what: impl Display,
        name: &str,
        expected: impl Fn(&Service) -> bool,
    ) -> Service {
        let services = self.services();
        eventually(DEADLINE, what, || async {
            match services.get(name).await {
                Ok(service) if expected(&service) => Ok(service),
                Ok(service) => Err(format!(
                    "addresses {:?}, condition {:?}",
                    addresses(&service),
                    condition(&service)
                        .map(|c| format!("{}/{}: {}", c.status, c.reason, c.message))
                )),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    /// What people were told about the Service by lb-watcher, the oldest first. The
    /// API server has Events of its own, when it repairs its records of ClusterIPs.
    pub async fn told(&self, name: &str) -> Vec<Told> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.name);
        let listed = events.list(&ListParams::default()).await;
        let mut events = must(
            listed,
            format_args!("cannot list the events of {}", self.name),
        )
        .items;
        events.retain(|event| {
            let of = event.regarding.as_ref().and_then(|of| of.name.as_deref());
            let by = event.reporting_controller.as_deref();
            of == Some(name) && by == Some("lb-watcher")
        });
        events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
        let told = |event: Event| Told {
            reason: event.reason.unwrap_or_default(),
            note: event.note.unwrap_or_default(),
            count: event.series.map_or(1, |series| series.count),
            kind: event.type_.unwrap_or_default(),
        };
        events.into_iter().map(told).collect()
    }

    /// Waits until exactly these reasons were told, in this order, each once.
    pub async fn was_told<const N: usize>(&self, name: &str, expected: [&str; N]) -> Vec<Told> {
        let what = format!("the Events of {}/{name} are {expected:?}", self.name);
        eventually(DEADLINE, what, || async {
            let told = self.told(name).await;
            let same = told.iter().map(|told| told.reason.as_str()).eq(expected);
            if same && told.iter().all(|told| told.count == 1) {
                Ok(told)
            } else {
                Err(format!("{told:?}"))
            }
        })
        .await
    }

    /// Status writes of the Service so far, the oldest first.
    #[must_use]
    pub fn status_writes(&self, name: &str) -> Vec<Write> {
        let mut writes = must(self.audit_log.writes(), "cannot count status writes");
        writes.retain(|write| write.name == name);
        writes
    }

    /// Waits until the Service's status was written this often.
    pub async fn was_written(&self, name: &str, times: usize) -> Vec<Write> {
        let what = format!("{}/{name} is written {times} times", self.name);
        eventually(Duration::from_secs(5), what, || async {
            let writes = self.status_writes(name);
            if writes.len() == times {
                Ok(writes)
            } else {
                Err(format!("{writes:#?}"))
            }
        })
        .await
    }
}

/// What `kubectl get svc` shows as EXTERNAL-IP.
#[must_use]
pub fn addresses(service: &Service) -> Vec<String> {
    let status = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = status
        .and_then(|status| status.ingress.as_deref())
        .unwrap_or_default();
    ingress
        .iter()
        .filter_map(|ingress| ingress.ip.clone())
        .collect()
}

/// The condition that lb-watcher keeps.
#[must_use]
pub fn condition(service: &Service) -> Option<Condition> {
    let conditions = service.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == CONDITION)
        .cloned()
}

fn has_condition(service: &Service, status: &str, reason: &str) -> bool {
    condition(service)
        .is_some_and(|condition| condition.status == status && condition.reason == reason)
}

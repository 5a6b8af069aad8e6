//! The calls to the API server about one Service, each with a deadline.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, Error,
    api::{Patch, PatchParams},
    core::Status,
};
use serde_json::Value;
use tracing::{Instrument, debug_span, field::Empty};

use crate::{
    key::Key,
    metrics::{ApiCall, Metrics},
    status::{CONDITION, MANAGER},
};

const DEADLINE: Duration = Duration::from_secs(10);

/// Reads and writes Services.
#[derive(Clone)]
pub struct ServiceApi {
    client: Client,
    metrics: Metrics,
}

/// Why a call failed, by what is to be done about it.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The Service is gone, or not as it was last told: the watch tells of it.
    #[error("the Service changed or is gone")]
    Gone,
    /// The Service has changed since it was looked at.
    #[error("the Service has changed")]
    Outdated,
    /// What was written is not valid: the Service is of another type by now.
    #[error("the API server rejects the status: {0}")]
    Invalid(String),
    /// Other field managers own what was to be written.
    #[error("other field managers own the fields: {}", .0.manager)]
    Conflict(Conflict),
    /// Nothing is known: the API server is away, slow or overloaded.
    #[error("the API server does not answer: {0}")]
    Unavailable(String),
}

/// Who owns what was to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Their names.
    pub manager: String,
    /// Whether it is only our own condition.
    pub only_condition: bool,
}

impl ServiceApi {
    /// Calls through this client.
    pub fn new(client: Client, metrics: Metrics) -> Self {
        Self { client, metrics }
    }

    /// Server-side apply on `/status`. Never creates a Service.
    ///
    /// A merge patch asks less of the API server (`lb-bench cluster`: an apply comes to 0.74
    /// to 0.87 of its writes per second, a strategic merge to 0.99), but writes over the
    /// list of another controller without a word. An apply is refused then and names who
    /// owns it, and what it leaves out goes only where it is ours.
    pub async fn apply_status(
        &self,
        key: &Key,
        body: &Value,
        force: bool,
    ) -> Result<Service, ApiError> {
        let api = self.api(key);
        let mut params = PatchParams::apply(MANAGER);
        params.force = force;
        let patch = Patch::Apply(body);
        self.call("patch_status", api.patch_status(&key.name, &params, &patch))
            .await
    }

    fn api(&self, key: &Key) -> Api<Service> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    async fn call<T>(
        &self,
        kind: &'static str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, ApiError> {
        let start = Instant::now();
        let span = debug_span!(
            "api_call",
            otel.name = kind,
            otel.kind = "client",
            http.response.status_code = Empty
        );
        let call = call.instrument(span.clone());
        let result = tokio::time::timeout(DEADLINE, call).await;
        let code = match &result {
            Ok(Ok(_)) => 200,
            Ok(Err(Error::Api(status))) => status.code,
            Ok(Err(_)) | Err(_) => 0,
        };
        span.record("http.response.status_code", code);
        self.metrics
            .api_call(ApiCall { kind, code }, start.elapsed());
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Error::Api(status))) => Err(classify(&status)),
            Ok(Err(error)) => Err(ApiError::Unavailable(chain(&error))),
            Err(_) => Err(ApiError::Unavailable(format!(
                "no answer within {} s",
                DEADLINE.as_secs()
            ))),
        }
    }
}

/// The words of an error and of what caused it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let words: Vec<String> = causes.map(ToString::to_string).collect();
    words.join(": ")
}

/// The name in `conflict with "NAME" …`. The rest may hold a time, which would make
/// each conflict look new.
fn manager(message: &str) -> &str {
    message.split('"').nth(1).unwrap_or(message)
}

/// The API server's words for a version that is not the present one.
const MODIFIED: &str = "the object has been modified";

fn classify(status: &Status) -> ApiError {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let conflicts: Vec<_> = causes
        .filter(|cause| cause.reason == "FieldManagerConflict")
        .collect();
    if !conflicts.is_empty() {
        let mut managers: Vec<&str> = conflicts.iter().map(|c| manager(&c.message)).collect();
        managers.sort_unstable();
        managers.dedup();
        return ApiError::Conflict(Conflict {
            manager: managers.join(", "),
            only_condition: conflicts.iter().all(|c| c.field.contains(CONDITION)),
        });
    }
    match status.code {
        409 if status.message.contains(MODIFIED) => ApiError::Outdated,
        // An apply with a uid on a name that is not there is a conflict; with the
        // uid of an earlier Service of the name, the uid is an immutable field.
        404 | 409 => ApiError::Gone,
        422 if status
            .details
            .iter()
            .flat_map(|details| &details.causes)
            .any(|cause| cause.field == "metadata.uid") =>
        {
            ApiError::Gone
        }
        400 | 422 => ApiError::Invalid(status.message.clone()),
        _ => ApiError::Unavailable(status.message.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(value: Value) -> ApiError {
        classify(&serde_json::from_value(value).unwrap())
    }

    fn conflict(fields: &[&str]) -> Value {
        let causes: Vec<_> = fields
            .iter()
            .map(|field| {
                json!({
                    "reason": "FieldManagerConflict", "field": field,
                    "message": "conflict with \"speaker\" with subresource \"status\" using v1",
                })
            })
            .collect();
        json!({"code": 409, "reason": "Conflict", "details": {"causes": causes}})
    }

    #[test]
    fn answers_are_sorted_by_what_is_to_be_done() {
        let uid = json!({"causes": [{"field": "metadata.uid", "reason": "FieldValueInvalid"}]});
        let lb = json!({"causes": [{"field": "status.loadBalancer.ingress", "reason": "FieldValueForbidden"}]});
        for (answer, gone) in [
            (json!({"code": 404, "reason": "NotFound"}), true),
            (
                json!({"code": 409, "reason": "Conflict", "message": "uid mismatch"}),
                true,
            ),
            (
                json!({"code": 422, "reason": "Invalid", "details": uid}),
                true,
            ),
            (
                json!({"code": 422, "reason": "Invalid", "details": lb}),
                false,
            ),
        ] {
            assert_eq!(
                matches!(status(answer.clone()), ApiError::Gone),
                gone,
                "{answer}"
            );
        }
        let modified = "Operation cannot be fulfilled on services \"a\": the object has been \
                        modified; please apply your changes to the latest version and try again";
        let modified = json!({"code": 409, "reason": "Conflict", "message": modified});
        assert!(matches!(status(modified), ApiError::Outdated));
        for code in [403, 429, 500, 503, 504] {
            assert!(matches!(
                status(json!({"code": code})),
                ApiError::Unavailable(_)
            ));
        }
    }

    #[test]
    fn a_conflict_names_the_other_manager_and_tells_whether_it_is_only_about_our_condition() {
        let list = ".status.loadBalancer.ingress";
        let ours = ".status.conditions[type=\"lb-allocator.io/AddressAllocated\"].reason";
        for (fields, only_condition) in [
            (vec![list], false),
            (vec![ours], true),
            (vec![list, ours], false),
        ] {
            let ApiError::Conflict(conflict) = status(conflict(&fields)) else {
                panic!("no conflict: {fields:?}");
            };
            assert_eq!(conflict.only_condition, only_condition);
            assert_eq!(conflict.manager, "speaker");
        }
    }
}

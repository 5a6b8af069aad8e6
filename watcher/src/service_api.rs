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
    status::MANAGER,
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
    /// Nothing is known: the API server is away, slow or overloaded.
    #[error("the API server does not answer: {0}")]
    Unavailable(String),
}

impl ServiceApi {
    /// Calls through this client.
    pub fn new(client: Client, metrics: Metrics) -> Self {
        Self { client, metrics }
    }

    /// Strategic merge patch on `/status`.
    ///
    /// A server-side apply would refuse what another manager owns by itself, and asks more of
    /// the API server for it (`lb-bench cluster`: 0.68 to 0.87 of the writes per second of a
    /// merge patch, a strategic merge 0.74 to 1.02). The owners are in the object that the
    /// body was made from, and the version in the body tells whether they still are: see
    /// [`status::other_owners`](crate::status::other_owners).
    pub async fn patch_status(&self, key: &Key, body: &Value) -> Result<Service, ApiError> {
        let api = self.api(key);
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Strategic(body);
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

/// The API server's words for a version that is not the present one.
const MODIFIED: &str = "the object has been modified";

fn classify(status: &Status) -> ApiError {
    match status.code {
        409 if status.message.contains(MODIFIED) => ApiError::Outdated,
        // The uid of an earlier Service of the name is an immutable field.
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
}
